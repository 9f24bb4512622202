//! The envelope: the top-level keys of a frame's JSON object, found in one pass.
//!
//! [`Envelope::scan`] checks that the whole payload is one well-formed JSON object in valid UTF-8
//! and remembers where the values of the keys stand that the bus reads. It builds nothing and
//! copies nothing; `body` is walked over, never read. [`Insertion`] adds fields before the closing
//! brace and leaves every other byte as it was.

use alloc::borrow::{Cow, ToOwned};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use crate::frame::FrameError;
pub use crate::json::Malformed;
use crate::json::{Key, Walker};

/// The JSON text of one value, known to be well-formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw<'a>(&'a [u8]);

/// Why a value is not text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotText {
    /// It is a string with half of a surrogate pair, which no UTF-8 text can hold.
    LoneSurrogate,
    /// It is not a string.
    OtherType,
}

impl<'a> Raw<'a> {
    /// Wraps a value's text. The caller knows that it is well-formed, without white space around.
    pub fn new(json: &'a [u8]) -> Self {
        Raw(json)
    }

    /// The bytes as they came.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The value of a string.
    #[inline]
    pub fn text(self) -> Result<Cow<'a, str>, NotText> {
        let Some(inner) = self.inside_quotes() else { return Err(NotText::OtherType) };
        if !inner.contains(&b'\\') {
            let text = core::str::from_utf8(inner).map_err(|_| NotText::OtherType)?;
            return Ok(Cow::Borrowed(text));
        }
        serde_json::from_slice(self.0).map(Cow::Owned).map_err(|_| NotText::LoneSurrogate)
    }

    /// What stands between a string's quotes, escapes included.
    #[inline]
    fn inside_quotes(self) -> Option<&'a [u8]> {
        match self.0 {
            [b'"', inner @ .., b'"'] => Some(inner),
            _ => None,
        }
    }

    /// Whether this is a string with the value `text`, however it is escaped.
    #[inline]
    pub fn is_text(self, text: &str) -> bool {
        match self.inside_quotes() {
            // With escapes, the value is never what the bytes say.
            Some(inner) if inner == text.as_bytes() => !text.contains('\\'),
            Some(inner) if inner.contains(&b'\\') => self.text().is_ok_and(|value| value == text),
            _ => false,
        }
    }

    /// Whether this is an array or object.
    pub fn is_container(self) -> bool {
        matches!(self.0.first(), Some(b'[' | b'{'))
    }

    /// Whether Python's `bool()` of this value is false.
    pub fn is_false_in_python(self) -> bool {
        match self.0 {
            b"null" | b"false" | b"\"\"" => true,
            [b'[' | b'{', inner @ .., _] => inner.iter().all(u8::is_ascii_whitespace),
            [b'0'..=b'9' | b'-', ..] => self.number().is_some_and(|number| number == 0.0),
            _ => false,
        }
    }

    fn number(self) -> Option<f64> {
        core::str::from_utf8(self.0).ok()?.parse().ok()
    }

    /// The finite number that this is, if it is one.
    pub fn finite_number(self) -> Option<f64> {
        let begins_as_a_number = matches!(self.0.first(), Some(b'0'..=b'9' | b'-'));
        self.number().filter(|number| begins_as_a_number && number.is_finite())
    }

    /// The integer that this is, if it is one that fits.
    pub fn integer(self) -> Option<i64> {
        core::str::from_utf8(self.0).ok()?.parse().ok()
    }

    /// The whole number from 0 on that this is, if it is one that fits.
    pub fn whole_number(self) -> Option<u64> {
        core::str::from_utf8(self.0).ok()?.parse().ok()
    }

    /// Appends this value as Python's `str()` shows it, escaped for use inside a JSON string.
    pub fn append_shown_by_python(self, out: &mut Vec<u8>) {
        match self.0 {
            [b'"', inner @ .., b'"'] => out.extend_from_slice(inner),
            b"true" => out.extend_from_slice(b"True"),
            b"false" => out.extend_from_slice(b"False"),
            b"null" => out.extend_from_slice(b"None"),
            b"NaN" => out.extend_from_slice(b"nan"),
            b"Infinity" => out.extend_from_slice(b"inf"),
            b"-Infinity" => out.extend_from_slice(b"-inf"),
            number if number.iter().any(|byte| matches!(byte, b'.' | b'e' | b'E')) => {
                out.extend_from_slice(python_float(self.number().unwrap_or(f64::NAN)).as_bytes());
            }
            other => out.extend_from_slice(other),
        }
    }
}

/// A float as CPython's `repr` prints it: shortest digits, an exponent below 1e-4 and from 1e16 on.
fn python_float(number: f64) -> String {
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("{:e} always has an exponent");
    let exponent: i32 = exponent.parse().expect("{:e} has an integer exponent");
    if (-4..16).contains(&exponent) {
        return format!("{number:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// What a frame asks for, by its `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `message`
    Message,
    /// `register`
    Register,
    /// `ping`
    Ping,
    /// `list_endpoints`
    ListEndpoints,
    /// `admin`
    Admin,
    /// `ack`
    Ack,
    /// `nack`
    Nack,
    /// `subscribe`
    Subscribe,
    /// `unsubscribe`
    Unsubscribe,
    /// `watch`
    Watch,
    /// `trace`
    Trace,
    /// Any other value, or none.
    Unknown,
}

/// A frame's JSON object with the values of the keys that the bus reads. Of a repeated key the last
/// value counts.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    payload: &'a [u8],
    closing_brace_at: usize,
    /// `type`
    pub kind: Kind,
    /// `to`
    pub to: Option<Raw<'a>>,
    /// `from`
    pub from: Option<Raw<'a>>,
    /// `id`
    pub id: Option<Raw<'a>>,
    /// `ts`
    pub ts: Option<Raw<'a>>,
    /// `endpoint`
    pub endpoint: Option<Raw<'a>>,
    /// `protocol`
    pub protocol: Option<Raw<'a>>,
    /// What it asks for besides being routed.
    pub asking: Asking<'a>,
    /// Whether it has a key that only the bus may give to a level 2 session: `sender`, `via`, `seq`
    /// or `delivery`.
    pub has_keys_of_the_bus: bool,
}

/// The members by which a message asks for something, as they came. Read by [`Ask`](crate::Ask).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asking<'a> {
    /// `receipt`
    pub receipt: Option<Raw<'a>>,
    /// `queue`
    pub queue: Option<Raw<'a>>,
    /// `ttl_s`
    pub ttl_s: Option<Raw<'a>>,
    /// `hops`
    pub hops: Option<Raw<'a>>,
}

impl Asking<'_> {
    /// Whether there is anything to read.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.receipt.is_none()
            && self.queue.is_none()
            && self.ttl_s.is_none()
            && self.hops.is_none()
    }
}

impl<'a> Envelope<'a> {
    /// Reads a payload. Refuses what is not one JSON object that Python's `json` module can read.
    #[inline]
    pub fn scan(payload: &'a [u8]) -> Result<Self, FrameError> {
        let mut walker = Walker::at_object(payload)?;
        let mut envelope = Envelope {
            payload,
            closing_brace_at: 0,
            kind: Kind::Unknown,
            to: None,
            from: None,
            id: None,
            ts: None,
            endpoint: None,
            protocol: None,
            asking: Asking::default(),
            has_keys_of_the_bus: false,
        };
        let walked = walker.members(|key, value| envelope.remember(key, Raw(value)));
        envelope.closing_brace_at = walked.map_err(FrameError::NotJson)?;
        Ok(envelope)
    }

    #[inline]
    fn remember(&mut self, key: Key<'a>, value: Raw<'a>) {
        if key.has_escapes {
            return self.remember_escaped(Raw(key.quoted), value);
        }
        match key.quoted {
            b"\"type\"" => self.kind = Kind::of(value),
            b"\"to\"" => self.to = Some(value),
            b"\"from\"" => self.from = Some(value),
            b"\"id\"" => self.id = Some(value),
            b"\"ts\"" => self.ts = Some(value),
            b"\"endpoint\"" => self.endpoint = Some(value),
            b"\"protocol\"" => self.protocol = Some(value),
            b"\"receipt\"" => self.asking.receipt = Some(value),
            b"\"queue\"" => self.asking.queue = Some(value),
            b"\"ttl_s\"" => self.asking.ttl_s = Some(value),
            b"\"hops\"" => self.asking.hops = Some(value),
            b"\"sender\"" | b"\"via\"" | b"\"seq\"" | b"\"delivery\"" => {
                self.has_keys_of_the_bus = true;
            }
            _ => {}
        }
    }

    /// A key that is written with escapes is looked at by its value.
    #[cold]
    fn remember_escaped(&mut self, key: Raw<'a>, value: Raw<'a>) {
        match key.text().as_deref() {
            Ok("type") => self.kind = Kind::of(value),
            Ok("to") => self.to = Some(value),
            Ok("from") => self.from = Some(value),
            Ok("id") => self.id = Some(value),
            Ok("ts") => self.ts = Some(value),
            Ok("endpoint") => self.endpoint = Some(value),
            Ok("protocol") => self.protocol = Some(value),
            Ok("receipt") => self.asking.receipt = Some(value),
            Ok("queue") => self.asking.queue = Some(value),
            Ok("ttl_s") => self.asking.ttl_s = Some(value),
            Ok("hops") => self.asking.hops = Some(value),
            Ok(key) if KEYS_OF_THE_BUS.contains(&key) => self.has_keys_of_the_bus = true,
            _ => {}
        }
    }

    /// The value of any other member. This reads the payload once more: for what is rarely asked for.
    #[cold]
    pub fn member(&self, key: &str) -> Option<Raw<'a>> {
        let [value] = self.members([key]);
        value
    }

    /// The values of several other members, in the order of their keys. This reads the payload once
    /// more.
    pub fn members<const N: usize>(&self, keys: [&str; N]) -> [Option<Raw<'a>>; N] {
        let mut found = [None; N];
        let mut walker = Walker::at_object(self.payload).expect("it was scanned before");
        let walked = walker.members(|name, value| {
            if let Some(place) = keys.iter().position(|key| Raw(name.quoted).is_text(key)) {
                found[place] = Some(Raw(value));
            }
        });
        debug_assert!(walked.is_ok(), "it was scanned before");
        found
    }

    /// The object without the members that only the bus may give to a level 2 session, up to its
    /// closing brace, which is left out: what is added to it comes behind. Every other byte stays.
    #[cold]
    pub fn without_keys_of_the_bus(&self) -> Vec<u8> {
        let place = |part: &[u8]| part.as_ptr() as usize - self.payload.as_ptr() as usize;
        let mut kept: Vec<u8> = Vec::with_capacity(self.payload.len());
        // Where what stands before a member begins.
        let mut gap_from = 0;
        let mut has_kept_none = true;
        let mut walker = Walker::at_object(self.payload).expect("it was scanned before");
        let walked = walker.members(|key, value| {
            let key = key.quoted;
            let is_of_the_bus = KEYS_OF_THE_BUS.iter().any(|name| Raw(key).is_text(name));
            let value_end = place(value) + value.len();
            if gap_from == 0 {
                // Up to the opening brace and the white space behind it.
                kept.extend_from_slice(&self.payload[..place(key)]);
            }
            if !is_of_the_bus {
                let from = if core::mem::take(&mut has_kept_none) { place(key) } else { gap_from };
                kept.extend_from_slice(&self.payload[from..value_end]);
            }
            gap_from = value_end;
        });
        debug_assert!(walked.is_ok(), "it was scanned before");
        kept.extend_from_slice(&self.payload[gap_from..self.closing_brace_at]);
        kept
    }

    /// Where the object's closing brace stands in the payload: the place for an [`Insertion`].
    #[inline]
    pub fn closing_brace_at(&self) -> usize {
        self.closing_brace_at
    }

    /// The whole payload as it came.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// What only the bus may say to a level 2 session about a message.
const KEYS_OF_THE_BUS: [&str; 4] = ["sender", "via", "seq", "delivery"];

impl Kind {
    #[inline]
    fn of(value: Raw<'_>) -> Kind {
        // The rule.
        if value.0 == b"\"message\"" { Kind::Message } else { Kind::named(value) }
    }

    fn named(value: Raw<'_>) -> Kind {
        match value.text().as_deref() {
            Ok("message") => Kind::Message,
            Ok("ping") => Kind::Ping,
            Ok("ack") => Kind::Ack,
            Ok("register") => Kind::Register,
            Ok("list_endpoints") => Kind::ListEndpoints,
            Ok("admin") => Kind::Admin,
            Ok("nack") => Kind::Nack,
            Ok("subscribe") => Kind::Subscribe,
            Ok("unsubscribe") => Kind::Unsubscribe,
            Ok("watch") => Kind::Watch,
            Ok("trace") => Kind::Trace,
            _ => Kind::Unknown,
        }
    }
}

/// The fields that the bus adds to a message, as bytes to put before its closing brace. Always in
/// the order `id`, `ts`, `from`. Only for objects that have a member already, as every message does
/// (its `type`).
pub struct Insertion<'b> {
    bytes: &'b mut Vec<u8>,
}

impl<'b> Insertion<'b> {
    /// Starts an insertion in a buffer, whose old content is dropped.
    #[inline]
    pub fn start(bytes: &'b mut Vec<u8>) -> Self {
        bytes.clear();
        Insertion { bytes }
    }

    /// Adds `id`, a UUID.
    #[inline]
    pub fn id(&mut self, id: &str) {
        self.bytes.extend_from_slice(b", \"id\": \"");
        self.bytes.extend_from_slice(id.as_bytes());
        self.bytes.push(b'"');
    }

    /// Adds `ts`, from microseconds of Unix time.
    #[inline]
    pub fn ts(&mut self, unix_us: u64) {
        let (seconds, fraction) = (unix_us / 1_000_000, unix_us % 1_000_000);
        let ts = format_args!(", \"ts\": {seconds}.{fraction:06}");
        Appending(self.bytes).write_fmt(ts).expect("a Vec takes every write");
    }

    /// Adds `from`, a name as a JSON string, unless the insertion would be more than `room` bytes
    /// with it.
    #[inline]
    pub fn from_within(&mut self, room: usize, name_json: &str) {
        const KEY: &[u8] = b", \"from\": ";
        if self.bytes.len() + KEY.len() + name_json.len() <= room {
            self.bytes.extend_from_slice(KEY);
            self.bytes.extend_from_slice(name_json.as_bytes());
        }
    }
}

/// Formatted text behind bytes. A `Vec` does that itself only where there is I/O.
struct Appending<'b>(&'b mut Vec<u8>);

impl Write for Appending<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}
