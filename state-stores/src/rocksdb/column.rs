//! One store's column family: reads, cursors and snapshots.

use std::ptr::NonNull;
use std::sync::Arc;

use rocksdb::{ColumnFamily, DB, DBRawIterator, ReadOptions, Snapshot};

use super::database::Database;
use crate::merge::KeyRange;
use crate::{Direction, StoreError};

/// A column family of an open database, found by its name once: that is a search in a map of names, and reads are many.
#[derive(Clone, Copy)]
struct Family(NonNull<ColumnFamily>);

// SAFETY: it is a reference to a `ColumnFamily`, which is `Send` and `Sync`, and is only followed together with its database.
unsafe impl Send for Family {}
// SAFETY: as above.
unsafe impl Sync for Family {}

impl Family {
    fn of(database: &Database, name: &str) -> Family {
        Family(NonNull::from(database.column_family(name)))
    }

    /// `database` must be the one it was found in.
    fn of_open(self, _database: &Database) -> &ColumnFamily {
        // SAFETY: the database holds its families in a map that changes only through `&mut DB` (`create_cf`, `drop_cf`), which nobody
        // has of a database behind an `Arc`. So the family is where it was found for as long as the database lives, and the reference
        // that is returned does not outlive the borrow of it. Both users keep the `Arc` beside this value.
        unsafe { self.0.as_ref() }
    }
}

/// The committed side of a persistent store.
pub(crate) struct Column {
    database: Arc<Database>,
    family: Family,
    /// Kept, since making them costs an allocation a read.
    read_options: ReadOptions,
}

impl Column {
    pub(super) fn new(database: Arc<Database>, name: &str) -> Column {
        Column {
            family: Family::of(&database, name),
            database,
            read_options: ReadOptions::default(),
        }
    }

    pub(super) fn family(&self) -> &ColumnFamily {
        self.family.of_open(&self.database)
    }

    /// Replaces the content of `out`, which is empty already, with the value of `key`.
    pub(crate) fn read(&self, key: &[u8], out: &mut Vec<u8>) -> Result<bool, StoreError> {
        let found = self
            .database
            .db
            .get_pinned_cf_opt(self.family(), key, &self.read_options)
            .map_err(|error| self.database.failed("cannot read", error))?;
        out.extend_from_slice(found.as_deref().unwrap_or_default());
        Ok(found.is_some())
    }

    pub(crate) fn cursor(
        &self,
        range: &KeyRange,
        direction: Direction,
    ) -> Result<ColumnCursor<'_>, StoreError> {
        let raw = self
            .database
            .db
            .raw_iterator_cf_opt(self.family(), bounded(range));
        Ok(ColumnCursor::begin(&self.database, raw, direction))
    }

    pub(crate) fn approximate_num_entries(&self) -> u64 {
        // An unknown property or a database that is closing: there is no better estimate than none.
        self.database
            .db
            .property_int_value_cf(self.family(), rocksdb::properties::ESTIMATE_NUM_KEYS)
            .ok()
            .flatten()
            .unwrap_or(0)
    }

    pub(crate) fn snapshot(&self) -> ColumnSnapshot {
        ColumnSnapshot::new(self.database.clone(), self.family)
    }
}

fn bounded(range: &KeyRange) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(range.from.as_slice());
    if let Some(to) = &range.to {
        options.set_iterate_upper_bound(to.as_slice());
    }
    options
}

/// A place in a range of a column family, as it was when the cursor was made.
pub(crate) struct ColumnCursor<'a> {
    database: &'a Database,
    raw: DBRawIterator<'a>,
}

impl<'a> ColumnCursor<'a> {
    fn begin(
        database: &'a Database,
        mut raw: DBRawIterator<'a>,
        direction: Direction,
    ) -> ColumnCursor<'a> {
        match direction {
            Direction::Forward => raw.seek_to_first(),
            Direction::Backward => raw.seek_to_last(),
        }
        ColumnCursor { database, raw }
    }

    /// The entry the cursor is before.
    #[allow(clippy::type_complexity)] // As `StoreIterator::next`.
    pub(crate) fn peek(&self) -> Result<Option<(&[u8], &[u8])>, StoreError> {
        match self.raw.item() {
            Some(item) => Ok(Some(item)),
            None => match self.raw.status() {
                Ok(()) => Ok(None),
                Err(error) => Err(self.database.failed("cannot iterate", error)),
            },
        }
    }

    /// Passes the entry that `peek` returned.
    pub(crate) fn advance(&mut self, direction: Direction) {
        match direction {
            Direction::Forward => self.raw.next(),
            Direction::Backward => self.raw.prev(),
        }
    }
}

/// A column family as it was at one moment, for any thread. Keeps the database open.
pub(crate) struct ColumnSnapshot {
    // Dropped before the database it points into: fields are dropped in their order.
    snapshot: Snapshot<'static>,
    database: Arc<Database>,
    family: Family,
}

impl ColumnSnapshot {
    fn new(database: Arc<Database>, family: Family) -> ColumnSnapshot {
        let db: *const DB = &database.db;
        // SAFETY: the database is behind an `Arc` that this value holds for longer than the snapshot (fields are dropped
        // in their order, and neither leaves the value), so it neither moves nor goes while the reference is used.
        let db: &'static DB = unsafe { &*db };
        ColumnSnapshot {
            snapshot: db.snapshot(),
            database,
            family,
        }
    }

    /// Replaces the content of `out`, which is empty already, with the value of `key`.
    pub(crate) fn read(&self, key: &[u8], out: &mut Vec<u8>) -> Result<bool, StoreError> {
        let found = self
            .snapshot
            .get_pinned_cf(self.family.of_open(&self.database), key)
            .map_err(|error| self.database.failed("cannot read", error))?;
        out.extend_from_slice(found.as_deref().unwrap_or_default());
        Ok(found.is_some())
    }

    pub(crate) fn cursor(
        &self,
        range: &KeyRange,
        direction: Direction,
    ) -> Result<ColumnCursor<'_>, StoreError> {
        let family = self.family.of_open(&self.database);
        let raw = self.snapshot.raw_iterator_cf_opt(family, bounded(range));
        Ok(ColumnCursor::begin(&self.database, raw, direction))
    }
}
