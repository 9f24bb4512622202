//! Live traffic: recorded, bounded, found.

use std::time::Duration;

use hermes_bus_store::{
    Depth, HistoryEntry, Notice, Options, Place as Where, Query, Retention, Sorting,
};

use crate::world::{ALL, Place, World, now_unix_us};

pub(crate) fn entry(unix_us: u64, to: &str, body: &str) -> HistoryEntry {
    let payload =
        format!("{{\"type\": \"message\", \"from\": \"me\", \"to\": \"{to}\", \"body\": {body}}}");
    HistoryEntry { unix_us, payload: payload.into(), outcome: "accepted", depth: Depth::Message }
}

/// Waits until so many entries are in the database.
pub(crate) fn wait_for_entries(place: &Place, world: &mut World, entries: u64) {
    let reader = place.reader();
    let begin = std::time::Instant::now();
    while reader.figures().unwrap().history_entries != entries {
        assert!(begin.elapsed() < crate::world::PATIENCE);
        // Each order ends with a look at the history that waits.
        world.carry_out([crate::world::load("nobody")]);
    }
}

#[test]
fn traffic_is_recorded_whole_or_without_its_body() {
    let place = Place::new();
    let mut world = place.open();
    let now = now_unix_us();
    let whole = entry(now, "a", "\"secret\"");
    let envelope = HistoryEntry { depth: Depth::Envelope, outcome: "held", ..whole.clone() };
    world.store.record_history(vec![whole.clone(), envelope]);
    wait_for_entries(&place, &mut world, 2);
    let (found, _) = place.reader().find(&Query::default(), ALL).unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[1].payload, whole.payload);
    assert_eq!(&found[0].payload[..], br#"{"type": "message", "from": "me", "to": "a"}"#);
    assert_eq!((found[0].outcome.as_str(), found[0].place), ("held", Where::History));
    assert_eq!((found[1].from.as_deref(), found[1].to.as_deref()), (Some("me"), Some("a")));
}

#[test]
fn history_that_comes_too_fast_is_dropped_and_counted() {
    let place = Place::new();
    let mut world = World::open(Options { history_waiting_bytes_max: 1_000, ..place.options() });
    let large = entry(now_unix_us(), "a", &format!("\"{}\"", "x".repeat(2_000)));
    world.store.record_history(vec![large; 3]);
    let notice = world.wait_for_notice(Notice::is_bad);
    assert_eq!(notice, Notice::HistoryDropped(3));
}

#[test]
fn history_is_bounded_by_age_and_by_bytes() {
    let place = Place::new();
    let now = now_unix_us();
    let one = entry(now, "a", "\"12345678\"").payload.len() as u64 + 64;
    let hour = Duration::from_secs(3600);
    let history = Retention { age: hour, bytes: 3 * one };
    let mut world = World::open(Options { history, ..place.options() });
    let hours_ago = |hours: u64| entry(now - hours * 3_600_000_000, "a", "\"12345678\"");
    world.store.record_history(vec![hours_ago(3), hours_ago(2), hours_ago(0)]);
    wait_for_entries(&place, &mut world, 1);
    world.store.record_history(vec![hours_ago(0); 4]);
    wait_for_entries(&place, &mut world, 3);
    assert_eq!(place.reader().figures().unwrap().history_bytes, 3 * one);
    let query = Query { order: Sorting::OldestFirst, ..Query::default() };
    let (found, _) = place.reader().find(&query, ALL).unwrap();
    assert_eq!(found.iter().map(|found| found.number).collect::<Vec<_>>(), [5, 6, 7]);
}

#[test]
fn dead_letters_and_trails_are_bounded_too() {
    let place = Place::new();
    let second = Duration::from_secs(1);
    let dead_letters = Retention { age: 3600 * second, bytes: 0 };
    let trail = Retention { age: 3600 * second, bytes: 0 };
    let mut world = World::open(Options { dead_letters, trail, ..place.options() });
    world.carry_out([
        crate::world::keep(1, "a"),
        crate::world::bury(&crate::world::letter(2, "a", "")),
    ]);
    world.carry_out([crate::world::release("a", [1])]);
    let reader = place.reader();
    let begin = std::time::Instant::now();
    loop {
        let figures = reader.figures().unwrap();
        if (figures.dead_letters, figures.trail_messages, figures.trail_bytes) == (0, 0, 0) {
            break;
        }
        assert!(begin.elapsed() < crate::world::PATIENCE);
        std::thread::yield_now();
    }
}

#[test]
fn dead_letters_of_one_user_displace_only_their_own() {
    let place = Place::new();
    let of = |seq: u64, uid: u32| {
        let mut letter = crate::world::letter(seq, "a", "");
        letter.record.sender.as_mut().unwrap().uid = uid;
        letter
    };
    let one = of(100, 1).record.load_bytes();
    let dead_letters = Retention { age: Duration::from_secs(3600), bytes: 20 * one };
    let mut world = World::open(Options { dead_letters, ..place.options() });
    // The others' are the oldest of all.
    let few = [of(101, 2), of(102, 2), of(103, 3)];
    world.carry_out(few.iter().map(crate::world::bury));
    world.carry_out((104..=900).map(|seq| crate::world::bury(&of(seq, 1))));
    let mut told = 0;
    while told < 780 {
        let is_it = |notice: &Notice| matches!(notice, Notice::DeadLettersRemoved { .. });
        let Notice::DeadLettersRemoved { aged: 0, displaced } = world.wait_for_notice(is_it) else {
            panic!("they are too young");
        };
        told += displaced;
    }
    assert_eq!(told, 780, "800 were buried");
    let reader = place.reader();
    let left = reader.dead_letters(None, ALL).unwrap();
    let seqs: Vec<u64> = left.iter().rev().map(|dead| dead.letter.record.seq).collect();
    assert_eq!(seqs, [101, 102, 103].into_iter().chain(884..=900).collect::<Vec<_>>());
    let figures = reader.figures().unwrap();
    assert_eq!((figures.dead_letters, figures.dead_letter_bytes), (20, 20 * one));
    // What is removed by hand, or as one letter of many, leaves the books right.
    let numbers: Vec<u64> = left.iter().map(|dead| dead.number).collect();
    assert_eq!(world.remove_dead(&numbers[..10]), Ok(10));
    world.carry_out((901..=930).map(|seq| crate::world::bury(&of(seq, 2))));
    let is_it = |notice: &Notice| matches!(notice, Notice::DeadLettersRemoved { .. });
    let notice = world.wait_for_notice(is_it);
    assert_eq!(notice, Notice::DeadLettersRemoved { aged: 0, displaced: 20 });
    let left = place.reader().dead_letters(None, ALL).unwrap();
    let of_user = |uid| {
        let is_its = |dead: &&hermes_bus_store::NumberedDeadLetter| {
            dead.letter.record.sender.as_ref().is_some_and(|sender| sender.uid == uid)
        };
        left.iter().filter(is_its).count()
    };
    assert_eq!((of_user(1), of_user(2), of_user(3)), (7, 12, 1));
    assert_eq!(hermes_bus_store::check(&place.path()).problems, [""; 0]);
}

#[test]
fn dead_letters_that_were_kept_for_their_time_are_counted() {
    let place = Place::new();
    let dead_letters = Retention { age: Duration::from_secs(3600), bytes: 1 << 20 };
    let mut world = World::open(Options { dead_letters, ..place.options() });
    let mut old = crate::world::letter(1, "a", "");
    old.died_unix_us -= 3_601_000_000;
    world.carry_out([
        crate::world::bury(&old),
        crate::world::bury(&crate::world::letter(2, "a", "")),
    ]);
    let is_it = |notice: &Notice| matches!(notice, Notice::DeadLettersRemoved { .. });
    let notice = world.wait_for_notice(is_it);
    assert_eq!(notice, Notice::DeadLettersRemoved { aged: 1, displaced: 0 });
    assert!(!notice.is_bad(), "that is how it should be");
    assert_eq!(place.reader().dead_letters(None, ALL).unwrap().len(), 1);
}

#[test]
fn what_is_too_much_by_a_new_retention_goes_and_is_counted() {
    let place = Place::new();
    let mut world = place.open();
    let mut old = crate::world::letter(1, "a", "");
    old.died_unix_us -= 3_601_000_000;
    let letters = [old, crate::world::letter(2, "a", ""), crate::world::letter(3, "a", "")];
    world.carry_out(letters.iter().map(crate::world::bury));
    let Options { dead_letters, history, .. } = place.options();
    let is_it = |notice: &Notice| matches!(notice, Notice::DeadLettersRemoved { .. });
    world.store.retain(Retention { age: Duration::from_secs(3600), ..dead_letters }, history);
    assert_eq!(world.wait_for_notice(is_it), Notice::DeadLettersRemoved { aged: 1, displaced: 0 });
    let one = letters[2].record.load_bytes();
    world.store.retain(Retention { bytes: one, ..dead_letters }, history);
    assert_eq!(world.wait_for_notice(is_it), Notice::DeadLettersRemoved { aged: 0, displaced: 1 });
    let left = place.reader().dead_letters(None, ALL).unwrap();
    assert_eq!(left.iter().map(|dead| dead.letter.record.seq).collect::<Vec<_>>(), [3]);
}
