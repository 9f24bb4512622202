//! The thread that writes.
//!
//! It takes all that was given, carries it out in one transaction, and answers when that is durable.
//! What fails is taken back: new messages are refused, everything else is kept here and tried again,
//! about once a second, until the disk takes a synced write again.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hermes_bus_core::storage::{Answer, Order, Ticket};

use crate::database::Database;
use crate::execution::{self, Changes, Execution, Outcome};
use crate::history;
use crate::load::{self, Overlay};
use crate::notice::Notice;
use crate::open;
use crate::options::Options;
use crate::queue::{Ending, HistoryIs, Next, Shared, Work};
use crate::retention::{self, RemovedDead};
use crate::rows::Names;
use crate::schema::{self, META_SEQ_FROM, META_UNCLEAN};
use crate::search::Search;
use crate::store::{CloseError, Unavailable};

/// What the thread owns.
pub(crate) struct Writer {
    pub(crate) options: Options,
    pub(crate) shared: Arc<Shared>,
    pub(crate) wake: Arc<dyn Fn() + Send + Sync>,
    pub(crate) ended: Sender<Result<(), CloseError>>,
    pub(crate) database: Database,
    pub(crate) names: Names,
    /// The first `seq` of this process. Spilled messages below it are gone.
    pub(crate) seq_from: u64,
    /// Above every `seq` of an order.
    pub(crate) seq_next: u64,
    pub(crate) last_ticket: Ticket,
    pub(crate) trouble: Option<Trouble>,
    pub(crate) damage: Damage,
    pub(crate) search: Search,
    pub(crate) chores: Chores,
}

/// Why nothing can be written, and what waits for that to end.
pub(crate) struct Trouble {
    why: String,
    try_again_at: Instant,
    /// Orders that must be carried out.
    waiting: Vec<Work>,
    /// What of them a reader must be told already.
    overlay: Overlay,
    /// Whether the connection cannot be trusted any more.
    needs_reopening: bool,
}

/// What is wrong with the database's content.
#[derive(Default)]
pub(crate) struct Damage {
    /// It has to be replaced, for this reason.
    why: Option<String>,
    /// That was done once. What is damaged again soon is on a disk that had better be left alone.
    was_replaced: bool,
}

/// What is done when there is nothing else to do.
pub(crate) struct Chores {
    /// When retention is looked after next.
    pub(crate) retention_at: Instant,
    /// When the index is looked after next, although there is no pause.
    pub(crate) search_at: Instant,
    /// When the last work was carried out.
    pub(crate) last_work: Instant,
    /// Whether spilled messages of an earlier process may be left.
    pub(crate) has_old_spills: bool,
    /// Whether words of new messages are still added.
    pub(crate) is_search_on: bool,
    /// Dead letters that retention has removed, and nobody has been told of.
    pub(crate) removed_dead: RemovedDead,
    /// When that may be told next.
    pub(crate) removed_dead_told_at: Instant,
}

/// After so long without work there is a pause.
const PAUSE: Duration = Duration::from_millis(20);
/// How often retention is looked after.
const RETENTION_EVERY: Duration = Duration::from_secs(1);
/// The same while there is more to remove than one step may.
const RETENTION_STEP_EVERY: Duration = Duration::from_millis(25);
/// How often the index takes a step where there is no pause.
const SEARCH_EVERY: Duration = Duration::from_millis(100);
/// Bytes of history of one commit.
const HISTORY_STEP_BYTES: usize = 1024 * 1024;
/// Spilled messages of an earlier process that are removed at a time.
const OLD_SPILLS_STEP: u32 = 2_000;
/// A synced write of so many bytes shows that the disk takes something.
const PROBE_BYTES: u32 = 256 * 1024;
/// Free pages that are given back to the file system at a time, and how many may stay.
const VACUUM_STEP_PAGES: u64 = 256;
/// See [`VACUUM_STEP_PAGES`]: 64 MiB.
const FREE_PAGES_MAX: u64 = 16 * 1024;
/// The database is left alone for so long before it is made smaller.
const VACUUM_AFTER: Duration = Duration::from_secs(2);

impl Writer {
    /// Runs until the handle ends it.
    pub(crate) fn run(mut self) {
        let mut has_chores = true;
        loop {
            let idle_at = self.idle_at(has_chores);
            let history =
                if self.trouble.is_none() { HistoryIs::Welcome } else { HistoryIs::Unwelcome };
            match self.shared.next(idle_at, self.options.gather, history) {
                Next::Work(work) => {
                    self.turn(work);
                    self.chores.last_work = Instant::now();
                }
                Next::Idle => {}
                Next::End(ending) => {
                    let result = self.end(ending);
                    let ended = self.ended.clone();
                    // The files are let go of before the lock is.
                    drop(self);
                    // Nobody waits for it any more if the handle was dropped.
                    let _ = ended.send(result);
                    return;
                }
            }
            has_chores = self.between();
        }
    }

    fn idle_at(&self, has_chores: bool) -> Instant {
        if let Some(trouble) = &self.trouble {
            return trouble.try_again_at;
        }
        if has_chores { self.chores.last_work + PAUSE } else { self.chores.retention_at }
    }

    fn is_pause(&self) -> bool {
        self.chores.last_work.elapsed() >= PAUSE && !self.shared.has_work()
    }

    // Work.

    fn turn(&mut self, work: Vec<Work>) {
        for one in &work {
            let Work::Order(ticket, order) = one else { continue };
            self.last_ticket = self.last_ticket.max(*ticket);
            if let Some(seq) = highest_seq(order) {
                self.seq_next = self.seq_next.max(seq.saturating_add(1));
            }
        }
        if self.trouble.is_some() {
            self.turn_in_trouble(work);
        } else {
            match self.write(&work) {
                Ok(outcome) => return self.settle(work, outcome),
                Err(error) => self.fail(work, &error),
            }
        }
        (self.wake)();
    }

    /// Carries out work in one commit; work that only reads, without one.
    fn write(&mut self, work: &[Work]) -> rusqlite::Result<Outcome> {
        let only_reads = work.iter().all(|work| {
            matches!(work, Work::Order(_, Order::Load { .. } | Order::LoadOverdue { .. }))
        });
        if !only_reads {
            self.database.begin()?;
        }
        let (connection, names) = (&self.database.connection, &mut self.names);
        let mut execution = Execution::begin(connection, names, self.seq_from, now_unix_us())?;
        for work in work {
            execution.carry_out(work)?;
        }
        let outcome = execution.finish()?;
        if !only_reads {
            self.database.commit()?;
        }
        Ok(outcome)
    }

    fn settle(&mut self, mut work: Vec<Work>, outcome: Outcome) {
        let Outcome { mut answers, notices, removed_dead, changes } = outcome;
        answers.push(Answer::Stored(self.last_ticket));
        self.shared.answer(answers);
        for notice in notices {
            if let Notice::Unreadable { why, .. } = &notice {
                self.note_damage(why);
            }
            self.shared.notice(notice);
        }
        self.note_changes(changes);
        let mut removed = removed_dead.into_iter();
        for one in work.extract_if(.., |one| matches!(one, Work::RemoveDead(..))) {
            let Work::RemoveDead(_, done) = one else { continue };
            done(Ok(removed.next().unwrap_or(0)));
        }
        self.shared.give_back(work);
        (self.wake)();
    }

    fn note_changes(&mut self, changes: Changes) {
        if self.chores.is_search_on {
            self.search.note(changes);
        }
    }

    // Trouble.

    /// Nothing of this work was written.
    fn fail(&mut self, work: Vec<Work>, error: &rusqlite::Error) {
        self.take_back();
        if schema::is_damage(error) {
            self.note_damage(&error.to_string());
            let written = self.replace_if_damaged().and_then(|()| self.write(&work));
            match written {
                Ok(outcome) => return self.settle(work, outcome),
                Err(error) => return self.begin_trouble(work, &error),
            }
        }
        self.begin_trouble(work, error);
    }

    fn begin_trouble(&mut self, work: Vec<Work>, error: &rusqlite::Error) {
        self.take_back();
        let why = error.to_string();
        self.shared.answer(vec![Answer::Trouble(Some(why.clone()))]);
        self.trouble = Some(Trouble {
            why,
            try_again_at: Instant::now() + self.options.retry,
            waiting: Vec::new(),
            overlay: Overlay::default(),
            needs_reopening: !is_full(error),
        });
        self.turn_in_trouble(work);
        if is_full(error) {
            // Where only room is missing, what makes room can often still be written.
            self.write_waiting();
        }
    }

    fn turn_in_trouble(&mut self, work: Vec<Work>) {
        let Some(trouble) = &mut self.trouble else { return };
        let tickets = execution::kept_tickets(&work);
        if !tickets.is_empty() {
            let why = trouble.why.clone();
            self.shared.answer(vec![Answer::Refused { tickets, why }]);
        }
        for one in work {
            match one {
                Work::RemoveDead(_, done) => done(Err(Unavailable(trouble.why.clone()))),
                Work::Order(_, Order::Keep(_)) => {}
                Work::Order(ticket, order) => {
                    let (connection, names) = (&self.database.connection, &mut self.names);
                    trouble.overlay.add(&order);
                    match load::load(connection, names, &order, self.seq_from, &trouble.overlay) {
                        Ok(loaded) if loaded.answer.is_some() => {
                            self.shared.answer(loaded.answer.into_iter().collect());
                        }
                        // It is no load, or cannot be read now.
                        _ => trouble.waiting.push(Work::Order(ticket, order)),
                    }
                }
            }
        }
    }

    /// Tries to write what waits for the end of the trouble. What was refused stays refused.
    fn write_waiting(&mut self) -> bool {
        let Some(trouble) = &mut self.trouble else { return true };
        let waiting = std::mem::take(&mut trouble.waiting);
        match self.write(&waiting) {
            Ok(outcome) => {
                self.settle(waiting, outcome);
                if let Some(trouble) = &mut self.trouble {
                    trouble.overlay = Overlay::default();
                }
                true
            }
            Err(error) => {
                self.still_failing(&error);
                if let Some(trouble) = &mut self.trouble {
                    trouble.waiting = waiting;
                }
                false
            }
        }
    }

    fn take_back(&mut self) {
        self.database.roll_back();
        self.names.clear();
        // What it had just done may not have been kept.
        self.search = Search::new();
    }

    fn still_failing(&mut self, error: &rusqlite::Error) {
        self.take_back();
        if schema::is_damage(error) {
            self.note_damage(&error.to_string());
        }
        if let Some(trouble) = &mut self.trouble {
            trouble.needs_reopening |= !is_full(error);
            trouble.why = error.to_string();
            trouble.try_again_at = Instant::now() + self.options.retry;
        }
    }

    /// Sees whether the disk takes something again.
    fn try_again(&mut self) {
        if let Err(error) = self.replace_if_damaged() {
            self.still_failing(&error);
        } else if self.reopen_if_needed() && self.write_waiting() {
            match self.probe() {
                Ok(()) => {
                    self.trouble = None;
                    self.shared.answer(vec![Answer::Trouble(None)]);
                }
                Err(error) => self.still_failing(&error),
            }
        }
        (self.wake)();
    }

    /// After a sync that failed, nothing that the connection remembers is trusted.
    fn reopen_if_needed(&mut self) -> bool {
        let Some(trouble) = self.trouble.as_ref().filter(|trouble| trouble.needs_reopening) else {
            return true;
        };
        debug_assert!(self.database.connection.is_autocommit(), "{}", trouble.why);
        match self.database.reopen(self.options.database_bytes_max) {
            Ok(()) => {
                if let Some(trouble) = &mut self.trouble {
                    trouble.needs_reopening = false;
                }
                true
            }
            Err(error) => {
                self.still_failing(&error);
                false
            }
        }
    }

    // Damage.

    fn note_damage(&mut self, why: &str) {
        if !self.damage.was_replaced {
            self.damage.why.get_or_insert_with(|| why.to_owned());
        }
    }

    /// Puts a new database with all that can be read in the place of one that was found to be damaged.
    /// Numbers stay what they are: who waits for a message does not notice.
    fn replace_if_damaged(&mut self) -> rusqlite::Result<()> {
        let Some(why) = self.damage.why.clone() else { return Ok(()) };
        self.database.leave_files()?;
        let set_aside = open::replace_damaged(&self.options, why).map_err(schema::io_error)?;
        self.damage = Damage { why: None, was_replaced: true };
        // Until this works, the connection is one to the old files: a failure must have it tried again.
        self.database.reopen(self.options.database_bytes_max).map_err(schema::io_error)?;
        self.names.clear();
        self.search = Search::new();
        self.chores.is_search_on = true;
        self.shared.notice(Notice::Replaced(set_aside));
        (self.wake)();
        Ok(())
    }

    fn probe(&mut self) -> rusqlite::Result<()> {
        for change in ["INSERT INTO probe VALUES (zeroblob(?1))", "DELETE FROM probe WHERE ?1 > 0"]
        {
            self.database.begin()?;
            self.database.connection.prepare_cached(change)?.execute([PROBE_BYTES])?;
            self.database.commit()?;
        }
        Ok(())
    }

    // Between commits.

    /// Does what can wait, a little of it. Says whether there is more to do as soon as there is a
    /// pause.
    fn between(&mut self) -> bool {
        if let Some(trouble) = &self.trouble {
            if Instant::now() >= trouble.try_again_at {
                self.try_again();
            }
            return false;
        }
        if let Some(why) = self.shared.take_damage() {
            self.note_damage(&why);
        }
        match self.replace_if_damaged().and_then(|()| self.chores()) {
            Ok(has_more) => has_more,
            Err(error) => {
                self.fail(Vec::new(), &error);
                (self.wake)();
                false
            }
        }
    }

    fn chores(&mut self) -> rusqlite::Result<bool> {
        let is_pause = self.is_pause();
        let has_history = self.write_history()?;
        let has_retention = self.look_after_retention(is_pause)?;
        let has_search = self.look_after_search(is_pause)?;
        let has_spills = is_pause && self.remove_old_spills()?;
        let has_free_pages = is_pause && self.give_back_pages()?;
        self.database.checkpoint_if_due(is_pause)?;
        self.database.write_log_ahead();
        let is_waiting_for_pause = self.chores.has_old_spills && !is_pause;
        Ok(has_history
            || has_retention
            || has_search
            || has_spills
            || has_free_pages
            || is_waiting_for_pause)
    }

    fn write_history(&mut self) -> rusqlite::Result<bool> {
        // Those who wait for a commit come first, until there is too much of it.
        let bytes = self.shared.history_bytes();
        if self.shared.has_work() && bytes < self.options.history_waiting_bytes_max / 2 {
            return Ok(bytes > 0);
        }
        let (entries, dropped) = self.shared.take_history(HISTORY_STEP_BYTES);
        if dropped > 0 {
            self.shared.notice(Notice::HistoryDropped(dropped));
            (self.wake)();
        }
        if entries.is_empty() {
            return Ok(false);
        }
        self.database.begin()?;
        let changes = history::write(&self.database.connection, &entries)?;
        self.database.commit()?;
        self.note_changes(changes);
        Ok(self.shared.history_bytes() > 0)
    }

    fn look_after_retention(&mut self, is_pause: bool) -> rusqlite::Result<bool> {
        let now = Instant::now();
        if now < self.chores.retention_at && !is_pause {
            return Ok(false);
        }
        self.chores.retention_at = now + RETENTION_EVERY;
        self.tell_removed_dead(now);
        let now_unix_us = now_unix_us();
        if !retention::is_due(&self.database.connection, &self.options, now_unix_us)? {
            return Ok(false);
        }
        self.database.begin()?;
        let step = retention::step(&self.database.connection, &self.options, now_unix_us)?;
        self.database.commit()?;
        self.note_changes(step.changes);
        self.chores.removed_dead.add(step.dead);
        if step.has_more {
            self.chores.retention_at = now + RETENTION_STEP_EVERY;
        }
        Ok(true)
    }

    /// Says now and then how many dead letters retention has removed.
    fn tell_removed_dead(&mut self, now: Instant) {
        let removed = self.chores.removed_dead;
        if removed == RemovedDead::default() || now < self.chores.removed_dead_told_at {
            return;
        }
        self.chores.removed_dead = RemovedDead::default();
        self.chores.removed_dead_told_at = now + RETENTION_EVERY;
        let RemovedDead { aged, displaced } = removed;
        self.shared.notice(Notice::DeadLettersRemoved { aged, displaced });
        (self.wake)();
    }

    fn look_after_search(&mut self, is_pause: bool) -> rusqlite::Result<bool> {
        if !self.chores.is_search_on || !self.search.is_behind() {
            return Ok(false);
        }
        let now = Instant::now();
        if !is_pause && now < self.chores.search_at {
            return Ok(true);
        }
        self.chores.search_at = now + SEARCH_EVERY;
        self.database.begin()?;
        match self.search.step(&self.database.connection) {
            Ok(()) => self.database.commit()?,
            Err(error) if schema::is_damage(&error) => {
                self.database.roll_back();
                self.begin_search_anew(&error)?;
            }
            Err(error) => return Err(error),
        }
        Ok(self.search.is_behind())
    }

    /// The index holds nothing that is not elsewhere: damaged, it is made anew.
    fn begin_search_anew(&mut self, error: &rusqlite::Error) -> rusqlite::Result<()> {
        self.shared.notice(Notice::SearchFails(error.to_string()));
        (self.wake)();
        self.database.begin()?;
        match self.search.start_over(&self.database.connection) {
            Ok(()) => self.database.commit(),
            Err(error) => {
                self.database.roll_back();
                self.chores.is_search_on = false;
                if schema::is_damage(&error) { Ok(()) } else { Err(error) }
            }
        }
    }

    fn remove_old_spills(&mut self) -> rusqlite::Result<bool> {
        if !self.chores.has_old_spills {
            return Ok(false);
        }
        self.database.begin()?;
        let removed = self
            .database
            .connection
            .prepare_cached(
                "DELETE FROM message WHERE seq IN \
                 (SELECT seq FROM message WHERE keep = 2 AND seq < ?1 LIMIT ?2)",
            )?
            .execute((self.seq_from, OLD_SPILLS_STEP))?;
        if removed == 0 {
            self.database.connection.execute_batch(
                "DELETE FROM delivery WHERE NOT EXISTS \
                 (SELECT 1 FROM message WHERE message.seq = delivery.seq)",
            )?;
        }
        self.database.commit()?;
        self.chores.has_old_spills = removed > 0;
        Ok(removed > 0)
    }

    fn give_back_pages(&mut self) -> rusqlite::Result<bool> {
        if self.chores.last_work.elapsed() < VACUUM_AFTER {
            return Ok(false);
        }
        let connection = &self.database.connection;
        let free: u64 = connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
        if free <= FREE_PAGES_MAX {
            return Ok(false);
        }
        self.database.begin()?;
        let pages = VACUUM_STEP_PAGES;
        self.database.connection.execute_batch(&format!("PRAGMA incremental_vacuum({pages})"))?;
        self.database.commit()?;
        Ok(true)
    }

    // The end.

    fn end(&mut self, ending: Ending) -> Result<(), CloseError> {
        if self.trouble.is_some() {
            self.try_again();
        }
        if let Some(trouble) = &self.trouble {
            return Err(Unavailable(trouble.why.clone()).into());
        }
        let Ending::Clean(seq_next) = ending else { return Ok(()) };
        self.end_in_good_order(seq_next)
            .map_err(|error| CloseError::Unavailable(Unavailable(error.to_string())))
    }

    fn end_in_good_order(&mut self, seq_next: Option<u64>) -> rusqlite::Result<()> {
        while self.write_history()? {}
        let seq_next = seq_next.map_or(self.seq_next, |given| given.max(self.seq_next));
        self.database.begin()?;
        schema::set_meta(&self.database.connection, META_SEQ_FROM, seq_next)?;
        schema::set_meta(&self.database.connection, META_UNCLEAN, false)?;
        self.database.commit()?;
        self.database.finish()
    }
}

fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
}

fn highest_seq(order: &Order) -> Option<u64> {
    match order {
        Order::Keep(record) => Some(record.seq),
        Order::Release { seqs, .. } => seqs.last().copied(),
        Order::Move { new_seq, .. } => Some(*new_seq),
        Order::Delivered { seq, .. } => Some(*seq),
        Order::Bury(letter) => Some(letter.record.seq),
        _ => None,
    }
}

/// Microseconds of Unix time; 0 before 1970.
pub(crate) fn now_unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
