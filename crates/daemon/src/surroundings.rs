//! What surrounds the router while it runs: the configuration, the log, hooks, metrics, and the service
//! manager. The driver passes by once a turn; nothing here ever has it wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hermes_bus_core::{Config, Histogram, Router};
use hermes_bus_store::Depth;
use mio::Waker;
use rustix::process::Signal;

use crate::config::{Changes, HistoryOf, Settings, Sources};
use crate::history::Recorded;
use crate::hooks::{self, Found, Runner};
use crate::logging::{Logging, target};
use crate::metrics::{self, Endpoint, Snapshot};
use crate::root::Root;
use crate::service::Supervisor;
use crate::signals::{Signals, Wish};
use crate::storage::Storage;
use crate::sys::Process;

/// What is kept for hooks that nobody takes; the oldest goes first.
const TAP_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How soon what the hooks' thread could not take is offered again.
const TAP_AGAIN: Duration = Duration::from_millis(5);
/// How long hooks that run may take to end by themselves when the bus ends.
const HOOKS_PATIENCE: Duration = Duration::from_millis(500);
/// How often it is looked whether the hooks of a bus that was handed over have done their work.
const FINISH_LOOK: Duration = Duration::from_millis(20);

/// See the module's documentation.
pub(crate) struct Surroundings {
    root: Root,
    sources: Sources,
    settings: Settings,
    logging: Logging,
    hooks: Option<Runner>,
    /// The hooks that were found last.
    found: Found,
    /// The socket, which lives as long as this value, and what is asked through it.
    metrics: Option<(metrics::Server, metrics::Requests)>,
    /// What of the tap's next batch is in the history already.
    recorded: Recorded,
    supervisor: Supervisor,
    /// The process that had the bus before, which may still have hooks to run.
    predecessor: Option<Process>,
    began: Instant,
}

/// What a reload has changed.
#[derive(Debug, Default)]
pub(crate) struct Reloaded {
    /// `key: before -> after`, each in effect now.
    pub(crate) applied: Vec<String>,
    /// The same, each in effect after a restart.
    pub(crate) need_restart: Vec<String>,
    /// What is doubtful.
    pub(crate) warnings: Vec<String>,
}

impl Surroundings {
    /// Has everything ready but for the metrics socket, which waits for
    /// [`Surroundings::serve_metrics`].
    pub(crate) fn new(root: &Root, sources: Sources, settings: Settings, logging: Logging) -> Self {
        let now = Instant::now();
        Surroundings {
            root: root.clone(),
            sources,
            settings,
            logging,
            hooks: None,
            found: Found::default(),
            metrics: None,
            recorded: Recorded::default(),
            supervisor: Supervisor::from_environment(now),
            predecessor: None,
            began: now,
        }
    }

    /// Opens the metrics socket, if there is to be one. The caller holds the root's lock. `waker` wakes
    /// the driver when somebody asks.
    pub(crate) fn serve_metrics(&mut self, waker: Arc<Waker>) {
        if !self.settings.metrics.socket {
            return;
        }
        let wake = move || drop(waker.wake());
        match metrics::Server::start(&self.root.metrics_socket(), wake) {
            Ok(metrics) => self.metrics = Some(metrics),
            Err(error) => tracing::error!(target: target::METRICS, "no metrics: {error:#}"),
        }
    }

    /// Which hooks there are now.
    pub(crate) fn find_hooks(&self) -> Found {
        Found::find(&hooks::Environment::of_process(), self.root.directory())
    }

    /// Has these hooks run from now on, and says in the log what is wrong with them.
    pub(crate) fn run_hooks(&mut self, found: Found, router: &mut Router) {
        for error in &found.errors {
            tracing::error!(target: target::HOOKS, "{error}");
        }
        for warning in &found.warnings {
            tracing::warn!(target: target::HOOKS, "{warning}");
        }
        self.found = found;
        let hooks = self.found.hooks.clone();
        let limits = self.settings.hooks.clone();
        match &self.hooks {
            Some(runner) => runner.replace(hooks, limits),
            None if hooks.is_empty() => {}
            None => match Runner::start(hooks, limits) {
                Ok(runner) => self.hooks = Some(runner),
                Err(error) => tracing::error!(target: target::HOOKS, "no hook runs: {error}"),
            },
        }
        self.set_tap(router);
    }

    /// Has the router show what it routes if somebody looks on.
    fn set_tap(&self, router: &mut Router) {
        let has_hooks = self.hooks.is_some() && !self.found.hooks.is_empty();
        let is_wanted = has_hooks || self.history_depth().is_some();
        router.set_tap(is_wanted.then_some(TAP_BYTES_MAX));
    }

    /// How much of every message is recorded.
    fn history_depth(&self) -> Option<Depth> {
        match self.settings.store.history {
            _ if !self.settings.store.is_enabled => None,
            HistoryOf::Nothing => None,
            HistoryOf::Envelopes => Some(Depth::Envelope),
            HistoryOf::Messages => Some(Depth::Message),
        }
    }

    /// The hooks in one line, as released servers announce them.
    pub(crate) fn hooks_listing(&self) -> String {
        self.found.listing()
    }

    /// The configuration that holds.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The service manager, if there is one, to be told how the bus is.
    pub(crate) fn supervisor(&mut self) -> &mut Supervisor {
        &mut self.supervisor
    }

    /// What a process that follows this one is to be told of the configuration.
    pub(crate) fn sources(&self) -> &Sources {
        &self.sources
    }

    // ---- once a turn ------------------------------------------------------------------------------

    /// The end of a turn: what was routed goes to the hooks, who asks for metrics gets them, and the
    /// watchdog its sign of life.
    pub(crate) fn pass_by(
        &mut self,
        router: &mut Router,
        storage: &Storage,
        turns: &Histogram,
        now: Instant,
    ) {
        if self.hooks.as_ref().is_some_and(Runner::is_gone) {
            self.hooks = None;
            self.set_tap(router);
            tracing::error!(
                target: target::HOOKS,
                "the hooks' thread has ended: no hook runs until a reload or a restart"
            );
        }
        self.show_tapped(router, storage);
        if let Some((_, requests)) = &self.metrics {
            let replies = requests.take();
            if !replies.is_empty() {
                let snapshot = Arc::new(self.snapshot(router, storage, turns, now));
                replies.into_iter().for_each(|reply| reply.send(snapshot.clone()));
            }
        }
        self.supervisor.tick(now);
    }

    /// How long the driver may sleep until it has to pass by again.
    pub(crate) fn due(&self, router: &Router, now: Instant) -> Option<Duration> {
        let tap = router.has_tapped().then_some(TAP_AGAIN);
        tap.into_iter().chain(self.supervisor.due(now)).min()
    }

    /// What was routed goes into the history and to the hooks.
    fn show_tapped(&mut self, router: &mut Router, storage: &Storage) {
        let depth = self.history_depth().filter(|_| storage.is_open());
        let Surroundings { hooks, recorded, .. } = self;
        if let Some(runner) = hooks {
            while let Some(spent) = runner.take_spent() {
                router.recycle_tapped(spent);
            }
        }
        let mut done_with = None;
        router.offer_tapped(|batch| {
            if let Some(depth) = depth {
                storage.record_history(recorded.entries(&batch, depth));
            }
            match hooks {
                Some(runner) => runner.offer(batch).inspect_err(|kept| recorded.is_kept(kept))?,
                None => done_with = Some(batch),
            }
            *recorded = Recorded::default();
            Ok(())
        });
        if let Some(spent) = done_with {
            router.recycle_tapped(spent);
        }
    }

    pub(crate) fn snapshot(
        &self,
        router: &mut Router,
        storage: &Storage,
        turns: &Histogram,
        now: Instant,
    ) -> Snapshot {
        let endpoints = router.endpoints().map(|(details, pending_bytes_peak)| Endpoint {
            details,
            pending_bytes_peak: pending_bytes_peak as u64,
        });
        Snapshot {
            endpoints: endpoints.collect(),
            server: router.config().server.clone(),
            uptime_s: now.duration_since(self.began).as_secs_f64(),
            connections: router.connections(),
            router: router.counters().clone(),
            usage: router.usage(),
            delivery: router.delivery().clone(),
            turns: turns.clone(),
            hooks: self.hooks.as_ref().map(Runner::counters),
            store: storage.measured(),
        }
    }

    // ---- reload and end ---------------------------------------------------------------------------

    /// Reads the configuration and the hooks again, and applies what can be applied. On an error in
    /// either, all stays as it was.
    ///
    /// # Errors
    /// What is wrong with the new one, a line each.
    pub(crate) fn reload(&mut self, router: &mut Router) -> Result<Reloaded, Vec<String>> {
        let loaded = self.sources.load().map_err(|error| error.lines())?;
        let found = self.find_hooks();
        if !found.errors.is_empty() {
            return Err(found.errors);
        }
        let changes = Changes::between(&self.settings, &loaded.settings);
        let settings = self.settings.reloaded(&loaded.settings);
        self.logging.apply(&settings.log).map_err(|error| vec![format!("log: {error}")])?;
        // Whether the store is open is nothing that the configuration can say.
        let store = router.config().store;
        router.configure(Config { store, ..settings.router.clone() });
        self.settings = settings;
        let mut warnings = loaded.warnings;
        for warning in &warnings {
            tracing::warn!(target: target::CONFIG, "{warning}");
        }
        warnings.extend(found.warnings.iter().cloned());
        let lines = |changes: Vec<_>| changes.iter().map(ToString::to_string).collect();
        let Changes { applied, need_restart } = changes;
        let mut applied: Vec<String> = lines(applied);
        if found.hooks != self.found.hooks {
            applied.push(format!("hooks: {}", found.listing()));
        }
        self.run_hooks(found, router);
        Ok(Reloaded { applied, need_restart: lines(need_restart), warnings })
    }

    /// Takes note of the process that had the bus before. When the bus is stopped, it is to end, too.
    pub(crate) fn follow(&mut self, predecessor: Option<Process>) {
        self.predecessor = predecessor;
    }

    /// The bus ends: calls of hooks that wait are dropped, hooks that run are asked to end.
    pub(crate) fn end(mut self, router: &mut Router) {
        if let Some(predecessor) = self.predecessor.take() {
            // It may have ended long ago.
            let _ = predecessor.signal(Signal::TERM);
        }
        self.end_hooks(router);
    }

    fn end_hooks(self, router: &mut Router) {
        if let Some(runner) = self.hooks {
            router.offer_tapped(|batch| runner.offer(batch));
            runner.stop(HOOKS_PATIENCE);
        }
    }

    /// Another process goes on with the bus: this one lives on, without any of it, until its hooks have
    /// done their work, at most for as long as one hook may run, or a signal ends it.
    pub(crate) fn finish_hooks(mut self, router: &mut Router, signals: &mut Signals) {
        drop(self.metrics.take());
        if let Some(runner) = &self.hooks {
            let until = Instant::now() + self.settings.hooks.timeout;
            // What the thread could not take yet is offered again; the tap has bounds.
            while !runner.is_gone() && (router.has_tapped() || !runner.is_idle()) {
                router.offer_tapped(|batch| runner.offer(batch));
                if signals.take().contains(&Wish::Stop) {
                    return self.end(router);
                }
                if Instant::now() > until {
                    break;
                }
                std::thread::sleep(FINISH_LOOK);
            }
        }
        self.end_hooks(router);
    }
}

/// The router's configuration in a server of this version, which belongs to this process's user.
pub(crate) fn router_config(settings: &Settings) -> Config {
    let owner_uid = rustix::process::geteuid().as_raw();
    Config { owner_uid, admin_ops: crate::control::OPS, ..settings.router.clone() }
}
