//! Putting cleaned segments in the place of those they were made from, so that a crash leaves the one or the other.
//!
//! 1. The new files are there and synced, as `%020d.log.cleaned` and so on. A crash: they are removed.
//! 2. Producer snapshots within the replaced range go, before anything else: one may tell of a transaction that was open there and whose
//!    marker is gone now. Recovery does with an older one, or with none. Where the range begins with the log, what is known of producers
//!    from batches that were deleted before is written in the place of its first snapshot: no other tells it.
//! 3. The directory is synced; then `%020d.swap` is written atomically, which says what replaces what. This is the commit: a crash after it
//!    finishes the swap when the log is opened, and only then the log is looked at.
//! 4. Under the log's lock the old files whose names are taken get the suffix `.deleted`, the new files are renamed to those, and the log has the
//!    new segments. Readers that have planned their read hold the old files open.
//! 5. The replaced segments whose names are no longer used get the suffix `.deleted` too, the directory is synced, `.swap` is removed, the directory
//!    is synced. What is `.deleted` goes after `file.delete.delay.ms`, or with the next open; with a delay of zero the old files are
//!    overwritten in 4 and removed in 5.
//!
//! While a `.swap` is there, nobody else may remove a segment: `replica::Partition` has a lock for that, which is held from 2 to 5. If 4 or 5 fail
//! the log takes no more writes, and reads on, the files where they are; the next open finishes it. The same if 3 fails and cannot be undone.
//!
//! ## The file, as text
//! ```text
//! 0                                     version
//! replaced 0 100 200                    base offsets, oldest first
//! new 0 5120 log,index,timeindex        base offset, bytes of the log, files; a line a segment
//! crc 1d2c3b4a                          CRC-32C of all lines above
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{error, info, warn};

use crate::disk::Disk;
use crate::log::cleaner::rewrite::cleaned_path;
use crate::log::recovery::{DELETED_SUFFIX, delete_segment, remove, rename_deleted};
use crate::log::segment::{
    self, LOG, OFFSET_INDEX, SNAPSHOT, SealedSegment, TIME_INDEX, TRANSACTION_INDEX,
};
use crate::log::{Log, LogError, disk_error};

pub(crate) const SWAP: &str = "swap";
/// The log first: with it in place the others are found by their names.
const EXTENSIONS: [&str; 4] = [LOG, OFFSET_INDEX, TIME_INDEX, TRANSACTION_INDEX];

/// New segments beside those that they replace.
#[derive(Debug)]
#[must_use = "its files lie about until it is swapped or discarded"]
pub struct CleanedGroup {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Base offset and bytes.
    replaced: Vec<(i64, u64)>,
    new: Vec<SealedSegment>,
    plan: Plan,
    /// The producers' snapshot at the first offset, where the log begins with it.
    snapshot: Option<Vec<u8>>,
    /// What is replaced stays for `file.delete.delay.ms`, under another name.
    keeps_replaced: bool,
}

/// What replaces what, as the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    replaced: Vec<i64>,
    new: Vec<NewSegment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct NewSegment {
    base_offset: i64,
    log_bytes: u64,
    extensions: Vec<&'static str>,
}

impl Plan {
    fn encode(&self) -> String {
        use std::fmt::Write;
        let mut text = "0\nreplaced".to_owned();
        // Writing into a string does not fail.
        for base_offset in &self.replaced {
            let _ = write!(text, " {base_offset}");
        }
        text.push('\n');
        for segment in &self.new {
            let extensions = segment.extensions.join(",");
            let (base_offset, log_bytes) = (segment.base_offset, segment.log_bytes);
            let _ = writeln!(text, "new {base_offset} {log_bytes} {extensions}");
        }
        let crc = crc_fast::crc32_iscsi(text.as_bytes());
        let _ = writeln!(text, "crc {crc:08x}");
        text
    }

    fn decode(text: &[u8]) -> Option<Plan> {
        let text = str::from_utf8(text).ok()?;
        let (lines, crc) = text.trim_end().rsplit_once("crc ")?;
        if u32::from_str_radix(crc, 16).ok()? != crc_fast::crc32_iscsi(lines.as_bytes()) {
            return None;
        }
        let mut lines = lines.lines();
        if lines.next()? != "0" {
            return None;
        }
        let replaced = lines.next()?.strip_prefix("replaced")?.split_whitespace();
        let replaced = replaced
            .map(|word| word.parse().ok())
            .collect::<Option<_>>()?;
        let new = lines
            .map(|line| {
                let mut words = line.strip_prefix("new ")?.split_whitespace();
                let base_offset = words.next()?.parse().ok()?;
                let log_bytes = words.next()?.parse().ok()?;
                let known = |word| EXTENSIONS.into_iter().find(|known| *known == word);
                let extensions = words.next()?.split(',').map(known).collect::<Option<_>>()?;
                Some(NewSegment {
                    base_offset,
                    log_bytes,
                    extensions,
                })
            })
            .collect::<Option<_>>()?;
        Some(Plan { replaced, new })
    }

    /// Segments that are replaced under a name that no new one has.
    fn vanishing(&self) -> impl Iterator<Item = i64> {
        let is_new = |base: i64| self.new.iter().any(|new| new.base_offset == base);
        self.replaced
            .iter()
            .copied()
            .filter(move |base| !is_new(*base))
    }

    /// Removes what is replaced and has not been renamed over, then the plan itself, each durable before the next.
    fn clear(&self, disk: &dyn Disk, dir: &Path, plan: &Path) -> Result<(), LogError> {
        for base_offset in self.vanishing() {
            delete_segment(disk, dir, base_offset)?;
        }
        for new in &self.new {
            if !new.extensions.contains(&TRANSACTION_INDEX) {
                remove(
                    disk,
                    &segment::path(dir, new.base_offset, TRANSACTION_INDEX),
                )?;
            }
        }
        disk.sync_dir(dir).map_err(disk_error("sync", dir))?;
        remove(disk, plan)?;
        disk.sync_dir(dir).map_err(disk_error("sync", dir))
    }
}

impl CleanedGroup {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        replaced: Vec<(i64, u64)>,
        new: Vec<SealedSegment>,
    ) -> Self {
        let plan = Plan {
            replaced: replaced
                .iter()
                .map(|(base_offset, _)| *base_offset)
                .collect(),
            new: new
                .iter()
                .map(|segment| NewSegment {
                    base_offset: segment.base_offset,
                    log_bytes: segment.size_bytes,
                    extensions: extensions(segment).collect(),
                })
                .collect(),
        };
        CleanedGroup {
            disk,
            dir,
            replaced,
            new,
            plan,
            snapshot: None,
            keeps_replaced: false,
        }
    }

    fn plan_path(&self) -> PathBuf {
        let first = self.plan.replaced.first().copied().unwrap_or(0);
        segment::path(&self.dir, first, SWAP)
    }

    /// Removes the new files: the log stays as it is.
    pub fn discard(self) {
        let bases: Vec<_> = self.new.iter().map(|new| new.base_offset).collect();
        remove_cleaned(self.disk.as_ref(), &self.dir, &bases);
    }

    /// All segments that are replaced begin below it.
    pub fn replaced_below(&self) -> i64 {
        self.replaced.last().map_or(0, |(base, _)| base + 1)
    }

    /// Steps 2 and 3. Only after [`Log::prepare_swap`], and with nobody removing segments until [`CleanedGroup::finish`].
    pub fn commit(&self) -> Result<(), CommitError> {
        let disk = self.disk.as_ref();
        let path = self.plan_path();
        let prepare = || {
            let mut snapshot = self.snapshot.as_ref();
            for base_offset in &self.plan.replaced {
                let path = segment::path(&self.dir, *base_offset, SNAPSHOT);
                match snapshot.take() {
                    Some(first) => disk
                        .write_file_atomically(&path, first)
                        .map_err(disk_error("write", &path))?,
                    None => remove(disk, &path)?,
                }
            }
            disk.sync_dir(&self.dir)
                .map_err(disk_error("sync", &self.dir))
        };
        prepare().map_err(|error| CommitError {
            error,
            is_undone: true,
        })?;
        let Err(error) = disk.write_file_atomically(&path, self.plan.encode().as_bytes()) else {
            return Ok(());
        };
        let error = disk_error("write", &path)(error);
        // It may be there all the same. The new files must not go before it has.
        let undo = || {
            remove(disk, &path)?;
            disk.sync_dir(&self.dir)
                .map_err(disk_error("sync", &self.dir))
        };
        let is_undone = undo().is_ok();
        Err(CommitError { error, is_undone })
    }

    /// Step 5. Returns the files of replaced segments that are still there, to be removed after `file.delete.delay.ms`.
    pub fn finish(&self) -> Result<Vec<PathBuf>, LogError> {
        let disk = self.disk.as_ref();
        let mut renamed = Vec::new();
        if self.keeps_replaced {
            for base_offset in self.plan.vanishing() {
                renamed.extend(rename_deleted(disk, &self.dir, base_offset)?);
            }
        }
        self.plan.clear(disk, &self.dir, &self.plan_path())?;
        Ok(renamed)
    }
}

/// The plan of a swap could not be written.
#[derive(Debug)]
pub struct CommitError {
    pub error: LogError,
    /// It is not there. Otherwise nobody knows, and the log must not change any more.
    pub is_undone: bool,
}

fn extensions(segment: &SealedSegment) -> impl Iterator<Item = &'static str> {
    let has_aborted = !segment.aborted.is_empty();
    let transaction_index = Some(TRANSACTION_INDEX).filter(|_| has_aborted);
    [LOG, OFFSET_INDEX, TIME_INDEX]
        .into_iter()
        .chain(transaction_index)
}

pub(super) fn remove_cleaned(disk: &dyn Disk, dir: &Path, bases: &[i64]) {
    for base_offset in bases {
        for extension in EXTENSIONS {
            let path = cleaned_path(dir, *base_offset, extension);
            if let Err(error) = remove(disk, &path) {
                warn!(%error, "file of a cleaning not removed");
            }
        }
    }
}

impl Log {
    /// Whether the segments that a group was made from are those of the log; the group is told of the producers before them.
    pub fn prepare_swap(&self, group: &mut CleanedGroup) -> bool {
        let place = self.place_of(group).filter(|_| self.poison.is_none());
        if let (Some(place), Some((first, _))) = (&place, group.replaced.first())
            && place.start == 0
        {
            group.snapshot = self.producers.encode_snapshot_before(*first);
        }
        group.keeps_replaced = self.config.file_delete_delay_ms > 0;
        place.is_some()
    }

    /// Where in `sealed` the group's segments are.
    fn place_of(&self, group: &CleanedGroup) -> Option<std::ops::Range<usize>> {
        let (first, _) = group.replaced.first()?;
        let start = self
            .sealed
            .iter()
            .position(|segment| segment.base_offset == *first)?;
        let there = self.sealed.iter().skip(start);
        let there = there.map(|segment| (segment.base_offset, segment.size_bytes));
        let same = there
            .take(group.replaced.len())
            .eq(group.replaced.iter().copied());
        same.then_some(start..start + group.replaced.len())
    }

    /// Step 4: renames the new files over the old ones and has the log use them. After a failed rename it uses them under the names that they
    /// have, and takes no more writes.
    pub fn swap(&mut self, group: &mut CleanedGroup) {
        let Some(place) = self.place_of(group) else {
            // `prepare_swap` was asked, and nobody has removed any since.
            self.poison_for_swap(&"segments have changed during a swap");
            return;
        };
        let disk = Arc::clone(&self.disk);
        self.swaps += 1;
        for segment in &mut group.new {
            let base_offset = segment.base_offset;
            if group.keeps_replaced {
                self.set_aside(base_offset);
            }
            let mut rename = |extension, current: &mut PathBuf| {
                let path = segment::path(&self.dir, base_offset, extension);
                match disk.rename(current, &path) {
                    Ok(()) => *current = path,
                    Err(error) => {
                        self.poison
                            .get_or_insert(format!("rename {}: {error}", current.display()));
                    }
                }
            };
            rename(LOG, &mut segment.path);
            let mut path = segment.offset_index.path().to_owned();
            rename(OFFSET_INDEX, &mut path);
            segment.offset_index.set_path(path);
            let mut path = segment.time_index.path().to_owned();
            rename(TIME_INDEX, &mut path);
            segment.time_index.set_path(path);
            if !segment.aborted.is_empty() {
                // In memory: nobody reads the file before the next open.
                let mut path = cleaned_path(&self.dir, base_offset, TRANSACTION_INDEX);
                rename(TRANSACTION_INDEX, &mut path);
            }
        }
        let end_offset = group.new.last().map_or(0, |last| last.end_offset);
        let later = self.sealed.split_off(place.end);
        self.sealed.truncate(place.start);
        self.sealed.extend(std::mem::take(&mut group.new));
        self.sealed.extend(later);
        // The tail has the batches as they were, with transactions that the indexes do not know any more.
        self.tail.drop_before(end_offset);
        self.has_changed = true;
        if let Some(reason) = &self.poison {
            error!(dir = %self.dir.display(), reason, "swap of cleaned segments not finished, the log takes no more writes");
        }
    }

    /// Renames the files of a segment whose name a new one takes. If that fails they are overwritten, which is as right.
    fn set_aside(&mut self, base_offset: i64) {
        for extension in EXTENSIONS {
            let path = segment::path(&self.dir, base_offset, extension);
            // The log's first segment is replaced by each pass, so one of this name may be waiting to be removed.
            let aside = format!("{extension}.{}{DELETED_SUFFIX}", self.swaps);
            let aside = segment::path(&self.dir, base_offset, &aside);
            match self.disk.rename(&path, &aside) {
                Ok(()) => self.deleted.push(aside),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    warn!(path = %path.display(), %error, "replaced file is not kept for its delay");
                }
            }
        }
    }

    /// Files of replaced segments that are to be removed later.
    pub fn note_deleted(&mut self, files: Vec<PathBuf>) {
        self.deleted.extend(files);
    }

    /// A swap has begun and could not be ended: nothing may change until the next open has finished it.
    pub fn poison_for_swap(&mut self, reason: &dyn std::fmt::Display) {
        error!(dir = %self.dir.display(), %reason, "swap of cleaned segments failed, the log takes no more writes");
        self.poison
            .get_or_insert_with(|| format!("swap of cleaned segments failed: {reason}"));
    }

    /// Steps 2 to 5 in one, for an owner without other threads.
    pub fn swap_at_once(&mut self, mut group: CleanedGroup) -> Result<(), super::CleanError> {
        if !self.prepare_swap(&mut group) {
            group.discard();
            return Err(super::CleanError::Changed);
        }
        match group.commit() {
            Ok(()) => {}
            Err(CommitError { error, is_undone }) => {
                if is_undone {
                    group.discard();
                } else {
                    self.poison_for_swap(&error);
                }
                return Err(error.into());
            }
        }
        self.swap(&mut group);
        self.check_not_poisoned()?;
        match group.finish() {
            Ok(files) => self.note_deleted(files),
            Err(error) => {
                self.poison_for_swap(&error);
                return Err(error.into());
            }
        }
        Ok(())
    }
}

/// Finishes the swaps that a crash has left. Before anything else is done with the directory.
pub(in crate::log) fn finish_interrupted(
    disk: &dyn Disk,
    dir: &Path,
    plans: &[i64],
) -> Result<(), LogError> {
    for first in plans {
        let plan_path = segment::path(dir, *first, SWAP);
        let invalid = |reason: String| {
            let error = io::Error::new(io::ErrorKind::InvalidData, reason);
            disk_error("finish the swap of", &plan_path)(error)
        };
        let text = disk
            .read_file(&plan_path)
            .map_err(disk_error("read", &plan_path))?;
        let plan = Plan::decode(&text)
            .ok_or_else(|| invalid("it is written atomically, and damaged".to_owned()))?;
        for new in &plan.new {
            let log = segment::path(dir, new.base_offset, LOG);
            let cleaned = cleaned_path(dir, new.base_offset, LOG);
            let found = match disk.open(&cleaned) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => disk.open(&log),
                opened => opened,
            };
            let found = found.and_then(|file| file.len_bytes());
            let found = found.map_err(disk_error("find the new segment", &log))?;
            if found != new.log_bytes {
                let want = new.log_bytes;
                return Err(invalid(format!(
                    "{} has {found} bytes, want {want}",
                    log.display()
                )));
            }
            for extension in &new.extensions {
                let from = cleaned_path(dir, new.base_offset, extension);
                let to = segment::path(dir, new.base_offset, extension);
                match disk.rename(&from, &to) {
                    // Renamed before the crash.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    renamed => renamed.map_err(disk_error("rename", &from))?,
                }
            }
        }
        plan.clear(disk, dir, &plan_path)?;
        info!(dir = %dir.display(), base_offset = first, "swap of cleaned segments finished");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_plan_reads_back_and_a_changed_one_does_not(
            replaced in prop::collection::vec(0i64.., 0..5),
            new in prop::collection::vec((0i64.., any::<u64>(), 1usize..5), 0..5),
            at in any::<prop::sample::Index>(), bit in 0u8..7,
        ) {
            let new = new.into_iter().map(|(base_offset, log_bytes, count)| NewSegment {
                base_offset,
                log_bytes,
                extensions: EXTENSIONS.into_iter().take(count).collect(),
            });
            let plan = Plan { replaced, new: new.collect() };
            let mut text = plan.encode().into_bytes();
            prop_assert_eq!(Plan::decode(&text), Some(plan));
            let at = at.index(text.len() - 1);
            if let Some(byte) = text.get_mut(at) {
                *byte ^= 1 << bit;
            }
            let decoded = Plan::decode(&text);
            // A CRC in capital letters is the same number.
            prop_assert!(decoded.is_none() || bit == 5);
        }
    }
}
