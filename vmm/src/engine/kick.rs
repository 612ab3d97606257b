//! How other threads have an engine come back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

#[derive(Debug, Default)]
struct Shared {
    raised: AtomicBool,
    rung: Mutex<bool>,
    bell: Condvar,
}

/// A flag that has an engine come back, and the bell that wakes the engine where it waits; clones share both.
#[derive(Debug, Clone, Default)]
pub struct Kick(Arc<Shared>);

impl Kick {
    /// Has the engine come back soon.
    pub fn raise(&self) {
        self.0.raised.store(true, Ordering::Release);
        self.ring();
    }

    /// Lowers the flag; returns whether it was raised.
    #[must_use]
    pub fn take(&self) -> bool {
        self.0.raised.load(Ordering::Acquire) && self.0.raised.swap(false, Ordering::AcqRel)
    }

    /// Wakes an engine that waits, for it to look around.
    pub(super) fn ring(&self) {
        let mut rung = self.0.rung.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut *rung, true) {
            self.0.bell.notify_all();
        }
    }

    /// Waits until somebody rings, or for `limit`; a ring since the last wait counts.
    pub(super) fn wait(&self, limit: Duration) {
        let rung = self.0.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.bell.wait_timeout_while(rung, limit, |rung| !*rung);
        let (mut rung, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *rung = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kick_before_the_wait_is_not_lost() {
        let kick = Kick::default();
        let other = kick.clone();
        std::thread::spawn(move || other.raise()).join().unwrap();
        // Would wait for ever.
        kick.wait(Duration::MAX);
        assert!(kick.take());
        assert!(!kick.take());
        kick.wait(Duration::ZERO);
    }
}
