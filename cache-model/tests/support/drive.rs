//! Driving a model with operations, as an embedder would.

use super::ops::Op;
use cache_model::{CacheModel, MemoryType, Snoop, Writer};

/// Whose an operation is.
pub fn author(op: &Op, ip: u64, stamp: u64) -> Writer {
    match *op {
        Op::Load { cpu, .. } | Op::Store { cpu, .. } | Op::Fence { cpu } => Writer::cpu(cpu, ip, stamp),
        Op::DmaRead { .. } | Op::DmaWrite { .. } => Writer::device(3, stamp),
        _ => Writer::cpu(0, ip, stamp),
    }
}

/// Makes the operation, trying the quick ways first if asked to, and says whether one was taken.
pub fn drive(model: &mut CacheModel, memory: &mut [u8], op: &Op, who: Writer, quick: bool) -> bool {
    let snooping = |snoop: bool| if snoop { Snoop::Snoop } else { Snoop::NoSnoop };
    let mut taken = false;
    match op {
        Op::Load { cpu, addr, len, kind } => {
            let mut buf = vec![0; *len as usize];
            taken = quick
                && *kind == "wb"
                && (model.load_hit(*cpu, *addr, buf.len()) || model.load_miss(who, *addr, buf.len()));
            if taken { Ok(()) } else { model.load(memory, who, *addr, &mut buf, memory_type(kind)) }
        }
        Op::Store { addr, data, kind, .. } => {
            taken = quick && *kind == "wb" && model.store_hit(who, *addr, data.len());
            if taken {
                memory[*addr as usize..][..data.len()].copy_from_slice(data);
                Ok(())
            } else {
                model.store(memory, who, *addr, data, memory_type(kind))
            }
        }
        Op::Clean { addr, len } => model.clean(memory, who, *addr, *len),
        Op::Inval { addr, len } => model.invalidate(memory, who, *addr, *len),
        Op::Flush { addr, len } => model.flush(memory, who, *addr, *len),
        Op::Wbinvd => model.write_back_invalidate_all(memory, who),
        Op::Invd => model.invalidate_all(memory, who),
        Op::Fence { cpu } => {
            model.fence(*cpu);
            Ok(())
        }
        Op::Fill { addr } => model.fill(memory, who.stamp, *addr),
        Op::Evict { addr } => model.evict(memory, who.stamp, *addr),
        Op::DmaRead { addr, len, snoop } => {
            model.dma_read(memory, who, *addr, &mut vec![0; *len as usize], snooping(*snoop))
        }
        Op::DmaWrite { addr, data, snoop } => model.dma_write(memory, who, *addr, data, snooping(*snoop)),
    }
    .expect("the operation is in memory");
    taken
}

fn memory_type(name: &str) -> MemoryType {
    match name {
        "wb" => MemoryType::WriteBack,
        "wt" => MemoryType::WriteThrough,
        "wc" => MemoryType::WriteCombining,
        "uc" => MemoryType::Uncached,
        "nt" => MemoryType::NonTemporal,
        _ => panic!("no memory type: {name}"),
    }
}
