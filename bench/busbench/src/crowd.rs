//! Many connections, and connections that are there for one message.
use crate::conn::{Conn, Proto};
use crate::message::{mqtt_length, put, Batch};
use crate::{arguments, machine, sock, Job};
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// After a crowd has come, before its memory is looked at.
const SETTLING: Duration = Duration::from_secs(1);
/// How many of a crowd send before what has come is read.
const AT_ONCE: usize = 256;

fn gather(job: &Job) -> Vec<Conn> {
    machine::many_files();
    let level: u32 = arguments::value("level", 1);
    (0..job.n)
        .map(|number| {
            let name = job.name("idle", number);
            let conn = if level == 2 { Conn::level_2(job.proto, &job.address, &name) } else { Conn::named(job.proto, &job.address, &name) };
            let mut conn = conn.unwrap_or_else(|error| crate::stop(&format!("connection {number} of {}: {error}", job.n)));
            conn.buf = Vec::new();
            conn
        })
        .collect()
}

/// `n` sessions that do nothing: what each takes of the broker's memory, and what all take of the processor in `secs`.
pub fn idle(job: &Job) {
    let pid: u32 = arguments::value("pid", 0);
    let seconds: f64 = arguments::value("secs", 0.0);
    let before = machine::resident(pid);
    let began = Instant::now();
    let all = gather(job);
    let took = began.elapsed().as_secs_f64();
    thread::sleep(SETTLING);
    let after = machine::resident(pid);
    let (used, began) = (machine::cpu(pid), Instant::now());
    thread::sleep(Duration::from_secs_f64(seconds));
    let share = (machine::cpu(pid).saturating_sub(used)).as_secs_f64() / began.elapsed().as_secs_f64();
    println!(
        "idle bytes_each={:.0} before_kib={} after_kib={} connect_s={took:.2} cpu_percent={:.4} n={}",
        after.saturating_sub(before) as f64 / job.n as f64,
        before / 1024,
        after / 1024,
        share * 100.0,
        all.len()
    );
}

/// `n` sessions of which each sends to the next one, and all must hear.
pub fn ring(job: &Job) {
    let began = Instant::now();
    let mut all = gather(job);
    let connected = began.elapsed().as_secs_f64();
    let count = all.len();
    let began = Instant::now();
    for first in (0..count).step_by(AT_ONCE) {
        let last = (first + AT_ONCE).min(count);
        for number in first..last {
            let mut message = Vec::new();
            let to = job.name("idle", ((number + 1) % count) as u64);
            put(job.proto, &mut message, &to, "s", &job.text, number as u64);
            all[number].s.write_all(&message).unwrap();
        }
        for number in first..last {
            let receiver = &mut all[(number + 1) % count];
            receiver.s.read_timeout(Some(Duration::from_secs(10)));
            receiver.buf = vec![0; 4096];
            if let Err(error) = receiver.next() {
                crate::stop(&format!("session {} has heard nothing: {error}", (number + 1) % count));
            }
            receiver.buf = Vec::new();
        }
    }
    let pid: u32 = arguments::value("pid", 0);
    println!("ring n={count} connect_s={connected:.2} seconds={:.3} resident_kib={}", began.elapsed().as_secs_f64(), machine::resident(pid) / 1024);
}

/// `n` times: connect, send one message, wait until the broker confirms it, close. A receiver must get all of them.
/// How each confirms: the courtesy receipt (hermes; `confirm=ping`: the pong to a ping behind the message), PONG (NATS),
/// the answer to PUBLISH (Redis), PUBACK (MQTT with QoS 1).
pub fn one_shot(job: &Job) {
    let name = job.name("r", 0);
    let mut receiver = Conn::named(job.proto, &job.address, &name).unwrap();
    receiver.s.read_timeout(Some(Duration::from_secs(30)));
    let total = job.n;
    let receiving = thread::spawn(move || {
        for _ in 0..total {
            receiver.next().unwrap();
        }
    });
    let confirmation: &[u8] = match job.proto {
        Proto::Nats => b"PING\r\n",
        Proto::Hermes if arguments::text("confirm").as_deref() == Some("ping") => b"\0\0\0\x0f{\"type\":\"ping\"}",
        _ => b"",
    };
    let mut batch = Batch::new(job.proto, &name, "s", &job.text);
    let mut latency = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).unwrap();
    let pid: u32 = arguments::value("pid", 0);
    let used = machine::cpu(pid);
    let began = Instant::now();
    for number in 0..total {
        let once = Instant::now();
        let message = match job.proto {
            Proto::Mqtt => confirmed(&name, batch.messages(number, 1)),
            _ => batch.messages(number, 1).to_vec(),
        };
        Conn::one_shot(job.proto, &job.address, &message, confirmation).unwrap();
        latency.record(once.elapsed().as_nanos() as u64).unwrap();
    }
    let took = began.elapsed().as_secs_f64();
    receiving.join().unwrap();
    let used = machine::cpu(pid).saturating_sub(used).as_secs_f64();
    let at = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
    println!("oneshot per_s={:.0} p50_us={:.1} p99_us={:.1} broker_us={:.1} n={total}", total as f64 / took, at(0.5), at(0.99), used * 1e6 / total as f64);
}

/// The same PUBLISH with QoS 1, which has a number behind its topic.
fn confirmed(name: &str, packet: &[u8]) -> Vec<u8> {
    let payload_at = 2 + name.len();
    let header = 1 + packet[1..].iter().take_while(|byte| **byte & 128 != 0).count() + 1;
    let mut out = vec![0x32];
    mqtt_length(&mut out, packet.len() - header + 2);
    out.extend(&packet[header..header + payload_at]);
    out.extend([0, 1]);
    out.extend(&packet[header + payload_at..]);
    out
}

/// Starts the command behind `--`, and prints how long it took to answer on its socket. Ends it again.
pub fn start(job: &Job) {
    let command: Vec<String> = std::env::args().skip_while(|argument| argument != "--").skip(1).collect();
    let Some((program, options)) = command.split_first() else { crate::stop("what is to be started stands behind --") };
    let began = Instant::now();
    let child = Command::new(program).args(options).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut child = child.unwrap_or_else(|error| crate::stop(&format!("{program}: {error}")));
    while !answers(job) {
        if began.elapsed() > Duration::from_secs(30) || child.try_wait().is_ok_and(|ended| ended.is_some()) {
            end(&mut child);
            crate::stop(&format!("{program} has not answered"));
        }
        thread::sleep(Duration::from_micros(100));
    }
    let took = began.elapsed();
    end(&mut child);
    println!("start ms={:.2}", took.as_secs_f64() * 1e3);
}

/// Whether whoever listens says something to a question.
fn answers(job: &Job) -> bool {
    let question: &[u8] = match job.proto {
        Proto::Hermes => b"\0\0\0\x0f{\"type\":\"ping\"}",
        Proto::Nats | Proto::Redis => b"PING\r\n",
        Proto::Mqtt => b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0",
    };
    let Ok(mut socket) = sock::Sock::open(&job.address) else { return false };
    socket.read_timeout(Some(Duration::from_secs(1)));
    let mut answer = [0; 512];
    socket.write_all(question).is_ok() && std::io::Read::read(&mut socket, &mut answer).is_ok_and(|count| count > 0)
}

fn end(child: &mut Child) {
    // SAFETY: the child has not been waited for, so its number is its own.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let _ = child.wait();
}
