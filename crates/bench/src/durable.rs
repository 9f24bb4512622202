//! Messages that are kept: the sender hears of each that it is on disk. They are for a mailbox whose owner is
//! away, and are removed at the end, also when the measurement is interrupted.

use std::time::{Duration, Instant};

use hermes_bus_proto::control::{self, Status};
use hermes_bus_proto::{Envelope, Raw};
use serde_json::{Map, json};

use crate::error::BenchError;
use crate::link::{Link, Registration, Watch, read_json, refusal};
use crate::load::{named, not_a_message};
use crate::plan::{Case, Workload};
use crate::site::{Count, Sample, Site, histogram, nanos};
use crate::wire::{Incoming, Stamp, Template};

/// Removing a large mailbox takes longer than an answer.
const CLEANING_PATIENCE: Duration = Duration::from_secs(60);
/// How long further messages of a mailbox are waited for.
const DRAINING_PATIENCE: Duration = Duration::from_secs(2);

/// Sends with `receipt: stored`, with a number of messages unanswered at a time.
pub(crate) fn durable(site: &Site<'_>, case: Case) -> Result<Sample, BenchError> {
    let mut mailbox = Mailbox::open(site).map_err(|error| named(error, Workload::Durable))?;
    let sample = fill(site, case, &mailbox);
    let removed = mailbox.remove()?;
    let sample = sample?;
    match removed {
        Some(removed) if removed != sample.count.sent => Err(BenchError::Wrong(format!(
            "of {} messages of which the bus said that they are stored, {removed} were there",
            sample.count.sent
        ))),
        _ => Ok(sample),
    }
}

fn fill(site: &Site<'_>, case: Case, mailbox: &Mailbox<'_>) -> Result<Sample, BenchError> {
    let settings = site.settings;
    let sender = site.name("s", 0);
    let stored = Some(Status::Stored);
    let template =
        Template::new(&mailbox.name, &sender, case.text_bytes, stored).map_err(not_a_message)?;
    let mut batch = template.batch();
    let mut link = Link::register(site.socket(), &sender, Registration::Level2(&[]), &site.watch)?;
    let total = settings.messages.unwrap_or(u64::MAX).min(u64::from(u32::MAX));
    let outstanding = u64::from(settings.outstanding);
    let mut latency = histogram();
    let mut answered = Answered::default();
    let (mut sent, mut is_over) = (0, false);
    let meter = site.meter();
    let began = meter.began;
    loop {
        site.watch.check()?;
        is_over |=
            sent == total || settings.duration.is_some_and(|duration| began.elapsed() >= duration);
        let room =
            if is_over { 0 } else { (outstanding - (sent - answered.count)).min(total - sent) };
        let count = room.min(batch.capacity() as u64);
        if count > 0 {
            let due_ns = nanos(began.elapsed());
            let stamp = |number| Stamp { run: site.run, sender: 0, number: number as u32, due_ns };
            link.write(batch.stamped((sent..sent + count).map(stamp)), &site.watch)?;
            sent += count;
        }
        if is_over && answered.count == sent {
            break;
        }
        if count < room {
            continue;
        }
        let missing = || format!("{} of {sent} receipts did not come", sent - answered.count);
        link.fill(&site.watch, missing)?;
        let now_ns = nanos(began.elapsed());
        while let Some(incoming) = link.reader.next()? {
            if let Incoming::Other(payload) = incoming
                && let Some(stamp) = read_receipt(payload)?
            {
                answered.add(stamp, site.run, sent)?;
                latency.saturating_record(now_ns.saturating_sub(stamp.due_ns));
            }
        }
    }
    let (frame_bytes, text_bytes) = (template.frame_bytes() as u64, template.text_bytes as u64);
    let count = Count { sent, received: answered.count, frame_bytes, text_bytes };
    let mut sample = meter.end(Instant::now(), count);
    sample.latency = Some(latency);
    Ok(sample)
}

/// The message of which a receipt says that it is stored, or has come further. None: it is no receipt.
fn read_receipt(payload: &[u8]) -> Result<Option<Stamp>, BenchError> {
    let envelope =
        Envelope::scan(payload).map_err(|error| BenchError::NotABus(error.to_string()))?;
    let [kind, status] = envelope.members(["type", "status"]);
    let word = |value: Option<Raw<'_>>| Some(value?.text().ok()?.into_owned());
    if word(kind).as_deref() != Some("receipt") {
        return refusal(&read_json(payload)?, "a message").map_or(Ok(None), Err);
    }
    let status = word(status).and_then(|word| Status::of(&word));
    if status.is_none_or(|status| status < Status::Stored) {
        let text = String::from_utf8_lossy(payload).escape_debug().to_string();
        return Err(BenchError::Wrong(format!("a receipt does not say 'stored': {text}")));
    }
    let stamp = word(envelope.id).and_then(|id| Stamp::of_id(&id));
    stamp.map(Some).ok_or_else(|| BenchError::Wrong("a receipt is for another message".to_owned()))
}

/// Which messages were answered.
#[derive(Debug, Default)]
struct Answered {
    /// A bit for each.
    seen: Vec<u64>,
    count: u64,
}

impl Answered {
    fn add(&mut self, stamp: Stamp, run: u16, sent: u64) -> Result<(), BenchError> {
        let number = u64::from(stamp.number);
        if stamp.run != run || number >= sent {
            return Err(BenchError::Wrong(
                "a receipt is for a message that was not sent".to_owned(),
            ));
        }
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        if self.seen[word] & bit != 0 {
            return Err(BenchError::Wrong(format!("two receipts came for message {number}")));
        }
        self.seen[word] |= bit;
        self.count += 1;
        Ok(())
    }
}

/// A mailbox whose owner is away. It goes with this value.
#[derive(Debug)]
struct Mailbox<'s> {
    site: &'s Site<'s>,
    name: String,
    is_open: bool,
}

impl<'s> Mailbox<'s> {
    fn open(site: &'s Site<'s>) -> Result<Self, BenchError> {
        let name = site.name("m", 0);
        let mailbox = Mailbox { site, name, is_open: true };
        // The connection ends here: its owner is away.
        Link::register(site.socket(), &mailbox.name, Registration::Mailbox(true), &site.watch)?;
        Ok(mailbox)
    }

    /// Removes what is in there, and the mailbox. Says how many messages there were, where the bus tells.
    fn remove(&mut self) -> Result<Option<u64>, BenchError> {
        self.is_open = false;
        let watch = self.site.watch.for_cleaning(CLEANING_PATIENCE);
        let purged = self.purge(&watch);
        // The last one to register the name decides about the mailbox.
        let mut owner =
            Link::register(self.site.socket(), &self.name, Registration::Mailbox(false), &watch)?;
        match purged {
            Ok(count) => Ok(Some(count)),
            // Who is not the bus's owner may not purge, but may take what is his.
            Err(_) => drain(&mut owner, &self.site.watch.for_cleaning(DRAINING_PATIENCE)).map(Some),
        }
    }

    fn purge(&self, watch: &Watch) -> Result<u64, BenchError> {
        let mut link = Link::open(self.site.socket(), "the owner")?;
        let mut request = Vec::new();
        let endpoint = [("endpoint".to_owned(), json!(self.name))];
        control::admin(&mut request, "mailbox.purge", &endpoint.into_iter().collect::<Map<_, _>>());
        let answer = link.ask(&request, control::ADMIN_RESULT_TYPE, watch)?;
        answer["messages"].as_u64().ok_or_else(|| BenchError::NotABus(answer.to_string()))
    }
}

impl Drop for Mailbox<'_> {
    fn drop(&mut self) {
        if self.is_open {
            let _ = self.remove();
        }
    }
}

/// Takes and acknowledges all that is handed over, until nothing more comes; gives how many there were.
fn drain(owner: &mut Link, watch: &Watch) -> Result<u64, BenchError> {
    let mut count = 0;
    loop {
        let mut last = None;
        while let Some(incoming) = owner.reader.next()? {
            if let Incoming::Other(payload) = incoming {
                let envelope = Envelope::scan(payload);
                let seq = envelope.ok().and_then(|envelope| envelope.member("seq")?.whole_number());
                count += u64::from(seq.is_some());
                last = seq.or(last);
            }
        }
        if let Some(seq) = last {
            let mut ack = Vec::new();
            control::append_text(&mut ack, &json!({"type": "ack", "up_to": seq}).to_string());
            owner.write(&ack, watch)?;
        }
        match owner.fill(watch, || "nothing more came".to_owned()) {
            Ok(()) => {}
            Err(BenchError::Silent { .. }) => return Ok(count),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_counts_once_and_only_for_what_was_sent() {
        let stamp = |number| Stamp { run: 3, sender: 0, number, due_ns: 1 };
        let mut answered = Answered::default();
        for number in [0, 130, 64] {
            answered.add(stamp(number), 3, 131).unwrap();
        }
        assert_eq!(answered.count, 3);
        assert!(answered.add(stamp(64), 3, 131).is_err(), "twice");
        assert!(answered.add(stamp(131), 3, 131).is_err(), "not sent");
        assert!(answered.add(stamp(1), 4, 131).is_err(), "of another run");
    }

    #[test]
    fn only_what_is_on_disk_counts_as_stored() {
        let receipt = |status: &str| {
            let id = "0003000000000007000000000000000a";
            read_receipt(
                format!(r#"{{"type": "receipt", "id": "{id}", "status": "{status}"}}"#).as_bytes(),
            )
        };
        let stamp = Some(Stamp { run: 3, sender: 0, number: 7, due_ns: 10 });
        assert_eq!(receipt("stored").unwrap(), stamp);
        assert_eq!(receipt("acked").unwrap(), stamp);
        assert!(receipt("accepted").is_err());
        assert_eq!(read_receipt(br#"{"type": "pong"}"#).unwrap(), None);
        let error = br#"{"type": "error", "code": "mailbox_full", "detail": "it is full"}"#;
        assert_eq!(read_receipt(error).unwrap_err().code(), "mailbox_full");
    }
}
