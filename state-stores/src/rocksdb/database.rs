//! The database of a task: opening, what it knows about its stores, and atomic batches.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DEFAULT_COLUMN_FAMILY_NAME, Error, ErrorKind,
    IteratorMode, WriteBatch, WriteOptions,
};

use super::column::Column;
use super::options::{self, Memory};
use crate::directory::Directory;
use crate::state::NO_STREAM_TIME;
use crate::{Positions, StoreError, StoreKind};

const OFFSET: &str = "offset/";
const AHEAD: &str = "ahead/";
const METADATA: &str = "metadata/";

/// An open database. Handles, snapshots and iterators keep it open.
pub(crate) struct Database {
    // Closed before the directory is unlocked: fields are dropped in their order.
    pub(super) db: DB,
    directory: Directory,
    memory: Memory,
    /// Numbers the files of what is restored in bulk.
    restored_files: AtomicU64,
}

/// Writes that become visible, and survive a kill, all or none.
pub(crate) struct Batch<'a> {
    database: &'a Database,
    batch: WriteBatch,
}

/// The part of a batch that is of one store.
pub(crate) struct ColumnBatch<'b> {
    family: &'b ColumnFamily,
    batch: &'b mut WriteBatch,
}

impl ColumnBatch<'_> {
    pub(crate) fn put(&mut self, key: &[u8], value: Option<&[u8]>) {
        match value {
            Some(value) => self.batch.put_cf(self.family, key, value),
            None => self.batch.delete_cf(self.family, key),
        }
    }
}

impl Database {
    /// Opens the database of a directory with at least these stores, made if need be.
    pub(crate) fn open<'a>(
        directory: Directory,
        stores: impl Iterator<Item = &'a str>,
        memory: &Memory,
    ) -> Result<Arc<Database>, StoreError> {
        let path = directory.database();
        // What an earlier process did not come to take in.
        let restored = directory.restored();
        match fs::remove_dir_all(&restored) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::Io {
                    path: restored,
                    action: "cannot delete",
                    source,
                });
            }
            _ => {}
        }
        let options = options::database(memory);
        let mut columns: Vec<String> = stores.map(column_name).collect();
        if path.join("CURRENT").exists() {
            // All must be opened, also those of stores that the topology has no more.
            let existing = DB::list_cf(&options, &path)
                .map_err(|error| opening_failed(directory.path(), error))?;
            columns.extend(
                existing
                    .into_iter()
                    .filter(|name| name != DEFAULT_COLUMN_FAMILY_NAME),
            );
        }
        columns.sort();
        columns.dedup();
        let column_options = options::column(memory);
        let descriptors = std::iter::once(DEFAULT_COLUMN_FAMILY_NAME)
            .chain(columns.iter().map(String::as_str))
            .map(|name| ColumnFamilyDescriptor::new(name, column_options.clone()));
        let db = DB::open_cf_descriptors(&options, &path, descriptors)
            .map_err(|error| opening_failed(directory.path(), error))?;
        Ok(Arc::new(Database {
            db,
            directory,
            memory: memory.clone(),
            restored_files: AtomicU64::new(0),
        }))
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The directory of the stores.
    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A name for a file of restored rows; its directory is there.
    pub(super) fn restored_file(&self) -> Result<PathBuf, StoreError> {
        let directory = self.directory.restored();
        fs::create_dir_all(&directory).map_err(|source| StoreError::Io {
            path: directory.clone(),
            action: "cannot make the directory",
            source,
        })?;
        let number = self.restored_files.fetch_add(1, Ordering::Relaxed);
        Ok(directory.join(format!("{number}.sst")))
    }

    /// The column family of a store the database was opened with.
    pub(crate) fn column(self: &Arc<Database>, store: &str) -> Column {
        Column::new(self.clone(), &column_name(store))
    }

    /// The segment interval, or other layout, a store was made with; `None` when it is new.
    pub(crate) fn kind(&self, store: &str) -> Result<Option<StoreKind>, StoreError> {
        let Some(text) = self.about(&format!("kind/{store}"))? else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&text);
        let kind = match text.strip_prefix("window ") {
            Some(segment_interval) => segment_interval.parse().ok().map(|segment_interval_ms| {
                // The retention is not on disk: it may change.
                StoreKind::Window {
                    retention_ms: 0,
                    segment_interval_ms,
                }
            }),
            None => (text == "key-value").then_some(StoreKind::KeyValue),
        };
        match kind {
            Some(StoreKind::Window {
                segment_interval_ms,
                ..
            }) if segment_interval_ms <= 0 => {
                Err(self.corrupt(format!("kind of store {store} is {text:?}")))
            }
            Some(kind) => Ok(Some(kind)),
            None => Err(self.corrupt(format!("kind of store {store} is {text:?}"))),
        }
    }

    /// The observed stream time a window store was committed with.
    pub(crate) fn stream_time_ms(&self, store: &str) -> Result<i64, StoreError> {
        match self.about(&format!("stream-time/{store}"))? {
            Some(bytes) => self.number(&bytes),
            None => Ok(NO_STREAM_TIME),
        }
    }

    /// What the last commit stood for, of all stores that were ever here.
    pub(crate) fn positions(&self) -> Result<Positions, StoreError> {
        let mut positions = Positions::default();
        for entry in self.db.iterator(IteratorMode::Start) {
            let (key, value) =
                entry.map_err(|error| self.failed("cannot read positions", error))?;
            let key = String::from_utf8_lossy(&key);
            if let Some(store) = key.strip_prefix(OFFSET) {
                positions.set_offset(store, self.number(&value)?);
            } else if let Some(name) = key.strip_prefix(METADATA) {
                positions.set_metadata(name, value.into_vec());
            }
        }
        Ok(positions)
    }

    /// Of stores whose bulk restoration was cut off between two positions: what none of their rows is beyond.
    pub(crate) fn ahead(&self) -> Result<BTreeMap<String, i64>, StoreError> {
        let mut ahead = BTreeMap::new();
        for entry in self.db.prefix_iterator(AHEAD) {
            let (key, value) =
                entry.map_err(|error| self.failed("cannot read positions", error))?;
            let key = String::from_utf8_lossy(&key);
            let Some(store) = key.strip_prefix(AHEAD) else {
                break;
            };
            ahead.insert(store.to_owned(), self.number(&value)?);
        }
        Ok(ahead)
    }

    pub(crate) fn batch(&self, bytes: usize) -> Batch<'_> {
        Batch {
            database: self,
            batch: WriteBatch::with_capacity_bytes(bytes),
        }
    }

    /// Much is about to be written into a store that nobody reads, or has been.
    pub(crate) fn set_bulk(&self, store: &str, bulk: bool) -> Result<(), StoreError> {
        let level_0 = if bulk {
            &options::LEVEL_0_BULK
        } else {
            &options::LEVEL_0
        };
        self.db
            .set_options_cf(self.column_family(&column_name(store)), level_0)
            .map_err(|error| self.failed("cannot change the options of a store", error))
    }

    pub(super) fn column_family(&self, name: &str) -> &ColumnFamily {
        self.db
            .cf_handle(name)
            .expect("column families are named by the stores the database was opened with")
    }

    pub(super) fn failed(&self, action: &'static str, error: Error) -> StoreError {
        failed(self.directory.path(), action, error)
    }

    fn corrupt(&self, reason: String) -> StoreError {
        StoreError::Corrupt {
            directory: self.directory.path().to_path_buf(),
            reason,
        }
    }

    fn about(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.db
            .get(key)
            .map_err(|error| self.failed("cannot read about a store", error))
    }

    fn number(&self, bytes: &[u8]) -> Result<i64, StoreError> {
        match bytes.try_into() {
            Ok(bytes) => Ok(i64::from_be_bytes(bytes)),
            Err(_) => Err(self.corrupt(format!("a number of {} bytes", bytes.len()))),
        }
    }
}

impl Batch<'_> {
    /// Where to put the writes of one store.
    pub(crate) fn column<'b>(&'b mut self, column: &'b Column) -> ColumnBatch<'b> {
        ColumnBatch {
            family: column.family(),
            batch: &mut self.batch,
        }
    }

    /// Deletes keys from `from` up to `to`, exclusive.
    pub(crate) fn delete_range(&mut self, column: &Column, from: &[u8], to: &[u8]) {
        self.batch.delete_range_cf(column.family(), from, to);
    }

    pub(crate) fn set_kind(&mut self, store: &str, kind: StoreKind) {
        let text = match kind {
            StoreKind::KeyValue => "key-value".to_owned(),
            StoreKind::Window {
                segment_interval_ms,
                ..
            } => format!("window {segment_interval_ms}"),
        };
        self.batch.put(format!("kind/{store}"), text);
    }

    pub(crate) fn set_stream_time_ms(&mut self, store: &str, stream_time_ms: i64) {
        self.batch
            .put(format!("stream-time/{store}"), stream_time_ms.to_be_bytes());
    }

    pub(crate) fn set_offset(&mut self, store: &str, end_offset: i64) {
        self.batch
            .put(format!("{OFFSET}{store}"), end_offset.to_be_bytes());
    }

    /// What is about to be restored ends at `end_offset`; the rows may be there before the position says so.
    pub(crate) fn set_ahead(&mut self, store: &str, end_offset: i64) {
        self.batch
            .put(format!("{AHEAD}{store}"), end_offset.to_be_bytes());
    }

    pub(crate) fn remove_ahead(&mut self, store: &str) {
        self.batch.delete(format!("{AHEAD}{store}"));
    }

    pub(crate) fn set_metadata(&mut self, name: &str, bytes: &[u8]) {
        self.batch.put(format!("{METADATA}{name}"), bytes);
    }

    /// Writes all of it.
    pub(crate) fn write(self) -> Result<(), StoreError> {
        self.write_with(WriteOptions::default())
    }

    /// Writes all of it, and waits until it is on disk.
    pub(crate) fn write_synced(self) -> Result<(), StoreError> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.write_with(options)
    }

    fn write_with(self, mut options: WriteOptions) -> Result<(), StoreError> {
        // Keys arrive in order, store by store: each is inserted where the one before was.
        options.set_memtable_insert_hint_per_batch(true);
        self.database
            .db
            .write_opt(self.batch, &options)
            .map_err(|error| self.database.failed("cannot write a commit", error))
    }
}

/// Not the store's name alone: a store may be called `default`.
pub(super) fn column_name(store: &str) -> String {
    format!("store/{store}")
}

fn opening_failed(directory: &Path, error: Error) -> StoreError {
    // A file that the manifest names and that is not there is damage, whatever RocksDB calls it.
    if error.kind() == ErrorKind::IOError && error.to_string().contains("No such file") {
        return StoreError::Corrupt {
            directory: directory.to_path_buf(),
            reason: error.into_string(),
        };
    }
    failed(directory, "cannot open the database", error)
}

fn failed(directory: &Path, action: &'static str, error: Error) -> StoreError {
    let directory = directory.to_path_buf();
    match error.kind() {
        ErrorKind::Corruption => StoreError::Corrupt {
            directory,
            reason: error.into_string(),
        },
        _ => StoreError::Database {
            directory,
            action,
            reason: error.into_string(),
        },
    }
}
