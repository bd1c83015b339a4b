//! Window keys as bytes, and the bounds a search needs.
//!
//! A window key is `key ‖ window start in ms (8 bytes, big-endian) ‖ sequence (4 bytes, big-endian)`, byte-equal with
//! Kafka's `WindowKeySchema`: it is the key of the changelog record. The sequence tells duplicates apart in stores that
//! keep them, and is 0 in all others.
//!
//! On disk and in memory a window key is preceded by its segment, `window start / segment interval` in 8 bytes,
//! big-endian. So a segment is one range of keys: a search by time touches only the segments it needs, and expiry
//! deletes one range.

use std::ops::Bound;

/// Bytes of a window key after the key itself.
pub const WINDOW_SUFFIX_BYTES: usize = 8 + 4;

/// Bytes of the segment that precedes a window key in a store.
pub(crate) const SEGMENT_BYTES: usize = 8;

/// Bytes of a stored key beside the key itself.
pub(crate) const STORED_SUFFIX_BYTES: usize = SEGMENT_BYTES + WINDOW_SUFFIX_BYTES;

/// Above this length of key a range search reads on to the end of each segment: the exact bound costs the square of it.
const EXACT_BOUND_KEY_BYTES_MAX: usize = 256;

/// A window key taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowKey<'a> {
    /// The record's key.
    pub key: &'a [u8],
    /// Start of the window, in milliseconds since the epoch.
    pub window_start_ms: i64,
    /// Number among the duplicates of one key and window.
    pub sequence: u32,
}

impl<'a> WindowKey<'a> {
    /// Takes a window key apart; `None` when it is shorter than its suffix.
    pub fn parse(bytes: &'a [u8]) -> Option<WindowKey<'a>> {
        let (rest, sequence) = bytes.split_last_chunk::<4>()?;
        let (key, window_start) = rest.split_last_chunk::<8>()?;
        Some(WindowKey {
            key,
            window_start_ms: i64::from_be_bytes(*window_start),
            sequence: u32::from_be_bytes(*sequence),
        })
    }

    /// Appends the bytes to `out`.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.key);
        out.extend_from_slice(&self.window_start_ms.to_be_bytes());
        out.extend_from_slice(&self.sequence.to_be_bytes());
    }
}

/// The segment of a time that is not negative.
pub(crate) fn segment_of(time_ms: i64, segment_interval_ms: i64) -> u64 {
    (time_ms.max(0) / segment_interval_ms).cast_unsigned()
}

/// Replaces the content of `out` with the key as it is stored: segment, then window key.
pub(crate) fn stored_key(segment: u64, window_key: &WindowKey<'_>, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&segment.to_be_bytes());
    window_key.append_to(out);
}

/// Takes a stored key apart; `None` when it is too short.
pub(crate) fn parse_stored(bytes: &[u8]) -> Option<WindowKey<'_>> {
    let (_segment, window_key) = bytes.split_first_chunk::<SEGMENT_BYTES>()?;
    WindowKey::parse(window_key)
}

/// Where to begin in a segment for keys from `key_from` on: no stored key in the range is below it.
pub(crate) fn lower_bound(segment: u64, key_from: Bound<&[u8]>) -> Vec<u8> {
    let mut bound = segment.to_be_bytes().to_vec();
    if let Bound::Included(key) | Bound::Excluded(key) = key_from {
        bound.extend_from_slice(key);
    }
    bound
}

/// Where to stop in a segment (exclusive) for keys up to `key_to` and starts up to `to_ms`: no stored key in the range
/// is at or above it. `None` means there is no bound above.
///
/// A key that is a prefix of `key_to` sorts by its suffix against the rest of `key_to`, so the bound is the highest of
/// all prefixes of `key_to` with the highest suffix.
pub(crate) fn upper_bound(segment: u64, key_to: Bound<&[u8]>, to_ms: i64) -> Option<Vec<u8>> {
    let (Bound::Included(key) | Bound::Excluded(key)) = key_to else {
        return segment_end(segment);
    };
    if key.len() > EXACT_BOUND_KEY_BYTES_MAX {
        return segment_end(segment);
    }
    let mut suffix = to_ms.max(0).to_be_bytes().to_vec();
    suffix.extend_from_slice(&[0xff; 4]);
    // One byte more makes the bound exclusive.
    suffix.push(0);
    let highest = (0..=key.len())
        .filter_map(|length| key.get(..length))
        .map(|prefix| [prefix, &suffix].concat())
        .max()?;
    Some([&segment.to_be_bytes(), highest.as_slice()].concat())
}

/// The first key after a segment; `None` after the last segment.
pub(crate) fn segment_end(segment: u64) -> Option<Vec<u8>> {
    Some(segment.checked_add(1)?.to_be_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;

    fn short_key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(
            prop_oneof![Just(0u8), Just(1), Just(0xff), any::<u8>()],
            0..12,
        )
    }

    proptest! {
        #[test]
        fn a_window_key_survives_its_bytes(key: Vec<u8>, window_start_ms: i64, sequence: u32) {
            let window_key = WindowKey { key: &key, window_start_ms, sequence };
            let mut bytes = Vec::new();
            window_key.append_to(&mut bytes);
            prop_assert_eq!(WindowKey::parse(&bytes), Some(window_key));

            let mut stored = vec![9];
            stored_key(7, &window_key, &mut stored);
            prop_assert_eq!(parse_stored(&stored), Some(window_key));
        }

        #[test]
        fn windows_of_one_key_sort_by_time(key: Vec<u8>, a in 0..i64::MAX, b in 0..i64::MAX) {
            let bytes = |window_start_ms| {
                let mut bytes = Vec::new();
                WindowKey { key: &key, window_start_ms, sequence: 0 }.append_to(&mut bytes);
                bytes
            };
            prop_assert_eq!(a.cmp(&b), bytes(a).cmp(&bytes(b)));
        }

        #[test]
        fn no_key_of_a_range_is_outside_its_bounds(
            mut keys in prop::collection::vec(short_key(), 3),
            start in prop_oneof![0..300i64, 0..i64::MAX],
            later in 0..300i64,
            sequence: u32,
            segment in 0..u64::MAX,
        ) {
            keys.sort();
            let to_ms = start.saturating_add(later);
            let mut stored = Vec::new();
            stored_key(segment, &WindowKey { key: &keys[1], window_start_ms: start, sequence }, &mut stored);
            prop_assert!(lower_bound(segment, Bound::Included(&keys[0])) <= stored);
            prop_assert!(stored < upper_bound(segment, Bound::Included(&keys[2]), to_ms).unwrap());
            prop_assert!(stored < segment_end(segment).unwrap());
        }

        #[test]
        fn any_bytes_parse_or_are_refused(bytes: Vec<u8>) {
            prop_assert_eq!(WindowKey::parse(&bytes).is_some(), bytes.len() >= WINDOW_SUFFIX_BYTES);
        }
    }

    #[test]
    fn a_window_key_is_key_start_and_sequence() {
        let mut bytes = Vec::new();
        WindowKey {
            key: b"k",
            window_start_ms: 0x0102,
            sequence: 3,
        }
        .append_to(&mut bytes);
        assert_eq!(bytes, [b'k', 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3]);
    }
}
