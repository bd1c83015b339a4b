//! The sync journal: what was appended to all logs since the last round of group commit, in one write and one sync.
//!
//! A sync of a log's file is a commit of the file system's journal and a flush of the disk for each partition. Written here first, the bytes of
//! a round are durable with one flush of pages that are there already; the logs' own files follow when half of the journal is full.
//!
//! - There are two files, `sync-0.journal` and `sync-1.journal`, of one generation each (`frames.rs`). One is written; meanwhile the files of the
//!   logs that the other one has bytes of are synced (`Dirty::checkpoint`), and then it is free. If it is not free in time, the logs' files
//!   are synced directly, as they are without a journal.
//! - A log's recovery point is where its own files are synced. After a crash what lies between it and the end is put back from here, before
//!   the log is opened (`replay.rs`).
//! - Before the file of a segment is replaced by another of its name (compaction), what is here of it is made void.
//! - A write that fails ends its use until the next start; nothing that was acknowledged depends on a frame that failed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::log::LogError;

mod frames;
mod replay;

pub(crate) use frames::LogName;
use frames::{Frame, frame_bytes_max};
pub(crate) use replay::replay;

/// Files of the journal.
const HALVES: usize = 2;

fn path(data_dir: &Path, half: usize) -> PathBuf {
    data_dir.join(format!("sync-{half}.journal"))
}

/// Bytes that were appended to a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes<'a> {
    pub(super) log: LogName<'a>,
    pub(super) segment_base_offset: i64,
    pub(super) file: &'a dyn DiskFile,
    pub(super) position: u64,
    pub(super) length: usize,
}

/// The open journal. It begins empty.
#[derive(Debug)]
pub(super) struct SyncJournal {
    disk: Arc<dyn Disk>,
    data_dir: PathBuf,
    half_bytes_max: u64,
    files: [Option<Arc<dyn DiskFile>>; HALVES],
    current: usize,
    position: u64,
    generation: u64,
    sequence: u32,
    frame: Frame,
    has_failed: bool,
}

/// Whether a frame may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// In the half that is being written.
    Here,
    /// In the other half, if it is free.
    There,
    /// Never: it is longer than a half, or the journal has failed.
    Nowhere,
}

impl SyncJournal {
    /// The journal of a data directory, after [`replay`].
    pub(super) fn new(disk: Arc<dyn Disk>, data_dir: &Path, bytes_max: u64) -> Self {
        Self {
            disk,
            data_dir: data_dir.to_owned(),
            half_bytes_max: bytes_max / HALVES as u64,
            files: [None, None],
            current: 0,
            position: 0,
            generation: 1,
            sequence: 0,
            frame: Frame::default(),
            has_failed: false,
        }
    }

    /// Where there is room for these.
    pub(super) fn room<'a>(&self, all: impl Iterator<Item = (LogName<'a>, u64)>) -> Room {
        let (mut logs, mut name_bytes, mut bytes) = (0, 0, 0);
        for (log, length) in all {
            logs += 1;
            name_bytes += log.dir.len();
            bytes += length;
        }
        let frame_bytes = frame_bytes_max(logs, name_bytes, bytes);
        if self.has_failed || frame_bytes > self.half_bytes_max {
            Room::Nowhere
        } else if self.position + frame_bytes > self.half_bytes_max {
            Room::There
        } else {
            Room::Here
        }
    }

    /// Whether anything was written since the last [`SyncJournal::turn`].
    pub(super) fn is_begun(&self) -> bool {
        self.sequence > 0
    }

    /// Whether anything was ever written.
    pub(super) fn was_written(&self) -> bool {
        self.is_begun() || self.generation > 1
    }

    /// Goes on in the other half, which is free.
    pub(super) fn turn(&mut self) {
        self.current = (self.current + 1) % HALVES;
        self.position = 0;
        self.generation += 1;
        self.sequence = 0;
    }

    /// Writes one frame with these bytes; they are durable when it returns.
    pub(super) fn write<'a>(&mut self, all: impl Iterator<Item = Bytes<'a>>) -> io::Result<()> {
        self.frame.begin();
        for bytes in all {
            let read = |place: &mut [u8]| {
                let read = bytes.file.read_at(bytes.position, place)?;
                let is_whole = read == bytes.length;
                is_whole
                    .then_some(())
                    .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            };
            self.frame.appended(
                bytes.log,
                bytes.segment_base_offset,
                bytes.position,
                bytes.length,
                read,
            )?;
        }
        self.write_frame()
    }

    /// Makes void, durably, what is here of the segments of a log that begin below the offset.
    pub(super) fn void(&mut self, log: LogName<'_>, below: i64) -> io::Result<()> {
        self.frame.begin();
        self.frame.void(log, below)?;
        self.write_frame()
    }

    /// Has the files of a log hold what is here of it; `false` if a write here has failed.
    pub(super) fn put_back(&self, log: LogName<'_>) -> Result<bool, LogError> {
        if self.has_failed {
            return Ok(false);
        }
        let files = replay::open(self.disk.as_ref(), &self.data_dir)?;
        replay::put_back(self.disk.as_ref(), &self.data_dir, &files, Some(log))?;
        Ok(true)
    }

    fn write_frame(&mut self) -> io::Result<()> {
        if self.has_failed {
            return Err(io::Error::other("the sync journal has failed before"));
        }
        let written = self.try_write_frame();
        if let Err(error) = &written {
            tracing::error!(%error, "the sync journal failed and is left alone until the next start: each log is synced by itself");
            self.has_failed = true;
        }
        written
    }

    fn try_write_frame(&mut self) -> io::Result<()> {
        let Self { files, current, .. } = self;
        let file = match files.get(*current) {
            Some(Some(file)) => Arc::clone(file),
            _ => {
                let file = self.disk.open_or_create(&path(&self.data_dir, *current))?;
                self.disk.sync_dir(&self.data_dir)?;
                if let Some(place) = files.get_mut(*current) {
                    *place = Some(Arc::clone(&file));
                }
                file
            }
        };
        let frame = self.frame.finish(self.generation, self.sequence)?;
        file.write_all_at(self.position, frame)?;
        file.sync_data()?;
        self.position += frame.len() as u64;
        self.sequence += 1;
        Ok(())
    }
}
