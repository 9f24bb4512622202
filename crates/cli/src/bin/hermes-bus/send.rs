//! `hermes-bus send` and `hermes-bus request`.

use std::io;
use std::process::ExitCode;

use hermes_bus::arguments::bus::{Compose, Place, Request, Send};
use hermes_bus::failure::{Failure, receipt_json};
use hermes_bus::screen::{harmless, harmless_line, note, say};
use hermes_bus::sender::sender_name;
use hermes_bus_client::{Bus, Conflict, ConnectError, Message, Receipt, Status};

/// Who sends where nobody says otherwise.
const FALLBACK: &str = "hermes-bus";

pub(crate) async fn send(arguments: &Send, place: &Place, bus: &Bus) -> anyhow::Result<ExitCode> {
    let to = &arguments.compose.to;
    let mut message = compose(&arguments.compose)?;
    message = message.from(sender_name(arguments.from.as_deref(), None, FALLBACK)?);
    if let Some(id) = arguments.reply_to.as_ref().filter(|id| !id.is_empty()) {
        message = message.reply_to(id);
    }
    let receipt = match bus.send(&message).await {
        Ok(receipt) => receipt,
        Err(error) => return Err(Failure::sending(&error, bus, to).await.into()),
    };
    let told = if place.json {
        say(&receipt_json(to, &receipt).to_string())
    } else {
        say(&receipt_line(to, &receipt))
    };
    // What was sent stays sent: a script that took a full disk for a failure would send it again.
    if let Err(error) = told
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        note(&format!("hermes-bus: the message was taken, but that cannot be printed: {error}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn receipt_line(to: &str, receipt: &Receipt) -> String {
    let whom = match receipt.endpoints {
        Some(1) => "1 endpoint".to_owned(),
        Some(endpoints) => format!("{endpoints} endpoints"),
        None if to.is_empty() => "all endpoints".to_owned(),
        None => harmless_line(to),
    };
    let how_far = match receipt.status {
        Status::Accepted => "accepted for",
        Status::Stored => "stored for",
        Status::Delivered => "handed over to",
        Status::Acked => "acknowledged by",
    };
    format!("{how_far} {whom} (id {})", harmless_line(&receipt.id))
}

pub(crate) async fn request(
    arguments: &Request,
    place: &Place,
    bus: &Bus,
) -> anyhow::Result<ExitCode> {
    let message = compose(&arguments.compose)?;
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

fn compose(compose: &Compose) -> Result<hermes_bus_client::Outgoing, Failure> {
    let message = compose.content().compose(&compose.to)?;
    Ok(match compose.id.as_ref().filter(|id| !id.is_empty()) {
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
