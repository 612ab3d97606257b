//! A recording [`Platform`] for the tests of platform devices.

use crate::bus::{Nanos, Platform, PowerRequest};
use std::collections::{BTreeMap, BTreeSet};

/// Remembers lines, events and power requests; time is whatever the test says.
#[derive(Debug, Default)]
pub struct TestPlatform {
    pub now: Nanos,
    lines: BTreeSet<u32>,
    pub events: BTreeMap<u32, Nanos>,
    pub power: Vec<PowerRequest>,
}

impl TestPlatform {
    pub fn line(&self, gsi: u32) -> bool {
        self.lines.contains(&gsi)
    }
}

impl Platform for TestPlatform {
    fn now(&self) -> Nanos {
        self.now
    }

    fn set_irq(&mut self, gsi: u32, high: bool) {
        if high {
            self.lines.insert(gsi);
        } else {
            self.lines.remove(&gsi);
        }
    }

    fn schedule(&mut self, at: Nanos, token: u32) {
        self.events.insert(token, at);
    }

    fn cancel(&mut self, token: u32) {
        self.events.remove(&token);
    }

    fn power(&mut self, request: PowerRequest) {
        self.power.push(request);
    }
}
