//! Carrying out what the engine says.
//!
//! - [`command`]: a shell command, seen to its end; its success is the action's.
//! - [`script`]: a format script, whose output takes the place of a template.
//! - [`inbox`]: contexts on disk, until somebody takes them.

pub mod command;
mod group;
pub mod inbox;
pub mod script;
