//! What the model remembers is bounded, and what it drops is counted.

mod support;

use cache_model::{
    CacheModel, Config, Geometry, Limits, MemoryType, OutOfRange, Overflow, Policy, Snoop, Writer,
};
use support::ops::Random;

const CPU: Writer = Writer::cpu(0, 0, 0);
const DEVICE: Writer = Writer::device(0, 0);

fn cache(limits: Limits) -> CacheModel {
    let geometry = Geometry::new(64, 4, 2).expect("a valid shape");
    CacheModel::new(Config::new(geometry, Policy::Lru).expect("a valid policy").with_limits(limits))
}

#[test]
fn what_does_not_fit_is_counted() {
    let mut cache = cache(Limits { records: 2, spilled: 2, unknown: 1, pending: 1, findings: 1 });
    let mut bytes = vec![0; 16384];
    let memory = &mut bytes[..];
    let mut got = [0; 256];

    // Stores to lines that have left: the oldest is forgotten.
    for line in 0..3 {
        cache.store(memory, CPU, line * 64, &[1], MemoryType::WriteBack).expect("in memory");
        cache.evict(memory, 0, line * 64).expect("in memory");
    }
    cache.dma_read(memory, DEVICE, 0, &mut got, Snoop::NoSnoop).expect("in memory");
    let findings = cache.take_findings();
    assert_eq!(findings.iter().map(|finding| finding.addr).collect::<Vec<_>>(), [64]);
    let mut overflow = Overflow { spilled: 1, findings: 1, ..Overflow::default() };
    assert_eq!(cache.overflow(), overflow);

    // Lines in doubt: the same.
    for line in 4..7 {
        cache.load(memory, CPU, line * 64, &mut got[..1], MemoryType::WriteBack).expect("in memory");
        cache.dma_write(memory, DEVICE, line * 64, &[2], Snoop::NoSnoop).expect("in memory");
    }
    overflow.records = 1;
    assert_eq!(cache.overflow(), overflow);
    cache.load(memory, CPU, 4 * 64, &mut got[..1], MemoryType::WriteBack).expect("in memory");
    assert!(!cache.has_findings());
    cache.load(memory, CPU, 5 * 64, &mut got[..1], MemoryType::WriteBack).expect("in memory");
    assert_eq!(cache.take_findings()[0].expected, [2]);

    // Room that becomes free is used again.
    cache.flush(memory, CPU, 5 * 64, 64).expect("in memory");
    cache.dma_write(memory, DEVICE, 8 * 64, &[2], Snoop::NoSnoop).expect("in memory");
    assert_eq!(cache.overflow(), overflow);

    cache.store(memory, CPU, 512, &[3; 128], MemoryType::NonTemporal).expect("in memory");
    cache.enter_unknown(memory, 4096, 8192).expect("in memory");
    (overflow.pending, overflow.unknown) = (1, 64);
    assert_eq!(cache.overflow(), overflow);
}

/// A line of which something was forgotten raises nothing false, whatever is done to it before it is clean again.
#[test]
fn what_is_forgotten_is_not_judged() {
    let mut cache = cache(Limits { records: 1, spilled: 1, ..Limits::default() });
    let mut bytes = vec![0; 1024];
    let memory = &mut bytes[..];
    let mut got = [0; 64];
    // The device has the last word on a dirty byte, and this is forgotten.
    cache.store(memory, CPU, 0, &[1, 1], MemoryType::WriteBack).expect("in memory");
    cache.dma_write(memory, DEVICE, 0, &[2], Snoop::NoSnoop).expect("in memory");
    cache.dma_write(memory, DEVICE, 64, &[2], Snoop::NoSnoop).expect("in memory");
    assert_eq!(cache.overflow().records, 1);
    cache.dma_read(memory, DEVICE, 0, &mut got, Snoop::NoSnoop).expect("in memory");
    cache.load(memory, CPU, 0, &mut got, MemoryType::WriteBack).expect("in memory");
    cache.evict(memory, 0, 0).expect("in memory");
    cache.dma_read(memory, DEVICE, 0, &mut got, Snoop::NoSnoop).expect("in memory");
    assert_eq!(cache.take_findings(), []);
    // From then on it is judged again.
    cache.store(memory, CPU, 0, &[3], MemoryType::WriteBack).expect("in memory");
    cache.dma_read(memory, DEVICE, 0, &mut got, Snoop::NoSnoop).expect("in memory");
    assert_eq!(cache.take_findings().len(), 1);
}

/// The model's size is that of the modelled cache and of what the limits allow, however long it runs.
#[test]
fn its_size_is_bounded() {
    let limits = Limits { records: 32, spilled: 32, unknown: 32, pending: 32, findings: 32 };
    let mut cache = cache(limits);
    let mut bytes = vec![0; 1 << 20];
    let memory = &mut bytes[..];
    let mut random = Random(0xb0);
    let kinds =
        [MemoryType::WriteBack, MemoryType::Uncached, MemoryType::WriteCombining, MemoryType::NonTemporal];
    let mut largest = 0;
    for stamp in 0..120_000 {
        let addr = random.draw() % ((1 << 20) - 256);
        let cpu = Writer::cpu((random.draw() % 4096) as u32, addr, stamp);
        let device = Writer::device(addr as u32, stamp);
        let data = vec![stamp as u8; 1 + (random.draw() % 200) as usize];
        match random.draw() % 10 {
            0..5 => cache.store(memory, cpu, addr, &data[..1], MemoryType::WriteBack),
            5 => cache.store(memory, cpu, addr, &data, kinds[(random.draw() % 4) as usize]),
            6 => cache.dma_write(memory, device, addr, &data, Snoop::NoSnoop),
            7 => cache.dma_read(memory, device, addr, &mut vec![0; data.len()], Snoop::NoSnoop),
            8 => cache.invalidate(memory, cpu, addr, 200),
            _ => cache.enter_unknown(memory, addr, 200),
        }
        .expect("in memory");
        if stamp % 10_000 == 9_999 {
            largest = largest.max(serde_json::to_vec(&cache).expect("it is data").len());
        }
    }
    let overflow = cache.overflow();
    let Overflow { records, spilled, pending, unknown, findings } = overflow;
    assert!([records, spilled, pending, unknown, findings].iter().all(|&count| count > 0), "{overflow:?}");
    // Most of it is the log of stores, which is dropped from when it has 16384 entries.
    assert!(largest < 1_500_000, "{largest}");
}

/// An access that is partly outside memory changes nothing at all.
#[test]
fn accesses_are_all_or_nothing() {
    let geometry = Geometry::new(64, 4, 2).expect("a valid shape");
    let mut cache = CacheModel::new(Config::new(geometry, Policy::Lru).expect("a valid policy"));
    let mut bytes = vec![0; 256];
    let memory = &mut bytes[..];
    let outside = Err(OutOfRange { addr: 250, len: 8 });
    assert_eq!(cache.store(memory, CPU, 250, &[1; 8], MemoryType::WriteBack), outside);
    assert_eq!(cache.dma_write(memory, DEVICE, 250, &[1; 8], Snoop::Snoop), outside);
    assert_eq!(cache.load(memory, CPU, 250, &mut [0; 8], MemoryType::Uncached), outside);
    assert_eq!(cache.clean(memory, CPU, u64::MAX, 2), Err(OutOfRange { addr: u64::MAX, len: 2 }));
    assert_eq!(cache.stats(), cache_model::Stats::default());
    assert!(!cache.is_resident(250));
    assert_eq!(bytes, [0; 256]);
}
