//! Reading rows of a table: from its store, or computed from the rows of the table it is a view of.

use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::record::Datum;
use brooklet_streams_core::serde::Windowed;
use brooklet_streams_core::typed_store::{
    BuiltStore, StoreKey, TimestampedKeyValueStore, TimestampedWindowStore,
};

/// Finds a store by name while a task is set up.
pub(crate) type FindStore<'a> = &'a dyn Fn(&str) -> Result<BuiltStore, ProcessError>;

/// Called with the row, if there is one.
pub(crate) type Found<'a, V> = &'a mut dyn FnMut(Option<&V>) -> Result<(), ProcessError>;

/// Opens the rows of a table in a task. Shared by all tasks.
pub(crate) trait Rows<K: StoreKey, V: Datum>: Send + Sync {
    /// The rows, in the store of this name, which is the one behind the table.
    ///
    /// # Errors
    /// When the store is not there, or has other types.
    fn open(&self, store: &str, find: FindStore<'_>) -> Result<OpenRows<K, V>, ProcessError>;
}

/// Rows that can be read.
pub(crate) enum OpenRows<K: StoreKey, V: Datum> {
    /// In a store of their own.
    Stored(TimestampedKeyValueStore<K, V>),
    /// Computed on reading.
    Computed(Box<dyn ReadRow<K, V>>),
}

/// Reads one row.
pub(crate) trait ReadRow<K, V> {
    /// Calls `found` once.
    ///
    /// # Errors
    /// What reading, a closure of the view, or `found` returns.
    fn read(&self, key: &K, found: Found<'_, V>) -> Result<(), ProcessError>;
}

impl<K: StoreKey, V: Datum> OpenRows<K, V> {
    /// Calls `found` once, with the row if there is one.
    ///
    /// # Errors
    /// What reading or a closure of a view returns.
    #[inline]
    pub(crate) fn read_with<R>(
        &self,
        key: &K,
        found: impl FnOnce(Option<&V>) -> R,
    ) -> Result<R, ProcessError> {
        match self {
            Self::Stored(store) => store.read_with(key, |row| found(row.map(|row| &row.value))),
            Self::Computed(view) => {
                let mut found = Some(found);
                let mut result = None;
                view.read(key, &mut |row| {
                    result = found.take().map(|found| found(row));
                    Ok(())
                })?;
                result.ok_or_else(|| {
                    ProcessError::new("a view of a table was read without an answer")
                })
            }
        }
    }
}

impl<K: StoreKey, V: Datum> ReadRow<K, V> for OpenRows<K, V> {
    fn read(&self, key: &K, found: Found<'_, V>) -> Result<(), ProcessError> {
        match self {
            Self::Stored(store) => store.read_with(key, |row| found(row.map(|row| &row.value)))?,
            Self::Computed(view) => view.read(key, found),
        }
    }
}

/// A table in a key-value store.
pub(crate) struct InStore;

impl<K: StoreKey, V: Datum> Rows<K, V> for InStore {
    fn open(&self, store: &str, find: FindStore<'_>) -> Result<OpenRows<K, V>, ProcessError> {
        Ok(OpenRows::Stored(find(store)?.key_value()?))
    }
}

/// A table in a window store.
pub(crate) struct InWindowStore;

struct WindowRows<K: StoreKey, V: Datum>(TimestampedWindowStore<K, V>);

impl<K: StoreKey, V: Datum> Rows<Windowed<K>, V> for InWindowStore {
    fn open(
        &self,
        store: &str,
        find: FindStore<'_>,
    ) -> Result<OpenRows<Windowed<K>, V>, ProcessError> {
        Ok(OpenRows::Computed(Box::new(WindowRows(
            find(store)?.window()?,
        ))))
    }
}

impl<K: StoreKey, V: Datum> ReadRow<Windowed<K>, V> for WindowRows<K, V> {
    fn read(&self, key: &Windowed<K>, found: Found<'_, V>) -> Result<(), ProcessError> {
        self.0.read_with(&key.key, key.window.start, |row| {
            found(row.map(|row| &row.value))
        })?
    }
}

/// The rows of a table that a predicate accepts.
pub(crate) struct Filtered<K: StoreKey, V: Datum, F> {
    pub(crate) parent: Arc<dyn Rows<K, V>>,
    pub(crate) passes: Arc<F>,
}

struct FilteredRows<K: StoreKey, V: Datum, F> {
    parent: OpenRows<K, V>,
    passes: Arc<F>,
}

impl<K, V, F> Rows<K, V> for Filtered<K, V, F>
where
    K: StoreKey,
    V: Datum,
    F: Fn(&K, &V) -> Result<bool, ProcessError> + Send + Sync + 'static,
{
    fn open(&self, store: &str, find: FindStore<'_>) -> Result<OpenRows<K, V>, ProcessError> {
        let parent = self.parent.open(store, find)?;
        Ok(OpenRows::Computed(Box::new(FilteredRows {
            parent,
            passes: Arc::clone(&self.passes),
        })))
    }
}

impl<K, V, F> ReadRow<K, V> for FilteredRows<K, V, F>
where
    K: StoreKey,
    V: Datum,
    F: Fn(&K, &V) -> Result<bool, ProcessError>,
{
    fn read(&self, key: &K, found: Found<'_, V>) -> Result<(), ProcessError> {
        self.parent.read(key, &mut |row| match row {
            Some(row) if (self.passes)(key, row)? => found(Some(row)),
            _ => found(None),
        })
    }
}

/// The rows of a table, each with another value.
pub(crate) struct Mapped<K: StoreKey, V: Datum, F> {
    pub(crate) parent: Arc<dyn Rows<K, V>>,
    pub(crate) mapper: Arc<F>,
}

struct MappedRows<K: StoreKey, V: Datum, F> {
    parent: OpenRows<K, V>,
    mapper: Arc<F>,
}

impl<K, V, V2, F> Rows<K, V2> for Mapped<K, V, F>
where
    K: StoreKey,
    V: Datum,
    V2: Datum,
    F: Fn(&K, &V) -> Result<V2, ProcessError> + Send + Sync + 'static,
{
    fn open(&self, store: &str, find: FindStore<'_>) -> Result<OpenRows<K, V2>, ProcessError> {
        let parent = self.parent.open(store, find)?;
        Ok(OpenRows::Computed(Box::new(MappedRows {
            parent,
            mapper: Arc::clone(&self.mapper),
        })))
    }
}

impl<K, V, V2, F> ReadRow<K, V2> for MappedRows<K, V, F>
where
    K: StoreKey,
    V: Datum,
    V2: Datum,
    F: Fn(&K, &V) -> Result<V2, ProcessError>,
{
    fn read(&self, key: &K, found: Found<'_, V2>) -> Result<(), ProcessError> {
        self.parent.read(key, &mut |row| {
            let mapped = row.map(|row| (self.mapper)(key, row)).transpose()?;
            found(mapped.as_ref())
        })
    }
}
