//! What a session was to get besides its own messages and could not take: counted until it is told.

/// What it was subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GapSource {
    /// Topics.
    Topic,
    /// Messages to everybody.
    Broadcast,
    /// What goes through the bus.
    Tap,
    /// Endpoints that come and go.
    Presence,
}

impl GapSource {
    const ALL: [GapSource; 4] =
        [GapSource::Topic, GapSource::Broadcast, GapSource::Tap, GapSource::Presence];

    /// The word on the wire.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            GapSource::Topic => "topic",
            GapSource::Broadcast => "broadcast",
            GapSource::Tap => "tap",
            GapSource::Presence => "presence",
        }
    }
}

/// So much is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gap {
    /// Messages.
    pub(crate) count: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

/// The gaps of one session that it has not been told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gaps([Gap; GapSource::ALL.len()]);

impl Gaps {
    /// A message was left out.
    pub(crate) fn note(&mut self, source: GapSource, bytes: usize) {
        let gap = &mut self.0[source as usize];
        gap.count += 1;
        gap.bytes += bytes as u64;
    }

    #[cfg(test)]
    /// Whether there is nothing to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|gap| gap.count == 0)
    }

    /// What is missing of a source.
    pub(crate) fn of(&self, source: GapSource) -> Gap {
        self.0[source as usize]
    }

    /// What is to be told next. It counts as told.
    pub(crate) fn take_one(&mut self) -> Option<(GapSource, Gap)> {
        let source = GapSource::ALL.into_iter().find(|source| self.of(*source).count > 0)?;
        Some((source, core::mem::take(&mut self.0[source as usize])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_once_for_each_source() {
        let mut gaps = Gaps::default();
        assert!(gaps.is_empty() && gaps.take_one().is_none());
        gaps.note(GapSource::Tap, 7);
        gaps.note(GapSource::Topic, 10);
        gaps.note(GapSource::Topic, 0);
        assert_eq!(gaps.of(GapSource::Topic), Gap { count: 2, bytes: 10 });
        assert_eq!(gaps.take_one(), Some((GapSource::Topic, Gap { count: 2, bytes: 10 })));
        assert!(!gaps.is_empty());
        gaps.note(GapSource::Broadcast, 1);
        assert_eq!(gaps.take_one(), Some((GapSource::Broadcast, Gap { count: 1, bytes: 1 })));
        assert_eq!(gaps.take_one(), Some((GapSource::Tap, Gap { count: 1, bytes: 7 })));
        assert!(gaps.is_empty() && gaps.take_one().is_none());
    }
}
