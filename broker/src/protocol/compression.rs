//! The codecs of record batches: none, gzip, snappy, lz4 and zstd, in the framings that Kafka clients write.
//!
//! - gzip: one or more members.
//! - snappy: written in xerial's framing (a 16-byte header, then blocks, each with its length as a big-endian i32); read in that
//!   framing or as one raw block, since some clients send that.
//! - lz4: the frame format, with independent blocks, written of 64 KiB; dependent blocks are refused.
//! - zstd: one or more frames.
//!
//! Reading is a stream: what a peer claims about the length of its data allocates nothing.

use std::io::{self, Read, Write};

use thiserror::Error;

/// The codec of a batch: bits 0–2 of its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Codec {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Codec {
    /// All codecs, in the order of their ids.
    pub const ALL: [Codec; 5] = [
        Codec::None,
        Codec::Gzip,
        Codec::Snappy,
        Codec::Lz4,
        Codec::Zstd,
    ];

    /// The id in a batch's attributes.
    pub fn id(self) -> u8 {
        match self {
            Codec::None => 0,
            Codec::Gzip => 1,
            Codec::Snappy => 2,
            Codec::Lz4 => 3,
            Codec::Zstd => 4,
        }
    }

    pub fn from_id(id: u8) -> Option<Codec> {
        Codec::ALL.into_iter().find(|codec| codec.id() == id)
    }

    /// Kafka's name, as in the config `compression.type`.
    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }
}

/// Why bytes could not be decompressed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CompressionError {
    #[error("{} data is corrupt: {reason}", codec.name())]
    Corrupt { codec: Codec, reason: String },
    #[error("{} data is longer than {output_bytes_max} bytes when decompressed", codec.name())]
    TooLong {
        codec: Codec,
        output_bytes_max: usize,
    },
}

const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
/// Magic, then version and least compatible version, both 1.
const XERIAL_HEADER: [u8; 16] = [
    0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1,
];
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;
/// The densest element of snappy copies 64 bytes and takes 3, so a block that claims more is lying.
const SNAPPY_RATIO_MAX: usize = 22;
/// First allocation of a decompression; from there it doubles.
const OUTPUT_BYTES_FIRST: usize = 4096;
/// As much is zeroed for the decompressor at once in a buffer that is long enough: a batch is seldom longer.
const OUTPUT_BYTES_REUSED_MAX: usize = 64 * 1024;

/// Appends the compressed `input` to `output`, at the codec's default level.
pub fn compress(codec: Codec, input: &[u8], output: &mut Vec<u8>) {
    compress_at(codec, None, input, output);
}

/// The same at a level of gzip (1 to 9) or zstd; the other codecs have none.
pub fn compress_at(codec: Codec, level: Option<i32>, input: &[u8], output: &mut Vec<u8>) {
    // Writing into memory fails only for lack of it, which aborts elsewhere.
    let written = match codec {
        Codec::None => {
            output.extend_from_slice(input);
            Ok(())
        }
        Codec::Gzip => compress_gzip(level, input, output),
        Codec::Snappy => compress_snappy(input, output),
        Codec::Lz4 => compress_lz4(input, output),
        Codec::Zstd => {
            let level = level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL);
            zstd::stream::copy_encode(input, output, level)
        }
    };
    assert!(
        written.is_ok(),
        "compressing {} bytes with {} failed: {written:?}",
        input.len(),
        codec.name()
    );
}

fn compress_gzip(level: Option<i32>, input: &[u8], output: &mut Vec<u8>) -> io::Result<()> {
    let level = level.and_then(|level| u32::try_from(level).ok());
    let level = level.map_or_else(flate2::Compression::default, |level| {
        flate2::Compression::new(level.min(9))
    });
    let mut encoder = flate2::write::GzEncoder::new(output, level);
    encoder.write_all(input)?;
    encoder.finish().map(drop)
}

fn compress_lz4(input: &[u8], output: &mut Vec<u8>) -> io::Result<()> {
    let info = lz4_flex::frame::FrameInfo::new()
        .block_size(lz4_flex::frame::BlockSize::Max64KB)
        .block_mode(lz4_flex::frame::BlockMode::Independent);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, output);
    encoder.write_all(input)?;
    encoder.finish().map(drop).map_err(io::Error::other)
}

fn compress_snappy(input: &[u8], output: &mut Vec<u8>) -> io::Result<()> {
    output.extend_from_slice(&XERIAL_HEADER);
    let mut encoder = snap::raw::Encoder::new();
    for block in input.chunks(XERIAL_BLOCK_BYTES) {
        let compressed = encoder.compress_vec(block).map_err(io::Error::other)?;
        let length = i32::try_from(compressed.len()).map_err(io::Error::other)?;
        output.extend_from_slice(&length.to_be_bytes());
        output.extend_from_slice(&compressed);
    }
    Ok(())
}

/// Appends the decompressed `input` to `output`: an error if it is longer than `output_bytes_max`. Allocates as bytes arrive, whatever
/// the input claims.
pub fn decompress(
    codec: Codec,
    input: &[u8],
    output_bytes_max: usize,
    output: &mut Vec<u8>,
) -> Result<(), CompressionError> {
    let mut decoder = Decoder::new(codec, input).map_err(|error| corrupt(codec, &error))?;
    let start = output.len();
    loop {
        let filled = output.len();
        let produced = filled - start;
        if produced > output_bytes_max {
            output.truncate(start);
            return Err(CompressionError::TooLong {
                codec,
                output_bytes_max,
            });
        }
        // One byte more than allowed, to tell "just fits" from "too long".
        let room = produced
            .max(OUTPUT_BYTES_FIRST)
            // What is allocated already, of a buffer that is used again.
            .max((output.capacity() - filled).min(OUTPUT_BYTES_REUSED_MAX))
            .min(output_bytes_max - produced + 1);
        output.reserve_exact(room);
        output.resize(filled + room, 0);
        let read = output
            .get_mut(filled..)
            .map_or(Ok(0), |buffer| decoder.read_full(buffer));
        match read {
            Ok(read) => {
                output.truncate(filled + read);
                if read < room {
                    return Ok(());
                }
            }
            Err(error) => {
                output.truncate(start);
                return Err(corrupt(codec, &error));
            }
        }
    }
}

pub(crate) fn corrupt(codec: Codec, error: &io::Error) -> CompressionError {
    CompressionError::Corrupt {
        codec,
        reason: error.to_string(),
    }
}

/// Kafka's Java client and broker read frames of independent blocks only: a batch of dependent ones, once written, would stop every Java
/// consumer of its partition. Bit 5 of the flags, after the four bytes of magic, is set when the blocks are independent.
fn check_lz4_blocks(frame: &[u8]) -> io::Result<()> {
    match frame.get(4) {
        Some(flags) if flags & 0x20 == 0 => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the blocks of the lz4 frame depend on each other",
        )),
        _ => Ok(()),
    }
}

/// Decompresses as it is read.
pub(crate) enum Decoder<'a> {
    None(&'a [u8]),
    Gzip(flate2::bufread::MultiGzDecoder<&'a [u8]>),
    Snappy(SnappyDecoder<'a>),
    Lz4(Box<lz4_flex::frame::FrameDecoder<&'a [u8]>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, &'a [u8]>>),
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(codec: Codec, input: &'a [u8]) -> io::Result<Self> {
        Ok(match codec {
            Codec::None => Decoder::None(input),
            Codec::Gzip => Decoder::Gzip(flate2::bufread::MultiGzDecoder::new(input)),
            Codec::Snappy => Decoder::Snappy(SnappyDecoder::new(input)),
            Codec::Lz4 => {
                check_lz4_blocks(input)?;
                Decoder::Lz4(Box::new(lz4_flex::frame::FrameDecoder::new(input)))
            }
            Codec::Zstd => {
                Decoder::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(input)?))
            }
        })
    }

    /// Reads until the buffer is full or the data ends.
    fn read_full(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read(rest)? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(filled)
    }
}

impl Read for Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::None(decoder) => decoder.read(buffer),
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Snappy(decoder) => decoder.read(buffer),
            Decoder::Lz4(decoder) => decoder.read(buffer),
            Decoder::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// Blocks of xerial's framing, or one raw block, decompressed one at a time.
pub(crate) struct SnappyDecoder<'a> {
    rest: &'a [u8],
    framed: bool,
    block: Vec<u8>,
    block_read: usize,
}

impl<'a> SnappyDecoder<'a> {
    fn new(input: &'a [u8]) -> Self {
        let framed = input.starts_with(&XERIAL_MAGIC);
        let rest = if framed {
            input.get(XERIAL_HEADER.len()..).unwrap_or_default()
        } else {
            input
        };
        SnappyDecoder {
            rest,
            framed,
            block: Vec::new(),
            block_read: 0,
        }
    }

    fn next_compressed(&mut self) -> io::Result<&'a [u8]> {
        let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "snappy block is cut");
        if !self.framed {
            return Ok(std::mem::take(&mut self.rest));
        }
        let (length, rest) = self.rest.split_first_chunk::<4>().ok_or_else(cut)?;
        let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| cut())?;
        let (compressed, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
        self.rest = rest;
        Ok(compressed)
    }
}

impl Read for SnappyDecoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.block_read == self.block.len() {
            if self.rest.is_empty() {
                return Ok(0);
            }
            let compressed = self.next_compressed()?;
            let length = snap::raw::decompress_len(compressed).map_err(io::Error::other)?;
            if length > compressed.len().saturating_mul(SNAPPY_RATIO_MAX) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "snappy block claims more than it can hold",
                ));
            }
            self.block.resize(length, 0);
            let written = snap::raw::Decoder::new()
                .decompress(compressed, &mut self.block)
                .map_err(io::Error::other)?;
            self.block.truncate(written);
            self.block_read = 0;
        }
        let unread = self.block.get(self.block_read..).unwrap_or_default();
        let count = unread.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(unread) {
            *to = *from;
        }
        self.block_read += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_compressed_is_decompressed(input in prop::collection::vec(0u8..4, 0..100_000), codec in 0u8..5) {
            let codec = Codec::from_id(codec).unwrap();
            let mut compressed = Vec::new();
            compress(codec, &input, &mut compressed);
            let mut output = b"before".to_vec();
            decompress(codec, &compressed, input.len(), &mut output).unwrap();
            prop_assert_eq!(&output[6..], &input[..]);
        }

        #[test]
        fn garbage_is_an_error_or_bounded_output(
            input in prop::collection::vec(any::<u8>(), 0..2000), codec in 0u8..5, framed in any::<bool>(),
        ) {
            let codec = Codec::from_id(codec).unwrap();
            let mut bytes = if framed { XERIAL_HEADER.to_vec() } else { Vec::new() };
            bytes.extend_from_slice(&input);
            let mut output = Vec::new();
            let _ = decompress(codec, &bytes, 10_000, &mut output);
            prop_assert!(output.len() <= 10_000);
            prop_assert!(output.capacity() <= 10_001 + OUTPUT_BYTES_FIRST);
        }

        #[test]
        fn a_flipped_bit_does_not_panic(
            input in prop::collection::vec(0u8..9, 1..5000), codec in 1u8..5, at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let codec = Codec::from_id(codec).unwrap();
            let mut compressed = Vec::new();
            compress(codec, &input, &mut compressed);
            let at = at.index(compressed.len());
            compressed[at] ^= 1 << bit;
            let mut output = Vec::new();
            let _ = decompress(codec, &compressed, 1 << 20, &mut output);
            prop_assert!(output.len() <= 1 << 20);
        }
    }

    #[test]
    fn a_bomb_stops_at_the_bound() {
        let zeros = vec![0; 8 << 20];
        for codec in Codec::ALL {
            let mut compressed = Vec::new();
            compress(codec, &zeros, &mut compressed);
            let mut output = Vec::new();
            let result = decompress(codec, &compressed, 100_000, &mut output);
            assert!(
                matches!(
                    result,
                    Err(CompressionError::TooLong {
                        output_bytes_max: 100_000,
                        ..
                    })
                ),
                "{codec:?}: {result:?}"
            );
            assert!(
                output.capacity() <= 100_001 + OUTPUT_BYTES_FIRST,
                "{codec:?}: {}",
                output.capacity()
            );
        }
    }

    #[test]
    fn raw_snappy_is_read_too() {
        let raw = snap::raw::Encoder::new()
            .compress_vec(b"hello hello hello")
            .unwrap();
        let mut output = Vec::new();
        decompress(Codec::Snappy, &raw, 100, &mut output).unwrap();
        assert_eq!(output, b"hello hello hello");
    }

    #[test]
    fn an_lz4_frame_of_dependent_blocks_is_refused() {
        for (block_mode, readable) in [
            (lz4_flex::frame::BlockMode::Independent, true),
            (lz4_flex::frame::BlockMode::Linked, false),
        ] {
            let info = lz4_flex::frame::FrameInfo::new().block_mode(block_mode);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(b"hello hello hello").unwrap();
            let frame = encoder.finish().unwrap();
            let mut output = Vec::new();
            let result = decompress(Codec::Lz4, &frame, 100, &mut output);
            assert_eq!(result.is_ok(), readable, "{block_mode:?}: {result:?}");
        }
    }

    #[test]
    fn concatenated_gzip_members_are_one_stream() {
        let mut compressed = Vec::new();
        compress(Codec::Gzip, b"one ", &mut compressed);
        compress(Codec::Gzip, b"two", &mut compressed);
        let mut output = Vec::new();
        decompress(Codec::Gzip, &compressed, 100, &mut output).unwrap();
        assert_eq!(output, b"one two");
    }

    #[test]
    fn a_level_trades_time_for_bytes() {
        let input: Vec<u8> = (0..20_000_u32)
            .flat_map(|number| (number * number % 1000).to_string().into_bytes())
            .collect();
        let compressed_bytes = |codec, level| {
            let (mut compressed, mut output) = (Vec::new(), Vec::new());
            compress_at(codec, level, &input, &mut compressed);
            decompress(codec, &compressed, input.len(), &mut output).unwrap();
            assert_eq!(output, input);
            compressed.len()
        };
        for (codec, low, high) in [(Codec::Gzip, 1, 9), (Codec::Zstd, -50, 19)] {
            assert!(compressed_bytes(codec, Some(low)) > compressed_bytes(codec, Some(high)));
        }
        let (default, six) = (None, Some(6));
        assert_eq!(
            compressed_bytes(Codec::Gzip, default),
            compressed_bytes(Codec::Gzip, six)
        );
    }
}
