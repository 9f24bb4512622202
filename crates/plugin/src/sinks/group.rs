//! A child process that leads a group of its own, so that it can be ended with all that it has started.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a group has to end when it is asked to, before it is killed.
const KILL_AFTER: Duration = Duration::from_secs(2);

/// A child and its group. Dropped while the child runs, it asks the group to end.
pub(super) struct Group {
    child: Child,
    /// Of the child while it has not been reaped: then the number is nobody else's.
    id: Option<Pid>,
}

impl Group {
    pub(super) fn start(command: &mut Command) -> io::Result<Group> {
        let child = command.process_group(0).spawn()?;
        let id = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Group { child, id })
    }

    pub(super) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits for the child's end. May be dropped while it waits.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.id = None;
        Ok(status)
    }

    /// Asks the group to end, then kills it.
    pub(super) async fn end(&mut self) {
        self.signal(Signal::TERM);
        if timeout(KILL_AFTER, self.wait()).await.is_err() {
            self.signal(Signal::KILL);
            let _ = self.wait().await;
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.id {
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
    }
}
