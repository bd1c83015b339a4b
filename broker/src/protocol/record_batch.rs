//! Record batch v2: what is produced, stored and fetched. A borrowing reader, checks, and a builder.
//!
//! Big-endian:
//!
//! ```text
//!  0  base offset            i64   rewritten by the log
//!  8  batch length           i32   bytes after this field
//! 12  partition leader epoch i32   rewritten by the log; outside the CRC
//! 16  magic                  i8    2
//! 17  CRC                    u32   CRC-32C of everything from byte 21
//! 21  attributes             i16   bits 0–2 codec, 3 timestamp type, 4 transactional, 5 control, 6 delete horizon
//! 23  last offset delta      i32
//! 27  base timestamp         i64
//! 35  max timestamp          i64
//! 43  producer id            i64   -1: none
//! 51  producer epoch         i16
//! 53  base sequence          i32
//! 57  record count           i32
//! 61  records, compressed as one if there is a codec. Each, in zigzag varints:
//!     length, attributes i8 (0), timestamp delta, offset delta, key length (-1: null), key, value length (-1: null), value,
//!     header count, and for each header: name length, name, value length (-1: null), value
//! ```
//!
//! Base offset and leader epoch lie outside the CRC, so the log patches them in place and stores a client's bytes as they came.

use std::io::{BufRead, BufReader, Read};
use std::ops::Deref;

use bytes::{BufMut, BytesMut};
use thiserror::Error;

use crate::protocol::compression::{self, Codec, CompressionError, Decoder};

/// Bytes of the header, up to and including the record count.
pub const HEADER_BYTES: usize = 61;

/// The most that the records of one compressed batch may take when decompressed. Kafka has no such bound; producers close a batch at
/// `batch.size`, so an honest one stays far below.
pub const DECOMPRESSED_BYTES_MAX: usize = 256 << 20;

/// Base offset and length: what lies before the bytes that the length counts.
const LOG_OVERHEAD_BYTES: usize = 12;
const BASE_OFFSET_AT: usize = 0;
const LENGTH_AT: usize = 8;
const LEADER_EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const LAST_OFFSET_DELTA_AT: usize = 23;
const BASE_TIMESTAMP_AT: usize = 27;
const MAX_TIMESTAMP_AT: usize = 35;
const PRODUCER_ID_AT: usize = 43;
const PRODUCER_EPOCH_AT: usize = 51;
const BASE_SEQUENCE_AT: usize = 53;
const RECORD_COUNT_AT: usize = 57;

const CODEC_MASK: i16 = 0x07;
const LOG_APPEND_TIME_BIT: i16 = 0x08;
const TRANSACTIONAL_BIT: i16 = 0x10;
const CONTROL_BIT: i16 = 0x20;
const DELETE_HORIZON_BIT: i16 = 0x40;

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
    #[error("record batch has length {found}, want at least {want}")]
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

const fn invalid(reason: &'static str) -> BatchError {
    BatchError::Invalid { reason }
}

/// The 61 bytes before the records, borrowed.
#[derive(Clone, Copy)]
pub struct BatchHeader<'a> {
    bytes: &'a [u8; HEADER_BYTES],
}

impl<'a> BatchHeader<'a> {
    /// The header at the start of `bytes`, its magic and the lower bound of its length checked.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BatchError> {
        if let Some(&magic) = bytes.get(MAGIC_AT)
            && magic != 2
        {
            return Err(BatchError::Magic {
                found: magic.cast_signed(),
            });
        }
        let want = HEADER_BYTES;
        let header = bytes.first_chunk().ok_or(BatchError::TooShort {
            found: bytes.len(),
            want,
        })?;
        let header = BatchHeader { bytes: header };
        let length = i32::from_be_bytes(header.field(LENGTH_AT));
        let want = HEADER_BYTES - LOG_OVERHEAD_BYTES;
        if usize::try_from(length).is_ok_and(|length| length >= want) {
            Ok(header)
        } else {
            Err(BatchError::Length {
                found: length.into(),
                want: want as i64,
            })
        }
    }

    #[inline]
    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut field = [0; N];
        // The places are the constants above: within the header.
        if let Some(bytes) = self.bytes.get(at..at + N) {
            field.copy_from_slice(bytes);
        }
        field
    }

    fn attributes(&self) -> i16 {
        i16::from_be_bytes(self.field(ATTRIBUTES_AT))
    }

    /// The whole batch, header included.
    pub fn size_bytes(&self) -> usize {
        // `parse` has checked that the length is not negative.
        LOG_OVERHEAD_BYTES
            + i32::from_be_bytes(self.field(LENGTH_AT))
                .max(0)
                .cast_unsigned() as usize
    }

    pub fn base_offset(&self) -> i64 {
        i64::from_be_bytes(self.field(BASE_OFFSET_AT))
    }

    pub fn last_offset(&self) -> i64 {
        self.base_offset()
            .wrapping_add(self.last_offset_delta().into())
    }

    pub fn leader_epoch(&self) -> i32 {
        i32::from_be_bytes(self.field(LEADER_EPOCH_AT))
    }

    pub fn crc(&self) -> u32 {
        u32::from_be_bytes(self.field(CRC_AT))
    }

    pub fn last_offset_delta(&self) -> i32 {
        i32::from_be_bytes(self.field(LAST_OFFSET_DELTA_AT))
    }

    /// Milliseconds since the epoch; the delete horizon in a batch that the cleaner has marked.
    pub fn base_timestamp(&self) -> i64 {
        i64::from_be_bytes(self.field(BASE_TIMESTAMP_AT))
    }

    /// Milliseconds since the epoch.
    pub fn max_timestamp(&self) -> i64 {
        i64::from_be_bytes(self.field(MAX_TIMESTAMP_AT))
    }

    pub fn producer_id(&self) -> i64 {
        i64::from_be_bytes(self.field(PRODUCER_ID_AT))
    }

    pub fn producer_epoch(&self) -> i16 {
        i16::from_be_bytes(self.field(PRODUCER_EPOCH_AT))
    }

    /// The sequence of the first record; -1 if there is none.
    pub fn base_sequence(&self) -> i32 {
        i32::from_be_bytes(self.field(BASE_SEQUENCE_AT))
    }

    /// The sequence of the last record, -1 if there is none. After `i32::MAX` comes zero.
    pub fn last_sequence(&self) -> i32 {
        match self.base_sequence() {
            base if base < 0 => base,
            base => sequence_plus(base, self.last_offset_delta()),
        }
    }

    pub fn record_count(&self) -> i32 {
        i32::from_be_bytes(self.field(RECORD_COUNT_AT))
    }

    pub fn codec(&self) -> Result<Codec, BatchError> {
        // Three bits.
        let id = (self.attributes() & CODEC_MASK) as u8;
        Codec::from_id(id).ok_or(BatchError::UnknownCodec { id })
    }

    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes() & LOG_APPEND_TIME_BIT == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes() & TRANSACTIONAL_BIT != 0
    }

    pub fn is_control(&self) -> bool {
        self.attributes() & CONTROL_BIT != 0
    }

    /// When the batch's tombstones, or its transaction marker, may go: set by the cleaner that first saw them (KIP-534).
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes() & DELETE_HORIZON_BIT != 0).then(|| self.base_timestamp())
    }

    /// Whether the batch is of an idempotent producer.
    pub fn has_producer_id(&self) -> bool {
        self.producer_id() >= 0
    }
}

impl std::fmt::Debug for BatchHeader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchHeader")
            .field("base_offset", &self.base_offset())
            .field("last_offset", &self.last_offset())
            .field("size_bytes", &self.size_bytes())
            .field("leader_epoch", &self.leader_epoch())
            .field("max_timestamp", &self.max_timestamp())
            .field("producer_id", &self.producer_id())
            .field("producer_epoch", &self.producer_epoch())
            .field("base_sequence", &self.base_sequence())
            .field("record_count", &self.record_count())
            .field("attributes", &self.attributes())
            .finish()
    }
}

/// `sequence + delta`, where zero follows `i32::MAX`.
pub(crate) fn sequence_plus(sequence: i32, delta: i32) -> i32 {
    (sequence.wrapping_add(delta)) & i32::MAX
}

/// `sequence - delta`, where `i32::MAX` precedes zero.
pub(crate) fn sequence_minus(sequence: i32, delta: i32) -> i32 {
    (sequence.wrapping_sub(delta)) & i32::MAX
}

/// A borrowed record batch whose header has been read and whose bytes are all there. Cheap to make: neither CRC nor records are looked at.
/// Reads as its [`BatchHeader`].
#[derive(Clone, Copy, Debug)]
pub struct RecordBatch<'a> {
    header: BatchHeader<'a>,
    bytes: &'a [u8],
}

impl<'a> Deref for RecordBatch<'a> {
    type Target = BatchHeader<'a>;

    fn deref(&self) -> &BatchHeader<'a> {
        &self.header
    }
}

impl<'a> RecordBatch<'a> {
    /// The batch at the start of `bytes`, which may go on with others.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BatchError> {
        let header = BatchHeader::parse(bytes)?;
        let want = header.size_bytes();
        let whole = bytes.get(..want).ok_or(BatchError::TooShort {
            found: bytes.len(),
            want,
        })?;
        Ok(RecordBatch {
            header,
            bytes: whole,
        })
    }

    pub fn header(&self) -> BatchHeader<'a> {
        self.header
    }

    /// The bytes of this batch alone.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    fn payload(&self) -> &'a [u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }

    pub fn verify_crc(&self) -> Result<(), BatchError> {
        let found = self.crc();
        let want = checksum(self.bytes);
        if found == want {
            Ok(())
        } else {
            Err(BatchError::Crc { found, want })
        }
    }

    /// The records, borrowed from the batch, or from `scratch` if they have to be decompressed (to at most `decompressed_bytes_max`).
    pub fn records<'s>(
        &self,
        scratch: &'s mut Vec<u8>,
        decompressed_bytes_max: usize,
    ) -> Result<Records<'s>, BatchError>
    where
        'a: 's,
    {
        let rest: &'s [u8] = match self.codec()? {
            Codec::None => self.payload(),
            codec => {
                scratch.clear();
                compression::decompress(codec, self.payload(), decompressed_bytes_max, scratch)?;
                scratch
            }
        };
        Ok(self.records_of(rest))
    }

    /// The records, of which these are the bytes, decompressed.
    pub(crate) fn records_of<'s>(&self, plain: &'s [u8]) -> Records<'s> {
        Records {
            rest: plain,
            bytes: plain.len(),
            remaining: self.record_count(),
            base_offset: self.base_offset(),
            last_offset_delta: self.last_offset_delta(),
            last_delta: -1,
            base_timestamp: self.base_timestamp(),
            log_append_time: match self.timestamp_type() {
                TimestampType::CreateTime => None,
                TimestampType::LogAppendTime => Some(self.max_timestamp()),
            },
            done: false,
        }
    }

    /// The same records, stored with another codec.
    pub fn recompressed(
        &self,
        codec: Codec,
        level: Option<i32>,
        decompressed_bytes_max: usize,
    ) -> Result<BytesMut, BatchError> {
        let mut plain = Vec::new();
        let records = match self.codec()? {
            Codec::None => self.payload(),
            found => {
                compression::decompress(found, self.payload(), decompressed_bytes_max, &mut plain)?;
                &plain
            }
        };
        let mut compressed = Vec::new();
        let payload = match codec {
            Codec::None => records,
            codec => {
                compression::compress_at(codec, level, records, &mut compressed);
                &compressed
            }
        };
        let length = HEADER_BYTES - LOG_OVERHEAD_BYTES + payload.len();
        let length = i32::try_from(length).map_err(|_| invalid("batch is too long"))?;
        let mut batch = BytesMut::with_capacity(HEADER_BYTES + payload.len());
        batch.extend_from_slice(self.bytes().get(..HEADER_BYTES).unwrap_or_default());
        batch.extend_from_slice(payload);
        put_at(&mut batch, LENGTH_AT, &length.to_be_bytes());
        let attributes = (self.attributes() & !CODEC_MASK) | i16::from(codec.id());
        put_at(&mut batch, ATTRIBUTES_AT, &attributes.to_be_bytes());
        set_crc(&mut batch);
        Ok(batch)
    }

    /// What a control batch says of its producer's transaction; `None` if it is no control batch, or one of another kind.
    pub fn end_transaction(&self) -> Option<EndTransaction> {
        if !self.is_control() {
            return None;
        }
        // Nobody writes compressed control batches.
        let mut scratch = Vec::new();
        let record = self.records(&mut scratch, 0).ok()?.next()?.ok()?;
        EndTransaction::decode(record.key?, record.value?)
    }

    /// Walks all records without keeping any: every length is within its record and the batch, offset deltas rise and stay within the
    /// last one, and there are as many records as the header says. Compressed records are decompressed as a stream of at most
    /// `decompressed_bytes_max`, never as a whole. `visit` sees each record's outline.
    pub fn check_records(
        &self,
        decompressed_bytes_max: usize,
        visit: impl FnMut(RecordOutline),
    ) -> Result<(), BatchError> {
        match self.codec()? {
            Codec::None => check_records(
                &self.header,
                SliceSource {
                    rest: self.payload(),
                    length: self.payload().len(),
                },
                visit,
            ),
            codec => {
                let decoder = Decoder::new(codec, self.payload())
                    .map_err(|error| compression::corrupt(codec, &error))?;
                // One more than allowed: reaching it is the error.
                let limited = decoder.take(decompressed_bytes_max as u64 + 1);
                let source = StreamSource {
                    reader: BufReader::with_capacity(16 * 1024, limited),
                    codec,
                    consumed: 0,
                    decompressed_bytes_max,
                };
                check_records(&self.header, source, visit)
            }
        }
    }
}

fn checksum(batch: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(batch.get(ATTRIBUTES_AT..).unwrap_or_default())
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
        let batch = RecordBatch::parse(self.rest).ok()?;
        self.rest = self.rest.get(batch.size_bytes()..).unwrap_or_default();
        Some(batch)
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
    headers: Headers<'a>,
}

impl<'a> Record<'a> {
    /// Name and value of each header, in order. Names are UTF-8 by convention only.
    pub fn headers(&self) -> Headers<'a> {
        self.headers.clone()
    }
}

/// A record without its headers, borrowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordHead<'a> {
    pub(crate) offset: i64,
    /// Milliseconds since the epoch.
    pub(crate) timestamp: i64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
}

#[derive(Clone, Debug)]
pub struct Headers<'a> {
    rest: &'a [u8],
    remaining: i32,
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        // They were walked when the record was read, so nothing fails here.
        self.remaining = self
            .remaining
            .checked_sub(1)
            .filter(|remaining| *remaining >= 0)?;
        let name = take_bytes(&mut self.rest).ok().flatten()?;
        let value = take_bytes(&mut self.rest).ok()?;
        Some((name, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let remaining = self.remaining.max(0).cast_unsigned() as usize;
        (remaining, Some(remaining))
    }
}

/// The records of one batch, checked as they are read: an error ends the iteration.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    /// Of all records.
    bytes: usize,
    remaining: i32,
    base_offset: i64,
    last_offset_delta: i32,
    last_delta: i32,
    base_timestamp: i64,
    log_append_time: Option<i64>,
    done: bool,
}

impl<'a> Records<'a> {
    /// The bytes of the records that have not been read yet, as they are stored.
    pub(crate) fn unread(&self) -> &'a [u8] {
        self.rest
    }

    /// Bytes of the records that have been read, as they are stored.
    #[inline]
    pub(crate) fn read_bytes(&self) -> usize {
        self.bytes - self.rest.len()
    }

    /// The next record as far as its value: what follows, its headers, is not looked at. As `next`, which may be called in turn.
    #[inline]
    pub(crate) fn next_head(&mut self) -> Option<Result<RecordHead<'a>, BatchError>> {
        self.step(|records| records.read_head().map(|(head, _)| head))
    }

    #[inline]
    fn step<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, BatchError>,
    ) -> Option<Result<T, BatchError>> {
        if self.done {
            return None;
        }
        let result = if self.remaining > 0 {
            self.remaining -= 1;
            read(self)
        } else {
            self.done = true;
            if self.remaining == 0 && self.rest.is_empty() {
                return None;
            }
            Err(invalid(
                "batch has more bytes or fewer records than its header says",
            ))
        };
        self.done |= result.is_err();
        Some(result)
    }

    /// And the bytes of the record that follow.
    #[inline]
    fn read_head(&mut self) -> Result<(RecordHead<'a>, &'a [u8]), BatchError> {
        let length = take_length(&mut self.rest)?.ok_or(invalid("record has a negative length"))?;
        let (mut body, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(invalid("record is cut"))?;
        self.rest = rest;
        let (_attributes, after) = body.split_first().ok_or(invalid("record is empty"))?;
        body = after;
        let timestamp_delta = take_varlong(&mut body)?;
        let offset_delta = take_varint(&mut body)?;
        if offset_delta <= self.last_delta || offset_delta > self.last_offset_delta {
            return Err(invalid("record offsets do not rise within the batch"));
        }
        self.last_delta = offset_delta;
        let key = take_bytes(&mut body)?;
        let value = take_bytes(&mut body)?;
        let head = RecordHead {
            offset: self.base_offset.wrapping_add(offset_delta.into()),
            timestamp: self
                .log_append_time
                .unwrap_or(self.base_timestamp.wrapping_add(timestamp_delta)),
            key,
            value,
        };
        Ok((head, body))
    }

    fn read(&mut self) -> Result<Record<'a>, BatchError> {
        let (head, mut body) = self.read_head()?;
        let header_count = take_varint(&mut body)?;
        if header_count < 0 {
            return Err(invalid("record has a negative number of headers"));
        }
        let headers = Headers {
            rest: body,
            remaining: header_count,
        };
        for _ in 0..header_count {
            take_bytes(&mut body)?.ok_or(invalid("header has no name"))?;
            take_bytes(&mut body)?;
        }
        if !body.is_empty() {
            return Err(invalid("record is longer than its fields"));
        }
        Ok(Record {
            offset: head.offset,
            timestamp: head.timestamp,
            key: head.key,
            value: head.value,
            headers,
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(Records::read)
    }
}

/// What a check sees of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordOutline {
    /// Counted from zero.
    pub index: i32,
    pub offset_delta: i32,
    /// Milliseconds since the epoch, as the producer set it.
    pub timestamp: i64,
    pub has_key: bool,
    pub has_value: bool,
}

/// Where the bytes of records come from: a slice, or a stream that decompresses.
trait Source {
    fn byte(&mut self) -> Result<u8, BatchError>;
    fn skip(&mut self, count: usize) -> Result<(), BatchError>;
    fn consumed(&self) -> usize;
    fn is_at_end(&mut self) -> Result<bool, BatchError>;
}

struct SliceSource<'a> {
    rest: &'a [u8],
    length: usize,
}

impl Source for SliceSource<'_> {
    #[inline]
    fn byte(&mut self) -> Result<u8, BatchError> {
        let (byte, rest) = self.rest.split_first().ok_or(CUT)?;
        self.rest = rest;
        Ok(*byte)
    }

    #[inline]
    fn skip(&mut self, count: usize) -> Result<(), BatchError> {
        self.rest = self.rest.get(count..).ok_or(CUT)?;
        Ok(())
    }

    fn consumed(&self) -> usize {
        self.length - self.rest.len()
    }

    fn is_at_end(&mut self) -> Result<bool, BatchError> {
        Ok(self.rest.is_empty())
    }
}

const CUT: BatchError = invalid("records are cut");

struct StreamSource<'a> {
    reader: BufReader<std::io::Take<Decoder<'a>>>,
    codec: Codec,
    consumed: usize,
    decompressed_bytes_max: usize,
}

impl StreamSource<'_> {
    fn fill(&mut self) -> Result<&[u8], BatchError> {
        let codec = self.codec;
        if self.consumed > self.decompressed_bytes_max {
            return Err(CompressionError::TooLong {
                codec,
                output_bytes_max: self.decompressed_bytes_max,
            }
            .into());
        }
        self.reader
            .fill_buf()
            .map_err(|error| compression::corrupt(codec, &error).into())
    }

    fn consume(&mut self, count: usize) {
        self.reader.consume(count);
        self.consumed += count;
    }
}

impl Source for StreamSource<'_> {
    #[inline]
    fn byte(&mut self) -> Result<u8, BatchError> {
        let byte = *self.fill()?.first().ok_or(CUT)?;
        self.consume(1);
        Ok(byte)
    }

    fn skip(&mut self, mut count: usize) -> Result<(), BatchError> {
        while count > 0 {
            let available = self.fill()?.len().min(count);
            if available == 0 {
                return Err(CUT);
            }
            self.consume(available);
            count -= available;
        }
        Ok(())
    }

    fn consumed(&self) -> usize {
        self.consumed
    }

    fn is_at_end(&mut self) -> Result<bool, BatchError> {
        Ok(self.fill()?.is_empty())
    }
}

fn check_records(
    header: &BatchHeader<'_>,
    mut source: impl Source,
    mut visit: impl FnMut(RecordOutline),
) -> Result<(), BatchError> {
    if header.record_count() < 0 {
        return Err(invalid("batch has a negative number of records"));
    }
    let mut last_delta = -1;
    for index in 0..header.record_count() {
        let length = source_length(&mut source)?.ok_or(invalid("record has a negative length"))?;
        let start = source.consumed();
        source.byte()?;
        let timestamp_delta = source_varlong(&mut source)?;
        let offset_delta = source_varint(&mut source)?;
        if offset_delta <= last_delta || offset_delta > header.last_offset_delta() {
            return Err(invalid("record offsets do not rise within the batch"));
        }
        last_delta = offset_delta;
        let key_length = source_length(&mut source)?;
        source.skip(key_length.unwrap_or(0))?;
        let value_length = source_length(&mut source)?;
        source.skip(value_length.unwrap_or(0))?;
        let header_count = source_varint(&mut source)?;
        if header_count < 0 {
            return Err(invalid("record has a negative number of headers"));
        }
        // Every turn takes two bytes or more of what is there, so a false count ends soon.
        for _ in 0..header_count {
            let name_length = source_length(&mut source)?.ok_or(invalid("header has no name"))?;
            source.skip(name_length)?;
            let value_length = source_length(&mut source)?;
            source.skip(value_length.unwrap_or(0))?;
        }
        if source.consumed() - start != length {
            return Err(invalid("record's length is not that of its fields"));
        }
        let timestamp = header.base_timestamp().wrapping_add(timestamp_delta);
        visit(RecordOutline {
            index,
            offset_delta,
            timestamp,
            has_key: key_length.is_some(),
            has_value: value_length.is_some(),
        });
    }
    if source.is_at_end()? {
        Ok(())
    } else {
        Err(invalid("batch has more bytes than its records"))
    }
}

#[inline]
fn source_varlong(source: &mut impl Source) -> Result<i64, BatchError> {
    decode_varlong(|| source.byte())
}

#[inline]
fn source_varint(source: &mut impl Source) -> Result<i32, BatchError> {
    i32::try_from(source_varlong(source)?).map_err(|_| invalid("varint is too long"))
}

/// A length, or `None` for -1, which is null.
#[inline]
fn source_length(source: &mut impl Source) -> Result<Option<usize>, BatchError> {
    length_of(source_varint(source)?)
}

#[inline]
fn length_of(length: i32) -> Result<Option<usize>, BatchError> {
    match length {
        -1 => Ok(None),
        length => usize::try_from(length)
            .map(Some)
            .map_err(|_| invalid("length is negative")),
    }
}

#[inline]
fn decode_varlong(mut next: impl FnMut() -> Result<u8, BatchError>) -> Result<i64, BatchError> {
    let mut zigzag = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = next()?;
        // The tenth byte holds the last bit.
        if shift == 63 && byte > 1 {
            break;
        }
        zigzag |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(from_zigzag(zigzag));
        }
    }
    Err(invalid("varint is too long"))
}

#[inline]
fn from_zigzag(zigzag: u64) -> i64 {
    (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed()
}

#[inline]
fn take_varlong(bytes: &mut &[u8]) -> Result<i64, BatchError> {
    match *bytes {
        // Nearly all have one byte or two.
        [first, rest @ ..] if *first < 0x80 => {
            *bytes = rest;
            Ok(from_zigzag(u64::from(*first)))
        }
        [first, second, rest @ ..] if *second < 0x80 => {
            *bytes = rest;
            Ok(from_zigzag(
                u64::from(*first & 0x7f) | u64::from(*second) << 7,
            ))
        }
        _ => take_long_varlong(bytes),
    }
}

#[cold]
fn take_long_varlong(bytes: &mut &[u8]) -> Result<i64, BatchError> {
    decode_varlong(|| {
        let (byte, rest) = bytes.split_first().ok_or(CUT)?;
        *bytes = rest;
        Ok(*byte)
    })
}

#[inline]
fn take_varint(bytes: &mut &[u8]) -> Result<i32, BatchError> {
    i32::try_from(take_varlong(bytes)?).map_err(|_| invalid("varint is too long"))
}

#[inline]
fn take_length(bytes: &mut &[u8]) -> Result<Option<usize>, BatchError> {
    length_of(take_varint(bytes)?)
}

#[inline]
fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, BatchError> {
    let Some(length) = take_length(bytes)? else {
        return Ok(None);
    };
    let (taken, rest) = bytes.split_at_checked(length).ok_or(CUT)?;
    *bytes = rest;
    Ok(Some(taken))
}

#[inline]
fn put_varlong(buffer: &mut impl BufMut, value: i64) {
    let mut zigzag = zigzag(value);
    while zigzag >= 0x80 {
        // Seven bits, the eighth says that more follow.
        buffer.put_u8(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    buffer.put_u8(zigzag as u8);
}

#[inline]
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

#[inline]
fn varlong_bytes(value: i64) -> usize {
    // Seven bits a byte; zero takes one.
    ((70 - (zigzag(value) | 1).leading_zeros()) / 7) as usize
}

#[inline]
fn put_bytes(buffer: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            put_varlong(buffer, bytes.len() as i64);
            buffer.put_slice(bytes);
        }
        None => put_varlong(buffer, -1),
    }
}

#[inline]
fn bytes_bytes(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(varlong_bytes(-1), |bytes| {
        varlong_bytes(bytes.len() as i64) + bytes.len()
    })
}

fn put_at(batch: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = batch.get_mut(at..at + field.len()) {
        place.copy_from_slice(field);
    }
}

/// Gives a batch its place in a log. Outside the CRC.
pub(crate) fn set_place(batch: &mut [u8], base_offset: i64, leader_epoch: i32) {
    put_at(batch, BASE_OFFSET_AT, &base_offset.to_be_bytes());
    put_at(batch, LEADER_EPOCH_AT, &leader_epoch.to_be_bytes());
}

/// Sets the max timestamp, and the CRC anew.
pub(crate) fn set_max_timestamp(batch: &mut [u8], max_timestamp: i64) {
    put_at(batch, MAX_TIMESTAMP_AT, &max_timestamp.to_be_bytes());
    set_crc(batch);
}

/// Says that all records are from `now_ms`, and sets the CRC anew.
pub(crate) fn set_log_append_time(batch: &mut [u8], now_ms: i64) {
    let Ok(header) = BatchHeader::parse(batch) else {
        return;
    };
    let attributes = header.attributes() | LOG_APPEND_TIME_BIT;
    put_at(batch, ATTRIBUTES_AT, &attributes.to_be_bytes());
    set_max_timestamp(batch, now_ms);
}

fn set_crc(batch: &mut [u8]) {
    let crc = checksum(batch);
    put_at(batch, CRC_AT, &crc.to_be_bytes());
}

/// Key of the control record that ends a transaction: version 0, then whether it is aborted or committed. Its value: version 0, then the
/// coordinator's epoch.
const CONTROL_VERSION: i16 = 0;
const ABORT_TYPE: i16 = 0;
const COMMIT_TYPE: i16 = 1;

/// What a control record says of its producer's transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndTransaction {
    /// Aborted if not.
    pub commit: bool,
    pub coordinator_epoch: i32,
}

impl EndTransaction {
    /// The control batch of one record that ends the producer's transaction.
    pub fn batch(self, producer_id: i64, producer_epoch: i16, now_ms: i64) -> BytesMut {
        let kind = if self.commit { COMMIT_TYPE } else { ABORT_TYPE };
        let [version_0, version_1] = CONTROL_VERSION.to_be_bytes();
        let [kind_0, kind_1] = kind.to_be_bytes();
        let [epoch_0, epoch_1, epoch_2, epoch_3] = self.coordinator_epoch.to_be_bytes();
        let key = [version_0, version_1, kind_0, kind_1];
        let value = [version_0, version_1, epoch_0, epoch_1, epoch_2, epoch_3];
        let mut builder = Builder::new()
            .producer(producer_id, producer_epoch, -1)
            .transactional()
            .control();
        builder.append(now_ms, Some(&key), Some(&value), &[]);
        builder.build()
    }

    /// From a control record's key and value; `None` if it is of another kind. Later versions only add fields.
    pub fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let (version, kind) = key.split_first_chunk::<2>()?;
        let (kind, _) = kind.split_first_chunk::<2>()?;
        let (value_version, epoch) = value.split_first_chunk::<2>()?;
        let (epoch, _) = epoch.split_first_chunk::<4>()?;
        if i16::from_be_bytes(*version) < 0 || i16::from_be_bytes(*value_version) < 0 {
            return None;
        }
        let commit = match i16::from_be_bytes(*kind) {
            ABORT_TYPE => false,
            COMMIT_TYPE => true,
            _ => return None,
        };
        Some(EndTransaction {
            commit,
            coordinator_epoch: i32::from_be_bytes(*epoch),
        })
    }
}

/// What the cleaner changes of a batch. Offsets, producer, sequence and all other fields stay as they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rewrite {
    pub(crate) record_count: i32,
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    /// `base_timestamp` is the delete horizon.
    pub(crate) has_delete_horizon: bool,
}

/// Appends to `output` the batch of this header with other records, which `put_records` appends: encoded with timestamps relative to the
/// change's base, and compressed with `codec`. Without records it is a header alone, which says which offsets and sequences there were.
pub(crate) fn rewrite(
    header: &BatchHeader<'_>,
    codec: Codec,
    change: &Rewrite,
    output: &mut Vec<u8>,
    put_records: impl FnOnce(&mut Vec<u8>) -> Result<(), BatchError>,
) -> Result<(), BatchError> {
    let start = output.len();
    output.extend_from_slice(header.bytes);
    let codec = if change.record_count == 0 {
        Codec::None
    } else {
        put_records(output)?;
        codec
    };
    let Ok(length) = i32::try_from(output.len() - start - LOG_OVERHEAD_BYTES) else {
        output.truncate(start);
        return Err(invalid("rewritten batch is longer than its length can say"));
    };
    let mut attributes =
        header.attributes() & !(CODEC_MASK | DELETE_HORIZON_BIT) | i16::from(codec.id());
    if change.has_delete_horizon {
        attributes |= DELETE_HORIZON_BIT;
    }
    let batch = output.get_mut(start..).unwrap_or_default();
    put_at(batch, LENGTH_AT, &length.to_be_bytes());
    put_at(batch, ATTRIBUTES_AT, &attributes.to_be_bytes());
    put_at(
        batch,
        BASE_TIMESTAMP_AT,
        &change.base_timestamp.to_be_bytes(),
    );
    put_at(batch, MAX_TIMESTAMP_AT, &change.max_timestamp.to_be_bytes());
    put_at(batch, RECORD_COUNT_AT, &change.record_count.to_be_bytes());
    set_crc(batch);
    Ok(())
}

/// Appends a stored record to `output` with its timestamp relative to another base. `record` is as [`Records`] has read it.
pub(crate) fn put_record_with_base(
    record: &[u8],
    timestamp: i64,
    base_timestamp: i64,
    output: &mut Vec<u8>,
) -> Result<(), BatchError> {
    let mut rest = record;
    take_length(&mut rest)?;
    let (attributes, after) = rest.split_first().ok_or(CUT)?;
    let mut rest = after;
    take_varlong(&mut rest)?;
    let timestamp_delta = timestamp.wrapping_sub(base_timestamp);
    let length = 1 + varlong_bytes(timestamp_delta) + rest.len();
    put_varlong(output, length as i64);
    output.push(*attributes);
    put_varlong(output, timestamp_delta);
    output.extend_from_slice(rest);
    Ok(())
}

/// Writes one record batch: records first, then `build`.
#[derive(Clone, Debug)]
pub struct Builder {
    /// Room for the header, then the records, uncompressed.
    buffer: BytesMut,
    codec: Codec,
    attributes: i16,
    base_offset: i64,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    record_count: i32,
}

impl Default for Builder {
    fn default() -> Self {
        Builder::new()
    }
}

impl Builder {
    pub fn new() -> Self {
        Builder::with_capacity(HEADER_BYTES)
    }

    /// With room for a batch of so many bytes.
    pub fn with_capacity(batch_bytes: usize) -> Self {
        let mut buffer = BytesMut::with_capacity(batch_bytes.max(HEADER_BYTES));
        buffer.put_bytes(0, HEADER_BYTES);
        Builder {
            buffer,
            codec: Codec::None,
            attributes: 0,
            base_offset: 0,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            base_timestamp: -1,
            max_timestamp: -1,
            record_count: 0,
        }
    }

    #[must_use]
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Idempotence: who produces, and the sequence of the first record.
    #[must_use]
    pub fn producer(mut self, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> Self {
        self.producer_id = producer_id;
        self.producer_epoch = producer_epoch;
        self.base_sequence = base_sequence;
        self
    }

    #[must_use]
    pub fn transactional(mut self) -> Self {
        self.attributes |= TRANSACTIONAL_BIT;
        self
    }

    #[must_use]
    pub fn control(mut self) -> Self {
        self.attributes |= CONTROL_BIT;
        self
    }

    /// The offset of the first record; zero unless set. A log overwrites it.
    #[must_use]
    pub fn base_offset(mut self, base_offset: i64) -> Self {
        self.base_offset = base_offset;
        self
    }

    /// Adds a record: timestamp in milliseconds since the epoch, header names and values in order.
    pub fn append(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) {
        if self.record_count == 0 {
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let timestamp_delta = timestamp.wrapping_sub(self.base_timestamp);
        let offset_delta = i64::from(self.record_count);
        let headers_bytes: usize = headers
            .iter()
            .map(|(name, value)| bytes_bytes(Some(name.as_bytes())) + bytes_bytes(*value))
            .sum();
        let length = 1
            + varlong_bytes(timestamp_delta)
            + varlong_bytes(offset_delta)
            + bytes_bytes(key)
            + bytes_bytes(value)
            + varlong_bytes(headers.len() as i64)
            + headers_bytes;
        let buffer = &mut self.buffer;
        buffer.reserve(length + varlong_bytes(length as i64));
        put_varlong(buffer, length as i64);
        buffer.put_u8(0);
        put_varlong(buffer, timestamp_delta);
        put_varlong(buffer, offset_delta);
        put_bytes(buffer, key);
        put_bytes(buffer, value);
        put_varlong(buffer, headers.len() as i64);
        for (name, value) in headers {
            put_bytes(buffer, Some(name.as_bytes()));
            put_bytes(buffer, *value);
        }
        self.record_count += 1;
    }

    pub fn record_count(&self) -> i32 {
        self.record_count
    }

    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Bytes the batch would have now, uncompressed.
    pub fn size_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The batch, with its length and CRC, ready to be appended or sent. Panics without a record.
    pub fn build(self) -> BytesMut {
        assert!(!self.is_empty(), "a record batch needs a record");
        let mut buffer = self.buffer;
        if self.codec != Codec::None {
            let mut compressed = Vec::new();
            compression::compress(
                self.codec,
                buffer.get(HEADER_BYTES..).unwrap_or_default(),
                &mut compressed,
            );
            buffer.truncate(HEADER_BYTES);
            buffer.extend_from_slice(&compressed);
        }
        let length = i32::try_from(buffer.len() - LOG_OVERHEAD_BYTES);
        assert!(
            length.is_ok(),
            "a record batch of {} bytes is longer than its length field can say",
            buffer.len()
        );
        let attributes = self.attributes | i16::from(self.codec.id());
        put_at(
            &mut buffer,
            LENGTH_AT,
            &length.unwrap_or(i32::MAX).to_be_bytes(),
        );
        set_place(&mut buffer, self.base_offset, -1);
        put_at(&mut buffer, MAGIC_AT, &[2]);
        put_at(&mut buffer, ATTRIBUTES_AT, &attributes.to_be_bytes());
        put_at(
            &mut buffer,
            LAST_OFFSET_DELTA_AT,
            &(self.record_count - 1).to_be_bytes(),
        );
        put_at(
            &mut buffer,
            BASE_TIMESTAMP_AT,
            &self.base_timestamp.to_be_bytes(),
        );
        put_at(
            &mut buffer,
            MAX_TIMESTAMP_AT,
            &self.max_timestamp.to_be_bytes(),
        );
        put_at(&mut buffer, PRODUCER_ID_AT, &self.producer_id.to_be_bytes());
        put_at(
            &mut buffer,
            PRODUCER_EPOCH_AT,
            &self.producer_epoch.to_be_bytes(),
        );
        put_at(
            &mut buffer,
            BASE_SEQUENCE_AT,
            &self.base_sequence.to_be_bytes(),
        );
        put_at(
            &mut buffer,
            RECORD_COUNT_AT,
            &self.record_count.to_be_bytes(),
        );
        set_crc(&mut buffer);
        buffer
    }
}

#[cfg(test)]
mod tests;
