//! Breakpoints of the debug registers, and the debug exceptions that wait for the end of an instruction (SDM volume 3,
//! 18.2 and 18.3).

use crate::block::Block;
use crate::state::{Vcpu, cr4};
use crate::world::World;
use serde::{Deserialize, Serialize};

/// DR6 bits.
pub(crate) mod dr6 {
    /// Bits that read as 1.
    pub const FIXED: u64 = 0xffff_0ff0;
    pub const WRITABLE: u64 = BT | BS | BD | 15;
    /// A debug register was accessed under DR7.GD.
    pub const BD: u64 = 1 << 13;
    /// Single step.
    pub const BS: u64 = 1 << 14;
    /// Switch to a task whose TSS has the T flag.
    pub const BT: u64 = 1 << 15;
}

/// DR7 bits.
pub(crate) mod dr7 {
    pub const FIXED: u64 = 1 << 10;
    pub const WRITABLE: u64 = 0xffff_23ff;
    /// General detect: an access to a debug register raises #DB.
    pub const GD: u64 = 1 << 13;
    /// The local enable bits, which a task switch clears.
    pub const LOCAL: u64 = 0x155;
}

/// What a breakpoint waits for (DR7.R/W).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Execute,
    Write,
    Port,
    Access,
}

/// An enabled breakpoint.
#[derive(Debug, Clone, Copy)]
struct Breakpoint {
    /// 0-3, also its bit in DR6.
    number: usize,
    kind: Kind,
    /// First address, aligned to the length.
    address: u64,
    /// Length in bytes: 1, 2, 4 or 8.
    len: u64,
}

impl Breakpoint {
    fn overlaps(self, address: u64, len: u64) -> bool {
        self.address.wrapping_sub(address) < len || address.wrapping_sub(self.address) < self.len
    }
}

/// Which breakpoints are enabled, in the short; and debug exceptions under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debug {
    /// A breakpoint on instructions is enabled.
    pub code: bool,
    /// A breakpoint on data is enabled: accesses to its page take the slow path.
    pub data: bool,
    /// A breakpoint on ports is enabled.
    pub ports: bool,
    /// DR6 bits of the debug trap that follows the running instruction.
    pub pending: u64,
}

impl Vcpu {
    fn breakpoints(&self) -> impl Iterator<Item = Breakpoint> + '_ {
        let control = self.dr[7];
        (0..4).filter(move |number| control >> (number * 2) & 3 != 0).filter_map(move |number| {
            let field = control >> (16 + number * 4);
            let kind = match field & 3 {
                0 => Kind::Execute,
                1 => Kind::Write,
                2 if self.cr4 & cr4::DE != 0 => Kind::Port,
                2 => return None,
                _ => Kind::Access,
            };
            let len = [1, 2, 8, 4][(field >> 2 & 3) as usize];
            let address = self.dr[number] & !(len - 1);
            Some(Breakpoint { number, kind, address, len })
        })
    }

    /// Recomputes [`Vcpu::debug`] after a change of DR0-3, DR7 or CR4.DE.
    pub(crate) fn update_breakpoints(&mut self) {
        let before = self.debug;
        let has = |wanted: fn(Kind) -> bool| self.breakpoints().any(|breakpoint| wanted(breakpoint.kind));
        let debug = Debug {
            code: has(|kind| kind == Kind::Execute),
            data: has(|kind| matches!(kind, Kind::Write | Kind::Access)),
            ports: has(|kind| kind == Kind::Port),
            pending: before.pending,
        };
        self.debug = debug;
        if before.data || debug.data {
            // Entries made from now on know which pages are watched.
            self.tlb.flush(false);
        }
        if before.code != debug.code {
            self.look_again();
        }
    }

    /// Whether a data breakpoint lies in the page of `linear`.
    #[cold]
    pub(crate) fn watches_page(&self, linear: u64) -> bool {
        let page = linear & !0xfff;
        self.breakpoints()
            .any(|watch| matches!(watch.kind, Kind::Write | Kind::Access) && watch.overlaps(page, 4096))
    }

    /// A data access happened: the breakpoints it meets trap after the instruction.
    #[cold]
    pub(crate) fn watch_data(&mut self, linear: u64, len: usize, write: bool) {
        let linear = if self.long_mode() { linear } else { linear & 0xffff_ffff };
        let met = self.breakpoints().filter(|watch| {
            (watch.kind == Kind::Access || (write && watch.kind == Kind::Write))
                && watch.overlaps(linear, len as u64)
        });
        let bits = met.fold(0, |bits, watch| bits | 1 << watch.number);
        self.add_pending(bits);
    }

    /// A port was accessed.
    pub(crate) fn watch_port(&mut self, port: u16, size: usize) {
        if self.debug.ports {
            let met = self
                .breakpoints()
                .filter(|watch| watch.kind == Kind::Port && watch.overlaps(u64::from(port), size as u64));
            let bits = met.fold(0, |bits, watch| bits | 1 << watch.number);
            self.add_pending(bits);
        }
    }

    /// Has a debug trap with DR6 bits `bits` follow the running instruction.
    pub(crate) fn add_pending(&mut self, bits: u64) {
        if bits != 0 {
            self.debug.pending |= bits;
            self.limit = 0;
        }
    }

    /// DR6 bits of the instruction breakpoints at the next instruction.
    #[cold]
    pub(crate) fn code_breakpoints(&self) -> u64 {
        let at = self.linear_ip();
        self.breakpoints()
            .filter(|stop| stop.kind == Kind::Execute && stop.address == at)
            .fold(0, |bits, stop| bits | 1 << stop.number)
    }

    /// Whether an instruction breakpoint lies within `block`, which starts at the next instruction, beyond its first byte.
    #[cold]
    pub(crate) fn breaks_within<W: World>(&self, block: &Block<W>) -> bool {
        let start = self.linear_ip();
        self.breakpoints().any(|stop| {
            let offset = stop.address.wrapping_sub(start);
            stop.kind == Kind::Execute && offset != 0 && offset < u64::from(block.len)
        })
    }

    /// Whether a repeated instruction must stop between iterations: a debug trap follows each, or something outside waits.
    #[inline(always)]
    pub(crate) fn stops_between_iterations(&self) -> bool {
        self.attention || self.debug.pending != 0 || self.single_steps()
    }

    /// Whether a single-step trap follows each instruction (RFLAGS.TF).
    #[inline(always)]
    pub(crate) fn single_steps(&self) -> bool {
        self.system_flags & crate::flags::bits::TF != 0
    }

    /// Whether the instruction just retired was a load of SS, behind which debug traps and instruction breakpoints wait
    /// (SDM volume 3, 6.8.3).
    pub(crate) fn stack_load_shadow(&self) -> bool {
        self.inhibit_at == self.block_clock && self.trap_inhibit_at == self.block_clock
    }
}

impl<W: World> Block<W> {
    /// Whether execution at `ip`, one instruction after `start`, got there by a branch.
    pub(crate) fn branched(&self, start: u64, ip: u64) -> bool {
        self.ops.first().is_some_and(|op| ip != self.mode.mask_ip(start.wrapping_add(u64::from(op.len))))
    }
}
