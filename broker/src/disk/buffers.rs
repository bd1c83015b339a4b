//! Memory for what is read from files, used again: fresh memory of this size comes from the kernel page by page, each zeroed and faulted in,
//! which costs more than to copy the bytes.
//!
//! A buffer goes back when the last [`Bytes`] that shares it is gone. What lies idle is bounded; more is given back to the system.

use std::io;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Shorter reads take their memory from the allocator, which has it at hand.
const BUFFER_BYTES_MIN: usize = 64 * 1024;

/// Longer ones too: they are rare, and would take all the room.
const BUFFER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Capacity that may lie idle.
const IDLE_BYTES_MAX: usize = 16 * 1024 * 1024;

static IDLE: Mutex<Idle> = Mutex::new(Idle {
    buffers: Vec::new(),
    bytes: 0,
});

/// Buffers that nobody uses, all of them empty.
#[derive(Debug)]
struct Idle {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl Idle {
    /// The one given back last that is large enough, and not so large that most of it would be wasted.
    fn take(&mut self, capacity: usize) -> Option<Vec<u8>> {
        let fits = |buffer: &Vec<u8>| (capacity..=capacity * 2).contains(&buffer.capacity());
        let buffer = self.buffers.remove(self.buffers.iter().rposition(fits)?);
        self.bytes -= buffer.capacity();
        Some(buffer)
    }

    /// Keeps it, unless there is no room.
    fn give(&mut self, mut buffer: Vec<u8>) -> Option<Vec<u8>> {
        if self.bytes + buffer.capacity() > IDLE_BYTES_MAX {
            return Some(buffer);
        }
        buffer.clear();
        self.bytes += buffer.capacity();
        self.buffers.push(buffer);
        None
    }
}

/// Has `read` fill an empty buffer of at least this capacity.
pub(super) fn fill(
    capacity: usize,
    read: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
) -> io::Result<Bytes> {
    if !(BUFFER_BYTES_MIN..=BUFFER_BYTES_MAX).contains(&capacity) {
        let mut buffer = Vec::with_capacity(capacity);
        read(&mut buffer)?;
        return Ok(buffer.into());
    }
    let idle = IDLE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take(capacity);
    // Powers of two, so that the next read finds it fitting.
    let fresh = || Vec::with_capacity(capacity.next_power_of_two());
    let mut lent = Lent(idle.unwrap_or_else(fresh));
    read(&mut lent.0)?;
    Ok(Bytes::from_owner(lent))
}

/// A buffer that goes back when it is dropped.
struct Lent(Vec<u8>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        let left = IDLE
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .give(buffer);
        // Without the lock.
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn idle() -> Idle {
        Idle {
            buffers: Vec::new(),
            bytes: 0,
        }
    }

    #[test]
    fn a_buffer_is_used_again_for_what_fills_at_least_half_of_it() {
        let mut idle = idle();
        assert_eq!(idle.give(Vec::with_capacity(1 << 20)), None);
        assert_eq!(idle.take((1 << 20) + 1), None);
        assert_eq!(idle.take((1 << 19) - 1), None);
        let again = idle.take(1 << 19).unwrap();
        assert_eq!((again.capacity(), idle.bytes), (1 << 20, 0));
        assert_eq!(idle.take(1 << 19), None);
    }

    #[test]
    fn a_buffer_that_comes_back_is_empty() {
        let mut idle = idle();
        let mut used = Vec::with_capacity(100_000);
        used.extend_from_slice(b"of others");
        assert_eq!(idle.give(used), None);
        assert_eq!(idle.take(100_000).unwrap(), b"");
    }

    #[test]
    fn what_lies_idle_is_bounded() {
        let mut idle = idle();
        for _ in 0..4 {
            assert_eq!(idle.give(Vec::with_capacity(IDLE_BYTES_MAX / 4)), None);
        }
        let left = idle.give(Vec::with_capacity(BUFFER_BYTES_MIN)).unwrap();
        assert_eq!(left.capacity(), BUFFER_BYTES_MIN);
        assert_eq!(idle.bytes, IDLE_BYTES_MAX);
    }

    #[test]
    fn bytes_of_any_length_hold_what_was_read() {
        for length in [0, 1, BUFFER_BYTES_MIN, BUFFER_BYTES_MIN * 3 / 2] {
            let fill = |of: u8| {
                let read = |buffer: &mut Vec<u8>| {
                    assert_eq!(buffer.len(), 0);
                    buffer.resize(length, of);
                    Ok(())
                };
                super::fill(length, read).unwrap()
            };
            let (one, two) = (fill(1), fill(2));
            assert!(one == vec![1; length] && two == vec![2; length]);
        }
    }
}
