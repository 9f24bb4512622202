//! The command line.

use std::num::NonZeroUsize;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::Places;

/// More events than the memory of one machine holds in several runs at a time.
const STEPS_MAX: usize = 10_000_000;
/// More threads than any machine has use for.
const THREADS_MAX: usize = 1_024;

/// Simulates the router of the hermes bus: random clients on a virtual clock, and a model that says what
/// must hold after every step.
///
/// Ends with 0 if nothing was found, 1 if a rule was broken or a kind of event was never seen in a
/// million events, 2 if the command line is wrong.
#[derive(Clone, Debug, Parser)]
#[command(name = "hermes-bus-sim", version)]
pub struct Arguments {
    /// The first run's seed; the next runs have the next numbers. Without it: seeds that failed once,
    /// then a fresh one.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Ends after so many runs [default: 1000, without limit where --seconds is given].
    #[arg(long, value_name = "N")]
    pub runs: Option<u64>,
    /// Begins no further run after so many seconds of real time.
    #[arg(long, value_name = "N")]
    pub seconds: Option<u64>,
    /// Simulates the router with a store that fails and processes that are killed, instead of the router
    /// alone.
    #[arg(long)]
    pub durable: bool,
    /// Begins no further run when so many processes of the bus were killed.
    #[arg(long, value_name = "N", requires = "durable")]
    pub crashes: Option<u64>,
    /// Events of a run, 10,000,000 at most.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = steps)]
    pub steps: usize,
    /// Plays only these events of the run, for example 3,17-20,44; places begin at 0.
    #[arg(long, value_name = "PLACES", requires = "seed")]
    pub only: Option<Places>,
    /// Runs at a time, 1,024 at most; what is found does not depend on it [default: one for each
    /// processor].
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<NonZeroUsize>,
    /// Plays the first runs twice: both must be the same in everything.
    #[arg(long, value_name = "RUNS", default_value_t = 8)]
    pub verify: u64,
    /// Seconds of real time for making a script that fails shorter.
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub shrink_seconds: u64,
}

/// Where neither a number of runs nor a time is given.
const RUNS: u64 = 1_000;

impl Arguments {
    /// The command line if it can be meant. Fails if it names events that the run does not have.
    pub fn checked(self) -> Result<Self, clap::Error> {
        let places = self.only.as_ref().map(Places::as_slice).unwrap_or_default();
        match places.last() {
            Some(place) if *place >= self.steps => {
                let steps = self.steps;
                let what = format!("place {place} is beyond --steps {steps}: places begin at 0");
                Err(Arguments::command().error(ErrorKind::ValueValidation, what))
            }
            _ => Ok(self),
        }
    }

    pub(super) fn runs(&self) -> u64 {
        match (self.runs, self.seconds) {
            (Some(runs), _) => runs,
            (None, _) if self.only.is_some() => 1,
            (None, Some(_)) => u64::MAX,
            (None, None) if self.crashes.is_some() => u64::MAX,
            (None, None) => RUNS,
        }
    }

    pub(super) fn threads(&self) -> usize {
        let processors = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        self.threads.map_or_else(processors, NonZeroUsize::get)
    }
}

fn steps(text: &str) -> Result<usize, String> {
    let steps = text.parse().ok().filter(|steps| *steps <= STEPS_MAX);
    steps.ok_or_else(|| format!("a run has from 0 to {STEPS_MAX} events"))
}

fn threads(text: &str) -> Result<NonZeroUsize, String> {
    let threads = text.parse().ok().filter(|threads: &NonZeroUsize| threads.get() <= THREADS_MAX);
    threads.ok_or_else(|| format!("there can be from 1 to {THREADS_MAX} threads"))
}
