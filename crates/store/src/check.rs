//! Examines a database from outside, for `doctor`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::damage::{self, Look};
use crate::database::wal_file;
use crate::lock::Lock;
use crate::schema::{self, META_UNCLEAN};

/// What [`check`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Whether there is a database at all.
    pub exists: bool,
    /// Whether a process has the store open.
    pub is_in_use: bool,
    /// Which process that is, where it said so.
    pub in_use_by: Option<u32>,
    /// Its schema's version.
    pub schema: Option<u32>,
    /// Whether the last process that had it open ended without saying so. While one has it open this
    /// is always so.
    pub unclean: bool,
    /// Bytes of the database file.
    pub database_bytes: u64,
    /// Bytes of the write-ahead log.
    pub wal_bytes: u64,
    /// What is wrong. Empty when all is well.
    pub problems: Vec<String>,
    /// Damaged databases that were set aside and are still there.
    pub set_aside: Vec<PathBuf>,
}

/// Examines the database at `path`: header, schema, write-ahead log, and the integrity of all of it.
/// Changes nothing. Takes about a second for each gigabyte.
pub fn check(path: &Path) -> Report {
    let holder = Lock::look(path);
    let length = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    let mut report = Report {
        exists: path.exists(),
        is_in_use: holder.is_some(),
        in_use_by: holder.flatten(),
        database_bytes: length(path),
        wal_bytes: length(&wal_file(path)),
        set_aside: damage::all_set_aside(path),
        ..Report::default()
    };
    // The bytes of a file that is in use are read by SQLite alone: in the process that uses it, a
    // second look at the file would end SQLite's locks.
    if !report.is_in_use {
        match damage::look(path) {
            Ok(Look::Plausible) => {}
            Ok(Look::Nothing) => return report,
            Ok(Look::Damaged(why)) => report.problems.push(why),
            Ok(Look::Foreign) => {
                report.problems.push("it is a database of something else".to_owned());
                return report;
            }
            Err(error) => report.problems.push(error.to_string()),
        }
    }
    if let Err(error) = examine(path, &mut report) {
        report.problems.push(error.to_string());
    }
    report
}

fn examine(path: &Path, report: &mut Report) -> rusqlite::Result<()> {
    let connection = schema::open_for_reading(path)?;
    let version = schema::version(&connection)?;
    report.schema = Some(version);
    if version > schema::VERSION {
        let known = schema::VERSION;
        report
            .problems
            .push(format!("it has schema {version}, this program knows {known} and older"));
        return Ok(());
    }
    report.problems.extend(schema::integrity(&connection)?);
    report.unclean = schema::meta(&connection, META_UNCLEAN)?.unwrap_or(false);
    Ok(())
}
