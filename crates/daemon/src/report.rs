//! What `hermes-busd status` says.
//!
//! The lines up to the endpoints are those of released versions: scripts read them. The released
//! agent plugin restarts the bus when it finds one of the [`ALARM_WORDS`] anywhere in the output, so
//! none may ever stand there while the bus is healthy: not in a line of the log, not in the name of
//! an endpoint.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hermes_bus_proto::listing::{EndpointDetails, Listing, ServerDetails, printable};
use serde_json::{Map, Value, json};

use crate::logging;
use crate::manager::{Daemon, PidFile, pid_file};
use crate::root::Root;

/// What the released plugin takes for the sign of a dead bus, in lower case.
const ALARM_WORDS: [&str; 4] = ["not running", "stale", "no socket", "not respond"];
/// Lines of the log that are shown.
const LOG_LINES: usize = 20;
/// A socket file that is older is said to be old.
const OLD_SOCKET: Duration = Duration::from_secs(300);

/// The first line about a process that does not answer.
pub(crate) fn unresponsive(pid: u32) -> String {
    format!("pid={pid} exists but socket is unresponsive (does not respond)")
}

/// `store` is what a bus that runs says of what it keeps on disk.
pub(crate) fn text(
    root: &Root,
    daemon: &Daemon,
    store: Option<&Map<String, Value>>,
    out: &mut dyn Write,
) -> io::Result<()> {
    match daemon {
        Daemon::Running { pid, listing } => running(root, *pid, listing, store, out),
        Daemon::Unresponsive { pid } => {
            let state =
                if has_socket_file(root) { "file exists but unusable" } else { "not found" };
            writeln!(out, "{}", unresponsive(*pid))?;
            writeln!(out, "  socket: {} {state}", root.socket().display())?;
            writeln!(out, "  'hermes-busd restart' ends that process and starts anew")?;
            diagnosis(root, Some(*pid), out)?;
            recent_logs(root, Hide::Nothing, out)
        }
        Daemon::Absent => absent(root, out),
    }
}

fn running(
    root: &Root,
    pid: u32,
    listing: &Listing,
    store: Option<&Map<String, Value>>,
    out: &mut dyn Write,
) -> io::Result<()> {
    writeln!(out, "busd running (pid={pid})")?;
    writeln!(out, "  socket: {} ✓", root.socket().display())?;
    let is_detached = pid_file(root) == PidFile::Names(pid);
    if is_detached {
        writeln!(out, "  log:    {}", root.log_file().display())?;
    } else {
        writeln!(out, "  socket is alive — served in the foreground, without a PID file")?;
    }
    endpoints(listing, out)?;
    details(listing, out)?;
    if let Some(store) = store {
        kept(store, out)?;
    }
    // A foreground server logs to its terminal.
    if is_detached { recent_logs(root, Hide::AlarmWords, out) } else { Ok(()) }
}

/// The lines that scripts read.
fn endpoints(listing: &Listing, out: &mut dyn Write) -> io::Result<()> {
    if listing.endpoints.is_empty() {
        return writeln!(out, "  No connected endpoints");
    }
    writeln!(out, "  Connected endpoints ({}):", listing.endpoints.len())?;
    for (name, session_id) in &listing.endpoints {
        let session: String = session_id.chars().take(8).collect();
        writeln!(out, "    {}  (sid={session}...)", harmless(name))?;
    }
    Ok(())
}

/// The block behind them.
fn details(listing: &Listing, out: &mut dyn Write) -> io::Result<()> {
    if listing.truncated {
        writeln!(out, "  (more endpoints than fit into one answer: the list is cut)")?;
    }
    let mut endpoints: Vec<&EndpointDetails> = listing.details.iter().collect();
    endpoints.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
    if !endpoints.is_empty() {
        writeln!(out)?;
        writeln!(out, "  Sessions:")?;
    }
    for endpoint in endpoints {
        writeln!(
            out,
            "    {}: connected {}, pid {}, sent {} ({}/s), received {} ({}/s), queued {} ({} bytes){}",
            harmless(&endpoint.endpoint),
            ago(endpoint.connected_at),
            endpoint.pid,
            endpoint.sent.total.messages,
            endpoint.sent.per_second,
            endpoint.received.total.messages,
            endpoint.received.per_second,
            endpoint.pending.messages,
            endpoint.pending.bytes,
            dropped(endpoint.dropped),
        )?;
    }
    if let Some(server) = &listing.server {
        writeln!(out)?;
        bus(server, out)?;
    }
    Ok(())
}

fn bus(server: &ServerDetails, out: &mut dyn Write) -> io::Result<()> {
    let count =
        |name: &str| server.counters.get(name).and_then(|count| count.as_u64()).unwrap_or(0);
    let lost: u64 = server
        .counters
        .iter()
        .filter(|(name, _)| name.starts_with("dropped_"))
        .filter_map(|(_, count)| count.as_u64())
        .sum();
    let uptime = humantime::format_duration(Duration::from_secs(server.uptime_s as u64));
    writeln!(
        out,
        "  {}, up {uptime}: {} messages taken, {} handed over, {} for unknown endpoints, {lost} dropped",
        server.server,
        count("messages"),
        count("handed_over"),
        count("refused_endpoint_not_found"),
    )?;
    for (name, dropped) in &server.counters {
        if name.starts_with("dropped_") && dropped.as_u64() > Some(0) {
            writeln!(out, "    {name}: {dropped}")?;
        }
    }
    Ok(())
}

/// What is kept on disk, in one line; nothing where nothing waits and all is well.
fn kept(store: &Map<String, Value>, out: &mut dyn Write) -> io::Result<()> {
    let count = |key: &str| store.get(key).and_then(Value::as_u64).unwrap_or(0);
    let text = |key: &str| store.get(key).and_then(Value::as_str);
    if let Some(why) = text("why") {
        writeln!(out, "  Nothing can be kept on disk: {}", harmless(why))?;
    }
    let (messages, dead) = (count("messages"), count("dead_letters"));
    if messages > 0 {
        let oldest = store.get("oldest_ts").and_then(Value::as_f64);
        let since = oldest.map_or(String::new(), |at| format!(", the oldest for {}", ago(at)));
        writeln!(
            out,
            "  Mailboxes: {messages} messages ({} bytes) wait for {} endpoints{since}",
            count("bytes"),
            count("mailboxes"),
        )?;
    }
    if dead > 0 {
        writeln!(out, "  Dead letters: {dead}")?;
    }
    let displaced = count("dead_letters_displaced");
    if displaced > 0 {
        writeln!(out, "  Dead letters removed for want of room: {displaced}")?;
    }
    Ok(())
}

fn dropped(count: u64) -> String {
    if count == 0 { String::new() } else { format!(", dropped {count}") }
}

fn ago(unix_s: f64) -> humantime::FormattedDuration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let then = Duration::try_from_secs_f64(unix_s).unwrap_or(now);
    humantime::format_duration(Duration::from_secs(now.saturating_sub(then).as_secs()))
}

/// A name as it may stand in a healthy status: control characters escaped, and one letter of an
/// alarm word written as a JSON escape.
fn harmless(name: &str) -> String {
    let mut shown = printable(name);
    while let Some(at) = ALARM_WORDS.iter().find_map(|word| shown.to_ascii_lowercase().find(word)) {
        let letter = u32::from(shown.as_bytes()[at + 1]);
        shown.replace_range(at + 1..at + 2, &format!("\\u{letter:04x}"));
    }
    shown
}

fn absent(root: &Root, out: &mut dyn Write) -> io::Result<()> {
    match pid_file(root) {
        PidFile::Missing => writeln!(out, "busd not running (no PID file)")?,
        PidFile::Garbage => writeln!(out, "busd not running (the PID file holds no number)")?,
        PidFile::Names(pid) => {
            writeln!(out, "busd not running (pid={pid} in the PID file is no bus of this root)")?;
        }
    }
    if has_socket_file(root) {
        writeln!(out, "  socket file exists but unresponsive (stale file)")?;
    }
    writeln!(out, "  No connected endpoints")?;
    diagnosis(root, None, out)?;
    if matches!(pid_file(root), PidFile::Names(_)) {
        recent_logs(root, Hide::Nothing, out)?;
    }
    Ok(())
}

/// `owner` is the process that owns the root and does not answer.
fn diagnosis(root: &Root, owner: Option<u32>, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out)?;
    writeln!(out, "  Disconnect diagnosis:")?;
    match std::fs::symlink_metadata(root.socket()).and_then(|found| found.modified()) {
        Err(_) => writeln!(out, "    socket file not found")?,
        Ok(modified) => {
            let age = modified.elapsed().unwrap_or_default();
            if age > OLD_SOCKET {
                let seconds = age.as_secs();
                writeln!(out, "    socket file last modified {seconds}s ago — possibly stale")?;
            }
        }
    }
    match pid_file(root) {
        PidFile::Missing => {
            writeln!(out, "    No PID file — stopped, or not started via start command")?;
        }
        PidFile::Garbage => writeln!(out, "    PID file content invalid")?,
        PidFile::Names(pid) if Some(pid) == owner => {}
        PidFile::Names(pid) => {
            let exists = crate::sys::Process::find(pid).is_some();
            let what = if exists { "that process is no bus" } else { "that process is gone" };
            writeln!(out, "    PID file: pid={pid}: {what}")?;
        }
    }
    let complaints: Vec<String> = logging::tail(&root.log_file(), 50)
        .unwrap_or_default()
        .into_iter()
        .filter(|line| line.contains("] error:") || line.contains("panicked"))
        .collect();
    for line in complaints.iter().rev().take(3).rev() {
        writeln!(out, "    Log: {line}")?;
    }
    Ok(())
}

#[derive(PartialEq, Eq)]
enum Hide {
    Nothing,
    AlarmWords,
}

fn recent_logs(root: &Root, hide: Hide, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out)?;
    writeln!(out, "  Recent logs:")?;
    let Ok(lines) = logging::tail(&root.log_file(), LOG_LINES) else {
        return writeln!(out, "    (log file not found)");
    };
    let mut hidden = 0;
    for line in lines {
        let lower = line.to_lowercase();
        if hide == Hide::AlarmWords && ALARM_WORDS.iter().any(|word| lower.contains(word)) {
            hidden += 1;
        } else {
            writeln!(out, "    {line}")?;
        }
    }
    if hidden > 0 {
        writeln!(out, "    ({hidden} lines about earlier trouble are only shown in the log)")?;
    }
    Ok(())
}

fn has_socket_file(root: &Root) -> bool {
    std::fs::symlink_metadata(root.socket()).is_ok()
}

/// `store` is what a bus that runs says of what it keeps on disk.
pub(crate) fn json(
    root: &Root,
    daemon: &Daemon,
    store: Option<&Map<String, Value>>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut status = json!({
        "state": match daemon {
            Daemon::Running { .. } => "running",
            Daemon::Unresponsive { .. } => "unresponsive",
            Daemon::Absent => "not_running",
        },
        "pid": daemon.pid(),
        "root": root.directory().display().to_string(),
        "socket": root.socket().display().to_string(),
        "log": root.log_file().display().to_string(),
        "pid_file": match pid_file(root) {
            PidFile::Names(pid) => Some(pid),
            PidFile::Missing | PidFile::Garbage => None,
        },
    });
    if let Daemon::Running { listing, .. } = daemon {
        status["endpoints"] = json!(listing.endpoints);
        status["details"] = json!(listing.details);
        status["server"] = json!(listing.server);
        status["truncated"] = json!(listing.truncated);
        status["store"] = json!(store);
    }
    writeln!(out, "{status:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_one_line_and_trouble_is_told_without_alarm_words() {
        let told = |store: Value| {
            let mut out = Vec::new();
            kept(store.as_object().unwrap(), &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(told(json!({"state": "open", "messages": 0})), "");
        let waiting = json!({"state": "open", "messages": 3, "bytes": 500, "mailboxes": 2});
        assert_eq!(told(waiting), "  Mailboxes: 3 messages (500 bytes) wait for 2 endpoints\n");
        assert_eq!(told(json!({"state": "open", "dead_letters": 4})), "  Dead letters: 4\n");
        let displaced = json!({"state": "open", "dead_letters_displaced": 9});
        assert_eq!(told(displaced), "  Dead letters removed for want of room: 9\n");
        let trouble = told(json!({"state": "failed", "why": "a stale disk does not respond"}));
        assert!(trouble.starts_with("  Nothing can be kept on disk: "), "{trouble}");
        assert!(!ALARM_WORDS.iter().any(|word| trouble.contains(word)), "{trouble}");
    }

    #[test]
    fn a_name_never_puts_an_alarm_word_into_a_healthy_status() {
        assert_eq!(harmless("worker-alpha"), "worker-alpha");
        assert_eq!(harmless("stale-checker"), "s\\u0074ale-checker");
        assert_eq!(harmless("Is Not Running, STALE"), "Is N\\u006ft Running, S\\u0054ALE");
        assert_eq!(harmless("two\nlines\u{1b}[31m"), "two\\nlines\\u001b[31m");
        assert_eq!(harmless("测试端点"), "测试端点");
    }
}
