//! Backtraces: by the kernel's own ORC tables, as `arch/x86/kernel/unwind_orc.c` of Linux goes about it; by frame pointers
//! where the kernel was built with them instead; and where both end, by what on the stack looks like return addresses.

use super::memory::{GuestMemory, Unmapped};
use super::orc::{Base, Entry, Kind};
use super::registers::Registers;
use serde::{Deserialize, Serialize};
use x86_cpu::reg;

/// Most frames of a backtrace.
pub const MAX_DEPTH: usize = 256;
/// Bytes of a stack, to which it is aligned (THREAD_SIZE, IRQ_STACK_SIZE without KASAN).
const STACK: u64 = 16 << 10;
/// Most bytes of a function in front of `push %rbp`: ENDBR64, and a call to ftrace or its no-op.
const PROLOGUE: usize = 24;
/// push %rbp; mov %rsp, %rbp
const PUSH_FRAME: [u8; 4] = [0x55, 0x48, 0x89, 0xe5];
const RET: u8 = 0xc3;
/// Indices into struct pt_regs (arch/x86/include/asm/ptrace.h of Linux), which is also what processors push from IP on.
mod saved {
    pub const R13: u64 = 2;
    pub const BP: u64 = 4;
    pub const R10: u64 = 7;
    pub const AX: u64 = 10;
    pub const DX: u64 = 12;
    pub const DI: u64 = 14;
    pub const IP: u64 = 16;
    pub const CS: u64 = 17;
    pub const SP: u64 = 19;
}

/// How a frame was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum How {
    /// It is where the vCPU is.
    Current,
    /// By the kernel's ORC tables.
    Orc,
    /// By the chain of frame pointers.
    FramePointer,
    /// By a value on the stack that is the address behind a call: it may be left over from an earlier one.
    Guess,
}

/// A frame of a backtrace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Frame {
    /// The next instruction there: where a call returns to, or what was interrupted.
    pub address: u64,
    pub how: How,
    /// The instruction before it was a call, which is what the frame is about: a call may be its function's last instruction.
    pub call: bool,
    /// It is the user's: there are no symbols for it here, and no frames beyond.
    pub user: bool,
}

/// What an unwinder asks of the kernel's code.
pub(super) trait Code {
    /// How to go on from `address`.
    fn orc(&self, address: u64) -> Option<Entry>;
    /// Whether `address` is in the kernel's or a module's code.
    fn is_code(&self, address: u64) -> bool;
    /// Where the function begins that `address` is in.
    fn function(&self, address: u64) -> Option<u64>;
    /// Whether a new task begins at `address`: nothing has called it, although it lies on the stack as if.
    fn begins_task(&self, address: u64) -> bool;
    /// Whether every function keeps a chain of frame pointers.
    fn has_frame_pointers(&self) -> bool;
}

/// Where the registers are that a frame was interrupted with.
#[derive(Debug, Clone, Copy)]
enum Saved {
    /// Nowhere.
    None,
    /// In the vCPU.
    Live,
    /// At an address, all of them.
    At(u64),
    /// Only what the processor pushed is there, and those of the frame before are at an address, if anywhere.
    Partial(Option<u64>),
}

/// Why no further frame is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// There is none.
    End,
    /// It cannot be told.
    Lost,
}

impl From<Unmapped> for Stop {
    fn from(_: Unmapped) -> Self {
        Self::Lost
    }
}

/// The frames of the vCPU with these registers, innermost first, `depth` at most.
pub(super) fn backtrace(
    code: &impl Code,
    memory: &GuestMemory<'_>,
    registers: &Registers,
    depth: usize,
) -> Vec<Frame> {
    let depth = depth.min(MAX_DEPTH);
    let user = registers.cpl == 3;
    let mut frames = vec![Frame { address: registers.rip, how: How::Current, call: false, user }];
    let mut unwinder = Unwinder {
        code,
        memory,
        registers,
        ip: registers.rip,
        sp: registers.gpr[reg::RSP],
        bp: registers.gpr[reg::RBP],
        saved: Saved::Live,
        interrupted: true,
        user,
    };
    while frames.len() < depth && !unwinder.user {
        let frame_pointers = code.has_frame_pointers();
        let (found, how) = if frame_pointers {
            (unwinder.follow_frame_pointer(), How::FramePointer)
        } else {
            (unwinder.follow_orc(), How::Orc)
        };
        match found {
            Ok(()) => frames.push(unwinder.frame(how)),
            Err(Stop::End) => break,
            Err(Stop::Lost) => {
                frames.extend(unwinder.guesses().take(depth - frames.len()));
                break;
            }
        }
    }
    frames.truncate(depth);
    frames
}

/// Whether the function at `start` makes a frame before anything else.
pub(super) fn makes_frame(memory: &GuestMemory<'_>, start: u64) -> bool {
    frame_at(memory, start).is_some()
}

/// Bytes from `start` to the instructions with which a function makes its frame.
fn frame_at(memory: &GuestMemory<'_>, start: u64) -> Option<usize> {
    let prologue = memory.mapped_bytes(start, PROLOGUE + PUSH_FRAME.len());
    prologue.windows(PUSH_FRAME.len()).position(|code| code == PUSH_FRAME)
}

#[derive(Debug)]
struct Unwinder<'a, C> {
    code: &'a C,
    memory: &'a GuestMemory<'a>,
    registers: &'a Registers,
    ip: u64,
    sp: u64,
    bp: u64,
    saved: Saved,
    /// The instruction at `ip` is the one to look up, not the call before it.
    interrupted: bool,
    user: bool,
}

impl<C: Code> Unwinder<'_, C> {
    fn frame(&self, how: How) -> Frame {
        Frame { address: self.ip, how, call: !self.interrupted && !self.user, user: self.user }
    }

    /// A register as it was when the frame was interrupted.
    fn saved(&self, index: u64, live: usize) -> Result<u64, Stop> {
        let at = match self.saved {
            Saved::Live => return self.registers.gpr.get(live).copied().ok_or(Stop::Lost),
            Saved::At(at) | Saved::Partial(Some(at)) => at,
            Saved::None | Saved::Partial(None) => return Err(Stop::Lost),
        };
        Ok(self.memory.u64(at.wrapping_add(8 * index))?)
    }

    /// Goes on to the frame that the ORC tables lead to.
    fn follow_orc(&mut self) -> Result<(), Stop> {
        let lookup = if self.interrupted { self.ip } else { self.ip.wrapping_sub(1) };
        let entry = self.code.orc(lookup).ok_or(Stop::Lost)?;
        match entry.kind {
            Kind::Undefined => return Err(Stop::Lost),
            Kind::End => return Err(Stop::End),
            Kind::Call | Kind::Registers | Kind::Interrupt => {}
        }
        let offset = |base: u64| base.wrapping_add_signed(entry.sp_offset);
        let sp = match entry.sp {
            Base::Sp => offset(self.sp),
            Base::Bp => offset(self.bp),
            Base::AtSp => offset(self.memory.u64(self.sp)?),
            Base::AtBp => self.memory.u64(offset(self.bp))?,
            Base::Ax => self.saved(saved::AX, reg::RAX)?,
            Base::Dx => self.saved(saved::DX, reg::RDX)?,
            Base::Di => self.saved(saved::DI, reg::RDI)?,
            Base::R10 => self.saved(saved::R10, reg::R10)?,
            Base::R13 => self.saved(saved::R13, reg::R13)?,
            Base::PreviousSp | Base::Undefined => return Err(Stop::Lost),
        };
        let (ip, next_sp, saved) = match entry.kind {
            Kind::Call => (self.memory.u64(sp.wrapping_sub(8))?, sp, Saved::None),
            Kind::Registers => {
                self.user = self.is_user(sp)?;
                let at = |index| self.memory.u64(sp.wrapping_add(8 * index));
                (at(saved::IP)?, at(saved::SP)?, Saved::At(sp))
            }
            _ => {
                let start = sp.wrapping_sub(8 * saved::IP);
                self.user = self.is_user(start)?;
                let at = |index| self.memory.u64(start.wrapping_add(8 * index));
                let before = match self.saved {
                    Saved::At(before) => Some(before),
                    Saved::Partial(before) => before,
                    Saved::None | Saved::Live => None,
                };
                (at(saved::IP)?, at(saved::SP)?, Saved::Partial(before))
            }
        };
        let bp = match entry.bp {
            Base::PreviousSp => self.memory.u64(sp.wrapping_add_signed(entry.bp_offset))?,
            Base::Bp => self.memory.u64(self.bp.wrapping_add_signed(entry.bp_offset))?,
            Base::Undefined => match saved {
                Saved::At(at) | Saved::Partial(Some(at)) => {
                    self.memory.u64(at.wrapping_add(8 * saved::BP))?
                }
                Saved::None | Saved::Live | Saved::Partial(None) => self.bp,
            },
            _ => return Err(Stop::Lost),
        };
        // Within one stack it can only go up.
        if next_sp / STACK == self.sp / STACK && next_sp <= self.sp || !self.user && !self.code.is_code(ip) {
            self.user = false;
            return Err(Stop::Lost);
        }
        (self.ip, self.sp, self.bp, self.saved) = (ip, next_sp, bp, saved);
        self.interrupted = entry.signal || self.code.begins_task(ip);
        Ok(())
    }

    /// Whether the registers saved at `at` are the user's.
    fn is_user(&self, at: u64) -> Result<bool, Stop> {
        Ok(self.memory.u64(at.wrapping_add(8 * saved::CS))? & 3 == 3)
    }

    /// Goes on to the frame that RBP leads to.
    fn follow_frame_pointer(&mut self) -> Result<(), Stop> {
        if self.interrupted
            && let Some(at) = self.without_frame()
        {
            let ip = self.memory.u64(at)?;
            return self.return_to(ip, at.wrapping_add(8), self.bp);
        }
        // Entry code leaves the address of the saved registers with bit 0 set (ENCODE_FRAME_POINTER).
        if self.bp & 1 != 0 {
            let at = self.bp & !1;
            let word = |index| self.memory.u64(at.wrapping_add(8 * index));
            let (ip, sp, bp) = (word(saved::IP)?, word(saved::SP)?, word(saved::BP)?);
            self.user = self.is_user(at)?;
            if !self.user && !self.code.is_code(ip) {
                return Err(Stop::Lost);
            }
            (self.ip, self.sp, self.bp, self.interrupted) = (ip, sp, bp, true);
            return Ok(());
        }
        // The first frame of a kernel thread.
        if self.bp == 0 {
            return Err(Stop::End);
        }
        let (bp, ip) = (self.memory.u64(self.bp)?, self.memory.u64(self.bp.wrapping_add(8))?);
        self.return_to(ip, self.bp.wrapping_add(16), bp)
    }

    fn return_to(&mut self, ip: u64, sp: u64, bp: u64) -> Result<(), Stop> {
        if !self.code.is_code(ip) || sp / STACK == self.sp / STACK && sp <= self.sp {
            return Err(Stop::Lost);
        }
        (self.ip, self.sp, self.bp, self.interrupted) = (ip, sp, bp, false);
        Ok(())
    }

    /// Where the return address is if the function has not made its frame yet, or has undone it.
    fn without_frame(&self) -> Option<u64> {
        if self.memory.mapped_bytes(self.ip, 1) == [RET] {
            return Some(self.sp);
        }
        let start = self.code.function(self.ip)?;
        let push = frame_at(self.memory, start)? as u64;
        match (self.ip - start).checked_sub(push) {
            None | Some(0) => Some(self.sp),
            Some(1) => Some(self.sp.wrapping_add(8)),
            Some(_) => None,
        }
    }

    /// What from the stack pointer to the end of the stack is the address behind a call.
    fn guesses(&self) -> impl Iterator<Item = Frame> + '_ {
        let start = self.sp.next_multiple_of(8);
        let stack = self.memory.mapped_bytes(start, (STACK - start % STACK) as usize);
        let words: Vec<u64> = stack
            .chunks_exact(8)
            .filter_map(|word| word.first_chunk().map(|word| u64::from_le_bytes(*word)))
            .collect();
        let guesses = words.into_iter().filter(|&word| self.code.is_code(word) && self.follows_call(word));
        guesses.map(|address| Frame { address, how: How::Guess, call: true, user: false })
    }

    /// Whether a call ends at `address`: E8 with a displacement, or FF /2 of two, three, four, six or seven bytes.
    fn follows_call(&self, address: u64) -> bool {
        let mut before = [0; 7];
        if self.memory.read(address.wrapping_sub(7), &mut before).is_err() {
            return false;
        }
        let indirect = |from: usize| before[from] == 0xff && before[from + 1] >> 3 & 7 == 2;
        before[2] == 0xe8 || indirect(5) || indirect(4) || indirect(3) || indirect(1) || indirect(0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::tests::Synthetic;
    use super::*;
    use proptest::prelude::*;

    const TEXT: u64 = 0xffff_ffff_8100_0000;
    const SP: u64 = 0xffff_c900_0000_3e00;

    /// Code of which every address has the same entry.
    #[derive(Debug)]
    struct Uniform {
        entry: Option<Entry>,
        frame_pointers: bool,
    }

    impl Code for Uniform {
        fn orc(&self, _: u64) -> Option<Entry> {
            self.entry
        }
        fn is_code(&self, address: u64) -> bool {
            (TEXT..TEXT + 0x1000).contains(&address)
        }
        fn function(&self, address: u64) -> Option<u64> {
            self.is_code(address).then_some(TEXT)
        }
        fn begins_task(&self, _: u64) -> bool {
            false
        }
        fn has_frame_pointers(&self) -> bool {
            self.frame_pointers
        }
    }

    fn registers(bp: u64) -> Registers {
        let mut gpr = [0; 16];
        (gpr[reg::RSP], gpr[reg::RBP]) = (SP, bp);
        Registers {
            gpr,
            rip: TEXT + 0x100,
            cpl: 0,
            space: Synthetic::space(),
            gs_base: 0,
            kernel_gs_base: 0,
            lstar: 0,
        }
    }

    fn stack(words: &[u64]) -> Synthetic {
        let mut guest = Synthetic::new();
        for (at, word) in (SP..).step_by(8).zip(words) {
            guest.put(at, &word.to_le_bytes());
        }
        // Calls of five bytes, end to end.
        guest.put(TEXT, &[0xe8; 0x200]);
        guest
    }

    fn call(sp_offset: i64) -> Option<Entry> {
        let (sp, bp) = (Base::Sp, Base::Undefined);
        Some(Entry { kind: Kind::Call, sp, sp_offset, bp, bp_offset: 0, signal: false })
    }

    fn addresses(frames: &[Frame], how: How) -> Vec<u64> {
        frames.iter().filter(|frame| frame.how == how).map(|frame| frame.address).collect()
    }

    #[test]
    fn tables_lead_to_the_callers_and_guesses_are_marked() {
        let guest = stack(&[7, TEXT + 0x20, 7, TEXT + 0x30, 7, 7, 7, TEXT + 0x40]);
        let code = Uniform { entry: call(16), frame_pointers: false };
        let frames = backtrace(&code, &guest.memory(), &registers(0), 16);
        assert_eq!(addresses(&frames, How::Current), [TEXT + 0x100]);
        assert_eq!(addresses(&frames, How::Orc), [TEXT + 0x20, TEXT + 0x30]);
        assert_eq!(addresses(&frames, How::Guess), [TEXT + 0x40]);
        assert_eq!(backtrace(&code, &guest.memory(), &registers(0), 2).len(), 2);
        let nothing = Uniform { entry: None, frame_pointers: false };
        let frames = backtrace(&nothing, &guest.memory(), &registers(0), 16);
        assert_eq!(addresses(&frames, How::Guess), [0x20, 0x30, 0x40].map(|offset| TEXT + offset));
    }

    #[test]
    fn frame_pointers_lead_to_the_user() {
        let mut words = vec![0; 40];
        (words[4], words[5]) = (SP + 8 * 8, TEXT + 0x20);
        // The registers of the user at the tenth word, marked by bit 0.
        (words[8], words[9]) = ((SP + 8 * 10) | 1, TEXT + 0x30);
        (words[10 + 16], words[10 + 17]) = (0x40_1000, 0x33);
        let code = Uniform { entry: None, frame_pointers: true };
        let frames = backtrace(&code, &stack(&words).memory(), &registers(SP + 8 * 4), 16);
        assert_eq!(addresses(&frames, How::FramePointer), [TEXT + 0x20, TEXT + 0x30, 0x40_1000]);
        assert!(frames.last().is_some_and(|last| last.user));
    }

    proptest! {
        #[test]
        fn wild_stacks_and_tables_end(
            words in prop::collection::vec(prop_oneof![
                any::<u64>(), TEXT..TEXT + 0x200, SP..SP + 0x200
            ], 64),
            kind in 0..3, base in 0..6, offset in -64..64_i64, frame_pointers: bool, bp in SP..SP + 0x200,
        ) {
            let kind = [Kind::Call, Kind::Registers, Kind::Interrupt][kind as usize];
            let sp = [Base::Sp, Base::Bp, Base::AtSp, Base::AtBp, Base::Di, Base::R10][base as usize];
            let entry = Entry { kind, sp, sp_offset: offset, bp: Base::PreviousSp, bp_offset: -16, signal: false };
            let code = Uniform { entry: Some(entry), frame_pointers };
            let frames = backtrace(&code, &stack(&words).memory(), &registers(bp), usize::MAX);
            prop_assert!((1..=MAX_DEPTH).contains(&frames.len()));
        }
    }
}
