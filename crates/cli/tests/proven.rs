//! Level 2 between the Rust client and the real server: what a receipt says has happened, what is not
//! acknowledged comes again, and what is away gets what waited for it.

#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hermes_bus_client::{
    Acknowledge, Bus, Client, ClientBuilder, Conflict, ConnectError, Event, Inbox, Message,
    Outgoing, ReceiptError, Sighting, Status, Watch, WhyLost, blocking, socket_in,
};
use tempfile::TempDir;
use tokio::time::timeout;

/// Longer than anything here should take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A real server in a directory of its own. Ends with this value.
struct Server {
    child: Child,
    directory: TempDir,
}

impl Server {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let child = spawn(directory.path());
        let server = Server { child, directory };
        server.answers().await;
        server
    }

    async fn answers(&self) {
        let answers = async {
            while self.bus().ping().await.is_err() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, answers).await.expect("the server answers");
    }

    /// Kills it with -9, and starts another one in its place.
    async fn crash(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.directory.path());
        self.answers().await;
    }

    fn bus(&self) -> Bus {
        Bus::at(socket_in(self.directory.path())).patience(PATIENCE)
    }

    async fn client(&self, name: &str) -> (Client, Inbox) {
        self.bus().connect(name).await.unwrap()
    }

    async fn worker(&self, set: impl FnOnce(ClientBuilder) -> ClientBuilder) -> (Client, Inbox) {
        let builder = self.bus().client("worker").mailbox(true).acknowledge(Acknowledge::Explicit);
        set(builder).connect().await.unwrap()
    }
}

fn spawn(directory: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hermes-bus-server"));
    command.arg("--root").arg(directory).env_remove("HERMES_HOME");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn next(inbox: &mut Inbox) -> Message {
    timeout(PATIENCE, inbox.next()).await.expect("a message comes").expect("not the end")
}

async fn next_id(inbox: &mut Inbox) -> String {
    next(inbox).await.id().unwrap().into_owned()
}

fn numbered(to: &str, number: usize, status: Status) -> Outgoing {
    Outgoing::text(to, &number.to_string()).id(number.to_string()).receipt(status)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_waits_for_its_endpoint_and_acked_is_said_when_it_was() {
    let server = Server::start().await;
    let (worker, _inbox) = server.worker(|builder| builder).await;
    assert_eq!(worker.welcome().unwrap().protocol, 2);
    worker.close().await;
    let (lead, _lead_inbox) = server.client("lead").await;
    let mut outstanding = Vec::new();
    for number in 0..100 {
        outstanding.push(lead.submit(&numbered("worker", number, Status::Stored)).await.unwrap());
    }
    for receipt in outstanding {
        let receipt = timeout(PATIENCE, receipt).await.unwrap().unwrap();
        assert!(receipt.status >= Status::Stored, "{receipt:?}");
    }
    let acked = lead.submit(&numbered("worker", 100, Status::Acked)).await.unwrap();
    let (worker, mut inbox) = server.worker(|builder| builder).await;
    assert_eq!(worker.welcome().unwrap().mailbox_depth, 101);
    for number in 0..=100 {
        let message = next(&mut inbox).await;
        assert_eq!(message.id().unwrap(), number.to_string());
        assert_eq!(message.sender().unwrap().endpoint.as_deref(), Some("lead"));
        assert!(message.ack());
    }
    let receipt = timeout(PATIENCE, acked).await.unwrap().unwrap();
    assert_eq!((receipt.status, receipt.to.as_deref()), (Status::Acked, Some("worker")));
    worker.close().await;
    let (worker, _inbox) = server.worker(|builder| builder).await;
    assert_eq!(worker.welcome().unwrap().mailbox_depth, 0, "all of it was acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_acknowledged_comes_again_first_and_is_marked() {
    let server = Server::start().await;
    let (worker, mut inbox) = server.worker(|builder| builder).await;
    let (lead, _lead_inbox) = server.client("lead").await;
    for number in 0..5 {
        lead.send(&numbered("worker", number, Status::Stored)).await.unwrap();
    }
    for number in 0..5 {
        let message = next(&mut inbox).await;
        assert_eq!(message.delivery(), 1);
        if number % 2 == 0 {
            assert!(message.ack());
        }
    }
    worker.close().await;
    lead.send(&numbered("worker", 5, Status::Stored)).await.unwrap();
    let (_worker, mut inbox) = server.worker(|builder| builder).await;
    for (id, delivery) in [("1", 2), ("3", 2), ("5", 1)] {
        let message = next(&mut inbox).await;
        assert_eq!((message.id().as_deref(), message.delivery()), (Some(id), delivery));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_dead_and_what_is_given_back_comes_again() {
    let server = Server::start().await;
    let (_worker, mut inbox) = server.worker(|builder| builder).await;
    let (lead, _lead_inbox) = server.client("lead").await;
    let bad = lead.submit(&numbered("worker", 1, Status::Acked)).await.unwrap();
    assert!(next(&mut inbox).await.reject("no such task"));
    let outcome = timeout(PATIENCE, bad).await.unwrap();
    let Err(ReceiptError::Refused { code, detail, .. }) = &outcome else { panic!("{outcome:?}") };
    assert_eq!(code, "rejected");
    assert!(detail.contains("no such task"), "{detail}");
    let busy = lead.submit(&numbered("worker", 2, Status::Acked)).await.unwrap();
    assert!(next(&mut inbox).await.nack("busy"));
    let again = next(&mut inbox).await;
    assert_eq!((again.id().as_deref(), again.delivery()), (Some("2"), 2));
    assert!(again.is_repeated() && again.ack());
    timeout(PATIENCE, busy).await.unwrap().unwrap();
}

/// Every message gets its receipt in the end, each arrives, in its order, and what comes twice says
/// so: the sender tries again, the bus knows it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_costs_a_sender_that_retries_nothing() {
    const MESSAGES: usize = 300;
    let mut server = Server::start().await;
    let (worker, _) = server.worker(|builder| builder).await;
    worker.close().await;
    let (lead, _lead_inbox) = server.client("lead").await;
    // What is stored stands on disk behind what the bus is to remember of the worker.
    let first = lead.submit(&numbered("worker", 0, Status::Stored)).await.unwrap();
    timeout(PATIENCE, first).await.unwrap().unwrap();
    let until = Instant::now() + PATIENCE;
    let sender = lead.clone();
    let sending = tokio::spawn(async move {
        let mut outstanding = Vec::new();
        for number in 1..MESSAGES {
            let message = numbered("worker", number, Status::Stored).retry_until(until);
            outstanding.push(sender.submit(&message).await.unwrap());
        }
        outstanding
    });
    for _ in 0..3 {
        server.crash().await;
    }
    for receipt in sending.await.unwrap() {
        let id = receipt.id().to_owned();
        let receipt = receipt.await.unwrap_or_else(|error| panic!("message {id}: {error}"));
        assert!(receipt.status >= Status::Stored);
    }
    server.crash().await;
    let (_worker, mut inbox) = server.worker(|builder| builder).await;
    let (mut seen, mut expected) = (HashSet::new(), 0);
    while seen.len() < MESSAGES {
        let message = next(&mut inbox).await;
        let number: usize = message.id().unwrap().parse().unwrap();
        if seen.insert(number) {
            assert_eq!(number, expected, "messages changed places");
            expected += 1;
        } else {
            assert!(message.delivery() > 1, "message {number} came twice, unmarked");
        }
        assert!(message.ack());
    }
}

/// What is waited for when the bus is killed is answered behind that, or fails with that as the reason;
/// what a handler had not finished comes again, and what it gave back too.
#[tokio::test(flavor = "multi_thread")]
async fn receipts_and_handlers_live_through_a_crash() {
    let mut server = Server::start().await;
    let bus = server.bus();
    let worker = bus.client("worker").mailbox(true).acknowledge(Acknowledge::Automatic);
    let (worker, mut inbox) = worker.connect().await.unwrap();
    let (handled, mut tries) = tokio::sync::mpsc::unbounded_channel();
    let (go_on, may_go_on) = tokio::sync::watch::channel(false);
    let serving = tokio::spawn(async move {
        let handler = move |message: Message| {
            let (handled, mut may_go_on) = (handled.clone(), may_go_on.clone());
            async move {
                let id = message.id().unwrap().into_owned();
                handled.send((id.clone(), message.delivery())).unwrap();
                may_go_on.wait_for(|may| *may).await.unwrap();
                // The first try after the crash fails, too.
                if id == "1" && message.delivery() <= 2 { Err("not now") } else { Ok(()) }
            }
        };
        inbox.serve(handler).await;
    });
    let (lead, _lead_inbox) = server.client("lead").await;
    let until = Instant::now() + PATIENCE;
    let retried = numbered("worker", 1, Status::Acked).retry_until(until);
    let retried = lead.submit(&retried).await.unwrap();
    let once = lead.submit(&numbered("worker", 2, Status::Acked)).await.unwrap();
    drop(lead.submit(&numbered("worker", 3, Status::Acked).retry_until(until)).await.unwrap());
    // They are on disk, and somebody works on the first.
    drop(lead.submit(&numbered("worker", 4, Status::Stored)).await.unwrap());
    // Whoever is there may be said to have it before the disk does; what nobody gets is stored, with all before it.
    let (away, _away_inbox) = bus.client("away").mailbox(true).connect().await.unwrap();
    away.close().await;
    let stored = lead.submit(&numbered("away", 5, Status::Stored)).await.unwrap();
    assert_eq!(timeout(PATIENCE, stored).await.unwrap().unwrap().status, Status::Stored);
    let first = timeout(PATIENCE, tries.recv()).await.unwrap().unwrap();
    assert_eq!(first, ("1".to_owned(), 1));
    server.crash().await;
    let lost = timeout(PATIENCE, once).await.unwrap().unwrap_err();
    assert!(matches!(lost, ReceiptError::Unknown(_)), "{lost:?}");
    go_on.send(true).unwrap();
    let receipt = timeout(PATIENCE, retried).await.unwrap().unwrap();
    assert_eq!(receipt.status, Status::Acked);
    let mut deliveries = Vec::new();
    while !["2", "3", "4"].iter().all(|id| deliveries.iter().any(|(done, _)| done == id)) {
        deliveries.push(timeout(PATIENCE, tries.recv()).await.unwrap().unwrap());
    }
    assert!(deliveries.iter().all(|(id, delivery)| *id != "1" || *delivery > 1), "{deliveries:?}");
    worker.close().await;
    serving.await.unwrap();
    let (worker, _inbox) = server.worker(|builder| builder).await;
    assert_eq!(worker.welcome().unwrap().mailbox_depth, 0, "all of it was dealt with");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_refused_suffixed_or_taken_for_good() {
    let server = Server::start().await;
    let (first, _first_inbox) = server.client("me").await;
    let mut events = first.events();
    let refused = server.bus().client("me").conflict(Conflict::Refuse).connect().await;
    assert!(matches!(refused, Err(ConnectError::NameTaken { .. })), "{refused:?}");
    let suffix = || server.bus().client("me").conflict(Conflict::Suffix).connect();
    let ((second, _two), (third, _three)) = tokio::try_join!(suffix(), suffix()).unwrap();
    let names = HashSet::from([second.name(), third.name()]);
    assert_eq!(names, HashSet::from(["me-2", "me-3"]));
    let (_thief, _inbox) = server.client("me").await;
    let event = timeout(PATIENCE, events.next()).await.unwrap();
    assert_eq!(event, Some(Event::Closed { why: WhyLost::Replaced }));
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_reach_all_and_groups_one() {
    let server = Server::start().await;
    let (lead, mut lead_inbox) = server.client("lead").await;
    let mut workers = Vec::new();
    for name in ["w-1", "w-2"] {
        let builder = server.bus().client(name).acknowledge(Acknowledge::Automatic);
        workers.push(builder.groups(["workers"]).topics(["news.*"]).connect().await.unwrap());
    }
    let news = lead.submit(&numbered("#news.today", 1, Status::Acked)).await.unwrap();
    for (_, inbox) in &mut workers {
        let message = next(inbox).await;
        assert_eq!(message.via().as_deref(), Some("#news.today"));
        assert!(inbox.try_next().is_none(), "asking for the next acknowledges it");
    }
    let receipt = timeout(PATIENCE, news).await.unwrap().unwrap();
    assert_eq!((receipt.endpoints, receipt.failed), (Some(2), Some(0)));
    let job = lead.submit(&numbered("@workers", 2, Status::Delivered)).await.unwrap();
    let receipt = timeout(PATIENCE, job).await.unwrap().unwrap();
    let taken_by = receipt.to.unwrap();
    assert!(["w-1", "w-2"].contains(&taken_by.as_str()), "{taken_by}");
    let held = lead.subscribe(["news.>"]).await.unwrap();
    assert!(held.topics.contains("news.>"));
    lead.send(&numbered("#news.a.b", 3, Status::Accepted)).await.unwrap();
    assert_eq!(next_id(&mut lead_inbox).await, "3");
    assert!(lead.unsubscribe(["news.>"]).await.unwrap().topics.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_an_endpoint_come_and_a_trace_tells_of_a_message() {
    let server = Server::start().await;
    let (lead, _lead_inbox) = server.client("lead").await;
    let mut sightings = lead.watch(Watch { presence: true, ..Watch::default() }).await.unwrap();
    let (worker, _inbox) = server.worker(|builder| builder).await;
    let seen = timeout(PATIENCE, sightings.next()).await.unwrap();
    let Some(Sighting::Presence(presence)) = seen else { panic!("{seen:?}") };
    assert_eq!((presence.endpoint.as_str(), presence.is_online), ("worker", true));
    assert_eq!(Some(presence.session_id), worker.session_id());
    let stored = lead.submit(&numbered("worker", 7, Status::Stored)).await.unwrap();
    let receipt = timeout(PATIENCE, stored).await.unwrap().unwrap();
    let trace = lead.trace("7").await.unwrap();
    let words: Vec<&str> = trace.states.iter().map(|state| state.state.as_str()).collect();
    let how_far = receipt.status.as_str();
    assert!(words.contains(&"accepted") && words.contains(&how_far), "{how_far}: {words:?}");
    assert!(lead.trace("8").await.unwrap().states.is_empty());
}

#[test]
fn programs_without_a_runtime_can_do_it_too() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(Server::start());
    let builder = server.bus().client("worker").acknowledge(Acknowledge::Explicit);
    let mut worker = blocking::Client::connect(builder).unwrap();
    let bus = blocking::Bus::new(server.bus()).unwrap();
    let lead = bus.connect("lead").unwrap();
    let outstanding = lead.submit(&numbered("worker", 1, Status::Acked)).unwrap();
    assert!(worker.next_within(PATIENCE).unwrap().ack());
    let receipt = lead.wait(outstanding, PATIENCE).expect("in time").unwrap();
    assert_eq!(receipt.status, Status::Acked);
    let held = worker.join(["@g"]).unwrap();
    assert!(held.groups.contains("g"));
    let receipt = bus.send(&numbered("@g", 2, Status::Delivered)).unwrap();
    assert_eq!(receipt.to.as_deref(), Some("worker"));
}
