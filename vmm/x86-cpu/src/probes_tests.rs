//! Probes: each is met as often as its instruction is executed, and nothing else is changed by them.

use crate::hook_tests::Watching;
use crate::run_tests::{CODE, machine, prepare};
use crate::state::reg;
use crate::test_world::TestWorld;
use crate::{CodeCache, Probes, SharedCode, Vcpu, World, run};
use std::sync::Arc;

/// Ten calls of a function that calls another, which rewrites one of its own instructions.
const PROGRAM: [u8; 45] = [
    0xb9, 10, 0, 0, 0, // mov ecx, 10
    0xe8, 6, 0, 0, 0, // again: call outer
    0xff, 0xc9, // back: dec ecx
    0x75, 0xf7, // jne again
    0xeb, 0xfe, // jmp $
    0x51, // outer: push rcx
    0xe8, 10, 0, 0, 0,    // call inner
    0x59, // pop rcx
    0x48, 0x01, 0xc8, // add rax, rcx
    0xc3, // ret
    0x90, 0x90, 0x90, 0x90, 0x90, //
    0x48, 0xff, 0xc3, // inner: inc rbx
    0x88, 0x1d, 2, 0, 0, 0, // mov [rip + 2], bl
    0x83, 0xc2, 0,    // add edx, 0, whose last byte was just written
    0xc3, // ret
];
const BACK: u64 = CODE + 10;
const OUTER: u64 = CODE + 16;
const END: u64 = 200;

fn state(cpu: &Vcpu) -> (Vec<u64>, u64, u64) {
    (cpu.gpr[..16].to_vec(), cpu.rip, cpu.rflags())
}

/// What `world` is after the program ran up to [`END`] in pieces of `piece` instructions, with `before` called before each.
fn run_pieces<W: World>(
    cpu: &mut Vcpu,
    world: &mut W,
    code: &mut CodeCache<W>,
    piece: u64,
    mut before: impl FnMut(u64, &mut W),
) {
    let mut clock = 0;
    while clock < END {
        before(clock, world);
        let until = (clock + piece).min(END);
        assert_eq!(run(cpu, world, code, clock, until).1, until);
        clock = until;
    }
}

/// Clock, instruction and stack pointer before each instruction.
fn steps() -> Vec<(u64, u64, u64)> {
    let (mut cpu, mut world, mut code) = machine(&PROGRAM);
    (0..END)
        .map(|clock| {
            let here = (clock, cpu.rip, cpu.gpr[reg::RSP]);
            run(&mut cpu, &mut world, &mut code, clock, clock + 1);
            here
        })
        .collect()
}

fn at(addresses: impl IntoIterator<Item = u64>) -> Option<Probes> {
    let mut probes = Probes::default();
    for address in addresses {
        probes.insert(address, Some(address));
    }
    Some(probes)
}

#[test]
fn every_instruction_is_met_whenever_it_is_executed() {
    let (mut plain, mut world, mut code) = machine(&PROGRAM);
    run_pieces(&mut plain, &mut world, &mut code, END, |_, _| {});
    let all = steps();
    // From the start, and when the code is known already.
    for (piece, from) in [(END, 0), (7, 0), (7, 70), (1, 33), (50, 100)] {
        let (mut cpu, mut world, mut code) = machine(&PROGRAM);
        world.probes = at([]);
        run_pieces(&mut cpu, &mut world, &mut code, piece, |clock, world| {
            if clock >= from
                && let Some(probes) = &mut world.probes
            {
                for address in CODE..CODE + 64 {
                    probes.insert(address, Some(address));
                }
            }
        });
        assert_eq!(state(&cpu), state(&plain));
        let met: Vec<_> =
            all.iter().copied().filter(|&(clock, ..)| clock >= from.next_multiple_of(piece)).collect();
        assert_eq!(world.probed, met, "pieces of {piece} from {from}");
    }
}

#[test]
fn one_probe_is_met_whatever_other_code_leads_to_it() {
    for address in CODE..CODE + PROGRAM.len() as u64 {
        let (mut cpu, mut world, mut code) = machine(&PROGRAM);
        world.probes = at([]);
        run_pieces(&mut cpu, &mut world, &mut code, 60, |clock, world| {
            let probes = world.probes.get_or_insert_default();
            match clock {
                60 => assert!(probes.insert(address, Some(address))),
                180 => assert!(probes.remove(address)),
                _ => {}
            }
        });
        let expected = |&(clock, ip, _): &(u64, u64, u64)| ip == address && (60..180).contains(&clock);
        assert_eq!(world.probed, steps().into_iter().filter(expected).collect::<Vec<_>>(), "{address:#x}");
    }
}

#[test]
fn a_return_is_met_with_the_stack_pointer_of_its_call() {
    let (mut cpu, mut world, mut code) = machine(&PROGRAM);
    (world.probes, world.follow) = (at([OUTER]), Some(OUTER));
    run_pieces(&mut cpu, &mut world, &mut code, END, |_, _| {});
    let met = |wanted: u64| world.probed.iter().filter(move |(_, ip, _)| *ip == wanted);
    assert_eq!((met(OUTER).count(), met(BACK).count()), (10, 10));
    assert!(met(OUTER).zip(met(BACK)).all(|(call, back)| back.0 > call.0 && back.2 == call.2 + 8));
}

#[test]
fn machines_that_share_code_share_no_probes() {
    let shared = Arc::new(SharedCode::default());
    for probed in [false, true, false, true] {
        let (mut cpu, mut world) = prepare(&PROGRAM);
        world.probes = probed.then(|| at([BACK, CODE + 0x17])).flatten();
        let mut code = CodeCache::sharing(Arc::clone(&shared));
        run_pieces(&mut cpu, &mut world, &mut code, END, |_, _| {});
        assert_eq!(world.probed.len(), if probed { 20 } else { 0 });
        assert_eq!(cpu.gpr[reg::RAX], 55);
    }
}

#[test]
fn a_hooked_world_sees_the_same_accesses_with_probes() {
    let accesses = |probes: Option<Probes>| {
        let (mut cpu, mut inner) = prepare(&PROGRAM);
        inner.follow = Some(OUTER);
        inner.probes = probes;
        let mut hooked = Watching::everything(inner);
        run_pieces(&mut cpu, &mut hooked, &mut CodeCache::default(), END, |_, _| {});
        (
            hooked.reads,
            hooked.writes,
            hooked.fetches,
            state(&cpu),
            hooked.inner.peek(0, 0x12000),
            hooked.inner.probed.len(),
        )
    };
    let (plain, probed) = (accesses(None), accesses(at([OUTER, CODE + 0x20])));
    assert_eq!((&plain.0, &plain.1, &plain.2, &plain.3), (&probed.0, &probed.1, &probed.2, &probed.3));
    assert!(plain.4 == probed.4);
    assert_eq!((plain.5, probed.5), (0, 30));
}

#[test]
fn what_faults_at_a_probe_is_met_again_and_counted_once() {
    // mov rax, [0x7ff0_0000], which is not mapped; no handler: a triple fault.
    let (mut cpu, mut world, mut code) = machine(&[0x90, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0xf0, 0x7f]);
    world.probes = at([CODE, CODE + 1]);
    let (exit, clock) = run(&mut cpu, &mut world, &mut code, 0, 100);
    assert_eq!((exit, clock), (crate::Exit::Shutdown, 1));
    assert_eq!(
        world.probed.iter().map(|(clock, ip, _)| (*clock, *ip)).collect::<Vec<_>>(),
        [(0, CODE), (1, CODE + 1)]
    );
}

#[test]
fn code_known_at_another_address_is_met_all_the_same() {
    let (mut cpu, mut world, mut code) = machine(&PROGRAM);
    // The second 2 MiB are the first again.
    world.poke(0x3008, &0x83_u64.to_le_bytes());
    world.probes = at([0x20_0000 + BACK]);
    run_pieces(&mut cpu, &mut world, &mut code, END, |_, _| {});
    assert_eq!(world.probed, []);
    (cpu.rip, cpu.gpr[reg::RSP]) = (0x20_0000 + CODE, 0x10000);
    run(&mut cpu, &mut world, &mut code, END, 2 * END);
    assert_eq!(world.probed.len(), 10);
    let world: &mut TestWorld = &mut world;
    (cpu.rip, cpu.gpr[reg::RSP]) = (CODE, 0x10000);
    run(&mut cpu, world, &mut code, 2 * END, 3 * END);
    assert_eq!((world.probed.len(), cpu.rip), (10, CODE + 14));
}
