//! What a frame does: it is dispatched to what it asks for, answered, or refused.

use hermes_bus_core::{CloseReason, Effect, Next, Probed, SessionKey};
use hermes_bus_proto::limits::{self};
use hermes_bus_proto::listing::{Level, level_asked};
use hermes_bus_proto::{Envelope, ErrorCode, FrameError, Kind};

use crate::call::{View, Violation};

use super::session::{self, Owed, OwedId};
use super::{Checked, Expected, Model, Told, ensure};

/// The shortest answer, without the bookkeeping.
const PONG_BYTES: usize = limits::HEADER_BYTES + br#"{"type": "pong"}"#.len();

/// A frame that was offered.
pub(super) struct Offered<'a> {
    pub(super) key: SessionKey,
    pub(super) payload: &'a [u8],
    pub(super) probed: Probed,
    pub(super) next: Next,
}

impl Offered<'_> {
    pub(super) fn is_taken(&self) -> bool {
        matches!(self.next, Next::Taken | Next::TakenThenHold)
    }

    pub(super) fn must_be(&self, holds: bool) -> Checked {
        let text = String::from_utf8_lossy(&self.payload[..self.payload.len().min(120)]);
        ensure!(holds, "answer", "{:?} to {text} of {:?}", self.next, self.key);
        Ok(())
    }
}

impl Model {
    pub(super) fn frame(
        &mut self,
        offered: &Offered<'_>,
        view: &mut View<'_>,
        expected: &mut Expected,
    ) -> Checked {
        let key = offered.key;
        if self.open(key).is_none() {
            offered.must_be(offered.next == Next::Finished)?;
            ensure!(view.effects.is_empty(), "end", "{key:?} has ended: {:?}", view.effects);
            return Ok(());
        }
        let envelope = match Envelope::scan(offered.payload) {
            Ok(envelope) => envelope,
            Err(error) => {
                offered.must_be(offered.next == Next::Finished)?;
                expected.refused_frames = 1;
                self.refuse(key, error.code(), OwedId::None);
                return self.take_effects(view, &mut Told::default(), expected);
            }
        };
        match envelope.kind {
            Kind::Message => self.message(offered, &envelope, view, expected)?,
            Kind::Register => self.register(offered, &envelope, view, expected)?,
            Kind::Ping | Kind::ListEndpoints if offered.next == Next::Hold => {
                let too_many = view.router.usage().answers >= self.config.answer_bytes_total_max;
                let session = self.session(key)?;
                ensure!(
                    session.may_be_owed() && too_many,
                    "hold",
                    "{key:?} is to read its answers first: {:?}",
                    session.answers
                );
                session.holds.answers = true;
                self.take_effects(view, &mut Told::default(), expected)?;
            }
            Kind::Ping => {
                offered.must_be(offered.is_taken())?;
                self.taken(key)?.owe(Owed::Pong);
                self.check_answers_have_a_limit(offered)?;
                self.take_effects(view, &mut Told::default(), expected)?;
            }
            Kind::ListEndpoints => {
                offered.must_be(offered.is_taken())?;
                let level = level_asked(envelope.protocol);
                let entries = self.registered.iter().map(|key| {
                    let session = &self.sessions[key];
                    (session.name.clone().unwrap_or_default(), session.session_id.clone())
                });
                let entries = entries.collect();
                self.taken(key)?.owe(Owed::Listing { level, entries });
                self.check_answers_have_a_limit(offered)?;
                self.take_effects(view, &mut Told::default(), expected)?;
            }
            Kind::Admin if level_asked(envelope.protocol) == Level::Two => {
                offered.must_be(offered.is_taken())?;
                let owner = self.config.owner_uid;
                let session = self.taken(key)?;
                let may_ask = [0, owner].contains(&session.credentials.uid);
                if !may_ask {
                    expected.refused_admin = 1;
                    session.owe_error(ErrorCode::Forbidden, OwedId::None);
                }
                let is_asked = view.effects.iter().any(|effect| match effect {
                    Effect::Admin(asker, payload) => *asker == key && *payload == offered.payload,
                    _ => false,
                });
                ensure!(is_asked == may_ask, "admin", "passed on: {is_asked}, may ask: {may_ask}");
                self.take_effects(view, &mut Told::default(), expected)?;
            }
            _ => {
                offered.must_be(offered.is_taken())?;
                self.taken(key)?;
                expected.ignored_unknown_type = 1;
                self.take_effects(view, &mut Told::default(), expected)?;
            }
        }
        if offered.next == Next::TakenThenHold {
            self.held_after_frame(key, offered.payload.len())?;
        }
        Ok(())
    }

    /// Who has too many answers to read may not ask further.
    fn check_answers_have_a_limit(&mut self, offered: &Offered<'_>) -> Checked {
        let max = self.config.answer_bytes_max;
        let session = self.session(offered.key)?;
        let answers = session.answers.len() + session.late.len();
        ensure!(
            offered.next == Next::TakenThenHold || session.is_deaf || answers * PONG_BYTES <= max,
            "budget",
            "{:?} has {answers} answers to read, which are more than {max} bytes, and may ask on",
            offered.key
        );
        Ok(())
    }

    /// The bytes that arrived can never become a frame.
    pub(super) fn frame_refused(
        &mut self,
        key: SessionKey,
        error: FrameError,
        expected: &mut Expected,
    ) {
        expected.refused_frames = 1;
        if self.open(key).is_some() {
            self.refuse(key, error.code(), OwedId::None);
        }
    }

    /// Tells a peer what it did wrong, and reads nothing more of it.
    pub(super) fn refuse(&mut self, key: SessionKey, code: ErrorCode, id: OwedId) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.owe_error(code, id);
        }
        self.finish_session(key, CloseReason::Refused);
    }

    pub(super) fn session(&mut self, key: SessionKey) -> Result<&mut session::Session, Violation> {
        let unknown = || Violation::new("end", format!("{key:?} has ended"));
        self.sessions.get_mut(&key).ok_or_else(unknown)
    }

    /// A frame of this session was taken.
    pub(super) fn taken(&mut self, key: SessionKey) -> Result<&mut session::Session, Violation> {
        let (turn, now) = (self.turn, self.now.moment);
        let session = self.session(key)?;
        session.frame_taken(turn, now);
        Ok(session)
    }
}
