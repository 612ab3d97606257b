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
    /// Address bits that name a line.
    mask: u64,
}

impl Default for Fetched {
    fn default() -> Self {
        Self { line: u64::MAX, mask: 0 }
    }
}

impl Fetched {
    /// A run begins on a world that shows this.
    pub(crate) fn enter(&mut self, shown: Shown) {
        if let Shown::Everything { line } = shown {
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
    if let Shown::Everything { line } = shown {
        let last = phys + u64::from(op.len).saturating_sub(1);
        let line = u64::from(line);
        if previous.is_none_or(|previous| previous / line != phys / line || phys / line != last / line) {
            op.marks |= mark::FETCHES;
        }
    }
}

impl Vcpu {
    /// Does what the marks of `op` ask for before it runs.
    #[inline(never)]
    pub(crate) fn before_marked<W: World>(&mut self, world: &mut W, block: &Block<W>, op: &Op<W>) {
        if op.marks & mark::FENCES != 0 {
            self.fence_pending(world);
        }
        if op.marks & mark::FETCHES != 0 {
            let first = block.phys + u64::from(op.offset);
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
        self.fetched.line = address & self.fetched.mask;
        if !(kind.hits() && world.fetch_hit(self.id, address)) {
            world.fetch(&self.ram_access(kind), address, len);
            self.heed(world);
        }
    }

    /// SFENCE and what is as strong.
    pub(crate) fn fence<W: World>(&mut self, world: &mut W) {
        self.unfenced = false;
        world.cache_op(&self.ram_access(MemoryType::WriteBack), CacheOp::Fence);
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
