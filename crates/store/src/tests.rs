//! Failures on order, and what the thread makes of them.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};

/// What the next commits of a database come to: an error code, or nothing out of the ordinary.
#[derive(Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<VecDeque<Option<i32>>>>);

static ALL: LazyLock<Mutex<HashMap<PathBuf, Faults>>> = LazyLock::new(Mutex::default);

impl Faults {
    pub(crate) fn of(path: &Path) -> Self {
        ALL.lock().unwrap().entry(path.to_owned()).or_default().clone()
    }

    pub(crate) fn strike(&self) -> rusqlite::Result<()> {
        let fault = self.0.lock().unwrap().pop_front().flatten();
        fault.map_or(Ok(()), |code| {
            Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None))
        })
    }
}
