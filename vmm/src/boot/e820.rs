//! The map of physical memory that the kernel is given (ACPI specification, 15.4: address range types).

use crate::machine::Confidential;
use crate::memory::GuestRam;
use crate::memory::layout::{CONVENTIONAL_END, ECAM, FIRMWARE_END, FIRMWARE_START, HIGH_RAM};

/// Kind of an address range, by its number in the protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    Ram = 1,
    Reserved = 2,
    /// ACPI tables, whose memory the kernel could have once it has read them.
    AcpiTables = 3,
}

/// One range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub start: u64,
    pub size: u64,
    pub kind: Kind,
}

/// The map of a machine with this RAM, sorted by address. The VGA hole and the firmware area are not RAM to the kernel;
/// the ECAM is reserved, or the kernel would not trust the MCFG. An encrypted guest takes what is reserved for memory of
/// devices, which is not private: to it the firmware area is that of the tables.
#[must_use]
pub fn map(ram: &GuestRam, confidential: Option<Confidential>) -> Vec<Range> {
    let firmware = if confidential.is_some() { Kind::AcpiTables } else { Kind::Reserved };
    let range = |start, end: u64, kind| Range { start, size: end - start, kind };
    let mut map = vec![
        range(0, CONVENTIONAL_END, Kind::Ram),
        range(FIRMWARE_START, FIRMWARE_END, firmware),
        range(FIRMWARE_END, ram.low_end(), Kind::Ram),
        range(ECAM.start, ECAM.end(), Kind::Reserved),
    ];
    if ram.high_size() != 0 {
        map.push(Range { start: HIGH_RAM, size: ram.high_size(), kind: Kind::Ram });
    }
    map
}

/// The map as the BIOS call returns it and `etc/e820` of the firmware configuration device holds it: 20 bytes a range.
#[must_use]
pub fn table(map: &[Range]) -> Vec<u8> {
    let mut table = Vec::new();
    for range in map {
        table.extend_from_slice(&range.start.to_le_bytes());
        table.extend_from_slice(&range.size.to_le_bytes());
        table.extend_from_slice(&(range.kind as u32).to_le_bytes());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::layout::{GIB, MIB};

    #[test]
    fn ranges_are_sorted_and_apart() {
        for size in [16 * MIB, 3 * GIB, 6 * GIB] {
            let ram = GuestRam::new(size).unwrap();
            let map = map(&ram, None);
            for pair in map.windows(2) {
                assert!(pair[0].start + pair[0].size <= pair[1].start, "{pair:x?}");
            }
            let usable: u64 = map.iter().filter(|r| r.kind == Kind::Ram).map(|r| r.size).sum();
            assert_eq!(usable, size - (FIRMWARE_END - CONVENTIONAL_END));
            assert!(map.iter().filter(|r| r.kind == Kind::Ram).all(|r| ram.contains(r.start, r.size)));
            assert!(map.contains(&Range { start: ECAM.start, size: ECAM.size, kind: Kind::Reserved }));
        }
    }
}
