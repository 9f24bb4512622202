//! Keeps the index of words up to date, in small steps between commits.
//!
//! What there is to do is only remembered; if that becomes too much, or was lost with the process, a
//! sweep compares the index with the tables. Numbers are never used again, so an entry of a message
//! that is gone finds nothing, and can wait.

use std::collections::VecDeque;

use rusqlite::{Connection, OptionalExtension};

use crate::execution::Changes;
use crate::schema::{TEXT_OF_DEAD, TEXT_OF_HISTORY, TEXT_OF_MESSAGES};
use crate::text;

/// Numbers that are remembered at most.
const REMEMBERED_MAX: usize = 1_000_000;
/// Texts that one step adds or removes at most.
const STEP_TEXTS_MAX: usize = 64;
/// Bytes of text from which on a step ends.
const STEP_BYTES: usize = 128 * 1024;
/// Numbers that one step of a sweep compares.
const STEP_COMPARED: i64 = 2_000;

/// The tables whose bodies are searched, with where their numbers begin in the index.
const TABLES: [(&str, i64); 3] = [
    ("SELECT number FROM history WHERE number > ?1 ORDER BY number LIMIT ?2", TEXT_OF_HISTORY),
    (
        "SELECT seq FROM message WHERE seq > ?1 AND keep <> 2 ORDER BY seq LIMIT ?2",
        TEXT_OF_MESSAGES,
    ),
    ("SELECT number FROM dead WHERE number > ?1 ORDER BY number LIMIT ?2", TEXT_OF_DEAD),
];

/// How far a comparison of the index with the tables has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sweep {
    /// Looking for entries without a message, behind this number.
    Orphans(i64),
    /// Looking for messages without an entry, in this table, behind this number.
    Missing(usize, i64),
    Done,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Search {
    to_add: VecDeque<i64>,
    to_remove: VecDeque<(i64, i64)>,
    sweep: Sweep,
}

impl Search {
    /// Nothing is known of what an earlier process left undone.
    pub(crate) fn new() -> Self {
        Search { to_add: VecDeque::new(), to_remove: VecDeque::new(), sweep: Sweep::Orphans(-1) }
    }

    /// Remembers what has changed.
    pub(crate) fn note(&mut self, changes: Changes) {
        self.to_add.extend(changes.added);
        for (from, to) in changes.removed {
            match self.to_remove.back_mut() {
                Some(last) if last.1 + 1 == from => last.1 = to,
                _ => self.to_remove.push_back((from, to)),
            }
        }
        if self.to_add.len() + self.to_remove.len() > REMEMBERED_MAX {
            *self = Search::new();
        }
    }

    /// Whether there is something to do.
    pub(crate) fn is_behind(&self) -> bool {
        self.sweep != Sweep::Done || !self.to_add.is_empty() || !self.to_remove.is_empty()
    }

    /// Empties the index, to fill it anew.
    pub(crate) fn start_over(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        connection.execute_batch("INSERT INTO text (text) VALUES ('delete-all')")?;
        *self = Search::new();
        Ok(())
    }

    /// Does a little, within the transaction that is under way.
    pub(crate) fn step(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if !self.to_remove.is_empty() {
            self.remove(connection)
        } else if !self.to_add.is_empty() {
            self.add(connection)
        } else {
            self.compare(connection)
        }
    }

    fn remove(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let mut look = connection.prepare_cached(
            "SELECT id FROM text_docsize WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3",
        )?;
        let mut left = STEP_TEXTS_MAX;
        // Looking costs as well.
        for _ in 0..STEP_TEXTS_MAX * 8 {
            let Some(range) = self.to_remove.front_mut().filter(|_| left > 0) else { break };
            let found: Vec<i64> = look
                .query_map((range.0, range.1, left), |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            for text in &found {
                remove_text(connection, *text)?;
            }
            match found.last().filter(|_| found.len() == left) {
                Some(last) => range.0 = last + 1,
                None => drop(self.to_remove.pop_front()),
            }
            left -= found.len();
        }
        Ok(())
    }

    fn add(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let mut bytes = 0;
        for _ in 0..STEP_TEXTS_MAX {
            if bytes >= STEP_BYTES {
                break;
            }
            let Some(number) = self.to_add.pop_front() else { break };
            if is_indexed(connection, number)? {
                continue;
            }
            let Some(payload) = payload(connection, number)? else { continue };
            bytes += payload.len();
            let Some(text) = text::of_payload(&payload) else { continue };
            connection
                .prepare_cached("INSERT INTO text (rowid, body) VALUES (?1, ?2)")?
                .execute((number, text))?;
        }
        Ok(())
    }

    fn compare(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        match self.sweep {
            Sweep::Done => {}
            Sweep::Orphans(after) => {
                let indexed = numbers(
                    connection,
                    "SELECT id FROM text_docsize WHERE id > ?1 ORDER BY id LIMIT ?2",
                    after,
                )?;
                for text in &indexed {
                    if !exists(connection, *text)? {
                        self.to_remove.push_back((*text, *text));
                    }
                }
                self.sweep = match indexed.last() {
                    Some(last) => Sweep::Orphans(*last),
                    None => Sweep::Missing(0, -1),
                };
            }
            Sweep::Missing(place, after) => {
                let Some((query, begin)) = TABLES.get(place) else {
                    self.sweep = Sweep::Done;
                    return Ok(());
                };
                let there = numbers(connection, query, after)?;
                for number in &there {
                    if !is_indexed(connection, begin + number)? {
                        self.to_add.push_back(begin + number);
                    }
                }
                self.sweep = match there.last() {
                    Some(last) => Sweep::Missing(place, *last),
                    None => Sweep::Missing(place + 1, -1),
                };
            }
        }
        Ok(())
    }
}

fn numbers(connection: &Connection, query: &str, after: i64) -> rusqlite::Result<Vec<i64>> {
    let mut statement = connection.prepare_cached(query)?;
    statement.query_map((after, STEP_COMPARED), |row| row.get(0))?.collect()
}

fn is_indexed(connection: &Connection, text: i64) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM text_docsize WHERE id = ?1")?.exists([text])
}

fn remove_text(connection: &Connection, text: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM text WHERE rowid = ?1")?.execute([text])?;
    Ok(())
}

/// The table that a number of the index belongs to, and its number there.
fn place(text: i64) -> (&'static str, i64) {
    match text {
        TEXT_OF_DEAD.. => ("dead", text - TEXT_OF_DEAD),
        TEXT_OF_MESSAGES.. => ("message", text - TEXT_OF_MESSAGES),
        _ => ("history", text),
    }
}

fn exists(connection: &Connection, text: i64) -> rusqlite::Result<bool> {
    let (table, number) = place(text);
    let query = format!("SELECT 1 FROM {table} WHERE rowid = ?1");
    connection.prepare_cached(&query)?.exists([number])
}

fn payload(connection: &Connection, text: i64) -> rusqlite::Result<Option<Vec<u8>>> {
    let (table, number) = place(text);
    let query = format!("SELECT payload FROM {table} WHERE rowid = ?1");
    connection.prepare_cached(&query)?.query_row([number], |row| row.get(0)).optional()
}
