//! Walking over JSON text without building anything from it.
//!
//! What is accepted is exactly what CPython's `json.loads` accepts, because that is what stands at
//! the other end of released clients: also `NaN`, `Infinity`, `-Infinity` and lone surrogate
//! escapes; no control characters in strings; bounded nesting and integers. The walk is iterative
//! and keeps its place in a fixed bit set, so that no document can exhaust the stack.
//!
//! Outside of strings the grammar has ASCII only, and of what it passes in strings the walk notes
//! whether it is ASCII, so UTF-8 is checked only where there is something to check.

use crate::FrameError;
use crate::limits::{INTEGER_DIGITS_MAX, NESTING_MAX};
use crate::stops::{self, BLOCK_BYTES};

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
    /// Where the block begins that `stops` is about; beyond the text as long as there is none.
    block: usize,
    /// Where strings may end in it.
    stops: u64,
    /// Whether the strings that were passed are ASCII.
    is_ascii: bool,
}

/// The name of a member.
#[derive(Clone, Copy)]
pub(crate) struct Key<'a> {
    /// As it stands in the text, with its quotes.
    pub(crate) quoted: &'a [u8],
    /// Whether it is written with escapes.
    pub(crate) has_escapes: bool,
}

impl<'a> Walker<'a> {
    #[inline]
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Walker { text, at: 0, block: usize::MAX, stops: 0, is_ascii: true }
    }

    /// At the opening brace of a payload that is to be one object.
    #[inline]
    pub(crate) fn at_object(payload: &'a [u8]) -> Result<Self, FrameError> {
        let mut walker = Walker::new(payload);
        walker.skip_white_space();
        if walker.peek() != b'{' {
            return Err(not_an_object(payload));
        }
        Ok(walker)
    }

    /// From an object's opening brace to the end of the text, which must be the object's, and valid
    /// UTF-8. Hands over every member, key with quotes and value, and returns where the closing brace
    /// stands.
    #[inline]
    pub(crate) fn members(
        &mut self,
        member: impl FnMut(Key<'a>, &'a [u8]),
    ) -> Result<usize, Malformed> {
        let walked = self.walk_members(member);
        if walked.is_err() || !self.is_ascii {
            check_utf8(self.text)?;
        }
        walked
    }

    #[inline]
    fn walk_members(
        &mut self,
        mut member: impl FnMut(Key<'a>, &'a [u8]),
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
        // Mostly there is none.
        if self.peek() > b' ' {
            return;
        }
        while matches!(self.peek(), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
    }

    /// From a key's opening quote past the colon.
    #[inline]
    pub(crate) fn key_and_colon(&mut self) -> Result<Key<'a>, Malformed> {
        let start = self.at;
        if self.peek() != b'"' {
            return self.wrong("expected a key in double quotes");
        }
        let has_escapes = self.string()?;
        let key = Key { quoted: self.slice_from(start), has_escapes };
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
            b'"' => self.string().map(drop),
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
                b'"' => drop(self.string()?),
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

    /// Past a string, from its opening quote on. Says whether there are escapes in it.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<bool, Malformed> {
        self.at += 1;
        let mut has_escapes = false;
        loop {
            self.go_to_stop();
            match self.peek() {
                b'"' => {
                    self.at += 1;
                    return Ok(has_escapes);
                }
                b'\\' => {
                    has_escapes = true;
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

    /// To the first quote, backslash or control character from here on, or to the end of the text.
    #[inline]
    fn go_to_stop(&mut self) {
        let block = self.at - self.at % BLOCK_BYTES;
        if block != self.block {
            self.look_at_block(block);
        }
        let ahead = self.stops >> (self.at % BLOCK_BYTES);
        if ahead != 0 {
            self.at += ahead.trailing_zeros() as usize;
        } else {
            self.go_to_stop_in_later_block(block + BLOCK_BYTES);
        }
    }

    #[inline]
    fn look_at_block(&mut self, block: usize) {
        let found = stops::block(self.text, block);
        self.block = block;
        self.stops = found.stops;
        self.is_ascii &= found.is_ascii;
    }

    fn go_to_stop_in_later_block(&mut self, next: usize) {
        self.look_at_block(next);
        if self.stops == 0 {
            self.pass_plain_blocks(next + BLOCK_BYTES);
        }
        self.at = self.block + self.stops.trailing_zeros() as usize;
    }

    fn pass_plain_blocks(&mut self, from: usize) {
        let (block, is_ascii) = stops::pass_plain_blocks(self.text, from);
        self.is_ascii &= is_ascii;
        self.look_at_block(block);
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
        while let Some(word) = self.text.get(self.at..).and_then(|rest| rest.first_chunk()) {
            let digits = digits_in(u64::from_le_bytes(*word));
            self.at += digits;
            if digits < size_of::<u64>() {
                return;
            }
        }
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

/// How many of the eight bytes in front are digits.
#[inline]
fn digits_in(word: u64) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    // A digit becomes 0 to 9; what is added carries from 10 on.
    let value = word ^ (ONES * b'0' as u64);
    let others = (((value & !HIGHS) + ONES * (0x80 - 10)) | value) & HIGHS;
    (others.trailing_zeros() / 8) as usize
}

#[cold]
fn check_utf8(text: &[u8]) -> Result<(), Malformed> {
    match simdutf8::compat::from_utf8(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(Malformed { at: error.valid_up_to(), reason: "invalid UTF-8" }),
    }
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
    if let Err(malformed) = check_utf8(payload) {
        return FrameError::NotJson(malformed);
    }
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
    fn a_string_ends_at_the_same_byte_wherever_it_begins() {
        for before in [0, 1, 62, 63, 64] {
            for length in 0..300 {
                for filler in [b'x', 0x20, 0x7f, 0x80, 0xff, b'!', b'#', b'[', b']'] {
                    let mut text = vec![b' '; before];
                    text.push(b'"');
                    text.resize(before + 1 + length, filler);
                    let end = text.len();
                    for stop in [b'"', b'\\', 0x00, 0x1f] {
                        let mut text = text.clone();
                        text.push(stop);
                        text.extend_from_slice(&[filler; 9]);
                        let mut walker = Walker::new(&text);
                        walker.at = before;
                        let (is_string, at) = (walker.string().is_ok(), walker.at);
                        let whole = stop == b'"';
                        assert_eq!((is_string, at), (whole, end + usize::from(whole)), "{stop:#x}");
                        assert!(
                            length == 0 || walker.is_ascii == filler.is_ascii() || filler > 0x7f
                        );
                    }
                    let mut walker = Walker::new(&text);
                    walker.at = before;
                    assert!(walker.string().is_err());
                    assert_eq!(walker.at, end, "a string without an end");
                    assert_eq!(walker.is_ascii, length == 0 || filler.is_ascii());
                }
            }
        }
    }

    #[test]
    fn digits_are_counted_up_to_the_first_other_byte() {
        for place in 0..8 {
            for byte in 0..=u8::MAX {
                let mut text = *b"90817263";
                text[place] = byte;
                let expected = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
                assert_eq!(digits_in(u64::from_le_bytes(text)), expected, "{byte:#x} at {place}");
            }
        }
    }
}
