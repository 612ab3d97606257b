//! Drivers in Rust for the emulated devices, and a port with memory around one function: what tests, the fuzzer and the
//! benchmark drive devices with, without a guest.
//!
//! A model panics where a device does what it must not: it is part of a test.
#![forbid(unsafe_code)]

pub mod dmalab_model;
pub mod iommu_model;
pub mod mlx5_model;
pub mod mlx5_verbs;
pub mod mock_port;
pub mod virtio_model;
