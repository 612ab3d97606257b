//! Tables of objects, numbered by the device.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;

/// Objects of one kind. A number is not given out again until all others have been: a driver's stale number meets
/// no new object soon.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ObjectTable<T> {
    numbers: Range<u32>,
    next: u32,
    /// How often an object has been added or renewed.
    added: u64,
    /// Each with how often that was before it.
    objects: BTreeMap<u32, (u64, T)>,
}

impl<T> ObjectTable<T> {
    /// An empty table that gives out `numbers`.
    pub fn new(numbers: Range<u32>) -> Self {
        Self { next: numbers.start, numbers, added: 0, objects: BTreeMap::new() }
    }

    /// The numbers that it gives out.
    pub fn numbers(&self) -> Range<u32> {
        self.numbers.clone()
    }

    /// Adds an object and returns its number, or gives it up when all numbers below `end` are in use.
    pub fn insert(&mut self, object: T, end: u32) -> Option<u32> {
        let end = end.min(self.numbers.end);
        let start = self.numbers.start;
        let next = if self.next < end { self.next } else { start };
        let number = (next..end).chain(start..next.min(end)).find(|n| !self.objects.contains_key(n))?;
        self.next = number + 1;
        self.objects.insert(number, (self.added, object));
        self.added += 1;
        Some(number)
    }

    pub fn get(&self, number: u32) -> Option<&T> {
        self.objects.get(&number).map(|(_, object)| object)
    }

    pub fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.objects.get_mut(&number).map(|(_, object)| object)
    }

    pub fn contains(&self, number: u32) -> bool {
        self.objects.contains_key(&number)
    }

    pub fn remove(&mut self, number: u32) -> Option<T> {
        self.objects.remove(&number).map(|(_, object)| object)
    }

    /// The objects in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.objects.iter().map(|(&number, (_, object))| (number, object))
    }

    /// Makes an object the newest, as if it had just been added.
    pub fn renew(&mut self, number: u32) {
        if let Some((age, _)) = self.objects.get_mut(&number) {
            *age = self.added;
            self.added += 1;
        }
    }

    /// The object added or renewed last of those that `wanted` is true for.
    pub fn newest(&self, wanted: impl Fn(&T) -> bool) -> Option<(u32, &T)> {
        let fitting = self.objects.iter().filter(|(_, (_, object))| wanted(object));
        fitting.max_by_key(|(_, (age, _))| *age).map(|(&number, (_, object))| (number, object))
    }

    /// The objects alone.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.objects.values().map(|(_, object)| object)
    }

    pub fn len(&self) -> usize {
        self.objects.len()
    }
}

#[cfg(test)]
mod tests {
    use super::ObjectTable;

    #[test]
    fn numbers_are_reused_last() {
        let mut table = ObjectTable::new(1..4);
        assert_eq!(table.insert('a', u32::MAX), Some(1));
        assert_eq!(table.insert('b', u32::MAX), Some(2));
        assert_eq!(table.remove(1), Some('a'));
        assert_eq!(table.insert('c', u32::MAX), Some(3));
        assert_eq!(table.insert('d', u32::MAX), Some(1));
        assert_eq!(table.insert('e', u32::MAX), None);
        assert_eq!(table.len(), 3);
    }

    #[test]
    fn the_newest_is_the_one_added_last() {
        let mut table = ObjectTable::new(1..4);
        for object in ['a', 'b', 'c'] {
            table.insert(object, u32::MAX);
        }
        assert_eq!(table.newest(|_| true), Some((3, &'c')));
        table.remove(2);
        table.insert('d', u32::MAX);
        assert_eq!(table.newest(|_| true), Some((2, &'d')));
        assert_eq!(table.newest(|object| *object < 'd'), Some((3, &'c')));
        assert_eq!(table.newest(|object| *object > 'd'), None);
        table.renew(1);
        assert_eq!(table.newest(|_| true), Some((1, &'a')));
        table.renew(7);
        assert_eq!(table.newest(|_| true), Some((1, &'a')));
    }

    #[test]
    fn the_caller_may_lower_the_end() {
        let mut table = ObjectTable::new(1..100);
        assert_eq!(table.insert((), 2), Some(1));
        assert_eq!(table.insert((), 2), None);
        assert_eq!(table.insert((), 0), None);
        assert_eq!(table.insert((), 3), Some(2));
    }
}
