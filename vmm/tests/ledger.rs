//! The ledger of DMA mappings against the one that the guest's kernel keeps itself (dma-debug), entry by entry, and against
//! runs without it. Needs the images linux-6.1-debug, linux-6.12-debug and linux-7.2-debug.

mod common;

use common::guest::Running;
use common::session::{Ran, boot, cold, run, shell};
use staleline::boot::{InitrdPart, cmdline};
use staleline::engine::{EngineKind, Kick};
use staleline::ledger::{Kind, Record, Report};
use staleline::machine::{IommuSpec, MachineConfig};
use staleline::session::{Cause, SessionConfig, Template, Watch};
use x86_cpu::reg;

/// A mapping as both say it: device, type, DMA address, guest-physical address, size, direction.
type Entry = (String, &'static str, u64, u64, u64, String);

/// Writes a disk and registers memory by several programs that go on holding it, then has the kernel print its ledger.
const WORKLOAD: &str = "
    mount -t debugfs debugfs /sys/kernel/debug
    dd if=/dev/zero of=/dev/vda bs=1M count=8 2>/dev/null
    ibv_rc_pingpong -s 100000 >/dev/null 2>&1 &
    ibv_rc_pingpong -p 18516 -s 5000 >/dev/null 2>&1 &
    insmod /dmalab.ko && dmalab soak 100 >/dev/null
    dmalab hold &
    sleep 2
    cat /sys/kernel/debug/dma-api/dump
";

/// A machine with drivers that map memory in every way that there is, and whether its ledger is kept.
fn config(image: &str, cpus: u32, watch: Watch) -> SessionConfig {
    let module = common::guest::module(image, "dmalab");
    let image = common::guest::image(image);
    SessionConfig {
        machine: MachineConfig {
            memory: 512 << 20,
            cpus,
            seed: 1,
            devices: ["mlx5", "rng", "dmalab,slot=5", "blk,size=64M"]
                .map(|device| device.parse().unwrap())
                .into(),
            cache: staleline::memory::CacheSpec::off(),
            iommu: IommuSpec::Off,
            confidential: None,
        },
        engine: EngineKind::Soft,
        kernel: image.kernel,
        initrd: vec![
            InitrdPart::File(image.initrd),
            InitrdPart::Bytes(guest_images::work_archive()),
            InitrdPart::Bytes(guest_images::files_archive(&[(module, "/dmalab.ko".into())]).unwrap()),
        ],
        command_line: Some(cmdline::append(&image.cmdline, cmdline::OUR_INIT)),
        deadline: Some(600_000_000_000),
        work: None,
        watch,
    }
}

fn following() -> Watch {
    Watch { ledger: true, ledger_records: true, ..Watch::default() }
}

/// A line of `dma-api/dump` (dump_show() in kernel/dma/debug.c), of Linux `series`.
fn printed(line: &str, series: &str) -> Entry {
    let words: Vec<_> = line.split_whitespace().collect();
    let number = |key: &str| {
        let word =
            words.iter().find_map(|word| word.strip_prefix(key)).unwrap_or_else(|| panic!("{key} in {line}"));
        u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap()
    };
    // The driver and the device; 6.1 has them the other way round.
    let device = words[if series == "6.1" { 0 } else { 1 }];
    let kind = match words[2] {
        "single" => "single",
        "scatter-gather" | "scather-gather" => "scatter-gather",
        "coherent" => "coherent",
        "noncoherent" => "noncoherent",
        "phy" => "phy",
        kind => panic!("{kind} in {line}"),
    };
    let direction = words.iter().find_map(|word| word.strip_prefix("DMA_")).unwrap();
    (device.to_owned(), kind, number("D="), number("P="), number("L="), direction.to_owned())
}

/// A mapping as dma-debug of Linux `series` has it; none if it does not know of such.
fn kept(record: &Record, series: &str) -> Option<Entry> {
    let kind = match record.kind {
        // A pool's blocks lie in memory that the pool has allocated.
        Kind::PoolBlock => return None,
        Kind::Single | Kind::Resource if series == "7.2" => "phy",
        Kind::Noncoherent if series == "6.1" => "single",
        Kind::Single => "single",
        Kind::ScatterGather | Kind::Noncontiguous => "scatter-gather",
        Kind::Coherent | Kind::PoolPage => "coherent",
        Kind::Noncoherent => "noncoherent",
        Kind::Resource | Kind::Iova => panic!("{record:?}"),
    };
    let physical = record.physical.unwrap_or_else(|| panic!("{record:?}"));
    Some((record.device.clone(), kind, record.address, physical, record.size, record.direction.clone()))
}

fn report(ran: &Ran) -> &Report {
    let report = ran.outcome.ledger.as_ref().unwrap();
    assert_eq!(report.off, None);
    report
}

fn agrees(series: &str, cpus: u32) -> Ran {
    let config = config(&format!("linux-{series}-debug"), cpus, following());
    let ran = cold(&config, &shell(WORKLOAD, None));
    assert_eq!(ran.outcome.cause, Cause::Exited(0), "{}{}", ran.stderr, ran.console);
    let mut guest: Vec<_> = ran.stdout.lines().map(|line| printed(line, series)).collect();
    let report = report(&ran);
    assert!(report.coverage.mappings && report.coverage.unmaps && report.coverage.syncs, "{report:?}");
    let mut ours: Vec<_> = report.records.iter().filter_map(|record| kept(record, series)).collect();
    guest.sort();
    ours.sort();
    for kind in ["coherent", "scatter-gather", if series == "7.2" { "phy" } else { "single" }] {
        assert!(guest.iter().filter(|entry| entry.1 == kind).count() > 10, "the workload maps by {kind}");
    }
    let exerciser = |entry: &&Entry| entry.0 == "0000:05:00.0";
    assert!(guest.iter().filter(exerciser).count() >= 13, "a ring, and twelve mappings that are held");
    let lacks = |of: &[Entry], entry: &&Entry| of.binary_search(entry).is_err();
    let unknown: Vec<_> = guest.iter().filter(|entry| lacks(&ours, entry)).take(10).collect();
    let ended: Vec<_> = ours.iter().filter(|entry| lacks(&guest, entry)).take(10).collect();
    assert!(
        unknown.is_empty() && ended.is_empty(),
        "the guest's alone: {unknown:#x?}\nours alone: {ended:#x?}"
    );
    // One by one: also as often as each other.
    assert_eq!(ours.len(), guest.len());
    assert!(ours == guest);
    ran
}

#[test]
fn the_ledger_is_that_of_linux_6_1() {
    agrees("6.1", 2);
}

#[test]
fn the_ledger_is_that_of_linux_6_12_and_its_run_is_as_without() {
    let ran = agrees("6.12", 2);
    let without = cold(&config("linux-6.12-debug", 2, Watch::default()), &shell(WORKLOAD, None));
    assert_eq!(without.outcome.ledger, None);
    let outcome = staleline::session::Outcome { ledger: None, ..ran.outcome };
    assert_eq!(Ran { outcome, ..ran }, without);
}

#[test]
fn the_ledger_is_that_of_linux_7_2() {
    agrees("7.2", 1);
}

#[test]
fn forks_and_restored_machines_go_on_with_the_ledger() {
    let mut config = config("linux-6.12-debug", 1, following());
    // Of a disk that is written there can be only one.
    config.machine.devices.truncate(3);
    let work = shell(WORKLOAD, None);
    let alone = cold(&config, &work);
    assert!(report(&alone).records.len() > 1000);
    let template = boot(&config).unwrap();
    assert_eq!(run(template.fork(&work, config.deadline, Kick::default()).unwrap()), alone);
    let file = tempfile::NamedTempFile::new().unwrap();
    template.save(file.path(), "a guest").unwrap();
    let restored = Template::restore(file.path()).unwrap().template;
    assert_eq!(run(restored.fork(&work, config.deadline, Kick::default()).unwrap()), alone);
}

/// Numbers that look random.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0.rotate_left(32)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

#[test]
fn calls_with_wild_arguments_are_survived_and_end_judgement() {
    let image = common::guest::image("linux-6.12-debug");
    let mut running = Running::start(&image, None, 1, 1);
    running.machine.lock().look_for_guest(None);
    running.machine.lock().follow_dma(true);
    running.run_until(10_000_000, |running| {
        running.machine.lock().ledger().is_some_and(|ledger| ledger.mappings().live().len() > 100)
    });
    let mut registers = running.registers(0);
    let machine = running.machine.lock();
    let mut guest = machine.guest().unwrap().clone();
    let mut ledger = machine.ledger().unwrap().clone();
    assert!(ledger.coverage().mappings);
    let functions: Vec<_> = [
        "dma_map_page_attrs",
        "dma_map_resource",
        "dma_map_sg_attrs",
        "dma_map_sgtable",
        "dma_alloc_attrs",
        "dma_alloc_pages",
        "dma_alloc_noncontiguous",
        "dma_pool_alloc",
        "dma_unmap_page_attrs",
        "dma_unmap_sg_attrs",
        "dma_free_attrs",
        "dma_free_noncontiguous",
        "dma_pool_free",
        "__dma_sync_single_for_cpu",
        "__dma_sync_sg_for_device",
    ]
    .map(|name| guest.address(name).unwrap())
    .into();
    // A device, a DMA pool of its own, and a scatter list without end, in memory that the kernel does not use.
    let (linear, at) = (0xffff_8880_0000_0000_u64, 0x1000_u64);
    let (device, pool, table, list) =
        (linear + at, linear + at + 0x100, linear + at + 0x200, linear + at + 0x300);
    let words = |at: u64, words: &[u64]| {
        for (at, word) in (at..).step_by(8).zip(words) {
            machine.ram().write(at, &word.to_le_bytes()).unwrap();
        }
    };
    words(at, &[linear + at + 0x80, 0, 0, 0, 0, 0, 0, 0, 0]);
    machine.ram().write(at + 0x80, b"0000:08:00.0\0").unwrap();
    words(at + 0x100 + 56, &[device, 256]);
    words(at + 0x200, &[list, 0xffff_ffff_ffff_ffff]);
    words(at + 0x300, &[0xffff_ea00_0000_0000 + 64 * 5, 64 << 32, 5 << 12, 64, list | 1]);
    let mut numbers = Numbers(1);
    for now in 0..5_000 {
        for register in 0..16 {
            registers.gpr[register] = match numbers.below(8) {
                0 => numbers.next(),
                1 => 0xffff_8880_0000_0000 + numbers.below(512 << 20),
                2 => 0xffff_ea00_0000_0000 + numbers.below(8 << 20) / 64 * 64,
                3 => 0xffff_ffff_8100_0000 + numbers.below(16 << 20),
                4 => u64::MAX,
                5 => [device, pool, table, list][numbers.below(4) as usize],
                _ => numbers.below(4),
            };
        }
        // The first argument: mostly one that makes sense.
        registers.gpr[reg::RDI] = [device, device, pool, registers.gpr[reg::RDI]][numbers.below(4) as usize];
        registers.cpl = 0;
        // A stack on which there is something.
        registers.gpr[reg::RSP] = 0xffff_8880_0000_0000 + numbers.below(512 << 20) / 8 * 8;
        registers.rip = functions[numbers.below(functions.len() as u64) as usize];
        ledger.probe(&mut guest, machine.ram(), &registers, now);
        if let Ok(back) = guest.memory(machine.ram()).u64(registers.gpr[reg::RSP]) {
            registers.rip = back;
            registers.gpr[reg::RSP] += 8;
            registers.gpr[reg::RAX] = [0, 1, numbers.next(), u64::MAX][numbers.below(4) as usize];
            ledger.probe(&mut guest, machine.ram(), &registers, now);
        }
    }
    assert!(!ledger.coverage().mappings && !ledger.coverage().syncs);
    assert!(ledger.coverage().reasons.len() <= 32);
    let live = ledger.mappings().live().len();
    assert!((500..=1 << 17).contains(&live), "{live}");
}

/// Runs `staleline run` with a status file; returns how it ended, and the file.
fn run_with_status(arguments: &[&str]) -> (common::Ran, serde_json::Value) {
    let status = tempfile::NamedTempFile::new().unwrap();
    let mut all = vec!["run", "--status", common::path(status.path())];
    all.extend(arguments);
    let ran = common::run(&all);
    (ran, serde_json::from_slice(&std::fs::read(status.path()).unwrap()).unwrap())
}

#[test]
fn what_a_stock_kernel_leaves_out_is_said() {
    let dump = tempfile::NamedTempFile::new().unwrap();
    let (ran, status) = run_with_status(&[
        "--kernel",
        "debian-cloud-6.12",
        "--device",
        "mlx5",
        "--ledger",
        "on",
        "--ledger-dump",
        common::path(dump.path()),
        "--",
        "true",
    ]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let ledger = &status["ledger"];
    assert_eq!((&ledger["mappings"], &ledger["syncs"]), (&true.into(), &false.into()), "{status:#}");
    assert!(ran.stderr.contains("leaves out dma_sync_*"), "{}", ran.stderr);
    let text = std::fs::read_to_string(dump.path()).unwrap();
    let records: Vec<Record> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_mlx5 = records.iter().filter(|record| record.device == "0000:08:00.0").count();
    assert!(of_mlx5 > 1000 && of_mlx5 as u64 <= ledger["mapped"].as_u64().unwrap() + 2000, "{of_mlx5}");
}

#[test]
fn a_guest_that_cannot_be_followed_is_said_to_be_so() {
    // jmp .
    let kernel = common::bare_kernel(&[0xeb, 0xfe]);
    let kernel = ["--kernel", common::path(kernel.path()), "--deadline", "0.001"];
    let (ran, status) = run_with_status(&[&kernel[..], &["--ledger", "on"]].concat());
    let reason = "the guest's kernel did not come to its system call entry";
    assert_eq!((ran.status, &status["ledger"]["off"]), (124, &reason.into()), "{status:#}");
    assert!(ran.stderr.contains(&format!("ledger: off: {reason}")), "{}", ran.stderr);
    for (arguments, message) in [
        (["--ledger", "on", "--engine", "kvm"], "--ledger: the KVM engine cannot"),
        (["--ledger", "off", "--ledger-dump", "x"], "--ledger-dump: there is no ledger"),
    ] {
        let (ran, _) = run_with_status(&[&kernel[..], &arguments].concat());
        assert_eq!(ran.status, 125);
        assert!(ran.stderr.contains(message), "{}", ran.stderr);
    }
}

#[test]
fn symbols_of_another_kernel_turn_the_ledger_off_and_the_run_goes_on() {
    let folder = |name: &str| common::guest::image(name).kernel.parent().unwrap().to_owned();
    let (own, other) = (folder("linux-6.12-debug"), folder("linux-6.1-debug"));
    let run = |file: &std::path::Path| {
        let options = ["--kernel", "linux-6.12-debug", "--device", "mlx5", "--cache", "l1"];
        run_with_status(&[&options[..], &["--symbols", common::path(file), "--", "echo", "ran"]].concat())
    };
    let (ran, status) = run(&own.join("vmlinux"));
    assert_eq!((ran.status, &*ran.stdout, status["ledger"].get("off")), (0, "ran\n", None), "{status:#}");
    assert!(status["ledger"]["mapped"].as_u64().unwrap() > 500, "{status:#}");
    for (file, reason) in [
        ("vmlinux", ["its build-id is ", "that of the running kernel is "]),
        ("System.map", ["these are symbols of another kernel", ""]),
    ] {
        let file = other.join(file);
        let (ran, status) = run(&file);
        assert_eq!((ran.status, &*ran.stdout), (0, "ran\n"), "{}", ran.stderr);
        let off = status["ledger"]["off"].as_str().unwrap();
        for words in [common::path(&file)].iter().chain(&reason) {
            assert!(off.contains(words), "no {words:?} in {off}");
        }
        assert!(ran.stderr.contains(&format!("staleline: ledger: off: {off}")), "{}", ran.stderr);
    }
}

#[test]
fn a_saved_machine_goes_on_with_its_ledger_and_with_none_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let (with, without, dump) = (file("with"), file("without"), file("dump"));
    let machine = ["--kernel", "linux-6.12-debug", "--device", "mlx5"];
    let work = ["--", "sh", "-c", "mount -t debugfs d /sys/kernel/debug; cat /sys/kernel/debug/dma-api/dump"];
    let dumped = ["--ledger", "on", "--ledger-dump", common::path(&dump)];
    let saved = run_with_status(&[&machine[..], &["--ledger", "on", "--save", common::path(&with)]].concat());
    assert_eq!(saved.0.status, 0, "{:?}", saved.0);
    let (cold, cold_status) = run_with_status(&[&machine[..], &dumped, &work].concat());
    let records = std::fs::read_to_string(&dump).unwrap();
    assert!(cold.status == 0 && records.lines().count() > 1000, "{cold:?}");
    let (restored, status) =
        run_with_status(&[&["--restore", common::path(&with)], &dumped[..], &work].concat());
    assert_eq!((&restored.stdout, &status["ledger"]), (&cold.stdout, &cold_status["ledger"]));
    assert!(std::fs::read_to_string(&dump).unwrap() == records);

    let saved = run_with_status(&[&machine[..], &["--save", common::path(&without)]].concat());
    assert_eq!(saved.0.status, 0, "{:?}", saved.0);
    for (saved, option, words) in [
        (&with, ["--ledger", "off"], ["--ledger off: ", "save it with --ledger off"]),
        (&without, ["--ledger", "on"], ["--ledger on: ", "boot it again with --ledger on --save"]),
        (&without, ["--ledger-dump", common::path(&dump)], ["--ledger-dump: ", "saved without a ledger"]),
    ] {
        let arguments = [&["--restore", common::path(saved)], &option[..], &["--", "true"]].concat();
        let (ran, _) = run_with_status(&arguments);
        assert_eq!(ran.status, 125);
        for words in words {
            assert!(ran.stderr.contains(words), "no {words:?} in {}", ran.stderr);
        }
    }
}
