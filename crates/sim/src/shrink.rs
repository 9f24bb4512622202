//! Makes a script that fails shorter, by leaving events out.
//!
//! Any subset of a script is a script. One that breaks the same rule is as good as the whole, and
//! easier to read: first what is behind the failure goes, then halves, then smaller pieces, then
//! single events, until none can be spared.

use crate::{Failure, Played};

/// What is to happen in a run of one of the worlds. Any subset of its events is one, too.
pub trait Scenario: Sized + Send {
    /// How many events it has.
    fn events(&self) -> usize;

    /// The same with only some of its events, by their places.
    #[must_use]
    fn only(&self, kept: &[usize]) -> Self;

    /// What the run is like, in lines for people.
    fn likeness(&self) -> Vec<String>;

    /// One event, for people; nothing if there is none at this place.
    fn event(&self, place: usize) -> String;
}

/// What is left of a script that fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shrunk {
    /// The events that are left, as places in the script, rising.
    pub kept: Vec<usize>,
    /// How the script fails with only them.
    pub failure: Box<Failure>,
    /// Scripts played to find that out.
    pub tries: u64,
    /// Whether nothing more can be left out: the budget was enough.
    pub is_minimal: bool,
}

/// Finds a short subset of `script` that breaks the rule that `failure` broke. `play` plays the
/// places given. `may_go_on` hears how many scripts were played, and is asked before each.
pub fn shrink<S: Scenario>(
    script: &S,
    failure: &Failure,
    mut play: impl FnMut(&S, &[usize]) -> Result<Played, Box<Failure>>,
    mut may_go_on: impl FnMut(u64) -> bool,
) -> Shrunk {
    let mut shrunk = Shrunk {
        kept: (0..script.events()).collect(),
        failure: Box::new(failure.clone()),
        tries: 0,
        is_minimal: false,
    };
    // Keeps a subset if it breaks the same rule, up to the event that breaks it.
    let mut try_only = |shrunk: &mut Shrunk, places: &[usize]| {
        shrunk.tries += 1;
        match play(&script.only(places), places) {
            Err(failure) if failure.violation.rule == shrunk.failure.violation.rule => {
                shrunk.kept = places[..played(&failure, places.len())].to_vec();
                shrunk.failure = failure;
                true
            }
            _ => false,
        }
    };
    let needed = played(failure, shrunk.kept.len());
    if needed < shrunk.kept.len() {
        if !may_go_on(shrunk.tries) {
            return shrunk;
        }
        let front = shrunk.kept[..needed].to_vec();
        try_only(&mut shrunk, &front);
    }
    let mut piece = shrunk.kept.len().div_ceil(2);
    while piece > 0 {
        let mut has_shrunk = false;
        // From the back: the less comes before an event, the less its meaning changes.
        let mut end = shrunk.kept.len();
        while end > 0 {
            if !may_go_on(shrunk.tries) {
                return shrunk;
            }
            let start = end.saturating_sub(piece);
            let rest = [&shrunk.kept[..start], &shrunk.kept[end..]].concat();
            has_shrunk |= try_only(&mut shrunk, &rest);
            end = start.min(shrunk.kept.len());
        }
        // A pass that left something out may have made more superfluous.
        if !has_shrunk {
            piece /= 2;
        }
        piece = piece.min(shrunk.kept.len());
    }
    shrunk.is_minimal = true;
    shrunk
}

/// How many of so many events were played before the failure, the one that failed included.
fn played(failure: &Failure, events: usize) -> usize {
    failure.event.map_or(events, |event| (event + 1).min(events))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Action, Event};
    use crate::{Script, Violation};

    /// A script whose events tell their place by their `draw`.
    fn script(events: usize) -> Script {
        let event = |place: usize| Event {
            client: (place % 7) as u8,
            action: Action::Pass { us: 1 },
            draw: place as u64,
        };
        let events = (0..events).map(event).collect();
        Script { events, ..Script::draw(9, 0) }
    }

    fn fails(rule: &'static str, event: Option<usize>) -> Result<Played, Box<Failure>> {
        let violation = Violation::new(rule, "");
        Err(Box::new(Failure { event, violation, trail: Vec::new() }))
    }

    fn places_in(script: &Script) -> Vec<u64> {
        script.events.iter().map(|event| event.draw).collect()
    }

    /// Shrinks with a player, within a number of tries.
    fn shrunk(
        events: usize,
        tries_max: u64,
        player: impl Fn(&[u64]) -> Result<Played, Box<Failure>>,
    ) -> Shrunk {
        let whole = script(events);
        let failure = player(&places_in(&whole)).unwrap_err();
        let play = |script: &Script, places: &[usize]| {
            let drawn = places_in(script);
            assert_eq!(drawn, places.iter().map(|p| *p as u64).collect::<Vec<_>>());
            assert_eq!(script.seed, 9);
            player(&drawn)
        };
        shrink(&whole, &failure, play, |tries| tries < tries_max)
    }

    /// Fails when the last of `needed` is played, if all of them are there in this order.
    fn needs(needed: &'static [u64]) -> impl Fn(&[u64]) -> Result<Played, Box<Failure>> {
        move |events| {
            let places: Option<Vec<usize>> =
                needed.iter().map(|n| events.iter().position(|event| event == n)).collect();
            match places {
                Some(places) => fails("needed", places.iter().max().copied()),
                None => Ok(Played::default()),
            }
        }
    }

    #[test]
    fn two_events_far_from_each_other_are_found_among_a_thousand() {
        let shrunk = shrunk(1_000, u64::MAX, needs(&[17, 130]));
        assert_eq!(shrunk.kept, [17, 130]);
        assert_eq!(shrunk.failure.event, Some(1));
        assert!(shrunk.is_minimal);
        assert!(shrunk.tries < 60, "{} tries", shrunk.tries);
    }

    #[test]
    fn three_of_a_kind_are_enough_whichever_they_are() {
        let player = |events: &[u64]| {
            let of_a_kind = events.iter().filter(|event| **event % 10 == 3).count();
            // Found out in the healing phase, behind the last event.
            if of_a_kind >= 3 { fails("three", None) } else { Ok(Played::default()) }
        };
        let shrunk = shrunk(500, u64::MAX, player);
        assert_eq!(shrunk.kept.len(), 3);
        assert!(shrunk.kept.iter().all(|place| place % 10 == 3));
    }

    #[test]
    fn what_needs_everything_stays_whole() {
        let player = |events: &[u64]| {
            if events.len() == 40 { fails("all", None) } else { Ok(Played::default()) }
        };
        let shrunk = shrunk(40, u64::MAX, player);
        assert_eq!(shrunk.kept, (0..40).collect::<Vec<_>>());
        assert!(shrunk.is_minimal);
    }

    #[test]
    fn what_can_only_be_spared_later_is_tried_again() {
        // 5 is needed as long as 2 is there.
        let player = |events: &[u64]| {
            let has = |event| events.contains(&event);
            let fails_now = has(1) && has(3) && has(8) && (has(5) || !has(2));
            if fails_now { fails("r", None) } else { Ok(Played::default()) }
        };
        assert_eq!(shrunk(10, u64::MAX, player).kept, [1, 3, 8]);
    }

    #[test]
    fn what_fails_earlier_without_some_events_is_cut_there() {
        let player = |events: &[u64]| fails("r", (events.len() < 1_000).then_some(3));
        assert_eq!(shrunk(1_000, 1, player).kept, [0, 1, 2, 3]);
    }

    #[test]
    fn a_failure_without_any_event_shrinks_to_nothing() {
        assert!(shrunk(100, u64::MAX, |_| fails("always", None)).kept.is_empty());
        assert!(shrunk(0, u64::MAX, |_| fails("always", None)).kept.is_empty());
    }

    #[test]
    fn another_rule_does_not_count() {
        let player = |events: &[u64]| match events {
            events if events.contains(&4) && events.contains(&30) => fails("first", None),
            _ => fails("second", None),
        };
        let shrunk = shrunk(64, u64::MAX, player);
        assert_eq!(shrunk.kept, [4, 30]);
        assert_eq!(shrunk.failure.violation.rule, "first");
    }

    #[test]
    fn what_is_behind_the_failure_goes_first() {
        let shrunk = shrunk(1_000, 1, needs(&[3, 4]));
        assert_eq!((shrunk.kept, shrunk.tries), (vec![0, 1, 2, 3, 4], 1));
        assert!(!shrunk.is_minimal);
    }

    #[test]
    fn it_ends_with_its_budget_and_what_it_has_still_fails() {
        for tries_max in 0..40 {
            let player = needs(&[100, 399, 700]);
            let shrunk = shrunk(1_000, tries_max, &player);
            assert!(shrunk.tries <= tries_max);
            assert!(shrunk.kept.len() <= 1_000 && shrunk.kept.is_sorted());
            let kept: Vec<u64> = shrunk.kept.iter().map(|place| *place as u64).collect();
            assert_eq!(player(&kept).unwrap_err().violation.rule, "needed");
        }
    }

    #[test]
    fn it_never_grows_and_always_ends_whatever_the_player_does() {
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (whole, mut longest) = (script(200), 200);
            let first = fails("r", None).unwrap_err();
            let play = |_: &Script, places: &[usize]| {
                assert!(places.len() <= longest, "it grew");
                if random.bool() {
                    return Ok(Played::default());
                }
                let event = random.bool().then(|| random.usize(..places.len().max(1)));
                longest = places.len();
                fails("r", event)
            };
            let shrunk = shrink(&whole, &first, play, |_| true);
            assert!(shrunk.kept.len() <= 200 && shrunk.tries < 10_000);
        }
    }
}
