//! `hermes-bus trace`: where a message is, and why it is not further. Starts no bus.

use std::process::ExitCode;

use hermes_bus::arguments::bus::Place;
use hermes_bus::failure::Failure;
use hermes_bus::screen::{Palette, date_and_time, harmless_line, say, time_of_day};
use hermes_bus_client::{Bus, Client, Standing, Trace, TraceState};
use serde_json::{Value, json};

pub(crate) async fn trace(id: &str, place: &Place, bus: &Bus) -> anyhow::Result<ExitCode> {
    let connecting = bus.client(format!("trace-{}", std::process::id())).connect().await;
    let (client, _inbox) =
        connecting.map_err(|error| Failure::connecting(&error, bus.start_policy()))?;
    let traced = ask(&client, id).await;
    client.close().await;
    let trace = traced.map_err(|error| Failure::asking(&error, bus))?;
    if trace.states.is_empty() && trace.standings.is_empty() {
        let text = format!(
            "the bus knows nothing of a message with the id '{}': there is none, or it has been \
             forgotten",
            harmless_line(id)
        );
        return Err(Failure::new("no_such_message", text).into());
    }
    if place.json {
        let states: Vec<Value> = trace.states.iter().map(state_json).collect();
        let standings: Vec<Value> = trace.standings.iter().map(standing_json).collect();
        let mut object = trace.further;
        for key in ["type", "req"] {
            object.remove(key);
        }
        object.insert("id".to_owned(), trace.id);
        object.insert("states".to_owned(), states.into());
        object.insert("standings".to_owned(), standings.into());
        say(&Value::Object(object).to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    for line in lines(&trace, &Palette::new(place.color)) {
        say(&line)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Most ids are text; some senders' are numbers.
async fn ask(client: &Client, id: &str) -> Result<Trace, hermes_bus_client::CallError> {
    let trace = client.trace(id).await?;
    match id.parse::<i64>() {
        Ok(number) if trace.states.is_empty() => client.trace(number).await,
        _ => Ok(trace),
    }
}

fn state_json(state: &TraceState) -> Value {
    let TraceState { state, ts, endpoint, detail, further } = state;
    let mut object = json!({"state": state, "ts": ts, "endpoint": endpoint, "detail": detail});
    for (key, value) in further {
        object[key] = value.clone();
    }
    object
}

fn standing_json(standing: &Standing) -> Value {
    let Standing { endpoint, place, since_ts, blocked_by, next, further } = standing;
    let mut object = json!({
        "endpoint": endpoint, "place": place, "since_ts": since_ts, "blocked_by": blocked_by,
        "next": next,
    });
    for (key, value) in further {
        object[key] = value.clone();
    }
    object
}

/// A line for each state, then what it waits for, and what else the bus says.
fn lines(trace: &Trace, palette: &Palette) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for state in &trace.states {
        let when = state.ts.and_then(date_and_time).unwrap_or_default();
        let endpoint = state.endpoint.as_deref().filter(|name| !name.is_empty());
        let endpoint = endpoint.map(|name| format!("  {}", palette.name(&harmless_line(name))));
        let detail = state.detail.as_deref().filter(|detail| !detail.is_empty());
        let detail = detail.map(|detail| format!("  ({})", harmless_line(detail)));
        let (word, endpoint) = (words(&state.state), endpoint.unwrap_or_default());
        let detail = detail.unwrap_or_default();
        lines.push(format!("{}  {word}{endpoint}{detail}", palette.dim(&when)));
    }
    for standing in &trace.standings {
        lines.extend(standing_lines(standing, palette));
    }
    if trace.standings.is_empty() {
        lines.extend(waits_for(&trace.states));
    }
    for (key, value) in &trace.further {
        if key == "type" || key == "req" || value.is_null() {
            continue;
        }
        let time = value.as_f64().filter(|_| key.ends_with("ts") || key.contains("since"));
        let shown = time.and_then(date_and_time).unwrap_or_else(|| match value {
            Value::String(text) => harmless_line(text),
            other => harmless_line(&other.to_string()),
        });
        lines.push(format!("{}: {shown}", harmless_line(&key.replace('_', " "))));
    }
    lines
}

/// What a state is called for people, who read "delivered" as "arrived".
fn words(state: &str) -> String {
    let words = match state {
        "delivered" => "handed over to",
        "acked" => "acknowledged by",
        "read" => "read by",
        "held" => "held for a moment for",
        "waiting" => "in the mailbox of",
        "spilled" => "on disk for the slow",
        "requeued" => "given back by",
        "rerouted" => "given to another member of the group, instead of",
        "repeated" => "sent again, and recognised",
        "dead" => "a dead letter for",
        "purged" => "removed by the bus's owner, for",
        other => return harmless_line(other),
    };
    words.to_owned()
}

/// Who keeps a message from going on, since when, and what happens next.
fn standing_lines(standing: &Standing, palette: &Palette) -> Vec<String> {
    let Standing { endpoint, place, since_ts, blocked_by, next, .. } = standing;
    let place = match place.as_str() {
        "in_flight" => "handed over to",
        "queued" => "queued for",
        "waiting" => "waiting for",
        "paused" => "to be delivered once more to",
        "held" => "held for a moment for",
        "stored" => "on disk for",
        other => other,
    };
    let since = since_ts.and_then(time_of_day).map(|time| format!(" since {time}"));
    let (place, name) = (harmless_line(place), palette.name(&harmless_line(endpoint)));
    let mut lines = vec![format!("now {place} {name}{}", since.unwrap_or_default())];
    for (head, text) in [("because", blocked_by), ("then", next)] {
        if !text.is_empty() {
            lines.push(format!("  {head}: {}", harmless_line(text)));
        }
    }
    lines
}

/// What a message waits for by its states alone, where the bus does not say. Nothing, if it has come to
/// an end, or was handed over: then only the bus can tell whether it is done.
fn waits_for(states: &[TraceState]) -> Option<String> {
    // That it was stored says nothing of where it goes.
    let last = states.iter().rev().find(|state| state.state != "stored")?;
    let whom = harmless_line(last.endpoint.as_deref()?);
    let since = last.ts.and_then(time_of_day).map(|time| format!(" since {time}"));
    let since = since.unwrap_or_default();
    Some(match last.state.as_str() {
        "held" | "waiting" => format!("waits{since} for {whom}, who is away"),
        "spilled" => format!("waits{since} for {whom} to read what came before"),
        "requeued" => format!("waits{since} to be delivered to {whom} once more"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hermes_bus::screen::Color;

    #[test]
    fn a_trace_says_what_happened_who_is_waited_for_and_what_the_bus_adds() {
        let trace: Trace = serde_json::from_value(json!({
            "type": "traced", "id": "7", "req": 1, "left_out": 2,
            "states": [
                {"state": "accepted", "ts": 1.0, "endpoint": null, "detail": null},
                {"state": "waiting", "ts": 2.0, "endpoint": "worker", "detail": "\u{1b}x"},
            ],
            "standings": [{"endpoint": "worker", "place": "waiting", "since_ts": null,
                           "blocked_by": "worker is away", "next": "it comes"}],
        }))
        .unwrap();
        let lines = lines(&trace, &Palette::new(Color::Never));
        assert_eq!(lines.len(), 6, "{lines:?}");
        assert!(lines[0].ends_with("  accepted"), "{lines:?}");
        assert!(lines[1].ends_with("  in the mailbox of  worker  (\\u{1b}x)"), "{lines:?}");
        let standing = ["now waiting for worker", "  because: worker is away", "  then: it comes"];
        assert_eq!(lines[2..5], standing);
        assert_eq!(lines[5], "left out: 2");
    }

    #[test]
    fn what_waits_is_known_by_its_states_where_the_bus_says_no_more() {
        let lines_of = |words: &[&str]| {
            let state = |word: &&str| json!({"state": word, "ts": null, "endpoint": "w"});
            let states: Vec<Value> = words.iter().map(state).collect();
            let trace = serde_json::from_value(json!({"states": states})).unwrap();
            lines(&trace, &Palette::new(Color::Never))
        };
        let waiting = lines_of(&["accepted", "waiting", "stored"]);
        assert_eq!(waiting[3..], ["waits for w, who is away"]);
        assert_eq!(lines_of(&["accepted", "waiting", "stored", "delivered"]).len(), 4);
        assert_eq!(lines_of(&["accepted", "waiting", "stored", "dead"]).len(), 4);
    }
}
