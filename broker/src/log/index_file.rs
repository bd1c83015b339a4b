//! Sparse index files: sorted entries of one size, one after the other. What the offset index and the time index share.
//!
//! ## In memory while the segment grows, on disk once it is sealed
//! The active segment's entries (8 bytes for 4 KiB of log) are kept in memory and written in chunks; a crash loses some, and recovery makes
//! them anew from the segment. A sealed segment's index is searched in its file and keeps no memory. Kafka maps both, preallocated; we
//! pay a few preads for a lookup in an old segment, and need no unsafe code and no trimming.

use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};

/// An entry of a sparse index.
pub(super) trait IndexEntry: Copy + std::fmt::Debug {
    const BYTES: usize;
    /// What the entries are sorted by.
    fn key(&self) -> i64;
    fn encode(&self, buffer: &mut Vec<u8>);
    /// From exactly [`IndexEntry::BYTES`] bytes.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

/// Entries written to the file at once.
const CHUNK_ENTRIES: usize = 512;
/// Below so many entries a search reads them in one go.
const SEARCH_ENTRIES: u64 = 512;

/// The index of the active segment.
#[derive(Debug)]
pub(super) struct GrowingIndex<E> {
    path: PathBuf,
    entries: Vec<E>,
    written: usize,
    file: Option<Arc<dyn DiskFile>>,
}

impl<E: IndexEntry> GrowingIndex<E> {
    /// An index whose file, if there is one, is overwritten.
    pub(super) fn new(path: PathBuf) -> Self {
        GrowingIndex {
            path,
            entries: Vec::new(),
            written: 0,
            file: None,
        }
    }

    /// Goes on with the entries of a file that was closed; none if it is not whole.
    pub(super) fn load(disk: &dyn Disk, path: PathBuf) -> io::Result<Option<Self>> {
        let contents = match disk.read_file(&path) {
            Ok(contents) => contents,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if contents.len() % E::BYTES != 0 {
            return Ok(None);
        }
        let entries: Option<Vec<E>> = contents.chunks_exact(E::BYTES).map(E::decode).collect();
        let entries = entries.filter(|entries| entries.is_sorted_by_key(E::key));
        Ok(entries.map(|entries| GrowingIndex {
            path,
            written: entries.len(),
            entries,
            file: None,
        }))
    }

    /// Goes on with entries that are in the file.
    pub(super) fn of_written(path: PathBuf, entries: Vec<E>) -> Self {
        GrowingIndex {
            path,
            written: entries.len(),
            entries,
            file: None,
        }
    }

    /// Adds an entry with the highest key so far. Writes a chunk of entries when there is one; what could not be written is tried again with
    /// the next.
    pub(super) fn push(&mut self, disk: &dyn Disk, entry: E) {
        self.entries.push(entry);
        if self.entries.len() - self.written >= CHUNK_ENTRIES {
            // Nothing relies on it before `write_all`, which reports.
            let _ = self.write_all(disk);
        }
    }

    /// Brings the file up to the entries, creating it if need be. Returns its handle, for a sync.
    pub(super) fn write_all(&mut self, disk: &dyn Disk) -> io::Result<Arc<dyn DiskFile>> {
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => {
                let file = disk.open_or_create(&self.path)?;
                let expected = (self.written * E::BYTES) as u64;
                if file.len_bytes()? != expected {
                    file.truncate(expected)?;
                }
                self.file = Some(Arc::clone(&file));
                file
            }
        };
        let mut buffer = Vec::new();
        for entry in self.entries.iter().skip(self.written) {
            entry.encode(&mut buffer);
        }
        if !buffer.is_empty() {
            file.write_all_at((self.written * E::BYTES) as u64, &buffer)?;
            self.written = self.entries.len();
        }
        Ok(file)
    }

    pub(super) fn entries(&self) -> &[E] {
        &self.entries
    }

    /// The last entry with a key at or below this one.
    pub(super) fn floor(&self, key: i64) -> Option<E> {
        self.last_of(|entry| entry.key() <= key)
    }

    /// The last entry that is so; all before one that is so are so as well.
    pub(super) fn last_of(&self, is_so: impl Fn(&E) -> bool) -> Option<E> {
        last_of(&self.entries, is_so)
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.entries.len() * E::BYTES
    }

    pub(super) fn seal(self) -> SealedIndex<E> {
        SealedIndex {
            path: self.path,
            count: self.entries.len() as u64,
            entry: PhantomData,
        }
    }
}

/// The index of a segment that no longer grows.
#[derive(Debug)]
pub(super) struct SealedIndex<E> {
    path: PathBuf,
    count: u64,
    entry: PhantomData<E>,
}

impl<E> Clone for SealedIndex<E> {
    fn clone(&self) -> Self {
        SealedIndex {
            path: self.path.clone(),
            count: self.count,
            entry: PhantomData,
        }
    }
}

impl<E: IndexEntry> SealedIndex<E> {
    /// An index in a file of this length; none if that cannot be.
    pub(super) fn of_length(path: PathBuf, len_bytes: u64) -> Option<Self> {
        let bytes = E::BYTES as u64;
        len_bytes.is_multiple_of(bytes).then(|| SealedIndex {
            path,
            count: len_bytes / bytes,
            entry: PhantomData,
        })
    }

    pub(super) fn open(&self, disk: &dyn Disk) -> io::Result<OpenIndex<E>> {
        let file = if self.count == 0 {
            None
        } else {
            Some(disk.open(&self.path)?)
        };
        Ok(OpenIndex {
            file,
            count: self.count,
            entry: PhantomData,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its file has another name now.
    pub(super) fn set_path(&mut self, path: PathBuf) {
        self.path = path;
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.count * E::BYTES as u64
    }
}

/// A sealed index with its file open: may be searched after the segment has been deleted.
#[derive(Debug)]
pub(super) struct OpenIndex<E> {
    file: Option<Arc<dyn DiskFile>>,
    count: u64,
    entry: PhantomData<E>,
}

impl<E: IndexEntry> OpenIndex<E> {
    pub(super) fn last(&self) -> io::Result<Option<E>> {
        match self.count.checked_sub(1) {
            Some(last) => Ok(self.read(last, 1)?.pop()),
            None => Ok(None),
        }
    }

    /// The last entry with a key at or below this one.
    pub(super) fn floor(&self, key: i64) -> io::Result<Option<E>> {
        self.last_of(|entry| entry.key() <= key)
    }

    /// The last entry that is so; all before one that is so are so as well.
    pub(super) fn last_of(&self, is_so: impl Fn(&E) -> bool) -> io::Result<Option<E>> {
        // All entries before `low` are so, all from `high` on are not.
        let (mut low, mut high) = (0, self.count);
        while high - low > SEARCH_ENTRIES {
            let middle = low + (high - low) / 2;
            match self.read(middle, 1)?.pop() {
                Some(entry) if is_so(&entry) => low = middle,
                _ => high = middle,
            }
        }
        Ok(last_of(&self.read(low, high - low)?, is_so))
    }

    fn read(&self, first: u64, count: u64) -> io::Result<Vec<E>> {
        let Some(file) = &self.file else {
            return Ok(Vec::new());
        };
        // At most the 512 entries of a search.
        let mut buffer = vec![0; count as usize * E::BYTES];
        let read = file.read_at(first * E::BYTES as u64, &mut buffer)?;
        buffer.truncate(read);
        Ok(buffer
            .chunks_exact(E::BYTES)
            .filter_map(E::decode)
            .collect())
    }
}

fn last_of<E: IndexEntry>(entries: &[E], is_so: impl Fn(&E) -> bool) -> Option<E> {
    let beyond = entries.partition_point(is_so);
    beyond
        .checked_sub(1)
        .and_then(|last| entries.get(last))
        .copied()
}
