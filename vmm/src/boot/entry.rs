//! The processor's state at the kernel's first instruction.

use super::{multiboot, place};
use crate::machine::Confidential;
use crate::memory::GuestRam;
use crate::memory::ram::NotRam;
use x86_cpu::encryption::C_BIT;
use x86_cpu::{Segment, TableRegister, cr0, cr4, efer, reg, seg};

/// How a kernel is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// 32-bit protected mode with EBX at the PVH start info.
    Pvh(u32),
    /// 64-bit mode, memory mapped one to one, RSI at the zero page (boot.rst, "64-bit boot protocol").
    Long(u64),
    /// 32-bit protected mode with EAX at the magic number and EBX at the information (Multiboot 0.6.96, 3.2).
    Multiboot(u32),
    /// 32-bit protected mode with ESI at the zero page (boot.rst, "32-bit boot protocol").
    Protected(u32),
}

/// Architectural state that an engine gives to a vCPU, or reads from it; all that boot protocols speak of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuState {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8-R15.
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub segments: [Segment; 6],
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: TableRegister,
    pub idtr: TableRegister,
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
}

/// Selectors that the Linux protocols ask for (`__BOOT_CS`, `__BOOT_DS`), after two unused entries.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;

const ATTR_CODE_32: u16 = 0xc09b;
const ATTR_CODE_64: u16 = 0xa09b;
const ATTR_DATA: u16 = 0xc093;
const ATTR_TASK: u16 = 0x008b;

/// The convention for the register that points to the boot information.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProtectedProtocol {
    Pvh,
    Multiboot,
    Linux,
}

/// A flat segment of 4 GiB.
const fn flat(selector: u16, attr: u16) -> Segment {
    Segment { selector, base: 0, limit: u32::MAX, attr }
}

/// The descriptor of a flat segment with these attributes.
const fn descriptor(attr: u16) -> u64 {
    let attr = attr as u64;
    0xffff | (attr & 0xff) << 40 | 0xf << 48 | (attr >> 12) << 52
}

fn state(ram: &GuestRam, rip: u64, code: u16) -> Result<CpuState, NotRam> {
    let gdt = [0, 0, descriptor(code), descriptor(ATTR_DATA), 0x0000_8b00_0000_0067];
    for (index, entry) in gdt.into_iter().enumerate() {
        ram.write(place::GDT + 8 * index as u64, &u64::to_le_bytes(entry))?;
    }
    let mut segments = [flat(DATA, ATTR_DATA); 6];
    segments[seg::CS] = flat(CODE, code);
    Ok(CpuState {
        gpr: [0; 16],
        rip,
        rflags: 2,
        segments,
        ldtr: Segment::null(0),
        tr: Segment { selector: TASK, base: 0, limit: 0x67, attr: ATTR_TASK },
        gdtr: TableRegister { base: place::GDT, limit: 8 * gdt.len() as u16 - 1 },
        idtr: TableRegister { base: 0, limit: 0 },
        cr0: cr0::PE | cr0::ET | cr0::NE,
        cr3: 0,
        cr4: 0,
        efer: 0,
    })
}

/// State for an entry in 32-bit protected mode.
pub(super) fn protected_mode(
    ram: &GuestRam,
    rip: u32,
    protocol: ProtectedProtocol,
) -> Result<CpuState, NotRam> {
    let mut state = state(ram, rip.into(), ATTR_CODE_32)?;
    match protocol {
        ProtectedProtocol::Pvh => state.gpr[reg::RBX] = place::PVH_START_INFO,
        ProtectedProtocol::Multiboot => {
            state.gpr[reg::RAX] = multiboot::MAGIC;
            state.gpr[reg::RBX] = place::MULTIBOOT_INFO;
        }
        ProtectedProtocol::Linux => state.gpr[reg::RSI] = place::ZERO_PAGE,
    }
    Ok(state)
}

/// State for an entry in 64-bit mode, with page tables that map the first 4 GiB to themselves: as private memory to a guest
/// that knows of it, in which the boot code leaves everything.
pub(super) fn long_mode(
    ram: &GuestRam,
    rip: u64,
    confidential: Option<Confidential>,
) -> Result<CpuState, NotRam> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 0x80;
    let pdpt = place::PAGE_TABLES + 0x1000;
    let directories = pdpt + 0x1000;
    let private = match confidential {
        Some(Confidential::Sev) => C_BIT,
        None => 0,
    };
    let put = |at: u64, entry: u64| ram.write(at, &(entry | private).to_le_bytes());
    put(place::PAGE_TABLES, pdpt | PRESENT_WRITABLE)?;
    for gib in 0..4 {
        put(pdpt + 8 * gib, (directories + 0x1000 * gib) | PRESENT_WRITABLE)?;
    }
    for page in 0..4 * 512 {
        put(directories + 8 * page, page << 21 | LARGE | PRESENT_WRITABLE)?;
    }
    let mut state = state(ram, rip, ATTR_CODE_64)?;
    state.gpr[reg::RSI] = place::ZERO_PAGE;
    state.cr0 |= cr0::PG;
    state.cr3 = place::PAGE_TABLES | private;
    state.cr4 = cr4::PAE;
    state.efer = efer::LME | efer::LMA;
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::layout::MIB;

    fn word(ram: &GuestRam, at: u64) -> u64 {
        let mut bytes = [0; 8];
        ram.read(at, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }

    #[test]
    fn long_mode_maps_4_gib_to_itself() {
        let ram = GuestRam::new(16 * MIB).unwrap();
        let state = long_mode(&ram, 0x100_0000, None).unwrap();
        for address in [0_u64, 0x100_0000, 0xfee0_0000, 0xffff_ffff] {
            let pdpt = word(&ram, state.cr3) & !0xfff;
            let directory = word(&ram, pdpt + 8 * (address >> 30)) & !0xfff;
            let entry = word(&ram, directory + 8 * (address >> 21 & 511));
            assert_eq!(entry, address & !0x1f_ffff | 0x83);
        }
        assert_eq!(state.segments[seg::CS].attr & 1 << 13, 1 << 13, "CS is 64-bit");
        assert_eq!(state.gpr[reg::RSI], place::ZERO_PAGE);
    }

    #[test]
    fn descriptors_agree_with_the_segments() {
        assert_eq!(descriptor(ATTR_CODE_64), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(ATTR_CODE_32), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(ATTR_DATA), 0x00cf_9300_0000_ffff);
    }

    #[test]
    fn protected_mode_points_to_its_information() {
        let ram = GuestRam::new(16 * MIB).unwrap();
        let pvh = protected_mode(&ram, 0x100_0000, ProtectedProtocol::Pvh).unwrap();
        assert_eq!((pvh.gpr[reg::RBX], pvh.cr0 & cr0::PG), (place::PVH_START_INFO, 0));
        let multiboot = protected_mode(&ram, 0x100_0000, ProtectedProtocol::Multiboot).unwrap();
        assert_eq!(multiboot.gpr[reg::RAX], 0x2bad_b002);
        assert_eq!((multiboot.gpr[reg::RBX], multiboot.cr0 & 1), (place::MULTIBOOT_INFO, 1));
        let linux = protected_mode(&ram, 0x100_0000, ProtectedProtocol::Linux).unwrap();
        assert_eq!(linux.gpr[reg::RSI], place::ZERO_PAGE);
    }
}
