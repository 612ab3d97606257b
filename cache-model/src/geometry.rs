//! The shape of the cache: line size, sets and ways, and how an address falls into them.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The shortest supported line, in bytes.
pub const MIN_LINE: usize = 16;

/// The longest supported line, in bytes.
pub const MAX_LINE: usize = 256;

/// The largest supported cache, in lines (`sets × ways`).
pub const MAX_LINES: u64 = 1 << 20;

/// Why a cache of this shape cannot be modelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GeometryError {
    /// The line size is not a supported power of two.
    #[error("line={0}: a line is a power of two of {MIN_LINE} to {MAX_LINE} bytes")]
    Line(u64),
    /// A cache has at least one set.
    #[error("sets={0}: a cache has at least one set")]
    Sets(u64),
    /// A set has at least one way.
    #[error("ways={0}: a set has at least one way")]
    Ways(u64),
    /// The product of sets and ways is too large.
    #[error("sets={sets} ways={ways}: at most {MAX_LINES} lines are supported")]
    TooLarge {
        /// Sets asked for.
        sets: u64,
        /// Ways asked for.
        ways: u64,
    },
}

/// Line size, number of sets and ways. Addresses map to sets by line number modulo sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    line_shift: u32,
    sets: u32,
    ways: u32,
}

/// The part of an access that lies in one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Line number: address divided by the line size.
    pub line: u64,
    /// Address of the first byte.
    pub addr: u64,
    /// Position of the first byte within the line.
    pub offset: usize,
    /// Length in bytes.
    pub len: usize,
}

impl Geometry {
    /// A cache of `sets × ways` lines of `line` bytes.
    ///
    /// # Errors
    /// If the line is not a power of two of [`MIN_LINE`] to [`MAX_LINE`], or there are no lines or more than [`MAX_LINES`].
    pub fn new(line: u64, sets: u64, ways: u64) -> Result<Self, GeometryError> {
        if !line.is_power_of_two() || !(MIN_LINE as u64..=MAX_LINE as u64).contains(&line) {
            return Err(GeometryError::Line(line));
        }
        if sets == 0 {
            return Err(GeometryError::Sets(sets));
        }
        if ways == 0 {
            return Err(GeometryError::Ways(ways));
        }
        let too_large = GeometryError::TooLarge { sets, ways };
        if sets.checked_mul(ways).is_none_or(|lines| lines > MAX_LINES) {
            return Err(too_large);
        }
        let sets = u32::try_from(sets).map_err(|_| too_large)?;
        let ways = u32::try_from(ways).map_err(|_| too_large)?;
        Ok(Self { line_shift: line.trailing_zeros(), sets, ways })
    }

    /// Line size in bytes.
    #[must_use]
    #[inline]
    pub fn line(&self) -> usize {
        1 << self.line_shift
    }

    /// Number of sets.
    #[must_use]
    pub fn sets(&self) -> usize {
        self.sets as usize
    }

    /// Lines in a set.
    #[must_use]
    #[inline]
    pub fn ways(&self) -> usize {
        self.ways as usize
    }

    /// Lines in the cache.
    #[must_use]
    #[inline]
    pub fn lines(&self) -> usize {
        self.sets() * self.ways()
    }

    /// The number of the line that holds `addr`.
    #[must_use]
    #[inline]
    pub fn line_of(&self, addr: u64) -> u64 {
        addr >> self.line_shift
    }

    /// The address of a line's first byte.
    #[must_use]
    #[inline]
    pub fn base(&self, line: u64) -> u64 {
        line << self.line_shift
    }

    /// The set in which a line may reside.
    #[must_use]
    #[inline]
    pub fn set_of(&self, line: u64) -> usize {
        let sets = u64::from(self.sets);
        // A division costs more than the rest of a hit.
        let set = if sets.is_power_of_two() { line & (sets - 1) } else { line % sets };
        set as usize
    }

    /// Splits `addr .. addr + len` at line boundaries, lowest address first. The range must not wrap around the
    /// address space; what would lie beyond its end is left out.
    pub fn spans(&self, addr: u64, len: u64) -> impl Iterator<Item = Span> + use<> {
        let geometry = *self;
        let end = addr.saturating_add(len);
        let mut at = addr;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let size = geometry.line() as u64;
            let offset = at & (size - 1);
            let len = (size - offset).min(end - at);
            let span =
                Span { line: geometry.line_of(at), addr: at, offset: offset as usize, len: len as usize };
            at = at.saturating_add(len);
            Some(span)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_at_lines() {
        let geometry = Geometry::new(64, 4, 2).unwrap();
        let spans: Vec<_> = geometry.spans(0x13e, 70).map(|s| (s.line, s.addr, s.offset, s.len)).collect();
        assert_eq!(spans, [(4, 0x13e, 62, 2), (5, 0x140, 0, 64), (6, 0x180, 0, 4)]);
        assert_eq!(geometry.spans(0x100, 0).count(), 0);
        assert_eq!(geometry.spans(u64::MAX - 1, 100).map(|s| s.len).sum::<usize>(), 1);
        assert_eq!(geometry.set_of(6), 2);
        assert_eq!(geometry.base(6), 0x180);
    }

    #[test]
    fn refuses_what_cannot_be() {
        assert_eq!(Geometry::new(48, 4, 2), Err(GeometryError::Line(48)));
        assert_eq!(Geometry::new(8, 4, 2), Err(GeometryError::Line(8)));
        assert_eq!(Geometry::new(0, 4, 2), Err(GeometryError::Line(0)));
        assert_eq!(Geometry::new(512, 4, 2), Err(GeometryError::Line(512)));
        assert_eq!(Geometry::new(64, 0, 2), Err(GeometryError::Sets(0)));
        assert_eq!(Geometry::new(64, 4, 0), Err(GeometryError::Ways(0)));
        assert!(matches!(Geometry::new(64, u64::MAX, 2), Err(GeometryError::TooLarge { .. })));
    }
}
