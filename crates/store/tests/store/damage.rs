//! Files that are not as they were left.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use hermes_bus_core::storage::Record;
use hermes_bus_store::{Notice, OpenError, Store, check};

use crate::world::{
    ALL, Place, World, bury, keep, keep_record, letter, now_unix_us, record, release,
};

const PAGE: u64 = 4096;

/// A store with many messages, closed in good order. They are so old that nothing asks for them at
/// start.
fn filled(messages: u64) -> Place {
    filled_at(now_unix_us() - 3_600_000_000, messages)
}

fn filled_at(arrived_unix_us: u64, messages: u64) -> Place {
    let place = Place::new();
    let mut world = place.open();
    let text = format!("\"{}\"", "words ".repeat(50));
    let old = |seq| Record { arrived_unix_us, ..record(seq, "a", &text) };
    world.carry_out((1..=messages).map(|seq| keep_record(&old(seq))));
    world.carry_out([bury(&letter(messages + 1, "a", "kept"))]);
    world.close();
    place
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

fn contents(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

/// Opens a damaged store. It must be set aside, byte for byte.
fn open_damaged(place: &Place) -> World {
    let damaged = contents(&place.path());
    assert_ne!(check(&place.path()).problems, [""; 0]);
    let world = place.open();
    let aside = world.set_aside.clone().expect("it is set aside");
    assert_eq!(contents(&aside.path), damaged);
    assert!(world.recovered.unclean);
    let report = check(&place.path());
    assert_eq!(report.set_aside, [aside.path]);
    assert_eq!(report.problems, [""; 0]);
    world
}

#[test]
fn a_garbage_header_costs_nothing_but_the_header() {
    let place = filled(500);
    overwrite(&place.path(), 0, &[0x5a; 100]);
    let mut world = open_damaged(&place);
    assert_eq!(world.loaded_seqs("a"), (1..=500).collect::<Vec<_>>());
    assert_eq!(place.reader().dead_letters(None, ALL).unwrap().len(), 1);
    assert!(world.recovered.seq_from > 501 + (1 << 32) - 1);
    // It is a store like any other.
    let seq = world.recovered.seq_from;
    world.carry_out([keep(seq, "a")]);
    world.close();
    let world = place.open();
    assert_eq!((world.set_aside, world.recovered.seq_from), (None, seq + 1));
}

#[test]
fn a_garbage_first_page_costs_nothing_but_that_page() {
    let place = filled(500);
    overwrite(&place.path(), 0, &[0x5a; PAGE as usize]);
    let mut world = open_damaged(&place);
    assert_eq!(world.loaded_seqs("a"), (1..=500).collect::<Vec<_>>());
}

#[test]
fn a_file_that_was_cut_keeps_what_is_left() {
    // The last page that is left is not whole: some of its messages are torn, or all of them.
    for left_of_last_page in [0, 100, 3_000] {
        let place = filled(2_000);
        let length = fs::metadata(place.path()).unwrap().len();
        let file = OpenOptions::new().write(true).open(place.path()).unwrap();
        file.set_len(length / 2 / PAGE * PAGE + left_of_last_page).unwrap();
        let mut world = open_damaged(&place);
        let seqs = world.loaded_seqs("a");
        assert!(seqs.len() > 500 && seqs.len() < 2_000, "{}", seqs.len());
        assert!(world.set_aside.unwrap().unreadable > 0);
    }
}

#[test]
fn garbage_that_is_no_database_is_set_aside() {
    let place = Place::new();
    fs::write(place.path(), vec![b'x'; 10_000]).unwrap();
    let mut world = open_damaged(&place);
    assert_eq!(world.loaded_seqs("a"), [0; 0]);
}

/// Leaves of the messages' table: they hold long runs of the same words.
fn leaves(place: &Place) -> Vec<u64> {
    let bytes = contents(&place.path());
    let is_leaf = |page: &[u8]| {
        page[0] == 0x0d && page.windows(24).any(|part| part == b"words words words words ")
    };
    (0..)
        .zip(bytes.chunks(PAGE as usize))
        .filter(|(_, page)| is_leaf(page))
        .map(|(number, _)| number)
        .collect()
}

#[test]
fn bad_pages_in_the_middle_cost_their_own_messages_only() {
    let place = filled(2_000);
    let leaves = leaves(&place);
    assert!(leaves.len() > 100, "{}", leaves.len());
    // Their first bytes: what kind of page it is.
    for leaf in [leaves[10], leaves[60], leaves[61]] {
        overwrite(&place.path(), leaf * PAGE, &[0xff; 64]);
    }
    // The last bytes of one message: all but SQLite sees that.
    overwrite(&place.path(), (leaves[80] + 1) * PAGE - 8, &[0xff; 8]);
    let damaged = contents(&place.path());
    // Reading at start sees the header and the sums only. What cannot be read is found when it is
    // needed, and then the store is replaced while it is in use.
    let mut world = place.open();
    assert_eq!(world.set_aside, None);
    let seqs = world.loaded_seqs("a");
    assert!(seqs.len() > 1_950 && seqs.len() < 2_000, "{}", seqs.len());
    assert!(seqs.starts_with(&[1]) && seqs.ends_with(&[2_000]));
    let replaced = world.wait_for_notice(|notice| matches!(notice, Notice::Replaced(_)));
    let Notice::Replaced(set_aside) = replaced else { panic!("{replaced}") };
    assert_eq!(set_aside.unreadable, 3);
    assert!(contents(&set_aside.path) == damaged, "it has changed");
    assert_eq!(check(&place.path()).set_aside, std::slice::from_ref(&set_aside.path));
    // Nothing changes for who uses it, and it is sound.
    assert_eq!(world.loaded_seqs("a"), seqs);
    let next = world.recovered.seq_from;
    world.carry_out([keep(next, "b"), release("a", seqs.clone())]);
    assert_eq!((world.loaded_seqs("a"), world.loaded_seqs("b")), (vec![], vec![next]));
    world.close();
    assert_eq!(check(&place.path()).problems, [""; 0]);
    let mut world = place.open();
    assert_eq!((world.recovered.seq_from, world.recovered.unclean), (next + 1, false));
    assert_eq!((world.loaded_seqs("a"), world.loaded_seqs("b")), (vec![], vec![next]));
    // Without its header, it is saved from at start, and that finds the same.
    let place = Place::new();
    fs::write(place.path(), &damaged).unwrap();
    overwrite(&place.path(), 0, &[0; 16]);
    let mut world = open_damaged(&place);
    assert_eq!(world.loaded_seqs("a"), seqs);
    assert_eq!(world.set_aside.unwrap().unreadable, 3);
}

#[test]
fn writing_that_meets_damage_is_done_in_the_new_store() {
    let place = filled(2_000);
    let leaf = leaves(&place)[60];
    overwrite(&place.path(), leaf * PAGE, &[0xff; 64]);
    let mut world = place.open();
    let next = world.recovered.seq_from;
    let answers = world.carry_out([keep(next, "a"), release("a", 1..=2_000)]);
    assert_eq!(answers, []);
    world.wait_for_notice(|notice| matches!(notice, Notice::Replaced(_)));
    assert_eq!(world.loaded_seqs("a"), [next]);
}

#[test]
fn what_reading_at_start_finds_changes_neither_the_database_nor_its_log() {
    let place = filled_at(now_unix_us(), 500);
    let mut world = place.open();
    let next = world.recovered.seq_from;
    world.carry_out([keep(next, "b")]);
    let killed = place.snapshot();
    overwrite(&killed.path(), leaves(&killed)[10] * PAGE, &[0xff; 64]);
    let (damaged, log_then) = (contents(&killed.path()), contents(&log(&killed)));
    assert!(!log_then.is_empty());
    let mut world = killed.open();
    let aside = world.set_aside.clone().unwrap().path;
    assert!(contents(&aside) == damaged, "the database has changed");
    assert!(contents(&wal_of(&aside)) == log_then, "the log has changed");
    let seqs = world.loaded_seqs("a");
    assert!(seqs.len() > 450 && seqs.len() < 500, "{}", seqs.len());
    assert_eq!(world.loaded_seqs("b"), [next]);
    assert!(world.load("b")[0].deliveries >= 1, "it may have been handed over");
}

#[test]
fn a_replacement_that_was_cut_short_is_finished() {
    let place = filled(10);
    let mut salvaged = place.path().into_os_string();
    salvaged.push(".salvaged");
    fs::rename(place.path(), &salvaged).unwrap();
    // The damaged one was about to go. It has its other name already.
    fs::write(place.path(), vec![b'x'; 10_000]).unwrap();
    fs::write(log(&place), vec![b'x'; 10_000]).unwrap();
    let mut world = place.open();
    assert_eq!(world.set_aside, None);
    assert_eq!(world.loaded_seqs("a"), (1..=10).collect::<Vec<_>>());
    assert!(!PathBuf::from(salvaged).exists());
}

fn log(place: &Place) -> PathBuf {
    wal_of(&place.path())
}

fn wal_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// The files of a process that was killed after ten commits of one message each.
fn killed() -> Place {
    let place = Place::new();
    let mut world = place.open();
    for seq in 1..=10 {
        world.carry_out([keep(seq, "a")]);
    }
    place.snapshot()
}

#[test]
fn a_log_that_is_damaged_before_its_end_is_set_aside() {
    let place = killed();
    let bytes = contents(&log(&place));
    // Behind this, whole commits follow. Before it, there are those that made the tables.
    let middle = 32 + (bytes.len() as u64 - 32) / 4120 * 7 / 8 * 4120 + 1_000;
    overwrite(&log(&place), middle, &[0xff; 8]);
    let damaged = contents(&log(&place));
    assert_ne!(check(&place.path()).problems, [""; 0]);
    let mut world = place.open();
    let aside = world.set_aside.clone().unwrap();
    assert!(aside.why.contains("write-ahead log"), "{}", aside.why);
    assert_eq!(contents(&wal_of(&aside.path)), damaged);
    let seqs = world.loaded_seqs("a");
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    assert!(!seqs.is_empty() && seqs.len() < 10);
}

#[test]
fn a_log_whose_header_is_damaged_is_set_aside() {
    let place = killed();
    overwrite(&log(&place), 12, &[0xff; 4]);
    let world = place.open();
    assert!(world.set_aside.unwrap().why.contains("write-ahead log"));
}

#[test]
fn the_database_of_a_newer_program_is_left_alone() {
    let place = filled(1);
    // `user_version`, big-endian.
    overwrite(&place.path(), 60, &[0, 0, 0, 99]);
    let before = contents(&place.path());
    match Store::open(place.options(), || {}) {
        Err(OpenError::TooNew { found: 99, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(contents(&place.path()), before);
    assert_eq!(check(&place.path()).schema, Some(99));
    let entries = fs::read_dir(place.directory()).unwrap();
    let aside =
        entries.flatten().filter(|entry| entry.file_name().to_string_lossy().contains("damaged"));
    assert_eq!(aside.count(), 0);
}

#[test]
fn the_database_of_something_else_is_left_alone() {
    let place = filled(1);
    // `application_id`.
    overwrite(&place.path(), 68, &[1, 2, 3, 4]);
    let before = contents(&place.path());
    match Store::open(place.options(), || {}) {
        Err(OpenError::Failed { why, .. }) => assert!(why.contains("something else"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(contents(&place.path()), before);
}
