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
    ended: Option<Moment>,
}

impl Impatience {
    pub(super) fn ended(&mut self, name: &str, silence: Duration, now: Moment) {
        let is_suspicious = (900_000..=1_500_000).contains(&silence.as_micros());
        match self.names.get_mut(name) {
            Some(memory) => memory.ended = Some(now),
            None if is_suspicious => {
                let memory = Memory { is_impatient: false, ended: Some(now) };
                self.names.insert(name.to_owned(), memory);
            }
            None => {}
        }
    }

    pub(super) fn began(&mut self, name: &str, now: Moment) -> bool {
        let Some(memory) = self.names.get_mut(name) else { return false };
        let away = memory.ended.take().map_or(Duration::ZERO, |ended| now.since(ended));
        let allowed = Duration::from_secs(if memory.is_impatient { 600 } else { 3 });
        memory.is_impatient = away <= allowed;
        if memory.is_impatient {
            return true;
        }
        self.names.remove(name);
        false
    }
}
