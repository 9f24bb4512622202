//! Mailboxes, dead letters and history on disk.

#![forbid(unsafe_code)]
