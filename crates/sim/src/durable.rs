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
