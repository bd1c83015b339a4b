//! Frames on a connection: `length i32, bytes`.
//!
//! The length is the peer's claim. It is checked against a bound, and memory grows only as bytes arrive, so a claim of
//! 100 MiB costs nothing. Only Produce may use the whole bound; everything else is small, and may claim `SMALL_FRAME_BYTES_MAX`,
//! which also bounds what decoding can expand it to.

use bytes::{Bytes, BytesMut};

use super::{FrameError, api, be_i16, be_i32};

/// Largest frame of a request other than Produce.
pub const SMALL_FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Least and most room made for the next read.
const READ_BYTES_MIN: usize = 8 * 1024;
const READ_BYTES_MAX: usize = 1024 * 1024;

/// Cuts frames from a buffer that a connection appends to.
#[derive(Debug)]
pub struct FrameCutter {
    length_max: usize,
}

impl FrameCutter {
    /// `length_max` is `socket.request.max.bytes`.
    pub fn new(length_max: usize) -> Self {
        Self { length_max }
    }

    /// The next whole frame without its prefix, or `None` while bytes are missing.
    pub fn next(&self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        let Some(length) = self.length(buffer)? else {
            return Ok(None);
        };
        if buffer.len() < 4 + length {
            return Ok(None);
        }
        let mut frame = buffer.split_to(4 + length).freeze();
        Ok(Some(frame.split_off(4)))
    }

    /// How much room to make before the next read: what is missing, but no more than has arrived already.
    pub fn room(&self, buffer: &BytesMut) -> usize {
        let missing = match self.length(buffer) {
            Ok(Some(length)) => (4 + length).saturating_sub(buffer.len()),
            _ => READ_BYTES_MIN,
        };
        missing
            .min(buffer.len().max(READ_BYTES_MIN))
            .clamp(1, READ_BYTES_MAX)
    }

    /// Bytes of the frame that begins the buffer, prefix included, once the prefix is there.
    pub fn claimed(&self, buffer: &BytesMut) -> Option<usize> {
        Some(4 + self.length(buffer).ok()??)
    }

    fn length(&self, buffer: &BytesMut) -> Result<Option<usize>, FrameError> {
        let Some(claimed) = be_i32(buffer, 0) else {
            return Ok(None);
        };
        let bound = match be_i16(buffer, 4) {
            Some(key) if key != api::PRODUCE => self.length_max.min(SMALL_FRAME_BYTES_MAX),
            _ => self.length_max,
        };
        match usize::try_from(claimed) {
            Ok(length) if length <= bound => Ok(Some(length)),
            _ => Err(FrameError::Length {
                length: i64::from(claimed),
                length_max: bound,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn a_frame_is_cut_when_it_is_whole() {
        let cutter = FrameCutter::new(100);
        let mut buffer = BytesMut::from(&[0, 0, 0, 3, 1, 2][..]);
        assert_eq!(cutter.next(&mut buffer), Ok(None));
        buffer.extend_from_slice(&[3, 9]);
        assert_eq!(
            cutter.next(&mut buffer).unwrap().unwrap().as_ref(),
            [1, 2, 3]
        );
        assert_eq!(buffer.as_ref(), [9]);
    }

    #[test]
    fn a_negative_or_huge_length_is_refused_before_anything_arrives() {
        let cutter = FrameCutter::new(100);
        for prefix in [-1_i32, i32::MIN, 101, i32::MAX] {
            let mut buffer = BytesMut::from(&prefix.to_be_bytes()[..]);
            assert!(
                matches!(cutter.next(&mut buffer), Err(FrameError::Length { .. })),
                "{prefix}"
            );
        }
    }

    #[test]
    fn only_produce_may_send_a_large_frame() {
        let cutter = FrameCutter::new(100 * 1024 * 1024);
        let mut buffer = BytesMut::from(&(20_000_000_i32).to_be_bytes()[..]);
        buffer.extend_from_slice(&0_i16.to_be_bytes());
        assert_eq!(cutter.next(&mut buffer), Ok(None));
        buffer[5] = 3;
        assert!(cutter.next(&mut buffer).is_err());
    }

    #[test]
    fn room_grows_with_what_arrived_not_with_the_claim() {
        let cutter = FrameCutter::new(100 * 1024 * 1024);
        let mut buffer = BytesMut::from(&(100_000_000_i32).to_be_bytes()[..]);
        assert_eq!(cutter.room(&buffer), READ_BYTES_MIN);
        buffer.extend_from_slice(&vec![0; 50_000]);
        assert_eq!(cutter.room(&buffer), 50_004);
    }
}
