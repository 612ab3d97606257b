//! Port and node registers, reached by ACCESS_REG.

use super::command::Command;
use super::config::PortType;
use super::hca::{Hca, Phase};
use super::layout::commands::{access_register, header};
use super::layout::port::{pmtu, ptys, pvlc};
use super::status::{Failure, Status};

pub const COMMANDS: &[Command] = &[Command::new(0x805, "ACCESS_REG", Phase::Ready, access)];

/// Bytes of the node description, a NUL-terminated string.
pub const NODE_DESCRIPTION_LEN: usize = 64;

/// Answers a read. The register's data in the request selects the port.
type Read = fn(&Hca, &[u8], &mut [u8]) -> Result<(), Failure>;

/// One register.
struct Register {
    id: u64,
    len: usize,
    read: Read,
    /// Stores what is written; a register without it is read-only.
    write: Option<fn(&mut Hca, &[u8])>,
}

const REGISTERS: &[Register] = &[
    Register { id: 0x5003, len: pmtu::LEN, read: read_pmtu, write: None },
    Register { id: 0x5004, len: ptys::LEN, read: read_ptys, write: None },
    Register { id: 0x500f, len: pvlc::LEN, read: read_pvlc, write: None },
    Register {
        id: 0x6001,
        len: NODE_DESCRIPTION_LEN,
        read: read_node_description,
        write: Some(write_node_description),
    },
];

/// Link widths are a bit mask: this is 4x.
const WIDTH_4X: u64 = 1 << 2;
/// Link speeds are a bit mask: single, double, quad, 10, fourteen, enhanced data rate.
const SPEED_EDR: u64 = 1 << 5;
const SPEEDS_UP_TO_EDR: u64 = 0x3f;
/// 100GBASE-CR4.
const ETHERNET_100G: u64 = 1 << 20;
const INFINIBAND_MTU: u64 = 4096;
const ETHERNET_MAX_MTU: u64 = 9978;
const ETHERNET_MTU: u64 = 1522;
/// Virtual lanes 0 to 7.
const VIRTUAL_LANES: u64 = 8;
const PORT: u64 = 1;

/// What the node calls itself before the driver says otherwise.
pub fn default_node_description() -> [u8; NODE_DESCRIPTION_LEN] {
    const TEXT: &[u8] = b"Staleline mlx5 function";
    let mut description = [0; NODE_DESCRIPTION_LEN];
    for (to, from) in description.iter_mut().zip(TEXT) {
        *to = *from;
    }
    description
}

fn access(hca: &mut Hca, input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    const WRITE: u64 = 0;
    const READ: u64 = 1;
    let id = access_register::REGISTER_ID.get(input);
    let register = REGISTERS.iter().find(|register| register.id == id);
    let register = register.ok_or(Failure::parameter("no such register"))?;
    let end = access_register::DATA + register.len;
    let given = input.get(access_register::DATA..end);
    let given = given.ok_or(Failure::new(Status::BadInputLength, "input shorter than the register"))?;
    let answer = out.get_mut(access_register::DATA..end);
    let answer = answer.ok_or(Failure::new(Status::BadOutputLength, "output shorter than the register"))?;
    match header::OP_MOD.get(input) {
        READ => (register.read)(hca, given, answer),
        WRITE => {
            let write = register.write.ok_or(Failure::parameter("the register is read-only"))?;
            write(hca, given);
            Ok(())
        }
        _ => Err(Failure::parameter("unknown operation modifier")),
    }
}

fn check_port(port: u64) -> Result<(), Failure> {
    if port == PORT { Ok(()) } else { Err(Failure::parameter("no such port")) }
}

fn read_ptys(hca: &Hca, given: &[u8], answer: &mut [u8]) -> Result<(), Failure> {
    check_port(ptys::LOCAL_PORT.get(given))?;
    ptys::LOCAL_PORT.copy(given, answer);
    ptys::PROTO_MASK.copy(given, answer);
    let protocol = ptys::PROTO_MASK.get(given);
    match hca.config.port {
        PortType::InfiniBand if protocol & ptys::PROTO_IB != 0 => {
            ptys::IB_WIDTH_CAPABILITY.set(answer, WIDTH_4X);
            ptys::IB_WIDTH_ADMIN.set(answer, WIDTH_4X);
            ptys::IB_WIDTH_OPER.set(answer, WIDTH_4X);
            ptys::IB_SPEED_CAPABILITY.set(answer, SPEEDS_UP_TO_EDR);
            ptys::IB_SPEED_ADMIN.set(answer, SPEEDS_UP_TO_EDR);
            ptys::IB_SPEED_OPER.set(answer, SPEED_EDR);
        }
        PortType::Ethernet if protocol & ptys::PROTO_ETH != 0 => {
            ptys::ETH_CAPABILITY.set(answer, ETHERNET_100G);
            ptys::ETH_ADMIN.set(answer, ETHERNET_100G);
            ptys::ETH_OPER.set(answer, ETHERNET_100G);
        }
        _ => {}
    }
    Ok(())
}

fn read_pmtu(hca: &Hca, given: &[u8], answer: &mut [u8]) -> Result<(), Failure> {
    check_port(pmtu::LOCAL_PORT.get(given))?;
    pmtu::LOCAL_PORT.copy(given, answer);
    let (max, used) = match hca.config.port {
        PortType::InfiniBand => (INFINIBAND_MTU, INFINIBAND_MTU),
        PortType::Ethernet => (ETHERNET_MAX_MTU, ETHERNET_MTU),
    };
    pmtu::MAX_MTU.set(answer, max);
    pmtu::ADMIN_MTU.set(answer, used);
    pmtu::OPER_MTU.set(answer, used);
    Ok(())
}

fn read_pvlc(_hca: &Hca, given: &[u8], answer: &mut [u8]) -> Result<(), Failure> {
    check_port(pvlc::LOCAL_PORT.get(given))?;
    pvlc::LOCAL_PORT.copy(given, answer);
    pvlc::VL_HW_CAP.set(answer, VIRTUAL_LANES);
    pvlc::VL_ADMIN.set(answer, VIRTUAL_LANES);
    pvlc::VL_OPERATIONAL.set(answer, VIRTUAL_LANES);
    Ok(())
}

fn read_node_description(hca: &Hca, _given: &[u8], answer: &mut [u8]) -> Result<(), Failure> {
    answer.copy_from_slice(&hca.node_description);
    Ok(())
}

fn write_node_description(hca: &mut Hca, given: &[u8]) {
    hca.node_description.copy_from_slice(given);
}
