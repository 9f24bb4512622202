//! Hooks as real child processes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use hermes_bus_core::Outcome;
use rustix::process::{Pid, test_kill_process};

use super::*;
use crate::hooks::Pattern;

/// Waits for something that nobody announces.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "waited for: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

struct Stage {
    directory: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        Stage { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// An executable script for the shell, in which `$D` is the stage's directory.
    fn script(&self, name: &str, text: &str) -> Hook {
        let directory = self.directory.path().display();
        let text = format!("#!/bin/sh\nexport D={directory}\n{text}\n");
        self.file(&format!("{name}.sh"), &text, 0o755)
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> Hook {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
        Hook::at(self.path(name))
    }

    /// Waits until a hook has written a whole line into a file.
    fn line(&self, name: &str) -> String {
        let read = || fs::read_to_string(self.path(name)).unwrap_or_default();
        until(name, || read().ends_with('\n'));
        read().trim_end().to_owned()
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Lets hooks go on that wait with `GATE`.
    fn open_gate(&self) {
        self.gate_opener()();
    }

    /// The same, later, and on any thread.
    fn gate_opener(&self) -> impl FnOnce() + Send + use<> {
        let gate = self.path("gate");
        move || fs::write(gate, "").unwrap()
    }
}

/// Has a shell script wait for the gate.
const GATE: &str = "while [ ! -e $D/gate ]; do sleep 0.01; done";

fn batch(texts: &[&str]) -> TapBatch {
    let mut batch = TapBatch::default();
    texts.iter().for_each(|text| batch.push_copy(&[text.as_bytes()], Outcome::Accepted));
    batch
}

fn numbered(numbers: std::ops::Range<u32>) -> TapBatch {
    let texts: Vec<_> = numbers.map(|number| format!("{{\"id\": \"{number}\"}}")).collect();
    batch(&texts.iter().map(String::as_str).collect::<Vec<_>>())
}

fn start(hooks: Vec<Hook>) -> Runner {
    Runner::start(hooks, Limits::default()).unwrap()
}

/// Waits until nothing runs or waits, and `ended` calls have ended one way or another.
fn until_ended(runner: &Runner, ended: u64) -> Counters {
    let sum =
        |c: &Counters| c.succeeded + c.failed + c.timed_out + c.not_started + c.skipped + c.dropped;
    until(&format!("the end of {ended} calls: {:?}", runner.counters()), || {
        let counters = runner.counters();
        sum(&counters) >= ended && counters.running == 0 && counters.waiting == 0
    });
    assert_eq!(sum(&runner.counters()), ended, "{:?}", runner.counters());
    runner.counters()
}

fn is_alive(pid: &str) -> bool {
    // A zombie that another process has to reap has ended too.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    let id = Pid::from_raw(pid.parse().unwrap()).unwrap();
    test_kill_process(id).is_ok() && !matches!(state, None | Some('Z' | 'X'))
}

/// Lines that were logged about a hook.
fn log_of(hook: &Hook) -> Vec<String> {
    let path = hook.path.display().to_string();
    let text = String::from_utf8(log().lock().unwrap().clone()).unwrap();
    text.lines().filter(|line| line.contains(&path)).map(str::to_owned).collect()
}

fn log() -> &'static Mutex<Vec<u8>> {
    static LOG: OnceLock<&'static Mutex<Vec<u8>>> = OnceLock::new();
    LOG.get_or_init(|| {
        let log: &'static Mutex<Vec<u8>> = Box::leak(Box::default());
        let writer = || Writer;
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        log
    })
}

struct Writer;

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        log().lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// ---- what a hook gets -------------------------------------------------------------------------------

#[test]
fn shell_python_and_compiled_programs_get_the_message() {
    let stage = Stage::new();
    let sh = stage.script("h.sh", "cat > $D/sh; echo >> $D/sh");
    let python = stage.file(
        "h.py",
        "import os, sys\nto = sys.argv[1]\nopen(to, 'w').write(sys.stdin.read() + '\\n')\n",
        0o644,
    );
    let python = Hook { args: vec![stage.path("python").display().to_string()], ..python };
    let tee = fs::canonicalize("/usr/bin/tee").unwrap();
    let tee = Hook { args: vec![stage.path("tee").display().to_string()], ..Hook::at(tee) };
    let runner = start(vec![sh, python, tee]);
    let message = r#"{"type": "message", "to": "x", "body": "hé", "id": "1"}"#;
    runner.offer(batch(&[message])).unwrap();
    assert_eq!(until_ended(&runner, 3).succeeded, 3);
    assert_eq!((stage.line("sh"), stage.line("python")), (message.into(), message.into()));
    assert_eq!(fs::read_to_string(stage.path("tee")).unwrap(), message);
}

#[test]
fn the_environment_tells_of_the_message() {
    let stage = Stage::new();
    let mut hook = stage.script(
        "h",
        "echo \"$HERMES_BUS_MESSAGE_ID|$HERMES_BUS_MESSAGE_TYPE|$HERMES_BUS_MESSAGE_FROM|\
         $HERMES_BUS_MESSAGE_TO|$HERMES_BUS_MESSAGE_TS|$HERMES_BUS_MESSAGE_OUTCOME|$OWN|$PATH\" > $D/out",
    );
    // What is the message's own cannot be set to something else.
    hook.env = vec![("OWN".into(), "mine".into()), ("HERMES_BUS_MESSAGE_ID".into(), "x".into())];
    let runner = start(vec![hook]);
    let mut batch = TapBatch::default();
    let message = br#"{"to": "lead", "body": {"type": "ack"}, "id": "7", "ts": 1.5, "from": "w"}"#;
    batch.push_copy(&[message], Outcome::Held);
    runner.offer(batch).unwrap();
    let path = std::env::var("PATH").unwrap();
    assert_eq!(stage.line("out"), format!("7|ack|w|lead|1.5|held|mine|{path}"));
    until_ended(&runner, 1);
}

#[test]
fn no_descriptor_and_no_high_priority_is_inherited() {
    let stage = Stage::new();
    let hook = stage.script("h", "ls /proc/self/fd | tr '\\n' ' ' > $D/fds; nice > $D/nice");
    // Descriptors that this process was given itself, and one that was opened without care.
    let careless = rustix::io::dup(fs::File::open("/dev/null").unwrap()).unwrap();
    crate::hooks::keep_files_from_children();
    let runner = start(vec![hook]);
    runner.offer(batch(&["{}"])).unwrap();
    assert_eq!(until_ended(&runner, 1).succeeded, 1);
    drop(careless);
    // The fourth is the directory that `ls` reads.
    assert_eq!(fs::read_to_string(stage.path("fds")).unwrap().trim(), "0 1 2 3");
    let own = rustix::process::getpriority_process(None).unwrap();
    assert_eq!(stage.line("nice"), (own + NICENESS).min(19).to_string());
}

#[test]
fn a_hook_that_does_not_read_a_large_message_is_no_failure() {
    let stage = Stage::new();
    let early = stage.script("early", "exit 0");
    let deaf = stage.script("deaf", &format!("exec <&-\n{GATE}"));
    let reader = stage.script("reader", "wc -c > $D/read");
    let runner = start(vec![early, deaf, reader]);
    let large = format!("{{\"id\": \"{}\"}}", "x".repeat(10 * 1024 * 1024));
    runner.offer(batch(&[&large])).unwrap();
    assert_eq!(stage.line("read").trim(), large.len().to_string());
    stage.open_gate();
    assert_eq!(until_ended(&runner, 3).succeeded, 3);
}

// ---- how it ends ------------------------------------------------------------------------------------

#[test]
fn a_failure_is_counted_and_logged_with_the_end_of_the_output() {
    log();
    let stage = Stage::new();
    let crash = stage.script("crash", "kill -SEGV $$");
    let fails = stage.script("fails", "echo first\nprintf 'second\\033[31m' >&2\nexit 3");
    let fine = stage.script("fine", "echo hello");
    let runner = start(vec![crash.clone(), fails.clone(), fine.clone()]);
    runner.offer(batch(&["{}"])).unwrap();
    let counters = until_ended(&runner, 3);
    assert_eq!((counters.failed, counters.succeeded), (2, 1));
    let exits = [(Exit::Code(0), 1), (Exit::Code(3), 1), (Exit::Signal(11), 1)];
    assert_eq!(counters.exits, exits);
    assert!(log_of(&crash)[0].contains("failed with signal 11"), "{:?}", log_of(&crash));
    let line = &log_of(&fails)[0];
    assert!(line.contains("failed with exit code 3"), "{line}");
    assert!(line.ends_with("first | second\\u{1b}[31m"), "{line}");
    assert_eq!(log_of(&fine), Vec::<String>::new());
}

#[test]
fn failures_are_told_a_few_times_and_then_counted() {
    log();
    let stage = Stage::new();
    let hook = stage.script("h", "exit 1");
    let runner = start(vec![hook.clone()]);
    runner.offer(numbered(0..20)).unwrap();
    assert_eq!(until_ended(&runner, 20).failed, 20);
    assert_eq!(log_of(&hook).len(), FAILURE_LINES_MAX as usize);
    runner.stop(Duration::from_secs(5));
    assert!(log_of(&hook)[5].contains("15 more calls have failed"), "{:?}", log_of(&hook));
}

#[test]
fn a_hook_that_hangs_is_asked_to_end() {
    let stage = Stage::new();
    let hook =
        stage.script("h", "trap 'echo asked > $D/out; exit 0' TERM\nwhile :; do sleep 0.01; done");
    let hook = Hook { timeout: Some(Duration::from_secs(2)), ..hook };
    let runner = start(vec![hook]);
    runner.offer(batch(&["{}"])).unwrap();
    assert_eq!(until_ended(&runner, 1).timed_out, 1);
    assert_eq!(stage.line("out"), "asked");
}

#[test]
fn a_group_that_does_not_end_is_killed() {
    let stage = Stage::new();
    let hook = stage.script(
        "h",
        "trap '' TERM\nsh -c 'echo $$ > $D/child; while :; do sleep 1; done' &\n\
         echo $$ > $D/leader; while :; do sleep 1; done",
    );
    let limits = Limits {
        timeout: Duration::from_secs(2),
        kill_after: Duration::from_millis(100),
        ..Limits::default()
    };
    let runner = Runner::start(vec![hook], limits).unwrap();
    runner.offer(batch(&["{}"])).unwrap();
    let (leader, child) = (stage.line("leader"), stage.line("child"));
    assert!(is_alive(&child));
    assert_eq!(until_ended(&runner, 1).timed_out, 1);
    until("the end of the group", || !is_alive(&leader) && !is_alive(&child));
}

#[test]
fn whom_a_hook_leaves_behind_at_its_timeout_is_killed_too() {
    let stage = Stage::new();
    let hook = stage.script(
        "h",
        "sh -c 'trap \"\" TERM; echo $$ > $D/child; while :; do sleep 1; done' &\nwait",
    );
    let limits = Limits {
        timeout: Duration::from_secs(2),
        kill_after: Duration::from_millis(500),
        ..Limits::default()
    };
    let runner = Runner::start(vec![hook], limits).unwrap();
    runner.offer(batch(&["{}"])).unwrap();
    let child = stage.line("child");
    assert_eq!(until_ended(&runner, 1).timed_out, 1);
    until("the end of the child", || !is_alive(&child));
}

#[test]
fn a_gigabyte_of_output_takes_no_memory() {
    let stage = Stage::new();
    let hook = stage.script("h", "head -c 1073741824 /dev/zero\necho end\nexit 1");
    log();
    let runner = start(vec![hook.clone()]);
    runner.offer(batch(&["{}"])).unwrap();
    assert_eq!(until_ended(&runner, 1).failed, 1);
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < 400 * 1024, "{peak_kib} KiB");
    assert!(log_of(&hook)[0].ends_with("end"));
    assert!(log_of(&hook)[0].len() < 6 * Limits::default().output_bytes_max + 200);
}

#[test]
fn a_background_child_keeps_nothing_waiting() {
    let stage = Stage::new();
    let child = format!("echo $$ >> $D/pids; {GATE}; echo late; echo wrote >> $D/late");
    let hook = stage.script("h", &format!("sh -c '{child}' &"));
    let limits = Limits { concurrency: 1, ..Limits::default() };
    let runner = Runner::start(vec![hook], limits).unwrap();
    runner.offer(numbered(0..3)).unwrap();
    // All end although the first one's child still has the output.
    assert_eq!(until_ended(&runner, 3).succeeded, 3);
    until("three children", || stage.lines("pids").len() == 3);
    assert!(stage.lines("pids").iter().all(|pid| is_alive(pid)));
    // What they write then is still read.
    stage.open_gate();
    until("their last lines", || stage.lines("late").len() == 3);
}

#[test]
fn of_outputs_that_stay_open_the_oldest_is_closed() {
    let stage = Stage::new();
    let slow_gate = GATE.replace("0.01", "0.2");
    let child = format!(
        "trap \"\" PIPE; {slow_gate}; echo late 2> /dev/null && r=wrote || r=closed; echo $r >> $D/late"
    );
    let hook = stage.script("h", &format!("sh -c '{child}' &"));
    let runner = start(vec![hook]);
    let calls = LEFT_OPEN_MAX as u32 + 3;
    runner.offer(numbered(0..calls)).unwrap();
    assert_eq!(until_ended(&runner, calls.into()).succeeded, u64::from(calls));
    stage.open_gate();
    until("all last lines", || stage.lines("late").len() == calls as usize);
    let closed = stage.lines("late").iter().filter(|line| *line == "closed").count();
    assert_eq!(closed, 3);
}

#[test]
fn a_file_that_is_not_there_is_skipped_until_it_is() {
    log();
    let stage = Stage::new();
    let hook = Hook::at(stage.path("late"));
    let directory = Hook::at(stage.directory.path());
    let runner = start(vec![hook.clone(), directory]);
    runner.offer(numbered(0..3)).unwrap();
    assert_eq!(until_ended(&runner, 6).skipped, 6);
    assert_eq!(
        log_of(&hook).iter().filter(|line| line.contains("late: there is no such")).count(),
        1
    );
    stage.file("late", "#!/bin/sh\n", 0o755);
    runner.offer(numbered(0..1)).unwrap();
    let counters = until_ended(&runner, 8);
    assert_eq!((counters.skipped, counters.succeeded), (7, 1));
}

#[test]
fn what_cannot_be_started_is_counted_and_told() {
    log();
    let stage = Stage::new();
    let hook = stage.file("h", "#!/no/such/interpreter\n", 0o755);
    let runner = start(vec![hook.clone()]);
    runner.offer(numbered(0..1)).unwrap();
    assert_eq!(until_ended(&runner, 1).not_started, 1);
    assert!(log_of(&hook)[0].contains("cannot be started"), "{:?}", log_of(&hook));
}

// ---- many calls -------------------------------------------------------------------------------------

#[test]
fn every_call_of_a_flood_is_counted_and_no_zombie_is_left() {
    let stage = Stage::new();
    let hooks = ["a", "b", "c"].map(|name| stage.script(name, "cat > /dev/null"));
    let runner = start(hooks.to_vec());
    for first in (0..10_000).step_by(100) {
        let mut batch = numbered(first..first + 100);
        while let Err(returned) = runner.offer(batch) {
            batch = returned;
        }
    }
    let counters = until_ended(&runner, 30_000);
    assert!(counters.succeeded >= 1_004, "{counters:?}");
    assert_eq!(counters.succeeded + counters.dropped, 30_000, "{counters:?}");
    let own = std::process::id();
    until("no zombie", || {
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children"));
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let stats = entries.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
        let zombie = format!(") Z {own} ");
        children.is_ok() && !stats.into_iter().any(|stat| stat.contains(&zombie))
    });
}

#[test]
fn the_oldest_calls_are_dropped_first() {
    log();
    let stage = Stage::new();
    let hook = stage.script("h", &format!("{GATE}\necho $HERMES_BUS_MESSAGE_ID >> $D/ids"));
    let limits = Limits { concurrency: 1, waiting_max: 3, ..Limits::default() };
    let runner = Runner::start(vec![hook.clone()], limits).unwrap();
    runner.offer(numbered(0..7)).unwrap();
    runner.offer(numbered(7..10)).unwrap();
    until("the drops", || runner.counters().dropped == 6);
    assert_eq!((runner.counters().running, runner.counters().waiting), (1, 3));
    stage.open_gate();
    assert_eq!(until_ended(&runner, 10).succeeded, 4);
    assert_eq!(stage.lines("ids"), ["0", "7", "8", "9"]);
    runner.stop(Duration::from_secs(5));
    let told = log_of(&hook);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("3 calls were dropped: too many calls wait"), "{told:?}");
    assert!(told[1].contains("3 more calls were dropped"), "{told:?}");
}

#[test]
fn the_same_calls_are_left_of_a_batch_whether_most_are_passed_over_or_not() {
    let wait_all = |filter: Filter| {
        let stage = Stage::new();
        let first = stage.script("a", &format!("{GATE}\necho $HERMES_BUS_MESSAGE_ID >> $D/a"));
        let second = stage.script("b", &format!("{GATE}\necho $HERMES_BUS_MESSAGE_ID >> $D/b"));
        let hooks = vec![Hook { filter, ..first }, second];
        let limits = Limits { concurrency: 3, waiting_max: 5, ..Limits::default() };
        let runner = Runner::start(hooks, limits).unwrap();
        runner.offer(numbered(0..1)).unwrap();
        runner.offer(numbered(1..100)).unwrap();
        until("the drops", || runner.counters().dropped == 200 - 3 - 5);
        assert_eq!((runner.counters().running, runner.counters().waiting), (3, 5));
        stage.open_gate();
        assert_eq!(until_ended(&runner, 200).succeeded, 8);
        let sorted = |name| {
            let mut lines = stage.lines(name);
            lines.sort();
            lines
        };
        (sorted("a"), sorted("b"))
    };
    let all = wait_all(Filter::default());
    let strings = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    assert_eq!(all, (strings(&["0", "1", "98", "99"]), strings(&["0", "97", "98", "99"])));
    // A filter that takes everything, too, but has to be asked.
    let asked = wait_all(Filter { to: Some(vec![Pattern::new("*")]), ..Filter::default() });
    assert_eq!(asked, all);
}

#[test]
fn the_bytes_of_waiting_calls_are_limited() {
    let stage = Stage::new();
    let hook = stage.script("h", &format!("{GATE}\necho $HERMES_BUS_MESSAGE_ID >> $D/ids"));
    let limits = Limits { concurrency: 1, waiting_bytes_max: 25_000, ..Limits::default() };
    let runner = Runner::start(vec![hook], limits).unwrap();
    for number in 0..5 {
        let text = format!("{{\"id\": \"{number}\", \"x\": \"{}\"}}", "x".repeat(10_000));
        runner.offer(batch(&[&text])).unwrap();
    }
    until("the drops", || runner.counters().dropped == 2);
    stage.open_gate();
    until_ended(&runner, 5);
    assert_eq!(stage.lines("ids"), ["0", "3", "4"]);
}

#[test]
fn what_the_tap_has_left_out_counts_for_every_hook() {
    let stage = Stage::new();
    let runner = start(vec![stage.script("a", ""), stage.script("b", "")]);
    let mut batch = numbered(0..10);
    batch.shrink_to(1);
    runner.offer(batch).unwrap();
    let counters = until_ended(&runner, 20);
    assert_eq!((counters.dropped, counters.succeeded), (18, 2));
}

#[test]
fn a_hook_at_its_own_limit_holds_up_no_other() {
    let stage = Stage::new();
    let slow = stage.script("slow", &format!("echo $HERMES_BUS_MESSAGE_ID >> $D/began\n{GATE}"));
    let slow = Hook { concurrency: Some(1), ..slow };
    let quick = stage.script("quick", "echo x >> $D/quick");
    let runner = start(vec![slow, quick]);
    runner.offer(numbered(0..8)).unwrap();
    until("the quick ones", || stage.lines("quick").len() == 8);
    until("what is left", || runner.counters().running == 1 && runner.counters().waiting == 7);
    assert_eq!(stage.lines("began"), ["0"]);
    stage.open_gate();
    assert_eq!(until_ended(&runner, 16).succeeded, 16);
    assert_eq!(stage.lines("began"), ["0", "1", "2", "3", "4", "5", "6", "7"]);
}

#[test]
fn no_more_than_the_limit_run_at_once() {
    let stage = Stage::new();
    let hook = stage.script("h", &format!("echo x >> $D/began\n{GATE}"));
    let runner = start(vec![hook.clone(), hook]);
    runner.offer(numbered(0..10)).unwrap();
    until("a full house", || stage.lines("began").len() == 4 && runner.counters().waiting == 16);
    assert_eq!(runner.counters().running, 4);
    stage.open_gate();
    assert_eq!(until_ended(&runner, 20).succeeded, 20);
}

#[test]
fn only_matching_messages_are_for_a_hook() {
    let stage = Stage::new();
    let hook = stage.script("h", "echo $HERMES_BUS_MESSAGE_ID >> $D/ids");
    let filter = Filter { to: Some(vec![Pattern::new("lead*")]), ..Filter::default() };
    let runner = start(vec![Hook { filter, concurrency: Some(1), ..hook }]);
    let texts = [
        r#"{"to": "lead", "id": "1"}"#,
        r#"{"to": "other", "id": "2"}"#,
        r#"{"to": "leader", "id": "3"}"#,
    ];
    runner.offer(batch(&texts)).unwrap();
    assert_eq!(until_ended(&runner, 2).succeeded, 2);
    assert_eq!(stage.lines("ids"), ["1", "3"]);
}

// ---- the routing thread's side ----------------------------------------------------------------------

#[test]
fn a_runner_that_is_behind_gives_batches_back() {
    let stage = Stage::new();
    let runner = start(vec![stage.script("h", "")]);
    let large = "x".repeat(OFFERED_BYTES_MAX / 2);
    let mut returned = 0;
    let mut offered = 0;
    // The thread needs some time for each, to copy it; this one needs next to none to offer it.
    let batches: Vec<_> = (0..16).map(|_| batch(&[&large])).collect();
    for batch in batches {
        offered += 1;
        if let Err(batch) = runner.offer(batch) {
            returned += 1;
            assert_eq!(batch.len(), 1);
        }
    }
    assert!(returned > 0, "{offered} were taken");
    until_ended(&runner, offered - returned);
    let one = numbered(0..1);
    runner.offer(one).unwrap();
    until_ended(&runner, offered - returned + 1);
}

#[test]
fn other_hooks_take_over_while_calls_wait_and_run() {
    let stage = Stage::new();
    let kept =
        stage.script("kept", &format!("{GATE}\necho kept-$X-$HERMES_BUS_MESSAGE_ID >> $D/out"));
    let gone = stage.script("gone", &format!("{GATE}\necho gone >> $D/gone"));
    let new = stage.script("new", "echo new >> $D/new");
    let limits = Limits { concurrency: 2, ..Limits::default() };
    let runner = Runner::start(vec![kept.clone(), gone], limits.clone()).unwrap();
    runner.offer(numbered(0..2)).unwrap();
    until("two that run", || runner.counters().running == 2 && runner.counters().waiting == 2);
    let kept = Hook { env: vec![("X".into(), "new".into())], ..kept };
    runner.replace(vec![new, kept], Limits { concurrency: 3, ..limits });
    // The waiting call of the hook that is gone is dropped; that of the other one starts now.
    until("the drop", || runner.counters().dropped == 1 && runner.counters().running == 3);
    stage.open_gate();
    runner.offer(numbered(2..3)).unwrap();
    let counters = until_ended(&runner, 6);
    assert_eq!((counters.succeeded, counters.dropped), (5, 1));
    let mut out = stage.lines("out");
    out.sort();
    assert_eq!(out, ["kept--0", "kept-new-1", "kept-new-2"]);
    assert_eq!((stage.lines("gone").len(), stage.lines("new").len()), (1, 1));
}

#[test]
fn at_the_end_hooks_that_run_have_some_time_and_others_are_dropped() {
    let stage = Stage::new();
    let hook = stage.script("h", &format!("echo $$ > $D/pid\n{GATE}\necho done > $D/done"));
    log();
    let runner =
        Runner::start(vec![hook.clone()], Limits { concurrency: 1, ..Limits::default() }).unwrap();
    assert!(runner.is_idle());
    runner.offer(numbered(0..3)).unwrap();
    assert!(!runner.is_idle());
    let pid = stage.line("pid");
    let shared = runner.shared.clone();
    let opener = stage.gate_opener();
    let opened = thread::spawn(move || {
        until("the drops", || shared.tally.counters().dropped == 2);
        opener();
        shared
    });
    runner.stop(Duration::from_secs(30));
    let shared = opened.join().unwrap();
    assert_eq!(stage.line("done"), "done");
    assert_eq!(shared.tally.counters().succeeded, 1);
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "no zombie");
    let told = log_of(&hook);
    assert!(told[0].contains("2 calls were dropped: the daemon ends"), "{told:?}");
}

#[test]
fn at_the_end_hooks_that_go_on_are_asked_and_then_made_to_end() {
    let stage = Stage::new();
    let polite = stage.script("polite", "trap 'echo asked > $D/asked; exit 0' TERM\necho $$ > $D/polite\nwhile :; do sleep 0.01; done");
    let stubborn = stage.script(
        "stubborn",
        "trap '' TERM\nsleep 600 &\necho $$ $! > $D/stubborn\nwhile :; do sleep 0.01; done",
    );
    let runner = start(vec![polite, stubborn]);
    runner.offer(numbered(0..1)).unwrap();
    let (polite, stubborn) = (stage.line("polite"), stage.line("stubborn"));
    runner.stop(Duration::from_millis(50));
    assert_eq!(stage.line("asked"), "asked");
    until("the end of all of them", || {
        [polite.as_str()].into_iter().chain(stubborn.split(' ')).all(|pid| !is_alive(pid))
    });
}

#[test]
fn a_runner_that_is_forgotten_still_reaps() {
    let stage = Stage::new();
    let hook = stage.script("h", &format!("echo $$ > $D/pid\n{GATE}"));
    let runner = start(vec![hook]);
    runner.offer(numbered(0..1)).unwrap();
    let pid = stage.line("pid");
    drop(runner);
    stage.open_gate();
    until("no zombie", || !Path::new(&format!("/proc/{pid}")).exists());
}
