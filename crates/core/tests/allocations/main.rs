//! The steady state of routing allocates nothing: not for finding a message among the bytes that were read, not for routing
//! it, not for writing it out. An allocator that counts says so.
//!
//! What stays is memory that grew while the first messages went through: queues, lists, the trace's ring. A test that fails
//! here says how many allocations there were for how many messages. Where they are, a profiler of the heap shows:
//! `valgrind --tool=dhat target/debug/deps/allocations-…`.

mod bus;

use allocation_counter::measure;

use crate::bus::{Bus, framed};

/// Until everything has grown that grows; the trace remembers 16,384 messages.
const WARM_UP_MESSAGES: usize = 40_000;
const MEASURED_MESSAGES: usize = 10_000;

const RECEIVER: &str = r#"{"type":"register","endpoint":"r"}"#;
const WHOLE: &str = r#"{"type":"message","to":"r","from":"sender","id":"0d9b3c1e","ts":1716307200.1,"body":{"text":"a hundred bytes or so of text, as agents write them to each other all day long"}}"#;
const BARE: &str = r#"{"type":"message","to":"r","body":"to which the bus adds id, ts and from"}"#;

/// Allocations while `MEASURED_MESSAGES` go through, `in_a_turn` at a time.
fn allocations(bus: &mut Bus, message: &str, in_a_turn: usize) -> u64 {
    let read = framed(message).repeat(in_a_turn);
    for _ in 0..WARM_UP_MESSAGES / in_a_turn {
        bus.turn(bus.sender, &read);
    }
    let before = bus.delivered_bytes;
    let measured = measure(|| {
        for _ in 0..MEASURED_MESSAGES / in_a_turn {
            bus.turn(bus.sender, &read);
        }
    });
    let least = MEASURED_MESSAGES * message.len();
    assert!(bus.delivered_bytes - before >= least, "the messages have not gone through");
    measured.count_total
}

fn addressed_to(to: &str) -> String {
    WHOLE.replace(r#""to":"r""#, &format!(r#""to":"{to}""#))
}

#[test]
fn a_message_alone_allocates_nothing() {
    let mut bus = Bus::new(&[RECEIVER]);
    assert_eq!(allocations(&mut bus, WHOLE, 1), 0);
    assert_eq!(allocations(&mut bus, BARE, 1), 0);
}

#[test]
fn messages_in_a_batch_allocate_nothing() {
    let mut bus = Bus::new(&[RECEIVER]);
    assert_eq!(allocations(&mut bus, WHOLE, 200), 0);
    assert_eq!(allocations(&mut bus, BARE, 200), 0);
}

#[test]
fn a_broadcast_allocates_nothing() {
    let mut bus = Bus::new(&[RECEIVER, r#"{"type":"register","endpoint":"q"}"#]);
    assert_eq!(allocations(&mut bus, &addressed_to(""), 20), 0);
}

/// What a message says to level 2 (`sender`, `via`) is written anew for each, and goes with it through the queue. These are
/// the numbers of today, for one receiver; fewer are welcome here.
#[test]
fn a_message_to_level_2_allocates_a_few_times() {
    for (what, registration, to, most) in [
        ("an endpoint", r#"{"type":"register","endpoint":"r","protocol":2}"#, "r", 2),
        ("a group", r#"{"type":"register","endpoint":"r","protocol":2,"groups":["g"]}"#, "@g", 5),
        ("a topic", r#"{"type":"register","endpoint":"r","protocol":2,"topics":["n.>"]}"#, "#n.x", 5),
    ] {
        let mut bus = Bus::new(&[registration]);
        let found = allocations(&mut bus, &addressed_to(to), 20);
        assert!(found <= most * MEASURED_MESSAGES as u64, "{what}: {found} allocations");
    }
}
