//! What came, held against what was sent: the right number, in the right order, none twice, none that
//! somebody else has sent.

use crate::error::BenchError;
use crate::wire::Stamp;

/// Who gets the messages of a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// One receiver, always the same.
    Own,
    /// Every receiver.
    All,
    /// One of the receivers, for each message another one.
    One,
}

/// The books of one measurement.
#[derive(Debug)]
pub(crate) struct Tally {
    run: u16,
    whom: Whom,
    senders: usize,
    /// For each receiver and sender, the number that may come next.
    next: Vec<u32>,
    received: u64,
    /// Of messages that any of several may get: a sum over what came, which is right only if all came once.
    sum: u64,
}

impl Tally {
    pub(crate) fn new(run: u16, whom: Whom, senders: usize, receivers: usize) -> Self {
        Tally { run, whom, senders, next: vec![0; senders * receivers], received: 0, sum: 0 }
    }

    /// A message has arrived.
    #[inline]
    pub(crate) fn arrive(&mut self, receiver: usize, stamp: Stamp) -> Result<(), BenchError> {
        let sender = usize::from(stamp.sender);
        if stamp.run != self.run || sender >= self.senders {
            return Err(BenchError::Wrong("a message of another measurement arrived".to_owned()));
        }
        let next = &mut self.next[receiver * self.senders + sender];
        let is_right = match self.whom {
            Whom::Own | Whom::All => stamp.number == *next,
            Whom::One => stamp.number >= *next,
        };
        if !is_right {
            return Err(wrong(sender, receiver, stamp.number, *next));
        }
        *next = stamp.number + 1;
        self.received += 1;
        self.sum = self.sum.wrapping_add(weight(stamp.number));
        Ok(())
    }

    /// Deliveries so far.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// How many messages of a sender have arrived wherever they are to arrive.
    pub(crate) fn arrived_everywhere(&self, sender: usize) -> u64 {
        let of_the_sender = self.next.iter().skip(sender).step_by(self.senders);
        match self.whom {
            Whom::Own => of_the_sender.map(|next| u64::from(*next)).max().unwrap_or(0),
            Whom::All => of_the_sender.map(|next| u64::from(*next)).min().unwrap_or(0),
            Whom::One => self.received,
        }
    }

    /// That nothing came twice in place of something else, where the numbers alone do not show it.
    pub(crate) fn check_end(&self, sent: u64) -> Result<(), BenchError> {
        let wanted = (0..sent as u32).fold(0_u64, |sum, number| sum.wrapping_add(weight(number)));
        if self.whom == Whom::One && self.sum != wanted {
            let what = "as many messages arrived as were sent, but some of them twice, and others not at all";
            return Err(BenchError::Wrong(what.to_owned()));
        }
        Ok(())
    }

    /// What has not come, in words. `wanted` is not known as long as something is sent.
    pub(crate) fn what_is_missing(&self, wanted: u64) -> String {
        let received = self.received;
        match wanted {
            u64::MAX => format!("after {received} messages no further one arrived"),
            _ => format!("{} of {wanted} messages did not arrive", wanted.saturating_sub(received)),
        }
    }
}

/// Weights that do not add up by chance.
fn weight(number: u32) -> u64 {
    (u64::from(number) + 1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(29)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

fn wrong(sender: usize, receiver: usize, number: u32, next: u32) -> BenchError {
    let (sender, receiver) = (sender + 1, receiver + 1);
    let what = if number > next {
        format!("{} messages of sender {sender} were lost before message {number}", number - next)
    } else {
        format!("message {number} of sender {sender} came once more, or too late")
    };
    BenchError::Wrong(format!("{what} (at receiver {receiver})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(sender: u16, number: u32) -> Stamp {
        Stamp { run: 9, sender, number, due_ns: 0 }
    }

    #[test]
    fn what_is_lost_doubled_or_late_is_seen_at_once() {
        let mut tally = Tally::new(9, Whom::Own, 2, 1);
        for (sender, number) in [(0, 0), (1, 0), (0, 1), (0, 2), (1, 1)] {
            tally.arrive(0, stamp(sender, number)).unwrap();
        }
        assert_eq!(
            (tally.arrived_everywhere(0), tally.arrived_everywhere(1), tally.received()),
            (3, 2, 5)
        );
        let lost = tally.arrive(0, stamp(1, 4)).unwrap_err().to_string();
        assert_eq!(lost, "2 messages of sender 2 were lost before message 4 (at receiver 1)");
        let twice = tally.arrive(0, stamp(0, 2)).unwrap_err().to_string();
        assert!(twice.contains("message 2 of sender 1 came once more"), "{twice}");
        assert!(tally.arrive(0, Stamp { run: 8, ..stamp(0, 3) }).is_err());
        assert!(tally.arrive(0, stamp(2, 0)).is_err());
    }

    #[test]
    fn to_all_only_counts_what_the_slowest_has() {
        let mut tally = Tally::new(9, Whom::All, 1, 3);
        for (receiver, number) in [(0, 0), (0, 1), (1, 0)] {
            tally.arrive(receiver, stamp(0, number)).unwrap();
        }
        assert_eq!(tally.arrived_everywhere(0), 0);
        tally.arrive(2, stamp(0, 0)).unwrap();
        assert_eq!(tally.arrived_everywhere(0), 1);
        assert!(tally.what_is_missing(6).contains("2 of 6"));
    }

    #[test]
    fn of_a_group_the_sum_shows_what_one_got_in_place_of_another() {
        let good = [(0, 0), (1, 1), (0, 2), (1, 3)];
        let doubled = [(0, 0), (1, 1), (0, 1), (1, 3)];
        for (arrivals, is_right) in [(good, true), (doubled, false)] {
            let mut tally = Tally::new(9, Whom::One, 1, 2);
            for (receiver, number) in arrivals {
                tally.arrive(receiver, stamp(0, number)).unwrap();
            }
            assert_eq!(tally.arrived_everywhere(0), 4);
            assert_eq!(tally.check_end(4).is_ok(), is_right, "{arrivals:?}");
        }
        let mut tally = Tally::new(9, Whom::One, 1, 2);
        tally.arrive(0, stamp(0, 5)).unwrap();
        assert!(tally.arrive(0, stamp(0, 4)).is_err(), "one member's messages keep their order");
    }
}
