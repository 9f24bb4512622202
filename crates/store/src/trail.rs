//! The states of stored messages that have come to their end, packed: one blob for each commit.
//!
//! A message takes about 40 bytes: names are written once in each blob, times as differences.

use std::borrow::Cow;
use std::collections::HashMap;

use hermes_bus_core::storage::Ending;

use crate::codes;

/// A message that has come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended<'a> {
    pub(crate) seq: u64,
    pub(crate) id: Cow<'a, str>,
    pub(crate) endpoint: Cow<'a, str>,
    pub(crate) arrived_unix_us: u64,
    pub(crate) stored_unix_us: u64,
    pub(crate) ended_unix_us: u64,
    pub(crate) deliveries: u32,
    pub(crate) ending: Ending,
    /// Where a repetition of it is judged by its id.
    pub(crate) judged: Option<Judged<'a>>,
}

/// What a repetition has in common with a message, besides its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Judged<'a> {
    pub(crate) uid: u32,
    pub(crate) from: Option<Cow<'a, str>>,
    pub(crate) to: Cow<'a, str>,
}

/// The form that is written. Another one gets another number.
const FORM: u8 = 1;

const NAME_NONE: u64 = 0;
const NAME_NEW: u64 = 1;
const NAME_KNOWN: u64 = 2;

/// So many names are found faster by looking at each.
const FIRST_NAMES: usize = 8;

/// Packs what ends in one commit.
#[derive(Debug, Default)]
pub(crate) struct Packer {
    bytes: Vec<u8>,
    /// The first names, in the order of their numbers: mostly there are no others.
    first_names: Vec<String>,
    /// All others, with their numbers.
    names: HashMap<String, u64>,
    arrived_before: u64,
    messages: u64,
}

impl Packer {
    pub(crate) fn messages(&self) -> u64 {
        self.messages
    }

    /// The blob; none if nothing was packed.
    pub(crate) fn finish(self) -> Option<Vec<u8>> {
        (self.messages > 0).then_some(self.bytes)
    }

    pub(crate) fn pack(&mut self, ended: &Ended<'_>) {
        if self.messages == 0 {
            self.bytes.push(FORM);
        }
        self.messages += 1;
        self.number(ended.seq);
        self.id(&ended.id);
        self.name(Some(&ended.endpoint));
        self.difference(self.arrived_before, ended.arrived_unix_us);
        self.arrived_before = ended.arrived_unix_us;
        self.difference(ended.arrived_unix_us, ended.stored_unix_us);
        self.difference(ended.stored_unix_us, ended.ended_unix_us);
        self.number(u64::from(ended.deliveries));
        self.bytes.push(codes::of_ending(ended.ending));
        match &ended.judged {
            None => self.bytes.push(0),
            Some(judged) => {
                self.bytes.push(1);
                self.number(u64::from(judged.uid));
                self.name(judged.from.as_deref());
                self.name(Some(&judged.to));
            }
        }
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    fn difference(&mut self, from: u64, to: u64) {
        let difference = to.wrapping_sub(from) as i64;
        self.number(((difference << 1) ^ (difference >> 63)) as u64);
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// A UUID in its usual spelling takes 16 bytes.
    fn id(&mut self, id: &str) {
        if let Some(uuid) = uuid_bytes(id) {
            self.bytes.push(1);
            self.bytes.extend_from_slice(&uuid);
        } else {
            self.bytes.push(0);
            self.text(id);
        }
    }

    fn name(&mut self, name: Option<&str>) {
        let Some(name) = name else { return self.number(NAME_NONE) };
        let is_first = self.first_names.iter().position(|known| known == name);
        let known = is_first.map(|place| place as u64).or_else(|| self.names.get(name).copied());
        if let Some(place) = known {
            return self.number(NAME_KNOWN + place);
        }
        if self.first_names.len() < FIRST_NAMES {
            self.first_names.push(name.to_owned());
        } else {
            let place = self.first_names.len() + self.names.len();
            self.names.insert(name.to_owned(), place as u64);
        }
        self.number(NAME_NEW);
        self.text(name);
    }
}

/// Where a UUID in its usual spelling has its dashes.
const DASHES: [usize; 4] = [8, 13, 18, 23];

fn uuid_bytes(id: &str) -> Option<[u8; 16]> {
    let id = id.as_bytes();
    if id.len() != 36 {
        return None;
    }
    let mut bytes = [0; 16];
    let mut digits = 0;
    for (place, character) in id.iter().enumerate() {
        if DASHES.contains(&place) {
            if *character != b'-' {
                return None;
            }
            continue;
        }
        let digit = match character {
            b'0'..=b'9' => character - b'0',
            b'a'..=b'f' => character - b'a' + 10,
            _ => return None,
        };
        bytes[digits / 2] = bytes[digits / 2] << 4 | digit;
        digits += 1;
    }
    Some(bytes)
}

fn uuid_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for byte in bytes {
        if DASHES.contains(&text.len()) {
            text.push('-');
        }
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
    text
}

/// Unpacks a blob. Ends early where it is damaged.
pub(crate) struct Unpacker<'a> {
    rest: &'a [u8],
    names: Vec<&'a str>,
    arrived_before: u64,
}

impl<'a> Unpacker<'a> {
    pub(crate) fn of(blob: &'a [u8]) -> Self {
        let rest = blob.strip_prefix(&[FORM]).unwrap_or_default();
        Unpacker { rest, names: Vec::new(), arrived_before: 0 }
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn difference(&mut self, from: u64) -> Option<u64> {
        let folded = self.number()?;
        let difference = (folded >> 1) as i64 ^ -((folded & 1) as i64);
        Some(from.wrapping_add(difference as u64))
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let count = usize::try_from(self.number()?).ok()?;
        std::str::from_utf8(self.bytes(count)?).ok()
    }

    fn id(&mut self) -> Option<Cow<'a, str>> {
        match self.byte()? {
            0 => Some(Cow::Borrowed(self.text()?)),
            _ => Some(Cow::Owned(uuid_text(self.bytes(16)?))),
        }
    }

    fn name(&mut self) -> Option<Option<&'a str>> {
        match self.number()? {
            NAME_NONE => Some(None),
            NAME_NEW => {
                let name = self.text()?;
                self.names.push(name);
                Some(Some(name))
            }
            place => Some(Some(*self.names.get(usize::try_from(place - NAME_KNOWN).ok()?)?)),
        }
    }
}

impl<'a> Iterator for Unpacker<'a> {
    type Item = Ended<'a>;

    fn next(&mut self) -> Option<Ended<'a>> {
        let seq = self.number()?;
        let id = self.id()?;
        let endpoint = Cow::Borrowed(self.name()??);
        let arrived_unix_us = self.difference(self.arrived_before)?;
        self.arrived_before = arrived_unix_us;
        let stored_unix_us = self.difference(arrived_unix_us)?;
        let ended_unix_us = self.difference(stored_unix_us)?;
        let deliveries = u32::try_from(self.number()?).ok()?;
        let ending = codes::ending(self.byte()?)?;
        let judged = match self.byte()? {
            0 => None,
            _ => Some(Judged {
                uid: u32::try_from(self.number()?).ok()?,
                from: self.name()?.map(Cow::Borrowed),
                to: Cow::Borrowed(self.name()??),
            }),
        };
        Some(Ended {
            seq,
            id,
            endpoint,
            arrived_unix_us,
            stored_unix_us,
            ended_unix_us,
            deliveries,
            ending,
            judged,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(seq: u64, id: &'static str) -> Ended<'static> {
        Ended {
            seq,
            id: id.into(),
            endpoint: "worker".into(),
            arrived_unix_us: 1_700_000_000_000_000u64.wrapping_add(seq),
            stored_unix_us: 1_700_000_000_000_400,
            ended_unix_us: 1_700_000_100_000_000,
            deliveries: 3,
            ending: Ending::Dead,
            judged: None,
        }
    }

    #[test]
    fn what_was_packed_is_unpacked() {
        let judged = |from| Judged { uid: 1000, from, to: "worker".into() };
        let all = [
            ended(1, "0123abcd-0000-4000-8000-fedcba987654"),
            Ended { judged: Some(judged(Some("a".into()))), ..ended(9, "ABCD") },
            // Clocks go back.
            Ended { ended_unix_us: 5, judged: Some(judged(None)), ..ended(3, "") },
            ended(u64::MAX, "0123ABCD-0000-4000-8000-fedcba987654"),
        ];
        let mut packer = Packer::default();
        assert_eq!(Packer::default().finish(), None);
        all.iter().for_each(|ended| packer.pack(ended));
        assert_eq!(packer.messages(), 4);
        let blob = packer.finish().unwrap();
        assert_eq!(Unpacker::of(&blob).collect::<Vec<_>>(), all);
        for cut in 0..blob.len() {
            assert!(Unpacker::of(&blob[..cut]).count() < all.len(), "{cut}");
        }
    }
}
