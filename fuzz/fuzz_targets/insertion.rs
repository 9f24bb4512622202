//! What is checked stands in `hermes_bus_fuzz::insertion`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hermes_bus_fuzz::insertion::check(input));
