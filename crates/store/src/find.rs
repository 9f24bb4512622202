//! Looks for messages in history, mailboxes and dead letters at once.
//!
//! Each of the three is walked through by its numbers, and the walks are merged by time. Where a walk
//! has come is a number of its own in the cursor, so nothing is missed or shown twice, however much
//! is written in between.

use bytes::Bytes;
use hermes_bus_proto::{EndpointName, Envelope};
use rusqlite::{Connection, Row};

use crate::reader::{Cursor, Filling, Found, Page, Place, Query, Sorting};
use crate::rows::Names;
use crate::schema::{TEXT_OF_DEAD, TEXT_OF_HISTORY, TEXT_OF_MESSAGES, TEXTS_EACH};
use crate::text;

const PLACES: [Place; 3] = [Place::History, Place::Mailbox, Place::DeadLetters];

/// Finds one page.
pub(crate) fn find(
    connection: &Connection,
    names: &mut Names,
    query: &Query,
    page: Page,
) -> rusqlite::Result<(Vec<Found>, Option<Cursor>)> {
    let begin = match query.order {
        Sorting::NewestFirst => Cursor { history: LAST, mailbox: LAST, dead_letters: LAST },
        Sorting::OldestFirst => Cursor { history: 0, mailbox: 0, dead_letters: 0 },
    };
    let words = query.text.as_deref().map(text::query);
    if words == Some(None) {
        // Something was typed, but nothing that could occur.
        return Ok((Vec::new(), None));
    }
    let mut walks = Vec::new();
    let mut cursor = query.after.unwrap_or(begin);
    for place in PLACES {
        if !query.places.is_empty() && !query.places.contains(&place) {
            continue;
        }
        let mut walk = Walk::new(connection, query, words.clone().flatten(), place, &cursor);
        walk.advance(names)?;
        walks.push(walk);
    }
    let mut filling = Filling::new(page);
    while let Some(next) = next_of(&walks, query.order) {
        let walk = &mut walks[next];
        let Some(found) = walk.head.pop_front() else { break };
        let (place, number) = (found.place, found.number);
        if !filling.push(found.payload.len(), found) {
            return Ok((filling.rows, Some(cursor)));
        }
        *cursor.place(place) = number;
        if walk.head.is_empty() {
            walk.advance(names)?;
        }
    }
    // To follow what comes, one goes on from the end.
    let goes_on = query.order == Sorting::OldestFirst && !filling.rows.is_empty();
    Ok((filling.rows, goes_on.then_some(cursor)))
}

/// No number is so high.
const LAST: u64 = TEXTS_EACH as u64 - 1;

impl Cursor {
    fn place(&mut self, place: Place) -> &mut u64 {
        match place {
            Place::History => &mut self.history,
            Place::Mailbox => &mut self.mailbox,
            Place::DeadLetters => &mut self.dead_letters,
        }
    }
}

fn next_of(walks: &[Walk<'_>], order: Sorting) -> Option<usize> {
    let heads =
        walks.iter().enumerate().filter_map(|(at, walk)| Some((walk.head.front()?.unix_us, at)));
    match order {
        // Of those of the same time, the first in the list of places.
        Sorting::NewestFirst => {
            heads.max_by_key(|(unix_us, at)| (*unix_us, std::cmp::Reverse(*at)))
        }
        Sorting::OldestFirst => heads.min(),
    }
    .map(|(_, at)| at)
}

/// Messages that are read ahead in each place.
const AHEAD: usize = 64;
/// Bytes of payload that are read ahead in each place, roughly.
const AHEAD_BYTES: usize = 1024 * 1024;

/// The way through one place.
struct Walk<'a> {
    connection: &'a Connection,
    query: &'a Query,
    words: Option<String>,
    place: Place,
    /// The number behind which to go on.
    behind: u64,
    is_over: bool,
    head: std::collections::VecDeque<Found>,
}

impl<'a> Walk<'a> {
    fn new(
        connection: &'a Connection,
        query: &'a Query,
        words: Option<String>,
        place: Place,
        cursor: &Cursor,
    ) -> Self {
        let behind = *{ *cursor }.place(place);
        Walk { connection, query, words, place, behind, is_over: false, head: Default::default() }
    }

    /// Reads on until there is something to show.
    fn advance(&mut self, names: &mut Names) -> rusqlite::Result<()> {
        if self.is_over {
            return Ok(());
        }
        let select = match self.place {
            Place::History => HISTORY,
            Place::Mailbox => MAILBOX,
            Place::DeadLetters => DEAD,
        };
        let (key, begin) = match self.place {
            Place::History => ("t.number", TEXT_OF_HISTORY),
            Place::Mailbox => ("t.seq", TEXT_OF_MESSAGES),
            Place::DeadLetters => ("t.number", TEXT_OF_DEAD),
        };
        let (comparison, direction) = match self.query.order {
            Sorting::NewestFirst => ("<", "DESC"),
            Sorting::OldestFirst => (">", "ASC"),
        };
        let behind = self.behind.min(LAST) as i64;
        let text = if self.words.is_some() {
            // The index leads; the range keeps it within this place.
            let (from, to) = match self.query.order {
                Sorting::NewestFirst => (begin, begin + behind - 1),
                Sorting::OldestFirst => (begin + behind + 1, begin + TEXTS_EACH - 1),
            };
            format!(
                "{select} JOIN text ON {key} = text.rowid - {begin} \
                 WHERE text MATCH ?1 AND text.rowid BETWEEN {from} AND {to} \
                 AND t.at >= ?2 AND t.at < ?3 ORDER BY text.rowid {direction}"
            )
        } else {
            format!(
                "{select} WHERE ?1 IS NULL AND {key} {comparison} {behind} \
                 AND t.at >= ?2 AND t.at < ?3 ORDER BY {key} {direction}"
            )
        };
        let since = self.query.since_unix_us.unwrap_or(0).min(i64::MAX as u64);
        let until = self.query.until_unix_us.unwrap_or(u64::MAX).min(i64::MAX as u64);
        let mut statement = self.connection.prepare(&text)?;
        let mut rows = statement.query((&self.words, since, until))?;
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            let Some(found) = read(self.connection, names, row, self.place)? else { continue };
            self.behind = found.number;
            if !is_wanted(self.query, &found) {
                continue;
            }
            bytes += found.payload.len();
            self.head.push_back(found);
            if self.head.len() >= AHEAD || bytes >= AHEAD_BYTES {
                return Ok(());
            }
        }
        self.is_over = true;
        Ok(())
    }
}

/// What all three places have in common: number, time, endpoint, sender, via, outcome, payload.
const HISTORY: &str =
    "SELECT t.number, t.at, NULL, NULL, NULL, t.outcome, t.payload FROM history AS t";
const MAILBOX: &str = "SELECT t.seq, t.at, t.endpoint, t.sender, t.via, 'stored', t.payload \
     FROM (SELECT seq, arrived AS at, endpoint, sender, via, payload FROM message WHERE keep <> 2) AS t";
const DEAD: &str = "SELECT t.number, t.at, t.endpoint, t.sender, t.via, t.reason, t.payload \
     FROM (SELECT number, died AS at, endpoint, sender, via, reason, payload FROM dead) AS t";

fn read(
    connection: &Connection,
    names: &mut Names,
    row: &Row<'_>,
    place: Place,
) -> rusqlite::Result<Option<Found>> {
    let Ok(payload) = row.get_ref(6)?.as_blob() else { return Ok(None) };
    let envelope = Envelope::scan(payload).ok();
    let text = |value: Option<hermes_bus_proto::Raw<'_>>| Some(value?.text().ok()?.into_owned());
    let from_text = || text(envelope.as_ref()?.from);
    let to_text = || text(envelope.as_ref()?.to);
    let endpoint = match place {
        Place::History => None,
        Place::Mailbox => {
            names.name(connection, row.get(2)?)?.map(|name: EndpointName| name.as_str().to_owned())
        }
        Place::DeadLetters => row.get(2)?,
    };
    Ok(Some(Found {
        place,
        number: row.get(0)?,
        unix_us: row.get(1)?,
        from: row.get::<_, Option<String>>(3)?.or_else(from_text),
        to: endpoint.or_else(to_text),
        via: row.get(4)?,
        outcome: row.get(5)?,
        payload: Bytes::copy_from_slice(payload),
    }))
}

fn is_wanted(query: &Query, found: &Found) -> bool {
    let is = |wanted: &Option<String>, one: &Option<String>, other: &Option<String>| match wanted {
        None => true,
        Some(_) => wanted == one || wanted == other,
    };
    is(&query.from, &found.from, &None) && is(&query.to, &found.to, &found.via)
}
