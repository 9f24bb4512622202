//! Databases that earlier programs have left.

use std::time::Duration;

use hermes_bus_core::storage::{Keep, Order, Record, Remembered};
use hermes_bus_store::{Options, Retention, check};

use crate::world::{ALL, Place, World, bury, keep, keep_record, letter, name, record, release};

/// Made by the first schema, and by [`make_the_first_version`]. Never made again.
const VERSION_1: &[u8] = include_bytes!("versions/1.db");

#[test]
fn a_store_of_the_first_version_is_understood() {
    let place = Place::new();
    std::fs::write(place.path(), VERSION_1).unwrap();
    assert_eq!(check(&place.path()).schema, Some(1));
    // The file does not get younger.
    let trail = Retention { age: Duration::MAX, bytes: u64::MAX };
    let mut world = World::open(Options { trail, ..place.options() });
    assert_eq!((world.recovered.seq_from, world.recovered.unclean), (8, false));
    assert_eq!(world.set_aside, None);
    let known: Vec<_> =
        world.recovered.remembered.iter().map(|one| one.endpoint.as_str()).collect();
    assert_eq!(known, ["a"]);
    let found: Vec<_> = world
        .load("a")
        .into_iter()
        .map(|record| (record.seq, record.keep, record.deliveries))
        .collect();
    assert_eq!(found, [(2, Keep::Mailbox, 3), (3, Keep::Queued, 0)]);
    let reader = place.reader();
    assert_eq!(reader.dead_letters(None, ALL).unwrap()[0].letter.detail, "of the first version");
    assert_eq!(reader.trail("id-1").unwrap().last().unwrap().detail, "acked");
    world.carry_out([keep(8, "a")]);
    assert_eq!(world.loaded_seqs("a"), [2, 3, 8]);
    assert_eq!(check(&place.path()).problems, [""; 0]);
}

#[test]
#[ignore = "made the file of the first version; to be changed for the next one"]
fn make_the_first_version() {
    let place = Place::new();
    let mut world = place.open();
    let queued = Record { keep: Keep::Queued, ..record(3, "a", "3") };
    let remembered = Remembered {
        endpoint: name("a"),
        uid: 1,
        seen_unix_us: 1,
        mailbox: true,
        groups: vec!["g".into()],
        topics: vec!["t.>".into()],
    };
    // So far in the future that retention leaves it.
    let mut dead = letter(7, "b", "of the first version");
    dead.died_unix_us = 1 << 60;
    world.carry_out([keep(1, "a"), keep(2, "a"), keep_record(&queued)]);
    world.carry_out([
        Order::Delivered { endpoint: name("a"), seq: 2, deliveries: 3 },
        Order::Remember(Box::new(remembered)),
        bury(&dead),
        release("a", [1]),
    ]);
    world.close();
    let to = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store/versions/made.db");
    std::fs::copy(place.path(), to).unwrap();
}
