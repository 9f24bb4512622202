//! As many messages as go through: one thread writes for all senders, one reads for all receivers.
//!
//! Each sender may have only so much under way, so that nothing piles up in the bus; and what comes is held
//! against what was sent, message by message.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use hermes_bus_proto::FrameError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::BenchError;
use crate::link::{Link, Registration, Wait, Watch, unless_expected};
use crate::plan::{Case, Workload};
use crate::site::{Count, Sample, Site, nanos};
use crate::tally::{Tally, Whom};
use crate::wire::{Batch, Incoming, Level, Stamp, Template};

/// How long a sender whose window is full waits before it looks again.
const PAUSE: Duration = Duration::from_micros(20);
/// How long a wait for receivers lasts before they look whether it is to end.
const POLL: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// Most messages that a sender has under way, however small.
const WINDOW_MAX: u64 = 16 * 1024;
/// Fewest messages to everybody that may be under way, if their bytes allow it.
const WINDOW_TO_ALL_MIN: u64 = 16;

/// Measures one round of a workload that goes for throughput.
pub(crate) fn throughput(site: &Site<'_>, case: Case) -> Result<Sample, BenchError> {
    if matches!(case.workload, Workload::Broadcast | Workload::Topic) {
        site.keep_to_itself(case.workload)?;
    }
    let LineUp { mut ears, mut mouths, whom, mut count } = LineUp::of(site, case)?;
    let bounds = Bounds::new(site, &count, whom, &mut mouths, ears.len() as u64);
    let mut tally = Tally::new(site.run, whom, mouths.len(), ears.len());
    let shared = Shared::new(mouths.len());
    let meter = site.meter();
    let began = meter.began;
    let watch = &site.watch;
    let (sending, receiving) = thread::scope(|scope| {
        let (shared, mouths) = (&shared, &mut mouths);
        let sender = thread::Builder::new().name("senders".to_owned());
        let sender = sender.spawn_scoped(scope, move || {
            let sent = watch.tell(send(mouths, &bounds, shared, site.run, began, watch));
            if let Ok(sent) = sent {
                shared.wanted.store(sent * bounds.deliveries_each, Relaxed);
            }
            sent
        });
        let received = watch.tell(receive(&mut ears, &mut tally, shared, watch));
        let sent = match sender {
            Ok(sender) => sender.join().unwrap_or(Err(BenchError::Elsewhere)),
            Err(source) => Err(BenchError::Io { doing: "start a thread", source }),
        };
        (sent, received)
    });
    let (sent, ended) = first_of(sending, receiving).map_err(|error| why(error, &mut mouths))?;
    count.sent = sent;
    count.received = tally.received();
    tally.check_end(sent)?;
    Ok(meter.end(ended, count))
}

/// Who takes part.
struct LineUp {
    ears: Vec<Link>,
    mouths: Vec<Mouth>,
    whom: Whom,
    /// Nothing yet, but how large a message is.
    count: Count,
}

impl LineUp {
    fn of(site: &Site<'_>, case: Case) -> Result<Self, BenchError> {
        let Case { workload, peers, text_bytes } = case;
        let (senders, receivers, whom) = match workload {
            Workload::FanIn => (peers, 1, Whom::Own),
            Workload::Pairs => (peers, peers, Whom::Own),
            Workload::Broadcast | Workload::Topic => (1, peers, Whom::All),
            Workload::Group => (1, peers, Whom::One),
            _ => (1, 1, Whom::Own),
        };
        let (group, topic) = (site.group(), site.topic());
        let held = match workload {
            Workload::Group => [("groups", group.as_str())],
            _ => [("topics", topic.as_str())],
        };
        let how = match workload {
            Workload::Group | Workload::Topic => Registration::Level2(&held),
            _ => Registration::Level1,
        };
        let address = |number: usize| match workload {
            Workload::Broadcast => String::new(),
            Workload::Group => format!("@{group}"),
            Workload::Topic => format!("#{topic}"),
            _ => site.name("r", number),
        };
        // Only pairs have more than one address.
        let addresses = if workload == Workload::Pairs { peers } else { 1 };
        let template =
            |number: usize| Template::new(&address(number), &site.sender(), text_bytes, None);
        let templates: Result<Vec<Template>, FrameError> = (0..addresses).map(template).collect();
        let templates = templates.map_err(not_a_message)?;
        let of = |number: usize| &templates[number.min(addresses - 1)];
        let mut ears = Vec::with_capacity(receivers);
        for number in 0..receivers {
            let mut link = site.receiver(number, how).map_err(|error| named(error, workload))?;
            link.reader.expect(of(number).pattern(Level::from(how)));
            ears.push(link);
        }
        let mut mouths = Vec::with_capacity(senders);
        for number in 0..senders {
            let link = Link::open(site.socket(), "a sender")?;
            mouths.push(Mouth { link, batch: of(number).batch(), sent: 0, quota: 0 });
        }
        let (frame_bytes, text_bytes) = (of(0).frame_bytes() as u64, of(0).text_bytes as u64);
        let count = Count { frame_bytes, text_bytes, ..Count::default() };
        Ok(LineUp { ears, mouths, whom, count })
    }
}

/// A template that the protocol refuses.
pub(crate) fn not_a_message(error: FrameError) -> BenchError {
    BenchError::Wrong(format!("no message can be made like that: {error}"))
}

/// Which workload a bus is too old for.
pub(crate) fn named(error: BenchError, workload: Workload) -> BenchError {
    match error {
        BenchError::NeedsLevel2 { .. } => BenchError::NeedsLevel2 { workload: workload.name() },
        other => other,
    }
}

/// Both results, or of the two errors the one that says more.
pub(crate) fn first_of<A, B>(
    a: Result<A, BenchError>,
    b: Result<B, BenchError>,
) -> Result<(A, B), BenchError> {
    match (a, b) {
        (Ok(a), Ok(b)) => Ok((a, b)),
        (Err(a), Err(b)) => Err(if a.says_more_than(&b) { a } else { b }),
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error),
    }
}

/// What the bus has told the senders, if it has told them why something did not arrive.
fn why(error: BenchError, mouths: &mut [Mouth]) -> BenchError {
    match error {
        BenchError::Silent { .. } | BenchError::Closed { .. } => {
            mouths.iter_mut().fold(error, |error, mouth| mouth.link.ended(error))
        }
        other => other,
    }
}

/// A sender.
#[derive(Debug)]
struct Mouth {
    link: Link,
    batch: Batch,
    sent: u64,
    quota: u64,
}

/// When to stop, and how far to run ahead.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// How long to send.
    duration: Option<Duration>,
    /// Messages of one sender that may be under way.
    window: u64,
    /// How many receivers get each message.
    deliveries_each: u64,
}

impl Bounds {
    /// Shares the messages among the senders, and so the window.
    fn new(
        site: &Site<'_>,
        count: &Count,
        whom: Whom,
        mouths: &mut [Mouth],
        receivers: u64,
    ) -> Self {
        let settings = site.settings;
        let senders = mouths.len() as u64;
        let in_all = (settings.window_bytes / count.frame_bytes).clamp(1, WINDOW_MAX);
        let (window, deliveries_each) = match whom {
            Whom::All => ((in_all / receivers).max(WINDOW_TO_ALL_MIN.min(in_all)), receivers),
            Whom::Own | Whom::One => ((in_all / senders).max(1), 1),
        };
        let total = settings.messages.unwrap_or(u64::MAX).min(u64::from(u32::MAX));
        for (number, mouth) in mouths.iter_mut().enumerate() {
            mouth.quota = total / senders + u64::from((number as u64) < total % senders);
        }
        Bounds { duration: settings.duration, window, deliveries_each }
    }
}

/// What the two threads tell each other.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Of each sender's messages, how many have arrived everywhere.
    arrived: Vec<AtomicU64>,
    /// How many deliveries there will have been; known when everything was sent.
    pub(crate) wanted: AtomicU64,
}

impl Shared {
    pub(crate) fn new(senders: usize) -> Self {
        let arrived = (0..senders).map(|_| AtomicU64::new(0)).collect();
        Shared { arrived, wanted: AtomicU64::new(u64::MAX) }
    }
}

/// Writes for all senders in turn; gives how many messages were sent.
fn send(
    mouths: &mut [Mouth],
    bounds: &Bounds,
    shared: &Shared,
    run: u16,
    began: Instant,
    watch: &Watch,
) -> Result<u64, BenchError> {
    let mut wait: Option<Wait<'_>> = None;
    loop {
        let elapsed = began.elapsed();
        let is_over = bounds.duration.is_some_and(|duration| elapsed >= duration);
        if is_over || mouths.iter().all(|mouth| mouth.sent == mouth.quota) {
            return Ok(mouths.iter().map(|mouth| mouth.sent).sum());
        }
        watch.check()?;
        let due_ns = nanos(elapsed);
        let mut has_sent = false;
        for (sender, mouth) in mouths.iter_mut().enumerate() {
            let under_way = mouth.sent.saturating_sub(shared.arrived[sender].load(Relaxed));
            let room = bounds.window.saturating_sub(under_way).min(mouth.quota - mouth.sent);
            let count = room.min(mouth.batch.capacity() as u64);
            if count == 0 {
                continue;
            }
            let numbers = mouth.sent as u32..(mouth.sent + count) as u32;
            let sender = sender as u16;
            let stamps = numbers.map(|number| Stamp { run, sender, number, due_ns });
            mouth.link.write(mouth.batch.stamped(stamps), watch)?;
            mouth.sent += count;
            has_sent = true;
        }
        if has_sent {
            wait = None;
        } else {
            let wait = wait.get_or_insert_with(|| Wait::begin(watch));
            wait.check(|| "messages that were sent did not arrive".to_owned())?;
            thread::sleep(PAUSE);
        }
    }
}

/// Reads for all receivers until everything has come that was sent; gives when the last of it came.
pub(crate) fn receive(
    ears: &mut [Link],
    tally: &mut Tally,
    shared: &Shared,
    watch: &Watch,
) -> Result<Instant, BenchError> {
    let is_complete = |tally: &Tally| tally.received() >= shared.wanted.load(Relaxed);
    let mut last = Instant::now();
    let mut wait = Wait::begin(watch);
    let mut is_readable = vec![ears.len() == 1; ears.len()];
    while !is_complete(tally) {
        if ears.len() > 1 {
            find_readable(ears, &mut is_readable)?;
        }
        let mut has_read = false;
        for (receiver, link) in ears.iter_mut().enumerate() {
            if !is_readable[receiver] || !link.read_once()? {
                continue;
            }
            has_read = true;
            while let Some(incoming) = link.reader.next()? {
                match incoming {
                    Incoming::Message(stamp) => tally.arrive(receiver, stamp)?,
                    Incoming::Other(payload) => unless_expected(payload)?,
                }
            }
        }
        if has_read {
            last = Instant::now();
            for (sender, arrived) in shared.arrived.iter().enumerate() {
                arrived.store(tally.arrived_everywhere(sender), Relaxed);
            }
            wait = Wait::begin(watch);
        } else {
            for link in ears.iter_mut() {
                link.keep_alive(watch)?;
            }
            wait.check(|| tally.what_is_missing(shared.wanted.load(Relaxed)))?;
        }
    }
    Ok(last)
}

/// Waits until something can be read, for a moment.
fn find_readable(ears: &[Link], is_readable: &mut [bool]) -> Result<(), BenchError> {
    let mut polled: Vec<PollFd<'_>> =
        ears.iter().map(|link| PollFd::new(&link.stream, PollFlags::IN)).collect();
    match poll(&mut polled, Some(&POLL)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => {
            return Err(BenchError::Io { doing: "wait for the bus", source: error.into() });
        }
    }
    for (is_readable, polled) in is_readable.iter_mut().zip(&polled) {
        *is_readable = !polled.revents().is_empty();
    }
    Ok(())
}
