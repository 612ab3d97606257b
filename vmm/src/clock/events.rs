//! The queue of pending events: plain data, ordered by time and then by the order in which they were asked for.

use devices::bus::Nanos;
use devices::pci::Slot;
use devices::state::State;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Who asked for an event, and which of its own it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EventId {
    pub source: Source,
    /// The device's own name for it.
    pub token: u32,
}

/// A device that asks for events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Source {
    /// A platform device, by its index.
    Platform(usize),
    /// The PCI function in a slot.
    Pci(Slot),
    /// Posted writes that wait on their way from PCI functions to memory.
    PostedWrites,
}

/// Pending events. Each identity is pending at most once, so the queue is bounded by the devices and their tokens.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct EventQueue {
    due: BTreeMap<(Nanos, u64), EventId>,
    pending: BTreeMap<EventId, (Nanos, u64)>,
    next_sequence: u64,
}

/// The two maps are one another's reverse.
impl State for EventQueue {
    fn accepts(&self, saved: &Self) -> Result<(), &'static str> {
        let is_due = |(id, key): (&EventId, &(Nanos, u64))| saved.due.get(key) == Some(id);
        let in_sequence = |&(_, sequence): &(Nanos, u64)| sequence < saved.next_sequence;
        let whole = saved.pending.len() == saved.due.len()
            && saved.pending.iter().all(is_due)
            && saved.due.keys().all(in_sequence);
        if whole { Ok(()) } else { Err("its events and their times do not agree") }
    }
}

impl EventQueue {
    /// Has `id` happen at `at`, instead of when it was to happen before.
    pub fn schedule(&mut self, at: Nanos, id: EventId) {
        self.cancel(id);
        let key = (at, self.next_sequence);
        self.next_sequence += 1;
        self.due.insert(key, id);
        self.pending.insert(id, key);
    }

    /// Withdraws `id`.
    pub fn cancel(&mut self, id: EventId) {
        if let Some(key) = self.pending.remove(&id) {
            self.due.remove(&key);
        }
    }

    /// Withdraws everything that `source` asked for.
    pub fn cancel_all(&mut self, source: Source) {
        self.pending.retain(|id, key| {
            let kept = id.source != source;
            if !kept {
                self.due.remove(key);
            }
            kept
        });
    }

    /// The time of the next event.
    #[must_use]
    pub fn next(&self) -> Option<Nanos> {
        self.due.first_key_value().map(|(key, _)| key.0)
    }

    /// Takes the next event that is due at `now`.
    pub fn take_due(&mut self, now: Nanos) -> Option<EventId> {
        let entry = self.due.first_entry().filter(|entry| entry.key().0 <= now)?;
        let id = entry.remove();
        self.pending.remove(&id);
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: EventId = EventId { source: Source::Platform(1), token: 0 };
    const B: EventId = EventId { source: Source::Platform(1), token: 1 };
    const C: EventId = EventId { source: Source::Pci(8), token: 0 };

    fn drain(queue: &mut EventQueue, now: Nanos) -> Vec<EventId> {
        std::iter::from_fn(|| queue.take_due(now)).collect()
    }

    #[test]
    fn events_come_by_time_then_by_sequence() {
        let mut queue = EventQueue::default();
        queue.schedule(20, A);
        queue.schedule(10, C);
        queue.schedule(10, B);
        assert_eq!(queue.next(), Some(10));
        assert_eq!(drain(&mut queue, 9), []);
        assert_eq!(drain(&mut queue, 20), [C, B, A]);
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn an_identity_is_pending_once() {
        let mut queue = EventQueue::default();
        queue.schedule(10, A);
        queue.schedule(30, A);
        assert_eq!(queue.next(), Some(30));
        queue.schedule(5, A);
        assert_eq!(drain(&mut queue, 100), [A]);
        queue.cancel(A);
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn a_saved_queue_agrees_with_itself() {
        let mut queue = EventQueue::default();
        queue.schedule(20, A);
        queue.schedule(10, C);
        let accepts = |change: fn(&mut EventQueue)| {
            let mut saved = queue.clone();
            change(&mut saved);
            EventQueue::default().accepts(&saved).is_ok()
        };
        assert!(accepts(|_| {}));
        assert!(!accepts(|saved| saved.next_sequence = 1));
        assert!(!accepts(|saved| saved.pending.clear()));
        assert!(!accepts(|saved| saved.due.values_mut().for_each(|id| *id = B)));
        assert!(!accepts(|saved| saved.pending.values_mut().for_each(|key| *key = (10, 1))));
    }

    #[test]
    fn a_reset_withdraws_what_a_source_asked_for() {
        let mut queue = EventQueue::default();
        for id in [A, B, C] {
            queue.schedule(1, id);
        }
        queue.cancel_all(A.source);
        assert_eq!(drain(&mut queue, 1), [C]);
    }
}
