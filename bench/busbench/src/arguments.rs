//! What stands behind the workload, as `key=value`.
use std::fmt::Display;
use std::str::FromStr;

/// The value of `key`, or `default`. What cannot be read ends the program.
pub fn value<T: FromStr>(key: &str, default: T) -> T
where
    T::Err: Display,
{
    let Some(text) = text(key) else { return default };
    text.parse().unwrap_or_else(|error| crate::stop(&format!("{key}={text}: {error}")))
}

pub fn text(key: &str) -> Option<String> {
    std::env::args().take_while(|argument| argument != "--").find_map(|argument| {
        argument.strip_prefix(key)?.strip_prefix('=').map(str::to_string)
    })
}
