//! Stories of one client and a bus that the test plays, on a paused clock: nothing here waits for
//! real time, and every wait that could last for ever has an end.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use hermes_bus_client::memory::{self, BusSide, ServerSession};
use hermes_bus_client::{
    Bus, CallError, Client, Conflict, ConnectError, Event, Events, Inbox, Outgoing, QueueLimits,
    RequestError, SendError, Status, WhenFull, WhyLost,
};
use serde_json::Value;
use tokio::time::{Instant, timeout};

/// Longer than anything here may take on the paused clock.
const LONG: Duration = Duration::from_secs(600);

/// A client that has just registered, and the bus's side of it.
struct Scene {
    client: Client,
    inbox: Inbox,
    events: Events,
    session: ServerSession,
    bus_side: BusSide,
}

async fn scene(name: &'static str) -> Scene {
    scene_with(name, QueueLimits::default()).await
}

async fn scene_with(name: &'static str, queue: QueueLimits) -> Scene {
    let (transport, mut bus_side) = memory::bus();
    let builder = Bus::on(transport).client(name).queue(queue);
    let connecting = tokio::spawn(builder.connect());
    let mut session = bus_side.accept().await;
    assert_eq!(session.welcome("session-1").await, name);
    let (client, inbox) = connecting.await.unwrap().unwrap();
    let events = client.events();
    Scene { client, inbox, events, session, bus_side }
}

impl Scene {
    async fn event(&mut self) -> Event {
        timeout(LONG, self.events.next()).await.expect("an event comes").expect("not the last")
    }

    /// The bus closes the connection.
    async fn hang_up(&mut self) {
        self.session = dead().await;
    }

    /// The client's next session, after attempts that it may have given up meanwhile.
    async fn welcome_back(&mut self) -> ServerSession {
        while self.client.session_id().is_none() {
            self.session = self.bus_side.accept().await;
            self.session.welcome("session-2").await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        std::mem::replace(&mut self.session, dead().await)
    }

    /// Nobody tries to connect any more.
    async fn nobody_comes(&mut self) {
        let coming = timeout(LONG, self.bus_side.accept()).await;
        assert!(coming.is_err(), "the client came back");
    }
}

/// The bus says that these names are taken, by these sessions.
async fn list(session: &mut ServerSession, endpoints: &str) {
    let request = json(session).await;
    assert_eq!(request["type"], "list_endpoints");
    let answer = format!(r#"{{"type": "endpoints_list", "endpoints": {endpoints}}}"#);
    session.send(&answer).await;
}

async fn json(session: &mut ServerSession) -> Value {
    let frame = timeout(LONG, session.receive()).await.expect("a frame comes");
    serde_json::from_str(&frame.expect("not the end")).unwrap()
}

fn numbered(number: usize) -> String {
    format!(
        r#"{{"type": "message", "from": "x", "id": "{number}", "body": {{"text": "{number}"}}}}"#
    )
}

async fn texts(inbox: &mut Inbox, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    for _ in 0..count {
        let message = timeout(LONG, inbox.next()).await.expect("a message comes");
        texts.push(message.expect("not the end").text().unwrap());
    }
    texts
}

// ---- coming back --------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_client_comes_back_after_a_restart_and_says_so() {
    let mut scene = scene("me").await;
    scene.bus_side.restart();
    scene.hang_up().await;
    let mut session = scene.bus_side.accept().await;
    assert_eq!(session.welcome("session-2").await, "me");
    session.send(&numbered(1)).await;
    assert_eq!(texts(&mut scene.inbox, 1).await, ["1"]);
    assert_eq!(scene.client.session_id().as_deref(), Some("session-2"));
    let why = WhyLost::ConnectionClosed;
    assert_eq!(scene.event().await, Event::Disconnected { why });
    let session_id = "session-2".to_owned();
    assert_eq!(scene.event().await, Event::Reconnected { session_id });
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_while_the_bus_is_away_is_sent_when_it_is_back_in_order() {
    let mut scene = scene("me").await;
    scene.bus_side.restart();
    scene.hang_up().await;
    assert!(matches!(scene.event().await, Event::Disconnected { .. }));
    let client = scene.client.clone();
    let sending = tokio::spawn(async move {
        let messages: Vec<_> = (0..3).map(|n| Outgoing::text("you", &n.to_string())).collect();
        let (first, second, third) = tokio::join!(
            client.send(&messages[0]),
            client.send(&messages[1]),
            client.send(&messages[2])
        );
        (first.is_ok(), second.is_ok(), third.is_ok())
    });
    let mut session = scene.bus_side.accept().await;
    session.welcome("session-2").await;
    for number in 0..3 {
        assert_eq!(json(&mut session).await["body"]["text"], number.to_string());
    }
    assert_eq!(sending.await.unwrap(), (true, true, true));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_was_cut_off_goes_whole_to_the_next_session() {
    let mut scene = scene("me").await;
    let client = scene.client.clone();
    let large = Outgoing::text("you", &"x".repeat(1_000_000));
    let sending = tokio::spawn(async move { client.send(&large).await });
    // The pipe holds less than the message: the client is in the middle of it.
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(!sending.is_finished());
    scene.bus_side.restart();
    scene.hang_up().await;
    let mut session = scene.bus_side.accept().await;
    session.welcome("session-2").await;
    assert_eq!(json(&mut session).await["body"]["text"].as_str().unwrap().len(), 1_000_000);
    sending.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_given_up_is_not_sent_later() {
    let mut scene = scene("me").await;
    scene.bus_side.restart();
    scene.hang_up().await;
    // The bus is back, but does not answer.
    let silent = scene.bus_side.accept().await;
    let given_up = scene.client.send(&Outgoing::text("you", "too late")).await;
    assert!(matches!(given_up, Err(SendError::NotTaken(_))), "{given_up:?}");
    let cancelled = Outgoing::text("you", "cancelled");
    let sending = timeout(Duration::from_millis(1), scene.client.send(&cancelled)).await;
    assert!(sending.is_err());
    drop(silent);
    let mut session = scene.welcome_back().await;
    scene.client.send(&Outgoing::text("you", "in time")).await.unwrap();
    assert_eq!(json(&mut session).await["body"]["text"], "in time");
}

#[tokio::test(start_paused = true)]
async fn messages_given_up_do_not_use_up_the_budget() {
    let mut scene = scene("me").await;
    scene.bus_side.restart();
    scene.hang_up().await;
    let silent = scene.bus_side.accept().await;
    let large = Outgoing::text("you", &"x".repeat(9_000_000));
    for _ in 0..5 {
        let given_up = scene.client.send(&large).await;
        assert!(matches!(given_up, Err(SendError::NotTaken(_))), "{given_up:?}");
    }
    drop(silent);
    let mut session = scene.welcome_back().await;
    let client = scene.client.clone();
    let sending = tokio::spawn(async move { client.send(&large).await });
    assert_eq!(json(&mut session).await["body"]["text"].as_str().unwrap().len(), 9_000_000);
    sending.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn attempts_become_rarer_and_never_stop() {
    let mut scene = scene("me").await;
    scene.bus_side.restart();
    scene.hang_up().await;
    let began = Instant::now();
    for _ in 0..20 {
        drop(scene.bus_side.accept().await);
    }
    let took = began.elapsed();
    assert!(took > Duration::from_secs(14), "20 attempts in {took:?}");
    assert!(took < Duration::from_secs(40), "20 attempts in {took:?}");
    scene.bus_side.accept().await.welcome("session-2").await;
    let mut failed = 0;
    while let Event::Disconnected { .. } | Event::RetryFailed { .. } = scene.event().await {
        failed += 1;
    }
    assert_eq!(failed, 1 + 20);
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_falls_silent_is_left() {
    let mut scene = scene("me").await;
    let began = Instant::now();
    assert_eq!(json(&mut scene.session).await["type"], "ping");
    scene.session.send(r#"{"type": "pong"}"#).await;
    assert_eq!(json(&mut scene.session).await["type"], "ping");
    let Event::Disconnected { why: WhyLost::Silent(_) } = scene.event().await else {
        panic!("the silence was not noticed")
    };
    assert!(began.elapsed() < Duration::from_secs(100), "after {:?}", began.elapsed());
    scene.bus_side.restart();
    scene.bus_side.accept().await;
}

#[tokio::test(start_paused = true)]
async fn garbage_ends_the_session_and_not_the_client() {
    for garbage in
        [&b"HTTP/1.1 400 Bad Request"[..], b"\0\0\0\0", b"\0\0\0\x05hello", b"\xff\xff\xff\xff"]
    {
        let mut scene = scene("me").await;
        scene.bus_side.restart();
        scene.session.send_bytes(garbage).await;
        let event = scene.event().await;
        assert!(matches!(event, Event::Disconnected { why: WhyLost::Unexpected(_) }), "{event:?}");
        scene.bus_side.accept().await.welcome("session-2").await;
    }
}

// ---- names that others take -----------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn told_that_it_was_replaced_a_client_does_not_come_back() {
    let mut scene = scene("me").await;
    scene.session.send(r#"{"type": "bye", "reason": "replaced"}"#).await;
    scene.hang_up().await;
    assert_eq!(scene.event().await, Event::Closed { why: WhyLost::Replaced });
    assert!(scene.inbox.next().await.is_none());
    let late = scene.client.send(&Outgoing::text("you", "x")).await;
    assert!(matches!(late, Err(SendError::Closed)), "{late:?}");
    scene.nobody_comes().await;
}

/// A session that nobody is at the other end of.
async fn dead() -> ServerSession {
    let (transport, mut bus_side) = memory::bus();
    drop(hermes_bus_client::transport::Transport::connect(&transport).await);
    bus_side.accept().await
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_says_nothing_is_asked_who_has_the_name_now() {
    let mut scene = scene("me").await;
    scene.hang_up().await;
    let mut look = scene.bus_side.accept().await;
    list(&mut look, r#"{"me": "session-of-another"}"#).await;
    assert!(look.receive().await.is_none(), "the name was taken back");
    let Event::Disconnected { .. } = scene.event().await else { panic!() };
    assert_eq!(scene.event().await, Event::Closed { why: WhyLost::Replaced });
    scene.nobody_comes().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_free_or_still_its_own_is_taken_again() {
    for endpoints in ["{}", r#"{"me": "session-1"}"#, r#"{"you": "session-9"}"#] {
        let mut scene = scene("me").await;
        scene.hang_up().await;
        let mut session = scene.bus_side.accept().await;
        list(&mut session, endpoints).await;
        assert_eq!(session.welcome("session-2").await, "me");
    }
}

#[tokio::test(start_paused = true)]
async fn a_polite_client_does_not_take_a_name_from_another() {
    let (transport, mut bus_side) = memory::bus();
    let builder = Bus::on(transport).client("me").conflict(Conflict::Refuse);
    let connecting = tokio::spawn(builder.connect());
    let mut session = bus_side.accept().await;
    list(&mut session, r#"{"me": "session-of-another"}"#).await;
    assert!(session.receive().await.is_none());
    let refused = connecting.await.unwrap();
    assert!(matches!(refused, Err(ConnectError::NameTaken { .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_refused_for_good_ends_the_client() {
    const REFUSAL: &str = r#"{"type": "error", "code": "unauthorized", "detail": "no token"}"#;
    let mut scene = scene("me").await;
    scene.bus_side.restart();
    scene.hang_up().await;
    let mut session = scene.bus_side.accept().await;
    assert_eq!(json(&mut session).await["type"], "register");
    session.send(REFUSAL).await;
    let Event::Disconnected { .. } = scene.event().await else { panic!() };
    let (code, detail) = ("unauthorized".to_owned(), "no token".to_owned());
    assert_eq!(scene.event().await, Event::Closed { why: WhyLost::Refused { code, detail } });
    scene.nobody_comes().await;
}

// ---- what arrives -----------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_message_that_overtakes_the_registration_is_not_lost() {
    let (transport, mut bus_side) = memory::bus();
    let connecting = tokio::spawn(async move { Bus::on(transport).connect("me").await });
    let mut session = bus_side.accept().await;
    assert_eq!(json(&mut session).await["type"], "register");
    session.send(&numbered(1)).await;
    session.send(r#"{"type": "registered", "endpoint": "me", "session_id": "s"}"#).await;
    session.send(&numbered(2)).await;
    let (_client, mut inbox) = connecting.await.unwrap().unwrap();
    assert_eq!(texts(&mut inbox, 2).await, ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_stops_the_reading_and_loses_nothing() {
    let limits = QueueLimits { messages: 3, ..QueueLimits::default() };
    let mut scene = scene_with("me", limits).await;
    let mut session = scene.session;
    // Far more than the pipe between the two holds.
    let feeding = tokio::spawn(async move {
        for number in 0..5_000 {
            session.send(&numbered(number)).await;
        }
        session
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!feeding.is_finished(), "the client read on");
    assert!(scene.inbox.len() <= 3);
    let began = Instant::now();
    let all: Vec<_> = (0..5_000).map(|number: usize| number.to_string()).collect();
    assert_eq!(texts(&mut scene.inbox, 5_000).await, all);
    assert!(began.elapsed() < Duration::from_secs(1), "something had to wake the client");
    feeding.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_with_a_full_queue_stays_alive_and_still_sends() {
    let limits = QueueLimits { messages: 1, ..QueueLimits::default() };
    let mut scene = scene_with("me", limits).await;
    scene.session.send(&numbered(0)).await;
    scene.session.send(&numbered(1)).await;
    // Nothing is read for minutes, not even the answers to pings: that is no silence of the bus.
    for _ in 0..6 {
        assert_eq!(json(&mut scene.session).await["type"], "ping");
        scene.session.send(r#"{"type": "pong"}"#).await;
    }
    scene.client.send(&Outgoing::text("you", "still here")).await.unwrap();
    assert_eq!(json(&mut scene.session).await["body"]["text"], "still here");
    assert_eq!(scene.events.try_next(), None);
    assert_eq!(texts(&mut scene.inbox, 2).await, ["0", "1"]);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_drops_says_how_many() {
    let limits =
        QueueLimits { messages: 2, when_full: WhenFull::DropOldest, ..QueueLimits::default() };
    let mut scene = scene_with("me", limits).await;
    for number in 0..10 {
        scene.session.send(&numbered(number)).await;
    }
    let mut dropped = 0;
    while dropped < 8 {
        match scene.event().await {
            Event::Dropped { messages } => dropped += messages,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(texts(&mut scene.inbox, 2).await, ["8", "9"]);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_bus_is_an_event() {
    let mut scene = scene("me").await;
    let error = r#"{"type": "error", "code": "over_limit", "detail": "full", "id": "7"}"#;
    scene.session.send(error).await;
    let event = scene.event().await;
    let (code, detail, id) = ("over_limit".to_owned(), "full".to_owned(), Some("7".to_owned()));
    assert_eq!(event, Event::Refused { code, detail, id });
}

// ---- requests ---------------------------------------------------------------------------------------------

/// Takes a request on its connection, and says that it was handed over.
async fn take_request(bus_side: &mut BusSide) -> String {
    let mut connection = bus_side.accept().await;
    let request = json(&mut connection).await;
    assert_eq!((&request["type"], &request["from"]), (&"message".into(), &"me".into()));
    let id = request["id"].as_str().unwrap().to_owned();
    let receipt = format!(r#"{{"type": "receipt", "id": "{id}", "status": "delivered"}}"#);
    connection.send(&receipt).await;
    id
}

fn reply(id: &str) -> String {
    format!(r#"{{"type": "message", "from": "you", "reply_to": "{id}", "body": {{"text": "42"}}}}"#)
}

fn ask(client: &Client) -> tokio::task::JoinHandle<Result<String, RequestError>> {
    let client = client.clone();
    tokio::spawn(async move {
        let question = Outgoing::text("you", "what?").id("q-1");
        let reply = client.request(&question, Duration::from_secs(20)).await?;
        Ok(reply.text().unwrap())
    })
}

#[tokio::test(start_paused = true)]
async fn a_reply_finds_its_request_and_other_messages_the_inbox() {
    let mut scene = scene("me").await;
    let asking = ask(&scene.client);
    let id = take_request(&mut scene.bus_side).await;
    scene.session.send(&numbered(1)).await;
    scene.session.send(&reply("another id")).await;
    scene.session.send(&reply(&id)).await;
    assert_eq!(asking.await.unwrap().unwrap(), "42");
    assert_eq!(texts(&mut scene.inbox, 2).await, ["1", "42"]);
    // A second reply to the same request is an ordinary message.
    scene.session.send(&reply(&id)).await;
    assert_eq!(texts(&mut scene.inbox, 1).await, ["42"]);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_never_comes_ends_the_request_and_leaves_nothing_behind() {
    let mut scene = scene("me").await;
    let asking = ask(&scene.client);
    take_request(&mut scene.bus_side).await;
    let unanswered = asking.await.unwrap();
    assert!(matches!(unanswered, Err(RequestError::NoReply(_))), "{unanswered:?}");
    // The same question may be asked again, and what comes too late is an ordinary message.
    let asking = ask(&scene.client);
    let id = take_request(&mut scene.bus_side).await;
    scene.session.send(&reply(&id)).await;
    scene.session.send(&reply(&id)).await;
    assert_eq!(asking.await.unwrap().unwrap(), "42");
    assert_eq!(texts(&mut scene.inbox, 1).await, ["42"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_to_nobody_fails_at_once() {
    let mut scene = scene("me").await;
    let began = Instant::now();
    let asking = ask(&scene.client);
    let mut connection = scene.bus_side.accept().await;
    json(&mut connection).await;
    let error = r#"{"type": "error", "code": "endpoint_not_found", "detail": "not there"}"#;
    connection.send(error).await;
    let refused = asking.await.unwrap();
    assert!(matches!(refused, Err(RequestError::Send(CallError::Refused { .. }))), "{refused:?}");
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_reply_is_found_behind_a_full_queue() {
    let limits = QueueLimits { messages: 1, ..QueueLimits::default() };
    let mut scene = scene_with("me", limits).await;
    for number in 0..20 {
        scene.session.send(&numbered(number)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asking = ask(&scene.client);
    let id = take_request(&mut scene.bus_side).await;
    scene.session.send(&reply(&id)).await;
    assert_eq!(asking.await.unwrap().unwrap(), "42");
    let all: Vec<_> = (0..20).map(|number: usize| number.to_string()).collect();
    assert_eq!(texts(&mut scene.inbox, 20).await, all);
}

#[tokio::test(start_paused = true)]
async fn a_request_outlives_a_restart_of_the_bus() {
    let mut scene = scene("me").await;
    let asking = ask(&scene.client);
    let id = take_request(&mut scene.bus_side).await;
    scene.bus_side.restart();
    scene.hang_up().await;
    let mut session = scene.bus_side.accept().await;
    session.welcome("session-2").await;
    session.send(&reply(&id)).await;
    assert_eq!(asking.await.unwrap().unwrap(), "42");
}

#[tokio::test(start_paused = true)]
async fn a_closed_client_answers_its_requests_with_that() {
    let mut scene = scene("me").await;
    let asking = ask(&scene.client);
    take_request(&mut scene.bus_side).await;
    scene.client.close().await;
    assert!(matches!(asking.await.unwrap(), Err(RequestError::Closed)));
    assert!(matches!(ask(&scene.client).await.unwrap(), Err(RequestError::Closed)));
}

// ---- the end ------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn what_was_sent_before_the_end_is_still_written() {
    let mut scene = scene("me").await;
    let client = scene.client.clone();
    let large = Outgoing::text("you", &"x".repeat(500_000));
    let sending = tokio::spawn(async move { client.send(&large).await });
    tokio::time::sleep(Duration::from_millis(10)).await;
    let client = scene.client.clone();
    let closing = tokio::spawn(async move { client.close().await });
    assert_eq!(json(&mut scene.session).await["body"]["text"].as_str().unwrap().len(), 500_000);
    assert!(scene.session.receive().await.is_none());
    sending.await.unwrap().unwrap();
    closing.await.unwrap();
    assert_eq!(scene.client.closed(), Some(WhyLost::ByOwner));
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_does_not_read_does_not_keep_a_client_from_closing() {
    let scene = scene("me").await;
    let client = scene.client.clone();
    let large = Outgoing::text("you", &"x".repeat(500_000));
    let sending = tokio::spawn(async move { client.send(&large).await });
    tokio::time::sleep(Duration::from_millis(10)).await;
    timeout(Duration::from_secs(6), scene.client.close()).await.expect("it ends soon");
    assert!(sending.await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_coming_back_can_be_closed_at_once() {
    let mut scene = scene("me").await;
    scene.bus_side.restart();
    scene.hang_up().await;
    let _silent = scene.bus_side.accept().await;
    let began = Instant::now();
    timeout(LONG, scene.client.close()).await.expect("it ends");
    assert_eq!(began.elapsed(), Duration::ZERO);
    let why = WhyLost::ByOwner;
    while scene.event().await != (Event::Closed { why: why.clone() }) {}
    assert_eq!(timeout(LONG, scene.events.next()).await.expect("the end is told"), None);
    assert_eq!(timeout(LONG, scene.client.events().next()).await.expect("the same"), None);
}

#[tokio::test(start_paused = true)]
async fn dropped_handles_end_the_session_one_half_alone_does_not() {
    let Scene { client, inbox, mut session, .. } = scene("me").await;
    drop(inbox);
    client.send(&Outgoing::text("you", "only sending")).await.unwrap();
    assert_eq!(json(&mut session).await["body"]["text"], "only sending");
    drop(client);
    assert!(timeout(LONG, session.receive()).await.expect("it ends").is_none());

    let Scene { client, mut inbox, mut session, .. } = scene("me").await;
    drop(client);
    session.send(&numbered(1)).await;
    assert_eq!(texts(&mut inbox, 1).await, ["1"]);
    drop(inbox);
    assert!(timeout(LONG, session.receive()).await.expect("it ends").is_none());
}

// ---- one-shot calls -----------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn the_answer_to_a_one_shot_message_is_the_buss_own() {
    let (transport, mut bus_side) = memory::bus();
    let bus = Bus::on(transport);
    let sending = tokio::spawn(async move { bus.send(&Outgoing::text("you", "hi").id("7")).await });
    let mut connection = bus_side.accept().await;
    assert_eq!(json(&mut connection).await["id"], "7");
    connection.send(r#"{"type": "receipt", "id": "7", "status": "delivered"}"#).await;
    let receipt = sending.await.unwrap().unwrap();
    assert_eq!((receipt.id.as_str(), receipt.status), ("7", Status::Delivered));
}

#[tokio::test(start_paused = true)]
async fn a_released_bus_proves_by_its_pong_that_it_routed_the_message() {
    let (transport, mut bus_side) = memory::bus();
    let bus = Bus::on(transport);
    let sending = tokio::spawn(async move { bus.send(&Outgoing::text("you", "hi")).await });
    let mut connection = bus_side.accept().await;
    json(&mut connection).await;
    list(&mut bus_side.accept().await, "{}").await;
    assert_eq!(json(&mut connection).await["type"], "ping");
    connection.send(r#"{"type": "pong"}"#).await;
    assert_eq!(sending.await.unwrap().unwrap().status, Status::Accepted);
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_takes_its_time_is_waited_for_and_never_disturbed() {
    let (transport, mut bus_side) = memory::bus();
    let bus = Bus::on(transport);
    let sending = tokio::spawn(async move { bus.send(&Outgoing::text("you", "hi")).await });
    let mut connection = bus_side.accept().await;
    json(&mut connection).await;
    let mut look = bus_side.accept().await;
    json(&mut look).await;
    let server = r#"{"server": "hermes-bus/9", "uptime_s": 1, "counters": {}}"#;
    let listing = format!(r#"{{"type": "endpoint_list", "endpoints": {{}}, "server": {server}}}"#);
    look.send(&listing).await;
    let disturbed = timeout(Duration::from_millis(700), connection.receive()).await;
    assert!(disturbed.is_err(), "a second frame makes the bus keep the receipt");
    connection.send(r#"{"type": "error", "code": "endpoint_not_found", "detail": "gone"}"#).await;
    assert!(matches!(sending.await.unwrap(), Err(CallError::Refused { .. })));
}

#[tokio::test(start_paused = true)]
async fn silence_is_never_taken_for_success() {
    let (transport, mut bus_side) = memory::bus();
    let bus = Bus::on(transport);
    let sending = tokio::spawn(async move { bus.send(&Outgoing::text("you", "hi")).await });
    let mut connection = bus_side.accept().await;
    json(&mut connection).await;
    let _look = bus_side.accept().await;
    let outcome = timeout(LONG, sending).await.expect("it ends").unwrap();
    assert!(matches!(outcome, Err(CallError::NoAnswer(_))), "{outcome:?}");

    let (transport, mut bus_side) = memory::bus();
    let bus = Bus::on(transport);
    let sending = tokio::spawn(async move { bus.send(&Outgoing::text("you", "hi")).await });
    let mut connection = bus_side.accept().await;
    json(&mut connection).await;
    drop(connection);
    assert!(matches!(sending.await.unwrap(), Err(CallError::Closed)));
}

// ---- bad days --------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn what_was_handed_over_before_the_end_is_kept_however_full_the_queue_is() {
    let limits = QueueLimits { messages: 2, ..QueueLimits::default() };
    let mut scene = scene_with("me", limits).await;
    for number in 0..100 {
        scene.session.send(&numbered(number)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.inbox.len(), 2);
    scene.bus_side.restart();
    scene.hang_up().await;
    // The full queue keeps the client from reading the end; a write finds it.
    let client = scene.client.clone();
    let sending = tokio::spawn(async move { client.send(&Outgoing::text("you", "x")).await });
    let mut session = scene.bus_side.accept().await;
    session.welcome("session-2").await;
    let all: Vec<_> = (0..100).map(|number: usize| number.to_string()).collect();
    assert_eq!(texts(&mut scene.inbox, 100).await, all);
    assert_eq!(json(&mut session).await["body"]["text"], "x");
    sending.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_bye_behind_a_full_queue_is_heard() {
    let limits = QueueLimits { messages: 1, ..QueueLimits::default() };
    let mut scene = scene_with("me", limits).await;
    for number in 0..3 {
        scene.session.send(&numbered(number)).await;
    }
    scene.session.send(r#"{"type": "bye", "reason": "replaced"}"#).await;
    scene.bus_side.restart();
    scene.hang_up().await;
    let late = scene.client.send(&Outgoing::text("you", "x")).await;
    assert!(matches!(late, Err(SendError::Closed)), "{late:?}");
    assert_eq!(scene.client.closed(), Some(WhyLost::Replaced));
    assert_eq!(texts(&mut scene.inbox, 3).await, ["0", "1", "2"]);
    assert!(scene.inbox.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_overtakes_the_receipt_is_a_reply() {
    let mut scene = scene("me").await;
    let asking = ask(&scene.client);
    let mut connection = scene.bus_side.accept().await;
    let id = json(&mut connection).await["id"].as_str().unwrap().to_owned();
    scene.session.send(&reply(&id)).await;
    assert_eq!(asking.await.unwrap().unwrap(), "42");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_the_bus_never_answered_for_is_not_said_to_have_got_through() {
    let mut scene = scene("me").await;
    let asking = ask(&scene.client);
    let mut connection = scene.bus_side.accept().await;
    json(&mut connection).await;
    let outcome = asking.await.unwrap();
    assert!(matches!(outcome, Err(RequestError::Send(CallError::NoAnswer(_)))), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_reads_nothing_costs_a_sender_its_patience_and_little_more() {
    // With a full inbox as well: then the silence of the bus says nothing.
    for flood in [0, 10] {
        let limits = QueueLimits { messages: 1, ..QueueLimits::default() };
        let mut scene = scene_with("me", limits).await;
        for number in 0..flood {
            scene.session.send(&numbered(number)).await;
        }
        let client = scene.client.clone();
        let large = Outgoing::text("you", &"x".repeat(500_000));
        let began = Instant::now();
        let sending = tokio::spawn(async move { client.send(&large).await });
        tokio::time::sleep(Duration::from_millis(10)).await;
        let small = scene.client.send(&Outgoing::text("you", "small")).await;
        assert!(matches!(small, Err(SendError::NotTaken(_))), "{small:?}");
        assert!(began.elapsed() < Duration::from_secs(6), "after {:?}", began.elapsed());
        // The large one is partly in the socket: the session is given up for it.
        let large = timeout(LONG, sending).await.expect("it ends").unwrap();
        assert!(matches!(large, Err(SendError::NotTaken(_))), "{large:?}");
        assert!(began.elapsed() < Duration::from_secs(30), "after {:?}", began.elapsed());
        let Event::Disconnected { why: WhyLost::Silent(_) } = scene.event().await else { panic!() };
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_by_bytes_alone_ends_as_well() {
    let limits = QueueLimits { messages: 2, bytes: 1_000, ..QueueLimits::default() };
    let mut scene = scene_with("me", limits).await;
    let asking = ask(&scene.client);
    let id = take_request(&mut scene.bus_side).await;
    for number in 0..100 {
        scene.session.send(&numbered(number)).await;
    }
    scene.session.send(&reply(&id)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(scene.inbox.len() > 2 && scene.inbox.len() < 50, "{}", scene.inbox.len());
    let began = Instant::now();
    // Room by bytes, but never by count.
    for _ in 0..100 {
        while scene.inbox.len() > 3 && scene.inbox.try_next().is_some() {}
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(asking.await.unwrap().unwrap(), "42");
    assert!(began.elapsed() < Duration::from_secs(1), "after {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_registration_answered_too_late_is_not_taken_for_somebody_elses() {
    let mut scene = scene("me").await;
    scene.hang_up().await;
    // The bus takes the name, and answers when nobody waits for it any more.
    let mut late = scene.bus_side.accept().await;
    list(&mut late, "{}").await;
    assert_eq!(json(&mut late).await["type"], "register");
    assert!(timeout(LONG, late.receive()).await.expect("it gives up").is_none());
    let mut again = scene.bus_side.accept().await;
    list(&mut again, r#"{"me": "session-2"}"#).await;
    let mut session = scene.bus_side.accept().await;
    list(&mut session, "{}").await;
    session.welcome("session-3").await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(scene.client.session_id().as_deref(), Some("session-3"));
}

#[tokio::test(start_paused = true)]
async fn times_that_no_clock_can_hold_are_for_ever_or_as_short_as_possible() {
    let (transport, mut bus_side) = memory::bus();
    let bus = Bus::on(transport).patience(Duration::MAX);
    let connecting = tokio::spawn(bus.client("me").ping_every(Duration::ZERO).connect());
    let mut session = bus_side.accept().await;
    session.welcome("session-1").await;
    let (client, _inbox) = connecting.await.unwrap().unwrap();
    client.send(&Outgoing::text("you", "hi")).await.unwrap();
    while json(&mut session).await["type"] == "ping" {
        session.send(r#"{"type": "pong"}"#).await;
    }
    let asking = tokio::spawn(async move {
        client.request(&Outgoing::text("you", "?").id("q"), Duration::MAX).await.unwrap().text()
    });
    drop(bus_side.accept().await);
    assert!(asking.await.is_err(), "a bus that closes is no reply");
}

#[test]
fn a_client_whose_runtime_ends_says_so() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut scene = runtime.block_on(scene("me"));
    let within = runtime.enter();
    let asking = ask(&scene.client);
    drop(within);
    runtime.shutdown_background();
    drop(asking);
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    other.block_on(async {
        timeout(LONG, scene.client.close()).await.expect("it has ended");
        assert!(scene.inbox.next().await.is_none());
        assert_eq!(scene.client.closed(), Some(WhyLost::RuntimeEnded));
        assert!(matches!(scene.event().await, Event::Closed { why: WhyLost::RuntimeEnded }));
    });
}

#[tokio::test(start_paused = true)]
async fn a_client_that_connects_later_is_there_when_the_bus_is() {
    let (transport, mut bus_side) = memory::bus();
    let (client, _inbox) = Bus::on(transport).client("patient").connect_later();
    let mut events = client.events();
    assert_eq!(client.session_id(), None);
    drop(bus_side.accept().await);
    assert!(matches!(
        timeout(LONG, events.next()).await.unwrap(),
        Some(Event::RetryFailed { attempts: 1, .. })
    ));
    let sending = tokio::spawn({
        let client = client.clone();
        async move { client.send(&Outgoing::text("x", "at last")).await }
    });
    let mut session = bus_side.accept().await;
    assert_eq!(session.welcome("session-1").await, "patient");
    let began = Event::Reconnected { session_id: "session-1".to_owned() };
    assert_eq!(timeout(LONG, events.next()).await.unwrap(), Some(began));
    assert!(session.receive().await.unwrap().contains("at last"));
    sending.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_taken_ends_a_polite_client_that_connects_later() {
    let (transport, mut bus_side) = memory::bus();
    let builder = Bus::on(transport).client("me").conflict(Conflict::Refuse);
    let (client, mut inbox) = builder.connect_later();
    list(&mut bus_side.accept().await, r#"{"me": "somebody"}"#).await;
    assert!(timeout(LONG, inbox.next()).await.unwrap().is_none());
    let why = client.closed();
    assert!(matches!(&why, Some(WhyLost::Refused { code, .. }) if code == "name_taken"), "{why:?}");
}
