//! The common configuration structure (virtio 1.2, 4.1.4.3): which register is where.

use crate::bus::AccessError;

/// A register of the structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Register {
    DeviceFeatureSelect,
    DeviceFeature,
    DriverFeatureSelect,
    DriverFeature,
    ConfigVector,
    NumQueues,
    DeviceStatus,
    ConfigGeneration,
    QueueSelect,
    QueueSize,
    QueueVector,
    QueueEnable,
    QueueNotifyOff,
    QueueDescriptors,
    QueueDriver,
    QueueDevice,
    QueueNotifyData,
    QueueReset,
}

use Register::*;

/// Offset, bytes and name.
const REGISTERS: [(u64, usize, Register); 18] = [
    (0x00, 4, DeviceFeatureSelect),
    (0x04, 4, DeviceFeature),
    (0x08, 4, DriverFeatureSelect),
    (0x0c, 4, DriverFeature),
    (0x10, 2, ConfigVector),
    (0x12, 2, NumQueues),
    (0x14, 1, DeviceStatus),
    (0x15, 1, ConfigGeneration),
    (0x16, 2, QueueSelect),
    (0x18, 2, QueueSize),
    (0x1a, 2, QueueVector),
    (0x1c, 2, QueueEnable),
    (0x1e, 2, QueueNotifyOff),
    (0x20, 8, QueueDescriptors),
    (0x28, 8, QueueDriver),
    (0x30, 8, QueueDevice),
    (0x38, 2, QueueNotifyData),
    (0x3a, 2, QueueReset),
];

/// Bytes of the structure.
pub(super) const LENGTH: u64 = 0x3c;

/// The register at `offset`, and how many bits of it an access of `size` bytes there leaves out below: registers are
/// accessed whole, but those of 64 bits also by halves (virtio, 4.1.3.1).
pub(super) fn find(offset: u64, size: usize) -> Result<(Register, u32), AccessError> {
    let inside = |&&(at, bytes, _): &&(u64, usize, Register)| (at..at + bytes as u64).contains(&offset);
    let &(at, bytes, register) = REGISTERS.iter().find(inside).ok_or(AccessError::NoRegister)?;
    let within = offset - at;
    match (bytes, size, within) {
        (8, 4, 0 | 4) => Ok((register, within as u32 * 8)),
        (_, _, 0) if size == bytes => Ok((register, 0)),
        _ if !offset.is_multiple_of(size as u64) => Err(AccessError::Unaligned),
        _ => Err(AccessError::BadSize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_accessed_whole_or_by_halves() {
        assert_eq!(find(0, 4), Ok((DeviceFeatureSelect, 0)));
        assert_eq!(find(0x28, 8), Ok((QueueDriver, 0)));
        assert_eq!(find(0x2c, 4), Ok((QueueDriver, 32)));
        assert_eq!(find(0x14, 1), Ok((DeviceStatus, 0)));
        assert_eq!(find(0x14, 4), Err(AccessError::BadSize));
        assert_eq!(find(0x02, 2), Err(AccessError::BadSize));
        assert_eq!(find(0x17, 2), Err(AccessError::Unaligned));
        assert_eq!(find(LENGTH, 2), Err(AccessError::NoRegister));
        let mut next = 0;
        for (at, bytes, _) in REGISTERS {
            assert_eq!(at, next, "there are no gaps");
            next += bytes as u64;
        }
        assert_eq!(next, LENGTH);
    }
}
