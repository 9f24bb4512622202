//! The command lines of all programs.

pub mod notify_agent;
