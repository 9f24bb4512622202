//! What those who look on see: lists, search, copies.

use std::time::Instant;

use hermes_bus_core::storage::{Keep, Record};
use hermes_bus_store::{Cursor, Found, Page, Place as Where, Query, Reader, Sorting, check};

use crate::history::{entry, wait_for_entries};
use crate::world::{
    ALL, PATIENCE, Place, World, bury, keep, keep_record, letter, name, now_unix_us, record,
    release,
};

/// Waits until search knows so many messages.
fn wait_for_words(reader: &Reader, messages: u64) {
    let begin = Instant::now();
    while reader.figures().unwrap().indexed_messages != messages {
        assert!(begin.elapsed() < PATIENCE, "{:?}", reader.figures());
        std::thread::yield_now();
    }
}

fn numbers(found: &[Found]) -> Vec<(Where, u64)> {
    found.iter().map(|found| (found.place, found.number)).collect()
}

fn search(reader: &Reader, text: &str) -> Vec<u64> {
    let query =
        Query { text: Some(text.to_owned()), order: Sorting::OldestFirst, ..Query::default() };
    reader.find(&query, ALL).unwrap().0.iter().map(|found| found.number).collect()
}

#[test]
fn words_are_found_however_they_are_written() {
    let place = Place::new();
    let mut world = place.open();
    let bodies = [
        r#""The deployment of Köln failed""#,
        r#"{"subject": "\u4f60\u597d\u4e16\u754c", "n": 42}"#,
        r#""今天世界你好吗""#,
        r#"["deploy", "C++ & co.", "a-b_c"]"#,
        r#""colour: #ff0000\nnext line""#,
    ];
    let records = bodies.iter().zip(1..).map(|(body, seq)| record(seq, "a", body));
    world.carry_out(records.map(|record| keep_record(&record)));
    let reader = place.reader();
    wait_for_words(&reader, 5);
    for (typed, expected) in [
        ("deployment", vec![1]),
        ("DEPLOYMENT koln", vec![1]),
        ("deploy", vec![4]),
        ("deploy*", vec![1, 4]),
        ("failed deployment", vec![1]),
        ("\"failed deployment\"", vec![]),
        ("\"köln failed\"", vec![1]),
        ("你好", vec![2, 3]),
        ("世界", vec![2, 3]),
        ("世界你好", vec![3]),
        ("界", vec![2, 3]),
        ("好世 42", vec![2]),
        ("ff0000", vec![5]),
        ("next", vec![5]),
        ("nnext", vec![]),
    ] {
        assert_eq!(search(&reader, typed), expected, "{typed}");
    }
}

#[test]
fn nothing_that_can_be_typed_is_an_error() {
    let place = Place::new();
    let mut world = place.open();
    world.carry_out([keep_record(&record(1, "a", "\"and or not near body\""))]);
    let reader = place.reader();
    wait_for_words(&reader, 1);
    for typed in [
        "",
        " ",
        "\"",
        "\"\"",
        "*",
        "**",
        "a*b*",
        "-",
        "--",
        "AND",
        "OR",
        "NOT",
        "NEAR(",
        "a AND",
        "(",
        ")",
        "body:",
        "body : x",
        "{a b}",
        "^x",
        "+",
        "a + b",
        "'",
        "\\",
        "\0",
        "a\0b",
        "%",
        "\u{ffff}",
        "😀",
        "{",
        "\" \" *",
        "and* \"",
        ";--",
        "NEAR(a b, 5)",
    ] {
        search(&reader, typed);
    }
    assert_eq!(search(&reader, "AND OR"), [1]);
    assert_eq!(search(&reader, "body:"), [1]);
    assert_eq!(search(&reader, ""), [0; 0]);
}

#[test]
fn search_forgets_what_is_gone_and_catches_up_after_a_crash() {
    let place = Place::new();
    let mut world = place.open();
    world.carry_out((1..=300).map(|seq| keep(seq, "a")));
    let spilled = Record { keep: Keep::Spill, ..record(301, "a", "\"hello\"") };
    world.carry_out([keep_record(&spilled), bury(&letter(302, "a", ""))]);
    // A copy of this moment: nothing, or not everything, is in the index.
    let crashed = place.snapshot();
    let reader = place.reader();
    wait_for_words(&reader, 301);
    world.carry_out([release("a", 1..=299)]);
    assert_eq!(search(&reader, "hello"), [300]);
    wait_for_words(&reader, 2);
    drop(world);
    let next = crashed.open();
    // What was spilled, and had asked for a receipt, is a dead letter now.
    wait_for_words(&crashed.reader(), 302);
    assert_eq!(search(&crashed.reader(), "hello").len(), 301);
    drop(next);
}

#[test]
fn no_message_is_left_out_behind_a_large_one() {
    let place = Place::new();
    let mut world = place.open();
    let body = format!("\"needle{}\"", " hay".repeat(50_000));
    world.carry_out((1..=6).map(|seq| keep_record(&record(seq, "a", &body))));
    let reader = place.reader();
    wait_for_words(&reader, 6);
    assert_eq!(search(&reader, "needle"), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn history_mailboxes_and_dead_letters_are_one_list() {
    let place = Place::new();
    let mut world = place.open();
    let now = now_unix_us();
    let at = |record: Record, seconds: u64| Record {
        arrived_unix_us: now + seconds * 1_000_000,
        ..record
    };
    let mut via = at(record(1, "a", "1"), 2);
    via.via = Some("@group".into());
    let mut dead = letter(2, "b", "");
    dead.died_unix_us = now + 3_000_000;
    world.carry_out([keep_record(&via), keep_record(&at(record(3, "b", "1"), 5)), bury(&dead)]);
    world
        .store
        .record_history(vec![entry(now + 1_000_000, "a", "1"), entry(now + 4_000_000, "c", "1")]);
    wait_for_entries(&place, &mut world, 2);
    let reader = place.reader();
    let all = [
        (Where::History, 1),
        (Where::Mailbox, 1),
        (Where::DeadLetters, 1),
        (Where::History, 2),
        (Where::Mailbox, 3),
    ];
    let oldest = Query { order: Sorting::OldestFirst, ..Query::default() };
    assert_eq!(numbers(&reader.find(&oldest, ALL).unwrap().0), all);
    let newest = reader.find(&Query::default(), ALL).unwrap();
    assert_eq!(numbers(&newest.0), all.iter().rev().copied().collect::<Vec<_>>());
    assert_eq!(newest.1, None);
    let some = |query: Query| {
        let query = Query { order: Sorting::OldestFirst, ..query };
        numbers(&reader.find(&query, ALL).unwrap().0)
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(some(Query { to: text("b"), ..Query::default() }), [all[2], all[4]]);
    assert_eq!(some(Query { to: text("@group"), ..Query::default() }), [all[1]]);
    assert_eq!(some(Query { from: text("me"), ..Query::default() }), [all[0], all[3]]);
    assert_eq!(some(Query { from: text("sender"), ..Query::default() }), [all[1], all[2], all[4]]);
    let since_unix_us = Some(now + 2_000_000);
    let until_unix_us = Some(now + 4_000_000);
    assert_eq!(some(Query { since_unix_us, until_unix_us, ..Query::default() }), all[1..3]);
    let places = vec![Where::DeadLetters];
    assert_eq!(some(Query { places, ..Query::default() }), all[2..3]);
}

#[test]
fn pages_follow_each_other_and_new_messages_follow_the_last_page() {
    let place = Place::new();
    let mut world = place.open();
    world.carry_out((1..=200).map(|seq| keep(seq, "a")));
    let reader = place.reader();
    for order in [Sorting::OldestFirst, Sorting::NewestFirst] {
        let mut seqs = Vec::new();
        let mut after = None;
        let page = Page { rows_max: 7, bytes_max: usize::MAX };
        while seqs.len() <= 200 {
            let (found, cursor) =
                reader.find(&Query { order, after, ..Query::default() }, page).unwrap();
            assert!(found.len() <= 7);
            seqs.extend(found.iter().map(|found| found.number));
            // It goes through text, as for who asks for the next page.
            let Some(cursor) = cursor.filter(|_| !found.is_empty()) else { break };
            after = Some(cursor.to_string().parse::<Cursor>().unwrap());
        }
        if order == Sorting::NewestFirst {
            seqs.reverse();
        }
        assert_eq!(seqs, (1..=200).collect::<Vec<_>>());
    }
    let oldest = Query { order: Sorting::OldestFirst, ..Query::default() };
    let (_, cursor) = reader.find(&oldest, ALL).unwrap();
    world.carry_out([keep(201, "b")]);
    let (found, _) = reader.find(&Query { after: cursor, ..oldest }, ALL).unwrap();
    assert_eq!(numbers(&found), [(Where::Mailbox, 201)]);
    assert!("1.2".parse::<Cursor>().is_err());
}

#[test]
fn mailboxes_are_listed_and_shown() {
    let place = Place::new();
    let mut world = place.open();
    let records: Vec<Record> = (1..=5).map(|seq| record(seq, "a", "1")).collect();
    world.carry_out(records.iter().map(keep_record));
    world.carry_out([keep(6, "b")]);
    let reader = place.reader();
    let mailboxes = reader.mailboxes().unwrap();
    assert_eq!(mailboxes.len(), 2);
    assert_eq!((mailboxes[0].endpoint.clone(), mailboxes[0].messages), (name("a"), 5));
    assert_eq!(mailboxes[0].oldest_unix_us, records[0].arrived_unix_us);
    let page = Page { rows_max: 2, bytes_max: usize::MAX };
    assert_eq!(reader.messages(&name("a"), None, page).unwrap(), records[..2]);
    assert_eq!(reader.messages(&name("a"), Some(3), ALL).unwrap(), records[3..]);
    assert_eq!(reader.messages(&name("c"), None, ALL).unwrap(), []);
}

#[test]
fn a_copy_made_while_it_runs_is_a_store_of_its_own() {
    let place = Place::new();
    let mut world = place.open();
    world.carry_out([keep(1, "a"), bury(&letter(2, "a", ""))]);
    let copy = Place::new();
    let bytes = place.reader().back_up(&copy.path()).unwrap();
    assert_eq!(bytes, std::fs::metadata(copy.path()).unwrap().len());
    let left: Vec<_> = std::fs::read_dir(copy.directory()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    world.carry_out([keep(3, "a")]);
    assert!(place.reader().back_up(&copy.path()).is_err(), "it would have been overwritten");
    assert_eq!(check(&copy.path()).problems, [""; 0]);
    let mut restored: World = copy.open();
    assert_eq!(restored.loaded_seqs("a"), [1]);
    assert_eq!(copy.reader().dead_letters(None, ALL).unwrap().len(), 1);
    assert_eq!(world.loaded_seqs("a"), [1, 3]);
}
