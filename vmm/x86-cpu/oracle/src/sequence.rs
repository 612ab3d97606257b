//! Short straight-line programs of integer instructions: flags and registers must be right for whoever reads them next.

use crate::compare::{Undefined, rflags, shifts};
use crate::forms;
use crate::generate::{Case, Generator, RSP, decode};
use crate::rng::Rng;
use crate::state::Width;
use crate::vendor;
use iced_x86::{
    Code, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpCodeOperandKind, OpKind,
    Register, RflagsBits,
};

/// Tries to find a next instruction before the sequence is left as it is.
const ATTEMPTS: usize = 20;

/// What sequences are made of: integer forms whose results are defined for all operands.
pub fn pool(width: Width) -> Vec<Code> {
    forms::advertised(width).filter(|code| suits(*code, width)).collect()
}

/// Conditional branches, to end a sequence with.
pub fn branches(width: Width) -> Vec<Code> {
    forms::advertised(width)
        .filter(|code| forms::exclusion(*code, width).is_none() && code.is_jcc_short_or_near())
        .collect()
}

fn suits(code: Code, width: Width) -> bool {
    let info = code.op_code();
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    let string_or_vector = info.op_kinds().iter().any(|kind| {
        matches!(
            kind,
            OpCodeOperandKind::seg_rSI
                | OpCodeOperandKind::es_rDI
                | OpCodeOperandKind::seg_rDI
                | OpCodeOperandKind::mm_or_mem
                | OpCodeOperandKind::mm_reg
                | OpCodeOperandKind::mm_rm
                | OpCodeOperandKind::xmm_or_mem
                | OpCodeOperandKind::xmm_reg
                | OpCodeOperandKind::xmm_rm
                | OpCodeOperandKind::seg_reg
        )
    });
    let undefined_results = matches!(
        code.mnemonic(),
        Mnemonic::Bsf
            | Mnemonic::Bsr
            | Mnemonic::Bswap
            | Mnemonic::Shld
            | Mnemonic::Shrd
            | Mnemonic::Xlatb
            | Mnemonic::Bound
            | Mnemonic::Lar
            | Mnemonic::Lsl
            | Mnemonic::Verr
            | Mnemonic::Verw
            | Mnemonic::Lds
            | Mnemonic::Les
            | Mnemonic::Lfs
            | Mnemonic::Lgs
            | Mnemonic::Lss
    );
    let pops_segment = code.mnemonic() == Mnemonic::Pop
        && info.op_kinds().iter().any(|kind| {
            matches!(
                kind,
                OpCodeOperandKind::es
                    | OpCodeOperandKind::ss
                    | OpCodeOperandKind::ds
                    | OpCodeOperandKind::fs
                    | OpCodeOperandKind::gs
            )
        });
    let moves_stack = matches!(
        code.mnemonic(),
        Mnemonic::Enter
            | Mnemonic::Leave
            | Mnemonic::Popf
            | Mnemonic::Popfd
            | Mnemonic::Popfq
            | Mnemonic::Popa
            | Mnemonic::Popad
    );
    let features = code.cpuid_features().iter().all(|feature| {
        use iced_x86::CpuidFeature as F;
        matches!(
            feature,
            F::INTEL8086
                | F::INTEL186
                | F::INTEL286
                | F::INTEL386
                | F::INTEL486
                | F::X64
                | F::CMOV
                | F::POPCNT
                | F::LZCNT
                | F::MOVBE
                | F::BMI1
                | F::BMI2
                | F::ADX
                | F::CX8
                | F::CMPXCHG16B
        )
    });
    features
        && !string_or_vector
        && !undefined_results
        && !pops_segment
        && !moves_stack
        && instruction.flow_control() == FlowControl::Next
        && !forms::only_faults(code)
        && forms::exclusion(code, width).is_none()
        && vendor::suits_sequences(code)
}

/// Flags that may be undefined after `instruction`, and those it certainly defines, for any count of a shift.
fn flag_effect(instruction: &Instruction) -> (u64, u64) {
    let undefined = rflags(instruction.rflags_undefined());
    let modified = rflags(instruction.rflags_modified());
    let last = instruction.op_count().saturating_sub(1);
    if shifts(instruction.mnemonic()) {
        let overflow = rflags(RflagsBits::OF);
        let carry = overflow | rflags(RflagsBits::CF | RflagsBits::AF);
        // A count of one more than the operand's width rotates by nothing, and yet OF is undefined.
        if matches!(instruction.mnemonic(), Mnemonic::Rcl | Mnemonic::Rcr) {
            return (undefined | overflow | carry & modified, 0);
        }
        let by_register = instruction.op_kind(last) == OpKind::Register;
        return (undefined | carry & modified, if by_register { 0 } else { modified });
    }
    (undefined, modified)
}

/// A sequence, and what of its flags may differ.
pub fn generate(rng: Rng, width: Width, pool: &[Code], branches: &[Code]) -> (Case, Undefined) {
    let mut generator = Generator::new(rng, width);
    generator.sequence = true;
    let start = generator.state.rip;
    let mut factory = InstructionInfoFactory::new();
    let mut bytes = Vec::new();
    let mut open = 0;
    let mut undefined = Undefined::default();
    let length = 5 + generator.rng.below(8);
    for position in 0..=length {
        let list = if position == length { branches } else { pool };
        for _ in 0..ATTEMPTS {
            let ip = start + bytes.len() as u64;
            let saved = generator.clone();
            // Faults end a sequence: only the later instructions may raise one.
            generator.faults = position + 2 > length;
            let code = generator.rng.pick(list);
            let built = generator.instance(code, ip);
            let accepted = built.filter(|(instruction, _)| {
                let info = factory.info(instruction);
                let written = info
                    .used_registers()
                    .iter()
                    .filter(|used| !matches!(used.access(), OpAccess::Read | OpAccess::CondRead))
                    .map(|used| used.register().full_register())
                    .filter(|register| register.is_gpr())
                    .fold(0_u16, |set, register| set | 1 << register.number());
                // The stack pointer may move, but not be replaced.
                let stack = instruction.is_stack_instruction()
                    && instruction.op0_register().full_register32() != Register::ESP;
                let spoils = written & generator.pinned & !(if stack { 1 << RSP } else { 0 });
                let reads_open = rflags(instruction.rflags_read()) & open != 0;
                if spoils != 0 || reads_open {
                    return false;
                }
                generator.written |= written & !(1 << RSP);
                true
            });
            let rng = generator.rng.clone();
            if let Some((instruction, encoded)) = accepted {
                undefined.open_flags_at(ip, open);
                let (undefined_now, defined) = flag_effect(&instruction);
                open = open & !defined | undefined_now;
                bytes.extend(encoded);
                break;
            }
            generator = saved;
            generator.rng = rng;
        }
    }
    undefined.rflags = open;
    let instructions = decode(width, &bytes, start);
    let case = generator.finish(instructions, bytes);
    // Registers that an address depends on keep their values throughout.
    case.instructions.iter().for_each(|instruction| vendor::open(&mut undefined, instruction, &case.state));
    (case, undefined)
}
