//! Reading a log: by offset, and by timestamp.
//!
//! 1. Bounds: below the log start or above the log end is an error; at or past the bound is empty.
//! 2. Where the in-memory tail still holds the batch, its bytes are shared.
//! 3. Otherwise the offset index gives a position at or before the batch; headers are walked from there to the batch that holds the offset.
//! 4. The bytes are read and cut after the last whole batch below the bound. A read ends with its segment.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{Disk, DiskFile};
use crate::log::index_file::OpenIndex;
use crate::log::offset_index::OffsetEntry;
use crate::log::scan::{BatchScanner, Scan};
use crate::log::segment::{ActiveSegment, MaxTimestamp, SealedSegment};
use crate::log::tail::TailRead;
use crate::log::transaction_index::{AbortedTransaction, Candidates};
use crate::log::{Log, LogError, ReadError, disk_error};
use crate::protocol::record_batch::{BatchError, DECOMPRESSED_BYTES_MAX, RecordBatch, batches};

/// Bytes read at once while walking from an index entry to the wanted batch: about an index interval.
const WALK_BYTES: usize = 8 * 1024;

/// What a read found: whole batches in offset order.
#[derive(Clone, Debug, Default)]
pub struct ReadSlice {
    /// Each holds one or more whole batches. Shared with the log's tail, or read from the segment.
    pub batches: Vec<Bytes>,
    pub size_bytes: usize,
    /// Base offset of the first batch, at or below the wanted offset; the wanted offset if empty.
    pub first_offset: i64,
    /// Where to read on: one past the last offset of the last batch. If no batch was found it is the wanted offset, or, where the segment has
    /// a gap up to its end, the start of the next segment: then read again from there.
    pub next_offset: i64,
    /// What a read-committed reader has to skip; empty for others.
    pub aborted: Vec<AbortedTransaction>,
}

impl ReadSlice {
    fn empty(offset: i64) -> Self {
        ReadSlice {
            batches: Vec::new(),
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
        let mut slice = match self.kind {
            Kind::Empty { offset } => ReadSlice::empty(offset),
            Kind::Tail(read) => ReadSlice {
                batches: read.batches,
                size_bytes: read.size_bytes,
                first_offset: read.first_offset,
                next_offset: read.next_offset,
                aborted: Vec::new(),
            },
            Kind::Segment(read) => read.perform()?,
        };
        if let Some(candidates) = self.candidates
            && !slice.batches.is_empty()
        {
            slice.aborted = candidates.concerning(slice.next_offset);
        }
        Ok(slice)
    }
}

#[derive(Debug)]
enum Start {
    Position(u64),
    Lookup {
        index: OpenIndex<OffsetEntry>,
        relative_offset: i64,
    },
}

#[derive(Debug)]
struct SegmentRead {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    /// Where the segment ended when the read was planned.
    end_position: u64,
    /// First offset after the segment.
    end_offset: i64,
    start: Start,
    offset: i64,
    max_bytes: usize,
    end_bound: i64,
    at_least_one_batch: bool,
}

impl SegmentRead {
    fn perform(self) -> Result<ReadSlice, ReadError> {
        let start = match &self.start {
            Start::Position(position) => *position,
            Start::Lookup {
                index,
                relative_offset,
            } => {
                let entry = index
                    .floor(*relative_offset)
                    .map_err(disk_error("look up in the index of", &self.path))?;
                entry_position(entry)
            }
        };
        let file = self.file.as_ref();
        let mut scanner = BatchScanner::new(file, start, self.end_position, WALK_BYTES);
        let (position, first_bytes, first_offset) = loop {
            match scanner
                .next_header()
                .map_err(disk_error("read", &self.path))?
            {
                Scan::End => {
                    let next_offset = self.end_offset.min(self.end_bound).max(self.offset);
                    return Ok(ReadSlice {
                        next_offset,
                        ..ReadSlice::empty(self.offset)
                    });
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
                    if batch.last_offset() >= self.end_bound {
                        return Ok(ReadSlice::empty(self.offset));
                    }
                    break (position, batch.size_bytes(), batch.base_offset());
                }
                Scan::Batch { .. } => {}
            }
        };
        if first_bytes > self.max_bytes && !self.at_least_one_batch {
            return Ok(ReadSlice::empty(self.offset));
        }
        // Both are within the file.
        let left = usize::try_from(self.end_position - position).unwrap_or(usize::MAX);
        let mut buffer = file
            .read_new_at(position, self.max_bytes.max(first_bytes).min(left))
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
                position,
                BatchError::TooShort {
                    found: buffer.len(),
                    want: first_bytes,
                },
            ));
        }
        buffer.truncate(size_bytes);
        Ok(ReadSlice {
            batches: vec![buffer.into()],
            size_bytes,
            first_offset,
            next_offset,
            aborted: Vec::new(),
        })
    }
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
            SegmentRef::Active(segment) => SegmentRead {
                file: open_active(segment, disk)?,
                path: segment.path.clone(),
                end_position: segment.size_bytes,
                end_offset: log_end_offset,
                start: Start::Position(entry_position(
                    segment.offset_index.floor(offset - segment.base_offset),
                )),
                offset,
                max_bytes,
                end_bound,
                at_least_one_batch,
            },
            SegmentRef::Sealed(segment) => SegmentRead {
                file: open_sealed(segment, disk)?,
                path: segment.path.clone(),
                end_position: segment.size_bytes,
                end_offset: segment.end_offset,
                start: Start::Lookup {
                    index: segment
                        .offset_index
                        .open(disk)
                        .map_err(disk_error("open", segment.offset_index.path()))?,
                    relative_offset: offset - segment.base_offset,
                },
                offset,
                max_bytes,
                end_bound,
                at_least_one_batch,
            },
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
                let index = segment
                    .offset_index
                    .open(disk)
                    .map_err(disk_error("open", segment.offset_index.path()))?;
                let entry = index
                    .floor(from - segment.base_offset)
                    .map_err(disk_error("read", segment.offset_index.path()))?;
                (
                    open_sealed(segment, disk)?,
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
    let opened = segment
        .file
        .as_ref()
        .map_or_else(|| disk.open(&segment.path), |file| Ok(Arc::clone(file)));
    opened.map_err(disk_error("open", &segment.path))
}

fn open_sealed(segment: &SealedSegment, disk: &dyn Disk) -> Result<Arc<dyn DiskFile>, LogError> {
    disk.open(&segment.path)
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
