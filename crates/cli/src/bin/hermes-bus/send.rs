//! `hermes-bus send`, `hermes-bus publish` and `hermes-bus request`.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use hermes_bus::arguments::bus::{Body, Place, Publish, Request, Send, Wanted};
use hermes_bus::failure::{Failure, exit, is_success, receipt_json, receipt_words};
use hermes_bus::screen::{harmless, harmless_line, note, say};
use hermes_bus::sender::sender_name;
use hermes_bus_client::{Bus, Conflict, ConnectError, Message, Outgoing};

/// Who sends where nobody says otherwise.
const FALLBACK: &str = "hermes-bus";

/// How long the bus may take where nobody says otherwise: to say that it has a message, and to say
/// that it has come further.
const PATIENCE: Duration = Duration::from_secs(5);
const RECEIPT_PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn send(arguments: &Send, place: &Place, bus: &Bus) -> anyhow::Result<ExitCode> {
    let to = &arguments.compose.to;
    let mut message = compose(&arguments.compose.body, to)?;
    if arguments.queue {
        message = message.queue();
    }
    if let Some(id) = arguments.reply_to.as_ref().filter(|id| !id.is_empty()) {
        message = message.reply_to(id);
    }
    dispatch(message, arguments.from.as_deref(), &arguments.wanted, place, bus).await
}

pub(crate) async fn publish(
    arguments: &Publish,
    place: &Place,
    bus: &Bus,
) -> anyhow::Result<ExitCode> {
    let message = compose(&arguments.body, &arguments.topic)?;
    dispatch(message, arguments.from.as_deref(), &arguments.wanted, place, bus).await
}

/// Sends a message, and says how far it came.
async fn dispatch(
    message: Outgoing,
    from: Option<&str>,
    wanted: &Wanted,
    place: &Place,
    bus: &Bus,
) -> anyhow::Result<ExitCode> {
    let mut message = message.from(sender_name(from, None, FALLBACK)?);
    if let Some(state) = wanted.receipt {
        message = message.receipt(state);
    }
    if let Some(ttl) = wanted.ttl {
        message = message.ttl(ttl);
    }
    let id = message.ensure_id().to_owned();
    let to = message.to();
    let usual = if wanted.receipt.is_some() { RECEIPT_PATIENCE } else { PATIENCE };
    let bus = bus.clone().patience(wanted.timeout.unwrap_or(usual));
    let receipt = match (bus.send(&message).await, wanted.receipt) {
        (Ok(receipt), _) => receipt,
        (Err(error), Some(state)) => {
            return Err(Failure::receipting(&error, &bus, to, state, &id).await.into());
        }
        (Err(error), None) => return Err(Failure::sending(&error, &bus, to).await.into()),
    };
    let told = if place.json {
        say(&receipt_json(to, &receipt).to_string())
    } else {
        say(&format!("{} (id {})", receipt_words(to, &receipt), harmless_line(&receipt.id)))
    };
    // What was sent stays sent: a script that took a full disk for a failure would send it again.
    if let Err(error) = told
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        note(&format!("hermes-bus: the message was taken, but that cannot be printed: {error}"));
    }
    Ok(if is_success(&receipt) { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

pub(crate) async fn request(
    arguments: &Request,
    place: &Place,
    bus: &Bus,
) -> anyhow::Result<ExitCode> {
    let message = compose(&arguments.compose.body, &arguments.compose.to)?;
    let own = || format!("request-{}", std::process::id());
    let name = arguments.from.clone().filter(|name| !name.is_empty()).unwrap_or_else(own);
    let connecting = bus.client(name).conflict(Conflict::Refuse).connect().await;
    let (client, mut inbox) = connecting.map_err(|error| {
        let failure = Failure::connecting(&error, bus.start_policy());
        match error {
            ConnectError::NameTaken { .. } => failure.adding(". Give another one with --from"),
            _ => failure,
        }
    })?;
    let replied = client.request(&message, arguments.timeout).await;
    client.close().await;
    // A name that is known to others may get more than the reply.
    let mut others = 0;
    while inbox.try_next().is_some() {
        others += 1;
    }
    if others > 0 {
        let name = harmless_line(client.name());
        note(&format!("hermes-bus: {others} more came for '{name}' meanwhile and were not read"));
    }
    match replied {
        Ok(reply) => {
            say(&reply_line(&reply, place))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(Failure::requesting(&error, bus, &arguments.compose.to).await.into()),
    }
}

fn compose(body: &Body, to: &str) -> Result<Outgoing, Failure> {
    let message = body.content().compose(to)?;
    Ok(match body.id.as_ref().filter(|id| !id.is_empty()) {
        Some(id) => message.id(id),
        None => message,
    })
}

/// The text of a reply, or its body where it has none.
fn reply_line(reply: &Message, place: &Place) -> String {
    if place.json {
        return reply.json_line();
    }
    let text = reply.text().unwrap_or_else(|| reply.body_line());
    harmless(&text).into_owned()
}
