//! From a path to a store that can be written.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use hermes_bus_core::storage::{Recovered, Ticket};
use rusqlite::InterruptHandle;

use crate::damage::{self, Look};
use crate::database::Database;
use crate::lock::{Lock, Taken};
use crate::notice::{Notice, SetAside};
use crate::options::Options;
use crate::queue::Shared;
use crate::reader::Reader;
use crate::recover;
use crate::retention::RemovedDead;
use crate::rows::Names;
use crate::schema::{self, META_SEQ_FROM, META_UNCLEAN, META_UNCLEAN_BELOW};
use crate::search::Search;
use crate::store::{CloseError, OpenError};
use crate::writer::{Chores, Damage, Writer, now_unix_us};

/// A process that ends without saying so has used fewer numbers than this.
const SEQS_RESERVED: u64 = 1 << 32;

const FOREIGN: &str = "it is a database of something else";

/// A database that is ready to be written, and what was found in it.
pub(crate) struct Prepared {
    pub(crate) database: Database,
    pub(crate) recovered: Recovered,
    pub(crate) set_aside: Option<SetAside>,
}

/// Makes sure that nobody else writes this database.
pub(crate) fn lock(path: &Path) -> Result<Lock, OpenError> {
    match Lock::take(path) {
        Ok(Taken::Ours(lock)) => Ok(lock),
        Ok(Taken::Theirs(pid)) => Err(OpenError::InUse { path: path.to_owned(), pid }),
        Err(error) => Err(failed(path, error)),
    }
}

fn failed(path: &Path, error: impl std::fmt::Display) -> OpenError {
    OpenError::Failed { path: path.to_owned(), why: error.to_string() }
}

/// Opens the database, or makes it, or makes another one in the place of a damaged one.
pub(crate) fn prepare(options: &Options) -> Result<Prepared, OpenError> {
    let path = &options.path;
    damage::finish_replacing(path).map_err(|error| failed(path, error))?;
    let why = match damage::look(path).map_err(|error| failed(path, error))? {
        Look::Nothing => {
            make_private(path)?;
            return begin(options).map_err(Broken::into_error(path));
        }
        Look::Plausible => match begin(options) {
            Ok(prepared) => return Ok(prepared),
            Err(Broken::Damaged(why)) => why,
            Err(broken) => return Err(Broken::into_error(path)(broken)),
        },
        Look::Damaged(why) => why,
        Look::Foreign => return Err(failed(path, FOREIGN)),
    };
    begin_anew(options, why)
}

/// Why a database cannot be used.
enum Broken {
    Damaged(String),
    Other(OpenError),
}

impl Broken {
    fn into_error(path: &Path) -> impl FnOnce(Broken) -> OpenError {
        move |broken| match broken {
            Broken::Damaged(why) => failed(path, why),
            Broken::Other(error) => error,
        }
    }
}

/// Takes a database over that is there, or begins a new one in an empty file.
fn begin(options: &Options) -> Result<Prepared, Broken> {
    let path = &options.path;
    let broken = |error: rusqlite::Error| {
        if schema::is_damage(&error) {
            Broken::Damaged(error.to_string())
        } else {
            Broken::Other(failed(path, error))
        }
    };
    // A newer program's database must stay as it is: this looks before anything is changed.
    let is_new = std::fs::metadata(path).is_ok_and(|file| file.len() == 0);
    if !is_new {
        let found = schema::open_for_reading(path)
            .and_then(|connection| schema::found_version(&connection))
            .map_err(broken)?;
        let Some(found) = found else {
            return Err(Broken::Other(failed(path, FOREIGN)));
        };
        if found > schema::VERSION {
            let known = schema::VERSION;
            return Err(Broken::Other(OpenError::TooNew { path: path.clone(), found, known }));
        }
    }
    let mut database = Database::open(path, options.database_bytes_max).map_err(broken)?;
    if is_new {
        database.settle().map_err(broken)?;
    }
    schema::migrate(&mut database.connection).map_err(broken)?;
    let recovered =
        recover::recovered(&database.connection, options, now_unix_us()).map_err(broken)?;
    if !is_new {
        // What is asked for at start could be read: from here on the files may change.
        database.settle().map_err(broken)?;
    }
    claim(&mut database, &recovered).map_err(broken)?;
    damage::sync_directory(path).map_err(|error| Broken::Other(failed(path, error)))?;
    Ok(Prepared { database, recovered, set_aside: None })
}

/// Says that the database is in use, and that all numbers that may be given out now are used.
fn claim(database: &mut Database, recovered: &Recovered) -> rusqlite::Result<()> {
    database.begin()?;
    if recovered.unclean {
        schema::set_meta(&database.connection, META_UNCLEAN_BELOW, recovered.seq_from)?;
    }
    let reserved = recovered.seq_from.saturating_add(SEQS_RESERVED);
    schema::set_meta(&database.connection, META_SEQ_FROM, reserved)?;
    schema::set_meta(&database.connection, META_UNCLEAN, true)?;
    database.commit()
}

/// Moves a damaged database out of the way, and takes over what can be read of it.
fn begin_anew(options: &Options, why: String) -> Result<Prepared, OpenError> {
    let path = &options.path;
    let set_aside = replace_damaged(options, why)?;
    let mut prepared = begin(options).map_err(Broken::into_error(path))?;
    prepared.set_aside = Some(set_aside);
    Ok(prepared)
}

/// Makes a database of what can be read of the damaged one, and puts it into its place. Counts as left
/// by a process that did not end in good order.
pub(crate) fn replace_damaged(options: &Options, why: String) -> Result<SetAside, OpenError> {
    let path = &options.path;
    let place = damage::place_to_save(path).map_err(|error| failed(path, error))?;
    make_private(&place)?;
    let saved = save(options, &place).map_err(|error| failed(path, error))?;
    let aside = damage::replace(path, now_unix_us()).map_err(|error| failed(path, error))?;
    let damage::Saved { rows: saved_rows, unreadable } = saved;
    Ok(SetAside { path: aside, why, saved_rows, unreadable })
}

fn save(options: &Options, place: &Path) -> rusqlite::Result<damage::Saved> {
    let mut database = Database::open(place, options.database_bytes_max)?;
    schema::migrate(&mut database.connection)?;
    database.settle()?;
    let saved = damage::salvage(&options.path, &mut database.connection)?;
    let connection = &database.connection;
    // What the old database knew of its numbers may be lost: those that it can have given out are
    // not given out again.
    let highest: Option<u64> = connection.query_row(
        "SELECT max(seq) FROM (SELECT max(seq) AS seq FROM message UNION ALL SELECT max(seq) FROM dead)",
        [],
        |row| row.get(0),
    )?;
    let known = schema::meta(connection, META_SEQ_FROM).ok().flatten().unwrap_or(0);
    let next = highest.unwrap_or(0).saturating_add(SEQS_RESERVED).max(known);
    schema::set_meta(connection, META_SEQ_FROM, next)?;
    schema::set_meta(connection, META_UNCLEAN, true)?;
    // Closed, it is one file without a log.
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
    database.connection.close().map_err(|(_, error)| error)?;
    Ok(saved)
}

/// Makes an empty file that only its owner may read. Its log gets the same rights.
fn make_private(path: &Path) -> Result<(), OpenError> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| failed(path, error))?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))
        .map_err(|error| failed(path, error))
}

/// The thread's own state.
pub(crate) fn writer(
    options: Options,
    shared: &Arc<Shared>,
    wake: Arc<dyn Fn() + Send + Sync>,
    database: Database,
    recovered: &Recovered,
    ended: Sender<Result<(), CloseError>>,
) -> Writer {
    let now = Instant::now();
    Writer {
        options,
        shared: Arc::clone(shared),
        wake,
        ended,
        database,
        names: Names::default(),
        seq_from: recovered.seq_from,
        seq_next: recovered.seq_from,
        last_ticket: Ticket(0),
        trouble: None,
        damage: Damage::default(),
        search: Search::new(),
        chores: Chores {
            retention_at: now,
            search_at: now,
            last_work: now,
            has_old_spills: true,
            is_search_on: true,
            removed_dead: RemovedDead::default(),
            removed_dead_told_at: now,
        },
    }
}

/// Checks everything after an unclean stop, in a thread of its own. Returns what ends it early.
pub(crate) fn check_in_background(
    path: &Path,
    shared: &Arc<Shared>,
    wake: &Arc<dyn Fn() + Send + Sync>,
) -> Option<InterruptHandle> {
    let reader = Reader::open(path).ok()?;
    let interrupt = reader.interrupt_handle();
    let (shared, wake) = (Arc::clone(shared), Arc::clone(wake));
    let check = move || {
        let begin = Instant::now();
        let notice = match reader.integrity() {
            Ok(findings) if findings.is_empty() => Notice::Sound { took: begin.elapsed() },
            Ok(findings) => {
                shared.found_damage(findings.join("; "));
                Notice::Damaged(findings)
            }
            // It was ended early, or the trouble shows elsewhere.
            Err(_) => return,
        };
        shared.notice(notice);
        wake();
    };
    std::thread::Builder::new().name("store-check".to_owned()).spawn(check).ok()?;
    Some(interrupt)
}
