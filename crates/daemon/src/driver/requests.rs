//! What the daemon's owner asks for while it runs: a reload, and another process to follow this one.

use bytes::Bytes;
use hermes_bus_core::{CloseReason, SessionKey};
use hermes_bus_proto::ErrorCode;
use serde_json::json;

use super::{DOOR, Driver, Ended, SUCCESSOR};
use crate::control::{self, Asker, Operation};
use crate::logging::target;
use crate::succession::{Newcomer, Order, Progress, Succession};
use crate::surroundings::Reloaded;
use crate::sys;

impl Driver {
    pub(super) fn on_admin(&mut self, key: SessionKey, payload: &Bytes) {
        match control::read(key, payload) {
            Err(refusal) => self.router.answer_admin(key, &refusal),
            Ok((asker, Operation::Reload)) if self.succession.is_some() => {
                self.refuse(&asker, ErrorCode::ShuttingDown, "another process is about to follow");
            }
            Ok((asker, Operation::Reload)) => {
                let answer = match self.reload() {
                    Ok(Reloaded { applied, need_restart, warnings }) => asker.result(json!({
                        "applied": applied, "need_restart": need_restart, "warnings": warnings,
                    })),
                    Err(lines) => asker.refusal(ErrorCode::Rejected, &lines.join("\n")),
                };
                self.router.answer_admin(key, &answer);
            }
            Ok((asker, Operation::Restart)) => self.begin_succession(asker),
            Ok((asker, operation)) => self.on_question(asker, operation),
        }
    }

    /// Reads the configuration and the hooks again, and says in the log what came of it.
    pub(super) fn reload(&mut self) -> Result<Reloaded, Vec<String>> {
        self.surroundings.supervisor().reloading();
        let outcome = self.surroundings.reload(&mut self.router);
        if let Some(door) = &mut self.door {
            door.set_open_to_others(!self.router.config().allow_uids.is_empty());
        }
        match &outcome {
            Ok(Reloaded { applied, need_restart, .. }) => {
                self.storage.reload(self.surroundings.settings());
                tracing::info!(target: target::CONFIG, "reloaded; changes: {}", applied.len());
                for change in applied {
                    tracing::info!(target: target::CONFIG, "{change}");
                }
                for change in need_restart {
                    tracing::warn!(target: target::CONFIG, "{change}: needs a restart");
                }
            }
            Err(lines) => {
                for line in lines {
                    tracing::error!(target: target::CONFIG, "{line}");
                }
                tracing::error!(target: target::CONFIG, "the old configuration goes on");
            }
        }
        self.surroundings.supervisor().ready("running");
        outcome
    }

    fn begin_succession(&mut self, asker: Asker) {
        if self.succession.is_some() || self.stopping {
            let what = "the bus is about to end already";
            return self.refuse(&asker, ErrorCode::ShuttingDown, what);
        }
        let begun = Order::take(&self.root).and_then(|order| {
            Succession::begin(&order, &self.root, self.mode, self.surroundings.sources())
        });
        match begun {
            Ok(mut succession) => {
                if let Err(error) = succession.register(self.poll.registry(), SUCCESSOR) {
                    tracing::error!(target: target::BUS, "the next process cannot be watched: {error}");
                }
                tracing::info!(target: target::BUS, "starting the process that follows (pid={})", succession.pid());
                self.succession = Some((succession, asker));
            }
            Err(error) => {
                tracing::error!(target: target::BUS, "no other process can follow: {error:#}");
                self.refuse(&asker, ErrorCode::Rejected, &format!("{error:#}"));
            }
        }
    }

    pub(super) fn refuse(&mut self, asker: &Asker, code: ErrorCode, detail: &str) {
        let refusal = asker.refusal(code, detail);
        self.router.answer_admin(asker.key, &refusal);
    }

    /// As soon as the next process is ready, this one ends its connections. Whoever comes now waits.
    pub(super) fn look_at_successor(&mut self) {
        let Some((succession, asker)) = &mut self.succession else { return };
        if self.stopping {
            return;
        }
        match succession.look() {
            Progress::NotReady => {}
            Progress::Failed(why) => {
                tracing::error!(target: target::BUS, "the process that was to follow failed: {why}; this one goes on");
                let asker = asker.clone();
                self.refuse(&asker, ErrorCode::Rejected, &why);
                self.succession = None;
            }
            Progress::Ready => {
                let pid = succession.pid();
                tracing::info!(target: target::BUS, "handing over to pid={pid}");
                let answer = asker.result(json!({"pid": pid}));
                self.router.answer_admin(asker.key, &answer);
                succession.deregister(self.poll.registry());
                self.end_for_successor();
            }
        }
    }

    /// Ends all connections so that the next process can go on: with those that have heard nothing yet,
    /// and with what is held for all names.
    fn end_for_successor(&mut self) {
        if let Some(door) = &mut self.door
            && let Err(error) = door.deregister(self.poll.registry())
        {
            tracing::error!(target: target::BUS, "the socket is still watched: {error}");
        }
        self.read_what_has_arrived();
        let quiet = self.router.untouched().into_iter().map(|key| (key, Bytes::new()));
        let waiting = self.router.take_waiting_senders();
        for (key, sent) in quiet.chain(waiting).collect::<Vec<_>>() {
            let connection = self.close(key);
            let newcomer =
                connection.map(|connection| Newcomer { stream: connection.stream, sent });
            self.newcomers.extend(newcomer);
            self.router.closed(key, CloseReason::ShuttingDown);
        }
        let usual = self.router.config().clone();
        self.shut_down(usual.before_a_successor());
        self.usual = Some(usual);
        // A receiver that does not read must not have all others wait for the next process.
        self.write_dirty();
        self.router.end_named_sessions();
        self.carry_out_effects();
    }

    /// Goes on with connections that have heard nothing yet.
    pub(crate) fn take_in(&mut self, newcomers: Vec<Newcomer>) {
        for Newcomer { stream, sent } in newcomers {
            match sys::peer_credentials(&stream) {
                Ok(credentials) => {
                    let key = self.router.connected(credentials);
                    self.admit(key, stream);
                    self.keep_again(key, sent.into(), 0);
                    self.make_ready(key);
                }
                Err(error) => {
                    tracing::warn!(target: target::DOOR, "a peer without credentials: {error}");
                }
            }
        }
    }

    /// After the last connection has ended: gives the next process, if there is one, what it needs. If
    /// that fails, this process goes on.
    pub(super) fn hand_over(&mut self) -> std::io::Result<Option<Ended>> {
        let Some((succession, _)) = self.succession.take() else { return Ok(Some(Ended::Stopped)) };
        let Some(door) = self.door.take() else { return Ok(Some(Ended::Stopped)) };
        let pid = succession.pid();
        let newcomers = std::mem::take(&mut self.newcomers);
        self.surroundings.supervisor().hand_over(pid);
        let left = self.router.lingering();
        let seq_next = self.router.seq_next();
        let let_go = || self.storage.close(seq_next);
        match succession.hand_over(&door, &self.lock, &newcomers, &left, let_go) {
            Ok(()) => {
                tracing::info!(target: target::BUS, "handed over to pid={pid}");
                door.leave();
                Ok(Some(Ended::HandedOver))
            }
            Err(error) => {
                tracing::error!(target: target::BUS, "{error:#}; this process goes on");
                self.surroundings.supervisor().hand_over(std::process::id());
                self.stopping = false;
                if let Some(usual) = self.usual.take() {
                    self.router.configure(usual);
                }
                self.door_is_ready = true;
                self.door.insert(door).register(self.poll.registry(), DOOR)?;
                self.take_in(newcomers);
                Ok(None)
            }
        }
    }
}
