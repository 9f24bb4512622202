//! `hermes-bus list`, `ping` and `version`: what there is. None of them starts a bus.

use std::process::ExitCode;
use std::time::Duration;

use hermes_bus::arguments::bus::Place;
use hermes_bus::failure::Failure;
use hermes_bus::screen::{Palette, harmless_line, say};
use hermes_bus_client::{Bus, CallError, Listing};
use hermes_bus_proto::listing::{EndpointDetails, EndpointState};
use serde_json::{Value, json};

/// How long the bus may take to answer a ping.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two pings.
const PAUSE: Duration = Duration::from_millis(200);

pub(crate) async fn list(place: &Place, bus: &Bus) -> anyhow::Result<ExitCode> {
    let listing = match bus.list().await {
        Ok(listing) => listing,
        Err(error) => return Err(Failure::asking(&error, bus).into()),
    };
    if place.json {
        say(&listing_json(&listing).to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    if listing.endpoints.is_empty() {
        say(&format!("no endpoint is connected to {}", bus.address()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let palette = Palette::new(place.color);
    for line in table(&listing, &palette) {
        say(&line)?;
    }
    if listing.truncated {
        say("(more endpoints than fit into one answer: the list is cut)")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One object: every endpoint, with as much as this bus says about it.
fn listing_json(listing: &Listing) -> Value {
    let endpoints: Vec<Value> = if listing.details.is_empty() {
        let names = listing.endpoints.iter();
        names.map(|(name, id)| json!({"endpoint": name, "session_id": id})).collect()
    } else {
        listing.details.iter().map(|details| json!(details)).collect()
    };
    let mut object = json!({"endpoints": endpoints, "truncated": listing.truncated});
    if let Some(server) = &listing.server {
        object["server"] = json!(server);
    }
    object
}

fn table(listing: &Listing, palette: &Palette) -> Vec<String> {
    let shown = |name: &str| harmless_line(name);
    let width = listing.endpoints.keys().map(|name| shown(name).chars().count()).max();
    let width = width.unwrap_or(0).clamp(8, 40);
    let padded = |name: &str| {
        let shown = shown(name);
        let padding = " ".repeat(width.saturating_sub(shown.chars().count()));
        format!("{}{padding}", palette.name(&shown))
    };
    if listing.details.is_empty() {
        let rows = listing.endpoints.iter();
        return rows.map(|(name, id)| format!("{}  session {id}", padded(name))).collect();
    }
    let mut rows = vec![palette.dim(&format!(
        "{:width$}  {:>8}  {:>10}  {:>10}  {:>8}  {:>8}",
        "endpoint", "pid", "sent", "received", "queued", "dropped"
    ))];
    // Those who are away stand in `mailbox list`.
    let is_there = |endpoint: &&EndpointDetails| endpoint.state == EndpointState::Online;
    let mut details: Vec<_> = listing.details.iter().filter(is_there).collect();
    details.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
    rows.extend(details.into_iter().map(|endpoint| {
        format!(
            "{}  {:>8}  {:>10}  {:>10}  {:>8}  {:>8}",
            padded(&endpoint.endpoint),
            endpoint.pid,
            endpoint.sent.total.messages,
            endpoint.received.total.messages,
            endpoint.pending.messages,
            endpoint.dropped,
        )
    }));
    rows
}

pub(crate) async fn ping(count: u32, place: &Place, bus: &Bus) -> anyhow::Result<ExitCode> {
    let connected = bus.open().await.map_err(CallError::from);
    let mut connection = match connected {
        Ok(connection) => connection,
        Err(error) => return Err(Failure::asking(&error, bus).into()),
    };
    for number in 1..=count {
        let took = match connection.ping(PATIENCE).await {
            Ok(took) => took,
            Err(error) => return Err(Failure::asking(&error, bus).into()),
        };
        let ms = took.as_secs_f64() * 1e3;
        if place.json {
            say(&json!({"ok": true, "ms": ms}).to_string())?;
        } else {
            say(&format!("{} answers in {ms:.3} ms", bus.address()))?;
        }
        if number < count {
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn version(place: &Place, bus: &Bus) -> anyhow::Result<ExitCode> {
    let own = env!("CARGO_PKG_VERSION");
    let running = match bus.list().await {
        Ok(listing) => Some(listing.server.map(|server| server.server)),
        Err(CallError::Connect(_)) => None,
        Err(error) => return Err(Failure::asking(&error, bus).into()),
    };
    if place.json {
        let object = json!({
            "version": own,
            "running": running.is_some(),
            "bus": running.flatten(),
            "socket": bus.address(),
        });
        say(&object.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!("hermes-bus {own}"))?;
    say(&match running {
        Some(Some(server)) => format!("{} runs {}", bus.address(), harmless_line(&server)),
        Some(None) => format!("{} runs a bus that does not say its version", bus.address()),
        None => format!("no bus listens on {}", bus.address()),
    })?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use hermes_bus::screen::Color;

    use super::*;

    #[test]
    fn who_is_away_is_not_said_to_be_connected() {
        let details = |name: &str, state| EndpointDetails {
            endpoint: name.to_owned(),
            state,
            pid: 7,
            ..EndpointDetails::default()
        };
        let listing = Listing {
            endpoints: [("here".to_owned(), "session".to_owned())].into(),
            details: vec![
                details("here", EndpointState::Online),
                details("away", EndpointState::Offline),
            ],
            truncated: false,
            server: None,
        };
        let rows = table(&listing, &Palette::new(Color::Never));
        assert_eq!(rows.len(), 2, "{rows:?}");
        assert!(rows[1].starts_with("here "), "{rows:?}");
        assert_eq!(listing_json(&listing)["endpoints"][1]["state"], "offline");
    }
}
