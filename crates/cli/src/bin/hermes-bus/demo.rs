//! `hermes-bus demo`: a short story of agents at work, over a real bus on a real socket.
//!
//! The server is the real one, in a process of its own (this program again), in a directory that
//! goes away. It ends, and removes the directory, when its standard input does: also when the demo
//! itself is killed. Every line that is printed was received; its latency is from just before the write at
//! the sender to just after the read at the receiver.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use hermes_bus_client::{Bus, CallError, Client, Inbox, Message, Outgoing};
use hermes_bus_daemon::config::Sources;
use hermes_bus_daemon::root::Root;
use hermes_bus_daemon::server::{self, Mode, Origin};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{sleep, timeout};

/// How long anything may take before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(5);
/// A pause for the reader between two scenes.
const PAUSE: Duration = Duration::from_millis(350);
/// Messages of the closing burst.
const BURST: usize = 10_000;
/// Where the text of a printed message begins. All lines fit into 80 columns.
const TEXT_AT: usize = 39;
/// Set in the process that serves the demo's bus.
const SERVE: &str = "HERMES_BUS_DEMO_ROOT";

/// What a listener saw.
struct Arrival {
    at: &'static str,
    message: Message,
    body: Value,
    when: Instant,
}

pub(crate) fn run() -> anyhow::Result<()> {
    if let Some(root) = std::env::var_os(SERVE) {
        return serve(root.as_ref());
    }
    let directory = tempfile::Builder::new().prefix("hermes-bus-demo-").tempdir()?;
    let root = Root::find(Some(directory.path()))?;
    let server = Server::start(&root)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let story = runtime.block_on(async {
        let mut story = Story::begin(&root).await?;
        story.play().await?;
        story.summary().await?;
        Ok::<_, anyhow::Error>(story)
    })?;
    server.stop()?;
    ensure!(!directory.path().exists(), "the demo's directory was not removed");
    story.farewell()
}

/// The demo's server, in the process that the demo has started.
fn serve(directory: &Path) -> anyhow::Result<()> {
    server::stop_at_end_of_input();
    let root = Root::find(Some(directory))?;
    // Nothing of what is set for the user's own bus.
    let sources = Sources::with_environment(&root, None, Vec::new(), Vec::new());
    let served = server::run(&root, Mode::Detached, Origin::New, sources);
    std::fs::remove_dir_all(directory).context("the demo's directory cannot be removed")?;
    served
}

// ---- the server-------------------------------------------------------------------------------------

/// The server's process. Ends with this value.
struct Server(Child);

impl Server {
    fn start(root: &Root) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        // The demo keeps to itself: nothing of it shows where other clients look.
        command.arg("demo").env(SERVE, root.directory()).env_remove("HERMES_HOME");
        command.env("HERMES_BUS_HOOKS", "none");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let mut server = Server(command.spawn().context("cannot start the bus")?);
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(root.socket()).is_err() {
            if let Some(status) = server.0.try_wait()? {
                bail!("the bus ended at once ({status})");
            }
            ensure!(Instant::now() < deadline, "the bus does not answer");
            thread::sleep(Duration::from_millis(2));
        }
        Ok(server)
    }

    fn stop(mut self) -> anyhow::Result<()> {
        drop(self.0.stdin.take());
        let status = self.0.wait()?;
        ensure!(status.success(), "the bus ended badly ({status})");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

// ---- the story --------------------------------------------------------------------------------------

struct Story {
    bus: Bus,
    agents: HashMap<&'static str, Client>,
    arrivals: UnboundedReceiver<Arrival>,
    /// Latencies of what was shown.
    latencies: Vec<Duration>,
    colors: bool,
}

const LEAD: &str = "lead-agent";
const ALPHA: &str = "worker-alpha";
const BETA: &str = "worker-beta";

impl Story {
    async fn begin(root: &Root) -> anyhow::Result<Self> {
        let colors = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let (sender, arrivals) = unbounded_channel();
        let mut story = Story {
            bus: Bus::at(root.socket()).patience(PATIENCE),
            agents: HashMap::new(),
            arrivals,
            latencies: Vec::new(),
            colors,
        };
        story.say(&format!("A private bus listens on {}", root.socket().display()))?;
        for name in [LEAD, ALPHA, BETA] {
            let (agent, inbox) = story.bus.connect(name).await?;
            let session = agent.session_id().context("a session that has just begun")?;
            story.say(&format!("{name} is connected (session {})", &session[..8]))?;
            story.agents.insert(name, agent);
            tokio::spawn(listen(name, inbox, sender.clone()));
        }
        Ok(story)
    }

    async fn play(&mut self) -> anyhow::Result<()> {
        self.scene("The lead hands out work")?;
        self.tell(LEAD, ALPHA, json!({"type": "directive", "text": "Port the parser to Rust"}))
            .await?;
        self.tell(
            LEAD,
            BETA,
            json!({"type": "directive", "text": "Write its tests", "priority": 2}),
        )
        .await?;
        self.scene("The workers answer, and report as they go")?;
        self.tell(ALPHA, LEAD, json!({"type": "ack", "text": "On it"})).await?;
        self.tell(BETA, LEAD, json!({"type": "ack", "text": "Starting with the edge cases"}))
            .await?;
        self.tell(ALPHA, LEAD, json!({"type": "progress", "text": "Lexer done, 3 of 5 stages"}))
            .await?;
        self.tell(BETA, ALPHA, json!({"type": "need_decision", "text": "Is NaN a number here?"}))
            .await?;
        self.tell(ALPHA, BETA, json!({"type": "ack", "text": "Yes: Python says so"})).await?;
        self.scene("A result, with the channel that a reply belongs to")?;
        let done = json!({
            "type": "task_done",
            "text": "Ported, 412 tests green",
            "channel": "feishu:oc_7f3a",
        });
        self.tell(ALPHA, LEAD, done).await?;
        self.scene("Somebody is asked who is not there")?;
        self.ask_absent("reviewer", &json!({"type": "directive", "text": "Please review"})).await?;
        self.scene("The lead tells everybody")?;
        self.tell_everybody(LEAD, json!({"type": "task_done", "text": "We ship. Thank you!"})).await
    }

    /// One message from one agent to another; shown when it has arrived.
    async fn tell(
        &mut self,
        from: &'static str,
        to: &'static str,
        body: Value,
    ) -> anyhow::Result<()> {
        let sent = self.send(from, to, &body).await?;
        let arrival = self.next_message().await?;
        ensure!(arrival.at == to, "a message for {to} arrived at {}", arrival.at);
        ensure!(arrival.body == body, "the body changed on its way");
        let sender = arrival.message.from();
        ensure!(sender.as_deref() == Some(from), "the bus did not say who sent it");
        self.show(&arrival, sent)?;
        sleep(PAUSE).await;
        Ok(())
    }

    async fn tell_everybody(&mut self, from: &'static str, body: Value) -> anyhow::Result<()> {
        let sent = self.send(from, "", &body).await?;
        for _ in 0..self.agents.len() {
            let arrival = self.next_message().await?;
            self.show(&arrival, sent)?;
        }
        Ok(())
    }

    /// A one-shot sender, as scripts use it: no name, one message, one answer.
    async fn ask_absent(&mut self, to: &str, body: &Value) -> anyhow::Result<()> {
        let message = Outgoing::with(to, body)?;
        let sent = Instant::now();
        match self.bus.send(&message).await {
            Err(CallError::Refused { code, .. }) => {
                self.line("a script", to, "refused", &code, sent.elapsed())?;
            }
            other => bail!("a message to nobody: {other:?}"),
        }
        sleep(PAUSE).await;
        Ok(())
    }

    async fn send(&mut self, from: &str, to: &str, body: &Value) -> anyhow::Result<Instant> {
        let agent = self.agents.get(from).context("an agent of the story")?;
        let message = Outgoing::with(to, body)?;
        let sent = Instant::now();
        agent.send(&message).await?;
        Ok(sent)
    }

    async fn next_message(&mut self) -> anyhow::Result<Arrival> {
        let arrival = timeout(PATIENCE, self.arrivals.recv()).await;
        arrival.context("a message did not arrive")?.context("the bus closed the connections")
    }

    /// Ends the story with figures, all measured just now.
    async fn summary(&mut self) -> anyhow::Result<()> {
        self.scene(&format!("And faster than one can read: {BURST} messages, {ALPHA} to {LEAD}"))?;
        let agent = self.agents.get(ALPHA).context("an agent of the story")?.clone();
        let began = Instant::now();
        let burst = tokio::spawn(async move {
            for number in 0..BURST {
                let body = json!({"type": "progress", "number": number});
                agent.send(&Outgoing::with(LEAD, &body)?).await?;
            }
            Ok::<_, anyhow::Error>(())
        });
        for number in 0..BURST {
            let arrival = self.next_message().await?;
            ensure!(arrival.body["number"] == number, "messages changed places");
        }
        let took = began.elapsed();
        burst.await??;
        self.latencies.sort();
        let median = self.latencies[self.latencies.len() / 2];
        let slowest = self.latencies.last().copied().unwrap_or_default();
        let rate = BURST as f64 / took.as_secs_f64();
        self.say(&format!(
            "{BURST} messages arrived in order in {:.0} ms: {:.0} thousand a second",
            took.as_secs_f64() * 1e3,
            rate / 1e3
        ))?;
        let shown = self.latencies.len();
        self.say(&format!(
            "Of the {shown} arrivals of the story: median latency {} µs, slowest {} µs",
            median.as_micros(),
            slowest.as_micros()
        ))
    }

    fn farewell(&self) -> anyhow::Result<()> {
        self.say("The bus is gone, and nothing of it is left.")?;
        self.say("Yours: `hermes-busd start`; the README says how to send and to listen.")
    }

    // ---- printing ---------------------------------------------------------------------------------

    fn show(&mut self, arrival: &Arrival, sent: Instant) -> anyhow::Result<()> {
        let latency = arrival.when.saturating_duration_since(sent);
        self.latencies.push(latency);
        let body = &arrival.body;
        let text = |key| body[key].as_str().unwrap_or_default();
        let from = arrival.message.from().unwrap_or_default();
        self.line(&from, arrival.at, text("type"), text("text"), latency)?;
        if let Some(channel) = body["channel"].as_str() {
            writeln!(std::io::stdout(), "{:TEXT_AT$}(a reply belongs to {channel})", "")?;
        }
        Ok(())
    }

    fn line(
        &self,
        from: &str,
        to: &str,
        kind: &str,
        text: &str,
        latency: Duration,
    ) -> anyhow::Result<()> {
        let (kind_color, dim, reset) = match (self.colors, kind) {
            (false, _) => ("", "", ""),
            (true, "refused") => ("\x1b[31m", "\x1b[2m", "\x1b[0m"),
            (true, "directive") => ("\x1b[36m", "\x1b[2m", "\x1b[0m"),
            (true, "task_done") => ("\x1b[32m", "\x1b[2m", "\x1b[0m"),
            (true, _) => ("\x1b[33m", "\x1b[2m", "\x1b[0m"),
        };
        let micros = latency.as_micros();
        writeln!(
            std::io::stdout(),
            "{dim}{micros:>5} µs{reset}  {from:>12} → {to:<12}  {kind_color}{kind}:{reset} {text}"
        )?;
        Ok(())
    }

    fn scene(&self, title: &str) -> anyhow::Result<()> {
        let (bold, reset) = if self.colors { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        writeln!(std::io::stdout(), "\n{bold}{title}{reset}")?;
        Ok(())
    }

    fn say(&self, text: &str) -> anyhow::Result<()> {
        writeln!(std::io::stdout(), "  {text}")?;
        Ok(())
    }
}

/// Hands on everything that arrives at an agent, until its session ends.
async fn listen(at: &'static str, mut inbox: Inbox, arrivals: UnboundedSender<Arrival>) {
    while let Some(message) = inbox.next().await {
        let when = Instant::now();
        let body = message.body().unwrap_or_default();
        if arrivals.send(Arrival { at, message, body, when }).is_err() {
            return;
        }
    }
}
