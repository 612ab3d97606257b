//! Repeated and single string instructions that meet a page fault in their source or destination, forwards and backwards,
//! after any number of elements, in the middle of one too; and those that meet none.

use super::{Visitor, plain_state};
use crate::compare::Undefined;
use crate::generate::{Case, DIRECTION, RAX, RCX, RDI, RSI, decode};
use crate::state::{DATA, FENCE, READ_ONLY, STACK, Width, locate};

/// Elements done before the fault.
const DONE: [u64; 5] = [0, 1, 2, 5, 40];
/// Elements asked for.
const COUNTS: [u64; 5] = [0, 1, 4, 50, u64::MAX];
const OPERAND_SIZE: u8 = 0x66;
const ADDRESS_SIZE: u8 = 0x67;
const REX_W: u8 = 0x48;

/// A string instruction: opcode of the byte form (of the others one more), and which pointers it uses.
struct Operation {
    opcode: u8,
    source: bool,
    destination: bool,
    writes: bool,
    prefixes: &'static [Option<u8>],
}

const REP: &[Option<u8>] = &[None, Some(0xf3)];
const REP_OR_REPNE: &[Option<u8>] = &[None, Some(0xf3), Some(0xf2)];
const OPERATIONS: [Operation; 5] = [
    Operation { opcode: 0xa4, source: true, destination: true, writes: true, prefixes: REP },
    Operation { opcode: 0xaa, source: false, destination: true, writes: true, prefixes: REP },
    Operation { opcode: 0xac, source: true, destination: false, writes: false, prefixes: REP },
    Operation { opcode: 0xa6, source: true, destination: true, writes: false, prefixes: REP_OR_REPNE },
    Operation { opcode: 0xae, source: false, destination: true, writes: false, prefixes: REP_OR_REPNE },
];

/// Where a pointer leads: somewhere unharmful, or to an edge after which nothing can be done.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Free,
    /// Nothing is mapped beyond.
    Absent,
    /// What lies beyond can only be read.
    ReadOnly,
}

/// An address from which `done` elements of `size` bytes can be accessed; the next lies beyond the edge but for `early` bytes.
fn start(place: Place, backwards: bool, size: u64, done: u64, early: u64, free: u64) -> u64 {
    match (place, backwards) {
        (Place::Free, false) => free,
        (Place::Free, true) => free + 0x300,
        (Place::Absent, false) => DATA.end() - done * size - early,
        (Place::ReadOnly, false) => FENCE.end() - done * size - early,
        (Place::Absent, true) => (DATA.base + done * size + early).wrapping_sub(size),
        // Backwards there is no edge of this kind: all of it can only be read.
        (Place::ReadOnly, true) => READ_ONLY.base + 0x400 + early,
    }
}

pub(super) fn visit(width: Width, visitor: &mut Visitor<'_>) {
    let sizes: &[u64] = if width == Width::Bits64 { &[1, 2, 4, 8] } else { &[1, 2, 4] };
    for operation in &OPERATIONS {
        for (size, prefix) in
            sizes.iter().flat_map(|size| operation.prefixes.iter().map(move |p| (*size, *p)))
        {
            for narrow in if width == Width::Bits64 { [false, true].as_slice() } else { &[false] } {
                let mut bytes: Vec<u8> = prefix.into_iter().collect();
                bytes.extend(narrow.then_some(ADDRESS_SIZE));
                bytes.extend((size == 2).then_some(OPERAND_SIZE));
                bytes.extend((size == 8).then_some(REX_W));
                bytes.push(operation.opcode + u8::from(size > 1));
                visit_instruction(width, visitor, operation, size, *narrow, &bytes);
            }
        }
    }
}

fn visit_instruction(
    width: Width,
    visitor: &mut Visitor<'_>,
    operation: &Operation,
    size: u64,
    narrow: bool,
    bytes: &[u8],
) {
    let mut places = vec![(Place::Free, Place::Free)];
    if operation.source {
        places.push((Place::Absent, Place::Free));
    }
    if operation.destination {
        places.push((Place::Free, Place::Absent));
    }
    if operation.writes {
        places.push((Place::Free, Place::ReadOnly));
    }
    for (source, destination) in places {
        for backwards in [false, true] {
            for done in DONE {
                for early in if size == 1 { vec![0] } else { vec![0, 1, size - 1] } {
                    for count in COUNTS {
                        let mut state = plain_state(width);
                        state.rflags |= if backwards { DIRECTION | 0x8d5 } else { 0 };
                        state.gpr[RSI] =
                            start(source, backwards, size, done, early, STACK.base + 0x300 + early);
                        state.gpr[RDI] =
                            start(destination, backwards, size, done, early, STACK.base + 0x1300 + early);
                        state.gpr[RCX] = count;
                        // Equal elements everywhere: comparisons go on, and with REPNE end at once.
                        state.gpr[RAX] = 0x6161_6161_6161_6161;
                        if width == Width::Bits32 {
                            state.gpr.iter_mut().for_each(|value| *value &= 0xffff_ffff);
                        } else if narrow {
                            // What lies above 32 bits of an address does not count.
                            state.gpr[RSI] |= 0xdead_0000_0000_0000;
                            state.gpr[RDI] |= 0xbeef_0000_0000_0000;
                        }
                        let instruction = decode(width, bytes, state.rip)[0];
                        let endless = source == Place::Free && destination == Place::Free && count > 0x1000;
                        if endless {
                            continue;
                        }
                        let mut edits = Vec::new();
                        for region in [DATA, FENCE, STACK] {
                            let run = vec![0x61; region.pages * 4096];
                            if locate(region.base, run.len()).is_some() {
                                edits.push((region.base, run));
                            }
                        }
                        edits.push((state.rip, bytes.to_vec()));
                        let undefined = Undefined::after(&instruction, &state);
                        let name = format!("{:?}", instruction.code());
                        let instructions = vec![instruction];
                        let case =
                            Case { width, instructions, count: 1, bytes: bytes.to_vec(), state, edits };
                        visitor(&name, &case, &undefined);
                    }
                }
            }
        }
    }
}
