//! The machines that are compared: how each is started on a guest, and its version.

use crate::bochs;
use crate::guest::{Guest, MEMORY};
use crate::timing::Run;
use anyhow::Result;
use clap::ValueEnum;
use std::path::Path;
use std::process::Command;

/// Where `ci/bench/qemu-cache-plugin` leaves the plugin, from the checkout.
const CACHE_PLUGIN: &str = "target/qemu-cache-plugin/libcache.so";
const CACHE_PLUGIN_ARGUMENTS: &str =
    "dcachesize=32768,dassoc=8,dblksize=64,icachesize=32768,iassoc=8,iblksize=64,evict=lru,limit=1";

/// A machine to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// QEMU's translator (`qemu-system-x86_64 -accel tcg`).
    Qemu,
    /// The same with its cache plugin, which `ci/bench/qemu-cache-plugin` builds: tags of 32 KiB, 8 ways, for data and for
    /// instructions, and no data.
    QemuCache,
    /// Bochs, an interpreter.
    Bochs,
}

impl Peer {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Qemu => "QEMU TCG",
            Self::QemuCache => "QEMU TCG with cache plugin",
            Self::Bochs => "Bochs",
        }
    }

    /// The version, if it is installed.
    pub(crate) fn version(self) -> Option<String> {
        if self == Self::QemuCache && !Path::new(CACHE_PLUGIN).exists() {
            return None;
        }
        let (program, option, word) = match self {
            Self::Qemu | Self::QemuCache => ("qemu-system-x86_64", "--version", "version"),
            Self::Bochs => ("bochs", "--help", "Emulator"),
        };
        let output = Command::new(program).arg(option).output().ok()?;
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let text = text.concat();
        let version = text.split_whitespace().skip_while(|at| *at != word).nth(1);
        Some(version.unwrap_or("of unknown version").to_owned())
    }

    /// Whether the guest can switch it off.
    pub(crate) fn powers_off(self) -> bool {
        self != Self::Bochs
    }

    pub(crate) fn run(self, guest: &Guest) -> Result<Run> {
        match self {
            Self::Qemu => Ok(Run::new(qemu(guest))),
            Self::QemuCache => {
                let mut command = qemu(guest);
                command.args(["-plugin", &format!("{CACHE_PLUGIN},{CACHE_PLUGIN_ARGUMENTS}")]);
                Ok(Run::new(command))
            }
            Self::Bochs => Ok(Run::new(bochs::command(guest)?)),
        }
    }
}

/// Staleline's software engine on the guest, with more arguments.
pub(crate) fn staleline(program: &Path, guest: &Guest, arguments: &[&str]) -> Result<Run> {
    let status = guest.status();
    if status.exists() {
        std::fs::remove_file(&status)?;
    }
    let mut command = Command::new(program);
    command.args(["run", "--engine", "soft", "--memory", &format!("{MEMORY}M"), "--kernel"]);
    command.arg(&guest.image.kernel).arg("--initrd").arg(&guest.initrd);
    command.args(["--cmdline", &guest.cmdline]).arg("--status").arg(status).args(arguments);
    Ok(Run::new(command))
}

fn qemu(guest: &Guest) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args([
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-m",
        &MEMORY.to_string(),
        "-display",
        "none",
        "-no-reboot",
    ]);
    command.args(["-serial", "stdio", "-serial", "null", "-kernel"]).arg(&guest.image.kernel);
    command.arg("-initrd").arg(&guest.initrd).args(["-append", &guest.cmdline]);
    command
}
