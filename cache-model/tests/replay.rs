//! What `replay` reports: findings of known bugs, failed expectations, errors, and the JSON it becomes.

use cache_model::Verdict;
use cache_model::judge::Kind;
use cache_model::replay::{self, Replay, Report};
use sha2::{Digest, Sha256};

const CONFIG: &str = "config line=64 sets=4 ways=2 policy=lru mem=8192\n";

fn run(ops: &str) -> Report {
    replay::run(&format!("{CONFIG}{ops}")).expect("the trace is well-formed")
}

fn findings(ops: &str) -> Vec<(u64, Kind, Verdict, u64, String, String)> {
    let findings = run(ops).findings.into_iter();
    findings.map(|f| (f.line_no, f.kind, f.verdict, f.addr, f.expected, f.found)).collect()
}

fn one(
    line_no: u64,
    kind: Kind,
    verdict: Verdict,
    addr: u64,
    expected: &str,
    found: &str,
) -> [(u64, Kind, Verdict, u64, String, String); 1] {
    [(line_no, kind, verdict, addr, expected.to_owned(), found.to_owned())]
}

#[test]
fn a_missing_clean() {
    let stale = Kind::StaleDeviceRead;
    let found = findings("store 0 0x100 1122\ndma-read 1 0x0fe 8 nosnoop");
    assert_eq!(found, one(3, stale, Verdict::Manifest, 0x100, "1122", "0000"));
    let found = findings("store 0 0x100 1122\nevict 0x100\ndma-read 1 0x0fe 8 nosnoop");
    assert_eq!(found, one(4, stale, Verdict::Latent, 0x100, "1122", "1122"));
    assert_eq!(findings("store 0 0x100 1122\nclean 0x100 1\ndma-read 1 0x0fe 8 nosnoop"), []);
    assert_eq!(findings("store 0 0x100 1122\ndma-read 1 0x0fe 8 snoop"), []);
}

#[test]
fn a_missing_invalidation() {
    let stale = Kind::StaleCpuRead;
    let found = findings("load 0 0x100 1\ndma-write 1 0x104 aabb nosnoop\nload 0 0x100 8");
    assert_eq!(found, one(4, stale, Verdict::Manifest, 0x104, "aabb", "0000"));
    let found = findings("dma-write 1 0x104 aabb nosnoop\nload 0 0x100 8");
    assert_eq!(found, one(3, stale, Verdict::Latent, 0x104, "aabb", "aabb"));
    assert_eq!(findings("dma-write 1 0x104 aabb nosnoop\ninval 0x100 1\nload 0 0x100 8"), []);
    // Nobody reads, or reads after an overwrite: nothing.
    assert_eq!(
        findings("load 0 0x100 1\ndma-write 1 0x104 aabb nosnoop\nstore 0 0x104 0102\nload 0 0x100 8"),
        []
    );
}

#[test]
fn one_line_with_two_owners() {
    let (lost, clobber_kind) = (Kind::LostDmaWrite, Kind::LatentClobber);
    let clobber = "store 0 0x140 55\ndma-write 1 0x148 aabb nosnoop\nflush 0x140 1\nload 0 0x140 16";
    assert_eq!(findings(clobber), one(5, lost, Verdict::Manifest, 0x148, "aabb", "0000"));
    // The dirty line happened to leave in time.
    let lucky =
        "store 0 0x140 55\nevict 0x140\ndma-write 1 0x148 aabb nosnoop\nflush 0x140 1\nload 0 0x140 16";
    assert_eq!(findings(lucky), one(6, clobber_kind, Verdict::Latent, 0x148, "aabb", "aabb"));
    let bytes = format!("config line=64 sets=4 ways=2 writeback=bytes mem=8192\n{clobber}");
    assert_eq!(replay::run(&bytes).expect("well-formed").findings, []);
}

#[test]
fn an_invalidation_that_discards() {
    let lost = Kind::LostCpuWrite;
    let found = findings("store 0 0x100 1111\ninval 0x13f 1\nload 0 0x100 4");
    assert_eq!(found, one(4, lost, Verdict::Manifest, 0x100, "1111", "0000"));
    let found = findings("store 0 0x100 1111\ninvd\ndma-read 1 0x100 4 nosnoop");
    assert_eq!(found, one(4, lost, Verdict::Manifest, 0x100, "1111", "0000"));
}

#[test]
fn stores_that_wait_for_a_fence() {
    let stale = Kind::StaleDeviceRead;
    for kind in ["nt", "wc"] {
        let store = format!("store 0 0x100 1111 {kind}\n");
        let found = findings(&format!("{store}fence 1\ndma-read 1 0x100 4 nosnoop"));
        assert_eq!(found, one(4, stale, Verdict::Latent, 0x100, "1111", "1111"), "{kind}");
        assert_eq!(findings(&format!("{store}fence 0\ndma-read 1 0x100 4 nosnoop")), [], "{kind}");
    }
}

#[test]
fn dma_outside_mappings() {
    let map = "map 1 7 0x100 64 from\n";
    let found = findings(&format!("{map}dma-write 7 0x13e 01020304 nosnoop"));
    assert_eq!(found, one(3, Kind::OutOfMapping, Verdict::Manifest, 0x140, "", "0304"));
    let found = findings(&format!("{map}dma-read 7 0x100 2 snoop"));
    assert_eq!(found, one(3, Kind::AgainstDirection, Verdict::Manifest, 0x100, "", "0000"));
    let rest = "dma-write 7 0x100 01 nosnoop\nsync-cpu 1 0 32\nsync-dev 1\nunmap 1\ndma-read 8 0x200 4 snoop";
    assert_eq!(findings(&format!("{map}{rest}")), []);
}

#[test]
fn reports_are_json() {
    let report = run("store 0 0x100 1122\ndma-read 1 0x100 4 nosnoop\nexpect ram 0x100 11");
    let json = serde_json::to_value(&report).expect("a report is data");
    let finding = serde_json::json!({
        "line_no": 3, "kind": "stale-device-read", "verdict": "manifest",
        "addr": 256, "expected": "1122", "found": "0000",
    });
    let failed = serde_json::json!({
        "line_no": 4, "view": "ram", "addr": 256, "expected": "11", "found": "00",
    });
    let stats = serde_json::json!({
        "load_hits": 0, "load_misses": 0, "store_hits": 0, "store_misses": 1,
        "fills": 1, "evictions": 0, "writebacks": 0,
    });
    // SHA-256 of 8 KiB of zeros.
    let zeros = "9f1dcbc35c350d6027f98be0f5c8b43b42ca52b7604459c0c42be3aa88913d47";
    assert_eq!(json["findings"], serde_json::json!([finding]));
    assert_eq!(json["failed"], serde_json::json!([failed]));
    assert_eq!(json["stats"], stats);
    assert_eq!(json["ram"], zeros);
    assert_eq!(json["cpu"].as_str().map(str::len), Some(64));
    let keys: Vec<_> = json.as_object().expect("an object").keys().cloned().collect();
    assert_eq!(keys.len(), 5, "{keys:?}");
}

#[test]
fn a_config_starts_a_fresh_machine() {
    let report =
        run(&format!("store 0 0x100 11\nmap 1 1 0 1 to\n{CONFIG}expect cpu 0x100 00\nmap 1 1 0 1 to"));
    assert_eq!(report.failed, []);
    assert_eq!(report.stats.store_misses, 0);
    assert_eq!(report.ram, report.cpu);
}

#[test]
fn errors_name_the_line() {
    for (trace, message) in [
        ("", "line 1: a trace starts with a config line"),
        ("# nothing\n\n", "line 2: a trace starts with a config line"),
        ("\nload 0 0 1", "line 2: a trace starts with a config line"),
        ("config sets=1 ways=1 mem=64\nload 0 0x3f 2", "line 2: 2 bytes at 0x3f are outside memory"),
        ("config sets=1 ways=1 mem=64\n\nfill 0x40", "line 3: 1 bytes at 0x40 are outside memory"),
        ("config sets=1 ways=1 mem=64\nevict 64", "line 2: 1 bytes at 0x40 are outside memory"),
        (
            "config sets=1 ways=1 mem=64\nclean 0 0xffffffffffffffff",
            "line 2: 18446744073709551615 bytes at 0x0 are outside memory",
        ),
        (
            "config sets=1 ways=1 mem=64\nstore 0 0xffffffffffffffff 0102",
            "line 2: 2 bytes at 0xffffffffffffffff are outside memory",
        ),
        (
            "config sets=1 ways=1 mem=64\ndma-write 0 63 0102 snoop",
            "line 2: 2 bytes at 0x3f are outside memory",
        ),
        ("config sets=1 ways=1 mem=64\nmap 1 0 63 2 to", "line 2: 2 bytes at 0x3f are outside memory"),
        ("config sets=1 ways=1 mem=64\nexpect cpu 63 0000", "line 2: 2 bytes at 0x3f are outside memory"),
        ("config sets=1 ways=1 mem=64\nunmap 1", "line 2: there is no mapping 1"),
        ("config sets=1 ways=1 mem=64\nload 0 0 zz", "line 2: LEN is not a decimal or 0x number: \"zz\""),
    ] {
        let error = replay::run(trace).expect_err("it is not a trace");
        assert_eq!(error.to_string(), message);
    }
}

/// Where a trace is cut into pieces does not matter, nor how its lines end.
#[test]
fn traces_come_in_pieces() {
    let vectors = include_str!("data/coherence-vectors.txt");
    let whole = replay::run(vectors).expect("well-formed");
    for size in [1, 2, 7, 100, vectors.len() - 1] {
        let mut replay = Replay::new();
        for piece in vectors.as_bytes().chunks(size) {
            replay.feed(piece).expect("well-formed");
        }
        assert_eq!(replay.finish().as_ref(), Ok(&whole), "pieces of {size}");
    }
    assert_eq!(replay::run(&vectors.replace('\n', "\r\n")), Ok(whole));
    let mut replay = Replay::new();
    assert_eq!(replay.feed(b"config sets=1 ways=1 mem=64\nlo"), Ok(()));
    assert_eq!(
        replay.feed(b"ad 0 0\nload"),
        Err(replay::run("config sets=1 ways=1 mem=64\nload 0 0").unwrap_err())
    );
}

/// Memory is as large as the trace says, to the byte, and costs what is written.
#[test]
fn memory_is_sparse_and_exact() {
    let large = "config sets=4 ways=2 mem=0x1000000 base=0x8000000000\nstore 0 0x8000ffffff 01\nload 0 0x8000000000 0x1000000";
    let report = replay::run(large).expect("well-formed");
    assert_eq!(report.stats.load_misses + report.stats.load_hits, 0x1000000 / 64);
    assert_eq!((report.stats.writebacks, report.overflow), (1, 0));
    assert_eq!(report.ram, report.cpu);
    let odd = "config sets=4 ways=2 mem=100\nstore 0 99 ff\n";
    let report = replay::run(odd).expect("well-formed");
    let mut bytes = [0; 100];
    assert_eq!(report.ram, sha256(&bytes));
    bytes[99] = 0xff;
    assert_eq!(report.cpu, sha256(&bytes));
    for (op, message) in [
        ("load 0 99 2", "line 3: 2 bytes at 0x63 are outside memory"),
        ("fill 100", "line 3: 1 bytes at 0x64 are outside memory"),
        ("expect ram 100 00", "line 3: 1 bytes at 0x64 are outside memory"),
    ] {
        assert_eq!(replay::run(&format!("{odd}{op}")).unwrap_err().to_string(), message);
    }
    let below = "config sets=4 ways=2 mem=100 base=0x1000\nload 0 0xfff 1";
    assert_eq!(replay::run(below).unwrap_err().to_string(), "line 2: 1 bytes at 0xfff are outside memory");
}

/// A line that was stored to long ago, with more lines since than a machine's model keeps.
#[test]
fn long_traces_forget_nothing() {
    const LINES: u64 = (1 << 17) + 100;
    let mut trace = format!("config line=64 sets=4 ways=2 mem={}\n", LINES * 64);
    (0..LINES).for_each(|line| trace.push_str(&format!("store 0 {:#x} {:02x}\n", line * 64, line % 251)));
    trace.push_str("dma-read 1 0x40 1 nosnoop\n");
    let report = replay::run(&trace).expect("well-formed");
    assert_eq!(report.overflow, 0);
    let found: Vec<_> =
        report.findings.iter().map(|f| (f.line_no, f.verdict, f.addr, &f.found[..])).collect();
    assert_eq!(found, [(LINES + 2, Verdict::Latent, 0x40, "01")]);
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// No text makes it panic.
#[test]
fn mangled_traces_are_errors_or_run() {
    let vectors = include_str!("data/coherence-vectors.txt");
    let mut outcomes = [0, 0];
    for index in 0..vectors.len() {
        for new in ["f", "\n", "#", " ", "é", "0"] {
            if index % 7 == new.as_bytes()[0] as usize % 7 {
                let text = format!("{}{new}{}", &vectors[..index], &vectors[index + 1..]);
                outcomes[usize::from(replay::run(&text).is_ok())] += 1;
            }
        }
    }
    assert!(outcomes.iter().all(|&count| count > 100), "{outcomes:?}");
}
