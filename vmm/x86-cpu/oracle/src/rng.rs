//! A small deterministic random source (SplitMix64), so that a case is named by its seed.

use std::cell::Cell;

#[derive(Debug, Clone)]
pub struct Rng(Cell<u64>);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }
    /// A source for the case `number` of what is called `name`.
    pub fn for_case(seed: u64, name: &str, number: u64) -> Self {
        // FNV-1a: stable between toolchains, unlike the standard library's hasher.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        let rng = Self::new(seed ^ hash ^ number.wrapping_mul(0xd1b5_4a32_d192_ed03));
        rng.word();
        rng
    }
    pub fn word(&self) -> u64 {
        let mut z = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(z);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    pub fn wide(&self) -> u128 {
        u128::from(self.word()) << 64 | u128::from(self.word())
    }
    /// A number below `bound`, which is not 0.
    pub fn below(&self, bound: u64) -> u64 {
        ((u128::from(self.word()) * u128::from(bound)) >> 64) as u64
    }
    pub fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }
    pub fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}
