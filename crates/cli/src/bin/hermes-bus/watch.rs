//! `hermes-bus watch`: who comes and goes, and what is routed, as it happens.

use std::process::ExitCode;
use std::time::Duration;

use hermes_bus::arguments::bus::{Place, Tap, Watch};
use hermes_bus::failure::{Failure, exit};
use hermes_bus::screen::{Palette, harmless_line, note, say, time_of_day};
use hermes_bus_client::{Bus, Client, Sighting, Sightings, TapMode, Tapped};
use serde_json::json;
use tokio::time::sleep;

use crate::listen::{ended, next_event, reader_is_gone, tell};

pub(crate) async fn watch(arguments: &Watch, place: &Place, bus: &Bus) -> anyhow::Result<ExitCode> {
    let connecting = bus.client(format!("watch-{}", std::process::id())).connect().await;
    let (client, _inbox) =
        connecting.map_err(|error| Failure::connecting(&error, bus.start_policy()))?;
    let tap = match arguments.tap {
        None => TapMode::Off,
        Some(Tap::Envelopes) => TapMode::Envelopes,
        Some(Tap::Messages) => TapMode::Messages,
    };
    let wanted = hermes_bus_client::Watch { presence: !arguments.no_presence, tap };
    let sightings = match client.watch(wanted).await {
        Ok(sightings) => sightings,
        Err(error) => {
            client.close().await;
            return Err(Failure::asking(&error, bus).into());
        }
    };
    note(&format!("watching {}", bus.address()));
    let outcome = look(arguments, place, &client, sightings).await;
    client.close().await;
    outcome
}

async fn look(
    arguments: &Watch,
    place: &Place,
    client: &Client,
    mut sightings: Sightings,
) -> anyhow::Result<ExitCode> {
    let palette = Palette::new(place.color);
    let mut events = client.events();
    let mut gone = std::pin::pin!(reader_is_gone());
    let mut over = std::pin::pin!(sleep(arguments.timeout.unwrap_or(Duration::MAX)));
    let mut seen = 0;
    loop {
        tokio::select! {
            sighting = sightings.next() => match sighting {
                Some(sighting) => {
                    say(&if place.json { json_line(&sighting) } else { line(&sighting, &palette) })?;
                    seen += 1;
                }
                None => return Err(ended(client).into()),
            },
            event = next_event(&mut events) => tell(&event),
            () = &mut gone => return Ok(ExitCode::SUCCESS),
            () = &mut over => return Ok(match arguments.count {
                Some(_) => ExitCode::from(exit::TIMED_OUT),
                None => ExitCode::SUCCESS,
            }),
        }
        if arguments.count == Some(seen) {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn json_line(sighting: &Sighting) -> String {
    match sighting {
        Sighting::Presence(presence) => presence.json_line(),
        Sighting::Tap(tapped) => tapped.json_line(),
        Sighting::Gap(gap) => {
            let (source, count, bytes) = (&gap.source, gap.count, gap.bytes);
            json!({"type": "gap", "source": source, "count": count, "bytes": bytes}).to_string()
        }
        Sighting::Missed(count) => {
            json!({"type": "gap", "source": "here", "count": count}).to_string()
        }
    }
}

fn line(sighting: &Sighting, palette: &Palette) -> String {
    let at = |ts: Option<f64>| ts.and_then(time_of_day).unwrap_or_else(|| "--:--:--".to_owned());
    match sighting {
        Sighting::Presence(presence) => {
            let state = if presence.is_online { "online" } else { "offline" };
            let reason = harmless_line(&presence.reason);
            let reason = if reason.is_empty() { reason } else { format!("  ({reason})") };
            let name = palette.name(&harmless_line(&presence.endpoint));
            format!("{}  {name}  {state}{}", palette.dim(&at(presence.ts)), palette.dim(&reason))
        }
        Sighting::Tap(tapped) => tap_line(tapped, palette, at),
        Sighting::Gap(gap) => {
            let (count, were) = (gap.count, if gap.count == 1 { "was" } else { "were" });
            match gap.source.as_str() {
                "presence" => format!(
                    "--:--:--  {count} more came or went and {were} not told: 'hermes-bus list' says \
                     who is there"
                ),
                _ => format!("--:--:--  {count} more {were} routed and not told"),
            }
        }
        Sighting::Missed(count) => format!("--:--:--  {count} more came and were not read in time"),
    }
}

/// `12:34:56  sender → receiver  outcome  text`
fn tap_line(tapped: &Tapped, palette: &Palette, at: impl Fn(Option<f64>) -> String) -> String {
    let message = tapped.message();
    let time = at(message.as_ref().and_then(|message| message.ts()));
    let name = |name: Option<&str>, without: &str| {
        let name = name.filter(|name| !name.is_empty()).unwrap_or(without);
        palette.name(&harmless_line(name))
    };
    let from = name(message.as_ref().and_then(|message| message.from()).as_deref(), "?");
    let to = name(message.as_ref().and_then(|message| message.to()).as_deref(), "all");
    let text = message.as_ref().filter(|message| message.frame().get("body").is_some());
    let text = match text {
        Some(message) => message.text().unwrap_or_else(|| message.body_line()),
        None => tapped.bytes().map(|bytes| format!("{bytes} bytes")).unwrap_or_default(),
    };
    let outcome = palette.kind(&harmless_line(&tapped.outcome()));
    format!("{}  {from} → {to}  {outcome}  {}", palette.dim(&time), harmless_line(&text))
}
