//! What the programs say and ask on level 2: the real programs, and a bus that the test plays on a
//! socket of its own, so that every word on the wire is seen.

#![allow(clippy::unwrap_used)]

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

/// Longer than anything here should take.
const PATIENCE: Duration = Duration::from_secs(30);

fn read_frame(stream: &mut UnixStream) -> io::Result<Value> {
    let mut header = [0; 4];
    stream.read_exact(&mut header)?;
    let mut payload = vec![0; u32::from_be_bytes(header) as usize];
    stream.read_exact(&mut payload)?;
    Ok(serde_json::from_slice(&payload)?)
}

fn write_frame(stream: &mut UnixStream, json: &str) -> io::Result<()> {
    let header = u32::try_from(json.len()).unwrap().to_be_bytes();
    stream.write_all(&[&header, json.as_bytes()].concat())
}

/// A bus that answers every frame with what its script says, and tells the test what it got.
struct ScriptedBus {
    directory: TempDir,
    got: Receiver<Value>,
    replacement: Replacement,
}

/// Text that stands in an answer in place of [`REPLACED`]: for what a `Value` cannot hold.
type Replacement = Arc<Mutex<String>>;
const REPLACED: &str = "\"REPLACED\"";

impl ScriptedBus {
    /// `script` is asked for the answers to every frame, besides what every bus answers.
    fn start(script: impl Fn(&Value) -> Vec<Value> + Clone + Send + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("bus.sock")).unwrap();
        let (tell, got) = channel();
        let replacement = Replacement::default();
        let replacing = Arc::clone(&replacement);
        // Ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, script, tell) = (stream.unwrap(), script.clone(), tell.clone());
                let replacement = Arc::clone(&replacing);
                thread::spawn(move || converse(stream, script, &tell, &replacement));
            }
        });
        ScriptedBus { directory, got, replacement }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("bus.sock")
    }

    /// Runs `hermes-bus` to its end.
    fn run(&self, arguments: &[&str]) -> Outcome {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hermes-bus"));
        command.arg("--socket").arg(self.socket()).args(arguments);
        self.finish(command)
    }

    fn notify_hermes(&self, arguments: &[&str]) -> Outcome {
        let mut command = Command::new(env!("CARGO_BIN_EXE_notify-hermes"));
        command.arg("--socket").arg(self.socket()).args(arguments);
        self.finish(command)
    }

    fn finish(&self, mut command: Command) -> Outcome {
        // Nothing of who runs the tests.
        command.env("HOME", self.directory.path()).env_remove("HERMES_HOME");
        command.env_remove("TMUX_PANE").env("TZ", "UTC").stdin(Stdio::null());
        Outcome::of(&command.output().unwrap())
    }

    /// The next frame of this type that the bus got.
    fn got(&self, kind: &str) -> Value {
        loop {
            let frame = self.got.recv_timeout(PATIENCE).expect("such a frame comes");
            if frame["type"] == kind {
                return frame;
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    code: i32,
    out: String,
    err: String,
}

impl Outcome {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(!err.contains("panicked"), "{err}");
        Outcome { code: output.status.code().unwrap(), out, err }
    }

    /// What it printed, if it did what it was asked.
    fn well(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }
}

const OPS: [&str; 9] = [
    "mailbox.list",
    "mailbox.show",
    "mailbox.drain",
    "mailbox.purge",
    "dead.list",
    "dead.show",
    "dead.retry",
    "history",
    "groups",
];

fn converse(
    mut stream: UnixStream,
    script: impl Fn(&Value) -> Vec<Value>,
    tell: &Sender<Value>,
    replacement: &Replacement,
) {
    while let Ok(frame) = read_frame(&mut stream) {
        let mut answers = match frame["type"].as_str() {
            Some("register") => vec![json!({
                "type": "registered", "endpoint": frame["endpoint"], "session_id": "s",
                "protocol": 2, "server": "scripted/1", "heartbeat_s": 90, "mailbox_depth": 2,
            })],
            Some("list_endpoints") => vec![json!({
                "type": "endpoint_list", "endpoints": {}, "details": [],
                "server": {"server": "scripted/1", "uptime_s": 1, "admin_ops": OPS, "counters": {}},
            })],
            Some("ping") => vec![json!({"type": "pong"})],
            _ => Vec::new(),
        };
        answers.extend(script(&frame));
        let _ = tell.send(frame.clone());
        for mut answer in answers {
            if !frame["req"].is_null() {
                answer["req"] = frame["req"].clone();
            }
            let json = answer.to_string().replace(REPLACED, &replacement.lock().unwrap());
            if write_frame(&mut stream, &json).is_err() {
                return;
            }
        }
    }
}

fn is(frame: &Value, kind: &str) -> bool {
    frame["type"] == kind
}

/// A bus that answers messages with this frame, given their ids.
fn answering(answer: Value) -> ScriptedBus {
    ScriptedBus::start(move |frame| {
        if !is(frame, "message") {
            return Vec::new();
        }
        let mut answer = answer.clone();
        answer["id"] = frame["id"].clone();
        vec![answer]
    })
}

// ---- sending ----------------------------------------------------------------------------------------

#[test]
fn send_says_in_words_how_far_a_message_came() {
    for (state, words) in [
        ("accepted", "accepted for worker"),
        ("stored", "stored for worker"),
        ("delivered", "handed over to worker"),
        ("acked", "acknowledged by worker"),
    ] {
        let bus = answering(json!({"type": "receipt", "status": state, "to": "worker"}));
        let arguments = ["send", "worker", "hi", "--id", "7", "--receipt", state];
        assert_eq!(bus.run(&arguments).well(), format!("{words} (id 7)\n"));
        assert_eq!(bus.got("message")["receipt"], state);
    }
}

#[test]
fn send_asks_for_a_place_on_disk_and_an_end() {
    let bus = answering(json!({"type": "receipt", "status": "stored"}));
    bus.run(&["send", "worker", "hi", "--queue", "--ttl", "1500ms"]).well();
    let message = bus.got("message");
    assert_eq!((&message["queue"], &message["ttl_s"]), (&json!(true), &json!(1.5)));
    assert_eq!(message["receipt"], Value::Null);
}

#[test]
fn a_member_of_a_group_is_named() {
    let bus = answering(json!({"type": "receipt", "status": "acked", "to": "w-2"}));
    let arguments = ["send", "@workers", "hi", "--id", "7", "--receipt", "acked"];
    assert_eq!(bus.run(&arguments).well(), "acknowledged by w-2 (of @workers) (id 7)\n");
    let told: Value =
        serde_json::from_str(&bus.run(&[&arguments[..], &["--json"]].concat()).out).unwrap();
    assert_eq!((&told["status"], &told["taken_by"]), (&json!("acked"), &json!("w-2")));
}

#[test]
fn a_state_that_was_not_reached_is_a_failure_with_its_reason() {
    let detail = "'worker' does not acknowledge";
    let refusal = json!({"type": "error", "code": "receipt_impossible", "detail": detail});
    let bus = answering(refusal);
    let outcome = bus.run(&["send", "worker", "hi", "--receipt", "acked"]);
    assert_eq!((outcome.code, outcome.out.as_str()), (1, ""));
    assert_eq!(outcome.err, "hermes-bus: 'worker' does not acknowledge\n");
}

#[test]
fn a_bus_that_does_not_say_in_time_how_far_it_came_is_no_success() {
    let bus = ScriptedBus::start(|_| Vec::new());
    let arguments =
        ["send", "worker", "hi", "--id", "7", "--receipt", "acked", "--timeout", "300ms", "--json"];
    let outcome = bus.run(&arguments);
    assert_eq!(outcome.code, 3, "{outcome:?}");
    assert!(outcome.err.contains("'hermes-bus trace 7' says where it is"), "{outcome:?}");
    let told: Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!((&told["ok"], &told["error"]), (&json!(false), &json!("no_receipt")));
}

#[test]
fn names_that_the_bus_suggests_are_passed_on() {
    let bus = answering(json!({
        "type": "error", "code": "endpoint_not_found", "detail": "Endpoint 'wroker' is not connected",
        "suggestions": ["worker", "worker-2"],
    }));
    let outcome = bus.run(&["send", "wroker", "hi", "--queue"]);
    let said =
        "hermes-bus: Endpoint 'wroker' is not connected. Did you mean 'worker' or 'worker-2'?\n";
    assert_eq!((outcome.code, outcome.err.as_str()), (1, said));
}

#[test]
fn publish_reaches_subscribers_and_says_if_some_were_missed() {
    let bus =
        answering(json!({"type": "receipt", "status": "delivered", "endpoints": 3, "failed": 0}));
    let said = bus.run(&["publish", "build.done", "ok", "--id", "7"]).well();
    assert_eq!(said, "handed over to 3 endpoints (id 7)\n");
    assert_eq!(bus.got("message")["to"], "#build.done");
    let bus = answering(json!({"type": "receipt", "status": "acked", "endpoints": 3, "failed": 1}));
    let outcome = bus.run(&["publish", "#a", "ok", "--id", "7", "--receipt", "acked"]);
    let said = "acknowledged by 3 endpoints, but not with 1 of them (id 7)\n";
    assert_eq!((outcome.code, outcome.out.as_str()), (1, said));
    assert_eq!(bus.run(&["publish", "a.*", "x"]).code, 2, "a pattern is no topic");
}

#[test]
fn notify_hermes_waits_for_a_state_and_says_which_it_was() {
    let bus = answering(json!({"type": "receipt", "status": "stored", "to": "worker"}));
    let arguments = ["--to", "worker", "hi", "--receipt", "stored", "--queue"];
    let said = bus.notify_hermes(&arguments).well();
    assert_eq!(said, "OK: notified worker (stored for worker)\n");
    let message = bus.got("message");
    assert_eq!((&message["receipt"], &message["queue"]), (&json!("stored"), &json!(true)));
    let said = bus.notify_hermes(&["--to", "worker", "hi"]).well();
    assert_eq!(said, "OK: notified worker\n");
    let bus = answering(json!({"type": "error", "code": "expired", "detail": "too late"}));
    let outcome = bus.notify_hermes(&["--to", "worker", "hi", "--receipt", "acked"]);
    assert_eq!((outcome.code, outcome.err.as_str()), (1, "ERROR: too late\n"));
}

// ---- listening --------------------------------------------------------------------------------------

/// A bus that delivers these messages to whoever registers.
fn delivering(messages: Vec<Value>) -> ScriptedBus {
    ScriptedBus::start(
        move |frame| if is(frame, "register") { messages.clone() } else { Vec::new() },
    )
}

fn numbered(seq: u64, text: &str) -> Value {
    json!({"type": "message", "from": "x", "id": format!("m{seq}"), "seq": seq, "ts": 0,
           "body": {"text": text}})
}

#[test]
fn listen_registers_what_is_asked_for() {
    let bus = delivering(vec![numbered(1, "one")]);
    let token = bus.directory.path().join("token");
    std::fs::write(&token, "secret\n").unwrap();
    let arguments = [
        "listen",
        "worker",
        "--mailbox",
        "--ack",
        "--in-flight",
        "8",
        "--group",
        "@g",
        "--topic",
        "a.>",
        "--conflict",
        "replace",
        "--count",
        "1",
        "--token-file",
        token.to_str().unwrap(),
    ];
    let outcome = bus.run(&arguments);
    assert_eq!(outcome.out, "00:00:00  x  one\n");
    assert!(outcome.err.starts_with("listening as worker on "), "{outcome:?}");
    assert!(outcome.err.ends_with(", 2 messages wait\n"), "{outcome:?}");
    let expected = json!({
        "type": "register", "protocol": 2, "endpoint": "worker", "mailbox": true, "ack": true,
        "in_flight": 1, "groups": ["g"], "topics": ["a.>"], "token": "secret",
    });
    assert_eq!(bus.got("register"), expected, "no more in flight than are wanted");
    assert_eq!(bus.got("ack")["seqs"], json!([1]));
}

#[test]
fn without_ack_nothing_is_acknowledged() {
    let bus = delivering(vec![numbered(1, "one")]);
    bus.run(&["listen", "worker", "--count", "1"]).well();
    let register = bus.got("register");
    assert_eq!((&register["ack"], &register["conflict"]), (&Value::Null, &json!("refuse")));
    assert!(bus.got.try_iter().all(|frame| !is(&frame, "ack")));
}

#[test]
fn a_message_is_acknowledged_when_its_command_has_succeeded_and_given_back_if_not() {
    let bus = delivering(vec![numbered(1, "good"), numbered(2, "bad")]);
    let command = r#"test "$TEXT" = good && test "$DELIVERY" = 1"#;
    let outcome = bus.run(&["listen", "worker", "--ack", "--count", "2", "--exec", command]);
    assert_eq!(outcome.code, 6, "{outcome:?}");
    let settled: Vec<Value> =
        bus.got.try_iter().filter(|f| is(f, "ack") || is(f, "nack")).collect();
    let acked = json!({"type": "ack", "seqs": [1]});
    assert!(settled.contains(&acked), "{settled:?}");
    let nack = settled.iter().find(|frame| is(frame, "nack")).unwrap();
    assert_eq!((&nack["seq"], &nack["requeue"]), (&json!(2), &json!(true)));
}

#[test]
fn a_message_that_cannot_be_printed_is_not_acknowledged() {
    let bus = delivering(vec![numbered(1, "one")]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_hermes-bus"));
    command.arg("--socket").arg(bus.socket()).args(["listen", "worker", "--ack", "--count", "1"]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = command.stdout(full).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(1));
    bus.got("register");
    assert!(bus.got.try_iter().all(|frame| !is(&frame, "ack")));
}

#[test]
fn a_repeated_delivery_and_the_way_it_came_are_shown() {
    let mut message = numbered(1, "one");
    message["delivery"] = 2.into();
    message["via"] = "#a.b".into();
    let bus = delivering(vec![message]);
    let said = bus.run(&["subscribe", "a.*", "#c", "--count", "1"]).well();
    assert_eq!(said, "00:00:00  x #a.b  one  (delivery 2)\n");
    let register = bus.got("register");
    assert_eq!(register["topics"], json!(["a.*", "c"]));
    assert!(register["endpoint"].as_str().unwrap().starts_with("subscribe-"));
}

#[test]
fn a_mailbox_needs_a_name() {
    let bus = delivering(Vec::new());
    let outcome = bus.run(&["listen", "--mailbox"]);
    assert_eq!(outcome.code, 2, "{outcome:?}");
    assert_eq!(bus.run(&["listen", "x", "--in-flight", "3"]).code, 2, "only with --ack");
}

// ---- what the bus keeps ---------------------------------------------------------------------------

/// A bus that answers one operation by what it is asked.
fn keeping(op: &'static str, answer: fn(&Value) -> Value) -> ScriptedBus {
    ScriptedBus::start(move |frame| {
        if !is(frame, "admin") {
            return Vec::new();
        }
        assert_eq!(frame["op"], op);
        let mut answer = answer(frame);
        answer["type"] = "admin_result".into();
        answer["op"] = op.into();
        vec![answer]
    })
}

#[test]
fn mailboxes_are_listed() {
    let answer = |_: &Value| {
        json!({"mailboxes": [
            {"endpoint": "worker", "messages": 12, "bytes": 3400, "oldest_ts": 0.5, "online": false},
            {"endpoint": "a", "messages": 1, "bytes": 5, "oldest_ts": 60, "online": true},
        ]})
    };
    let bus = keeping("mailbox.list", answer);
    let lines = bus.run(&["mailbox", "list"]).well();
    let expected = "\
endpoint  state   messages  bytes  oldest
worker    away    12        3400   1970-01-01 00:00:00
a         online  1         5      1970-01-01 00:01:00
";
    assert_eq!(lines, expected);
    let json = bus.run(&["mailbox", "list", "--json"]).well();
    let first: Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!((&first["endpoint"], &first["messages"]), (&json!("worker"), &json!(12)));
    let bus = keeping("mailbox.list", |_| json!({"mailboxes": []}));
    assert_eq!(bus.run(&["mailbox", "list"]).well(), "nothing waits for anybody\n");
}

/// What Python writes as JSON, and others do not read.
#[test]
fn messages_are_shown_and_printed_as_they_came() {
    let bus = keeping("mailbox.show", |_| json!({"messages": ["REPLACED"]}));
    let entry = r#"{"seq": 1, "from": "x", "arrived_ts": 0, "message": {"body": {"n": NaN, "s": "\ud800", "f": 1.0e0}}}"#;
    entry.clone_into(&mut bus.replacement.lock().unwrap());
    let said = bus.run(&["mailbox", "show", "w", "--json"]).well();
    assert_eq!(said, format!("{entry}\n"));
    let said = bus.run(&["mailbox", "show", "w"]).well();
    assert_eq!(said, "1  1970-01-01 00:00:00  x  {\"n\": NaN, \"s\": \"\\ud800\", \"f\": 1.0e0}\n");
}

/// Numbers from `after` on, two a page, five in all.
fn page(asked: &Value, entry: fn(u64) -> Value, key: &str) -> Value {
    let after = asked["after"].as_u64().unwrap_or(0);
    let entries: Vec<Value> = (after + 1..=5).take(2).map(entry).collect();
    let last = after + entries.len() as u64;
    let mut answer = json!({key: entries});
    if last < 5 {
        answer["next"] = last.into();
    }
    answer
}

fn waiting(seq: u64) -> Value {
    json!({"seq": seq, "id": seq, "from": "x", "ts": 0, "arrived_ts": seq, "deliveries": seq - 1,
           "bytes": 9, "message": {"body": {"text": format!("t{seq}\n")}}})
}

#[test]
fn what_waits_is_shown_page_after_page() {
    let bus = keeping("mailbox.show", |asked| page(asked, waiting, "messages"));
    let lines = bus.run(&["mailbox", "show", "worker"]).well();
    assert_eq!(lines.lines().count(), 5);
    assert_eq!(lines.lines().next(), Some("1  1970-01-01 00:00:01  x  t1\\n"));
    let third = "3  1970-01-01 00:00:03  x  t3\\n  (handed over 2 times)";
    assert_eq!(lines.lines().nth(2), Some(third));
    assert_eq!(bus.got("admin")["endpoint"], "worker");
    let lines = bus.run(&["mailbox", "show", "worker", "--limit", "3", "--json"]).well();
    let seqs: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].clone())
        .collect();
    assert_eq!(seqs, [1, 2, 3]);
}

#[test]
fn a_mailbox_is_drained_and_purged() {
    let bus = ScriptedBus::start({
        // The first one is in the hands of the endpoint's session, and stays.
        |frame| {
            if !is(frame, "admin") {
                return Vec::new();
            }
            let seq = frame["after"].as_u64().unwrap_or(0) + 1;
            let next = (seq < 4).then_some(seq);
            let (messages, removed) = ([waiting(seq)], u64::from(seq > 1));
            let answer = json!({"type": "admin_result", "messages": messages, "removed": removed,
                                "more": next.is_some(), "next": next});
            vec![answer]
        }
    });
    let outcome = bus.run(&["mailbox", "drain", "worker"]);
    let note =
        "hermes-bus: 3 messages removed; 1 message in the hands of its session: left there\n";
    assert_eq!(outcome.err, note);
    assert_eq!(outcome.well().lines().count(), 4);
    let bus = keeping("mailbox.purge", |_| json!({"messages": 1, "bytes": 77}));
    let said = bus.run(&["mailbox", "purge", "worker"]).well();
    assert_eq!(said, "1 message for worker removed (77 bytes)\n");
}

#[test]
fn dead_letters_are_listed_shown_retried() {
    let bus = keeping("dead.list", |asked| {
        json!({"dead": [{"key": 9, "endpoint": asked["endpoint"], "from": "x", "died_ts": 0,
                         "reason": "rejected", "detail": "no \u{1b}"}]})
    });
    let expected = "\
key  endpoint  from  died                 reason
9    w         x     1970-01-01 00:00:00  rejected: no \\u{1b}
";
    assert_eq!(bus.run(&["dead", "list", "w"]).well(), expected);
    let bus = keeping("dead.show", |asked| {
        json!({"key": asked["key"], "endpoint": "w", "from": "x", "died_ts": 60, "id": "m 1",
                   "arrived_ts": 1, "deliveries": 2, "via": "#a.b", "reason": "rejected",
                   "detail": "no \u{1b}", "message": {"body": {"text": "one\ntwo"}}})
    });
    let expected = "\
9  x → w  one\\ntwo
  arrived: 1970-01-01 00:00:01 via #a.b, handed over 2 times
  died: 1970-01-01 00:01:00, rejected: no \\u{1b}
  id: m 1
";
    assert_eq!(bus.run(&["dead", "show", "9"]).well(), expected);
    let bus = keeping("dead.retry", |_| json!({"retried": 2}));
    for (arguments, asked) in [
        (&["9"][..], json!({"key": 9})),
        (&["--endpoint", "w"], json!({"endpoint": "w"})),
        (&["--all"], json!({"all": true})),
    ] {
        let said = bus.run(&[&["dead", "retry"], arguments].concat()).well();
        assert_eq!(said, "2 dead letters retried\n");
        let request = bus.got("admin");
        let (key, value) = asked.as_object().unwrap().iter().next().unwrap();
        assert_eq!(&request[key], value);
    }
    assert_eq!(bus.run(&["dead", "retry"]).code, 2, "nothing is not everything");
    assert_eq!(bus.run(&["dead", "drop", "some text"]).code, 2);
    assert_eq!(bus.run(&["dead", "retry", "9", "--all"]).code, 2);
}

#[test]
fn dead_letters_that_found_no_place_are_a_failure() {
    const WHY: &str = "mailbox_full: 9 bytes wait for it";
    let bus = keeping("dead.retry", |_| json!({"retried": 1, "refused": 3, "why": WHY}));
    let outcome = bus.run(&["dead", "retry", "--all"]);
    assert_eq!((outcome.code, outcome.out.as_str()), (1, "1 dead letter retried\n"));
    assert_eq!(outcome.err, format!("hermes-bus: 3 not retried, and kept: {WHY}\n"));
    let outcome = bus.run(&["dead", "retry", "--all", "--json"]);
    let told: Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!(told, json!({"ok": false, "retried": 1, "refused": 3, "why": WHY}));
    assert_eq!((outcome.code, outcome.err.as_str()), (1, ""));
}

fn past(number: u64) -> Value {
    json!({"ts": number, "id": number, "from": "x", "to": "y", "outcome": "acked", "bytes": 9})
}

#[test]
fn the_past_is_printed_in_its_order() {
    // The newest first, as they are asked for.
    let bus = keeping("history", |asked| {
        assert_eq!(asked["order"], "newest");
        json!({"entries": [past(3), past(2), past(1)]})
    });
    let lines = bus.run(&["history", "--search", "a b", "--from", "x"]).well();
    let expected = "\
1970-01-01 00:00:01  x → y  acked  9 bytes
1970-01-01 00:00:02  x → y  acked  9 bytes
1970-01-01 00:00:03  x → y  acked  9 bytes
";
    assert_eq!(lines, expected);
    let asked = bus.got("admin");
    assert_eq!((&asked["search"], &asked["from"]), (&json!("a b"), &json!("x")));
    assert!(asked.get("to").is_none() && asked.get("since").is_none());
    let bus = keeping("history", |asked| {
        assert_eq!(asked["order"], "oldest");
        page(asked, past, "entries")
    });
    let arguments = ["history", "--since", "1970-01-01T00:00:01Z", "--json"];
    assert_eq!(bus.run(&arguments).well().lines().count(), 5);
    assert_eq!(bus.got("admin")["since"], 1.0);
}

#[test]
fn history_follows_what_comes_and_prints_nothing_twice() {
    let bus = ScriptedBus::start({
        let asked = Arc::new(std::sync::atomic::AtomicU64::new(1));
        move |frame| {
            if !is(frame, "admin") {
                return Vec::new();
            }
            // Each time one more has come; what is there from a moment on is told again.
            let last = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let since = frame["since"].as_f64().unwrap_or(0.0) as u64;
            let mut entries: Vec<Value> = (since.max(1)..=last).map(past).collect();
            if frame["order"] == "newest" {
                entries.reverse();
            }
            vec![json!({"type": "admin_result", "entries": entries})]
        }
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_hermes-bus"));
    command.arg("--socket").arg(bus.socket()).args(["history", "--follow", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = io::BufRead::lines(io::BufReader::new(child.stdout.take().unwrap()));
    let ids: Vec<Value> = lines
        .take(4)
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()["id"].clone())
        .collect();
    assert_eq!(ids, [1, 2, 3, 4]);
    // Its reader is gone now.
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn groups_are_listed_with_their_members() {
    let bus = keeping("groups", |asked| {
        let members = json!([{"endpoint": "w-1", "online": true, "load": 3},
                             {"endpoint": "w-2", "online": false, "load": 0}]);
        let name = asked["group"].as_str().unwrap_or("workers");
        json!({"groups": [{"group": name, "members": members}]})
    });
    assert_eq!(bus.run(&["group", "list"]).well(), "group    members\nworkers  w-1, w-2\n");
    let lines = bus.run(&["group", "members", "@workers"]).well();
    assert_eq!(lines, "endpoint  state   load\nw-1       online  3\nw-2       away    0\n");
    bus.got("admin");
    assert_eq!(bus.got("admin")["group"], "workers");
    let lines = bus.run(&["group", "members", "workers", "--json"]).well();
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(first, json!({"endpoint": "w-1", "online": true, "load": 3}));
    let nobody = keeping("groups", |_| json!({"groups": []}));
    let outcome = nobody.run(&["group", "members", "workers", "--json"]);
    let told: Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!((outcome.code, &told["error"]), (1, &json!("no_such_group")));
}

#[test]
fn a_refusal_of_the_daemon_is_said() {
    let bus = ScriptedBus::start(|frame| match frame["type"].as_str() {
        Some("admin") => {
            vec![json!({"type": "error", "code": "forbidden", "detail": "only its own user may"})]
        }
        _ => Vec::new(),
    });
    let outcome = bus.run(&["mailbox", "list", "--json"]);
    assert_eq!(outcome.code, 1);
    let told: Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!(told["error"], "forbidden");
    let outcome = bus.run(&["dead", "drop", "--all"]);
    assert!(outcome.err.contains("does not know 'dead.drop'"), "{outcome:?}");
}

// ---- seeing -----------------------------------------------------------------------------------------

#[test]
fn a_trace_is_told_state_by_state() {
    let bus = ScriptedBus::start(|frame| match frame["type"].as_str() {
        Some("trace") if frame["id"] == "7" => vec![json!({
            "type": "traced", "id": "7", "standings": [
                {"endpoint": "worker", "place": "waiting", "since_ts": 3,
                 "blocked_by": "worker is away", "next": "it is handed over when worker is back"},
            ], "states": [
                {"state": "accepted", "ts": 1, "endpoint": null, "detail": null},
                {"state": "stored", "ts": 2, "endpoint": "worker", "detail": null},
                {"state": "waiting", "ts": 3, "endpoint": "worker", "detail": null},
            ],
        })],
        Some("trace") => vec![json!({"type": "traced", "id": frame["id"], "states": []})],
        _ => Vec::new(),
    });
    let expected = "\
1970-01-01 00:00:01  accepted
1970-01-01 00:00:02  stored  worker
1970-01-01 00:00:03  in the mailbox of  worker
now waiting for worker since 00:00:03
  because: worker is away
  then: it is handed over when worker is back
";
    assert_eq!(bus.run(&["trace", "7"]).well(), expected);
    let told: Value = serde_json::from_str(&bus.run(&["trace", "7", "--json"]).well()).unwrap();
    assert_eq!((&told["id"], told["states"].as_array().unwrap().len()), (&json!("7"), 3));
    let outcome = bus.run(&["trace", "8"]);
    assert_eq!((outcome.code, outcome.out.as_str()), (1, ""));
    assert!(outcome.err.contains("knows nothing of a message with the id '8'"), "{outcome:?}");
}

#[test]
fn a_watcher_prints_who_comes_and_what_goes_through() {
    let bus = ScriptedBus::start(|frame| match frame["type"].as_str() {
        Some("watch") => vec![
            json!({"type": "watching", "presence": true, "tap": "envelopes"}),
            json!({"type": "presence", "endpoint": "w", "state": "online", "session_id": "s", "ts": 1,
                   "reason": "registered"}),
            json!({"type": "tap", "outcome": "delivered", "bytes": 77,
                   "envelope": {"from": "x", "to": "w", "ts": 2}}),
            json!({"type": "gap", "source": "tap", "count": 4, "bytes": 99}),
            json!({"type": "gap", "source": "presence", "count": 1, "bytes": 99}),
        ],
        _ => Vec::new(),
    });
    let outcome = bus.run(&["watch", "--tap", "envelopes", "--count", "4"]);
    let expected = "\
00:00:01  w  online  (registered)
00:00:02  x → w  delivered  77 bytes
--:--:--  4 more were routed and not told
--:--:--  1 more came or went and was not told: 'hermes-bus list' says who is there
";
    assert_eq!(outcome.well(), expected);
    let asked = bus.got("watch");
    assert_eq!((&asked["presence"], &asked["tap"]), (&json!(true), &json!("envelopes")));
}
