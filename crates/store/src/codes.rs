//! How words of the protocol stand in the database. A number is never given another meaning.

use hermes_bus_core::storage::{Ending, Keep};
use hermes_bus_proto::ErrorCode;
use hermes_bus_proto::control::Status;

const KEEPS: [Keep; 3] = [Keep::Mailbox, Keep::Queued, Keep::Spill];
const STATES: [Status; 4] = [Status::Accepted, Status::Stored, Status::Delivered, Status::Acked];
const ENDINGS: [Ending; 6] =
    [Ending::Acked, Ending::Read, Ending::Expired, Ending::Dead, Ending::Dropped, Ending::Purged];

fn code<T: PartialEq>(all: &[T], one: &T) -> u8 {
    let place = all.iter().position(|candidate| candidate == one);
    place.expect("the list has every variant") as u8
}

pub(crate) fn of_keep(keep: Keep) -> u8 {
    code(&KEEPS, &keep)
}

pub(crate) fn keep(code: u8) -> Option<Keep> {
    KEEPS.get(usize::from(code)).copied()
}

pub(crate) fn of_status(status: Status) -> u8 {
    code(&STATES, &status)
}

pub(crate) fn status(code: u8) -> Option<Status> {
    STATES.get(usize::from(code)).copied()
}

pub(crate) fn of_ending(ending: Ending) -> u8 {
    code(&ENDINGS, &ending)
}

pub(crate) fn ending(code: u8) -> Option<Ending> {
    ENDINGS.get(usize::from(code)).copied()
}

/// The error code of this word; what a newer program wrote is taken for a plain refusal.
pub(crate) fn reason(word: &str) -> ErrorCode {
    let named = ErrorCode::ALL.iter().find(|(code, _)| code.as_str() == word);
    named.map_or(ErrorCode::Rejected, |(code, _)| *code)
}
