//! The Rust client and the real server: restarts, kills and a removed socket, under traffic.

#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hermes_bus_client::{
    Bus, CallError, Client, Event, Events, Inbox, Message, Outgoing, Status, WhyLost, blocking,
    socket_in,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything here should take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A real server in a directory of its own. Ends with this value.
struct Server(Child);

impl Server {
    async fn start(directory: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hermes-bus-server"));
        command.arg("--root").arg(directory).env_remove("HERMES_HOME");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Server(command.spawn().unwrap());
        let answers = async {
            while Bus::at(socket_in(directory)).ping().await.is_err() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, answers).await.expect("the server answers");
        server
    }

    fn end(mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn bus_in(directory: &TempDir) -> Bus {
    Bus::at(socket_in(directory.path()))
}

/// Waits for the session after the one that ended.
async fn reconnected(events: &mut Events) {
    let coming_back = async {
        loop {
            match events.next().await.expect("the client lives on") {
                Event::Reconnected { .. } => return,
                Event::Disconnected { .. } | Event::RetryFailed { .. } | Event::Missed(_) => {}
                // What was sent before the receiver was there again.
                Event::Refused { code, .. } if code == "endpoint_not_found" => {}
                other => panic!("{other:?}"),
            }
        }
    };
    timeout(PATIENCE, coming_back).await.expect("the client comes back");
}

/// Waits for the next message, which must have this text.
async fn expect_text(inbox: &mut Inbox, text: &str) {
    let message = timeout(PATIENCE, inbox.next()).await.expect("a message comes");
    assert_eq!(message.expect("the client lives on").text().as_deref(), Some(text));
}

// ---- traffic ------------------------------------------------------------------------------------------

/// Sends numbered messages until it is told to stop; returns how many.
fn keep_sending(client: Client, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    tokio::spawn(async move {
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            let message = Outgoing::with("receiver", &number).unwrap();
            if client.send(&message).await.is_ok() {
                number += 1;
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        number
    })
}

/// Sends messages that each want an answer; returns the ids of those that were said to be handed
/// over.
fn keep_asking(bus: Bus, stop: Arc<AtomicBool>) -> JoinHandle<Vec<String>> {
    const WHILE_NOBODY_IS_THERE: [&str; 3] =
        ["endpoint_not_found", "receiver_gone", "shutting_down"];
    tokio::spawn(async move {
        let mut handed_over = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            match bus.send(&Outgoing::text("receiver", "one shot")).await {
                Ok(receipt) if receipt.status == Status::Delivered => handed_over.push(receipt.id),
                Ok(_) | Err(CallError::Closed | CallError::Connect(_)) => {}
                Err(CallError::Refused { code, .. })
                    if WHILE_NOBODY_IS_THERE.contains(&code.as_str()) => {}
                Err(error) => panic!("{error:?}"),
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        handed_over
    })
}

/// Hands on what arrives, whatever the reader does meanwhile.
fn keep_reading(mut inbox: Inbox) -> mpsc::UnboundedReceiver<Message> {
    let (sender, messages) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(message) = inbox.next().await {
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    messages
}

/// What has arrived of both kinds of traffic.
#[derive(Default)]
struct Seen {
    newest: Option<u64>,
    numbers: u64,
    one_shots: HashSet<String>,
}

impl Seen {
    /// Reads until the message with this id has come.
    async fn read_until(&mut self, id: &str, messages: &mut mpsc::UnboundedReceiver<Message>) {
        while self.read(messages).await != id {}
    }

    /// Reads until this many more numbers have come.
    async fn read_numbers(&mut self, more: u64, messages: &mut mpsc::UnboundedReceiver<Message>) {
        let enough = self.numbers + more;
        while self.numbers < enough {
            self.read(messages).await;
        }
    }

    /// Reads a message and returns its id.
    async fn read(&mut self, messages: &mut mpsc::UnboundedReceiver<Message>) -> String {
        let message = timeout(PATIENCE, messages.recv()).await.expect("traffic").unwrap();
        let id = message.id().expect("every message has an id").into_owned();
        if let Ok(number) = message.body::<u64>() {
            assert!(self.newest < Some(number), "{number} came after {:?}", self.newest);
            self.newest = Some(number);
            self.numbers += 1;
        } else if message.text().as_deref() == Some("one shot") {
            assert!(self.one_shots.insert(id.clone()), "a one-shot message came twice");
        }
        id
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_restarts_under_traffic_half_of_them_kills() {
    let directory = TempDir::new().unwrap();
    let mut server = Server::start(directory.path()).await;
    let (sender, _inbox) = bus_in(&directory).connect("sender").await.unwrap();
    let (receiver, inbox) = bus_in(&directory).connect("receiver").await.unwrap();
    let mut messages = keep_reading(inbox);
    let (mut sender_events, mut receiver_events) = (sender.events(), receiver.events());
    let stop = Arc::new(AtomicBool::new(false));
    let sending = keep_sending(sender.clone(), Arc::clone(&stop));
    let asking = keep_asking(bus_in(&directory), Arc::clone(&stop));

    let mut seen = Seen::default();
    for round in 0..50 {
        server.end(if round % 2 == 0 { Signal::KILL } else { Signal::TERM });
        server = Server::start(directory.path()).await;
        reconnected(&mut sender_events).await;
        reconnected(&mut receiver_events).await;
        // Traffic flows again: what is sent from now on arrives.
        let marker = format!("marker-{round}");
        sender.send(&Outgoing::text("receiver", "marker").id(&marker)).await.unwrap();
        seen.read_until(&marker, &mut messages).await;
        seen.read_numbers(100, &mut messages).await;
    }
    stop.store(true, Ordering::Relaxed);
    let sent = timeout(PATIENCE, sending).await.unwrap().unwrap();
    let handed_over = timeout(PATIENCE, asking).await.unwrap().unwrap();
    sender.send(&Outgoing::text("receiver", "last").id("last")).await.unwrap();
    seen.read_until("last", &mut messages).await;

    assert!(sent >= seen.numbers, "{} arrived of {sent}", seen.numbers);
    assert!(handed_over.len() > 50, "only {} were handed over", handed_over.len());
    let lost: Vec<_> = handed_over.iter().filter(|id| !seen.one_shots.contains(*id)).collect();
    assert!(lost.is_empty(), "said to be handed over, but never arrived: {lost:?}");
}

#[tokio::test]
async fn a_killed_server_leaves_what_it_had_handed_over() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path()).await;
    let (_receiver, mut inbox) = bus_in(&directory).connect("receiver").await.unwrap();
    let mut handed_over = 0;
    for number in 0..200 {
        let message = Outgoing::text("receiver", &number.to_string());
        let receipt = bus_in(&directory).send(&message).await.unwrap();
        handed_over += usize::from(receipt.status == Status::Delivered);
    }
    server.end(Signal::KILL);
    let _server = Server::start(directory.path()).await;
    assert!(handed_over > 0);
    for number in 0..handed_over {
        expect_text(&mut inbox, &number.to_string()).await;
    }
}

// ---- other bad days -------------------------------------------------------------------------------------

#[tokio::test]
async fn a_removed_socket_disturbs_nobody_and_comes_back() {
    let directory = TempDir::new().unwrap();
    let _server = Server::start(directory.path()).await;
    let bus = bus_in(&directory);
    let (client, mut inbox) = bus.connect("me").await.unwrap();
    let mut events = client.events();
    std::fs::remove_file(socket_in(directory.path())).unwrap();
    client.send(&Outgoing::text("me", "through the old connection")).await.unwrap();
    expect_text(&mut inbox, "through the old connection").await;
    let sending = async {
        while bus.send(&Outgoing::text("me", "through the new socket")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, sending).await.expect("the socket is there again");
    expect_text(&mut inbox, "through the new socket").await;
    assert_eq!(events.try_next(), None);
}

#[tokio::test]
async fn two_clients_never_fight_over_a_name() {
    let directory = TempDir::new().unwrap();
    let _server = Server::start(directory.path()).await;
    let (first, mut first_inbox) = bus_in(&directory).connect("me").await.unwrap();
    let (second, mut second_inbox) = bus_in(&directory).connect("me").await.unwrap();
    let mut events = second.events();
    assert!(timeout(PATIENCE, first_inbox.next()).await.expect("it ends").is_none());
    assert_eq!(first.closed(), Some(WhyLost::Replaced));
    second.send(&Outgoing::text("me", "mine")).await.unwrap();
    expect_text(&mut second_inbox, "mine").await;
    assert_eq!(events.try_next(), None);
}

#[tokio::test]
async fn a_request_is_answered_and_one_to_nobody_is_refused() {
    let directory = TempDir::new().unwrap();
    let _server = Server::start(directory.path()).await;
    let (answering, mut questions) = bus_in(&directory).connect("oracle").await.unwrap();
    tokio::spawn(async move {
        while let Some(question) = questions.next().await {
            answering.send(&question.reply("42").unwrap()).await.unwrap();
        }
    });
    let (asking, _inbox) = bus_in(&directory).connect("asking").await.unwrap();
    let reply = asking.request(&Outgoing::text("oracle", "?"), PATIENCE).await.unwrap();
    assert_eq!((reply.text().as_deref(), reply.from().as_deref()), (Some("42"), Some("oracle")));
    let refused = asking.request(&Outgoing::text("nobody", "?"), PATIENCE).await;
    assert!(refused.unwrap_err().to_string().contains("'nobody' is not connected"));
}

#[test]
fn the_blocking_client_sends_receives_and_ends() {
    let directory = TempDir::new().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _server = runtime.block_on(Server::start(directory.path()));
    let bus = blocking::Bus::new(bus_in(&directory)).unwrap();
    let mut listening = bus.connect("listening").unwrap();
    assert_eq!(bus.list().unwrap().endpoints.keys().collect::<Vec<_>>(), ["listening"]);
    assert!(bus.ping().unwrap() < PATIENCE);
    bus.send(&Outgoing::text("listening", "one")).unwrap();
    listening.send(&Outgoing::text("listening", "two")).unwrap();
    let texts: Vec<_> = listening.by_ref().take(2).map(|message| message.text()).collect();
    assert_eq!(texts, [Some("one".to_owned()), Some("two".to_owned())]);
    assert!(listening.next_within(Duration::from_millis(1)).is_none());
    let handle = listening.handle().clone();
    listening.close();
    assert_eq!(handle.closed(), Some(WhyLost::ByOwner));
}
