//! The hot functions of the bus, one after the other. `bench/instructions/check` runs this under callgrind, which counts only
//! what happens inside `counted`, and writes down a sum whenever that returns.
//!
//! Prints one line for each: its name, and how often it is done. Nothing here depends on the time, on random numbers or on
//! the machine, so that two runs of one build count the same.

mod bus;

use std::hint::black_box;

use hermes_bus_proto::control::{self, Detail, Receipt, Status};
use hermes_bus_proto::envelope::Insertion;
use hermes_bus_proto::frame::{self, Decoded};
use hermes_bus_proto::{EndpointName, Envelope, ErrorCode, Raw};

use crate::bus::{Bus, framed};

/// Messages that have gone through before anything is counted: what grows has grown then.
const WARM_UP: u32 = 2_000;
const BATCH: usize = 100;
const CROWD: usize = 64;
const MEMBERS: usize = 8;

/// The one function whose instructions are counted, and those of all that it calls.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
}

/// Does `work` as often as it says, and counts it.
fn count(name: &str, times: u32, mut work: impl FnMut()) {
    println!("{name} {times}");
    counted(&mut || {
        for _ in 0..times {
            work();
        }
    });
}

fn message(to: &str, text_bytes: usize) -> String {
    let text: String = "abcdefghijklmnopqrstuvwxyz0123456789 ".chars().cycle().take(text_bytes).collect();
    format!(
        r#"{{"type":"message","to":"{to}","from":"sender","id":"{:032x}","ts":1716307200.123,"body":{{"text":"{text}","type":"progress"}}}}"#,
        7
    )
}

fn main() {
    envelopes();
    frames();
    answers();
    let bare = format!(r#"{{"type":"message","to":"r","body":"{}"}}"#, "x".repeat(128));
    routing("route, a message alone", &[register("r", "")], &message("r", 128), 1, 1);
    routing("route, of a batch", &[register("r", "")], &message("r", 128), BATCH, 1);
    routing("route, of a batch, id ts from added", &[register("r", "")], &bare, BATCH, 1);
    routing("route, to level 2, of a batch", &[register("r", r#","protocol":2"#)], &message("r", 128), BATCH, 1);
    let crowd = |options: &str| (0..CROWD).map(|number| register(&format!("r{number}"), options)).collect::<Vec<_>>();
    routing("broadcast to 64, a delivery", &crowd(""), &message("", 128), 4, CROWD);
    let subscribed = crowd(r#","protocol":2,"topics":["news.>"]"#);
    routing("topic to 64, a delivery", &subscribed, &message("#news.today", 128), 4, CROWD);
    let members: Vec<String> =
        (0..MEMBERS).map(|number| register(&format!("m{number}"), r#","protocol":2,"groups":["g"]"#)).collect();
    routing("group of 8, of a batch", &members, &message("@g", 128), BATCH, 1);
    durable();
}

fn envelopes() {
    for (name, bytes, times) in [("scan 128 B", 128, 1000), ("scan 4 KiB", 4096, 200), ("scan 64 KiB", 65_536, 20)] {
        let payload = message("worker-alpha", bytes);
        count(name, times, || {
            black_box(Envelope::scan(black_box(payload.as_bytes())).expect("a message"));
        });
    }
    let mut inserted = Vec::with_capacity(256);
    count("insert id, ts, from", 1000, || {
        let mut insertion = Insertion::start(&mut inserted);
        insertion.id("5f0cb8e4-0000-4000-8000-000000000000");
        insertion.ts(black_box(1_716_307_200_123_456));
        insertion.from_within(1000, "\"worker-alpha\"");
        black_box(&inserted);
    });
}

fn frames() {
    let stream = framed(&message("worker-alpha", 128)).repeat(1000);
    let mut rest = stream.as_slice();
    count("decode a frame", 1000, || {
        let Decoded::Frame { payload, frame_bytes } = frame::decode(black_box(rest)) else { panic!("a whole frame") };
        black_box(payload);
        rest = &rest[frame_bytes..];
    });
}

fn answers() {
    let name = EndpointName::new("worker-alpha").expect("a name");
    let id = Raw::new(br#""5f0cb8e4-0000-4000-8000-000000000000""#);
    let mut out = Vec::with_capacity(4096);
    count("encode registered", 500, || {
        out.clear();
        control::registered(&mut out, &name, "5f0cb8e4-0000-4000-8000-000000000000");
        black_box(&out);
    });
    count("encode receipt", 500, || {
        out.clear();
        control::receipt(&mut out, &Receipt { id, status: Status::Delivered, to: Some(&name), targets: None });
        black_box(&out);
    });
    count("encode error", 500, || {
        out.clear();
        let detail = Detail::NotConnected(Raw::new(br#""worker-beta""#));
        control::error(&mut out, ErrorCode::EndpointNotFound, detail, Some(id));
        black_box(&out);
    });
    count("encode pong", 500, || {
        out.clear();
        control::pong(&mut out);
        black_box(&out);
    });
}

fn register(name: &str, options: &str) -> String {
    format!(r#"{{"type":"register","endpoint":"{name}"{options}}}"#)
}

/// Messages through decoding, router and writing out, `in_a_turn` at a time; counted for each of its deliveries.
fn routing(name: &str, registrations: &[String], message: &str, in_a_turn: usize, deliveries: usize) {
    let registrations: Vec<&str> = registrations.iter().map(String::as_str).collect();
    let mut bus = Bus::new(&registrations);
    let read = framed(message).repeat(in_a_turn);
    for _ in 0..WARM_UP / in_a_turn as u32 {
        bus.turn(bus.sender, &read);
    }
    let turns = (400 / in_a_turn).max(4);
    let delivered = bus.delivered_bytes;
    println!("{name} {}", turns * in_a_turn * deliveries);
    counted(&mut || {
        for _ in 0..turns {
            bus.turn(bus.sender, &read);
        }
    });
    let least = turns * in_a_turn * deliveries * message.len();
    assert!(bus.delivered_bytes - delivered >= least, "{name}: the messages have not gone through");
}

/// Messages with a mailbox and a receipt when they are stored: kept, stored, handed over, acknowledged, released.
fn durable() {
    let mut bus = Bus::new(&[register("box", r#","protocol":2,"mailbox":true,"ack":true"#).as_str()]);
    let asking: Vec<Vec<u8>> = (0..1000)
        .map(|number| {
            let message = message("box", 128).replace(&format!("{:032x}", 7), &format!("{number:032x}"));
            framed(&message.replace(r#","body""#, r#","receipt":"stored","body""#))
        })
        .collect();
    let receiver = bus.receivers[0];
    let acknowledge = framed(&format!(r#"{{"type":"ack","up_to":{}}}"#, u32::MAX));
    let mut number = 0;
    let mut once = || {
        bus.turn(bus.sender, &asking[number]);
        bus.turn(receiver, &acknowledge);
        number += 1;
    };
    (0..500).for_each(|_| once());
    count("a durable message, alone", 400, once);
}
