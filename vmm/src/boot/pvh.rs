//! The start info of the PVH boot protocol (xen/include/public/arch-x86/hvm/start_info.h).

use super::e820::Range;
use super::initrd::Initrd;
use super::{acpi, place};
use crate::memory::GuestRam;
use crate::memory::ram::NotRam;
use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::ByteValued;

/// Writes start info, module list and memory map, one after another.
pub(super) fn write(ram: &GuestRam, map: &[Range], initrd: Initrd) -> Result<(), NotRam> {
    let modules_at = place::PVH_START_INFO + size_of::<hvm_start_info>() as u64;
    let map_at = modules_at + size_of::<hvm_modlist_entry>() as u64;
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        nr_modules: u32::from(initrd.size != 0),
        modlist_paddr: modules_at,
        cmdline_paddr: place::COMMAND_LINE,
        rsdp_paddr: acpi::RSDP,
        memmap_paddr: map_at,
        memmap_entries: map.len() as u32,
        ..hvm_start_info::default()
    };
    ram.write(place::PVH_START_INFO, info.as_slice())?;
    let module =
        hvm_modlist_entry { paddr: initrd.address, size: initrd.size, ..hvm_modlist_entry::default() };
    ram.write(modules_at, module.as_slice())?;
    let mut at = map_at;
    for range in map {
        let entry = hvm_memmap_table_entry {
            addr: range.start,
            size: range.size,
            type_: range.kind as u32,
            reserved: 0,
        };
        ram.write(at, entry.as_slice())?;
        at += size_of::<hvm_memmap_table_entry>() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::e820;
    use super::*;
    use crate::memory::layout::MIB;

    #[test]
    fn start_info_points_to_its_parts() {
        let ram = GuestRam::new(64 * MIB).unwrap();
        let map = e820::map(&ram, None);
        write(&ram, &map, Initrd { address: 0x300_0000, size: 77 }).unwrap();
        let mut info = hvm_start_info::default();
        ram.read(place::PVH_START_INFO, info.as_mut_slice()).unwrap();
        assert_eq!((info.magic, info.nr_modules), (0x336e_c578, 1));
        let mut module = hvm_modlist_entry::default();
        ram.read(info.modlist_paddr, module.as_mut_slice()).unwrap();
        assert_eq!((module.paddr, module.size), (0x300_0000, 77));
        let mut first = hvm_memmap_table_entry::default();
        ram.read(info.memmap_paddr, first.as_mut_slice()).unwrap();
        assert_eq!((first.addr, first.size, first.type_), (0, 0xa_0000, 1));
        assert_eq!(info.memmap_entries as usize, map.len());
    }
}
