//! What the property tests share: random operations as trace lines, a naive reference, and a way to drive a model.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod doubts;
pub mod drive;
pub mod ops;
pub mod reference;
