use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use hermes_bus_core::Protection;

use super::keys::{GROUPS, KEYS, Key, NOT_OVER, OnReload};
use super::value::Kind;
use super::{
    Changes, ConfigError, FILE_BYTES_MAX, HistoryOf, Loaded, Origin, Place, Position, Settings,
    Sources, parse,
};
use crate::logging::{Format, Level, Sink};
use crate::root::Root;

mod secrets;

fn no_tokens(_: &Path) -> Result<String, String> {
    Err("there are no token files here".to_owned())
}

fn read(text: &str) -> Result<Loaded, ConfigError> {
    parse(text.as_bytes(), &no_tokens)
}

fn lines(text: &str) -> Vec<String> {
    read(text).unwrap_err().lines()
}

/// One key on line 2, its value from column 3 + leaf + 2 on.
fn file_with(key: &Key, value: &str) -> String {
    format!("{}:\n  {}: {value}\n", key.group(), key.leaf())
}

/// For every key: a value as it is written, and the settings that it makes.
fn examples() -> Vec<(&'static str, &'static str, Settings)> {
    let seconds = Duration::from_secs;
    let milliseconds = Duration::from_millis;
    let mib = 1024 * 1024;
    let mut examples = Vec::new();
    macro_rules! example {
        ($key:literal, $written:literal, $($field:ident).+ = $value:expr) => {{
            let mut settings = Settings::default();
            settings.$($field).+ = $value;
            examples.push(($key, $written, settings));
        }};
    }
    example!("access.allow_uids", "[1000, 0]", router.allow_uids = vec![1000, 0]);
    let protection = Protection { name: "lead".to_owned(), uid: Some(7), token: None };
    example!("access.protected", "[{name: lead, uid: 7}]", router.protected = vec![protection]);
    example!("access.strict_from", "on", router.strict_from = true);
    example!("sessions.heartbeat", "2m", router.heartbeat = seconds(120));
    example!("sessions.linger", "5", router.linger = seconds(5));
    example!("sessions.drain", "250ms", router.drain = milliseconds(250));
    example!("sessions.answer", "0.5", router.answer = milliseconds(500));
    example!("sessions.messages_per_s", "100", router.messages_per_s = Some(100));
    example!("sessions.bytes_per_s", "1MB", router.bytes_per_s = Some(1_000_000));
    example!("sessions.fight_replacements", "9", router.fight_replacements = 9);
    example!("sessions.fight_window", "1m", router.fight_window = seconds(60));
    example!("sessions.fight_pause", "200ms", router.fight_pause = milliseconds(200));
    example!("sessions.fight_pause_max", "4s", router.fight_pause_max = seconds(4));
    example!("sessions.impatient_pongs", "off", router.impatient_pongs = false);
    example!("frames.deadline", "10s", router.frame_deadline = seconds(10));
    example!("frames.bytes_user_max", "100MiB", router.intake_bytes_user_max = 100 * mib);
    example!("frames.bytes_total_max", "1GiB", router.intake_bytes_total_max = 1024 * mib);
    example!("queues.bytes_max", "32MiB", router.queue_bytes_max = 32 * mib);
    example!("queues.bytes_user_max", "400MiB", router.queue_bytes_user_max = 400 * mib);
    example!("queues.bytes_total_max", "600MiB", router.queue_bytes_total_max = 600 * mib);
    example!("queues.bytes_reserved", "64KiB", router.queue_bytes_reserved = 64 * 1024);
    example!("queues.stall", "3s", router.stall = seconds(3));
    example!("held.bytes_max", "2MiB", router.held_bytes_max = 2 * mib);
    example!("held.bytes_total_max", "32MiB", router.held_bytes_total_max = 32 * mib);
    example!("answers.bytes_max", "2MiB", router.answer_bytes_max = 2 * mib);
    example!("answers.bytes_total_max", "32MiB", router.answer_bytes_total_max = 32 * mib);
    example!("store.enabled", "off", store.is_enabled = false);
    let names = vec!["old one".to_owned(), "7".to_owned()];
    example!("store.mailboxes", "[old one, 7]", router.mailboxes = names);
    example!("store.mailbox_bytes_max", "2GiB", router.mailbox_bytes_max = 2048 * mib as u64);
    example!(
        "store.mailbox_bytes_user_max",
        "4GiB",
        router.mailbox_bytes_user_max = 4096 * mib as u64
    );
    example!(
        "store.mailbox_bytes_total_max",
        "7GiB",
        router.mailbox_bytes_total_max = 7168 * mib as u64
    );
    example!("store.pending_bytes_max", "32MiB", router.store_pending_bytes_max = 32 * mib);
    example!("store.queued_for", "1day", router.queued_for = seconds(86_400));
    example!("store.dead_letters_for", "1h", store.dead_letters_for = seconds(3_600));
    example!("store.dead_letters_bytes_max", "1GB", store.dead_letters_bytes_max = 1_000_000_000);
    example!("store.history", "envelopes", store.history = HistoryOf::Envelopes);
    example!("store.history_for", "2h", store.history_for = seconds(7_200));
    example!("store.history_bytes_max", "20MB", store.history_bytes_max = 20_000_000);
    example!("store.known_for", "5h", router.known_for = seconds(18_000));
    example!("store.known_max", "7", router.known_max = 7);
    example!("delivery.in_flight_bytes_max", "1MiB", router.in_flight_bytes_max = mib);
    example!("delivery.nack_pause", "500ms", router.nack_pause = milliseconds(500));
    example!("delivery.nack_pause_max", "2m", router.nack_pause_max = seconds(120));
    example!("delivery.deliveries_max", "3", router.deliveries_max = 3);
    example!("delivery.repetition_window", "0", router.repetition_window = seconds(0));
    example!("delivery.repetitions_max", "10", router.repetitions_max = 10);
    example!("delivery.receipt_wait", "5s", router.receipt_wait = seconds(5));
    example!("delivery.receipts_waiting_max", "9", router.receipts_waiting_max = 9);
    example!("delivery.trace_messages_max", "0", router.trace_messages_max = 0);
    example!("socket.backlog", "128", socket.backlog = 128);
    example!("hooks.concurrency", "2", hooks.concurrency = 2);
    example!("hooks.waiting_max", "50", hooks.waiting_max = 50);
    example!("hooks.waiting_bytes_max", "16MiB", hooks.waiting_bytes_max = 16 * mib);
    example!("hooks.timeout", "10s", hooks.timeout = seconds(10));
    example!("hooks.kill_after", "1s", hooks.kill_after = seconds(1));
    example!("hooks.output_bytes_max", "1KiB", hooks.output_bytes_max = 1024);
    example!("log.to", "journal", log.sink = Sink::Journal);
    example!("log.format", "json", log.format = Format::Json);
    example!("log.level", "warn", log.level = Level::Warn);
    let levels = vec![("hooks".to_owned(), Level::Error), ("router".to_owned(), Level::Debug)];
    example!("log.levels", "{router: debug, hooks: error}", log.levels = levels);
    example!("log.file_bytes_max", "10MB", log.file_bytes_max = 10_000_000);
    example!("log.files_kept", "5", log.files_kept = 5);
    example!("metrics.socket", "off", metrics.socket = false);
    examples
}

fn sources(directory: &Path, environment: &[(&str, &str)], flags: &[&str]) -> Sources {
    let root = Root::find(Some(directory)).unwrap();
    let environment = environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    Sources::with_environment(&root, None, flags, environment)
}

fn write(path: &Path, text: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

// ---- every key --------------------------------------------------------------------------------------

#[test]
fn every_key_has_a_group_a_name_and_a_variable_of_its_own() {
    let names: Vec<&str> = examples().iter().map(|(name, ..)| *name).collect();
    let known: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    assert_eq!(names, known, "the examples of this test are in the order of the table");
    let mut variables: Vec<String> = KEYS.iter().map(Key::variable).collect();
    variables.sort();
    variables.dedup();
    assert_eq!(variables.len(), KEYS.len());
    for key in KEYS {
        assert!(GROUPS.iter().any(|group| group.name == key.group()), "{}", key.name);
        assert!(key.about.ends_with('.'), "{}", key.name);
    }
    for (small, large) in NOT_OVER {
        assert!(known.contains(small) && known.contains(large), "{small} {large}");
    }
}

#[test]
fn every_key_sets_its_field_and_no_other_in_a_file_in_a_variable_and_as_a_flag() {
    let directory = tempfile::tempdir().unwrap();
    for ((name, written, expected), key) in examples().into_iter().zip(KEYS) {
        assert_ne!(expected, Settings::default(), "{name}: the example must differ");
        let loaded = read(&file_with(key, written)).unwrap();
        assert_eq!(loaded.settings, expected, "{name} in a file");
        assert_eq!(*loaded.origin(key), Origin::File(Position { line: 2, column: 3 }), "{name}");

        let variable = key.variable();
        let loaded = sources(directory.path(), &[(&variable, written)], &[]).load().unwrap();
        assert_eq!(loaded.settings, expected, "{name} as a variable");
        assert_eq!(*loaded.origin(key), Origin::Variable(variable), "{name}");

        let flag = format!("{name}={written}");
        let loaded = sources(directory.path(), &[], &[&flag]).load().unwrap();
        assert_eq!(loaded.settings, expected, "{name} as a flag");
        assert_eq!(*loaded.origin(key), Origin::Flag, "{name}");
    }
}

#[test]
fn every_key_refuses_values_of_another_kind_with_their_place() {
    for key in KEYS {
        let place = format!("config.yaml:2:{}: {}: ", key.leaf().len() + 5, key.name);
        let wrong: &[&str] = match key.kind {
            Kind::Users(_) | Kind::Protected(_) | Kind::Names(_) => &["zebra", "5", "{a: 1}"],
            Kind::Levels(_) => &["zebra", "5", "[1]"],
            Kind::BytesOrOff { .. } | Kind::CountOrOff { .. } => {
                &["zebra", "-1", "[1]", "{a: 1}", "1.5", "''"]
            }
            Kind::Time { .. } => {
                &["zebra", "-1", "[1]", "{a: 1}", "NaN", "5 zebras", "''", "~", ""]
            }
            Kind::Bytes { .. } | Kind::Count { .. } => {
                &["zebra", "-1", "[1]", "{a: 1}", "1.5", "0x10", "1e3", "''", "~", "", "off"]
            }
            Kind::Switch(_) => &["zebra", "5", "[on]", "{a: 1}", "''", "~", ""],
            Kind::Word { .. } => &["zebra", "5", "[human]", "{a: 1}", "''", "~", ""],
        };
        for value in wrong {
            let told = lines(&file_with(key, value));
            assert_eq!(told.len(), 1, "{} {value}: {told:?}", key.name);
            let is_placed = told[0].starts_with(&place)
                // Nothing stands nowhere.
                || value.is_empty() && told[0].starts_with("config.yaml:2:");
            assert!(is_placed, "{} {value}: {told:?}", key.name);
            assert!(told[0].contains(key.name), "{told:?}");
        }
    }
}

#[test]
fn every_range_ends_where_it_says() {
    for key in KEYS {
        let time = |time: Duration| format!("{}ns", time.as_nanos());
        let number = |number: &u64| number.to_string();
        let (inside, below, above) = match &key.kind {
            Kind::Time { min, max, .. } => {
                let step = Duration::from_nanos(1);
                ([time(*min), time(*max)], min.checked_sub(step).map(time), time(*max + step))
            }
            Kind::Bytes { min, max, .. }
            | Kind::Count { min, max, .. }
            | Kind::BytesOrOff { min, max, .. }
            | Kind::CountOrOff { min, max, .. } => {
                let below = min.checked_sub(1).map(|below| number(&below));
                ([number(min), number(max)], below, number(&(max + 1)))
            }
            _ => continue,
        };
        let place = format!("config.yaml:2:{}: {}: ", key.leaf().len() + 5, key.name);
        for value in inside {
            // Whether it goes together with the other defaults is another question.
            let told = read(&file_with(key, &value)).err().map(|error| error.to_string());
            let is_alone_right = told
                .as_ref()
                .is_none_or(|told| told.contains(", the default)") && !told.contains("value"));
            assert!(is_alone_right, "{} {value}: {told:?}", key.name);
        }
        if let Some(below) = below {
            let told = lines(&file_with(key, &below));
            assert!(told[0].starts_with(&place), "{told:?}");
            assert!(told[0].contains(" is under the least value, "), "{told:?}");
        }
        let told = lines(&file_with(key, &above));
        assert!(told[0].starts_with(&place), "{told:?}");
        assert!(told[0].contains(" is over the largest value, "), "{told:?}");
    }
}

#[test]
fn every_limit_that_has_a_partner_is_held_against_it() {
    let value = |name: &str, settings: &Settings| {
        KEYS.iter().find(|key| key.name == name).unwrap().kind.magnitude(settings).unwrap()
    };
    let defaults = Settings::default();
    for (small, large) in NOT_OVER {
        assert!(value(small, &defaults) <= value(large, &defaults), "{small} {large}");
    }
    assert_eq!(
        lines("queues:\n  bytes_max: 400MiB\n"),
        [
            "config.yaml:2:3: queues.bytes_max: 400MiB is over queues.bytes_user_max (384MiB, the default)"
        ]
    );
    assert_eq!(
        lines("answers:\n  bytes_total_max: 512KiB\n"),
        [
            "config.yaml:2:3: answers.bytes_total_max: 512KiB is under answers.bytes_max (1MiB, the default)"
        ]
    );
    // The later one is to blame.
    assert_eq!(
        lines("sessions:\n  heartbeat: 5s\nqueues:\n  stall: 6s\n"),
        ["config.yaml:4:3: queues.stall: 6s is over sessions.heartbeat (5s)"]
    );
    let directory = tempfile::tempdir().unwrap();
    let environment = [("HERMES_BUS_HELD_BYTES_MAX", "2MiB")];
    let told = sources(directory.path(), &environment, &["held.bytes_total_max=1MiB"]).load();
    assert_eq!(
        told.unwrap_err().lines(),
        ["--set held.bytes_total_max: 1MiB is under held.bytes_max (2MiB)"]
    );
    assert!(read("held: {bytes_max: 0, bytes_total_max: 0}").is_ok());
}

// ---- files ------------------------------------------------------------------------------------------

#[test]
fn all_problems_are_told_at_once_with_what_may_have_been_meant() {
    let text = "\
sessions:
  lingr: 3s
  heartbeat: soon
queue: {}
linger: 5s
log.level: warn
log:
  levels: {router: loud, 'a b': info}
zebra: 1
";
    let expected = [
        "config.yaml:2:3: sessions.lingr: unknown key (did you mean 'sessions.linger'?)",
        "config.yaml:3:14: sessions.heartbeat: 'soon' is no time: write 90s, 700ms, 2m, or a number of seconds",
        "config.yaml:4:1: queue: unknown key (did you mean 'queues'?)",
        "config.yaml:5:1: linger: unknown key (did you mean 'sessions.linger'?)",
        "config.yaml:6:1: log.level: write 'level:' below 'log:'",
        "config.yaml:8:20: log.levels: 'loud' is not one of error, warn, info, debug",
        "config.yaml:8:26: log.levels: 'a b' is not one of the targets bus, config, door, hooks, \
         metrics, router, service, store",
        "config.yaml:9:1: zebra: unknown key ('hermes-bus config show' lists all)",
    ];
    assert_eq!(lines(text), expected);
}

#[test]
fn a_file_of_nothing_is_the_defaults() {
    for nothing in ["", "# nothing\n", "sessions:\n  # linger: 5s\nlog:\n", "---\n...\n", "{}"] {
        assert_eq!(read(nothing).unwrap().settings, Settings::default(), "{nothing:?}");
    }
    assert_eq!(lines("[1]"), ["config.yaml:1:1: must be a mapping of groups (log:), not a list"]);
    let text = "log: debug";
    assert_eq!(lines(text), ["config.yaml:1:6: log: must be a mapping of keys, not a text"]);
}

#[test]
fn hostile_texts_end_in_one_short_error() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let before = format!("*a{}", level - 1);
        bomb += &format!("a{level}: &a{level} [{}]\n", vec![before; 9].join(", "));
    }
    let merge = "x: &x {linger: 1s}\nsessions:\n  <<: *x\n".to_owned();
    let long_key = format!("{}: 1", "k".repeat(100_000));
    let control = "\"\\e[31m\": 1".to_owned();
    for text in [bomb, merge, "[".repeat(200_000), "- ".repeat(100_000), long_key, control] {
        let told = lines(&text);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].len() < 300 && !told[0].contains('\u{1b}'), "{told:?}");
    }
    let many: String = (0..20_000).map(|number| format!("k{number}: 1\n")).collect();
    let told = lines(&many);
    assert_eq!((told.len(), told[50].as_str()), (51, "and 19950 more"));
    let large = " ".repeat(FILE_BYTES_MAX as usize + 1);
    assert_eq!(lines(&large), ["config.yaml: is over the limit of 262144 bytes"]);
    let text = b"log:\n  level: \xff\n";
    let told = parse(text, &no_tokens).unwrap_err().lines();
    assert_eq!(told, ["config.yaml:2:10: a byte that is no UTF-8"]);
}

#[test]
fn only_small_regular_files_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hermes-bus/config.yaml");
    let load = || sources(directory.path(), &[], &[]).load();
    let told = || load().unwrap_err().to_string();
    assert_eq!(load().unwrap().file, None);

    write(&path, b"");
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 30).unwrap();
    assert_eq!(
        told(),
        format!("{}: cannot be read: is over the limit of 262144 bytes", path.display())
    );
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(told(), format!("{}: cannot be read: is no regular file", path.display()));
    fs::remove_dir(&path).unwrap();
    // Nobody writes to this one: reading it would never end.
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert_eq!(told(), format!("{}: cannot be read: is no regular file", path.display()));
}

#[test]
fn a_file_that_others_may_change_is_warned_of() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hermes-bus/config.yaml");
    write(&path, b"log: {level: warn}");
    assert_eq!(sources(directory.path(), &[], &[]).load().unwrap().warnings, [""; 0]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
    let loaded = sources(directory.path(), &[], &[]).load().unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].contains("other users may change this file"), "{loaded:?}");
}

// ---- layers -----------------------------------------------------------------------------------------

#[test]
fn the_last_layer_that_says_something_wins() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hermes-bus/config.yaml");
    write(&path, b"sessions: {linger: 4s, drain: 4s, answer: 400ms}");
    let environment = [
        ("HERMES_BUS_SESSIONS_DRAIN", "5s"),
        ("HERMES_BUS_SESSIONS_ANSWER", "500ms"),
        ("HERMES_BUS_SESSIONS_LINGER", ""),
    ];
    let flags = ["sessions.answer=600ms", "sessions.answer=650ms"];
    let router = sources(directory.path(), &environment, &flags).load().unwrap().settings.router;
    let milliseconds = Duration::from_millis;
    assert_eq!(router.linger, milliseconds(4_000), "the file over the default, empty is unset");
    assert_eq!(router.drain, milliseconds(5_000), "the environment over the file");
    assert_eq!(router.answer, milliseconds(650), "the last flag over all");
    assert_eq!(router.heartbeat, milliseconds(90_000));
}

#[test]
fn which_file_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::find(Some(directory.path())).unwrap();
    let (named, by_flag) =
        (directory.path().join("named.yaml"), directory.path().join("flag.yaml"));
    let of_file = |flag: Option<&Path>, variable: &Path| {
        let environment = vec![("HERMES_BUS_CONFIG".into(), variable.into())];
        Sources::with_environment(&root, flag.map(Path::to_owned), Vec::new(), environment)
    };
    assert_eq!(of_file(None, Path::new("")).file(), root.config_file());
    assert_eq!(of_file(None, &named).file(), named);
    let relative = std::env::current_dir().unwrap().join("x.yaml");
    assert_eq!(of_file(None, Path::new("x.yaml")).file(), relative);
    assert_eq!(of_file(Some(&by_flag), &named).file(), by_flag);
    assert!(of_file(None, Path::new("")).load().is_ok(), "the usual file need not exist");
    let error = of_file(None, &named).load().unwrap_err();
    assert_eq!(error.lines(), [format!("{}: no such file", named.display())]);
    write(&named, b"log: {level: debug}");
    assert_eq!(of_file(None, &named).load().unwrap().settings.log.level, Level::Debug);
}

#[test]
fn problems_of_all_layers_name_where_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hermes-bus/config.yaml");
    write(&path, b"log: {level: loud}");
    let environment = [("HERMES_BUS_LOG", "[1"), ("HERMES_BUS_HOOKS_TIMEOUT", "1 week")];
    let flags = ["sessions.linger", "session.linger=1s", "queues.stall=", "log.levels={hooks: b}"];
    let mut sources = sources(directory.path(), &environment, &flags);
    let not_text = std::os::unix::ffi::OsStringExt::from_vec(b"\xff".to_vec());
    sources.environment_for_tests().push(("HERMES_BUS_LOG_FORMAT".into(), not_text));
    let error = sources.load().unwrap_err();
    let lines = error.lines();
    let starts = [
        &format!("{}:1:14: log.level: 'loud' is not one of", path.display()),
        "HERMES_BUS_HOOKS_TIMEOUT: 168h is over the largest value, 24h",
        "HERMES_BUS_LOG_FORMAT: holds no UTF-8",
        "HERMES_BUS_LOG: no valid YAML",
        "--set sessions.linger: must be KEY=VALUE",
        "--set session.linger: unknown key (did you mean 'sessions.linger'?)",
        "--set queues.stall: must be a time (90s, 700ms, 2m, or a number of seconds), not nothing",
        "--set log.levels: 'b' is not one of error, warn, info, debug",
    ];
    assert_eq!(lines.len(), starts.len(), "{lines:#?}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}\n{start}");
    }
    assert_eq!(error.problems[4].place, Place::Flag);
}

#[test]
fn a_misspelt_variable_is_warned_of() {
    let directory = tempfile::tempdir().unwrap();
    let environment = [("HERMES_BUS_SESSION_LINGER", "9s"), ("HERMES_BUS_ROOT", "/x")];
    let loaded = sources(directory.path(), &environment, &[]).load().unwrap();
    let what = "HERMES_BUS_SESSION_LINGER is no setting of the bus (did you mean HERMES_BUS_SESSIONS_LINGER?)";
    assert_eq!(loaded.warnings, [what]);
    assert_eq!(loaded.settings, Settings::default());
}

#[test]
fn a_heartbeat_that_released_clients_do_not_survive_is_warned_of() {
    assert_eq!(read("sessions: {heartbeat: 61s}").unwrap().warnings, [""; 0]);
    let warnings = read("sessions: {heartbeat: 60s}").unwrap().warnings;
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("sessions.heartbeat: released clients"), "{warnings:?}");
}

// ---- showing and reloading --------------------------------------------------------------------------

#[test]
fn what_is_shown_reads_back_as_the_same() {
    let all: Vec<(&str, &str, Settings)> = examples();
    let mut settings = vec![Settings::default()];
    settings.extend(all.into_iter().map(|(_, _, settings)| settings));
    for settings in settings {
        let shown = Loaded { settings: settings.clone(), ..Loaded::defaults() }.to_yaml();
        assert_eq!(read(&shown).unwrap().settings, settings, "{shown}");
    }
    let names = ["\u{1b}[31m", "a: b", "# x", "'", "\"\\", "é😀\u{85}\u{2028}", "~", "{x}"];
    let protection = |name: &&str| Protection { name: (*name).to_owned(), uid: None, token: None };
    let mut odd = Settings::default();
    odd.router.protected = names.iter().map(protection).collect();
    let shown = Loaded { settings: odd.clone(), ..Loaded::defaults() }.to_yaml();
    assert_eq!(read(&shown).unwrap().settings, odd, "{shown}");
}

#[test]
fn origins_are_shown_beside_the_values() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("odd\nname.yaml");
    write(&path, b"\nsessions: {linger: 4s}");
    let root = Root::find(Some(directory.path())).unwrap();
    let environment = vec![(OsString::from("HERMES_BUS_LOG"), OsString::from("debug"))];
    let flags = vec!["held.bytes_max=0".to_owned()];
    let sources = Sources::with_environment(&root, Some(path), flags, environment);
    let loaded = sources.load().unwrap();
    let shown = loaded.to_yaml();
    let comment = |key: &str| {
        let line = shown.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_once("  # ").unwrap().1.to_owned()
    };
    assert!(comment("  linger: 4s").ends_with("odd\\nname.yaml:2"), "{shown}");
    assert_eq!(comment("  level: debug"), "HERMES_BUS_LOG");
    assert_eq!(comment("  bytes_max: 0"), "--set");
    assert_eq!(comment("  heartbeat: 90s"), "default");
    let json = loaded.to_json();
    let linger = json.iter().find(|object| object["key"] == "sessions.linger").unwrap();
    assert_eq!((linger["value"].as_f64(), linger["text"].as_str()), (Some(4.0), Some("4s")));
    assert_eq!(json.len(), KEYS.len());
}

#[test]
fn a_reload_tells_what_it_applies_and_what_needs_a_restart() {
    let before = Settings::default();
    for (name, _, after) in examples() {
        let changes = Changes::between(&before, &after);
        let key = KEYS.iter().find(|key| key.name == name).unwrap();
        let (expected, other) = match key.on_reload {
            OnReload::Applies => (&changes.applied, &changes.need_restart),
            OnReload::NeedsRestart => (&changes.need_restart, &changes.applied),
        };
        let found: Vec<&str> = expected.iter().map(|change| change.key.name).collect();
        assert_eq!((found, other.len()), (vec![name], 0));
        let held = before.reloaded(&after);
        let is_applied = key.on_reload == OnReload::Applies;
        assert_eq!(held, if is_applied { after } else { before.clone() }, "{name}");
    }
    assert!(Changes::between(&before, &before).is_empty());
    let after = read("sessions: {linger: 5s}\nsocket: {backlog: 9}").unwrap().settings;
    let changes = Changes::between(&before, &after);
    assert_eq!(changes.applied[0].to_string(), "sessions.linger: 3s -> 5s");
    assert_eq!(changes.need_restart[0].to_string(), "socket.backlog: 4096 -> 9");
}

#[test]
fn the_reference_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/CONFIGURATION.md");
    let document = fs::read_to_string(path).unwrap_or_default();
    assert!(
        document == super::reference(),
        "docs/CONFIGURATION.md is not what the table of keys says: run\n\
         cargo run -p hermes-bus -- config reference > docs/CONFIGURATION.md"
    );
}

#[test]
fn problems_stand_in_the_order_of_the_file() {
    let told = lines("queues:\n  bytes_max: 1GiB\nlog:\n  level: loud\n");
    let places: Vec<&str> = told.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(places, ["config.yaml:2:3:", "config.yaml:4:10:"], "{told:?}");
}
