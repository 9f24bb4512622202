//! The steady state of routing allocates nothing: not for finding a message among the bytes that were read, not for routing it,
//! not for writing it out. An allocator that counts says so.
//!
//! What stays is memory that grew while the first messages went through: queues, lists, the trace's ring. A test that fails
//! here says how many allocations there were for how many messages; `valgrind --tool=dhat` on this file says where.

use allocation_counter::measure;
use hermes_bus_core::{
    Config, Credentials, Moment, Next, Now, Payload, Probed, Router, SessionKey,
};
use hermes_bus_proto::frame::{self, Decoded};

/// Until everything has grown that grows; the trace remembers 16,384 messages.
const WARM_UP_MESSAGES: usize = 40_000;
const MEASURED_MESSAGES: usize = 10_000;

/// A router with one sender and some receivers, and a driver that keeps nothing.
struct Bus {
    router: Router,
    now_us: u64,
    sender: SessionKey,
    delivered_bytes: usize,
}

impl Bus {
    /// `registrations`: the frames with which the receivers take their names.
    fn new(registrations: &[&str]) -> Self {
        let mut router = Router::new(Config { owner_uid: 1000, ..Config::default() }, 42);
        let now = Now { moment: Moment::from_micros(0), unix_us: 1_716_307_200_123_456 };
        router.begin_turn(now);
        let mut connect = || router.connected(Credentials { uid: 1000, pid: 7 });
        let sender = connect();
        let receivers: Vec<SessionKey> = registrations.iter().map(|_| connect()).collect();
        let mut bus = Bus { router, now_us: 0, sender, delivered_bytes: 0 };
        bus.turn(sender, &framed(r#"{"type":"register","endpoint":"sender"}"#));
        for (key, registration) in receivers.into_iter().zip(registrations) {
            bus.turn(key, &framed(registration));
        }
        bus
    }

    /// Everything that happens between two waits for readiness: what was read is routed, what was queued is written.
    fn turn(&mut self, from: SessionKey, read: &[u8]) {
        self.now_us += 10;
        let moment = Moment::from_micros(self.now_us);
        self.router.begin_turn(Now { moment, unix_us: 1_716_307_200_123_456 + self.now_us });
        let mut rest = read;
        while let Decoded::Frame { payload, frame_bytes } = frame::decode(rest) {
            let next = self.router.frame(from, Payload::Borrowed(payload), Probed::No);
            assert_eq!(next, Next::Taken);
            rest = &rest[frame_bytes..];
        }
        assert!(rest.is_empty(), "whole frames");
        self.write(moment);
        drop(self.router.take_effects());
        assert!(self.router.receipts_due().is_empty());
        self.router.end_turn();
        self.write(moment);
    }

    fn write(&mut self, at: Moment) {
        let dirty = self.router.take_dirty();
        for key in &dirty {
            loop {
                let bytes = self.router.next_write(*key).map(<[u8]>::len).sum();
                if bytes == 0 {
                    break;
                }
                self.router.written(*key, bytes, at);
                self.delivered_bytes += bytes;
            }
        }
        self.router.recycle_dirty(dirty);
    }

    /// Allocations while `MEASURED_MESSAGES` go through, `in_a_turn` at a time.
    fn allocations(&mut self, message: &str, in_a_turn: usize) -> u64 {
        let read = framed(message).repeat(in_a_turn);
        for _ in 0..WARM_UP_MESSAGES / in_a_turn {
            self.turn(self.sender, &read);
        }
        let before = self.delivered_bytes;
        let measured = measure(|| {
            for _ in 0..MEASURED_MESSAGES / in_a_turn {
                self.turn(self.sender, &read);
            }
        });
        let least = MEASURED_MESSAGES * message.len();
        assert!(self.delivered_bytes - before >= least, "the messages have not gone through");
        measured.count_total
    }
}

fn framed(payload: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    frame::append(&mut frame, |out| out.extend_from_slice(payload.as_bytes()));
    frame
}

const RECEIVER: &str = r#"{"type":"register","endpoint":"r"}"#;
const WHOLE: &str = r#"{"type":"message","to":"r","from":"sender","id":"0d9b3c1e","ts":1716307200.1,"body":{"text":"a hundred bytes or so of text, as agents write them to each other all day long"}}"#;
const BARE: &str = r#"{"type":"message","to":"r","body":"to which the bus adds id, ts and from"}"#;

#[test]
fn a_message_alone_allocates_nothing() {
    let mut bus = Bus::new(&[RECEIVER]);
    assert_eq!(bus.allocations(WHOLE, 1), 0);
    assert_eq!(bus.allocations(BARE, 1), 0);
}

#[test]
fn messages_in_a_batch_allocate_nothing() {
    let mut bus = Bus::new(&[RECEIVER]);
    assert_eq!(bus.allocations(WHOLE, 200), 0);
    assert_eq!(bus.allocations(BARE, 200), 0);
}

#[test]
fn a_broadcast_allocates_nothing() {
    let mut bus = Bus::new(&[RECEIVER, r#"{"type":"register","endpoint":"q"}"#]);
    assert_eq!(bus.allocations(&WHOLE.replace(r#""to":"r""#, r#""to":"""#), 20), 0);
}

/// What a message says to level 2 (`sender`, `via`) is written anew for each, and goes with it through the queue. These are
/// the numbers as they were counted, for one receiver; fewer are welcome here.
#[test]
fn a_message_to_level_2_allocates_a_few_times() {
    for (what, registration, to, most) in [
        ("an endpoint", r#"{"type":"register","endpoint":"r","protocol":2}"#, "r", 2),
        ("a group", r#"{"type":"register","endpoint":"r","protocol":2,"groups":["g"]}"#, "@g", 5),
        (
            "a topic",
            r#"{"type":"register","endpoint":"r","protocol":2,"topics":["n.>"]}"#,
            "#n.x",
            5,
        ),
    ] {
        let mut bus = Bus::new(&[registration]);
        let message = WHOLE.replace(r#""to":"r""#, &format!(r#""to":"{to}""#));
        let found = bus.allocations(&message, 20);
        assert!(found <= most * MEASURED_MESSAGES as u64, "{what}: {found} allocations");
    }
}
