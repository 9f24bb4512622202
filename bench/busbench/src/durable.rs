//! Messages that are to survive: every one is answered when the server says that it is kept.
//!
//! `durable`: `c` senders with `out` unanswered messages each, from one thread, to the name `to`.
//!   hermes: level 2 with `receipt: stored` to an endpoint with a mailbox that is away.
//!   nats:   JetStream publishes with a reply subject, to a stream on files that is made first.
//!   redis:  XADD, pipelined.
//! `drain`: empties the mailbox `to` of `n` messages through one receiver that acknowledges (hermes only).
use crate::conn::{Conn, Proto};
use crate::message::json;
use crate::{arguments, sock, Job};
use hdrhistogram::Histogram;
use std::collections::VecDeque;
use std::io::Write;
use std::time::Instant;

impl Conn {
    fn next_text(&mut self) -> String {
        let length = self.next().unwrap();
        String::from_utf8_lossy(self.taken(length)).into_owned()
    }
    fn hermes_frame(&mut self, frame: &str) {
        self.s.write_all(&(frame.len() as u32).to_be_bytes()).unwrap();
        self.s.write_all(frame.as_bytes()).unwrap();
    }
    fn hermes_register(&mut self, name: &str, options: &str) {
        self.hermes_frame(&format!(
            "{{\"type\":\"register\",\"endpoint\":\"{name}\",\"protocol\":2{options}}}"
        ));
        let answer = self.next_text();
        assert!(answer.contains("registered"), "{answer}");
    }
}

/// One sender: its connection, and when each unanswered message was written.
struct Sender {
    conn: Conn,
    waiting: VecDeque<Instant>,
    sent: u64,
    inbox: String,
}

impl Sender {
    fn open(proto: Proto, addr: &str, number: u64, to: &str) -> Sender {
        let mut conn = Conn::anon(proto, addr).unwrap();
        let tag = std::process::id();
        let inbox = format!("_INBOX.{tag}.{number}");
        match proto {
            Proto::Hermes => conn.hermes_register(&format!("sender{number}x{tag}"), ""),
            Proto::Nats => {
                conn.s.write_all(format!("SUB {inbox} 1\r\n").as_bytes()).unwrap();
            }
            Proto::Redis => (),
            Proto::Mqtt => crate::stop("mqtt has no durable workload here"),
        }
        if number == 0 {
            conn.prepare(addr, to, &inbox);
        }
        Sender { conn, waiting: VecDeque::new(), sent: 0, inbox }
    }
    fn put(&self, out: &mut Vec<u8>, to: &str, text: &str, id: u64) {
        let message = json(to, "s", text, id);
        match self.conn.proto {
            Proto::Hermes => {
                let receipt = b",\"receipt\":\"stored\"}";
                out.extend(((message.len() - 1 + receipt.len()) as u32).to_be_bytes());
                out.extend(&message[..message.len() - 1]);
                out.extend(receipt);
            }
            Proto::Nats => {
                out.extend(format!("PUB {to} {} {}\r\n", self.inbox, message.len()).as_bytes());
                out.extend(&message);
                out.extend(b"\r\n");
            }
            Proto::Redis => {
                let head = format!(
                    "*5\r\n$4\r\nXADD\r\n${}\r\n{to}\r\n$1\r\n*\r\n$1\r\nm\r\n${}\r\n",
                    to.len(),
                    message.len()
                );
                out.extend(head.as_bytes());
                out.extend(&message);
                out.extend(b"\r\n");
            }
            Proto::Mqtt => (),
        }
    }
    /// Takes the answers that have come; a refusal ends the measurement.
    fn hear(&mut self, latency: &mut Histogram<u64>) -> u64 {
        let mut heard = 0;
        while let Some(length) = self.conn.take().unwrap() {
            let answer = self.conn.taken(length);
            let kept = match self.conn.proto {
                Proto::Hermes => {
                    contains(answer, b"\"receipt\"") && contains(answer, b"\"stored\"")
                }
                Proto::Nats => contains(answer, b"\"seq\"") && !contains(answer, b"\"error\""),
                Proto::Redis => answer[0] == b'$',
                Proto::Mqtt => false,
            };
            assert!(kept, "refused: {}", String::from_utf8_lossy(answer));
            let written = self.waiting.pop_front().expect("an answer to something");
            latency.record(written.elapsed().as_nanos() as u64).unwrap();
            heard += 1;
        }
        heard
    }
}

impl Conn {
    /// Makes the place where the messages are kept.
    fn prepare(&mut self, addr: &str, to: &str, inbox: &str) {
        match self.proto {
            Proto::Hermes => {
                let mut owner = Conn::anon(Proto::Hermes, addr).unwrap();
                owner.hermes_register(to, ",\"mailbox\":true,\"ack\":true");
            }
            Proto::Nats => {
                let stream = format!("{{\"name\":\"{to}\",\"subjects\":[\"{to}\"],\"storage\":\"file\",\"retention\":\"limits\",\"num_replicas\":1}}");
                let request = format!(
                    "PUB $JS.API.STREAM.CREATE.{to} {inbox} {}\r\n{stream}\r\n",
                    stream.len()
                );
                self.s.write_all(request.as_bytes()).unwrap();
                let answer = self.next_text();
                assert!(!answer.contains("\"error\""), "{answer}");
            }
            Proto::Redis | Proto::Mqtt => (),
        }
    }
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

/// Sends `n` messages, shared evenly; prints the rate and how long an answer took.
pub fn send(job: &Job) {
    let (senders, out): (u64, usize) = (arguments::value("c", 1), arguments::value("out", 256));
    let to = arguments::text("to").unwrap_or_else(|| "box".to_string());
    let Job { proto, address, n, text } = job;
    let mut all: Vec<Sender> =
        (0..senders).map(|number| Sender::open(*proto, address, number, &to)).collect();
    let mut polled: Vec<libc::pollfd> = all.iter().map(|s| s.conn.s.readable()).collect();
    let share = *n / senders;
    let total = share * senders;
    let mut latency = Histogram::<u64>::new_with_bounds(1, 600_000_000_000, 3).unwrap();
    let mut bytes = Vec::with_capacity(1 << 18);
    let (mut heard, mut id) = (0, u64::from(std::process::id()) << 32);
    let began = Instant::now();
    while heard < total {
        for sender in &mut all {
            bytes.clear();
            let now = Instant::now();
            while sender.sent < share && sender.waiting.len() < out {
                sender.put(&mut bytes, &to, text, id);
                sender.waiting.push_back(now);
                sender.sent += 1;
                id += 1;
            }
            if !bytes.is_empty() {
                sender.conn.s.write_all(&bytes).unwrap();
            }
        }
        assert!(sock::poll(&mut polled, 30_000) > 0, "no answer for 30 s after {heard} of {total}");
        for (sender, polled) in all.iter_mut().zip(&mut polled) {
            if polled.revents != 0 {
                sender.conn.fill().unwrap();
                heard += sender.hear(&mut latency);
            }
        }
    }
    let took = began.elapsed().as_secs_f64();
    let quantile = |q| latency.value_at_quantile(q) as f64 / 1e3;
    println!(
        "durable per_s={:.0} p50_us={:.0} p99_us={:.0} max_us={:.0} n={total} seconds={took:.3}",
        total as f64 / took,
        quantile(0.5),
        quantile(0.99),
        quantile(1.0)
    );
}

/// Receives and acknowledges `n` messages of a mailbox, which must come in order and each once.
pub fn drain(job: &Job) {
    let n = job.n;
    let in_flight: u64 = arguments::value("in_flight", 4096);
    let to = arguments::text("to").unwrap_or_else(|| "box".to_string());
    let mut conn = Conn::anon(Proto::Hermes, &job.address).unwrap();
    let began = Instant::now();
    conn.hermes_register(&to, &format!(",\"mailbox\":true,\"ack\":true,\"in_flight\":{in_flight}"));
    let (mut got, mut last, mut acked, mut first) = (0, 0, 0, None);
    let batch = (in_flight / 4).max(1);
    while got < n {
        while let Some(length) = conn.take().unwrap() {
            let frame = conn.taken(length);
            let seq = seq_of(frame).unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(frame)));
            assert!(seq > last, "seq {seq} after {last}");
            first.get_or_insert_with(Instant::now);
            last = seq;
            got += 1;
            if got - acked >= batch || got == n {
                acked = got;
                conn.hermes_frame(&format!("{{\"type\":\"ack\",\"up_to\":{last}}}"));
            }
        }
        if got < n {
            if got > acked {
                // Nothing more is here: it may be waiting for the acknowledgement.
                acked = got;
                conn.hermes_frame(&format!("{{\"type\":\"ack\",\"up_to\":{last}}}"));
            }
            conn.fill().unwrap();
        }
    }
    conn.hermes_frame("{\"type\":\"ping\"}");
    assert!(conn.next_text().contains("pong"), "more than {n} messages");
    let took = began.elapsed();
    println!(
        "drain per_s={:.0} first_ms={:.1} n={n} seconds={:.3}",
        n as f64 / took.as_secs_f64(),
        first.map_or(0.0, |first| (first - began).as_secs_f64() * 1e3),
        took.as_secs_f64()
    );
}

/// `seq` is among what the bus puts behind everything else.
fn seq_of(frame: &[u8]) -> Option<u64> {
    let tail = &frame[frame.len().saturating_sub(400)..];
    let key = b"\"seq\":";
    let at = tail.windows(key.len()).rposition(|window| window == key)? + key.len();
    let digits = tail[at..].iter().skip_while(|byte| **byte == b' ');
    let digits: String =
        digits.take_while(|byte| byte.is_ascii_digit()).map(|b| char::from(*b)).collect();
    digits.parse().ok()
}
