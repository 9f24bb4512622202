//! Which kinds of events, answers and effects were seen, and how often.

use hermes_bus_core::{Counters, Effect};

use crate::Event;
use crate::call::Call;

/// How often each kind was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {}

impl Coverage {
    /// An event of a script was played.
    pub fn event(&mut self, event: &Event) {
        let _ = event;
    }

    /// The router was called.
    pub fn call(&mut self, call: &Call<'_>, effects: &[Effect]) {
        let _ = (call, effects);
    }

    /// A router has ended with these counters.
    pub fn counters(&mut self, counters: &Counters) {
        let _ = counters;
    }

    /// Takes up what another run has seen.
    pub fn add(&mut self, other: &Coverage) {
        let _ = other;
    }
}
