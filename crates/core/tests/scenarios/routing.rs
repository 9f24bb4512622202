//! Where messages go, and what the bus does to their bytes.

use hermes_bus_core::CloseReason;
use hermes_bus_proto::limits::PAYLOAD_BYTES_MAX;
use serde_json::{Value, json};

use crate::world::{OWNER, World};

#[test]
fn a_message_goes_to_its_endpoint_and_to_nobody_else() {
    let mut world = World::new();
    let (a, b, c) = (world.register("a"), world.register("b"), world.register("c"));
    world.message(a, "b", "hello");
    assert_eq!(world.bodies(b), ["hello"]);
    assert!(world.take(a).is_empty() && world.take(c).is_empty());
    world.end();
}

#[test]
fn what_is_missing_is_inserted_before_the_closing_brace_and_no_other_byte_changes() {
    let mut world = World::new();
    let (a, b) = (world.register("a \"quoted\" name"), world.register("b"));
    let sent = "{ \"type\":\"message\",\"to\":\"b\" , \"body\":{\"n\":1.50E+1,\"k\":[ ]}\t} \n";
    world.send_text(a, sent);
    let text = world.take_texts(b).remove(0);
    let (before, after) = sent.split_at(sent.rfind('}').expect("a brace"));
    assert!(text.starts_with(before) && text.ends_with(after), "{text}");
    let inserted = &text[before.len()..text.len() - after.len()];
    let message: Value = serde_json::from_str(&text).expect("JSON");
    let id = message["id"].as_str().expect("a string");
    assert_eq!((id.len(), &id[14..15]), (36, "4"), "a version 4 UUID");
    let expected = format!(
        ", \"id\": \"{id}\", \"ts\": 1716307200.123456, \"from\": \"a \\\"quoted\\\" name\""
    );
    assert_eq!(inserted, expected);
    world.end();
}

#[test]
fn keys_that_are_there_stay_even_with_null() {
    let mut world = World::new();
    let (a, b) = (world.register("a"), world.register("b"));
    let text = r#"{"type":"message","to":"b","id":null,"ts":"noon","from":null,"body":1}"#;
    world.send_text(a, text);
    assert_eq!(world.take_texts(b), [text]);
    world.end();
}

#[test]
fn an_anonymous_sender_is_not_given_a_name() {
    let mut world = World::new();
    let (x, b) = (world.connect(), world.register("b"));
    world.message(x, "b", 1);
    assert!(world.take(b)[0].get("from").is_none());
    world.end();
}

#[test]
fn every_value_that_is_false_in_python_reaches_everybody_the_sender_included() {
    let mut world = World::new();
    let (a, b, anonymous) = (world.register("a"), world.register("b"), world.connect());
    let everyone = ["\"\"", "null", "false", "0", "-0.0", "[]", "{}"];
    for to in everyone {
        world.send_text(a, &format!("{{\"type\":\"message\",\"to\":{to},\"body\":1}}"));
    }
    world.send_text(a, r#"{"type":"message","body":1}"#);
    for endpoint in [a, b] {
        assert_eq!(world.bodies(endpoint).len(), everyone.len() + 1);
    }
    assert!(world.take(anonymous).is_empty());
    world.end();
}

#[test]
fn an_unknown_endpoint_is_an_error_for_an_anonymous_sender_and_a_number_for_a_registered_one() {
    let mut world = World::new();
    let (x, a) = (world.connect(), world.register("a"));
    world.send(x, &json!({"type": "message", "to": "no'body\"", "id": [1, 2], "body": 1}));
    assert_eq!(
        world.take(x),
        [json!({"type": "error", "code": "endpoint_not_found",
                "detail": "Endpoint 'no'body\"' is not connected", "id": [1, 2]})]
    );
    world.send_text(x, r#"{"type":"message","to":true}"#);
    let error = world.take(x).remove(0);
    assert_eq!(error["detail"], "Endpoint 'True' is not connected");
    assert_eq!(error["id"].as_str().map(str::len), Some(36), "an id was made for it");
    world.message(a, "nobody", 1);
    assert!(world.take(a).is_empty());
    assert_eq!(world.counters().refused_endpoint_not_found, 3);
    world.end();
}

#[test]
fn an_array_as_address_ends_the_connection() {
    let mut world = World::new();
    let a = world.register("a");
    world.send_text(a, r#"{"type":"message","to":["b"],"id":"i"}"#);
    let error = world.take(a).remove(0);
    assert_eq!((&error["code"], &error["id"]), (&json!("invalid_field"), &json!("i")));
    assert_eq!(world.closed(a), Some(CloseReason::Refused));
    world.end();
}

#[test]
fn a_broken_frame_gets_one_error_and_the_end_and_nothing_behind_it_counts() {
    let mut world = World::new();
    let (a, b) = (world.register("a"), world.register("b"));
    let next = r#"{"type":"message","to":"b","body":"behind"}"#;
    world.write(a, &[r#"{"type":"message","to":"b","body":"before"}"#, "{\"type\":", next]);
    assert_eq!(world.bodies(b), ["before"]);
    let answers = world.take(a);
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0]["code"], "invalid_json");
    assert_eq!(world.closed(a), Some(CloseReason::Refused));
    assert_eq!(world.endpoints(), ["b"]);
    world.end();
}

#[test]
fn a_message_that_would_be_too_large_with_its_new_fields_is_refused_and_goes_nowhere() {
    let mut world = World::new();
    let (x, a, b) = (world.connect(), world.register("a"), world.register("b"));
    let message = |fields: &str| {
        let head = format!("{{\"type\":\"message\",\"to\":\"b\"{fields},\"body\":\"");
        let filling = "x".repeat(PAYLOAD_BYTES_MAX - head.len() - 2);
        format!("{head}{filling}\"}}")
    };
    for sender in [x, a] {
        world.send_text(sender, &message(""));
        let error = world.take(sender).remove(0);
        assert_eq!(error["code"], "frame_too_large");
        assert_eq!(world.closed(sender), None, "the connection stays usable");
    }
    assert!(world.take(b).is_empty());
    let whole = message(",\"id\":1,\"ts\":2");
    world.send_text(a, &whole);
    assert_eq!(world.take_texts(b), [whole], "only the sender's name was left out");
    world.end();
}

#[test]
fn messages_of_one_sender_keep_their_order() {
    let mut world = World::new();
    let (a, b) = (world.register("a"), world.register("b"));
    let messages: Vec<String> =
        (0..500).map(|n| json!({"type": "message", "to": "b", "body": n}).to_string()).collect();
    let messages: Vec<&str> = messages.iter().map(String::as_str).collect();
    world.write(a, &messages);
    assert_eq!(world.bodies(b), (0..500).map(Value::from).collect::<Vec<_>>());
    world.end();
}

#[test]
fn unknown_types_and_second_registrations_are_ignored_and_counted() {
    let mut world = World::new();
    let a = world.register("a");
    for text in
        ["{}", r#"{"type":"PING"}"#, r#"{"type":"pong"}"#, r#"{"type":"register","endpoint":"z"}"#]
    {
        world.send_text(a, text);
    }
    assert!(world.take(a).is_empty());
    assert_eq!(world.counters().ignored_unknown_type, 3);
    assert_eq!(world.counters().ignored_register, 1);
    assert_eq!(world.endpoints(), ["a"]);
    world.end();
}

#[test]
fn a_listing_has_the_form_that_was_asked_for() {
    let mut world = World::new();
    let (z, a) = (world.register("z"), world.register("a"));
    world.message(z, "a", 1);
    world.take(a);
    world.send(a, &json!({"type": "list_endpoints"}));
    let text = world.take_texts(a).remove(0);
    assert!(text.starts_with("{\"type\": \"endpoints_list\", \"endpoints\": {\"z\": \""), "{text}");
    let listing: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(listing.as_object().map(|keys| keys.len()), Some(2), "no other keys on level 1");
    world.send(a, &json!({"type": "list_endpoints", "protocol": 2}));
    let listing = world.take(a).remove(0);
    assert_eq!(listing["type"], "endpoint_list");
    assert_eq!(listing["details"][0]["endpoint"], "z", "in the order of registration");
    assert_eq!(listing["details"][0]["sent"]["messages"], 1);
    assert_eq!(listing["details"][1]["received"]["messages"], 1);
    assert_eq!(listing["details"][1]["uid"], OWNER);
    assert_eq!(listing["endpoints"]["a"], listing["details"][1]["session_id"]);
    assert_eq!(listing["server"]["counters"]["messages"], 1);
    world.end();
}

#[test]
fn a_user_who_may_not_connect_is_told_so() {
    let mut world = World::with(|config| config.allow_uids = vec![5]);
    let stranger = world.connect_as(OWNER + 1);
    let answers = world.take(stranger);
    assert_eq!(answers[0]["code"], "forbidden");
    assert_eq!(world.closed(stranger), Some(CloseReason::Refused));
    for friend in [0, 5] {
        let friend = world.connect_as(friend);
        assert_eq!(world.closed(friend), None);
    }
    world.end();
}

#[test]
fn what_a_half_closed_peer_asked_for_is_answered_before_the_end() {
    let mut world = World::new();
    let a = world.register("a");
    world.put(a, &[r#"{"type":"message","to":"a","body":1}"#, r#"{"type":"ping"}"#]);
    world.half_close(a);
    let kinds: Vec<Value> = world.take(a).iter().map(|frame| frame["type"].clone()).collect();
    assert_eq!(kinds, ["message", "pong"]);
    assert_eq!(world.closed(a), Some(CloseReason::PeerClosed));
    assert!(world.endpoints().is_empty());
    world.end();
}

#[test]
fn the_bus_goes_down_when_everything_is_written_or_its_time_is_up() {
    let mut world = World::new();
    let (reader, sleeper) = (world.register("reader"), world.register("sleeper"));
    world.stop_reading(reader, 0);
    world.stop_reading(sleeper, 0);
    world.message(reader, "reader", "last");
    world.message(reader, "sleeper", "never read");
    world.router.shut_down();
    world.turn();
    assert_eq!(world.closed(reader), None, "there is something to write yet");
    world.read_on(reader);
    assert_eq!(world.bodies(reader), ["last"]);
    assert_eq!(world.closed(reader), Some(CloseReason::ShuttingDown));
    world.pass_ms(1_999);
    assert_eq!(world.closed(sleeper), None);
    world.pass_ms(1);
    assert_eq!(world.closed(sleeper), Some(CloseReason::DrainTimeout));
    assert!(world.router.is_idle());
}
