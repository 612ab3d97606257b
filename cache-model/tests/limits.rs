//! What the model remembers is bounded, and what it drops is counted.

use cache_model::{
    CacheModel, Config, Geometry, Limits, MemoryType, OutOfRange, Overflow, Policy, Snoop, Writer,
};

const CPU: Writer = Writer::cpu(0, 0, 0);
const DEVICE: Writer = Writer::device(0, 0);

#[test]
fn what_does_not_fit_is_counted() {
    let geometry = Geometry::new(64, 4, 2).expect("a valid shape");
    let limits = Limits { records: 2, pending: 1, findings: 1 };
    let config = Config::new(geometry, Policy::Lru).expect("a valid policy").with_limits(limits);
    let mut cache = CacheModel::new(config);
    let mut bytes = vec![0; 1024];
    let memory = &mut bytes[..];

    for line in 0..3 {
        cache.store(memory, CPU, line * 64, &[1], MemoryType::WriteBack).expect("in memory");
    }
    let mut got = [0; 256];
    cache.dma_read(memory, DEVICE, 0, &mut got, Snoop::NoSnoop).expect("in memory");
    assert_eq!(cache.take_findings().len(), 1);
    assert_eq!(cache.overflow(), Overflow { records: 1, pending: 0, findings: 1 });

    // Room that becomes free is used again.
    cache.flush(memory, CPU, 0, 192).expect("in memory");
    cache.store(memory, CPU, 128, &[2], MemoryType::WriteBack).expect("in memory");
    cache.dma_read(memory, DEVICE, 128, &mut got[..1], Snoop::NoSnoop).expect("in memory");
    assert_eq!(cache.take_findings()[0].expected, [2]);

    cache.store(memory, CPU, 512, &[3; 128], MemoryType::NonTemporal).expect("in memory");
    assert_eq!(cache.overflow(), Overflow { records: 1, pending: 1, findings: 1 });
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
