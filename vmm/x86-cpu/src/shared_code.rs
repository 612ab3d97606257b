//! Decoded code that several machines have in common: forks of one machine run much the same.

use crate::block::Op;
use crate::mode::Mode;
use crate::run::KeyHasher;
use crate::world::World;
use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasherDefault;
use std::sync::{Arc, PoisonError, RwLock};

/// Operations that follow one another in one page, as they are decoded.
pub(crate) struct Straight<W: World> {
    pub ops: Arc<[Op<W>]>,
    /// Length in bytes.
    pub len: u16,
    /// The last operation sets RIP itself.
    pub branches: bool,
}

impl<W: World> Clone for Straight<W> {
    fn clone(&self) -> Self {
        Self { ops: Arc::clone(&self.ops), ..*self }
    }
}

/// What was decoded, and from what.
struct Known<W: World> {
    /// The bytes that have a say in it.
    bytes: Box<[u8]>,
    /// How many there were up to the end of the page or of what is looked at.
    available: usize,
    straight: Straight<W>,
}

/// Blocks of 64-bit code that were decoded before, with the bytes that they were decoded from.
///
/// What is decoded depends on bytes, mode and place in the page alone, and is compared with those: a run is the same
/// whether there is anything here or not.
pub struct SharedCode<W: World>(RwLock<Blocks<W>>);

struct Blocks<W: World> {
    known: HashMap<(u64, Mode), Arc<Known<W>>, BuildHasherDefault<KeyHasher>>,
    ops: usize,
}

impl<W: World> SharedCode<W> {
    /// Operations kept: beyond, nothing is added.
    const MAX_OPS: usize = 1 << 18;
    /// Bytes of memory that it takes at most, about.
    pub const MAX_MEMORY: u64 = 2 * (Self::MAX_OPS * size_of::<Op<W>>()) as u64;

    /// What was decoded at `phys` where there were `available` bytes to decode, if `is_there` finds that what of them has a say
    /// in it is there.
    pub(crate) fn find(
        &self,
        phys: u64,
        mode: Mode,
        available: usize,
        is_there: impl FnOnce(&[u8]) -> bool,
    ) -> Option<Straight<W>> {
        let blocks = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let known = Arc::clone(blocks.known.get(&(phys, mode))?);
        drop(blocks);
        (known.available == available && is_there(&known.bytes)).then(|| known.straight.clone())
    }

    /// Keeps what was decoded at `phys` from `bytes`, of which no more than `count` have a say in it. What was kept there
    /// before stays: code that many machines write differently is not worth keeping.
    pub(crate) fn add(&self, phys: u64, mode: Mode, bytes: &[u8], count: usize, straight: &Straight<W>) {
        let mut blocks = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let ops = blocks.ops + straight.ops.len();
        if ops > Self::MAX_OPS || blocks.known.contains_key(&(phys, mode)) {
            return;
        }
        let known = Arc::new(Known {
            bytes: bytes.get(..count).unwrap_or(bytes).into(),
            available: bytes.len(),
            straight: straight.clone(),
        });
        blocks.known.insert((phys, mode), known);
        blocks.ops = ops;
    }
}

impl<W: World> Default for SharedCode<W> {
    fn default() -> Self {
        Self(RwLock::new(Blocks { known: HashMap::default(), ops: 0 }))
    }
}

impl<W: World> fmt::Debug for SharedCode<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedCode").finish_non_exhaustive()
    }
}
