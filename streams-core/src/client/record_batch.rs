//! Record batches in Kafka's format v2, as a stream client needs them: read in place, and written record by record.
//!
//! ```text
//!  0 base offset      i64    23 last offset delta  i32    53 base sequence   i32
//!  8 batch length     i32    27 base timestamp     i64    57 records         i32
//! 12 leader epoch     i32    35 max timestamp      i64    61 record...
//! 16 magic = 2        i8     43 producer id        i64
//! 17 CRC-32C of 21..  u32    51 producer epoch     i16
//! 21 attributes       i16        bits 0-2 compression, 3 log append time, 4 transactional, 5 control
//!
//! record: length varint, attributes i8, timestamp delta varlong, offset delta varint,
//!         key length varint (-1: null), key, value length varint, value, headers varint, (name, value)...
//! ```
//!
//! The broker has its own reader and builder: the two halves of the project meet on the wire and share no code.
//!
//! ## A cursor of offsets, not an iterator of borrows
//! A task's queue holds a batch and its place in it for as long as it likes. So [`BatchCursor`] owns the bytes and an index, and lends
//! a [`RecordView`] for each step. A record is parsed when it is asked for; its headers only when they are asked for.
//!
//! ## The CRC is not checked again
//! Whoever fetched the batch has checked it (librdkafka, or the broker in this process). [`verify_crc`] is there for those who have not.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use crc_fast::CrcAlgorithm;

use super::{ClientError, ClientErrorKind, RecordRef};
use crate::record::Headers;
use crate::serde::Payload;

/// Bytes of a batch before its records.
pub const BATCH_HEADER_BYTES: usize = 61;

const CRC_START: usize = 17;
const ATTRIBUTES_START: usize = 21;
/// Bytes before the part that `batch length` counts.
const LENGTH_END: usize = 12;
const COMPRESSION_MASK: i16 = 0b0000_0111;
const LOG_APPEND_TIME: i16 = 0b0000_1000;
const CONTROL: i16 = 0b0010_0000;
const NO_PRODUCER_ID: i64 = -1;
const NO_PRODUCER_EPOCH: i16 = -1;
const NO_SEQUENCE: i32 = -1;
const NO_LEADER_EPOCH: i32 = -1;

/// Bytes that are not a record batch, or a record that does not fit into one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The bytes end within a batch or a record.
    #[error("record batch at offset {base_offset}: ends within {what}")]
    Truncated {
        /// Base offset of the batch, -1 when not even that is there.
        base_offset: i64,
        /// What was being read.
        what: &'static str,
    },
    /// A length, a count or a varint that cannot be.
    #[error("record batch at offset {base_offset}: {what} is malformed")]
    Malformed {
        /// Base offset of the batch.
        base_offset: i64,
        /// What was being read.
        what: &'static str,
    },
    /// Not format v2.
    #[error("record batch at offset {base_offset}: magic is {magic}, want 2")]
    Magic {
        /// Base offset of the batch.
        base_offset: i64,
        /// The format found.
        magic: i8,
    },
    /// Compressed; clients decompress before.
    #[error(
        "record batch at offset {base_offset}: compressed with codec {codec}, want uncompressed"
    )]
    Compressed {
        /// Base offset of the batch.
        base_offset: i64,
        /// Kafka's number of the codec.
        codec: i16,
    },
    /// The checksum does not match.
    #[error("record batch at offset {base_offset}: crc is {found:08x}, want {expected:08x}")]
    Crc {
        /// Base offset of the batch.
        base_offset: i64,
        /// As written in the batch.
        expected: u32,
        /// As computed.
        found: u32,
    },
    /// A record or batch above two gigabytes.
    #[error("record of {bytes} bytes does not fit into a record batch")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

impl From<BatchError> for ClientError {
    fn from(error: BatchError) -> Self {
        let kind = if matches!(error, BatchError::TooLarge { .. }) {
            ClientErrorKind::TooLarge
        } else {
            ClientErrorKind::Fatal
        };
        Self::new(kind, error)
    }
}

/// A record within a fetched batch, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    /// Its offset.
    pub offset: i64,
    /// Event time in milliseconds, or the broker's time where the topic says so. Negative: none.
    pub timestamp: i64,
    /// Key bytes; `None` is null.
    pub key: Option<Payload<'a>>,
    /// Value bytes; `None` is null.
    pub value: Option<Payload<'a>>,
    /// Headers, not yet parsed.
    pub headers: HeadersView<'a>,
}

/// Where a record lies within fetched bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordPlace {
    /// Its offset.
    pub offset: i64,
    /// As [`RecordView::timestamp`].
    pub timestamp: i64,
    /// Key bytes; `None` is null.
    pub key: Option<Range<usize>>,
    /// Value bytes; `None` is null.
    pub value: Option<Range<usize>>,
}

/// The headers of a [`RecordView`], parsed when asked for.
#[derive(Clone, Copy, Debug)]
pub struct HeadersView<'a> {
    bytes: &'a [u8],
    owner: &'a Bytes,
    count: u32,
    base_offset: i64,
}

impl HeadersView<'_> {
    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The headers for keeps; values share the batch's bytes. A name that is not UTF-8 is kept with replacement characters.
    ///
    /// # Errors
    /// When the record ends within a header, or has bytes after the last.
    pub fn to_headers(&self) -> Result<Headers, BatchError> {
        let mut headers = Headers::default();
        if self.count == 0 {
            return Ok(headers);
        }
        let mut reader = Reader {
            bytes: self.bytes,
            position: 0,
            base_offset: self.base_offset,
        };
        for _ in 0..self.count {
            let name = reader
                .nullable_bytes("a header's name")?
                .ok_or_else(|| reader.malformed("a header's name"))?;
            let value = reader.nullable_bytes("a header's value")?;
            headers.push(
                String::from_utf8_lossy(name),
                value.map(|value| self.owner.slice_ref(value)),
            );
        }
        if reader.position != self.bytes.len() {
            return Err(reader.malformed("the end of a record"));
        }
        Ok(headers)
    }
}

/// A place within fetched bytes that hold one record batch, or several one after the other. Control batches are passed over.
#[derive(Clone, Debug)]
pub struct BatchCursor {
    bytes: Bytes,
    /// Where the next record begins (its length), or the next batch when `remaining` is 0.
    position: usize,
    /// Where the current batch ends.
    batch_end: usize,
    remaining: u32,
    base_offset: i64,
    base_timestamp: i64,
    /// The timestamp of all records, when the broker stamped them.
    append_time: Option<i64>,
}

impl BatchCursor {
    /// A cursor before the first record.
    ///
    /// # Errors
    /// When the bytes do not begin with a whole uncompressed batch in format v2.
    pub fn new(bytes: Bytes) -> Result<Self, BatchError> {
        let mut cursor = Self {
            bytes,
            position: 0,
            batch_end: 0,
            remaining: 0,
            base_offset: -1,
            base_timestamp: 0,
            append_time: None,
        };
        cursor.enter_batch()?;
        Ok(cursor)
    }

    /// The next record, and steps past it. `None` at the end.
    ///
    /// # Errors
    /// When the record or the batch that follows is malformed; the cursor stays where it is.
    #[inline]
    #[allow(
        clippy::should_implement_trait,
        reason = "it lends: the view borrows the cursor's bytes, which an Iterator cannot say"
    )]
    pub fn next(&mut self) -> Result<Option<RecordView<'_>>, BatchError> {
        if self.remaining == 0 && !self.enter_batch()? {
            return Ok(None);
        }
        let (parsed, end) = self.parse()?;
        self.position = end;
        self.remaining -= 1;
        Ok(Some(self.view(parsed)))
    }

    /// Where the next record lies in [`BatchCursor::bytes`], and steps past it. `None` at the end. For those who look at many records before
    /// they use the first.
    ///
    /// # Errors
    /// As [`BatchCursor::next`].
    #[inline]
    pub fn next_place(&mut self) -> Result<Option<RecordPlace>, BatchError> {
        if self.remaining == 0 && !self.enter_batch()? {
            return Ok(None);
        }
        let (parsed, end) = self.parse()?;
        self.position = end;
        self.remaining -= 1;
        Ok(Some(RecordPlace {
            offset: parsed.offset,
            timestamp: parsed.timestamp,
            key: parsed.key.map(|(from, to)| from..to),
            value: parsed.value.map(|(from, to)| from..to),
        }))
    }

    /// The next record, without stepping past it. `None` at the end.
    ///
    /// # Errors
    /// As [`BatchCursor::next`].
    #[inline]
    pub fn peek(&mut self) -> Result<Option<RecordView<'_>>, BatchError> {
        if self.remaining == 0 && !self.enter_batch()? {
            return Ok(None);
        }
        let (parsed, _) = self.parse()?;
        Ok(Some(self.view(parsed)))
    }

    /// Offset and timestamp of the next record. `None` at the end.
    ///
    /// # Errors
    /// As [`BatchCursor::next`].
    #[inline]
    pub fn peek_timestamp(&mut self) -> Result<Option<(i64, i64)>, BatchError> {
        Ok(self.peek()?.map(|record| (record.offset, record.timestamp)))
    }

    /// Steps past the records below `offset`.
    ///
    /// # Errors
    /// As [`BatchCursor::next`].
    pub fn skip_below(&mut self, offset: i64) -> Result<(), BatchError> {
        while self.peek()?.is_some_and(|record| record.offset < offset) {
            self.next()?;
        }
        Ok(())
    }

    /// How many records of the current batch are still to come. Exact when the bytes hold one batch.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.remaining as usize
    }

    /// Bytes still to be read.
    pub fn remaining_bytes(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The bytes the cursor walks through.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Moves to the first record of the next batch that has any; false when there is none.
    fn enter_batch(&mut self) -> Result<bool, BatchError> {
        // A batch with attributes this cursor does not pass on, or without records, is stepped over here.
        self.position = self.position.max(self.batch_end);
        while self.position < self.bytes.len() {
            let header = BatchHeader::parse(self.bytes.get(self.position..).unwrap_or_default())?;
            self.base_offset = header.base_offset;
            self.base_timestamp = header.base_timestamp;
            self.append_time =
                (header.attributes & LOG_APPEND_TIME != 0).then_some(header.max_timestamp);
            self.batch_end = self.position + header.size_bytes;
            if header.attributes & CONTROL == 0 && header.records > 0 {
                self.position += BATCH_HEADER_BYTES;
                self.remaining = header.records;
                return Ok(true);
            }
            self.position = self.batch_end;
        }
        Ok(false)
    }

    /// Parses the record at `position`; returns its parts as ranges, and where it ends.
    #[inline]
    fn parse(&self) -> Result<(ParsedRecord, usize), BatchError> {
        let batch = self.bytes.get(..self.batch_end).unwrap_or_default();
        let mut reader = Reader {
            bytes: batch,
            position: self.position,
            base_offset: self.base_offset,
        };
        let length = reader.varint("a record's length")?;
        let start = reader.position;
        let end = usize::try_from(length)
            .ok()
            .and_then(|length| start.checked_add(length))
            .filter(|end| *end <= batch.len())
            .ok_or_else(|| reader.malformed("a record's length"))?;
        // From here on nothing reads beyond this record.
        reader.bytes = batch.get(..end).unwrap_or_default();
        reader.skip_attributes()?;
        let timestamp_delta = reader.varlong("a record's timestamp")?;
        let offset_delta = reader.varint("a record's offset")?;
        let key = reader.nullable_range("a record's key")?;
        let value = reader.nullable_range("a record's value")?;
        let headers = reader.varint("a record's headers")?;
        // Each header has at least two bytes, so a count beyond that is a lie; checked here so that no one trusts it.
        let left = end - reader.position;
        let headers = u32::try_from(headers)
            .ok()
            .filter(|count| *count as usize <= left / 2)
            .ok_or_else(|| reader.malformed("a record's headers"))?;
        if headers == 0 && left != 0 {
            return Err(reader.malformed("the end of a record"));
        }
        let parsed = ParsedRecord {
            offset: self.base_offset.wrapping_add(i64::from(offset_delta)),
            timestamp: self
                .append_time
                .unwrap_or_else(|| self.base_timestamp.wrapping_add(timestamp_delta)),
            key,
            value,
            headers: (reader.position, end),
            headers_count: headers,
        };
        Ok((parsed, end))
    }

    #[inline]
    fn view(&self, parsed: ParsedRecord) -> RecordView<'_> {
        // The ranges come from `parse`, which found them to lie in the bytes.
        let slice = |(start, end): (usize, usize)| self.bytes.get(start..end).unwrap_or_default();
        RecordView {
            offset: parsed.offset,
            timestamp: parsed.timestamp,
            key: parsed
                .key
                .map(|range| Payload::shared(slice(range), &self.bytes)),
            value: parsed
                .value
                .map(|range| Payload::shared(slice(range), &self.bytes)),
            headers: HeadersView {
                bytes: slice(parsed.headers),
                owner: &self.bytes,
                count: parsed.headers_count,
                base_offset: self.base_offset,
            },
        }
    }
}

struct ParsedRecord {
    offset: i64,
    timestamp: i64,
    key: Option<(usize, usize)>,
    value: Option<(usize, usize)>,
    headers: (usize, usize),
    headers_count: u32,
}

/// The fields of a batch's header that a reader acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record as it was written.
    pub base_offset: i64,
    /// Offset of the last record as it was written (compaction keeps it).
    pub last_offset: i64,
    /// Number of records in the batch.
    pub records: u32,
    /// All bytes of the batch, with its header.
    pub size_bytes: usize,
    /// Highest timestamp of its records.
    pub max_timestamp: i64,
    base_timestamp: i64,
    attributes: i16,
}

impl BatchHeader {
    /// Reads the header of the batch that `bytes` begin with, which must be there as a whole.
    ///
    /// # Errors
    /// When it is not a whole uncompressed batch in format v2.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some((header, _)) = bytes.split_first_chunk::<BATCH_HEADER_BYTES>() else {
            let base_offset = bytes
                .first_chunk::<8>()
                .map_or(-1, |first| i64::from_be_bytes(*first));
            return Err(BatchError::Truncated {
                base_offset,
                what: "the header",
            });
        };
        let base_offset = i64::from_be_bytes(field(header, 0));
        let [magic] = field::<1>(header, 16);
        let magic = magic.cast_signed();
        if magic != 2 {
            return Err(BatchError::Magic { base_offset, magic });
        }
        let length = i32::from_be_bytes(field(header, 8));
        let size_bytes = usize::try_from(length)
            .ok()
            .map(|length| length.saturating_add(LENGTH_END))
            .filter(|size| *size >= BATCH_HEADER_BYTES)
            .ok_or(BatchError::Malformed {
                base_offset,
                what: "the batch length",
            })?;
        if size_bytes > bytes.len() {
            return Err(BatchError::Truncated {
                base_offset,
                what: "the records",
            });
        }
        let attributes = i16::from_be_bytes(field(header, ATTRIBUTES_START));
        if attributes & COMPRESSION_MASK != 0 {
            return Err(BatchError::Compressed {
                base_offset,
                codec: attributes & COMPRESSION_MASK,
            });
        }
        let last_offset_delta = i32::from_be_bytes(field(header, 23));
        let records = u32::try_from(i32::from_be_bytes(field(header, 57))).map_err(|_| {
            BatchError::Malformed {
                base_offset,
                what: "the record count",
            }
        })?;
        Ok(Self {
            base_offset,
            last_offset: base_offset.wrapping_add(i64::from(last_offset_delta)),
            records,
            size_bytes,
            max_timestamp: i64::from_be_bytes(field(header, 35)),
            base_timestamp: i64::from_be_bytes(field(header, 27)),
            attributes,
        })
    }

    /// Whether the batch is a transaction marker rather than data.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }
}

/// `N` bytes of the header at a constant place.
#[inline]
fn field<const N: usize>(header: &[u8; BATCH_HEADER_BYTES], start: usize) -> [u8; N] {
    header
        .get(start..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .unwrap_or([0; N])
}

/// Checks the CRC of the batch that `bytes` begin with.
///
/// # Errors
/// When it does not match, or when `bytes` are not a whole uncompressed batch.
pub fn verify_crc(bytes: &[u8]) -> Result<(), BatchError> {
    let header = BatchHeader::parse(bytes)?;
    let expected = bytes
        .get(CRC_START..)
        .and_then(|rest| rest.first_chunk::<4>())
        .map_or(0, |crc| u32::from_be_bytes(*crc));
    let found = crc32c(
        bytes
            .get(ATTRIBUTES_START..header.size_bytes)
            .unwrap_or_default(),
    );
    if found == expected {
        Ok(())
    } else {
        Err(BatchError::Crc {
            base_offset: header.base_offset,
            expected,
            found,
        })
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    // The algorithm is 32 bits wide; the crate returns all its checksums in 64.
    (crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) & 0xffff_ffff) as u32
}

/// Reads varints and slices, within bounds.
struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
    base_offset: i64,
}

impl<'a> Reader<'a> {
    #[cold]
    fn truncated(&self, what: &'static str) -> BatchError {
        BatchError::Truncated {
            base_offset: self.base_offset,
            what,
        }
    }

    #[cold]
    fn malformed(&self, what: &'static str) -> BatchError {
        BatchError::Malformed {
            base_offset: self.base_offset,
            what,
        }
    }

    #[inline]
    fn skip_attributes(&mut self) -> Result<(), BatchError> {
        if self.position >= self.bytes.len() {
            return Err(self.truncated("a record's attributes"));
        }
        self.position += 1;
        Ok(())
    }

    #[inline]
    fn varint(&mut self, what: &'static str) -> Result<i32, BatchError> {
        // Nearly all are one byte: lengths below 64 and deltas.
        if let Some(byte) = self.bytes.get(self.position)
            && *byte < 0x80
        {
            self.position += 1;
            let raw = u32::from(*byte);
            return Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed());
        }
        let raw = self.long_varint(what, 5)?;
        let raw = u32::try_from(raw).map_err(|_| self.malformed(what))?;
        Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    #[inline]
    fn varlong(&mut self, what: &'static str) -> Result<i64, BatchError> {
        let raw = self.long_varint(what, 10)?;
        Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    #[inline]
    fn long_varint(&mut self, what: &'static str, bytes_max: u32) -> Result<u64, BatchError> {
        let mut raw = 0_u64;
        for index in 0..bytes_max {
            let Some(byte) = self.bytes.get(self.position) else {
                return Err(self.truncated(what));
            };
            self.position += 1;
            // The tenth byte has room for one bit.
            if index == 9 && *byte > 1 {
                return Err(self.malformed(what));
            }
            raw |= u64::from(*byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                return Ok(raw);
            }
        }
        Err(self.malformed(what))
    }

    /// A length and so many bytes; where they are. A length of -1 is null.
    #[inline]
    fn nullable_range(&mut self, what: &'static str) -> Result<Option<(usize, usize)>, BatchError> {
        let length = self.varint(what)?;
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| self.malformed(what))?;
        let start = self.position;
        if length > self.bytes.len() - start {
            return Err(self.truncated(what));
        }
        self.position = start + length;
        Ok(Some((start, self.position)))
    }

    fn nullable_bytes(&mut self, what: &'static str) -> Result<Option<&'a [u8]>, BatchError> {
        let range = self.nullable_range(what)?;
        Ok(range.map(|(start, end)| self.bytes.get(start..end).unwrap_or_default()))
    }
}

/// Bit of a batch's attributes.
const TRANSACTIONAL: i16 = 1 << 4;

/// Who writes a batch, for [`BatchBuilder::finish_as`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writer {
    /// As the cluster gave it.
    pub producer_id: i64,
    /// Newer ones fence older ones.
    pub producer_epoch: i16,
    /// Number of the first record among the producer's in the partition.
    pub base_sequence: i32,
    /// Whether it is part of a transaction.
    pub is_transactional: bool,
}

/// An open batch: records are written straight into its buffer, and the header is filled in at the end.
#[derive(Debug)]
pub struct BatchBuilder {
    /// Header space and records; empty while there are no records.
    buffer: BytesMut,
    capacity: usize,
    records: u32,
    base_offset: i64,
    last_offset: i64,
    base_timestamp: i64,
    last_timestamp: i64,
    max_timestamp: i64,
}

impl BatchBuilder {
    /// An empty batch. `capacity` bytes are reserved with the first record.
    pub fn new(capacity: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            capacity: capacity.max(BATCH_HEADER_BYTES),
            records: 0,
            base_offset: 0,
            last_offset: -1,
            base_timestamp: 0,
            last_timestamp: 0,
            max_timestamp: 0,
        }
    }

    /// Writes a record behind the last one, at the next offset.
    ///
    /// # Errors
    /// [`BatchError::TooLarge`] when the batch would pass two gigabytes. The batch stays as it was.
    #[inline]
    pub fn append(&mut self, record: RecordRef<'_>) -> Result<(), BatchError> {
        let offset = self.last_offset + 1;
        if record.headers.is_empty() {
            return self.append_at(
                offset,
                record.timestamp,
                record.key,
                record.value,
                std::iter::empty(),
            );
        }
        let headers = record
            .headers
            .iter()
            .map(|header| (header.key.as_bytes(), header.value.as_deref()));
        self.append_at(offset, record.timestamp, record.key, record.value, headers)
    }

    /// Writes a record at an offset of its own, as it was fetched: offsets rise, and may leave out what compaction has removed.
    ///
    /// # Errors
    /// [`BatchError::TooLarge`] as [`BatchBuilder::append`], [`BatchError::Malformed`] when the offset is not above the last one or
    /// more than 2³¹ above the first. The batch stays as it was.
    #[inline]
    pub fn append_at<'a>(
        &mut self,
        offset: i64,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + Clone,
    ) -> Result<(), BatchError> {
        if self.records == 0 {
            self.base_offset = offset;
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        } else if offset <= self.last_offset {
            return Err(BatchError::Malformed {
                base_offset: self.base_offset,
                what: "the order of offsets",
            });
        }
        let offset_delta = offset
            .checked_sub(self.base_offset)
            .and_then(|delta| i32::try_from(delta).ok())
            .ok_or(BatchError::Malformed {
                base_offset: self.base_offset,
                what: "the span of offsets",
            })?;

        // What stands before the key, so that the length can be written first.
        let mut front = Scratch::default();
        front.push(0);
        front.varlong(timestamp.wrapping_sub(self.base_timestamp));
        front.varlong(i64::from(offset_delta));
        front.varlong(length_or_null(key));
        let mut middle = Scratch::default();
        middle.varlong(length_or_null(value));

        let mut headers_bytes = 0_usize;
        let mut headers_count = 0_i64;
        for (name, value) in headers.clone() {
            headers_count += 1;
            headers_bytes += varlong_bytes(length_or_null(Some(name))) + name.len();
            headers_bytes += varlong_bytes(length_or_null(value)) + value.map_or(0, <[u8]>::len);
        }
        let mut back = Scratch::default();
        back.varlong(headers_count);

        let length = front.len
            + key.map_or(0, <[u8]>::len)
            + middle.len
            + value.map_or(0, <[u8]>::len)
            + back.len
            + headers_bytes;
        let mut prefix = Scratch::default();
        prefix.varlong(i64::try_from(length).unwrap_or(i64::MAX));
        let size = prefix.len + length;
        if self
            .buffer
            .len()
            .max(BATCH_HEADER_BYTES)
            .saturating_add(size)
            > i32::MAX as usize
        {
            return Err(BatchError::TooLarge { bytes: size });
        }

        if self.records == 0 {
            self.buffer
                .reserve(self.capacity.max(BATCH_HEADER_BYTES + size));
            self.buffer.put_bytes(0, BATCH_HEADER_BYTES);
        }
        self.buffer.reserve(size);
        self.buffer.extend_from_slice(prefix.as_slice());
        self.buffer.extend_from_slice(front.as_slice());
        self.buffer.extend_from_slice(key.unwrap_or_default());
        self.buffer.extend_from_slice(middle.as_slice());
        self.buffer.extend_from_slice(value.unwrap_or_default());
        self.buffer.extend_from_slice(back.as_slice());
        for (name, value) in headers {
            let mut scratch = Scratch::default();
            scratch.varlong(length_or_null(Some(name)));
            self.buffer.extend_from_slice(scratch.as_slice());
            self.buffer.extend_from_slice(name);
            let mut scratch = Scratch::default();
            scratch.varlong(length_or_null(value));
            self.buffer.extend_from_slice(scratch.as_slice());
            self.buffer.extend_from_slice(value.unwrap_or_default());
        }
        self.records += 1;
        self.last_offset = offset;
        self.last_timestamp = timestamp;
        self.max_timestamp = self.max_timestamp.max(timestamp);
        Ok(())
    }

    /// Closes the batch and leaves an empty one. With [`BatchBuilder::append`] its base offset is 0; the broker sets the real one. No
    /// producer id. No bytes when there are no records.
    pub fn finish(&mut self) -> BytesMut {
        self.finish_as(&Writer {
            producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            base_sequence: NO_SEQUENCE,
            is_transactional: false,
        })
    }

    /// As [`BatchBuilder::finish`], as this producer's.
    pub fn finish_as(&mut self, writer: &Writer) -> BytesMut {
        let mut batch = std::mem::take(&mut self.buffer);
        if self.records > 0 {
            let length = batch.len() - LENGTH_END;
            let last_offset_delta = self.last_offset - self.base_offset;
            let mut header = [0_u8; BATCH_HEADER_BYTES];
            let mut out = &mut header[..];
            out.put_i64(self.base_offset);
            // Both were found to fit when the records were appended.
            out.put_i32(i32::try_from(length).unwrap_or(i32::MAX));
            out.put_i32(NO_LEADER_EPOCH);
            out.put_i8(2);
            out.put_u32(0);
            out.put_i16(if writer.is_transactional {
                TRANSACTIONAL
            } else {
                0
            });
            out.put_i32(i32::try_from(last_offset_delta).unwrap_or(i32::MAX));
            out.put_i64(self.base_timestamp);
            out.put_i64(self.max_timestamp);
            out.put_i64(writer.producer_id);
            out.put_i16(writer.producer_epoch);
            out.put_i32(writer.base_sequence);
            out.put_u32(self.records);
            if let Some(start) = batch.first_chunk_mut::<BATCH_HEADER_BYTES>() {
                *start = header;
            }
            let crc = crc32c(batch.get(ATTRIBUTES_START..).unwrap_or_default());
            if let Some(place) = batch.get_mut(CRC_START..ATTRIBUTES_START) {
                place.copy_from_slice(&crc.to_be_bytes());
            }
        }
        *self = Self::new(self.capacity);
        batch
    }

    /// Whether there are no records.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Number of records.
    #[inline]
    pub fn records(&self) -> u32 {
        self.records
    }

    /// Size of the batch with its header; 0 while there are no records.
    #[inline]
    pub fn size_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Offset of the first record, when there is one.
    pub fn base_offset(&self) -> Option<i64> {
        (self.records > 0).then_some(self.base_offset)
    }

    /// Offset of the last record, when there is one.
    pub fn last_offset(&self) -> Option<i64> {
        (self.records > 0).then_some(self.last_offset)
    }

    /// Timestamps of the first and of the last record, when there are any.
    pub fn timestamps(&self) -> Option<(i64, i64)> {
        (self.records > 0).then_some((self.base_timestamp, self.last_timestamp))
    }
}

fn length_or_null(bytes: Option<&[u8]>) -> i64 {
    bytes.map_or(-1, |bytes| i64::try_from(bytes.len()).unwrap_or(i64::MAX))
}

/// How many bytes `value` takes as a zigzag varint.
fn varlong_bytes(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

#[inline]
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// A few varints on the stack: an attribute byte and three varlongs are 31 bytes at most.
#[derive(Default)]
struct Scratch {
    bytes: [u8; 32],
    len: usize,
}

impl Scratch {
    #[inline]
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }

    #[inline]
    fn varlong(&mut self, value: i64) {
        let mut raw = zigzag(value);
        while raw >= 0x80 {
            self.push((raw & 0x7f) as u8 | 0x80);
            raw >>= 7;
        }
        self.push(raw as u8);
    }

    #[inline]
    fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Row {
        offset: i64,
        timestamp: i64,
        key: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
        headers: Headers,
    }

    fn read(bytes: Bytes) -> Result<Vec<Row>, BatchError> {
        let mut cursor = BatchCursor::new(bytes)?;
        let mut rows = Vec::new();
        loop {
            let peeked = cursor.peek_timestamp()?;
            let Some(record) = cursor.next()? else { break };
            assert_eq!(peeked, Some((record.offset, record.timestamp)));
            rows.push(Row {
                offset: record.offset,
                timestamp: record.timestamp,
                key: record.key.map(|key| key.to_vec()),
                value: record.value.map(|value| value.to_bytes().to_vec()),
                headers: record.headers.to_headers()?,
            });
        }
        assert_eq!(cursor.remaining(), 0);
        Ok(rows)
    }

    fn write(rows: &[Row], builder: &mut BatchBuilder) -> Bytes {
        for row in rows {
            let headers = row
                .headers
                .iter()
                .map(|header| (header.key.as_bytes(), header.value.as_deref()));
            builder
                .append_at(
                    row.offset,
                    row.timestamp,
                    row.key.as_deref(),
                    row.value.as_deref(),
                    headers,
                )
                .unwrap();
        }
        builder.finish().freeze()
    }

    fn rows() -> impl Strategy<Value = Vec<Row>> {
        let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200));
        let header = (
            ".{0,8}",
            proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
        );
        let headers = proptest::collection::vec(header, 0..3);
        proptest::collection::vec(
            (1_i64..1000, any::<i64>(), bytes(), bytes(), headers),
            1..40,
        )
        .prop_map(|rows| {
            let mut offset = 5;
            rows.into_iter()
                .map(|(step, timestamp, key, value, pairs)| {
                    offset += step;
                    let mut headers = Headers::default();
                    for (name, value) in pairs {
                        headers.push(name, value.map(Bytes::from));
                    }
                    Row {
                        offset,
                        timestamp,
                        key,
                        value,
                        headers,
                    }
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(rows in rows()) {
            let mut builder = BatchBuilder::new(64);
            let batch = write(&rows, &mut builder);
            prop_assert!(builder.is_empty());
            verify_crc(&batch).unwrap();
            let header = BatchHeader::parse(&batch).unwrap();
            prop_assert_eq!(header.size_bytes, batch.len());
            prop_assert_eq!(header.last_offset, rows.last().unwrap().offset);
            prop_assert_eq!(header.max_timestamp, rows.iter().map(|row| row.timestamp).max().unwrap());
            prop_assert_eq!(read(batch).unwrap(), rows);
        }

        #[test]
        fn several_batches_in_one_buffer_are_read_one_after_the_other(rows in rows(), at in 0_usize..40) {
            let (first, second) = rows.split_at(at.min(rows.len() - 1));
            let mut builder = BatchBuilder::new(0);
            let mut bytes = write(first, &mut builder).to_vec();
            bytes.extend_from_slice(&write(second, &mut builder));
            prop_assert_eq!(read(Bytes::from(bytes)).unwrap(), rows);
        }

        #[test]
        fn garbage_is_an_error_and_never_a_panic(rows in rows(), flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..8), cut in any::<usize>()) {
            let mut bytes = write(&rows, &mut BatchBuilder::new(0)).to_vec();
            for (at, byte) in flips {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            let whole = bytes.len();
            bytes.truncate(cut % (whole + 1));
            // Whatever comes out, reading ends, and yields no more records than there are bytes.
            if let Ok(read) = read(Bytes::from(bytes)) {
                prop_assert!(read.len() <= whole);
            }
        }

        #[test]
        fn noise_behind_a_valid_header_is_bounded(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
            let row = Row { offset: 0, timestamp: 0, key: None, value: None, headers: Headers::default() };
            let mut bytes = write(&[row], &mut BatchBuilder::new(0)).to_vec();
            bytes.truncate(BATCH_HEADER_BYTES);
            bytes.extend_from_slice(&noise);
            let length = i32::try_from(bytes.len() - LENGTH_END).unwrap();
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            bytes[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
            let whole = bytes.len();
            let mut cursor = BatchCursor::new(Bytes::from(bytes)).unwrap();
            let mut count = 0;
            while let Ok(Some(record)) = cursor.next() {
                let _ = record.headers.to_headers();
                count += 1;
            }
            // The count in the header is a lie, so reading ends with an error, after at most as many records as there are bytes.
            prop_assert!(count <= whole);
            prop_assert!(cursor.next().is_err());
        }
    }

    #[test]
    fn a_batch_has_the_bytes_that_kafka_writes() {
        let mut builder = BatchBuilder::new(1024);
        builder
            .append(RecordRef {
                key: Some(b"k"),
                value: Some(b"v1"),
                timestamp: 1000,
                headers: &Headers::default(),
            })
            .unwrap();
        builder
            .append(RecordRef {
                key: None,
                value: None,
                timestamp: 1003,
                headers: &Headers::default(),
            })
            .unwrap();
        assert_eq!(builder.timestamps(), Some((1000, 1003)));
        assert_eq!(
            (
                builder.records(),
                builder.base_offset(),
                builder.last_offset()
            ),
            (2, Some(0), Some(1))
        );
        let batch = builder.finish();
        #[rustfmt::skip]
        let records = [
            18, 0, 0, 0, 2, b'k', 4, b'v', b'1', 0, // length 9, attributes, deltas 0 and 0, key, value, no headers
            12, 0, 6, 2, 1, 1, 0, // length 6, attributes, deltas 3 and 1, null, null, no headers
        ];
        assert_eq!(&batch[BATCH_HEADER_BYTES..], records);
        assert_eq!(
            batch[..12],
            [
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                u8::try_from(61 - 12 + records.len()).unwrap()
            ]
        );
        assert_eq!(batch[12..17], [255, 255, 255, 255, 2]);
        assert_eq!(batch[21..27], [0, 0, 0, 0, 0, 1]);
        assert_eq!(
            batch[43..61],
            [
                255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 2
            ]
        );
        verify_crc(&batch).unwrap();
    }

    #[test]
    fn the_crc_is_castagnoli() {
        // The check value of CRC-32C that every catalogue gives.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn records_below_the_position_are_skipped() {
        let mut builder = BatchBuilder::new(0);
        for offset in [10, 11, 15, 16] {
            builder
                .append_at(offset, offset, None, Some(b"x"), std::iter::empty())
                .unwrap();
        }
        let mut cursor = BatchCursor::new(builder.finish().freeze()).unwrap();
        cursor.skip_below(12).unwrap();
        assert_eq!(cursor.next().unwrap().unwrap().offset, 15);
        assert_eq!(cursor.remaining(), 1);
        cursor.skip_below(100).unwrap();
        assert!(cursor.next().unwrap().is_none());
        assert!(cursor.peek_timestamp().unwrap().is_none());
    }

    #[test]
    fn control_batches_are_passed_over_and_append_time_wins() {
        let mut builder = BatchBuilder::new(0);
        builder
            .append_at(1, 7, None, Some(b"marker"), std::iter::empty())
            .unwrap();
        let mut bytes = builder.finish().to_vec();
        bytes[22] |= u8::try_from(CONTROL).unwrap();
        builder
            .append_at(2, 7, None, Some(b"data"), std::iter::empty())
            .unwrap();
        let mut stamped = builder.finish().to_vec();
        stamped[22] |= u8::try_from(LOG_APPEND_TIME).unwrap();
        stamped[35..43].copy_from_slice(&99_i64.to_be_bytes());
        bytes.extend_from_slice(&stamped);
        let rows = read(Bytes::from(bytes)).unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].offset, rows[0].timestamp), (2, 99));
    }

    #[test]
    fn a_compressed_batch_and_an_old_format_are_refused() {
        let mut builder = BatchBuilder::new(0);
        builder
            .append_at(1, 7, None, None, std::iter::empty())
            .unwrap();
        let good = builder.finish();
        let mut compressed = good.clone();
        compressed[22] |= 4;
        assert_eq!(
            BatchCursor::new(compressed.freeze()).unwrap_err(),
            BatchError::Compressed {
                base_offset: 1,
                codec: 4
            }
        );
        let mut old = good.clone();
        old[16] = 1;
        assert_eq!(
            BatchCursor::new(old.freeze()).unwrap_err(),
            BatchError::Magic {
                base_offset: 1,
                magic: 1
            }
        );
        let mut flipped = good;
        flipped[62] ^= 1;
        assert!(matches!(
            verify_crc(&flipped),
            Err(BatchError::Crc { base_offset: 1, .. })
        ));
    }

    #[test]
    fn offsets_must_rise() {
        let mut builder = BatchBuilder::new(0);
        builder
            .append_at(5, 0, None, None, std::iter::empty())
            .unwrap();
        assert!(
            builder
                .append_at(5, 0, None, None, std::iter::empty())
                .is_err()
        );
        assert!(
            builder
                .append_at(5 + (1 << 31), 0, None, None, std::iter::empty())
                .is_err()
        );
        assert_eq!(builder.records(), 1);
    }
}
