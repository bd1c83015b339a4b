//! The few file operations the broker uses: the real ones, and a simulated disk that fails and crashes on demand.
//!
//! Everything that touches files goes through [`Disk`], so that a test can fail or crash at the n-th operation.
//! Handles are `Arc`s: a sync runs on a cloned handle, without the lock of the log that the file belongs to.
//!
//! ## What is durable when
//! - Bytes of a file: after [`DiskFile::sync_data`] on it.
//! - A file's name (creation, rename, removal): after [`Disk::sync_dir`] on its directory.
//! - Neither says anything about other files: there is no order between files but the one we wait for.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::buffer::spare_capacity;

mod buffers;
mod file_range;
mod sim;

pub use file_range::{FileRange, Piece};
pub use sim::{Crash, Fault, SimDisk};

/// A name in a directory, with its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    pub name: String,
    pub is_dir: bool,
    /// Length in bytes; zero for a directory.
    pub len_bytes: u64,
}

/// The file operations of the broker, on paths.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Opens a file for reading and writing, creating it empty if it is not there.
    fn open_or_create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file for reading and writing; `NotFound` if it is not there.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// The names in a directory, in no order; `NotFound` if the directory is not there.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;

    /// The whole of a small file.
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Renames over an existing file. Durable after `sync_dir`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Readers with an open handle keep reading it.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Creates a directory with its parents; no error if it is there.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Removes a directory with everything in it; no error if it is not there.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Makes creations, renames and removals in this directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Replaces a small file so that a crash leaves either the old contents or the new: writes a temporary file,
    /// syncs it, renames it over `path`, syncs the directory.
    fn write_file_atomically(&self, path: &Path, contents: &[u8]) -> io::Result<()> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let file = self.open_or_create(&temporary)?;
        file.truncate(0)?;
        file.write_all_at(0, contents)?;
        file.sync_data()?;
        self.rename(&temporary, path)?;
        match path.parent() {
            Some(dir) => self.sync_dir(dir),
            None => Ok(()),
        }
    }
}

/// An open file. Positions are given with each call: a handle has no cursor, so it can be shared.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Writes all bytes at the position, extending the file as needed. After an error any prefix may have been written.
    fn write_all_at(&self, position: u64, bytes: &[u8]) -> io::Result<()>;

    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// As [`DiskFile::read_at`], into memory of its own, which need not be zeroed first.
    fn read_new_at(&self, position: u64, bytes_max: usize) -> io::Result<Bytes> {
        let mut buffer = vec![0; bytes_max];
        let read = self.read_at(position, &mut buffer)?;
        buffer.truncate(read);
        Ok(buffer.into())
    }

    /// The system's own handle, if there is one, for calls that move bytes from file to file.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Makes the file's bytes and its length durable. After an error the unsynced bytes may be lost for good, even if a later call
    /// succeeds: the caller must not retry.
    fn sync_data(&self) -> io::Result<()>;

    /// Cuts or extends (with zeros) the file to this length.
    fn truncate(&self, len_bytes: u64) -> io::Result<()>;

    /// Has the file system set bytes aside for the file up to this length, which does not become its length: a later `truncate` gives them
    /// back. For speed only.
    fn preallocate(&self, len_bytes: u64) -> io::Result<()>;

    /// The file's length in bytes.
    fn len_bytes(&self) -> io::Result<u64>;
}

/// The machine's own file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open_or_create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Removed between the listing and the look at it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry.file_name().into_string() {
                let is_dir = metadata.is_dir();
                entries.push(DirEntry {
                    name,
                    is_dir,
                    len_bytes: if is_dir { 0 } else { metadata.len() },
                });
            }
        }
        Ok(entries)
    }

    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }
}

#[derive(Debug)]
struct RealFile(fs::File);

impl DiskFile for RealFile {
    fn write_all_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, position)
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, position + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn read_new_at(&self, position: u64, bytes_max: usize) -> io::Result<Bytes> {
        let mut read = buffers::fill(bytes_max, |buffer| {
            while buffer.len() < bytes_max {
                let from = position + buffer.len() as u64;
                match rustix::io::pread(&self.0, spare_capacity(buffer), from) {
                    Ok(0) => break,
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        })?;
        // The capacity may be larger than asked for.
        read.truncate(bytes_max);
        Ok(read)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn truncate(&self, len_bytes: u64) -> io::Result<()> {
        self.0.set_len(len_bytes)
    }

    #[cfg(target_os = "linux")]
    fn preallocate(&self, len_bytes: u64) -> io::Result<()> {
        let flags = rustix::fs::FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.0, flags, 0, len_bytes)?)
    }

    /// Others set bytes aside only by making the file longer, which recovery would have to tell from a torn write.
    #[cfg(not(target_os = "linux"))]
    fn preallocate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_read_into_new_memory_ends_with_what_was_asked_for_or_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let disks: [(&dyn Disk, &Path); 2] = [
            (&RealDisk, dir.path()),
            (&SimDisk::default(), Path::new("/d")),
        ];
        for (disk, dir) in disks {
            disk.create_dir_all(dir).unwrap();
            let file = disk.open_or_create(&dir.join("file")).unwrap();
            file.write_all_at(0, b"0123456789").unwrap();
            let read = |position, bytes_max| file.read_new_at(position, bytes_max).unwrap();
            assert_eq!(read(0, 10), "0123456789", "{disk:?}");
            assert_eq!(read(3, 4), "3456", "{disk:?}");
            assert_eq!(read(7, 100), "789", "{disk:?}");
            assert_eq!(read(10, 5), "", "{disk:?}");
            assert_eq!(read(2, 0), "", "{disk:?}");
        }
    }
}
