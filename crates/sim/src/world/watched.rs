//! The router with everybody who watches it: each call goes through here, and the model hears of it.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use bytes::Bytes;
use hermes_bus_core::{
    CloseReason, Config, Credentials, Effect, Lingering, Next, Now, Payload, Probed, Reading,
    Router, SessionKey, TapBatch,
};
use hermes_bus_proto::FrameError;

use super::digest::Digest;
use super::trail::Trail;
use crate::call::{Call, View, Violation};
use crate::{Coverage, Model};

/// The rule for what the driver itself can see.
pub(super) const DRIVER: &str = "driver";

/// A router that is watched.
pub(super) struct Watched {
    router: Router,
    model: Model,
    pub(super) coverage: Coverage,
    pub(super) trail: Trail,
    digest: Digest,
    pub(super) now: Now,
    pub(super) calls: u64,
    /// Messages that earlier routers took.
    earlier_messages: u64,
    /// Sessions that the router has not closed yet, by their index.
    alive: Vec<Option<SessionKey>>,
    /// What is still to be carried out.
    pub(super) pending: VecDeque<Effect>,
    /// The bytes of the last write.
    bytes: Vec<u8>,
}

/// A write as far as it went.
pub(super) struct Wrote {
    /// Bytes that the router had to give.
    pub(super) offered: usize,
    /// Bytes that the socket took.
    pub(super) taken: usize,
}

impl Watched {
    /// Makes the first router.
    pub(super) fn new(config: &Config, seed: u64) -> Self {
        Watched {
            router: Router::new(config.clone(), seed),
            model: Model::default(),
            coverage: Coverage::default(),
            trail: Trail::default(),
            digest: Digest::default(),
            now: Now::default(),
            calls: 0,
            earlier_messages: 0,
            alive: Vec::new(),
            pending: VecDeque::new(),
            bytes: Vec::new(),
        }
    }

    /// To look at. What takes `&mut` is called here.
    pub(super) fn router(&self) -> &Router {
        &self.router
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest.finish()
    }

    /// Messages that all routers took.
    pub(super) fn messages(&self) -> u64 {
        self.earlier_messages + self.router.counters().messages
    }

    /// After each call: takes its effects, and tells everybody.
    fn hear(&mut self, call: &Call<'_>) -> Result<(), Violation> {
        let effects = self.router.take_effects();
        self.calls += 1;
        self.trail.call(self.now.moment.as_micros(), call, &effects);
        self.coverage.call(call, &effects);
        for effect in &effects {
            self.take_note(effect)?;
        }
        let view = View { router: &mut self.router, effects: &effects, now: self.now };
        self.model.after(call, view)?;
        self.pending.extend(effects);
        Ok(())
    }

    /// What can be said of an effect without knowing anything about routing.
    fn take_note(&mut self, effect: &Effect) -> Result<(), Violation> {
        let digest = &mut self.digest;
        let (kind, key) = match effect {
            Effect::Close(key, reason) => {
                digest.write(reason.as_str().as_bytes());
                (1, *key)
            }
            Effect::Resume(key) => (2, *key),
            Effect::Admin(key, payload) => {
                digest.write(payload);
                (3, *key)
            }
            // The model takes offence at it.
            Effect::Store(..) | Effect::LookWhetherRead(_) | Effect::Trace(..) => return Ok(()),
            Effect::Log(event) => {
                let fields = event.fields();
                digest.write(fields.event.as_bytes());
                digest.write(fields.endpoint.unwrap_or_default().as_bytes());
                digest.write_u64(fields.messages.unwrap_or_default());
                digest.write_u64(fields.bytes.unwrap_or_default());
                return Ok(());
            }
        };
        digest.write_u32(kind);
        key.hash(digest);
        let slot = self.alive.get_mut(key.index());
        match slot {
            Some(slot) if *slot == Some(key) => {
                if kind == 1 {
                    *slot = None;
                }
                Ok(())
            }
            _ => Err(Violation::new(DRIVER, format!("{effect:?} is for a session that is closed"))),
        }
    }

    // ---- the router's life ------------------------------------------------------------------------

    /// Says that the router has begun, with a tap if there is to be one.
    pub(super) fn began(
        &mut self,
        config: &Config,
        restored: &[Lingering],
        tap_bytes_max: Option<usize>,
    ) -> Result<(), Violation> {
        self.router.set_tap(tap_bytes_max);
        self.hear(&Call::Began { config, restored })
    }

    /// Another router takes the place of this one, which left `left`, if anything could be left.
    pub(super) fn replace(
        &mut self,
        config: &Config,
        seed: u64,
        left: Option<Vec<Lingering>>,
        tap_bytes_max: Option<usize>,
    ) -> Result<(), Violation> {
        self.hear(&Call::Ended { left: left.as_deref() })?;
        let left = left.unwrap_or_default();
        self.coverage.counters(self.router.counters());
        self.earlier_messages += self.router.counters().messages;
        self.pending.clear();
        self.alive.clear();
        self.router = Router::new(config.clone(), seed);
        self.router.begin_turn(self.now);
        if !left.is_empty() {
            self.router.restore(left.clone());
        }
        self.began(config, &left, tap_bytes_max)
    }

    /// The end of it all.
    pub(super) fn finish(&mut self) -> Result<(), Violation> {
        self.coverage.counters(self.router.counters());
        let view = View { router: &mut self.router, effects: &[], now: self.now };
        self.model.finish(view)
    }

    // ---- calls ------------------------------------------------------------------------------------

    pub(super) fn begin_turn(&mut self, now: Now) -> Result<(), Violation> {
        self.now = now;
        self.router.begin_turn(now);
        self.hear(&Call::TurnBegan)
    }

    pub(super) fn end_turn(&mut self) -> Result<(), Violation> {
        self.router.end_turn();
        self.hear(&Call::TurnEnded)
    }

    pub(super) fn connected(&mut self, credentials: Credentials) -> Result<SessionKey, Violation> {
        let key = self.router.connected(credentials);
        key.hash(&mut self.digest);
        if self.alive.len() <= key.index() {
            self.alive.resize(key.index() + 1, None);
        }
        if self.alive[key.index()].replace(key).is_some() {
            return Err(Violation::new(DRIVER, format!("{key:?} takes the place of another one")));
        }
        self.hear(&Call::Connected { key, credentials })?;
        Ok(key)
    }

    pub(super) fn reading(&mut self, key: SessionKey) -> Result<Reading, Violation> {
        let reading = self.router.reading(key);
        self.digest.write_u64(match reading {
            Reading::UpTo(bytes) => bytes as u64,
            Reading::Held => 0,
            Reading::Over => u64::MAX - 1,
        });
        if reading == Reading::UpTo(0) {
            return Err(Violation::new(DRIVER, "reading allows 0 bytes"));
        }
        self.hear(&Call::Reading { key, reading })?;
        Ok(reading)
    }

    pub(super) fn frame(
        &mut self,
        key: SessionKey,
        payload: Payload<'_>,
        probed: Probed,
    ) -> Result<Next, Violation> {
        let next = self.router.frame(key, payload, probed);
        self.digest.write_u32(match next {
            Next::Taken => 1,
            Next::TakenThenHold => 2,
            Next::Hold => 3,
            Next::Probe(_) => 4,
            Next::Finished => 5,
        });
        self.hear(&Call::Frame { key, payload: payload.bytes(), probed, next })?;
        if probed == Probed::Yes && matches!(next, Next::Probe(_)) {
            return Err(Violation::new(DRIVER, "asked to look a second time"));
        }
        Ok(next)
    }

    pub(super) fn refuse_frame(
        &mut self,
        key: SessionKey,
        error: FrameError,
    ) -> Result<(), Violation> {
        self.router.refuse_frame(key, error);
        self.hear(&Call::FrameRefused { key, error })
    }

    pub(super) fn buffered(
        &mut self,
        key: SessionKey,
        bytes: usize,
        missing: Option<usize>,
    ) -> Result<(), Violation> {
        self.router.buffered(key, bytes, missing);
        self.hear(&Call::Buffered { key, bytes, missing })
    }

    pub(super) fn eof(&mut self, key: SessionKey) -> Result<(), Violation> {
        self.router.eof(key);
        self.hear(&Call::Eof { key })
    }

    pub(super) fn leaving(&mut self, key: SessionKey) -> Result<(), Violation> {
        self.router.leaving(key);
        self.hear(&Call::Leaving { key })
    }

    pub(super) fn deaf(&mut self, key: SessionKey) -> Result<(), Violation> {
        self.router.deaf(key);
        self.hear(&Call::Deaf { key })
    }

    pub(super) fn closed(&mut self, key: SessionKey, reason: CloseReason) -> Result<(), Violation> {
        self.router.closed(key, reason);
        self.hear(&Call::Closed { key, reason })
    }

    pub(super) fn take_dirty(&mut self) -> Vec<SessionKey> {
        self.router.take_dirty()
    }

    pub(super) fn recycle_dirty(&mut self, dirty: Vec<SessionKey>) {
        self.router.recycle_dirty(dirty);
    }

    /// Offers the socket what is next, of which it takes at most so much.
    pub(super) fn write(&mut self, key: SessionKey, bytes_max: usize) -> Result<Wrote, Violation> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let mut offered = 0;
        for slice in self.router.next_write(key) {
            offered += slice.len();
            let taken = slice.len().min(bytes_max - bytes.len());
            bytes.extend_from_slice(&slice[..taken]);
        }
        let taken = bytes.len();
        if taken > 0 {
            self.digest.write(&bytes);
            key.hash(&mut self.digest);
            self.router.written(key, taken, self.now.moment);
            self.hear(&Call::Written { key, bytes: &bytes })?;
        }
        if taken < offered {
            self.router.write_blocked(key);
        }
        // What one large message took is not kept for all time.
        bytes.shrink_to(1 << 20);
        self.bytes = bytes;
        Ok(Wrote { offered, taken })
    }

    pub(super) fn more_input(&mut self, key: SessionKey) -> Result<(), Violation> {
        self.router.more_input(key);
        self.hear(&Call::MoreInput { key })
    }

    pub(super) fn configure(&mut self, config: &Config) -> Result<(), Violation> {
        self.router.configure(config.clone());
        self.hear(&Call::Configured { config })
    }

    pub(super) fn answer_admin(&mut self, key: SessionKey, frame: &[u8]) -> Result<(), Violation> {
        self.router.answer_admin(key, frame);
        self.hear(&Call::AdminAnswered { key, frame })
    }

    pub(super) fn shut_down(&mut self) -> Result<(), Violation> {
        self.router.shut_down();
        self.hear(&Call::ShutDown)
    }

    pub(super) fn end_named_sessions(&mut self) -> Result<(), Violation> {
        self.router.end_named_sessions();
        self.hear(&Call::NamedSessionsEnded)
    }

    pub(super) fn take_waiting_senders(&mut self) -> Result<Vec<(SessionKey, Bytes)>, Violation> {
        let taken = self.router.take_waiting_senders();
        self.hear(&Call::WaitingSendersTaken { taken: &taken })?;
        Ok(taken)
    }

    /// Offers what the tap has to somebody who takes it, or gives it back.
    pub(super) fn offer_tapped(&mut self, is_refused: bool) -> Result<(), Violation> {
        let mut taken: Option<TapBatch> = None;
        self.router.offer_tapped(|batch| {
            if is_refused {
                return Err(batch);
            }
            taken = Some(batch);
            Ok(())
        });
        let Some(batch) = taken else { return Ok(()) };
        self.digest.write_usize(batch.len());
        self.hear(&Call::Tapped { batch: &batch })?;
        self.router.recycle_tapped(batch);
        Ok(())
    }

    /// Nothing can still be on its way.
    pub(super) fn settled(&mut self) -> Result<(), Violation> {
        self.hear(&Call::Settled)
    }
}
