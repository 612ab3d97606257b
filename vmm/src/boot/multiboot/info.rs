//! The information that the kernel is handed in EBX (Multiboot 0.6.96, 3.3).

use super::super::e820::{self, Range};
use super::super::initrd::Initrd;
use super::super::{BootError, place};
use crate::memory::GuestRam;
use crate::memory::layout::{CONVENTIONAL_END, FIRMWARE_END};

/// What the kernel is told of who loaded it.
const LOADER_NAME: &str = "Staleline";
/// Bytes of the structure up to and with the VBE fields.
const INFO_SIZE: usize = 88;

/// Which fields are valid.
mod flags {
    pub const MEMORY: u32 = 1;
    pub const COMMAND_LINE: u32 = 1 << 2;
    pub const MODULES: u32 = 1 << 3;
    pub const MEMORY_MAP: u32 = 1 << 6;
    pub const LOADER_NAME: u32 = 1 << 9;
}

/// A module in RAM and the string that goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::boot) struct Module {
    pub place: Initrd,
    pub string: String,
}

/// What there is to tell.
#[derive(Debug)]
pub(in crate::boot) struct Info<'a> {
    pub map: &'a [Range],
    pub modules: &'a [Module],
}

/// Writes the structure, then memory map, module list and strings. The command line is where it always is.
///
/// # Errors
/// [`BootError::ModuleStrings`] if the modules' strings do not fit.
pub(in crate::boot) fn write(ram: &GuestRam, info: &Info<'_>) -> Result<(), BootError> {
    let mut block = vec![0_u8; INFO_SIZE];
    let here = |block: &[u8]| place::MULTIBOOT_INFO as u32 + block.len() as u32;

    let map_at = here(&block);
    for range in info.map {
        // `size` does not count itself.
        let entry = e820::table(&[*range]);
        block.extend_from_slice(&(entry.len() as u32).to_le_bytes());
        block.extend_from_slice(&entry);
    }
    let map_size = here(&block) - map_at;

    let loader_at = here(&block);
    block.extend_from_slice(LOADER_NAME.as_bytes());
    block.push(0);
    let mut list = Vec::new();
    for module in info.modules {
        let start = module.place.address as u32;
        let end = start.wrapping_add(module.place.size as u32);
        list.extend([start, end, here(&block), 0]);
        block.extend_from_slice(module.string.as_bytes());
        block.push(0);
    }
    block.resize(block.len().next_multiple_of(4), 0);
    let modules_at = here(&block);
    block.extend(list.iter().flat_map(|word| word.to_le_bytes()));
    if block.len() as u64 > place::MULTIBOOT_INFO_SIZE {
        return Err(BootError::ModuleStrings);
    }

    let valid = flags::MEMORY | flags::COMMAND_LINE | flags::MODULES | flags::MEMORY_MAP | flags::LOADER_NAME;
    let lower = (CONVENTIONAL_END / 1024) as u32;
    let upper = (ram.low_end().saturating_sub(FIRMWARE_END) / 1024) as u32;
    for (offset, value) in [
        (0, valid),
        (4, lower),
        (8, upper),
        (16, place::COMMAND_LINE as u32),
        (20, info.modules.len() as u32),
        (24, modules_at),
        (44, map_size),
        (48, map_at),
        (64, loader_at),
    ] {
        if let Some(field) = block.get_mut(offset..offset + 4) {
            field.copy_from_slice(&value.to_le_bytes());
        }
    }
    Ok(ram.write(place::MULTIBOOT_INFO, &block)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::layout::MIB;

    #[test]
    fn fields_are_where_the_specification_puts_them() {
        let ram = GuestRam::new(64 * MIB).unwrap();
        let map = e820::map(&ram, None);
        let module =
            |address, size, string: &str| Module { place: Initrd { address, size }, string: string.into() };
        let modules = [module(0x20_0000, 77, "first a=1"), module(0x20_1000, 5, "second")];
        write(&ram, &Info { map: &map, modules: &modules }).unwrap();
        let word = |at: u32| {
            let mut bytes = [0; 4];
            ram.read(at.into(), &mut bytes).unwrap();
            u32::from_le_bytes(bytes)
        };
        let text = |at: u32, length: usize| {
            let mut bytes = vec![0; length];
            ram.read(at.into(), &mut bytes).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        let base = place::MULTIBOOT_INFO as u32;
        assert_eq!((word(base), word(base + 4), word(base + 8)), (0b10_0100_1101, 640, 63 * 1024));
        assert_eq!(u64::from(word(base + 16)), place::COMMAND_LINE);
        assert_eq!(text(word(base + 64), 10), "Staleline\0");
        let list = word(base + 24);
        assert_eq!((word(base + 20), list % 4), (2, 0));
        assert_eq!((word(list), word(list + 4)), (0x20_0000, 0x20_0000 + 77));
        assert_eq!(text(word(list + 8), 10), "first a=1\0");
        assert_eq!((word(list + 16), text(word(list + 24), 7)), (0x20_1000, "second\0".into()));
        let (size, first) = (word(base + 44), word(base + 48));
        assert_eq!(size as usize, 24 * map.len());
        assert_eq!((word(first), word(first + 4), word(first + 12), word(first + 20)), (20, 0, 0xa_0000, 1));
    }

    #[test]
    fn strings_that_do_not_fit_are_an_error() {
        let ram = GuestRam::new(64 * MIB).unwrap();
        let module = Module { place: Initrd::default(), string: "x".repeat(4000) };
        let modules = vec![module; 20];
        let error = write(&ram, &Info { map: &[], modules: &modules }).unwrap_err();
        assert!(matches!(error, BootError::ModuleStrings), "{error}");
    }
}
