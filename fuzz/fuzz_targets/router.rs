//! What is checked stands in `hermes_bus_fuzz::router`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hermes_bus_fuzz::router::check(input));
