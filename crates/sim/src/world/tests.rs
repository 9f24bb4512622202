use super::*;
use crate::character::{Character, Client, Driver, OWNER, Reads, STRANGER, Temper};
use crate::script::{End, Then, To};
use hermes_bus_core::Counters;

fn client(reads: Reads) -> Client {
    Client {
        temper: Temper::Receiver,
        uid: OWNER,
        to_bus_bytes_max: 65_536,
        from_bus_bytes_max: 256,
        reads,
        drip_bytes: None,
    }
}

/// A driver that takes no liberties.
fn strict_driver() -> Driver {
    Driver { peers_in_between: 0, takes_tapped: 0, ..Driver::USUAL }
}

fn script(clients: Vec<Client>, played: &[(u8, Action)]) -> Script {
    let config = Config { owner_uid: OWNER, ..Config::default() };
    let names = vec!["a".to_owned(), "b".to_owned()];
    let mut character = Character::draw([0; 4]);
    (character.config, character.names, character.clients) = (config, names, clients);
    character.driver = strict_driver();
    let events =
        played.iter().map(|(client, action)| Event { client: *client, action: *action, draw: 1 });
    Script { seed: 1, character, events: events.collect() }
}

/// Plays the events, checks what the router has counted then, and plays the end.
fn see(clients: Vec<Client>, played: &[(u8, Action)], check: impl FnOnce(&Counters, &World<'_>)) {
    let script = script(clients, played);
    let mut world = World::new(&script);
    world.watched.began(&script.character.config, &[], None).expect("a good beginning");
    for event in &script.events {
        world.dice = Dice::new(event.draw);
        world.play_event(event).expect("no rule is broken");
    }
    check(world.watched.router().counters(), &world);
    world.heal().expect("it comes to rest");
    world.leave().expect("everybody leaves");
    assert!(world.watched.router().is_idle());
    assert_eq!(world.watched.router().usage(), Default::default());
}

const REGISTER: Action = Action::Register { name: 0 };

fn send(count: u16, bytes: u32) -> Action {
    Action::Send { to: To::Name(0), count, bytes }
}

#[test]
fn a_receiver_gets_what_is_sent() {
    let clients = vec![client(Reads::Everything); 2];
    see(clients, &[(0, REGISTER), (1, send(5, 2_000))], |counters, _| {
        assert_eq!((counters.registrations, counters.messages, counters.handed_over), (1, 5, 5));
    });
}

#[test]
fn who_does_not_read_gets_what_its_socket_holds_until_it_reads() {
    let clients = vec![client(Reads::Nothing), client(Reads::Everything)];
    let played = [(0, REGISTER), (1, send(5, 100))];
    see(clients.clone(), &played, |counters, _| {
        assert_eq!(counters.messages, 5);
        assert!(counters.handed_over < 3, "{}", counters.handed_over);
    });
    let played = [(0, REGISTER), (1, send(5, 100)), (0, Action::ReadOn), (0, Action::Turn)];
    see(clients, &played, |counters, _| assert_eq!(counters.handed_over, 5));
}

#[test]
fn what_drips_takes_many_turns() {
    let mut dripper = client(Reads::Everything);
    dripper.drip_bytes = Some(1);
    let mut played = vec![(0, REGISTER)];
    see(vec![dripper.clone()], &played, |counters, _| assert_eq!(counters.registrations, 0));
    played.extend([(0, Action::Turn); 80]);
    see(vec![dripper], &played, |counters, _| assert_eq!(counters.registrations, 1));
}

#[test]
fn who_pauses_in_a_frame_runs_out_of_time_unless_it_goes_on() {
    let late = Action::Pass { us: 31_000_000 };
    let pause = [(0, Action::Connect { beside: false }), (0, Action::Pause { bytes: 10 })];
    let played = [&pause[..], &[(0, REGISTER), (0, late)]].concat();
    let clients = vec![client(Reads::Everything)];
    see(clients.clone(), &played, |counters, _| {
        assert_eq!((counters.registrations, counters.timeout_frame), (0, 1));
    });
    let played = [&pause[..], &[(0, REGISTER), (0, Action::Flow), (0, late)]].concat();
    see(clients, &played, |counters, _| {
        assert_eq!((counters.registrations, counters.timeout_frame), (1, 0));
    });
}

#[test]
fn who_dies_in_a_message_has_it_cut_off() {
    let clients = vec![client(Reads::Everything), client(Reads::Everything)];
    let played = [(0, REGISTER), (0, Action::Die { bytes: 50 }), (1, send(1, 200))];
    see(clients, &played, |counters, _| {
        assert_eq!((counters.messages, counters.handed_over, counters.dropped_cut_off), (1, 0, 1));
    });
}

#[test]
fn who_tires_of_silence_is_kept_with_pongs() {
    let tire = Action::Tire { name: 0, silence_us: 1_000_000, away_us: 900_000 };
    let played = [(0, tire), (0, Action::Pass { us: 2_000_000 })];
    see(vec![client(Reads::Everything)], &played, |counters, _| {
        assert_eq!(counters.registrations, 2);
        assert!(counters.impatient_pongs >= 3, "{}", counters.impatient_pongs);
    });
}

#[test]
fn thieves_strangers_and_garbage_get_what_they_deserve() {
    let mut stranger = client(Reads::Everything);
    stranger.uid = STRANGER;
    let clients = vec![client(Reads::Everything), client(Reads::Everything), stranger];
    let played = [(0, REGISTER), (1, REGISTER), (2, REGISTER), (1, Action::Garbage)];
    see(clients, &played, |counters, _| {
        assert_eq!((counters.registrations, counters.replaced), (2, 1));
        assert_eq!((counters.refused_users, counters.refused_frames), (1, 1));
    });
}

#[test]
fn a_visitor_leaves_when_it_has_had_its_say() {
    let visit = |then| Action::Visit { to: To::Name(0), count: 3, bytes: 0, then };
    for (then, left) in [(Then::Wait, 2), (Then::HalfClose, 1), (Then::Close, 1)] {
        let clients = vec![client(Reads::Everything), client(Reads::Everything)];
        see(clients, &[(0, REGISTER), (1, visit(then))], |counters, world| {
            assert_eq!(counters.messages, 3);
            assert_eq!(world.watched.router().connections(), left, "{then:?}");
        });
    }
}

#[test]
fn who_closes_at_once_does_not_finish() {
    let mut slow = client(Reads::Everything);
    slow.drip_bytes = Some(40);
    let played = [(0, send(3, 200)), (0, Action::Close { at_once: true }), (0, Action::Turn)];
    see(vec![slow], &played, |counters, world| {
        assert_eq!(counters.messages + counters.refused_endpoint_not_found, 0);
        assert_eq!(world.watched.router().connections(), 0);
    });
}

#[test]
fn names_and_what_is_held_for_them_go_on_after_a_restart_only() {
    for (how, held) in [(End::Crash, 0), (End::Stop, 0), (End::Restart, 2)] {
        let clients = vec![client(Reads::Nothing), client(Reads::Everything)];
        // The first message fills the socket, so that two are left.
        let played =
            [(0, REGISTER), (1, send(1, 150)), (1, send(2, 300)), (0, Action::End { how })];
        see(clients, &played, |counters, world| {
            assert_eq!(counters.held, held, "{how:?}");
            assert_eq!(world.watched.messages(), 3);
        });
    }
}

#[test]
fn time_passes_to_timers_and_past_them() {
    use crate::script::Near;
    let played = [(0, REGISTER), (0, Action::PassToTimer { near: Near::Before })];
    see(vec![client(Reads::Everything)], &played, |counters, world| {
        assert_eq!((counters.timeout_heartbeat, world.now_us), (0, 89_999_999));
    });
    let played = [(0, REGISTER), (0, Action::PassToTimer { near: Near::At })];
    see(vec![client(Reads::Everything)], &played, |counters, world| {
        assert_eq!((counters.timeout_heartbeat, world.now_us), (1, 90_000_000));
    });
}

#[test]
fn the_same_script_plays_the_same() {
    for seed in 0..60 {
        let script = Script::draw(seed, 150);
        assert_eq!(play(&script), play(&script), "seed {seed}");
    }
}

#[test]
fn other_scripts_have_other_digests() {
    let digest = |seed| play(&Script::draw(seed, 150)).map(|played| played.digest);
    assert_ne!(digest(1), digest(2));
}

#[test]
fn any_part_of_a_script_plays() {
    for seed in 0..60 {
        let mut script = Script::draw(seed, 200);
        let mut dice = Dice::new(seed);
        script.events.retain(|_| !dice.one_in(3));
        assert_eq!(play(&script).map(|played| played.events), Ok(script.events.len() as u64));
    }
}

#[test]
fn any_bytes_play() {
    for seed in 0..60 {
        let mut dice = Dice::new(seed);
        let bytes: Vec<u8> = (0..dice.below(900)).map(|_| dice.below(256) as u8).collect();
        let script = Script::from_bytes(&bytes);
        assert_eq!(play(&script).map(|played| played.events), Ok(script.events.len() as u64));
    }
}
