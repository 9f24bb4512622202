//! How long messages take: there and back, there, and there under a steady load.

use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::error::BenchError;
use crate::link::{Link, Registration, Wait, Watch, unless_expected};
use crate::load::not_a_message;
use crate::pace::{Clock, Paced, RealClock, Schedule, keep_pace};
use crate::plan::Case;
use crate::site::{Count, Meter, Sample, Site, Steady, histogram, nanos};
use crate::tally::{Tally, Whom};
use crate::wire::{Batch, Incoming, Level, Stamp, Template};

/// Messages before the measured ones, so that caches, queues and buffers are as they will be.
const WARM_UP: u64 = 200;
/// The same of a steady load, in time.
const WARM_UP_STEADY: Duration = Duration::from_millis(50);

/// One end of an exchange.
struct End {
    link: Link,
    batch: Batch,
    sent: u32,
    heard: u32,
}

impl End {
    fn send(&mut self, run: u16, watch: &Watch) -> Result<(), BenchError> {
        let stamp = Stamp { run, sender: 0, number: self.sent, due_ns: 0 };
        self.sent = self.sent.wrapping_add(1);
        self.link.write(self.batch.stamped([stamp].into_iter()), watch)
    }

    /// Waits for the one message that is under way.
    fn hear(&mut self, run: u16, watch: &Watch) -> Result<(), BenchError> {
        let Stamp { number, run: found, .. } = self.link.next_message(watch)?;
        if found != run || number != self.heard {
            let wanted = self.heard;
            return Err(BenchError::Wrong(format!(
                "message {number} arrived in place of {wanted}"
            )));
        }
        self.heard = self.heard.wrapping_add(1);
        Ok(())
    }
}

/// A message from one session to another, and one back, one at a time. Both ends are one thread: it is woken
/// twice in a round, and so is the daemon.
pub(crate) fn round_trip(site: &Site<'_>, case: Case) -> Result<Sample, BenchError> {
    let (one, two) = (site.name("r", 0), site.name("r", 1));
    let there = template(&two, &one, case)?;
    let back = template(&one, &two, case)?;
    let open = |number, incoming: &Template, outgoing: &Template| {
        let mut link = site.receiver(number, Registration::Level1)?;
        link.reader.expect(incoming.pattern(Level::One));
        Ok::<_, BenchError>(End { link, batch: outgoing.batch(), sent: 0, heard: 0 })
    };
    let (mut asks, mut answers) = (open(0, &back, &there)?, open(1, &there, &back)?);
    one_at_a_time(site, &there, 2, || {
        let watch = &site.watch;
        let began = Instant::now();
        asks.send(site.run, watch)?;
        answers.hear(site.run, watch)?;
        answers.send(site.run, watch)?;
        asks.hear(site.run, watch)?;
        Ok(began.elapsed())
    })
}

/// A message from an anonymous sender to a session, one at a time, both in one thread.
pub(crate) fn one_way(site: &Site<'_>, case: Case) -> Result<Sample, BenchError> {
    let template = template(&site.name("r", 0), &site.sender(), case)?;
    let mut ear = site.receiver(0, Registration::Level1)?;
    ear.reader.expect(template.pattern(Level::One));
    let batch = template.batch();
    let mut receiver = End { link: ear, batch: template.batch(), sent: 0, heard: 0 };
    let link = Link::open(site.socket(), "a sender")?;
    let mut sender = End { link, batch, sent: 0, heard: 0 };
    one_at_a_time(site, &template, 1, || {
        let began = Instant::now();
        sender.send(site.run, &site.watch)?;
        receiver.hear(site.run, &site.watch).map_err(|error| match error {
            BenchError::Silent { .. } => sender.link.ended(error),
            other => other,
        })?;
        Ok(began.elapsed())
    })
}

fn template(to: &str, from: &str, case: Case) -> Result<Template, BenchError> {
    Template::new(to, from, case.text_bytes, None).map_err(not_a_message)
}

/// Repeats an exchange of `messages_each` messages until it is enough.
fn one_at_a_time(
    site: &Site<'_>,
    template: &Template,
    messages_each: u64,
    mut exchange: impl FnMut() -> Result<Duration, BenchError>,
) -> Result<Sample, BenchError> {
    let settings = site.settings;
    let total = settings.messages.unwrap_or(u64::MAX);
    let warm_up_ends =
        Instant::now() + settings.duration.unwrap_or(Duration::MAX / 4).min(WARM_UP_STEADY);
    for _ in 0..WARM_UP.min(total) {
        exchange()?;
        if Instant::now() >= warm_up_ends {
            break;
        }
    }
    let mut latency = histogram();
    let meter = site.meter();
    let mut done = 0;
    while done < total {
        site.watch.check()?;
        latency.saturating_record(nanos(exchange()?));
        done += 1;
        if settings.duration.is_some_and(|duration| meter.began.elapsed() >= duration) {
            break;
        }
    }
    let (sent, received) = (done * messages_each, done * messages_each);
    let mut sample = meter.end(Instant::now(), count(template, sent, received));
    sample.latency = Some(latency);
    Ok(sample)
}

fn count(template: &Template, sent: u64, received: u64) -> Count {
    let (frame_bytes, text_bytes) = (template.frame_bytes() as u64, template.text_bytes as u64);
    Count { sent, received, frame_bytes, text_bytes }
}

/// Messages at a fixed rate from one sender, which waits for nobody, to one receiver.
pub(crate) fn steady(site: &Site<'_>, case: Case) -> Result<Sample, BenchError> {
    let settings = site.settings;
    let template = template(&site.name("r", 0), &site.sender(), case)?;
    let mut ear = site.receiver(0, Registration::Level1)?;
    ear.reader.expect(template.pattern(Level::One));
    let mut mouth = Link::open(site.socket(), "a sender")?;
    let mut batch = template.batch();
    let schedule = Schedule::new(settings.rate);
    let in_time = settings.duration.map_or(u64::MAX, |duration| schedule.within(duration));
    let total = settings.messages.unwrap_or(u64::MAX).min(in_time).min(u64::from(u32::MAX));
    // One that is behind has twice its time, and a little.
    let end_ns = schedule.due_ns(total).saturating_mul(2).saturating_add(nanos(WARM_UP_STEADY));
    let warm_up = schedule.within(WARM_UP_STEADY).min(total / 5);
    let meter = site.meter();
    let watch = &site.watch;
    let clock = RealClock(meter.began);
    let run = site.run;
    let (wanted, wants) = std::sync::mpsc::channel();
    let (paced, heard) = thread::scope(|scope| {
        let mouth = &mut mouth;
        let sender =
            thread::Builder::new().name("sender".to_owned()).spawn_scoped(scope, move || {
                crate::sys::sleep_exactly();
                let stamp = |number: u64| Stamp {
                    run,
                    sender: 0,
                    number: number as u32,
                    due_ns: schedule.due_ns(number),
                };
                let capacity = batch.capacity() as u64;
                let paced = keep_pace(schedule, total, capacity, end_ns, &clock, |numbers| {
                    watch.check()?;
                    mouth.write(batch.stamped(numbers.map(stamp)), watch)
                });
                let paced = watch.tell(paced);
                if let Ok(paced) = &paced {
                    let _ = wanted.send(paced.sent);
                }
                paced
            });
        let heard = watch.tell(hear_all(&mut ear, site, clock, warm_up, &wants));
        let paced = match sender {
            Ok(sender) => sender.join().unwrap_or(Err(BenchError::Elsewhere)),
            Err(source) => Err(BenchError::Io { doing: "start a thread", source }),
        };
        (paced, heard)
    });
    let (paced, heard) = crate::load::first_of(paced, heard).map_err(|error| match error {
        BenchError::Silent { .. } => mouth.ended(error),
        other => other,
    })?;
    let count = count(&template, paced.sent, heard.received);
    Ok(sample(meter, heard, count, &paced, schedule, total))
}

fn sample(
    meter: Meter,
    heard: Heard,
    count: Count,
    paced: &Paced,
    schedule: Schedule,
    total: u64,
) -> Sample {
    // So much may the last message be late, as a part of the whole time and at least.
    const SLACK: (u64, u64) = (100, 10_000_000);
    let due_ns = schedule.due_ns(total.saturating_sub(1));
    let slack_ns = (due_ns / SLACK.0).max(SLACK.1);
    let kept_the_rate = paced.sent == total && paced.ended_ns <= due_ns.saturating_add(slack_ns);
    let took_ns = paced.ended_ns.max(schedule.due_ns(paced.sent)).max(1);
    let mut sample = meter.end(heard.ended, count);
    sample.latency = Some(heard.latency);
    let sent_per_s = paced.sent as f64 * 1e9 / took_ns as f64;
    sample.steady = Some(Steady { sent_per_s, kept_the_rate, lag: paced.lag.clone() });
    sample
}

/// What a receiver of a steady load has seen.
struct Heard {
    received: u64,
    ended: Instant,
    /// From when each message was due.
    latency: Histogram<u64>,
}

/// Hears until all has come that was sent; how much that is comes through `wants`.
fn hear_all(
    ear: &mut Link,
    site: &Site<'_>,
    clock: RealClock,
    warm_up: u64,
    wants: &std::sync::mpsc::Receiver<u64>,
) -> Result<Heard, BenchError> {
    let mut tally = Tally::new(site.run, Whom::Own, 1, 1);
    let mut heard = Heard { received: 0, ended: Instant::now(), latency: histogram() };
    let mut wanted = u64::MAX;
    let mut wait = Wait::begin(&site.watch);
    loop {
        if let Ok(sent) = wants.try_recv() {
            wanted = sent;
        }
        if tally.received() >= wanted {
            heard.received = tally.received();
            return Ok(heard);
        }
        if !ear.read_once()? {
            ear.keep_alive(&site.watch)?;
            wait.check(|| tally.what_is_missing(wanted))?;
            continue;
        }
        let now_ns = clock.now_ns();
        while let Some(incoming) = ear.reader.next()? {
            match incoming {
                Incoming::Message(stamp) => {
                    tally.arrive(0, stamp)?;
                    if u64::from(stamp.number) >= warm_up {
                        heard.latency.saturating_record(now_ns.saturating_sub(stamp.due_ns));
                    }
                }
                Incoming::Other(payload) => unless_expected(payload)?,
            }
        }
        (heard.ended, wait) = (Instant::now(), Wait::begin(&site.watch));
    }
}
