//! A flag that another thread raises to have an engine come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Handle to the flag; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Kick(Arc<AtomicBool>);

impl Kick {
    /// Has the engine come back soon.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Release);
    }
    /// Lowers the flag; returns whether it was raised.
    #[must_use]
    pub fn take(&self) -> bool {
        self.0.load(Ordering::Acquire) && self.0.swap(false, Ordering::AcqRel)
    }
}
