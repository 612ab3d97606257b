//! Which line of a full set makes room: LRU, FIFO, tree-PLRU or random.

use serde::{Deserialize, Serialize};

use crate::geometry::Geometry;

/// The widest set that tree-PLRU supports: its `ways - 1` direction bits live in one word.
pub const MAX_PLRU_WAYS: usize = 64;

/// A replacement policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// The line whose last access is oldest.
    Lru,
    /// The line whose fill is oldest.
    Fifo,
    /// A binary tree of direction bits a set, each pointing away from the last access below it.
    TreePlru,
    /// A pseudo-random way (SplitMix64 from this seed).
    Random {
        /// Where the sequence starts.
        seed: u64,
    },
}

/// The replacement state of every set.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Replacement {
    policy: Policy,
    ways: usize,
    /// A slot's last access (LRU) or fill (FIFO), in `clock` ticks.
    stamps: Vec<u64>,
    /// A set's direction bits: node 1 is the root, node n has children 2n and 2n+1; a set bit points to the upper half.
    trees: Vec<u64>,
    clock: u64,
    random: u64,
}

impl Replacement {
    /// State for a cache with no line resident. Tree-PLRU needs a power of two of at most [`MAX_PLRU_WAYS`] ways,
    /// which [`crate::Config::new`] checks.
    #[must_use]
    pub fn new(policy: Policy, geometry: Geometry) -> Self {
        let (stamps, trees) = match policy {
            Policy::Lru | Policy::Fifo => (geometry.lines(), 0),
            Policy::TreePlru => (0, geometry.sets()),
            Policy::Random { .. } => (0, 0),
        };
        let random = if let Policy::Random { seed } = policy { seed } else { 0 };
        Self {
            policy,
            ways: geometry.ways(),
            stamps: vec![0; stamps],
            trees: vec![0; trees],
            clock: 0,
            random,
        }
    }

    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// A line was just placed in this way.
    #[inline]
    pub fn filled(&mut self, set: usize, way: usize) {
        if self.policy == Policy::Fifo {
            self.stamp(set, way);
        } else {
            self.touched(set, way);
        }
    }

    /// This way holds no line any more: LRU and FIFO take it next.
    pub fn emptied(&mut self, set: usize, way: usize) {
        if let Some(stamp) = self.stamps.get_mut(set * self.ways + way) {
            *stamp = 0;
        }
    }

    /// A CPU access hit this way.
    #[inline]
    pub fn touched(&mut self, set: usize, way: usize) {
        match self.policy {
            Policy::Lru => self.stamp(set, way),
            Policy::TreePlru => {
                let levels = self.ways.trailing_zeros();
                let Some(tree) = self.trees.get_mut(set) else { return };
                let mut node = 1;
                for level in (0..levels).rev() {
                    let upper = way >> level & 1;
                    if upper == 1 {
                        *tree &= !(1 << node);
                    } else {
                        *tree |= 1 << node;
                    }
                    node = node * 2 + upper;
                }
            }
            Policy::Fifo | Policy::Random { .. } => {}
        }
    }

    /// The way of a full set that makes room, or in one that is not full with LRU and FIFO the lowest free one. Random advances
    /// its sequence.
    pub fn victim(&mut self, set: usize) -> usize {
        self.next_victim(set)
            .unwrap_or_else(|| (split_mix(&mut self.random) % self.ways.max(1) as u64) as usize)
    }

    /// The way that [`Replacement::victim`] would give, unless that is random.
    #[inline]
    pub fn next_victim(&self, set: usize) -> Option<usize> {
        match self.policy {
            Policy::Lru | Policy::Fifo => {
                let first = set * self.ways;
                let ways = self.stamps.get(first..first + self.ways).unwrap_or_default();
                Some(oldest(ways))
            }
            Policy::TreePlru => {
                let tree = self.trees.get(set).copied().unwrap_or(0);
                let mut node = 1;
                while node < self.ways {
                    node = node * 2 + (tree >> node & 1) as usize;
                }
                Some(node - self.ways)
            }
            Policy::Random { .. } => None,
        }
    }

    #[inline]
    fn stamp(&mut self, set: usize, way: usize) {
        self.clock += 1;
        if let Some(stamp) = self.stamps.get_mut(set * self.ways + way) {
            *stamp = self.clock;
        }
    }
}

/// The place of the lowest stamp, the first of equal ones.
#[inline]
fn oldest(stamps: &[u64]) -> usize {
    // Which it is cannot be predicted, so nothing jumps; and of pairs of eight, then of their winners, none waits for another.
    let older = |a: (u64, usize), b: (u64, usize)| if b.0 < a.0 { b } else { a };
    let (eights, rest) = stamps.as_chunks::<8>();
    let mut oldest = (u64::MAX, 0);
    for (index, &[a, b, c, d, e, f, g, h]) in eights.iter().enumerate() {
        let low = older(older((a, 0), (b, 1)), older((c, 2), (d, 3)));
        let high = older(older((e, 4), (f, 5)), older((g, 6), (h, 7)));
        let (stamp, way) = older(low, high);
        oldest = older(oldest, (stamp, index * 8 + way));
    }
    for (way, &stamp) in (eights.len() * 8..).zip(rest) {
        oldest = older(oldest, (stamp, way));
    }
    oldest.1
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
pub fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(policy: Policy, ways: u64) -> Replacement {
        let mut state = Replacement::new(policy, Geometry::new(64, 2, ways).unwrap());
        for way in 0..ways as usize {
            state.filled(1, way);
        }
        state
    }

    #[test]
    fn lru_looks_at_accesses_and_fifo_at_fills() {
        let mut lru = full(Policy::Lru, 3);
        lru.touched(1, 0);
        assert_eq!(lru.victim(1), 1);
        let mut fifo = full(Policy::Fifo, 3);
        fifo.touched(1, 0);
        assert_eq!(fifo.victim(1), 0);
        fifo.filled(1, 0);
        assert_eq!(fifo.victim(1), 1);
    }

    #[test]
    fn the_oldest_of_any_number_is_found() {
        for ways in 1..40_usize {
            for at in 0..ways {
                let mut stamps: Vec<u64> = (0..ways as u64).map(|way| 100 + way * 7 % 40).collect();
                stamps[at] = 3;
                assert_eq!(oldest(&stamps), at);
                stamps[ways - 1] = 3;
                assert_eq!(oldest(&stamps), at);
            }
        }
    }

    #[test]
    fn tree_plru_points_away_from_accesses() {
        let mut plru = full(Policy::TreePlru, 4);
        assert_eq!(plru.victim(1), 0);
        plru.touched(1, 0);
        assert_eq!(plru.victim(1), 2);
        plru.touched(1, 2);
        assert_eq!(plru.victim(1), 1);
        plru.touched(1, 1);
        assert_eq!(plru.victim(1), 3);
        assert_eq!(full(Policy::TreePlru, 1).victim(1), 0);
        let mut wide = full(Policy::TreePlru, 64);
        wide.touched(1, 0);
        assert_eq!(wide.victim(1), 32);
    }

    #[test]
    fn random_repeats_with_its_seed() {
        let draw = |seed| {
            let mut state = full(Policy::Random { seed }, 8);
            (0..64).map(|_| state.victim(1)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!((0..8).all(|way| draw(7).contains(&way)));
    }
}
