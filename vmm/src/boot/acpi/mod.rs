//! ACPI tables: what the kernel learns of the machine (ACPI specification 6.5, chapter 5).

mod dsdt;

use crate::memory::GuestRam;
use crate::memory::layout::{ECAM, FIRMWARE_END, FIRMWARE_START, IO_APIC, LOCAL_APIC, PCI_BUSES, platform};
use crate::memory::ram::NotRam;
use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

/// Where the root pointer is: the start of the area that kernels scan for it.
pub const RSDP: u64 = FIRMWARE_START;

const OEM_ID: [u8; 6] = *b"STALEL";
const OEM_TABLE_ID: [u8; 8] = *b"STALELIN";
const OEM_REVISION: u32 = 1;
/// Tables start at multiples of this; the FACS asks for it.
const TABLE_ALIGNMENT: u64 = 64;

/// Latencies that mean "no C2" and "no C3" (ACPI specification, table 5.9).
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;
/// CMOS index of the century byte.
const CENTURY: u8 = 0x32;
/// IAPC_BOOT_ARCH: no VGA. The bit of the keyboard controller stays clear: there is none.
const NO_VGA: u16 = 1 << 2;

fn serialise(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// Writes all tables of a machine with `cpus` processors into the firmware area.
///
/// # Errors
/// [`NotRam`] if there is no RAM in that area.
pub fn write(ram: &GuestRam, cpus: u32) -> Result<(), NotRam> {
    let mut at = RSDP + Rsdp::len() as u64;
    let mut place = |table: &[u8]| -> Result<u64, NotRam> {
        let address = at.next_multiple_of(TABLE_ALIGNMENT);
        at = address + table.len() as u64;
        if at > FIRMWARE_END {
            return Err(NotRam { address, length: table.len() as u64 });
        }
        ram.write(address, table)?;
        Ok(address)
    };
    let facs = place(&serialise(&FACS::new()))?;
    let dsdt = place(&dsdt::build(cpus))?;
    let fadt = place(&fadt(facs, dsdt))?;
    let madt = place(&madt(cpus))?;
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(ECAM.start, 0, 0, PCI_BUSES - 1);
    let mcfg = place(&serialise(&mcfg))?;
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let mut rsdt = Sdt::new(*b"RSDT", 36, 1, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for table in [fadt, madt, mcfg] {
        xsdt.add_entry(table);
        rsdt.append(table as u32);
    }
    let xsdt = place(&serialise(&xsdt))?;
    let rsdt = place(rsdt.as_slice())?;
    ram.write(RSDP, &root_pointer(xsdt, rsdt as u32))
}

/// The root pointer with both tables: small kernels know the RSDT only, which the crate's pointer leaves out.
fn root_pointer(xsdt: u64, rsdt: u32) -> Vec<u8> {
    const RSDT_AT: std::ops::Range<usize> = 16..20;
    /// Checksum of the first 20 bytes, then of all.
    const CHECKSUMS: [(usize, usize); 2] = [(8, 20), (32, 36)];
    let mut pointer = serialise(&Rsdp::new(OEM_ID, xsdt));
    if let Some(field) = pointer.get_mut(RSDT_AT) {
        field.copy_from_slice(&rsdt.to_le_bytes());
    }
    for (at, covered) in CHECKSUMS {
        let sum = pointer.iter().take(covered).fold(0_u8, |sum, &byte| sum.wrapping_add(byte));
        if let Some(checksum) = pointer.get_mut(at) {
            *checksum = checksum.wrapping_sub(sum);
        }
    }
    pointer
}

/// The fixed hardware: power management registers at their ports, always in ACPI mode.
fn fadt(facs: u64, dsdt: u64) -> Vec<u8> {
    let port = |port: u16, bits: u8, access| GAS::new(AddressSpace::SystemIo, bits, 0, access, port.into());
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .firmware_ctrl_32(facs as u32)
        .dsdt_32(dsdt as u32)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    fadt.x_dsdt = dsdt.into();
    fadt.sci_int = (platform::SCI_GSI as u16).into();
    fadt.pm1a_evt_blk = u32::from(platform::PM1A_EVENT).into();
    fadt.pm1_evt_len = 4;
    fadt.x_pm1a_evt_blk = port(platform::PM1A_EVENT, 32, AccessSize::WordAccess);
    fadt.pm1a_cnt_blk = u32::from(platform::PM1A_CONTROL).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_cnt_blk = port(platform::PM1A_CONTROL, 16, AccessSize::WordAccess);
    fadt.pm_tmr_blk = u32::from(platform::PM_TIMER).into();
    fadt.pm_tmr_len = 4;
    fadt.x_pm_tmr_blk = port(platform::PM_TIMER, 32, AccessSize::DwordAccess);
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.century = CENTURY;
    fadt.iapc_boot_arch = NO_VGA.into();
    fadt.reset_reg = port(platform::RESET, 8, AccessSize::ByteAccess);
    fadt.reset_value = platform::RESET_VALUE;
    serialise(&fadt.finalize())
}

/// Interrupt controllers (ACPI specification, 5.2.12). Built by hand: the crate's table has no flags and no overrides.
fn madt(cpus: u32) -> Vec<u8> {
    const PCAT_COMPAT: u32 = 1;
    const ENABLED: u32 = 1;
    /// Highest APIC ID that a local APIC entry can name.
    const LAST_XAPIC_ID: u32 = 254;
    const ACTIVE_HIGH_LEVEL: u16 = 0b1101;
    let mut table = Sdt::new(*b"APIC", 36, 4, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append(LOCAL_APIC.start as u32);
    table.append(PCAT_COMPAT);
    for cpu in 0..cpus {
        if cpu <= LAST_XAPIC_ID {
            table.append_slice(&[0, 8, cpu as u8, cpu as u8]);
            table.append(ENABLED);
        } else {
            table.append_slice(&[9, 16, 0, 0]);
            table.append(cpu);
            table.append(ENABLED);
            table.append(cpu);
        }
    }
    // IO-APIC, with an ID beyond those of small machines' processors.
    table.append_slice(&[1, 12, 0, 0]);
    table.append(IO_APIC.start as u32);
    table.append(0_u32);
    for (irq, gsi, flags) in
        [(0_u8, 2_u32, 0_u16), (platform::SCI_GSI as u8, platform::SCI_GSI, ACTIVE_HIGH_LEVEL)]
    {
        table.append_slice(&[2, 10, 0, irq]);
        table.append(gsi);
        table.append(flags);
    }
    // NMI on LINT1 of all processors.
    table.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    table.as_slice().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::layout::MIB;

    fn bytes(ram: &GuestRam, at: u64, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        ram.read(at, &mut data).unwrap();
        data
    }

    fn number(data: &[u8], at: usize, size: usize) -> u64 {
        data[at..at + size].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
    }

    fn table(ram: &GuestRam, at: u64) -> Vec<u8> {
        let length = number(&bytes(ram, at + 4, 4), 0, 4) as usize;
        let data = bytes(ram, at, length);
        assert_eq!(data.iter().fold(0_u8, |sum, &byte| sum.wrapping_add(byte)), 0, "checksum at {at:#x}");
        data
    }

    #[test]
    fn every_table_is_reachable_and_sums_to_zero() {
        let ram = GuestRam::new(16 * MIB).unwrap();
        write(&ram, 3).unwrap();
        let rsdp = bytes(&ram, RSDP, 36);
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        for part in [&rsdp[..20], &rsdp[..]] {
            assert_eq!(part.iter().fold(0_u8, |sum, &byte| sum.wrapping_add(byte)), 0);
        }
        let xsdt = table(&ram, number(&rsdp, 24, 8));
        let tables: Vec<_> =
            (36..xsdt.len()).step_by(8).map(|at| table(&ram, number(&xsdt, at, 8))).collect();
        let names: Vec<_> = tables.iter().map(|table| &table[..4]).collect();
        assert_eq!(names, [b"FACP", b"APIC", b"MCFG"]);
        let rsdt = table(&ram, number(&rsdp, 16, 4));
        let short: Vec<_> = (36..rsdt.len()).step_by(4).map(|at| table(&ram, number(&rsdt, at, 4))).collect();
        assert!(short == tables, "both lists name the same tables");
        let fadt = &tables[0];
        let dsdt = table(&ram, number(fadt, 40, 4));
        assert_eq!(&dsdt[..4], b"DSDT");
        assert_eq!(number(fadt, 40, 4), number(fadt, 140, 8));
        assert_eq!(bytes(&ram, number(fadt, 36, 4), 4), b"FACS");
        assert_eq!((number(fadt, 116, 1), number(fadt, 120, 8), fadt[128]), (1, 0xcf9, 6), "reset register");
        let madt = &tables[1];
        assert_eq!(number(madt, 36, 4), LOCAL_APIC.start);
        assert_eq!(madt[44..].iter().filter(|&&byte| byte == 8).count(), 3, "one entry a processor");
        assert_eq!(number(&tables[2], 44, 8), ECAM.start);
    }

    #[test]
    fn many_processors_fit() {
        let ram = GuestRam::new(16 * MIB).unwrap();
        write(&ram, 300).unwrap();
    }
}
