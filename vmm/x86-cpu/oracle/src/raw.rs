//! Any bytes as an instruction, in a state that leads its operands to mapped memory.

use crate::compare::Undefined;
use crate::generate::{ALIGNMENT, Case, Generator, RDI, RSI, RSP, decode, linear_address};
use crate::prefix::{LEGACY, comparable, is_masked_store, splits_a_lock};
use crate::rng::Rng;
use crate::state::Width;
use crate::values::Flavour;
use iced_x86::{Instruction, OpKind};

const INT3: u8 = 0xcc;
const MANY_PREFIXES: usize = 4;

/// The instruction that `bytes` begin with, if it can be compared. What does not decode must raise #UD on the host too,
/// unless the host knows more instructions.
pub fn generate(rng: Rng, width: Width, bytes: &[u8]) -> Option<(Case, Undefined)> {
    let mut generator = Generator::new(rng, width);
    let ip = generator.state.rip;
    // Bytes that are cut short go on with what lies behind them.
    let bytes = [bytes, &[INT3; 15]].concat();
    let instruction = *decode(width, &bytes, ip).first()?;
    if instruction.is_invalid() {
        // Too long or unknown: which comes first is not compared, as only the host knows how long what it does not know is.
        if bytes.iter().take_while(|byte| LEGACY.contains(byte) || **byte & 0xf0 == 0x40).count()
            > MANY_PREFIXES
        {
            return None;
        }
        return Some((generator.finish(vec![instruction], bytes), Undefined::after_unknown()));
    }
    // Nothing is mapped within reach of 16-bit addresses: both operands would fault.
    let narrow = instruction.op0_kind() == OpKind::MemoryESDI
        && instruction.op1_kind() == OpKind::MemorySegSI
        || instruction.op0_kind() == OpKind::MemorySegSI && instruction.op1_kind() == OpKind::MemoryESDI;
    if !comparable(&instruction, width) || narrow {
        return None;
    }
    let code = instruction.code();
    generator.draw_state(code);
    generator.state.rip = ip;
    // Two exceptions at once would be a matter of order.
    generator.state.rflags &= !ALIGNMENT;
    generator.prepare(code);
    point_operands(&mut generator, &instruction);
    if instruction.has_rep_prefix() || instruction.has_repne_prefix() {
        generator.repeat_count(&instruction);
    }
    generator.adjust(&instruction);
    let case = generator.finish(vec![instruction], bytes[..instruction.len()].to_vec());
    if splits_a_lock(&instruction, &case) {
        return None;
    }
    let undefined = Undefined::after(&instruction, &case.state);
    Some((case, undefined))
}

/// Sets the registers that memory operands of `instruction` depend on, so that these lie where operands usually do.
fn point_operands(generator: &mut Generator, instruction: &Instruction) {
    let size = instruction.memory_size().size();
    let locked = instruction.has_lock_prefix();
    // Of two operands that fault, which one is reported differs between processors.
    generator.faults = !is_masked_store(instruction);
    for operand in 0..instruction.op_count() {
        match instruction.op_kind(operand) {
            OpKind::MemorySegESI | OpKind::MemorySegRSI => {
                let target = generator.target(16, false);
                generator.pin(RSI, target);
                generator.faults = false;
            }
            OpKind::MemoryESEDI | OpKind::MemoryESRDI | OpKind::MemorySegEDI | OpKind::MemorySegRDI => {
                let target = generator.target(16, false);
                generator.pin(RDI, target);
                generator.faults = false;
            }
            OpKind::Memory => {
                let base = instruction.memory_base();
                let target = generator.target(size, locked);
                generator.fill_around(target, size, Flavour::of(instruction.memory_size()));
                let register = base.full_register();
                let own = register.is_gpr64()
                    && register.number() != RSP
                    && base.size() >= 4
                    && instruction.memory_index().full_register() != register;
                if let Some(now) = linear_address(instruction, &generator.state).filter(|_| own) {
                    let number = register.number();
                    let value = generator.state.gpr[number].wrapping_add(target.wrapping_sub(now));
                    generator.pin(number, value);
                }
            }
            _ => {}
        }
    }
}
