//! A disk that does not take what it should.

use std::fs;

use hermes_bus_core::storage::{Answer, Order, Ticket};
use hermes_bus_store::{OpenError, Options, Store};

use crate::world::{Place, World, keep_record, load, name, record, release};

fn large(seq: u64) -> Order {
    keep_record(&record(seq, "a", &format!("\"{}\"", "x".repeat(100_000))))
}

#[test]
fn a_full_store_refuses_what_is_new_and_recovers_when_there_is_room() {
    let place = Place::new();
    let options = Options { database_bytes_max: Some(4 * 1024 * 1024), ..place.options() };
    let mut world = World::open(options);
    let mut kept = Vec::new();
    // One after the other, until it is full.
    let (refused, why) = loop {
        let seq = kept.len() as u64 + 1;
        let ticket = world.submit([large(seq)]);
        let mut answers = world.wait_for(|answer| match answer {
            Answer::Stored(stored) => *stored == ticket,
            Answer::Refused { .. } => true,
            _ => false,
        });
        match answers.pop() {
            Some(Answer::Refused { tickets, why }) => {
                assert_eq!(tickets, [ticket]);
                assert!(matches!(&answers[..], [Answer::Trouble(Some(_))]), "{answers:?}");
                break (seq, why);
            }
            _ => kept.push(seq),
        }
    };
    assert!(why.contains("full"), "{why}");
    assert!(kept.len() > 10, "{}", kept.len());
    // It still reads, and refuses at once.
    let ticket = world.submit([large(refused + 1), load("a")]);
    let answers = world.wait_for(|answer| matches!(answer, Answer::Loaded { .. }));
    let refusal = answers.iter().find_map(|answer| match answer {
        Answer::Refused { tickets, .. } => Some(tickets.clone()),
        _ => None,
    });
    assert_eq!(refusal, Some(vec![Ticket(ticket.0 - 1)]));
    // What makes room is carried out, and then there is room.
    world.submit([release("a", kept[..kept.len() / 2].iter().copied())]);
    world.wait_for(|answer| *answer == Answer::Trouble(None));
    let next = refused + 2;
    world.carry_out([large(next)]);
    let expected: Vec<u64> = kept[kept.len() / 2..].iter().copied().chain([next]).collect();
    assert_eq!(world.loaded_seqs("a"), expected);
    let mut copy = place.snapshot().open();
    assert_eq!(copy.loaded_seqs("a"), expected, "what was refused is not there after a crash");
}

#[test]
fn a_directory_that_is_not_there_is_an_error_with_its_path() {
    let place = Place::new();
    let path = place.directory().join("nowhere").join("store.db");
    match Store::open(Options::new(&path), || {}) {
        Err(error @ OpenError::Failed { .. }) => {
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_database_that_is_a_directory_is_an_error_and_stays() {
    let place = Place::new();
    fs::create_dir(place.path()).unwrap();
    assert!(matches!(Store::open(place.options(), || {}), Err(OpenError::Failed { .. })));
    assert!(place.path().is_dir());
}

#[test]
fn a_purge_in_a_full_store_makes_room() {
    let place = Place::new();
    let mut world =
        World::open(Options { database_bytes_max: Some(2 * 1024 * 1024), ..place.options() });
    world.submit((1..=30).map(large));
    world.wait_for(|answer| matches!(answer, Answer::Refused { .. }));
    world.submit([Order::Purge(name("a"))]);
    world.wait_for(|answer| *answer == Answer::Trouble(None));
    world.carry_out([large(31)]);
    assert_eq!(world.loaded_seqs("a"), [31]);
}
