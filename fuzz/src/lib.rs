//! What the fuzz targets check: one module and one function a target, from any bytes.
//!
//! The programs in `fuzz_targets` hand these functions to libFuzzer; `tests/corpus.rs` replays the
//! corpus with them. A check that fails panics, whoever called it.

pub mod config;
pub mod envelope;
pub mod frame;
mod grammar;
pub mod insertion;
mod notation;
mod reference;
pub mod router;

/// A target: its name, which is that of its program and its corpus, and its check.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 5] = [
    ("config", config::check),
    ("envelope", envelope::check),
    ("frame", frame::check),
    ("insertion", insertion::check),
    ("router", router::check),
];
