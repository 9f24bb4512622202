//! The router as stories on a virtual clock: connections in memory, sockets that take as much as a
//! test lets them, time that passes only when a test says so.

mod budgets;
mod courtesy;
mod extremes;
mod linger;
mod names;
mod routing;
mod stalls;
mod world;
