//! Simulates the router from seeds. `--help` tells the rest.

fn main() {}
