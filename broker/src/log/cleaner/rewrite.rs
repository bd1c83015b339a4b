//! Writing a group of segments anew, without what nobody needs.
//!
//! What becomes of a batch:
//!
//! | batch | goes | stays |
//! |---|---|---|
//! | data of an aborted transaction | all of it | |
//! | data | records with a later one of their key; tombstones whose delete horizon is over; records without a key | the others |
//! | marker of an emptied transaction | when its delete horizon is over | until then |
//! | marker, other control batch | | as it is |
//! | left without records | the batch | its header, if it is the last of an active producer, or of the group |
//!
//! The first pass that sees a tombstone, or the marker of an emptied transaction, gives its batch the delete horizon: now +
//! `delete.retention.ms`, in the place of the base timestamp. A batch that loses nothing is copied byte by byte. Of one that does, the kept records
//! are copied as they are encoded, since offsets and timestamps are relative to what does not change; only a new delete horizon
//! encodes their timestamps anew.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::log::cleaner::dirty_section::{DirtySection, KEYS_AT_ONCE, Look};
use crate::log::cleaner::offset_map::KeyHash;
use crate::log::cleaner::{CleanError, CleanedGroup, CleaningJob, Pace, Source};
use crate::log::index_file::GrowingIndex;
use crate::log::segment::{
    self, ActiveSegment, BatchFacts, LOG, OFFSET_INDEX, SealedSegment, TIME_INDEX,
    TRANSACTION_INDEX,
};
use crate::log::transaction_index::AbortedTransactionEntry;
use crate::log::{LogError, disk_error};
use crate::protocol::compression::{self, Codec};
use crate::protocol::record_batch::{
    self, BatchError, BatchHeader, DECOMPRESSED_BYTES_MAX, RecordBatch, Records, Rewrite,
    TimestampType,
};

/// What a file of the pass ends in, until it is in place.
pub(super) const CLEANED: &str = "cleaned";

pub(super) fn cleaned_path(dir: &Path, base_offset: i64, extension: &str) -> PathBuf {
    segment::path(dir, base_offset, &format!("{extension}.{CLEANED}"))
}

/// Buffers that are reused from batch to batch.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) decompressed: Vec<u8>,
    /// `decompressed` has the records of the batch at hand.
    is_decompressed: bool,
    /// Where in the decompressed records those that stay lie.
    kept: Vec<Range<usize>>,
    /// Records to be compressed.
    records: Vec<u8>,
    outlines: Vec<Outline>,
}

/// A record that is to be decided on.
#[derive(Clone, Copy, Debug)]
struct Outline {
    /// Where it ends in the decompressed records.
    end: usize,
    offset: i64,
    timestamp: i64,
    /// If it has a key and that has to be looked up.
    key_hash: KeyHash,
    has_key: bool,
    has_value: bool,
}

impl CleaningJob {
    /// Writes the next group of segments anew, beside the old ones; `None` when all are done. The caller puts each in place before the next.
    pub fn next_group(&mut self, pace: &mut Pace<'_>) -> Result<Option<CleanedGroup>, CleanError> {
        let Some(sources) = self.groups.pop_front() else {
            return Ok(None);
        };
        let Some((first, last)) = sources.first().zip(sources.last()) else {
            return Ok(None);
        };
        let mut outputs = Outputs {
            disk: Arc::clone(&self.disk),
            dir: self.dir.clone(),
            index_interval_bytes: self.index_interval_bytes,
            index_bytes_max: self.index_bytes_max,
            bytes_max: self.output_bytes_max,
            buffer_bytes: self.limits.io_buffer_bytes,
            seen_ms: sources
                .iter()
                .map(|source| source.seen_ms)
                .max()
                .unwrap_or(self.now_ms),
            buffer: Vec::with_capacity(self.limits.io_buffer_bytes),
            current: None,
            done: Vec::new(),
            files: Vec::new(),
        };
        let before = self.progress;
        let written = self.write_group(&sources, first.base_offset, &mut outputs, pace);
        let written = written.and_then(|()| Ok(outputs.finish(last.end_offset)?));
        let new = match written {
            Ok(new) => new,
            Err(error) => {
                outputs.remove();
                return Err(error);
            }
        };
        let after: u64 = new.iter().map(|segment| segment.size_bytes).sum();
        let progress = &mut self.progress;
        progress.segments_before += sources.len() as u64;
        progress.segments_after += new.len() as u64;
        progress.bytes_before += sources.iter().map(|source| source.size_bytes).sum::<u64>();
        progress.bytes_after += after;
        progress.bytes_written += after;
        tracing::debug!(
            dir = %self.dir.display(),
            base_offset = first.base_offset,
            end_offset = last.end_offset,
            bytes_before = progress.bytes_before - before.bytes_before,
            bytes_after = after,
            "segments rewritten"
        );
        let replaced = sources
            .iter()
            .map(|source| (source.base_offset, source.size_bytes))
            .collect();
        Ok(Some(CleanedGroup::new(
            Arc::clone(&self.disk),
            self.dir.clone(),
            replaced,
            new,
        )))
    }

    fn write_group(
        &mut self,
        sources: &[Source],
        base_offset: i64,
        outputs: &mut Outputs,
        pace: &mut Pace<'_>,
    ) -> Result<(), CleanError> {
        outputs.start(base_offset)?;
        let disk = Arc::clone(&self.disk);
        for (index, source) in sources.iter().enumerate() {
            let is_last_source = index + 1 == sources.len();
            // The pace is asked while reading; what was written is paid then, too.
            let mut pace = |bytes| pace(bytes * 2);
            source.walk(
                disk.as_ref(),
                self.limits.io_buffer_bytes,
                &mut pace,
                |position, batch| {
                    let end = position + batch.size_bytes() as u64;
                    let must_stay = is_last_source && end == source.size_bytes;
                    self.batch(batch, must_stay, outputs)
                        .map_err(|failed| match failed {
                            Failed::Batch(error) => source.corrupt(position, error),
                            Failed::Log(error) => CleanError::Log(error),
                        })?;
                    Ok(true)
                },
            )?;
            self.progress.bytes_read += source.size_bytes;
        }
        Ok(())
    }

    /// Decides on a batch and writes what is left of it. With `must_stay` at least its header.
    fn batch(
        &mut self,
        batch: &RecordBatch<'_>,
        must_stay: bool,
        outputs: &mut Outputs,
    ) -> Result<(), Failed> {
        self.scratch.is_decompressed = false;
        let keeps_header = must_stay || self.is_last_of_producer(batch);
        let mut index_entry = None;
        let (kept, needs_horizon) = if batch.is_control() {
            match batch.end_transaction() {
                // A header alone has said what it had to say; other control records are none of ours.
                None if batch.record_count() == 0 => (Kept::Nothing, false),
                None => (Kept::All, false),
                Some(marker) => {
                    let ended =
                        self.transactions
                            .end(batch.producer_id(), batch.last_offset(), marker);
                    index_entry = ended.index_entry;
                    let horizon_ms = batch.delete_horizon_ms();
                    match horizon_ms.filter(|_| ended.is_of_emptied) {
                        Some(horizon_ms) if horizon_ms <= self.now_ms => (Kept::Nothing, false),
                        _ => (Kept::All, ended.is_of_emptied && horizon_ms.is_none()),
                    }
                }
            }
        } else if batch.is_transactional()
            && self
                .transactions
                .is_aborted(batch.producer_id(), batch.last_offset())
        {
            self.progress.records_before += u64::from(batch.record_count().max(0).cast_unsigned());
            (Kept::Nothing, false)
        } else {
            self.choose_records(batch)?
        };
        let horizon_ms =
            needs_horizon.then(|| self.now_ms.saturating_add(self.delete_retention_ms));
        match (kept, horizon_ms) {
            (Kept::All, None) => outputs.push(&batch.header(), batch.bytes())?,
            (Kept::Nothing, _) if !keeps_header => {}
            (Kept::Nothing, _) if batch.record_count() == 0 => {
                outputs.push(&batch.header(), batch.bytes())?;
            }
            (kept, _) => {
                let mut change = Rewrite {
                    record_count: batch.record_count(),
                    base_timestamp: horizon_ms.unwrap_or(batch.base_timestamp()),
                    max_timestamp: batch.max_timestamp(),
                    has_delete_horizon: horizon_ms.or(batch.delete_horizon_ms()).is_some(),
                };
                match kept {
                    Kept::Nothing => {
                        change.record_count = 0;
                        change.base_timestamp = -1;
                        change.has_delete_horizon = false;
                    }
                    Kept::All => {}
                    Kept::Some {
                        record_count,
                        max_timestamp,
                    } => {
                        change.record_count = record_count;
                        if batch.timestamp_type() == TimestampType::CreateTime {
                            change.max_timestamp = max_timestamp;
                        }
                    }
                }
                let is_all = kept == Kept::All;
                let codec = batch.codec()?;
                let scratch = &mut self.scratch;
                outputs.rewrite(&batch.header(), codec, &change, |output| {
                    scratch.put_records(batch, is_all, horizon_ms, codec, output)
                })?;
            }
        }
        if let Some(entry) = index_entry {
            outputs.note_abort(entry);
        }
        Ok(())
    }

    /// Whether this is what a producer that is active is known by.
    fn is_last_of_producer(&self, batch: &RecordBatch<'_>) -> bool {
        let Some(last) = self.producers.get(&batch.producer_id()) else {
            return false;
        };
        match last.last_offset {
            Some(last_offset) => batch.last_offset() == last_offset,
            // Only a marker tells of its epoch.
            None => batch.is_control() && batch.producer_epoch() == last.epoch,
        }
    }

    /// Which records stay, in `scratch.kept` if not all; and whether the batch needs a delete horizon.
    fn choose_records(&mut self, batch: &RecordBatch<'_>) -> Result<(Kept, bool), BatchError> {
        let batch_records = u64::from(batch.record_count().max(0).cast_unsigned());
        self.progress.records_before += batch_records;
        let Some(dirty) = &self.dirty else {
            self.progress.records_after += batch_records;
            return Ok((Kept::All, false));
        };
        let look = dirty.look(&batch.header());
        match look {
            Look::AllStay => {
                self.progress.records_after += batch_records;
                return Ok((Kept::All, false));
            }
            Look::NoneStays => return Ok((Kept::Nothing, false)),
            Look::AtOffsets | Look::AtKeys => {}
        }
        let Scratch {
            decompressed,
            is_decompressed,
            kept,
            outlines,
            ..
        } = &mut self.scratch;
        kept.clear();
        let horizon_ms = batch.delete_horizon_ms();
        let tombstones_stay = horizon_ms.is_none_or(|horizon_ms| self.now_ms < horizon_ms);
        let latest_offset = dirty.latest_offset();
        let (mut record_count, mut max_timestamp, mut has_tombstone) = (0, -1, false);
        let mut records = batch.records(decompressed, DECOMPRESSED_BYTES_MAX)?;
        *is_decompressed = batch.codec()? != Codec::None;
        let mut start = 0;
        loop {
            read_outlines(&mut records, dirty, look, outlines)?;
            if outlines.is_empty() {
                break;
            }
            for record in outlines.iter() {
                let stays = record.offset > latest_offset
                    || if record.has_key {
                        !is_superseded(record, dirty, look) && (record.has_value || tombstones_stay)
                    } else {
                        self.progress.records_without_key += 1;
                        false
                    };
                if stays {
                    match kept.last_mut() {
                        Some(run) if run.end == start => run.end = record.end,
                        _ => kept.push(start..record.end),
                    }
                    record_count += 1;
                    max_timestamp = record.timestamp.max(max_timestamp);
                    has_tombstone |= !record.has_value;
                }
                start = record.end;
            }
        }
        self.progress.records_after += u64::from(record_count as u32);
        let kept = match record_count {
            0 => Kept::Nothing,
            count if count == batch.record_count() => Kept::All,
            _ => Kept::Some {
                record_count,
                max_timestamp,
            },
        };
        // A tombstone that the map has not come to yet has not been cleaned: its time begins with the pass that does. (Kafka's begins now.)
        let is_mapped = batch.last_offset() <= latest_offset;
        Ok((kept, has_tombstone && is_mapped && horizon_ms.is_none()))
    }
}

/// Reads the next records, as many as are looked up at once.
fn read_outlines(
    records: &mut Records<'_>,
    dirty: &DirtySection,
    look: Look,
    outlines: &mut Vec<Outline>,
) -> Result<(), BatchError> {
    outlines.clear();
    while outlines.len() < KEYS_AT_ONCE
        && let Some(head) = records.next_head()
    {
        let head = head?;
        outlines.push(Outline {
            end: records.read_bytes(),
            offset: head.offset,
            timestamp: head.timestamp,
            key_hash: match head.key {
                Some(key) if look == Look::AtKeys => dirty.hash(key),
                _ => KeyHash::default(),
            },
            has_key: head.key.is_some(),
            has_value: head.value.is_some(),
        });
    }
    if look == Look::AtKeys {
        dirty.touch(outlines.iter().map(|record| record.key_hash));
    }
    Ok(())
}

/// Whether a later record has the key of this one, which has a key and is not above what is known.
#[inline]
fn is_superseded(record: &Outline, dirty: &DirtySection, look: Look) -> bool {
    match look {
        Look::AtKeys => {
            let last = dirty.last_offset(record.key_hash);
            last.is_some_and(|last| record.offset < last)
        }
        _ => dirty.is_superseded(record.offset),
    }
}

/// What stays of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    All,
    /// The records in [`Scratch::kept`].
    Some {
        record_count: i32,
        max_timestamp: i64,
    },
    Nothing,
}

impl Scratch {
    /// Appends the records of a batch that stay, or all, as they are to be stored.
    fn put_records(
        &mut self,
        batch: &RecordBatch<'_>,
        is_all: bool,
        horizon_ms: Option<i64>,
        codec: Codec,
        output: &mut Vec<u8>,
    ) -> Result<(), BatchError> {
        let records = if self.is_decompressed {
            batch.records_of(&self.decompressed)
        } else {
            batch.records(&mut self.decompressed, DECOMPRESSED_BYTES_MAX)?
        };
        let whole = 0..records.unread().len();
        let kept = if is_all {
            std::slice::from_ref(&whole)
        } else {
            &self.kept
        };
        match codec {
            Codec::None => encode(records, kept, horizon_ms, output),
            codec => {
                self.records.clear();
                encode(records, kept, horizon_ms, &mut self.records)?;
                compression::compress(codec, &self.records, output);
                Ok(())
            }
        }
    }
}

/// Appends the records of these places, uncompressed; with a horizon their timestamps are made relative to it.
fn encode(
    mut records: Records<'_>,
    kept: &[Range<usize>],
    horizon_ms: Option<i64>,
    output: &mut Vec<u8>,
) -> Result<(), BatchError> {
    let stored = records.unread();
    let Some(horizon_ms) = horizon_ms else {
        for run in kept {
            output.extend_from_slice(stored.get(run.clone()).unwrap_or_default());
        }
        return Ok(());
    };
    let mut kept = kept.iter().peekable();
    let mut start = 0;
    while let Some(record) = records.next_head() {
        let timestamp = record?.timestamp;
        let end = records.read_bytes();
        while kept.next_if(|run| run.end <= start).is_some() {}
        if kept.peek().is_some_and(|run| run.contains(&start)) {
            let record = stored.get(start..end).unwrap_or_default();
            record_batch::put_record_with_base(record, timestamp, horizon_ms, output)?;
        }
        start = end;
    }
    Ok(())
}

/// Why a batch could not be rewritten.
enum Failed {
    Batch(BatchError),
    Log(LogError),
}

impl From<BatchError> for Failed {
    fn from(error: BatchError) -> Self {
        Failed::Batch(error)
    }
}

impl From<LogError> for Failed {
    fn from(error: LogError) -> Self {
        Failed::Log(error)
    }
}

/// The new segments of a group: one, or more where what is left does not fit into one.
struct Outputs {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    index_interval_bytes: u32,
    index_bytes_max: u64,
    bytes_max: u64,
    buffer_bytes: usize,
    seen_ms: i64,
    /// Batches that are noted, but not yet written.
    buffer: Vec<u8>,
    current: Option<Output>,
    done: Vec<SealedSegment>,
    /// To be synced.
    files: Vec<Arc<dyn DiskFile>>,
}

struct Output {
    segment: ActiveSegment,
    file: Arc<dyn DiskFile>,
    written_bytes: u64,
    next_offset: i64,
}

impl Outputs {
    fn start(&mut self, base_offset: i64) -> Result<(), LogError> {
        let path = |extension| cleaned_path(&self.dir, base_offset, extension);
        let mut segment = ActiveSegment::empty(&self.dir, base_offset, self.seen_ms);
        segment.path = path(LOG);
        segment.offset_index = GrowingIndex::new(path(OFFSET_INDEX));
        segment.time_index = GrowingIndex::new(path(TIME_INDEX));
        segment.transaction_index = GrowingIndex::new(path(TRANSACTION_INDEX));
        let (file, _) = segment
            .open(self.disk.as_ref())
            .map_err(disk_error("create", &segment.path))?;
        // A pass that failed may have left one.
        file.truncate(0)
            .map_err(disk_error("truncate", &segment.path))?;
        self.current = Some(Output {
            segment,
            file,
            written_bytes: 0,
            next_offset: base_offset,
        });
        Ok(())
    }

    /// Appends a batch as it is.
    fn push(&mut self, header: &BatchHeader<'_>, bytes: &[u8]) -> Result<(), LogError> {
        self.make_room(&BatchFacts::from(*header), 0)?;
        self.buffer.extend_from_slice(bytes);
        self.note(&BatchFacts::from(*header))
    }

    /// Appends a batch with the header of another, encoded in the buffer.
    fn rewrite(
        &mut self,
        header: &BatchHeader<'_>,
        codec: Codec,
        change: &Rewrite,
        put_records: impl FnOnce(&mut Vec<u8>) -> Result<(), BatchError>,
    ) -> Result<(), Failed> {
        let start = self.buffer.len();
        record_batch::rewrite(header, codec, change, &mut self.buffer, put_records)?;
        let written = self.buffer.get(start..).unwrap_or_default();
        let facts = BatchFacts::from(BatchHeader::parse(written)?);
        self.make_room(&facts, written.len())?;
        Ok(self.note(&facts)?)
    }

    /// Begins another segment if this batch has no room in the current one; so many bytes of it are in the buffer already.
    fn make_room(&mut self, facts: &BatchFacts, buffered_bytes: usize) -> Result<(), LogError> {
        let Some(output) = &self.current else {
            return Ok(());
        };
        let segment = &output.segment;
        let index_bytes = segment
            .offset_index
            .size_bytes()
            .max(segment.time_index.size_bytes()) as u64;
        let is_full = segment.size_bytes + facts.size_bytes > self.bytes_max
            // Room for this batch's entries and the last one.
            || index_bytes + 32 > self.index_bytes_max
            || facts.last_offset - segment.base_offset > i32::MAX.into();
        if is_full && segment.size_bytes > 0 {
            let next_offset = output.next_offset;
            let before = self.buffer.len().saturating_sub(buffered_bytes);
            let buffered = self.buffer.split_off(before);
            self.seal(next_offset)?;
            self.start(next_offset)?;
            self.buffer = buffered;
        }
        Ok(())
    }

    /// Notes the batch that lies at the buffer's end.
    fn note(&mut self, facts: &BatchFacts) -> Result<(), LogError> {
        if let Some(output) = &mut self.current {
            let disk = self.disk.as_ref();
            output.segment.note(disk, facts, self.index_interval_bytes);
            output.next_offset = facts.last_offset + 1;
        }
        if self.buffer.len() >= self.buffer_bytes {
            self.write()?;
        }
        Ok(())
    }

    /// Notes an aborted transaction whose marker was pushed last.
    fn note_abort(&mut self, entry: AbortedTransactionEntry) {
        if let Some(output) = &mut self.current {
            output.segment.note_abort(self.disk.as_ref(), entry);
        }
    }

    fn write(&mut self) -> Result<(), LogError> {
        if let Some(output) = self.current.as_mut().filter(|_| !self.buffer.is_empty()) {
            output
                .file
                .write_all_at(output.written_bytes, &self.buffer)
                .map_err(disk_error("write", &output.segment.path))?;
            output.written_bytes += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }

    fn seal(&mut self, end_offset: i64) -> Result<(), LogError> {
        self.write()?;
        if let Some(mut output) = self.current.take() {
            let finished = output.segment.finish(self.disk.as_ref());
            match finished {
                Ok(files) => self.files.extend(files),
                Err(error) => {
                    let failed = disk_error("write the indexes of", &output.segment.path)(error);
                    self.current = Some(output);
                    return Err(failed);
                }
            }
            self.done
                .push(output.segment.seal(end_offset, self.seen_ms));
        }
        Ok(())
    }

    /// The new segments, on disk under their names of the pass.
    fn finish(&mut self, end_offset: i64) -> Result<Vec<SealedSegment>, LogError> {
        self.seal(end_offset)?;
        for file in &self.files {
            file.sync_data()
                .map_err(disk_error("sync a cleaned segment in", &self.dir))?;
        }
        Ok(std::mem::take(&mut self.done))
    }

    /// Removes what was written, as far as the disk lets us: the next open finds the rest.
    fn remove(&mut self) {
        let bases: Vec<_> = self
            .done
            .iter()
            .map(|segment| segment.base_offset)
            .chain(self.current.iter().map(|output| output.segment.base_offset))
            .collect();
        super::swap::remove_cleaned(self.disk.as_ref(), &self.dir, &bases);
    }
}
