//! `staleline repro`: known kernel bugs, reproduced end to end and judged by what the guest printed.
//!
//! A [`Reproduction`] is data (`catalogue/*.toml`): what to boot, what to run, and what must then be seen. Running it is
//! the command line's work; this module only judges. [`check`] takes the [`Evidence`] of a finished run and says
//! [`Outcome::Present`], [`Outcome::Absent`] or [`Outcome::CannotTell`]; [`render`] writes the report. Both are pure
//! functions of their arguments, and no bytes that a guest prints can make them fail.
//!
//! A [`Matrix`] is a suite of scenarios whose outcomes [`render_matrix`] tells as a table.

mod catalogue;
mod check;
mod console;
mod differences;
mod evidence;
mod matrix;
mod registration;
mod report;
mod trace;
mod warning;

pub use catalogue::{CatalogueError, Expectation, Guest, Reproduction, find, list, render_list};
pub use check::{Check, Expect, Outcome, UnknownExpect, Verdict, check};
pub use evidence::{Ended, Evidence, Origin};
pub use matrix::{Column, Count, Matrix, matrices, render_matrix};
pub use report::render;

#[cfg(test)]
mod tests;
