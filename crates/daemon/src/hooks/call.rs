//! One call of a hook: a child process, from its start to its end.
//!
//! The child leads a process group of its own, and whoever it starts is in it unless they leave. It is
//! reaped here, always. Nothing it does or leaves undone with its pipes keeps the call from ending.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout_at};

use super::facts;
use super::hook::Hook;
use super::pipes::{Input, Output};
use super::program::{Kind, Launch};
use super::queue::Message;

/// How a call has ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// With exit code 0.
    Succeeded,
    /// With another one, or by a signal.
    Failed(ExitStatus),
    /// Its time was up, and it was ended.
    TimedOut,
    /// The system does not say how.
    Unknown(io::Error),
}

/// Times of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// From the start until it is asked to end.
    pub(super) timeout: Duration,
    /// From then until it is killed.
    pub(super) kill_after: Duration,
}

/// A call's process, for those who may end it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handle {
    /// The child's process group, which has its id.
    group: Pid,
}

impl Handle {
    /// Asks the child and all its group to end. Only while the call runs.
    pub(super) fn terminate(&self) {
        let _ = kill_process_group(self.group, Signal::TERM);
    }

    /// Ends the child and all its group. Only while the call runs.
    pub(super) fn kill(&self) {
        let _ = kill_process_group(self.group, Signal::KILL);
    }
}

/// A child that runs.
pub(super) struct Call {
    child: Child,
    handle: Handle,
    input: Input,
    output: Output,
    began: Instant,
}

/// A call that has ended.
pub(super) struct Ended {
    pub(super) ending: Ending,
    pub(super) lasted: Duration,
    /// Still open where somebody the child has started can write to it.
    pub(super) output: Output,
}

impl Call {
    /// Starts a hook for a message.
    pub(super) fn start(
        hook: &Hook,
        kind: Kind,
        message: &Message,
        output_bytes_max: usize,
    ) -> io::Result<Call> {
        let (input, their_input) = Input::of(message.payload.clone())?;
        let (output, their_output) = Output::keeping(output_bytes_max)?;
        let told = facts::variables(&message.payload, message.outcome);
        let own = hook.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let launch = Launch {
            path: &hook.path,
            kind,
            args: &hook.args,
            variables: own
                .chain(told.iter().map(|(name, value)| (*name, value.as_str())))
                .collect(),
            input: their_input,
            output: their_output,
        };
        let child = launch.start()?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let group = group.ok_or(io::ErrorKind::NotFound)?;
        let handle = Handle { group };
        Ok(Call { child, handle, input, output, began: Instant::now() })
    }

    /// What others may do with it.
    pub(super) fn handle(&self) -> Handle {
        self.handle
    }

    /// Sees the child to its end.
    pub(super) async fn attend(mut self, patience: Patience) -> Ended {
        let deadline = self.began + patience.timeout;
        let ending = match timeout_at(deadline, self.exit()).await {
            Ok(Ok(status)) if status.success() => Ending::Succeeded,
            Ok(Ok(status)) => Ending::Failed(status),
            Ok(Err(error)) => Ending::Unknown(error),
            Err(_) => {
                self.end(patience.kill_after).await;
                Ending::TimedOut
            }
        };
        self.output.read_what_is_there();
        Ended { ending, lasted: self.began.elapsed(), output: self.output }
    }

    /// Waits for the end of the child, and meanwhile writes its input and reads its output. May be
    /// dropped while it waits.
    async fn exit(&mut self) -> io::Result<ExitStatus> {
        loop {
            tokio::select! {
                status = self.child.wait() => return status,
                () = self.input.go_on(), if self.input.is_open() => {}
                () = self.output.go_on(), if self.output.is_open() => {}
            }
        }
    }

    /// Asks the child's group to end, and kills it when that does not help in time.
    async fn end(&mut self, kill_after: Duration) {
        self.handle.terminate();
        let deadline = Instant::now() + kill_after;
        if timeout_at(deadline, self.exit()).await.is_ok() {
            tokio::task::spawn_local(sweep(self.handle.group, deadline));
            return;
        }
        self.handle.kill();
        // It may have left its own group.
        let _ = self.child.start_kill();
        let _ = self.exit().await;
    }
}

/// How often it is looked whether a group is empty.
const SWEEP_EVERY: Duration = Duration::from_millis(50);

/// Gives those whom a child has left behind in its group until `deadline`, then kills them.
///
/// The group's number cannot be given to anybody else while somebody is in it; that it becomes empty
/// and the number is taken anew between two looks would need all process ids to be used up meanwhile.
async fn sweep(group: Pid, deadline: Instant) {
    while test_kill_process_group(group).is_ok() {
        if Instant::now() >= deadline {
            let _ = kill_process_group(group, Signal::KILL);
            return;
        }
        sleep(SWEEP_EVERY.min(deadline.saturating_duration_since(Instant::now()))).await;
    }
}
