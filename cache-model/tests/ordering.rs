//! What is weakly ordered: flushes that complete at a fence, and lines that no cache can hold any more.

use cache_model::{CacheModel, Config, Finding, Geometry, Kind, Memory, MemoryType, OutOfRange, Policy};
use cache_model::{Schedule, Snoop, Verdict, Writer};

const ADDR: u64 = 0x140;

fn cache(schedule: Schedule) -> CacheModel {
    let config = Config::new(Geometry::new(64, 4, 2).unwrap(), Policy::Lru).unwrap();
    let mut cache = CacheModel::new(config.with_schedule(schedule));
    cache.start_schedule(1);
    cache
}

fn cpu(id: u32, stamp: u64) -> Writer {
    Writer::cpu(id, 0x1000 + stamp, stamp)
}

/// A store, maintenance, and a device that reads past the cache: what it got and what was found.
fn read_after(
    maintain: impl FnOnce(&mut CacheModel, &mut [u8]) -> Result<(), OutOfRange>,
) -> (u8, Vec<Finding>) {
    let memory = &mut vec![0; 4096][..];
    let mut cache = cache(Schedule::Worst);
    cache.store(memory, cpu(0, 1), ADDR, &[7], MemoryType::WriteBack).unwrap();
    maintain(&mut cache, memory).unwrap();
    let mut got = [0];
    cache.dma_read(memory, Writer::device(8, 9), ADDR, &mut got, Snoop::NoSnoop).unwrap();
    (got[0], cache.take_findings())
}

#[test]
fn a_weakly_ordered_flush_is_complete_at_its_cpu_s_fence() {
    type Flush = fn(&mut CacheModel, &mut [u8], Writer, u64, u64) -> Result<(), OutOfRange>;
    let flushes: [Flush; 2] = [|cache, memory, who, addr, len| cache.flush_weakly(memory, who, addr, len), {
        |cache, memory, who, addr, len| cache.clean_weakly(memory, who, addr, len)
    }];
    for flush in flushes {
        let (got, findings) = read_after(|cache, memory| {
            flush(cache, memory, cpu(0, 2), ADDR, 1)?;
            // A doorbell drains buffers, and another CPU's fence is none of this one's business.
            cache.drain(0);
            cache.fence(1);
            Ok(())
        });
        let [finding] = &findings[..] else { panic!("{findings:?}") };
        assert_eq!((got, finding.kind, finding.verdict), (7, Kind::StaleDeviceRead, Verdict::Latent));
        assert_eq!(finding.writer(), Some(cpu(0, 1)), "whose store it was");

        for fenced in [0, 1] {
            let (got, findings) = read_after(|cache, memory| {
                flush(cache, memory, cpu(0, 2), ADDR, 1)?;
                // In order, and behind it.
                if fenced == 0 {
                    cache.fence(0)
                } else {
                    cache.flush(memory, cpu(0, 3), ADDR, 1)?
                }
                Ok(())
            });
            assert_eq!((got, findings), (7, vec![]));
        }
    }
    let (got, findings) = read_after(|cache, memory| cache.flush(memory, cpu(0, 2), ADDR, 1));
    assert_eq!((got, findings), (7, vec![]), "CLFLUSH needs no fence");
}

#[test]
fn nothing_is_on_its_way_of_what_was_in_memory_already() {
    let memory = &mut vec![0; 4096][..];
    let mut cache = cache(Schedule::Worst);
    cache.store(memory, cpu(0, 1), ADDR, &[7], MemoryType::WriteBack).unwrap();
    cache.flush(memory, cpu(0, 2), ADDR, 1).unwrap();
    let mut got = [0];
    cache.load(memory, cpu(0, 3), ADDR, &mut got, MemoryType::WriteBack).unwrap();
    cache.flush_weakly(memory, cpu(0, 4), ADDR, 1).unwrap();
    cache.dma_read(memory, Writer::device(8, 9), ADDR, &mut got, Snoop::NoSnoop).unwrap();
    assert_eq!((got[0], cache.take_findings()), (7, vec![]));
}

/// Memory that a CPU may have within its caches' reach.
struct Reached {
    bytes: Vec<u8>,
    by_speculation: bool,
    by_what_is_left: bool,
}

impl Memory for Reached {
    fn covers(&self, addr: u64, len: u64) -> bool {
        self.bytes[..].covers(addr, len)
    }
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), OutOfRange> {
        self.bytes[..].read(addr, buf)
    }
    fn write(&mut self, addr: u64, data: &[u8]) -> Result<(), OutOfRange> {
        self.bytes[..].write(addr, data)
    }
    fn may_speculate(&self, _: u64) -> bool {
        self.by_speculation
    }
    fn may_be_cached(&self, _: u64) -> bool {
        self.by_what_is_left
    }
}

#[test]
fn what_no_cache_can_hold_is_written_past_it_without_harm() {
    // A device writes a line that has been flushed, then a CPU reads it.
    let outcome = |by_speculation, by_what_is_left| {
        let mut memory = Reached { bytes: vec![0; 4096], by_speculation, by_what_is_left };
        let mut cache = cache(Schedule::Worst);
        cache.store(&mut memory, cpu(0, 1), ADDR, &[7], MemoryType::WriteBack).unwrap();
        cache.flush(&mut memory, cpu(0, 2), ADDR, 1).unwrap();
        cache.dma_write(&mut memory, Writer::device(8, 3), ADDR, &[9], Snoop::NoSnoop).unwrap();
        let mut got = [0];
        cache.load(&mut memory, cpu(0, 4), ADDR, &mut got, MemoryType::WriteBack).unwrap();
        (got[0], cache.take_findings().first().map(|finding| finding.verdict))
    };
    assert_eq!(outcome(true, true), (7, Some(Verdict::Manifest)));
    assert_eq!(outcome(false, true), (9, Some(Verdict::Latent)), "an older copy may have been left");
    assert_eq!(outcome(false, false), (9, None));
}
