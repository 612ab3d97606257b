//! `staleline run`.

use super::later::refuse;
use super::status::{Seeds, Status};
use crate::boot::{InitrdPart, cmdline};
use crate::doctor::kvm_probe::{self, Kvm};
use crate::engine::{EngineKind, Kick, Paravirtual};
use crate::findings::{Context as FindingsContext, FailOn, Sink};
use crate::guest::SymbolFile;
use crate::guest_file::parse_file;
use crate::host::{Host, HostOptions, LastResort};
use crate::ledger::{BounceReport, Bounced, Report};
use crate::machine::{
    BlockedFunction, CPUS_MAX, Confidential, ConfidentialStatistics, DeviceSpec, IommuSpec, IommuStatistics,
    MachineConfig, PrivateDma,
};
use crate::memory::{CacheSpec, Scope};
use crate::quantity::{parse_seconds, parse_size};
use crate::session::{
    Cause, Outcome, Output, Restored, Session, SessionConfig, SessionError, Template, Watch, Work,
};
use crate::suite::case::shell_line;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use devices::bus::Nanos;
use devices::iommu::Blocked;
use guest_images::{Image, KernelTree, Store};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The image that runs when none is named.
pub(super) const DEFAULT_IMAGE: &str = "debian-cloud-6.1";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Arch {
    #[value(name = "x86_64")]
    X86_64,
    Riscv64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EngineChoice {
    /// KVM where it can run kernels (`staleline doctor` tells), else the software engine.
    Auto,
    /// The deterministic software engine.
    Soft,
    /// The host's KVM: fast with VMX or SVM, not deterministic.
    Kvm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dma {
    Coherent,
    Noncoherent,
    Lying,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LedgerMode {
    Auto,
    On,
    Off,
}

/// Has Linux bounce all DMA, and has it say where its buffers are, which it does not for the former alone where there is little
/// memory (Documentation/admin-guide/kernel-parameters.txt; arch/x86/kernel/pci-dma.c).
const FORCE_BOUNCING: &str = "swiotlb=force";
const SAY_WHERE: &str = "iommu=soft";

/// What a saved machine is, and so cannot be told again: arguments that `--restore` excludes.
const FIXED_BY_FILE: [&str; 15] = [
    "arch",
    "kernel",
    "initrd",
    "files",
    "cmdline",
    "memory",
    "cpus",
    "devices",
    "cache",
    "iommu",
    "confidential",
    "dma",
    "kernel_source",
    "seed",
    "save",
];

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    /// Architecture of the guest.
    #[arg(long, value_enum, default_value = "x86_64")]
    arch: Arch,
    /// Kernel: a bzImage, an ELF file with a PVH note or a 64-bit entry, a multiboot (version 1) kernel, or the name of an
    /// image (`staleline images list`), which is built at first use.
    #[arg(long, value_name = "FILE|IMAGE")]
    kernel: Option<String>,
    /// Initial RAM file system; an image's own by default. Given several times the files are appended to one another; a
    /// multiboot kernel gets each as a module.
    #[arg(long, value_name = "FILE")]
    initrd: Vec<PathBuf>,
    /// Put a file or folder of the host into the guest's initial RAM file system, at GUEST (by default `/` and the name).
    /// May be repeated.
    #[arg(long = "file", value_name = "HOST[:GUEST]", value_parser = parse_file)]
    files: Vec<(PathBuf, String)>,
    /// Kernel command line; an image's own by default, otherwise `console=ttyS0`. A multiboot kernel gets its file's name
    /// before it, and nothing else by default.
    #[arg(long, value_name = "STR")]
    cmdline: Option<String>,
    /// RAM, as 512M or 2G.
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = parse_size)]
    memory: u64,
    /// Number of vCPUs, 1 to 8. The software engine runs them in turns on one host thread, under one clock: the same run
    /// every time, and no faster than with one.
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// What runs the guest.
    #[arg(long, value_enum, default_value = "auto")]
    engine: EngineChoice,
    /// A PCI device behind a root port, any number of times. Every kind takes slot=1 to 8.
    ///
    /// mlx5[,port=ib|eth][,no-snoop=off|payload|all][,umr=on|off][,peer=OPERATION@DELAY[*TIMES]]: a ConnectX function, in
    /// slot 8 unless told otherwise. `no-snoop` says which of its DMA asks for PCIe No Snoop: none, what work requests move,
    /// or all. With umr=off the driver registers memory by commands instead of work requests. A second node on its
    /// InfiniBand fabric, LID 2, does to the guest's registered memory what programs order by SEND (peer-walk is one);
    /// with `peer=` it acts without orders on each connection to it: peer=write@10ms*3 writes the memory registered last, three
    /// times, 10 ms apart (write, read, check or fetch-add).
    ///
    /// dmalab[,no-snoop=descriptor|off|payload|all][,relaxed-ordering=descriptor|off|payload]: the DMA exerciser, which moves
    /// bytes as descriptors in a ring say: addresses, sizes, delays, No Snoop and Relaxed Ordering are the guest's to choose. The
    /// options say what becomes of the attributes: as each descriptor asks, never, on all payload, or on descriptors as well.
    /// guest-images/drivers/dmalab is its driver.
    ///
    /// blk,path=FILE[,readonly=on][,queues=N][,serial=TEXT]: a virtio disk on a raw image (`truncate -s 1G FILE` makes one),
    /// /dev/vda and so on in the guest. With size=64M instead of a path it is empty, and gone when the run ends.
    ///
    /// rng: virtio entropy; `--seed` decides the bytes.
    ///
    /// console[,out=FILE][,in=FILE]: a virtio console, /dev/hvc0. Without `out` its output joins the console's.
    ///
    /// input[,type=keyboard|tablet][,key=A+B+ENTER@2s][,events=FILE]: a virtio keyboard or tablet that plays keys or a script
    /// after its driver has started. Lines of a script: `2s key A [down|up]`, `2500ms abs X|Y POSITION`,
    /// `3s event TYPE CODE VALUE`.
    ///
    /// The virtio devices offer VIRTIO_F_ACCESS_PLATFORM unless access-platform=off. With no-snoop=payload what they move to
    /// and from buffers asks for PCIe No Snoop; their rings are snooped.
    #[arg(long = "device", value_name = "KIND[,slot=N][,key=value…]")]
    devices: Vec<DeviceSpec>,
    /// A write-back cache between vCPUs and RAM, which devices may not snoop: `--device mlx5,no-snoop=payload`. By the software
    /// engine only. The ledger is on by default then, and what goes wrong is told as findings.
    ///
    /// SPEC is a preset, or keys and values, or a preset with keys that change it (worst,size=4K,seed=7):
    ///
    /// size=32K (or sets=N), ways=8, line=64 (16 to 256), policy=lru|fifo|plru|random, write=back|through, alloc=yes|no,
    /// writeback=line|bytes (what of a dirty line is written), l2=SIZE, l2-ways=16, l2-policy: a second level behind it;
    ///
    /// schedule=none|random|worst: an adversary that, from the ready mark on, writes dirty lines back, drops clean ones and
    /// refills at any legal moment, by chance or at the moment that changes what somebody reads;
    ///
    /// seed=N: of the schedule, by default that of the run, and of policy=random;
    ///
    /// scope=all|dma: model every access, or only those to pages that devices reach, which is faster and less exact: nothing is
    /// said of a line that a device reaches for the first time until it is flushed or stored to;
    ///
    /// pages=FILE: with scope=dma, the pages that devices will reach, so that they are modelled from power-on. A run writes the
    /// file if it is not there: with it the same run judges every read.
    ///
    /// Presets: l1 (the values above), l2 (with 1 MiB behind it), tiny (1 KiB, 2 ways), short-lines (32 bytes), long-lines (128
    /// bytes), through (write-through), dma (l1 with scope=dma), random and worst (l1 with that schedule).
    #[arg(long, value_name = "off|SPEC", default_value = "off")]
    cache: CacheSpec,
    /// What lies between devices and memory. Requests that it does not let through are answered as unsupported (reads return
    /// all-ones), counted (`--status`) and told as findings.
    ///
    /// bounce: devices reach only what the guest shares with them: the bounce buffers of its SWIOTLB, and what it has allocated
    /// for them (dma_alloc_coherent). `swiotlb=force` (and `iommu=soft`, for the kernel to
    /// say where its buffers are) is added to the kernel's command line if it is not there. By the
    /// software engine only; needs Linux from 6.1 on, and the ledger, which is on by default then.
    ///
    /// window=BASE+SIZE: devices reach these addresses only, as those with few address lines: window=0+256M.
    #[arg(long, value_name = "off|bounce|window=BASE+SIZE", default_value_t)]
    iommu: IommuSpec,
    /// Memory encryption that the guest is shown: AMD SEV. Devices reach what the guest shares, as stock kernels do with their
    /// bounce buffers; of any other memory they read what looks like noise, and what they write there looks so to the guest.
    /// By the software engine only, and without `--cache`.
    #[arg(long, value_enum)]
    confidential: Option<Confidential>,
    /// What the machine's DMA is.
    #[arg(long, value_enum, default_value = "coherent")]
    dma: Dma,
    /// Build the kernel from this Linux source tree: with the configuration of the image that `--kernel` names, by default of
    /// the debug image nearest to the tree's version, out of tree, and only what has changed since the last time.
    #[arg(long, value_name = "DIR")]
    kernel_source: Option<PathBuf>,
    /// Write the machine to FILE at the guest's ready mark, for `--restore`: without COMMAND the run ends there, with one it
    /// goes on. By the software engine only, and not with devices that write to files of the host.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Run COMMAND on the machine in FILE instead of booting one: the same bytes come out, in a fraction of the time. What the
    /// machine is, FILE says: options about that cannot be given again. Disks are opened anew, and must be as large as they were.
    /// A machine that was saved with a ledger (--ledger on, or --cache) goes on with it.
    #[arg(long, value_name = "FILE", conflicts_with_all = FIXED_BY_FILE)]
    restore: Option<PathBuf>,
    /// Follow what the guest's drivers map for DMA (Linux from 6.1 on), and what of it goes through bounce buffers (SWIOTLB), of
    /// which `--status` has the counts by device and mapping: auto does with a cache model and with --iommu bounce. By the
    /// software engine only; the guest does not see it, and runs as without.
    #[arg(long, value_enum, default_value = "auto")]
    ledger: LedgerMode,
    /// Write the live DMA mappings to FILE as JSON Lines: those of the moment at which the guest last read
    /// /sys/kernel/debug/dma-api/dump, if it has, else those at the end of the run.
    #[arg(long, value_name = "FILE")]
    ledger_dump: Option<PathBuf>,
    /// Take the names of the guest's kernel from FILE, its vmlinux or System.map, instead of from its memory. If they are
    /// another kernel's (the build-ids differ, or the addresses), the ledger is off, says so, and the run goes on.
    #[arg(long, value_name = "FILE")]
    symbols: Option<PathBuf>,
    /// Write findings as JSON Lines, and the trace that shows each manifest one by itself (`staleline replay`) to the folder
    /// `traces` beside FILE. They are told on standard error in any case.
    #[arg(long, value_name = "FILE")]
    findings: Option<PathBuf>,
    /// Which findings make the exit status 123, however COMMAND ends: those that have happened, also those that another
    /// schedule of the cache would have made happen, or none. Only a cache model and the ledger find anything.
    #[arg(long, value_enum, default_value = "manifest")]
    fail_on: FailOn,
    /// Write every operation on memory to TRACE, which `staleline replay` reads: the same cache gives the same findings, counters
    /// and memory there. Needs a cache with scope=all. A line is some 30 bytes, and a second of a guest's time has hundreds of
    /// millions: end the run early (`--deadline`).
    #[arg(long, value_name = "TRACE", conflicts_with = "restore")]
    record: Option<PathBuf>,
    /// Seed of everything random in the machine (RDRAND, entropy).
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Seed everything random in the machine anew at the ready mark, the moment at which the guest is up and takes COMMAND:
    /// runs that differ in this seed and in COMMAND alone have the same boot, and can be forked from it. What the guest has
    /// drawn before, such as its kernel's own random state, stays.
    #[arg(long, value_name = "N")]
    ready_seed: Option<u64>,
    /// End the run after this time on the host.
    #[arg(long, value_name = "HOST_SECONDS", value_parser = parse_seconds)]
    timeout: Option<Duration>,
    /// End the run after this virtual time.
    #[arg(long, value_name = "VIRTUAL_SECONDS", value_parser = parse_seconds)]
    deadline: Option<Duration>,
    /// Write the guest's console to this file.
    #[arg(long, value_name = "FILE")]
    console: Option<PathBuf>,
    /// Write how the run ended to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    status: Option<PathBuf>,
    /// Run this in the guest. Its output and error output become ours and its exit status too; standard output carries
    /// nothing else then, and the guest's console goes to `--console` only. Without a command the console is
    /// standard output, and standard input goes to it; on a terminal Ctrl-A x leaves.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl RunArguments {
    /// What the run draws its random numbers from.
    pub(super) fn seeds(&self) -> Seeds {
        Seeds { seed: self.seed, ready_seed: self.ready_seed }
    }

    /// What the guest is told to run, if it is.
    pub(super) fn work(&self) -> Option<Work> {
        let command = (!self.command.is_empty()).then(|| self.command.clone());
        command.map(|argv| Work { argv, seed: self.ready_seed })
    }

    /// Whether the guest is to come to its ready mark, at which it waits for something to run.
    fn takes_work(&self) -> bool {
        !self.command.is_empty() || self.save.is_some()
    }

    /// Bytes of the machine's RAM, or the file that says.
    pub(super) fn ram(&self) -> Result<u64, &Path> {
        self.restore.as_deref().map_or(Ok(self.memory), Err)
    }

    /// Whether the guest's DMA mappings are followed.
    fn follows_dma(&self) -> bool {
        match self.ledger {
            LedgerMode::On => true,
            LedgerMode::Auto => !self.cache.is_off() || self.iommu == IommuSpec::Bounce,
            LedgerMode::Off => false,
        }
    }

    /// `--deadline` in virtual nanoseconds.
    pub(super) fn virtual_deadline(&self) -> Option<Nanos> {
        self.deadline.map(|limit| Nanos::try_from(limit.as_nanos()).unwrap_or(Nanos::MAX))
    }

    /// Whether there may be something that could find anything.
    pub(super) fn can_find(&self) -> bool {
        !self.cache.is_off()
            || self.iommu != IommuSpec::Off
            || self.confidential.is_some()
            || self.follows_dma()
            || self.restore.is_some()
    }

    /// What is asked of the ledger of a machine that `file` has, which has one or not.
    fn check_restored_ledger(&self, file: &Path, has_ledger: bool) -> Result<()> {
        let file = file.display();
        if has_ledger && self.ledger == LedgerMode::Off {
            bail!(
                "--ledger off: the machine in {file} goes on with the ledger that it was saved with (save it with --ledger off)"
            );
        }
        let needs = [
            ("--ledger on", self.ledger == LedgerMode::On),
            ("--ledger-dump", self.ledger_dump.is_some()),
            ("--symbols", self.symbols.is_some()),
        ];
        match needs.into_iter().find(|(_, wanted)| *wanted) {
            Some((option, _)) if !has_ledger => bail!(
                "{option}: the machine in {file} was saved without a ledger, which has to follow a guest from its boot on (boot it again with --ledger on --save {file})"
            ),
            _ => Ok(()),
        }
    }

    /// The file of `--symbols`.
    fn read_symbols(&self) -> Result<Option<Arc<SymbolFile>>> {
        let symbols = self.symbols.as_deref().map(SymbolFile::open).transpose().context("--symbols")?;
        Ok(symbols.map(Arc::new))
    }

    /// `--findings` as it was given.
    fn findings_option(&self) -> String {
        format!("--findings {}", self.findings.as_deref().unwrap_or(Path::new("")).display())
    }

    /// The exit status of a run that has ended.
    pub(super) fn exit_status(&self, outcome: &Outcome) -> u8 {
        outcome.exit_status(self.takes_work(), self.fail_on)
    }

    /// Refuses what only one run can do, not many at once.
    ///
    /// # Errors
    /// With the option.
    pub(super) fn check_repeatable(&self) -> Result<()> {
        match self.cache.pages().filter(|path| !path.exists()) {
            Some(path) => bail!("--cache pages={}: no such file (`staleline run` writes it)", path.display()),
            None => Ok(()),
        }
    }

    /// Refuses what this version cannot do.
    pub(super) fn check(&self) -> Result<()> {
        refuse("--arch riscv64", self.arch == Arch::Riscv64)?;
        if !(1..=CPUS_MAX).contains(&self.cpus) {
            bail!("--cpus {}: a machine has 1 to {CPUS_MAX} vCPUs", self.cpus);
        }
        if self.iommu == IommuSpec::Bounce {
            if self.engine == EngineChoice::Kvm {
                bail!(
                    "--iommu bounce: the KVM engine cannot follow what the guest shares (--engine soft can)"
                );
            }
            if self.ledger == LedgerMode::Off {
                bail!("--iommu bounce: what the guest shares is known by the ledger: leave out --ledger off");
            }
        }
        if self.confidential.is_some() && self.engine == EngineChoice::Kvm {
            bail!("--confidential: the KVM engine shows guests no memory encryption (--engine soft does)");
        }
        if self.confidential.is_some() && !self.cache.is_off() {
            bail!("--confidential: encrypted memory is not modelled behind a cache (leave out --cache)");
        }
        refuse("--dma noncoherent", self.dma == Dma::Noncoherent)?;
        refuse("--dma lying", self.dma == Dma::Lying)?;
        if !self.cache.is_off() && self.engine == EngineChoice::Kvm {
            bail!("--cache: the KVM engine does not show the guest's accesses (--engine soft does)");
        }
        if let Some(path) = self.cache.pages()
            && let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty())
            && !folder.is_dir()
        {
            bail!("--cache pages={}: there is no such folder to write it in", path.display());
        }
        if self.follows_dma() && self.engine == EngineChoice::Kvm {
            bail!("--ledger: the KVM engine cannot follow the guest (--engine soft can)");
        }
        let may_follow = self.follows_dma() || self.restore.is_some();
        if self.ledger_dump.is_some() && !may_follow {
            bail!("--ledger-dump: there is no ledger to write (--ledger on keeps one)");
        }
        if self.symbols.is_some() && !may_follow {
            bail!(
                "--symbols: nothing asks for names without the ledger (--ledger on, or --cache, which turns it on)"
            );
        }
        if self.record.is_some() {
            match self.cache.config().map(|config| config.scope) {
                Some(Scope::All) => {}
                Some(Scope::Dma) => {
                    bail!("--record: with scope=dma only a part of memory is seen (give scope=all)")
                }
                None => bail!(
                    "--record: there is no cache whose operations could be recorded (--cache l1 is one)"
                ),
            }
            if self.save.is_some() {
                bail!(
                    "--record: a recording is of one run from power-on, and cannot be of a machine that is saved"
                );
            }
        }
        for (option, file) in [("--save", &self.save), ("--restore", &self.restore)] {
            if file.is_some() && self.engine == EngineChoice::Kvm {
                bail!("{option}: the KVM engine cannot save or restore a machine (--engine soft can)");
            }
        }
        if self.restore.is_some() && self.command.is_empty() {
            bail!("--restore: the machine waits for a command: give one after --");
        }
        if self.ready_seed.is_some() && self.command.is_empty() {
            bail!(
                "--ready-seed: without a command the guest has no ready mark to seed at (give one after --, or use --seed)"
            );
        }
        let mut slots = [false; 256];
        for device in &self.devices {
            if let Some(taken) = device.fixed_slot().and_then(|slot| slots.get_mut(usize::from(slot)))
                && std::mem::replace(taken, true)
            {
                let slot = device.fixed_slot().unwrap_or_default();
                bail!("--device {}: slot {slot} is asked for twice (give one of them slot=N)", device.kind);
            }
        }
        Ok(())
    }
}

/// The engine asked for, as far as this host has it and can save what it runs if it is to be `saved`.
fn choose_engine(choice: EngineChoice, needs_soft: bool) -> Result<EngineKind> {
    if choice == EngineChoice::Soft || needs_soft {
        return Ok(EngineKind::Soft);
    }
    let device = Path::new(kvm_probe::DEVICE);
    let kvm = kvm_probe::probe(device);
    let with = |paravirtual| EngineKind::Kvm { device: device.to_owned(), paravirtual };
    Ok(match kvm {
        Kvm::RunsKernels => with(Paravirtual::Shown),
        _ if choice == EngineChoice::Auto => {
            log::info!("the software engine runs the guest; KVM: {kvm}");
            EngineKind::Soft
        }
        Kvm::NoKernel { .. } => {
            log::info!("KVM runs only guests made for it; {kvm}");
            with(Paravirtual::Hidden)
        }
        Kvm::Absent | Kvm::Denied | Kvm::Unusable { .. } => {
            bail!("--engine kvm: {kvm} (`staleline doctor` says what to do; --engine soft needs no KVM)")
        }
    })
}

/// Kernel, initrd and command line, from an image or from files.
struct Guest {
    kernel: PathBuf,
    initrd: Vec<PathBuf>,
    command_line: Option<String>,
    /// For `--status`.
    name: String,
    /// The initrd has our init in it.
    ours: bool,
}

/// Builds the user's kernel tree, and the initramfs of the image whose configuration it gets.
fn build_tree(arguments: &RunArguments, folder: &Path) -> Result<Guest> {
    let tree = KernelTree::open(folder).context("--kernel-source")?;
    let store = Store::open(None)?;
    let progress = guest_images::progress::for_stderr();
    let recipe = match &arguments.kernel {
        Some(name) => store.recipe(name).context("--kernel-source: --kernel names the configuration")?,
        None => store.recipe_for(&tree)?,
    };
    let own_initrd = arguments.initrd.is_empty();
    let initrd = match own_initrd {
        true => vec![store.initramfs(&recipe.name, progress.as_ref())?],
        false => arguments.initrd.clone(),
    };
    let built = store.build_tree(&recipe.name, &tree, progress.as_ref())?;
    Ok(Guest {
        kernel: built.kernel,
        initrd,
        command_line: arguments.cmdline.clone().or(Some(recipe.cmdline.clone())),
        name: format!("{} {}", tree.folder().display(), built.hash),
        ours: own_initrd,
    })
}

/// Finds what to boot; builds the image first if that is needed.
fn find_guest(arguments: &RunArguments) -> Result<Guest> {
    if let Some(folder) = &arguments.kernel_source {
        return build_tree(arguments, folder);
    }
    let wanted = arguments.kernel.as_deref().unwrap_or(DEFAULT_IMAGE);
    // A name is an image's unless it is spelt as a path.
    let store = Store::open(None);
    let is_image = !wanted.contains('/')
        && match &store {
            Ok(store) => store.recipe(wanted).is_ok(),
            Err(_) => arguments.kernel.is_none(),
        };
    if !is_image {
        let path = PathBuf::from(wanted);
        if !path.exists() && !wanted.contains('/') {
            let known = store.map(|store| {
                store.recipes().iter().map(|recipe| recipe.name.clone()).collect::<Vec<_>>().join(", ")
            });
            bail!("kernel {wanted}: no such file, nor an image (images: {})", known.unwrap_or_default());
        }
        return Ok(Guest {
            kernel: path,
            initrd: arguments.initrd.clone(),
            command_line: arguments.cmdline.clone(),
            name: wanted.to_owned(),
            ours: false,
        });
    }
    let image: Image = store?.ensure(wanted, guest_images::progress::for_stderr().as_ref())?;
    Ok(Guest {
        kernel: image.kernel,
        ours: arguments.initrd.is_empty(),
        initrd: if arguments.initrd.is_empty() { vec![image.initrd] } else { arguments.initrd.clone() },
        command_line: arguments.cmdline.clone().or(Some(image.cmdline)),
        name: format!("{} {}", image.name, image.hash),
    })
}

/// Runs the guest and returns the exit status.
pub(super) fn run(arguments: &RunArguments) -> Result<u8> {
    let result = run_guest(arguments);
    if let (Err(error), Some(path)) = (&result, &arguments.status) {
        let file = arguments.restore.as_ref().map(|file| file.display().to_string());
        let image = file.or_else(|| arguments.kernel.clone()).unwrap_or_else(|| DEFAULT_IMAGE.into());
        Status::error(super::message(error), image, arguments.seeds()).write(path)?;
    }
    result
}

/// Where a run begins.
pub(super) enum Origin {
    /// At power-on.
    Boot(Box<SessionConfig>),
    /// At the ready mark of a saved machine.
    Saved(Box<Template>),
}

/// A run, ready to begin.
pub(super) struct Prepared {
    pub origin: Origin,
    /// The image's name and hash, or the kernel's path.
    pub image: String,
    pub seeds: Seeds,
    pub work: Option<Work>,
    pub deadline: Option<Nanos>,
}

impl Prepared {
    /// The name of the engine.
    pub(super) fn engine(&self) -> &'static str {
        match &self.origin {
            Origin::Boot(config) => config.engine.name(),
            Origin::Saved(_) => EngineKind::Soft.name(),
        }
    }

    /// The run.
    pub(super) fn session(&self, kick: Kick) -> Result<Session, SessionError> {
        match &self.origin {
            Origin::Boot(config) => Session::new(config, kick),
            Origin::Saved(template) => {
                template.fork(&self.work.clone().unwrap_or_default(), self.deadline, kick)
            }
        }
    }
}

impl Origin {
    /// The machine at its ready mark; what it sends on the way there goes to `output`.
    pub(super) fn template(
        self,
        kick: Kick,
        host: &Host,
        output: &mut Output<'_>,
    ) -> Result<Template, SessionError> {
        match self {
            Self::Boot(config) => Template::boot(&config, kick, Some(host), output),
            Self::Saved(template) => Ok(*template),
        }
    }
}

/// Reads what is to go on.
fn restore(arguments: &RunArguments, file: &Path) -> Result<Prepared> {
    let symbols = arguments.read_symbols()?;
    let Restored { mut template, guest, machine } = Template::restore(file).context("--restore")?;
    let has_ledger = template.watch_with(symbols, arguments.ledger_dump.is_some());
    arguments.check_restored_ledger(file, has_ledger)?;
    Ok(Prepared {
        origin: Origin::Saved(Box::new(template)),
        image: guest,
        seeds: Seeds { seed: machine.seed, ..arguments.seeds() },
        work: arguments.work(),
        deadline: arguments.virtual_deadline(),
    })
}

/// Finds or builds what is to run.
pub(super) fn prepare(arguments: &RunArguments) -> Result<Prepared> {
    arguments.check()?;
    if let Some(file) = &arguments.restore {
        return restore(arguments, file);
    }
    let guest = find_guest(arguments)?;
    let takes_work = arguments.takes_work();
    let mut initrd: Vec<_> = guest.initrd.iter().cloned().map(InitrdPart::File).collect();
    let mut command_line = guest.command_line;
    if !arguments.files.is_empty() {
        initrd.push(InitrdPart::Bytes(guest_images::files_archive(&arguments.files)?));
    }
    if takes_work {
        initrd.push(InitrdPart::Bytes(guest_images::work_archive()));
    }
    if takes_work || guest.ours {
        let line = command_line.unwrap_or_else(|| cmdline::DEFAULT.into());
        let has_init = line.contains("rdinit=");
        if arguments.save.is_some() && has_init && !line.contains(cmdline::OUR_INIT) {
            bail!(
                "--save: only staleline's init comes to the ready mark, and the command line has an rdinit= of its own"
            );
        }
        command_line = Some(if has_init { line } else { cmdline::append(&line, cmdline::OUR_INIT) });
    }
    if arguments.iommu == IommuSpec::Bounce {
        let line = command_line.unwrap_or_else(|| cmdline::DEFAULT.into());
        command_line = Some(bouncing(&line)?);
    }
    let symbols = arguments.read_symbols()?;
    let config = SessionConfig {
        machine: MachineConfig {
            memory: arguments.memory,
            cpus: arguments.cpus,
            seed: arguments.seed,
            devices: arguments.devices.clone(),
            cache: arguments.cache.clone(),
            iommu: arguments.iommu,
            confidential: arguments.confidential,
        },
        engine: choose_engine(arguments.engine, arguments.save.is_some() || arguments.can_find())?,
        kernel: guest.kernel,
        initrd,
        command_line,
        deadline: arguments.virtual_deadline(),
        work: arguments.work(),
        watch: Watch {
            record: arguments.record.clone(),
            pages: arguments.cache.pages().map(Path::to_owned),
            ledger: arguments.follows_dma(),
            ledger_records: arguments.ledger_dump.is_some(),
            symbols,
        },
    };
    Ok(Prepared {
        origin: Origin::Boot(Box::new(config)),
        image: guest.name,
        seeds: arguments.seeds(),
        work: arguments.work(),
        deadline: arguments.virtual_deadline(),
    })
}

/// The command line `line` of a kernel that is to bounce all DMA.
fn bouncing(line: &str) -> Result<String> {
    let options = || line.split_whitespace().filter_map(|word| word.strip_prefix("swiotlb="));
    if options().any(|option| option.split(',').any(|word| word == "noforce")) {
        bail!("--iommu bounce: the command line has swiotlb=noforce: the kernel would bounce nothing");
    }
    let forced = options().any(|option| option.split(',').any(|word| word == "force"));
    let has_iommu = line.split_whitespace().any(|word| word.starts_with("iommu="));
    let missing = [(forced, FORCE_BOUNCING), (has_iommu, SAY_WHERE)].into_iter().filter(|(there, _)| !there);
    Ok(missing.fold(line.to_owned(), |line, (_, word)| cmdline::append(&line, word)))
}

/// Boots to the ready mark, saves the machine, and goes on if there is anything to do.
fn run_saving(
    prepared: Prepared,
    file: &Path,
    kick: Kick,
    host: &Host,
    output: &mut Output<'_>,
) -> Result<Outcome> {
    let template = match prepared.origin.template(kick, host, output) {
        Ok(template) => template,
        Err(SessionError::NotReady(outcome)) => return Ok(*outcome),
        Err(error @ SessionError::CannotFork(_)) => return Err(error).context("--save"),
        Err(error) => return Err(error.into()),
    };
    let length = template.save(file, &prepared.image).context("--save")?;
    let at = Duration::from_nanos(template.virtual_nanos());
    eprintln!(
        "staleline: saved {} ({} MiB) at virtual time {:.6}",
        file.display(),
        length.div_ceil(1 << 20),
        at.as_secs_f64()
    );
    match &prepared.work {
        Some(work) => Ok(template.go_on(work, prepared.deadline).run(Some(host), output)?),
        None => Ok(template.end(Cause::Saved)),
    }
}

fn run_guest(arguments: &RunArguments) -> Result<u8> {
    let prepared = prepare(arguments)?;
    let has_command = prepared.work.is_some();
    let (engine, image, seeds) = (prepared.engine(), prepared.image.clone(), prepared.seeds);
    let mut console_file = arguments.console.as_deref().map(create).transpose()?;
    let (mut console, mut stdout, mut stderr) = (io::stdout(), io::stdout(), io::stderr());
    let mut sinks: Vec<&mut dyn Write> = Vec::new();
    match &mut console_file {
        Some(file) => sinks.push(file),
        None if !has_command => sinks.push(&mut console),
        None => {}
    }
    let line: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into()).collect();
    let context = findings_context(&line, seeds);
    let text: Box<dyn Write> = Box::new(io::stderr());
    let findings = Sink::new(arguments.findings.as_deref(), Some(text), context);
    let mut findings = findings.with_context(|| arguments.findings_option())?;
    let mut output = Output::new(sinks, &mut stdout, &mut stderr).with_findings(&mut findings);
    let kick = Kick::default();
    let last_resort = last_resort(arguments.status.clone(), image.clone(), seeds);
    // What is typed into a machine that is saved would be saved with it.
    let options = HostOptions { stdin: !arguments.takes_work(), timeout: arguments.timeout, last_resort };
    // The host's side comes first: a limit holds for loading as well.
    let host = Host::start(options, kick.clone()).context("cannot watch the host's side")?;
    let outcome = match &arguments.save {
        Some(file) => run_saving(prepared, file, kick, &host, &mut output)?,
        None => prepared.session(kick)?.run(Some(&host), &mut output)?,
    };
    drop(host);
    drop(output);
    findings.finish(&outcome.findings.reports).with_context(|| arguments.findings_option())?;
    explain(&outcome.cause, arguments.takes_work());
    if let Some(report) = &outcome.ledger {
        explain_ledger(report, arguments.ledger == LedgerMode::On || arguments.symbols.is_some());
        if let Some(path) = &arguments.ledger_dump {
            write_records(report, path).with_context(|| format!("--ledger-dump {}", path.display()))?;
        }
    }
    if let Some(statistics) = &outcome.iommu {
        explain_iommu(statistics);
    }
    if let Some(statistics) = &outcome.confidential {
        explain_confidential(statistics, &outcome.cause);
    }
    let bounced = outcome.ledger.as_ref().and_then(|report| report.bounced.as_ref());
    if let Some(report) = bounced.filter(|report| report.all != Bounced::default()) {
        explain_bounces(report);
    }
    if let Some(path) = &arguments.status {
        Status::of(&outcome, engine, image, seeds).write(path)?;
    }
    Ok(arguments.exit_status(&outcome))
}

/// What happens when the run does not come to its end although it was told to: standard output or a file that the kernel
/// is read from may block for ever.
fn last_resort(status: Option<PathBuf>, image: String, seeds: Seeds) -> LastResort {
    Box::new(move |event| {
        let cause = Session::stopped_by_host(event);
        eprintln!("staleline: {} (the run was blocked outside the guest)", cause.name());
        if let Some(path) = status
            && let Err(error) = Status::without_run(&cause, image, seeds).write(&path)
        {
            eprintln!("staleline: {error:#}");
        }
        std::process::exit(i32::from(cause.exit_status(false)));
    })
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("--console {}", path.display()))
}

/// Says on standard error which devices have accessed private memory, and what a guest lacks that dies at once.
fn explain_confidential(statistics: &ConfidentialStatistics, cause: &Cause) {
    for PrivateDma { device, transactions } in &statistics.private_dma {
        eprintln!(
            "staleline: sev: {device}: {transactions} transactions with memory that the guest had not shared"
        );
    }
    if matches!(cause, Cause::TripleFault(_)) {
        eprintln!(
            "staleline: sev: a kernel without CONFIG_AMD_MEM_ENCRYPT cannot run encrypted (Debian's have it)"
        );
    }
}

/// Says on standard error what the IOMMU has not let through.
fn explain_iommu(statistics: &IommuStatistics) {
    for BlockedFunction { device, requests } in &statistics.blocked {
        let Blocked { reads, writes, atomics, bytes } = requests;
        eprintln!(
            "staleline: iommu: {device}: blocked {reads} reads, {writes} writes, {atomics} atomics; {bytes} bytes"
        );
    }
}

/// Says on standard error what has gone through bounce buffers.
fn explain_bounces(report: &BounceReport) {
    for line in report.to_string().lines() {
        eprintln!("staleline: swiotlb: {line}");
    }
}

/// Says on standard error what the ledger could not do; if it was not asked for by name, only in the log.
fn explain_ledger(report: &Report, asked: bool) {
    let off = report.off.iter().map(|reason| format!("off: {reason}"));
    for text in off.chain(report.coverage.reasons.iter().cloned()) {
        if asked {
            eprintln!("staleline: ledger: {text}");
        } else {
            log::info!("ledger: {text}");
        }
    }
}

/// Writes the mappings as JSON Lines.
fn write_records(report: &Report, path: &Path) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for record in &report.records {
        serde_json::to_writer(&mut file, record)?;
        file.write_all(b"\n")?;
    }
    Ok(file.flush()?)
}

/// Options that say where output goes, or how long the host waits: a run is the same without them.
const OF_NO_ACCOUNT: [&str; 5] = ["--findings", "--status", "--console", "--record", "--timeout"];

/// What all findings of the run of `line`, the arguments of this program, have in common.
pub(super) fn findings_context(line: &[String], seeds: Seeds) -> FindingsContext {
    let end = line.iter().position(|word| word == "--").unwrap_or(line.len());
    let (options, command) = line.split_at_checked(end).unwrap_or((line, &[]));
    let mut words = Vec::new();
    let mut rest = options.iter();
    while let Some(word) = rest.next() {
        let name = word.split('=').next().unwrap_or_default();
        match OF_NO_ACCOUNT.contains(&name) {
            false => words.push(word.clone()),
            true if name == word => drop(rest.next()),
            true => {}
        }
    }
    words.extend_from_slice(command);
    FindingsContext { seed: seeds.seed, ready_seed: seeds.ready_seed, again: shell_line(&words) }
}

/// Says on standard error how the run ended, unless it ended as it should.
fn explain(cause: &Cause, has_command: bool) {
    let text = match cause {
        Cause::Exited(_) | Cause::Left | Cause::Saved => return,
        Cause::PowerOff | Cause::Reset | Cause::DebugExit(_) if !has_command => return,
        Cause::PowerOff | Cause::Reset => {
            format!("the guest stopped ({}) before its work was done", cause.name())
        }
        Cause::Timeout => "the run took longer than --timeout".into(),
        Cause::Deadline => "virtual time has reached --deadline".into(),
        cause => cause.description(),
    };
    eprintln!("staleline: {text}");
}
