//! Programs that change instructions which follow, as far as one processor shows it: a store is seen by the very next
//! instruction when it goes through the same linear address (SDM volume 3, 12.6).

use super::{Visitor, plain_state};
use crate::compare::Undefined;
use crate::generate::{Case, RAX, RBX, RCX, RDI, RSI, RSP, decode};
use crate::state::{PATCH, State, Width};

/// INC EAX and DEC EAX, as the second byte of FF.
const INC: u8 = 0xc0;
const DEC: u8 = 0xc8;
/// Where programs start.
const START: u64 = PATCH.base + 0x100;

/// A program: its bytes, how many instructions of it are executed, and the state it needs.
struct Program {
    name: &'static str,
    bytes: Vec<u8>,
    count: u64,
    state: State,
}

/// `MOV BYTE [at], value`.
fn store_byte(width: Width, ip: u64, at: u64, value: u8) -> Vec<u8> {
    // The operand is relative to the next instruction in 64-bit mode, absolute else.
    let displacement = if width == Width::Bits64 { at.wrapping_sub(ip + 7) } else { at } as u32;
    [&[0xc6, 0x05], &displacement.to_le_bytes()[..], &[value]].concat()
}

fn programs(width: Width) -> Vec<Program> {
    let state = || {
        let mut state = plain_state(width);
        state.rip = START;
        state
    };
    let mut list = Vec::new();
    let mut add =
        |name, bytes: Vec<u8>, count, state: State| list.push(Program { name, bytes, count, state });

    // The next instruction's operation, then its operand, then one in between.
    let next = [store_byte(width, START, START + 8, DEC), vec![0xff, INC]].concat();
    add("operation of the next instruction", next, 2, state());
    let operand = [store_byte(width, START, START + 8, 0x77), vec![0xb8, 1, 0, 0, 0]].concat();
    add("operand of the next instruction", operand, 2, state());
    let later = [store_byte(width, START, START + 12, DEC), vec![0xff, INC, 0xff, INC, 0xff, INC]].concat();
    add("an instruction after others", later, 4, state());
    // A no-operation before, made longer: what follows is its operand.
    let longer = [store_byte(width, START, START + 7, 0xb3), vec![0x90, 0x90, 0xff, INC]].concat();
    add("length of the next instruction", longer, 3, state());

    // A loop that changes its own head, which ran before: INC; MOV [head+1], DEC; LOOP head.
    let patch = store_byte(width, START + 2, START + 1, DEC);
    let mut state_of_loop = state();
    state_of_loop.gpr[RCX] = 3;
    let back = -(2 + patch.len() as i8 + 2);
    add("head of a loop", [vec![0xff, INC], patch, vec![0xe2, back as u8]].concat(), 9, state_of_loop);

    // A subroutine, called, changed and called again: CALL sub; MOV [sub+1], DEC; CALL sub; JMP +3; sub: INC; RET.
    let sub = START + 5 + 7 + 5 + 2;
    let call = |ip: u64| [&[0xe8], &((sub.wrapping_sub(ip + 5)) as u32).to_le_bytes()[..]].concat();
    let bytes = [
        call(START),
        store_byte(width, START + 5, sub + 1, DEC),
        call(START + 12),
        vec![0xeb, 3],
        vec![0xff, INC, 0xc3],
    ];
    add("a subroutine between two calls", bytes.concat(), 8, state());

    // Other kinds of stores, whose address is RDI: the byte at `distance` from the start becomes DEC.
    let mut through_rdi = |name, store: &[u8], count, mut state: State| {
        state.gpr[RDI] = START + store.len() as u64 + 1;
        add(name, [store, &[0xff, INC]].concat(), count, state);
    };
    let with = |register: usize, value: u64| {
        let mut state = state();
        state.gpr[register] = value;
        state
    };
    through_rdi("MOV of a byte register", &[0x88, 0x1f], 2, with(RBX, DEC.into()));
    through_rdi("XCHG", &[0x86, 0x1f], 2, with(RBX, DEC.into()));
    through_rdi("LOCK XADD", &[0xf0, 0x0f, 0xc0, 0x1f], 2, with(RBX, (DEC - INC).into()));
    through_rdi("OR", &[0x08, 0x1f], 2, with(RBX, DEC.into()));
    through_rdi("STOSB", &[0xaa], 2, with(RAX, DEC.into()));
    let mut state_of_rep = with(RAX, DEC.into());
    state_of_rep.gpr[RCX] = 1;
    through_rdi("REP STOSB", &[0xf3, 0xaa], 2, state_of_rep);
    let mut vector = state();
    vector.xmm[1] = 0x9090_9090_9090_9090_9090_9090_9090_9090 & !0xff | u128::from(DEC);
    through_rdi("MOVUPS", &[0x0f, 0x11, 0x0f], 17, vector.clone());
    through_rdi("MOVQ", &[0x66, 0x0f, 0xd6, 0x0f], 9, vector);

    // REP MOVSB copies INC; DEC; INC over what follows it.
    let mut copy = state();
    copy.gpr[RSI] = PATCH.base + 0x800;
    copy.gpr[RDI] = START + 2;
    copy.gpr[RCX] = 6;
    add("REP MOVSB", [&[0xf3, 0xa4], [0x90; 6].as_slice()].concat(), 4, copy);

    // The stack leads into the code: PUSH of an instruction over the next.
    let mut push = state();
    let size = if width == Width::Bits64 { 8 } else { 4 };
    push.gpr[RSP] = START + 1 + size;
    push.gpr[RAX] = 0x9090_9090_9090_c8ff;
    if width == Width::Bits32 {
        push.gpr[RAX] = 0x9090_c8ff;
    }
    add("PUSH", [vec![0x50], vec![0x90; size as usize]].concat(), size, push);
    list
}

pub(super) fn visit(width: Width, visitor: &mut Visitor<'_>) {
    for program in programs(width) {
        let Program { name, bytes, count, state } = program;
        let edits =
            vec![(PATCH.base + 0x800, vec![0xff, INC, 0xff, DEC, 0xff, INC]), (state.rip, bytes.clone())];
        let instructions = decode(width, &bytes, state.rip);
        let case = Case { width, instructions, count, bytes, state, edits };
        visitor(name, &case, &Undefined::default());
    }
}
