//! Documents made from bytes: every byte decides something, and whatever the bytes are, the document is
//! well-formed, or was before a few of its bytes were changed. What raw bytes rarely hit in 20 seconds
//! are documents in which keys are repeated, written with escapes and followed by the right kind of value.

/// Makes a document.
pub(crate) fn document(choices: &[u8]) -> Vec<u8> {
    let mut maker = Maker { choices: choices.iter(), made: Vec::with_capacity(256) };
    let mistakes = maker.choose(8).saturating_sub(5);
    maker.white_space();
    if maker.choose(32) == 31 {
        maker.value(0);
    } else {
        maker.object(0);
    }
    maker.white_space();
    for _ in 0..mistakes {
        let at = (maker.choose(256) * 256 + maker.choose(256)) % maker.made.len();
        let byte = *maker.one_of(b"\"\\{}[]:,09-.eu \n\x01\xc3tN/I");
        match maker.choose(3) {
            0 => maker.made[at] = byte,
            1 => maker.made.insert(at, byte),
            _ => drop(maker.made.remove(at)),
        }
        if maker.made.is_empty() {
            break;
        }
    }
    maker.made
}

/// The keys that the bus reads, and another one.
const KEYS: [&str; 9] = ["type", "to", "from", "id", "ts", "endpoint", "protocol", "body", "x"];
const KINDS: [&str; 6] = ["message", "register", "ping", "list_endpoints", "admin", "Ping"];
const WORDS: [&str; 20] = [
    "true",
    "false",
    "null",
    "NaN",
    "Infinity",
    "-Infinity",
    "0",
    "-0",
    "-0.0",
    "0e9",
    "1E400",
    "1e-400",
    "-1e-323",
    "2.4703282292062327e-324",
    "18446744073709551616",
    "1.5",
    "\"\"",
    "[]",
    "{}",
    "[ \n]",
];
const PIECES: [&str; 16] = [
    "a",
    " ",
    "}",
    "]",
    "é",
    "漢",
    "😀",
    "\u{7f}",
    "\\\"",
    "\\\\",
    "\\/",
    "\\n",
    "\\u0041",
    "\\ud83d\\ude00",
    "\\uD800",
    "\\udfff",
];
/// Deepest nesting of values that are made one by one.
const DEPTH_MAX: usize = 4;
/// From this length on, what follows is short.
const LONG_BYTES: usize = 16 * 1024;

struct Maker<'a> {
    choices: std::slice::Iter<'a, u8>,
    made: Vec<u8>,
}

impl Maker<'_> {
    /// A number below `count`, which is at most 256. When there are no more bytes, it is 0.
    fn choose(&mut self, count: usize) -> usize {
        usize::from(self.choices.next().copied().unwrap_or(0)) % count
    }

    fn one_of<'t, T>(&mut self, table: &'t [T]) -> &'t T {
        &table[self.choose(table.len())]
    }

    fn say(&mut self, text: &str) {
        self.made.extend_from_slice(text.as_bytes());
    }

    fn white_space(&mut self) {
        let space = *self.one_of(&["", "", "", "", "", " ", "\n", "\r\t "]);
        self.say(space);
    }

    fn object(&mut self, depth: usize) {
        self.say("{");
        self.white_space();
        for member in 0..self.choose(8) {
            if member > 0 {
                self.say(",");
                self.white_space();
            }
            let word = if self.choose(8) == 7 { None } else { Some(*self.one_of(&KEYS)) };
            self.string(word);
            self.white_space();
            self.say(":");
            self.white_space();
            self.value(depth + 1);
            self.white_space();
        }
        self.say("}");
    }

    fn array(&mut self, depth: usize) {
        self.say("[");
        self.white_space();
        for item in 0..self.choose(4) {
            if item > 0 {
                self.say(",");
            }
            self.value(depth + 1);
            self.white_space();
        }
        self.say("]");
    }

    fn value(&mut self, depth: usize) {
        match self.choose(16) {
            0..=2 => {
                let word = *self.one_of(&KINDS);
                self.string(Some(word));
            }
            3..=5 => self.string(None),
            6..=9 => {
                let word = *self.one_of(&WORDS);
                self.say(word);
            }
            10 if depth < DEPTH_MAX => self.array(depth),
            11 | 12 if depth < DEPTH_MAX => self.object(depth),
            13 if self.made.len() < LONG_BYTES => self.levels(depth),
            14 if self.made.len() < LONG_BYTES => self.digits(),
            _ => self.say("7"),
        }
    }

    /// A word, sometimes with one of its letters as an escape, or a string of many kinds of pieces.
    fn string(&mut self, word: Option<&str>) {
        self.say("\"");
        match word {
            Some(word) => {
                let escaped = self.choose(4 * word.len());
                for (at, letter) in word.bytes().enumerate() {
                    if at == escaped {
                        self.say(&format!("\\u{letter:04x}"));
                    } else {
                        self.made.push(letter);
                    }
                }
            }
            None => {
                for _ in 0..self.choose(5) {
                    let piece = *self.one_of(&PIECES);
                    let times = if self.choose(8) == 7 { self.choose(256) } else { 1 };
                    self.say(&piece.repeat(times));
                }
            }
        }
        self.say("\"");
    }

    /// As many levels as are allowed, or about as many.
    fn levels(&mut self, depth: usize) {
        let (open, close) = *self.one_of(&[("[", "]"), ("{\"a\":", "}"), ("[{\"type\":", "}]")]);
        let levels_each = if open.len() > 8 { 2 } else { 1 };
        let times = (950 - depth).div_ceil(levels_each) + self.choose(4) - 2;
        self.say(&open.repeat(times));
        self.say("1");
        self.say(&close.repeat(times));
    }

    /// As many digits as are allowed, or about as many.
    fn digits(&mut self) {
        let sign = *self.one_of(&["", "-"]);
        self.say(sign);
        let digits = 4_298 + self.choose(5);
        self.say(&"7".repeat(digits));
        let rest = *self.one_of(&["", "", "", ".5", "e1", "E-400"]);
        self.say(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Opinion, read};

    #[test]
    fn most_documents_are_objects_and_all_ways_to_go_wrong_are_found() {
        let (mut objects, mut wrong, mut other) = (0, 0, 0);
        let mut state = 1_u32;
        for _ in 0..2_000 {
            let choices: Vec<u8> = (0..60)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect();
            match read(&document(&choices)) {
                Opinion::Object(_) => objects += 1,
                Opinion::NotJson | Opinion::NotText(_) => wrong += 1,
                Opinion::NotAnObject => other += 1,
            }
        }
        assert!(objects > 1_000 && wrong > 200 && other > 10, "{objects} {wrong} {other}");
    }

    #[test]
    fn without_any_choice_there_is_an_object() {
        assert_eq!(document(b""), b"{}");
    }
}
