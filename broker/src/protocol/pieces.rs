//! A framed answer, in the pieces it is written from: what was encoded, and records that stay where they were read.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

/// Bytes that follow each other on the wire but not in memory. Consumed as they are written.
#[derive(Debug, Default)]
pub struct Pieces {
    /// None of them empty.
    pieces: VecDeque<Bytes>,
    left_bytes: usize,
}

impl Pieces {
    /// Adds a piece at the end.
    pub(super) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.left_bytes += piece.len();
            self.pieces.push_back(piece);
        }
    }
}

impl From<Bytes> for Pieces {
    fn from(piece: Bytes) -> Self {
        let mut pieces = Self::default();
        pieces.push(piece);
        pieces
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.left_bytes
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut bytes: usize) {
        assert!(
            bytes <= self.left_bytes,
            "advance by {bytes} of {} bytes",
            self.left_bytes
        );
        self.left_bytes -= bytes;
        while let Some(piece) = self.pieces.front_mut() {
            if bytes < piece.len() {
                piece.advance(bytes);
                return;
            }
            bytes -= piece.len();
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;

    fn pieces() -> Pieces {
        let mut pieces = Pieces::from(Bytes::from_static(b"ab"));
        pieces.push(Bytes::new());
        pieces.push(Bytes::from_static(b"cde"));
        pieces.push(Bytes::from_static(b"f"));
        pieces
    }

    #[test]
    fn an_advance_may_end_anywhere() {
        for first in 0..=6 {
            for second in 0..=6 - first {
                let mut left = pieces();
                left.advance(first);
                left.advance(second);
                assert_eq!(left.remaining(), 6 - first - second);
                let taken = left.copy_to_bytes(left.remaining());
                assert_eq!(taken, b"abcdef".get(first + second..).unwrap_or_default());
            }
        }
    }

    #[test]
    fn a_vectored_write_sees_as_many_pieces_as_it_has_room_for() {
        let mut left = pieces();
        left.advance(1);
        for room in 0..5 {
            let mut slices = vec![IoSlice::new(&[]); room];
            let filled = left.chunks_vectored(&mut slices);
            assert_eq!(filled, room.min(3));
            let seen: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            assert_eq!(
                seen,
                ["b", "cde", "f"].map(str::as_bytes)[..filled].concat()
            );
        }
    }
}
