//! Rules about faults, gates and addresses.

use super::guest::{self, Guest};
use super::native::State;
use super::operands::Random;
use crate::block::Op;
use crate::decode::{lower, operand};
use crate::fault::Fault;
use crate::flags::bits;
use crate::state::{X87, cr0, reg};
use crate::test_world::TestWorld;
use iced_x86::{Decoder, DecoderOptions};

const FADD: [u8; 2] = [0xd8, 0xc1];
const FSTP: [u8; 2] = [0xdd, 0x1a];
const FNSTENV: [u8; 2] = [0xd9, 0x32];
const WAIT: [u8; 1] = [0x9b];

/// A state with a division by zero that waits.
fn pending() -> State {
    let mut state = Random(3).state();
    state.image[0] &= !4;
    state.image[4] |= 0x84;
    state
}

#[test]
fn a_pending_exception_is_reported_by_waiting_instructions() {
    for instruction in [&FADD[..], &FSTP, &WAIT, &[0xd9, 0x2a], &[0xd9, 0xd0]] {
        let mut guest = Guest::new(instruction).unwrap();
        assert_eq!(guest.run(&pending()), Err(Fault::MF), "{instruction:02x?}");
        guest.cpu.cr0 &= !cr0::NE;
        assert!(guest.run(&pending()).is_ok());
    }
    assert!(Guest::new(&FNSTENV).unwrap().run(&pending()).is_ok());
}

#[test]
fn cr0_gates_the_instructions() {
    let run = |instruction: &[u8], bits: u64| {
        let mut guest = Guest::new(&[0xd9, 0xd0]).unwrap();
        guest.cpu.cr0 |= bits;
        guest.cpu.update_mode();
        let op = guest::decode(&guest.cpu, instruction).unwrap();
        guest.cpu.gpr[reg::RDX] = u64::from(guest::DATA);
        (op.run)(&mut guest.cpu, &mut guest.world, &op)
    };
    for instruction in [&FADD[..], &FSTP, &FNSTENV] {
        assert_eq!(run(instruction, cr0::TS), Err(Fault::NM));
        assert_eq!(run(instruction, cr0::EM), Err(Fault::NM));
        assert_eq!(run(instruction, cr0::MP), Ok(()));
    }
    assert_eq!(run(&WAIT, cr0::EM), Ok(()));
    assert_eq!(run(&WAIT, cr0::TS), Ok(()));
    assert_eq!(run(&WAIT, cr0::MP), Ok(()));
    assert_eq!(run(&WAIT, cr0::MP | cr0::TS), Err(Fault::NM));
}

/// A store beyond the segment limit: #GP, and the stack and every pointer as before.
#[test]
fn a_faulting_access_changes_nothing() {
    for instruction in [&FSTP[..], &FNSTENV, &[0xdd, 0x32], &[0xdb, 0x2a], &[0xdf, 0x32], &[0xd8, 0x02]] {
        let mut guest = Guest::new(instruction).unwrap();
        let state = Random(5).state();
        guest.cpu.segs[crate::state::seg::DS].limit = guest::DATA + 1;
        guest.cpu.x87 = X87 { control: 0x37f, ..X87::default() };
        let before = guest.cpu.x87.clone();
        let op = guest::decode(&guest.cpu, instruction).unwrap();
        guest.cpu.gpr[reg::RDX] = u64::from(guest::DATA);
        guest.world.poke(u64::from(guest::DATA), &state.memory);
        assert_eq!((op.run)(&mut guest.cpu, &mut guest.world, &op), Err(Fault::GP0), "{instruction:02x?}");
        assert_eq!(guest.cpu.x87, before);
        assert_eq!(guest.world.peek(u64::from(guest::DATA), 128), state.memory);
    }
}

/// SDM volume 3, 7.15, interrupt 17; where the table has no entry, as processors do.
#[test]
fn alignment_is_checked_by_operand() {
    let cases: [(&[u8], u64); 9] = [
        (&[0xd9, 0x02], 4),
        (&[0xdd, 0x02], 8),
        (&[0xdb, 0x2a], 8),
        (&[0xdb, 0x3a], 8),
        (&[0xdf, 0x22], 8),
        (&[0xd9, 0x3a], 2),
        (&FNSTENV, 4),
        (&[0xdd, 0x22], 4),
        (&[0x66, 0xd9, 0x32], 2),
    ];
    for (instruction, alignment) in cases {
        let mut guest = Guest::new(instruction).unwrap();
        guest.cpu.cr0 |= cr0::AM;
        guest.cpu.cpl = 3;
        guest.cpu.set_rflags(bits::AC);
        guest.cpu.update_mode();
        let op = guest::decode(&guest.cpu, instruction).unwrap();
        for offset in 0..8 {
            guest.cpu.x87 = X87 { control: 0x37f, tags: 0x3fff, ..X87::default() };
            guest.cpu.gpr[reg::RDX] = u64::from(guest::DATA) + offset;
            let expected = if offset % alignment == 0 { Ok(()) } else { Err(Fault::AC) };
            let result = (op.run)(&mut guest.cpu, &mut guest.world, &op);
            assert_eq!(result, expected, "{instruction:02x?} at {offset}");
        }
    }
}

/// With 16-bit operands the environment is 14 bytes long and the state 94.
#[test]
fn short_forms_come_back() {
    let mut guest = Guest::new(&[0x66, 0xdd, 0x32]).unwrap();
    let state = Random(9).state();
    let before = {
        guest.run(&state).unwrap();
        guest.world.peek(u64::from(guest::DATA), 128)
    };
    assert_eq!(before[94..], state.memory[94..]);
    assert_eq!(before[14..94], state.image[28..], "registers");
    assert_eq!(before[0..2], state.image[0..2], "control word");
    let mut restore = Guest::new(&[0x66, 0xdd, 0x22]).unwrap();
    let memory = <[u8; 128]>::try_from(before).unwrap();
    let restored = restore.run(&State { memory, ..Random(10).state() }).unwrap();
    assert_eq!(restored.image[28..], state.image[28..]);
    assert_eq!(restored.image[0..2], state.image[0..2]);
    assert_eq!(restored.image[4..6], state.image[4..6]);
    assert_eq!(restored.image[12..14], state.image[12..14], "instruction pointer");
    assert_eq!(restored.image[14..16], [0, 0]);
}

/// The decoder reports FWAIT apart, so that the waiting forms of control instructions need no operation of their own.
#[test]
fn fstcw_is_two_instructions() {
    let instruction = Decoder::new(32, &[0x9b, 0xd9, 0x3a], DecoderOptions::NONE).decode();
    assert_eq!((instruction.code(), instruction.len()), (iced_x86::Code::Wait, 1));
}

/// All encodings that the decoder takes for x87 instructions are lowered.
#[test]
fn no_form_is_missing() {
    let guest = Guest::new(&FADD).unwrap();
    let mut forms = 0;
    for first in 0xd8..=0xdf_u8 {
        for second in 0..=0xff_u8 {
            for prefix in [None, Some(0x66)] {
                let bytes: Vec<u8> = prefix.into_iter().chain([first, second, 0, 0, 0, 0, 0]).collect();
                let instruction = Decoder::new(32, &bytes, DecoderOptions::NONE).decode();
                if instruction.is_invalid() {
                    continue;
                }
                let mut op = Op::new(crate::decode::undefined::<TestWorld>, 0, instruction.len() as u8);
                if operand::has_memory(&instruction) {
                    operand::fill_memory(&instruction, guest.cpu.mode, 0, &mut op);
                }
                lower(&instruction, guest.cpu.mode, &mut op);
                let undefined = crate::decode::undefined::<TestWorld> as *const () as usize;
                assert_ne!(op.run as *const () as usize, undefined, "{instruction} {bytes:02x?}");
                forms += 1;
            }
        }
    }
    assert!(forms > 3000, "{forms}");
}
