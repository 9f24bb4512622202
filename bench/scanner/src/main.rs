//! Should the bus keep its own envelope scanner, or use a JSON library?
//!
//! Compares `hermes_bus_proto::Envelope::scan` with the closest equivalents in serde_json, sonic-rs
//! and simd-json: find the values of seven top-level keys, walk over the body, check the whole
//! frame. Prints which documents each of them takes (the bus must take what Python's `json` module
//! takes, up to 950 levels, and must not crash), then the time of each on typical frames.
//!
//! `cargo run --release --manifest-path bench/scanner/Cargo.toml` (about a minute)
//!
//! Rounds are interleaved: each runs every candidate once, for `ROUND` at least, and a ratio is the
//! median of the ratios within rounds, so that a busy machine slows all of them alike.
//!
//! Built like the bus, for any x86-64: sonic-rs picks its vector instructions when it is compiled
//! and gains from `RUSTFLAGS=-Ctarget-cpu=native`; simd-json picks them at run time.

#![forbid(unsafe_code)]

mod candidates;

use std::hint::black_box;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use candidates::{CANDIDATES, Scan, Scratch, To};

const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(50);

/// The n-th of many messages that differ a little.
fn message(n: usize, body: &str) -> Vec<u8> {
    let id = (n as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let head = format!(r#"{{"type":"message","to":"r{n}","from":"s{n}","id":"{id:032x}""#);
    format!(r#"{head},"ts":1716307200.123,"body":{body}}}"#).into_bytes()
}

/// A message with `bytes` of text that repeats `pattern`.
fn text(n: usize, pattern: &str, bytes: usize) -> Vec<u8> {
    let (repeats, rest) = (bytes / pattern.len(), bytes % pattern.len());
    let text = pattern.repeat(repeats) + &"x".repeat(rest);
    message(n, &format!(r#"{{"text":"{text}","type":"progress"}}"#))
}

/// Inputs of the measurement: a name, and documents that are scanned in turn.
fn inputs() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    const WORDS: &str = "the quick brown fox reads 42 files, then writes a summary of it; ";
    const ESCAPES: &str = r#"\n\"\n\n\"a\"b "#;
    const WIDE: &str = "消息总线把信封送到收件人手中🚌，不看内容。日本語も한국어도✅";
    let row = |n: usize| {
        let (x, y) = (n * 7919 % 1000, n * 104_729 % 10_000);
        format!(r#"{{"i":{n},"p":{{"x":{x}.25,"y":-{y}e-3}},"v":[{x},{y},0,[true,null]]}}"#)
    };
    let rows = (0..1000).map(row).collect::<Vec<_>>().join(",");
    let various = |n: usize| text(n, WORDS, 64 + n * 37 % 129);
    vec![
        ("128 B", vec![text(0, WORDS, 128)]),
        ("64-192 B, 256 docs", (0..256).map(various).collect()),
        ("4 KiB", vec![text(0, WORDS, 4 << 10)]),
        ("64 KiB", vec![text(0, WORDS, 64 << 10)]),
        ("1 MiB", vec![text(0, WORDS, 1 << 20)]),
        ("4 KiB escapes", vec![text(0, ESCAPES, 4 << 10)]),
        ("4 KiB CJK, emoji", vec![text(0, WIDE, 4 << 10)]),
        ("64 KiB numbers", vec![message(0, &format!("[{rows}]"))]),
    ]
}

/// Documents with what the bus must do: `None` is to refuse them.
fn documents() -> Vec<(&'static str, Vec<u8>, Option<To>)> {
    let ok = Some(To::Text(b'0'));
    let nested = |levels: usize| message(0, &("[".repeat(levels - 1) + &"]".repeat(levels - 1)));
    let body = |json: &str| message(0, json);
    let with_byte = |byte: u8| {
        let json = body(r#"{"text":"before#after"}"#);
        json.into_iter().map(|b| if b == b'#' { byte } else { b }).collect()
    };
    let head = |rest: &str| format!(r#"{{"type":"message","to":"r0"{rest}"#).into_bytes();
    vec![
        ("plain message", body("{}"), ok),
        ("NaN", body("NaN"), ok),
        ("-Infinity", body("[Infinity,-Infinity]"), ok),
        ("1E400", body("1E400"), ok),
        ("30-digit integer", body(&"7".repeat(30)), ok),
        ("5000-digit integer", body(&"7".repeat(5000)), None),
        ("lone surrogate in body", body(r#""\ud800""#), ok),
        ("lone surrogate in a key", head(r#","\ud800":1}"#), ok),
        ("NUL escape in body", body(r#""\u0000""#), ok),
        ("950 levels", nested(950), ok),
        ("951 levels", nested(951), None),
        ("duplicate key: last", br#"{"to":"r1","type":"message","to":"r0"}"#.to_vec(), ok),
        ("key with escapes", br#"{"type":"message","\u0074o":"r0"}"#.to_vec(), ok),
        ("null is not missing", br#"{"type":"message","to":null}"#.to_vec(), Some(To::Null)),
        ("white space around", [b" \n", &body("{}")[..], b"\r\n\t "].concat(), ok),
        ("bad UTF-8 in body", with_byte(0xff), None),
        ("control char. in body", with_byte(0x01), None),
        ("bad number in body", body("[01]"), None),
        ("bad escape in body", body(r#""\x""#), None),
        ("body not closed", head(r#","body":{"a":[1}}"#), None),
        ("text after the end", [&body("{}")[..], b" x"].concat(), None),
    ]
}

/// A document that overflows the stack of a recursive parser, scanned in a process of its own.
const DEEP_LEVELS: usize = 2_000_000;

fn survives_deep_nesting(candidate: usize) -> bool {
    let program = std::env::current_exe().expect("the path of this program");
    let mut command = Command::new(program);
    command.args(["--deep", &candidate.to_string()]).stderr(Stdio::null());
    command.status().expect("this program runs").success()
}

fn print_documents() {
    println!("Documents (yes: as the bus must; otherwise what it did):\n");
    let names = CANDIDATES.map(|(name, _)| name).join(" | ");
    println!("| document | must | {names} |\n|---|---{}|", "|---".repeat(CANDIDATES.len()));
    for (name, json, expected) in documents() {
        print!("| {name} | {} |", if expected.is_some() { "accept" } else { "refuse" });
        for (_, scan) in CANDIDATES {
            let got = scan(&mut Scratch::new(), &json);
            let verdict = match (got, expected) {
                _ if got == expected => "yes",
                (Some(To::Unread), Some(_)) => "yes, unread",
                (Some(_), None) => "**accepts**",
                (None, Some(_)) => "**refuses**",
                (Some(_), Some(_)) => "**wrong value**",
                (None, None) => unreachable!("equal"),
            };
            print!(" {verdict} |");
        }
        println!();
    }
    print!("| {DEEP_LEVELS} levels | refuse |");
    for index in 0..CANDIDATES.len() {
        print!(" {} |", if survives_deep_nesting(index) { "survives" } else { "**crashes**" });
    }
    println!("\n");
}

/// Nanoseconds per scan.
fn measure(scan: Scan, scratch: &mut Scratch, documents: &[Vec<u8>]) -> f64 {
    let start = Instant::now();
    let mut scans = 0;
    while start.elapsed() < ROUND {
        for json in documents.iter().cycle().take(documents.len().max(16)) {
            assert!(black_box(scan(scratch, black_box(json))).is_some());
            scans += 1;
        }
    }
    start.elapsed().as_nanos() as f64 / scans as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn print_times() {
    println!("Times (ns per scan, GB/s, time as a multiple of ours):\n");
    println!("| input | bytes | candidate | ns | GB/s | x ours |\n|---|---|---|---|---|---|");
    for (name, documents) in inputs() {
        let bytes = documents.iter().map(Vec::len).sum::<usize>() as f64 / documents.len() as f64;
        let mut scratch = Scratch::new();
        let rounds: Vec<Vec<f64>> = (0..ROUNDS)
            .map(|_| CANDIDATES.map(|(_, scan)| measure(scan, &mut scratch, &documents)).to_vec())
            .collect();
        for (index, (candidate, _)) in CANDIDATES.iter().enumerate() {
            let ns = median(rounds.iter().map(|round| round[index]).collect());
            let ratio = median(rounds.iter().map(|round| round[index] / round[0]).collect());
            let speed = bytes / ns;
            println!("| {name} | {bytes:.0} | {candidate} | {ns:.0} | {speed:.2} | {ratio:.2} |");
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [deep, candidate] = &arguments[..]
        && deep == "--deep"
    {
        let (_, scan) = CANDIDATES[candidate.parse::<usize>().expect("a candidate's number")];
        let levels = "[".repeat(DEEP_LEVELS) + &"]".repeat(DEEP_LEVELS);
        black_box(scan(&mut Scratch::new(), &message(0, &levels)));
        return;
    }
    print_documents();
    print_times();
}
