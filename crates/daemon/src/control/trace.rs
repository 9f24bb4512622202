//! The answer to `trace`: what the router knows of a message, and what stands of it on disk.

use bytes::Bytes;
use hermes_bus_core::{SessionKey, Standing, Traced, TracedState};
use hermes_bus_proto::control::{self, unix_seconds};
use hermes_bus_proto::{EndpointName, Raw};
use hermes_bus_store::{Seen, Step};
use serde_json::{Map, Value, json};

/// Somebody asks where a message is.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) key: SessionKey,
    /// The message's id, as JSON.
    pub(crate) id: Bytes,
    /// As JSON.
    pub(crate) req: Option<Bytes>,
}

/// Something that has happened to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    word: String,
    unix_us: u64,
    endpoint: Option<EndpointName>,
    detail: Option<String>,
}

impl Question {
    /// The id as stored messages are looked for: only text is.
    pub(crate) fn id_text(&self) -> Option<String> {
        Raw::new(&self.id).text().ok().map(std::borrow::Cow::into_owned)
    }

    /// The whole answer: a frame. `seen` is what stood on disk a moment ago, `known` what the router
    /// knows now. `on_disk` says where the router has a message that stands on disk, if it waits for
    /// anything.
    pub(crate) fn answer(
        self,
        seen: Vec<Seen>,
        known: Traced,
        on_disk: impl Fn(&Seen) -> Option<Standing>,
    ) -> Vec<u8> {
        let Question { id, req, .. } = self;
        let Traced { states, left_out, mut standings } = known;
        let only_on_disk = waiting_on_disk(&seen, &standings, &states, on_disk);
        standings.extend(only_on_disk);
        let known: Vec<State> = states
            .into_iter()
            .map(|state| State {
                word: state.state.to_owned(),
                unix_us: state.unix_us,
                endpoint: state.endpoint,
                detail: state.reason.map(|reason| reason.as_str().to_owned()),
            })
            .collect();
        let states = merged(known, seen);
        let states = states.iter().map(|state| control::TracedState {
            state: &state.word,
            unix_us: state.unix_us,
            endpoint: state.endpoint.as_ref(),
            detail: state.detail.as_deref(),
        });
        let mut further = Map::new();
        if !standings.is_empty() {
            let standings: Vec<Value> = standings.iter().map(standing).collect();
            further.insert("standings".to_owned(), standings.into());
        }
        if left_out > 0 {
            further.insert("left_out".to_owned(), left_out.into());
        }
        let mut frame = Vec::new();
        let req = req.as_deref().map(Raw::new);
        control::traced(&mut frame, Raw::new(&id), states, &further, req);
        frame
    }
}

/// Of the messages that stand on disk and are not at their end, those that the router has not in memory.
/// What the router has seen end since is not among them.
fn waiting_on_disk(
    seen: &[Seen],
    in_memory: &[Standing],
    states: &[TracedState],
    on_disk: impl Fn(&Seen) -> Option<Standing>,
) -> Vec<Standing> {
    let is_same = |one: &Seen, other: &Seen| one.seq == other.seq && one.endpoint == other.endpoint;
    // The last step that says since when each of them waits.
    let mut waits: Vec<&Seen> = Vec::new();
    for one in seen {
        waits.retain(|other| !is_same(one, other) || one.step == Step::Delivered);
        if matches!(one.step, Step::Accepted | Step::Stored) {
            waits.push(one);
        }
    }
    let mut waiting: Vec<Standing> = Vec::new();
    for one in &waits {
        let is_told = in_memory.iter().chain(&waiting).any(|told| told.endpoint == one.endpoint);
        // The router's states do not say of which message they are.
        let is_only_one = waits.iter().filter(|other| other.endpoint == one.endpoint).count() == 1;
        let last = states.iter().rfind(|state| state.endpoint.as_ref() == Some(&one.endpoint));
        let arrived = seen.iter().find(|other| is_same(one, other)).and_then(|first| first.unix_us);
        // One that was taken in after that end is another one: a dead letter that is tried again.
        let is_over = is_only_one
            && last.is_some_and(|last| is_end(last.state) && arrived <= Some(last.unix_us));
        if !is_told && !is_over {
            waiting.extend(on_disk(one));
        }
    }
    waiting
}

/// So much later than the router saw it may an end be written, in microseconds.
const COMMIT_LATE_US: u64 = 10_000_000;

/// Whether nothing comes behind this state.
fn is_end(state: &str) -> bool {
    ["acked", "read", "expired", "dropped", "dead", "refused", "purged"].contains(&state)
}

fn standing(standing: &Standing) -> Value {
    let Standing { endpoint, place, since_unix_us, blocked_by, next } = standing;
    let since: Option<f64> = since_unix_us.and_then(|at| unix_seconds(at).parse().ok());
    json!({
        "endpoint": endpoint.as_str(),
        "place": place,
        "since_ts": since,
        "blocked_by": blocked_by,
        "next": next,
    })
}

/// What the router knows, and of what stands on disk what the router does not know any more. Oldest
/// first.
fn merged(known: Vec<State>, seen: Vec<Seen>) -> Vec<State> {
    let mut last_unix_us = 0;
    let mut states = Vec::new();
    for Seen { step, endpoint, unix_us, seq: _, detail } in seen {
        let (word, detail) = in_words(step, detail);
        // Where no time is recorded, it was after the step before.
        last_unix_us = unix_us.unwrap_or(last_unix_us);
        // The router may have another word for the same end.
        let is_same_end = |state: &State| {
            let later_us = last_unix_us.checked_sub(state.unix_us);
            step == Step::Ended
                && is_end(&state.word)
                && later_us.is_some_and(|later_us| later_us <= COMMIT_LATE_US)
        };
        let is_known = known.iter().any(|state| {
            (state.word == word || is_same_end(state))
                && state.endpoint.as_ref().is_none_or(|name| *name == endpoint)
        });
        if !is_known {
            let endpoint = Some(endpoint);
            states.push(State { word, unix_us: last_unix_us, endpoint, detail });
        }
    }
    states.extend(known);
    states.sort_by_key(|state| state.unix_us);
    states
}

/// The state in a word, and what else there is to say.
fn in_words(step: Step, detail: String) -> (String, Option<String>) {
    const DEAD: &str = "dead letter: ";
    let rest = |detail: String| Some(detail).filter(|detail| !detail.is_empty());
    match step {
        Step::Accepted => ("accepted".to_owned(), rest(detail)),
        Step::Stored => ("stored".to_owned(), rest(detail)),
        Step::Delivered => ("delivered".to_owned(), rest(detail)),
        Step::Ended => match detail.strip_prefix(DEAD) {
            Some(why) => ("dead".to_owned(), Some(why.to_owned())),
            None => (detail, None),
        },
    }
}

#[cfg(test)]
mod tests {
    use hermes_bus_core::TracedState;
    use hermes_bus_proto::ErrorCode;

    use super::*;
    use crate::control::tests::{said, some_key};

    fn name(name: &str) -> EndpointName {
        EndpointName::level_1(name).unwrap()
    }

    fn seen(step: Step, unix_us: Option<u64>, detail: &str) -> Seen {
        Seen { step, endpoint: name("worker"), unix_us, seq: 1, detail: detail.to_owned() }
    }

    fn known(state: &'static str, unix_us: u64, endpoint: Option<&str>) -> TracedState {
        TracedState { state, unix_us, endpoint: endpoint.map(name), reason: None }
    }

    fn ask(known: Traced, seen: Vec<Seen>) -> Value {
        let (id, req) = (Bytes::from_static(b"\"m1\""), Some(Bytes::from_static(b"7")));
        let question = Question { key: some_key(), id, req };
        assert_eq!(question.id_text().as_deref(), Some("m1"));
        said(&question.answer(seen, known, |one| {
            // The router has let go of what is called so.
            (one.endpoint.as_str() != "forgotten").then(|| Standing {
                endpoint: one.endpoint.clone(),
                place: "stored",
                since_unix_us: one.unix_us,
                blocked_by: format!("{} is away", one.endpoint),
                next: String::new(),
            })
        }))
    }

    fn words(answer: &Value) -> Vec<(&str, f64)> {
        let states = answer["states"].as_array().unwrap().iter();
        states.map(|s| (s["state"].as_str().unwrap(), s["ts"].as_f64().unwrap())).collect()
    }

    #[test]
    fn what_the_router_knows_is_not_told_twice() {
        let states = vec![
            known("accepted", 1_000_000, None),
            known("stored", 1_500_000, Some("worker")),
            known("requeued", 3_000_000, Some("worker")),
        ];
        let seen = vec![
            seen(Step::Accepted, Some(1_000_000), ""),
            seen(Step::Stored, Some(1_400_000), ""),
            seen(Step::Delivered, Some(2_000_000), "2 times"),
        ];
        let answer = ask(Traced { states, ..Traced::default() }, seen);
        assert_eq!((&answer["type"], &answer["id"]), (&json!("traced"), &json!("m1")));
        assert_eq!(answer["req"], 7);
        let expected = [("accepted", 1.0), ("stored", 1.5), ("delivered", 2.0), ("requeued", 3.0)];
        assert_eq!(words(&answer), expected);
        assert_eq!(answer["states"][2]["detail"], "2 times");
        assert_eq!(answer["standings"][0]["place"], "stored", "it is not at its end");
    }

    #[test]
    fn who_blocks_what_waits_on_disk_is_told() {
        let stored = |endpoint: &str| {
            let steps = [(Step::Accepted, 1_000_000), (Step::Stored, 2_000_000)];
            let steps = steps.map(|(step, unix_us)| Seen {
                endpoint: name(endpoint),
                ..seen(step, Some(unix_us), "")
            });
            steps.to_vec()
        };
        let answer = ask(Traced::default(), stored("gone"));
        let standing = &answer["standings"][0];
        assert_eq!((&standing["place"], &standing["since_ts"]), (&json!("stored"), &json!(2.0)));
        assert_eq!(standing["blocked_by"], "gone is away");
        assert_eq!(answer["standings"].as_array().map(Vec::len), Some(1));
        // What the router has in memory, it knows better; what has ended, waits for nothing.
        let known = Standing {
            endpoint: name("gone"),
            place: "paused",
            since_unix_us: None,
            blocked_by: String::new(),
            next: String::new(),
        };
        let answer = ask(Traced { standings: vec![known], ..Traced::default() }, stored("gone"));
        assert_eq!(answer["standings"].as_array().map(Vec::len), Some(1));
        let mut ended = stored("gone");
        ended.push(Seen { endpoint: name("gone"), ..seen(Step::Ended, Some(3), "acked") });
        assert_eq!(ask(Traced::default(), ended).get("standings"), None);
    }

    #[test]
    fn what_the_router_has_seen_end_does_not_wait_whatever_the_disk_still_says() {
        let row = vec![
            seen(Step::Accepted, Some(1_000_000), ""),
            seen(Step::Stored, Some(2_000_000), ""),
            seen(Step::Delivered, Some(3_000_000), ""),
        ];
        for end in ["acked", "read", "expired", "dropped", "dead", "purged"] {
            let states = vec![
                known("accepted", 1_000_000, None),
                known("delivered", 3_000_000, Some("worker")),
                known(end, 4_000_000, Some("worker")),
            ];
            let answer = ask(Traced { states, ..Traced::default() }, row.clone());
            assert_eq!(answer.get("standings"), None, "{end}");
            assert_eq!(words(&answer).last(), Some(&(end, 4.0)));
        }
        // The ring has forgotten it, the router's books have not.
        let gone = row.iter().map(|one| Seen { endpoint: name("forgotten"), ..one.clone() });
        assert_eq!(ask(Traced::default(), gone.collect()).get("standings"), None);
        // A dead letter that was tried again waits, whatever has become of it before.
        let states = vec![known("dead", 500_000, Some("worker"))];
        let answer = ask(Traced { states, ..Traced::default() }, row.clone());
        assert_eq!(answer["standings"][0]["place"], "stored");
        // One of two that have the same id is over; the other one waits.
        let states = vec![known("acked", 4_000_000, Some("worker"))];
        let second = row.iter().map(|one| Seen { seq: 2, ..one.clone() });
        let both = row.iter().cloned().chain(second).collect();
        let answer = ask(Traced { states, ..Traced::default() }, both);
        assert_eq!(answer["standings"][0]["place"], "stored");
    }

    #[test]
    fn an_end_is_told_once_in_the_router_s_words() {
        let states = || vec![known("dead", 4_000_000, Some("worker"))];
        let row = |ended_unix_us| {
            vec![
                seen(Step::Accepted, Some(1_000_000), ""),
                seen(Step::Ended, Some(ended_unix_us), "expired"),
            ]
        };
        let answer = ask(Traced { states: states(), ..Traced::default() }, row(4_500_000));
        assert_eq!(words(&answer), [("accepted", 1.0), ("dead", 4.0)]);
        // This is the end of another one.
        let answer = ask(Traced { states: states(), ..Traced::default() }, row(64_000_000));
        assert_eq!(words(&answer), [("accepted", 1.0), ("dead", 4.0), ("expired", 64.0)]);
    }

    #[test]
    fn what_only_the_disk_knows_is_told_to_its_end() {
        let life = |end: &str| {
            vec![
                seen(Step::Accepted, Some(1_000_000), ""),
                seen(Step::Delivered, None, ""),
                seen(Step::Ended, Some(4_000_000), end),
            ]
        };
        let answer = ask(Traced::default(), life("acked"));
        assert_eq!(words(&answer), [("accepted", 1.0), ("delivered", 1.0), ("acked", 4.0)]);
        assert_eq!(answer["states"][2]["endpoint"], "worker");
        let answer = ask(Traced::default(), life("dead letter: rejected (no)"));
        assert_eq!(words(&answer).last(), Some(&("dead", 4.0)));
        assert_eq!(answer["states"][2]["detail"], "rejected (no)");
    }

    #[test]
    fn reasons_and_whereabouts_are_told() {
        let mut refused = known("refused", 1, None);
        refused.reason = Some(ErrorCode::MailboxFull);
        let standings = vec![Standing {
            endpoint: name("worker"),
            place: "in_flight",
            since_unix_us: Some(2_500_000),
            blocked_by: "worker holds it".to_owned(),
            next: "it comes again".to_owned(),
        }];
        let answer = ask(Traced { states: vec![refused], left_out: 3, standings }, Vec::new());
        assert_eq!(answer["states"][0]["detail"], "mailbox_full");
        assert_eq!(answer["left_out"], 3);
        assert_eq!(
            answer["standings"],
            json!([{
                "endpoint": "worker", "place": "in_flight", "since_ts": 2.5,
                "blocked_by": "worker holds it", "next": "it comes again",
            }])
        );
    }
}
