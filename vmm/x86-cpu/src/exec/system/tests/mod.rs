//! Tests of system instructions and event delivery, by small guest programs.

mod boot;
mod breakpoints;
mod delivery;
mod machine;
mod paging;
mod port;
mod privilege;
mod program;
mod protected;
mod random;
mod stepping;
