//! `hermes-bus mailbox`, `dead`, `history` and `group`: what the bus keeps, asked of the daemon with
//! `admin` requests, as any client can. None of them starts a bus.

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use hermes_bus::arguments::bus::{Dead, Group, History, Mailbox, Place, Which};
use hermes_bus::failure::Failure;
use hermes_bus::screen::{Palette, columns, date_and_time, harmless_line, note, say};
use hermes_bus_client::{Bus, CallError, Connection};
use hermes_bus_proto::object::elements;
use hermes_bus_proto::{Object, Raw};
use serde_json::{Map, Value, json};

use crate::listen::reader_is_gone;

/// How long the daemon may take for one answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Entries that are asked for at a time.
const PAGE: u64 = 200;
/// Messages of the past that are printed where nobody says how many.
const RECENT: u64 = 50;
/// How often new messages of the past are looked for.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

/// A connection to a daemon that can be asked for what it keeps.
struct Keeper<'a> {
    bus: &'a Bus,
    connection: Connection,
}

impl<'a> Keeper<'a> {
    /// Connects, and looks whether the daemon knows the operation.
    async fn find(bus: &'a Bus, op: &str) -> Result<Self, Failure> {
        let failure = |error: CallError| Failure::asking(&error, bus);
        let mut connection = bus.open().await.map_err(CallError::from).map_err(failure)?;
        let listing = connection.list(PATIENCE).await.map_err(failure)?;
        let ops = listing.server.map(|server| server.admin_ops).unwrap_or_default();
        if !ops.iter().any(|known| known == op) {
            return Err(Failure::too_old(bus, op));
        }
        Ok(Keeper { bus, connection })
    }

    async fn ask(&mut self, op: &str, arguments: Value) -> Result<Object, Failure> {
        let arguments = match arguments {
            Value::Object(arguments) => arguments,
            _ => Map::new(),
        };
        let arguments = arguments.into_iter().filter(|(_, value)| !value.is_null()).collect();
        let answer = self.connection.admin_raw(op, &arguments, PATIENCE).await;
        answer.map_err(|error| Failure::asking(&error, self.bus))
    }

    /// Entries of a paged answer, page after page, `limit` at most. `each` is called for every one.
    async fn pages(
        &mut self,
        op: &str,
        key: &str,
        arguments: Value,
        limit: Option<u64>,
        each: impl FnMut(&Object) -> anyhow::Result<()>,
    ) -> anyhow::Result<u64> {
        self.pages_seen(op, key, arguments, limit, |_| {}, each).await
    }

    /// The same; `page` is called for every answer, before its entries.
    async fn pages_seen(
        &mut self,
        op: &str,
        key: &str,
        mut arguments: Value,
        limit: Option<u64>,
        mut page: impl FnMut(&Object),
        mut each: impl FnMut(&Object) -> anyhow::Result<()>,
    ) -> anyhow::Result<u64> {
        let mut left = limit.unwrap_or(u64::MAX);
        let mut count = 0;
        while left > 0 {
            arguments["limit"] = left.min(PAGE).into();
            let answer = self.ask(op, arguments.clone()).await?;
            page(&answer);
            let entries = list(&answer, key)?;
            for entry in entries.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                each(entry)?;
                count += 1;
                left -= 1;
            }
            // A number or text, to be given back as it came.
            let next = answer.get("next").map(|next| serde_json::from_slice(next.as_bytes()));
            match next {
                Some(Ok(next)) if next != Value::Null && !entries.is_empty() => {
                    arguments["after"] = next;
                }
                _ => break,
            }
        }
        Ok(count)
    }
}

/// A list of objects in an answer.
fn list(answer: &Object, key: &str) -> Result<Vec<Object>, Failure> {
    let object = |raw: Raw<'_>| Object::scan(Bytes::copy_from_slice(raw.as_bytes())).ok();
    let entries = answer.get(key).and_then(elements);
    let entries = entries.and_then(|entries| entries.into_iter().map(object).collect());
    entries.ok_or_else(|| {
        Failure::new("unexpected", format!("the bus sent an answer without a list '{key}'"))
    })
}

// ---- mailboxes ------------------------------------------------------------------------------------

pub(crate) async fn mailbox(asked: &Mailbox, place: &Place, bus: &Bus) -> anyhow::Result<ExitCode> {
    match asked {
        Mailbox::List => list_mailboxes(place, bus).await?,
        Mailbox::Show { name, limit } => {
            let mut keeper = Keeper::find(bus, "mailbox.show").await?;
            let palette = Palette::new(place.color);
            let each = |entry: &Object| print(entry, place, |entry| waiting_line(entry, &palette));
            let arguments = json!({"endpoint": name});
            let shown = keeper.pages("mailbox.show", "messages", arguments, *limit, each).await?;
            if shown == 0 && !place.json {
                say(&format!("nothing waits for {}", harmless_line(name)))?;
            }
        }
        Mailbox::Drain { name, limit } => drain(name, *limit, place, bus).await?,
        Mailbox::Purge { name } => {
            let mut keeper = Keeper::find(bus, "mailbox.purge").await?;
            let answer = keeper.ask("mailbox.purge", json!({"endpoint": name})).await?;
            let (messages, bytes) = (number(&answer, "messages"), number(&answer, "bytes"));
            if place.json {
                say(&json!({"ok": true, "messages": messages, "bytes": bytes}).to_string())?;
            } else {
                let whom = harmless_line(name);
                say(&format!("{} for {whom} removed ({bytes} bytes)", counted(messages)))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list_mailboxes(place: &Place, bus: &Bus) -> anyhow::Result<()> {
    let mut keeper = Keeper::find(bus, "mailbox.list").await?;
    let mut mailboxes = Vec::new();
    let each = |mailbox: &Object| {
        mailboxes.push(mailbox.clone());
        Ok(())
    };
    keeper.pages("mailbox.list", "mailboxes", json!({}), None, each).await?;
    if place.json {
        return each_as_json(&mailboxes);
    }
    if mailboxes.is_empty() {
        return Ok(say("nothing waits for anybody")?);
    }
    let row = |mailbox: &Object| {
        let shown = |key| shown(mailbox, key);
        let oldest = moment(mailbox, "oldest_ts").unwrap_or_default();
        let state = state(mailbox).to_owned();
        vec![shown("endpoint"), state, shown("messages"), shown("bytes"), oldest]
    };
    table(["endpoint", "state", "messages", "bytes", "oldest"], mailboxes.iter().map(row), place)
}

/// Page after page: what is behind a page that cannot be printed any more stays. Every page begins
/// where the one before ended, for what a session holds stays in front of it.
async fn drain(name: &str, limit: Option<u64>, place: &Place, bus: &Bus) -> anyhow::Result<()> {
    let mut keeper = Keeper::find(bus, "mailbox.drain").await?;
    let palette = Palette::new(place.color);
    let each = |entry: &Object| print(entry, place, |entry| waiting_line(entry, &palette));
    let mut removed = 0;
    let page = |answer: &Object| removed += number(answer, "removed");
    let arguments = json!({"endpoint": name});
    let shown =
        keeper.pages_seen("mailbox.drain", "messages", arguments, limit, page, each).await?;
    let held = match shown.saturating_sub(removed) {
        0 => String::new(),
        held => format!("; {} in the hands of its session: left there", counted(held)),
    };
    note(&format!("hermes-bus: {} removed{held}", counted(removed)));
    Ok(())
}

/// `SEQ  DATE TIME  SENDER  TEXT`
fn waiting_line(entry: &Object, palette: &Palette) -> String {
    let when = moment(entry, "arrived_ts").or_else(|| moment(entry, "ts"));
    let when = palette.dim(&when.unwrap_or_default());
    let (seq, from) = (shown(entry, "seq"), palette.name(&shown(entry, "from")));
    let mut notes = Vec::new();
    if let Some(via) = entry.text("via") {
        notes.push(format!("via {}", harmless_line(&via)));
    }
    notes.extend(times_handed_over(entry));
    if let Some(expires) = moment(entry, "expires_ts") {
        notes.push(format!("until {expires}"));
    }
    let notes = if notes.is_empty() { String::new() } else { format!("  ({})", notes.join(", ")) };
    let text = text_of(entry).unwrap_or_default();
    format!("{seq}  {when}  {from}  {text}{}", palette.dim(&notes))
}

fn times_handed_over(entry: &Object) -> Option<String> {
    match number(entry, "deliveries") {
        0 => None,
        1 => Some("handed over once".to_owned()),
        deliveries => Some(format!("handed over {deliveries} times")),
    }
}

// ---- dead letters ---------------------------------------------------------------------------------

pub(crate) async fn dead(asked: &Dead, place: &Place, bus: &Bus) -> anyhow::Result<ExitCode> {
    match asked {
        Dead::List { name, limit } => {
            let mut keeper = Keeper::find(bus, "dead.list").await?;
            let arguments = json!({"endpoint": name});
            let mut letters = Vec::new();
            let each = |entry: &Object| {
                if place.json {
                    return Ok(say(&json_line(entry))?);
                }
                letters.push(dead_row(entry));
                Ok(())
            };
            let count = keeper.pages("dead.list", "dead", arguments, *limit, each).await?;
            if place.json {
            } else if count == 0 {
                say("there are no dead letters")?;
            } else {
                let heads = ["key", "endpoint", "from", "died", "reason"];
                table(heads, letters.into_iter(), place)?;
            }
        }
        Dead::Show { key } => {
            let mut keeper = Keeper::find(bus, "dead.show").await?;
            let answer = keeper.ask("dead.show", json!({"key": key})).await?;
            show_letter(&answer, place)?;
        }
        Dead::Retry(which) => return change(which, "dead.retry", "retried", place, bus).await,
        Dead::Drop(which) => return change(which, "dead.drop", "dropped", place, bus).await,
    }
    Ok(ExitCode::SUCCESS)
}

fn dead_row(entry: &Object) -> Vec<String> {
    let shown = |key| shown(entry, key);
    let died = moment(entry, "died_ts").unwrap_or_default();
    vec![shown("key"), shown("endpoint"), shown("from"), died, reason(entry)]
}

fn show_letter(letter: &Object, place: &Place) -> anyhow::Result<()> {
    if place.json {
        return Ok(say(&json_line(letter))?);
    }
    let palette = Palette::new(place.color);
    let shown = |key| shown(letter, key);
    let (from, to) = (palette.name(&shown("from")), palette.name(&shown("endpoint")));
    say(&format!("{}  {from} → {to}  {}", shown("key"), text_of(letter).unwrap_or_default()))?;
    let via = letter.text("via").map(|via| format!(" via {}", harmless_line(&via)));
    let handed_over = times_handed_over(letter).unwrap_or("never handed over".to_owned());
    let arrived = moment(letter, "arrived_ts").or_else(|| moment(letter, "ts")).unwrap_or_default();
    let died = moment(letter, "died_ts").unwrap_or_default();
    for (head, text) in [
        ("arrived", format!("{arrived}{}, {handed_over}", via.unwrap_or_default())),
        ("died", format!("{died}, {}", reason(letter))),
        ("id", shown("id")),
    ] {
        if !text.is_empty() {
            say(&format!("  {head}: {text}"))?;
        }
    }
    Ok(())
}

/// Why a message is a dead letter: `CODE: DETAIL`.
fn reason(letter: &Object) -> String {
    let (reason, detail) = (shown(letter, "reason"), shown(letter, "detail"));
    if detail.is_empty() { reason } else { format!("{reason}: {detail}") }
}

async fn change(
    which: &Which,
    op: &str,
    done: &str,
    place: &Place,
    bus: &Bus,
) -> anyhow::Result<ExitCode> {
    let arguments = match (&which.key, &which.endpoint) {
        (Some(key), _) => json!({"key": key}),
        (None, Some(endpoint)) => json!({"endpoint": endpoint}),
        (None, None) => json!({"all": true}),
    };
    let mut keeper = Keeper::find(bus, op).await?;
    let answer = keeper.ask(op, arguments).await?;
    let (count, refused) = (number(&answer, done), number(&answer, "refused"));
    let why = shown(&answer, "why");
    if place.json {
        let mut said = json!({"ok": refused == 0, done: count});
        if refused > 0 {
            said["refused"] = refused.into();
            said["why"] = why.into();
        }
        say(&said.to_string())?;
    } else {
        let letters = match count {
            1 => "1 dead letter".to_owned(),
            count => format!("{count} dead letters"),
        };
        say(&format!("{letters} {done}"))?;
        if refused > 0 {
            note(&format!("hermes-bus: {refused} not {done}, and kept: {why}"));
        }
    }
    // What was refused is as it was.
    Ok(if refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

// ---- the past -------------------------------------------------------------------------------------

pub(crate) async fn history(asked: &History, place: &Place, bus: &Bus) -> anyhow::Result<ExitCode> {
    const OP: &str = "history";
    let mut keeper = Keeper::find(bus, OP).await?;
    let palette = Palette::new(place.color);
    let History { search, from, to, since, until, limit, follow } = asked;
    let filter = json!({"search": search, "from": from, "to": to, "since": since, "until": until});
    // Without a beginning, the newest are wanted; they are printed in their order all the same.
    let limit = limit.or_else(|| since.is_none().then_some(RECENT));
    let mut arguments = filter.clone();
    arguments["order"] = if limit.is_some() { "newest" } else { "oldest" }.into();
    let mut followed = Followed::since(since.unwrap_or(0.0));
    let mut newest = Vec::new();
    let is_all = limit.is_none();
    let each = |entry: &Object| {
        if is_all {
            followed.is_new(entry);
            print(entry, place, |entry| past_line(entry, &palette))
        } else {
            newest.push(entry.clone());
            Ok(())
        }
    };
    let found = keeper.pages(OP, "entries", arguments, limit, each).await?;
    if found == 0 && !place.json && !follow {
        let advice =
            "what goes through is kept only where 'store.history' of the configuration says so";
        note(&format!("hermes-bus: nothing was found; {advice}"));
    }
    for entry in newest.iter().rev() {
        followed.is_new(entry);
        print(entry, place, |entry| past_line(entry, &palette))?;
    }
    if *follow {
        let following = async {
            loop {
                tokio::time::sleep(FOLLOW_EVERY).await;
                let mut arguments = filter.clone();
                arguments["order"] = "oldest".into();
                arguments["since"] = followed.last.into();
                let each = |entry: &Object| match followed.is_new(entry) {
                    true => print(entry, place, |entry| past_line(entry, &palette)),
                    false => Ok(()),
                };
                keeper.pages(OP, "entries", arguments, None, each).await?;
            }
        };
        tokio::select! {
            outcome = following => return outcome,
            () = reader_is_gone() => {}
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What has been printed, so that it is not printed again when the same moment is asked for once more.
struct Followed {
    /// Unix time of the last entry, in seconds.
    last: f64,
    /// The entries of that moment.
    at_last: HashSet<String>,
}

impl Followed {
    fn since(unix_s: f64) -> Self {
        Followed { last: unix_s, at_last: HashSet::new() }
    }

    fn is_new(&mut self, entry: &Object) -> bool {
        let ts = entry.get("ts").and_then(|ts| ts.finite_number()).unwrap_or(self.last);
        if ts < self.last {
            return false;
        }
        if ts > self.last {
            self.last = ts;
            self.at_last.clear();
        }
        self.at_last.insert(json_line(entry))
    }
}

/// `DATE TIME  SENDER → RECEIVER  OUTCOME  TEXT`
fn past_line(entry: &Object, palette: &Palette) -> String {
    let when = moment(entry, "ts").unwrap_or_default();
    let to = shown(entry, "to");
    let to = if to.is_empty() { "all".to_owned() } else { to };
    let (from, to) = (palette.name(&shown(entry, "from")), palette.name(&to));
    let what = text_of(entry).unwrap_or_else(|| format!("{} bytes", shown(entry, "bytes")));
    let outcome = palette.kind(&shown(entry, "outcome"));
    format!("{}  {from} → {to}  {outcome}  {what}", palette.dim(&when))
}

// ---- groups ---------------------------------------------------------------------------------------

pub(crate) async fn group(asked: &Group, place: &Place, bus: &Bus) -> anyhow::Result<ExitCode> {
    let mut keeper = Keeper::find(bus, "groups").await?;
    let wanted = match asked {
        Group::List => None,
        Group::Members { name } => Some(name.strip_prefix('@').unwrap_or(name)),
    };
    let answer = keeper.ask("groups", json!({"group": wanted})).await?;
    let groups = list(&answer, "groups")?;
    let members = |group: &Object| list(group, "members").unwrap_or_default();
    match wanted {
        None if place.json => each_as_json(&groups)?,
        None if groups.is_empty() => say("there are no groups")?,
        None => {
            let row = |group: &Object| {
                let names = members(group);
                let names = names.iter().map(|member| shown(member, "endpoint"));
                vec![shown(group, "group"), names.collect::<Vec<_>>().join(", ")]
            };
            table(["group", "members"], groups.iter().map(row), place)?;
        }
        Some(name) => {
            let members: Vec<Object> = groups.iter().flat_map(members).collect();
            if members.is_empty() {
                let text = format!("the group '{}' has no members", harmless_line(name));
                return Err(Failure::new("no_such_group", text).into());
            }
            if place.json {
                return each_as_json(&members).map(|()| ExitCode::SUCCESS);
            }
            let row = |member: &Object| {
                vec![shown(member, "endpoint"), state(member).to_owned(), shown(member, "load")]
            };
            table(["endpoint", "state", "load"], members.iter().map(row), place)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

// ---- printing -------------------------------------------------------------------------------------

/// Prints an entry as a line for people, or as JSON.
fn print(
    entry: &Object,
    place: &Place,
    line: impl FnOnce(&Object) -> String,
) -> anyhow::Result<()> {
    Ok(say(&if place.json { json_line(entry) } else { line(entry) })?)
}

fn each_as_json(entries: &[Object]) -> anyhow::Result<()> {
    entries.iter().try_for_each(|entry| Ok(say(&json_line(entry))?))
}

/// An object as it came, on one line.
fn json_line(object: &Object) -> String {
    String::from_utf8_lossy(object.as_bytes()).replace(['\n', '\r'], " ")
}

fn table<const N: usize>(
    heads: [&str; N],
    rows: impl Iterator<Item = Vec<String>>,
    place: &Place,
) -> anyhow::Result<()> {
    let palette = Palette::new(place.color);
    let heads = heads.map(str::to_owned).to_vec();
    let rows: Vec<_> = std::iter::once(heads).chain(rows).collect();
    for (number, line) in columns(&rows).into_iter().enumerate() {
        say(&if number == 0 { palette.dim(&line) } else { line })?;
    }
    Ok(())
}

/// A member on one line: text without its quotes, nothing for `null`.
fn shown(object: &Object, key: &str) -> String {
    let Some(value) = object.get(key) else { return String::new() };
    match value.text() {
        Ok(text) => harmless_line(&text),
        Err(_) if value.as_bytes() == b"null" => String::new(),
        Err(_) => harmless_line(&String::from_utf8_lossy(value.as_bytes())),
    }
}

/// A member that is a Unix time, as a local date and time.
fn moment(object: &Object, key: &str) -> Option<String> {
    date_and_time(object.get(key)?.finite_number()?)
}

fn number(object: &Object, key: &str) -> u64 {
    let number = object.get(key).and_then(|value| value.integer());
    number.and_then(|number| u64::try_from(number).ok()).unwrap_or(0)
}

fn is_true(object: &Object, key: &str) -> bool {
    object.get(key).is_some_and(|value| value.as_bytes() == b"true")
}

fn state(endpoint: &Object) -> &'static str {
    if is_true(endpoint, "online") { "online" } else { "away" }
}

/// The text of an entry's message, or its body where it has none. `None`: there is no message.
fn text_of(entry: &Object) -> Option<String> {
    let part = |object: &Object, key: &str| {
        let part = object.get(key)?;
        Object::scan(Bytes::copy_from_slice(part.as_bytes())).ok()
    };
    let message = part(entry, "message")?;
    let text = part(&message, "body").and_then(|body| Some(body.text("text")?.into_owned()));
    Some(text.map_or_else(|| shown(&message, "body"), |text| harmless_line(&text)))
}

fn counted(messages: u64) -> String {
    match messages {
        1 => "1 message".to_owned(),
        messages => format!("{messages} messages"),
    }
}
