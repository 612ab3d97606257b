//! Where random choices come from: a seed (SplitMix64), so that a case is named by its seed, or bytes that a fuzzer changes, so
//! that a small change of the bytes is a small change of the case.

use std::cell::Cell;
use std::sync::Arc;

#[derive(Debug, Clone)]
pub struct Rng {
    state: Cell<u64>,
    /// Choices are taken from here as long as there are bytes.
    tape: Arc<[u8]>,
    at: Cell<usize>,
}

/// FNV-1a: stable between toolchains, unlike the standard library's hasher.
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self { state: Cell::new(seed), tape: Arc::default(), at: Cell::new(0) }
    }
    /// A source that makes its choices as `bytes` say, and when they are used up, by a seed that follows from them.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self { state: Cell::new(hash(bytes)), tape: bytes.into(), at: Cell::new(0) }
    }
    /// A source for the case `number` of what is called `name`.
    pub fn for_case(seed: u64, name: &str, number: u64) -> Self {
        let rng = Self::new(seed ^ hash(name.as_bytes()) ^ number.wrapping_mul(0xd1b5_4a32_d192_ed03));
        rng.word();
        rng
    }
    /// The next `count` bytes of the tape, at most 8, as a number.
    fn take(&self, count: usize) -> Option<u64> {
        let at = self.at.get();
        let bytes = self.tape.get(at..at + count)?;
        self.at.set(at + count);
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }
    pub fn word(&self) -> u64 {
        if let Some(word) = self.take(8) {
            return word;
        }
        let mut z = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(z);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    pub fn wide(&self) -> u128 {
        u128::from(self.word()) << 64 | u128::from(self.word())
    }
    /// A number below `bound`, which is not 0.
    pub fn below(&self, bound: u64) -> u64 {
        let bytes = (71 - ((bound - 1) | 1).leading_zeros()) / 8;
        if let Some(value) = self.take(bytes as usize) {
            return value % bound;
        }
        ((u128::from(self.word()) * u128::from(bound)) >> 64) as u64
    }
    pub fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }
    pub fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}
