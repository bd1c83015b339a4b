//! Record batch v2.

use bytes::BytesMut;
use thiserror::Error;

use crate::protocol::compression::{Codec, CompressionError};

/// Bytes of the header, up to and including the record count.
pub const HEADER_BYTES: usize = 61;

/// Whose clock the timestamps of a batch are from: bit 3 of the attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum TimestampType {
    #[default]
    CreateTime,
    LogAppendTime,
}

/// Why bytes are not a record batch.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BatchError {
    #[error("record batch has {found} bytes, want at least {want}")]
    TooShort { found: usize, want: usize },
    #[error("record batch has length {found}, want {want}")]
    Length { found: i64, want: i64 },
    #[error("record batch has magic {found}, want 2")]
    Magic { found: i8 },
    #[error("record batch has crc {found:08x}, want {want:08x}")]
    Crc { found: u32, want: u32 },
    #[error("record batch has unknown codec {id}")]
    UnknownCodec { id: u8 },
    #[error("record batch is invalid: {reason}")]
    Invalid { reason: &'static str },
    #[error(transparent)]
    Compression(#[from] CompressionError),
}

/// A borrowed record batch whose header has been read and whose length is right. Cheap to make: no CRC, no records are looked at.
#[derive(Clone, Copy, Debug)]
pub struct RecordBatch<'a> {
    bytes: &'a [u8],
}

impl<'a> RecordBatch<'a> {
    /// The batch at the start of `bytes`, which may go on with others: see [`RecordBatch::size_bytes`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BatchError> {
        Ok(RecordBatch { bytes })
    }
    pub fn bytes(&self) -> &'a [u8] { self.bytes }
    pub fn size_bytes(&self) -> usize { self.bytes.len() }
    pub fn base_offset(&self) -> i64 { todo!() }
    pub fn last_offset(&self) -> i64 { todo!() }
    pub fn leader_epoch(&self) -> i32 { todo!() }
    pub fn crc(&self) -> u32 { todo!() }
    pub fn last_offset_delta(&self) -> i32 { todo!() }
    pub fn base_timestamp(&self) -> i64 { todo!() }
    pub fn max_timestamp(&self) -> i64 { todo!() }
    pub fn producer_id(&self) -> i64 { todo!() }
    pub fn producer_epoch(&self) -> i16 { todo!() }
    pub fn base_sequence(&self) -> i32 { todo!() }
    pub fn last_sequence(&self) -> i32 { todo!() }
    pub fn record_count(&self) -> i32 { todo!() }
    pub fn codec(&self) -> Result<Codec, BatchError> { todo!() }
    pub fn timestamp_type(&self) -> TimestampType { todo!() }
    pub fn is_transactional(&self) -> bool { todo!() }
    pub fn is_control(&self) -> bool { todo!() }
    pub fn has_producer_id(&self) -> bool { todo!() }
    pub fn verify_crc(&self) -> Result<(), BatchError> { todo!() }
    /// The records, borrowed from the batch, or from `scratch` if it has to be decompressed (at most `decompressed_bytes_max`).
    pub fn records<'s>(&self, scratch: &'s mut Vec<u8>, decompressed_bytes_max: usize) -> Result<Records<'s>, BatchError>
    where
        'a: 's,
    {
        let _ = (scratch, decompressed_bytes_max);
        todo!()
    }
}

/// The batches that lie one after the other in `bytes`; ends at the first that is cut or not a batch.
pub fn batches(bytes: &[u8]) -> Batches<'_> {
    Batches { rest: bytes }
}

#[derive(Clone, Debug)]
pub struct Batches<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Batches<'a> {
    type Item = RecordBatch<'a>;
    fn next(&mut self) -> Option<RecordBatch<'a>> {
        let _ = self.rest;
        todo!()
    }
}

/// A record, borrowed.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    pub offset: i64,
    /// Milliseconds since the epoch.
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    headers: &'a [u8],
}

impl<'a> Record<'a> {
    /// Name and value of each header, in order.
    pub fn headers(&self) -> Headers<'a> {
        Headers { rest: self.headers }
    }
}

#[derive(Clone, Debug)]
pub struct Headers<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, Option<&'a [u8]>);
    fn next(&mut self) -> Option<Self::Item> {
        let _ = self.rest;
        todo!()
    }
}

/// The records of one batch, checked as they are read: an error ends the iteration.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, BatchError>;
    fn next(&mut self) -> Option<Self::Item> {
        let _ = self.rest;
        todo!()
    }
}

/// Writes one record batch: records first, then `build`.
#[derive(Clone, Debug, Default)]
pub struct Builder {}

impl Builder {
    pub fn new() -> Self { Builder {} }
    #[must_use]
    pub fn codec(self, codec: Codec) -> Self { let _ = codec; self }
    /// Idempotence: who produces, and the sequence of the first record.
    #[must_use]
    pub fn producer(self, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> Self { let _ = (producer_id, producer_epoch, base_sequence); self }
    #[must_use]
    pub fn transactional(self) -> Self { self }
    #[must_use]
    pub fn control(self) -> Self { self }
    /// The offset of the first record; zero unless set. The log overwrites it.
    #[must_use]
    pub fn base_offset(self, base_offset: i64) -> Self { let _ = base_offset; self }
    pub fn append(&mut self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&str, Option<&[u8]>)]) { let _ = (timestamp, key, value, headers); }
    pub fn record_count(&self) -> i32 { 0 }
    pub fn is_empty(&self) -> bool { self.record_count() == 0 }
    /// Bytes the batch would have now, uncompressed.
    pub fn size_bytes(&self) -> usize { 0 }
    /// The batch, with its length and CRC, ready to be appended or sent.
    pub fn build(self) -> BytesMut { todo!() }
}
