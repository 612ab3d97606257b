//! Directed cases: the corners that chance meets seldom, as grids over operands and modes.
//!
//! Each subject makes the cases of all its forms and gives them to a [`Visitor`], named so that they can be repeated.

mod divide;
mod float;
mod modify;
mod repeat;
mod shift;
mod x87;

use crate::compare::Undefined;
use crate::forms;
use crate::generate::{Case, RDI, decode};
use crate::initial::random_state;
use crate::rng::Rng;
use crate::state::{CODE, DATA, State, Width};
use crate::values::Flavour;
use iced_x86::{Code, Encoder, Instruction, OpCodeOperandKind as Kind, OpKind, Register};

/// What is done with each case: its name, itself, and what may differ after it.
pub type Visitor<'a> = dyn FnMut(&str, &Case, &Undefined) + 'a;

/// Where memory operands lie.
const OPERAND: u64 = DATA.base + 0x400;

/// Gives all cases of a subject in code of a width to a visitor.
pub type Subject = fn(Width, &mut Visitor<'_>);

/// The subjects, by name.
pub static SUBJECTS: &[(&str, Subject)] = &[
    ("shifts and rotates", shift::visit),
    ("division", divide::visit),
    ("string instructions across page faults", repeat::visit),
    ("SSE arithmetic", float::visit),
    ("x87 arithmetic", x87::visit),
    ("code that changes itself", modify::visit),
];

/// The advertised forms of `width` that are compared on this host and that `wanted` accepts.
fn forms(width: Width, wanted: impl Fn(Code) -> bool) -> impl Iterator<Item = Code> {
    forms::advertised(width).filter(move |code| wanted(*code) && forms::exclusion(*code, width).is_none())
}

/// A state whose parts without a role in a case are always the same.
fn plain_state(width: Width) -> State {
    let mut state = random_state(&Rng::new(7), width, Flavour::Int(4), false);
    state.rip = CODE.base + 0x900;
    state.rflags = 0x202;
    state.mxcsr = 0x1f80;
    (state.fs_base, state.gs_base) = (0, 0);
    state.fpu.control = 0x37f;
    state.fpu.status = 0;
    state.fpu.tags = 0xff;
    if width == Width::Bits32 {
        state.gpr.iter_mut().for_each(|value| *value &= 0xffff_ffff);
    }
    state.gpr[RDI] = OPERAND;
    state
}

/// An instance of `code`: register operand 0 is RBX, XMM1 or MM1 and so on, operand 1 RDX, XMM2 or MM2, operand 2 RSI, XMM3
/// or MM3; a memory operand, taken if `memory` is set and the form has a choice, is at RDI; `immediate` is any immediate.
fn instance(width: Width, code: Code, memory: bool, immediate: u64) -> Option<(Instruction, Vec<u8>)> {
    const GENERAL: [[Register; 3]; 4] = [
        [Register::BL, Register::DL, Register::DH],
        [Register::BX, Register::DX, Register::SI],
        [Register::EBX, Register::EDX, Register::ESI],
        [Register::RBX, Register::RDX, Register::RSI],
    ];
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    for (index, kind) in (0_u32..).zip(code.op_code().op_kinds()) {
        let place = index as usize;
        let general = |size: usize| GENERAL[size].get(place).copied();
        let register = match kind {
            Kind::r8_or_mem | Kind::r16_or_mem | Kind::r32_or_mem | Kind::r64_or_mem if memory => None,
            Kind::mm_or_mem | Kind::xmm_or_mem if memory => None,
            Kind::mem => None,
            Kind::r8_or_mem | Kind::r8_reg => Some(general(0)?),
            Kind::r16_or_mem | Kind::r16_reg => Some(general(1)?),
            Kind::r32_or_mem | Kind::r32_reg => Some(general(2)?),
            Kind::r64_or_mem | Kind::r64_reg => Some(general(3)?),
            Kind::mm_or_mem | Kind::mm_reg => Some(Register::MM1 + index),
            Kind::xmm_or_mem | Kind::xmm_reg => Some(Register::XMM1 + index),
            Kind::cl => Some(Register::CL),
            Kind::st0 => Some(Register::ST0),
            Kind::sti_opcode => Some(Register::ST1),
            Kind::imm8 | Kind::imm8_const_1 => {
                instruction.set_op_kind(index, OpKind::Immediate8);
                instruction.set_immediate8(immediate as u8);
                continue;
            }
            _ => return None,
        };
        match register {
            Some(register) => {
                instruction.set_op_kind(index, OpKind::Register);
                instruction.set_op_register(index, register);
            }
            None => {
                instruction.set_op_kind(index, OpKind::Memory);
                let wide = width == Width::Bits64;
                instruction.set_memory_base(if wide { Register::RDI } else { Register::EDI });
            }
        }
    }
    let ip = CODE.base + 0x900;
    let mut encoder = Encoder::new(width.bits());
    encoder.encode(&instruction, ip).ok()?;
    let bytes = encoder.take_buffer();
    let decoded = *decode(width, &bytes, ip).first()?;
    Some((decoded, bytes))
}

/// Whether a form chooses between register and memory.
fn has_choice(code: Code) -> bool {
    code.op_code().op_kinds().iter().any(|kind| {
        matches!(
            kind,
            Kind::r8_or_mem
                | Kind::r16_or_mem
                | Kind::r32_or_mem
                | Kind::r64_or_mem
                | Kind::mm_or_mem
                | Kind::xmm_or_mem
        )
    })
}

/// Visits `instruction`, encoded as `bytes`, in `state`, with `operand` in memory at [`OPERAND`].
fn visit_one(
    visitor: &mut Visitor<'_>,
    width: Width,
    (instruction, bytes): &(Instruction, Vec<u8>),
    state: State,
    operand: &[u8],
) {
    let edits = vec![(OPERAND, operand.to_vec()), (state.rip, bytes.clone())];
    let undefined = Undefined::after(instruction, &state);
    let name = format!("{:?}", instruction.code());
    let case = Case { width, instructions: vec![*instruction], count: 1, bytes: bytes.clone(), state, edits };
    visitor(&name, &case, &undefined);
}
