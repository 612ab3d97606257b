//! The host as oracle: a traced child process that holds nothing but the test's pages.
//!
//! The child is a program of a few bytes. It maps the pages of a memory file that the test shares, unmaps everything else
//! and from then on executes what the test puts into its code pages, with the registers the test gives it, until it
//! meets an INT3 or a fault. Faults are seen as the signals they would become; none is ever delivered.

use crate::state::{CODE, DATA, Outcome, PAGE, PAGES, REGIONS, State, USER_CS64, USER_DS};
use std::arch::asm;
use std::fs::File;
use std::io::{self, Error, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::ptr::{NonNull, null_mut};

const INT3: u8 = 0xcc;
const SYSCALL_INT3: [u8; 3] = [0x0f, 0x05, INT3];
/// POPFQ; INT3.
const POPF_INT3: [u8; 2] = [0x9d, INT3];
const STUB: u64 = 0x10_0000;
/// End of the user half of the address space, less the guard page that Linux keeps.
const USER_END: u64 = 0x7fff_ffff_f000;
const IMAGE: usize = PAGES * PAGE;
/// `si_code` of a signal that the kernel raised without further detail.
const SI_KERNEL: i32 = 0x80;
const FPE_INTDIV: i32 = 1;
const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;
const BUS_ADRALN: i32 = 1;
/// NT and ID: changed by POPF, not by the tracer.
const STICKY_FLAGS: u64 = 1 << 14 | 1 << 21;
/// CPU time that the child gets at a time, seconds.
const TIME_EXTENSION: u64 = 5;
/// Number of the register set that is an XSAVE image (Linux, elf.h).
const NT_X86_XSTATE: libc::c_int = 0x202;
/// More than an XSAVE image has.
const MAX_XSAVE_SIZE: usize = 1 << 16;

/// The traced child and the memory shared with it.
#[derive(Debug)]
pub struct Native {
    child: Child,
    pid: libc::pid_t,
    image: NonNull<u8>,
    /// CPU time after which the child is signalled, seconds.
    time_limit: u64,
    /// An image of the child's extended state, for the components that tests do not set.
    extended_state: Vec<u8>,
    _memory: OwnedFd,
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(Error::last_os_error()) } else { Ok(result) }
}

/// A static 64-bit ELF program whose one segment is `SYSCALL; INT3`.
fn stub_program() -> Vec<u8> {
    let code_at = 64 + 56;
    let mut elf = Vec::new();
    elf.extend_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let half = |elf: &mut Vec<u8>, value: u16| elf.extend_from_slice(&value.to_le_bytes());
    let word = |elf: &mut Vec<u8>, value: u32| elf.extend_from_slice(&value.to_le_bytes());
    let long = |elf: &mut Vec<u8>, value: u64| elf.extend_from_slice(&value.to_le_bytes());
    half(&mut elf, 2); // ET_EXEC
    half(&mut elf, 62); // EM_X86_64
    word(&mut elf, 1);
    long(&mut elf, STUB + code_at); // entry
    long(&mut elf, 64); // program headers
    long(&mut elf, 0);
    word(&mut elf, 0);
    for value in [64, 56, 1, 0, 0, 0] {
        half(&mut elf, value);
    }
    word(&mut elf, 1); // PT_LOAD
    word(&mut elf, 5); // read and execute
    long(&mut elf, 0);
    long(&mut elf, STUB);
    long(&mut elf, STUB);
    let size = code_at + SYSCALL_INT3.len() as u64;
    long(&mut elf, size);
    long(&mut elf, size);
    long(&mut elf, 4096);
    elf.extend_from_slice(&SYSCALL_INT3);
    elf
}

/// Starts the stub from a file that exists in memory only.
fn spawn_stub() -> io::Result<Child> {
    // SAFETY: a plain system call; the descriptor is new and owned here.
    let mut file = unsafe {
        let fd = check(libc::memfd_create(c"native-stub".as_ptr(), libc::MFD_CLOEXEC).into())?;
        File::from_raw_fd(fd as i32)
    };
    file.write_all(&stub_program())?;
    let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).env_clear();
    // SAFETY: the closure makes two system calls and touches no memory but its own.
    unsafe {
        command.pre_exec(|| {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL).into())?;
            check(libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0)).map(|_| ())
        });
    }
    command.spawn()
}

/// Keeps this thread, and with it its child, on one processor: a switch between them then needs no interrupt.
fn stay_on_one_processor() {
    // SAFETY: `cpu_set_t` is plain data, and the kernel reads it within the call. Failure only costs speed.
    unsafe {
        let cpu = libc::sched_getcpu();
        if cpu >= 0 {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu as usize, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
        }
    }
}

impl Native {
    /// Starts the child.
    ///
    /// # Errors
    /// What the operating system says: usually that tracing is not permitted.
    pub fn start() -> io::Result<Self> {
        stay_on_one_processor();
        // SAFETY: plain system calls; the descriptor is new and owned here. It is inherited by the child on purpose.
        let memory = unsafe {
            let fd = check(libc::memfd_create(c"differential".as_ptr(), 0).into())?;
            OwnedFd::from_raw_fd(fd as i32)
        };
        let fd = memory.as_raw_fd();
        // SAFETY: a new shared mapping of a file just sized to hold it.
        let image = unsafe {
            check(libc::ftruncate(fd, IMAGE as i64).into())?;
            let at =
                libc::mmap(null_mut(), IMAGE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0);
            if at == libc::MAP_FAILED {
                return Err(Error::last_os_error());
            }
            NonNull::new(at.cast()).ok_or_else(|| Error::other("mapped at 0"))?
        };
        let child = spawn_stub()?;
        let mut native = Self {
            pid: child.id() as i32,
            child,
            image,
            time_limit: 0,
            extended_state: vec![0; MAX_XSAVE_SIZE],
            _memory: memory,
        };
        native.wait()?;
        let options = libc::PTRACE_O_EXITKILL as u64;
        // SAFETY: no memory is touched.
        check(unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, native.pid, 0, options) })?;
        native.extend_time_limit()?;
        native.arrange_memory(fd)?;
        let mut image = std::mem::take(&mut native.extended_state);
        let size = native.transfer_extended_state(libc::PTRACE_GETREGSET, &mut image)?;
        image.truncate(size);
        native.extended_state = image;
        Ok(native)
    }

    /// Maps the regions in the child and unmaps all else.
    fn arrange_memory(&mut self, fd: i32) -> io::Result<()> {
        let stub = STUB + 64 + 56;
        for region in REGIONS {
            let mut protection = libc::PROT_READ;
            protection |= if region.write { libc::PROT_WRITE } else { 0 };
            protection |= if region.execute { libc::PROT_EXEC } else { 0 };
            let arguments = [
                region.base,
                (region.pages * PAGE) as u64,
                protection as u64,
                (libc::MAP_SHARED | libc::MAP_FIXED) as u64,
                fd as u64,
                (region.first * PAGE) as u64,
            ];
            self.system_call(stub, libc::SYS_mmap, arguments)?;
        }
        self.image()[..SYSCALL_INT3.len()].copy_from_slice(&SYSCALL_INT3);
        let mut start = PAGE as u64;
        for region in REGIONS {
            if region.base > start {
                self.system_call(CODE.base, libc::SYS_munmap, [start, region.base - start, 0, 0, 0, 0])?;
            }
            start = region.end();
        }
        self.system_call(CODE.base, libc::SYS_munmap, [start, USER_END - start, 0, 0, 0, 0])?;
        self.forbid_system_calls()
    }

    /// Has the child install a filter that makes SIGSYS of every later system call: whatever it executes, it stays inside.
    fn forbid_system_calls(&mut self) -> io::Result<()> {
        let filter = DATA.base + 16;
        let program: [u64; 3] =
            [1, filter, u64::from(libc::BPF_RET) | u64::from(libc::SECCOMP_RET_TRAP) << 32];
        let at = DATA.first * PAGE;
        for (slot, word) in self.image()[at..].chunks_exact_mut(8).zip(program) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        let no_new_privileges = [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0, 0];
        self.system_call(CODE.base, libc::SYS_prctl, no_new_privileges)?;
        // The child guards no secret: it need not run slower for it.
        let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
        let arguments = [libc::SECCOMP_SET_MODE_FILTER.into(), flags, DATA.base, 0, 0, 0];
        self.system_call(CODE.base, libc::SYS_seccomp, arguments)
    }

    /// Has the child make a system call through the `SYSCALL; INT3` at `stub`.
    fn system_call(&mut self, stub: u64, number: i64, arguments: [u64; 6]) -> io::Result<()> {
        let mut registers = self.registers()?;
        registers.rip = stub;
        registers.rax = number as u64;
        registers.orig_rax = u64::MAX;
        registers.rdi = arguments[0];
        registers.rsi = arguments[1];
        registers.rdx = arguments[2];
        registers.r10 = arguments[3];
        registers.r8 = arguments[4];
        registers.r9 = arguments[5];
        self.set_registers(&registers)?;
        self.resume()?;
        let result = self.registers()?.rax as i64;
        if (-4095..0).contains(&result) {
            return Err(Error::from_raw_os_error(-result as i32));
        }
        Ok(())
    }

    /// The memory of all regions, shared with the child, which is stopped while this is borrowed.
    pub fn image(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is `IMAGE` bytes long and lives as long as `self`; the child runs only within `run`.
        unsafe { std::slice::from_raw_parts_mut(self.image.as_ptr(), IMAGE) }
    }

    /// Executes from `state` until an INT3 or a fault. Returns how it ended and the state then.
    ///
    /// # Errors
    /// The child is gone, or met a signal that no instruction under test raises.
    pub fn run(&mut self, state: &State) -> io::Result<(Outcome, State)> {
        let mut registers = self.registers()?;
        put_registers(&mut registers, state);
        self.set_registers(&registers)?;
        let mut image = self.extended_state.clone();
        state.put_xsave(&mut image);
        self.transfer_extended_state(libc::PTRACE_SETREGSET, &mut image)?;
        let (signal, code, address) = self.resume()?;
        let mut after = state.clone();
        take_registers(&self.registers()?, &mut after);
        self.transfer_extended_state(libc::PTRACE_GETREGSET, &mut image)?;
        after.take_xsave(&image);
        let outcome = match (signal, code) {
            (libc::SIGTRAP, _) => {
                after.rip = after.rip.wrapping_sub(1);
                Outcome::Completed
            }
            // A fetch fault: a branch to `rip` was executed.
            (libc::SIGSEGV, SEGV_MAPERR | SEGV_ACCERR)
                if address == after.rip && !(CODE.base..CODE.end()).contains(&address) =>
            {
                Outcome::Completed
            }
            (libc::SIGSEGV, SEGV_MAPERR | SEGV_ACCERR) => {
                Outcome::Fault { vector: 14, address: Some(address) }
            }
            (libc::SIGSEGV, SI_KERNEL) => Outcome::Fault { vector: 13, address: None },
            (libc::SIGBUS, BUS_ADRALN) => Outcome::Fault { vector: 17, address: None },
            (libc::SIGBUS, SI_KERNEL) => Outcome::Fault { vector: 12, address: None },
            (libc::SIGILL, _) => Outcome::Fault { vector: 6, address: None },
            (libc::SIGFPE, FPE_INTDIV) => Outcome::Fault { vector: 0, address: None },
            // #MF and #XM become the same signal; which one follows from whose exception is pending.
            (libc::SIGFPE, _) if after.fpu.status & 0x80 != 0 => Outcome::Fault { vector: 16, address: None },
            (libc::SIGFPE, _) => Outcome::Fault { vector: 19, address: None },
            _ => return Err(Error::other(format!("signal {signal}, code {code}"))),
        };
        if after.rflags & STICKY_FLAGS != 0 {
            self.clear_sticky_flags()?;
        }
        Ok((outcome, after))
    }

    /// Reads or writes the child's extended state as a standard XSAVE image; returns its size.
    fn transfer_extended_state(&self, request: libc::c_uint, image: &mut [u8]) -> io::Result<usize> {
        let mut part = libc::iovec { iov_base: image.as_mut_ptr().cast(), iov_len: image.len() };
        // SAFETY: the kernel reads or writes at most the bytes of `image`, and the length in `part`.
        check(unsafe { libc::ptrace(request, self.pid, NT_X86_XSTATE, &raw mut part) })?;
        Ok(part.iov_len)
    }

    /// Has the child execute POPFQ, which alone can clear NT and ID.
    fn clear_sticky_flags(&mut self) -> io::Result<()> {
        let stack = crate::state::STACK;
        let slot = stack.first * PAGE;
        let image = self.image();
        let mut saved = ([0; 2], [0; 8]);
        saved.0.copy_from_slice(&image[..2]);
        saved.1.copy_from_slice(&image[slot..slot + 8]);
        image[..2].copy_from_slice(&POPF_INT3);
        image[slot..slot + 8].copy_from_slice(&0x202_u64.to_le_bytes());
        let mut registers = self.registers()?;
        registers.rip = CODE.base;
        registers.cs = USER_CS64.into();
        registers.ss = USER_DS.into();
        registers.rsp = stack.base;
        registers.eflags = 0x202;
        registers.orig_rax = u64::MAX;
        self.set_registers(&registers)?;
        self.resume()?;
        let image = self.image();
        image[..2].copy_from_slice(&saved.0);
        image[slot..slot + 8].copy_from_slice(&saved.1);
        Ok(())
    }

    fn registers(&self) -> io::Result<libc::user_regs_struct> {
        // SAFETY: the structure is plain data, which the kernel fills.
        unsafe {
            let mut registers: libc::user_regs_struct = std::mem::zeroed();
            check(libc::ptrace(libc::PTRACE_GETREGS, self.pid, 0, &raw mut registers))?;
            Ok(registers)
        }
    }

    fn set_registers(&self, registers: &libc::user_regs_struct) -> io::Result<()> {
        // SAFETY: the kernel reads the structure within the call.
        check(unsafe { libc::ptrace(libc::PTRACE_SETREGS, self.pid, 0, &raw const *registers) }).map(|_| ())
    }

    /// Lets the child run to its next fault or trap: signal, its code and its address.
    fn resume(&mut self) -> io::Result<(i32, i32, u64)> {
        let mut extended = false;
        loop {
            // SAFETY: no memory of ours is touched but the shared image, which is not borrowed here.
            check(unsafe { libc::ptrace(libc::PTRACE_CONT, self.pid, 0, 0) })?;
            let signal = self.wait()?;
            let raised_here = matches!(
                signal,
                libc::SIGTRAP | libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGSYS
            );
            if signal == libc::SIGXCPU {
                // Time adds up over all cases, but no case needs the whole of an extension.
                if extended {
                    return Err(Error::other("the native code does not come to an end"));
                }
                self.extend_time_limit()?;
                extended = true;
            }
            // Anything else came from outside (a terminal, a debugger): drop it.
            if !raised_here {
                continue;
            }
            if signal == libc::SIGSYS {
                return Err(Error::other("the code under test made a system call"));
            }
            if signal == libc::SIGTRAP {
                return Ok((signal, 0, 0));
            }
            // SAFETY: the structure is plain data, which the kernel fills; these signals carry an address.
            let (code, address) = unsafe {
                let mut info: libc::siginfo_t = std::mem::zeroed();
                check(libc::ptrace(libc::PTRACE_GETSIGINFO, self.pid, 0, &raw mut info))?;
                (info.si_code, info.si_addr() as u64)
            };
            return Ok((signal, code, address));
        }
    }

    fn extend_time_limit(&mut self) -> io::Result<()> {
        self.time_limit += TIME_EXTENSION;
        let limit = libc::rlimit { rlim_cur: self.time_limit, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: the kernel reads the structure within the call.
        check(unsafe { libc::prlimit(self.pid, libc::RLIMIT_CPU, &raw const limit, null_mut()) }.into())
            .map(|_| ())
    }

    /// Waits for the child to stop, and says at which signal.
    fn wait(&mut self) -> io::Result<i32> {
        let mut status = 0;
        loop {
            // SAFETY: the kernel writes `status`.
            match check(unsafe { libc::waitpid(self.pid, &raw mut status, libc::__WALL) }.into()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) if libc::WIFSTOPPED(status) => return Ok(libc::WSTOPSIG(status)),
                Ok(_) => return Err(Error::other(format!("the native child ended, status {status:#x}"))),
            }
        }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // The child may be gone already: there is nothing more to do then.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // SAFETY: the mapping was made in `start`, and no borrow of it outlives `self`.
        unsafe {
            libc::munmap(self.image.as_ptr().cast(), IMAGE);
        }
    }
}

fn put_registers(to: &mut libc::user_regs_struct, state: &State) {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = state.gpr;
    (to.rax, to.rcx, to.rdx, to.rbx) = (rax, rcx, rdx, rbx);
    (to.rsp, to.rbp, to.rsi, to.rdi) = (rsp, rbp, rsi, rdi);
    (to.r8, to.r9, to.r10, to.r11) = (r8, r9, r10, r11);
    (to.r12, to.r13, to.r14, to.r15) = (r12, r13, r14, r15);
    to.rip = state.rip;
    to.eflags = state.rflags;
    to.fs_base = state.fs_base;
    to.gs_base = state.gs_base;
    // Not in a system call: nothing is to be restarted.
    to.orig_rax = u64::MAX;
    let [es, cs, ss, ds, fs, gs] = state.selectors.map(u64::from);
    (to.es, to.cs, to.ss, to.ds, to.fs, to.gs) = (es, cs, ss, ds, fs, gs);
}

fn take_registers(from: &libc::user_regs_struct, state: &mut State) {
    let f = from;
    state.gpr = [
        f.rax, f.rcx, f.rdx, f.rbx, f.rsp, f.rbp, f.rsi, f.rdi, f.r8, f.r9, f.r10, f.r11, f.r12, f.r13,
        f.r14, f.r15,
    ];
    state.rip = f.rip;
    state.rflags = f.eflags;
    state.fs_base = f.fs_base;
    state.gs_base = f.gs_base;
    state.selectors = [f.es, f.cs, f.ss, f.ds, f.fs, f.gs].map(|selector| selector as u16);
}

/// The second word of capabilities that Linux tells a program about (`AT_HWCAP2`).
pub fn auxiliary_capabilities() -> u64 {
    // SAFETY: it reads the auxiliary vector of this process.
    unsafe { libc::getauxval(libc::AT_HWCAP2) }
}

/// Descriptors of the host's global descriptor table that user code may use, by number, with a base of 0.
pub fn user_descriptors() -> [Option<u64>; 16] {
    std::array::from_fn(|number| {
        let selector = (number as u64) << 3 | 3;
        let (mut rights, mut limit) = (0_u64, 0_u64);
        let (seen, measured): (u8, u8);
        // SAFETY: both instructions read a descriptor and write a register and ZF; what user code may not see they refuse.
        unsafe {
            asm!(
                "lar {rights:e}, {selector:e}",
                "setz {seen}",
                "lsl {limit:e}, {selector:e}",
                "setz {measured}",
                selector = in(reg) selector,
                rights = inout(reg) rights,
                limit = inout(reg) limit,
                seen = out(reg_byte) seen,
                measured = out(reg_byte) measured,
                options(nomem, nostack)
            );
        }
        let granular = rights >> 23 & 1 != 0;
        let limit = if granular { limit >> 12 } else { limit };
        (seen != 0 && measured != 0)
            .then_some(limit & 0xffff | (limit & 0xf_0000) << 32 | (rights & 0xf0_ff00) << 32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::state::Width;
    use crate::values::Flavour;

    #[test]
    fn a_system_call_never_reaches_the_kernel() {
        for (width, call) in [(Width::Bits64, [0x0f, 0x05]), (Width::Bits32, [0xcd, 0x80])] {
            let mut native = Native::start().expect("the native side starts");
            let mut state = crate::initial::random_state(&Rng::new(1), width, Flavour::Int(8), false);
            state.rip = CODE.base;
            native.image()[..2].copy_from_slice(&call);
            let error = native.run(&state).expect_err("the call is caught");
            assert_eq!(error.to_string(), "the code under test made a system call");
        }
    }
}
