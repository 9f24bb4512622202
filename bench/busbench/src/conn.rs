//! A client's connection in one of the protocols: what it says to begin with, and how it finds messages in what it reads.
//!
//! A message that is larger than the buffer is counted and its bytes are let go of, for every broker alike.
use crate::sock::Sock;
use std::io::{self, Read, Write};

#[derive(Clone, Copy, PartialEq)]
pub enum Proto {
    Hermes,
    Nats,
    Redis,
    Mqtt,
}

const BUFFER_BYTES: usize = 1 << 18;
const NATS_CONNECT: &str = "CONNECT {\"verbose\":false,\"pedantic\":false,\"tls_required\":false,\"name\":\"b\",\"lang\":\"r\",\"version\":\"1\",\"protocol\":1,\"echo\":true}\r\n";
/// MQTT 3.1.1, a clean session, no limit on silence, no client name.
const MQTT_CONNECT: &[u8] = b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0";

pub struct Conn {
    pub proto: Proto,
    pub s: Sock,
    pub buf: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes of a large message that are still to come and not to be kept, and its length.
    skip: usize,
    skipped: usize,
    /// Bytes of the protocol behind the last message that was taken.
    trailer: usize,
    /// A subscriber that also publishes: answers to that are no messages.
    passes_integers: bool,
}

impl Conn {
    fn raw(proto: Proto, address: &str) -> io::Result<Conn> {
        let s = Sock::open(address)?;
        Ok(Conn { proto, s, buf: vec![0; BUFFER_BYTES], start: 0, end: 0, skip: 0, skipped: 0, trailer: 0, passes_integers: false })
    }

    /// Receives what is addressed to `name` or to all.
    pub fn named(proto: Proto, address: &str, name: &str) -> io::Result<Conn> {
        let mut conn = Conn::raw(proto, address)?;
        if proto == Proto::Hermes {
            conn.register(&format!("{{\"type\":\"register\",\"endpoint\":\"{name}\"}}"))?;
        } else {
            conn.hello()?;
            conn.subscribe(&[name, "all"])?;
        }
        Ok(conn)
    }

    /// Receives what is addressed to `name` or to all, registered with level 2, which only hermes has.
    pub fn level_2(proto: Proto, address: &str, name: &str) -> io::Result<Conn> {
        if proto != Proto::Hermes {
            return Conn::named(proto, address, name);
        }
        let mut conn = Conn::raw(proto, address)?;
        conn.register(&format!("{{\"type\":\"register\",\"endpoint\":\"{name}\",\"protocol\":2}}"))?;
        Ok(conn)
    }

    /// Receives what is addressed to `topic`.
    pub fn subscribed(proto: Proto, address: &str, name: &str, topic: &str) -> io::Result<Conn> {
        let mut conn = Conn::raw(proto, address)?;
        if proto == Proto::Hermes {
            conn.register(&format!("{{\"type\":\"register\",\"endpoint\":\"{name}\",\"protocol\":2,\"topics\":[\"{topic}\"]}}"))?;
        } else {
            conn.hello()?;
            conn.subscribe(&[topic])?;
        }
        Ok(conn)
    }

    /// Only sends. Redis is told not to answer.
    pub fn anon(proto: Proto, address: &str) -> io::Result<Conn> {
        let mut conn = Conn::raw(proto, address)?;
        conn.hello()?;
        Ok(conn)
    }

    /// As `anon`, with no answers where there would be one for each message.
    pub fn publisher(proto: Proto, address: &str) -> io::Result<Conn> {
        let mut conn = Conn::anon(proto, address)?;
        if proto == Proto::Redis {
            conn.s.write_all(b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$3\r\nOFF\r\n")?;
        }
        Ok(conn)
    }

    /// A connection that sends one message and waits until the broker has said that it has it.
    pub fn one_shot(proto: Proto, address: &str, message: &[u8], confirmation: &[u8]) -> io::Result<()> {
        let mut conn = Conn::raw(proto, address)?;
        let mut out = Vec::with_capacity(message.len() + 256);
        match proto {
            Proto::Nats => {
                conn.line()?;
                out.extend(NATS_CONNECT.as_bytes());
            }
            Proto::Mqtt => out.extend(MQTT_CONNECT),
            Proto::Hermes | Proto::Redis => (),
        }
        out.extend(message);
        out.extend(confirmation);
        conn.s.write_all(&out)?;
        match proto {
            Proto::Hermes | Proto::Redis => drop(conn.next()?),
            Proto::Nats => conn.nats_until_pong()?,
            Proto::Mqtt => {
                conn.mqtt_packet()?;
                conn.mqtt_packet()?;
            }
        }
        Ok(())
    }

    fn register(&mut self, frame: &str) -> io::Result<()> {
        self.s.write_all(&(frame.len() as u32).to_be_bytes())?;
        self.s.write_all(frame.as_bytes())?;
        let length = self.next()?;
        let answer = self.taken(length);
        if memchr::memmem::find(answer, b"\"registered\"").is_none() {
            return Err(io::Error::other(String::from_utf8_lossy(answer).into_owned()));
        }
        Ok(())
    }

    /// What each protocol wants to be said first.
    fn hello(&mut self) -> io::Result<()> {
        match self.proto {
            Proto::Nats => {
                self.line()?; // INFO
                self.s.write_all(NATS_CONNECT.as_bytes())?;
                self.s.write_all(b"PING\r\n")?;
                self.nats_until_pong()
            }
            Proto::Mqtt => {
                self.s.write_all(MQTT_CONNECT)?;
                self.mqtt_packet()
            }
            Proto::Hermes | Proto::Redis => Ok(()),
        }
    }

    fn subscribe(&mut self, names: &[&str]) -> io::Result<()> {
        match self.proto {
            Proto::Nats => {
                let words: String = names.iter().enumerate().map(|(number, name)| format!("SUB {name} {}\r\n", number + 1)).collect();
                self.s.write_all(format!("{words}PING\r\n").as_bytes())?;
                self.nats_until_pong()
            }
            Proto::Redis => {
                // RESP3, in which a subscriber may publish.
                self.s.write_all(b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n")?;
                self.next()?;
                let words: String = names.iter().map(|name| format!("${}\r\n{name}\r\n", name.len())).collect();
                self.s.write_all(format!("*{}\r\n$9\r\nSUBSCRIBE\r\n{words}", names.len() + 1).as_bytes())?;
                for _ in names {
                    self.next()?;
                }
                self.passes_integers = true;
                Ok(())
            }
            Proto::Mqtt => {
                let mut filters = vec![0, 1]; // the packet's number
                for name in names {
                    let filter = name.replace('.', "/");
                    filters.extend((filter.len() as u16).to_be_bytes());
                    filters.extend(filter.as_bytes());
                    filters.push(0); // QoS 0
                }
                let mut packet = vec![0x82];
                crate::message::mqtt_length(&mut packet, filters.len());
                packet.extend(filters);
                self.s.write_all(&packet)?;
                self.mqtt_packet()
            }
            Proto::Hermes => Ok(()),
        }
    }

    fn nats_until_pong(&mut self) -> io::Result<()> {
        loop {
            let line = self.line()?;
            if line.starts_with("PONG") {
                return Ok(());
            }
            if line.starts_with("-ERR") {
                return Err(io::Error::other(line));
            }
        }
    }

    /// Reads over one packet that is no message: an acknowledgement.
    fn mqtt_packet(&mut self) -> io::Result<()> {
        loop {
            if let Some((header, length)) = mqtt_header(&self.buf[self.start..self.end]) {
                if self.end - self.start >= header + length {
                    self.start += header + length;
                    return Ok(());
                }
            }
            self.fill()?;
        }
    }

    /// Reads what there is, at least one byte.
    pub fn fill(&mut self) -> io::Result<()> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
        if self.end == self.buf.len() {
            if self.start > 0 {
                self.buf.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            } else {
                let length = self.buf.len().max(4096);
                self.buf.resize(length * 2, 0);
            }
        }
        let count = self.s.read(&mut self.buf[self.end..])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.end += count;
        let passed = self.skip.min(count);
        self.skip -= passed;
        self.start += passed;
        Ok(())
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(length) = memchr::memchr(b'\n', &self.buf[self.start..self.end]) {
                let line = String::from_utf8_lossy(&self.buf[self.start..self.start + length + 1]).into_owned();
                self.start += length + 1;
                return Ok(line);
            }
            self.fill()?;
        }
    }

    /// Takes one whole message out of what has been read: the length of its payload (redis: of the whole value), or None
    /// if there is none yet.
    pub fn take(&mut self) -> io::Result<Option<usize>> {
        if self.skipped > 0 {
            return Ok((self.skip == 0).then(|| std::mem::take(&mut self.skipped)));
        }
        loop {
            let bytes = &self.buf[self.start..self.end];
            let found = match self.proto {
                Proto::Hermes => {
                    bytes.first_chunk().map(|header| Found::message(4, u32::from_be_bytes(*header) as usize, 0))
                }
                Proto::Nats => nats(bytes)?,
                Proto::Redis => redis(bytes, self.passes_integers),
                Proto::Mqtt => mqtt(bytes)?,
            };
            let Some(Found { total, payload, trailer, answer }) = found else { return Ok(None) };
            if total > bytes.len() {
                if total > BUFFER_BYTES.max(self.buf.len()) {
                    self.skip = total - bytes.len();
                    self.skipped = payload.unwrap_or(1);
                    self.start = self.end;
                }
                return Ok(None);
            }
            self.start += total;
            self.trailer = trailer;
            if let Some(answer) = answer {
                self.s.write_all(answer)?;
            }
            if payload.is_some() {
                return Ok(payload);
            }
        }
    }

    pub fn next(&mut self) -> io::Result<usize> {
        loop {
            if let Some(length) = self.take()? {
                return Ok(length);
            }
            self.fill()?;
        }
    }

    /// What `take` has taken last, if it was not larger than the buffer.
    pub fn taken(&self, length: usize) -> &[u8] {
        let end = self.start - self.trailer;
        &self.buf[end.saturating_sub(length)..end]
    }
}

/// What stands at the beginning of what was read.
struct Found {
    total: usize,
    /// None for what is no message.
    payload: Option<usize>,
    trailer: usize,
    answer: Option<&'static [u8]>,
}

impl Found {
    fn message(header: usize, payload: usize, trailer: usize) -> Found {
        Found { total: header + payload + trailer, payload: Some(payload), trailer, answer: None }
    }
    fn other(total: usize) -> Found {
        Found { total, payload: None, trailer: 0, answer: None }
    }
}

fn nats(bytes: &[u8]) -> io::Result<Option<Found>> {
    let Some(end) = memchr::memchr(b'\n', bytes) else { return Ok(None) };
    let line = &bytes[..end + 1];
    if line.starts_with(b"MSG") {
        let digits = line[..end - 1].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        return Ok(Some(Found::message(end + 1, number(&line[end - 1 - digits..end - 1]), 2)));
    }
    if line.starts_with(b"-ERR") {
        return Err(io::Error::other(String::from_utf8_lossy(line).into_owned()));
    }
    let answer = line.starts_with(b"PING").then_some(&b"PONG\r\n"[..]);
    Ok(Some(Found { answer, ..Found::other(end + 1) }))
}

fn redis(bytes: &[u8], passes_integers: bool) -> Option<Found> {
    let total = resp(bytes)?;
    match bytes[0] {
        b':' if passes_integers => Some(Found::other(total)),
        _ => Some(Found::message(0, total, 0)),
    }
}

/// Length of one value of RESP at the start of `bytes`, of which the last part need not have come.
fn resp(bytes: &[u8]) -> Option<usize> {
    let end = memchr::memchr(b'\n', bytes)? + 1;
    let count = number(&bytes[1..end - 2]);
    match bytes[0] {
        b'*' | b'>' | b'%' => {
            let values = if bytes[0] == b'%' { 2 * count } else { count };
            let mut at = end;
            for _ in 0..values {
                at += resp(bytes.get(at..)?)?;
            }
            Some(at)
        }
        b'$' => Some(end + count + 2),
        _ => Some(end),
    }
}

fn number(digits: &[u8]) -> usize {
    digits.iter().filter(|byte| byte.is_ascii_digit()).fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
}

/// The length of a packet's header, and of what follows it.
fn mqtt_header(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (index, byte) in bytes.iter().enumerate().skip(1).take(4) {
        length |= usize::from(byte & 127) << (7 * (index - 1));
        if byte & 128 == 0 {
            return Some((index + 1, length));
        }
    }
    None
}

fn mqtt(bytes: &[u8]) -> io::Result<Option<Found>> {
    let Some((header, length)) = mqtt_header(bytes) else { return Ok(None) };
    if bytes[0] & 0xf0 != 0x30 {
        return Ok(Some(Found::other(header + length)));
    }
    let Some(topic) = bytes.get(header..header + 2) else { return Ok(None) };
    let topic = 2 + usize::from(u16::from_be_bytes([topic[0], topic[1]]));
    Ok(Some(Found::message(header + topic, length - topic, 0)))
}
