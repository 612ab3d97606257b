//! Moving bytes between a buffer and memory behind keys.

use super::translate::{Holder, KeyFault, Right};
use super::wqe::{Data, Segment};
use crate::mlx5::hca::Hca;
use crate::pci::Port;

impl Hca {
    /// Reads `data.len()` bytes at `address` of `key`.
    ///
    /// # Errors
    /// [`KeyFault`] if the key does not allow it or memory does not answer; `data` may be filled in part.
    pub fn read_key(
        &self,
        holder: Holder,
        (key, address): (u32, u64),
        data: &mut [u8],
        right: Right,
        port: &mut dyn Port,
    ) -> Result<(), KeyFault> {
        let attrs = self.config.payload(false, right.moves(), holder.qpn, key);
        let (mut rest, mut at) = (data, address);
        while !rest.is_empty() {
            let piece = self.translate(holder, key, at, rest.len() as u64, right)?;
            let (part, left) = rest.split_at_mut(piece.len as usize);
            port.read(piece.bus, part, attrs).map_err(|_| KeyFault)?;
            // Only the byte after the last may wrap, and is not looked at then.
            at = at.wrapping_add(piece.len);
            rest = left;
        }
        Ok(())
    }

    /// Writes `data` at `address` of `key`.
    ///
    /// # Errors
    /// [`KeyFault`] if the key does not allow it or memory does not answer; some bytes may have been written.
    pub fn write_key(
        &self,
        holder: Holder,
        (key, address): (u32, u64),
        data: &[u8],
        right: Right,
        port: &mut dyn Port,
    ) -> Result<(), KeyFault> {
        let (mut rest, mut at) = (data, address);
        while !rest.is_empty() {
            let piece = self.translate(holder, key, at, rest.len() as u64, right)?;
            let (part, left) = rest.split_at(piece.len as usize);
            let attrs = self.config.payload(piece.relaxed, right.moves(), holder.qpn, key);
            port.write(piece.bus, part, attrs).map_err(|_| KeyFault)?;
            at = at.wrapping_add(piece.len);
            rest = left;
        }
        Ok(())
    }

    /// Checks that the first `len` bytes of `segments` may be accessed.
    pub fn check_segments(
        &self,
        holder: Holder,
        segments: &[Segment],
        len: u64,
        right: Right,
    ) -> Result<(), KeyFault> {
        let mut left = len;
        for segment in segments {
            let used = left.min(u64::from(segment.len));
            self.check_key(holder, segment.key, segment.address, used, right)?;
            left -= used;
        }
        Ok(())
    }

    /// Reads what a request sends, from byte `offset` on.
    pub fn gather(
        &self,
        holder: Holder,
        from: &Data,
        offset: u64,
        data: &mut [u8],
        port: &mut dyn Port,
    ) -> Result<(), KeyFault> {
        match from {
            Data::Inline(bytes) => {
                let start = usize::try_from(offset).map_err(|_| KeyFault)?;
                let bytes = bytes.get(start..).and_then(|rest| rest.get(..data.len())).ok_or(KeyFault)?;
                data.copy_from_slice(bytes);
                Ok(())
            }
            Data::Segments(segments) => {
                let mut rest = data;
                for (key, at, len) in parts(segments, offset, rest.len()) {
                    let (part, left) = rest.split_at_mut(len);
                    self.read_key(holder, (key, at), part, Right::LocalRead, port)?;
                    rest = left;
                }
                if rest.is_empty() { Ok(()) } else { Err(KeyFault) }
            }
        }
    }

    /// Writes `data` to `segments`, from byte `offset` of them on.
    pub fn scatter(
        &self,
        holder: Holder,
        segments: &[Segment],
        offset: u64,
        data: &[u8],
        port: &mut dyn Port,
    ) -> Result<(), KeyFault> {
        let mut rest = data;
        for (key, at, len) in parts(segments, offset, rest.len()) {
            let (part, left) = rest.split_at(len);
            self.write_key(holder, (key, at), part, Right::LocalWrite, port)?;
            rest = left;
        }
        if rest.is_empty() { Ok(()) } else { Err(KeyFault) }
    }
}

/// The `len` bytes of `segments` from byte `offset` on, as key, address and length each.
fn parts(segments: &[Segment], offset: u64, len: usize) -> impl Iterator<Item = (u32, u64, usize)> {
    let (mut skip, mut left) = (offset, len);
    segments.iter().filter_map(move |segment| {
        let segment_len = u64::from(segment.len);
        if skip >= segment_len {
            skip -= segment_len;
            return None;
        }
        let part = usize::try_from(segment_len - skip).unwrap_or(usize::MAX).min(left);
        let at = segment.address.wrapping_add(skip);
        skip = 0;
        left -= part;
        (part != 0).then_some((segment.key, at, part))
    })
}

#[cfg(test)]
mod tests {
    use super::parts;
    use crate::mlx5::data_path::wqe::Segment;

    #[test]
    fn a_range_is_cut_at_segments() {
        let segments = [(1, 0x1000, 10), (2, 0x2000, 0), (3, 0x3000, 5), (4, 0x4000, 100)]
            .map(|(key, address, len)| Segment { key, address, len });
        let of = |offset, len| parts(&segments, offset, len).collect::<Vec<_>>();
        assert_eq!(of(0, 4), [(1, 0x1000, 4)]);
        assert_eq!(of(8, 10), [(1, 0x1008, 2), (3, 0x3000, 5), (4, 0x4000, 3)]);
        assert_eq!(of(10, 5), [(3, 0x3000, 5)]);
        assert_eq!(of(115, 1), []);
    }
}
