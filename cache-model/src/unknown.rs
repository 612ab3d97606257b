//! Lines whose past the model has not seen.

use serde::{Deserialize, Serialize};

use crate::line_map::LineMap;

/// Lines that a word holds.
const GROUP: u64 = 64;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Unknown {
    /// A bit for each of 64 neighbouring lines.
    groups: LineMap<u64>,
    limit: usize,
    refused: u64,
}

impl Unknown {
    /// Keeps `limit` groups of 64 neighbouring lines.
    pub fn new(limit: usize) -> Self {
        Self { groups: LineMap::default(), limit, refused: 0 }
    }

    /// Lines that did not fit.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    pub fn insert(&mut self, line: u64) {
        let (group, bit) = (line / GROUP, 1 << (line % GROUP));
        if let Some(word) = self.groups.get_mut(group) {
            *word |= bit;
        } else if self.groups.len() < self.limit {
            self.groups.insert(group, bit);
        } else {
            self.refused = self.refused.saturating_add(1);
        }
    }

    pub fn contains(&self, line: u64) -> bool {
        self.groups.get(line / GROUP).is_some_and(|word| word >> (line % GROUP) & 1 == 1)
    }

    /// The line is known from now on.
    pub fn forget(&mut self, line: u64) {
        let group = line / GROUP;
        if let Some(word) = self.groups.get_mut(group) {
            *word &= !(1 << (line % GROUP));
            if *word == 0 {
                self.groups.remove(group);
            }
        }
    }

    pub fn clear(&mut self) {
        self.groups.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_and_go() {
        let mut unknown = Unknown::new(2);
        [0, 63, 64, 128, 200].into_iter().for_each(|line| unknown.insert(line));
        assert_eq!(
            [0, 1, 63, 64, 128, 200].map(|line| unknown.contains(line)),
            [true, false, true, true, false, false]
        );
        assert_eq!(unknown.refused(), 2);
        unknown.forget(64);
        unknown.forget(65);
        unknown.insert(200);
        assert_eq!([64, 200].map(|line| unknown.contains(line)), [false, true]);
        unknown.clear();
        assert!(!unknown.contains(0));
    }
}
