//! The messages: the same JSON in every protocol, hermes as its frame, the others as their payload.
use crate::conn::Proto;

/// Bytes that one write takes at most, if a message is not larger.
const BATCH_BYTES: usize = 64 * 1024;
const ID_KEY: &[u8] = b"\"id\":\"";
const ID_DIGITS: usize = 32;

pub fn json(to: &str, from: &str, text: &str, id: u64) -> Vec<u8> {
    format!("{{\"type\":\"message\",\"to\":\"{to}\",\"from\":\"{from}\",\"id\":\"{id:032x}\",\"ts\":1716307200.123,\"body\":{{\"text\":\"{text}\",\"type\":\"progress\"}}}}").into_bytes()
}

/// Appends one message as `proto` writes it. `to` is a name, or `all`, or a topic (`#bench.news`).
pub fn put(proto: Proto, out: &mut Vec<u8>, to: &str, from: &str, text: &str, id: u64) {
    let addressee = if to == "all" { "" } else { to };
    let payload = json(addressee, from, text, id);
    let subject = to.trim_start_matches('#');
    match proto {
        Proto::Hermes => {
            out.extend((payload.len() as u32).to_be_bytes());
            out.extend(&payload);
        }
        Proto::Nats => {
            out.extend(format!("PUB {subject} {}\r\n", payload.len()).as_bytes());
            out.extend(&payload);
            out.extend(b"\r\n");
        }
        Proto::Redis => {
            let (named, length) = (subject.len(), payload.len());
            out.extend(format!("*3\r\n$7\r\nPUBLISH\r\n${named}\r\n{subject}\r\n${length}\r\n").as_bytes());
            out.extend(&payload);
            out.extend(b"\r\n");
        }
        Proto::Mqtt => {
            let topic = subject.replace('.', "/");
            out.push(0x30); // PUBLISH, QoS 0
            mqtt_length(out, 2 + topic.len() + payload.len());
            out.extend((topic.len() as u16).to_be_bytes());
            out.extend(topic.as_bytes());
            out.extend(&payload);
        }
    }
}

/// The length of what follows, seven bits in each byte.
pub fn mqtt_length(out: &mut Vec<u8>, mut length: usize) {
    while length >= 128 {
        out.push((length % 128) as u8 | 128);
        length /= 128;
    }
    out.push(length as u8);
}

/// Messages that lie one behind the other and differ in their ids only, so that making them costs next to nothing.
pub struct Batch {
    bytes: Vec<u8>,
    stride: usize,
    id_at: usize,
}

impl Batch {
    pub fn new(proto: Proto, to: &str, from: &str, text: &str) -> Batch {
        let mut one = Vec::new();
        put(proto, &mut one, to, from, text, 0);
        let stride = one.len();
        let id_at = memchr::memmem::find(&one, ID_KEY).expect("a message has an id") + ID_KEY.len();
        Batch { bytes: one.repeat((BATCH_BYTES / stride).max(1)), stride, id_at }
    }

    /// How many messages there are at most.
    pub fn room(&self) -> u64 {
        (self.bytes.len() / self.stride) as u64
    }

    /// `count` messages, numbered from `first` on.
    pub fn messages(&mut self, first: u64, count: u64) -> &[u8] {
        for index in 0..count {
            let end = index as usize * self.stride + self.id_at + ID_DIGITS;
            write_hex(&mut self.bytes[end - 16..end], first + index);
        }
        &self.bytes[..count as usize * self.stride]
    }
}

fn write_hex(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
        if number == 0 {
            // Numbers only grow, so what stands in front of a shorter one is 0 already.
            break;
        }
    }
}

/// The number of a message that has come, wherever its id stands and however it is spaced.
pub fn number_of(message: &[u8]) -> Option<u64> {
    let at = memchr::memmem::find(message, b"\"id\":")? + 5;
    let digits = message[at..].iter().skip_while(|byte| matches!(byte, b' ' | b'"')).take(ID_DIGITS);
    digits.copied().try_fold(0u64, |number, digit| Some(number << 4 | u64::from(char::from(digit).to_digit(16)?)))
}
