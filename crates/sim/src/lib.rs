//! The router under every order of events, from one seed. Never shipped.
//!
//! A *script* ([`script`]) is drawn from a seed: what the run is like ([`character`]) and a list of
//! events. The *world* ([`world`]) plays it: a virtual clock, connections with bounded socket buffers
//! ([`pipe`]), and a driver that works as the daemon's does, but takes every liberty that the router's
//! contract leaves. The *model* ([`model`]) hears of every call into the router and every byte that
//! leaves it, and knows what must hold. It is far simpler than the router: it knows what may happen and
//! what must, not how.
//!
//! Nothing here reads a clock or draws a number that does not come from the seed, but for the program
//! ([`program`]), which measures how long it has run.

#![forbid(unsafe_code)]

pub mod call;
pub mod character;
pub mod coverage;
mod draw;
pub mod durable;
pub mod model;
pub mod pipe;
pub mod program;
pub mod script;
pub mod shrink;
pub mod world;

pub use call::{Call, Violation};
pub use coverage::Coverage;
pub use model::Model;
pub use script::{Event, Script};
pub use world::{Failure, Played, play};
