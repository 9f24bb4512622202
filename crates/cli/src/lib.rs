//! What the programs of the hermes bus share: their command lines as types (so that help, shell
//! completions and manual pages come from the definitions that are parsed), exit codes, and the
//! words for what went wrong.

#![forbid(unsafe_code)]

pub mod arguments;
pub mod failure;
pub mod screen;
pub mod sender;
