//! What connections cost: coming for one message, and staying without doing anything.

use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Instant;

use crate::error::BenchError;
use crate::link::{Link, Registration, Watch, list, read_json, refusal};
use crate::load::{Shared, first_of, not_a_message, receive};
use crate::plan::Case;
use crate::site::{Count, Idle, Sample, Site, histogram, nanos};
use crate::sys::{Memory, open_files, raise_open_files};
use crate::tally::{Tally, Whom};
use crate::wire::{Incoming, Level, Stamp, Template};

/// Files that are left for other things than idle sessions.
const FILES_SPARED: u64 = 32;

/// Connects, sends one message, waits for the receipt, closes; one behind the other. What arrives is counted by
/// a thread of its own.
pub(crate) fn connect(site: &Site<'_>, case: Case) -> Result<Sample, BenchError> {
    let template = Template::new(&site.name("r", 0), &site.sender(), case.text_bytes, None)
        .map_err(not_a_message)?;
    let mut ear = site.receiver(0, Registration::Level1)?;
    ear.reader.expect(template.pattern(Level::One));
    let mut ears = [ear];
    let mut tally = Tally::new(site.run, Whom::Own, 1, 1);
    let shared = Shared::new(1);
    let mut latency = histogram();
    let meter = site.meter();
    let began = meter.began;
    let (sending, receiving) = thread::scope(|scope| {
        let (shared, latency, template) = (&shared, &mut latency, &template);
        let sender =
            thread::Builder::new().name("senders".to_owned()).spawn_scoped(scope, move || {
                let mut batch = template.batch();
                let mut send_all = || {
                    let total = site.settings.messages.unwrap_or(u64::MAX).min(u64::from(u32::MAX));
                    let mut sent = 0;
                    while sent < total {
                        let start = Instant::now();
                        site.watch.check()?;
                        let stamp =
                            Stamp { run: site.run, sender: 0, number: sent as u32, due_ns: 0 };
                        send_one(site, batch.stamped([stamp].into_iter()))?;
                        latency.saturating_record(nanos(start.elapsed()));
                        sent += 1;
                        if site
                            .settings
                            .duration
                            .is_some_and(|duration| began.elapsed() >= duration)
                        {
                            break;
                        }
                    }
                    shared.wanted.store(sent, Relaxed);
                    Ok((sent, Instant::now()))
                };
                site.watch.tell(send_all())
            });
        let received = site.watch.tell(receive(&mut ears, &mut tally, shared, &site.watch));
        let sent = match sender {
            Ok(sender) => sender.join().unwrap_or(Err(BenchError::Elsewhere)),
            Err(source) => Err(BenchError::Io { doing: "start a thread", source }),
        };
        (sent, received)
    });
    let ((sent, ended), _) = first_of(sending, receiving)?;
    let (frame_bytes, text_bytes) = (template.frame_bytes() as u64, template.text_bytes as u64);
    let mut sample =
        meter.end(ended, Count { sent, received: tally.received(), frame_bytes, text_bytes });
    sample.latency = Some(latency);
    Ok(sample)
}

/// One connection, from its beginning to its end.
fn send_one(site: &Site<'_>, message: &[u8]) -> Result<(), BenchError> {
    let mut link = Link::open(site.socket(), "a sender")?;
    link.write(message, &site.watch)?;
    loop {
        match link.reader.next()? {
            None => {
                link.fill(&site.watch, || "the receipt of a message did not come".to_owned())?;
            }
            Some(Incoming::Message(_)) => {}
            Some(Incoming::Other(payload)) => {
                let answer = read_json(payload)?;
                refusal(&answer, "a message").map_or(Ok(()), Err)?;
                if answer["type"] == "receipt" {
                    return Ok(());
                }
            }
        }
    }
}

/// Opens sessions, as many as are asked for and as the limit of open files allows, and looks what the daemon needs
/// for them.
pub(crate) fn idle(site: &Site<'_>) -> Result<Sample, BenchError> {
    let asked = u64::from(site.settings.connections);
    let limit = raise_open_files().unwrap_or(u64::MAX);
    let possible = limit.saturating_sub(open_files() + FILES_SPARED);
    let mut ended_by = (possible < asked)
        .then(|| format!("this process may have {limit} files open (the hard limit, ulimit -Hn)"));
    let before = site.pid.and_then(Memory::of);
    let meter = site.meter();
    let mut streams = Vec::new();
    while (streams.len() as u64) < asked.min(possible) {
        site.watch.check()?;
        let name = site.name("i", streams.len());
        match Link::register(site.socket(), &name, Registration::Level1, &site.watch) {
            // Its buffer goes at once; the socket stays.
            Ok(link) => streams.push(link.stream),
            Err(BenchError::Interrupted) => return Err(BenchError::Interrupted),
            Err(error) if streams.is_empty() => return Err(error),
            Err(error) => {
                ended_by = Some(format!("the bus took no more: {error}"));
                break;
            }
        }
    }
    let ended = Instant::now();
    let connections = streams.len() as u64;
    if connections == 0 {
        let what = format!("no session can be opened: {}", ended_by.unwrap_or_default());
        return Err(BenchError::OpenFiles(what));
    }
    let mut sample = meter.end(ended, Count::default());
    let grown = before
        .zip(sample.memory)
        .and_then(|(before, after)| after.resident.checked_sub(before.resident));
    let bytes_each = grown.map(|bytes| bytes as f64 / connections as f64);
    are_all_there(site, connections, &site.watch)?;
    sample.idle = Some(Idle { connections, asked, bytes_each, ended_by });
    Ok(sample)
}

/// Whether the bus still has all of the idle sessions.
fn are_all_there(site: &Site<'_>, connections: u64, watch: &Watch) -> Result<(), BenchError> {
    let listing = list(site.socket(), watch)?;
    let own = site.name("i", 0);
    let prefix = own.trim_end_matches('0');
    let there = listing.endpoints.keys().filter(|name| name.starts_with(prefix)).count() as u64;
    if there < connections && !listing.truncated {
        let gone = connections - there;
        return Err(BenchError::Wrong(format!(
            "the bus has lost {gone} of {connections} idle sessions"
        )));
    }
    Ok(())
}
