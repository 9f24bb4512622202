//! The receive side for any program: messages come in from the bus, the engine says what is to be done, and it is done.
//!
//! Invariant: a message is acknowledged when everything that its rules say has succeeded, and not before. One of which
//! something failed is given back, and comes again as the bus says; what has succeeded of it is then not done twice, as
//! long as this process lives.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hermes_bus_client::{Client, Event, Inbox as Messages, Message, WhyLost};
use jiff::tz::TimeZone;
use tokio::time::{Instant, sleep, sleep_until};

use crate::engine::clean::one_line;
use crate::engine::{
    Action, Attested, Command, Context, Engine, Incoming, Now, Plan, Planned, Print, Ticket,
};
use crate::rules_file::{Change, RulesFile};
use crate::sinks::inbox::{Inbox, Kept, Origin};
use crate::sinks::{command, script};

mod memory;

use memory::Memory;

/// How often it is looked whether the rules have changed, beside at each message.
const REFRESH_EVERY: Duration = Duration::from_secs(2);

/// How long to wait before something is tried again that only others can mend: a full inbox, a full disk.
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// Most bytes of a message on the screen (64 KiB).
pub const PRINT_BYTES_MAX: usize = 64 * 1024;

/// Where people look.
pub trait Screen {
    /// Shows a message. `text` has no escapes but those of the template's own colours.
    fn print(&mut self, text: &str, message: &Origin) -> io::Result<()>;
    /// Says something about the agent itself, on one line.
    fn note(&mut self, line: &str);
    /// Something has happened to the session.
    fn event(&mut self, event: &Event);
}

/// Why an agent has ended.
#[derive(Debug)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// The bus has closed its session for good.
    Closed(WhyLost),
    /// Nobody can be shown anything any more.
    Screen(io::Error),
}

/// A message that is not done.
struct Open {
    message: Message,
    origin: Origin,
    fingerprint: u64,
    delivery: u64,
    /// Actions that are still to be done.
    left: usize,
    failed: Option<String>,
}

/// An agent that has its name.
pub struct Agent<S> {
    client: Client,
    file: RulesFile,
    engine: Engine,
    inbox: Inbox,
    screen: S,
    open: HashMap<Ticket, Open>,
    memory: Memory,
    tickets: Ticket,
    /// Messages that a rule's rate has left out, by its line.
    left_out: HashMap<u64, u64>,
    began: Instant,
}

impl<S: Screen> Agent<S> {
    /// An agent with the rules of a file that has been read, whose contexts go into `inbox`.
    pub fn new(client: Client, file: RulesFile, inbox: Inbox, screen: S) -> Self {
        let engine = Engine::new(file.rules(), TimeZone::system());
        Agent {
            client,
            file,
            engine,
            inbox,
            screen,
            open: HashMap::new(),
            memory: Memory::default(),
            tickets: 0,
            left_out: HashMap::new(),
            began: Instant::now(),
        }
    }

    /// Works until `stop` is done or the session has ended for good. What is not done then comes again.
    pub async fn run(&mut self, messages: Messages, stop: impl Future<Output = ()>) -> Ended {
        tokio::select! {
            ended = self.work(messages) => ended.unwrap_or_else(Ended::Screen),
            () = stop => Ended::Stopped,
        }
    }

    async fn work(&mut self, mut messages: Messages) -> io::Result<Ended> {
        let mut events = self.client.events();
        let mut look = Instant::now() + REFRESH_EVERY;
        loop {
            let due = self.engine.next_due().map(|uptime| self.began + uptime);
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => {
                        self.refresh().await?;
                        self.take(message).await?;
                    }
                    None => {
                        let why = self.client.closed().unwrap_or(WhyLost::ConnectionClosed);
                        return Ok(Ended::Closed(why));
                    }
                },
                event = events.next() => match event {
                    Some(event) => self.screen.event(&event),
                    // The messages end as well.
                    None => sleep(RETRY_EVERY).await,
                },
                () = sleep_until(due.unwrap_or(look)), if due.is_some() => {
                    let now = self.now();
                    let actions = self.engine.due(now);
                    self.carry_out(actions, None).await?;
                }
                () = sleep_until(look) => {
                    look = Instant::now() + REFRESH_EVERY;
                    self.refresh().await?;
                }
            }
        }
    }

    /// Takes changed rules over, or says what is wrong with them.
    async fn refresh(&mut self) -> io::Result<()> {
        let path = self.file.path().map(|path| path.display().to_string()).unwrap_or_default();
        let rules = match self.file.refresh() {
            Change::None => return Ok(()),
            Change::Bad(bad) => {
                for line in bad.lines() {
                    self.screen.note(&line);
                }
                self.screen.note(&format!("{path}: not taken over; the rules stay as they were"));
                return Ok(());
            }
            Change::Gone(rules) => {
                self.screen
                    .note(&format!("{path} is gone, and its rules with it: everything is printed"));
                rules
            }
            Change::Rules(rules) => {
                for warning in self.file.warnings() {
                    self.screen.note(&format!("warning: {warning}"));
                }
                let count = rules.rules.len();
                let rules_text = if count == 1 { "rule" } else { "rules" };
                self.screen.note(&format!("{path}: taken over, {count} {rules_text}"));
                rules
            }
        };
        self.left_out.clear();
        let actions = self.engine.replace(rules);
        self.carry_out(actions, None).await
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { unix_s: unix.as_secs_f64(), uptime: self.began.elapsed() }
    }

    async fn take(&mut self, message: Message) -> io::Result<()> {
        let is_level_2 = self.client.welcome().is_none_or(|welcome| welcome.protocol >= 2);
        let attested = if is_level_2 { Attested::Yes } else { Attested::No };
        let incoming = Incoming::of(&message, attested);
        let fingerprint = incoming.fingerprint();
        if incoming.delivery > 1 && self.memory.is_complete(fingerprint) {
            message.ack();
            return Ok(());
        }
        self.tickets += 1;
        let (ticket, now) = (self.tickets, self.now());
        let plan = self.engine.take(ticket, &incoming, self.inbox.state(), now);
        self.tell_left_out(&plan);
        let own = plan.actions.iter().filter(|planned| planned.tickets.contains(&ticket)).count();
        let open = Open {
            message,
            origin: Origin::of(&incoming),
            fingerprint,
            delivery: incoming.delivery,
            left: own + plan.waits,
            failed: None,
        };
        let is_done = open.left == 0;
        self.open.insert(ticket, open);
        self.carry_out(plan.actions, Some(ticket)).await?;
        if is_done {
            self.settle(ticket);
        }
        Ok(())
    }

    /// One word for the first that is left out, and one for each further power of ten.
    fn tell_left_out(&mut self, plan: &Plan) {
        for line in &plan.left_out_by {
            let count = self.left_out.entry(*line).or_default();
            *count += 1;
            if count.ilog10() != (*count - 1).checked_ilog10().unwrap_or(u32::MAX) {
                let text =
                    format!("the rule in line {line} is over its rate: {count} left out so far");
                self.screen.note(&text);
            }
        }
    }

    /// Carries actions out. `newest`: the ticket whose actions may have been carried out before.
    async fn carry_out(&mut self, actions: Vec<Planned>, newest: Option<Ticket>) -> io::Result<()> {
        for (place, planned) in actions.into_iter().enumerate() {
            let Planned { tickets, action } = planned;
            let alone = newest.filter(|ticket| tickets == [*ticket]);
            let fingerprint = alone.and_then(|ticket| Some(self.open.get(&ticket)?.fingerprint));
            let mark = memory::mark(place, &action);
            let is_done =
                fingerprint.is_some_and(|fingerprint| self.memory.is_done(fingerprint, mark));
            let outcome = if is_done { Ok(()) } else { self.act(&tickets, action).await? };
            if let (Ok(()), Some(fingerprint)) = (&outcome, fingerprint) {
                self.memory.done(fingerprint, mark);
            }
            for ticket in tickets {
                self.finish(ticket, outcome.as_ref().err());
            }
        }
        Ok(())
    }

    /// One action less for a message.
    fn finish(&mut self, ticket: Ticket, failed: Option<&String>) {
        let Some(open) = self.open.get_mut(&ticket) else { return };
        open.left = open.left.saturating_sub(1);
        if let Some(reason) = failed {
            open.failed.get_or_insert_with(|| reason.clone());
        }
        if open.left == 0 {
            self.settle(ticket);
        }
    }

    fn settle(&mut self, ticket: Ticket) {
        let Some(open) = self.open.remove(&ticket) else { return };
        match open.failed {
            Some(reason) => _ = open.message.nack(&one_line(&reason, 1_000)),
            None => {
                self.memory.complete(open.fingerprint);
                open.message.ack();
            }
        }
    }

    // ---- actions ------------------------------------------------------------------------------------

    /// Carries one action out. The inner error is the action's, the outer one that of the screen.
    async fn act(&mut self, tickets: &[Ticket], action: Action) -> io::Result<Result<(), String>> {
        match action {
            Action::Print(print) => self.print(tickets, &print).await.map(Ok),
            Action::Context(context) => {
                self.keep(tickets, &context).await;
                Ok(Ok(()))
            }
            Action::Command(command) => Ok(self.execute(command).await),
        }
    }

    async fn print(&mut self, tickets: &[Ticket], print: &Print) -> io::Result<()> {
        let output = match &print.rendering.script {
            Some(script) => script::run(script).await,
            None => None,
        };
        let text = match output {
            Some(output) => crate::engine::template::script_for_terminal(&output, PRINT_BYTES_MAX),
            None => print.rendering.rendered.for_terminal(PRINT_BYTES_MAX),
        };
        match tickets.first().and_then(|ticket| self.open.get(ticket)) {
            Some(open) => self.screen.print(&text, &open.origin),
            None => Ok(()),
        }
    }

    /// Waits for as long as it takes: what is not kept stays with the bus.
    async fn keep(&mut self, tickets: &[Ticket], context: &Context) {
        let mut pieces = Vec::new();
        for piece in &context.pieces {
            let output = match &piece.rendering.script {
                Some(script) => script::run(script).await,
                None => None,
            };
            pieces.push((piece, output));
        }
        let open: Vec<&Open> = tickets.iter().filter_map(|ticket| self.open.get(ticket)).collect();
        let kept = Kept {
            pieces,
            channel: &context.channel,
            messages: open.iter().map(|open| open.origin.clone()).collect(),
            again: open.iter().any(|open| open.delivery > 1),
            now_s: self.now().unix_s,
        };
        let mut told = None;
        while let Err(error) = self.inbox.put(&kept) {
            let text = error.to_string();
            if told.as_ref() != Some(&text) {
                self.screen.note(&format!("{text}; messages wait until then"));
                told = Some(text);
            }
            sleep(RETRY_EVERY).await;
        }
    }

    async fn execute(&mut self, mut command: Command) -> Result<(), String> {
        // As the released plugin tells programs that are started beside it.
        let session = self.client.session_id().map(|id| id.chars().take(8).collect());
        command.variables.push(("HERMES_BUS_PLUGIN_ENDPOINT", Some(self.client.name().to_owned())));
        command.variables.push(("HERMES_BUS_PLUGIN_SID", session));
        command::run(&command).await.map_err(|error| {
            let text = error.to_string();
            self.screen.note(&format!("{text}; the message is given back"));
            text
        })
    }
}
