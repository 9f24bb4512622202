//! Finds damage before SQLite touches a file, moves damaged files out of the way, and saves what can
//! be read of them. Nothing is ever deleted.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use hermes_bus_proto::Envelope;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags};

use crate::database::{FRAME_HEADER_BYTES, SALTS, WAL_HEADER_BYTES, wal_file};
use crate::schema;

/// The first bytes of every SQLite database. <https://www.sqlite.org/fileformat2.html>
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Bytes of a database's header.
const HEADER_BYTES: usize = 100;
/// The files of a database: behind its name comes this.
const ALL_FILES: [&str; 3] = ["", "-wal", "-shm"];
/// Those of them that hold something.
const LASTING_FILES: [&str; 2] = ["", "-wal"];
/// What a damaged database is called: this and the time behind its name.
const SET_ASIDE: &str = ".damaged-";

/// What a look at the bytes of the files says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// There is no database yet.
    Nothing,
    /// Nothing speaks against it.
    Plausible,
    /// It is damaged.
    Damaged(String),
    /// It is a database of something else.
    Foreign,
}

/// Looks at the files of a database that nobody has open: an advisory lock of SQLite's would be lost.
pub(crate) fn look(path: &Path) -> io::Result<Look> {
    let wal = wal_file(path);
    let mut header = Vec::new();
    let length = match File::open(path) {
        Ok(file) => {
            let length = file.metadata()?.len();
            file.take(HEADER_BYTES as u64).read_to_end(&mut header)?;
            length
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    if length == 0 {
        // A database that lost all its bytes, while its log was left, was not there and is not new.
        let has_log = fs::metadata(&wal).is_ok_and(|wal| wal.len() > WAL_HEADER_BYTES);
        return Ok(if has_log {
            Look::Damaged("the file is empty".to_owned())
        } else {
            Look::Nothing
        });
    }
    if header.len() < HEADER_BYTES || &header[..16] != MAGIC {
        return Ok(Look::Damaged("the file does not begin like a database".to_owned()));
    }
    let big_endian = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    // What makes a new database stands in the log first.
    let is_young = big_endian(68) == 0 && big_endian(60) == 0;
    if big_endian(68) != schema::APPLICATION_ID as u32 && !is_young {
        return Ok(Look::Foreign);
    }
    let page_bytes = u64::from(header[16]) << 8 | u64::from(header[17]);
    if page_bytes != u64::from(schema::PAGE_BYTES) {
        return Ok(Look::Damaged(format!("its pages have {page_bytes} bytes")));
    }
    Ok(match damage_of_log(&wal)? {
        Some(why) => Look::Damaged(why),
        None => Look::Plausible,
    })
}

/// What is wrong with a write-ahead log.
///
/// That it ends in the middle of a commit is the ordinary trace of a crash. But a commit is only begun
/// when the one before is synced: where two commits follow a bad frame, the frame was good once.
pub(crate) fn damage_of_log(wal: &Path) -> io::Result<Option<String>> {
    let file = match File::open(wal) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let frame_bytes = FRAME_HEADER_BYTES + u64::from(schema::PAGE_BYTES);
    if length < WAL_HEADER_BYTES + frame_bytes {
        return Ok(None);
    }
    let mut header = [0; WAL_HEADER_BYTES as usize];
    file.read_exact_at(&mut header, 0)?;
    let mut reader = io::BufReader::with_capacity(1 << 20, &file);
    io::copy(&mut (&mut reader).take(WAL_HEADER_BYTES), &mut io::sink())?;
    let is_big_endian = match header[..4] {
        [0x37, 0x7f, 0x06, 0x82] => false,
        [0x37, 0x7f, 0x06, 0x83] => true,
        _ => return Ok(Some("the write-ahead log does not begin like one".to_owned())),
    };
    let mut sum = checksum((0, 0), &header[..24], is_big_endian);
    if sum != stored_sum(&header[24..32]) {
        return Ok(Some("the header of the write-ahead log is damaged".to_owned()));
    }
    let mut bad = None;
    let mut commits_behind = 0;
    let mut frame = vec![0; frame_bytes as usize];
    for number in 0..(length - WAL_HEADER_BYTES) / frame_bytes {
        reader.read_exact(&mut frame)?;
        if frame[8..16] != header[SALTS] {
            // What follows is older than the log's beginning. A damaged salt in the middle is followed
            // by frames of the log.
            if bad.is_none() {
                bad = Some(number);
            }
            continue;
        }
        let (head, page) = frame.split_at(FRAME_HEADER_BYTES as usize);
        sum = checksum(checksum(sum, &head[..8], is_big_endian), page, is_big_endian);
        if sum != stored_sum(&head[16..24]) {
            bad.get_or_insert(number);
            // The next frame is judged by what this one says of itself.
            sum = stored_sum(&head[16..24]);
        } else if bad.is_some_and(|bad| bad < number) && head[4..8] != [0; 4] {
            commits_behind += 1;
        }
    }
    Ok(bad
        .filter(|_| commits_behind >= 2)
        .map(|bad| format!("frame {bad} of the write-ahead log is damaged, and commits follow it")))
}

fn stored_sum(bytes: &[u8]) -> (u32, u32) {
    let at =
        |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    (at(0), at(4))
}

/// The running checksum of a write-ahead log.
fn checksum(mut sum: (u32, u32), bytes: &[u8], is_big_endian: bool) -> (u32, u32) {
    for pair in bytes.chunks_exact(8) {
        let word = |at: usize| {
            let word = [pair[at], pair[at + 1], pair[at + 2], pair[at + 3]];
            if is_big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
        };
        sum.0 = sum.0.wrapping_add(word(0)).wrapping_add(sum.1);
        sum.1 = sum.1.wrapping_add(word(4)).wrapping_add(sum.0);
    }
    sum
}

/// A database that is being made of what can be read of a damaged one.
const UNFINISHED: &str = ".salvaging";
/// The same when it is complete, until it takes the damaged one's place.
const FINISHED: &str = ".salvaged";

/// Removes what an attempt to save left that was not finished, and returns where the next one begins.
pub(crate) fn place_to_save(path: &Path) -> io::Result<PathBuf> {
    let place = with_suffix(path, UNFINISHED);
    for suffix in ALL_FILES {
        remove_if_there(&with_suffix(&place, suffix))?;
    }
    Ok(place)
}

/// Puts the complete database that was made at [`place_to_save`] in the place of the damaged one,
/// which gets another name and stays as it is. Returns that name.
///
/// Whenever this ends early, either the damaged one is still in its place with its log, or
/// [`finish_replacing`] does the rest.
pub(crate) fn replace(path: &Path, now_unix_us: u64) -> io::Result<PathBuf> {
    let aside = name_aside(path, now_unix_us)?;
    for suffix in LASTING_FILES {
        match fs::hard_link(with_suffix(path, suffix), with_suffix(&aside, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    sync_directory(path)?;
    fs::rename(with_suffix(path, UNFINISHED), with_suffix(path, FINISHED))?;
    sync_directory(path)?;
    finish_replacing(path)?;
    Ok(aside)
}

/// Finishes what [`replace`] has begun, if there is something to finish.
pub(crate) fn finish_replacing(path: &Path) -> io::Result<()> {
    let finished = with_suffix(path, FINISHED);
    if !finished.try_exists()? {
        return Ok(());
    }
    // A log that was left would be taken for one of the new database. It has its other name.
    for suffix in ["-wal", "-shm"] {
        remove_if_there(&with_suffix(path, suffix))?;
    }
    sync_directory(path)?;
    fs::rename(finished, path)?;
    sync_directory(path)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A name for a damaged database that nothing has yet.
fn name_aside(path: &Path, now_unix_us: u64) -> io::Result<PathBuf> {
    let seconds = now_unix_us / 1_000_000;
    (0..1_000)
        .map(|again| {
            let mut name = path.as_os_str().to_owned();
            name.push(SET_ASIDE);
            name.push(seconds.to_string());
            if again > 0 {
                name.push(format!("-{again}"));
            }
            PathBuf::from(name)
        })
        .find(|name| !name.exists())
        .ok_or_else(|| io::Error::from(io::ErrorKind::AlreadyExists))
}

/// Makes new names in a file's directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// Databases that were set aside and are still there, the oldest first.
pub(crate) fn all_set_aside(path: &Path) -> Vec<PathBuf> {
    let Some(name) = path.file_name() else { return Vec::new() };
    let prefix = format!("{}{SET_ASIDE}", name.to_string_lossy());
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let entries = fs::read_dir(directory.unwrap_or(Path::new("."))).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(&prefix) && !name.ends_with("-wal") && !name.ends_with("-shm")
        })
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// What was saved from a damaged database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) rows: u64,
    pub(crate) unreadable: u64,
}

/// The tables that are saved, with the column by which they are walked through.
const SAVED: [(&str, &str); 8] = [
    ("meta", "key"),
    ("endpoint", "id"),
    ("message", "seq"),
    ("delivery", "seq"),
    ("dead", "number"),
    ("history", "number"),
    ("trail", "number"),
    ("known", "endpoint"),
];

/// Copies everything that can be read of a damaged database into a new one.
pub(crate) fn salvage(damaged: &Path, new: &mut Connection) -> rusqlite::Result<Saved> {
    let saved = match open_damaged(damaged) {
        Ok(old) => copy_tables(&old, new)?,
        Err(_) => Saved { rows: 0, unreadable: 1 },
    };
    if saved.rows > 0 {
        return Ok(saved);
    }
    // Its first page may be what is damaged. That of a new database leads to the same tables.
    let mended = with_suffix(damaged, "-mended");
    let again = mend_first_page(damaged, &mended)
        .ok()
        .and_then(|()| open_damaged(&mended).ok())
        .map(|old| copy_tables(&old, new));
    for suffix in ALL_FILES {
        // A copy that was only made for this.
        let _ = fs::remove_file(with_suffix(&mended, suffix));
    }
    again.unwrap_or(Ok(saved))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn mend_first_page(damaged: &Path, mended: &Path) -> io::Result<()> {
    fs::copy(damaged, mended)?;
    let wal = wal_file(damaged);
    if wal.exists() {
        fs::copy(wal, wal_file(mended))?;
    }
    let template = with_suffix(mended, "-new");
    let page = first_page_of_a_new_database(&template);
    for suffix in ALL_FILES {
        let _ = fs::remove_file(with_suffix(&template, suffix));
    }
    let mut page = page?;
    let file = File::options().write(true).open(mended)?;
    let pages = file.metadata()?.len().div_ceil(u64::from(schema::PAGE_BYTES)) as u32;
    // How many pages there are, and that none is free.
    page[28..32].copy_from_slice(&pages.to_be_bytes());
    page[32..40].fill(0);
    file.write_all_at(&page, 0)
}

/// The tables of every database were made in the same order, and begin in the same places.
fn first_page_of_a_new_database(path: &Path) -> io::Result<Vec<u8>> {
    let made = schema::open_for_writing(path).and_then(|mut connection| {
        schema::migrate(&mut connection)?;
        // What it wrote is in the file then.
        connection.close().map_err(|(_, error)| error)
    });
    made.map_err(io::Error::other)?;
    let mut page = vec![0; schema::PAGE_BYTES as usize];
    File::open(path)?.read_exact(&mut page)?;
    Ok(page)
}

fn open_damaged(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // A file that is too short, or an index that does not fit, is no reason to read nothing.
    connection.pragma_update(None, "writable_schema", true)?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

fn copy_tables(old: &Connection, new: &mut Connection) -> rusqlite::Result<Saved> {
    let mut saved = Saved::default();
    let transaction = new.transaction()?;
    for (table, key) in SAVED {
        copy_table(old, &transaction, table, key, &mut saved)?;
    }
    // What names of endpoints are lost is found in the messages themselves.
    let nameless: Vec<(i64, Vec<u8>)> = transaction
        .prepare(
            "SELECT m.endpoint, m.payload FROM message AS m LEFT JOIN endpoint AS e \
             ON e.id = m.endpoint WHERE e.id IS NULL GROUP BY m.endpoint",
        )?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (id, payload) in nameless {
        let to = Envelope::scan(&payload)
            .ok()
            .and_then(|envelope| Some(envelope.to?.text().ok()?.into_owned()));
        if let Some(to) = to {
            transaction
                .execute("INSERT OR IGNORE INTO endpoint (id, name) VALUES (?1, ?2)", (id, to))?;
        }
    }
    for (kind, bytes) in [
        ("dead", "length(payload) + 128"),
        ("history", "length(payload) + 64"),
        ("trail", "length(ended)"),
    ] {
        transaction.execute_batch(&format!(
            "UPDATE total SET (rows, bytes) = \
             (SELECT count(*), coalesce(sum({bytes}), 0) FROM {kind}) WHERE kind = '{kind}'"
        ))?;
    }
    transaction.commit()?;
    Ok(saved)
}

fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement =
        connection.prepare(&format!("SELECT name FROM pragma_table_info('{table}')"))?;
    statement.query_map([], |row| row.get(0))?.collect()
}

fn copy_table(
    old: &Connection,
    new: &Connection,
    table: &str,
    key: &str,
    saved: &mut Saved,
) -> rusqlite::Result<()> {
    let columns = columns(new, table)?;
    let list = columns.join(", ");
    let places: Vec<String> = (1..=columns.len()).map(|place| format!("?{place}")).collect();
    let mut insert = new.prepare(&format!(
        "INSERT OR IGNORE INTO {table} ({list}) VALUES ({})",
        places.join(", ")
    ))?;
    let Ok(mut from) = old.prepare(&format!(
        "SELECT {list}, {key} FROM {table} NOT INDEXED WHERE {key} >= ?1 ORDER BY {key}"
    )) else {
        saved.unreadable += 1;
        return Ok(());
    };
    let is_walked_by_number = !matches!(key, "endpoint" | "key");
    let payload = columns.iter().position(|column| column == "payload");
    let mut from_key =
        if is_walked_by_number { Value::Integer(i64::MIN) } else { Value::Text(String::new()) };
    let mut leaps = Leaps::new(old, table, key);
    loop {
        let mut read = 0;
        let mut torn = 0;
        let counts = (&mut read, &mut torn);
        let result =
            copy_from(&mut from, &mut insert, (columns.len(), payload), &mut from_key, counts);
        saved.rows += read;
        saved.unreadable += torn;
        let Err(error) = result else { return Ok(()) };
        if !schema::is_damage(&error) && !is_io(&error) {
            return Err(error);
        }
        let Value::Integer(place) = from_key else {
            saved.unreadable += 1;
            return Ok(());
        };
        let is_new_place = read > 0 || place == i64::MIN;
        if is_new_place {
            saved.unreadable += 1;
        }
        let Some(next) = leaps.over(place, is_new_place) else { return Ok(()) };
        from_key = Value::Integer(next);
    }
}

/// Where to go on behind something that cannot be read.
struct Leaps {
    /// Numbers of rows, as an index knows them; ascending. Without one, they are guessed.
    known: Vec<i64>,
    highest: i64,
    failed: u32,
}

/// So many numbers are tried one by one before guesses go further.
const TRIED_EACH: u32 = 4_096;

impl Leaps {
    fn new(old: &Connection, table: &str, key: &str) -> Self {
        let mut known = Vec::new();
        if table == "message" {
            let query = "SELECT seq FROM message INDEXED BY message_by_endpoint";
            if let Ok(mut statement) = old.prepare(query)
                && let Ok(seqs) = statement.query_map([], |row| row.get::<_, i64>(0))
            {
                // Up to where the index itself can be read.
                known.extend(seqs.map_while(Result::ok));
            }
            known.sort_unstable();
        }
        // The way to the end of a table may lead past what is damaged.
        let highest = old
            .query_row(&format!("SELECT max({key}) FROM {table} NOT INDEXED"), [], |row| row.get(0))
            .unwrap_or(i64::MAX);
        Leaps { known, highest, failed: 0 }
    }

    /// The number to go on from, after reading from `place` on has failed.
    fn over(&mut self, place: i64, is_new_place: bool) -> Option<i64> {
        self.failed = if is_new_place { 0 } else { self.failed + 1 };
        let behind = self.known.partition_point(|known| *known <= place);
        if let Some(next) = self.known.get(behind) {
            return Some(*next);
        }
        let further = self.failed.saturating_sub(TRIED_EACH).min(62);
        let next = place.max(0).checked_add(1 << further)?;
        (next <= self.highest).then_some(next)
    }
}

fn is_io(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::SystemIoFailure)
}

/// Copies rows from a key on, which moves behind the last one that was read. Counts the rows that were
/// copied, and those that were damaged themselves.
fn copy_from(
    from: &mut rusqlite::Statement<'_>,
    insert: &mut rusqlite::Statement<'_>,
    (columns, payload): (usize, Option<usize>),
    from_key: &mut Value,
    (read, torn): (&mut u64, &mut u64),
) -> rusqlite::Result<()> {
    let mut rows = from.query([&*from_key])?;
    while let Some(row) = rows.next()? {
        let mut values = Vec::with_capacity(columns);
        for column in 0..columns {
            values.push(row.get::<_, Value>(column)?);
        }
        *from_key = match (row.get(columns)?, &*from_key) {
            // A page that lost its content has rows with lower numbers. This must not begin again there.
            (Value::Integer(key), Value::Integer(from)) if key < *from => {
                *torn += 1;
                continue;
            }
            (Value::Integer(key), _) => Value::Integer(key.saturating_add(1)),
            (other, _) => other,
        };
        // A row that does not fit is damaged itself, and so is a message that is no JSON any more.
        let is_whole = payload.is_none_or(|column| match &values[column] {
            Value::Blob(payload) => Envelope::scan(payload).is_ok(),
            _ => false,
        });
        if is_whole && insert.execute(rusqlite::params_from_iter(values)).is_ok() {
            *read += 1;
        } else {
            *torn += 1;
        }
    }
    Ok(())
}
