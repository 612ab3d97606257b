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

    /// Where the return address of the outermost pending call is that `call` was made within.
    #[must_use]
    pub fn outermost(&self, call: &Call) -> Option<u64> {
        // Each lies higher on the stack than the one before.
        std::iter::successors(call.outer, |slot| self.get(*slot)?.outer.filter(|outer| outer > slot)).last()
    }

    /// The pending call whose return address is at `slot`.
    #[must_use]
    pub fn get(&self, slot: u64) -> Option<&Call> {
        self.pending.get(&slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::memory::tests::Synthetic;

    const STACK_AT: u64 = 0xffff_c900_0000_0000;

    fn call(function: &str, back: u64) -> Call {
        Call { function: function.into(), arguments: [0; Call::ARGUMENTS], back, outer: None }
    }

    fn enter(calls: &mut Calls, guest: &mut Synthetic, slot: u64, call: Call) {
        guest.put(slot, &call.back.to_le_bytes());
        calls.enter(slot, call, &guest.memory());
    }

    #[test]
    fn calls_of_several_stacks_return_in_any_order() {
        let (mut calls, mut guest) = (Calls::default(), Synthetic::new());
        let (one, other) = (STACK_AT + 0x3f00, STACK_AT + 0x8000 + 0x3f00);
        enter(&mut calls, &mut guest, one, call("map", 0x10));
        enter(&mut calls, &mut guest, other, call("map", 0x10));
        assert_eq!(calls.leave(0x10, one), None, "the stack is not back yet");
        assert_eq!(calls.leave(0x11, one + 8), None, "another place");
        assert_eq!(calls.leave(0x10, one + 8), Some(call("map", 0x10)));
        assert_eq!(calls.leave(0x10, one + 8), None);
        assert_eq!(calls.leave(0x10, other + 8), Some(call("map", 0x10)));
    }

    #[test]
    fn calls_within_calls_have_an_outer_one() {
        let (mut calls, mut guest) = (Calls::default(), Synthetic::new());
        let outer = STACK_AT + 0x3f00;
        enter(&mut calls, &mut guest, outer, call("pool", 0x10));
        enter(&mut calls, &mut guest, outer - 0x80, call("alloc", 0x20));
        enter(&mut calls, &mut guest, outer - 0x100, call("bounce", 0x30));
        let inner = calls.leave(0x30, outer - 0xf8).unwrap();
        assert_eq!((inner.outer, calls.outermost(&inner)), (Some(outer - 0x80), Some(outer)));
        assert_eq!(calls.leave(0x20, outer - 0x78).map(|call| call.outer), Some(Some(outer)));
        // A jump to another function: it is the first that returns.
        enter(&mut calls, &mut guest, outer, call("phys", 0x10));
        assert_eq!(calls.leave(0x10, outer + 8), Some(call("pool", 0x10)));
        // Executed once more, after a fault.
        enter(&mut calls, &mut guest, outer, call("pool", 0x10));
        enter(&mut calls, &mut guest, outer, call("pool", 0x10));
        assert_eq!(calls.leave(0x10, outer + 8), Some(call("pool", 0x10)));
        assert_eq!(calls.pending.len(), 0);
    }

    #[test]
    fn calls_that_never_return_make_way() {
        let (mut calls, mut guest) = (Calls::default(), Synthetic::new());
        let slot = STACK_AT + 0x3f00;
        enter(&mut calls, &mut guest, slot, call("map", 0x10));
        enter(&mut calls, &mut guest, slot + 0x10, call("map", 0x20));
        assert_eq!(calls.leave(0x10, slot + 8), None);
        // Its return address has been overwritten since.
        guest.put(slot + 0x10, &[0xff; 8]);
        enter(&mut calls, &mut guest, slot, call("alloc", 0x30));
        assert_eq!(calls.leave(0x30, slot + 8).map(|call| call.outer), Some(None));
        for stack in 0..2 * Calls::MAX as u64 {
            calls.enter(STACK_AT + stack * STACK, call("map", 0x10), &guest.memory());
        }
        assert_eq!((calls.pending.len(), calls.lost), (Calls::MAX, Calls::MAX as u64 + 1));
    }
}
