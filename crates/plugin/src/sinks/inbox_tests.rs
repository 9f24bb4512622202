//! The inbox on a real disk: what is put is there, once, until it was taken.

use std::cell::RefCell;

use jiff::tz::TimeZone;

use super::*;
use crate::engine::template::render;
use crate::engine::{Attested, Mode};

struct Post {
    message: Incoming,
    piece: Piece,
}

fn post(id: &str, text: &str, bytes_max: usize) -> Post {
    let text = serde_json::Value::from(text);
    let frame = format!(r#"{{"from": "w", "id": "{id}", "ts": 1.0, "body": {{"text": {text}}}}}"#);
    let message = Incoming::read(frame.as_bytes(), Attested::Yes).unwrap();
    let rendering = render("{text}", &message, Mode::Context, 0.0, &TimeZone::UTC);
    let piece = Piece::new(&message, rendering, bytes_max, None);
    Post { message, piece }
}

impl Post {
    fn kept(&self) -> Kept<'_> {
        Kept {
            pieces: vec![(&self.piece, None)],
            channel: "",
            messages: vec![Origin::of(&self.message)],
            again: false,
            now_s: 100.0,
        }
    }
}

fn inbox() -> (tempfile::TempDir, Inbox) {
    let root = tempfile::tempdir().unwrap();
    let inbox = Inbox::of(root.path(), "agent");
    (root, inbox)
}

/// What a drain hands out: the last line of each text, with `!` where it may have come before.
fn drained(inbox: &Inbox, limit: usize) -> Vec<String> {
    let got = RefCell::new(Vec::new());
    let hand_out = |entries: &[Entry]| {
        let last = |entry: &Entry| {
            let line = entry.text.lines().last().unwrap_or_default().trim_start_matches("| ");
            format!("{line}{}", if entry.again { "!" } else { "" })
        };
        got.borrow_mut().extend(entries.iter().map(last));
        Ok(())
    };
    inbox.drain(limit, hand_out).unwrap().unwrap();
    got.into_inner()
}

#[test]
fn what_is_put_is_handed_out_once_in_its_order() {
    let (_root, inbox) = inbox();
    assert_eq!(drained(&inbox, 10), [""; 0], "where nothing was ever put, too");
    for (id, text) in [("1", "one"), ("2", "two"), ("3", "three"), ("2", "two")] {
        inbox.put(&post(id, text, 100).kept()).unwrap();
    }
    assert_eq!(inbox.len().unwrap(), 3, "what waits already is not kept twice");
    assert_eq!(inbox.look(1).unwrap()[0].messages[0].id, "1");
    assert_eq!(drained(&inbox, 2), ["one", "two"]);
    inbox.put(&post("4", "four", 100).kept()).unwrap();
    assert_eq!(drained(&inbox, 10), ["three", "four"]);
    assert!(inbox.is_empty().unwrap());
}

#[test]
fn who_does_not_take_it_leaves_it_marked() {
    let (_root, inbox) = inbox();
    inbox.put(&post("1", "one", 100).kept()).unwrap();
    let refused = inbox.drain(10, |_| Err(io::ErrorKind::BrokenPipe.into())).unwrap();
    assert!(refused.is_err());
    inbox.put(&post("1", "one", 100).kept()).unwrap();
    inbox.put(&post("2", "two", 100).kept()).unwrap();
    assert_eq!(drained(&inbox, 10), ["one!", "two"]);
}

#[test]
fn what_is_too_long_stands_in_a_file_that_outlives_the_drain() {
    let (_root, inbox) = inbox();
    let text = format!("begin\x1b[1m{}", "x".repeat(1000));
    inbox.put(&post("1", &text, 100).kept()).unwrap();
    let entry = inbox.look(1).unwrap().remove(0);
    assert!(
        entry.text.contains(&format!("All of it: {})", entry.whole[0].display())),
        "{}",
        entry.text
    );
    assert!(entry.text.len() < 500);
    drained(&inbox, 10);
    assert_eq!(fs::read_to_string(&entry.whole[0]).unwrap(), format!("begin{}", "x".repeat(1000)));
}

#[test]
fn a_full_inbox_refuses_and_whole_texts_that_were_taken_make_room() {
    let (_root, inbox) = inbox();
    let large = "x".repeat(BYTES_MAX as usize / 4);
    for id in ["1", "2", "3"] {
        inbox.put(&post(id, &large, 100).kept()).unwrap();
    }
    let refused = inbox.put(&post("4", &large, 100).kept()).unwrap_err();
    assert!(refused.to_string().contains("is full (3 contexts"), "{refused}");
    let first = inbox.look(1).unwrap()[0].whole[0].clone();
    drained(&inbox, 1);
    assert!(first.exists());
    inbox.put(&post("4", &large, 100).kept()).unwrap();
    assert!(!first.exists());

    let (_root, inbox) = self::inbox();
    for id in 0..ENTRIES_MAX {
        // As a put does it, without its syncs.
        inbox.create().unwrap();
        fs::write(inbox.waiting().join(format!("{id:020}-0{FRESH}")), "{}").unwrap();
    }
    let refused = inbox.put(&post("x", "x", 100).kept()).unwrap_err();
    assert!(matches!(refused, InboxError::Full { entries: ENTRIES_MAX, .. }));
}

#[test]
fn what_is_no_entry_is_set_aside() {
    let (_root, inbox) = inbox();
    inbox.put(&post("1", "one", 100).kept()).unwrap();
    fs::write(inbox.waiting().join(format!("0-x{FRESH}")), "not ours").unwrap();
    fs::write(inbox.waiting().join("5.partial"), "half").unwrap();
    assert_eq!(drained(&inbox, 10), ["one"]);
    assert!(inbox.waiting().join("0-x.unreadable").exists());
}

#[test]
fn names_are_directories_of_their_own_whatever_is_in_them() {
    let names = ["agent", "Agent", "a/b", "a%2Fb", "..", ".", "", "测试", "a b", "%"];
    let directories: HashSet<String> = names.iter().map(|name| file_name(name)).collect();
    assert_eq!(directories.len(), names.len());
    assert!(directories.iter().all(|name| !name.contains('/') && !name.starts_with('.')));
    let (long, other) = ("测".repeat(85), format!("{}x", "测".repeat(84)));
    assert!(file_name(&long).len() < 255 && file_name(&long) != file_name(&other));
}

#[test]
fn the_state_is_idle_until_somebody_says_something_else() {
    let (_root, inbox) = inbox();
    assert_eq!(inbox.state(), AgentState::Idle);
    inbox.set_state(AgentState::Busy).unwrap();
    assert_eq!(inbox.state(), AgentState::Busy);
}
