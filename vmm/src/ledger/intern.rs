//! Values that many mappings have in common, kept once.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Distinct values by number, as many as there is room for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Interned<T: Ord> {
    numbers: BTreeMap<T, u32>,
    values: Vec<T>,
}

impl<T: Ord> Default for Interned<T> {
    fn default() -> Self {
        Self { numbers: BTreeMap::new(), values: Vec::new() }
    }
}

impl<T: Ord + Clone> Interned<T> {
    /// Most values kept.
    const MAX: usize = 1 << 13;

    /// The number of `value`; `None` if there is no room for it.
    pub fn number(&mut self, value: T) -> Option<u32> {
        if let Some(&number) = self.numbers.get(&value) {
            return Some(number);
        }
        if self.values.len() >= Self::MAX {
            return None;
        }
        let number = self.values.len() as u32;
        self.values.push(value.clone());
        self.numbers.insert(value, number);
        Some(number)
    }

    #[must_use]
    pub fn get(&self, number: u32) -> Option<&T> {
        self.values.get(number as usize)
    }
}
