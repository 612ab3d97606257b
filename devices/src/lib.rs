//! Everything on the machine's buses.
//!
//! A device is plain data: it owns no thread, no file and no reference to the machine. What it may do to the
//! outside world (DMA, interrupts, timers) it does through a context that the machine lends it for the length of
//! one call, so that a whole machine can be cloned, serialised and forked.
#![forbid(unsafe_code)]

pub mod acpi_pm;
pub mod board_ports;
pub mod bus;
pub mod dma;
pub mod dmalab;
pub mod duration;
pub mod fw_cfg;
pub mod i8042;
pub mod interrupt;
pub mod iommu;
pub mod mlx5;
pub mod pci;
pub mod pit;
pub mod random;
pub mod rtc;
pub mod serial;
pub mod state;
pub mod storage;
pub mod test_device;
#[cfg(test)]
mod testing;
pub mod virtio;
