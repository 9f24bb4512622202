//! `hermes-bus send` and `hermes-bus request`.

use std::process::ExitCode;

use hermes_bus::arguments::bus::{Compose, Place, Request, Send};
use hermes_bus::failure::{Failure, receipt_json};
use hermes_bus::screen::{harmless, harmless_line, say};
use hermes_bus::sender::sender_name;
use hermes_bus_client::{Bus, Conflict, ConnectError, Message, Status};

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
        Err(error) => return Err(Failure::calling(&error, bus, to).await.into()),
    };
    if place.json {
        say(&receipt_json(to, &receipt).to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let whom = match receipt.endpoints {
        Some(1) => "1 endpoint".to_owned(),
        Some(endpoints) => format!("{endpoints} endpoints"),
        None if to.is_empty() => "all endpoints".to_owned(),
        None => harmless_line(to),
    };
    let how_far = match receipt.status {
        Status::Delivered => "handed over to",
        Status::Accepted => "accepted for",
    };
    say(&format!("{how_far} {whom} (id {})", harmless_line(&receipt.id)))?;
    Ok(ExitCode::SUCCESS)
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
    let (client, inbox) = connecting.map_err(|error| {
        let advice = match error {
            ConnectError::NameTaken { .. } => ". Give another one with --from",
            _ => "",
        };
        let failure = Failure::connecting(&error, bus.start_policy());
        Failure { text: format!("{}{advice}", failure.text), ..failure }
    })?;
    // Nothing but the reply is of interest.
    drop(inbox);
    let replied = client.request(&message, arguments.timeout).await;
    client.close().await;
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
