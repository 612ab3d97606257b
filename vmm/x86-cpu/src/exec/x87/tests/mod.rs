//! The interpreter against the host, instruction by instruction, and rules the host cannot be asked about.

mod guest;
mod model;
mod native;
mod operands;
mod rules;
mod transcendental;

use crate::test_world::host_is_intel;
use guest::Guest;
use native::{Host, State};
use operands::Random;

/// Second bytes after D9 whose results differ between vendors.
const TRANSCENDENTAL: [u8; 8] = [0xf0, 0xf1, 0xf2, 0xf3, 0xf9, 0xfb, 0xfe, 0xff];
/// FPREM1 and FPREM.
const PARTIAL_REMAINDERS: [[u8; 2]; 2] = [[0xd9, 0xf5], [0xd9, 0xf8]];
const STATES: u32 = 1000;

/// Every x87 instruction with ST(i) operands or a memory operand at \[edx\].
fn encodings() -> Vec<[u8; 2]> {
    let mut encodings = Vec::new();
    for first in 0xd8..=0xdf {
        encodings.extend((0..8).map(|extension| [first, extension << 3 | 2]));
        encodings.extend((0xc0..=0xff).map(|second| [first, second]));
    }
    encodings.retain(|[first, second]| *first != 0xd9 || !TRANSCENDENTAL.contains(second));
    encodings
}

/// Pointers into the code and the operand made independent of where they are.
fn relocate(state: &mut State, instruction: u32, operand: u32) {
    for (at, base) in [(12, instruction), (20, operand)] {
        for bytes in [&mut state.image[at..at + 4], &mut state.memory[at..at + 4]] {
            let pointer = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            if pointer == base {
                bytes.copy_from_slice(&0xabcd_0000_u32.to_le_bytes());
            }
        }
    }
}

/// Runs `instruction` in both from states that `prepare` has adjusted, and describes the first difference. `None` if it is
/// no instruction.
fn compare(
    instruction: &[u8],
    seed: u64,
    states: u32,
    prepare: impl Fn(&mut State),
) -> Option<Result<(), String>> {
    let mut guest = Guest::new(instruction)?;
    let mut host = Host::new(instruction);
    let mut random = Random(seed);
    for number in 0..states {
        let mut state = random.state();
        prepare(&mut state);
        let mut expected = host.run(&state);
        let mut got = guest.run(&state).unwrap();
        relocate(&mut expected, host.instruction(), host.operand());
        relocate(&mut got, guest::CODE, guest::DATA);
        if !host_is_intel() {
            forget_pointers(&mut expected);
            forget_pointers(&mut got);
        }
        if got != expected {
            let (state, expected, got) = (show(&state), show(&expected), show(&got));
            let case = format!("{instruction:02x?}, state {number}");
            return Some(Err(format!("{case}\n{state}\nhost  {expected}\nhere  {got}\n")));
        }
    }
    Some(Ok(()))
}

/// Clears pointers, selectors and opcode (which a task switch loses on such hosts), and what an instruction stored of them.
fn forget_pointers(state: &mut State) {
    for bytes in [&mut state.image[12..28], &mut state.memory[12..28]] {
        bytes.fill(0);
    }
}

fn show(state: &State) -> String {
    let half = |at: usize| u16::from_le_bytes([state.image[at], state.image[at + 1]]);
    let hex = |bytes: &[u8]| bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect::<String>();
    let registers: Vec<_> = state.image[28..].chunks(10).map(hex).collect();
    format!(
        "cw {:04x} sw {:04x} tags {:04x} ip {} op {:04x} dp {} rax {:x} flags {:x}\n  {}\n  memory {}",
        half(0),
        half(4),
        half(8),
        hex(&state.image[12..16]),
        half(18),
        hex(&state.image[20..24]),
        state.rax,
        state.rflags,
        registers.join(" "),
        hex(&state.memory[..32]),
    )
}

#[test]
fn every_instruction_does_what_the_host_does() {
    let results: Vec<_> = (0..)
        .zip(encodings())
        .filter_map(|(seed, instruction)| {
            compare(&instruction, seed, STATES, |state| {
                // Whether an unchanged denormal operand counts as a tiny remainder differs between vendors.
                if !host_is_intel() && PARTIAL_REMAINDERS.contains(&instruction) {
                    state.image[0] |= 1 << 4;
                }
            })
        })
        .collect();
    let differences: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(differences.is_empty(), "{}", differences.into_iter().cloned().collect::<String>());
    assert_eq!(results.len(), 472);
}

/// FNSTENV, FNSTCW, FNSAVE, FNSTSW, FNCLEX, FNINIT and the NOPs do not wait.
#[test]
fn instructions_that_do_not_wait_see_pending_exceptions() {
    let instructions: [[u8; 2]; 10] = [
        [0xd9, 0x32],
        [0xd9, 0x3a],
        [0xdd, 0x32],
        [0xdd, 0x3a],
        [0xdf, 0xe0],
        [0xdb, 0xe2],
        [0xdb, 0xe3],
        [0xdb, 0xe0],
        [0xdb, 0xe1],
        [0xdb, 0xe4],
    ];
    for instruction in instructions {
        let result = compare(&instruction, 1, STATES, |state| {
            // Divided by zero, not masked.
            state.image[0] &= !4;
            state.image[4] |= 0x84;
            state.image[5] |= 0x80;
        });
        assert_eq!(result, Some(Ok(())));
    }
}
