//! The store as the daemon sees it: through its handle, on a real file system.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod crash;
mod damage;
mod history;
mod looking;
mod orders;
mod trouble;
mod versions;
mod world;
