//! How a store is declared, and made for each task.

use std::any::{Any, type_name};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use brooklet_state_stores::{
    Backend, ChangeLogging, ChangelogSink, KeyValueStore, StoreKind, StoreSpec, Stores,
    ValueFormat, WindowStore,
};

use super::backing::{KeyValueBacking, WindowBacking};
use super::store::{Parts, Stamped, Store};
use super::{StoreKey, TimestampedKeyValueStore, TimestampedWindowStore};
use crate::cache::TaskCaches;
use crate::error::ProcessError;
use crate::record::Datum;
use crate::serde::{HasSerde, Serde, SharedSerde, default_serde};

/// A declared store, of which each task makes its own. Implemented by [`KeyValueStoreBuilder`] and [`WindowStoreBuilder`].
pub trait StoreBuilder: Send + Sync + 'static {
    /// The store's name.
    fn name(&self) -> &str;

    /// What the task's bytes stores are opened with.
    fn spec(&self) -> StoreSpec;

    /// Settings of the changelog topic beside those its kind implies, under Kafka's names; `None` when there is no changelog.
    fn changelog_configs(&self) -> Option<Vec<(String, String)>>;

    /// Makes the store of one task.
    ///
    /// # Errors
    /// When `site.stores` was not opened with [`StoreBuilder::spec`].
    fn build(&self, site: StoreSite<'_>) -> Result<BuiltStore, ProcessError>;
}

/// Where a store is made.
pub struct StoreSite<'a> {
    /// The task's bytes stores.
    pub stores: &'a Stores,
    /// Name of the changelog topic, which serdes get as topic; also when there is no changelog.
    pub changelog_topic: Arc<str>,
    /// Where changes go; `None` when there is no changelog.
    pub changelog: Option<Box<dyn ChangelogSink>>,
    /// The task's caches. Stores are made upstream first, which is the order they are flushed in.
    pub caches: &'a mut TaskCaches,
}

/// A store of one task, of any type.
#[derive(Clone)]
pub struct BuiltStore {
    name: Arc<str>,
    /// `key-value store of K and V`.
    what: Arc<str>,
    handle: Rc<dyn Any>,
}

impl BuiltStore {
    fn new<H: Any>(name: &Arc<str>, what: String, handle: H) -> Self {
        Self {
            name: Arc::clone(name),
            what: what.into(),
            handle: Rc::new(handle),
        }
    }

    /// The store as a key-value store.
    ///
    /// # Errors
    /// When it is another kind of store, or one of other types.
    pub fn key_value<K: StoreKey, V: Datum>(
        &self,
    ) -> Result<TimestampedKeyValueStore<K, V>, ProcessError> {
        self.downcast(describe::<K, V>("key-value"))
    }

    /// The store as a window store.
    ///
    /// # Errors
    /// When it is another kind of store, or one of other types.
    pub fn window<K: StoreKey, V: Datum>(
        &self,
    ) -> Result<TimestampedWindowStore<K, V>, ProcessError> {
        self.downcast(describe::<K, V>("window"))
    }

    fn downcast<H: Any + Clone>(&self, wanted: String) -> Result<H, ProcessError> {
        let handle = self.handle.downcast_ref::<H>().cloned();
        handle.ok_or_else(|| {
            ProcessError::new(format!(
                "store {} is a {}, not a {wanted}",
                self.name, self.what
            ))
        })
    }
}

fn describe<K, V>(kind: &str) -> String {
    format!(
        "{kind} store of {} and {}",
        type_name::<K>(),
        type_name::<V>()
    )
}

/// What both builders have in common.
struct Declared<K, V> {
    name: String,
    keys: SharedSerde<K>,
    values: SharedSerde<V>,
    backend: Backend,
    is_cached: bool,
    changelog_configs: Option<Vec<(String, String)>>,
}

impl<K, V> Clone for Declared<K, V> {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            keys: Arc::clone(&self.keys),
            values: Arc::clone(&self.values),
            backend: self.backend,
            is_cached: self.is_cached,
            changelog_configs: self.changelog_configs.clone(),
        }
    }
}

impl<K: StoreKey, V: Datum> Declared<K, V> {
    fn new(name: String, keys: SharedSerde<K>, values: SharedSerde<V>) -> Self {
        Self {
            name,
            keys,
            values,
            backend: Backend::RocksDb,
            is_cached: false,
            changelog_configs: Some(Vec::new()),
        }
    }

    fn parts<B>(
        &self,
        site: &StoreSite<'_>,
        delete_timestamp: Rc<Cell<i64>>,
        backing: B,
    ) -> Parts<K, V, B> {
        let thread = site.caches.thread();
        Parts {
            name: self.name.as_str().into(),
            topic: Arc::clone(&site.changelog_topic),
            keys: Arc::clone(&self.keys),
            values: Arc::clone(&self.values),
            backing,
            delete_timestamp,
            cache: (self.is_cached && thread.is_enabled()).then(|| Rc::clone(thread)),
        }
    }
}

/// Declares a key-value store of values with timestamps. On disk, without cache, with a changelog, unless told otherwise.
///
/// ```
/// use brooklet_streams_core::typed_store::{KeyValueStoreBuilder, StoreBuilder};
///
/// let counts = KeyValueStoreBuilder::<String, i64>::new("counts").caching(true).in_memory();
/// assert_eq!(counts.name(), "counts");
/// assert!(counts.changelog_configs().is_some());
/// ```
pub struct KeyValueStoreBuilder<K, V>(Declared<K, V>);

/// Declares a window store of values with timestamps. On disk, without cache, with a changelog, unless told otherwise.
pub struct WindowStoreBuilder<K, V> {
    declared: Declared<K, V>,
    retention_ms: i64,
    window_size_ms: i64,
}

impl<K, V> Clone for KeyValueStoreBuilder<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, V> Clone for WindowStoreBuilder<K, V> {
    fn clone(&self) -> Self {
        Self {
            declared: self.declared.clone(),
            ..*self
        }
    }
}

impl<K: StoreKey + HasSerde, V: Datum + HasSerde> KeyValueStoreBuilder<K, V> {
    /// A store with the default serdes of its types.
    pub fn new(name: impl Into<String>) -> Self {
        Self::shared(name, default_serde(), default_serde())
    }
}

impl<K: StoreKey + HasSerde, V: Datum + HasSerde> WindowStoreBuilder<K, V> {
    /// A store with the default serdes of its types, which keeps windows for `retention_ms` behind the highest window start it is given.
    /// `window_size_ms` is only told to flush listeners and iterations, in the windows' ends.
    pub fn new(name: impl Into<String>, retention_ms: i64, window_size_ms: i64) -> Self {
        Self::shared(
            name,
            retention_ms,
            window_size_ms,
            default_serde(),
            default_serde(),
        )
    }
}

impl<K: StoreKey, V: Datum> KeyValueStoreBuilder<K, V> {
    /// A store with these serdes.
    pub fn with(name: impl Into<String>, keys: impl Serde<K>, values: impl Serde<V>) -> Self {
        Self::shared(name, Arc::new(keys), Arc::new(values))
    }

    /// A store with these serdes, already shared.
    pub fn shared(name: impl Into<String>, keys: SharedSerde<K>, values: SharedSerde<V>) -> Self {
        Self(Declared::new(name.into(), keys, values))
    }
}

impl<K: StoreKey, V: Datum> WindowStoreBuilder<K, V> {
    /// A store with these serdes; else as [`WindowStoreBuilder::new`].
    pub fn with(
        name: impl Into<String>,
        retention_ms: i64,
        window_size_ms: i64,
        keys: impl Serde<K>,
        values: impl Serde<V>,
    ) -> Self {
        Self::shared(
            name,
            retention_ms,
            window_size_ms,
            Arc::new(keys),
            Arc::new(values),
        )
    }

    /// A store with these serdes, already shared; else as [`WindowStoreBuilder::new`].
    pub fn shared(
        name: impl Into<String>,
        retention_ms: i64,
        window_size_ms: i64,
        keys: SharedSerde<K>,
        values: SharedSerde<V>,
    ) -> Self {
        Self {
            declared: Declared::new(name.into(), keys, values),
            retention_ms,
            window_size_ms,
        }
    }
}

/// The options both builders have.
macro_rules! options {
    ($builder:ident, $declared:tt) => {
        impl<K: StoreKey, V: Datum> $builder<K, V> {
            /// Keeps the store in memory; after a restart it is restored from its changelog.
            #[must_use]
            pub fn in_memory(mut self) -> Self {
                self.$declared.backend = Backend::InMemory;
                self
            }

            /// Keeps the store on disk, in RocksDB: the default.
            #[must_use]
            pub fn rocksdb(mut self) -> Self {
                self.$declared.backend = Backend::RocksDb;
                self
            }

            /// Whether the record cache is before the store, if the thread has one. Off by default, as with Kafka's builders.
            #[must_use]
            pub fn caching(mut self, is_cached: bool) -> Self {
                self.$declared.is_cached = is_cached;
                self
            }

            /// Whether there is a changelog topic. Without one the store's content is lost with its directory.
            #[must_use]
            pub fn logging(mut self, is_logged: bool) -> Self {
                self.$declared.changelog_configs =
                    is_logged.then(|| self.$declared.changelog_configs.unwrap_or_default());
                self
            }

            /// A setting of the changelog topic, under Kafka's name. There is a changelog then.
            #[must_use]
            pub fn changelog_config(
                mut self,
                name: impl Into<String>,
                value: impl Into<String>,
            ) -> Self {
                self.$declared
                    .changelog_configs
                    .get_or_insert_default()
                    .push((name.into(), value.into()));
                self
            }
        }
    };
}

options!(KeyValueStoreBuilder, 0);
options!(WindowStoreBuilder, declared);

impl<K: StoreKey, V: Datum> StoreBuilder for KeyValueStoreBuilder<K, V> {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn spec(&self) -> StoreSpec {
        StoreSpec::key_value(&self.0.name, self.0.backend)
    }

    fn changelog_configs(&self) -> Option<Vec<(String, String)>> {
        self.0.changelog_configs.clone()
    }

    fn build(&self, mut site: StoreSite<'_>) -> Result<BuiltStore, ProcessError> {
        let bytes = site.stores.key_value(&self.0.name)?;
        let timestamp = Rc::new(Cell::new(-1));
        let bytes: Box<dyn KeyValueStore> = match site.changelog.take() {
            Some(sink) => Box::new(ChangeLogging::new(
                bytes,
                Stamped {
                    sink,
                    timestamp: Rc::clone(&timestamp),
                },
                ValueFormat::Timestamped,
            )),
            None => bytes,
        };
        let store = Rc::new(Store::new(self.0.parts(
            &site,
            timestamp,
            KeyValueBacking(bytes),
        )));
        if store.is_cached() {
            site.caches.add(Rc::clone(&store) as _);
        }
        let what = describe::<K, V>("key-value");
        Ok(BuiltStore::new(
            &Arc::clone(store.name()),
            what,
            TimestampedKeyValueStore::<K, V>(store),
        ))
    }
}

impl<K: StoreKey, V: Datum> StoreBuilder for WindowStoreBuilder<K, V> {
    fn name(&self) -> &str {
        &self.declared.name
    }

    fn spec(&self) -> StoreSpec {
        StoreSpec::window(
            &self.declared.name,
            self.retention_ms,
            self.declared.backend,
        )
    }

    fn changelog_configs(&self) -> Option<Vec<(String, String)>> {
        self.declared.changelog_configs.clone()
    }

    fn build(&self, mut site: StoreSite<'_>) -> Result<BuiltStore, ProcessError> {
        let bytes = site.stores.window(&self.declared.name)?;
        let timestamp = Rc::new(Cell::new(-1));
        let bytes: Box<dyn WindowStore> = match site.changelog.take() {
            Some(sink) => Box::new(ChangeLogging::new(
                bytes,
                Stamped {
                    sink,
                    timestamp: Rc::clone(&timestamp),
                },
                ValueFormat::Timestamped,
            )),
            None => bytes,
        };
        let StoreKind::Window {
            segment_interval_ms,
            ..
        } = StoreKind::window(self.retention_ms)
        else {
            unreachable!("a window kind is one")
        };
        let backing = WindowBacking {
            store: bytes,
            name: self.declared.name.as_str().into(),
            retention_ms: self.retention_ms,
            segment_interval_ms,
            window_size_ms: self.window_size_ms,
            observed_ms: -1,
        };
        let store = Rc::new(Store::new(self.declared.parts(&site, timestamp, backing)));
        if store.is_cached() {
            site.caches.add(Rc::clone(&store) as _);
        }
        let what = describe::<K, V>("window");
        Ok(BuiltStore::new(
            &Arc::clone(store.name()),
            what,
            TimestampedWindowStore::<K, V>(store),
        ))
    }
}
