//! What the sync journal holds is put back into the logs' files, before a log is opened.
//!
//! 1. Both files are read; the older generation comes first.
//! 2. Entries count whose log is still there under the same topic id, whose segment is, and that no later entry has made void. Their bytes are
//!    written to it.
//! 3. Every file that has entries is synced. Then, and only then, the journal is emptied: a crash in between finds it again.
//!
//! An entry is written only when the names of its log and segment were durable. So where one is missing now, it was deleted since.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frames::{Entry, Frames, LogName};
use super::{HALVES, path};
use crate::disk::{Disk, DiskFile};
use crate::log::{LogError, disk_error, segment_path, topic_id_of};

type JournalFile = (PathBuf, Arc<dyn DiskFile>);

/// Puts back what the journal of a data directory holds, and empties it. After a clean stop there is nothing to put back.
pub(crate) fn replay(
    disk: &dyn Disk,
    data_dir: &Path,
    clean_shutdown: bool,
) -> Result<(), LogError> {
    let files = open(disk, data_dir)?;
    if !clean_shutdown {
        put_back(disk, data_dir, &files, None)?;
    }
    for (path, file) in &files {
        let empty = || {
            if file.len_bytes()? > 0 {
                file.truncate(0)?;
                file.sync_data()?;
            }
            Ok(())
        };
        empty().map_err(disk_error("empty", path))?;
    }
    Ok(())
}

/// The journal's files that are there.
pub(super) fn open(disk: &dyn Disk, data_dir: &Path) -> Result<Vec<JournalFile>, LogError> {
    let mut files = Vec::new();
    for half in 0..HALVES {
        let path = path(data_dir, half);
        match disk.open(&path) {
            Ok(file) => files.push((path, file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(disk_error("open", &path)(error)),
        }
    }
    Ok(files)
}

/// Puts back what the journal holds of all logs, or of one only.
pub(super) fn put_back(
    disk: &dyn Disk,
    data_dir: &Path,
    files: &[JournalFile],
    only: Option<LogName<'_>>,
) -> Result<(), LogError> {
    let contents: Vec<_> = files
        .iter()
        .map(|(path, _)| disk.read_file(path).map_err(disk_error("read", path)))
        .collect::<Result<_, _>>()?;
    let mut halves: Vec<_> = contents
        .iter()
        .map(|contents| Frames::read(contents))
        .collect();
    halves.sort_by_key(|half| half.generation);
    let entries = || halves.iter().flat_map(|half| &half.entries);

    let mut void: BTreeMap<LogName<'_>, i64> = BTreeMap::new();
    for entry in entries() {
        if let Entry::Void { log, below } = *entry {
            let offset = void.entry(log).or_insert(below);
            *offset = below.max(*offset);
        }
    }
    let mut segments: BTreeMap<(LogName<'_>, i64), Option<Segment>> = BTreeMap::new();
    let mut logs_there: BTreeMap<LogName<'_>, bool> = BTreeMap::new();
    let mut written_bytes = 0;
    for entry in entries() {
        let Entry::Appended {
            log,
            segment_base_offset,
            position,
            bytes,
        } = *entry
        else {
            continue;
        };
        if only.is_some_and(|only| only != log) {
            continue;
        }
        if void
            .get(&log)
            .is_some_and(|below| segment_base_offset < *below)
        {
            continue;
        }
        let dir = data_dir.join(log.dir);
        let is_there = match logs_there.entry(log) {
            btree_map::Entry::Occupied(found) => *found.get(),
            btree_map::Entry::Vacant(vacant) => {
                let found = topic_id_of(disk, &dir).map_err(disk_error("read", &dir))?;
                *vacant.insert(found == Some(log.topic_id))
            }
        };
        if !is_there {
            continue;
        }
        let segment = match segments.entry((log, segment_base_offset)) {
            btree_map::Entry::Occupied(found) => found.into_mut(),
            btree_map::Entry::Vacant(vacant) => vacant.insert(Segment::open(
                disk,
                segment_path(&dir, segment_base_offset),
            )?),
        };
        if let Some(segment) = segment {
            written_bytes += segment.put(position, bytes)?;
        }
    }
    let found: Vec<_> = segments.into_values().flatten().collect();
    for segment in &found {
        let synced = segment.file.sync_data();
        synced.map_err(disk_error("sync", &segment.path))?;
    }
    if written_bytes > 0 {
        let names: BTreeSet<_> = found.iter().map(|segment| &segment.path).collect();
        tracing::info!(bytes = written_bytes, segments = ?names, "put back from the sync journal");
    }
    Ok(())
}

struct Segment {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    size_bytes: u64,
}

impl Segment {
    /// `None` if it is not there.
    fn open(disk: &dyn Disk, path: PathBuf) -> Result<Option<Self>, LogError> {
        let file = match disk.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(disk_error("open", &path)(error)),
        };
        let size_bytes = file.len_bytes().map_err(disk_error("read", &path))?;
        Ok(Some(Self {
            path,
            file,
            size_bytes,
        }))
    }

    /// Has the file hold these bytes; how many were written.
    fn put(&mut self, position: u64, bytes: &[u8]) -> Result<u64, LogError> {
        if position > self.size_bytes {
            // What comes before it was synced, and is gone: the log's recovery will end there, whatever follows.
            tracing::warn!(segment = %self.path.display(), position, size_bytes = self.size_bytes, "segment ends before what the sync journal has of it");
            return Ok(0);
        }
        // Also where it seems to have them: after a sync that failed, the system's memory has bytes that the disk has not.
        self.file
            .write_all_at(position, bytes)
            .map_err(disk_error("write", &self.path))?;
        let end = position + bytes.len() as u64;
        self.size_bytes = self.size_bytes.max(end);
        Ok(bytes.len() as u64)
    }
}
