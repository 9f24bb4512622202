//! Which names belong to clients that take a second of silence for a lost connection.

use std::collections::BTreeMap;
use std::time::Duration;

use hermes_bus_core::Moment;

#[derive(Debug, Default)]
pub(super) struct Impatience {
    names: BTreeMap<String, Memory>,
}

#[derive(Debug)]
struct Memory {
    is_impatient: bool,
    /// It may as well be forgotten: nobody knows how long its session was told nothing.
    is_unsure: bool,
    ended: Option<Moment>,
}

/// Whether a session's client counts as impatient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Yes,
    No,
    Maybe,
}

impl Impatience {
    /// A session ended, after the bus had been silent to it for so long; or nobody knows how long.
    pub(super) fn ended(&mut self, name: &str, silence: Option<Duration>, now: Moment) {
        let is_suspicious =
            |silence: Duration| (900_000..=1_500_000).contains(&silence.as_micros());
        match self.names.get_mut(name) {
            Some(memory) => memory.ended = Some(now),
            None if silence.is_none_or(is_suspicious) => {
                let is_unsure = silence.is_none();
                let memory = Memory { is_impatient: false, is_unsure, ended: Some(now) };
                self.names.insert(name.to_owned(), memory);
            }
            None => {}
        }
    }

    /// A session began.
    pub(super) fn began(&mut self, name: &str, now: Moment) -> Verdict {
        let Some(memory) = self.names.get_mut(name) else { return Verdict::No };
        let away = memory.ended.take().map_or(Duration::ZERO, |ended| now.since(ended));
        let allowed = Duration::from_secs(if memory.is_impatient { 600 } else { 3 });
        memory.is_impatient = away <= allowed;
        match (memory.is_impatient, memory.is_unsure) {
            (true, false) => Verdict::Yes,
            (true, true) => Verdict::Maybe,
            (false, _) => {
                self.names.remove(name);
                Verdict::No
            }
        }
    }
}
