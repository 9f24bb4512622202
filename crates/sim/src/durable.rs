//! A second world, for what is to survive: clients of both levels, a store that fails, and processes of
//! the bus that end at any moment.
//!
//! It drives the real router, and plays the store by the rules of its port (`durable::store`). Its model is
//! end to end: it hears what clients send, what they are told, what comes into their sockets and what
//! they acknowledge, and knows what is durable.

mod driver;
mod link;
mod model;
mod owner;
mod processes;
pub mod script;
mod seen;
mod store;
mod words;
mod world;

pub use script::Script;
pub use world::play;

/// What a long search must have seen, and has not.
pub(crate) fn never_seen(seen: &std::collections::BTreeMap<String, u64>) -> Vec<String> {
    seen::required().into_iter().filter(|kind| !seen.contains_key(kind)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Script, play};

    #[test]
    fn a_few_runs_are_clean_and_the_same_every_time() {
        for seed in 1..=40 {
            let script = Script::draw(seed, 200);
            let played = play(&script).unwrap_or_else(|failure| panic!("seed {seed}: {failure:?}"));
            let again = play(&script).unwrap_or_else(|failure| panic!("seed {seed}: {failure:?}"));
            assert_eq!(played.digest, again.digest, "seed {seed}");
            assert_eq!((played.calls, played.seen), (again.calls, again.seen), "seed {seed}");
        }
    }

    #[test]
    fn a_kind_that_was_never_seen_is_missed() {
        let mut seen: std::collections::BTreeMap<String, u64> =
            super::seen::required().into_iter().map(|kind| (kind, 1)).collect();
        assert!(super::never_seen(&seen).is_empty());
        seen.remove("event hand_over");
        assert_eq!(super::never_seen(&seen), ["event hand_over"]);
    }
}
