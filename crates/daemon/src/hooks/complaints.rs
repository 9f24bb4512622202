//! Log lines about hooks, so many in a time; what is left out is counted and told when the time is up.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::logging::target;

/// One kind of complaint about one hook.
#[derive(Debug)]
pub(super) struct Complaints {
    /// What is told of those that were left out, after their number: "more calls failed".
    summary: &'static str,
    lines_max: u32,
    window: Duration,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    window_ends: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Complaints {
    pub(super) fn new(summary: &'static str, lines_max: u32, window: Duration) -> Rc<Self> {
        Rc::new(Complaints { summary, lines_max, window, state: RefCell::default() })
    }

    /// Logs `text` about `whom`, or counts what it stands for. Only inside a `LocalSet`.
    pub(super) fn say(self: &Rc<Self>, whom: &str, count: u64, text: impl FnOnce() -> String) {
        let mut state = self.state.borrow_mut();
        let now = Instant::now();
        if state.window_ends.is_none_or(|end| now >= end) && state.left_out == 0 {
            *state = State { window_ends: Some(now + self.window), ..State::default() };
        }
        if state.lines < self.lines_max {
            state.lines += 1;
            tracing::warn!(target: target::HOOKS, "{whom}: {}", text());
            return;
        }
        let is_first = state.left_out == 0;
        state.left_out += count;
        if is_first {
            let (complaints, whom) = (self.clone(), whom.to_owned());
            let end = state.window_ends.unwrap_or(now);
            tokio::task::spawn_local(async move {
                sleep_until(end).await;
                complaints.tell_left_out(&whom);
            });
        }
    }

    /// Tells of what was left out so far.
    pub(super) fn tell_left_out(&self, whom: &str) {
        let left_out = std::mem::take(&mut self.state.borrow_mut().left_out);
        if left_out > 0 {
            tracing::warn!(target: target::HOOKS, "{whom}: {left_out} {}", self.summary);
        }
    }
}
