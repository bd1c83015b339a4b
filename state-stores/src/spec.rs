//! What a task says about a store before it is opened.

/// Segments are never shorter than this (Kafka's 60 s), however short the retention.
const SEGMENT_INTERVAL_MIN_MS: i64 = 60_000;

/// Where a store keeps what is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// On disk, and there again after a restart.
    #[default]
    RocksDb,
    /// In memory; restored from its changelog from the start after a restart.
    InMemory,
}

/// What kind of store it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// A [`KeyValueStore`](crate::KeyValueStore).
    KeyValue,
    /// A [`WindowStore`](crate::WindowStore).
    Window {
        /// How long windows are kept behind the observed stream time, in milliseconds.
        retention_ms: i64,
        /// How much time a segment holds, in milliseconds. It is part of the layout on disk: a store that exists
        /// keeps the interval it was made with.
        segment_interval_ms: i64,
    },
}

impl StoreKind {
    /// A window store that keeps `retention_ms`, in segments of half of it and at least a minute, as Kafka's.
    pub fn window(retention_ms: i64) -> StoreKind {
        StoreKind::Window {
            retention_ms,
            segment_interval_ms: (retention_ms / 2).max(SEGMENT_INTERVAL_MIN_MS),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            StoreKind::KeyValue => "key-value",
            StoreKind::Window { .. } => "window",
        }
    }
}

/// One store of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSpec {
    /// Its name, unique in the task.
    pub name: String,
    /// Its kind.
    pub kind: StoreKind,
    /// Where it lives.
    pub backend: Backend,
}

impl StoreSpec {
    /// A key-value store.
    pub fn key_value(name: impl Into<String>, backend: Backend) -> StoreSpec {
        StoreSpec {
            name: name.into(),
            kind: StoreKind::KeyValue,
            backend,
        }
    }

    /// A window store with the segments of [`StoreKind::window`].
    pub fn window(name: impl Into<String>, retention_ms: i64, backend: Backend) -> StoreSpec {
        StoreSpec {
            name: name.into(),
            kind: StoreKind::window(retention_ms),
            backend,
        }
    }
}
