//! The scanner against serde_json as a second opinion, and against what Python's `json` module does
//! where the two differ; insertion of fields into generated documents.

use std::collections::HashMap;

use hermes_bus_proto::envelope::{Insertion, Raw};
use hermes_bus_proto::{Envelope, ErrorCode, FrameError, Kind};
use proptest::prelude::*;
use serde_json::value::RawValue;

fn code_of(payload: &[u8]) -> Option<ErrorCode> {
    Envelope::scan(payload).err().map(|error| error.code())
}

// ---- generated documents ----------------------------------------------------------------------

fn white_space() -> impl Strategy<Value = String> {
    prop_oneof![6 => Just(String::new()), 1 => "[ \t\r\n]{1,3}"]
}

fn string() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-zA-Z0-9 {}\\[\\]:,]{0,12}",
        1 => "[é漢😀\u{2028}\u{7f}]{1,3}",
        1 => prop::sample::select(vec![
            "\\\"", "\\\\", "\\/", "\\b", "\\f", "\\n", "\\r", "\\t", "\\u0041", "\\u00e9",
            "\\ud83d\\ude00", "\\uD800", "\\udfff", "\\u0000",
        ]).prop_map(str::to_owned),
    ];
    proptest::collection::vec(piece, 0..5).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        "-?(0|[1-9][0-9]{0,20})",
        "-?(0|[1-9][0-9]{0,3})\\.[0-9]{1,20}",
        "-?(0|[1-9])(\\.[0-9]{1,2})?[eE][+-]?[0-9]{1,3}",
        Just("1E400".to_owned()),
        Just("-0".to_owned()),
    ]
}

fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        string(),
        number(),
        prop::sample::select(vec!["true", "false", "null"]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        let item = (white_space(), inner, white_space())
            .prop_map(|(before, value, after)| format!("{before}{value}{after}"))
            .boxed();
        let member = (white_space(), string(), white_space(), item.clone())
            .prop_map(|(before, key, after, value)| format!("{before}{key}{after}:{value}"));
        prop_oneof![
            (white_space(), proptest::collection::vec(item, 0..6)).prop_map(|(space, items)| {
                if items.is_empty() {
                    format!("[{space}]")
                } else {
                    format!("[{}]", items.join(","))
                }
            }),
            (white_space(), proptest::collection::vec(member, 0..6)).prop_map(|(space, items)| {
                if items.is_empty() {
                    format!("{{{space}}}")
                } else {
                    format!("{{{}}}", items.join(","))
                }
            }),
        ]
    })
}

/// An object whose keys are mostly those that the bus reads, some of them repeated or escaped.
fn document() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        8 => prop::sample::select(vec![
            "\"type\"", "\"to\"", "\"from\"", "\"id\"", "\"ts\"", "\"endpoint\"", "\"protocol\"",
            "\"body\"", "\"t\\u006f\"", "\"\\u0069d\"",
        ]).prop_map(str::to_owned),
        1 => string(),
    ];
    let member = (white_space(), key, white_space(), white_space(), value(), white_space())
        .prop_map(|(a, key, b, c, value, d)| format!("{a}{key}{b}:{c}{value}{d}"));
    (white_space(), proptest::collection::vec(member, 1..10), white_space())
        .prop_map(|(before, members, after)| format!("{before}{{{}}}{after}", members.join(",")))
}

/// What serde_json thinks: is this JSON, and is it an object?
fn second_opinion(text: &str) -> Option<ErrorCode> {
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.disable_recursion_limit();
    let read = <serde::de::IgnoredAny as serde::Deserialize>::deserialize(&mut reader);
    match read.and_then(|_| reader.end()) {
        Err(_) => Some(ErrorCode::InvalidJson),
        Ok(()) if !text.trim_start().starts_with('{') => Some(ErrorCode::InvalidFrame),
        Ok(()) => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn well_formed_documents_are_accepted_and_their_keys_found(text in document()) {
        prop_assert_eq!(second_opinion(&text), None);
        let envelope = Envelope::scan(text.as_bytes()).expect("a well-formed document");
        prop_assert_eq!(text.as_bytes()[envelope.closing_brace_at()], b'}');
        prop_assert!(text[envelope.closing_brace_at() + 1..].trim().is_empty());
        // Keys with lone surrogates cannot be read by serde_json as text; then there is no opinion.
        if let Ok(members) = serde_json::from_str::<HashMap<String, &RawValue>>(&text) {
            let found = [
                ("to", envelope.to), ("from", envelope.from), ("id", envelope.id),
                ("ts", envelope.ts), ("endpoint", envelope.endpoint), ("protocol", envelope.protocol),
            ];
            for (key, raw) in found {
                let expected = members.get(key).map(|value| value.get().as_bytes());
                prop_assert_eq!(raw.map(Raw::as_bytes), expected, "{}", key);
            }
        }
    }

    #[test]
    fn mutated_documents_are_judged_as_serde_json_judges_them(
        text in document(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0..3, prop::sample::select(
            vec!['"', '\\', '{', '}', '[', ']', ':', ',', '0', '9', '-', '.', 'e', 'u', 't', ' ', '\n', '\u{1}', 'é'],
        )), 1..4),
    ) {
        let mut characters: Vec<char> = text.chars().collect();
        for (place, edit, character) in edits {
            let at = place.index(characters.len());
            match edit {
                0 => characters[at] = character,
                1 => characters.insert(at, character),
                _ => { characters.remove(at); }
            }
            if characters.is_empty() { return Ok(()); }
        }
        let text: String = characters.into_iter().collect();
        prop_assert_eq!(code_of(text.as_bytes()), second_opinion(&text), "{}", text);
    }

    #[test]
    fn inserted_fields_are_all_that_changes(text in document(), name in string(), unix_us in any::<u32>()) {
        let envelope = Envelope::scan(text.as_bytes()).expect("a well-formed document");
        let mut bytes = b"left over".to_vec();
        let mut insertion = Insertion::start(&mut bytes);
        insertion.id("6b1f0d2e-0000-4000-8000-000000000000");
        insertion.ts(u64::from(unix_us));
        insertion.from_within(usize::MAX, &name);
        let (before, after) = text.as_bytes().split_at(envelope.closing_brace_at());
        let grown = [before, &bytes, after].concat();
        let again = Envelope::scan(&grown).expect("still a well-formed document");
        prop_assert_eq!(again.id.map(Raw::as_bytes), Some(&b"\"6b1f0d2e-0000-4000-8000-000000000000\""[..]));
        prop_assert_eq!(again.from.map(Raw::as_bytes), Some(name.as_bytes()));
        let seconds = f64::from(unix_us) / 1e6;
        let ts = std::str::from_utf8(again.ts.expect("inserted").as_bytes()).expect("digits");
        prop_assert!(ts.contains('.'), "ts is a float: {}", ts);
        prop_assert_eq!(ts.parse::<f64>().expect("a number"), seconds);
        prop_assert_eq!(again.to, envelope.to);
        prop_assert_eq!(again.kind, envelope.kind);
    }

    #[test]
    fn no_bytes_whatever_make_the_scanner_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Envelope::scan(&bytes);
    }
}

// ---- where Python's json module and serde_json differ, Python decides ----------------------------

#[test]
fn what_python_writes_is_read() {
    for value in
        ["NaN", "Infinity", "-Infinity", "1e999", "-0", "\"\\ud800\"", "{\"a\":NaN}", "[-Infinity]"]
    {
        let text = format!("{{\"type\":\"ping\",\"x\":{value}}}");
        assert_eq!(code_of(text.as_bytes()), None, "{value}");
    }
}

#[test]
fn what_python_refuses_is_refused() {
    for value in [
        "01",
        "1.",
        ".5",
        "+1",
        "1e",
        "1e+",
        "-",
        "--1",
        "nan",
        "infinity",
        "-NaN",
        "0x10",
        "1_000",
        "True",
        "'a'",
        "\"\\x41\"",
        "\"\\u12\"",
        "\"\\u+123\"",
        "\"a\nb\"",
        "\"\t\"",
        "[1,]",
        "{\"a\":1,}",
        "{a:1}",
        "[1 2]",
        "",
        "\u{a0}1",
    ] {
        let text = format!("{{\"type\":\"ping\",\"x\":{value}}}");
        assert_eq!(code_of(text.as_bytes()), Some(ErrorCode::InvalidJson), "{value}");
    }
    for text in [
        "{",
        "{\"a\"",
        "{\"a\":1",
        "{} x",
        "{}{}",
        "",
        " ",
        "\u{feff}{}",
        "{,}",
        "{\"a\":1,,\"b\":2}",
    ] {
        assert_eq!(code_of(text.as_bytes()), Some(ErrorCode::InvalidJson), "{text}");
    }
}

#[test]
fn json_that_is_no_object_has_an_error_of_its_own() {
    for text in
        ["[]", "null", "5", "\"ping\"", "true", " [{\"type\":\"ping\"}] ", "NaN", "-Infinity"]
    {
        assert!(
            matches!(Envelope::scan(text.as_bytes()), Err(FrameError::NotAnObject(_))),
            "{text}"
        );
    }
    assert_eq!(code_of(b"[1"), Some(ErrorCode::InvalidJson));
    assert_eq!(code_of(b"[] []"), Some(ErrorCode::InvalidJson));
}

#[test]
fn invalid_utf_8_is_refused_with_its_place() {
    for bad in [&b"\xff"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe6\xbc"] {
        let payload = [b"{\"x\":\"", bad, b"\"}"].concat();
        let Err(FrameError::NotJson(malformed)) = Envelope::scan(&payload) else {
            panic!("{bad:?}")
        };
        assert_eq!((malformed.at, malformed.reason), (6, "invalid UTF-8"));
    }
}

#[test]
fn nesting_is_allowed_to_the_limit_and_not_beyond() {
    let nested = |levels: usize, open: &str, close: &str| {
        let inner = levels - 1;
        format!("{{\"type\":\"ping\",\"x\":{}0{}}}", open.repeat(inner), close.repeat(inner))
    };
    for (open, close) in [("[", "]"), ("{\"k\":", "}"), ("[{\"k\":[", "]}]")] {
        let step = open.matches(['[', '{']).count();
        let within = 1 + (949 / step) * step;
        assert_eq!(
            code_of(nested((within - 1) / step + 1, open, close).as_bytes()),
            None,
            "{open}"
        );
        assert_eq!(
            code_of(nested((within - 1) / step + 2, open, close).as_bytes()),
            Some(ErrorCode::InvalidJson)
        );
    }
    assert_eq!(code_of("{\"x\":".repeat(300_000).as_bytes()), Some(ErrorCode::InvalidJson));
}

#[test]
fn integers_are_allowed_to_4300_digits_and_not_beyond() {
    let with = |number: String| code_of(format!("{{\"x\":{number}}}").as_bytes());
    assert_eq!(with("7".repeat(4_300)), None);
    assert_eq!(with(format!("-{}", "7".repeat(4_300))), None);
    assert_eq!(with("7".repeat(4_301)), Some(ErrorCode::InvalidJson));
    assert_eq!(with(format!("{}.5", "7".repeat(5_000))), None, "a float has no such limit");
    assert_eq!(with(format!("{}e1", "7".repeat(5_000))), None);
}

#[test]
fn kinds_are_read_through_escapes_and_the_last_one_counts() {
    let kind = |text: &str| Envelope::scan(text.as_bytes()).expect("well-formed").kind;
    assert_eq!(kind(r#"{"type":"message"}"#), Kind::Message);
    assert_eq!(kind(r#"{"\u0074ype":"p\u0069ng"}"#), Kind::Ping);
    assert_eq!(kind(r#"{"type":"list_endpoints","type":"register"}"#), Kind::Register);
    for unknown in [
        r#"{}"#,
        r#"{"type":null}"#,
        r#"{"type":"PING"}"#,
        r#"{"type":["ping"]}"#,
        r#"{"x":{"type":"ping"}}"#,
    ] {
        assert_eq!(kind(unknown), Kind::Unknown, "{unknown}");
    }
}

#[test]
fn a_key_that_is_spelled_with_escapes_is_not_found_by_its_spelling() {
    let member = |text: &str, key: &str| {
        let envelope = Envelope::scan(text.as_bytes()).expect("well-formed");
        envelope.member(key).map(|value| value.as_bytes().to_vec())
    };
    assert_eq!(member(r#"{"\u0074oken":1}"#, r"\u0074oken"), None);
    assert_eq!(member(r#"{"\u0074oken":1}"#, "token").as_deref(), Some(&b"1"[..]));
    assert_eq!(member(r#"{"\\u0074oken":1}"#, r"\u0074oken").as_deref(), Some(&b"1"[..]));
    assert_eq!(
        member(r#"{"\\u0074oken":1,"\u0074oken":2}"#, r"\u0074oken").as_deref(),
        Some(&b"1"[..])
    );
}

#[test]
fn values_are_shown_as_python_shows_them() {
    let shown = |json: &str| {
        let mut out = Vec::new();
        Raw::new(json.as_bytes()).append_shown_by_python(&mut out);
        String::from_utf8(out).expect("text")
    };
    for (json, python) in [
        ("5", "5"),
        ("true", "True"),
        ("1.50", "1.5"),
        ("1e3", "1000.0"),
        ("1E16", "1e+16"),
        ("123456789012345678.0", "1.2345678901234568e+17"),
        ("0.0001", "0.0001"),
        ("0.00001", "1e-05"),
        ("1e400", "inf"),
        ("-1e400", "-inf"),
        ("NaN", "nan"),
        ("-2.5e-7", "-2.5e-07"),
        ("\"a\\\"b\"", "a\\\"b"),
        ("18446744073709551616", "18446744073709551616"),
    ] {
        assert_eq!(shown(json), python, "{json}");
    }
}
