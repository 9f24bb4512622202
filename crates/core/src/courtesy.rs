//! The courtesy receipt: released one-shot senders wait a whole second for an error that never
//! comes, and take any other frame as success. When the first message of an anonymous connection is
//! routed and nothing else has come with it, the sender hears at once how far it has come.

use alloc::vec::Vec;

use hermes_bus_proto::Raw;
use hermes_bus_proto::control::{self, Detail, Receipt, Status, Targets};

use crate::router::Router;
use crate::routing::Outgoing;
use crate::session::{Courtesy, FirstMessage, SessionKey};

impl Router {
    /// Remembers an anonymous connection's first message until the turn's end. `copies` says who its
    /// receivers are, and the marks behind the message in their queues.
    pub(crate) fn first_message_is_due(
        &mut self,
        message: &Outgoing<'_>,
        copies: impl FnOnce() -> Vec<(SessionKey, u64)>,
        broadcast_to: Option<usize>,
    ) {
        let key = message.sender;
        let Some(session) = self.session_mut(key) else { return };
        if !matches!(session.courtesy, Courtesy::NotYet) {
            return;
        }
        session.courtesy = Courtesy::Due(FirstMessage {
            id_json: message.id.as_bytes().into(),
            frames_taken: session.frames_taken,
            copies: copies(),
            outlives_session: false,
            broadcast_to,
        });
        self.courtesies.push(key);
    }

    /// An anonymous connection's first message is in this session's queue now, in front of the mark, or
    /// in nobody's.
    pub(crate) fn first_message_is_with(
        &mut self,
        sender: Option<SessionKey>,
        copy: Option<(SessionKey, u64)>,
        outlives_session: bool,
    ) {
        if let Some(sender) = sender.and_then(|sender| self.session_mut(sender))
            && let Courtesy::Due(first) = &mut sender.courtesy
        {
            first.copies = copy.into_iter().collect();
            first.outlives_session = outlives_session;
        }
    }

    /// The first message was refused, or something else speaks against a receipt.
    pub(crate) fn end_courtesy(&mut self, key: SessionKey) {
        if let Some(session) = self.session_mut(key) {
            session.courtesy = Courtesy::Over;
        }
    }

    /// The turn's end.
    pub(crate) fn decide_courtesy(&mut self, key: SessionKey) {
        let Some(session) = self.session_mut(key) else { return };
        if session.undecided > 0 {
            return;
        }
        let Courtesy::Due(first) = core::mem::replace(&mut session.courtesy, Courtesy::Over) else {
            return;
        };
        let came_alone = session.frames_taken == first.frames_taken
            && session.newest_turn.1 + 1 == first.frames_taken
            && !session.has_unread_input();
        if came_alone && !session.is_deaf {
            self.answer_first_message(key, &first);
        }
    }

    fn answer_first_message(&mut self, key: SessionKey, first: &FirstMessage) {
        let id = Raw::new(&first.id_json);
        let (mut written, mut gone) = (0, 0);
        for (receiver, mark) in &first.copies {
            match self.session(*receiver) {
                Some(session) if session.outbox.is_written_to(*mark) => written += 1,
                Some(_) => {}
                None => gone += 1,
            }
        }
        if first.broadcast_to.is_none() && gone > 0 && !first.outlives_session {
            let what = "the endpoint's connection ended while the message was handed over";
            let code = hermes_bus_proto::ErrorCode::ReceiverGone;
            return self.tell_error(key, code, Detail::Text(what), Some(id));
        }
        let targets = first.broadcast_to.unwrap_or(1);
        let is_delivered = targets > 0 && written == targets;
        let status = if is_delivered { Status::Delivered } else { Status::Accepted };
        self.counters.receipts += 1;
        let targets = first.broadcast_to.map(|endpoints| Targets { endpoints, failed: None });
        let receipt = Receipt { id, status, to: None, targets };
        self.tell(key, |out| control::receipt(out, &receipt));
    }
}
