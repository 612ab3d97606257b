//! The DSDT: devices that the kernel cannot find by probing, in AML (ACPI specification, chapters 6 and 20).

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::memory::layout::{ECAM, PCI_BUSES, PCI_WINDOW_32, PCI_WINDOW_64, PCI_WINDOW_IO, platform};
use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else, Equal, IO, If,
    Interrupt, Local, Memory32Fixed, Method, Name, NotEqual, ONE, Or, PackageBuilder, Path, ResourceTemplate,
    Return, Scope, Store, Uuid, ZERO,
};
use acpi_tables::sdt::Sdt;
use devices::fw_cfg;
use devices::pci::ROOT_PORTS;

/// `_OSC` of a PCI host bridge (PCI Firmware Specification 3.3, 4.5.1).
const OSC_UUID: &str = "33DB4D5B-1FF7-401C-9657-7441C03DD766";
/// Of what the kernel asks to control it gets the PCIe capability structures; there is no hot-plug, AER or PME.
const OSC_GRANTED: u8 = 1 << 4;
/// `_OSC` status: unrecognised UUID, and capabilities masked.
const OSC_BAD_UUID: u8 = 1 << 2;
const OSC_MASKED: u8 = 1 << 4;
/// SLP_TYP of the S5 state: any value that the power management device takes.
const SLEEP_TYPE_S5: u8 = 5;

/// The whole table.
pub(super) fn build(cpus: u32) -> Vec<u8> {
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for part in [sleep_state(), system_bus(cpus)] {
        table.append_slice(&part);
    }
    table.as_slice().to_vec()
}

fn serialise(object: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    object.to_aml_bytes(&mut bytes);
    bytes
}

/// AML that is already serialised.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// `\_S5`: how to power off.
fn sleep_state() -> Vec<u8> {
    let mut package = PackageBuilder::new();
    for value in [SLEEP_TYPE_S5, SLEEP_TYPE_S5, 0, 0] {
        package.add_element(&value);
    }
    serialise(&Name::new(Path::new("\\_S5_"), &package))
}

fn system_bus(cpus: u32) -> Vec<u8> {
    let mut devices = vec![
        host_bridge(),
        motherboard(),
        serial_port("COM1", 1, platform::COM1, platform::COM1_GSI),
        serial_port("COM2", 2, platform::COM2, platform::COM2_GSI),
        clock(),
        firmware_configuration(),
    ];
    devices.extend((0..cpus.min(256)).map(processor));
    let devices: Vec<Raw> = devices.into_iter().map(Raw).collect();
    serialise(&Scope::new(Path::new("\\_SB_"), devices.iter().map(|device| device as &dyn Aml).collect()))
}

/// A processor object: the kernel finds the MADT's entries by their UID.
fn processor(index: u32) -> Vec<u8> {
    let name = format!("C{index:03X}");
    serialise(&Device::new(
        Path::new(&name),
        vec![&Name::new(Path::new("_HID"), &"ACPI0007"), &Name::new(Path::new("_UID"), &index)],
    ))
}

fn serial_port(name: &str, uid: u8, port: u16, gsi: u32) -> Vec<u8> {
    serialise(&Device::new(
        Path::new(name),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
            &Name::new(Path::new("_UID"), &uid),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    &IO::new(port, port, 0, 8),
                    &Interrupt::new(true, true, false, false, gsi),
                ]),
            ),
        ],
    ))
}

fn clock() -> Vec<u8> {
    serialise(&Device::new(
        Path::new("RTC_"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0B00")),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    &IO::new(platform::CMOS, platform::CMOS, 0, 2),
                    &Interrupt::new(true, true, false, false, platform::RTC_GSI),
                ]),
            ),
        ],
    ))
}

/// The firmware configuration device, for Linux's `qemu_fw_cfg`: `_STA` says present, enabled and working, not shown.
fn firmware_configuration() -> Vec<u8> {
    serialise(&Device::new(
        Path::new("FWCF"),
        vec![
            &Name::new(Path::new("_HID"), &"QEMU0002"),
            &Name::new(Path::new("_STA"), &0x0b_u8),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![&IO::new(
                    platform::FW_CFG,
                    platform::FW_CFG,
                    1,
                    fw_cfg::LENGTH as u8,
                )]),
            ),
        ],
    ))
}

/// Resources that no other device may have: the ECAM, which kernels only trust if it is reserved here or in E820, and the
/// power management ports.
fn motherboard() -> Vec<u8> {
    serialise(&Device::new(
        Path::new("MBRD"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0C02")),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, ECAM.start as u32, ECAM.size as u32),
                    &IO::new(platform::PM1A_EVENT, platform::PM1A_EVENT, 0, 0x10),
                ]),
            ),
        ],
    ))
}

fn host_bridge() -> Vec<u8> {
    let memory = AddressSpaceCacheable::NotCacheable;
    let prefetchable = AddressSpaceCacheable::PreFetchable;
    let crs = Raw(serialise(&ResourceTemplate::new(vec![
        &AddressSpace::new_bus_number(0_u16, u16::from(PCI_BUSES - 1)),
        &IO::new(platform::PCI_CONFIG, platform::PCI_CONFIG, 1, 8),
        &AddressSpace::new_io(0_u16, platform::PCI_CONFIG - 1, None),
        &AddressSpace::new_io(PCI_WINDOW_IO.start as u16, PCI_WINDOW_IO.last() as u16, None),
        &AddressSpace::new_memory(
            memory,
            true,
            PCI_WINDOW_32.start as u32,
            PCI_WINDOW_32.last() as u32,
            None,
        ),
        &AddressSpace::new_memory(prefetchable, true, PCI_WINDOW_64.start, PCI_WINDOW_64.last(), None),
    ])));
    serialise(&Device::new(
        Path::new("PCI0"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0A08")),
            &Name::new(Path::new("_CID"), &EISAName::new("PNP0A03")),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(Path::new("_SEG"), &ZERO),
            &Name::new(Path::new("_BBN"), &ZERO),
            &Name::new(Path::new("_CCA"), &ONE),
            &Name::new(Path::new("_CRS"), &crs),
            &Name::new(Path::new("_PRT"), &interrupt_pins()),
            &Raw(operating_system_capabilities()),
        ],
    ))
}

/// `_PRT`: pin `p` of root port `d`, and by the bridge swizzle of the function behind it, is input 16 + (d + p) mod 4.
fn interrupt_pins() -> PackageBuilder {
    let mut table = PackageBuilder::new();
    for device in 1..=u32::from(ROOT_PORTS) {
        for pin in 0..4_u32 {
            let mut entry = PackageBuilder::new();
            entry.add_element(&(device << 16 | 0xffff));
            entry.add_element(&pin);
            entry.add_element(&ZERO);
            entry.add_element(&(platform::PCI_GSI + (device + pin) % 4));
            table.add_element(&entry);
        }
    }
    table
}

/// `_OSC(UUID, revision, count, capabilities)`.
fn operating_system_capabilities() -> Vec<u8> {
    let status = Path::new("CDW1");
    let control = Path::new("CDW3");
    let update_status = Or::new(&status, &status, &OSC_MASKED);
    serialise(&Method::new(
        Path::new("_OSC"),
        4,
        true,
        vec![
            &CreateDWordField::new(&status, &Arg(3), &ZERO),
            &If::new(
                &Equal::new(&Arg(0), &Uuid::new(OSC_UUID)),
                vec![
                    &CreateDWordField::new(&control, &Arg(3), &8_u8),
                    &And::new(&Local(0), &control, &OSC_GRANTED),
                    &If::new(&NotEqual::new(&Local(0), &control), vec![&update_status]),
                    &Store::new(&control, &Local(0)),
                    &Return::new(&Arg(3)),
                ],
            ),
            &Else::new(vec![&Or::new(&status, &status, &OSC_BAD_UUID), &Return::new(&Arg(3))]),
        ],
    ))
}
