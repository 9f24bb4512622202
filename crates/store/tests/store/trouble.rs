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
    world.submit([Order::Purge { endpoint: name("a"), from: 0, to: u64::MAX }]);
    world.wait_for(|answer| *answer == Answer::Trouble(None));
    world.carry_out([large(31)]);
    assert_eq!(world.loaded_seqs("a"), [31]);
}

/// What is done in a process of its own, because its limits hold for all of a process.
#[test]
#[ignore = "run by the test below, in a process of its own"]
fn within_a_limit_of_file_size() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let place = Place::new();
    let mut world = place.open();
    world.carry_out([large(1)]);
    let before = getrlimit(Resource::Fsize);
    // The log cannot grow over this. Writing fails as on a disk with a bad place in it.
    setrlimit(Resource::Fsize, Rlimit { current: Some(1_000_000), ..before }).unwrap();
    let mut stored = vec![1];
    let refused = loop {
        let seq = stored.len() as u64 + 1;
        let ticket = world.submit([large(seq)]);
        let answers = world.wait_for(|answer| match answer {
            Answer::Stored(stored) => *stored == ticket,
            Answer::Refused { .. } => true,
            _ => false,
        });
        match answers.last() {
            Some(Answer::Stored(_)) => stored.push(seq),
            _ => break seq,
        }
    };
    assert!((2..20).contains(&refused), "{refused}");
    let crashed = place.snapshot();
    world.submit([release("a", [1])]);
    setrlimit(Resource::Fsize, before).unwrap();
    assert_eq!(crashed.open().loaded_seqs("a"), stored, "what was refused is not there");
    world.wait_for(|answer| *answer == Answer::Trouble(None));
    world.carry_out([large(100)]);
    let expected: Vec<u64> = stored[1..].iter().copied().chain([100]).collect();
    assert_eq!(world.loaded_seqs("a"), expected);
    world.close();
    assert_eq!(place.open().loaded_seqs("a"), expected);
    assert_eq!(hermes_bus_store::check(&place.path()).problems, [""; 0]);
}

#[test]
fn a_write_that_fails_refuses_and_recovers() {
    // A process that writes over its limit is ended by a signal, unless it was started deaf to it.
    let output = std::process::Command::new("sh")
        .args([
            "-c",
            "trap '' XFSZ; exec \"$0\" --exact trouble::within_a_limit_of_file_size --ignored",
        ])
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
