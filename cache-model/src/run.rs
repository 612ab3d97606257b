//! A run of bytes of one line by one writer, packed: what is kept of the stores to many lines.

use serde::{Deserialize, Serialize};

use crate::finding::{Agent, Writer, Written};
use crate::mask::ByteMask;

/// Words of a packed run.
pub const RUN: usize = 3;

/// In the first word: position and length in the line, the kind of agent, and its number above.
const LEN_SHIFT: u32 = 12;
const FIELD: u64 = 0xfff;
const RANGE: u64 = FIELD | FIELD << LEN_SHIFT;
const DEVICE: u64 = 1 << 31;
const NUMBER_SHIFT: u32 = 32;

/// Bytes of a line that one writer has stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run([u64; RUN]);

impl Run {
    #[inline]
    pub fn new(offset: usize, len: usize, writer: Writer) -> Self {
        let agent = match writer.agent {
            Agent::Cpu(cpu) => u64::from(cpu) << NUMBER_SHIFT,
            Agent::Device(device) => u64::from(device) << NUMBER_SHIFT | DEVICE,
        };
        Self([offset as u64 | (len as u64) << LEN_SHIFT | agent, writer.ip, writer.stamp])
    }

    /// As [`Run::words`] gave it.
    #[inline]
    pub fn from_words(words: [u64; RUN]) -> Self {
        Self(words)
    }

    #[inline]
    pub fn words(self) -> [u64; RUN] {
        self.0
    }

    #[inline]
    pub fn offset(self) -> usize {
        (self.0[0] & FIELD) as usize
    }

    #[inline]
    pub fn len(self) -> usize {
        (self.0[0] >> LEN_SHIFT & FIELD) as usize
    }

    /// Both, if the other follows and is the same writer's.
    #[inline]
    pub fn and(self, next: Self) -> Option<Self> {
        let ([place, ip, stamp], [other, other_ip, other_stamp]) = (self.0, next.0);
        let follows = next.offset() == self.offset() + self.len();
        let same = (place ^ other) & !RANGE == 0 && ip == other_ip && stamp == other_stamp;
        (follows && same).then(|| self.with_range(self.offset(), self.len() + next.len()))
    }

    #[inline]
    pub fn bytes(self) -> ByteMask {
        ByteMask::range(self.offset(), self.len())
    }

    /// The same writer's other bytes.
    #[inline]
    pub fn with_range(self, offset: usize, len: usize) -> Self {
        let [place, ip, stamp] = self.0;
        Self([offset as u64 | (len as u64) << LEN_SHIFT | place & !RANGE, ip, stamp])
    }

    pub fn written(self) -> Written {
        let [place, ip, stamp] = self.0;
        let number = (place >> NUMBER_SHIFT) as u32;
        let agent = if place & DEVICE == 0 { Agent::Cpu(number) } else { Agent::Device(number) };
        Written { offset: self.offset(), len: self.len(), writer: Writer { agent, ip, stamp } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_in_packing() {
        for (offset, len) in [(0, 256), (255, 1), (0, 1), (17, 40)] {
            for writer in
                [Writer::cpu(u32::MAX, u64::MAX, 7), Writer::device(u32::MAX, u64::MAX), Writer::cpu(0, 0, 0)]
            {
                let run = Run::new(offset, len, writer);
                assert_eq!(run.written(), Written { offset, len, writer });
                assert_eq!(run.with_range(3, 2).written(), Written { offset: 3, len: 2, writer });
                assert_eq!(run.bytes(), ByteMask::range(offset, len));
                let next = Run::new(offset + len, 3, writer);
                assert_eq!(run.and(next), Some(Run::new(offset, len + 3, writer)));
                assert_eq!(run.and(Run::new(offset + len, 3, Writer { stamp: 8, ..writer })), None);
                assert_eq!(run.and(Run::new(offset + len + 1, 3, writer)), None);
            }
        }
    }
}
