//! Reading a log: by offset, and by timestamp.
//!
//! 1. Bounds: below the log start or above the log end is an error; at or past the bound is empty.
//! 2. Where the in-memory tail still holds the batch, its bytes are shared.
//! 3. Otherwise the offset index gives a position at or before the batch; headers are walked from there to the batch that holds the offset.
//! 4. The bytes are read and cut after the last whole batch below the bound. A read ends with its segment.
//!
//! A reader that only passes the bytes on need not have them in memory: for it step 4 finds where they end, again by the index and a few headers, and
//! gives their place in the file. Nothing below the high watermark is ever written again, and an open file outlives its name, so the place
//! stays good as long as it is held. What lies between its ends is not looked at: a reader finds damage by the batches' own CRCs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{Disk, DiskFile, FileRange, Piece};
use crate::log::index_file::IndexEntry;
use crate::log::offset_index::OffsetEntry;
use crate::log::open_segments::OpenSegment;
use crate::log::scan::{BatchScanner, Scan};
use crate::log::segment::{ActiveSegment, MaxTimestamp, SealedSegment};
use crate::log::tail::TailRead;
use crate::log::transaction_index::{AbortedTransaction, Candidates};
use crate::log::{Log, LogError, ReadError, disk_error};
use crate::protocol::record_batch::{BatchError, DECOMPRESSED_BYTES_MAX, RecordBatch, batches};

/// Bytes read at once while walking from an index entry to the wanted batch: about an index interval.
const WALK_BYTES: usize = 8 * 1024;

/// Fewer bytes are read although they may stay in their file: a send of their own costs more.
const RANGE_BYTES_MIN: usize = 16 * 1024;

/// What a read found: whole batches in offset order.
#[derive(Clone, Debug, Default)]
pub struct ReadSlice<B = Vec<Bytes>> {
    /// Each holds one or more whole batches. Shared with the log's tail, or read from the segment.
    pub batches: B,
    pub size_bytes: usize,
    /// Base offset of the first batch, at or below the wanted offset; the wanted offset if empty.
    pub first_offset: i64,
    /// Where to read on: one past the last offset of the last batch. If no batch was found it is the wanted offset, or, where the segment has
    /// a gap up to its end, the start of the next segment: then read again from there.
    pub next_offset: i64,
    /// What a read-committed reader has to skip; empty for others.
    pub aborted: Vec<AbortedTransaction>,
}

impl<B: Default> ReadSlice<B> {
    fn empty(offset: i64) -> Self {
        ReadSlice {
            batches: B::default(),
            size_bytes: 0,
            first_offset: offset,
            next_offset: offset,
            aborted: Vec::new(),
        }
    }
}

/// A read whose bounds are settled and whose bytes are held, but not yet fetched: needs no lock, and is safe from deletion.
#[derive(Debug)]
pub struct ReadPlan {
    kind: Kind,
    /// Of a read-committed read.
    candidates: Option<Candidates>,
}

#[derive(Debug)]
enum Kind {
    Empty { offset: i64 },
    Tail(TailRead),
    Segment(SegmentRead),
}

impl ReadPlan {
    /// Fetches the bytes: at once from the tail, with one or two reads from a segment.
    pub fn perform(self) -> Result<ReadSlice, ReadError> {
        self.run(|batches| batches, SegmentRead::perform)
    }

    /// Finds the bytes: in memory those of the tail, in their file those of a segment, without a look at more than the first and the last.
    pub fn locate(self) -> Result<ReadSlice<Vec<Piece>>, ReadError> {
        self.run(
            |batches| batches.into_iter().map(Piece::Memory).collect(),
            SegmentRead::locate,
        )
    }

    fn run<B: Default>(
        self,
        of_tail: impl FnOnce(Vec<Bytes>) -> B,
        of_segment: impl FnOnce(SegmentRead) -> Result<ReadSlice<B>, ReadError>,
    ) -> Result<ReadSlice<B>, ReadError> {
        let mut slice = match self.kind {
            Kind::Empty { offset } => ReadSlice::empty(offset),
            Kind::Tail(read) => ReadSlice {
                batches: of_tail(read.batches),
                size_bytes: read.size_bytes,
                first_offset: read.first_offset,
                next_offset: read.next_offset,
                aborted: Vec::new(),
            },
            Kind::Segment(read) => of_segment(read)?,
        };
        if let Some(candidates) = self.candidates
            && slice.size_bytes > 0
        {
            slice.aborted = candidates.concerning(slice.next_offset);
        }
        Ok(slice)
    }
}

/// Where batches lie in a segment.
#[derive(Debug)]
enum Places {
    /// Of the active segment, whose index grows: looked up when the read was planned.
    Known {
        /// At or before the wanted batch.
        start: u64,
        /// A batch in the read, or before it, from which its end is not far.
        near_end: u64,
    },
    /// To be looked up in the index of a sealed segment.
    Indexed {
        segment: Arc<OpenSegment>,
        base_offset: i64,
    },
}

/// The batch that a read begins with.
struct First {
    position: u64,
    size_bytes: usize,
    base_offset: i64,
    last_offset: i64,
}

#[derive(Debug)]
struct SegmentRead {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    /// Where the segment ended when the read was planned.
    end_position: u64,
    /// First offset after the segment.
    end_offset: i64,
    places: Places,
    offset: i64,
    max_bytes: usize,
    end_bound: i64,
    at_least_one_batch: bool,
}

impl SegmentRead {
    /// Reads the bytes, and looks at the header of each batch.
    fn perform(self) -> Result<ReadSlice, ReadError> {
        let first = match self.first()? {
            Ok(first) => first,
            Err(next_offset) => return Ok(self.nothing(next_offset)),
        };
        let limit = self.limit(&first);
        // Within the file.
        let wanted = usize::try_from(limit - first.position).unwrap_or(usize::MAX);
        let mut buffer = self
            .file
            .read_new_at(first.position, wanted)
            .map_err(disk_error("read", &self.path))?;
        let mut size_bytes = 0;
        let mut next_offset = self.offset;
        for batch in batches(&buffer).take_while(|batch| batch.last_offset() < self.end_bound) {
            if size_bytes > 0 && batch.base_offset() < next_offset {
                // Not what was written. A read from here on says so, or finds the next one.
                break;
            }
            size_bytes += batch.size_bytes();
            next_offset = batch.last_offset() + 1;
        }
        if size_bytes == 0 {
            return Err(corrupt(
                &self.path,
                first.position,
                BatchError::TooShort {
                    found: buffer.len(),
                    want: first.size_bytes,
                },
            ));
        }
        buffer.truncate(size_bytes);
        Ok(ReadSlice {
            batches: vec![buffer],
            size_bytes,
            first_offset: first.base_offset,
            next_offset,
            aborted: Vec::new(),
        })
    }

    /// Finds where the bytes begin and end.
    fn locate(self) -> Result<ReadSlice<Vec<Piece>>, ReadError> {
        let first = match self.first()? {
            Ok(first) => first,
            Err(next_offset) => return Ok(self.nothing(next_offset)),
        };
        let (end, next_offset) = self.end(&first)?;
        // No more than was asked for, or than one batch has.
        let size_bytes = usize::try_from(end - first.position).unwrap_or(usize::MAX);
        let mut range = FileRange {
            file: self.file,
            position: first.position,
            size_bytes,
        };
        let piece = if size_bytes < RANGE_BYTES_MIN {
            let bytes = range.take_front(size_bytes);
            Piece::Memory(bytes.map_err(disk_error("read", &self.path))?)
        } else {
            Piece::File(range)
        };
        Ok(ReadSlice {
            batches: vec![piece],
            size_bytes,
            first_offset: first.base_offset,
            next_offset,
            aborted: Vec::new(),
        })
    }

    fn nothing<B: Default>(&self, next_offset: i64) -> ReadSlice<B> {
        ReadSlice {
            next_offset,
            ..ReadSlice::empty(self.offset)
        }
    }

    /// The first batch, or, if there is none for this read, where to read on.
    fn first(&self) -> Result<Result<First, i64>, ReadError> {
        let start = match &self.places {
            Places::Known { start, .. } => *start,
            Places::Indexed {
                segment,
                base_offset,
            } => {
                let relative_offset = self.offset - base_offset;
                entry_position(self.look_up(segment, |entry| entry.key() <= relative_offset)?)
            }
        };
        let mut scanner =
            BatchScanner::new(self.file.as_ref(), start, self.end_position, WALK_BYTES);
        let first = loop {
            match scanner
                .next_header()
                .map_err(disk_error("read", &self.path))?
            {
                Scan::End => {
                    return Ok(Err(self.end_offset.min(self.end_bound).max(self.offset)));
                }
                Scan::Bad { position, error } => return Err(corrupt(&self.path, position, error)),
                // Its file was changed under the log: an answer without an error would keep the reader here for ever.
                Scan::Batch { position, batch } if batch.last_offset() >= self.end_offset => {
                    return Err(corrupt(
                        &self.path,
                        position,
                        BatchError::Invalid {
                            reason: "its offsets reach beyond its segment",
                        },
                    ));
                }
                Scan::Batch { position, batch } if batch.last_offset() >= self.offset => {
                    break First {
                        position,
                        size_bytes: batch.size_bytes(),
                        base_offset: batch.base_offset(),
                        last_offset: batch.last_offset(),
                    };
                }
                Scan::Batch { .. } => {}
            }
        };
        let is_wanted = first.last_offset < self.end_bound
            && (first.size_bytes <= self.max_bytes || self.at_least_one_batch);
        Ok(if is_wanted {
            Ok(first)
        } else {
            Err(self.offset)
        })
    }

    /// Where the read ends at the latest.
    fn limit(&self, first: &First) -> u64 {
        let bytes = self.max_bytes.max(first.size_bytes) as u64;
        first.position.saturating_add(bytes).min(self.end_position)
    }

    /// Where the last batch of the read ends, and where to read on: the same as a walk over all of its batches finds.
    fn end(&self, first: &First) -> Result<(u64, i64), ReadError> {
        let limit = self.limit(first);
        if limit == self.end_position && self.end_bound >= self.end_offset {
            return Ok((limit, self.end_offset));
        }
        let near_end = self.near_end(limit)?.max(first.position);
        if let Some(end) = self.end_from(near_end, limit, first)? {
            return Ok(end);
        }
        // The index did not point at a batch. From the first one on there is always an end.
        let short = || {
            let (found, want) = (0, first.size_bytes);
            corrupt(
                &self.path,
                first.position,
                BatchError::TooShort { found, want },
            )
        };
        self.end_from(first.position, limit, first)?
            .ok_or_else(short)
    }

    /// The last batch that the index knows before the limit and the bound, or one before it.
    fn near_end(&self, limit: u64) -> Result<u64, ReadError> {
        match &self.places {
            Places::Known { near_end, .. } => Ok(*near_end),
            Places::Indexed {
                segment,
                base_offset,
            } => {
                let last_relative_offset = self.end_bound - 1 - base_offset;
                Ok(entry_position(self.look_up(segment, |entry| {
                    is_before(entry, limit, last_relative_offset)
                })?))
            }
        }
    }

    /// As [`SegmentRead::end`], by a walk from a batch in the read; `None` if there is no such batch at `from`.
    fn end_from(
        &self,
        from: u64,
        limit: u64,
        first: &First,
    ) -> Result<Option<(u64, i64)>, ReadError> {
        let mut scanner =
            BatchScanner::new(self.file.as_ref(), from, self.end_position, WALK_BYTES);
        let mut found: Option<(u64, i64)> = None;
        while let Scan::Batch { position, batch } = scanner
            .next_header()
            .map_err(disk_error("read", &self.path))?
        {
            let (base_offset, last_offset) = (batch.base_offset(), batch.last_offset());
            let expected = match found {
                Some((_, next_offset)) => next_offset,
                None if from == first.position => first.base_offset,
                None => first.last_offset + 1,
            };
            if base_offset < expected || last_offset >= self.end_offset {
                // Not what was written.
                break;
            }
            let end = position + batch.size_bytes() as u64;
            if end > limit || last_offset >= self.end_bound {
                // The read ends before it.
                found = found.or((from > first.position).then_some((from, base_offset)));
                break;
            }
            found = Some((end, last_offset + 1));
        }
        Ok(found)
    }

    fn look_up(
        &self,
        segment: &OpenSegment,
        is_so: impl Fn(&OffsetEntry) -> bool,
    ) -> Result<Option<OffsetEntry>, ReadError> {
        let index = segment.offset_index.as_ref();
        let found = index.map_or(Ok(None), |index| index.last_of(is_so));
        Ok(found.map_err(disk_error("look up in the index of", &self.path))?)
    }
}

/// Whether an entry's batch begins before this position, and ends at this offset or before it.
fn is_before(entry: &OffsetEntry, position: u64, last_relative_offset: i64) -> bool {
    entry_position(Some(*entry)) < position && entry.key() <= last_relative_offset
}

fn entry_position(entry: Option<OffsetEntry>) -> u64 {
    entry.map_or(0, |entry| u64::from(entry.position.max(0).cast_unsigned()))
}

fn corrupt(path: &Path, position: u64, source: BatchError) -> ReadError {
    let segment = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    ReadError::Corrupt {
        segment,
        position,
        source,
    }
}

/// A record found by its timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampOffset {
    pub timestamp: i64,
    pub offset: i64,
    pub leader_epoch: i32,
}

impl Log {
    /// Whole batches from the one that holds `offset` up to `end_bound` (exclusive: high watermark or last stable offset), at most
    /// `max_bytes`. With `at_least_one_batch` the first batch comes even if it is longer. Empty at or past the bound;
    /// [`ReadError::OutOfRange`] below the log start offset or above the log end offset.
    pub fn plan_read(
        &self,
        offset: i64,
        max_bytes: usize,
        end_bound: i64,
        at_least_one_batch: bool,
    ) -> Result<ReadPlan, ReadError> {
        let (log_start_offset, log_end_offset) = (self.log_start_offset, self.next_offset);
        if offset < log_start_offset || offset > log_end_offset {
            return Err(ReadError::OutOfRange {
                offset,
                log_start_offset,
                log_end_offset,
            });
        }
        // What a failed sync may have lost is not served.
        let end_bound = if self.poison.is_some() {
            end_bound.min(self.flushed_offset)
        } else {
            end_bound
        };
        if offset >= end_bound.min(log_end_offset) {
            return Ok(ReadPlan {
                kind: Kind::Empty { offset },
                candidates: None,
            });
        }
        if let Some(read) = self
            .tail
            .read(offset, max_bytes, end_bound, at_least_one_batch)
        {
            return Ok(ReadPlan {
                kind: Kind::Tail(read),
                candidates: None,
            });
        }
        let disk = self.disk.as_ref();
        let read = match self.segment_of(offset) {
            SegmentRef::Active(segment) => {
                let index = &segment.offset_index;
                let start = entry_position(index.floor(offset - segment.base_offset));
                let limit = start.saturating_add(max_bytes as u64);
                let last_relative_offset = end_bound - 1 - segment.base_offset;
                let near_end = index.last_of(|entry| is_before(entry, limit, last_relative_offset));
                SegmentRead {
                    file: open_active(segment, disk)?,
                    path: segment.path.clone(),
                    end_position: segment.size_bytes,
                    end_offset: log_end_offset,
                    places: Places::Known {
                        start,
                        near_end: entry_position(near_end),
                    },
                    offset,
                    max_bytes,
                    end_bound,
                    at_least_one_batch,
                }
            }
            SegmentRef::Sealed(segment) => {
                let open = segment.open_to_read(disk)?;
                SegmentRead {
                    file: Arc::clone(&open.file),
                    path: segment.path.clone(),
                    end_position: segment.size_bytes,
                    end_offset: segment.end_offset,
                    places: Places::Indexed {
                        segment: open,
                        base_offset: segment.base_offset,
                    },
                    offset,
                    max_bytes,
                    end_bound,
                    at_least_one_batch,
                }
            }
        };
        Ok(ReadPlan {
            kind: Kind::Segment(read),
            candidates: None,
        })
    }

    /// As [`Log::plan_read`] up to the last stable offset, and what the reader has to skip is found with the batches.
    pub fn plan_committed_read(
        &self,
        offset: i64,
        max_bytes: usize,
        last_stable_offset: i64,
        at_least_one_batch: bool,
    ) -> Result<ReadPlan, ReadError> {
        let mut plan = self.plan_read(offset, max_bytes, last_stable_offset, at_least_one_batch)?;
        plan.candidates = match &plan.kind {
            Kind::Empty { .. } => None,
            Kind::Tail(read) => Some(self.abort_candidates(offset, read.next_offset)),
            Kind::Segment(read) => {
                Some(self.abort_candidates(offset, read.end_offset.min(last_stable_offset)))
            }
        };
        Ok(plan)
    }

    /// The aborted transactions that may concern a read of `[start, end)`, where `end` may be too far.
    fn abort_candidates(&self, start: i64, end_max: i64) -> Candidates {
        let mut candidates = Candidates::new(start);
        let first = self
            .sealed
            .partition_point(|segment| segment.end_offset <= start);
        for segment in self.sealed.range(first..) {
            if !candidates.add(&segment.aborted, end_max) {
                return candidates;
            }
        }
        candidates.add_growing(self.active.transaction_index.entries(), end_max);
        candidates
    }

    /// [`Log::plan_read`] and [`ReadPlan::perform`] in one, past gaps.
    pub fn read(
        &self,
        offset: i64,
        max_bytes: usize,
        end_bound: i64,
        at_least_one_batch: bool,
    ) -> Result<ReadSlice, ReadError> {
        let mut from = offset;
        loop {
            let slice = self
                .plan_read(from, max_bytes, end_bound, at_least_one_batch)?
                .perform()?;
            if !slice.batches.is_empty() || slice.next_offset == from {
                return Ok(slice);
            }
            from = slice.next_offset;
        }
    }

    /// The first record with this timestamp or a later one (ListOffsets by timestamp), whatever the high watermark.
    pub fn offset_for_timestamp(
        &self,
        timestamp_ms: i64,
    ) -> Result<Option<TimestampOffset>, ReadError> {
        for segment in self.segments() {
            if segment.end_offset(self) <= self.log_start_offset
                || self
                    .segment_max_timestamp(segment)?
                    .is_none_or(|max| max.timestamp < timestamp_ms)
            {
                continue;
            }
            let from = self
                .time_floor(segment, timestamp_ms)?
                .max(self.log_start_offset);
            let found = self.find_record(segment, from, |batch| {
                if batch.max_timestamp() < timestamp_ms {
                    return Ok(None);
                }
                first_record(batch, |offset, timestamp| {
                    timestamp >= timestamp_ms && offset >= self.log_start_offset
                })
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The record with the highest timestamp, the first of them (ListOffsets -3), whatever the high watermark.
    pub fn max_timestamp(&self) -> Result<Option<TimestampOffset>, ReadError> {
        let mut newest: Option<(SegmentRef<'_>, MaxTimestamp)> = None;
        for segment in self.segments() {
            if let Some(max) = self.segment_max_timestamp(segment)?
                && max.batch_last_offset >= self.log_start_offset
                && newest.is_none_or(|(_, newest)| max.timestamp > newest.timestamp)
            {
                newest = Some((segment, max));
            }
        }
        let Some((segment, max)) = newest else {
            return Ok(None);
        };
        self.find_record(segment, max.batch_last_offset, |batch| {
            first_record(batch, |_, timestamp| timestamp >= max.timestamp)
        })
    }

    /// Walks the segment's batches from the one that holds `from`, until `find` finds something in one.
    fn find_record(
        &self,
        segment: SegmentRef<'_>,
        from: i64,
        mut find: impl FnMut(&RecordBatch<'_>) -> Result<Option<(i64, i64)>, BatchError>,
    ) -> Result<Option<TimestampOffset>, ReadError> {
        let disk = self.disk.as_ref();
        let (file, path, size_bytes, start) = match segment {
            SegmentRef::Active(segment) => {
                let entry = segment.offset_index.floor(from - segment.base_offset);
                (
                    open_active(segment, disk)?,
                    &segment.path,
                    segment.size_bytes,
                    entry_position(entry),
                )
            }
            SegmentRef::Sealed(segment) => {
                let open = segment.open_to_read(disk)?;
                let index = open.offset_index.as_ref();
                let entry = index
                    .map_or(Ok(None), |index| index.floor(from - segment.base_offset))
                    .map_err(disk_error("read", segment.offset_index.path()))?;
                (
                    Arc::clone(&open.file),
                    &segment.path,
                    segment.size_bytes,
                    entry_position(entry),
                )
            }
        };
        let mut scanner = BatchScanner::new(file.as_ref(), start, size_bytes, WALK_BYTES);
        loop {
            match scanner.next_batch().map_err(disk_error("read", path))? {
                Scan::End => return Ok(None),
                Scan::Bad { position, error } => return Err(corrupt(path, position, error)),
                Scan::Batch { batch, .. } if batch.last_offset() < from => {}
                Scan::Batch { position, batch } => {
                    if let Some((offset, timestamp)) =
                        find(&batch).map_err(|error| corrupt(path, position, error))?
                    {
                        return Ok(Some(TimestampOffset {
                            timestamp,
                            offset,
                            leader_epoch: batch.leader_epoch(),
                        }));
                    }
                }
            }
        }
    }

    /// An offset before which all of the segment's records are older than this.
    fn time_floor(&self, segment: SegmentRef<'_>, timestamp_ms: i64) -> Result<i64, LogError> {
        let (base_offset, entry) = match segment {
            SegmentRef::Active(segment) => {
                (segment.base_offset, segment.time_index.floor(timestamp_ms))
            }
            SegmentRef::Sealed(segment) => {
                let disk = self.disk.as_ref();
                let floor = segment
                    .time_index
                    .open(disk)
                    .and_then(|index| index.floor(timestamp_ms));
                (
                    segment.base_offset,
                    floor.map_err(disk_error("look up in", segment.time_index.path()))?,
                )
            }
        };
        Ok(base_offset + entry.map_or(0, |entry| entry.relative_offset.into()))
    }

    pub(super) fn segment_max_timestamp(
        &self,
        segment: SegmentRef<'_>,
    ) -> Result<Option<MaxTimestamp>, LogError> {
        match segment {
            SegmentRef::Active(segment) => Ok(segment.max_timestamp),
            SegmentRef::Sealed(segment) => segment
                .max_timestamp(self.disk.as_ref())
                .map_err(disk_error("read", segment.time_index.path())),
        }
    }

    pub(super) fn segments(&self) -> impl Iterator<Item = SegmentRef<'_>> {
        self.sealed
            .iter()
            .map(SegmentRef::Sealed)
            .chain([SegmentRef::Active(&self.active)])
    }

    fn segment_of(&self, offset: i64) -> SegmentRef<'_> {
        let index = self
            .sealed
            .partition_point(|segment| segment.end_offset <= offset);
        self.sealed
            .get(index)
            .map_or(SegmentRef::Active(&self.active), SegmentRef::Sealed)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum SegmentRef<'a> {
    Sealed(&'a SealedSegment),
    Active(&'a ActiveSegment),
}

impl SegmentRef<'_> {
    fn end_offset(self, log: &Log) -> i64 {
        match self {
            SegmentRef::Sealed(segment) => segment.end_offset,
            SegmentRef::Active(_) => log.next_offset,
        }
    }
}

fn open_active(segment: &ActiveSegment, disk: &dyn Disk) -> Result<Arc<dyn DiskFile>, LogError> {
    segment
        .open_to_read(disk)
        .map_err(disk_error("open", &segment.path))
}

/// Offset and timestamp of the first record that fulfils the condition on them.
fn first_record(
    batch: &RecordBatch<'_>,
    condition: impl Fn(i64, i64) -> bool,
) -> Result<Option<(i64, i64)>, BatchError> {
    let mut scratch = Vec::new();
    for record in batch.records(&mut scratch, DECOMPRESSED_BYTES_MAX)? {
        let record = record?;
        if condition(record.offset, record.timestamp) {
            return Ok(Some((record.offset, record.timestamp)));
        }
    }
    Ok(None)
}
