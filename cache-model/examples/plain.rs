//! A machine of a byte array, two vCPUs and a device that does not snoop, with the cache model between them.
//!
//! A driver sends a buffer to the device and receives one, first as it should and then without its cache maintenance. Run it
//! with `cargo run -p cache-model --example plain`.

use std::error::Error;

use cache_model::{
    Agent, CacheModel, Config, Finding, Geometry, Kind, Memory, MemoryType, OutOfRange, Policy, Snoop,
    Verdict, Writer,
};

const BUFFER: u64 = 0x1000;
const LEN: u64 = 256;

/// The machine. What the CPUs see is in `memory`; what RAM holds instead, the model knows.
struct Machine {
    memory: Vec<u8>,
    cache: CacheModel,
    /// Instructions that have retired: the time.
    clock: u64,
}

impl Machine {
    /// 64 KiB of memory behind a cache of 4 KiB.
    fn new() -> Result<Self, Box<dyn Error>> {
        let config = Config::new(Geometry::new(64, 16, 4)?, Policy::Lru)?;
        Ok(Self { memory: vec![0; 1 << 16], cache: CacheModel::new(config), clock: 0 })
    }

    /// An instruction of a vCPU at `ip` begins.
    fn instruction(&mut self, cpu: u32, ip: u64) -> Writer {
        self.clock += 1;
        Writer::cpu(cpu, ip, self.clock)
    }

    /// A load instruction. Most loads hit, or miss where nothing is in doubt: then the CPU's view is all there is to it.
    fn load(&mut self, cpu: u32, ip: u64, addr: u64, buf: &mut [u8]) -> Result<(), OutOfRange> {
        let who = self.instruction(cpu, ip);
        let memory = &mut self.memory[..];
        let cache = &mut self.cache;
        // What lies in memory does so with its whole line.
        let inside = memory.covers(addr, buf.len() as u64);
        if cache.load_hit(cpu, addr, buf.len()) || inside && cache.load_miss(who, addr, buf.len()) {
            memory.read(addr, buf)
        } else {
            self.cache.load(memory, who, addr, buf, MemoryType::WriteBack)
        }
    }

    /// A store instruction, likewise.
    fn store(&mut self, cpu: u32, ip: u64, addr: u64, data: &[u8]) -> Result<(), OutOfRange> {
        let who = self.instruction(cpu, ip);
        let memory = &mut self.memory[..];
        if self.cache.store_hit(who, addr, data.len()) {
            memory.write(addr, data)
        } else {
            self.cache.store(memory, who, addr, data, MemoryType::WriteBack)
        }
    }

    /// CLWB or CLFLUSH of each line of a range, and SFENCE.
    fn maintain(&mut self, flush: bool, addr: u64, len: u64) -> Result<(), OutOfRange> {
        let who = self.instruction(0, 0x40);
        let memory = &mut self.memory[..];
        if flush {
            self.cache.flush(memory, who, addr, len)?;
        } else {
            self.cache.clean(memory, who, addr, len)?;
        }
        self.cache.fence(0);
        Ok(())
    }

    /// The device reads or writes memory past the caches.
    fn dma_read(&mut self, addr: u64, buf: &mut [u8]) -> Result<(), OutOfRange> {
        let who = Writer::device(7, self.clock);
        self.cache.dma_read(&mut self.memory[..], who, addr, buf, Snoop::NoSnoop)
    }

    fn dma_write(&mut self, addr: u64, data: &[u8]) -> Result<(), OutOfRange> {
        let who = Writer::device(7, self.clock);
        self.cache.dma_write(&mut self.memory[..], who, addr, data, Snoop::NoSnoop)
    }
}

/// A driver sends what it has written, then receives into the same buffer; what the device and the driver got.
fn echo(machine: &mut Machine, careful: bool) -> Result<(u8, u8), OutOfRange> {
    machine.store(0, 0x10, BUFFER, &[1; LEN as usize])?;
    if careful {
        machine.maintain(false, BUFFER, LEN)?;
    }
    let mut sent = [0; LEN as usize];
    machine.dma_read(BUFFER, &mut sent)?;

    if careful {
        machine.maintain(true, BUFFER, LEN)?;
    }
    machine.dma_write(BUFFER, &[2; LEN as usize])?;
    if careful {
        machine.maintain(true, BUFFER, LEN)?;
    }
    let mut received = [0; 1];
    machine.load(1, 0x20, BUFFER + 8, &mut received)?;
    Ok((sent[0], received[0]))
}

fn describe(finding: &Finding) -> String {
    let who = |agent| match agent {
        Agent::Cpu(cpu) => format!("vCPU {cpu}"),
        Agent::Device(device) => format!("device {device}"),
    };
    let Finding { observer, kind, verdict, addr, expected, found, .. } = finding;
    let (observer, at) = (who(observer.agent), observer.stamp);
    let writer = finding.writer().map_or_else(
        || "nobody".to_owned(),
        |by| format!("{} at {:#x}, t={}", who(by.agent), by.ip, by.stamp),
    );
    format!(
        "{kind:?} ({verdict:?}): {observer} at t={at} reads {} bytes at {addr:#x}: {:02x?}, not {:02x?} by {writer}",
        found.len(),
        &found[..1],
        &expected[..1]
    )
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut machine = Machine::new()?;
    assert_eq!(echo(&mut machine, true)?, (1, 2));
    assert_eq!(machine.cache.take_findings(), []);
    println!("with cache maintenance: both sides get what was written, and nothing is found");

    let mut machine = Machine::new()?;
    // The device reads zeros out of RAM, and the driver its own old bytes out of the cache.
    assert_eq!(echo(&mut machine, false)?, (0, 1));
    let findings = machine.cache.take_findings();
    println!("without:");
    findings.iter().for_each(|finding| println!("  {}", describe(finding)));
    let kinds: Vec<_> = findings.iter().map(|finding| (finding.kind, finding.verdict)).collect();
    // One for each line that the device read, and the driver's.
    let device = (Kind::StaleDeviceRead, Verdict::Manifest);
    assert_eq!(kinds, [device, device, device, device, (Kind::StaleCpuRead, Verdict::Manifest)]);
    assert_eq!(findings[0].writer(), Some(Writer::cpu(0, 0x10, 1)));

    let stats = machine.cache.stats();
    println!("{stats:?}");
    assert_eq!((stats.store_misses, stats.load_hits), (4, 1));
    Ok(())
}

#[test]
fn runs() -> Result<(), Box<dyn Error>> {
    main()
}
