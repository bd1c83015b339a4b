//! Group commit: one sync for all that was appended since the last one began.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};

/// What has to reach the disk for all that was appended when the job was made.
#[derive(Debug)]
pub struct SyncJob {
    pub(super) disk: Arc<dyn Disk>,
    /// Files of sealed segments, oldest first, then the active one.
    pub(super) files: Vec<Arc<dyn DiskFile>>,
    /// The leader epoch checkpoint, if it has changed.
    pub(super) leader_epochs: Option<(PathBuf, String)>,
    /// Directories in which names have changed.
    pub(super) dirs: Vec<PathBuf>,
    pub(super) end_offset: i64,
    pub(super) appended: Option<AppendedBytes>,
}

/// Bytes of the active segment that no sync has taken along yet.
#[derive(Clone, Debug)]
pub struct AppendedBytes {
    pub segment_base_offset: i64,
    pub file: Arc<dyn DiskFile>,
    pub position: u64,
    pub length: u64,
}

/// Where a job's bytes are durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncedIn {
    /// In the log's own files.
    Files,
    /// In a journal that is put back into them after a crash. The next job that syncs files takes them along.
    Journal,
}

impl SyncJob {
    /// Syncs the files, then the names. Takes no lock of the log, and reads nothing of it.
    pub fn run(&self) -> io::Result<SyncedIn> {
        for file in &self.files {
            file.sync_data()?;
        }
        if let Some((path, text)) = &self.leader_epochs {
            self.disk.write_file_atomically(path, text.as_bytes())?;
        }
        for dir in &self.dirs {
            self.disk.sync_dir(dir)?;
        }
        Ok(SyncedIn::Files)
    }

    /// What a journal could hold instead; `None` if more is to be synced than bytes of the active segment.
    pub fn appended(&self) -> Option<&AppendedBytes> {
        self.appended.as_ref()
    }

    /// What `flushed_offset` will be after success.
    pub fn end_offset(&self) -> i64 {
        self.end_offset
    }
}
