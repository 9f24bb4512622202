//! What is dropped or refused is said, with the name of who is to blame.

use hermes_bus_core::{Event, Severity};
use hermes_bus_proto::limits::PAYLOAD_BYTES_MAX;
use serde_json::json;

use crate::world::{OWNER, World};

/// The warnings so far: kind, endpoint, process.
fn warnings(world: &mut World) -> Vec<(&'static str, Option<String>, Option<u32>)> {
    let log = std::mem::take(&mut world.log);
    let warnings = log.iter().filter(|event| event.severity() == Severity::Warning);
    warnings
        .map(|event| {
            let fields = event.fields();
            assert!(fields.uid.is_none_or(|uid| uid == OWNER), "{event}");
            (fields.event, fields.endpoint.map(str::to_owned), fields.pid)
        })
        .collect()
}

fn named(event: &'static str, name: &str) -> (&'static str, Option<String>, Option<u32>) {
    (event, Some(name.to_owned()), Some(7))
}

#[test]
fn ordinary_life_is_no_warning() {
    let mut world = World::new();
    let (a, b) = (world.register("a"), world.register("b"));
    world.message(a, "b", 1);
    world.message(a, "", 2);
    world.send(a, &json!({"type": "ping"}));
    world.hang_up(b);
    world.register("b");
    assert_eq!(warnings(&mut world), []);
    world.end();
}

#[test]
fn refused_messages_name_their_sender() {
    let mut world = World::new();
    let (a, x) = (world.register("a"), world.connect());
    let anonymous = |event| (event, None, Some(7));
    world.message(a, "nobody", 1);
    world.message(x, "nobody", 1);
    assert_eq!(warnings(&mut world), [named("not_found", "a"), anonymous("not_found")]);
    let head = r#"{"type":"message","to":"a","body":""#;
    let text = format!("{head}{}\"}}", "x".repeat(PAYLOAD_BYTES_MAX - head.len() - 2));
    world.send_text(a, &text);
    world.send_text(x, &text);
    assert_eq!(warnings(&mut world), [named("too_large", "a"), anonymous("too_large")]);
    world.send(a, &json!({"type": "register", "endpoint": "c"}));
    world.send(x, &json!({"type": "wish"}));
    assert_eq!(warnings(&mut world), [named("ignored", "a"), anonymous("ignored")]);
    world.send_text(a, "no JSON");
    world.send_text(x, "no JSON");
    assert_eq!(warnings(&mut world), [named("misbehaved", "a"), anonymous("misbehaved")]);
    world.end();
}

#[test]
fn a_message_that_was_held_in_vain_is_refused_by_name_too() {
    let mut world = World::new();
    let (away, x) = (world.register("away"), world.connect());
    world.hang_up(away);
    world.message(x, "away", 1);
    world.pass_ms(10_000);
    assert_eq!(warnings(&mut world), [("not_found", None, Some(7))]);
    world.end();
}

#[test]
fn those_who_are_silent_or_do_not_read_are_named() {
    let mut world = World::new();
    world.register("silent");
    let sleeper = world.register("sleeper");
    world.stop_reading(sleeper, 0);
    world.send(sleeper, &json!({"type": "ping"}));
    world.pass_ms(60_000);
    world.send(sleeper, &json!({"type": "ping"}));
    world.pass_ms(30_001);
    assert_eq!(warnings(&mut world), [named("silent", "silent")]);
    world.router.shut_down();
    world.pass_ms(10_000);
    assert_eq!(warnings(&mut world), [named("left_unread", "sleeper")]);
    world.end();
}

#[test]
fn text_and_fields_of_an_event_name_the_same_peer() {
    let mut world = World::new();
    let a = world.register("an \"odd\" name");
    world.message(a, "nobody", "a secret");
    let Some(event) = world.log.iter().find(|event| matches!(event, Event::NotFound { .. })) else {
        panic!("{:?}", world.log);
    };
    let text =
        r#""an \"odd\" name" (pid=7 uid=1000) wrote to an endpoint that is not there: "nobody""#;
    assert_eq!(event.to_string(), text);
    assert_eq!(event.fields().endpoint, Some("an \"odd\" name"));
    world.end();
}
