//! Calls that wait for their turn: one lane for each hook, in the order of arrival, and one limit for
//! all. Over it, the oldest call of all goes.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;

/// A message that hooks are run for. It is charged once, however many calls wait with it.
#[derive(Debug)]
pub(super) struct Message {
    /// Its JSON.
    pub(super) payload: Bytes,
    /// What became of it, in one word.
    pub(super) outcome: &'static str,
    waiting_calls: Cell<usize>,
}

impl Message {
    pub(super) fn new(payload: Bytes, outcome: &'static str) -> Rc<Self> {
        Rc::new(Message { payload, outcome, waiting_calls: Cell::new(0) })
    }

    fn load_bytes(&self) -> usize {
        self.payload.len() + size_of::<Message>()
    }
}

#[derive(Debug)]
struct Call {
    /// Counts up over all lanes.
    number: u64,
    message: Rc<Message>,
}

/// The waiting calls of all hooks.
#[derive(Debug, Default)]
pub(super) struct Queue {
    lanes: Vec<VecDeque<Call>>,
    calls: usize,
    bytes: usize,
    next_number: u64,
}

impl Queue {
    /// A queue with this many lanes, numbered from 0.
    pub(super) fn with_lanes(lanes: usize) -> Self {
        Queue { lanes: (0..lanes).map(|_| VecDeque::new()).collect(), ..Queue::default() }
    }

    /// Calls that wait.
    pub(super) fn calls(&self) -> usize {
        self.calls
    }

    /// Bytes of their messages.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a call behind all others.
    pub(super) fn push(&mut self, lane: usize, message: &Rc<Message>) {
        if message.waiting_calls.replace(message.waiting_calls.get() + 1) == 0 {
            self.bytes += message.load_bytes();
        }
        self.calls += 1;
        self.lanes[lane].push_back(Call { number: self.next_number, message: message.clone() });
        self.next_number += 1;
    }

    /// Takes the oldest call of those lanes that may go on, with its lane.
    pub(super) fn pop(&mut self, may_go: impl Fn(usize) -> bool) -> Option<(usize, Rc<Message>)> {
        let heads = self.lanes.iter().enumerate();
        let heads = heads.filter_map(|(lane, calls)| Some((calls.front()?.number, lane)));
        let (_, lane) = heads.filter(|(_, lane)| may_go(*lane)).min()?;
        let message = self.lanes[lane].pop_front()?.message;
        self.refund(&message);
        Some((lane, message))
    }

    fn refund(&mut self, message: &Message) {
        self.calls -= 1;
        let left = message.waiting_calls.get() - 1;
        message.waiting_calls.set(left);
        if left == 0 {
            self.bytes -= message.load_bytes();
        }
    }

    /// Gives the calls of each lane a new one, or drops them where it has none: `new_lanes` has an
    /// entry for each lane so far. Returns how many calls of each old lane were dropped.
    pub(super) fn rearrange(&mut self, new_lanes: &[Option<usize>], lanes: usize) -> Vec<u64> {
        let old = std::mem::take(&mut self.lanes);
        self.lanes = (0..lanes).map(|_| VecDeque::new()).collect();
        let mut dropped = vec![0; old.len()];
        for (lane, calls) in old.into_iter().enumerate() {
            if let Some(new_lane) = new_lanes[lane] {
                self.lanes[new_lane] = calls;
            } else {
                dropped[lane] = calls.len() as u64;
                calls.iter().for_each(|call| self.refund(&call.message));
            }
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &'static str) -> Rc<Message> {
        Message::new(Bytes::from_static(text.as_bytes()), "accepted")
    }

    fn popped(queue: &mut Queue, may_go: impl Fn(usize) -> bool) -> Option<(usize, Bytes)> {
        queue.pop(may_go).map(|(lane, message)| (lane, message.payload.clone()))
    }

    #[test]
    fn the_oldest_that_may_go_goes_first() {
        let mut queue = Queue::with_lanes(2);
        for text in ["1", "2"] {
            let message = message(text);
            queue.push(0, &message);
            queue.push(1, &message);
        }
        queue.push(0, &message("3"));
        let at = |lane, text: &'static str| Some((lane, Bytes::from_static(text.as_bytes())));
        assert_eq!(popped(&mut queue, |_| true), at(0, "1"));
        assert_eq!(popped(&mut queue, |lane| lane == 0), at(0, "2"));
        assert_eq!(popped(&mut queue, |_| true), at(1, "1"));
        assert_eq!(popped(&mut queue, |_| true), at(1, "2"));
        assert_eq!(popped(&mut queue, |lane| lane == 1), None);
        assert_eq!(popped(&mut queue, |_| true), at(0, "3"));
        assert_eq!((queue.calls(), queue.bytes()), (0, 0));
    }

    #[test]
    fn a_message_is_charged_once_while_a_call_waits_with_it() {
        let mut queue = Queue::with_lanes(3);
        let message = message("0123456789");
        (0..3).for_each(|lane| queue.push(lane, &message));
        let charged = queue.bytes();
        assert_eq!(charged, 10 + size_of::<Message>());
        let _ = (queue.pop(|_| true), queue.pop(|_| true));
        assert_eq!((queue.calls(), queue.bytes()), (1, charged));
        let _ = queue.pop(|_| true);
        assert_eq!((queue.calls(), queue.bytes()), (0, 0));
    }

    #[test]
    fn calls_of_a_lane_that_goes_are_dropped_and_refunded() {
        let mut queue = Queue::with_lanes(3);
        for text in ["1", "2"] {
            let message = message(text);
            (0..3).for_each(|lane| queue.push(lane, &message));
        }
        assert_eq!(queue.rearrange(&[Some(1), None, Some(0)], 2), [0, 2, 0]);
        assert_eq!(queue.calls(), 4);
        let at = |lane, text: &'static str| Some((lane, Bytes::from_static(text.as_bytes())));
        assert_eq!(popped(&mut queue, |_| true), at(1, "1"));
        assert_eq!(popped(&mut queue, |_| true), at(0, "1"));
        assert_eq!(queue.rearrange(&[None, None], 0), [1, 1]);
        assert_eq!((queue.calls(), queue.bytes()), (0, 0));
    }
}
