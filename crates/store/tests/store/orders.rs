//! Every order, and what is answered.

use hermes_bus_core::storage::{
    Answer, DeadLetter, Ending, Keep, Order, Record, Remembered, Sender, Ticket,
};
use hermes_bus_proto::control::Status;

use crate::world::{
    ALL, Place, bury, keep, keep_record, letter, load, name, now_unix_us, record, release,
};

#[test]
fn a_kept_message_comes_back_as_it_was() {
    let place = Place::new();
    let mut world = place.open();
    assert_eq!((world.recovered.seq_from, world.recovered.unclean), (1, false));
    let plain = record(1, "a", "\"x\"");
    let full = Record {
        keep: Keep::Queued,
        via: Some("@workers".into()),
        wanted: Some(Status::Acked),
        expires_unix_us: Some(now_unix_us() + 1_000_000_000),
        deliveries: 3,
        ..record(2, "a", &format!("\"{}\"", "large ".repeat(10_000)))
    };
    let mut bare = record(3, "a", "null");
    bare.sender = bare.sender.map(|sender| Sender { endpoint: None, ..sender });
    bare.wanted = None;
    let answers = world.carry_out([&plain, &full, &bare].map(keep_record));
    assert_eq!(answers, []);
    assert_eq!(world.load("a"), [plain.clone(), full.clone(), bare.clone()]);
    world.close();
    assert_eq!(place.open().load("a"), [plain, full, bare]);
}

#[test]
fn a_sender_that_nobody_knows_is_kept_as_that() {
    let place = Place::new();
    let mut world = place.open();
    let nobody_s = |seq| Record { sender: None, ..record(seq, "a", "1") };
    let dead = DeadLetter { record: nobody_s(2), ..letter(2, "a", "no") };
    world.carry_out([keep_record(&nobody_s(1)), keep_record(&nobody_s(3)), bury(&dead)]);
    assert!(world.load("a").iter().all(|record| record.sender.is_none()));
    let letters = place.reader().dead_letters(None, ALL).unwrap();
    assert_eq!(letters[0].letter.record.sender, None);
    // Nobody's messages are not taken for repetitions of each other, waiting or ended.
    world.carry_out([release("a", [3])]);
    world.close();
    assert_eq!(place.open().recovered.recent, []);
}

#[test]
fn a_message_with_the_number_of_another_takes_its_place() {
    let place = Place::new();
    let mut world = place.open();
    let (first, second) = (record(7, "a", "1"), record(7, "b", "2"));
    world.carry_out([keep_record(&first), keep(8, "a")]);
    world.carry_out([keep_record(&second), keep(9, "a")]);
    assert_eq!((world.loaded_seqs("a"), world.load("b")), (vec![8, 9], vec![second]));
}

#[test]
fn so_it_does_in_the_middle_of_many() {
    let place = Place::new();
    let mut world = place.open();
    let second: Vec<Record> = (50..=149).map(|seq| record(seq, "b", "2")).collect();
    world.carry_out((1..=100).map(|seq| keep(seq, "a")));
    world.carry_out(second.iter().map(keep_record));
    assert_eq!(world.loaded_seqs("a"), Vec::from_iter(1..=49));
    assert_eq!(world.load("b"), second);
}

#[test]
fn messages_of_one_commit_come_back_as_they_were_however_many_and_large_they_are() {
    let place = Place::new();
    let mut world = place.open();
    let large = format!("\"{}\"", "large ".repeat(50_000));
    let mut seq = 0;
    for count in [1, 7, 8, 9, 31, 32, 33, 40, 41, 72, 100] {
        for large_at in [None, Some(0), Some(count / 2), Some(count - 1)] {
            let endpoint = format!("{count} {large_at:?}");
            let records = Vec::from_iter((0..count).map(|place| {
                seq += 1;
                let number = seq.to_string();
                let body = if large_at == Some(place) { &large } else { &number };
                Record { deliveries: place as u32, ..record(seq, &endpoint, body) }
            }));
            world.carry_out(records.iter().map(keep_record));
            assert_eq!(world.load(&endpoint), records, "{endpoint}");
        }
    }
}

#[test]
fn stored_names_the_last_ticket_of_a_commit() {
    let mut world = Place::new().open();
    world.submit([keep(1, "a"), keep(2, "b"), release("a", [1])]);
    world.wait_for(|answer| *answer == Answer::Stored(Ticket(3)));
}

#[test]
fn a_load_is_bounded_but_gives_at_least_one() {
    let place = Place::new();
    let mut world = place.open();
    world.carry_out((1..=10).map(|seq| keep(seq, "a")));
    let one = record(1, "a", "\"hello\"").payload.len();
    for (from, messages_max, bytes_max, expected, is_all) in [
        (0, 3, usize::MAX, vec![1, 2, 3], false),
        (8, 3, usize::MAX, vec![8, 9, 10], true),
        (0, 100, 2 * one, vec![1, 2], false),
        (0, 100, 2 * one - 1, vec![1], false),
        (4, 100, 0, vec![4], false),
        (0, 0, 0, vec![1], false),
        (10, 1, 0, vec![10], true),
        (11, 1, 1, vec![], true),
    ] {
        let order = Order::Load { endpoint: name("a"), from, messages_max, bytes_max };
        let answers = world.carry_out([order]);
        let [Answer::Loaded { records, is_all: all, endpoint }] = &answers[..] else {
            panic!("{answers:?}");
        };
        assert_eq!(*endpoint, name("a"));
        let seqs: Vec<u64> = records.iter().map(|record| record.seq).collect();
        assert_eq!((seqs, *all), (expected, is_all), "{from} {messages_max} {bytes_max}");
    }
    assert_eq!(world.load("never seen"), []);
}

#[test]
fn a_load_sees_what_was_ordered_before_it_in_the_same_commit() {
    let mut world = Place::new().open();
    world.carry_out([keep(1, "a")]);
    let answers = world.carry_out([
        keep(2, "a"),
        load("a"),
        release("a", [1, 2]),
        keep(3, "a"),
        Order::Delivered { endpoint: name("a"), seq: 3, deliveries: 2 },
        load("a"),
    ]);
    let loaded: Vec<Vec<(u64, u32)>> = answers
        .iter()
        .map(|answer| match answer {
            Answer::Loaded { records, .. } => {
                records.iter().map(|record| (record.seq, record.deliveries)).collect()
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(loaded, [vec![(1, 0), (2, 0)], vec![(3, 2)]]);
}

#[test]
fn a_release_removes_what_it_names_and_nothing_else() {
    let mut world = Place::new().open();
    // Two mailboxes, one within the other, with gaps of every size.
    let a = [1, 2, 3, 7, 8, 70, 71, 500, 501, 502, 9_000];
    let b = [4, 5, 6, 72, 503];
    world.carry_out(a.map(|seq| keep(seq, "a")).into_iter().chain(b.map(|seq| keep(seq, "b"))));
    // 5 and 72 are another's, 6_000 is nobody's.
    world.carry_out([release("a", [1, 3, 5, 7, 70, 71, 72, 501, 6_000])]);
    assert_eq!(world.loaded_seqs("a"), [2, 8, 500, 502, 9_000]);
    assert_eq!(world.loaded_seqs("b"), b);
    world.carry_out([release("a", [2, 8, 500, 502, 9_000]), release("nobody", [4])]);
    assert_eq!(world.loaded_seqs("a"), [0; 0]);
    assert_eq!(world.loaded_seqs("b"), b);
}

#[test]
fn a_message_that_is_released_before_it_is_written_never_reaches_the_database() {
    let place = Place::new();
    let mut world = place.open();
    world.carry_out([keep(1, "a"), keep(2, "a"), release("a", [1]), bury(&letter(3, "a", ""))]);
    assert_eq!(world.loaded_seqs("a"), [2]);
    // It would have left its states otherwise.
    assert_eq!(place.reader().trail("id-1").unwrap(), []);
    assert_ne!(place.reader().trail("id-2").unwrap(), []);
}

#[test]
fn spilled_messages_go_alone_and_do_not_outlive_the_process() {
    let place = Place::new();
    let mut world = place.open();
    let spilled = |seq, endpoint| Record { keep: Keep::Spill, ..record(seq, endpoint, "1") };
    world.carry_out([
        keep(1, "a"),
        keep_record(&spilled(2, "a")),
        keep_record(&spilled(3, "b")),
        keep_record(&spilled(4, "a")),
    ]);
    assert_eq!(world.loaded_seqs("a"), [1, 2, 4]);
    world.carry_out([keep_record(&spilled(5, "a")), Order::ReleaseSpilled(name("a"))]);
    assert_eq!(world.loaded_seqs("a"), [1]);
    assert_eq!(world.loaded_seqs("b"), [3]);
    world.carry_out([keep_record(&spilled(6, "a"))]);
    world.close();
    let mut world = place.open();
    let waiting: Vec<_> = world
        .recovered
        .waiting
        .iter()
        .map(|waiting| (waiting.endpoint.as_str(), waiting.messages, waiting.first_seq))
        .collect();
    assert_eq!(waiting, [("a", 1, 1)]);
    assert_eq!(world.loaded_seqs("a"), [1]);
    assert_eq!(world.loaded_seqs("b"), [0; 0]);
    // New ones are as good as ever.
    let seq = world.recovered.seq_from;
    world.carry_out([keep_record(&spilled(seq, "b"))]);
    assert_eq!(world.loaded_seqs("b"), [seq]);
}

#[test]
fn a_purge_leaves_other_endpoints_alone() {
    let mut world = Place::new().open();
    world.carry_out([keep(1, "a"), keep(2, "b")]);
    world.carry_out([
        keep(3, "a"),
        Order::Purge { endpoint: name("a"), from: 0, to: 3 },
        keep(4, "a"),
    ]);
    assert_eq!(world.loaded_seqs("a"), [4]);
    assert_eq!(world.loaded_seqs("b"), [2]);
}

#[test]
fn deliveries_are_counted_and_forgotten_with_the_message() {
    let place = Place::new();
    let mut world = place.open();
    let delivered = |seq, deliveries| Order::Delivered { endpoint: name("a"), seq, deliveries };
    world.carry_out([keep(1, "a"), delivered(1, 1), keep(2, "a")]);
    world.carry_out([delivered(1, 2), delivered(2, 1), delivered(99, 7)]);
    world.close();
    let mut world = place.open();
    let counts = |world: &mut crate::world::World| -> Vec<(u64, u32)> {
        world.load("a").iter().map(|record| (record.seq, record.deliveries)).collect()
    };
    assert_eq!(counts(&mut world), [(1, 2), (2, 1)]);
    world.carry_out([release("a", [1]), keep(99, "a")]);
    assert_eq!(counts(&mut world), [(2, 1), (99, 0)]);
}

#[test]
fn overdue_messages_come_soonest_first() {
    let mut world = Place::new().open();
    let expiring = |seq, expires_unix_us| {
        keep_record(&Record { expires_unix_us, ..record(seq, &format!("e{seq}"), "1") })
    };
    world.carry_out([
        expiring(1, Some(300)),
        expiring(2, None),
        expiring(3, Some(100)),
        expiring(4, Some(200)),
        expiring(5, Some(301)),
    ]);
    let mut overdue = |messages_max| {
        let answers = world.carry_out([Order::LoadOverdue { unix_us: 300, messages_max }]);
        let [Answer::Overdue(records)] = &answers[..] else { panic!("{answers:?}") };
        records.iter().map(|record| (record.seq, record.endpoint.to_string())).collect::<Vec<_>>()
    };
    let all = [(3, "e3".to_owned()), (4, "e4".to_owned()), (1, "e1".to_owned())];
    assert_eq!(overdue(10), all);
    assert_eq!(overdue(2), all[..2]);
}

#[test]
fn dead_letters_are_listed_shown_and_removed() {
    let place = Place::new();
    let mut world = place.open();
    let letters = [letter(1, "a", "no"), letter(2, "b", ""), letter(3, "a", "never")];
    world.carry_out(letters.iter().map(bury));
    let reader = place.reader();
    let listed = reader.dead_letters(None, ALL).unwrap();
    let newest_first: Vec<_> = letters.iter().rev().cloned().collect();
    assert_eq!(listed.iter().map(|dead| dead.letter.clone()).collect::<Vec<_>>(), newest_first);
    let numbers: Vec<u64> = listed.iter().map(|dead| dead.number).collect();
    let page = hermes_bus_store::Page { rows_max: 1, bytes_max: 0 };
    assert_eq!(reader.dead_letters(Some(numbers[0]), page).unwrap(), listed[1..2]);
    assert_eq!(reader.dead_letter(numbers[1]).unwrap().as_ref(), Some(&listed[1]));
    assert_eq!(world.remove_dead(&[numbers[0], numbers[0], 999]), Ok(1));
    assert_eq!(reader.dead_letter(numbers[0]).unwrap(), None);
    let figures = reader.figures().unwrap();
    let bytes = |letter: &DeadLetter| letter.record.load_bytes();
    let left = bytes(&letters[0]) + bytes(&letters[1]);
    assert_eq!((figures.dead_letters, figures.dead_letter_bytes), (2, left));
    world.close();
    // A number is not used again.
    let mut world = place.open();
    world.carry_out([bury(&letter(4, "a", ""))]);
    assert!(place.reader().dead_letters(None, ALL).unwrap()[0].number > numbers[0]);
}

#[test]
fn endpoints_are_remembered_until_they_are_forgotten() {
    let place = Place::new();
    let mut world = place.open();
    let remembered = |endpoint, seen_unix_us, groups: &[&str]| Remembered {
        endpoint: name(endpoint),
        uid: 1000,
        seen_unix_us,
        mailbox: true,
        groups: groups.iter().map(|group| (*group).into()).collect(),
        topics: vec!["a.*".into(), "\"quoted\" >".into()],
    };
    let orders = [
        remembered("a", 3, &["g"]),
        remembered("b", 2, &[]),
        remembered("c", 1, &[]),
        remembered("a", 1, &["h", "i"]),
    ];
    world.carry_out(orders.iter().map(|one| Order::Remember(Box::new(one.clone()))));
    world.carry_out([Order::Forget(name("b")), Order::Remember(Box::new(remembered("c", 9, &[])))]);
    world.close();
    let world = place.open();
    assert_eq!(world.recovered.remembered, [orders[3].clone(), remembered("c", 9, &[])]);
}

#[test]
fn the_states_of_a_stored_message_are_known_to_the_end_and_after() {
    use hermes_bus_store::Step::{Accepted, Delivered, Ended, Stored};
    let place = Place::new();
    let mut world = place.open();
    let large = record(2, "b", &format!("\"{}\"", "x".repeat(5_000)));
    world.carry_out([keep(1, "a"), keep_record(&large), keep(3, "a"), keep(4, "a")]);
    let delivered = Order::Delivered { endpoint: name("a"), seq: 1, deliveries: 2 };
    world.carry_out([delivered, bury(&letter(5, "z", "never stored"))]);
    let reader = place.reader();
    let steps = |id: &str| {
        let seen = reader.trail(id).unwrap();
        assert!(seen.iter().all(|seen| seen.unix_us != Some(0)), "{seen:?}");
        seen.into_iter().map(|seen| (seen.step, seen.detail)).collect::<Vec<_>>()
    };
    let none = String::new;
    let twice = || "handed over 2 times".to_owned();
    assert_eq!(steps("id-1"), [(Accepted, none()), (Stored, none()), (Delivered, twice())]);
    assert_eq!(steps("id-2"), [(Accepted, none()), (Stored, none())]);
    let died = "dead letter: rejected (never stored)".to_owned();
    assert_eq!(steps("id-5"), [(Accepted, none()), (Ended, died)]);
    let dead = Order::Release { endpoint: name("a"), seqs: vec![3], ending: Ending::Dead };
    world.carry_out([release("a", [1]), release("b", [2]), bury(&letter(3, "a", "bad")), dead]);
    world.carry_out([Order::Purge { endpoint: name("a"), from: 0, to: u64::MAX }]);
    assert_eq!(
        steps("id-1"),
        [(Accepted, none()), (Stored, none()), (Delivered, twice()), (Ended, "acked".to_owned())]
    );
    assert_eq!(steps("id-2")[2], (Ended, "acked".to_owned()));
    assert_eq!(steps("id-3")[2], (Ended, "dead letter: rejected (bad)".to_owned()));
    assert_eq!(steps("id-4")[2], (Ended, "purged".to_owned()));
    assert_eq!(steps("id-6"), []);
}
