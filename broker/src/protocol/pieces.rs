//! A framed answer, in the pieces it is sent from: what was encoded, and records that stay where they are, in memory or in their file.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};

use crate::disk::Piece;

/// Bytes that follow each other on the wire but not where they are. Consumed as they are sent.
#[derive(Debug, Default)]
pub struct Pieces {
    /// None of them empty.
    pieces: VecDeque<Piece>,
    left_bytes: usize,
}

impl Pieces {
    /// Adds a piece at the end.
    pub(super) fn push(&mut self, piece: Piece) {
        let bytes = piece.size_bytes();
        if bytes > 0 {
            self.left_bytes += bytes;
            self.pieces.push_back(piece);
        }
    }

    /// Adds bytes before all others.
    pub(super) fn push_front(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.left_bytes += bytes.len();
            self.pieces.push_front(Piece::Memory(bytes));
        }
    }

    /// Takes away what was sent.
    pub fn advance(&mut self, mut bytes: usize) {
        assert!(
            bytes <= self.left_bytes,
            "advance by {bytes} of {} bytes",
            self.left_bytes
        );
        self.left_bytes -= bytes;
        while let Some(piece) = self.pieces.front_mut() {
            if bytes < piece.size_bytes() {
                match piece {
                    Piece::Memory(piece) => piece.advance(bytes),
                    Piece::File(range) => range.skip(bytes),
                }
                return;
            }
            bytes -= piece.size_bytes();
            self.pieces.pop_front();
        }
    }

    /// If a file comes first: has its first bytes, at most so many, come from memory.
    pub fn load_front(&mut self, bytes_max: usize) -> io::Result<()> {
        if let Some(Piece::File(range)) = self.pieces.front_mut() {
            let loaded = range.take_front(bytes_max)?;
            if range.size_bytes == 0 {
                self.pieces.pop_front();
            }
            self.left_bytes -= loaded.len();
            self.push_front(loaded);
        }
        Ok(())
    }

    /// What was not sent.
    pub fn left_bytes(&self) -> usize {
        self.left_bytes
    }

    /// What is to be sent next.
    pub fn front(&self) -> Option<&Piece> {
        self.pieces.front()
    }

    /// The pieces in memory that come before the next file, as many as there is room for.
    pub fn in_memory<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> InMemory {
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            let Piece::Memory(piece) = piece else { break };
            *slice = IoSlice::new(piece);
            count += 1;
        }
        InMemory {
            count,
            file_follows: matches!(self.pieces.get(count), Some(Piece::File(_))),
        }
    }

    /// All of them, read from where they are.
    pub fn read_all(mut self) -> io::Result<Vec<u8>> {
        let mut all = Vec::with_capacity(self.left_bytes);
        for piece in &mut self.pieces {
            match piece {
                Piece::Memory(bytes) => all.extend_from_slice(bytes),
                Piece::File(range) => all.extend_from_slice(&range.take_front(range.size_bytes)?),
            }
        }
        Ok(all)
    }
}

/// How far [`Pieces::in_memory`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InMemory {
    /// Slices that were filled.
    pub count: usize,
    /// Behind the last of them bytes of a file are to be sent.
    pub file_follows: bool,
}

impl From<Bytes> for Pieces {
    fn from(piece: Bytes) -> Self {
        let mut pieces = Self::default();
        pieces.push(Piece::Memory(piece));
        pieces
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::path::Path;

    use super::*;
    use crate::disk::{Disk, FileRange, SimDisk};

    /// "ab", nothing, "cde" of a file, "f".
    fn pieces() -> Pieces {
        let file = SimDisk::default().open_or_create(Path::new("/file"));
        let file = file.unwrap();
        file.write_all_at(0, b"?cde?").unwrap();
        let mut pieces = Pieces::from(Bytes::from_static(b"ab"));
        pieces.push(Piece::Memory(Bytes::new()));
        pieces.push(Piece::File(FileRange {
            file,
            position: 1,
            size_bytes: 3,
        }));
        pieces.push(Piece::Memory(Bytes::from_static(b"f")));
        pieces
    }

    #[test]
    fn an_advance_may_end_anywhere() {
        for first in 0..=6 {
            for second in 0..=6 - first {
                let mut left = pieces();
                left.advance(first);
                left.advance(second);
                assert_eq!(left.left_bytes(), 6 - first - second);
                assert_eq!(left.read_all().unwrap(), b"abcdef"[first + second..]);
            }
        }
    }

    #[test]
    fn a_file_may_be_loaded_bit_by_bit() {
        for loaded_bytes in 1..5 {
            let (mut left, mut seen) = (pieces(), Vec::new());
            while left.left_bytes() > 0 {
                left.load_front(loaded_bytes).unwrap();
                let mut slices = [IoSlice::new(&[])];
                assert_eq!(left.in_memory(&mut slices).count, 1);
                // One byte at a time: what is loaded is not loaded again.
                seen.push(slices[0][0]);
                left.advance(1);
            }
            assert_eq!(seen, b"abcdef");
        }
    }

    #[test]
    fn what_is_in_memory_ends_with_the_next_file_or_with_the_room() {
        let check = |pieces: &Pieces, room: usize| {
            let mut slices = vec![IoSlice::new(&[]); room];
            let found = pieces.in_memory(&mut slices);
            let seen: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            (found.count, found.file_follows, seen)
        };
        let mut left = pieces();
        assert_eq!(check(&left, 0), (0, false, b"".to_vec()));
        assert_eq!(check(&left, 5), (1, true, b"ab".to_vec()));
        left.advance(1);
        assert_eq!(check(&left, 1), (1, true, b"b".to_vec()));
        left.advance(2);
        assert_eq!(check(&left, 5), (0, true, b"".to_vec()));
        left.load_front(9).unwrap();
        assert_eq!(check(&left, 5), (2, false, b"def".to_vec()));
        assert_eq!(check(&left, 1), (1, false, b"de".to_vec()));
    }
}
