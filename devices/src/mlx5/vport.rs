//! The function's virtual port: contexts, GID table and P_Key table.

use super::command::Command;
use super::config::PortType;
use super::hca::{Hca, Phase};
use super::layout::commands::{CONTEXT, header, vport};
use super::layout::port::{hca_vport, nic_vport};
use super::status::{Failure, Status};

pub const COMMANDS: &[Command] = &[
    Command::new(0x754, "QUERY_NIC_VPORT_CONTEXT", Phase::Ready, query_nic_vport)
        .lengths(header::IN_LEN, CONTEXT + nic_vport::SIZE),
    Command::new(0x762, "QUERY_HCA_VPORT_CONTEXT", Phase::Ready, query_hca_vport)
        .lengths(header::IN_LEN, CONTEXT + hca_vport::SIZE),
    Command::new(0x763, "MODIFY_HCA_VPORT_CONTEXT", Phase::Ready, modify_hca_vport)
        .lengths(CONTEXT + hca_vport::SIZE, header::OUT_LEN),
    Command::new(0x764, "QUERY_HCA_VPORT_GID", Phase::Ready, query_gid),
    Command::new(0x765, "QUERY_HCA_VPORT_PKEY", Phase::Ready, query_pkey),
];

/// Globally unique ids. The upper half is Mellanox' company id, the rest is ours.
pub const NODE_GUID: u64 = 0x0002_c903_0057_4c01;
const SYSTEM_IMAGE_GUID: u64 = 0x0002_c903_0057_4c00;
pub const PORT_GUID: u64 = 0x0002_c903_0057_4c02;
/// A locally administered MAC address.
const MAC_ADDRESS: u64 = 0x0257_4c00_0001;
const LINK_LOCAL_PREFIX: u64 = 0xfe80 << 48;
/// Local identifier of the port. It is its own subnet's manager.
pub const LID: u64 = 1;
/// GID of the port: its only one.
pub const GID: u128 = (LINK_LOCAL_PREFIX as u128) << 64 | PORT_GUID as u128;
const PORT_STATE_ACTIVE: u64 = 4;
const PHYSICAL_STATE_LINK_UP: u64 = 5;
/// Port capability mask (IBA 14.2.5.6): traps, SL mapping, system image GUID, communication management, client
/// reregistration.
pub const CAP_MASK1: u32 = 1 << 3 | 1 << 6 | 1 << 11 | 1 << 16 | 1 << 25;
/// What the driver may change of it: all that software on the port provides. Communication management.
const CHANGEABLE: u32 = 1 << 16;
/// 4.096 µs times 2 to the power of this.
const SUBNET_TIMEOUT: u64 = 18;
const ETHERNET_MTU: u64 = 1500;
/// The default partition, full member.
const DEFAULT_PKEY: u16 = 0xffff;
/// Asks for the whole table.
const ALL: u32 = 0xffff;

/// A function that is not the eswitch manager sees its own port only, and there is one.
fn check_port(input: &[u8]) -> Result<(), Failure> {
    if vport::OTHER_VPORT.is_set(input) || vport::PORT_NUM.get(input) > 1 {
        return Err(Failure::parameter("no such port"));
    }
    Ok(())
}

fn query_nic_vport(_hca: &mut Hca, input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    check_port(input)?;
    let context = out.get_mut(CONTEXT..).unwrap_or_default();
    nic_vport::MTU.set(context, ETHERNET_MTU);
    nic_vport::SYSTEM_IMAGE_GUID.set(context, SYSTEM_IMAGE_GUID);
    nic_vport::PORT_GUID.set(context, PORT_GUID);
    nic_vport::NODE_GUID.set(context, NODE_GUID);
    nic_vport::PERMANENT_ADDRESS.set(context, MAC_ADDRESS);
    Ok(())
}

fn query_hca_vport(hca: &mut Hca, input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    check_port(input)?;
    if hca.config.port != PortType::InfiniBand {
        return Err(Failure::parameter("the port is not InfiniBand"));
    }
    let context = out.get_mut(CONTEXT..).unwrap_or_default();
    hca_vport::PORT_PHYSICAL_STATE.set(context, PHYSICAL_STATE_LINK_UP);
    hca_vport::PORT_STATE.set(context, PORT_STATE_ACTIVE);
    hca_vport::VPORT_STATE.set(context, PORT_STATE_ACTIVE);
    hca_vport::SYSTEM_IMAGE_GUID.set(context, SYSTEM_IMAGE_GUID);
    hca_vport::PORT_GUID.set(context, PORT_GUID);
    hca_vport::NODE_GUID.set(context, NODE_GUID);
    hca_vport::CAP_MASK1.set(context, hca.port_capabilities.into());
    hca_vport::CAP_MASK1_FIELD_SELECT.set(context, CHANGEABLE.into());
    hca_vport::LID.set(context, LID);
    hca_vport::SM_LID.set(context, LID);
    hca_vport::SUBNET_TIMEOUT.set(context, SUBNET_TIMEOUT);
    Ok(())
}

/// Of a port that is managed by others only the capabilities of software can be changed.
fn modify_hca_vport(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    check_port(input)?;
    let context = input.get(CONTEXT..).unwrap_or_default();
    let mask = hca_vport::CAP_MASK1_FIELD_SELECT.get32(context);
    if hca_vport::FIELD_SELECT.is_set(context) || mask & !CHANGEABLE != 0 {
        return Err(Failure::parameter("this cannot be modified"));
    }
    hca.port_capabilities = hca.port_capabilities & !mask | hca_vport::CAP_MASK1.get32(context) & mask;
    Ok(())
}

/// The entries of a table of `count` that a query asks for: how many, if they fit into an answer of `room` entries.
fn entries_wanted(input: &[u8], count: u32, room: usize) -> Result<std::ops::Range<u32>, Failure> {
    let wanted = match vport::INDEX.get32(input) {
        ALL => 0..count,
        index if index < count => index..index + 1,
        _ => return Err(Failure::new(Status::BadIndex, "index beyond the table")),
    };
    if wanted.len() > room {
        return Err(Failure::new(Status::BadOutputLength, "the answer does not fit"));
    }
    Ok(wanted)
}

/// Index 0 is the port's own GID; the others are unused.
fn query_gid(hca: &mut Hca, input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    check_port(input)?;
    let (entries, _) = out.get_mut(CONTEXT..).unwrap_or_default().as_chunks_mut::<16>();
    let wanted = entries_wanted(input, hca.caps.gid_count(), entries.len())?;
    let answered = wanted.len() as u64;
    for (index, entry) in wanted.zip(entries) {
        if index == 0 {
            *entry = GID.to_be_bytes();
        }
    }
    vport::GIDS_NUM.set(out, answered);
    Ok(())
}

/// Index 0 is the default partition; the others are unused. An entry is the low half of a word.
fn query_pkey(hca: &mut Hca, input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    check_port(input)?;
    let (entries, _) = out.get_mut(CONTEXT..).unwrap_or_default().as_chunks_mut::<4>();
    let wanted = entries_wanted(input, hca.caps.pkey_count(), entries.len())?;
    for (index, entry) in wanted.zip(entries) {
        if index == 0 {
            *entry = u32::from(DEFAULT_PKEY).to_be_bytes();
        }
    }
    Ok(())
}
