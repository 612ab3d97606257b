//! The memory hook: a hooked world is shown every access, and execution is the same as without it.

use crate::run_tests::{machine, prepare};
use crate::state::reg;
use crate::test_world::TestWorld;
use crate::{CodeCache, CodePages, Probes, Vcpu, World, run};
use std::ptr::NonNull;

/// A test world whose RAM is reached through [`World::read`] and [`World::write`] alone.
pub(crate) struct Hooked {
    pub inner: TestWorld,
    pub reads: Vec<u64>,
    pub writes: Vec<u64>,
}

// SAFETY: the frames are those of the inner world.
unsafe impl World for Hooked {
    const HOOKED: bool = true;

    fn ram_frame(&mut self, frame: u64) -> Option<NonNull<u8>> {
        self.inner.ram_frame(frame)
    }
    fn read(&mut self, _: u32, _: u64, address: u64, data: &mut [u8]) {
        self.reads.push(address);
        data.copy_from_slice(&self.inner.peek(address, data.len()));
    }
    fn write(&mut self, _: u32, _: u64, address: u64, data: &[u8]) {
        self.writes.push(address);
        self.inner.poke(address, data);
    }
    fn io_read(&mut self, cpu: u32, now: u64, port: u16, size: u8) -> u32 {
        self.inner.io_read(cpu, now, port, size)
    }
    fn io_write(&mut self, cpu: u32, now: u64, port: u16, size: u8, value: u32) {
        self.inner.io_write(cpu, now, port, size, value);
    }
    fn read_msr(&mut self, cpu: u32, now: u64, index: u32) -> Option<u64> {
        self.inner.read_msr(cpu, now, index)
    }
    fn write_msr(&mut self, cpu: u32, now: u64, index: u32, value: u64) -> Option<()> {
        self.inner.write_msr(cpu, now, index, value)
    }
    fn task_priority(&mut self, cpu: u32) -> u8 {
        self.inner.task_priority(cpu)
    }
    fn set_task_priority(&mut self, cpu: u32, class: u8) {
        self.inner.set_task_priority(cpu, class);
    }
    fn interrupt_pending(&mut self, cpu: u32) -> bool {
        self.inner.interrupt_pending(cpu)
    }
    fn acknowledge_interrupt(&mut self, cpu: u32, now: u64) -> Option<u8> {
        self.inner.acknowledge_interrupt(cpu, now)
    }
    fn take_nmi(&mut self, cpu: u32) -> bool {
        self.inner.take_nmi(cpu)
    }
    fn random(&mut self) -> u64 {
        self.inner.random()
    }
    fn code_pages(&mut self) -> &mut CodePages {
        self.inner.code_pages()
    }
    fn probes(&mut self) -> Option<&mut Probes> {
        self.inner.probes()
    }
    fn probe(&mut self, cpu: &Vcpu, now: u64) {
        self.inner.probe(cpu, now);
    }
}

/// Copies 40 bytes by REP MOVSB, adds up eight words of the copy and stores the sum; then loops on itself.
const PROGRAM: [u8; 33] = [
    0xf3, 0xa4, // rep movsb
    0xb9, 8, 0, 0, 0, // mov ecx, 8
    0x31, 0xc0, // xor eax, eax
    0x03, 0x83, 0, 0, 0, 0, // again: add eax, [rbx]
    0x48, 0x83, 0xc3, 4, // add rbx, 4
    0xff, 0xc9, // dec ecx
    0x75, 0xf2, // jne again
    0x48, 0x89, 0x85, 0, 1, 0, 0, // mov [rbp + 0x100], rax
    0x90, 0xeb, 0xfd, // nop; jmp back
];

#[test]
fn a_hooked_world_sees_every_access_and_changes_nothing() {
    let source: Vec<u8> = (0..40).collect();
    let set_up = |world: &mut TestWorld, cpu: &mut Vcpu| {
        world.poke(0x20000, &source);
        for (register, value) in [
            (reg::RSI, 0x20000),
            (reg::RDI, 0x21003),
            (reg::RCX, 40),
            (reg::RBX, 0x21003),
            (reg::RBP, 0x22000),
        ] {
            cpu.gpr[register] = value;
        }
    };
    let (mut plain, mut world, mut code) = machine(&PROGRAM);
    set_up(&mut world, &mut plain);
    let (_, clock) = run(&mut plain, &mut world, &mut code, 0, 60);

    let (mut cpu, mut inner) = prepare(&PROGRAM);
    set_up(&mut inner, &mut cpu);
    let mut hooked = Hooked { inner, reads: Vec::new(), writes: Vec::new() };
    let mut code = CodeCache::default();
    assert_eq!(run(&mut cpu, &mut hooked, &mut code, 0, 60).1, clock);

    assert_eq!(cpu.gpr[..17], plain.gpr[..17]);
    assert_eq!(cpu.rip, plain.rip);
    assert_eq!(hooked.inner.peek(0x21000, 0x1200), world.peek(0x21000, 0x1200));
    for at in 0..40 {
        assert!(hooked.reads.contains(&(0x20000 + at)), "byte {at} was read unseen");
        assert!(hooked.writes.contains(&(0x21003 + at)), "byte {at} was written unseen");
    }
    assert!(hooked.reads.contains(&0x21003) && hooked.writes.contains(&0x22100));
    assert!(hooked.reads.contains(&0x1000), "the page walk is an access as well");
}
