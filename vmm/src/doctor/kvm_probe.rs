//! Whether this host's KVM can run a kernel: a small guest at CPL 0 tries what Linux needs, in a few milliseconds.
//!
//! A KVM without VMX or SVM beneath (KVM on PVM) opens and answers like any other, but interprets kernel code by an
//! emulator that lacks instructions which every x86-64 Linux executes. Only trying tells.

use super::probe_guest::{MEMORY, Outcome, TRIALS, Trial, X87_AND_SSE, system_registers, write_tables};
use crate::engine::kick_signal;
use crate::memory::layout::KVM_TSS;
use kvm_bindings::{
    KVM_API_VERSION, KVM_EXIT_INTERNAL_ERROR, KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region, kvm_xcr,
    kvm_xcrs,
};
use kvm_ioctls::{Kvm as Device, VcpuExit, VcpuFd, VmFd};
use serde::Serialize;
use std::ffi::CString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::errno;
use vmm_sys_util::signal::Killable;

/// KVM's device node.
pub const DEVICE: &str = "/dev/kvm";

/// The whole probe may take this long; a healthy KVM needs milliseconds.
const LIMIT: Duration = Duration::from_secs(2);
/// A probe that overstays is kicked this often, this many times.
const KICK_PERIOD: Duration = Duration::from_millis(10);
const KICKS: u32 = 50;
/// Exits that one trial may take. The longest has two.
const MAX_EXITS: u32 = 16;

/// A trial that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The instruction, or what was tried if none can be blamed.
    pub instruction: String,
    /// What KVM did instead.
    pub reason: String,
}

/// What KVM can do here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Kvm {
    /// There is no device.
    Absent,
    /// The device is there, this user may not open it.
    Denied,
    /// It cannot be asked.
    Unusable {
        reason: String,
    },
    /// It runs guests, but no kernel: these instructions fail at CPL 0.
    NoKernel {
        failures: Vec<Failure>,
    },
    RunsKernels,
}

impl Kvm {
    #[must_use]
    pub fn runs_kernels(&self) -> bool {
        matches!(self, Self::RunsKernels)
    }
}

impl fmt::Display for Kvm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => write!(f, "no: there is no KVM device"),
            Self::Denied => write!(f, "no: this user may not open the KVM device"),
            Self::Unusable { reason } => write!(f, "no: {reason}"),
            Self::RunsKernels => {
                let names: Vec<_> = TRIALS.iter().map(|trial| trial.name).collect();
                write!(f, "yes: {}", names.join(", "))
            }
            Self::NoKernel { failures } => {
                write!(f, "no: it cannot run a kernel")?;
                // Most fail alike: one reason for all that share it.
                let mut reasons: Vec<&str> = Vec::new();
                for failure in failures {
                    if !reasons.contains(&failure.reason.as_str()) {
                        reasons.push(&failure.reason);
                    }
                }
                for reason in reasons {
                    let alike = failures.iter().filter(|failure| failure.reason == reason);
                    let names: Vec<_> = alike.map(|failure| failure.instruction.as_str()).collect();
                    write!(f, "; at CPL 0 {}: {reason}", names.join(", "))?;
                }
                Ok(())
            }
        }
    }
}

/// Asks the KVM behind `device`. Takes milliseconds, and never more than 3 s: a guest that does not come back is kicked out.
#[must_use]
pub fn probe(device: &Path) -> Kvm {
    match device.try_exists() {
        Ok(false) => return Kvm::Absent,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return Kvm::Denied,
        _ => {}
    }
    let Ok(path) = CString::new(device.as_os_str().as_bytes()) else {
        return Kvm::Unusable { reason: "the device's name has a NUL byte".into() };
    };
    within(LIMIT, move |stop| examine(&path, stop))
}

/// Runs `work` on a thread of its own. Past `limit` the thread gets signals, which end KVM_RUN, and finds `stop` set.
fn within(limit: Duration, work: impl FnOnce(&AtomicBool) -> Kvm + Send + 'static) -> Kvm {
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = mpsc::channel();
    let thread = thread::Builder::new().name("kvm-probe".into()).spawn({
        let stop = Arc::clone(&stop);
        move || {
            // Nobody may be left to listen.
            let _ = sender.send(work(&stop));
        }
    });
    let thread = match thread {
        Ok(thread) => thread,
        Err(error) => return Kvm::Unusable { reason: format!("the probe's thread: {error}") },
    };
    match receiver.recv_timeout(limit) {
        Ok(answer) => return answer,
        Err(RecvTimeoutError::Disconnected) => return Kvm::Unusable { reason: "the probe failed".into() },
        Err(RecvTimeoutError::Timeout) => stop.store(true, Ordering::Release),
    }
    if kick_signal::register().is_ok() {
        // Again and again: a signal just before KVM_RUN is entered is lost on it.
        for _ in 0..KICKS {
            if thread.kill(kick_signal::number()).is_err()
                || !matches!(receiver.recv_timeout(KICK_PERIOD), Err(RecvTimeoutError::Timeout))
            {
                break;
            }
        }
    }
    Kvm::Unusable {
        reason: format!("a guest of a few instructions did not end within {} s", limit.as_secs()),
    }
}

fn examine(path: &CString, stop: &AtomicBool) -> Kvm {
    let device = match Device::new_with_path(path) {
        Ok(device) => device,
        Err(error) => {
            return match error.errno() {
                libc::EACCES | libc::EPERM => Kvm::Denied,
                libc::ENOENT => Kvm::Absent,
                _ => Kvm::Unusable { reason: format!("the KVM device does not open: {error}") },
            };
        }
    };
    let version = device.get_api_version();
    if u32::try_from(version) != Ok(KVM_API_VERSION) {
        let reason = match version {
            ..0 => "the device does not answer like KVM".into(),
            _ => format!("its API version is {version}, not {KVM_API_VERSION}"),
        };
        return Kvm::Unusable { reason };
    }
    match Guest::new(&device).and_then(|mut guest| guest.try_all(stop)) {
        Ok(failures) if failures.is_empty() => Kvm::RunsKernels,
        Ok(failures) => Kvm::NoKernel { failures },
        Err(reason) => Kvm::Unusable { reason },
    }
}

fn refused(what: &'static str) -> impl Fn(errno::Error) -> String {
    move |error| format!("{what}: {error}")
}

fn memory_failed(error: impl fmt::Display) -> String {
    format!("guest memory: {error}")
}

/// One vCPU in 64-bit mode. Fields are dropped in this order: KVM lets go of the memory before it is unmapped.
struct Guest {
    vcpu: VcpuFd,
    _vm: VmFd,
    memory: GuestMemoryMmap,
    xsave: bool,
}

impl Guest {
    fn new(device: &Device) -> Result<Self, String> {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).map_err(memory_failed)?;
        write_tables(&memory).map_err(memory_failed)?;
        let vm = device.create_vm().map_err(refused("KVM_CREATE_VM"))?;
        // Not every KVM has or needs it.
        let _ = vm.set_tss_address(KVM_TSS as usize);
        for (slot, region) in (0..).zip(memory.iter()) {
            let slot = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the range is a mapping of exactly this size that `memory` owns. `Guest` keeps it until after the
            // VM's descriptors are closed (order of its fields), and an early return below drops `vm` before `memory`
            // (locals are dropped in reverse order). The host reads and writes it only by vm-memory's volatile accesses.
            unsafe { vm.set_user_memory_region(slot) }.map_err(refused("KVM_SET_USER_MEMORY_REGION"))?;
        }
        let vcpu = vm.create_vcpu(0).map_err(refused("KVM_CREATE_VCPU"))?;
        let cpuid =
            device.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(refused("KVM_GET_SUPPORTED_CPUID"))?;
        vcpu.set_cpuid2(&cpuid).map_err(refused("KVM_SET_CPUID2"))?;
        // CPUID.1:ECX bit 26.
        let xsave = cpuid.as_slice().iter().any(|entry| entry.function == 1 && entry.ecx & 1 << 26 != 0);
        let fresh = vcpu.get_sregs().map_err(refused("KVM_GET_SREGS"))?;
        vcpu.set_sregs(&system_registers(&fresh, xsave)).map_err(refused("KVM_SET_SREGS"))?;
        if xsave {
            let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
            xcrs.xcrs[0] = kvm_xcr { xcr: 0, reserved: 0, value: X87_AND_SSE };
            vcpu.set_xcrs(&xcrs).map_err(refused("KVM_SET_XCRS"))?;
        }
        Ok(Self { vcpu, _vm: vm, memory, xsave })
    }

    fn try_all(&mut self, stop: &AtomicBool) -> Result<Vec<Failure>, String> {
        let mut failures = Vec::new();
        for trial in TRIALS {
            if trial.needs_xsave && !self.xsave {
                continue;
            }
            failures.extend(self.attempt(trial, stop)?);
            if stop.load(Ordering::Acquire) {
                break;
            }
        }
        Ok(failures)
    }

    /// Runs one trial; `None` if it did right.
    fn attempt(&mut self, trial: &Trial, stop: &AtomicBool) -> Result<Option<Failure>, String> {
        trial.prepare(&self.memory).map_err(memory_failed)?;
        self.vcpu.set_regs(&trial.registers()).map_err(refused("KVM_SET_REGS"))?;
        let ended = self.run(stop);
        let registers = self.vcpu.get_regs().map_err(refused("KVM_GET_REGS"))?;
        let failure = |rip: u64, reason: String| Failure {
            instruction: trial.instruction_at(rip).unwrap_or(trial.name).to_owned(),
            reason,
        };
        if let Err(reason) = ended {
            return Ok(Some(failure(registers.rip, reason)));
        }
        Ok(match trial.judge(&self.memory, &registers).map_err(memory_failed)? {
            Outcome::Right => None,
            Outcome::Wrong => Some(Failure {
                instruction: trial.name.to_owned(),
                reason: "ran, with a wrong result".into(),
            }),
            Outcome::Exception { vector, rip } => Some(failure(rip, format!("exception {vector}"))),
            Outcome::Astray => Some(failure(registers.rip, format!("halted at {:#x}", registers.rip))),
        })
    }

    /// Runs until HLT; the error says what came instead.
    fn run(&mut self, stop: &AtomicBool) -> Result<(), String> {
        for _ in 0..MAX_EXITS {
            match self.vcpu.run() {
                Ok(VcpuExit::Hlt) => return Ok(()),
                Ok(VcpuExit::IoOut(..)) => {}
                Ok(VcpuExit::InternalError) => {
                    let suberror = self.suberror();
                    return Err(format!(
                        "exit reason {KVM_EXIT_INTERNAL_ERROR} (internal error), suberror {suberror}"
                    ));
                }
                Ok(VcpuExit::Shutdown) => return Err("triple fault".into()),
                Ok(VcpuExit::FailEntry(reason, _)) => {
                    return Err(format!("entry failed, reason {reason:#x}"));
                }
                Ok(other) => return Err(format!("unexpected exit {other:?}")),
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                    if stop.load(Ordering::Acquire) {
                        return Err("does not end".into());
                    }
                }
                Err(error) => return Err(format!("KVM_RUN: {error}")),
            }
        }
        Err(format!("{MAX_EXITS} exits without an end"))
    }

    fn suberror(&mut self) -> u32 {
        let run = self.vcpu.get_kvm_run();
        // SAFETY: all members of the union are integers, of which every pattern is valid, in memory that KVM fills and the
        // vCPU maps. The member is the one that belongs to the exit reason.
        unsafe { run.__bindgen_anon_1.internal.suberror }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::time::Instant;

    #[test]
    fn the_answer_comes_quickly_whatever_it_is() {
        let start = Instant::now();
        let answer = probe(Path::new(DEVICE));
        assert!(start.elapsed() < LIMIT, "{answer}");
        let text = answer.to_string();
        match &answer {
            Kvm::RunsKernels => assert!(text.starts_with("yes: 64-bit kernel code"), "{text}"),
            // What every KVM can do must never be what is blamed: that would be the probe's own fault.
            Kvm::NoKernel { failures } => {
                assert!(!failures.is_empty());
                assert!(
                    failures
                        .iter()
                        .all(|f| !f.instruction.starts_with("mov") && !f.instruction.starts_with("out")),
                    "{text}"
                );
                assert!(
                    text.contains(&failures[0].instruction) && text.contains(&failures[0].reason),
                    "{text}"
                );
            }
            Kvm::Absent => assert!(!Path::new(DEVICE).exists()),
            Kvm::Denied => assert!(std::fs::File::options().read(true).write(true).open(DEVICE).is_err()),
            Kvm::Unusable { reason } => assert!(!reason.contains("did not end"), "{reason}"),
        }
    }

    #[test]
    fn a_missing_device_is_absent_and_another_file_is_no_kvm() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(probe(&folder.path().join("kvm")), Kvm::Absent);
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let answer = probe(&file);
        assert!(matches!(answer, Kvm::Unusable { .. }), "{answer}");
    }

    #[test]
    fn a_guest_that_does_not_end_is_kicked_out() {
        let (sender, receiver) = mpsc::channel();
        let answer = within(Duration::from_millis(20), move |stop| {
            // Reading from a silent pipe stands for KVM_RUN: only a signal ends it.
            let (mut reader, _writer) = std::io::pipe().unwrap();
            let start = Instant::now();
            while !stop.load(Ordering::Acquire) {
                assert_eq!(reader.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::Interrupted);
            }
            sender.send(start.elapsed()).unwrap();
            Kvm::RunsKernels
        });
        assert!(matches!(answer, Kvm::Unusable { .. }), "{answer}");
        assert!(receiver.recv_timeout(Duration::from_secs(5)).unwrap() < Duration::from_secs(5));
    }

    #[test]
    fn failures_that_share_a_reason_are_told_together() {
        let failure = |instruction: &str, reason: &str| Failure {
            instruction: instruction.into(),
            reason: reason.into(),
        };
        let answer =
            Kvm::NoKernel { failures: vec![failure("a", "x"), failure("b", "y"), failure("c", "x")] };
        assert_eq!(answer.to_string(), "no: it cannot run a kernel; at CPL 0 a, c: x; at CPL 0 b: y");
    }
}
