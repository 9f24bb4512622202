//! Stories of level 2 between one client and a bus that the test plays, on a paused clock. See
//! `sessions.rs` for what holds on every level.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use hermes_bus_client::memory::{self, BusSide, ServerSession};
use hermes_bus_client::{
    Acknowledge, Bus, CallError, Client, ClientBuilder, Conflict, ConnectError, Event, Events, Gap,
    Inbox, Message, Outgoing, QueueLimits, ReceiptError, Repeats, SendError, Sighting, Status,
    TapMode, Watch, WhenFull, WhyLost,
};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout};

/// Longer than anything here may take on the paused clock.
const LONG: Duration = Duration::from_secs(600);

/// A client that has just registered on level 2, and the bus's side of it.
struct Scene {
    client: Client,
    inbox: Inbox,
    events: Events,
    session: ServerSession,
    bus_side: BusSide,
}

async fn scene() -> Scene {
    scene_with(|builder| builder).await
}

async fn scene_with(set: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Scene {
    let (transport, mut bus_side) = memory::bus();
    let builder = set(Bus::on(transport).client("me"));
    let connecting = tokio::spawn(builder.connect());
    let mut session = bus_side.accept().await;
    session.welcome_2("session-1").await;
    let (client, inbox) = connecting.await.unwrap().unwrap();
    let events = client.events();
    Scene { client, inbox, events, session, bus_side }
}

async fn acknowledging(acknowledge: Acknowledge) -> Scene {
    scene_with(|builder| builder.acknowledge(acknowledge)).await
}

impl Scene {
    async fn event(&mut self) -> Event {
        timeout(LONG, self.events.next()).await.expect("an event comes").expect("not the last")
    }

    /// The bus is restarted; returns what the client registers with then.
    async fn restart(&mut self) -> Value {
        self.bus_side.restart();
        self.session = dead().await;
        self.session = self.bus_side.accept().await;
        serde_json::from_str(&self.session.welcome_2("session-2").await).unwrap()
    }

    /// A message with this number as its id and its place.
    async fn deliver(&mut self, seq: u64) {
        let message =
            json!({"type": "message", "from": "x", "id": seq.to_string(), "seq": seq, "body": 0});
        self.session.send(&message.to_string()).await;
    }

    async fn next(&mut self) -> Message {
        timeout(LONG, self.inbox.next()).await.expect("a message comes").expect("not the end")
    }

    /// The next frame of the client.
    async fn heard(&mut self) -> Value {
        json(&mut self.session).await
    }

    /// What the client says while a second passes.
    async fn said_meanwhile(&mut self) -> Option<Value> {
        let said = timeout(Duration::from_secs(1), json(&mut self.session)).await;
        said.ok()
    }
}

async fn json(session: &mut ServerSession) -> Value {
    let frame = timeout(LONG, session.receive()).await.expect("a frame comes");
    serde_json::from_str(&frame.expect("not the end")).unwrap()
}

/// A session that nobody is at the other end of.
async fn dead() -> ServerSession {
    let (transport, mut bus_side) = memory::bus();
    drop(hermes_bus_client::transport::Transport::connect(&transport).await);
    bus_side.accept().await
}

async fn receipt(session: &mut ServerSession, id: &str, status: &str) {
    let frame = json!({"type": "receipt", "id": id, "status": status, "to": "you"});
    session.send(&frame.to_string()).await;
}

fn message(id: &str, status: Status) -> Outgoing {
    Outgoing::text("you", "hi").id(id).receipt(status)
}

// ---- registering ------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn what_is_asked_for_is_said_and_what_the_bus_says_is_known() {
    let (transport, mut bus_side) = memory::bus();
    let mut meta = Map::new();
    meta.insert("program".to_owned(), "test".into());
    let builder = Bus::on(transport).client("me").mailbox(true).token("secret").meta(meta);
    let builder = builder.acknowledge(Acknowledge::Explicit).in_flight(8);
    let connecting = tokio::spawn(builder.groups(["@a", "b"]).topics(["#x.>", "y.*"]).connect());
    let mut session = bus_side.accept().await;
    assert_eq!(
        json(&mut session).await,
        json!({
            "type": "register", "endpoint": "me", "protocol": 2, "mailbox": true, "ack": true,
            "in_flight": 8, "token": "secret", "groups": ["a", "b"], "topics": ["x.>", "y.*"],
            "meta": {"program": "test"},
        })
    );
    let registered = json!({
        "type": "registered", "endpoint": "me", "session_id": "s", "protocol": 2,
        "server": "hermes-bus/9", "heartbeat_s": 45.5, "payload_bytes_max": 100,
        "mailbox_depth": 12,
    });
    session.send(&registered.to_string()).await;
    let (client, _inbox) = connecting.await.unwrap().unwrap();
    let welcome = client.welcome().unwrap();
    assert_eq!((welcome.protocol, welcome.mailbox_depth), (2, 12));
    assert_eq!(welcome.server.as_deref(), Some("hermes-bus/9"));
    assert_eq!(welcome.heartbeat, Some(Duration::from_millis(45_500)));
    assert_eq!(welcome.payload_bytes_max, 100);
}

#[tokio::test(start_paused = true)]
async fn a_bus_of_level_1_is_enough_for_who_asks_for_nothing_and_for_nobody_else() {
    let (transport, mut bus_side) = memory::bus();
    let bus = Bus::on(transport);
    let connecting = tokio::spawn(bus.client("me").connect());
    let mut first = bus_side.accept().await;
    first.welcome("s").await;
    let (client, _inbox) = connecting.await.unwrap().unwrap();
    assert_eq!(client.welcome().unwrap().protocol, 1);
    let submitted = client.submit(&message("1", Status::Stored)).await;
    assert!(matches!(submitted, Err(ReceiptError::NeedsLevel2)), "{submitted:?}");
    let subscribed = client.subscribe(["x"]).await;
    assert!(matches!(subscribed, Err(CallError::NeedsLevel2 { .. })), "{subscribed:?}");

    let asking: [fn(ClientBuilder) -> ClientBuilder; 4] = [
        |builder| builder.mailbox(true),
        |builder| builder.acknowledge(Acknowledge::Automatic),
        |builder| builder.groups(["g"]),
        |builder| builder.topics(["t"]),
    ];
    for ask in asking {
        let connecting = tokio::spawn(ask(bus.client("me")).connect());
        let mut session = bus_side.accept().await;
        session.welcome("s").await;
        let refused = connecting.await.unwrap();
        assert!(matches!(refused, Err(ConnectError::NeedsLevel2 { .. })), "{refused:?}");
        assert!(session.receive().await.is_none(), "the session is left");
    }
}

#[tokio::test(start_paused = true)]
async fn a_released_bus_is_not_asked_for_a_suffix_since_it_would_replace() {
    let (transport, mut bus_side) = memory::bus();
    let builder = Bus::on(transport).client("me").conflict(Conflict::Suffix);
    let connecting = tokio::spawn(builder.connect());
    let mut session = bus_side.accept().await;
    assert_eq!(json(&mut session).await["type"], "list_endpoints");
    session.send(r#"{"type": "endpoints_list", "endpoints": {"me": "s"}}"#).await;
    assert!(session.receive().await.is_none(), "it registered all the same");
    let refused = connecting.await.unwrap();
    assert!(matches!(refused, Err(ConnectError::NeedsLevel2 { .. })), "{refused:?}");
}

/// Answers the look at who is there, on a bus of level 2.
async fn list(session: &mut ServerSession, endpoints: &Value) {
    assert_eq!(json(session).await["type"], "list_endpoints");
    let server = json!({"server": "hermes-bus/9", "uptime_s": 1, "counters": {}});
    let listing = json!({"type": "endpoint_list", "endpoints": endpoints, "server": server});
    session.send(&listing.to_string()).await;
}

#[tokio::test(start_paused = true)]
async fn a_name_with_a_suffix_is_the_clients_own_from_then_on() {
    let (transport, mut bus_side) = memory::bus();
    let builder = Bus::on(transport).client("me").conflict(Conflict::Suffix);
    let connecting = tokio::spawn(builder.connect());
    let mut session = bus_side.accept().await;
    list(&mut session, &json!({"me": "another"})).await;
    assert_eq!(json(&mut session).await["conflict"], "suffix");
    let registered =
        json!({"type": "registered", "endpoint": "me-2", "session_id": "s-1", "protocol": 2});
    session.send(&registered.to_string()).await;
    let (client, _inbox) = connecting.await.unwrap().unwrap();
    assert_eq!(client.name(), "me-2");
    // Its own old session may still stand in the bus's list, and is no conflict.
    drop(session);
    let mut session = bus_side.accept().await;
    list(&mut session, &json!({"me": "another", "me-2": "s-1"})).await;
    let register = json(&mut session).await;
    assert_eq!((&register["endpoint"], &register["conflict"]), (&"me-2".into(), &Value::Null));
}

#[tokio::test(start_paused = true)]
async fn the_bus_itself_decides_who_is_refused() {
    let (transport, mut bus_side) = memory::bus();
    let builder = Bus::on(transport).client("me").conflict(Conflict::Refuse);
    let connecting = tokio::spawn(builder.connect());
    let mut session = bus_side.accept().await;
    list(&mut session, &json!({})).await;
    assert_eq!(json(&mut session).await["conflict"], "refuse");
    session.send(r#"{"type": "error", "code": "name_taken", "detail": "too late"}"#).await;
    let refused = connecting.await.unwrap();
    assert!(matches!(refused, Err(ConnectError::NameTaken { .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_only_level_1_allows_is_registered_there() {
    let (transport, mut bus_side) = memory::bus();
    let connecting = tokio::spawn(Bus::on(transport).client("#odd").connect());
    let mut session = bus_side.accept().await;
    assert_eq!(json(&mut session).await, json!({"type": "register", "endpoint": "#odd"}));
    session.send(r##"{"type": "registered", "endpoint": "#odd", "session_id": "s"}"##).await;
    connecting.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_comes_back_too_old_ends_who_needs_a_newer_one() {
    let mut scene = acknowledging(Acknowledge::Explicit).await;
    scene.bus_side.restart();
    scene.session = dead().await;
    scene.bus_side.accept().await.welcome("s").await;
    let Event::Disconnected { .. } = scene.event().await else { panic!() };
    let why = WhyLost::NeedsLevel2("acknowledgements");
    assert_eq!(scene.event().await, Event::Closed { why });
}

// ---- acknowledging --------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn nothing_is_acknowledged_before_somebody_says_so_and_then_all_at_once() {
    let mut scene = acknowledging(Acknowledge::Explicit).await;
    for seq in 1..=4 {
        scene.deliver(seq).await;
    }
    let mut messages = Vec::new();
    for _ in 1..=4 {
        messages.push(scene.next().await);
    }
    assert_eq!(scene.said_meanwhile().await, None);
    assert!(messages[2].ack() && messages[0].ack());
    assert!(!messages[0].ack(), "twice");
    assert!(messages[1].nack("busy") && messages[3].reject("broken"));
    assert_eq!(scene.heard().await, json!({"type": "ack", "seqs": [3, 1]}));
    let nack = json!({"type": "nack", "seq": 2, "reason": "busy", "requeue": true});
    assert_eq!(scene.heard().await, nack);
    let reject = json!({"type": "nack", "seq": 4, "reason": "broken", "requeue": false});
    assert_eq!(scene.heard().await, reject);
}

#[tokio::test(start_paused = true)]
async fn asking_for_the_next_message_acknowledges_the_one_before() {
    let mut scene = acknowledging(Acknowledge::Automatic).await;
    scene.deliver(1).await;
    scene.deliver(2).await;
    scene.next().await;
    assert_eq!(scene.said_meanwhile().await, None, "its reader is not done with it");
    scene.next().await;
    assert_eq!(scene.heard().await, json!({"type": "ack", "seqs": [1]}));
    assert!(scene.inbox.try_next().is_none());
    assert_eq!(scene.heard().await, json!({"type": "ack", "seqs": [2]}));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_fails_gives_its_message_back() {
    let mut scene = acknowledging(Acknowledge::Automatic).await;
    for seq in 1..=2 {
        scene.deliver(seq).await;
    }
    let mut inbox = scene.inbox;
    let serving = tokio::spawn(async move {
        let handler = async |message: Message| match message.seq() {
            Some(1) => Err("not now"),
            _ => Ok(()),
        };
        inbox.serve(handler).await;
    });
    let (mut acked, mut given_back) = (None, None);
    for _ in 0..2 {
        let frame = json(&mut scene.session).await;
        match frame["type"].as_str() {
            Some("ack") => acked = Some(frame["seqs"].clone()),
            _ => given_back = Some((frame["seq"].clone(), frame["reason"].clone())),
        }
    }
    assert_eq!(acked, Some(json!([2])));
    assert_eq!(given_back, Some((1.into(), "not now".into())));
    scene.client.close().await;
    serving.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_is_told_before_the_end() {
    // Which of the two the session hears of first is left to chance.
    for _ in 0..20 {
        let mut scene = acknowledging(Acknowledge::Explicit).await;
        scene.deliver(1).await;
        assert!(scene.next().await.ack());
        scene.client.close().await;
        assert_eq!(scene.heard().await, json!({"type": "ack", "seqs": [1]}));
        assert!(scene.session.receive().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_that_comes_after_the_session_is_not_told_to_the_next() {
    let mut scene = acknowledging(Acknowledge::Explicit).await;
    scene.deliver(1).await;
    let early = scene.next().await;
    scene.restart().await;
    scene.deliver(1).await;
    let again = scene.next().await;
    assert!(again.is_repeated() && !early.is_repeated());
    assert!(!early.ack(), "the number may be another message's by now");
    assert_eq!(scene.said_meanwhile().await, None);
    assert!(again.ack());
    assert_eq!(scene.heard().await, json!({"type": "ack", "seqs": [1]}));
}

#[tokio::test(start_paused = true)]
async fn what_was_handled_once_is_hidden_and_acknowledged_where_that_is_asked_for() {
    let mut scene =
        scene_with(|builder| builder.acknowledge(Acknowledge::Explicit).repeats(Repeats::Hide))
            .await;
    scene.deliver(1).await;
    scene.deliver(2).await;
    let (first, second) = (scene.next().await, scene.next().await);
    scene.restart().await;
    assert!(!first.ack(), "it was handled, but the bus cannot be told any more");
    for seq in 1..=3 {
        scene.deliver(seq).await;
    }
    let third = scene.next().await;
    assert_eq!((third.seq(), third.is_repeated()), (Some(2), true), "nobody was done with it");
    assert_eq!(scene.heard().await, json!({"type": "ack", "seqs": [1]}));
    assert_eq!(scene.next().await.seq(), Some(3));
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn what_was_given_back_is_handed_out_again_even_where_repeats_are_hidden() {
    let mut scene =
        scene_with(|builder| builder.acknowledge(Acknowledge::Automatic).repeats(Repeats::Hide))
            .await;
    scene.deliver(1).await;
    assert!(scene.next().await.nack("not now"));
    scene.deliver(2).await;
    // Whoever asks for the next message is done with the one before, but not with this one.
    assert_eq!(scene.next().await.seq(), Some(2));
    assert_eq!(scene.heard().await["type"], "nack");
    scene.deliver(1).await;
    assert_eq!(scene.next().await.seq(), Some(1));
    // Nor once the session is over in which it came.
    scene.deliver(3).await;
    let third = scene.next().await;
    assert!(third.nack("not now"));
    scene.restart().await;
    assert!(scene.inbox.try_next().is_none());
    scene.deliver(3).await;
    assert_eq!(scene.next().await.seq(), Some(3));
}

#[tokio::test(start_paused = true)]
async fn who_gave_a_message_back_does_not_acknowledge_its_next_delivery() {
    let mut scene = acknowledging(Acknowledge::Automatic).await;
    scene.deliver(1).await;
    assert!(scene.next().await.nack("not now"));
    assert_eq!(scene.heard().await["type"], "nack");
    // It comes again before the next message is asked for.
    scene.deliver(1).await;
    scene.deliver(2).await;
    while scene.inbox.len() < 2 {
        tokio::task::yield_now().await;
    }
    let again = scene.next().await;
    assert_eq!(scene.said_meanwhile().await, None, "nobody is done with it");
    assert!(again.ack());
}

#[tokio::test(start_paused = true)]
async fn an_acknowledging_client_never_drops_what_it_was_given() {
    let queue = QueueLimits { messages: 1, when_full: WhenFull::DropOldest, ..Default::default() };
    let mut scene =
        scene_with(|builder| builder.acknowledge(Acknowledge::Automatic).queue(queue)).await;
    for seq in 1..=3 {
        scene.deliver(seq).await;
    }
    for seq in 1..=3 {
        assert_eq!(scene.next().await.seq(), Some(seq));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_to_a_request_needs_no_acknowledgement_of_its_own() {
    let mut scene = acknowledging(Acknowledge::Explicit).await;
    let client = scene.client.clone();
    let asking = tokio::spawn(async move {
        client.request(&Outgoing::text("you", "?").id("q"), LONG).await.unwrap()
    });
    let mut one_shot = scene.bus_side.accept().await;
    json(&mut one_shot).await;
    receipt(&mut one_shot, "q", "delivered").await;
    let reply = r#"{"type": "message", "reply_to": "q", "seq": 9, "body": {"text": "42"}}"#;
    scene.session.send(reply).await;
    assert_eq!(asking.await.unwrap().text().as_deref(), Some("42"));
    assert_eq!(scene.heard().await, json!({"type": "ack", "seqs": [9]}));
}

#[tokio::test(start_paused = true)]
async fn a_delivery_may_be_larger_than_what_anybody_may_send() {
    let mut scene = scene().await;
    let body = "x".repeat(10 * 1024 * 1024);
    let json = json!({"type": "message", "body": body}).to_string();
    let header = u32::try_from(json.len()).unwrap().to_be_bytes();
    scene.session.send_bytes(&[&header, json.as_bytes()].concat()).await;
    assert_eq!(scene.next().await.body::<String>().unwrap().len(), body.len());
}

// ---- receipts -----------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn many_receipts_are_outstanding_at_once_and_find_their_messages() {
    let mut scene = scene().await;
    let mut outstanding = Vec::new();
    for id in ["a", "b", "c"] {
        outstanding.push(scene.client.submit(&message(id, Status::Stored)).await.unwrap());
        let sent = scene.heard().await;
        assert_eq!((&sent["id"], &sent["receipt"]), (&id.into(), &"stored".into()));
    }
    receipt(&mut scene.session, "c", "acked").await;
    receipt(&mut scene.session, "a", "stored").await;
    let error = json!({
        "type": "error", "id": "b", "code": "endpoint_not_found", "detail": "gone",
        "suggestions": ["you-2"], "status": "accepted",
    });
    scene.session.send(&error.to_string()).await;
    let [a, b, c] = outstanding.try_into().unwrap();
    let c = c.await.unwrap();
    assert_eq!((c.status, c.to.as_deref()), (Status::Acked, Some("you")));
    assert_eq!(a.await.unwrap().status, Status::Stored);
    let Err(ReceiptError::Refused { code, suggestions, reached, .. }) = b.await else { panic!() };
    assert_eq!((code.as_str(), reached), ("endpoint_not_found", Some(Status::Accepted)));
    assert_eq!(suggestions, ["you-2"]);
    assert_eq!(scene.events.try_next(), None, "who waits has heard of it");
}

#[tokio::test(start_paused = true)]
async fn a_receipt_is_asked_for_even_if_nothing_was_said() {
    let mut scene = scene().await;
    let outstanding = scene.client.submit(&Outgoing::text("you", "hi")).await.unwrap();
    let sent = scene.heard().await;
    assert_eq!(sent["receipt"], "accepted");
    let id = sent["id"].as_str().unwrap();
    assert_eq!(outstanding.id(), id);
    receipt(&mut scene.session, id, "accepted").await;
    assert_eq!(outstanding.await.unwrap().status, Status::Accepted);
}

#[tokio::test(start_paused = true)]
async fn one_id_cannot_be_waited_for_twice_but_again() {
    let mut scene = scene().await;
    let first = scene.client.submit(&message("a", Status::Stored)).await.unwrap();
    let second = scene.client.submit(&message("a", Status::Stored)).await;
    assert!(matches!(second, Err(ReceiptError::Duplicate)), "{second:?}");
    drop(first);
    let third = scene.client.submit(&message("a", Status::Stored)).await.unwrap();
    receipt(&mut scene.session, "a", "stored").await;
    third.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nobody_knows_what_became_of_a_message_whose_session_ended() {
    let mut scene = scene().await;
    let outstanding = scene.client.submit(&message("a", Status::Stored)).await.unwrap();
    scene.heard().await;
    scene.restart().await;
    let outcome = outstanding.await;
    let Err(ReceiptError::Unknown(WhyLost::ConnectionClosed)) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(scene.said_meanwhile().await, None, "it was sent again unasked");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_was_never_written_goes_to_the_next_session_and_gets_its_receipt() {
    let mut scene = scene().await;
    let client = scene.client.clone();
    let large = Outgoing::text("you", &"x".repeat(1_000_000)).id("a").receipt(Status::Stored);
    let submitting = tokio::spawn(async move { client.submit(&large).await?.await });
    // The pipe holds less than the message: the client is in the middle of it.
    tokio::time::sleep(Duration::from_millis(10)).await;
    scene.restart().await;
    assert_eq!(scene.heard().await["id"], "a");
    receipt(&mut scene.session, "a", "stored").await;
    submitting.await.unwrap().unwrap();
}

fn retried(id: &str, patience: Duration) -> Outgoing {
    message(id, Status::Stored).retry_until((Instant::now() + patience).into_std())
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_it_has_messages_sent_again_in_order_until_they_are_answered() {
    let mut scene = scene().await;
    let mut outstanding = Vec::new();
    for id in ["a", "b", "c"] {
        outstanding.push(scene.client.submit(&retried(id, LONG)).await.unwrap());
        assert_eq!(scene.heard().await["id"], id);
    }
    receipt(&mut scene.session, "b", "stored").await;
    outstanding.remove(1).await.unwrap();
    for _ in 0..2 {
        scene.restart().await;
        scene.client.send(&Outgoing::text("you", "later").id("d")).await.unwrap();
        for id in ["a", "c", "d"] {
            assert_eq!(scene.heard().await["id"], id);
        }
    }
    for id in ["a", "c"] {
        receipt(&mut scene.session, id, "stored").await;
    }
    for receipt in outstanding {
        receipt.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_is_not_sent_again_when_its_time_is_over_or_nobody_waits() {
    let mut scene = scene().await;
    let brief = Duration::from_secs(2);
    let outstanding = scene.client.submit(&retried("a", brief)).await.unwrap();
    let forgotten = scene.client.submit(&retried("b", LONG)).await.unwrap();
    scene.heard().await;
    scene.heard().await;
    scene.bus_side.restart();
    scene.session = dead().await;
    let Event::Disconnected { .. } = scene.event().await else { panic!() };
    drop(forgotten);
    let outcome = outstanding.await;
    assert!(matches!(outcome, Err(ReceiptError::OutOfTime)), "{outcome:?}");
    while scene.client.session_id().is_none() {
        scene.session = scene.bus_side.accept().await;
        scene.session.welcome_2("session-2").await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(scene.said_meanwhile().await, None);
}

#[tokio::test(start_paused = true)]
async fn outstanding_retries_hold_their_room() {
    let mut scene = scene().await;
    let large = |id| {
        let message = Outgoing::text("you", &"x".repeat(9_000_000)).id(id);
        message.receipt(Status::Stored).retry_until((Instant::now() + LONG).into_std())
    };
    let client = scene.client.clone();
    let first = tokio::spawn(async move { client.submit(&large("a")).await?.await });
    assert_eq!(scene.heard().await["id"], "a");
    let client = scene.client.clone();
    let second = tokio::spawn(async move { client.submit(&large("b")).await?.await });
    assert_eq!(scene.said_meanwhile().await, None, "the first one may have to be sent again");
    receipt(&mut scene.session, "a", "stored").await;
    first.await.unwrap().unwrap();
    assert_eq!(scene.heard().await["id"], "b");
    receipt(&mut scene.session, "b", "stored").await;
    second.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_closed_says_so_to_who_waits_and_who_comes() {
    let mut scene = scene().await;
    let outstanding = scene.client.submit(&retried("a", LONG)).await.unwrap();
    scene.heard().await;
    scene.session.send(r#"{"type": "bye", "reason": "replaced"}"#).await;
    scene.session = dead().await;
    let outcome = timeout(LONG, outstanding).await.expect("it is told");
    assert!(matches!(outcome, Err(ReceiptError::Unknown(WhyLost::Replaced))), "{outcome:?}");
    let late = scene.client.submit(&message("b", Status::Stored)).await;
    assert!(matches!(late, Err(ReceiptError::Send(SendError::Closed))), "{late:?}");
    let late = scene.client.subscribe(["x"]).await;
    assert!(matches!(late, Err(CallError::ClientClosed)), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn a_receipt_is_heard_behind_a_full_queue() {
    let queue = QueueLimits { messages: 1, ..Default::default() };
    let mut scene = scene_with(|builder| builder.queue(queue)).await;
    for _ in 0..3 {
        scene.session.send(r#"{"type": "message", "body": 0}"#).await;
    }
    let outstanding = scene.client.submit(&message("a", Status::Stored)).await.unwrap();
    receipt(&mut scene.session, "a", "stored").await;
    timeout(LONG, outstanding).await.expect("it is read").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_one_shot_message_waits_for_the_state_it_asked_for() {
    let (transport, mut bus_side) = memory::bus();
    let bus = Bus::on(transport);
    let sending = tokio::spawn(async move { bus.send(&message("a", Status::Acked)).await });
    let mut connection = bus_side.accept().await;
    assert_eq!(json(&mut connection).await["receipt"], "acked");
    receipt(&mut connection, "a", "delivered").await;
    receipt(&mut connection, "a", "acked").await;
    assert_eq!(sending.await.unwrap().unwrap().status, Status::Acked);
}

#[tokio::test(start_paused = true)]
async fn a_one_shot_message_to_several_is_answered_once_however_far_it_came() {
    for (endpoints, failed) in [(0, 0), (3, 3)] {
        let (transport, mut bus_side) = memory::bus();
        let sending = tokio::spawn(async move {
            Bus::on(transport).patience(LONG).send(&message("m1", Status::Acked)).await
        });
        let mut session = bus_side.accept().await;
        session.receive().await.unwrap();
        let receipt = json!({"type": "receipt", "id": "m1", "status": "accepted",
                             "endpoints": endpoints, "failed": failed});
        session.send(&receipt.to_string()).await;
        let receipt = timeout(LONG / 2, sending).await.expect("it is the answer").unwrap().unwrap();
        assert_eq!((receipt.endpoints, receipt.failed), (Some(endpoints), Some(failed)));
        assert_eq!(receipt.status, Status::Accepted);
    }
}

#[tokio::test(start_paused = true)]
async fn a_released_bus_proves_nothing_that_it_cannot_know() {
    let (transport, mut bus_side) = memory::bus();
    let bus = Bus::on(transport);
    let sending = tokio::spawn(async move { bus.send(&message("a", Status::Stored)).await });
    let mut connection = bus_side.accept().await;
    json(&mut connection).await;
    let mut look = bus_side.accept().await;
    json(&mut look).await;
    look.send(r#"{"type": "endpoints_list", "endpoints": {}}"#).await;
    assert_eq!(json(&mut connection).await["type"], "ping");
    connection.send(r#"{"type": "pong"}"#).await;
    let outcome = sending.await.unwrap();
    assert!(matches!(outcome, Err(CallError::NeedsLevel2 { .. })), "{outcome:?}");
}

// ---- subscribing, watching, asking ------------------------------------------------------------------------

/// Answers a request of the client, which runs meanwhile.
async fn answered<T: Send + 'static>(
    scene: &mut Scene,
    asking: impl Future<Output = T> + Send + 'static,
    answer: Value,
) -> (Value, T) {
    let asking = tokio::spawn(asking);
    let mut asked = json(&mut scene.session).await;
    let mut answer = answer;
    answer["req"] = asked["req"].clone();
    scene.session.send(&answer.to_string()).await;
    asked.as_object_mut().unwrap().remove("req").expect("a request has a number");
    (asked, timeout(LONG, asking).await.expect("it is answered").unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_a_client_has_subscribed_to_it_holds_in_its_next_session_too() {
    let mut scene = scene().await;
    let client = scene.client.clone();
    let subscribed = json!({"type": "subscribed", "topics": ["a.*", "b"], "groups": ["g"]});
    let asking = async move { client.subscribe(["#a.*"]).await };
    let (asked, held) = answered(&mut scene, asking, subscribed).await;
    assert_eq!(asked, json!({"type": "subscribe", "topics": ["a.*"]}));
    assert!(held.unwrap().topics.contains("b"), "the bus says what holds");
    let register = scene.restart().await;
    assert_eq!((&register["topics"], &register["groups"]), (&json!(["a.*", "b"]), &json!(["g"])));
    let client = scene.client.clone();
    let subscribed = json!({"type": "subscribed", "topics": ["b"], "groups": []});
    let asking = async move { client.leave(["@g"]).await };
    let (asked, _) = answered(&mut scene, asking, subscribed).await;
    assert_eq!(asked, json!({"type": "unsubscribe", "groups": ["g"]}));
    assert_eq!(scene.restart().await["groups"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn what_the_bus_says_last_holds_whoever_hears_of_it_first() {
    let mut scene = scene().await;
    let mut first = Box::pin(scene.client.subscribe(["a"]));
    let mut second = Box::pin(scene.client.subscribe(["b"]));
    // Both are asked for, and the first one's task is slow.
    let mut asked = Vec::new();
    for asking in [&mut first, &mut second] {
        tokio::select! {
            _ = asking => panic!("nobody has answered"),
            request = json(&mut scene.session) => asked.push(request),
        }
    }
    for (request, topics) in asked.iter().zip([json!(["a"]), json!(["a", "b"])]) {
        let req = &request["req"];
        let answer = json!({"type": "subscribed", "topics": topics, "groups": [], "req": req});
        scene.session.send(&answer.to_string()).await;
    }
    assert_eq!(second.await.unwrap().topics.len(), 2);
    assert_eq!(first.await.unwrap().topics.len(), 1);
    assert_eq!(scene.restart().await["topics"], json!(["a", "b"]));
}

#[tokio::test(start_paused = true)]
async fn a_subscription_nobody_waited_for_is_held_in_the_next_session_too() {
    let mut scene = scene().await;
    let mut asking = Box::pin(scene.client.subscribe(["a"]));
    let request = tokio::select! {
        _ = &mut asking => panic!("nobody has answered"),
        request = json(&mut scene.session) => request,
    };
    drop(asking);
    let req = &request["req"];
    let answer = json!({"type": "subscribed", "topics": ["a"], "groups": [], "req": req});
    scene.session.send(&answer.to_string()).await;
    assert_eq!(scene.restart().await["topics"], json!(["a"]));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_refused_or_cut_off_says_so_and_nobody_else_hears_of_it() {
    let mut scene = scene().await;
    let client = scene.client.clone();
    let refusal = json!({"type": "error", "code": "invalid_field", "detail": "bad"});
    let asking = async move { client.subscribe(["a..b"]).await };
    let (_, refused) = answered(&mut scene, asking, refusal).await;
    assert!(matches!(refused, Err(CallError::Refused { .. })), "{refused:?}");
    assert_eq!(scene.events.try_next(), None);
    let client = scene.client.clone();
    let asking = tokio::spawn(async move { client.trace("x").await });
    scene.heard().await;
    scene.restart().await;
    let cut_off = asking.await.unwrap();
    assert!(matches!(cut_off, Err(CallError::Closed)), "{cut_off:?}");
}

#[tokio::test(start_paused = true)]
async fn a_watcher_sees_who_comes_and_what_goes_through_in_every_session() {
    let mut scene = scene().await;
    let client = scene.client.clone();
    let watch = Watch { presence: true, tap: TapMode::Envelopes };
    let watching = json!({"type": "watching", "presence": true, "tap": "envelopes"});
    let asking = async move { client.watch(watch).await };
    let (asked, sightings) = answered(&mut scene, asking, watching).await;
    let watch = json!({"type": "watch", "presence": true, "tap": "envelopes"});
    assert_eq!(asked, watch);
    let mut sightings = sightings.unwrap();
    let presence = json!({
        "type": "presence", "endpoint": "you", "state": "online", "session_id": "s", "ts": 1.5,
        "reason": "registered",
    });
    scene.session.send(&presence.to_string()).await;
    let Some(Sighting::Presence(seen)) = sightings.next().await else { panic!() };
    assert_eq!((seen.endpoint.as_str(), seen.is_online, seen.ts), ("you", true, Some(1.5)));
    scene.restart().await;
    assert_eq!(scene.heard().await, watch);
    let tap = json!({
        "type": "tap", "outcome": "delivered", "bytes": 77, "envelope": {"id": "7", "to": "you"},
    });
    scene.session.send(&tap.to_string()).await;
    let Some(Sighting::Tap(seen)) = sightings.next().await else { panic!() };
    assert_eq!((seen.outcome().as_str(), seen.bytes()), ("delivered", Some(77)));
    assert_eq!(seen.message().unwrap().id().as_deref(), Some("7"));
    // Once nobody looks, the bus is told.
    drop(sightings);
    scene.session.send(&presence.to_string()).await;
    let nothing = json!({"type": "watch", "presence": false, "tap": "none"});
    assert_eq!(scene.heard().await, nothing);
}

#[tokio::test(start_paused = true)]
async fn a_bus_whose_answer_came_too_late_is_told_that_nobody_watches() {
    let mut scene = scene().await;
    let client = scene.client.clone();
    let asking = tokio::spawn(async move {
        client.watch(Watch { presence: true, ..Watch::default() }).await.err()
    });
    assert_eq!(scene.heard().await["type"], "watch");
    let error = asking.await.unwrap();
    assert!(matches!(error, Some(CallError::NoAnswer(_))), "{error:?}");
    scene.session.send(r#"{"type": "watching", "presence": true, "tap": "none", "req": 1}"#).await;
    scene.session.send(r#"{"type": "presence", "endpoint": "you", "state": "online"}"#).await;
    let nothing = json!({"type": "watch", "presence": false, "tap": "none"});
    assert_eq!(scene.heard().await, nothing);
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_with_the_bus_that_could_give_it() {
    let mut scene = scene().await;
    let client = scene.client.clone();
    let watching = json!({"type": "watching", "presence": true, "tap": "none"});
    let asking = async move { client.watch(Watch { presence: true, ..Watch::default() }).await };
    let (_, sightings) = answered(&mut scene, asking, watching).await;
    scene.bus_side.restart();
    scene.session = dead().await;
    scene.session = scene.bus_side.accept().await;
    scene.session.welcome("session-2").await;
    let seen =
        timeout(LONG, sightings.unwrap().next()).await.expect("it is no wait without an end");
    assert!(seen.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_a_slow_watcher_misses_is_counted() {
    let mut scene = scene().await;
    let client = scene.client.clone();
    let watching = json!({"type": "watching", "presence": true, "tap": "none"});
    let asking = async move { client.watch(Watch { presence: true, ..Watch::default() }).await };
    let (_, sightings) = answered(&mut scene, asking, watching).await;
    let mut sightings = sightings.unwrap();
    let total = QueueLimits::default().messages as u64 + 10;
    for _ in 0..total {
        scene.session.send(r#"{"type": "presence", "endpoint": "you", "state": "online"}"#).await;
    }
    scene.session.send(r#"{"type": "message", "body": 0}"#).await;
    scene.next().await;
    let (mut seen, mut missed) = (0, 0);
    while let Some(sighting) = sightings.try_next() {
        match sighting {
            Sighting::Missed(count) => missed += count,
            _ => seen += 1,
        }
    }
    assert_eq!((seen, missed), (total - 10, 10));
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_an_event() {
    let mut scene = scene().await;
    let gap = r#"{"type": "gap", "source": "topic", "count": 3, "bytes": 99}"#;
    scene.session.send(gap).await;
    let gap = Gap { source: "topic".to_owned(), count: 3, bytes: 99 };
    assert_eq!(scene.event().await, Event::Gap(gap));
}

#[tokio::test(start_paused = true)]
async fn a_trace_tells_each_state() {
    let mut scene = scene().await;
    let client = scene.client.clone();
    let traced = json!({
        "type": "traced", "id": "7", "next": "waits for an acknowledgement",
        "states": [
            {"state": "accepted", "ts": 1.0},
            {"state": "delivered", "ts": 2.0, "endpoint": "you", "detail": "d", "blocking": "you"},
        ],
    });
    let asking = async move { client.trace("7").await };
    let (asked, trace) = answered(&mut scene, asking, traced).await;
    assert_eq!(asked, json!({"type": "trace", "id": "7"}));
    let trace = trace.unwrap();
    assert_eq!(trace.states.len(), 2);
    assert_eq!(trace.states[1].endpoint.as_deref(), Some("you"));
    assert_eq!(trace.states[1].further["blocking"], "you");
    assert_eq!(trace.further["next"], "waits for an acknowledgement");
}
