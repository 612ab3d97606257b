//! What the property tests share: random operations as trace lines, and a naive reference.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod doubts;
pub mod ops;
pub mod reference;
