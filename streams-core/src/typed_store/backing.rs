//! The bytes store beneath a typed store: key-value, or windows.

use std::sync::Arc;

use brooklet_state_stores::{KeyValueStore, PutOutcome, StoreError, WindowStore};

use crate::serde::{Window, Windowed};

/// Bytes by key and window; a key-value store has the one window 0.
pub(super) trait Backing<K>: 'static {
    /// What a flush listener gets as key.
    type FlushKey: 'static;

    fn flush_key(&self, key: &K, window_start: i64) -> Self::FlushKey;

    fn read(&self, key: &[u8], window_start: i64, out: &mut Vec<u8>) -> Result<bool, StoreError>;

    fn put(
        &mut self,
        key: &[u8],
        window_start: i64,
        value: Option<&[u8]>,
    ) -> Result<PutOutcome, StoreError>;

    /// A put is to come: observes its window and says whether the store still keeps it.
    fn observe(&mut self, window_start: i64) -> Result<PutOutcome, StoreError>;

    /// Whether a read may see this window.
    fn is_visible(&self, window_start: i64) -> bool;
}

pub(super) struct KeyValueBacking(pub(super) Box<dyn KeyValueStore>);

impl<K: Clone + 'static> Backing<K> for KeyValueBacking {
    type FlushKey = K;

    fn flush_key(&self, key: &K, _window_start: i64) -> K {
        key.clone()
    }

    fn read(&self, key: &[u8], _window_start: i64, out: &mut Vec<u8>) -> Result<bool, StoreError> {
        self.0.read(key, out)
    }

    fn put(
        &mut self,
        key: &[u8],
        _window_start: i64,
        value: Option<&[u8]>,
    ) -> Result<PutOutcome, StoreError> {
        self.0.put(key, value).map(|()| PutOutcome::Stored)
    }

    #[inline]
    fn observe(&mut self, _window_start: i64) -> Result<PutOutcome, StoreError> {
        Ok(PutOutcome::Stored)
    }

    #[inline]
    fn is_visible(&self, _window_start: i64) -> bool {
        true
    }
}

/// Windows. Expiry is decided here too, by the store's own rule, since what is cached reaches the store late.
pub(super) struct WindowBacking {
    pub(super) store: Box<dyn WindowStore>,
    pub(super) name: Arc<str>,
    pub(super) retention_ms: i64,
    pub(super) segment_interval_ms: i64,
    pub(super) window_size_ms: i64,
    /// Highest window start of a put, cached ones included.
    pub(super) observed_ms: i64,
}

impl WindowBacking {
    /// Highest window start that the store was given or is still to be given; -1 before the first.
    pub(super) fn stream_time_ms(&self) -> i64 {
        self.observed_ms.max(self.store.observed_stream_time_ms())
    }

    /// The lowest window start that reads see.
    pub(super) fn visible_start_min(&self) -> i64 {
        self.stream_time_ms()
            .saturating_sub(self.retention_ms)
            .saturating_add(1)
            .max(0)
    }

    /// The segment of a window, which comes before the key in the store's order.
    pub(super) fn segment_of(&self, window_start: i64) -> i64 {
        window_start.max(0) / self.segment_interval_ms
    }
}

impl<K: Clone + 'static> Backing<K> for WindowBacking {
    type FlushKey = Windowed<K>;

    fn flush_key(&self, key: &K, window_start: i64) -> Windowed<K> {
        Windowed::new(
            key.clone(),
            Window::starting_at(window_start, self.window_size_ms),
        )
    }

    fn read(&self, key: &[u8], window_start: i64, out: &mut Vec<u8>) -> Result<bool, StoreError> {
        self.store.read(key, window_start, out)
    }

    fn put(
        &mut self,
        key: &[u8],
        window_start: i64,
        value: Option<&[u8]>,
    ) -> Result<PutOutcome, StoreError> {
        self.store.put(key, window_start, value)
    }

    fn observe(&mut self, window_start: i64) -> Result<PutOutcome, StoreError> {
        if window_start < 0 {
            return Err(StoreError::NegativeWindowStart {
                store: self.name.to_string(),
                window_start_ms: window_start,
            });
        }
        self.observed_ms = self.stream_time_ms().max(window_start);
        let live_segment_min = self.segment_of(self.observed_ms.saturating_sub(self.retention_ms));
        Ok(if self.segment_of(window_start) < live_segment_min {
            PutOutcome::Expired
        } else {
            PutOutcome::Stored
        })
    }

    fn is_visible(&self, window_start: i64) -> bool {
        (self.visible_start_min()..=self.stream_time_ms()).contains(&window_start)
    }
}
