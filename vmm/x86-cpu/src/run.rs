//! The execution loop: finds blocks, runs their operations, delivers what interrupts them.

use crate::block::{self, Block, Link};
use crate::debug::dr6;
use crate::decode::decode_block;
use crate::fault::Fault;
use crate::fetched::Fetched;
use crate::flags::bits;
use crate::mode::Mode;
use crate::probes::{Fresh, Probes};
use crate::shared_code::SharedCode;
use crate::state::{Activity, Vcpu, seg, slot};
use crate::world::{Shown, World};
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

/// Why [`run`] came back. The clock is returned beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The clock reached the limit given.
    Deadline,
    /// The vCPU touched a device, changed an interrupt flag's effect or was told to look outside: deadlines may have
    /// moved. Run it again.
    Attention,
    /// PAUSE: let another vCPU run.
    Yield,
    /// HLT, or a halted vCPU without a wake-up.
    Halted,
    /// Waiting for a start-up IPI.
    WaitForSipi,
    /// Triple fault.
    Shutdown,
}

/// Blocks decoded beyond which all are discarded, so that a guest cannot make the cache grow without bound.
const MAX_BLOCKS: usize = 1 << 18;
const LOOKUP_ENTRIES: usize = 1 << 13;
/// Exceptions delivered without an instruction retired, after which the loop lets its caller look at the time.
const MAX_BARREN_EXCEPTIONS: u32 = 1000;

/// A multiplicative hasher for block keys: no guest-visible order depends on it.
#[derive(Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u16(&mut self, value: u16) {
        self.write_u64(u64::from(value));
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }
}

type Index = HashMap<(u64, Mode), u32, BuildHasherDefault<KeyHasher>>;

#[derive(Clone, Copy)]
struct Lookup {
    epoch: u64,
    rip: u64,
    mode: Mode,
    block: u32,
}

/// Decoded blocks of all vCPUs, keyed by guest-physical address and mode. A cache: it can be dropped at any time.
pub struct CodeCache<W: World> {
    blocks: Vec<Block<W>>,
    index: Index,
    by_page: HashMap<u64, Vec<u32>, BuildHasherDefault<KeyHasher>>,
    lookup: Box<[Lookup; LOOKUP_ENTRIES]>,
    /// Counts discards: links and lookups of a vCPU that has seen fewer may lead to blocks that are gone.
    version: u64,
    /// What other machines have decoded.
    shared: Option<Arc<SharedCode<W>>>,
}

impl<W: World> fmt::Debug for CodeCache<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodeCache").field("blocks", &self.blocks.len()).finish_non_exhaustive()
    }
}

impl<W: World> Default for CodeCache<W> {
    fn default() -> Self {
        let none = Lookup { epoch: u64::MAX, rip: 0, mode: Mode::default(), block: 0 };
        Self {
            blocks: Vec::new(),
            index: Index::default(),
            by_page: HashMap::default(),
            lookup: Box::new([none; LOOKUP_ENTRIES]),
            version: 0,
            shared: None,
        }
    }
}

impl<W: World> CodeCache<W> {
    /// An empty cache that decodes nothing again that is in `shared`, and adds to it.
    #[must_use]
    pub fn sharing(shared: Arc<SharedCode<W>>) -> Self {
        Self { shared: Some(shared), ..Self::default() }
    }

    /// Drops everything.
    pub fn reset(&mut self) {
        *self = Self { shared: self.shared.take(), ..Self::default() };
    }

    /// Number of blocks decoded and kept, for statistics.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks.len()
    }
    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The block at the vCPU's RIP, if it was found there before in this epoch and mode.
    #[inline(always)]
    fn looked_up(&self, cpu: &Vcpu) -> Option<u32> {
        let seen = &self.lookup[lookup_slot(cpu.rip)];
        (seen.epoch == cpu.epoch && seen.rip == cpu.rip && seen.mode == cpu.mode).then_some(seen.block)
    }

    fn add(&mut self, block: Block<W>) -> u32 {
        let number = self.blocks.len() as u32;
        self.by_page.entry(block.phys >> 12).or_default().push(number);
        if let Some(second) = block.crosses {
            self.by_page.entry(second >> 12).or_default().push(number);
        }
        self.index.insert(block.key(), number);
        self.blocks.push(block);
        number
    }

    /// Puts a block in the place of one that it has the name of.
    fn replace(&mut self, number: u32, block: Block<W>) -> u32 {
        let place = &mut self.blocks[number as usize];
        if let Some(second) = block.crosses.filter(|_| block.crosses != place.crosses) {
            self.by_page.entry(second >> 12).or_default().push(number);
        }
        *place = block;
        number
    }

    /// Discards the blocks of pages that were written.
    fn discard(&mut self, pages: Vec<u64>) {
        self.version += 1;
        for page in pages {
            for number in self.by_page.remove(&page).unwrap_or_default() {
                let block = &mut self.blocks[number as usize];
                if block.valid {
                    block.empty();
                    self.index.remove(&block.key());
                }
            }
        }
    }

    /// Has no block lead past the addresses that have become probes.
    fn split(&mut self, fresh: Vec<Fresh>) {
        for Fresh { linear, phys } in fresh {
            let Some(phys) = phys else { continue };
            let over = |block: &Block<W>| {
                block.valid && (block.phys..block.phys + u64::from(block.len)).contains(&phys)
            };
            let mut numbers = self.by_page.get(&(phys >> 12)).cloned().unwrap_or_default();
            numbers.retain(|&number| over(&self.blocks[number as usize]));
            for &number in &numbers {
                let block = &mut self.blocks[number as usize];
                block.empty();
                self.index.remove(&block.key());
            }
            if numbers.is_empty() {
                continue;
            }
            log::trace!("{} blocks make way for a probe at {linear:#x}", numbers.len());
            for seen in self.lookup.iter_mut().filter(|seen| numbers.contains(&seen.block)) {
                seen.epoch = u64::MAX;
            }
        }
    }

    fn clear(&mut self) {
        self.version += 1;
        self.blocks.clear();
        self.index.clear();
        self.by_page.clear();
    }
}

impl Vcpu {
    /// Linear address of the next instruction.
    #[inline(always)]
    #[must_use]
    pub fn linear_ip(&self) -> u64 {
        if self.mode.is_64() {
            self.rip
        } else {
            self.segs[seg::CS].base.wrapping_add(self.rip) & 0xffff_ffff
        }
    }

    /// Forgets translations. To be called together with dropping the [`CodeCache`] and [`CodePages`] of the machine.
    pub fn drop_caches(&mut self) {
        self.tlb = crate::memory::tlb::Tlb::default();
        self.update_mode();
        self.epoch = 0;
        self.fetched = Fetched::default();
        self.unfenced = true;
    }

    /// Starts a new translation context: block links and lookups of the old one no longer count.
    pub(crate) fn new_epoch<W: World>(&mut self, world: &mut W) {
        self.epoch = world.code_pages().next_epoch();
        self.tlb.forget_fetched();
    }
}

/// Where in the lookup table the block at `rip` would be.
#[inline(always)]
const fn lookup_slot(rip: u64) -> usize {
    (rip ^ rip >> 13) as usize & (LOOKUP_ENTRIES - 1)
}

/// Finds or decodes the block at the vCPU's RIP.
fn find<W: World>(cpu: &mut Vcpu, world: &mut W, code: &mut CodeCache<W>) -> Result<u32, Fault> {
    if let Some(number) = code.looked_up(cpu) {
        return Ok(number);
    }
    let (phys, kind) = cpu.fetch_address(world, cpu.linear_ip())?;
    let mut found = code.index.get(&block::key(phys, kind, cpu.mode)).copied();
    if let Some(number) = found
        && !cpu.mode.is_64()
        && cpu.rip + u64::from(code.blocks[number as usize].len) - 1 > u64::from(cpu.segs[seg::CS].limit)
    {
        // Decoded under another code segment's limit.
        found = None;
    }
    if let Some(number) = found
        && let Some(second) = code.blocks[number as usize].crosses
    {
        let next_page = (cpu.linear_ip() | 0xfff).wrapping_add(1);
        let next_page = if cpu.mode.is_64() { next_page } else { next_page & 0xffff_ffff };
        if cpu.fetch_address(world, next_page)?.0 != second {
            found = None;
        }
    }
    if let Some(number) = found {
        let linear = cpu.linear_ip();
        let block = &code.blocks[number as usize];
        if world.probes().is_some_and(|probes| !probes.agree(block, linear)) {
            // Decoded at another linear address.
            found = None;
        }
    }
    let known = found.filter(|&number| code.blocks[number as usize].refetched);
    let number = match found {
        Some(number) if known.is_none() => number,
        _ => {
            if code.blocks.len() >= MAX_BLOCKS {
                code.clear();
                world.code_pages().clear();
                cpu.new_epoch(world);
                cpu.tlb.code_version = code.version;
            }
            let block = decode_block(cpu, world, (phys, kind), code.shared.as_deref())?;
            match known.filter(|&number| code.blocks.len() > number as usize) {
                Some(number) => code.replace(number, block),
                None => code.add(block),
            }
        }
    };
    if code.blocks[number as usize].is_followed() {
        code.lookup[lookup_slot(cpu.rip)] =
            Lookup { epoch: cpu.epoch, rip: cpu.rip, mode: cpu.mode, block: number };
    }
    Ok(number)
}

/// How a block ended.
enum Ended {
    /// Every operation ran, nothing else happened: the next block may follow at once.
    Plainly,
    /// The budget ran out, an operation asked for attention, or a single step is due.
    Early,
    /// The operation at this index raised a fault.
    Faulted(Fault, u32),
}

/// Executes operations of `block` until its end, `cpu.limit` or a fault; the caller has set `limit` to at most the length.
#[inline(always)]
fn execute<W: World, const SHOWN: bool>(
    cpu: &mut Vcpu,
    world: &mut W,
    block: &Block<W>,
) -> (u32, Option<Fault>) {
    let mut done = 0_u32;
    let mut rest = &block.ops[..];
    if SHOWN && let Some(first) = rest.first() {
        cpu.before_first(world, block, first);
    }
    loop {
        let unmarked = rest.first().map_or(0, |op| usize::from(op.stretch));
        let (stretch, after) = if SHOWN { rest.split_at(unmarked.min(rest.len())) } else { (rest, &[][..]) };
        for op in stretch {
            cpu.op_index = if SHOWN { op.place } else { done };
            if let Err(raised) = (op.run)(cpu, world, op) {
                return (done, Some(raised));
            }
            done += 1;
            if done >= cpu.limit {
                return (done, None);
            }
        }
        let Some(marked) = after.first() else { return (done, None) };
        cpu.before_marked(world, block, marked);
        rest = after;
    }
}

/// Runs `block` with at most `budget` instructions left, and leaves RIP and the clock after what was retired.
#[inline(always)]
fn run_block<W: World, const SHOWN: bool>(
    cpu: &mut Vcpu,
    world: &mut W,
    block: &Block<W>,
    budget: u64,
) -> Ended {
    let count = block.ops.len() as u32;
    let limit = budget.min(u64::from(count)) as u32;
    let start = cpu.rip;
    cpu.limit = limit;
    cpu.gpr[slot::BLOCK as usize] = start;
    let (done, fault) = execute::<W, SHOWN>(cpu, world, block);
    cpu.block_clock += u64::from(done);
    cpu.op_index = 0;
    if done == count {
        if !block.branches {
            cpu.rip = block.mode.mask_ip(start.wrapping_add(u64::from(block.len)));
        }
        return if cpu.limit == count { Ended::Plainly } else { Ended::Early };
    }
    let offset = block.ops.get(done as usize).map_or(block.len, |op| op.offset());
    cpu.rip = block.mode.mask_ip(start.wrapping_add(u64::from(offset)));
    match fault {
        Some(fault) => Ended::Faulted(fault, done),
        None => Ended::Early,
    }
}

/// Runs blocks from number `number` on, each from the one before by its link or by what was looked up before; only the
/// first, if that is to be an instruction alone or breakpoints are to be looked for between blocks. Returns how and in
/// which block it ended, and which of that block's links is to lead to the next one, if that is still to be found. `SHOWN` says
/// whether the world is shown accesses to RAM.
#[inline(never)]
fn run_chain<W: World, const SHOWN: bool>(
    cpu: &mut Vcpu,
    world: &mut W,
    code: &mut CodeCache<W>,
    mut number: u32,
    single: bool,
    until: u64,
) -> (Ended, u32, Option<usize>) {
    let alone = single || cpu.debug.code;
    loop {
        let block = &code.blocks[number as usize];
        let start = cpu.rip;
        let budget = if single { 1 } else { until - cpu.block_clock };
        let ended = run_block::<W, SHOWN>(cpu, world, block, budget);
        if !matches!(ended, Ended::Plainly) || alone || cpu.block_clock >= until {
            return (ended, number, None);
        }
        let taken = usize::from(cpu.rip != start.wrapping_add(u64::from(block.len)));
        let link = block.links[taken];
        if link.epoch == cpu.epoch && link.rip == cpu.rip {
            number = link.block;
            continue;
        }
        let Some(next) = code.looked_up(cpu) else {
            return (ended, number, Some(taken));
        };
        code.blocks[number as usize].links[taken] = Link { epoch: cpu.epoch, rip: cpu.rip, block: next };
        number = next;
    }
}

/// Runs `cpu` from clock `now` until the clock reaches `until` or something needs the machine. Returns the clock.
///
/// The clock counts instructions retired by all vCPUs: it advances by one for each instruction here, whatever the
/// blocks look like.
pub fn run<W: World>(
    cpu: &mut Vcpu,
    world: &mut W,
    code: &mut CodeCache<W>,
    now: u64,
    until: u64,
) -> (Exit, u64) {
    enter(cpu, world, code.version, now);
    let exit = run_entered(cpu, world, code, until);
    cpu.leave_lines(world);
    (exit, cpu.block_clock)
}

fn run_entered<W: World>(cpu: &mut Vcpu, world: &mut W, code: &mut CodeCache<W>, until: u64) -> Exit {
    split_at_new_probes(world, code);
    let mut barren = 0;
    // Where the world was called last.
    let mut probed = None;
    // The block and the link through which the next one is entered, if the last one ended plainly.
    let mut from: Option<(u32, usize)> = None;
    loop {
        if world.code_pages().has_stale() {
            let pages = world.code_pages().take_stale();
            code.discard(pages);
            cpu.new_epoch(world);
            cpu.tlb.code_version = code.version;
            from = None;
        }
        let mut single = false;
        if cpu.attention || cpu.recheck {
            cpu.attention = false;
            cpu.recheck = false;
            match take_interrupts(cpu, world) {
                Taken::Stopped(exit) => return exit,
                Taken::Held => single = true,
                Taken::Nothing => {}
            }
            from = None;
        }
        raise_debug_traps(cpu, world, &mut barren);
        // A debug trap that waits behind a load of SS follows the next instruction.
        single |= cpu.single_steps() || cpu.debug.pending != 0;
        if cpu.block_clock >= until {
            cpu.attention = true;
            return Exit::Deadline;
        }

        if cpu.debug.code && cpu.system_flags & bits::RF == 0 && !cpu.stack_load_shadow() {
            let met = cpu.code_breakpoints();
            if met != 0 {
                from = None;
                barren += 1;
                debug_exception(cpu, world, met);
                if barren > MAX_BARREN_EXCEPTIONS || cpu.activity != Activity::Running {
                    return leave(cpu);
                }
                continue;
            }
        }
        let mut number = match find(cpu, world, code) {
            Ok(number) => number,
            Err(fault) => {
                from = None;
                barren += 1;
                crate::interrupt::raise(cpu, world, fault.resolve(false));
                if barren > MAX_BARREN_EXCEPTIONS || cpu.activity != Activity::Running {
                    return leave(cpu);
                }
                continue;
            }
        };
        if !code.blocks[number as usize].is_followed() {
            from = None;
        }
        if code.blocks[number as usize].probed {
            let here = (cpu.block_clock, cpu.linear_ip());
            if probed != Some(here) {
                probed = Some(here);
                if world.probes().is_some_and(|probes| probes.contains(here.1)) {
                    world.probe(cpu, here.0);
                    split_at_new_probes(world, code);
                    // The block may have made way itself.
                    continue;
                }
            }
        }
        if let Some((previous, link)) = from.take()
            && let Some(previous) = code.blocks.get_mut(previous as usize)
        {
            previous.links[link] = Link { epoch: cpu.epoch, rip: cpu.rip, block: number };
        }

        // RF serves one instruction, from the check above on (SDM volume 3, 18.3.1.1).
        cpu.system_flags &= !bits::RF;
        let trap = cpu.single_steps();
        single |= cpu.debug.code && cpu.breaks_within(&code.blocks[number as usize]);
        let first = cpu.rip;
        let (ended, taken);
        (ended, number, taken) = match world.shown() {
            Shown::Nothing => run_chain::<W, false>(cpu, world, code, number, single, until),
            Shown::Pages | Shown::Everything { .. } => {
                run_chain::<W, true>(cpu, world, code, number, single, until)
            }
        };
        from = taken.map(|link| (number, link));

        match ended {
            Ended::Faulted(raised, done) => {
                barren = if done == 0 { barren + 1 } else { 1 };
                if raised.is_restart() {
                    // What comes between two iterations saves RF set.
                    cpu.system_flags |= bits::RF;
                    if trap && !cpu.msr.steps_branches() {
                        cpu.debug.pending |= dr6::BS;
                    }
                    cpu.attention |= cpu.debug.pending == 0;
                } else {
                    let op = code.blocks[number as usize].ops.get(done as usize);
                    let stack = op.is_some_and(|op| usize::from(op.seg) == seg::SS);
                    cpu.debug.pending = 0;
                    crate::interrupt::raise(cpu, world, raised.resolve(stack));
                }
            }
            Ended::Plainly | Ended::Early => {
                barren = 0;
                if trap && steps(cpu, &code.blocks[number as usize], first) {
                    cpu.debug.pending |= dr6::BS;
                }
            }
        }
        raise_debug_traps(cpu, world, &mut barren);
        if cpu.activity == Activity::Halted {
            // An interrupt that waited for HLT (behind STI) ends it at once.
            cpu.recheck = true;
            continue;
        }
        if cpu.activity != Activity::Running || cpu.yielded || barren > MAX_BARREN_EXCEPTIONS || cpu.attention
        {
            return leave(cpu);
        }
    }
}

/// Acts on what has been added to the world's probes.
fn split_at_new_probes<W: World>(world: &mut W, code: &mut CodeCache<W>) {
    let fresh = world.probes().map(Probes::take_fresh);
    if let Some(fresh) = fresh.filter(|fresh| !fresh.is_empty()) {
        code.split(fresh);
    }
}

/// Whether the instruction that `block` began with at `start` is followed by a single-step trap; with DEBUGCTL.BTF only a
/// branch is (SDM volume 3, 18.4.3).
#[cold]
fn steps<W: World>(cpu: &Vcpu, block: &Block<W>, start: u64) -> bool {
    cpu.trap_inhibit_at != cpu.block_clock && (!cpu.msr.steps_branches() || block.branched(start, cpu.rip))
}

/// Raises the debug traps that are due, also those that the delivery of an event brought about.
#[inline(always)]
fn raise_debug_traps<W: World>(cpu: &mut Vcpu, world: &mut W, barren: &mut u32) {
    while cpu.debug.pending != 0 && !cpu.stack_load_shadow() && *barren <= MAX_BARREN_EXCEPTIONS {
        *barren += 1;
        let reasons = std::mem::take(&mut cpu.debug.pending);
        debug_exception(cpu, world, reasons);
    }
}

/// Raises #DB for the reasons `bits` of DR6.
#[cold]
fn debug_exception<W: World>(cpu: &mut Vcpu, world: &mut W, bits: u64) {
    cpu.dr[6] |= bits;
    crate::interrupt::raise(cpu, world, Fault::DB);
}

/// Prepares a run: everything outside may have changed since the last one.
fn enter<W: World>(cpu: &mut Vcpu, world: &mut W, code_version: u64, now: u64) {
    // The shadow of STI or MOV SS lasts until this vCPU's next instruction, whatever the others did meanwhile.
    for shadow in [&mut cpu.inhibit_at, &mut cpu.trap_inhibit_at] {
        if *shadow == cpu.block_clock {
            *shadow = now;
        }
    }
    cpu.block_clock = now;
    cpu.op_index = 0;
    cpu.yielded = false;
    cpu.attention = true;
    let generation = world.code_pages().generation();
    if cpu.tlb.code_generation != generation {
        cpu.tlb.code_generation = generation;
        cpu.tlb.guard_all();
    }
    cpu.heed_labels(world);
    cpu.fetched.enter(world.shown());
    cpu.tlb.lines.enter(world.shown(), world.hot_generation(), cpu.count > 1);
    if cpu.tlb.shown_generation != world.shown_generation() {
        cpu.tlb.shown_generation = world.shown_generation();
        cpu.tlb.show(|frame, kind| world.shows_page(frame, kind));
    }
    if cpu.epoch == 0 || cpu.tlb.code_version != code_version {
        cpu.tlb.code_version = code_version;
        cpu.new_epoch(world);
    }
}

/// What stopped the vCPU.
fn leave(cpu: &mut Vcpu) -> Exit {
    cpu.attention = true;
    match cpu.activity {
        Activity::Halted => Exit::Halted,
        Activity::WaitForSipi => Exit::WaitForSipi,
        Activity::Shutdown => Exit::Shutdown,
        Activity::Running if cpu.yielded => Exit::Yield,
        Activity::Running => Exit::Attention,
    }
}

/// What a look at interrupts led to.
enum Taken {
    Nothing,
    /// An interrupt waits behind the shadow of STI or MOV SS: one instruction goes first, then look again.
    Held,
    /// The vCPU cannot run.
    Stopped(Exit),
}

/// Delivers an NMI or interrupt if one can be taken now; wakes a halted vCPU.
fn take_interrupts<W: World>(cpu: &mut Vcpu, world: &mut W) -> Taken {
    match cpu.activity {
        Activity::Shutdown => return Taken::Stopped(Exit::Shutdown),
        Activity::WaitForSipi => return Taken::Stopped(Exit::WaitForSipi),
        Activity::Running | Activity::Halted => {}
    }
    let held = cpu.inhibit_at == cpu.block_clock;
    if !cpu.nmi_blocked && !held && world.take_nmi(cpu.id) {
        cpu.nmi_blocked = true;
        crate::interrupt::external(cpu, world, 2);
    }
    if world.interrupt_pending(cpu.id) && cpu.system_flags & bits::IF != 0 {
        if held {
            cpu.recheck = true;
            return Taken::Held;
        }
        if let Some(vector) = world.acknowledge_interrupt(cpu.id, cpu.block_clock) {
            crate::interrupt::external(cpu, world, vector);
        }
    }
    match cpu.activity {
        Activity::Running => Taken::Nothing,
        Activity::Halted => Taken::Stopped(Exit::Halted),
        Activity::WaitForSipi => Taken::Stopped(Exit::WaitForSipi),
        Activity::Shutdown => Taken::Stopped(Exit::Shutdown),
    }
}
