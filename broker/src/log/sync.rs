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
}

impl SyncJob {
    /// Syncs the files, then the names. Takes no lock of the log, and reads nothing of it.
    pub fn run(&self) -> io::Result<()> {
        for file in &self.files {
            file.sync_data()?;
        }
        self.run_names()
    }

    /// What is to be synced before the names.
    pub fn files(&self) -> &[Arc<dyn DiskFile>] {
        &self.files
    }

    /// The rest of [`SyncJob::run`], once the files are synced.
    pub fn run_names(&self) -> io::Result<()> {
        if let Some((path, text)) = &self.leader_epochs {
            self.disk.write_file_atomically(path, text.as_bytes())?;
        }
        for dir in &self.dirs {
            self.disk.sync_dir(dir)?;
        }
        Ok(())
    }

    /// What `flushed_offset` will be after success.
    pub fn end_offset(&self) -> i64 {
        self.end_offset
    }
}
