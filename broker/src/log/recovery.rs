//! Opening a log, and repairing it after a crash.
//!
//! 1. The directory is listed; a swap of cleaned segments that was begun is finished; leftovers of deletions and half-written files go.
//! 2. After a clean stop the files are as they were closed: sealed segments are only counted; of the active one the indexes are read, and the
//!    few batches after the last index entry. If something does not fit, it is treated as after a crash.
//! 3. After a crash every segment that reaches to the recovery point or beyond is walked, oldest first: headers below the recovery point, and
//!    beyond it each batch with its CRC. Its indexes are made anew: they are synced after the roll, when the batches may long be. At the first bad batch the segment is cut, and all later ones are
//!    deleted (newest first, before the cut, so that a crash in between finds the bad batch again).
//! 4. A segment that ends before the next one starts has lost its end with the crash: the later ones go too. Only beyond the recovery point;
//!    compaction leaves no such gap.
//! 5. Producers: the newest snapshot that can be trusted (after a crash, one at or below the start of the first segment that is made anew), then
//!    the batches after it. So where indexes are made anew, it is known which transactions were open, and the aborted ones are found again.
//!    Leader epochs: the checkpoint, then the batches walked.
//! 6. What was found beyond the recovery point is synced before anyone may read it.
//!
//! A recovery point beyond the log's end says that it was not noted for these files: then nothing is trusted, and all is walked with CRCs.
//! The same where a file of aborted transactions is damaged that should be whole.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tracing::{info, warn};

use crate::disk::Disk;
use crate::log::cleaner;
use crate::log::index_file::{GrowingIndex, SealedIndex};
use crate::log::leader_epochs::{self, LeaderEpochs};
use crate::log::offset_index::OffsetEntry;
use crate::log::open_segments::Slot;
use crate::log::partition_metadata;
use crate::log::producer_state::ProducerStates;
use crate::log::scan::{BatchScanner, Scan};
use crate::log::segment::{
    self, ActiveSegment, BatchFacts, LOG, MaxTimestamp, OFFSET_INDEX, SNAPSHOT, SealedSegment,
    TIME_INDEX, TRANSACTION_INDEX,
};
use crate::log::tail::Tail;
use crate::log::time_index::TimeEntry;
use crate::log::transaction_index::AbortedTransactionEntry;
use crate::log::{Log, LogError, OpenOptions, Unsynced, disk_error, write_small};
use crate::protocol::record_batch::BatchError;

/// Of files of deleted segments that are still there.
pub(super) const DELETED_SUFFIX: &str = ".deleted";
/// Bytes read at once where batches are verified.
const WALK_BYTES: usize = 256 * 1024;
/// Bytes read at once where only headers are looked at: the records of all but small batches are skipped.
const HEADER_WALK_BYTES: usize = 4 * 1024;

/// What opening a log found and repaired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Segments that were walked. After a clean stop none.
    pub segments_scanned: usize,
    pub batches_scanned: u64,
    /// Bytes cut from the end: a torn write, or what followed a corrupt batch. Without those of deleted segments.
    pub bytes_truncated: u64,
    /// Segments that came after the cut.
    pub segments_deleted: usize,
    pub indexes_rebuilt: usize,
    /// The log ends before its recovery point: synced records are gone, or the recovery point is another log's.
    pub ends_before_recovery_point: bool,
}

pub(super) fn open(
    disk: Arc<dyn Disk>,
    options: OpenOptions,
    now_ms: i64,
) -> Result<(Log, Recovery), LogError> {
    let trust = Trust {
        clean: options.clean_shutdown,
        recovery_point: options.recovery_point,
        end_offset_max: i64::MAX,
    };
    open_with(disk, options, trust, now_ms)
}

/// Opens a log whose sync has failed, up to the recovery point: what is beyond is cut off.
pub(super) fn reopen(
    disk: Arc<dyn Disk>,
    options: OpenOptions,
    now_ms: i64,
) -> Result<Log, LogError> {
    let trust = Trust {
        clean: false,
        recovery_point: options.recovery_point,
        end_offset_max: options.recovery_point,
    };
    let (log, _) = open_with(disk, options, trust, now_ms)?;
    Ok(log)
}

fn open_with(
    disk: Arc<dyn Disk>,
    options: OpenOptions,
    trust: Trust,
    now_ms: i64,
) -> Result<(Log, Recovery), LogError> {
    let recovered = recover(disk.as_ref(), &options, trust, now_ms)?;
    let is_clean = options.clean_shutdown && recovered.report == Recovery::default();
    let next_offset = recovered.next_offset;
    let mut log = Log {
        disk,
        tail: Tail::new(options.config.tail_bytes_max),
        dir: options.dir,
        topic_id: options.topic_id,
        config: options.config,
        sealed: recovered.sealed,
        active: recovered.active,
        producers: recovered.producers,
        leader_epochs: recovered.leader_epochs,
        log_start_offset: recovered.log_start_offset,
        next_offset,
        flushed_offset: next_offset,
        synced_offset: next_offset,
        taken_bytes: 0,
        is_journaled: false,
        is_created: recovered.is_created,
        has_changed: !is_clean,
        unsynced: recovered.unsynced,
        unsynced_since_ms: None,
        in_flight: None,
        poison: None,
        has_lost_bytes: false,
        deleted: Vec::new(),
        swaps: 0,
    };
    log.taken_bytes = log.active.size_bytes;
    // A crash left it as it was.
    log.active.is_preallocated = log.config.preallocate && log.active.file.is_some();
    let must_sync = log.unsynced.active || !log.unsynced.files.is_empty();
    if must_sync && let Some(job) = log.begin_sync() {
        let result = job.run();
        log.complete_sync(job, result)?;
    }
    let report = recovered.report;
    if report.bytes_truncated > 0
        || report.segments_deleted > 0
        || report.ends_before_recovery_point
    {
        warn!(dir = %log.dir.display(), log_end_offset = next_offset, ?report, "log repaired");
    } else if report.segments_scanned > 0 {
        info!(dir = %log.dir.display(), log_end_offset = next_offset, ?report, "log recovered");
    }
    Ok((log, report))
}

/// What is taken for granted about the files.
#[derive(Clone, Copy, Debug)]
struct Trust {
    clean: bool,
    recovery_point: i64,
    /// Batches at or beyond it are not believed, however well they read.
    end_offset_max: i64,
}

impl Trust {
    /// In nothing but the end.
    fn lost(self) -> Self {
        Trust {
            clean: false,
            recovery_point: 0,
            ..self
        }
    }
}

struct Recovered {
    sealed: VecDeque<SealedSegment>,
    active: ActiveSegment,
    producers: ProducerStates,
    leader_epochs: LeaderEpochs,
    log_start_offset: i64,
    next_offset: i64,
    is_created: bool,
    unsynced: Unsynced,
    report: Recovery,
}

/// The names in a partition's directory.
#[derive(Debug, Default)]
struct Listing {
    /// Base offset → length.
    logs: BTreeMap<i64, u64>,
    offset_indexes: BTreeMap<i64, u64>,
    time_indexes: BTreeMap<i64, u64>,
    snapshots: BTreeSet<i64>,
    transaction_indexes: BTreeMap<i64, u64>,
    leftovers: Vec<String>,
    /// Swaps of cleaned segments that are not finished.
    swaps: Vec<i64>,
    has_metadata: bool,
}

impl Listing {
    /// `None` if the directory is not there.
    fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Listing>, LogError> {
        let entries = match disk.list(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(disk_error("list", dir)(error)),
        };
        let mut listing = Listing::default();
        for entry in entries.into_iter().filter(|entry| !entry.is_dir) {
            listing.has_metadata |= entry.name == partition_metadata::FILE;
            match segment::parse_name(&entry.name) {
                Some((offset, LOG)) => {
                    listing.logs.insert(offset, entry.len_bytes);
                }
                Some((offset, OFFSET_INDEX)) => {
                    listing.offset_indexes.insert(offset, entry.len_bytes);
                }
                Some((offset, TIME_INDEX)) => {
                    listing.time_indexes.insert(offset, entry.len_bytes);
                }
                Some((offset, SNAPSHOT)) => {
                    listing.snapshots.insert(offset);
                }
                Some((offset, TRANSACTION_INDEX)) => {
                    listing.transaction_indexes.insert(offset, entry.len_bytes);
                }
                Some((offset, cleaner::SWAP)) => listing.swaps.push(offset),
                _ if [DELETED_SUFFIX, ".cleaned", ".tmp"]
                    .iter()
                    .any(|suffix| entry.name.ends_with(suffix)) =>
                {
                    listing.leftovers.push(entry.name)
                }
                _ => {}
            }
        }
        Ok(Some(listing))
    }

    /// Removes the segments that begin beyond the end, newest first. One that begins there stays, empty: its name may be all that says where the
    /// log is.
    fn remove_beyond(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        end_offset_max: i64,
    ) -> Result<(), LogError> {
        let beyond = self.logs.split_off(&end_offset_max.saturating_add(1));
        for base_offset in beyond.keys().rev() {
            delete_segment(disk, dir, *base_offset)?;
            self.offset_indexes.remove(base_offset);
            self.time_indexes.remove(base_offset);
            self.transaction_indexes.remove(base_offset);
            self.snapshots.remove(base_offset);
        }
        if !beyond.is_empty() {
            // Before anything is cut: a crash in between must not find them behind a gap.
            disk.sync_dir(dir).map_err(disk_error("sync", dir))?;
        }
        Ok(())
    }

    /// Removes what a crash left of deletions: half-written files, and indexes without their segment.
    fn remove_leftovers(&mut self, disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
        for name in self.leftovers.drain(..) {
            remove(disk, &dir.join(name))?;
        }
        let logs = &self.logs;
        let orphans = |offsets: Vec<i64>| {
            offsets
                .into_iter()
                .filter(|offset| !logs.contains_key(offset))
                .collect::<Vec<_>>()
        };
        for offset in orphans(self.offset_indexes.keys().copied().collect()) {
            remove(disk, &segment::path(dir, offset, OFFSET_INDEX))?;
        }
        for offset in orphans(self.time_indexes.keys().copied().collect()) {
            remove(disk, &segment::path(dir, offset, TIME_INDEX))?;
        }
        for offset in orphans(self.transaction_indexes.keys().copied().collect()) {
            remove(disk, &segment::path(dir, offset, TRANSACTION_INDEX))?;
            self.transaction_indexes.remove(&offset);
        }
        Ok(())
    }
}

pub(super) fn remove(disk: &dyn Disk, path: &Path) -> Result<(), LogError> {
    match disk.remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(disk_error("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Removes a segment's files, the log first: without it the others are leftovers.
pub(super) fn delete_segment(
    disk: &dyn Disk,
    dir: &Path,
    base_offset: i64,
) -> Result<(), LogError> {
    for extension in [LOG, OFFSET_INDEX, TIME_INDEX, TRANSACTION_INDEX, SNAPSHOT] {
        remove(disk, &segment::path(dir, base_offset, extension))?;
    }
    Ok(())
}

/// Gives a segment's files names that nobody opens, the log first, as above; returns those. Removing them is left to the caller, or to the
/// next open.
pub(super) fn rename_deleted(
    disk: &dyn Disk,
    dir: &Path,
    base_offset: i64,
) -> Result<Vec<PathBuf>, LogError> {
    let mut renamed = Vec::new();
    for extension in [LOG, OFFSET_INDEX, TIME_INDEX, TRANSACTION_INDEX, SNAPSHOT] {
        let path = segment::path(dir, base_offset, extension);
        let mut to = path.clone().into_os_string();
        to.push(DELETED_SUFFIX);
        let to = PathBuf::from(to);
        match disk.rename(&path, &to) {
            Ok(()) => renamed.push(to),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(disk_error("rename", &path)(error)),
        }
    }
    Ok(renamed)
}

fn recover(
    disk: &dyn Disk,
    options: &OpenOptions,
    trust: Trust,
    now_ms: i64,
) -> Result<Recovered, LogError> {
    let dir = &options.dir;
    let Some(mut listing) = Listing::read(disk, dir)? else {
        return Ok(nothing(options, false, now_ms));
    };
    if !listing.swaps.is_empty() {
        cleaner::finish_interrupted(disk, dir, &listing.swaps)?;
        listing = Listing::read(disk, dir)?.unwrap_or_default();
    }
    let has_metadata = listing.has_metadata && check_metadata(disk, options)?;
    listing.remove_beyond(disk, dir, trust.end_offset_max)?;
    listing.remove_leftovers(disk, dir)?;
    let mut walk = Walk::prepare(disk, options, &mut listing, trust, now_ms)?;
    if walk.distrusts_aborted() {
        return recover(disk, options, trust.lost(), now_ms);
    }
    let Some(first) = listing.logs.keys().next().copied() else {
        return Ok(nothing(options, has_metadata, now_ms));
    };
    walk.next_offset = first;
    let bases: Vec<i64> = listing.logs.keys().copied().collect();
    for (index, (base_offset, len_bytes)) in listing.logs.iter().enumerate() {
        let end_offset = bases.get(index + 1).copied();
        let indexes = (
            listing.offset_indexes.get(base_offset).copied(),
            listing.time_indexes.get(base_offset).copied(),
        );
        if walk.segment(*base_offset, *len_bytes, end_offset, indexes)? == Step::EndsHere {
            break;
        }
    }
    let misses_recovery_point = walk.next_offset < trust.recovery_point && !trust.clean;
    if misses_recovery_point || walk.replay_from > walk.next_offset {
        // Not this log's recovery point, or synced records are lost.
        let mut recovered = recover(disk, options, trust.lost(), now_ms)?;
        recovered.report.ends_before_recovery_point = true;
        recovered.report.bytes_truncated += walk.report.bytes_truncated;
        recovered.report.segments_deleted += walk.report.segments_deleted;
        return Ok(recovered);
    }
    let mut recovered = walk.finish(&listing)?;
    recovered.is_created = has_metadata;
    recovered.log_start_offset = options.log_start_offset.max(first);
    if recovered.log_start_offset > recovered.next_offset {
        // The records up to the log start are lost; their offsets stay used.
        for base_offset in bases.iter().rev() {
            delete_segment(disk, dir, *base_offset)?;
        }
        let report = recovered.report;
        return Ok(Recovered {
            report,
            ..nothing(options, has_metadata, now_ms)
        });
    }
    Ok(recovered)
}

/// An empty log at the log start offset.
fn nothing(options: &OpenOptions, is_created: bool, now_ms: i64) -> Recovered {
    let start = options.log_start_offset;
    Recovered {
        sealed: VecDeque::new(),
        active: ActiveSegment::empty(&options.dir, start, now_ms),
        producers: ProducerStates::default(),
        leader_epochs: LeaderEpochs::default(),
        log_start_offset: start,
        next_offset: start,
        is_created,
        unsynced: Unsynced {
            dir: is_created,
            parent_dir: is_created,
            ..Unsynced::default()
        },
        report: Recovery::default(),
    }
}

/// Whether the directory's metadata is whole, and it is this topic's.
fn check_metadata(disk: &dyn Disk, options: &OpenOptions) -> Result<bool, LogError> {
    let path = options.dir.join(partition_metadata::FILE);
    let contents = disk.read_file(&path).map_err(disk_error("read", &path))?;
    match partition_metadata::decode(&contents) {
        Some(found) if found == options.topic_id => Ok(true),
        Some(found) => Err(LogError::TopicId {
            path,
            found,
            want: options.topic_id,
        }),
        // Torn before its first sync.
        None => Ok(false),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The next segment follows.
    Sealed,
    /// It is the last one, or what came after it is deleted.
    EndsHere,
}

/// The walk over a log's segments, oldest first.
struct Walk<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    clean: bool,
    /// Segments that reach beyond it are walked, and their batches beyond it verified.
    recovery_point: i64,
    end_offset_max: i64,
    index_interval_bytes: u32,
    now_ms: i64,
    /// All base offsets.
    bases: Vec<i64>,
    /// Producers are known up to here; batches from here on are replayed.
    replay_from: i64,
    /// Aborted transactions of each segment, as their files say; `None` for a file that is not whole.
    aborted: BTreeMap<i64, Option<Arc<[AbortedTransactionEntry]>>>,
    /// The checkpoint was not there: epochs are taken from all batches.
    rebuild_epochs: bool,
    sealed: VecDeque<SealedSegment>,
    active: Option<ActiveSegment>,
    producers: ProducerStates,
    leader_epochs: LeaderEpochs,
    next_offset: i64,
    unsynced: Unsynced,
    report: Recovery,
}

impl<'a> Walk<'a> {
    fn prepare(
        disk: &'a dyn Disk,
        options: &'a OpenOptions,
        listing: &mut Listing,
        Trust {
            clean,
            recovery_point,
            end_offset_max,
        }: Trust,
        now_ms: i64,
    ) -> Result<Self, LogError> {
        let dir = options.dir.as_path();
        let bases: Vec<i64> = listing.logs.keys().copied().collect();
        let first_dirty = bases
            .iter()
            .copied()
            .take_while(|base| *base < recovery_point)
            .last()
            .or(bases.first().copied())
            .unwrap_or(0);
        if !clean {
            // A snapshot beyond the recovery point may tell of batches that are gone; one within the first segment that is made anew does not
            // say what was open at its start. That of the log's first segment may be beyond it, but tells of what was deleted.
            let doubtful = listing.snapshots.split_off(&first_dirty.saturating_add(1));
            for offset in doubtful {
                remove(disk, &segment::path(dir, offset, SNAPSHOT))?;
            }
        }
        let mut producers = ProducerStates::default();
        let mut replay_from = 0;
        while let Some(offset) = listing.snapshots.last().copied() {
            let path = segment::path(dir, offset, SNAPSHOT);
            let contents = disk.read_file(&path).map_err(disk_error("read", &path))?;
            if let Some(states) = ProducerStates::decode_snapshot(&contents) {
                producers = states;
                replay_from = offset;
                break;
            }
            remove(disk, &path)?;
            listing.snapshots.pop_last();
        }
        let path = dir.join(leader_epochs::FILE);
        let leader_epochs = match disk.read_file(&path) {
            Ok(contents) => LeaderEpochs::decode(&contents),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(disk_error("read", &path)(error)),
        };
        let rebuild_epochs = leader_epochs.is_none();
        let mut leader_epochs = leader_epochs.unwrap_or_default();
        if !clean {
            // From the first segment that is walked, batches say it again.
            leader_epochs.truncate_from(first_dirty);
        }
        let mut aborted = BTreeMap::new();
        for base_offset in listing.transaction_indexes.keys().copied() {
            let path = segment::path(dir, base_offset, TRANSACTION_INDEX);
            let index = GrowingIndex::<AbortedTransactionEntry>::load(disk, path.clone())
                .map_err(disk_error("read", &path))?;
            let index = index.map(|index| Arc::from(index.entries()));
            aborted.insert(base_offset, index);
        }
        Ok(Walk {
            disk,
            dir,
            clean,
            recovery_point,
            end_offset_max,
            index_interval_bytes: options.config.index_interval_bytes,
            now_ms,
            bases,
            replay_from,
            aborted,
            rebuild_epochs,
            sealed: VecDeque::new(),
            active: None,
            producers,
            leader_epochs,
            next_offset: 0,
            // After a crash nobody knows which names are on disk.
            unsynced: Unsynced {
                dir: !clean,
                parent_dir: !clean,
                leader_epochs: false,
                ..Unsynced::default()
            },
            report: Recovery::default(),
        })
    }

    /// A file of aborted transactions is not whole, and it will not be made anew.
    fn distrusts_aborted(&self) -> bool {
        self.aborted
            .iter()
            .filter(|(_, entries)| entries.is_none())
            .any(|(base_offset, _)| {
                let next = self.bases.partition_point(|base| base <= base_offset);
                let end_offset = self.bases.get(next).copied().unwrap_or(i64::MAX);
                self.clean || end_offset < self.recovery_point
            })
    }

    fn aborted_of_file(&self, base_offset: i64) -> Arc<[AbortedTransactionEntry]> {
        let entries = self.aborted.get(&base_offset).cloned().flatten();
        entries.unwrap_or_else(|| Arc::from([]))
    }

    /// Takes one segment. `end_offset` is the base of the next one, if there is one; `indexes` are the lengths of its index files.
    fn segment(
        &mut self,
        base_offset: i64,
        len_bytes: u64,
        end_offset: Option<i64>,
        indexes: (Option<u64>, Option<u64>),
    ) -> Result<Step, LogError> {
        // What precedes it may have ended earlier, where compaction took the last batches.
        self.next_offset = self.next_offset.max(base_offset);
        let beyond_recovery_point =
            !self.clean && end_offset.is_none_or(|end_offset| end_offset >= self.recovery_point);
        match end_offset {
            Some(end_offset) => {
                let kept = self.sealed_of_files(base_offset, len_bytes, end_offset, indexes);
                let must_replay = end_offset > self.replay_from || self.rebuild_epochs;
                if !beyond_recovery_point
                    && !must_replay
                    && let Some(sealed) = kept
                {
                    self.sealed.push_back(sealed);
                    self.next_offset = end_offset;
                    return Ok(Step::Sealed);
                }
                self.walk_sealed(
                    base_offset,
                    len_bytes,
                    end_offset,
                    kept.filter(|_| !beyond_recovery_point),
                )
            }
            None => {
                if self.clean
                    && !self.rebuild_epochs
                    && let Some((active, next_offset)) =
                        self.active_of_files(base_offset, len_bytes)?
                    && next_offset <= self.replay_from
                {
                    self.active = Some(active);
                    self.next_offset = next_offset;
                    return Ok(Step::EndsHere);
                }
                let (active, _) = self.walk(base_offset, len_bytes, true)?;
                self.active = Some(active);
                Ok(Step::EndsHere)
            }
        }
    }

    /// A sealed segment whose index files can be right.
    fn sealed_of_files(
        &self,
        base_offset: i64,
        len_bytes: u64,
        end_offset: i64,
        (offset_index, time_index): (Option<u64>, Option<u64>),
    ) -> Option<SealedSegment> {
        let path = |extension| segment::path(self.dir, base_offset, extension);
        Some(SealedSegment {
            base_offset,
            end_offset,
            size_bytes: len_bytes,
            path: path(LOG),
            offset_index: SealedIndex::of_length(path(OFFSET_INDEX), offset_index?)?,
            time_index: SealedIndex::of_length(path(TIME_INDEX), time_index?)?,
            aborted: self.aborted_of_file(base_offset),
            max_timestamp: OnceLock::new(),
            seen_ms: self.now_ms,
            slot: Slot::default(),
        })
    }

    /// Walks a segment that another follows. `kept` are its files, if they need no repair.
    fn walk_sealed(
        &mut self,
        base_offset: i64,
        len_bytes: u64,
        end_offset: i64,
        kept: Option<SealedSegment>,
    ) -> Result<Step, LogError> {
        let (mut rebuilt, is_whole) = self.walk(base_offset, len_bytes, kept.is_none())?;
        let lost_its_end =
            self.next_offset < end_offset && end_offset > self.recovery_point && !self.clean;
        if !is_whole || lost_its_end {
            self.active = Some(rebuilt);
            return Ok(Step::EndsHere);
        }
        let sealed = match kept {
            Some(sealed) => sealed,
            None => {
                let files = rebuilt
                    .finish(self.disk)
                    .map_err(disk_error("rebuild the index of", &rebuilt.path))?;
                self.unsynced.files.extend(files);
                self.unsynced.dir = true;
                self.report.indexes_rebuilt += 1;
                if end_offset >= self.recovery_point
                    && !self.clean
                    && end_offset >= self.replay_from
                {
                    let path = segment::path(self.dir, end_offset, SNAPSHOT);
                    self.unsynced.files.push(write_small(
                        self.disk,
                        &path,
                        &self.producers.encode_snapshot(),
                    )?);
                }
                rebuilt.seal(end_offset, self.now_ms)
            }
        };
        self.sealed.push_back(sealed);
        self.next_offset = end_offset;
        Ok(Step::Sealed)
    }

    /// Walks a segment's batches. With `repair` its indexes are made anew, and it is cut at a bad batch: then the flag is false, and all
    /// later segments are deleted. Without, the walk only replays.
    fn walk(
        &mut self,
        base_offset: i64,
        len_bytes: u64,
        repair: bool,
    ) -> Result<(ActiveSegment, bool), LogError> {
        let mut rebuilt = ActiveSegment::empty(self.dir, base_offset, self.now_ms);
        // Which transactions were open at its start is known only from there on.
        let rebuilds_aborted = repair && base_offset >= self.replay_from;
        if !rebuilds_aborted {
            rebuilt.transaction_index = GrowingIndex::of_written(
                segment::path(self.dir, base_offset, TRANSACTION_INDEX),
                self.aborted_of_file(base_offset).to_vec(),
            );
        } else if self.aborted.contains_key(&base_offset) {
            remove(
                self.disk,
                &segment::path(self.dir, base_offset, TRANSACTION_INDEX),
            )?;
        }
        let (file, _) = rebuilt
            .open(self.disk)
            .map_err(disk_error("open", &rebuilt.path))?;
        // After a clean stop a walk is a surprise: verify what it is about.
        let verify_from = if self.clean && repair {
            base_offset
        } else {
            self.recovery_point
        };
        let path = rebuilt.path.clone();
        let mut scanner = BatchScanner::new(file.as_ref(), 0, len_bytes, HEADER_WALK_BYTES);
        let bad = loop {
            match self
                .next_good(&mut scanner, base_offset, verify_from)
                .map_err(disk_error("read", &path))?
            {
                Scan::End => break None,
                Scan::Bad { position, error } => break Some((position, error)),
                Scan::Batch { batch: facts, .. } => {
                    if repair {
                        rebuilt.note(self.disk, &facts, self.index_interval_bytes);
                    }
                    if facts.base_offset >= self.replay_from {
                        let ended = self.producers.note(&facts, self.now_ms);
                        let aborted = ended.filter(|ended| rebuilds_aborted && !ended.commit);
                        if let Some(aborted) = aborted {
                            rebuilt.note_abort(self.disk, aborted.into());
                        }
                    }
                    self.unsynced.leader_epochs |= self
                        .leader_epochs
                        .note(facts.leader_epoch, facts.base_offset);
                    self.next_offset = facts.last_offset + 1;
                    self.report.batches_scanned += 1;
                }
            }
        };
        self.report.segments_scanned += 1;
        self.unsynced.active |= repair && !self.clean && self.next_offset > self.recovery_point;
        let Some((position, error)) = bad else {
            return Ok((rebuilt, true));
        };
        if !repair {
            // Synced long ago and damaged since: readers of that batch get the error, the rest stays.
            warn!(segment = %path.display(), position, %error, "bad batch below the recovery point");
            return Ok((rebuilt, true));
        }
        warn!(segment = %path.display(), position, %error, "bad batch, the log is cut here");
        let later: Vec<i64> = self
            .bases
            .iter()
            .copied()
            .filter(|base| *base > base_offset)
            .collect();
        self.delete_later(&later)?;
        file.truncate(position)
            .map_err(disk_error("truncate", &path))?;
        self.unsynced.active = true;
        self.unsynced.dir = true;
        self.report.bytes_truncated += len_bytes - position;
        Ok((rebuilt, false))
    }

    /// The facts of the next batch, if it is sound and its offsets go on from the last one.
    fn next_good(
        &self,
        scanner: &mut BatchScanner<'_>,
        base_offset: i64,
        verify_from: i64,
    ) -> io::Result<Scan<BatchFacts>> {
        let (position, mut facts) = match scanner.next_header()? {
            Scan::End => return Ok(Scan::End),
            Scan::Bad { position, error } => return Ok(Scan::Bad { position, error }),
            Scan::Batch { position, batch } => (position, BatchFacts::from(batch)),
        };
        if let Err(reason) = check_offsets(&facts, base_offset, self.next_offset) {
            return Ok(Scan::Bad {
                position,
                error: reason,
            });
        }
        if facts.base_offset >= self.end_offset_max {
            let reason = "it is beyond what is known to be on disk";
            let error = BatchError::Invalid { reason };
            return Ok(Scan::Bad { position, error });
        }
        let must_verify = facts.last_offset >= verify_from;
        if must_verify {
            scanner.set_window_bytes(WALK_BYTES);
        }
        if must_verify || facts.is_control {
            scanner.go_to(position);
            match scanner.next_batch()? {
                Scan::End => return Ok(Scan::End),
                Scan::Bad { position, error } => return Ok(Scan::Bad { position, error }),
                Scan::Batch { batch, .. } => {
                    if must_verify && let Err(error) = batch.verify_crc() {
                        return Ok(Scan::Bad { position, error });
                    }
                    facts.marker = batch.end_transaction();
                }
            }
        }
        Ok(Scan::Batch {
            position,
            batch: facts,
        })
    }

    fn delete_later(&mut self, later: &[i64]) -> Result<(), LogError> {
        for base_offset in later.iter().rev() {
            delete_segment(self.disk, self.dir, *base_offset)?;
            self.report.segments_deleted += 1;
        }
        if !later.is_empty() {
            self.disk
                .sync_dir(self.dir)
                .map_err(disk_error("sync", self.dir))?;
        }
        Ok(())
    }

    /// The active segment as it was closed, and the log end offset; `None` if its files do not fit each other.
    fn active_of_files(
        &self,
        base_offset: i64,
        len_bytes: u64,
    ) -> Result<Option<(ActiveSegment, i64)>, LogError> {
        let mut active = ActiveSegment::empty(self.dir, base_offset, self.now_ms);
        if len_bytes == 0 {
            return Ok(Some((active, self.next_offset)));
        }
        let index_path = segment::path(self.dir, base_offset, OFFSET_INDEX);
        let offset_index = GrowingIndex::<OffsetEntry>::load(self.disk, index_path.clone())
            .map_err(disk_error("read", &index_path))?;
        let time_path = segment::path(self.dir, base_offset, TIME_INDEX);
        let time_index = GrowingIndex::<TimeEntry>::load(self.disk, time_path.clone())
            .map_err(disk_error("read", &time_path))?;
        let (Some(offset_index), Some(time_index)) = (offset_index, time_index) else {
            return Ok(None);
        };
        let last = offset_index.entries().last().copied();
        let start = last.map_or(0, |entry| u64::from(entry.position.max(0).cast_unsigned()));
        let path = active.path.clone();
        // Opened for this look alone: an idle partition holds no file.
        let file = self.disk.open(&path).map_err(disk_error("open", &path))?;
        let first = match BatchScanner::new(file.as_ref(), 0, len_bytes, 0)
            .next_header()
            .map_err(disk_error("read", &path))?
        {
            Scan::Batch { batch, .. } => BatchFacts::from(batch),
            _ => return Ok(None),
        };
        let mut max_timestamp = time_index.entries().last().map(|entry| MaxTimestamp {
            timestamp: entry.timestamp,
            batch_last_offset: base_offset + i64::from(entry.relative_offset),
        });
        let mut scanner = BatchScanner::new(
            file.as_ref(),
            start,
            len_bytes,
            2 * self.index_interval_bytes as usize,
        );
        let mut next_offset = base_offset;
        let mut expected_last = last.map(|entry| base_offset + i64::from(entry.relative_offset));
        loop {
            match scanner.next_header().map_err(disk_error("read", &path))? {
                Scan::End => break,
                Scan::Bad { .. } => return Ok(None),
                Scan::Batch { batch, .. } => {
                    let facts = BatchFacts::from(batch);
                    let fits = expected_last
                        .take()
                        .is_none_or(|expected| expected == facts.last_offset);
                    if !fits || check_offsets(&facts, base_offset, next_offset).is_err() {
                        return Ok(None);
                    }
                    next_offset = facts.last_offset + 1;
                    if facts.max_timestamp > max_timestamp.map_or(-1, |max| max.timestamp) {
                        max_timestamp = Some(MaxTimestamp {
                            timestamp: facts.max_timestamp,
                            batch_last_offset: facts.last_offset,
                        });
                    }
                }
            }
        }
        if start >= len_bytes
            || max_timestamp.is_some_and(|max| max.batch_last_offset >= next_offset)
        {
            return Ok(None);
        }
        active.size_bytes = len_bytes;
        active.offset_index = offset_index;
        active.time_index = time_index;
        active.transaction_index = GrowingIndex::of_written(
            segment::path(self.dir, base_offset, TRANSACTION_INDEX),
            self.aborted_of_file(base_offset).to_vec(),
        );
        active.bytes_since_index_entry = len_bytes - start;
        active.max_timestamp = max_timestamp;
        active.first_timestamp = Some(first.max_timestamp);
        Ok(Some((active, next_offset)))
    }

    fn finish(mut self, listing: &Listing) -> Result<Recovered, LogError> {
        let active = match self.active.take() {
            Some(active) => active,
            None => ActiveSegment::empty(self.dir, self.next_offset, self.now_ms),
        };
        // Segments that a lost end has cut off; those after a bad batch are gone already.
        let later = (Bound::Excluded(active.base_offset), Bound::Unbounded);
        if self.report.bytes_truncated == 0 {
            let later: Vec<i64> = listing.logs.range(later).map(|(base, _)| *base).collect();
            self.delete_later(&later)?;
            self.unsynced.active |= !later.is_empty();
        }
        self.leader_epochs.truncate_from(self.next_offset);
        // All that is left gets acknowledged.
        self.producers.release_completed(self.next_offset);
        // Snapshots are kept where a segment starts, and the newest.
        for offset in listing
            .snapshots
            .iter()
            .filter(|offset| **offset != self.replay_from)
        {
            let is_base = self.bases.contains(offset);
            if !is_base || *offset > self.next_offset {
                remove(self.disk, &segment::path(self.dir, *offset, SNAPSHOT))?;
            }
        }
        Ok(Recovered {
            sealed: self.sealed,
            active,
            producers: self.producers,
            leader_epochs: self.leader_epochs,
            log_start_offset: 0,
            next_offset: self.next_offset,
            is_created: true,
            unsynced: self.unsynced,
            report: self.report,
        })
    }
}

fn check_offsets(
    facts: &BatchFacts,
    base_offset: i64,
    next_offset: i64,
) -> Result<(), crate::protocol::record_batch::BatchError> {
    use crate::protocol::record_batch::BatchError::Invalid;
    if facts.base_offset < next_offset {
        return Err(Invalid {
            reason: "offsets go back",
        });
    }
    if facts.last_offset < facts.base_offset {
        return Err(Invalid {
            reason: "last offset is below the base offset",
        });
    }
    if facts.last_offset.saturating_sub(base_offset) > i32::MAX.into() {
        return Err(Invalid {
            reason: "offset is too far from the segment's base",
        });
    }
    Ok(())
}
