//! A value with the timestamp of its record (KIP-258): `timestamp in ms (8 bytes, big-endian) ‖ value`.
//!
//! Byte-equal with Kafka's `ValueAndTimestampSerializer`. The changelog holds the plain value and has the timestamp as
//! the record's own.

use crate::StoreError;

/// How many bytes come before the value.
pub const TIMESTAMP_BYTES: usize = 8;

/// Replaces the content of `out` with the timestamp and the value.
pub fn join(timestamp_ms: i64, value: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&timestamp_ms.to_be_bytes());
    out.extend_from_slice(value);
}

/// The timestamp in milliseconds since the epoch, and the plain value.
///
/// # Errors
/// [`StoreError::MissingTimestamp`] when there are fewer than eight bytes.
pub fn split(stored: &[u8]) -> Result<(i64, &[u8]), StoreError> {
    match stored.split_first_chunk::<TIMESTAMP_BYTES>() {
        Some((timestamp, value)) => Ok((i64::from_be_bytes(*timestamp), value)),
        None => Err(StoreError::MissingTimestamp {
            bytes: stored.len(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_joined_splits_again(timestamp_ms: i64, value: Vec<u8>) {
            let mut stored = vec![1, 2, 3];
            join(timestamp_ms, &value, &mut stored);
            prop_assert_eq!(stored.len(), TIMESTAMP_BYTES + value.len());
            prop_assert_eq!(split(&stored).ok(), Some((timestamp_ms, value.as_slice())));
        }
    }

    #[test]
    fn the_timestamp_comes_first_and_big_endian() {
        let mut stored = Vec::new();
        join(0x0102, b"v", &mut stored);
        assert_eq!(stored, [0, 0, 0, 0, 0, 0, 1, 2, b'v']);
    }

    #[test]
    fn seven_bytes_are_no_timestamp() {
        assert!(matches!(
            split(&[0; 7]),
            Err(StoreError::MissingTimestamp { bytes: 7 })
        ));
    }
}
