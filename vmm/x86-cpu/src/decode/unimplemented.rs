//! Instructions that this CPU does not have: #UD, and one log line that names bytes and address.

use crate::block::Op;
use crate::fault::Fault;
use crate::state::{Vcpu, seg};
use crate::world::World;
use std::fmt::Write;

/// Places reported for each vCPU: a guest that looks for more of them learns nothing and fills no log.
const MAX_REPORTS: usize = 64;

/// #UD with a log line, the first time at each address.
pub(crate) fn unimplemented<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let ip = cpu.block_ip(op.offset());
    if cpu.reported.len() < MAX_REPORTS && !cpu.reported.contains(&ip) {
        cpu.reported.push(ip);
        let bytes = bytes(cpu, world, ip, op.len);
        let selector = cpu.segs[seg::CS].selector;
        log::warn!("vCPU {}: no such instruction:{bytes} at {selector:04x}:{ip:#x}, #UD", cpu.id);
    }
    Err(Fault::UD)
}

/// The bytes of an instruction, as far as they can be fetched.
fn bytes<W: World>(cpu: &mut Vcpu, world: &mut W, ip: u64, len: u8) -> String {
    let mut text = String::new();
    let base = if cpu.mode.is_64() { 0 } else { cpu.segs[seg::CS].base };
    let mask = if cpu.mode.is_64() { u64::MAX } else { 0xffff_ffff };
    for at in 0..u64::from(len) {
        let linear = base.wrapping_add(ip).wrapping_add(at) & mask;
        let Ok((phys, kind)) = cpu.fetch_address(world, linear) else { break };
        let mut byte = [0];
        cpu.fetch_bytes(world, phys, kind, &mut byte);
        let _ = write!(text, " {:02x}", byte[0]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_world::TestWorld;

    #[test]
    fn each_place_is_reported_once_up_to_a_limit() {
        let (mut cpu, mut world) = (Vcpu::new(0), TestWorld::new(4));
        cpu.segs[seg::CS].base = 0;
        cpu.rip = 0x1000;
        world.poke(0x1000, &[0x0f, 0x01, 0xc1]);
        assert_eq!(bytes(&mut cpu, &mut world, 0x1000, 3), " 0f 01 c1");
        for offset in (0..300).chain(0..300) {
            let op = Op::new(unimplemented::<TestWorld>, offset, 3);
            assert_eq!(unimplemented(&mut cpu, &mut world, &op), Err(Fault::UD));
        }
        assert_eq!(cpu.reported.len(), MAX_REPORTS);
    }
}
