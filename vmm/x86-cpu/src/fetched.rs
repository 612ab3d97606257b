//! Instruction fetches as accesses to lines, and what else happens around an instruction where a world is shown accesses.
//!
//! A fetch is an access when the line differs from the one that this vCPU fetched from last, whatever the blocks look like.

use crate::block::{Block, Op};
use crate::memory::MemoryType;
use crate::memory::tlb::PAGE_MASK;
use crate::state::Vcpu;
use crate::world::{CacheOp, Shown, World};
use iced_x86::{Instruction, Mnemonic, OpKind};

/// Marks of an [`Op`].
pub(crate) mod mark {
    /// It is the first of its block, or not all in the line in which the one before it ends.
    pub const FETCHES: u8 = 1;
    /// Weakly ordered stores and flushes complete before it.
    pub const FENCES: u8 = 2;
}

/// What a vCPU fetched last.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    /// Guest-physical address of the line; at first none: it is not aligned.
    line: u64,
    /// What it was when the world heard of a fetch last.
    told: u64,
    /// Address bits that name a line.
    mask: u64,
}

/// Nothing was fetched yet. Like [`ASK`] no line's address.
const NOWHERE: u64 = u64::MAX;

/// More is to be done before a block's first operation than to compare lines.
const ASK: u64 = 1;

impl Default for Fetched {
    fn default() -> Self {
        Self { line: NOWHERE, told: NOWHERE, mask: 0 }
    }
}

impl Fetched {
    /// A run begins on a world that shows this.
    pub(crate) fn enter(&mut self, shown: Shown) {
        if let Shown::Everything { line, .. } = shown {
            self.mask = !(u64::from(line) - 1);
        }
    }
}

/// Whether weakly ordered stores complete before `instruction`: it is serialising (SDM volume 3, 9.3) or locked, or accesses
/// I/O ports (SDM volume 3, 12.3.1).
fn fences(instruction: &Instruction) -> bool {
    let control = |kind: OpKind| {
        kind == OpKind::Register && (instruction.op0_register().is_cr() || instruction.op0_register().is_dr())
    };
    match instruction.mnemonic() {
        Mnemonic::Cpuid
        | Mnemonic::Iret
        | Mnemonic::Iretd
        | Mnemonic::Iretq
        | Mnemonic::Wrmsr
        | Mnemonic::Lgdt
        | Mnemonic::Lidt
        | Mnemonic::Lldt
        | Mnemonic::Ltr
        | Mnemonic::Invlpg
        | Mnemonic::Invpcid
        | Mnemonic::Invd
        | Mnemonic::Wbinvd
        | Mnemonic::In
        | Mnemonic::Out
        | Mnemonic::Insb
        | Mnemonic::Insw
        | Mnemonic::Insd
        | Mnemonic::Outsb
        | Mnemonic::Outsw
        | Mnemonic::Outsd => true,
        Mnemonic::Mov => control(instruction.op0_kind()),
        Mnemonic::Xchg => {
            instruction.op0_kind() == OpKind::Memory || instruction.op1_kind() == OpKind::Memory
        }
        _ => instruction.has_lock_prefix(),
    }
}

/// Marks `op`, decoded at guest-physical `phys` from `instruction`, for a world that `shown` says what it sees; `previous` is
/// the address of the last byte before it, unless it is the first of its block.
pub(crate) fn mark<W: World>(
    op: &mut Op<W>,
    instruction: &Instruction,
    shown: Shown,
    phys: u64,
    previous: Option<u64>,
) {
    if shown == Shown::Nothing {
        return;
    }
    if fences(instruction) {
        op.marks |= mark::FENCES;
    }
    if let Shown::Everything { line, .. } = shown {
        let last = phys + u64::from(op.len).saturating_sub(1);
        let line = u64::from(line);
        if previous.is_none_or(|previous| previous / line != phys / line || phys / line != last / line) {
            op.marks |= mark::FETCHES;
        }
    }
}

/// Notes in the operations of a block where in it they are, and how many follow each without marks.
pub(crate) fn arrange<W: World>(ops: &mut [Op<W>]) {
    let mut unmarked = 0_u8;
    for (index, op) in (0..ops.len() as u32).zip(ops).rev() {
        op.place |= index;
        op.stretch = unmarked.saturating_add(1);
        unmarked = if op.marks == 0 { op.stretch } else { 0 };
    }
}

/// The line from which the first operation of a block at guest-physical `phys` is fetched, if nothing else is to be done before
/// it; [`NOWHERE`] if not even that, as where fetches are not shown.
pub(crate) fn first_line<W: World>(ops: &[Op<W>], phys: u64, kind: MemoryType, shown: Shown) -> u64 {
    let Some(first) = ops.first() else { return ASK };
    match shown {
        _ if first.marks == 0 => NOWHERE,
        Shown::Everything { line, .. } if first.marks == mark::FETCHES && kind.hits() => {
            let mask = !(u64::from(line) - 1);
            let last = phys + u64::from(first.len).saturating_sub(1);
            if (phys ^ last) & mask == 0 { phys & mask } else { ASK }
        }
        _ => ASK,
    }
}

impl Vcpu {
    /// Does what the marks of the first operation of `block` ask for before it runs.
    #[inline(always)]
    pub(crate) fn before_first<W: World>(&mut self, world: &mut W, block: &Block<W>, op: &Op<W>) {
        let line = block.first_line;
        if line == self.fetched.line {
            return;
        }
        if line == ASK {
            self.before_marked(world, block, op);
        } else if self.tlb.lines.physical_load(line) {
            self.fetched.line = line;
        } else {
            self.fetch_asking(world, block.kind, block.phys, op.len.into());
        }
    }

    /// Does what the marks of `op` ask for before it runs.
    #[inline(always)]
    pub(crate) fn before_marked<W: World>(&mut self, world: &mut W, block: &Block<W>, op: &Op<W>) {
        if op.marks == mark::FETCHES {
            let first = block.phys + u64::from(op.offset());
            let last = first + u64::from(op.len).saturating_sub(1);
            let mask = self.fetched.mask;
            let (begins, ends) = (first & mask, last & mask);
            if ends == self.fetched.line && begins == ends {
                return;
            }
            // Mostly an instruction begins in the line that was fetched from and ends in the next.
            let one = begins == ends || begins == self.fetched.line && (first ^ last) & PAGE_MASK == 0;
            if one && block.kind.hits() && self.tlb.lines.physical_load(ends) {
                self.fetched.line = ends;
                return;
            }
        }
        self.before_marked_asking(world, block, op);
    }

    #[inline(never)]
    fn before_marked_asking<W: World>(&mut self, world: &mut W, block: &Block<W>, op: &Op<W>) {
        self.op_index = op.place;
        if op.marks & mark::FENCES != 0 {
            self.fence_pending(world);
        }
        if op.marks & mark::FETCHES != 0 {
            let first = block.phys + u64::from(op.offset());
            let last = first + u64::from(op.len).saturating_sub(1);
            let mask = self.fetched.mask;
            if ((first ^ self.fetched.line) | (last ^ self.fetched.line)) & mask != 0 {
                self.fetch_lines(world, block, op, first, last);
            }
        }
    }

    fn fetch_lines<W: World>(&mut self, world: &mut W, block: &Block<W>, op: &Op<W>, first: u64, last: u64) {
        let mask = self.fetched.mask;
        if (first ^ self.fetched.line) & mask != 0 {
            let end = last.min(first | !mask);
            self.fetch_line(world, block.kind, first, (end - first + 1) as usize);
        }
        if (last ^ self.fetched.line) & mask != 0 {
            // An instruction that crosses pages goes on elsewhere.
            let at = match block.crosses {
                Some(second) if (first ^ last) & PAGE_MASK != 0 => second,
                _ => last & mask,
            };
            let beyond = (last & mask) - first;
            self.fetch_line(world, block.kind, at, usize::from(op.len).saturating_sub(beyond as usize));
        }
    }

    fn fetch_line<W: World>(&mut self, world: &mut W, kind: MemoryType, address: u64, len: usize) {
        if kind.hits() && self.tlb.lines.physical_load(address) {
            self.fetched.line = address & self.fetched.mask;
        } else {
            self.fetch_asking(world, kind, address, len);
        }
    }

    /// The same where the line is not hot.
    #[inline(never)]
    fn fetch_asking<W: World>(&mut self, world: &mut W, kind: MemoryType, address: u64, len: usize) {
        let previous = std::mem::replace(&mut self.fetched.line, address & self.fetched.mask);
        if self.fetched.told == self.fetched.line {
            // The world is not to take it for the same line again.
            self.tell_hits(world, previous);
        }
        self.fetched.told = self.fetched.line;
        if kind.hits()
            && (world.fetch_hit(self.id, address) || world.fetch_miss(&self.ram_access(kind), address))
        {
            self.tlb.lines.install_physical(address);
            return;
        }
        world.fetch(&self.ram_access(kind), address, len);
        self.tlb.lines.displace(address, len);
        self.heed(world);
    }

    /// Tells the world of hits that it was not asked about; the last fetch before now was from `line`.
    fn tell_hits<W: World>(&mut self, world: &mut W, line: u64) {
        let hits = self.tlb.lines.take_hits();
        if hits != 0 {
            world.count_hits(self.id, hits, (line != self.fetched.told).then_some(line));
            self.fetched.told = line;
        }
    }

    /// A run ends: the world is to know of everything.
    pub(crate) fn leave_lines<W: World>(&mut self, world: &mut W) {
        self.tell_hits(world, self.fetched.line);
    }

    /// SFENCE and what is as strong.
    pub(crate) fn fence<W: World>(&mut self, world: &mut W) {
        self.unfenced = false;
        world.cache_op(&self.ram_access(MemoryType::WriteBack), CacheOp::Fence);
        self.heed_outside(world);
    }

    /// A fence that an instruction implies, if anything waits for one.
    #[inline]
    fn fence_pending<W: World>(&mut self, world: &mut W) {
        if self.unfenced {
            self.fence(world);
        }
    }

    /// What is combined goes to memory, but flushes may still wait: an access to uncached memory or a device, an interrupt.
    #[inline]
    pub(crate) fn drain<W: World>(&mut self, world: &mut W) {
        if self.unfenced && world.shown() != Shown::Nothing {
            world.cache_op(&self.ram_access(MemoryType::WriteBack), CacheOp::Drain);
            self.heed_outside(world);
        }
    }

    /// Runs an instruction whose stores have the non-temporal hint.
    pub(crate) fn streaming<W: World>(
        &mut self,
        world: &mut W,
        run: impl FnOnce(&mut Self, &mut W) -> Result<(), crate::fault::Fault>,
    ) -> Result<(), crate::fault::Fault> {
        self.streaming = true;
        let result = run(self, world);
        self.streaming = false;
        result
    }
}
