//! What clients say: frames that are right, odd, or none at all.
//!
//! Every message that is a valid one begins with a key `n` and a number that no other message of the
//! run has: that is how the model finds it again.

use std::io::Write;

use hermes_bus_proto::frame;
use hermes_bus_proto::limits::{INTEGER_DIGITS_MAX, NAME_BYTES_MAX, NESTING_MAX};

use crate::character::TOKEN;
use crate::draw::Dice;
use crate::script::To;

/// Writes frames.
pub(super) struct Words {
    /// The names of the run as JSON.
    names: Vec<String>,
    /// Messages so far.
    numbers: u64,
    /// Large bodies are cut from this.
    filler: String,
}

/// A name that nobody has.
const NOBODY: &str = "\"nobody\"";

impl Words {
    pub(super) fn new(names: &[String]) -> Self {
        let names = names.iter().map(|name| json(name)).collect();
        Words { names, numbers: 0, filler: String::new() }
    }

    fn name(&self, number: u8) -> &str {
        let at = usize::from(number) % self.names.len().max(1);
        self.names.get(at).map_or("\"\"", String::as_str)
    }

    fn any_name(&self, dice: &mut Dice) -> &str {
        self.name(dice.below(256) as u8)
    }

    /// A message, with everything that a client may say in one.
    pub(super) fn message(&mut self, out: &mut Vec<u8>, to: To, bytes: usize, dice: &mut Dice) {
        self.numbers += 1;
        let number = self.numbers;
        frame::append(out, |out| {
            let start = out.len();
            put(out, format_args!("{{\"type\":\"message\",\"n\":{number}"));
            match to {
                To::Name(name) => put(out, format_args!(",\"to\":{}", self.name(name))),
                To::Nobody => put(out, format_args!(",\"to\": {NOBODY}")),
                To::Everyone if dice.one_in(2) => {}
                To::Everyone => {
                    let falsy = dice.pick(&["null", "\"\"", "0", "false", "[]", "{ }", "-0.0"]);
                    put(out, format_args!(",\"to\":{falsy}"));
                }
            }
            match dice.below(24) {
                0..=4 => put(out, format_args!(",\"id\":\"m{number}\"")),
                5 => put(out, format_args!(",\"id\":\"twice\"")),
                6 => {
                    let id =
                        dice.pick(&["null", "0", "-1.5e3", "[1,{}]", "\"\\ud800\"", "{\"a\":1}"]);
                    put(out, format_args!(",\"id\":{id}"));
                }
                7 => put(out, format_args!(",\"ts\":1.5")),
                8 => put(out, format_args!(",\"from\":{}", self.any_name(dice))),
                9 => put(out, format_args!(",\"from\":null,\"ts\":null")),
                _ => {}
            }
            let said = out.len() - start;
            self.body(out, bytes.saturating_sub(said + 11), dice);
            out.push(b'}');
        });
    }

    /// A body whose value takes about so many bytes: exactly so many, if it is a large one.
    fn body(&mut self, out: &mut Vec<u8>, bytes: usize, dice: &mut Dice) {
        let odd = match (bytes, dice.below(40)) {
            (5_000.., _) => None,
            (_, 0) => Some("NaN"),
            (_, 1) => Some("[1,2,{\"n\":5,\"type\":\"ping\"}]"),
            (_, 2) => Some("\"\\ud800 \\\"}{\""),
            (_, 3) => Some("\"漢字 😀\""),
            (_, 4) => Some("{\"to\":\"a\",\"body\":null}"),
            _ => None,
        };
        if let Some(odd) = odd {
            return put(out, format_args!(",\"body\":{odd}"));
        }
        while self.filler.len() < bytes {
            let letters = ["0123456789 abcdef ", "}{][,:\\\\n ", "~~~~~~~~~~~~~~ "];
            self.filler.push_str(letters[self.filler.len() / 64 % letters.len()]);
        }
        // Never in the middle of an escape: there are none in the filler but whole pairs.
        let mut cut = bytes;
        let trailing =
            self.filler.as_bytes()[..cut].iter().rev().take_while(|byte| **byte == b'\\').count();
        cut -= trailing % 2;
        let pad = if trailing % 2 == 1 { "." } else { "" };
        put(out, format_args!(",\"body\":\"{}{pad}\"", &self.filler[..cut]));
    }

    /// Asks for a name, mostly as it should be done.
    pub(super) fn register(&mut self, out: &mut Vec<u8>, name: u8, dice: &mut Dice) {
        let name = self.name(name);
        let token = match dice.below(8) {
            0..=2 => format!(", \"token\": \"{TOKEN}\""),
            3 => {
                let wrong = dice.pick(&["wrong!", "", "s", "sesam", "sesame!", "SESAME"]);
                format!(", \"token\": \"{wrong}\"")
            }
            4 => ", \"token\": 5, \"protocol\": 1".to_owned(),
            _ => String::new(),
        };
        frame::append(out, |out| {
            put(out, format_args!("{{\"type\": \"register\", \"endpoint\": {name}{token}}}"));
        });
    }

    pub(super) fn ping(&self, out: &mut Vec<u8>) {
        text(out, "{\"type\": \"ping\"}");
    }

    pub(super) fn list(&self, out: &mut Vec<u8>, dice: &mut Dice) {
        let protocol = dice.pick(&[
            "",
            ", \"protocol\": 2",
            ", \"protocol\": 2",
            ", \"protocol\": 2.0",
            ", \"protocol\": \"2\"",
            ", \"protocol\": null",
        ]);
        text(out, &format!("{{\"type\": \"list_endpoints\"{protocol}}}"));
    }

    pub(super) fn admin(&self, out: &mut Vec<u8>, dice: &mut Dice) {
        let protocol = if dice.one_in(8) { "1" } else { "2" };
        let op = dice.pick(&["reload", "none", ""]);
        let frame = format!("{{\"type\": \"admin\", \"op\": \"{op}\", \"protocol\": {protocol}}}");
        text(out, &frame);
    }

    /// Something odd that is a valid frame, though it may be refused.
    pub(super) fn odd(&mut self, out: &mut Vec<u8>, dice: &mut Dice) {
        let name = self.any_name(dice).to_owned();
        match dice.below(5) {
            0 | 1 => self.odd_message(out, &name, dice),
            2 => odd_register(out, &name, dice),
            _ => text(
                out,
                dice.pick(&[
                    "{\"type\":\"hello\"}",
                    "{}",
                    " { \"a\" : [ 1 , 2 ] } ",
                    "{\"type\":5}",
                    "{\"type\":null,\"to\":\"a\"}",
                    "{\"type\":[\"message\"]}",
                    "{\"type\":\"Message\",\"to\":\"a\"}",
                    "{\"type\":\"pong\"}",
                    "{\"type\":\"registered\",\"endpoint\":\"a\",\"session_id\":\"x\"}",
                    "{\"type\":\"receipt\",\"id\":1,\"status\":\"delivered\"}",
                    "{\"type\":\"error\",\"code\":\"x\"}",
                    "{\"type\":\"message\",\"type\":\"ping\"}",
                    "{\"type\":\"\\u0070ing\",\"x\":NaN}",
                    "\t{\"type\":\"ping\"}\n",
                    "{\"type\":\"ping\",\"body\":-Infinity,\"body\":1e999}",
                ]),
            ),
        }
    }

    fn odd_message(&mut self, out: &mut Vec<u8>, name: &str, dice: &mut Dice) {
        self.numbers += 1;
        let head = format!("{{\"type\":\"message\",\"n\":{}", self.numbers);
        let other = self.any_name(dice);
        let frame = match dice.below(16) {
            0 => format!("{head},\"to\":5}}"),
            1 => format!("{head},\"to\":true}}"),
            2 => format!("{head},\"to\":\"\\ud800\"}}"),
            3 => format!("{head},\"to\":[1]}}"),
            4 => format!("{head},\"to\":{{\"a\":1}},\"id\":\"x\"}}"),
            5 => format!("{head},\"to\":{other},\"to\":{name}}}"),
            6 => format!("{head},\"t\\u006f\":{name},\"i\\u0064\":7}}"),
            7 => format!("  {head} , \"to\" : {name} , \"body\" : {{ }} \r\n }} \t "),
            8 => format!("{{\"type\":\"ping\",{},\"to\":{name}}}", &head[1..]),
            9 => format!("{head},\"to\":{name},\"id\":\"{}\"}}", "i".repeat(700)),
            10 => format!("{head},\"to\":{name},\"ts\":\"now\",\"from\":[],\"id\":{{}}}}"),
            11 => format!("{head},\"to\":{name},\"id\":1,\"id\":\"two\",\"ts\":1,\"ts\":null}}"),
            12 => {
                let (open, close) = ("[".repeat(NESTING_MAX - 1), "]".repeat(NESTING_MAX - 1));
                format!("{head},\"to\":{name},\"body\":{open}{close}}}")
            }
            13 => {
                let digits = "9".repeat(INTEGER_DIGITS_MAX);
                format!("{head},\"to\":{name},\"body\":{digits}}}")
            }
            14 => format!("{head},\"to\":NaN}}"),
            _ => format!("{head},\"to\":{name},\"from\":{other}}}"),
        };
        text(out, &frame);
    }

    /// What is no valid frame.
    pub(super) fn garbage(&mut self, out: &mut Vec<u8>, dice: &mut Dice) {
        match dice.below(12) {
            0 => out.extend_from_slice(&[0; 4]),
            1 => out.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, b'{']),
            2 => out.extend_from_slice(&(10_485_761_u32).to_be_bytes()),
            3 => out.extend_from_slice(b"GET / HTTP/1.1\r\nHost: bus\r\n\r\n"),
            4 => text(out, "[1,2]"),
            5 => text(out, dice.pick(&["5", "\"x\"", "null", "NaN", " "])),
            6 => text(
                out,
                dice.pick(&["{", "{\"a\":}", "{\"a\":1,}", "{}x", "{'a':1}", "{\"a\":01}"]),
            ),
            7 => frame::append(out, |out| {
                out.extend_from_slice(b"{\"type\":\"message\",\"to\":\"\xff\"}");
            }),
            8 => {
                let deep = "[".repeat(NESTING_MAX) + &"]".repeat(NESTING_MAX);
                text(out, &format!("{{\"type\":\"ping\",\"body\":{deep}}}"));
            }
            9 => {
                let digits = "7".repeat(INTEGER_DIGITS_MAX + 1);
                text(out, &format!("{{\"type\":\"ping\",\"body\":{digits}}}"));
            }
            10 => {
                let bytes = dice.below(40);
                out.extend((0..bytes).map(|_| dice.below(256) as u8));
            }
            // The beginning of a frame that never ends.
            _ => {
                let announced = dice.magnitude(20) + 50;
                out.extend_from_slice(&announced.to_be_bytes());
                out.extend_from_slice(b"{\"type\":\"message\",\"to\":");
            }
        }
    }
}

fn odd_register(out: &mut Vec<u8>, name: &str, dice: &mut Dice) {
    let endpoint = match dice.below(9) {
        0 => "5".to_owned(),
        1 => "null".to_owned(),
        2 => "\"x\\ud800\"".to_owned(),
        3 => format!("\"{}\"", "x".repeat(NAME_BYTES_MAX + 1)),
        4 => format!("\"{}\"", "y".repeat(NAME_BYTES_MAX)),
        5 => "\"bus.stats\"".to_owned(),
        6 => return text(out, "{\"type\":\"register\"}"),
        7 => format!("\"one\",\"endpoint\":{name}"),
        _ => "\"\\u0061\"".to_owned(),
    };
    text(out, &format!("{{\"type\":\"register\",\"endpoint\":{endpoint}}}"));
}

fn text(out: &mut Vec<u8>, json: &str) {
    frame::append(out, |out| out.extend_from_slice(json.as_bytes()));
}

fn put(out: &mut Vec<u8>, what: std::fmt::Arguments<'_>) {
    // Writing into memory does not fail.
    let _ = out.write_fmt(what);
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hermes_bus_proto::envelope::Envelope;
    use hermes_bus_proto::frame::Decoded;
    use hermes_bus_proto::{Kind, limits::PAYLOAD_BYTES_MAX};

    fn words() -> Words {
        Words::new(&["a".to_owned(), "\"q\"".to_owned(), String::new()])
    }

    fn payload(bytes: &[u8]) -> &[u8] {
        match frame::decode(bytes) {
            Decoded::Frame { payload, frame_bytes } if frame_bytes == bytes.len() => payload,
            other => panic!("not one frame: {other:?}"),
        }
    }

    #[test]
    fn messages_are_valid_and_numbered() {
        let mut words = words();
        for seed in 0..3_000 {
            let (mut out, mut dice) = (Vec::new(), Dice::new(seed));
            let to = dice.pick(&[To::Name(1), To::Nobody, To::Everyone]);
            let bytes = dice.magnitude(15) as usize;
            words.message(&mut out, to, bytes, &mut dice);
            let payload = payload(&out);
            let envelope = Envelope::scan(payload).expect("a valid message");
            assert_eq!(envelope.kind, Kind::Message);
            let number = envelope.member("n").expect("its number");
            assert_eq!(number.integer(), Some(seed as i64 + 1));
            if bytes > 5_000 {
                assert_eq!(payload.len(), bytes, "seed {seed}");
            }
        }
    }

    #[test]
    fn a_message_can_be_as_large_as_one_may_be() {
        let mut out = Vec::new();
        words().message(&mut out, To::Name(0), PAYLOAD_BYTES_MAX, &mut Dice::new(1));
        assert_eq!(payload(&out).len(), PAYLOAD_BYTES_MAX);
        assert!(Envelope::scan(payload(&out)).is_ok());
    }

    #[test]
    fn what_is_odd_is_valid_and_garbage_is_not() {
        let mut words = words();
        for seed in 0..2_000 {
            let (mut odd, mut garbage) = (Vec::new(), Vec::new());
            words.odd(&mut odd, &mut Dice::new(seed));
            assert!(Envelope::scan(payload(&odd)).is_ok(), "{}", odd.escape_ascii());
            words.garbage(&mut garbage, &mut Dice::new(seed));
            let is_valid = match frame::decode(&garbage) {
                Decoded::Frame { payload, .. } => Envelope::scan(payload).is_ok(),
                _ => false,
            };
            assert!(!is_valid, "{}", garbage.escape_ascii());
        }
    }
}
