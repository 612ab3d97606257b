//! Calls that have been entered and not returned from yet.
//!
//! A call is recognised by where its return address lies on a stack, not by the vCPU: tasks move from one to another, and calls
//! of several tasks interleave. The outermost call on a stack owns what happens: those that it makes itself are its means.

use crate::guest::GuestMemory;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bytes to which a task's stack is aligned, and which it has at least (THREAD_SIZE of x86-64).
const STACK: u64 = 16 << 10;

/// A call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Name of the function.
    pub function: String,
    pub arguments: [u64; Call::ARGUMENTS],
    /// Where it returns to.
    pub back: u64,
    /// The call within which it was made.
    pub outer: Option<u64>,
}

impl Call {
    /// Most arguments that are kept.
    pub const ARGUMENTS: usize = 7;
}

/// Pending calls, by the address of their return address.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Calls {
    pending: BTreeMap<u64, Call>,
    /// Calls that were given up for want of room.
    pub lost: u64,
}

impl Calls {
    /// Most calls that are pending at a time.
    const MAX: usize = 1024;

    /// A call begins whose return address is at `slot`. Its `outer` is filled in here.
    pub fn enter(&mut self, slot: u64, mut call: Call, memory: &GuestMemory<'_>) {
        let stack = slot & !(STACK - 1);
        // What lies deeper on the same stack did not return, and never will.
        let dead: Vec<_> = self.pending.range(stack..slot).map(|(&slot, _)| slot).collect();
        for slot in dead {
            self.pending.remove(&slot);
        }
        let shallower = self.pending.range(slot..stack.saturating_add(STACK));
        call.outer = shallower
            .filter(|(outer, pending)| {
                // One that jumps to another function shares its return address with that.
                (**outer != slot || pending.back == call.back && pending.function != call.function)
                    && memory.u64(**outer) == Ok(pending.back)
            })
            .map(|(&outer, _)| outer)
            .next();
        if call.outer == Some(slot) {
            return;
        }
        if self.pending.len() >= Self::MAX && !self.pending.contains_key(&slot) {
            self.pending.pop_first();
            self.lost += 1;
        }
        self.pending.insert(slot, call);
    }

    /// The call that returns to `back` with the stack pointer `stack` ends.
    pub fn leave(&mut self, back: u64, stack: u64) -> Option<Call> {
        let slot = stack.wrapping_sub(8);
        self.pending.get(&slot).filter(|call| call.back == back)?;
        self.pending.remove(&slot)
    }

    /// The pending call whose return address is at `slot`.
    #[must_use]
    pub fn get(&self, slot: u64) -> Option<&Call> {
        self.pending.get(&slot)
    }
}
