//! Virtual time and what is to happen at which of its moments.

pub mod events;

pub use events::{EventId, EventQueue};
