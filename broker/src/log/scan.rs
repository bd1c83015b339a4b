//! Walking the batches of a segment file, from a position on.

use std::io;

use crate::disk::DiskFile;
use crate::protocol::record_batch::{BatchError, BatchHeader, HEADER_BYTES, RecordBatch};

/// Walks the batches of a segment file in order. Only what is asked for is read: headers alone skip over the records.
#[derive(Debug)]
pub struct BatchScanner<'a> {
    file: &'a dyn DiskFile,
    /// Of the next batch.
    position: u64,
    /// Where the segment ends for this walk.
    end: u64,
    window_bytes: usize,
    buffer: Vec<u8>,
    /// Where in the file the buffer starts.
    buffer_position: u64,
}

/// What a step of the walk found.
#[derive(Debug)]
pub enum Scan<T> {
    End,
    Batch {
        position: u64,
        batch: T,
    },
    /// Not a batch, or one that is cut. The walk stays there.
    Bad {
        position: u64,
        error: BatchError,
    },
}

impl<'a> BatchScanner<'a> {
    /// Walks from `position` to `end` (exclusive), reading at least `window_bytes` at a time.
    pub fn new(file: &'a dyn DiskFile, position: u64, end: u64, window_bytes: usize) -> Self {
        BatchScanner {
            file,
            position,
            end,
            window_bytes,
            buffer: Vec::new(),
            buffer_position: 0,
        }
    }

    /// How much is read at a time from now on: little where records are skipped, much where they are read.
    pub fn set_window_bytes(&mut self, window_bytes: usize) {
        self.window_bytes = window_bytes;
    }

    /// Where the next batch starts.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Goes on from this position, which must be within what has been walked or at its end.
    pub fn go_to(&mut self, position: u64) {
        self.position = position;
    }

    /// The next batch's header; its length is checked against the end.
    pub fn next_header(&mut self) -> io::Result<Scan<BatchHeader<'_>>> {
        let position = self.position;
        let left = self.end.saturating_sub(position);
        if left == 0 {
            return Ok(Scan::End);
        }
        self.fill(HEADER_BYTES.min(left as usize))?;
        // Parsed twice, here for its length and below for its bytes: the borrow checker cannot see that only one path moves on.
        let size = match BatchHeader::parse(self.unread()) {
            Ok(header) => header.size_bytes() as u64,
            Err(error) => return Ok(Scan::Bad { position, error }),
        };
        if size > left {
            return Ok(Scan::Bad {
                position,
                error: BatchError::TooShort {
                    found: left as usize,
                    want: size as usize,
                },
            });
        }
        let unread_from = self.unread_from();
        self.position += size;
        match BatchHeader::parse(self.buffer.get(unread_from..).unwrap_or_default()) {
            Ok(batch) => Ok(Scan::Batch { position, batch }),
            Err(error) => Ok(Scan::Bad { position, error }),
        }
    }

    /// The next batch, whole. Neither its CRC nor its records are checked.
    pub fn next_batch(&mut self) -> io::Result<Scan<RecordBatch<'_>>> {
        let (position, size) = match self.next_header()? {
            Scan::End => return Ok(Scan::End),
            Scan::Bad { position, error } => return Ok(Scan::Bad { position, error }),
            Scan::Batch { position, batch } => (position, batch.size_bytes()),
        };
        self.position = position;
        // No more than is in the file: `next_header` has compared.
        self.fill(size)?;
        let unread_from = self.unread_from();
        match RecordBatch::parse(self.buffer.get(unread_from..).unwrap_or_default()) {
            Ok(batch) => {
                self.position += size as u64;
                Ok(Scan::Batch { position, batch })
            }
            Err(error) => Ok(Scan::Bad { position, error }),
        }
    }

    fn unread_from(&self) -> usize {
        self.position.saturating_sub(self.buffer_position) as usize
    }

    fn unread(&self) -> &[u8] {
        self.buffer.get(self.unread_from()..).unwrap_or_default()
    }

    /// Has the buffer hold so many bytes from the position on, if the file does.
    fn fill(&mut self, bytes: usize) -> io::Result<()> {
        let held = self.position >= self.buffer_position && self.unread().len() >= bytes;
        if held {
            return Ok(());
        }
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let wanted = bytes.max(self.window_bytes).min(left);
        self.buffer.resize(wanted, 0);
        let read = self.file.read_at(self.position, &mut self.buffer)?;
        self.buffer.truncate(read);
        self.buffer_position = self.position;
        Ok(())
    }
}
