//! Who in this process looks at which database, so that nobody does while its files are changed by
//! other means than SQLite's.

use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::InterruptHandle;

/// One who looks.
struct Inside {
    number: u64,
    path: PathBuf,
    /// Ends what is being done.
    interrupt: Option<InterruptHandle>,
}

#[derive(Default)]
struct Register {
    inside: Vec<Inside>,
    closed: Vec<PathBuf>,
    last_number: u64,
}

static REGISTER: Mutex<Register> =
    Mutex::new(Register { inside: Vec::new(), closed: Vec::new(), last_number: 0 });
static CHANGED: Condvar = Condvar::new();

/// For so long those are waited for who cannot be interrupted.
const PATIENCE: Duration = Duration::from_secs(5);

fn register() -> MutexGuard<'static, Register> {
    // Whoever panicked had only moved things.
    REGISTER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Somebody may look at a database for as long as this lives.
#[derive(Debug)]
pub(crate) struct Pass(u64);

/// Asks to look at a database. Waits while nobody may.
pub(crate) fn enter(path: &Path) -> Pass {
    let mut register = register();
    while register.closed.iter().any(|closed| closed == path) {
        register = CHANGED.wait(register).unwrap_or_else(PoisonError::into_inner);
    }
    register.last_number += 1;
    let number = register.last_number;
    register.inside.push(Inside { number, path: path.to_owned(), interrupt: None });
    Pass(number)
}

impl Pass {
    /// Says how to end what is being done.
    pub(crate) fn set_interrupt(&self, interrupt: InterruptHandle) {
        let mut register = register();
        if let Some(inside) = register.inside.iter_mut().find(|inside| inside.number == self.0) {
            inside.interrupt = Some(interrupt);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        register().inside.retain(|inside| inside.number != self.0);
        CHANGED.notify_all();
    }
}

/// Nobody of this process looks at a database for as long as this lives.
#[derive(Debug)]
pub(crate) struct KeptOut(PathBuf);

/// Has everybody leave a database. Who does not in time stays.
pub(crate) fn keep_out(path: &Path) -> KeptOut {
    let until = Instant::now() + PATIENCE;
    let mut register = register();
    register.closed.push(path.to_owned());
    loop {
        let mut is_empty = true;
        for inside in register.inside.iter().filter(|inside| inside.path == path) {
            is_empty = false;
            if let Some(interrupt) = &inside.interrupt {
                interrupt.interrupt();
            }
        }
        let now = Instant::now();
        if is_empty || now >= until {
            return KeptOut(path.to_owned());
        }
        // An interruption ends only what goes on at that moment.
        let wait = (until - now).min(Duration::from_millis(10));
        let waited = CHANGED.wait_timeout(register, wait);
        register = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}

impl Drop for KeptOut {
    fn drop(&mut self) {
        let mut register = register();
        if let Some(at) = register.closed.iter().position(|closed| *closed == self.0) {
            register.closed.swap_remove(at);
        }
        CHANGED.notify_all();
    }
}
