//! Unpacking of compressed kernel payloads: gzip, bzip2, lzma, xz (with its x86 filter), lz4 in the legacy frame, zstd.
//!
//! The kernel's build appends the unpacked size to all of them (gzip has it in its trailer), which decoders must not
//! mistake for data.

use liblzma::stream::Stream;
use std::io::{self, Read};

/// What a payload is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Gzip,
    Bzip2,
    Lzma,
    Xz,
    Lz4Legacy,
    Zstd,
    /// Not compressed.
    Elf,
}

/// The payload is damaged.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("its {format:?} payload is damaged: {source}")]
    Damaged { format: Format, source: io::Error },
    #[error("its payload unpacks to more than {MAX_UNPACKED} bytes")]
    TooLarge,
}

/// Bytes beyond which a payload is refused, so that a small file cannot fill the host's memory.
const MAX_UNPACKED: usize = 512 << 20;
/// Bytes that a decoder of the lzma family may allocate; kernels are packed with dictionaries of 128 MiB at most.
const LZMA_MEMORY: u64 = 512 << 20;
/// Bytes of a block of lz4's legacy frame, unpacked (lz4_Frame_format.md, "Legacy frame").
const LZ4_LEGACY_BLOCK: usize = 8 << 20;
const LZ4_LEGACY_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];

impl Format {
    /// Recognises a payload; `None` for what this module does not unpack.
    #[must_use]
    pub fn of(payload: &[u8]) -> Option<Self> {
        let magics: [(&[u8], Self); 7] = [
            (&[0x1f, 0x8b], Self::Gzip),
            (b"BZh", Self::Bzip2),
            // The usual properties (lc = 3, lp = 0, pb = 2), and a dictionary of a multiple of 64 KiB.
            (&[0x5d, 0, 0], Self::Lzma),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Self::Xz),
            (&LZ4_LEGACY_MAGIC, Self::Lz4Legacy),
            (&[0x28, 0xb5, 0x2f, 0xfd], Self::Zstd),
            (b"\x7fELF", Self::Elf),
        ];
        magics.into_iter().find(|(magic, _)| payload.starts_with(magic)).map(|(_, format)| format)
    }

    /// Unpacks `payload`. What follows the first complete stream is ignored.
    ///
    /// # Errors
    /// [`UnpackError`] if it is damaged or unreasonably large.
    pub fn unpack(self, payload: &[u8]) -> Result<Vec<u8>, UnpackError> {
        let damaged = |source| UnpackError::Damaged { format: self, source };
        match self {
            Self::Gzip => read_bounded(flate2::read::GzDecoder::new(payload)),
            Self::Bzip2 => read_bounded(bzip2::read::BzDecoder::new(payload)),
            Self::Lzma => lzma_decoder(payload, Stream::new_lzma_decoder(LZMA_MEMORY)).and_then(read_bounded),
            Self::Xz => {
                lzma_decoder(payload, Stream::new_stream_decoder(LZMA_MEMORY, 0)).and_then(read_bounded)
            }
            Self::Zstd => zstd_decoder(payload).and_then(read_bounded),
            Self::Lz4Legacy => unpack_lz4_legacy(payload),
            Self::Elf => Ok(Some(payload.to_vec())),
        }
        .map_err(damaged)?
        .ok_or(UnpackError::TooLarge)
    }
}

/// Everything `reader` yields, or `None` if that is too much.
fn read_bounded(reader: impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut data = Vec::new();
    reader.take(MAX_UNPACKED as u64 + 1).read_to_end(&mut data)?;
    Ok((data.len() <= MAX_UNPACKED).then_some(data))
}

fn lzma_decoder(payload: &[u8], stream: Result<Stream, liblzma::stream::Error>) -> io::Result<impl Read> {
    Ok(liblzma::bufread::XzDecoder::new_stream(payload, stream?))
}

/// A decoder of one frame; kernels are packed with windows beyond the library's default limit.
fn zstd_decoder(payload: &[u8]) -> io::Result<impl Read> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(payload)?;
    decoder.window_log_max(31)?;
    Ok(decoder.single_frame())
}

/// Blocks of a little-endian size and that many bytes of lz4 block data. The last four bytes of the payload are the
/// unpacked size.
fn unpack_lz4_legacy(payload: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let damaged = |reason: &'static str| io::Error::new(io::ErrorKind::InvalidData, reason);
    let mut rest = payload.get(LZ4_LEGACY_MAGIC.len()..).unwrap_or_default();
    let mut data = Vec::new();
    let mut block = vec![0; LZ4_LEGACY_BLOCK];
    while let Some((size, after)) = rest.split_first_chunk::<4>() {
        if after.is_empty() {
            break;
        }
        if *size == LZ4_LEGACY_MAGIC {
            rest = after;
            continue;
        }
        let size = u32::from_le_bytes(*size) as usize;
        let (packed, next) = after.split_at_checked(size).ok_or_else(|| damaged("a block is cut off"))?;
        let length = lz4_flex::block::decompress_into(packed, &mut block)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        data.extend_from_slice(block.get(..length).unwrap_or_default());
        if data.len() > MAX_UNPACKED {
            return Ok(None);
        }
        rest = next;
    }
    if data.is_empty() { Err(damaged("it holds no block")) } else { Ok(Some(data)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn text() -> Vec<u8> {
        (0..200_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
    }

    fn with_size(mut packed: Vec<u8>, data: &[u8]) -> Vec<u8> {
        packed.extend_from_slice(&(data.len() as u32).to_le_bytes());
        packed
    }

    fn samples() -> Vec<(Format, Vec<u8>)> {
        let data = text();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&data).unwrap();
        let mut options = liblzma::stream::LzmaOptions::new_preset(6).unwrap();
        options.dict_size(1 << 20);
        let mut filters = liblzma::stream::Filters::new();
        filters.x86().lzma2(&options);
        let stream = Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc32).unwrap();
        let mut xz = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        xz.write_all(&data).unwrap();
        let stream = Stream::new_lzma_encoder(&options).unwrap();
        let mut lzma = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        lzma.write_all(&data).unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
        bzip2.write_all(&data).unwrap();
        let mut lz4 = LZ4_LEGACY_MAGIC.to_vec();
        for part in data.chunks(LZ4_LEGACY_BLOCK) {
            let packed = lz4_flex::block::compress(part);
            lz4.extend_from_slice(&(packed.len() as u32).to_le_bytes());
            lz4.extend_from_slice(&packed);
        }
        let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        zstd.include_checksum(true).unwrap();
        zstd.write_all(&data).unwrap();
        vec![
            (Format::Gzip, gzip.finish().unwrap()),
            (Format::Bzip2, with_size(bzip2.finish().unwrap(), &data)),
            (Format::Lzma, with_size(lzma.finish().unwrap(), &data)),
            (Format::Xz, with_size(xz.finish().unwrap(), &data)),
            (Format::Lz4Legacy, with_size(lz4, &data)),
            (Format::Zstd, with_size(zstd.finish().unwrap(), &data)),
        ]
    }

    #[test]
    fn every_format_unpacks() {
        for (format, packed) in samples() {
            assert_eq!(Format::of(&packed), Some(format));
            assert!(format.unpack(&packed).unwrap() == text(), "{format:?}");
        }
    }

    #[test]
    fn damage_is_an_error() {
        for (format, packed) in samples() {
            let cut = &packed[..packed.len() / 2];
            assert!(format.unpack(cut).is_err(), "{format:?} cut off");
            assert!(format.unpack(&packed[..4]).is_err(), "{format:?} of four bytes");
            let mut noise = packed.clone();
            for byte in noise.iter_mut().skip(6).step_by(3) {
                *byte = byte.wrapping_mul(31).wrapping_add(7);
            }
            assert!(format.unpack(&noise).is_err(), "{format:?} with noise");
        }
    }

    #[test]
    fn a_decoder_may_not_allocate_what_it_likes() {
        let mut header = vec![0x5d, 0, 0, 0, 0x80];
        header.extend_from_slice(&[0xff; 8]);
        header.extend_from_slice(&[0; 64]);
        assert!(Format::Lzma.unpack(&header).is_err(), "a dictionary of 2 GiB");
    }

    #[test]
    fn other_formats_are_not_claimed() {
        for payload in [&[0x89, b'L', b'Z', b'O'][..], &[0x5d, 0], b"\x7fEL", b"BZ", &[]] {
            assert_eq!(Format::of(payload), None);
        }
    }
}
