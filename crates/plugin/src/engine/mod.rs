//! The engine of the receive side: a message, the state of the agent and the time go in, a list of actions comes out.
//!
//! It is pure: it opens nothing, starts nothing, sends nothing and reads no clock. Who uses it carries the actions out
//! (see [`crate::sinks`]) and confirms a message to the bus when all actions that name its ticket have succeeded.
//!
//! - [`rulebook`]: what `bus-rules.yaml` says about messages; `conditions`: for which a rule is.
//! - [`incoming`]: a message as rules see it.
//! - [`template`]: what it looks like; [`context`]: as a model reads it; [`clean`]: without what could steer a terminal.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;

pub mod clean;
mod conditions;
pub mod context;
pub mod incoming;
mod pace;
pub mod rulebook;
mod strftime;
pub mod template;
mod yaml;

pub use conditions::{AgentState, Mismatch};
pub use context::Piece;
pub use incoming::{Attested, Incoming};
pub use rulebook::{Remark, Rule, Rulebook};
pub use template::{Mode, Rendering, Script};

use pace::Pace;
use template::render;

/// Names a message between its arrival and its end. Chosen by the caller.
pub type Ticket = u64;

/// The time, as the engine is told it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Now {
    /// Seconds since 1970, for what is shown.
    pub unix_s: f64,
    /// Since some moment in the past, never going back, for what is measured.
    pub uptime: Duration,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Show it on the screen, or in the chat of `channel` where somebody can.
    Print(Print),
    /// Put it into the model's context.
    Context(Context),
    /// Run a command.
    Command(Command),
}

/// Text for the screen.
#[derive(Clone, Debug, PartialEq)]
pub struct Print {
    /// What to show.
    pub rendering: Rendering,
    /// The chat that it belongs to, as `platform:chat_id`; empty for none.
    pub channel: String,
}

/// Text for a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Context {
    /// One part for each message, oldest first.
    pub pieces: Vec<Piece>,
    /// The chat that all of them belong to; empty for none. Messages of different chats are never together.
    pub channel: String,
}

/// A command for a shell.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// What the shell is given.
    pub command: String,
    /// Variables that tell it of the message. One without a value is to be unset.
    pub variables: Vec<(&'static str, Option<String>)>,
    /// The message as JSON, for its standard input.
    pub input: String,
    /// How long it may run.
    pub timeout: Duration,
}

/// An action, and the messages for which it is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// The messages that are not done before it has succeeded.
    pub tickets: Vec<Ticket>,
    /// What to do.
    pub action: Action,
}

/// What comes of a message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What to do now, in this order. Some of it may be for earlier messages.
    pub actions: Vec<Planned>,
    /// How many more actions there will be for this message later, because it waits to be merged with others.
    pub waits: usize,
    /// The lines of the rules whose rate limit left it out.
    pub left_out_by: Vec<u64>,
}

/// What a rule says to a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Its place among the rules, from 0.
    pub index: usize,
    /// Why it is not for the message; `None` if it is.
    pub mismatch: Option<Mismatch>,
}

/// Most bytes of text that wait to be merged, and most messages: what reaches one of them waits no longer.
const MERGED_BYTES_MAX: usize = 64 * 1024;
const MERGED_MESSAGES_MAX: usize = 100;

/// The longest value of a variable, in bytes. Linux takes 128 KiB.
const VARIABLE_BYTES_MAX: usize = 100 * 1024;

/// Messages that wait to be merged.
#[derive(Debug)]
struct Waiting {
    since: Duration,
    window: Duration,
    bytes: usize,
    tickets: Vec<Ticket>,
    pieces: Vec<Piece>,
}

/// The rules at work.
#[derive(Debug)]
pub struct Engine {
    rules: Arc<Rulebook>,
    zone: TimeZone,
    /// By the rule's place.
    paces: HashMap<usize, Pace>,
    /// By the rule's place and the channel.
    waiting: HashMap<(usize, String), Waiting>,
}

impl Engine {
    /// An engine with these rules. Moments are shown in `zone`.
    pub fn new(rules: Arc<Rulebook>, zone: TimeZone) -> Self {
        Engine { rules, zone, paces: HashMap::new(), waiting: HashMap::new() }
    }

    /// The rules.
    pub fn rules(&self) -> &Rulebook {
        &self.rules
    }

    /// Other rules from now on. What waited to be merged under the old ones is to be done now.
    pub fn replace(&mut self, rules: Arc<Rulebook>) -> Vec<Planned> {
        let actions = self.flush();
        self.rules = rules;
        self.paces.clear();
        actions
    }

    /// What is to be done for a message. A message whose plan is empty and does not wait is done.
    pub fn take(
        &mut self,
        ticket: Ticket,
        message: &Incoming,
        state: AgentState,
        now: Now,
    ) -> Plan {
        let mut plan = Plan::default();
        if matches!(message.kind.as_str(), "ping" | "pong") {
            return plan;
        }
        let rules = Arc::clone(&self.rules);
        let mut is_for_some_rule = false;
        for (index, rule) in rules.rules.iter().enumerate() {
            if rule.conditions.mismatch(message, state).is_some() {
                continue;
            }
            is_for_some_rule = true;
            // What comes again was let through before, and is not done yet.
            let limit = rule.rate_limit.filter(|_| message.delivery == 1);
            let passes = limit
                .is_none_or(|limit| self.paces.entry(index).or_default().passes(limit, now.uptime));
            if passes {
                self.act(index, rule, ticket, message, now, &mut plan);
            } else {
                plan.left_out_by.push(rule.line);
            }
            if !rule.goes_on {
                break;
            }
        }
        if !is_for_some_rule {
            let action = self.print("{text}", message, now);
            plan.actions.push(Planned { tickets: vec![ticket], action });
        }
        plan
    }

    fn act(
        &mut self,
        index: usize,
        rule: &Rule,
        ticket: Ticket,
        message: &Incoming,
        now: Now,
        plan: &mut Plan,
    ) {
        let planned = |action| Planned { tickets: vec![ticket], action };
        if rule.context {
            let arrived = rule.merge.and_then(|_| context::moment(now.unix_s, &self.zone));
            let rendering =
                render(&rule.context_format, message, Mode::Context, now.unix_s, &self.zone);
            let piece = Piece::new(message, rendering, rule.context_bytes_max, arrived.as_deref());
            match rule.merge {
                Some(window) => {
                    let full = self.wait(index, window, ticket, message, piece, now);
                    plan.waits += usize::from(full.is_none());
                    plan.actions.extend(full);
                }
                None => {
                    let (pieces, channel) = (vec![piece], message.channel.clone());
                    plan.actions.push(planned(Action::Context(Context { pieces, channel })));
                }
            }
        } else if rule.print {
            plan.actions.push(planned(self.print(&rule.print_format, message, now)));
        }
        if let Some(command) = &rule.command {
            plan.actions.push(planned(Action::Command(Command {
                command: command.clone(),
                variables: variables(message, now),
                input: format!("{}\n", message.json),
                timeout: rule.timeout,
            })));
        }
    }

    fn print(&self, format: &str, message: &Incoming, now: Now) -> Action {
        let rendering = render(format, message, Mode::Print, now.unix_s, &self.zone);
        Action::Print(Print { rendering, channel: message.channel.clone() })
    }

    /// Has a piece wait for others. Gives all that wait if that is enough.
    fn wait(
        &mut self,
        index: usize,
        window: Duration,
        ticket: Ticket,
        message: &Incoming,
        piece: Piece,
        now: Now,
    ) -> Option<Planned> {
        let key = (index, message.channel.clone());
        let waiting = self.waiting.entry(key.clone()).or_insert_with(|| Waiting {
            since: now.uptime,
            window,
            bytes: 0,
            tickets: Vec::new(),
            pieces: Vec::new(),
        });
        waiting.bytes += piece.rendering.rendered.as_str().len().min(piece.bytes_max);
        waiting.tickets.push(ticket);
        waiting.pieces.push(piece);
        let is_full =
            waiting.bytes >= MERGED_BYTES_MAX || waiting.pieces.len() >= MERGED_MESSAGES_MAX;
        if is_full { self.merged(&key) } else { None }
    }

    fn merged(&mut self, key: &(usize, String)) -> Option<Planned> {
        let Waiting { tickets, pieces, .. } = self.waiting.remove(key)?;
        let action = Action::Context(Context { pieces, channel: key.1.clone() });
        Some(Planned { tickets, action })
    }

    /// When [`Engine::due`] has something to do next, if nothing comes before.
    pub fn next_due(&self) -> Option<Duration> {
        self.waiting.values().map(|waiting| waiting.since + waiting.window).min()
    }

    /// What has waited long enough.
    pub fn due(&mut self, now: Now) -> Vec<Planned> {
        self.release(|waiting| waiting.since + waiting.window <= now.uptime)
    }

    /// All that waits.
    pub fn flush(&mut self) -> Vec<Planned> {
        self.release(|_| true)
    }

    fn release(&mut self, is_due: impl Fn(&Waiting) -> bool) -> Vec<Planned> {
        let due = self.waiting.iter().filter(|(_, waiting)| is_due(waiting));
        let mut keys: Vec<_> =
            due.map(|(key, waiting)| (waiting.tickets.first().copied(), key.clone())).collect();
        keys.sort_unstable();
        keys.iter().filter_map(|(_, key)| self.merged(key)).collect()
    }

    /// What each rule says to a message, in their order, up to the one that has the last word. Changes nothing.
    pub fn explain(&self, message: &Incoming, state: AgentState) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for (index, rule) in self.rules.rules.iter().enumerate() {
            let mismatch = rule.conditions.mismatch(message, state);
            let is_last = mismatch.is_none() && !rule.goes_on;
            verdicts.push(Verdict { index, mismatch });
            if is_last {
                break;
            }
        }
        verdicts
    }
}

/// The documented variables of a command, and some more. One that no environment can hold is left out; all of the
/// message is on standard input.
fn variables(message: &Incoming, now: Now) -> Vec<(&'static str, Option<String>)> {
    let ts = message.ts_text.clone().unwrap_or_else(|| now.unix_s.to_string());
    let variables = [
        ("MESSAGE", message.json.clone()),
        ("TYPE", message.body_type_text.clone()),
        // As released plugins say it.
        ("FROM", message.from.clone().unwrap_or_else(|| "unknown".to_owned())),
        ("CHANNEL", message.channel.clone()),
        ("TEXT", message.text.clone()),
        ("TS", ts),
        ("ID", message.id.clone()),
        ("SENDER", message.attested_endpoint().to_owned()),
        ("VIA", message.via.clone()),
        ("DELIVERY", message.delivery.to_string()),
    ];
    let fits = |value: &String| value.len() <= VARIABLE_BYTES_MAX && !value.contains('\0');
    variables.into_iter().map(|(name, value)| (name, Some(value).filter(fits))).collect()
}

#[cfg(test)]
mod tests;
