//! The router as stories on a virtual clock: connections in memory, sockets that take as much as a
//! test lets them, time that passes only when a test says so.

mod blame;
mod bounds;
mod budgets;
mod courtesy;
mod disk;
mod extremes;
mod handover;
mod linger;
mod names;
mod policies;
mod proven;
mod races;
mod routing;
mod shelf;
mod stalls;
mod tap;
mod world;
