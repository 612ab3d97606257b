//! The memory of a replayed machine: zero until it is written, and no larger than what is written.

use crate::memory::{Memory, OutOfRange};

/// Bytes that come into being together; a multiple of any line.
pub const CHUNK: usize = 1 << 16;

/// Memory from `base` on.
#[derive(Debug)]
pub struct SparseMemory {
    base: u64,
    size: u64,
    chunks: Vec<Option<Box<[u8]>>>,
}

impl SparseMemory {
    /// Zeros.
    pub fn new(base: u64, size: u64) -> Self {
        let count = usize::try_from(size.div_ceil(CHUNK as u64)).unwrap_or(usize::MAX);
        Self { base, size, chunks: vec![None; count] }
    }

    /// The parts of `addr .. addr + len` in each chunk: (chunk, offset in it, length).
    fn parts(
        &self,
        addr: u64,
        len: usize,
    ) -> Result<impl Iterator<Item = (usize, usize, usize)> + use<>, OutOfRange> {
        let outside = OutOfRange { addr, len: len as u64 };
        if !self.covers(addr, len as u64) {
            return Err(outside);
        }
        let mut at = usize::try_from(addr.saturating_sub(self.base)).map_err(|_| outside)?;
        let end = at.checked_add(len).ok_or(outside)?;
        Ok(std::iter::from_fn(move || {
            let offset = at % CHUNK;
            let len = (end - at).min(CHUNK - offset);
            let chunk = at / CHUNK;
            at += len;
            (len > 0).then_some((chunk, offset, len))
        }))
    }
}

impl Memory for SparseMemory {
    fn covers(&self, addr: u64, len: u64) -> bool {
        let offset = addr.checked_sub(self.base);
        offset.and_then(|offset| offset.checked_add(len)).is_some_and(|end| end <= self.size)
    }

    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), OutOfRange> {
        let mut rest = buf;
        for (chunk, offset, len) in self.parts(addr, rest.len())? {
            let (part, tail) = rest.split_at_mut(len);
            match self.chunks.get(chunk) {
                Some(Some(bytes)) => {
                    part.copy_from_slice(bytes.get(offset..offset + len).unwrap_or_default())
                }
                _ => part.fill(0),
            }
            rest = tail;
        }
        Ok(())
    }

    fn write(&mut self, addr: u64, data: &[u8]) -> Result<(), OutOfRange> {
        // Most are words, which are there already.
        let at = addr.wrapping_sub(self.base) as usize;
        if let Ok(word) = <&[u8; 8]>::try_from(data)
            && self.covers(addr, 8)
            && let Some(Some(chunk)) = self.chunks.get_mut(at / CHUNK)
            && let Some(to) = chunk.get_mut(at % CHUNK..).and_then(|rest| rest.first_chunk_mut())
        {
            *to = *word;
            return Ok(());
        }
        let mut rest = data;
        for (chunk, offset, len) in self.parts(addr, data.len())? {
            let (part, tail) = rest.split_at(len);
            if let Some(bytes) = self.chunks.get_mut(chunk) {
                let bytes = bytes.get_or_insert_with(|| vec![0; CHUNK].into_boxed_slice());
                bytes.get_mut(offset..offset + len).unwrap_or_default().copy_from_slice(part);
            }
            rest = tail;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_where_they_are_written() {
        let base = 0x1234_5600;
        let mut memory = SparseMemory::new(base, 3 * CHUNK as u64);
        let addr = base + CHUNK as u64 - 3;
        let data: Vec<u8> = (1..=255).cycle().take(CHUNK + 10).collect();
        memory.write(addr, &data).unwrap();
        let mut got = vec![9; data.len() + 2];
        memory.read(addr - 1, &mut got).unwrap();
        assert_eq!(got, [&[0], &data[..], &[0]].concat());
    }

    #[test]
    fn it_has_ends() {
        let mut memory = SparseMemory::new(64, 128);
        assert!(memory.covers(64, 128) && memory.covers(192, 0));
        assert!(!memory.covers(63, 1) && !memory.covers(64, 129) && !memory.covers(65, u64::MAX));
        assert_eq!(memory.write(190, &[1; 3]), Err(OutOfRange { addr: 190, len: 3 }));
        assert_eq!(memory.read(0, &mut [0]), Err(OutOfRange { addr: 0, len: 1 }));
        assert!(memory.chunks.iter().all(Option::is_none));
        // A word's way is another where there is memory already.
        memory.write(64, &[1; 8]).unwrap();
        memory.write(184, &[1; 8]).unwrap();
        assert_eq!(memory.write(185, &[1; 8]), Err(OutOfRange { addr: 185, len: 8 }));
        assert_eq!(memory.write(57, &[1; 8]), Err(OutOfRange { addr: 57, len: 8 }));
    }
}
