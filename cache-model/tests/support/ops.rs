//! Random operations, by a seeded generator.

use std::fmt::Write;

pub const TYPES: [&str; 5] = ["wb", "wt", "wc", "uc", "nt"];

/// vCPUs that access memory.
const CPUS: u64 = 3;

#[derive(Clone, Debug)]
pub enum Op {
    Load { cpu: u32, addr: u64, len: u64, kind: &'static str },
    Store { cpu: u32, addr: u64, data: Vec<u8>, kind: &'static str },
    Clean { addr: u64, len: u64 },
    Inval { addr: u64, len: u64 },
    Flush { addr: u64, len: u64 },
    Wbinvd,
    Invd,
    Fence { cpu: u32 },
    Fill { addr: u64 },
    Evict { addr: u64 },
    DmaRead { addr: u64, len: u64, snoop: bool },
    DmaWrite { addr: u64, data: Vec<u8>, snoop: bool },
}

/// What operations are about.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Size of memory.
    pub memory: u64,
    /// Where accesses begin, from zero on: the less room, the more often lines meet.
    pub room: u64,
    /// Only ordinary loads and stores and coherent devices, but for one operation in 16.
    pub calm: bool,
}

impl Op {
    /// An operation made of random words. Most are short.
    pub fn from_random(mut draw: impl FnMut() -> u64, mix: Mix) -> Self {
        let addr = draw() % mix.room;
        let longest = if draw().is_multiple_of(8) { 200 } else { 9 };
        let len = (1 + draw() % longest).min(mix.memory - addr);
        let cpu = (draw() % CPUS) as u32;
        let kinds = draw();
        let calm = mix.calm && !(kinds >> 32).is_multiple_of(16);
        let kind = if !calm && kinds.is_multiple_of(3) { TYPES[(kinds / 3 % 5) as usize] } else { "wb" };
        let snoop = calm || kinds.is_multiple_of(2);
        let mut choice = draw() % if calm { 50 } else { 100 };
        if mix.calm && matches!(choice, 65 | 66) && !draw().is_multiple_of(64) {
            // A whole cache takes a while to fill.
            choice = 67;
        }
        // A few values only, so that writes sometimes change nothing.
        let mut data = || (0..len).map(|_| (draw() % 5) as u8).collect::<Vec<u8>>();
        match choice {
            0..25 => Op::Load { cpu, addr, len, kind },
            25..50 => Op::Store { cpu, addr, data: data(), kind },
            50..55 => Op::Clean { addr, len },
            55..60 => Op::Inval { addr, len },
            60..65 => Op::Flush { addr, len },
            65 => Op::Wbinvd,
            66 => Op::Invd,
            67 => Op::Fence { cpu },
            68..74 => Op::Fill { addr },
            74..80 => Op::Evict { addr },
            80..89 => Op::DmaRead { addr, len, snoop },
            _ => Op::DmaWrite { addr, data: data(), snoop },
        }
    }

    pub fn is_schedule(&self) -> bool {
        matches!(self, Op::Fill { .. } | Op::Evict { .. })
    }

    pub fn line(&self) -> String {
        let snooping = |snoop: &bool| if *snoop { "snoop" } else { "nosnoop" };
        match self {
            Op::Load { cpu, addr, len, kind } => format!("load {cpu} {addr:#x} {len} {kind}"),
            Op::Store { cpu, addr, data, kind } => format!("store {cpu} {addr} {} {kind}", hex(data)),
            Op::Clean { addr, len } => format!("clean {addr} {len}"),
            Op::Inval { addr, len } => format!("inval {addr} {len}"),
            Op::Flush { addr, len } => format!("flush {addr} {len}"),
            Op::Wbinvd => "wbinvd".into(),
            Op::Invd => "invd".into(),
            Op::Fence { cpu } => format!("fence {cpu}"),
            Op::Fill { addr } => format!("fill {addr:#x}"),
            Op::Evict { addr } => format!("evict {addr:#x}"),
            Op::DmaRead { addr, len, snoop } => format!("dma-read 3 {addr} {len} {}", snooping(snoop)),
            Op::DmaWrite { addr, data, snoop } => {
                format!("dma-write 3 {addr} {} {}", hex(data), snooping(snoop))
            }
        }
    }
}

pub fn hex(data: &[u8]) -> String {
    data.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// xorshift64*: enough to choose operations.
pub struct Random(pub u64);

impl Random {
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
}
