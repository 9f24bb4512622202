//! Which names belong to impatient clients.
//!
//! The released Python `BusClient` takes one second of silence for a lost connection, leaves, and
//! comes back a second later. A name that was seen to do so is told a `pong` twice a second, which
//! that client discards, and stays. Nobody else ever gets an unsolicited frame.

use core::ops::RangeInclusive;
use core::time::Duration;

use hashbrown::HashMap;
use hermes_bus_proto::EndpointName;

use crate::time::Moment;

/// A session that closes after so much silence of the bus may be an impatient client's.
const SILENCE: RangeInclusive<Duration> = Duration::from_millis(900)..=Duration::from_millis(1_500);
/// It is one if its name is back so soon.
const RETURN: Duration = Duration::from_secs(3);
/// How often an impatient client needs to hear something.
pub(crate) const PONG_INTERVAL: Duration = Duration::from_millis(500);
/// A name is forgotten so long after its last session ended.
const MEMORY: Duration = Duration::from_secs(600);
/// Most names remembered; the one that ended first makes room.
const NAMES_MAX: usize = 4_096;

struct Memory {
    /// Seen to leave and come back, not only to leave.
    is_impatient: bool,
    /// When its last session ended; none while one is connected.
    ended: Option<Moment>,
}

/// The names remembered.
#[derive(Default)]
pub(crate) struct Impatience {
    names: HashMap<EndpointName, Memory, foldhash::fast::FixedState>,
}

impl Impatience {
    pub(crate) fn new(hash_seed: u64) -> Self {
        Impatience { names: HashMap::with_hasher(foldhash::fast::FixedState::with_seed(hash_seed)) }
    }

    /// A session of `name` ended after the bus had been silent to it for `silence`.
    pub(crate) fn session_ended(&mut self, name: &EndpointName, silence: Duration, now: Moment) {
        if let Some(memory) = self.names.get_mut(name) {
            memory.ended = Some(now);
        } else if SILENCE.contains(&silence) {
            self.make_room(now);
            self.names.insert(name.clone(), Memory { is_impatient: false, ended: Some(now) });
        }
    }

    /// A session of `name` began. Says whether it is an impatient client's.
    pub(crate) fn session_began(&mut self, name: &EndpointName, now: Moment) -> bool {
        let Some(memory) = self.names.get_mut(name) else { return false };
        let away = memory.ended.take().map_or(Duration::ZERO, |ended| now.since(ended));
        let is_impatient = if memory.is_impatient { away <= MEMORY } else { away <= RETURN };
        memory.is_impatient = is_impatient;
        if !is_impatient {
            self.names.remove(name);
        }
        is_impatient
    }

    fn make_room(&mut self, now: Moment) {
        if self.names.len() < NAMES_MAX {
            return;
        }
        self.names.retain(|_, memory| memory.ended.is_none_or(|ended| now.since(ended) <= MEMORY));
        if self.names.len() >= NAMES_MAX {
            let oldest = self.names.iter().min_by_key(|(_, memory)| memory.ended.unwrap_or(now));
            if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                self.names.remove(&name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_micros(ms * 1_000)
    }

    const QUIET: Duration = Duration::from_secs(1);

    fn name(text: &str) -> EndpointName {
        EndpointName::level_1(text).expect("a valid name")
    }

    #[test]
    fn a_client_that_leaves_after_a_second_of_silence_and_returns_is_impatient_until_forgotten() {
        let mut impatience = Impatience::new(1);
        let svc = name("svc");
        assert!(!impatience.session_began(&svc, at(0)));
        impatience.session_ended(&svc, QUIET, at(1_000));
        assert!(impatience.session_began(&svc, at(2_000)));
        impatience.session_ended(&svc, Duration::from_millis(200), at(60_000));
        assert!(impatience.session_began(&svc, at(60_000 + 599_000)), "remembered for 10 minutes");
        impatience.session_ended(&svc, Duration::ZERO, at(1_000_000));
        assert!(!impatience.session_began(&svc, at(1_000_000 + 601_000)), "then forgotten");
    }

    #[test]
    fn other_silences_and_later_returns_mean_nothing() {
        let mut impatience = Impatience::new(1);
        let svc = name("svc");
        for silence_ms in [0, 899, 1_501, 90_000] {
            impatience.session_ended(&svc, Duration::from_millis(silence_ms), at(1_000));
            assert!(!impatience.session_began(&svc, at(1_500)), "{silence_ms} ms");
        }
        impatience.session_ended(&svc, QUIET, at(10_000));
        assert!(!impatience.session_began(&svc, at(13_001)), "back after more than 3 s");
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut impatience = Impatience::new(1);
        for number in 0..NAMES_MAX as u64 + 10 {
            impatience.session_ended(&name(&format!("n{number}")), QUIET, at(1_000 + number));
        }
        assert_eq!(impatience.names.len(), NAMES_MAX);
        assert!(!impatience.session_began(&name("n0"), at(1_500)), "the oldest made room");
        assert!(impatience.session_began(&name("n4100"), at(6_000)));
    }
}
