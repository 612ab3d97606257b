//! DMA to RAM. A transaction that leaves RAM is cut at cache lines: those before the first that is not RAM are moved.

use super::GuestRam;
use super::layout::LINE;
use devices::dma::{AtomicOp, DmaError};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileMemory};
use x86_cpu::CodePages;

/// The parts of `length` bytes at `address` that lie in one cache line each: address, and the range within the buffer.
pub fn lines(address: u64, length: usize) -> impl Iterator<Item = (u64, Range<usize>)> {
    parts(address, length, LINE)
}

/// The same of lines of `line` bytes.
pub fn parts(address: u64, length: usize, line: u64) -> impl Iterator<Item = (u64, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let at = address.wrapping_add(done as u64);
        let room = (line - at % line) as usize;
        let from = done;
        done = length.min(done.saturating_add(room));
        Some((at, from..done))
    })
}

/// A device reads `data.len()` bytes at `address`. On error all of `data` is all-ones.
///
/// # Errors
/// [`DmaError::Unmapped`] with the first address that is not RAM.
pub fn read(ram: &GuestRam, address: u64, data: &mut [u8]) -> Result<(), DmaError> {
    if ram.read(address, data).is_ok() {
        return Ok(());
    }
    for (at, range) in lines(address, data.len()) {
        let Some(part) = data.get_mut(range) else { break };
        if ram.read(at, part).is_err() {
            data.fill(0xff);
            return Err(DmaError::Unmapped(at));
        }
    }
    Ok(())
}

/// A device writes `data` at `address`; lines before the first that is not RAM have been written.
///
/// # Errors
/// [`DmaError::Unmapped`] with the first address that is not RAM.
pub fn write(ram: &GuestRam, code: &mut CodePages, address: u64, data: &[u8]) -> Result<(), DmaError> {
    if ram.contains(address, data.len() as u64) && ram.write(address, data).is_ok() {
        code.written(address, data.len() as u64);
        return Ok(());
    }
    for (at, range) in lines(address, data.len()) {
        let Some(part) = data.get(range) else { break };
        if !ram.contains(at, part.len() as u64) {
            return Err(DmaError::Unmapped(at));
        }
        ram.write(at, part).map_err(|_| DmaError::Unmapped(at))?;
        code.written(at, part.len() as u64);
    }
    Ok(())
}

/// An atomic operation of a device on the 8 aligned bytes at `address`; returns the old value.
///
/// # Errors
/// [`DmaError::Unmapped`] if that is not RAM, or not aligned.
pub fn atomic(ram: &GuestRam, code: &mut CodePages, address: u64, op: AtomicOp) -> Result<u64, DmaError> {
    let unmapped = DmaError::Unmapped(address);
    let slice = ram.memory().get_slice(GuestAddress(address), 8).map_err(|_| unmapped)?;
    let word = slice.get_atomic_ref::<AtomicU64>(0).map_err(|_| unmapped)?;
    let old = match op {
        AtomicOp::FetchAdd(value) => word.fetch_add(value, Ordering::SeqCst),
        AtomicOp::CompareSwap { compare, swap } => {
            match word.compare_exchange(compare, swap, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(old) | Err(old) => old,
            }
        }
    };
    code.written(address, 8);
    Ok(old)
}

#[cfg(test)]
mod tests {
    use super::super::layout::{GIB, MIB};
    use super::*;

    #[test]
    fn transactions_are_split_at_lines() {
        let parts: Vec<_> = lines(0x103e, 70).collect();
        assert_eq!(parts, [(0x103e, 0..2), (0x1040, 2..66), (0x1080, 66..70)]);
        assert_eq!(lines(0x40, 0).count(), 0);
        assert_eq!(lines(u64::MAX, 2).last(), Some((0, 1..2)), "an address that wraps ends");
    }

    #[test]
    fn data_goes_there_and_back() {
        let ram = GuestRam::new(8 * MIB).unwrap();
        let mut code = CodePages::default();
        let data: Vec<u8> = (0..=255).collect();
        write(&ram, &mut code, 0x1fe1, &data).unwrap();
        let mut back = vec![0; 256];
        read(&ram, 0x1fe1, &mut back).unwrap();
        assert_eq!(back, data);
    }

    #[test]
    fn what_is_not_ram_is_an_error() {
        let ram = GuestRam::new(8 * MIB).unwrap();
        let mut code = CodePages::default();
        let end = 8 * MIB;
        assert_eq!(write(&ram, &mut code, end - 8, &[7; 16]), Err(DmaError::Unmapped(end)));
        let mut data = [0; 16];
        assert_eq!(read(&ram, end - 8, &mut data), Err(DmaError::Unmapped(end)));
        assert_eq!(data, [0xff; 16]);
        read(&ram, end - 8, &mut data[..8]).unwrap();
        assert_eq!(data[..8], [7; 8]);
        for address in [3 * GIB, u64::MAX - 3, u64::MAX] {
            assert_eq!(read(&ram, address, &mut data), Err(DmaError::Unmapped(address)));
        }
    }

    #[test]
    fn atomics_return_the_old_value() {
        let ram = GuestRam::new(8 * MIB).unwrap();
        let mut code = CodePages::default();
        let mut run = |op| atomic(&ram, &mut code, 0x2008, op);
        assert_eq!(run(AtomicOp::FetchAdd(5)), Ok(0));
        assert_eq!(run(AtomicOp::CompareSwap { compare: 4, swap: 9 }), Ok(5));
        assert_eq!(run(AtomicOp::CompareSwap { compare: 5, swap: 9 }), Ok(5));
        assert_eq!(run(AtomicOp::FetchAdd(u64::MAX)), Ok(9));
        assert_eq!(run(AtomicOp::FetchAdd(0)), Ok(8));
        assert_eq!(
            atomic(&ram, &mut code, 0x2004, AtomicOp::FetchAdd(1)),
            Err(DmaError::Unmapped(0x2004)),
            "unaligned"
        );
    }
}
