//! Makes a script that fails shorter.
