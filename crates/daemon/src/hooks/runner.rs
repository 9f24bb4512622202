//! The thread that runs hooks, and what the routing thread has of it.
//!
//! The routing thread hands over batches and never waits: what it takes part in has no lock that this
//! thread could hold while others have the processor. On Linux the thread, and with it every hook,
//! runs with a lower priority than the router.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TryRecvError};
use std::thread;
use std::time::Duration;

use hermes_bus_core::{TapBatch, Tapped};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, LocalSet};
use tokio::time::{Instant, timeout, timeout_at};

use super::call::{Call, Ended, Ending, Handle, Patience};
use super::complaints::Complaints;
use super::facts::Facts;
use super::pipes::Output;
use super::program;
use super::queue::{Message, Queue};
use super::tally::Tally;
use super::{Counters, Exit, Filter, Hook, Limits};
use crate::logging::target;

/// Bytes of messages that are handed over and not looked at yet; the router keeps what is more.
const OFFERED_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Batches that wait to be used again.
const SPENT_MAX: usize = 4;
/// What is added to the niceness of the thread and of the hooks, on Linux. Routing comes first where
/// processors are scarce: 10,000 messages can mean thousands of processes in a few seconds.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;
/// Outputs that are read on although the hook itself has ended, because somebody it has started has
/// them open. When there is one more, the oldest is closed.
const LEFT_OPEN_MAX: usize = 64;
/// Log lines about failures of one hook in a minute.
const FAILURE_LINES_MAX: u32 = 5;
const FAILURE_WINDOW: Duration = Duration::from_secs(60);
/// How often it is told that calls of one hook are dropped.
const DROP_WINDOW: Duration = Duration::from_secs(10);
const TOO_MANY: &str = "too many calls wait, the oldest go";
/// How long hooks may take to end when the runner ends and they were asked to.
const END_PATIENCE: Duration = Duration::from_millis(500);
/// What an answer from the thread may take beyond the patience it was told.
const ANSWER_TIME: Duration = Duration::from_millis(200);

/// Runs hooks.
#[derive(Debug)]
pub struct Runner {
    commands: Sender<Command>,
    /// Wakes the thread. Ends with this value, and with it the thread when its calls have ended.
    waker: UnixStream,
    /// Batches that the thread is done with.
    spent: Receiver<TapBatch>,
    shared: Arc<Shared>,
}

/// What both threads look at.
#[derive(Debug, Default)]
struct Shared {
    /// Set while the thread will look at the commands before it sleeps.
    is_awake: AtomicBool,
    /// Bytes of the batches among the commands.
    offered_bytes: AtomicUsize,
    /// The thread has ended, however that came.
    is_gone: AtomicBool,
    tally: Tally,
}

#[derive(Debug)]
enum Command {
    Batch(TapBatch),
    Replace(Vec<Hook>, Limits),
    Stop { patience: Duration, done: Sender<()> },
}

impl Runner {
    /// Starts the thread.
    pub fn start(hooks: Vec<Hook>, limits: Limits) -> io::Result<Runner> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (waker, woken) = UnixStream::pair()?;
        waker.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let woken = {
            let _inside = runtime.enter();
            tokio::net::UnixStream::from_std(woken)?
        };
        let (commands, receiver) = mpsc::channel();
        let (done_with, spent) = mpsc::sync_channel(SPENT_MAX);
        let shared = Arc::new(Shared::default());
        let inbox = Inbox { receiver, woken, done_with, shared: shared.clone() };
        thread::Builder::new().name("hooks".to_owned()).spawn(move || {
            // Of the thread alone: that is what Linux makes of it.
            #[cfg(target_os = "linux")]
            let _ = rustix::process::nice(NICENESS);
            let _farewell = Farewell(inbox.shared.clone());
            let local = LocalSet::new();
            local.block_on(&runtime, serve(inbox, hooks, limits));
        })?;
        Ok(Runner { commands, waker, spent, shared })
    }

    /// Hands over what was routed. Gives it back if the thread is behind; then it is offered again
    /// later, with what has come since. Never blocks.
    pub fn offer(&self, batch: TapBatch) -> Result<(), TapBatch> {
        if batch.is_empty() {
            return Ok(());
        }
        let bytes = batch.bytes();
        let ahead = self.shared.offered_bytes.load(Ordering::Relaxed);
        if ahead > 0 && ahead + bytes > OFFERED_BYTES_MAX {
            return Err(batch);
        }
        self.shared.offered_bytes.fetch_add(bytes, Ordering::Relaxed);
        match self.send(Command::Batch(batch)) {
            Err(Command::Batch(batch)) => Err(batch),
            _ => Ok(()),
        }
    }

    /// A batch that the thread is done with: its memory may be used again.
    pub fn take_spent(&self) -> Option<TapBatch> {
        self.spent.try_recv().ok()
    }

    /// Uses other hooks and limits from now on. Calls that run go on under the old ones; of a hook
    /// that is still there (the same path and arguments), those that wait stay and get its new
    /// settings; those of hooks that are gone are dropped.
    pub fn replace(&self, hooks: Vec<Hook>, limits: Limits) {
        let _ = self.send(Command::Replace(hooks, limits));
    }

    /// What hooks have done so far.
    pub fn counters(&self) -> Counters {
        self.shared.tally.counters()
    }

    /// Whether the thread has ended although nobody has asked it to: no hook runs any more.
    pub fn is_gone(&self) -> bool {
        self.shared.is_gone.load(Ordering::Acquire)
    }

    /// Whether nothing waits and nothing runs.
    pub fn is_idle(&self) -> bool {
        let Counters { running, waiting, .. } = self.shared.tally.counters();
        running == 0 && waiting == 0 && self.shared.offered_bytes.load(Ordering::Relaxed) == 0
    }

    /// Ends all this. Calls that wait are dropped. Hooks that run have `patience` to end by themselves;
    /// then their process groups get SIGTERM, and half a second later SIGKILL.
    pub fn stop(self, patience: Duration) {
        let (done, is_done) = mpsc::channel();
        if self.send(Command::Stop { patience, done }).is_ok() {
            let _ = is_done.recv_timeout(patience + END_PATIENCE + ANSWER_TIME);
        }
    }

    fn send(&self, command: Command) -> Result<(), Command> {
        self.commands.send(command).map_err(|mpsc::SendError(command)| command)?;
        if !self.shared.is_awake.swap(true, Ordering::AcqRel) {
            // If the socket is full, the thread has enough to wake it.
            let _ = (&self.waker).write(&[0]);
        }
        Ok(())
    }
}

/// Says that the thread has ended, also when it has panicked.
struct Farewell(Arc<Shared>);

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.is_gone.store(true, Ordering::Release);
    }
}

// ---- the thread -------------------------------------------------------------------------------------

/// Where commands come in. A channel of the standard library and a byte on a socket, because neither
/// has the sender wait for the receiver; the wake-up of a runtime takes a lock.
struct Inbox {
    receiver: Receiver<Command>,
    woken: tokio::net::UnixStream,
    /// Where batches go back to.
    done_with: SyncSender<TapBatch>,
    shared: Arc<Shared>,
}

impl Inbox {
    /// The next command; None when there is nobody left to send one.
    async fn next(&self) -> Option<Command> {
        loop {
            match self.receiver.try_recv() {
                Ok(command) => return Some(command),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => {}
            }
            if self.shared.is_awake.swap(false, Ordering::AcqRel) {
                // What was sent until now has not woken anybody.
                continue;
            }
            self.sleep().await;
        }
    }

    async fn sleep(&self) {
        if self.woken.readable().await.is_err() {
            return;
        }
        let mut bytes = [0; 64];
        // At the end of the stream the channel has ended too.
        while matches!(self.woken.try_read(&mut bytes), Ok(1..)) {}
    }
}

async fn serve(inbox: Inbox, hooks: Vec<Hook>, limits: Limits) {
    let shared = inbox.shared.clone();
    let crew = Rc::new(Crew::new(shared, hooks, limits));
    loop {
        match inbox.next().await {
            Some(Command::Batch(batch)) => {
                crew.take(&batch);
                inbox.shared.offered_bytes.fetch_sub(batch.bytes(), Ordering::Relaxed);
                // If enough of them wait already, this one's memory is given back to the system.
                let _ = inbox.done_with.try_send(batch);
            }
            Some(Command::Replace(hooks, limits)) => crew.replace(hooks, limits),
            Some(Command::Stop { patience, done }) => {
                crew.stop(patience).await;
                let _ = done.send(());
                break;
            }
            None => {
                crew.drop_waiting();
                break;
            }
        }
        // The hooks' pipes have their turn between two batches.
        tokio::task::yield_now().await;
    }
    crew.all_ended().await;
}

/// A hook, and what is known of it.
#[derive(Debug)]
struct Slot {
    hook: Rc<Hook>,
    /// It is run for every message.
    takes_all: bool,
    /// Its path, for the log.
    name: String,
    /// Calls of it that run. Shared with its successor when the hooks are replaced.
    running: Rc<std::cell::Cell<usize>>,
    /// Its file was not there the last time; that was said once.
    is_missing: Rc<std::cell::Cell<bool>>,
    failures: Rc<Complaints>,
    drops: Rc<Complaints>,
}

impl Slot {
    fn of(hook: Hook) -> Rc<Self> {
        Rc::new(Slot {
            name: hook.path.display().to_string(),
            takes_all: hook.filter == Filter::default(),
            hook: Rc::new(hook),
            running: Rc::default(),
            is_missing: Rc::default(),
            failures: Complaints::new("more calls have failed", FAILURE_LINES_MAX, FAILURE_WINDOW),
            drops: Complaints::new("more calls were dropped", 1, DROP_WINDOW),
        })
    }

    /// The same hook with other settings.
    fn with_settings_of(&self, hook: Hook) -> Rc<Self> {
        Rc::new(Slot {
            takes_all: hook.filter == Filter::default(),
            hook: Rc::new(hook),
            name: self.name.clone(),
            running: self.running.clone(),
            is_missing: self.is_missing.clone(),
            failures: self.failures.clone(),
            drops: self.drops.clone(),
        })
    }

    fn may_start(&self) -> bool {
        self.hook.concurrency.is_none_or(|max| self.running.get() < max)
    }

    fn tell_left_out(&self) {
        self.failures.tell_left_out(&self.name);
        self.drops.tell_left_out(&self.name);
    }
}

/// The hooks, their calls that wait, and their calls that run.
struct Crew {
    shared: Arc<Shared>,
    state: RefCell<State>,
    /// A call has ended.
    changed: Notify,
}

struct State {
    limits: Limits,
    slots: Vec<Rc<Slot>>,
    /// A lane for each slot.
    queue: Queue,
    running: HashMap<u64, Handle>,
    next_call: u64,
    /// Outputs of calls that have ended.
    left_open: VecDeque<(u64, AbortHandle)>,
}

impl Crew {
    fn new(shared: Arc<Shared>, hooks: Vec<Hook>, limits: Limits) -> Self {
        let slots: Vec<_> = hooks.into_iter().map(Slot::of).collect();
        let state = State {
            limits,
            queue: Queue::with_lanes(slots.len()),
            slots,
            running: HashMap::new(),
            next_call: 0,
            left_open: VecDeque::new(),
        };
        Crew { shared, state: RefCell::new(state), changed: Notify::new() }
    }

    fn tally(&self) -> &Tally {
        &self.shared.tally
    }

    // ---- calls that come in -----------------------------------------------------------------------

    fn take(self: &Rc<Self>, batch: &TapBatch) {
        if batch.left_out() > 0 {
            // Nobody knows any more for which hooks they were: they count for all.
            for slot in &self.state.borrow().slots {
                self.count_dropped(slot, batch.left_out(), "messages come too fast for the hooks");
            }
        }
        let mut passed_over = 0;
        for (behind, message) in (0..batch.len()).rev().zip(batch.iter()) {
            if self.is_in_vain(behind) {
                passed_over += 1;
                continue;
            }
            self.queue_calls(message);
            self.start_what_may();
            self.make_room();
        }
        if passed_over > 0 {
            for slot in &self.state.borrow().slots {
                self.count_dropped(slot, passed_over, TOO_MANY);
            }
        }
    }

    /// Whether all calls for a message would wait, and be dropped for those of the `behind` messages
    /// that have come after it: while a batch is taken, no call ends. In a flood this is so for most
    /// messages, and spares the copy of each.
    fn is_in_vain(&self, behind: usize) -> bool {
        let state = self.state.borrow();
        state.running.len() >= state.limits.concurrency
            && behind * state.slots.len() >= state.limits.waiting_max
            && state.slots.iter().all(|slot| slot.takes_all)
    }

    fn queue_calls(&self, tapped: Tapped<'_>) {
        let State { slots, queue, .. } = &mut *self.state.borrow_mut();
        let text = tapped.text();
        let facts = Facts::of(&text);
        let mut message = None;
        for (lane, slot) in slots.iter().enumerate() {
            if slot.hook.filter.takes(&facts) {
                let message = message
                    .get_or_insert_with(|| Message::new(tapped.payload(), tapped.outcome.as_str()));
                queue.push(lane, message);
            }
        }
    }

    /// Drops the oldest calls until those that wait are within their limits.
    fn make_room(&self) {
        loop {
            let dropped = {
                let State { limits, slots, queue, .. } = &mut *self.state.borrow_mut();
                let is_over =
                    queue.calls() > limits.waiting_max || queue.bytes() > limits.waiting_bytes_max;
                let oldest = if is_over { queue.pop(|_| true) } else { None };
                self.tally().waiting.set(queue.calls());
                oldest.map(|(lane, _)| slots[lane].clone())
            };
            let Some(slot) = dropped else { return };
            self.count_dropped(&slot, 1, TOO_MANY);
        }
    }

    fn count_dropped(&self, slot: &Slot, count: u64, why: &str) {
        self.tally().dropped.add(count);
        slot.drops.say(&slot.name, count, || match count {
            1 => format!("a call was dropped: {why}"),
            _ => format!("{count} calls were dropped: {why}"),
        });
    }

    fn drop_waiting(&self) {
        let mut state = self.state.borrow_mut();
        let lanes = state.slots.len();
        let dropped = state.queue.rearrange(&vec![None; lanes], lanes);
        self.tally().waiting.set(0);
        for (slot, count) in state.slots.iter().zip(dropped).filter(|(_, count)| *count > 0) {
            self.count_dropped(slot, count, "the daemon ends");
        }
        state.slots.iter().for_each(|slot| slot.tell_left_out());
    }

    // ---- other hooks ------------------------------------------------------------------------------

    fn replace(self: &Rc<Self>, hooks: Vec<Hook>, limits: Limits) {
        {
            let state = &mut *self.state.borrow_mut();
            let old = std::mem::take(&mut state.slots);
            let mut new_lanes = vec![None; old.len()];
            for hook in hooks {
                let is_same = |lane: &usize| {
                    new_lanes[*lane].is_none() && old[*lane].hook.is_same_program(&hook)
                };
                let slot = match (0..old.len()).find(is_same) {
                    Some(lane) => {
                        new_lanes[lane] = Some(state.slots.len());
                        old[lane].with_settings_of(hook)
                    }
                    None => Slot::of(hook),
                };
                state.slots.push(slot);
            }
            state.limits = limits;
            let dropped = state.queue.rearrange(&new_lanes, state.slots.len());
            for (slot, count) in old.iter().zip(dropped).filter(|(_, count)| *count > 0) {
                self.count_dropped(slot, count, "the hook is gone");
            }
        }
        self.start_what_may();
        self.make_room();
    }

    // ---- calls that run ---------------------------------------------------------------------------

    /// Starts calls while there is room for them.
    fn start_what_may(self: &Rc<Self>) {
        loop {
            let next = {
                let State { limits, slots, queue, running, .. } = &mut *self.state.borrow_mut();
                let has_room = running.len() < limits.concurrency;
                let next = if has_room { queue.pop(|lane| slots[lane].may_start()) } else { None };
                self.tally().waiting.set(queue.calls());
                next.map(|(lane, message)| (slots[lane].clone(), message))
            };
            let Some((slot, message)) = next else { return };
            self.start(&slot, &message);
        }
    }

    fn start(self: &Rc<Self>, slot: &Rc<Slot>, message: &Message) {
        let Some(kind) = program::look_at(&slot.hook.path) else {
            self.tally().skipped.add(1);
            if !slot.is_missing.replace(true) {
                let name = &slot.name;
                tracing::warn!(target: target::HOOKS, "{name}: there is no such file; its calls are skipped until there is");
            }
            return;
        };
        slot.is_missing.set(false);
        let limits = self.state.borrow().limits.clone();
        match Call::start(&slot.hook, kind, message, limits.output_bytes_max) {
            Ok(call) => self.run(slot, call, &limits),
            Err(error) => {
                self.tally().not_started.add(1);
                slot.failures.say(&slot.name, 1, || format!("cannot be started: {error}"));
            }
        }
    }

    fn run(self: &Rc<Self>, slot: &Rc<Slot>, call: Call, limits: &Limits) {
        let patience = Patience {
            timeout: slot.hook.timeout.unwrap_or(limits.timeout),
            kill_after: limits.kill_after,
        };
        let number = {
            let mut state = self.state.borrow_mut();
            state.next_call += 1;
            let number = state.next_call;
            state.running.insert(number, call.handle());
            self.tally().running.set(state.running.len());
            number
        };
        slot.running.set(slot.running.get() + 1);
        let (crew, slot) = (self.clone(), slot.clone());
        tokio::task::spawn_local(async move {
            let ended = call.attend(patience).await;
            crew.count_ended(&slot, &ended, patience);
            crew.read_on(number, ended, patience);
            slot.running.set(slot.running.get() - 1);
            {
                let mut state = crew.state.borrow_mut();
                state.running.remove(&number);
                crew.tally().running.set(state.running.len());
            }
            crew.changed.notify_one();
            crew.start_what_may();
        });
    }

    fn count_ended(&self, slot: &Slot, ended: &Ended, patience: Patience) {
        let tally = self.tally();
        let text = match &ended.ending {
            Ending::Succeeded => {
                tally.succeeded.add(1);
                tally.exits.add(Exit::Code(0));
                return;
            }
            Ending::TimedOut => {
                tally.timed_out.add(1);
                format!("was ended, its time of {} s is up", patience.timeout.as_secs_f64())
            }
            Ending::Failed(status) => {
                tally.failed.add(1);
                match exit_of(*status) {
                    Some(exit) => {
                        tally.exits.add(exit);
                        format!("failed with {exit}")
                    }
                    None => format!("failed ({status})"),
                }
            }
            Ending::Unknown(error) => {
                tally.failed.add(1);
                format!("nobody knows how it ended: {error}")
            }
        };
        slot.failures.say(&slot.name, 1, || {
            let lasted = ended.lasted.as_secs_f64();
            let output =
                ended.output.shown().map_or_else(String::new, |output| format!(": {output}"));
            format!("{text} (after {lasted:.1} s){output}")
        });
    }

    /// Reads on what somebody writes whom a hook has left behind, as long as the hook could have run.
    fn read_on(self: &Rc<Self>, number: u64, ended: Ended, patience: Patience) {
        let Ended { output, lasted, .. } = ended;
        if !output.is_open() {
            return;
        }
        let deadline = Instant::now() + patience.timeout.saturating_sub(lasted);
        let crew = self.clone();
        let reading = tokio::task::spawn_local(async move {
            let _ = timeout_at(deadline, read_to_end(output)).await;
            crew.state.borrow_mut().left_open.retain(|(other, _)| *other != number);
        });
        let left_open = &mut self.state.borrow_mut().left_open;
        left_open.push_back((number, reading.abort_handle()));
        if left_open.len() > LEFT_OPEN_MAX
            && let Some((_, oldest)) = left_open.pop_front()
        {
            oldest.abort();
        }
    }

    // ---- the end ----------------------------------------------------------------------------------

    async fn stop(&self, patience: Duration) {
        self.drop_waiting();
        if timeout(patience, self.all_ended()).await.is_err() {
            self.handles().iter().for_each(|handle| handle.terminate());
            if timeout(END_PATIENCE, self.all_ended()).await.is_err() {
                self.handles().iter().for_each(|handle| handle.kill());
                let _ = timeout(ANSWER_TIME, self.all_ended()).await;
            }
        }
    }

    fn handles(&self) -> Vec<Handle> {
        self.state.borrow().running.values().copied().collect()
    }

    async fn all_ended(&self) {
        while !self.state.borrow().running.is_empty() {
            self.changed.notified().await;
        }
    }
}

async fn read_to_end(mut output: Output) {
    while output.is_open() {
        output.go_on().await;
    }
}

fn exit_of(status: ExitStatus) -> Option<Exit> {
    let narrow = |number: i32| u8::try_from(number).ok();
    let code = status.code().and_then(narrow).map(Exit::Code);
    code.or_else(|| status.signal().and_then(narrow).map(Exit::Signal))
}

#[cfg(test)]
#[path = "runner_tests.rs"]
mod tests;
