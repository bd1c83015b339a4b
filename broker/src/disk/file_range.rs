//! Bytes that are left in their file until they are needed, and perhaps never come into memory of ours: the kernel can send them itself.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::DiskFile;

/// Bytes of a file that no longer change. They stay readable when the file is renamed or removed.
#[derive(Clone)]
pub struct FileRange {
    pub file: Arc<dyn DiskFile>,
    pub position: u64,
    pub size_bytes: usize,
}

impl FileRange {
    /// Reads the first bytes, at most so many, and has the range start behind them.
    pub fn take_front(&mut self, bytes_max: usize) -> io::Result<Bytes> {
        let wanted = bytes_max.min(self.size_bytes);
        let read = self.file.read_new_at(self.position, wanted)?;
        if read.len() < wanted {
            return Err(self.ended_early());
        }
        self.skip(wanted);
        Ok(read)
    }

    /// Has the range start behind its first bytes.
    pub fn skip(&mut self, bytes: usize) {
        assert!(
            bytes <= self.size_bytes,
            "{bytes} of {} bytes skipped",
            self.size_bytes
        );
        self.position += bytes as u64;
        self.size_bytes -= bytes;
    }

    /// The file was cut by somebody else.
    pub fn ended_early(&self) -> io::Error {
        let (position, size_bytes) = (self.position, self.size_bytes);
        let message = format!("file ends before {size_bytes} bytes at {position}");
        io::Error::new(io::ErrorKind::UnexpectedEof, message)
    }
}

/// The same bytes of the same open file.
impl PartialEq for FileRange {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.file, &other.file)
            && (self.position, self.size_bytes) == (other.position, other.size_bytes)
    }
}

impl fmt::Debug for FileRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileRange")
            .field("position", &self.position)
            .field("size_bytes", &self.size_bytes)
            .finish_non_exhaustive()
    }
}

/// Bytes where they are.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    Memory(Bytes),
    File(FileRange),
}

impl Piece {
    pub fn size_bytes(&self) -> usize {
        match self {
            Piece::Memory(bytes) => bytes.len(),
            Piece::File(range) => range.size_bytes,
        }
    }

    /// How many of them are in memory.
    pub fn held_bytes(&self) -> usize {
        match self {
            Piece::Memory(bytes) => bytes.len(),
            Piece::File(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;
    use crate::disk::{Disk, SimDisk};

    #[test]
    fn a_range_is_read_front_first_also_when_its_name_is_gone() {
        let disk = SimDisk::default();
        let path = Path::new("/file");
        let file = disk.open_or_create(path).unwrap();
        file.write_all_at(0, b"0123456789").unwrap();
        let mut range = FileRange {
            file,
            position: 2,
            size_bytes: 6,
        };
        disk.remove_file(path).unwrap();
        assert_eq!(range.take_front(4).unwrap(), "2345");
        assert_eq!(range.take_front(4).unwrap(), "67");
        assert_eq!(range.take_front(4).unwrap(), "");
    }

    #[test]
    fn a_range_beyond_its_file_says_so_and_stays() {
        let file = SimDisk::default()
            .open_or_create(Path::new("/file"))
            .unwrap();
        file.write_all_at(0, b"0123").unwrap();
        let mut range = FileRange {
            file,
            position: 2,
            size_bytes: 3,
        };
        let error = range.take_front(3).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(error.to_string(), "file ends before 3 bytes at 2");
        assert_eq!((range.position, range.size_bytes), (2, 3));
    }
}
