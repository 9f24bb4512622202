//! Measures every case as often as asked for, the rounds interleaved, and puts the result together.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use crate::durable::durable;
use crate::error::BenchError;
use crate::latency::{one_way, round_trip, steady};
use crate::link::{Stop, Watch, list};
use crate::load::throughput;
use crate::plan::{Case, Settings, Workload};
use crate::private::PrivateBus;
use crate::report::{About, Failure, Report, Row};
use crate::sessions::{connect, idle};
use crate::site::{Sample, Site};
use crate::sys::{Machine, file_system, raise_open_files};

/// Which bus is measured.
#[derive(Clone, Debug)]
pub enum Target {
    /// A fresh one for each measurement, in a new directory: what one leaves behind in the daemon's memory cannot
    /// show in another.
    Private {
        /// The server program.
        program: PathBuf,
        /// Where its directory is made.
        parent: PathBuf,
    },
    /// One that runs.
    Live {
        /// Its socket.
        socket: PathBuf,
    },
}

impl Target {
    /// A directory of the same file system as the store's.
    fn place(&self) -> &Path {
        match self {
            Target::Private { parent, .. } => parent,
            Target::Live { socket } => socket.parent().unwrap_or(socket),
        }
    }
}

/// Measures. `progress` is told of each measurement before it begins: the round, counted from 1, and the case.
///
/// What fails is not tried again, stands in the report, and keeps nothing else from being measured.
///
/// # Errors
/// [`BenchError::Interrupted`], if `stop` was raised; then everything has been tidied up.
pub fn run(
    cases: &[Case],
    settings: &Settings,
    target: &Target,
    stop: &Stop,
    mut progress: impl FnMut(u32, Case),
) -> Result<Report, BenchError> {
    let (began, started_at) = (Instant::now(), SystemTime::now());
    // A thousand pairs are two thousand sockets.
    raise_open_files();
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); cases.len()];
    let mut failures: Vec<Option<Failure>> = vec![None; cases.len()];
    let mut server = None;
    for round in 1..=settings.rounds {
        for (number, case) in cases.iter().enumerate() {
            if failures[number].is_some() {
                continue;
            }
            progress(round, *case);
            match measure(*case, settings, target, stop, &mut server) {
                Ok(sample) => samples[number].push(sample),
                Err(BenchError::Interrupted) => return Err(BenchError::Interrupted),
                Err(error) => failures[number] = Some(Failure::of(case, &error)),
            }
        }
    }
    let measured = cases.iter().zip(&samples).zip(&failures);
    let measured =
        measured.filter(|((_, samples), failure)| !samples.is_empty() && failure.is_none());
    let results = measured.map(|((case, samples), _)| Row::of(*case, settings, samples)).collect();
    let about = About {
        version: env!("CARGO_PKG_VERSION"),
        started_at: humantime::format_rfc3339_seconds(started_at).to_string(),
        took_s: began.elapsed().as_secs_f64(),
        machine: Machine::this(),
        bus: crate::report::BusInfo {
            server,
            is_private: matches!(target, Target::Private { .. }),
            place: target.place().display().to_string(),
            file_system: file_system(target.place()),
        },
    };
    let failures = failures.into_iter().flatten().collect();
    Ok(Report::new(about, settings.clone(), results, failures))
}

/// One round of one case.
fn measure(
    case: Case,
    settings: &Settings,
    target: &Target,
    stop: &Stop,
    server: &mut Option<String>,
) -> Result<Sample, BenchError> {
    let watch = Watch::new(stop, settings.patience);
    watch.check()?;
    // Ends with this function, after the site.
    let private = match target {
        Target::Private { program, parent } => Some(PrivateBus::start(program, parent, stop)?),
        Target::Live { .. } => None,
    };
    let socket = match (&private, target) {
        (Some(private), _) => private.socket(),
        (None, Target::Live { socket }) => socket.clone(),
        (None, Target::Private { .. }) => unreachable!("it was started"),
    };
    if server.is_none() {
        *server = list(&socket, &watch)?.server.map(|details| details.server);
    }
    let site = Site::new(socket, settings, watch, private.is_some())?;
    match case.workload {
        Workload::RoundTrip => round_trip(&site, case),
        Workload::OneWay => one_way(&site, case),
        Workload::Steady => steady(&site, case),
        Workload::Durable => durable(&site, case),
        Workload::Connect => connect(&site, case),
        Workload::Idle => idle(&site),
        Workload::OneToOne
        | Workload::FanIn
        | Workload::Pairs
        | Workload::Group
        | Workload::Broadcast
        | Workload::Topic => throughput(&site, case),
    }
}
