//! What a world is shown of accesses to RAM, and that execution is the same as without.

use crate::memory::MemoryType;
use crate::run_tests::{machine, prepare};
use crate::state::{cr0, reg};
use crate::test_world::TestWorld;
use crate::{CacheOp, CodeCache, CodePages, Probes, RamAccess, Shown, Vcpu, World, run};
use std::ptr::NonNull;

const LINE: u32 = 64;

/// Tags of a small cache with LRU replacement, and what it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lru {
    /// Lines of each set, the last accessed first.
    sets: Vec<Vec<u64>>,
    hits: u64,
    misses: u64,
    generation: u64,
    /// The last fetched line.
    fetched: u64,
}

impl Lru {
    const WAYS: usize = 2;

    fn new(sets: u32) -> Self {
        Self { sets: vec![Vec::new(); sets as usize], hits: 0, misses: 0, generation: 0, fetched: 0 }
    }
    fn set(&mut self, line: u64) -> &mut Vec<u64> {
        let sets = self.sets.len() as u64;
        &mut self.sets[(line % sets) as usize]
    }
    fn access(&mut self, address: u64, len: usize) {
        for line in address / u64::from(LINE)..=(address + len as u64 - 1) / u64::from(LINE) {
            let set = self.set(line);
            let found = set.iter().position(|&other| other == line);
            if let Some(at) = found {
                set.remove(at);
            }
            set.insert(0, line);
            set.truncate(Self::WAYS);
            *(if found.is_some() { &mut self.hits } else { &mut self.misses }) += 1;
        }
    }
    /// The access hits the line that its set was last accessed in.
    fn hits_first(&mut self, address: u64, len: usize) -> bool {
        let line = address / u64::from(LINE);
        let hits =
            line == (address + len as u64 - 1) / u64::from(LINE) && self.set(line).first() == Some(&line);
        self.hits += u64::from(hits);
        hits
    }
    fn flush(&mut self, address: u64) {
        let line = address / u64::from(LINE);
        self.set(line).retain(|&other| other != line);
        self.generation += 1;
    }
}

/// A test world that is shown accesses, and makes them as they are.
pub(crate) struct Watching {
    pub inner: TestWorld,
    shown: Shown,
    /// With [`Shown::Pages`]: the page shown.
    page: u64,
    generation: u64,
    pub reads: Vec<(u64, RamAccess)>,
    pub writes: Vec<(u64, RamAccess)>,
    pub fetches: Vec<(u64, usize)>,
    ops: Vec<CacheOp>,
    lru: Lru,
    /// What hits the last accessed line of a set need not be shown.
    quick: bool,
}

impl Watching {
    fn new(inner: TestWorld, shown: Shown) -> Self {
        let (reads, writes, fetches, ops) = Default::default();
        let lru = Lru::new(64);
        Self { inner, shown, page: u64::MAX, generation: 0, reads, writes, fetches, ops, lru, quick: false }
    }
    fn cached(inner: TestWorld, sets: u32, quick: bool) -> Self {
        let shown = Shown::Everything { line: LINE, sets };
        Self { lru: Lru::new(sets), quick, ..Self::new(inner, shown) }
    }
    pub fn everything(inner: TestWorld) -> Self {
        Self::new(inner, Shown::Everything { line: LINE, sets: 64 })
    }
    fn was_read(&self, address: u64) -> bool {
        self.reads.iter().any(|read| read.0 == address)
    }
}

// SAFETY: the frames are those of the inner world.
unsafe impl World for Watching {
    fn ram_frame(&mut self, frame: u64) -> Option<NonNull<u8>> {
        self.inner.ram_frame(frame)
    }
    fn shown(&self) -> Shown {
        self.shown
    }
    fn shows_page(&mut self, frame: u64, _: MemoryType) -> bool {
        self.shown != Shown::Pages || frame == self.page
    }
    fn shown_generation(&self) -> u64 {
        self.generation
    }
    fn load(&mut self, by: &RamAccess, address: u64, data: &mut [u8]) {
        self.reads.push((address, *by));
        self.lru.access(address, data.len());
        data.copy_from_slice(&self.inner.peek(address, data.len()));
    }
    fn store(&mut self, by: &RamAccess, address: u64, data: &[u8]) {
        self.writes.push((address, *by));
        self.lru.access(address, data.len());
        self.inner.poke(address, data);
    }
    fn fetch(&mut self, _: &RamAccess, address: u64, len: usize) {
        self.fetches.push((address, len));
        self.lru.access(address, len);
        self.lru.fetched = address / u64::from(LINE);
    }
    fn load_hit(&mut self, _: u32, address: u64, len: usize) -> bool {
        self.quick && self.lru.hits_first(address, len)
    }
    fn store_hit(&mut self, _: u32, _: u64, _: u64, address: u64, len: usize) -> bool {
        self.quick && self.lru.hits_first(address, len)
    }
    fn fetch_hit(&mut self, _: u32, address: u64) -> bool {
        let hits = self.quick && self.lru.hits_first(address, 1);
        if hits {
            self.lru.fetched = address / u64::from(LINE);
        }
        hits
    }
    fn load_miss(&mut self, _: &RamAccess, address: u64, len: usize) -> bool {
        let quick = self.quick && address % u64::from(LINE) + len as u64 <= u64::from(LINE);
        if quick {
            self.lru.access(address, len);
        }
        quick
    }
    fn fetch_miss(&mut self, by: &RamAccess, address: u64) -> bool {
        let quick = self.load_miss(by, address, 1);
        if quick {
            self.lru.fetched = address / u64::from(LINE);
        }
        quick
    }
    fn hot_generation(&self) -> u64 {
        self.lru.generation
    }
    fn count_hits(&mut self, _: u32, hits: u64, fetched: Option<u64>) {
        self.lru.hits += hits;
        if let Some(address) = fetched {
            self.lru.fetched = address / u64::from(LINE);
        }
    }
    fn peek_uncached(&mut self, address: u64, data: &mut [u8]) {
        data.copy_from_slice(&self.inner.peek(address, data.len()));
    }
    fn cache_op(&mut self, _: &RamAccess, op: CacheOp) {
        self.ops.push(op);
        if let CacheOp::Flush(address) = op {
            self.lru.flush(address);
        }
    }
    fn read(&mut self, cpu: u32, now: u64, address: u64, data: &mut [u8]) {
        self.inner.read(cpu, now, address, data);
    }
    fn write(&mut self, cpu: u32, now: u64, address: u64, data: &[u8]) {
        self.inner.write(cpu, now, address, data);
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

/// Sets registers for [`PROGRAM`].
fn set_up(world: &mut TestWorld, cpu: &mut Vcpu) {
    let source: Vec<u8> = (0..40).collect();
    world.poke(0x20000, &source);
    for (register, value) in
        [(reg::RSI, 0x20000), (reg::RDI, 0x21003), (reg::RCX, 40), (reg::RBX, 0x21003), (reg::RBP, 0x22000)]
    {
        cpu.gpr[register] = value;
    }
}

#[test]
fn every_access_is_shown_and_nothing_is_changed() {
    let (mut plain, mut world, mut code) = machine(&PROGRAM);
    set_up(&mut world, &mut plain);
    let (_, clock) = run(&mut plain, &mut world, &mut code, 0, 60);

    let (mut cpu, mut inner) = prepare(&PROGRAM);
    set_up(&mut inner, &mut cpu);
    let start = cpu.rip;
    let mut shown = Watching::everything(inner);
    assert_eq!(run(&mut cpu, &mut shown, &mut CodeCache::default(), 0, 60).1, clock);

    assert_eq!(cpu.gpr[..17], plain.gpr[..17]);
    assert_eq!(cpu.rip, plain.rip);
    assert_eq!(shown.inner.peek(0x21000, 0x1200), world.peek(0x21000, 0x1200));
    assert!(shown.was_read(0x20000) && shown.was_read(0x21003) && shown.was_read(0x21003 + 28));
    assert!(shown.was_read(0x1000), "the page walk is an access as well");
    let (_, sum) = *shown.writes.iter().find(|write| write.0 == 0x22100).unwrap();
    // Two instructions, five in each of eight rounds, and the one that stores.
    assert_eq!((sum.ip, sum.now, sum.kind), (start + 23, 3 + 8 * 4, MemoryType::WriteBack));
}

#[test]
fn fetches_are_of_lines_whatever_the_blocks() {
    // 70 bytes of NOP, then back: two lines in turn.
    let mut program = [0x90; 72];
    program[70..].copy_from_slice(&[0xeb, 0xb8]);
    let trace = |step: u64| {
        let (mut cpu, inner) = prepare(&program);
        let mut world = Watching::everything(inner);
        let mut code = CodeCache::default();
        let mut now = 0;
        while now < 150 {
            now = run(&mut cpu, &mut world, &mut code, now, (now + step).min(150)).1;
        }
        (cpu.rip, world.fetches)
    };
    let whole = trace(150);
    let start = whole.1[0].0;
    assert_eq!(start % 64, 0, "the test wants a program at a line's start");
    let lines: Vec<_> = whole.1.iter().map(|fetch| fetch.0 - start).collect();
    assert_eq!(lines, [0, 64, 0, 64, 0]);
    for step in [1, 7, 48] {
        assert_eq!(trace(step), whole, "{step} at a time");
    }
}

#[test]
fn an_instruction_in_two_lines_is_fetched_from_both() {
    let mut program = [0x90; 80];
    program[60..70].copy_from_slice(&[0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8]); // mov rax, imm64
    let (mut cpu, inner) = prepare(&program);
    let start = cpu.rip;
    let mut world = Watching::everything(inner);
    run(&mut cpu, &mut world, &mut CodeCache::default(), 0, 61);
    assert_eq!(world.fetches, [(start, 1), (start + 64, 6)]);
}

#[test]
fn hints_and_fences_are_shown() {
    let program = [
        0x0f, 0xc3, 0x07, // movnti [rdi], eax
        0x89, 0x47, 0x08, // mov [rdi + 8], eax
        0xf0, 0xff, 0x47, 0x10, // lock inc dword [rdi + 16]
        0x66, 0x0f, 0xae, 0x3f, // clflushopt [rdi]
        0x0f, 0xa2, // cpuid
        0x0f, 0xae, 0xf8, // sfence
        0x0f, 0x08, // invd
    ];
    let (mut cpu, inner) = prepare(&program);
    cpu.gpr[reg::RDI] = 0x20000;
    let mut world = Watching::everything(inner);
    run(&mut cpu, &mut world, &mut CodeCache::default(), 0, 7);
    let stores: Vec<_> = world.writes.iter().filter(|write| write.0 >= 0x20000).collect();
    let hints: Vec<_> = stores.iter().map(|store| (store.0, store.1.streaming)).collect();
    assert_eq!(hints, [(0x20000, true), (0x20008, false), (0x20010, false)]);
    use CacheOp::{Fence, FlushWeakly, InvalidateAll};
    assert_eq!(world.ops, [Fence, FlushWeakly(0x20000), Fence, Fence, InvalidateAll]);
}

#[test]
fn pages_have_the_types_that_registers_give_them() {
    // PAT entry 0 becomes WC, then CR0.CD is set.
    let program = [
        0x8b, 0x07, // mov eax, [rdi]
        0x0f, 0x30, // wrmsr
        0x8b, 0x07, // mov eax, [rdi]
        0x0f, 0x22, 0xc3, // mov cr0, rbx
        0x8b, 0x07, // mov eax, [rdi]
    ];
    let (mut cpu, inner) = prepare(&program);
    cpu.gpr[reg::RDI] = 0x20000;
    cpu.gpr[reg::RCX] = 0x277;
    cpu.gpr[reg::RDX] = 0x0007_0406;
    cpu.gpr[reg::RBX] = cpu.cr0 | cr0::CD;
    cpu.msr.mtrr.variable[0] = [0x12_1000, 0x3fff_ffff_f800];
    let mut world = Watching::everything(inner);
    let mut code = CodeCache::default();
    let kinds = |world: &Watching| -> Vec<_> {
        let operand = world.reads.iter().filter(|read| read.0 & !0xfff >= 0x20000);
        operand.map(|read| read.1.kind).collect()
    };
    run(&mut cpu, &mut world, &mut code, 0, 1);
    cpu.gpr[reg::RAX] = 0x0007_0401;
    run(&mut cpu, &mut world, &mut code, 1, 3);
    assert_eq!(kinds(&world), [MemoryType::WriteBack, MemoryType::WriteCombining]);
    cpu.msr.pat = 0x0007_0406_0007_0406;
    run(&mut cpu, &mut world, &mut code, 3, 5);
    assert_eq!(kinds(&world)[2], MemoryType::NoFill);
    cpu.gpr[reg::RDI] = 0x12_1000;
    cpu.rip -= 2;
    cpu.drop_caches();
    run(&mut cpu, &mut world, &mut code, 5, 6);
    assert_eq!(kinds(&world)[3], MemoryType::Uncacheable, "a range wins over the page");
}

#[test]
fn pages_are_shown_from_when_the_world_says_so() {
    let program = [
        0x89, 0x07, // mov [rdi], eax
        0x8b, 0x1f, // mov ebx, [rdi]
        0xeb, 0xfa, // back
    ];
    let (mut cpu, inner) = prepare(&program);
    cpu.gpr[reg::RDI] = 0x20000;
    let mut world = Watching::new(inner, Shown::Pages);
    let mut code = CodeCache::default();
    run(&mut cpu, &mut world, &mut code, 0, 6);
    assert_eq!((world.reads.len(), world.writes.len(), world.fetches.len()), (0, 0, 0));
    (world.page, world.generation) = (0x20000, 1);
    run(&mut cpu, &mut world, &mut code, 6, 12);
    assert_eq!((world.reads.len(), world.writes.len(), world.fetches.len()), (2, 2, 0));
    assert_eq!(world.reads[0].1.ip, world.writes[0].1.ip + 2);
}

/// Loads and stores all over 48 KiB from RBP on, as RSI's pseudo-random sequence has it, some across lines and pages, two that
/// always are of one line, now and then INVLPG and CLFLUSH, and back.
const WANDER: [u8; 77] = [
    0x48, 0x69, 0xf6, 0x6d, 0x4e, 0xc6, 0x41, // imul rsi, rsi, 1103515245
    0x48, 0x81, 0xc6, 0x39, 0x30, 0, 0, // add rsi, 12345
    0x48, 0x89, 0xf3, // mov rbx, rsi
    0x48, 0xc1, 0xeb, 0x0d, // shr rbx, 13
    0x81, 0xe3, 0xff, 0x7f, 0, 0, // and ebx, 0x7fff
    0x03, 0x04, 0x2b, // add eax, [rbx + rbp]
    0x48, 0x89, 0xf2, // mov rdx, rsi
    0x48, 0xc1, 0xea, 0x1d, // shr rdx, 29
    0x81, 0xe2, 0xff, 0x3f, 0, 0, // and edx, 0x3fff
    0x89, 0x84, 0x2a, 0, 0x80, 0, 0, // mov [rdx + rbp + 0x8000], eax
    0xff, 0x45, 0x10, // inc dword [rbp + 0x10]
    0x03, 0x45, 0x14, // add eax, [rbp + 0x14]
    0xf6, 0xc3, 0x1c, // test bl, 0x1c
    0x75, 0x04, // jne past the next
    0x0f, 0x01, 0x7d, 0, // invlpg [rbp]
    0xf6, 0xc3, 0x70, // test bl, 0x70
    0x75, 0x05, // jne past the next
    0x0f, 0xae, 0x7c, 0x2b, 0, // clflush [rbx + rbp]
    0xeb, 0xb3, // jmp
];

#[test]
fn what_is_not_asked_for_is_counted_as_if_it_were() {
    const END: u64 = 30_000;
    let outcome = |sets: u32, quick: bool, step: u64| {
        let (mut cpu, inner) = prepare(&WANDER);
        cpu.gpr[reg::RBP] = 0x20000;
        let mut world = Watching::cached(inner, sets, quick);
        let mut code = CodeCache::default();
        let mut now = 0;
        while now < END {
            now = run(&mut cpu, &mut world, &mut code, now, (now + step).min(END)).1;
        }
        let shown = world.reads.len() + world.writes.len() + world.fetches.len();
        let generation = std::mem::take(&mut world.lru.generation);
        assert!(generation > 100, "CLFLUSH is to be come to");
        (cpu.gpr[reg::RAX], world.inner.peek(0x20000, 0xd000), world.lru, shown)
    };
    // One or three have no rows, and of twelve each three share one; 4096 are more than a page has lines.
    for sets in [1, 2, 3, 4, 12, 64, 4096] {
        let asked = outcome(sets, false, END);
        assert!(asked.2.hits > 1000 && asked.2.misses > 100, "{sets} sets");
        for step in [END, 97, 1] {
            let quick = outcome(sets, true, step);
            assert_eq!(
                (quick.0, &quick.1, &quick.2),
                (asked.0, &asked.1, &asked.2),
                "{sets} sets, {step} at a time"
            );
            assert!(quick.3 < asked.3, "{sets} sets");
        }
    }
}
