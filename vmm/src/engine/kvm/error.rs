//! Why the KVM engine cannot go on.

use std::fmt;
use std::io;
use std::path::PathBuf;
use vmm_sys_util::errno;

/// KVM cannot run the guest.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    #[error("{} cannot be used: {source}", device.display())]
    Open { device: PathBuf, source: errno::Error },
    #[error("{}: its KVM API has version {version}, not {expected}", device.display(), expected = kvm_bindings::KVM_API_VERSION)]
    Version { device: PathBuf, version: i32 },
    #[error("this host's KVM has no {0}")]
    Lacks(&'static str),
    #[error("KVM refuses {call}: {source}")]
    Call { call: &'static str, source: errno::Error },
    #[error("KVM takes {taken} of {given} model-specific registers")]
    Msrs { taken: usize, given: usize },
    #[error("{wanted} vCPUs: this host's KVM has at most {most}")]
    TooManyVcpus { wanted: u32, most: u32 },
    #[error("the thread of a vCPU cannot be had: {0}")]
    Thread(io::Error),
    #[error("vCPU {cpu} at {rip:#x}: {reason}")]
    Stopped { cpu: u32, rip: u64, reason: StopReason },
    #[error("the thread of vCPU {0} has panicked")]
    Panicked(u32),
}

impl KvmError {
    /// For `map_err` on a call of KVM's.
    pub(super) fn call(call: &'static str) -> impl Fn(errno::Error) -> Self {
        move |source| Self::Call { call, source }
    }
}

/// Why KVM has stopped a vCPU that the guest wanted to go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    #[error(
        "KVM cannot emulate the instruction {0}; where KVM has no VMX or SVM it interprets kernel code and lacks some (--engine soft has them)"
    )]
    Emulation(Bytes),
    #[error("KVM reports internal error {0}")]
    Internal(u32),
    #[error("the processor refuses to enter the guest, reason {0:#x}")]
    Entry(u64),
    #[error("KVM cannot reach memory that the instruction {0} uses (EFAULT)")]
    Unreachable(Bytes),
    #[error("KVM_RUN fails: {0}")]
    Run(errno::Error),
    #[error("KVM ends it by an exit that was not asked for: {0}")]
    Unexpected(String),
}

/// The first bytes of an instruction, as far as they are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("there (its bytes are not known)");
        }
        for (index, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if index == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}
