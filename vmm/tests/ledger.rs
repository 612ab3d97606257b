//! The ledger of DMA mappings against the one that the guest's kernel keeps itself (dma-debug), entry by entry, and against
//! runs without it. Needs the images linux-6.1-debug, linux-6.12-debug and linux-7.2-debug.

mod common;

use common::session::{Ran, cold, shell};
use staleline::boot::{InitrdPart, cmdline};
use staleline::engine::EngineKind;
use staleline::ledger::{Kind, Record, Report};
use staleline::machine::MachineConfig;
use staleline::session::{Cause, SessionConfig, Watch};

/// A mapping as both say it: device, type, DMA address, guest-physical address, size, direction.
type Entry = (String, &'static str, u64, u64, u64, String);

/// Writes a disk and registers memory by several programs that go on holding it, then has the kernel print its ledger.
const WORKLOAD: &str = "
    mount -t debugfs debugfs /sys/kernel/debug
    dd if=/dev/zero of=/dev/vda bs=1M count=8 2>/dev/null
    ibv_rc_pingpong -s 100000 >/dev/null 2>&1 &
    ibv_rc_pingpong -p 18516 -s 5000 >/dev/null 2>&1 &
    sleep 2
    cat /sys/kernel/debug/dma-api/dump
";

/// A machine with drivers that map memory in every way that there is, and whether its ledger is kept.
fn config(image: &str, cpus: u32, watch: Watch) -> SessionConfig {
    let image = common::guest::image(image);
    SessionConfig {
        machine: MachineConfig {
            memory: 512 << 20,
            cpus,
            seed: 1,
            devices: ["mlx5", "rng", "blk,size=64M"].map(|device| device.parse().unwrap()).into(),
        },
        engine: EngineKind::Soft,
        kernel: image.kernel,
        initrd: vec![InitrdPart::File(image.initrd), InitrdPart::Bytes(guest_images::work_archive())],
        command_line: Some(cmdline::append(&image.cmdline, cmdline::OUR_INIT)),
        deadline: Some(600_000_000_000),
        work: None,
        watch,
    }
}

fn following() -> Watch {
    Watch { ledger: true, ledger_records: true, symbols: None }
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
