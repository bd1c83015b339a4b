//! The window store over both backends: keys of windows in segments of time, and their expiry.
//!
//! With `T` the observed stream time, `R` the retention and `I` the segment interval:
//! 1. A window that starts at `s` is in segment `s / I`.
//! 2. Reads hide `s < T - R + 1`.
//! 3. Segments below `(T - R) / I` are gone: a put there is expired, and a commit deletes them as one range of keys.
//!    All their windows are hidden, so when exactly the range goes is nobody's concern.

use std::cell::RefCell;
use std::ops::{Bound, RangeBounds};
use std::rc::Rc;

use crate::key_schema::{self, WindowKey};
use crate::merge::{KeyRange, Merge};
use crate::state::StoreState;
use crate::{Direction, PutOutcome, StoreError, WindowIterator, WindowStore};

/// Retention and segments of a window store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retention {
    pub(crate) retention_ms: i64,
    pub(crate) segment_interval_ms: i64,
}

impl Retention {
    /// The lowest segment that is not gone at a stream time.
    pub(crate) fn live_segment_min(self, stream_time_ms: i64) -> u64 {
        key_schema::segment_of(
            stream_time_ms.saturating_sub(self.retention_ms),
            self.segment_interval_ms,
        )
    }

    /// The lowest window start that reads see at a stream time.
    fn visible_start_min(self, stream_time_ms: i64) -> i64 {
        stream_time_ms
            .saturating_sub(self.retention_ms)
            .saturating_add(1)
            .max(0)
    }

    pub(crate) fn segment_of(self, window_start_ms: i64) -> u64 {
        key_schema::segment_of(window_start_ms, self.segment_interval_ms)
    }

    /// Replaces the content of `out` with the stored key of a record of the changelog of `store`, whose time is observed. Whether the record
    /// has not expired.
    pub(crate) fn restored_key(
        self,
        store: &str,
        key: &[u8],
        stream_time_ms: &mut i64,
        out: &mut Vec<u8>,
    ) -> Result<bool, StoreError> {
        let window_key = WindowKey::parse(key).ok_or_else(|| StoreError::InvalidWindowKey {
            store: store.to_owned(),
            bytes: key.len(),
        })?;
        let window_start_ms = window_key.window_start_ms;
        if window_start_ms < 0 {
            return Err(StoreError::NegativeWindowStart {
                store: store.to_owned(),
                window_start_ms,
            });
        }
        *stream_time_ms = window_start_ms.max(*stream_time_ms);
        let segment = self.segment_of(window_start_ms);
        if segment < self.live_segment_min(*stream_time_ms) {
            return Ok(false);
        }
        key_schema::stored_key(segment, &window_key, out);
        Ok(true)
    }

    /// Which windows a read of one key or of several may look at.
    pub(crate) fn visible(
        self,
        stream_time_ms: i64,
        from_ms: i64,
        to_ms: i64,
    ) -> Option<(i64, i64)> {
        let from_ms = from_ms.max(self.visible_start_min(stream_time_ms));
        let to_ms = to_ms.min(stream_time_ms);
        (from_ms <= to_ms).then_some((from_ms, to_ms))
    }
}

/// A handle on a window store of a task.
pub(crate) struct Window {
    pub(crate) state: Rc<StoreState>,
    pub(crate) retention: Retention,
    /// The stored key of a put or a read, so that neither allocates.
    pub(crate) scratch: RefCell<Vec<u8>>,
}

impl WindowStore for Window {
    fn put(
        &mut self,
        key: &[u8],
        window_start_ms: i64,
        value: Option<&[u8]>,
    ) -> Result<PutOutcome, StoreError> {
        self.state.check_lengths(key, value)?;
        if window_start_ms < 0 {
            return Err(StoreError::NegativeWindowStart {
                store: self.state.name.clone(),
                window_start_ms,
            });
        }
        let stream_time_ms = self.state.stream_time_ms.get().max(window_start_ms);
        self.state.stream_time_ms.set(stream_time_ms);
        let segment = self.retention.segment_of(window_start_ms);
        if segment < self.retention.live_segment_min(stream_time_ms) {
            return Ok(PutOutcome::Expired);
        }
        let stored_key = self.scratch.get_mut();
        let window_key = WindowKey {
            key,
            window_start_ms,
            sequence: 0,
        };
        key_schema::stored_key(segment, &window_key, stored_key);
        self.state.overlay.borrow_mut().put(stored_key, value);
        Ok(PutOutcome::Stored)
    }

    fn read(
        &self,
        key: &[u8],
        window_start_ms: i64,
        out: &mut Vec<u8>,
    ) -> Result<bool, StoreError> {
        let stream_time_ms = self.state.stream_time_ms.get();
        if self
            .retention
            .visible(stream_time_ms, window_start_ms, window_start_ms)
            .is_none()
        {
            out.clear();
            return Ok(false);
        }
        let mut stored_key = self.scratch.borrow_mut();
        let window_key = WindowKey {
            key,
            window_start_ms,
            sequence: 0,
        };
        key_schema::stored_key(
            self.retention.segment_of(window_start_ms),
            &window_key,
            &mut stored_key,
        );
        self.state.read(&stored_key, out)
    }

    fn fetch(
        &self,
        key: &[u8],
        from_ms: i64,
        to_ms: i64,
        direction: Direction,
    ) -> Result<Box<dyn WindowIterator + '_>, StoreError> {
        let keys = Keys::Only(key.to_vec());
        Ok(Box::new(self.scan(keys, from_ms, to_ms, direction)))
    }

    fn fetch_range(
        &self,
        key_from: Bound<&[u8]>,
        key_to: Bound<&[u8]>,
        from_ms: i64,
        to_ms: i64,
        direction: Direction,
    ) -> Result<Box<dyn WindowIterator + '_>, StoreError> {
        let keys = Keys::between(key_from, key_to);
        Ok(Box::new(self.scan(keys, from_ms, to_ms, direction)))
    }

    fn observed_stream_time_ms(&self) -> i64 {
        self.state.stream_time_ms.get()
    }
}

impl Window {
    fn scan(
        &self,
        keys: Keys,
        from_ms: i64,
        to_ms: i64,
        direction: Direction,
    ) -> impl WindowIterator {
        let state = &*self.state;
        WindowScan::new(
            move |range, direction| Merge::live(state, range, direction),
            self.retention,
            state.stream_time_ms.get(),
            keys,
            (from_ms, to_ms),
            direction,
        )
    }
}

/// Which keys a search looks for.
pub(crate) enum Keys {
    Only(Vec<u8>),
    Between(Bound<Vec<u8>>, Bound<Vec<u8>>),
    All,
}

impl Keys {
    pub(crate) fn between(from: Bound<&[u8]>, to: Bound<&[u8]>) -> Keys {
        match (from, to) {
            (Bound::Unbounded, Bound::Unbounded) => Keys::All,
            (from, to) => Keys::Between(from.map(<[u8]>::to_vec), to.map(<[u8]>::to_vec)),
        }
    }

    fn contain(&self, key: &[u8]) -> bool {
        match self {
            Keys::Only(only) => only == key,
            Keys::Between(from, to) => (
                from.as_ref().map(Vec::as_slice),
                to.as_ref().map(Vec::as_slice),
            )
                .contains(key),
            Keys::All => true,
        }
    }
}

/// Walks the segments of a search one after the other, and each from its first key to its last.
///
/// What lies between the keys wanted is passed over: other windows of a range of keys, and keys that begin like the
/// one wanted.
pub(crate) struct WindowScan<'a, O> {
    open: O,
    keys: Keys,
    from_ms: i64,
    to_ms: i64,
    direction: Direction,
    /// First and last segment still to be walked.
    segments: Option<(u64, u64)>,
    current: Option<Merge<'a>>,
}

impl<'a, O> WindowScan<'a, O>
where
    O: Fn(KeyRange, Direction) -> Result<Merge<'a>, StoreError>,
{
    pub(crate) fn new(
        open: O,
        retention: Retention,
        stream_time_ms: i64,
        keys: Keys,
        (from_ms, to_ms): (i64, i64),
        direction: Direction,
    ) -> WindowScan<'a, O> {
        let visible = retention.visible(stream_time_ms, from_ms, to_ms);
        let (from_ms, to_ms) = visible.unwrap_or((0, 0));
        WindowScan {
            open,
            keys,
            from_ms,
            to_ms,
            direction,
            segments: visible.map(|(from_ms, to_ms)| {
                (retention.segment_of(from_ms), retention.segment_of(to_ms))
            }),
            current: None,
        }
    }

    /// Opens what is to be walked next; false when nothing is left.
    fn open_next(&mut self) -> Result<bool, StoreError> {
        let Some((first, last)) = self.segments else {
            return Ok(false);
        };
        let range = match &self.keys {
            // All keys of all segments are one range.
            Keys::All => {
                self.segments = None;
                KeyRange {
                    from: key_schema::lower_bound(first, Bound::Unbounded),
                    to: key_schema::segment_end(last),
                }
            }
            keys => {
                let segment = match self.direction {
                    Direction::Forward => first,
                    Direction::Backward => last,
                };
                self.segments = match self.direction {
                    _ if first == last => None,
                    Direction::Forward => Some((first + 1, last)),
                    Direction::Backward => Some((first, last - 1)),
                };
                self.range_in(segment, keys)
            }
        };
        self.current = Some((self.open)(range, self.direction)?);
        Ok(true)
    }

    fn range_in(&self, segment: u64, keys: &Keys) -> KeyRange {
        match keys {
            Keys::Only(key) => {
                let bound = |window_start_ms, sequence| {
                    let mut bound =
                        Vec::with_capacity(key.len() + key_schema::STORED_SUFFIX_BYTES + 1);
                    let window_key = WindowKey {
                        key,
                        window_start_ms,
                        sequence,
                    };
                    key_schema::stored_key(segment, &window_key, &mut bound);
                    bound
                };
                let mut to = bound(self.to_ms, u32::MAX);
                to.push(0);
                KeyRange {
                    from: bound(self.from_ms, 0),
                    to: Some(to),
                }
            }
            Keys::Between(from, to) => KeyRange {
                from: key_schema::lower_bound(segment, from.as_ref().map(Vec::as_slice)),
                to: key_schema::upper_bound(segment, to.as_ref().map(Vec::as_slice), self.to_ms),
            },
            Keys::All => KeyRange {
                from: key_schema::lower_bound(segment, Bound::Unbounded),
                to: key_schema::segment_end(segment),
            },
        }
    }
}

impl<'a, O> WindowIterator for WindowScan<'a, O>
where
    O: Fn(KeyRange, Direction) -> Result<Merge<'a>, StoreError>,
{
    fn next(&mut self) -> Result<Option<(&[u8], i64, &[u8])>, StoreError> {
        loop {
            let Some(current) = &mut self.current else {
                if !self.open_next()? {
                    return Ok(None);
                }
                continue;
            };
            if current.advance()? {
                let wanted = key_schema::parse_stored(current.key()).is_some_and(|found| {
                    (self.from_ms..=self.to_ms).contains(&found.window_start_ms)
                        && self.keys.contain(found.key)
                });
                if wanted {
                    break;
                }
            } else {
                self.current = None;
            }
        }
        // Found above; looked at again because the loop cannot lend from `current` and go on with it.
        Ok(self.current.as_ref().and_then(|current| {
            let found = key_schema::parse_stored(current.key())?;
            Some((found.key, found.window_start_ms, current.value()))
        }))
    }
}
