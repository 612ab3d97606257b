//! What the model remembers is bounded, and what it drops is counted.

use cache_model::{
    CacheModel, Config, Geometry, Limits, MemoryType, OutOfRange, Overflow, Policy, Snoop, Writer,
};

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
