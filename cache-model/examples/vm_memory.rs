//! The cache model over the guest memory of a VMM that is built on the `vm-memory` crate.
//!
//! [`Guest`] is all that it takes: the CPU's view is the guest's memory as the VMM has mapped it, with its holes. The rest
//! shows what that gives: memory of several regions, an access that none of them has, and the whole state as bytes that
//! resume elsewhere. Run it with `cargo run -p cache-model --example vm_memory`.

use std::error::Error;

use cache_model::{
    CacheModel, Config, Geometry, Kind, Memory, MemoryType, OutOfRange, Policy, Snoop, Verdict, Writer,
};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

/// Where the second region begins, as RAM above the PCI hole does.
const HIGH: u64 = 4 << 30;

/// The CPU's view of a guest's memory.
struct Guest<'a>(&'a GuestMemoryMmap);

impl Memory for Guest<'_> {
    fn covers(&self, addr: u64, len: u64) -> bool {
        usize::try_from(len)
            .is_ok_and(|len| self.0.check_range(GuestAddress(addr), len, Permissions::ReadWrite))
    }

    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), OutOfRange> {
        let outside = OutOfRange { addr, len: buf.len() as u64 };
        self.0.read_slice(buf, GuestAddress(addr)).map_err(|_| outside)
    }

    /// A VMM that has translated or decoded guest code drops it here: the model writes not only for stores.
    fn write(&mut self, addr: u64, data: &[u8]) -> Result<(), OutOfRange> {
        let outside = OutOfRange { addr, len: data.len() as u64 };
        // All or nothing: `write_slice` would stop half way.
        if !self.covers(addr, outside.len) {
            return Err(outside);
        }
        self.0.write_slice(data, GuestAddress(addr)).map_err(|_| outside)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let regions = [(GuestAddress(0), 1 << 16), (GuestAddress(HIGH), 1 << 16)];
    let ram = GuestMemoryMmap::<()>::from_ranges(&regions)?;
    let guest = &mut Guest(&ram);
    // Two levels of 1 KiB and 8 KiB. What the VMM loads before the guest runs needs no model.
    let geometry = |sets, ways| Geometry::new(64, sets, ways);
    let config = Config::new(geometry(4, 4)?, Policy::TreePlru)?;
    let mut cache = CacheModel::new(config.with_second_level(geometry(16, 8)?, Policy::Lru)?);
    ram.write_slice(b"from the VMM", GuestAddress(HIGH))?;

    // A driver fills a descriptor above the hole, cleans it, and fills in a flag too late.
    let descriptor = HIGH + 0x100;
    let driver = |time| Writer::cpu(0, 0xffff_ffff_8100_0000, time);
    cache.store(guest, driver(1), descriptor, &[0xab; 16], MemoryType::WriteBack)?;
    cache.clean(guest, driver(2), descriptor, 16)?;
    cache.store(guest, driver(3), descriptor + 15, &[1], MemoryType::WriteBack)?;

    // A device that its root port does not snoop for fetches the descriptor; another one is coherent.
    let mut got = [0; 16];
    cache.dma_read(guest, Writer::device(0x0800, 4), descriptor, &mut got, Snoop::Snoop)?;
    assert_eq!(got[14..], [0xab, 1]);
    assert!(!cache.has_findings());
    cache.dma_read(guest, Writer::device(0x0900, 5), descriptor, &mut got, Snoop::NoSnoop)?;
    assert_eq!(got[14..], [0xab, 0xab]);
    let finding = cache.take_findings().pop().ok_or("the flag is missing in RAM")?;
    println!("{:?} ({:?}) at {:#x}", finding.kind, finding.verdict, finding.addr);
    assert_eq!((finding.kind, finding.verdict), (Kind::StaleDeviceRead, Verdict::Manifest));
    assert_eq!((finding.addr, finding.writer()), (descriptor + 15, Some(driver(3))));

    // Nothing happens to an access that is not wholly memory.
    let hole = 1 << 16;
    let outside = Err(OutOfRange { addr: hole - 4, len: 8 });
    assert_eq!(cache.dma_write(guest, Writer::device(0x0900, 6), hole - 4, &[0; 8], Snoop::NoSnoop), outside);

    // The model's state is plain data: with a copy of the memory it goes on elsewhere.
    let saved = serde_json::to_vec(&cache)?;
    let copy = GuestMemoryMmap::<()>::from_ranges(&regions)?;
    for (start, len) in regions {
        let mut bytes = vec![0; len];
        ram.read_slice(&mut bytes, start)?;
        copy.write_slice(&bytes, start)?;
    }
    let elsewhere = &mut Guest(&copy);
    let mut restored: CacheModel = serde_json::from_slice(&saved)?;
    for (cache, guest) in [(&mut cache, guest), (&mut restored, elsewhere)] {
        cache.evict(guest, 6, descriptor)?;
        cache.dma_read(guest, Writer::device(0x0900, 7), descriptor, &mut got, Snoop::NoSnoop)?;
        assert_eq!(got[14..], [0xab, 1]);
        // This time the line had left the cache in time. It need not have.
        let verdicts: Vec<_> = cache.take_findings().iter().map(|finding| finding.verdict).collect();
        assert_eq!(verdicts, [Verdict::Latent]);
    }
    println!("saved in {} bytes, and the same elsewhere", saved.len());
    Ok(())
}

#[test]
fn runs() -> Result<(), Box<dyn Error>> {
    main()
}
