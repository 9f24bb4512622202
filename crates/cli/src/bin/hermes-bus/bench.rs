//! `hermes-bus bench`: the arguments and the words; what is measured, and how, is in the crate of that name.

mod table;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hermes_bus::arguments::bench::Bench;
use hermes_bus::arguments::bus::Place;
use hermes_bus::failure::{Failure, exit};
use hermes_bus::screen::{harmless_line, note, say};
use hermes_bus::sender::find_bus;
use hermes_bus_bench::{
    BenchError, Case, Report, Settings, Stop, Target, Workload, cases, plot, run, suite,
};
use hermes_bus_client::Start;
use hermes_bus_daemon::is_ignored;
use hermes_bus_daemon::root::Root;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// The server program, which stands beside this one.
const SERVER: &str = "hermes-bus-server";
/// Idle sessions on a bus that others use.
const CONNECTIONS_LIVE: u32 = 1_000;

pub(crate) fn bench(arguments: &Bench, place: &Place) -> anyhow::Result<ExitCode> {
    let cases = chosen(arguments);
    if let Some(file) = &arguments.plot {
        check_plot(file, &cases)?;
    }
    let interrupt = Interrupt::catch()?;
    let target = target(arguments, place)?;
    let is_live = matches!(target, Target::Live { .. });
    let settings = settings(arguments, is_live);
    let progress = Progress::new();
    let measured = run(&cases, &settings, &target, &interrupt.stop, |round, case| {
        progress.show(round, settings.rounds, case);
    });
    progress.clear();
    let mut report = match measured {
        Ok(report) => report,
        Err(BenchError::Interrupted) => return interrupt.end(),
        Err(error) => return Err(failure(&error).into()),
    };
    if arguments.workloads.is_empty() {
        // Nobody has asked for these in particular.
        report.leave_out(&["others_connected", "needs_level_2"]);
    }
    if let (true, Some(failed)) = (report.results.is_empty(), report.failures.first()) {
        let text = format!("{}: {}", failed.workload, harmless_line(&failed.detail));
        return Err(Failure::new(&failed.error, text).into());
    }
    show(&report, arguments, place)
}

/// What is to be measured.
fn chosen(arguments: &Bench) -> Vec<Case> {
    let sizes = arguments.size.as_ref().map_or(&[][..], |sizes| &sizes.0);
    let peers = arguments.peers.map(|peers| peers as usize);
    let named: Vec<Workload> =
        arguments.workloads.iter().flat_map(|word| word.0.iter().copied()).collect();
    match (named.is_empty(), sizes.is_empty() && peers.is_none()) {
        (true, true) => suite(),
        (true, false) => cases(&Workload::ALL, sizes, peers),
        (false, _) => cases(&named, sizes, peers),
    }
}

fn settings(arguments: &Bench, is_live: bool) -> Settings {
    let usual = Settings::default();
    let Bench { rate, outstanding, messages, rounds, .. } = *arguments;
    Settings {
        rounds,
        // A number of messages is an end of its own.
        duration: arguments.duration.or(usual.duration.filter(|_| messages.is_none())),
        messages,
        window_bytes: arguments.window,
        rate,
        outstanding,
        connections: arguments.connections.unwrap_or(if is_live {
            CONNECTIONS_LIVE
        } else {
            usual.connections
        }),
        patience: arguments.timeout,
        reaches_others: arguments.broadcast,
    }
}

/// Which bus. One that is named is started where it does not run, as other commands do it.
fn target(arguments: &Bench, place: &Place) -> anyhow::Result<Target> {
    let is_named = place.root.is_some() || place.socket.is_some();
    if !arguments.live && !is_named {
        return Ok(Target::Private {
            program: server_program()?,
            parent: arguments.dir.clone().unwrap_or_else(std::env::temp_dir),
        });
    }
    if arguments.private || arguments.dir.is_some() {
        let text = "--private and --dir are for a bus of its own: leave out --root and --socket";
        return Err(Failure::new("usage", text).exits_with(exit::USAGE).into());
    }
    let mut bus = find_bus(place.socket.as_deref(), place.root.as_deref())?;
    if place.no_start {
        bus = bus.start(Start::Never);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listed = runtime.block_on(bus.list());
    listed.map_err(|error| Failure::asking(&error, &bus))?;
    let socket = match &place.socket {
        Some(socket) => socket.clone(),
        None => Root::find(place.root.as_deref())?.socket(),
    };
    Ok(Target::Live { socket })
}

fn server_program() -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe()?;
    let program = this.with_file_name(SERVER);
    if program.is_file() {
        return Ok(program);
    }
    let text = format!(
        "there is no {SERVER} beside {}: install it there, or measure a bus that runs with --live",
        harmless_line(&this.display().to_string())
    );
    Err(Failure::new("no_server", text).into())
}

/// Whether there will be something to draw, and a place for it, before half a minute is spent.
fn check_plot(file: &Path, cases: &[Case]) -> Result<(), Failure> {
    if !cases.iter().any(|case| case.workload.has_latency()) {
        let text = "--plot draws latencies: measure one of round-trip, one-way, steady, durable and connect";
        return Err(Failure::new("usage", text).exits_with(exit::USAGE));
    }
    let directory = file.parent().filter(|directory| !directory.as_os_str().is_empty());
    if file.is_dir() || directory.is_some_and(|directory| !directory.is_dir()) {
        return Err(no_plot(file, "there is no such directory, or it is one itself"));
    }
    Ok(())
}

fn no_plot(file: &Path, why: &str) -> Failure {
    let shown = harmless_line(&file.display().to_string());
    Failure::new("no_plot", format!("cannot write the picture to {shown}: {why}"))
}

fn failure(error: &BenchError) -> Failure {
    Failure::new(error.code(), harmless_line(&error.to_string()))
}

/// Prints the report, draws the picture, and says what failed.
fn show(report: &Report, arguments: &Bench, place: &Place) -> anyhow::Result<ExitCode> {
    if place.json {
        say(&serde_json::to_string(report)?)?;
    } else {
        for line in table::lines(report) {
            say(&line)?;
        }
    }
    for failed in &report.failures {
        let detail = harmless_line(&failed.detail);
        note(&format!("hermes-bus: {}, {} B: {detail}", failed.workload, failed.text_bytes));
    }
    if let Some(file) = &arguments.plot {
        let Some(picture) = plot::svg(report) else {
            return Err(no_plot(file, "no latency was measured").into());
        };
        std::fs::write(file, picture).map_err(|error| no_plot(file, &error.to_string()))?;
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

/// Ctrl-C and its like end the measurement; a second time, the program.
struct Interrupt {
    stop: Stop,
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    fn catch() -> anyhow::Result<Self> {
        let (asked, signal) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        // What `nohup` and background jobs have switched off stays off.
        for number in [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|number| !is_ignored(*number)) {
            let code = usize::try_from(number)?;
            signal_hook::flag::register_conditional_default(number, Arc::clone(&asked))?;
            signal_hook::flag::register_usize(number, Arc::clone(&signal), code)?;
            signal_hook::flag::register(number, Arc::clone(&asked))?;
        }
        Ok(Interrupt { stop: Stop::on(asked), signal })
    }

    /// Ends as the signal would have ended it. By now everything is tidied up.
    fn end(&self) -> anyhow::Result<ExitCode> {
        let signal = i32::try_from(self.signal.load(Ordering::Relaxed))?;
        note("hermes-bus: interrupted, nothing is left behind");
        signal_hook::low_level::emulate_default_handler(signal)?;
        Ok(ExitCode::from(exit::FAILED))
    }
}

/// What is measured now, for who looks on.
struct Progress {
    is_seen: bool,
}

impl Progress {
    fn new() -> Self {
        let is_dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
        Progress { is_seen: std::io::stderr().is_terminal() && !is_dumb }
    }

    fn show(&self, round: u32, rounds: u32, case: Case) {
        if self.is_seen {
            let name = case.workload.name();
            let _ = write!(std::io::stderr(), "\r\x1b[Kround {round} of {rounds}: {name}");
        }
    }

    fn clear(&self) {
        if self.is_seen {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
