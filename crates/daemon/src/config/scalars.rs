//! Values of one word: what is read from text, and how it is written. What is written reads back as the
//! same value.

use std::time::Duration;

use super::error::shown;
use crate::logging::Level;

/// The levels of the log, the most important first.
pub(super) const LEVELS: &[(&str, Level)] = &[
    ("error", Level::Error),
    ("warn", Level::Warn),
    ("info", Level::Info),
    ("debug", Level::Debug),
];

/// The words for levels.
pub(super) fn level_words() -> Vec<&'static str> {
    LEVELS.iter().map(|(word, _)| *word).collect()
}

// ---- reading ----------------------------------------------------------------------------------------

/// Seconds, or a number with a unit: `90`, `0.7`, `700ms`, `2m`, `1h 30m`.
///
/// # Errors
/// A text that is something else, for people.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("'{}' is no time: write 90s, 700ms, 2m, or a number of seconds", shown(text));
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| wrong());
    }
    humantime::parse_duration(text).map_err(|_| wrong())
}

/// A number of bytes, or with a unit: `500000`, `64kB`, `16MiB`.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{}' is no size: write 16MiB, 64kB, or a number of bytes", shown(text));
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_bytes: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_bytes));
    bytes.ok_or_else(wrong)
}

pub(super) fn parse_count(text: &str) -> Result<u64, String> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let count = text.parse().ok().filter(|_| is_number);
    count.ok_or_else(|| format!("'{}' is no whole number", shown(text)))
}

pub(super) fn parse_switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" => Ok(true),
        "off" | "false" | "no" => Ok(false),
        _ => Err(format!("'{}' is neither on nor off", shown(text))),
    }
}

pub(super) fn parse_word(text: &str, words: &[&str]) -> Result<usize, String> {
    let found = words.iter().position(|word| *word == text);
    found.ok_or_else(|| format!("'{}' is not one of {}", shown(text), words.join(", ")))
}

// ---- writing ----------------------------------------------------------------------------------------

/// In the largest unit that leaves no fraction.
pub(super) fn written_time(time: Duration) -> String {
    const UNITS: [(u128, &str); 5] = [
        (3_600_000_000_000, "h"),
        (60_000_000_000, "m"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
    ];
    let nanoseconds = time.as_nanos();
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    let unit = UNITS.iter().find(|(unit, _)| nanoseconds.is_multiple_of(*unit));
    let (unit, name) = unit.copied().unwrap_or((1, "ns"));
    format!("{}{name}", nanoseconds / unit)
}

/// In the largest unit that leaves no fraction, those of 1024 first.
pub(super) fn written_bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 7] = [
        (1 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
        (1_000_000_000, "GB"),
        (1_000_000, "MB"),
        (1_000, "kB"),
    ];
    let unit = UNITS.iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit));
    match unit {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

pub(super) fn written_level(level: Level) -> &'static str {
    LEVELS.iter().find(|(_, known)| *known == level).map_or("info", |(word, _)| word)
}

/// A text in quotes as YAML and JSON read it. What could steer a terminal, or end a line, is escaped.
pub(super) fn quoted(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    let is_plain = |character: char| {
        !character.is_control()
            && !matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            && !matches!(character, '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    if json.chars().all(is_plain) {
        return json;
    }
    json.chars().fold(String::new(), |mut written, character| {
        if is_plain(character) {
            written.push(character);
        } else {
            written += &format!("\\u{:04x}", u32::from(character));
        }
        written
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_have_a_unit() {
        let milliseconds = |text| parse_time(text).map(|time| time.as_millis());
        assert_eq!(milliseconds("2.5"), Ok(2_500));
        assert_eq!(milliseconds("0.7"), Ok(700));
        assert_eq!(milliseconds("500ms"), Ok(500));
        assert_eq!(milliseconds("2m"), Ok(120_000));
        assert_eq!(milliseconds("1h 30m"), Ok(5_400_000));
        for wrong in ["", "x", "-1", "NaN", "inf", "1e99", "5 parsecs", "99999999999999999999h"] {
            assert!(parse_time(wrong).unwrap_err().contains("is no time"), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_bytes_or_have_a_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("500000", 500_000),
            ("64B", 64),
            ("64kB", 64_000),
            ("64 KiB", 65_536),
            ("16MiB", 16_777_216),
            ("3mb", 3_000_000),
            ("2GB", 2_000_000_000),
            ("1GiB", 1_073_741_824),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "MiB", "-1", "1.5MiB", "16Mi", "1e6", "99999999999GiB", "16MiB!"] {
            assert!(parse_bytes(wrong).unwrap_err().contains("is no size"), "{wrong}");
        }
    }

    #[test]
    fn what_is_shown_reads_back_as_the_same() {
        for nanoseconds in [0, 1, 999, 1_000, 700_000_000, 90_000_000_000, 86_400_000_000_000] {
            let time = Duration::from_nanos(nanoseconds);
            assert_eq!(parse_time(&written_time(time)), Ok(time));
        }
        assert_eq!(written_time(Duration::from_secs(90)), "90s");
        assert_eq!(written_time(Duration::from_secs(600)), "10m");
        for bytes in [0, 1, 1_000, 1_024, 500_000, 16 << 20, 3 << 30, 1 << 40, 123_456_789] {
            assert_eq!(parse_bytes(&written_bytes(bytes)), Ok(bytes));
        }
        assert_eq!(written_bytes(500_000), "500kB");
        assert_eq!(written_bytes(384 << 20), "384MiB");
    }

    #[test]
    fn quoted_texts_are_plain_and_read_back() {
        for text in
            ["a", "", "\"\\", "\n\t\0\u{1b}", "\u{202e}", "\u{85}\u{7f}\u{2028}\u{feff}", "é😀"]
        {
            let quoted = quoted(text);
            assert!(!quoted.chars().any(char::is_control), "{quoted}");
            let node = super::super::yaml::parse(quoted.as_bytes()).unwrap();
            let super::super::yaml::Content::Text(read) = node.content else { panic!("{quoted}") };
            assert_eq!(read, text);
        }
    }
}
