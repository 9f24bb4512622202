//! Walking over JSON text without building anything from it.
//!
//! What is accepted is exactly what CPython's `json.loads` accepts, because that is what stands at
//! the other end of released clients: also `NaN`, `Infinity`, `-Infinity` and lone surrogate
//! escapes; no control characters in strings; bounded nesting and integers. The walk is iterative
//! and keeps its place in a fixed bit set, so that no document can exhaust the stack. UTF-8 is
//! checked by the caller, once for the whole frame.

use crate::FrameError;
use crate::limits::{INTEGER_DIGITS_MAX, NESTING_MAX};

/// Where a text stops being JSON, and what is wrong there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Offset from the first byte of the payload.
    pub at: usize,
    /// What is wrong or was expected, for people.
    pub reason: &'static str,
}

/// A place in a JSON text.
pub(crate) struct Walker<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Walker<'a> {
    #[inline]
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Walker { text, at: 0 }
    }

    /// At the opening brace of a payload that is to be one object, in valid UTF-8.
    #[inline]
    pub(crate) fn at_object(payload: &'a [u8]) -> Result<Self, FrameError> {
        if let Err(error) = simdutf8::compat::from_utf8(payload) {
            let at = error.valid_up_to();
            return Err(FrameError::NotJson(Malformed { at, reason: "invalid UTF-8" }));
        }
        let mut walker = Walker::new(payload);
        walker.skip_white_space();
        if walker.peek() != b'{' {
            return Err(not_an_object(payload));
        }
        Ok(walker)
    }

    /// From an object's opening brace to the end of the text, which must be the object's. Hands
    /// over every member, key with quotes and value, and returns where the closing brace stands.
    #[inline]
    pub(crate) fn members(
        &mut self,
        mut member: impl FnMut(&'a [u8], &'a [u8]),
    ) -> Result<usize, Malformed> {
        self.step();
        self.skip_white_space();
        if self.peek() != b'}' {
            loop {
                let key = self.key_and_colon()?;
                self.skip_white_space();
                let start = self.at;
                self.value(1)?;
                member(key, self.slice_from(start));
                self.skip_white_space();
                match self.peek() {
                    b',' => {
                        self.step();
                        self.skip_white_space();
                    }
                    b'}' => break,
                    _ => return self.wrong("expected ',' or '}'"),
                }
            }
        }
        let closing_brace_at = self.at;
        self.step();
        self.end_of_document()?;
        Ok(closing_brace_at)
    }

    /// From an array's opening bracket past its closing one. Hands over every element.
    pub(crate) fn elements(&mut self, mut element: impl FnMut(&'a [u8])) -> Result<(), Malformed> {
        self.step();
        self.skip_white_space();
        while self.peek() != b']' {
            let start = self.at;
            self.value(1)?;
            element(self.slice_from(start));
            self.skip_white_space();
            match self.peek() {
                b',' => {
                    self.step();
                    self.skip_white_space();
                }
                b']' => {}
                _ => return self.wrong("expected ',' or ']'"),
            }
        }
        self.step();
        Ok(())
    }

    /// Nothing but white space may follow.
    pub(crate) fn end_of_document(&mut self) -> Result<(), Malformed> {
        self.skip_white_space();
        if self.is_at_end() { Ok(()) } else { self.wrong("text after the end of the value") }
    }

    /// The byte at this place; 0, which no JSON text has outside of a mistake, at the end.
    #[inline]
    pub(crate) fn peek(&self) -> u8 {
        self.text.get(self.at).copied().unwrap_or(0)
    }

    #[inline]
    pub(crate) fn is_at_end(&self) -> bool {
        self.at >= self.text.len()
    }

    #[inline]
    pub(crate) fn step(&mut self) {
        self.at += 1;
    }

    #[inline]
    pub(crate) fn slice_from(&self, start: usize) -> &'a [u8] {
        &self.text[start..self.at]
    }

    #[cold]
    pub(crate) fn wrong<T>(&self, reason: &'static str) -> Result<T, Malformed> {
        Err(Malformed { at: self.at, reason })
    }

    #[inline]
    pub(crate) fn skip_white_space(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
    }

    /// From a key's opening quote past the colon. Returns the key with its quotes.
    #[inline]
    pub(crate) fn key_and_colon(&mut self) -> Result<&'a [u8], Malformed> {
        let start = self.at;
        if self.peek() != b'"' {
            return self.wrong("expected a key in double quotes");
        }
        self.string()?;
        let key = self.slice_from(start);
        self.skip_white_space();
        if self.peek() != b':' {
            return self.wrong("expected ':' after the key");
        }
        self.at += 1;
        Ok(key)
    }

    /// Past one value, white space before it included. `depth` containers are open around it.
    #[inline]
    pub(crate) fn value(&mut self, depth: usize) -> Result<(), Malformed> {
        self.skip_white_space();
        match self.peek() {
            b'"' => self.string(),
            b'{' | b'[' => self.container(depth),
            _ => self.scalar(),
        }
    }

    /// Past an array or object, whatever it holds.
    fn container(&mut self, depth: usize) -> Result<(), Malformed> {
        let mut open = Nesting::new(depth);
        loop {
            // Here a value begins.
            self.skip_white_space();
            match self.peek() {
                b'"' => self.string()?,
                b'{' => {
                    self.open(&mut open, Container::Object)?;
                    if self.peek() != b'}' {
                        self.key_and_colon()?;
                        continue;
                    }
                }
                b'[' => {
                    self.open(&mut open, Container::Array)?;
                    if self.peek() != b']' {
                        continue;
                    }
                }
                _ => self.scalar()?,
            }
            // Here a value has ended, or an empty container is about to.
            loop {
                self.skip_white_space();
                match (open.innermost(), self.peek()) {
                    (Container::Array, b',') => {
                        self.at += 1;
                        break;
                    }
                    (Container::Object, b',') => {
                        self.at += 1;
                        self.skip_white_space();
                        self.key_and_colon()?;
                        break;
                    }
                    (Container::Array, b']') | (Container::Object, b'}') => {
                        self.at += 1;
                        if open.close() {
                            return Ok(());
                        }
                    }
                    (Container::Array, _) => return self.wrong("expected ',' or ']'"),
                    (Container::Object, _) => return self.wrong("expected ',' or '}'"),
                }
            }
        }
    }

    #[inline]
    fn open(&mut self, open: &mut Nesting, container: Container) -> Result<(), Malformed> {
        if open.depth() == NESTING_MAX {
            return self.wrong("nested deeper than 950 levels");
        }
        open.push(container);
        self.at += 1;
        self.skip_white_space();
        Ok(())
    }

    /// Past a string, from its opening quote on.
    #[inline(always)]
    pub(crate) fn string(&mut self) -> Result<(), Malformed> {
        self.at += 1;
        loop {
            self.at = end_of_plain_run(self.text, self.at);
            match self.peek() {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => {
                    self.escape()?;
                    while self.peek() == b'\\' {
                        self.escape()?;
                    }
                }
                _ if self.is_at_end() => return self.wrong("a string without an end"),
                _ => return self.wrong("a control character in a string must be escaped"),
            }
        }
    }

    #[inline]
    fn escape(&mut self) -> Result<(), Malformed> {
        match self.text.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => match self.text.get(self.at + 2..self.at + 6) {
                Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => self.at += 6,
                _ => return self.wrong("\\u needs four hexadecimal digits"),
            },
            _ => return self.wrong("an escape that JSON does not know"),
        }
        Ok(())
    }

    fn scalar(&mut self) -> Result<(), Malformed> {
        match self.peek() {
            b'0'..=b'9' | b'-' => self.number(),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            b'N' => self.word(b"NaN"),
            b'I' => self.word(b"Infinity"),
            _ => self.wrong("expected a value"),
        }
    }

    fn word(&mut self, word: &'static [u8]) -> Result<(), Malformed> {
        if self.text[self.at..].starts_with(word) {
            self.at += word.len();
            return Ok(());
        }
        self.wrong("expected a value")
    }

    fn number(&mut self) -> Result<(), Malformed> {
        if self.peek() == b'-' {
            self.at += 1;
            if self.peek() == b'I' {
                return self.word(b"Infinity");
            }
        }
        let start = self.at;
        match self.peek() {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            _ => return self.wrong("expected a digit"),
        }
        let integer_digits = self.at - start;
        let mut is_integer = true;
        if self.peek() == b'.' {
            is_integer = false;
            self.at += 1;
            self.required_digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            is_integer = false;
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.required_digits()?;
        }
        if is_integer && integer_digits > INTEGER_DIGITS_MAX {
            self.at = start;
            return self.wrong("an integer of more than 4300 digits");
        }
        Ok(())
    }

    #[inline]
    fn digits(&mut self) {
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
    }

    fn required_digits(&mut self) -> Result<(), Malformed> {
        if !self.peek().is_ascii_digit() {
            return self.wrong("expected a digit");
        }
        self.digits();
        Ok(())
    }
}

/// The first place from `at` on that is a quote, a backslash or a control character, or the end.
///
/// Short strings are the rule in envelopes, so the first bytes are taken eight at a time; long ones
/// go on in blocks that the compiler turns into vector instructions.
#[inline(always)]
fn end_of_plain_run(text: &[u8], mut at: usize) -> usize {
    for _ in 0..4 {
        let Some(word) = text.get(at..).and_then(|rest| rest.first_chunk::<8>()) else {
            return at + text[at..].iter().take_while(|byte| is_plain(**byte)).count();
        };
        let stops = stops_in(u64::from_le_bytes(*word));
        if stops != 0 {
            return at + (stops.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    end_of_long_plain_run(text, at)
}

fn end_of_long_plain_run(text: &[u8], mut at: usize) -> usize {
    const BLOCK: usize = 64;
    while let Some(block) = text[at..].first_chunk::<BLOCK>() {
        let stops = block.iter().fold(false, |stops, byte| stops | !is_plain(*byte));
        if stops {
            break;
        }
        at += BLOCK;
    }
    while let Some(word) = text[at..].first_chunk::<8>() {
        let stops = stops_in(u64::from_le_bytes(*word));
        if stops != 0 {
            return at + (stops.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    at + text[at..].iter().take_while(|byte| is_plain(**byte)).count()
}

#[inline]
fn is_plain(byte: u8) -> bool {
    (byte ^ 2) > 0x20 && byte != b'\\'
}

/// Marks the high bit of every byte of `word` that ends a plain run. Marks above the lowest one may
/// be wrong (borrows run upwards), the lowest never is.
#[inline]
fn stops_in(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    let low = word ^ (ONES * 2);
    let backslash = word ^ (ONES * b'\\' as u64);
    let is_backslash = backslash.wrapping_sub(ONES) & !backslash;
    let is_low = low.wrapping_sub(ONES * 0x21) & !low;
    (is_low | is_backslash) & HIGHS
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Container {
    Array,
    Object,
}

const NESTING_WORDS: usize = NESTING_MAX.div_ceil(64);

/// Which containers are open, as one bit each.
struct Nesting {
    /// Containers open around the outermost one that is kept here.
    outside: usize,
    /// Containers kept here.
    inside: usize,
    /// The innermost container.
    innermost: Container,
    /// One bit a level: set where the level is an object.
    objects: [u64; NESTING_WORDS],
}

impl Nesting {
    #[inline]
    fn new(outside: usize) -> Self {
        Nesting { outside, inside: 0, innermost: Container::Array, objects: [0; NESTING_WORDS] }
    }

    #[inline]
    fn depth(&self) -> usize {
        self.outside + self.inside
    }

    #[inline]
    fn innermost(&self) -> Container {
        self.innermost
    }

    #[inline]
    fn push(&mut self, container: Container) {
        let (word, bit) = (self.inside / 64, 1 << (self.inside % 64));
        match container {
            Container::Object => self.objects[word] |= bit,
            Container::Array => self.objects[word] &= !bit,
        }
        self.inside += 1;
        self.innermost = container;
    }

    /// Closes the innermost container; true when it was the outermost one kept here.
    #[inline]
    fn close(&mut self) -> bool {
        self.inside -= 1;
        let Some(level) = self.inside.checked_sub(1) else { return true };
        let is_object = self.objects[level / 64] >> (level % 64) & 1 == 1;
        self.innermost = if is_object { Container::Object } else { Container::Array };
        false
    }
}

/// Tells JSON that is no object from text that is no JSON.
#[cold]
fn not_an_object(payload: &[u8]) -> FrameError {
    let mut walker = Walker::new(payload);
    walker.skip_white_space();
    let kind = match walker.peek() {
        b'[' => "an array",
        b'"' => "a string",
        b't' | b'f' => "a boolean",
        b'n' => "null",
        _ => "a number",
    };
    match walker.value(0).and_then(|()| walker.end_of_document()) {
        Ok(()) => FrameError::NotAnObject(kind),
        Err(malformed) => FrameError::NotJson(malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_run_ends_at_the_same_byte_however_it_is_searched() {
        for stop in [b'"', b'\\', 0x00, 0x1f] {
            for length in 0..300 {
                for filler in [b'x', 0x20, 0x7f, 0x80, 0xff, b'!', b'#', b'[', b']'] {
                    let mut text = vec![filler; length];
                    text.push(stop);
                    text.extend_from_slice(&[filler; 9]);
                    assert_eq!(end_of_plain_run(&text, 0), length, "{filler:#x} {stop:#x}");
                    assert_eq!(end_of_plain_run(&text[..length], 0), length);
                }
            }
        }
    }
}
