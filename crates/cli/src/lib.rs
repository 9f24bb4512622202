//! What the programs of the hermes bus share: their command lines as types, so that help, shell
//! completions and manual pages come from the same definitions that are parsed.

#![forbid(unsafe_code)]

pub mod arguments;
