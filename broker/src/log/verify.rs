//! Checking a segment's files against each other, without changing them.

use std::io;
use std::path::Path;

use crate::disk::{Disk, DiskFile};
use crate::log::index_file::IndexEntry;
use crate::log::offset_index::OffsetEntry;
use crate::log::scan::{BatchScanner, Scan};
use crate::log::segment::{self, OFFSET_INDEX, TIME_INDEX, TRANSACTION_INDEX};
use crate::log::time_index::TimeEntry;
use crate::log::transaction_index::AbortedTransactionEntry;
use crate::protocol::record_batch::DECOMPRESSED_BYTES_MAX;

const WINDOW_BYTES: usize = 256 * 1024;
/// A file with more is damaged all over: the rest says nothing new.
const PROBLEMS_MAX: usize = 20;

/// What a segment holds, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifiedSegment {
    pub base_offset: i64,
    /// After the last batch that can be read.
    pub next_offset: i64,
    pub bytes: u64,
    pub batches: u64,
    pub records: u64,
    /// Batches that the cleaner has left without records.
    pub empty_batches: u64,
    pub index_entries: u64,
    /// Nothing, if all is well. At most twenty.
    pub problems: Vec<String>,
}

impl VerifiedSegment {
    fn problem(&mut self, problem: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }
}

/// Reads a segment: each batch with its CRC, its records and its offsets, and the entries of its indexes, as far as they are there. For ours and
/// Apache Kafka's files.
pub fn verify_segment(disk: &dyn Disk, log: &Path) -> io::Result<VerifiedSegment> {
    let invalid = || {
        let reason = format!("{} is not named as a segment is", log.display());
        io::Error::new(io::ErrorKind::InvalidInput, reason)
    };
    let name = log.file_name().and_then(|name| name.to_str());
    let dir = log.parent().ok_or_else(invalid)?;
    let (base_offset, _) = name
        .and_then(segment::parse_name)
        .filter(|(_, extension)| *extension == segment::LOG)
        .ok_or_else(invalid)?;
    let file = disk.open(log)?;
    let mut found = VerifiedSegment {
        base_offset,
        next_offset: base_offset,
        bytes: file.len_bytes()?,
        ..VerifiedSegment::default()
    };
    // Position, last offset and highest timestamp of each batch.
    let places = walk(file.as_ref(), &mut found)?;
    for entry in entries::<OffsetEntry>(
        disk,
        &segment::path(dir, base_offset, OFFSET_INDEX),
        &mut found,
    )? {
        let (position, offset) = (
            u64::from(entry.position.max(0).cast_unsigned()),
            base_offset + i64::from(entry.relative_offset),
        );
        let at = places.binary_search_by_key(&position, |place| place.position);
        let last_offset = at
            .ok()
            .and_then(|at| places.get(at))
            .map(|place| place.last_offset);
        if last_offset != Some(offset) {
            found.problem(format!(
                "the offset index has offset {offset} at {position}, where no batch ends with it"
            ));
        }
    }
    for entry in entries::<TimeEntry>(
        disk,
        &segment::path(dir, base_offset, TIME_INDEX),
        &mut found,
    )? {
        let offset = base_offset + i64::from(entry.relative_offset);
        let at = places.partition_point(|place| place.last_offset < offset);
        let newer = places
            .iter()
            .take(at)
            .any(|place| place.max_timestamp > entry.timestamp);
        if newer
            || places
                .get(at)
                .is_none_or(|place| place.last_offset != offset)
        {
            let timestamp = entry.timestamp;
            found.problem(format!(
                "the time index has timestamp {timestamp} at offset {offset}, which is not so"
            ));
        }
    }
    entries::<AbortedTransactionEntry>(
        disk,
        &segment::path(dir, base_offset, TRANSACTION_INDEX),
        &mut found,
    )?;
    Ok(found)
}

struct Place {
    position: u64,
    last_offset: i64,
    max_timestamp: i64,
}

fn walk(file: &dyn DiskFile, found: &mut VerifiedSegment) -> io::Result<Vec<Place>> {
    let mut places = Vec::new();
    let mut scanner = BatchScanner::new(file, 0, found.bytes, WINDOW_BYTES);
    loop {
        let (position, batch) = match scanner.next_batch()? {
            Scan::End => return Ok(places),
            Scan::Bad { position, error } => {
                let left = found.bytes - position;
                found.problem(format!("at {position}: {error}; {left} bytes are not read"));
                return Ok(places);
            }
            Scan::Batch { position, batch } => (position, batch),
        };
        let mut records = 0;
        let sound = batch
            .verify_crc()
            .and_then(|()| batch.check_records(DECOMPRESSED_BYTES_MAX, |_| records += 1));
        if let Err(error) = sound {
            found.problem(format!("at {position}: {error}"));
        }
        if batch.base_offset() < found.next_offset || batch.last_offset() < batch.base_offset() {
            found.problem(format!(
                "at {position}: offsets {}..={} after {}",
                batch.base_offset(),
                batch.last_offset(),
                found.next_offset - 1
            ));
        }
        found.batches += 1;
        found.records += records;
        found.empty_batches += u64::from(batch.record_count() == 0);
        found.next_offset = found.next_offset.max(batch.last_offset().saturating_add(1));
        places.push(Place {
            position,
            last_offset: batch.last_offset(),
            max_timestamp: batch.max_timestamp(),
        });
    }
}

/// The entries of an index, if it is there. What Kafka has preallocated, and the first entry that it writes of nothing, are left out.
fn entries<E: IndexEntry>(
    disk: &dyn Disk,
    path: &Path,
    found: &mut VerifiedSegment,
) -> io::Result<Vec<E>> {
    let contents = match disk.read_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read?,
    };
    let name = path.extension().unwrap_or_default().to_string_lossy();
    if contents.len() % E::BYTES != 0 {
        found.problem(format!(
            "the {name} has {} bytes, which are no entries",
            contents.len()
        ));
    }
    let written = contents
        .chunks_exact(E::BYTES)
        .filter(|bytes| bytes.iter().any(|byte| *byte != 0));
    let decoded: Vec<Option<E>> = written.map(E::decode).collect();
    let entries: Vec<E> = decoded.iter().copied().flatten().collect();
    if entries.len() != decoded.len() || !entries.is_sorted_by_key(E::key) {
        found.problem(format!(
            "the {name} has entries that cannot be, or not in their order"
        ));
    }
    found.index_entries += entries.len() as u64;
    Ok(entries)
}
