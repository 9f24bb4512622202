//! `hermes-bus metrics`: what the daemon has counted. Starts no bus.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use hermes_bus::arguments::bus::Place;
use hermes_bus::failure::{Failure, HUNG};
use hermes_bus::screen::harmless_line;
use hermes_bus::sender::find_root;
use hermes_bus_client::Bus;
use hermes_bus_daemon::metrics::{FetchError, Form, fetch};

/// Longer than the daemon's own patience with itself, so that its word is heard.
const PATIENCE: Duration = Duration::from_secs(8);

pub(crate) async fn metrics(place: &Place, bus: &Bus) -> anyhow::Result<ExitCode> {
    let root = find_root(place.socket.as_deref(), place.root.as_deref())?;
    let form = if place.json { Form::Json } else { Form::OpenMetrics };
    let text = match fetch(&root.metrics_socket(), form, PATIENCE).await {
        Ok(text) => text,
        Err(error) => return Err(failure(&error, bus).await.into()),
    };
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

async fn failure(error: &FetchError, bus: &Bus) -> Failure {
    let (code, advice) = match error {
        FetchError::NobodyThere { .. } => match bus.list().await {
            // There is no bus either, or none that answers: that is the better reason.
            Err(error) => return Failure::asking(&error, bus),
            Ok(_) => {
                let advice = ", but a bus runs: it is older than this program, its log says why it \
                              offers none, or they are switched off in its configuration";
                ("no_metrics", advice)
            }
        },
        FetchError::Io { .. } => ("cannot_connect", ""),
        FetchError::NoAnswer { .. } | FetchError::Refused { .. } => ("no_answer", HUNG),
        FetchError::Unexpected { .. } => ("unexpected", ""),
    };
    Failure::new(code, format!("{}{advice}", harmless_line(&error.to_string())))
}
