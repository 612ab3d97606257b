//! Bring-up and teardown of the device.

use super::command::Command;
use super::hca::{Hca, Phase};
use super::layout::commands::{adapter, header, issi, pages};
use super::status::{Failure, Status};

pub const COMMANDS: &[Command] = &[
    Command::new(0x104, "ENABLE_HCA", Phase::Disabled, enable_hca).lengths(header::IN_LEN, 12),
    Command::new(0x105, "DISABLE_HCA", Phase::Enabled, disable_hca).lengths(header::IN_LEN, 12),
    Command::new(0x10a, "QUERY_ISSI", Phase::Enabled, query_issi).lengths(header::IN_LEN, 112),
    Command::new(0x10b, "SET_ISSI", Phase::Enabled, set_issi),
    Command::new(0x107, "QUERY_PAGES", Phase::Enabled, query_pages),
    Command::new(0x108, "MANAGE_PAGES", Phase::Enabled, manage_pages),
    Command::new(0x102, "INIT_HCA", Phase::Enabled, init_hca),
    Command::new(0x103, "TEARDOWN_HCA", Phase::Ready, teardown_hca),
    Command::new(0x101, "QUERY_ADAPTER", Phase::Enabled, query_adapter).lengths(header::IN_LEN, 272),
];

/// Interface step sequence ids understood, one bit each: only id 1.
const SUPPORTED_ISSI: u64 = 1 << 1;
/// Mellanox' organizationally unique identifier.
const IEEE_VENDOR_ID: u64 = 0x2c9;
const PCI_VENDOR_ID: u64 = 0x15b3;
const BOARD_ID: &[u8; 16] = b"STL_0000000001\0\0";

fn enable_hca(hca: &mut Hca, _input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    if hca.phase == Phase::Ready {
        return Err(Failure::new(Status::BadSystemState, "the device is in use"));
    }
    hca.phase = Phase::Enabled;
    Ok(())
}

fn disable_hca(hca: &mut Hca, _input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    hca.restart(Phase::Disabled);
    Ok(())
}

fn query_issi(hca: &mut Hca, _input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    issi::CURRENT.set(out, hca.issi.into());
    issi::SUPPORTED_DW0.set(out, SUPPORTED_ISSI);
    Ok(())
}

fn set_issi(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    match issi::CURRENT.get(input) {
        1 => hca.issi = 1,
        _ => return Err(Failure::parameter("unsupported interface step")),
    }
    Ok(())
}

/// The device has memory of its own and asks for none.
fn query_pages(_hca: &mut Hca, _input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    pages::COUNT.set(out, 0);
    Ok(())
}

fn manage_pages(_hca: &mut Hca, input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    const CANNOT_GIVE: u64 = 0;
    const GIVE: u64 = 1;
    const TAKE: u64 = 2;
    match header::OP_MOD.get(input) {
        GIVE if pages::COUNT.is_set(input) => Err(Failure::parameter("no pages were asked for")),
        CANNOT_GIVE | GIVE => Ok(()),
        TAKE => {
            pages::OUTPUT_COUNT.set(out, 0);
            Ok(())
        }
        _ => Err(Failure::parameter("unknown operation modifier")),
    }
}

fn init_hca(hca: &mut Hca, _input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    if hca.phase == Phase::Ready {
        return Err(Failure::new(Status::BadSystemState, "the device is initialised already"));
    }
    hca.phase = Phase::Ready;
    Ok(())
}

fn teardown_hca(hca: &mut Hca, _input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    hca.restart(Phase::Enabled);
    Ok(())
}

fn query_adapter(_hca: &mut Hca, _input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    adapter::IEEE_VENDOR_ID.set(out, IEEE_VENDOR_ID);
    adapter::VSD_VENDOR_ID.set(out, PCI_VENDOR_ID);
    if let Some(psid) = out.get_mut(adapter::PSID) {
        psid.copy_from_slice(BOARD_ID);
    }
    Ok(())
}
