//! Which process this is, and what belongs to it.
//!
//! After a fork the child has copies of everything, but not the threads that would serve them, and
//! the sockets are the parent's. So nothing that was made before a fork is used in the child: it is not
//! even dropped, because a lock in it may be held by a thread that does not exist there.

use std::sync::atomic::{AtomicU64, Ordering};
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

/// A runtime that may be dropped anywhere, also on its own thread.
pub(crate) struct OwnRuntime(Option<Runtime>);

/// How long the end of a thread is waited for that has nothing left to do.
const END: Duration = Duration::from_secs(1);

impl OwnRuntime {
    /// With a thread of its own, on which sessions live.
    pub(crate) fn with_thread() -> std::io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).thread_name("hermes-bus").enable_all().build()?;
        Ok(OwnRuntime(Some(runtime)))
    }

    /// On the thread of whoever waits.
    pub(crate) fn of_caller() -> std::io::Result<Self> {
        Ok(OwnRuntime(Some(Builder::new_current_thread().enable_all().build()?)))
    }

    pub(crate) fn get(&self) -> &Runtime {
        self.0.as_ref().expect("only taken at its end")
    }

    /// Ends its thread, and returns when it has ended.
    pub(crate) fn end(mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(END);
        }
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
