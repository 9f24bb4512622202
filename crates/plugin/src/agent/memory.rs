//! What has been done for the last messages, so that one that comes again, because something else of it failed or
//! because its acknowledgement was lost, is not acted on twice. It ends with the process.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::engine::Action;

/// How many messages are remembered.
const MESSAGES_MAX: usize = 4_096;

#[derive(Debug, Default)]
pub(super) struct Memory {
    messages: HashMap<u64, Done>,
    /// Oldest first.
    order: VecDeque<u64>,
}

#[derive(Debug, Default)]
struct Done {
    is_complete: bool,
    actions: HashSet<u64>,
}

impl Memory {
    pub(super) fn is_complete(&self, message: u64) -> bool {
        self.messages.get(&message).is_some_and(|done| done.is_complete)
    }

    pub(super) fn is_done(&self, message: u64, action: u64) -> bool {
        let done = self.messages.get(&message);
        // A message that is complete and the same comes anew is another one.
        done.is_some_and(|done| !done.is_complete && done.actions.contains(&action))
    }

    pub(super) fn done(&mut self, message: u64, action: u64) {
        let done = self.of(message);
        if std::mem::take(&mut done.is_complete) {
            done.actions.clear();
        }
        done.actions.insert(action);
    }

    pub(super) fn complete(&mut self, message: u64) {
        let done = self.of(message);
        done.is_complete = true;
        done.actions = HashSet::new();
    }

    fn of(&mut self, message: u64) -> &mut Done {
        if !self.messages.contains_key(&message) {
            self.order.push_back(message);
            if self.order.len() > MESSAGES_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.messages.remove(&oldest);
            }
        }
        self.messages.entry(message).or_default()
    }
}

/// What tells an action from the others of its message, also when rules have changed meanwhile.
pub(super) fn mark(place: usize, action: &Action) -> u64 {
    let mut hasher = DefaultHasher::new();
    place.hash(&mut hasher);
    match action {
        Action::Print(print) => ("print", print.rendering.rendered.as_str()).hash(&mut hasher),
        Action::Context(context) => {
            let pieces = context.pieces.iter().map(|piece| piece.rendering.rendered.as_str());
            ("context", pieces.collect::<Vec<_>>()).hash(&mut hasher);
        }
        Action::Command(command) => ("command", &command.command).hash(&mut hasher),
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_known_until_too_much_has_come() {
        let mut memory = Memory::default();
        memory.done(1, 10);
        assert!(memory.is_done(1, 10) && !memory.is_done(1, 11) && !memory.is_complete(1));
        memory.complete(1);
        assert!(memory.is_complete(1) && !memory.is_done(1, 10));
        for message in 2..MESSAGES_MAX as u64 + 2 {
            memory.complete(message);
        }
        assert!(!memory.is_complete(1) && memory.is_complete(2));
        assert_eq!(memory.messages.len(), MESSAGES_MAX);
    }
}
