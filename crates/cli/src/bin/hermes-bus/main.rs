//! `hermes-bus`: what people and scripts do with a bus.

mod agent;
mod config;
mod demo;
mod doctor;
mod kept;
mod listen;
mod look;
mod manual;
mod metrics;
mod rules;
mod send;
mod trace;
mod watch;

use std::process::ExitCode;

use clap::Parser;
use hermes_bus::arguments::bus::{Arguments, Command, Place};
use hermes_bus::arguments::receiving::Agent;
use hermes_bus::failure::{Failure, exit};
use hermes_bus::screen::{is_closed_pipe, note, say};
use hermes_bus::sender::find_bus;
use hermes_bus_client::{Bus, Start};

fn main() -> ExitCode {
    let Arguments { command, place } = Arguments::parse();
    let outcome = match command {
        Command::Demo => demo::run().map(|()| ExitCode::SUCCESS),
        Command::Completions { shell, program } => manual::completions(shell, &program),
        Command::Man { dir: Some(directory), .. } => manual::write_pages(&directory),
        Command::Man { program, dir: None } => manual::page(&program),
        Command::Doctor { fix } => doctor::doctor(fix, &place),
        Command::Config(asked) => config::run(&asked, &place),
        Command::Rules(asked) => rules::run(&asked, &place),
        Command::Agent(Agent { what: Some(what), .. }) => agent::aside(&what, &place),
        command => with_a_bus(command, &place),
    };
    match outcome {
        Ok(code) => code,
        // A reader that has seen enough is no failure.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => complain(&error, &place),
    }
}

fn with_a_bus(command: Command, place: &Place) -> anyhow::Result<ExitCode> {
    let mut bus = find_bus(place.socket.as_deref(), place.root.as_deref())?;
    // Who only looks must not change what there is to be seen.
    let only_looks = matches!(
        command,
        Command::List
            | Command::Ping { .. }
            | Command::Version
            | Command::Metrics
            | Command::Trace { .. }
            | Command::Mailbox(_)
            | Command::Dead(_)
            | Command::History(_)
            | Command::Group(_)
    );
    if place.no_start || only_looks {
        bus = bus.start(Start::Never);
    }
    // The session lives on a thread of its own, so that it does not miss its heartbeats while nobody
    // reads what is printed.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(run(command, place, &bus))
}

async fn run(command: Command, place: &Place, bus: &Bus) -> anyhow::Result<ExitCode> {
    match command {
        Command::Send(arguments) => send::send(&arguments, place, bus).await,
        Command::Request(arguments) => send::request(&arguments, place, bus).await,
        Command::Listen(arguments) => listen::listen(&arguments, place, bus).await,
        Command::Agent(arguments) => agent::receive(&arguments.receive, place, bus).await,
        Command::Publish(arguments) => send::publish(&arguments, place, bus).await,
        Command::Subscribe(arguments) => listen::subscribe(&arguments, place, bus).await,
        Command::Watch(arguments) => watch::watch(&arguments, place, bus).await,
        Command::Trace { id } => trace::trace(&id, place, bus).await,
        Command::Mailbox(asked) => kept::mailbox(&asked, place, bus).await,
        Command::Dead(asked) => kept::dead(&asked, place, bus).await,
        Command::History(asked) => kept::history(&asked, place, bus).await,
        Command::Group(asked) => kept::group(&asked, place, bus).await,
        Command::List => look::list(place, bus).await,
        Command::Ping { count } => look::ping(count, place, bus).await,
        Command::Version => look::version(place, bus).await,
        Command::Metrics => metrics::metrics(place, bus).await,
        Command::Demo
        | Command::Rules(_)
        | Command::Config(_)
        | Command::Doctor { .. }
        | Command::Completions { .. }
        | Command::Man { .. } => {
            unreachable!("needs no bus")
        }
    }
}

/// Says why, for people and, where asked for, for scripts.
fn complain(error: &anyhow::Error, place: &Place) -> ExitCode {
    note(&format!("hermes-bus: {error:#}"));
    let Some(failure) = error.downcast_ref::<Failure>() else {
        return ExitCode::from(exit::FAILED);
    };
    if place.json {
        let _ = say(&failure.to_json().to_string());
    }
    ExitCode::from(failure.exit_code)
}
