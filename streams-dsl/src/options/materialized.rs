//! Where and how a table's rows are kept.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use brooklet_streams_core::record::Datum;
use brooklet_streams_core::serde::{HasSerde, Serde, SharedSerde, default_serde};
use brooklet_streams_core::typed_store::{KeyValueStoreBuilder, StoreKey, WindowStoreBuilder};

/// The store of a table: its name, serdes, and kind.
///
/// The default: a RocksDB store under a generated name, with the record cache and a changelog topic; the key's serde is that of the
/// grouping or source, the value's that of its type.
pub struct Materialized<K, V> {
    pub(crate) name: Option<String>,
    pub(crate) key: Option<SharedSerde<K>>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) store: StoreOptions,
}

/// What does not depend on the types.
#[derive(Debug)]
pub(crate) struct StoreOptions {
    pub(crate) in_memory: bool,
    pub(crate) caching: bool,
    /// Settings of the changelog topic; `None`: there is none.
    changelog_configs: Option<Vec<(String, String)>>,
    pub(crate) retention_ms: Option<i64>,
}

/// Sets on a builder what is said here: both kinds of builders have the same methods.
macro_rules! built {
    ($options:ident, $builder:ident) => {{
        let builder = $builder.caching($options.caching);
        let builder = match $options.changelog_configs {
            Some(configs) => configs.into_iter().fold(builder, |builder, (name, value)| {
                builder.changelog_config(name, value)
            }),
            None => builder.logging(false),
        };
        if $options.in_memory {
            builder.in_memory()
        } else {
            builder
        }
    }};
}

impl StoreOptions {
    /// A key-value store that is so.
    pub(crate) fn key_value<K: StoreKey, V: Datum>(
        self,
        builder: KeyValueStoreBuilder<K, V>,
    ) -> KeyValueStoreBuilder<K, V> {
        built!(self, builder)
    }

    /// A window store that is so.
    pub(crate) fn window<K: StoreKey, V: Datum>(
        self,
        builder: WindowStoreBuilder<K, V>,
    ) -> WindowStoreBuilder<K, V> {
        built!(self, builder)
    }
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            in_memory: false,
            caching: true,
            changelog_configs: Some(Vec::new()),
            retention_ms: None,
        }
    }
}

impl<K, V: HasSerde> Default for Materialized<K, V> {
    fn default() -> Self {
        Self::of(default_serde())
    }
}

impl<K, V> Materialized<K, V> {
    /// The default, for values of this serde.
    pub(crate) fn of(value: SharedSerde<V>) -> Self {
        Self {
            name: None,
            key: None,
            value,
            store: StoreOptions::default(),
        }
    }

    /// A store of this name, which queries use, and which keeps state and changelog in place when the topology changes.
    pub fn named(name: impl Into<String>) -> Self
    where
        V: HasSerde,
    {
        Self::default().store_name(name)
    }

    /// A store with these serdes.
    pub fn with(key: impl Serde<K>, value: impl Serde<V>) -> Self {
        Self {
            key: Some(Arc::new(key)),
            ..Self::of(Arc::new(value))
        }
    }

    /// As [`Materialized::named`], beside serdes.
    #[must_use]
    pub fn store_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Keeps the rows in memory instead of RocksDB.
    #[must_use]
    pub fn in_memory(mut self) -> Self {
        self.store.in_memory = true;
        self
    }

    /// Whether the record cache lies over the store. With it, of several updates of a row between two commits only the last goes downstream
    /// and into the changelog. On by default.
    #[must_use]
    pub fn caching(mut self, caching: bool) -> Self {
        self.store.caching = caching;
        self
    }

    /// Whether updates go to a changelog topic, from which a lost store is restored. On by default.
    #[must_use]
    pub fn logging(mut self, logging: bool) -> Self {
        let configs = self.store.changelog_configs.unwrap_or_default();
        self.store.changelog_configs = logging.then_some(configs);
        self
    }

    /// A setting of the changelog topic, under Kafka's name; there is a changelog then.
    ///
    /// ```
    /// use brooklet_streams_dsl::Materialized;
    ///
    /// let counts = Materialized::<String, i64>::named("counts").changelog_config("min.insync.replicas", "2");
    /// ```
    #[must_use]
    pub fn changelog_config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let configs = self.store.changelog_configs.get_or_insert_default();
        configs.push((name.into(), value.into()));
        self
    }

    /// How long a window store keeps a window after its start. At least, and by default, the windows' size plus grace.
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.store.retention_ms = Some(i64::try_from(retention.as_millis()).unwrap_or(i64::MAX));
        self
    }
}

impl<K, V> fmt::Debug for Materialized<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Materialized")
            .field("name", &self.name)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}
