//! What a run is like: limits, clients and faults are drawn once for a run, so that runs differ in
//! character and not only in order.

use hermes_bus_core::Config;

/// What a run is like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Character {
    /// The router's limits.
    pub config: Config,
}
