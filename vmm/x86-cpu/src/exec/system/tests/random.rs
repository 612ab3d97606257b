//! Hostile guests: random programs in every mode neither panic nor hang, and run the same however they are sliced.

use super::machine::{DATA, GDT, HANDLERS, IDT, Machine, PROGRAM, TSS, sel};
use super::program::assemble;
use crate::run::{Exit, run};
use crate::state::{Vcpu, reg};

/// Instructions worth more than chance gives them; operands follow at random.
const OPENINGS: &[&[u8]] = &[
    &[0x0f, 0x00],
    &[0x0f, 0x01],
    &[0x0f, 0x02],
    &[0x0f, 0x03],
    &[0x0f, 0x05],
    &[0x0f, 0x06],
    &[0x0f, 0x07],
    &[0x0f, 0x20],
    &[0x0f, 0x22],
    &[0x0f, 0x21],
    &[0x0f, 0x23],
    &[0x0f, 0x30],
    &[0x0f, 0x32],
    &[0x0f, 0x34],
    &[0x0f, 0x35],
    &[0x0f, 0xa1],
    &[0x0f, 0xb2],
    &[0x66, 0x0f, 0x38, 0x82],
    &[0xf3, 0x0f, 0xae],
    // PUSH of a value, POPF: TF, NT and AC.
    &[0x68, 0x02, 0x01, 0x00, 0x00, 0x9d],
    &[0x68, 0x02, 0x41, 0x04, 0x00, 0x9d],
    &[0x07],
    &[0x17],
    &[0x1f],
    &[0x8e],
    &[0x9a],
    &[0x9d],
    &[0xc4],
    &[0xc5],
    &[0xca],
    &[0xcb],
    &[0xcc],
    &[0xcd],
    &[0xcf],
    &[0x48, 0xcf],
    &[0xea],
    &[0xec],
    &[0xf3, 0x6c],
    &[0xf3, 0x6e],
    &[0xfb],
    &[0xff, 0x28],
    &[0xff, 0x18],
];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 24
    }
    fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound
    }
}

fn program(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < 256 {
        bytes.extend(OPENINGS[random.below(OPENINGS.len())]);
        for _ in 0..random.below(6) {
            // Small values make selectors, control-register numbers and addresses that exist.
            let byte = random.next() as u8;
            bytes.push(if random.below(2) == 0 { byte & 0x7b } else { byte });
        }
    }
    bytes
}

/// A descriptor of any kind, more often than not one that makes sense.
fn descriptor(random: &mut Random) -> u64 {
    let access = if random.below(3) == 0 { random.next() & 0xff } else { 0x80 | random.next() & 0x7f };
    let low = match access & 0x1f {
        // Gates: a selector and an address.
        4..=7 | 12..=15 => (HANDLERS + (random.next() & 0xff0)) & 0xffff | (random.next() & 0x7b) << 16,
        _ => [0xffff, 0x67, 0x2b, 0xfff][random.below(4)] | [0, DATA, TSS, PROGRAM][random.below(4)] << 16,
    };
    let high = match access & 0x1f {
        4..=7 | 12..=15 => HANDLERS >> 16 << 16,
        _ => [0, 0x00c0_0000, 0x0040_0000, 0x00a0_0000][random.below(4)],
    };
    low & 0xff_ffff_ffff | access << 40 | (high | random.next() & 3) << 32
}

/// Descriptors, gates and task states at random, where the handlers do not depend on them.
fn scatter(machine: &mut Machine, random: &mut Random, mode: usize) {
    for slot in [6, 7, 9, 10, 11, 12, 13] {
        if random.below(2) == 0 {
            machine.poke64(GDT + slot * 8, descriptor(random));
        }
    }
    let size = if mode == 1 { 8 } else { 16 };
    for vector in 0..256 {
        if random.below(16) == 0 {
            machine.poke64(IDT + vector * size, descriptor(random));
        }
    }
    for offset in (32..0x68).step_by(4) {
        let value = match random.below(4) {
            0 => u64::from(sel::CODE32),
            1 => u64::from(sel::DATA),
            2 => HANDLERS + (random.next() & 0xff0),
            _ => random.next(),
        };
        machine.world.poke(TSS + offset, &(value as u32).to_le_bytes());
    }
}

fn machine(random: &mut Random, mode: usize) -> Machine {
    let program = program(random);
    let mut machine = match mode {
        0 => Machine::real(&program),
        1 => Machine::protected(&program),
        2 => Machine::long(&program),
        _ => Machine::user(&program),
    };
    for (index, register) in machine.cpu.gpr[..16].iter_mut().enumerate() {
        if index != reg::RSP {
            *register = match random.below(4) {
                0 => random.next() & 0x7f,
                1 => PROGRAM + (random.next() & 0xffff),
                2 => 0xc000_0080 + (random.next() & 7),
                _ => random.next() << 20,
            };
        }
    }
    // Handlers that go on with the program, one byte further.
    let real: &[u8] =
        assemble!(".code16", "push bp", "mov bp, sp", "inc word ptr [bp + 2]", "pop bp", "iret");
    let protected: &[u8] = assemble!(".code32", "inc dword ptr [esp]", "iretd");
    let protected_code: &[u8] = assemble!(".code32", "pop ebp", "inc dword ptr [esp]", "iretd");
    let long: &[u8] = assemble!("inc qword ptr [rsp]", "iretq");
    let long_code: &[u8] = assemble!("pop rbp", "inc qword ptr [rsp]", "iretq");
    for vector in 0..=255 {
        let has_code = matches!(vector, 8 | 10..=14 | 17);
        let handler = match (mode, has_code) {
            (0, _) => real,
            (1, false) => protected,
            (1, true) => protected_code,
            (_, false) => long,
            (_, true) => long_code,
        };
        machine.handler(vector, handler);
        if mode == 0 {
            let pointer = (u32::from(vector) * 16) | ((HANDLERS as u32 >> 4) << 16);
            machine.world.poke(u64::from(vector) * 4, &pointer.to_le_bytes());
        }
    }
    if mode != 0 && random.below(2) == 0 {
        scatter(&mut machine, random, mode);
    }
    machine
}

#[derive(Debug, PartialEq)]
enum End {
    Reached,
    Stopped,
    /// Exceptions only: where such a guest is interrupted depends on the slices.
    Barren,
}

/// Runs to clock `until` in slices of `slice`.
fn advance(machine: &mut Machine, until: u64, slice: u64) -> End {
    let mut barren = 0;
    while machine.clock < until {
        let limit = (machine.clock + slice).min(until);
        let (exit, clock) =
            run(&mut machine.cpu, &mut machine.world, &mut machine.code, machine.clock, limit);
        assert!(clock <= limit, "the clock overran its limit");
        barren = if clock == machine.clock { barren + 1 } else { 0 };
        machine.clock = clock;
        if matches!(exit, Exit::Halted | Exit::Shutdown) {
            return End::Stopped;
        }
        if barren > 50 {
            return End::Barren;
        }
    }
    End::Reached
}

fn visible(cpu: &Vcpu) -> impl PartialEq + std::fmt::Debug {
    let arrays = (cpu.gpr[..16].to_vec(), cpu.segs, cpu.dr, cpu.ldtr, cpu.tr);
    (arrays, cpu.rip, cpu.rflags(), cpu.cpl, [cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4, cpu.efer])
}

#[test]
fn random_programs_run_the_same_in_any_slices() {
    let mut reached = 0;
    for seed in 0..300 {
        for mode in 0..4 {
            let mut whole = machine(&mut Random(seed), mode);
            let mut sliced = machine(&mut Random(seed), mode);
            let end = advance(&mut whole, 300, 300);
            assert_eq!(advance(&mut sliced, 300, 1), end, "seed {seed} mode {mode}");
            if end != End::Barren {
                assert_eq!(whole.clock, sliced.clock, "seed {seed} mode {mode}");
                assert_eq!(visible(&whole.cpu), visible(&sliced.cpu), "seed {seed} mode {mode}");
            }
            reached += u32::from(end == End::Reached);
        }
    }
    assert!(reached > 50, "only {reached} programs ran to the end");
}
