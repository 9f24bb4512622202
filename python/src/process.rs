//! Which process this is, and what belongs to it.
//!
//! After a fork the child has copies of everything, but not the threads that would serve them, and
//! the sockets are the parent's. So nothing that was made before a fork is used in the child: it is not
//! even dropped, because a lock in it may be held by a thread that does not exist there.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use tokio::runtime::{Builder, Runtime};

use crate::failure::Failure;

/// Counts forks, on the side of the child.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Python calls it in a child that was forked.
#[pyfunction]
pub(crate) fn forked() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// Something of the process that has made it.
pub(crate) struct Own<T> {
    value: Option<T>,
    generation: u64,
}

impl<T> Own<T> {
    pub(crate) fn new(value: T) -> Self {
        Own { value: Some(value), generation: generation() }
    }

    /// Fails in a child process.
    pub(crate) fn get(&self) -> Result<&T, Failure> {
        match &self.value {
            Some(value) if self.is_ours() => Ok(value),
            _ => Err(Failure::forked()),
        }
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.generation == generation()
    }
}

impl<T> Drop for Own<T> {
    fn drop(&mut self) {
        if !self.is_ours() {
            std::mem::forget(self.value.take());
        }
    }
}

/// A runtime that ends when it is told to, or with the last who knows it; it may be dropped anywhere,
/// also on its own thread.
pub(crate) struct OwnRuntime(Mutex<Option<Arc<Runtime>>>);

/// How long the end of a thread is waited for that has nothing left to do.
const END: Duration = Duration::from_secs(1);

impl OwnRuntime {
    fn new(runtime: Runtime) -> Self {
        OwnRuntime(Mutex::new(Some(Arc::new(runtime))))
    }

    /// With a thread of its own, on which sessions live.
    pub(crate) fn with_thread() -> std::io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("hermes-bus").enable_all().build().map(Self::new)
    }

    /// On the thread of whoever waits.
    pub(crate) fn of_caller() -> std::io::Result<Self> {
        Builder::new_current_thread().enable_all().build().map(Self::new)
    }

    fn place(&self) -> MutexGuard<'_, Option<Arc<Runtime>>> {
        // Nothing under this lock panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` after its end. Not to be kept for longer than something runs on it.
    pub(crate) fn get(&self) -> Option<Arc<Runtime>> {
        self.place().clone()
    }

    /// Ends its thread, and returns when it has ended; if somebody is still waiting for something on it,
    /// it ends with that.
    pub(crate) fn end(&self) {
        let runtime = self.place().take();
        if let Some(runtime) = runtime.and_then(Arc::into_inner) {
            runtime.shutdown_timeout(END);
        }
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        let runtime = self.place().take();
        if let Some(runtime) = runtime.and_then(Arc::into_inner) {
            runtime.shutdown_background();
        }
    }
}
