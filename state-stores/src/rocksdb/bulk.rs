//! Much of a store's changelog, put into it past the log and the memtable.
//!
//! 1. Rows are copied, as the store has them, those of windows that have not expired, into a run in memory. A full run goes to a thread of its own while the next one is
//!    collected: two runs of a store are in memory at the most.
//! 2. There it is put in the order of keys, the last row of each key only, and written and synced as a table file.
//! 3. `ahead/STORE` is set to the end of the run; the database takes the file in as it is; one batch sets the position to the end of
//!    the run and a window store's stream time to that of then, deletes the segments that have expired by it, and removes `ahead/STORE`.
//!
//! A kill, or a loss of power, between the steps of 3 leaves rows beyond the position, up to `ahead/STORE` and never beyond that.
//! Restoration goes on from the position, and writes those rows again: it always goes as far as they did, or begins anew
//! ([`Stores::ahead`](crate::Stores::ahead)). Nothing is processed before.
//!
//! ## Table files, not batches without a log
//! A memtable would sort row by row what is sorted much quicker by runs, and would be written once more; its rows would have to be thrown
//! away after a kill. What a table file costs is its sync before it is taken in, on a thread that nobody waits for.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rocksdb::{Error, IngestExternalFileOptions, SstFileWriter};

use super::database::{Database, column_name};
use super::options::{self, BulkShare};
use crate::overlay::{LENGTH_MAX, in_order_of_keys};
use crate::state::NO_STREAM_TIME;
use crate::stores::RestoredRecord;
use crate::window::Retention;
use crate::{StoreError, timestamped};

/// Length that stands for a delete.
const TOMBSTONE: u32 = u32::MAX;

/// A store that much is being restored of.
pub(crate) struct Bulk {
    store: Arc<str>,
    database: Arc<Database>,
    /// Of a window store.
    retention: Option<Retention>,
    /// Of a window store: the highest window start seen.
    stream_time_ms: i64,
    /// Of a window store: segments below are deleted when all runs are in the database.
    deleted_below: u64,
    collected: Run,
    /// The run before, and its memory when it is written.
    writing: Option<JoinHandle<Result<Run, StoreError>>>,
    share: BulkShare,
}

/// What a store has come to on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ComeTo {
    /// Of its changelog, exclusive.
    pub(crate) end_offset: i64,
    /// Of a window store.
    pub(crate) stream_time_ms: i64,
    /// Of a window store: segments below are deleted.
    pub(crate) deleted_below: u64,
}

/// Rows in the order in which they were restored.
#[derive(Default)]
struct Run {
    /// Keys and values, each value behind its key.
    arena: Vec<u8>,
    rows: Vec<Row>,
    /// Of the changelog, exclusive; `None` when nothing was restored.
    end_offset: Option<i64>,
    /// Of a window store, when the run is full.
    window: Option<OfWindows>,
    /// Where a stored key is put together.
    key: Vec<u8>,
}

/// What a run of a window store's rows brings beside them.
#[derive(Clone, Copy)]
struct OfWindows {
    stream_time_ms: i64,
    /// Segments that expire by it, the end exclusive.
    expired: (u64, u64),
}

#[derive(Clone, Copy)]
struct Row {
    at: usize,
    key_bytes: u32,
    /// [`TOMBSTONE`] for a delete.
    value_bytes: u32,
}

impl Bulk {
    pub(crate) fn new(
        database: &Arc<Database>,
        store: &str,
        retention: Option<Retention>,
        deleted_below: u64,
    ) -> Bulk {
        Bulk {
            store: store.into(),
            database: Arc::clone(database),
            retention,
            stream_time_ms: NO_STREAM_TIME,
            deleted_below,
            collected: Run::default(),
            writing: None,
            share: database.memory().bulk_share(),
        }
    }

    /// The store's stream time is this at least.
    pub(crate) fn observe(&mut self, stream_time_ms: i64) {
        self.stream_time_ms = self.stream_time_ms.max(stream_time_ms);
    }

    /// Takes a piece of the changelog that ends at `end_offset`. Returns what the store has come to on disk, when that is news.
    pub(crate) fn take<'r>(
        &mut self,
        records: impl Iterator<Item = RestoredRecord<'r>>,
        end_offset: i64,
    ) -> Result<Option<ComeTo>, StoreError> {
        let (rows, bytes) = (self.collected.rows.len(), self.collected.arena.len());
        let stream_time_ms = self.stream_time_ms;
        for record in records {
            if let Err(error) = self.collect(record) {
                // Nothing of the piece.
                self.collected.rows.truncate(rows);
                self.collected.arena.truncate(bytes);
                self.stream_time_ms = stream_time_ms;
                return Err(error);
            }
        }
        self.collected.end_offset = Some(end_offset);
        if self.collected.bytes() < self.share.run_bytes() {
            return Ok(None);
        }
        let come_to = self.join()?;
        self.write()?;
        Ok(come_to)
    }

    fn collect(&mut self, record: RestoredRecord<'_>) -> Result<(), StoreError> {
        let Some(retention) = self.retention else {
            return self.collected.push(&self.store, &record);
        };
        let mut key = std::mem::take(&mut self.collected.key);
        let stored =
            retention.restored_key(&self.store, record.key, &mut self.stream_time_ms, &mut key);
        let pushed = stored.and_then(|is_live| {
            if !is_live {
                return Ok(());
            }
            let stored = RestoredRecord {
                key: &key,
                ..record
            };
            self.collected.push(&self.store, &stored)
        });
        self.collected.key = key;
        pushed
    }

    /// Waits until all that was taken is in the database. Returns what the store has come to, when that is news.
    pub(crate) fn settle(&mut self) -> Result<Option<ComeTo>, StoreError> {
        let before = self.join()?;
        if self.collected.end_offset.is_none() {
            return Ok(before);
        }
        self.write()?;
        self.join()
    }

    /// Has what is collected written by another thread. None is at work.
    fn write(&mut self) -> Result<(), StoreError> {
        let mut run = std::mem::take(&mut self.collected);
        if let Some(retention) = self.retention {
            let live_from = retention.live_segment_min(self.stream_time_ms);
            run.window = Some(OfWindows {
                stream_time_ms: self.stream_time_ms,
                expired: (self.deleted_below, live_from.max(self.deleted_below)),
            });
            self.deleted_below = live_from.max(self.deleted_below);
        }
        let (store, database) = (Arc::clone(&self.store), Arc::clone(&self.database));
        let writing = thread::Builder::new()
            .name(format!("restore-{}", self.store))
            .spawn(move || run.write(&database, &store).map(|()| run))
            .map_err(|source| StoreError::Io {
                path: self.database.path().to_path_buf(),
                action: "cannot start a thread that writes what is restored",
                source,
            })?;
        self.writing = Some(writing);
        Ok(())
    }

    /// Waits for the run that is being written, and keeps its memory.
    fn join(&mut self) -> Result<Option<ComeTo>, StoreError> {
        let Some(writing) = self.writing.take() else {
            return Ok(None);
        };
        let mut run = writing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let come_to = run.end_offset.take().map(|end_offset| ComeTo {
            end_offset,
            stream_time_ms: run
                .window
                .map_or(NO_STREAM_TIME, |window| window.stream_time_ms),
            deleted_below: run.window.map_or(0, |window| window.expired.1),
        });
        if self.collected.arena.capacity() == 0 {
            run.clear();
            self.collected = run;
        }
        Ok(come_to)
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        // It has the directory open. What it could not write is restored again.
        if let Some(writing) = self.writing.take() {
            drop(writing.join());
        }
    }
}

impl Run {
    fn push(&mut self, store: &str, record: &RestoredRecord<'_>) -> Result<(), StoreError> {
        let value_bytes = record.value.map(|value| {
            let timestamp_bytes = record
                .timestamp_ms
                .map_or(0, |_| timestamped::TIMESTAMP_BYTES);
            value.len() + timestamp_bytes
        });
        for (what, bytes) in [
            ("key", record.key.len()),
            ("value", value_bytes.unwrap_or(0)),
        ] {
            if bytes > LENGTH_MAX {
                return Err(StoreError::TooLarge {
                    store: store.to_owned(),
                    what,
                    bytes,
                });
            }
        }
        // Both are below `TOMBSTONE`, as was just seen.
        let row = Row {
            at: self.arena.len(),
            key_bytes: record.key.len() as u32,
            value_bytes: value_bytes.map_or(TOMBSTONE, |bytes| bytes as u32),
        };
        self.arena.extend_from_slice(record.key);
        if let Some(value) = record.value {
            if let Some(timestamp_ms) = record.timestamp_ms {
                self.arena.extend_from_slice(&timestamp_ms.to_be_bytes());
            }
            self.arena.extend_from_slice(value);
        }
        self.rows.push(row);
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.arena.len() + self.rows.len() * size_of::<Row>()
    }

    fn clear(&mut self) {
        self.arena.clear();
        self.rows.clear();
        self.end_offset = None;
        self.window = None;
    }

    /// The key of a row, and its value unless it is a delete.
    #[allow(clippy::indexing_slicing)] // Numbers of rows only, and a row's bytes were put into the arena.
    fn row(&self, number: u32) -> (&[u8], Option<&[u8]>) {
        let row = self.rows[number as usize];
        let value_at = row.at + row.key_bytes as usize;
        let value = (row.value_bytes != TOMBSTONE)
            .then(|| &self.arena[value_at..value_at + row.value_bytes as usize]);
        (&self.arena[row.at..value_at], value)
    }

    /// Puts the run into the database; see the module's second and third point.
    fn write(&self, database: &Arc<Database>, store: &str) -> Result<(), StoreError> {
        let Some(end_offset) = self.end_offset else {
            return Ok(());
        };
        if !self.rows.is_empty() {
            let count = u32::try_from(self.rows.len()).map_err(|_| StoreError::TooLarge {
                store: store.to_owned(),
                what: "piece of a changelog",
                bytes: self.bytes(),
            })?;
            let path = database.restored_file()?;
            self.write_file(&path, count, database)
                .map_err(|error| database.failed("cannot write what is restored", error))?;
            let mut batch = database.batch(0);
            batch.set_ahead(store, end_offset);
            batch.write_synced()?;
            let mut options = IngestExternalFileOptions::default();
            options.set_move_files(true);
            database
                .db
                .ingest_external_file_cf_opts(
                    database.column_family(&column_name(store)),
                    &options,
                    vec![path],
                )
                .map_err(|error| database.failed("cannot take in what is restored", error))?;
        }
        let mut batch = database.batch(0);
        if let Some(window) = self.window {
            let (from, to) = window.expired;
            if from < to {
                let column = database.column(store);
                batch.delete_range(&column, &from.to_be_bytes(), &to.to_be_bytes());
            }
            batch.set_stream_time_ms(store, window.stream_time_ms);
        }
        batch.set_offset(store, end_offset);
        batch.remove_ahead(store);
        batch.write()
    }

    fn write_file(&self, path: &PathBuf, count: u32, database: &Database) -> Result<(), Error> {
        let order = in_order_of_keys(0..count, |number| self.row(number).0);
        let options = options::restored(database.memory());
        let mut file = SstFileWriter::create(&options);
        file.open(path)?;
        let mut order = order.into_iter().peekable();
        while let Some(number) = order.next() {
            let (key, value) = self.row(number);
            // Equal keys are in the order in which they came: the last one counts.
            if order.peek().is_some_and(|next| self.row(*next).0 == key) {
                continue;
            }
            match value {
                Some(value) => file.put(key, value)?,
                None => file.delete(key)?,
            }
        }
        file.finish()
    }
}
