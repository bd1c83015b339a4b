//! Group commit.

use std::io;

/// What has to reach the disk for all that was appended when the job was made.
#[derive(Debug)]
pub struct SyncJob {
    end_offset: i64,
}

impl SyncJob {
    /// Syncs files in the order of their offsets, then their directory. Takes no lock of the log.
    pub fn run(&self) -> io::Result<()> {
        todo!()
    }

    /// What `flushed_offset` will be after success.
    pub fn end_offset(&self) -> i64 {
        self.end_offset
    }
}
