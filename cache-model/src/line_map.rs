//! A hash map by line number that hashes the same everywhere and is saved in the order of its keys.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Multiplies by a large odd number (Fibonacci hashing): line numbers are dense, and nobody who could choose them to
/// collide gains more than a slow model.
#[derive(Clone, Copy, Debug, Default)]
pub struct LineHasher(u64);

impl Hasher for LineHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_u64(&mut self, value: u64) {
        let product = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The table takes its index from the low bits and its tags from the high ones.
        self.0 = product ^ (product >> 32);
    }
}

/// Values by line number.
#[derive(Clone, Debug)]
pub struct LineMap<T>(HashMap<u64, T, BuildHasherDefault<LineHasher>>);

impl<T> Default for LineMap<T> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<T> LineMap<T> {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[inline]
    pub fn contains(&self, line: u64) -> bool {
        !self.0.is_empty() && self.0.contains_key(&line)
    }

    #[inline]
    pub fn get(&self, line: u64) -> Option<&T> {
        if self.0.is_empty() { None } else { self.0.get(&line) }
    }

    #[inline]
    pub fn get_mut(&mut self, line: u64) -> Option<&mut T> {
        if self.0.is_empty() { None } else { self.0.get_mut(&line) }
    }

    pub fn insert(&mut self, line: u64, value: T) -> Option<T> {
        self.0.insert(line, value)
    }

    #[inline]
    pub fn remove(&mut self, line: u64) -> Option<T> {
        if self.0.is_empty() { None } else { self.0.remove(&line) }
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The keys, lowest first.
    pub fn lines(&self) -> Vec<u64> {
        let mut lines: Vec<u64> = self.0.keys().copied().collect();
        lines.sort_unstable();
        lines
    }
}

impl<T: Serialize> Serialize for LineMap<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut entries: Vec<(u64, &T)> = self.0.iter().map(|(&line, value)| (line, value)).collect();
        entries.sort_unstable_by_key(|&(line, _)| line);
        entries.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for LineMap<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entries: Vec<(u64, T)> = Vec::deserialize(deserializer)?;
        Ok(Self(entries.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_keys_have_an_order() {
        let mut map = LineMap::default();
        for line in [9_u64, 3, 1 << 40, 0, 77] {
            map.insert(line, line + 1);
        }
        map.remove(3);
        assert_eq!(map.lines(), [0, 9, 77, 1 << 40]);
        assert_eq!((map.get(9), map.get(3), map.len()), (Some(&10), None, 4));
    }
}
