//! Field tables of the firmware interface.
//!
//! Positions are facts of the device interface as published in the Linux kernel's `include/linux/mlx5/mlx5_ifc.h`
//! (6.12); only fields that the device reads or writes are listed.

pub mod capabilities;
pub mod commands;
pub mod contexts;
pub mod port;
