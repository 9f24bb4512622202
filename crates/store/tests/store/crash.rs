//! From one process to the next, in good order and not.

use std::time::Duration;

use hermes_bus_core::storage::{Answer, Ending, Keep, Order, Recent, Record, Sender, Ticket};
use hermes_bus_proto::control::Status;
use hermes_bus_store::{Notice, OpenError, Options, Store, check};

use crate::world::{PATIENCE, Place, keep, keep_record, name, now_unix_us, record, release};

#[test]
fn what_is_stored_survives_a_crash_and_nothing_is_numbered_twice() {
    let place = Place::new();
    let mut world = place.open();
    world.carry_out([keep(1, "a"), keep(2, "a"), keep(3, "b")]);
    world.carry_out([release("a", [1])]);
    let mut next = place.snapshot().open();
    assert!(next.recovered.unclean);
    assert!(next.recovered.seq_from > 1 << 32, "{}", next.recovered.seq_from);
    assert_eq!(next.loaded_seqs("a"), [2]);
    assert_eq!(next.loaded_seqs("b"), [3]);
    assert!(matches!(next.wait_for_notice(|notice| !notice.is_bad()), Notice::Sound { .. }));
}

#[test]
fn what_a_crash_left_counts_as_handed_over_however_many_clean_stops_follow() {
    let place = Place::new();
    let mut world = place.open();
    world.carry_out([keep(1, "a"), keep(2, "a")]);
    world.carry_out([Order::Delivered { endpoint: name("a"), seq: 2, deliveries: 5 }]);
    let place = place.snapshot();
    let mut world = place.open();
    let later = world.recovered.seq_from;
    world.carry_out([keep(later, "a")]);
    world.close();
    for _ in 0..2 {
        let mut world = place.open();
        assert!(!world.recovered.unclean);
        let deliveries = |records: Vec<Record>| -> Vec<_> {
            records.iter().map(|record| (record.seq, record.deliveries)).collect()
        };
        let expected = [(1, 1), (2, 5), (later, 0)];
        assert_eq!(deliveries(world.load("a")), expected);
        let shown = place.reader().messages(&name("a"), None, crate::world::ALL).unwrap();
        assert_eq!(deliveries(shown), expected);
        world.close();
    }
}

#[test]
fn every_commit_is_in_the_files_when_it_is_answered() {
    let place = Place::new();
    let mut world = place.open();
    for seq in 1..=20 {
        world.carry_out([keep(seq, "a")]);
        let mut next = place.snapshot().open();
        assert_eq!(next.loaded_seqs("a"), (1..=seq).collect::<Vec<_>>());
    }
}

#[test]
fn a_log_that_ends_in_the_middle_of_a_commit_ends_with_the_one_before() {
    let place = Place::new();
    let mut world = place.open();
    world.carry_out([keep(1, "a")]);
    let wal = place.path().with_extension("db-wal");
    let good = std::fs::metadata(&wal).unwrap().len();
    world.carry_out((2..200).map(|seq| keep(seq, "a")));
    let whole = std::fs::metadata(&wal).unwrap().len();
    assert!(whole > good + 10 * 4096);
    for cut in [good, good + 1, good + 24, good + 4120, good + 5 * 4120 + 100] {
        let crashed = place.snapshot();
        let wal = crashed.path().with_extension("db-wal");
        std::fs::OpenOptions::new().write(true).open(wal).unwrap().set_len(cut).unwrap();
        let mut next = crashed.open();
        assert_eq!(next.set_aside, None, "{cut}");
        assert_eq!(next.loaded_seqs("a"), [1], "{cut}");
    }
}

#[test]
fn after_a_clean_stop_numbers_go_on_where_they_ended() {
    let place = Place::new();
    let mut world = place.open();
    world.carry_out([keep(5, "a")]);
    world.close();
    let world = place.open();
    assert_eq!((world.recovered.seq_from, world.recovered.unclean), (6, false));
    world.store.close(Some(1_000), PATIENCE).unwrap();
    let world = place.open();
    assert_eq!((world.recovered.seq_from, world.recovered.unclean), (1_000, false));
    // A handle that is dropped has written everything, but says nothing about its end.
    let mut world = world;
    world.submit([keep(1_000, "b")]);
    drop(world);
    let mut world = place.open();
    assert!(world.recovered.unclean);
    assert_eq!(world.loaded_seqs("b"), [1_000]);
}

#[test]
fn what_waits_is_summed_up_at_start() {
    let place = Place::new();
    let mut world = place.open();
    let records = [record(1, "b", "1"), record(2, "a", "22"), record(3, "b", "333")];
    world.carry_out(records.iter().map(keep_record));
    world.close();
    let waiting: Vec<_> = place
        .open()
        .recovered
        .waiting
        .into_iter()
        .map(|one| (one.endpoint, one.messages, one.load_bytes, one.first_seq, one.oldest_unix_us))
        .collect();
    let arrived = |seq: usize| records[seq - 1].arrived_unix_us;
    let bytes = |seq: usize| records[seq - 1].load_bytes();
    assert_eq!(
        waiting,
        [
            (name("a"), 1, bytes(2), 2, arrived(2)),
            (name("b"), 2, bytes(1) + bytes(3), 1, arrived(1))
        ]
    );
}

#[test]
fn messages_that_are_judged_by_their_ids_are_known_for_a_while() {
    let place = Place::new();
    let mut world = place.open();
    let now = now_unix_us();
    let base = |seq| Record { arrived_unix_us: now + seq, ..record(seq, "a", "1") };
    let from_text = |seq| {
        let mut record = base(seq);
        record.sender = record.sender.map(|sender| Sender { endpoint: None, ..sender });
        record.payload =
            format!("{{\"type\":\"message\",\"to\":\"a\",\"from\":\"x\",\"id\":\"id-{seq}\"}}")
                .into();
        record
    };
    let records = [
        base(1),
        Record { wanted: Some(Status::Acked), ..from_text(2) },
        Record { wanted: None, keep: Keep::Queued, ..base(3) },
        // Nobody asked for these to be judged, or they came too long ago, or have no id that counts.
        Record { wanted: None, ..base(4) },
        Record { arrived_unix_us: now - 601_000_000, ..base(5) },
        Record { payload: r#"{"type":"message","to":"a","id":7}"#.into(), ..base(6) },
        Record { payload: r#"{"type":"message","to":"a","id":""}"#.into(), ..base(7) },
        base(8),
        base(9),
        base(10),
    ];
    world.carry_out(records.iter().map(keep_record));
    let end = |seq, ending| Order::Release { endpoint: name("a"), seqs: vec![seq], ending };
    world.carry_out([
        end(2, Ending::Acked),
        end(3, Ending::Read),
        end(8, Ending::Expired),
        end(9, Ending::Dropped),
        end(5, Ending::Acked),
    ]);
    let recent = |seq, from: &str, status| Recent {
        uid: 1000,
        from: Some(from.into()),
        to: "a".into(),
        id: format!("id-{seq}").into(),
        status,
        waits_for: (status == Status::Stored).then(|| name("a")),
        arrived_unix_us: now + seq,
    };
    let expected = [
        recent(1, "sender", Status::Stored),
        recent(2, "x", Status::Acked),
        recent(3, "sender", Status::Delivered),
        recent(10, "sender", Status::Stored),
    ];
    assert_eq!(place.snapshot().open().recovered.recent, expected);
    world.close();
    let options = Options { recent_max: 2, ..place.options() };
    assert_eq!(crate::world::World::open(options).recovered.recent, expected[2..]);
}

#[test]
fn two_stores_on_one_database_are_impossible() {
    let place = Place::new();
    let world = place.open();
    match Store::open(place.options(), || {}) {
        Err(OpenError::InUse { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    let report = check(&place.path());
    assert_eq!((report.is_in_use, report.in_use_by), (true, Some(std::process::id())));
    assert_eq!(report.problems, [""; 0]);
    world.close();
    assert!(!check(&place.path()).is_in_use);
    place.open();
}

#[test]
fn only_the_owner_can_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let mut world = place.open();
    world.carry_out([keep(1, "a")]);
    for entry in std::fs::read_dir(place.directory()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
    }
}

#[test]
fn a_close_that_takes_too_long_keeps_others_out() {
    let place = Place::new();
    let mut world = place.open();
    let large = format!("\"{}\"", "x".repeat(4_000_000));
    world.submit((1..30).map(|seq| keep_record(&record(seq, "a", &large))));
    let result = world.store.close(None, Duration::ZERO);
    assert_eq!(result, Err(hermes_bus_store::CloseError::Late));
    assert!(matches!(Store::open(place.options(), || {}), Err(OpenError::InUse { .. })));
}

#[test]
fn orders_that_nobody_waits_for_are_carried_out_all_the_same() {
    let mut world = Place::new().open();
    let quiet = Record { wanted: None, ..record(1, "a", "1") };
    let ticket = world.submit([keep_record(&quiet)]);
    assert_eq!(ticket, Ticket(1));
    world.wait_for(|answer| *answer == Answer::Stored(Ticket(1)));
    assert_eq!(world.loaded_seqs("a"), [1]);
}

#[test]
fn what_was_to_be_queued_is_known_by_its_id_in_a_mailbox_too() {
    let place = Place::new();
    let mut world = place.open();
    let large = "x".repeat(4_000);
    let asking = |seq: u64, asks: &str, body: &str| Record {
        wanted: Some(Status::Delivered),
        payload: format!(r#"{{"to": "a", "id": "id-{seq}", "body": "{body}"{asks}}}"#).into(),
        ..record(seq, "a", "1")
    };
    let queue = r#", "queue": true"#;
    let all = [
        asking(1, queue, ""),
        asking(2, queue, &large),
        asking(3, "", "queue"),
        asking(4, "", &large),
        asking(5, r#", "\u0071ueue": true"#, ""),
        asking(6, r#", "queue": false"#, ""),
    ];
    world.carry_out(all.iter().map(keep_record));
    let known = |recovered: &hermes_bus_core::storage::Recovered| -> Vec<(String, Status)> {
        recovered.recent.iter().map(|recent| (recent.id.to_string(), recent.status)).collect()
    };
    let stored = |seq: u64| (format!("id-{seq}"), Status::Stored);
    let next = place.snapshot().open();
    assert_eq!(known(&next.recovered), [stored(1), stored(2), stored(5)]);
    // The same when they have ended.
    world.carry_out([release("a", 1..=6)]);
    let next = place.snapshot().open();
    let acked = |seq: u64| (format!("id-{seq}"), Status::Acked);
    assert_eq!(known(&next.recovered), [acked(1), acked(2), acked(5)]);
    let trail = place.reader().trail("id-4").unwrap();
    assert_eq!(trail.last().unwrap().detail, "acked");
}
