//! The codecs of record batches: none, gzip, snappy, lz4 and zstd.

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

/// Why bytes could not be decompressed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CompressionError {
    #[error("{codec:?} data is corrupt: {reason}")]
    Corrupt { codec: Codec, reason: String },
    #[error("{codec:?} data is longer than {output_bytes_max} bytes when decompressed")]
    TooLong { codec: Codec, output_bytes_max: usize },
}

/// Appends the compressed `input` to `output`.
pub fn compress(codec: Codec, input: &[u8], output: &mut Vec<u8>) {
    let _ = (codec, input, output);
    todo!()
}

/// Appends the decompressed `input` to `output`, at most `output_bytes_max` bytes, growing as bytes arrive.
pub fn decompress(codec: Codec, input: &[u8], output_bytes_max: usize, output: &mut Vec<u8>) -> Result<(), CompressionError> {
    let _ = (codec, input, output_bytes_max, output);
    todo!()
}
