//! One load generator for several message brokers, so that each does the same work.
//!
//! busbench WORKLOAD PROTO ADDR [key=value ...]
//!   WORKLOAD: tput | rtt | fanin | fanout | pairs | oneshot | idle | stall | durable | drain | relay
//!   PROTO:    hermes | nats | redis
//!   ADDR:     unix:/path or tcp:host:port
//! keys: n (messages), size (bytes of text), c (connections), window (bytes in flight), wait (oneshot: 1 = wait for a receipt),
//!   out (durable: unanswered messages of a sender), to (durable, drain: mailbox, stream), in_flight (drain)
//! `relay` serves the floor itself: a two-hop copy with no parsing (unix:/path to listen on).
mod durable;

use hdrhistogram::Histogram;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::sync::Arc;
use std::time::{Duration, Instant};

enum Sock {
    U(UnixStream),
    T(TcpStream),
}
impl Sock {
    fn open(addr: &str) -> io::Result<Sock> {
        if let Some(p) = addr.strip_prefix("unix:") {
            Ok(Sock::U(UnixStream::connect(p)?))
        } else {
            let s = TcpStream::connect(addr.trim_start_matches("tcp:"))?;
            s.set_nodelay(true)?;
            Ok(Sock::T(s))
        }
    }
    fn try_clone(&self) -> Sock {
        match self {
            Sock::U(s) => Sock::U(s.try_clone().unwrap()),
            Sock::T(s) => Sock::T(s.try_clone().unwrap()),
        }
    }
    fn timeout(&self, d: Option<Duration>) {
        match self {
            Sock::U(s) => s.set_read_timeout(d).unwrap(),
            Sock::T(s) => s.set_read_timeout(d).unwrap(),
        }
    }
}
impl Read for Sock {
    fn read(&mut self, b: &mut [u8]) -> io::Result<usize> {
        match self {
            Sock::U(s) => s.read(b),
            Sock::T(s) => s.read(b),
        }
    }
}
impl Write for Sock {
    fn write(&mut self, b: &[u8]) -> io::Result<usize> {
        match self {
            Sock::U(s) => s.write(b),
            Sock::T(s) => s.write(b),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Proto {
    Hermes,
    Nats,
    Redis,
}

/// The JSON every protocol carries: hermes as its frame, the others as their payload.
fn json(to: &str, from: &str, text: &str, seq: u64) -> Vec<u8> {
    format!("{{\"type\":\"message\",\"to\":\"{to}\",\"from\":\"{from}\",\"id\":\"{seq:032x}\",\"ts\":1716307200.123,\"body\":{{\"text\":\"{text}\",\"type\":\"progress\"}}}}").into_bytes()
}
fn put(proto: Proto, out: &mut Vec<u8>, to: &str, from: &str, text: &str, seq: u64) {
    let j = json(to, from, text, seq);
    match proto {
        Proto::Hermes => {
            out.extend((j.len() as u32).to_be_bytes());
            out.extend(&j);
        }
        Proto::Nats => {
            out.extend(format!("PUB {to} {}\r\n", j.len()).as_bytes());
            out.extend(&j);
            out.extend(b"\r\n");
        }
        Proto::Redis => {
            out.extend(
                format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{to}\r\n${}\r\n", to.len(), j.len())
                    .as_bytes(),
            );
            out.extend(&j);
            out.extend(b"\r\n");
        }
    }
}

struct Conn {
    proto: Proto,
    s: Sock,
    buf: Vec<u8>,
    start: usize,
    end: usize,
}
impl Conn {
    fn raw(proto: Proto, addr: &str) -> io::Result<Conn> {
        Ok(Conn { proto, s: Sock::open(addr)?, buf: vec![0; 1 << 18], start: 0, end: 0 })
    }
    /// Opens a connection that receives what is addressed to `name`.
    fn named(proto: Proto, addr: &str, name: &str) -> io::Result<Conn> {
        let mut c = Conn::raw(proto, addr)?;
        match proto {
            Proto::Hermes => {
                let j = format!("{{\"type\":\"register\",\"endpoint\":\"{name}\"}}");
                c.s.write_all(&(j.len() as u32).to_be_bytes())?;
                c.s.write_all(j.as_bytes())?;
                c.next()?;
            }
            Proto::Nats => {
                c.nats_hello()?;
                c.s.write_all(format!("SUB {name} 1\r\nSUB all 2\r\nPING\r\n").as_bytes())?;
                c.nats_until_pong()?;
            }
            Proto::Redis => {
                c.s.write_all(
                    format!("*3\r\n$9\r\nSUBSCRIBE\r\n${}\r\n{name}\r\n$3\r\nall\r\n", name.len())
                        .as_bytes(),
                )?;
                c.next()?;
                c.next()?;
            }
        }
        Ok(c)
    }
    /// Opens a connection that only sends.
    fn anon(proto: Proto, addr: &str) -> io::Result<Conn> {
        let mut c = Conn::raw(proto, addr)?;
        if proto == Proto::Nats {
            c.nats_hello()?;
        }
        Ok(c)
    }
    fn nats_hello(&mut self) -> io::Result<()> {
        self.line()?; // INFO
        self.s.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"tls_required\":false,\"name\":\"b\",\"lang\":\"r\",\"version\":\"1\",\"protocol\":1,\"echo\":true}\r\nPING\r\n")?;
        self.nats_until_pong()
    }
    fn nats_until_pong(&mut self) -> io::Result<()> {
        loop {
            if self.line()?.starts_with("PONG") {
                return Ok(());
            }
        }
    }
    fn fill(&mut self) -> io::Result<()> {
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
                let l = self.buf.len();
                self.buf.resize(l * 2, 0);
            }
        }
        let n = self.s.read(&mut self.buf[self.end..])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.end += n;
        Ok(())
    }
    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(i) = self.buf[self.start..self.end].iter().position(|&b| b == b'\n') {
                let s =
                    String::from_utf8_lossy(&self.buf[self.start..self.start + i + 1]).into_owned();
                self.start += i + 1;
                return Ok(s);
            }
            self.fill()?;
        }
    }
    /// Takes one whole message out of what has been read: its length, or None if there is none yet.
    fn take(&mut self) -> io::Result<Option<usize>> {
        let b = &self.buf[self.start..self.end];
        match self.proto {
            Proto::Hermes => {
                if b.len() < 4 {
                    return Ok(None);
                }
                let l = u32::from_be_bytes(b[..4].try_into().unwrap()) as usize;
                if b.len() < 4 + l {
                    return Ok(None);
                }
                self.start += 4 + l;
                Ok(Some(l))
            }
            Proto::Nats => {
                let Some(i) = b.iter().position(|&x| x == b'\n') else { return Ok(None) };
                let line = &b[..i + 1];
                if line.starts_with(b"MSG") {
                    let s = std::str::from_utf8(line).unwrap().trim_end();
                    let l: usize = s.rsplit(' ').next().unwrap().parse().unwrap();
                    if b.len() < i + 1 + l + 2 {
                        return Ok(None);
                    }
                    self.start += i + 1 + l + 2;
                    Ok(Some(l))
                } else {
                    if line.starts_with(b"PING") {
                        self.start += i + 1;
                        self.s.write_all(b"PONG\r\n")?;
                        return self.take();
                    }
                    if line.starts_with(b"-ERR") {
                        return Err(io::Error::other(String::from_utf8_lossy(line).into_owned()));
                    }
                    self.start += i + 1;
                    self.take()
                }
            }
            Proto::Redis => match resp(b) {
                Some(n) => {
                    self.start += n;
                    Ok(Some(n))
                }
                None => Ok(None),
            },
        }
    }
    fn next(&mut self) -> io::Result<usize> {
        loop {
            if let Some(n) = self.take()? {
                return Ok(n);
            }
            self.fill()?;
        }
    }
}
/// Length of one RESP value at the start of `b`.
fn resp(b: &[u8]) -> Option<usize> {
    let i = b.iter().position(|&x| x == b'\n')? + 1;
    let n: i64 = std::str::from_utf8(&b[1..i - 2]).ok()?.parse().unwrap_or(0);
    match b[0] {
        b'*' => {
            let mut p = i;
            for _ in 0..n {
                p += resp(&b[p..])?;
            }
            Some(p)
        }
        b'$' => {
            let e = i + n as usize + 2;
            (b.len() >= e).then_some(e)
        }
        _ => Some(i),
    }
}

fn arg(k: &str, d: u64) -> u64 {
    std::env::args()
        .find_map(|a| a.strip_prefix(&format!("{k}=")).map(|v| v.parse().unwrap()))
        .unwrap_or(d)
}
fn word(k: &str, d: &str) -> String {
    std::env::args()
        .find_map(|a| a.strip_prefix(&format!("{k}=")).map(str::to_string))
        .unwrap_or(d.to_string())
}
fn rep(name: &str, n: u64, bytes: u64, t: Duration) {
    let s = t.as_secs_f64();
    println!(
        "{name}: {:.0} msg/s {:.1} MB/s ({n} in {s:.3}s)",
        n as f64 / s,
        bytes as f64 / s / 1e6
    );
}
/// Sends `n` messages round-robin to `to`, at most `win` undelivered ones ahead of `got`.
fn pump(
    proto: Proto,
    mut c: Conn,
    from: &str,
    to: &[String],
    text: &str,
    n: u64,
    win: u64,
    got: &AtomicU64,
    base: u64,
    fan: u64,
) {
    if proto == Proto::Redis {
        let mut d = Conn { proto, s: c.s.try_clone(), buf: vec![0; 65536], start: 0, end: 0 };
        std::thread::spawn(move || {
            while d.fill().is_ok() {
                d.start = d.end;
            }
        });
    }
    let mut out = Vec::with_capacity(1 << 17);
    let mut sent = 0;
    while sent < n {
        let room =
            win.saturating_sub((sent * fan).saturating_sub(got.load(Relaxed).saturating_sub(base)));
        if room == 0 {
            if !out.is_empty() {
                c.s.write_all(&out).unwrap();
                out.clear();
            }
            std::thread::sleep(Duration::from_micros(20));
            continue;
        }
        let k = (room / fan.max(1)).max(1).min(n - sent);
        for _ in 0..k {
            put(proto, &mut out, &to[(sent % to.len() as u64) as usize], from, text, sent);
            sent += 1;
            if out.len() >= 65536 {
                c.s.write_all(&out).unwrap();
                out.clear();
            }
        }
        c.s.write_all(&out).unwrap();
        out.clear();
    }
    std::mem::forget(c);
}
fn drain(mut c: Conn, n: u64, got: Arc<AtomicU64>) {
    let mut k = 0;
    while k < n {
        let mut b = 0;
        loop {
            match c.take().unwrap() {
                Some(_) => {
                    b += 1;
                }
                None => break,
            }
        }
        k += b;
        got.fetch_add(b, Relaxed);
        if k < n {
            c.fill().unwrap();
        }
    }
    std::mem::forget(c);
}

fn main() {
    let a: Vec<String> = std::env::args().collect();
    let (work, proto, addr) = (a[1].as_str(), a[2].as_str(), a[3].clone());
    let proto = match proto {
        "hermes" => Proto::Hermes,
        "nats" => Proto::Nats,
        "redis" => Proto::Redis,
        _ => panic!("proto"),
    };
    let n = arg("n", 100_000);
    let size = arg("size", 128) as usize;
    let c = arg("c", 1);
    let text: String = "abcdefghijklmnopqrstuvwxyz0123456789 ".chars().cycle().take(size).collect();
    let jl = json("r0", "s0", &text, 0).len() as u64;
    let win = (arg("window", 4 << 20) / jl).clamp(1, 16384);
    let tag = std::process::id();
    match work {
        "relay" => relay(&addr),
        "durable" => {
            durable::send(proto, &addr, &word("to", "box"), n, &text, c, arg("out", 256) as usize)
        }
        "drain" => durable::drain(&addr, &word("to", "box"), n, arg("in_flight", 4096)),
        "tput" | "fanin" | "pairs" | "fanout" => {
            let (ns, nr) = match work {
                "tput" => (1, 1),
                "fanin" => (c, 1),
                "pairs" => (c, c),
                _ => (1, c),
            };
            let got = Arc::new(AtomicU64::new(0));
            let per = n / ns;
            let total = if work == "fanout" { n * c } else { per * ns };
            let rs: Vec<Conn> = (0..nr)
                .map(|i| Conn::named(proto, &addr, &format!("r{i}x{tag}")).unwrap())
                .collect();
            let ss: Vec<Conn> = (0..ns).map(|_| Conn::anon(proto, &addr).unwrap()).collect();
            std::thread::sleep(Duration::from_millis(200));
            let t = Instant::now();
            let mut hs = vec![];
            let mut rsi = rs.into_iter();
            // few threads: receivers are shared out over at most 2 threads with poll-free blocking when one each
            let per_r = total / nr;
            if nr <= 8 {
                for r in rsi.by_ref() {
                    let g = got.clone();
                    hs.push(std::thread::spawn(move || drain(r, per_r, g)));
                }
            } else {
                let v: Vec<Conn> = rsi.by_ref().collect();
                let g = got.clone();
                hs.push(std::thread::spawn(move || drain_many(v, total, g)));
            }
            for (i, s) in ss.into_iter().enumerate() {
                let to = match work {
                    "pairs" => vec![format!("r{i}x{tag}")],
                    "fanout" => {
                        vec![if proto == Proto::Hermes { String::new() } else { "all".into() }]
                    }
                    _ => vec![format!("r0x{tag}")],
                };
                let g = got.clone();
                let text = text.clone();
                let fan = if work == "fanout" { c } else { 1 };
                let w = if work == "fanout" { win.max(c * 16) } else { (win / ns).max(1) };
                hs.push(std::thread::spawn(move || {
                    if ns == 1 {
                        pump(proto, s, "s", &to, &text, per, w, &g, 0, fan)
                    } else {
                        pump_shared(proto, s, &to, &text, per, w * ns, &g, ns)
                    }
                }));
            }
            for h in hs {
                h.join().unwrap();
            }
            rep(work, total, total * jl, t.elapsed());
        }
        "rtt" => {
            let mut x = Conn::named(proto, &addr, &format!("a{tag}")).unwrap();
            let mut y = Conn::named(proto, &addr, &format!("b{tag}")).unwrap();
            if proto == Proto::Redis {
                panic!("redis: a subscriber cannot publish in RESP2; use rtt with redis through two more connections");
            }
            let (ta, tb) = (format!("a{tag}"), format!("b{tag}"));
            let mut h = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).unwrap();
            let mut o = vec![];
            for i in 0..n + n / 10 {
                o.clear();
                put(proto, &mut o, &tb, &ta, &text, i);
                let t = Instant::now();
                x.s.write_all(&o).unwrap();
                y.next().unwrap();
                o.clear();
                put(proto, &mut o, &ta, &tb, &text, i);
                y.s.write_all(&o).unwrap();
                x.next().unwrap();
                if i >= n / 10 {
                    h.record(t.elapsed().as_nanos() as u64).unwrap();
                }
            }
            let q = |p| h.value_at_quantile(p) as f64 / 1e3;
            println!("rtt: p50 {:.1} us  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1} (two hops each way, {n} rounds)", q(0.5), q(0.9), q(0.99), q(0.999), h.max() as f64 / 1e3);
        }
        "oneshot" => {
            let name = format!("r{tag}");
            let r = Conn::named(proto, &addr, &name).unwrap();
            let got = Arc::new(AtomicU64::new(0));
            let g = got.clone();
            let h = std::thread::spawn(move || drain(r, n, g));
            let wait = arg("wait", 0) == 1;
            let t = Instant::now();
            for i in 0..n {
                let mut s = Conn::anon(proto, &addr).unwrap();
                let mut o = vec![];
                put(proto, &mut o, &name, "s", &text, i);
                s.s.write_all(&o).unwrap();
                if wait {
                    s.s.timeout(Some(Duration::from_secs(1)));
                    let _ = s.next();
                }
            }
            let sent = t.elapsed();
            h.join().unwrap();
            rep("oneshot", n, n * jl, t.elapsed());
            println!("  mean per send {:.1} us", sent.as_secs_f64() * 1e6 / n as f64);
        }
        "idle" => {
            let pid = arg("pid", 0);
            let rss = || -> u64 {
                let s = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
                s.lines()
                    .find(|l| l.starts_with("VmRSS"))
                    .unwrap()
                    .split_whitespace()
                    .nth(1)
                    .unwrap()
                    .parse()
                    .unwrap()
            };
            unsafe {
                let r = libc::rlimit { rlim_cur: 200_000, rlim_max: 200_000 };
                libc::setrlimit(libc::RLIMIT_NOFILE, &r);
            }
            let r0 = rss();
            let t = Instant::now();
            let mut v = vec![];
            for i in 0..n {
                match Conn::named(proto, &addr, &format!("idle{i}x{tag}")) {
                    Ok(mut k) => {
                        k.buf = vec![];
                        v.push(k)
                    }
                    Err(e) => {
                        println!("idle: failed at {i}: {e}");
                        break;
                    }
                }
            }
            let e = t.elapsed();
            std::thread::sleep(Duration::from_secs(1));
            let r1 = rss();
            println!(
                "idle: {} connections in {:.2}s, RSS {} -> {} kB, {:.1} kB each",
                v.len(),
                e.as_secs_f64(),
                r0,
                r1,
                (r1 - r0) as f64 / v.len() as f64
            );
        }
        "stall" => {
            // one registered receiver never reads while another sender floods it; a second pair must keep its speed
            let dead = Conn::named(proto, &addr, &format!("dead{tag}")).unwrap();
            let mut f = Conn::anon(proto, &addr).unwrap();
            let dn = format!("dead{tag}");
            let tx = text.clone();
            let flood = Arc::new(AtomicU64::new(0));
            let fl = flood.clone();
            std::thread::spawn(move || {
                let mut o = vec![];
                let mut i = 0;
                loop {
                    o.clear();
                    for _ in 0..64 {
                        put(proto, &mut o, &dn, "f", &tx, i);
                        i += 1;
                    }
                    if f.s.write_all(&o).is_err() {
                        break;
                    }
                    fl.fetch_add(64, Relaxed);
                }
            });
            std::thread::sleep(Duration::from_secs(2));
            let name = format!("live{tag}");
            let (txd, rxd) = std::sync::mpsc::channel();
            let ad = addr.clone();
            let tx2 = text.clone();
            std::thread::spawn(move || {
                let mut r = Conn::named(proto, &ad, &name).unwrap();
                let mut s = Conn::anon(proto, &ad).unwrap();
                let mut h = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).unwrap();
                let mut o = vec![];
                for i in 0..n {
                    o.clear();
                    put(proto, &mut o, &name, "s", &tx2, i);
                    let t = Instant::now();
                    s.s.write_all(&o).unwrap();
                    r.next().unwrap();
                    h.record(t.elapsed().as_nanos() as u64).unwrap();
                }
                txd.send(h).unwrap();
            });
            match rxd.recv_timeout(Duration::from_secs(arg("secs", 15))) {
                Ok(h) => println!("stall: live pair delivered {n}, one way p50 {:.1} us p99 {:.1} us max {:.1} us; flood accepted {}", h.value_at_quantile(0.5) as f64 / 1e3, h.value_at_quantile(0.99) as f64 / 1e3, h.max() as f64 / 1e3, flood.load(Relaxed)),
                Err(_) => println!("stall: BLOCKED, the live pair did not finish; flood accepted {}", flood.load(Relaxed)),
            }
            std::mem::forget(dead);
            std::process::exit(0);
        }
        _ => panic!("workload"),
    }
}
/// As `pump`, for several senders whose deliveries are counted together.
fn pump_shared(
    proto: Proto,
    mut c: Conn,
    to: &[String],
    text: &str,
    n: u64,
    win: u64,
    got: &AtomicU64,
    ns: u64,
) {
    if proto == Proto::Redis {
        let mut d = Conn { proto, s: c.s.try_clone(), buf: vec![0; 65536], start: 0, end: 0 };
        std::thread::spawn(move || {
            while d.fill().is_ok() {
                d.start = d.end;
            }
        });
    }
    let mut out = Vec::with_capacity(1 << 17);
    let mut sent = 0;
    while sent < n {
        if sent * ns > got.load(Relaxed) + win {
            std::thread::sleep(Duration::from_micros(20));
            continue;
        }
        for _ in 0..64.min(n - sent) {
            put(proto, &mut out, &to[(sent % to.len() as u64) as usize], "s", text, sent);
            sent += 1;
        }
        c.s.write_all(&out).unwrap();
        out.clear();
    }
    std::mem::forget(c);
}
fn drain_many(mut v: Vec<Conn>, total: u64, got: Arc<AtomicU64>) {
    use std::os::fd::AsRawFd;
    let mut fds: Vec<libc::pollfd> = v
        .iter()
        .map(|c| libc::pollfd {
            fd: match &c.s {
                Sock::U(s) => s.as_raw_fd(),
                Sock::T(s) => s.as_raw_fd(),
            },
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let mut k = 0;
    while k < total {
        unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as u64, 1000) };
        for (i, f) in fds.iter_mut().enumerate() {
            if f.revents & libc::POLLIN != 0 {
                v[i].fill().unwrap();
                let mut b = 0;
                while v[i].take().unwrap().is_some() {
                    b += 1;
                }
                k += b;
                got.fetch_add(b, Relaxed);
            }
            f.revents = 0;
        }
    }
}
/// The floor: accepts hermes registrations, then copies whatever the first unnamed connection sends to the first named one, unparsed.
fn relay(addr: &str) {
    let p = addr.strip_prefix("unix:").unwrap();
    let _ = std::fs::remove_file(p);
    let l = UnixListener::bind(p).unwrap();
    loop {
        // rtt: two registered peers; tput: one registered, one anonymous. Both cases copy each connection to the other.
        let mut peers = vec![];
        while peers.len() < 2 {
            let (mut s, _) = l.accept().unwrap();
            s.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let mut h = [0u8; 4];
            if s.read_exact(&mut h).is_ok() {
                let mut b = vec![0; u32::from_be_bytes(h) as usize];
                s.read_exact(&mut b).unwrap();
                let j = b"{\"type\":\"registered\"}";
                s.write_all(&(j.len() as u32).to_be_bytes()).unwrap();
                s.write_all(j).unwrap();
            }
            s.set_read_timeout(None).unwrap();
            peers.push(s);
        }
        let (a, b) = (peers.remove(0), peers.remove(0));
        let cp = |mut r: UnixStream, mut w: UnixStream| {
            std::thread::spawn(move || {
                let mut buf = vec![0; 1 << 18];
                loop {
                    match r.read(&mut buf) {
                        Ok(0) | Err(_) => {
                            let _ = w.shutdown(std::net::Shutdown::Both);
                            break;
                        }
                        Ok(n) => {
                            if w.write_all(&buf[..n]).is_err() {
                                break;
                            }
                        }
                    }
                }
            })
        };
        let h1 = cp(a.try_clone().unwrap(), b.try_clone().unwrap());
        let h2 = cp(b, a);
        h1.join().unwrap();
        h2.join().unwrap();
    }
}
