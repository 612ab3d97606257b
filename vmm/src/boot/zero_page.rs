//! The zero page of the Linux boot protocol (`struct boot_params`, Documentation/arch/x86/zero-page.rst).

use super::e820::Range;
use super::initrd::Initrd;
use super::{acpi, place};
use crate::memory::GuestRam;
use crate::memory::ram::NotRam;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::ByteValued;

/// `type_of_loader`: not one of the assigned ones.
const LOADER_UNDEFINED: u8 = 0xff;
/// `LOADED_HIGH`: the kernel is at 1 MiB or above.
const LOADED_HIGH: u8 = 1;

/// A header for a kernel that came without one.
fn default_header() -> setup_header {
    setup_header {
        boot_flag: 0xaa55,
        header: u32::from_le_bytes(*b"HdrS"),
        version: 0x20f,
        kernel_alignment: 0x100_0000,
        ..setup_header::default()
    }
}

/// Writes the zero page.
pub(super) fn write(
    ram: &GuestRam,
    header: Option<&setup_header>,
    map: &[Range],
    initrd: Initrd,
    command_line: &str,
) -> Result<(), NotRam> {
    let mut params =
        boot_params { hdr: header.copied().unwrap_or_else(default_header), ..boot_params::default() };
    params.acpi_rsdp_addr = acpi::RSDP;
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.loadflags |= LOADED_HIGH;
    params.hdr.cmd_line_ptr = place::COMMAND_LINE as u32;
    params.hdr.cmdline_size = command_line.len() as u32;
    // Low RAM ends below 4 GiB, so the upper halves (ext_ramdisk_*) stay zero.
    params.hdr.ramdisk_image = initrd.address as u32;
    params.hdr.ramdisk_size = initrd.size as u32;
    let mut table = params.e820_table;
    for (entry, range) in table.iter_mut().zip(map) {
        *entry = boot_e820_entry { addr: range.start, size: range.size, r#type: range.kind as u32 };
    }
    params.e820_table = table;
    params.e820_entries = map.len().min(table.len()) as u8;
    ram.write(place::ZERO_PAGE, params.as_slice())
}

#[cfg(test)]
mod tests {
    use super::super::e820;
    use super::*;
    use crate::memory::layout::MIB;

    #[test]
    fn fields_are_where_the_kernel_looks() {
        let ram = GuestRam::new(64 * MIB).unwrap();
        let map = e820::map(&ram, None);
        write(&ram, None, &map, Initrd { address: 0x300_0000, size: 77 }, "quiet").unwrap();
        let mut page = [0; 4096];
        ram.read(place::ZERO_PAGE, &mut page).unwrap();
        let word = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().unwrap());
        assert_eq!(u64::from(word(0x70)), acpi::RSDP);
        assert_eq!(usize::from(page[0x1e8]), map.len());
        assert_eq!(&page[0x202..0x206], b"HdrS");
        assert_eq!((word(0x218), word(0x21c)), (0x300_0000, 77));
        assert_eq!(u64::from(word(0x228)), place::COMMAND_LINE);
        assert_eq!((word(0x2d0), word(0x2d8), word(0x2e0)), (0, 0xa_0000, 1));
        assert_eq!(word(0x2d0 + 20), 0xe_0000);
    }
}
