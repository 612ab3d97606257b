//! What the peer does of its own accord, for guests from which no order can come.

use super::guest::MemoryArea;
use super::protocol::{MAX_DELAY, MAX_LENGTH, MAX_REPEAT, Operation, Order};
use crate::bus::Nanos;
use crate::duration;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// Seed of the pattern that a plan writes and expects.
pub const PLAN_SEED: u64 = 0x706c_616e;

/// An operation on the newest memory of each connection, which no order asks for.
///
/// As text: `OPERATION@DELAY` or `OPERATION@DELAY*TIMES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub(super) operation: Operation,
    /// Virtual nanoseconds from the connection to the first time, and between one time and the next.
    pub(super) delay: Nanos,
    repeat: u32,
}

/// Operations that a plan may name.
const OPERATIONS: [Operation; 4] = [
    Operation::Write { seed: PLAN_SEED },
    Operation::Read,
    Operation::Check { seed: PLAN_SEED },
    Operation::FetchAdd { addend: 1 },
];

/// A text is no plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "write|read|check|fetch-add, then @ and a delay with its unit (ns, us, ms, s; an hour at most), then perhaps * and how \
     many times (1 to {MAX_REPEAT}), as write@10ms*3"
)]
pub struct NoPlan;

impl FromStr for Plan {
    type Err = NoPlan;

    fn from_str(text: &str) -> Result<Self, NoPlan> {
        let (name, when) = text.split_once('@').ok_or(NoPlan)?;
        let (delay, repeat) = when.split_once('*').unwrap_or((when, "1"));
        let operation = OPERATIONS.into_iter().find(|operation| operation.name() == name).ok_or(NoPlan)?;
        let delay = duration::parse(delay).filter(|delay| *delay <= MAX_DELAY).ok_or(NoPlan)?;
        let repeat = repeat.parse().ok().filter(|count| (1..=MAX_REPEAT).contains(count)).ok_or(NoPlan)?;
        Ok(Self { operation, delay, repeat })
    }
}

impl Plan {
    /// The order for an area of memory: all of it, as far as an order reaches.
    pub(super) fn order(self, area: MemoryArea) -> Order {
        let len = if self.operation.is_atomic() { 8 } else { area.len.clamp(1, MAX_LENGTH) };
        Order {
            operation: self.operation,
            rkey: area.rkey,
            address: area.address,
            len,
            delay: self.delay,
            repeat: self.repeat,
            cookie: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_read() {
        let plan = |text: &str| text.parse::<Plan>();
        let write = Operation::Write { seed: PLAN_SEED };
        assert_eq!(plan("write@10ms"), Ok(Plan { operation: write, delay: 10_000_000, repeat: 1 }));
        let add = Operation::FetchAdd { addend: 1 };
        assert_eq!(plan("fetch-add@2us*1000"), Ok(Plan { operation: add, delay: 2000, repeat: 1000 }));
        for bad in [
            "",
            "write",
            "write@",
            "write@5",
            "write@2h",
            "write@3601s",
            "write@1s*0",
            "write@1s*x",
            "swap@1s",
        ] {
            assert_eq!(plan(bad), Err(NoPlan), "{bad}");
        }
    }

    #[test]
    fn a_plan_covers_the_memory_as_far_as_an_order_reaches() {
        let area = |len| MemoryArea { rkey: 0x101, address: 0x1000, len };
        let plan: Plan = "check@1ms".parse().unwrap();
        assert_eq!((plan.order(area(9)).len, plan.order(area(u64::MAX)).len), (9, MAX_LENGTH));
        let plan: Plan = "fetch-add@1ms*2".parse().unwrap();
        let order = plan.order(area(4096));
        assert_eq!((order.len, order.repeat, order.address), (8, 2, 0x1000));
    }
}
