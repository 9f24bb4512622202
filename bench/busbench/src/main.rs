//! One load generator for several message brokers, so that each does the same work.
//!
//! busbench WORKLOAD PROTO ADDRESS [key=value ...]
//!   WORKLOAD: tput, fanin, pairs, fanout, topic (throughput.rs); rtt, oneway (latency.rs); oneshot, idle, ring, start
//!             (crowd.rs); durable, drain (durable.rs); relay (relay.rs)
//!   PROTO:    hermes, nats, redis, mqtt
//!   ADDRESS:  unix:/path or tcp:host:port
//! Keys: n (messages, sessions), size (bytes of text), c (connections), window (bytes on their way), pid (of the broker, for
//!   its memory and processor time), rate and secs (oneway), beside, fill, beside_rate (oneway), level (idle, ring),
//!   confirm (oneshot), out, to, in_flight (durable, drain)
//! It prints one line: the workload, and what was measured as key=value.
mod arguments;
mod conn;
mod crowd;
mod durable;
mod latency;
mod machine;
mod message;
mod relay;
mod sock;
mod throughput;

use conn::Proto;

/// What all workloads want to know.
pub struct Job {
    proto: Proto,
    address: String,
    n: u64,
    text: String,
}

impl Job {
    /// A name that no other run has.
    fn name(&self, kind: &str, number: u64) -> String {
        format!("{kind}{number}x{}", std::process::id())
    }
}

/// Ends the program with a reason.
pub fn stop(why: &str) -> ! {
    eprintln!("busbench: {why}");
    std::process::exit(1)
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).take(3).collect();
    let [work, proto, address] = &words[..] else { stop("usage: busbench WORKLOAD PROTO ADDRESS [key=value ...]") };
    let proto = match proto.as_str() {
        "hermes" => Proto::Hermes,
        "nats" => Proto::Nats,
        "redis" => Proto::Redis,
        "mqtt" => Proto::Mqtt,
        other => stop(&format!("{other} is none of hermes, nats, redis, mqtt")),
    };
    let size = arguments::value("size", 128);
    let text = "abcdefghijklmnopqrstuvwxyz0123456789 ".chars().cycle().take(size).collect();
    let job = Job { proto, address: address.clone(), n: arguments::value("n", 100_000), text };
    match work.as_str() {
        "tput" | "fanin" | "pairs" | "fanout" | "topic" => throughput::run(&job, work),
        "rtt" => latency::round_trip(&job),
        "oneway" => latency::one_way(&job),
        "oneshot" => crowd::one_shot(&job),
        "idle" => crowd::idle(&job),
        "ring" => crowd::ring(&job),
        "start" => crowd::start(&job),
        "durable" => durable::send(&job),
        "drain" => durable::drain(&job),
        "relay" => relay::serve(address),
        other => stop(&format!("{other} is no workload")),
    }
}
