//! The stores of one task, opened, committed and restored together.
//!
//! The order around a commit is the runtime's to keep: produced records acknowledged, offsets (or the transaction)
//! acknowledged, then [`Stores::commit`], never the reverse. A kill before it leaves the stores at the commit before,
//! and restoration reads the changelogs from its positions.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use crate::directory::Directory;
use crate::key_value::KeyValue;
use crate::memory;
use crate::rocksdb::{Batch, Bulk, ComeTo, Database};
use crate::snapshot::{Entries, Snapshot};
use crate::state::{Committed, NO_STREAM_TIME, StoreState};
use crate::timestamped;
use crate::window::{Retention, Window};
use crate::{
    Backend, KeyValueStore, Memory, Positions, StoreError, StoreKind, StoreSpec, WindowStore,
};

/// A record of a store's changelog, borrowed from where it was fetched.
#[derive(Clone, Copy, Debug)]
pub struct RestoredRecord<'r> {
    /// As the store has it; of a window store the window key.
    pub key: &'r [u8],
    /// `None` deletes the key.
    pub value: Option<&'r [u8]>,
    /// What stands before the value in a store with timestamps; see [`timestamped`].
    pub timestamp_ms: Option<i64>,
}

impl<'r> From<(&'r [u8], Option<&'r [u8]>)> for RestoredRecord<'r> {
    fn from((key, value): (&'r [u8], Option<&'r [u8]>)) -> Self {
        Self {
            key,
            value,
            timestamp_ms: None,
        }
    }
}

impl<'r> RestoredRecord<'r> {
    /// The value as it is stored, in `room` where it has to be put together.
    fn stored<'s>(&self, room: &'s mut Vec<u8>) -> Option<&'s [u8]>
    where
        'r: 's,
    {
        let value = self.value?;
        Some(match self.timestamp_ms {
            Some(timestamp_ms) => {
                timestamped::join(timestamp_ms, value, room);
                room
            }
            None => value,
        })
    }
}

/// The stores of one task. They live on one thread, with it.
pub struct Stores {
    database: Option<Arc<Database>>,
    stores: BTreeMap<String, Rc<StoreState>>,
    positions: Positions,
    /// See [`Stores::ahead`].
    ahead: BTreeMap<String, i64>,
    /// Those on disk that much is being restored of.
    bulk: BTreeMap<String, Bulk>,
}

/// The stores of a task with their database open, still free to go to the thread of the task.
///
/// Opening a database syncs a dozen small files, some tens of milliseconds in all on an ordinary disk. A process that
/// starts many tasks can have other threads do it, several at once.
pub struct PreparedStores {
    database: Option<Arc<Database>>,
    specs: Vec<StoreSpec>,
}

impl PreparedStores {
    /// The stores, for the thread this is called on.
    ///
    /// # Errors
    /// - [`StoreError::WrongKind`]: a store on disk is of another kind; rename it, or delete and restore.
    /// - [`StoreError::Corrupt`], [`StoreError::Database`]: what is on disk about the stores cannot be read.
    pub fn open(self) -> Result<Stores, StoreError> {
        let mut stores = BTreeMap::new();
        let mut positions = Positions::default();
        let mut ahead = BTreeMap::new();
        if let Some(database) = &self.database {
            ahead = database.ahead()?;
            let on_disk = database.positions()?;
            for spec in self
                .specs
                .iter()
                .filter(|spec| spec.backend == Backend::RocksDb)
            {
                if let Some(end_offset) = on_disk.offset(&spec.name) {
                    positions.set_offset(&spec.name, end_offset);
                }
            }
            for (name, bytes) in on_disk.all_metadata() {
                positions.set_metadata(name, bytes.to_vec());
            }
        }
        for spec in self.specs {
            let state = match (&self.database, spec.backend) {
                (Some(database), Backend::RocksDb) => open_column(database, &spec)?,
                _ => StoreState::new(
                    spec.name.clone(),
                    spec.kind,
                    Committed::Memory(RefCell::default()),
                    NO_STREAM_TIME,
                ),
            };
            stores.insert(spec.name, Rc::new(state));
        }
        Ok(Stores {
            database: self.database,
            stores,
            positions,
            ahead,
            bulk: BTreeMap::new(),
        })
    }
}

impl Stores {
    /// Opens the stores of a task, making what is not there.
    ///
    /// `directory` is the task's own; it may be `None` when all stores are in memory, and is not touched then.
    /// Stores on disk that no spec names are left as they are.
    ///
    /// # Errors
    /// As [`Stores::prepare`] and [`PreparedStores::open`].
    pub fn open(
        directory: Option<&Path>,
        specs: &[StoreSpec],
        memory: &Memory,
    ) -> Result<Stores, StoreError> {
        Stores::prepare(directory, specs, memory)?.open()
    }

    /// The slow part of [`Stores::open`], on any thread.
    ///
    /// # Errors
    /// - [`StoreError::Locked`]: somebody else has the directory open.
    /// - [`StoreError::NewerFormat`]: a newer version wrote it.
    /// - [`StoreError::Corrupt`]: it is damaged; [`Stores::delete`] it and restore.
    /// - [`StoreError::DirectoryMissing`], [`StoreError::DuplicateStore`], [`StoreError::NotPositive`]: the specs.
    /// - [`StoreError::Io`], [`StoreError::Database`]: the file system.
    pub fn prepare(
        directory: Option<&Path>,
        specs: &[StoreSpec],
        memory: &Memory,
    ) -> Result<PreparedStores, StoreError> {
        check(specs)?;
        let persistent = || specs.iter().filter(|spec| spec.backend == Backend::RocksDb);
        let database = match (persistent().next(), directory) {
            (None, _) => None,
            (Some(first), None) => {
                return Err(StoreError::DirectoryMissing {
                    store: first.name.clone(),
                });
            }
            (Some(_), Some(directory)) => Some(Database::open(
                Directory::open(directory)?,
                persistent().map(|spec| spec.name.as_str()),
                memory,
            )?),
        };
        Ok(PreparedStores {
            database,
            specs: specs.to_vec(),
        })
    }

    /// Deletes the stores of a task on disk, whatever state they are in. What their changelogs hold can be restored.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when they are open; [`StoreError::Io`] when a file cannot be deleted.
    pub fn delete(directory: &Path) -> Result<(), StoreError> {
        Directory::claim(directory)?.clear()
    }

    /// Writes what is uncommitted of all stores, and the positions it stands for, atomically: after a kill the
    /// persistent stores and their positions are those before this call, or those after it.
    ///
    /// Names that are not in `positions` keep what they have. Offsets of in-memory stores are remembered only as
    /// long as their content is. Nothing is synced: after a loss of power the stores are at one of the last commits.
    ///
    /// # Errors
    /// When the disk cannot be written. What was uncommitted is so still.
    pub fn commit(&mut self, positions: &Positions) -> Result<(), StoreError> {
        // What was restored came first.
        let in_bulk: Vec<String> = self.bulk.keys().cloned().collect();
        for store in in_bulk {
            self.settle_bulk(&store)?;
        }
        let states: Vec<Rc<StoreState>> = self.stores.values().cloned().collect();
        let unwritten = |state: &Rc<StoreState>| {
            !state.overlay.borrow().is_empty()
                || state.stream_time_ms.get() != state.stream_time_committed_ms.get()
        };
        if !states.iter().any(unwritten) && self.positions.has_all_of(positions) {
            return Ok(());
        }
        self.write(&states, positions)
    }

    /// Commits some of the stores.
    fn write(
        &mut self,
        states: &[Rc<StoreState>],
        positions: &Positions,
    ) -> Result<(), StoreError> {
        if let Some(database) = &self.database {
            let mut batch = database.batch(self.uncommitted_bytes());
            for state in states {
                if let Committed::RocksDb(column) = &state.committed {
                    let expired = expired_segments(state);
                    if let Some((from, to)) = expired {
                        batch.delete_range(column, &from, &to);
                    }
                    let live_from = expired.map_or([0; 8], |(_, to)| to);
                    let mut column = batch.column(column);
                    state.overlay.borrow_mut().in_order(|key, value| {
                        if expired.is_none() || key >= live_from.as_slice() {
                            column.put(key, value);
                        }
                    });
                    set_about(&mut batch, state, positions);
                }
            }
            for (name, bytes) in positions.all_metadata() {
                batch.set_metadata(name, bytes);
            }
            batch.write()?;
        }
        for state in states {
            if let Committed::Memory(entries) = &state.committed {
                let expired = expired_segments(state);
                StoreState::write_memory(entries, |entries| {
                    state
                        .overlay
                        .borrow_mut()
                        .in_order(|key, value| memory::put(entries, key, value));
                    if let Some((_, to)) = expired {
                        memory::drop_below(entries, &to);
                    }
                });
            }
            state.committed(live_segment_min(state));
        }
        self.positions.update(positions);
        Ok(())
    }

    /// Forgets what is uncommitted (an aborted transaction): all stores are again as the last commit left them.
    pub fn discard_uncommitted(&mut self) {
        for state in self.stores.values() {
            state.discard();
        }
    }

    /// Puts a piece of a store's changelog into it, past the uncommitted writes: atomically with `end_offset`, the
    /// exclusive end of the piece in the changelog. Larger pieces cost less; a megabyte or two is plenty.
    ///
    /// Keys and values are as the store has them: the window key for a window store (expired ones are dropped), the
    /// timestamp with the value for a store with timestamps.
    ///
    /// # Errors
    /// - [`StoreError::UncommittedWrites`] when the store has any.
    /// - [`StoreError::InvalidWindowKey`] and [`StoreError::NegativeWindowStart`] for a changelog that is not this
    ///   store's; nothing of the piece is written then.
    /// - When the disk cannot be written.
    pub fn restore<'r, R: Into<RestoredRecord<'r>>>(
        &mut self,
        store: &str,
        records: impl IntoIterator<Item = R>,
        end_offset: i64,
    ) -> Result<(), StoreError> {
        let state = self.state(store)?.clone();
        if !state.overlay.borrow().is_empty() {
            return Err(StoreError::UncommittedWrites {
                store: store.to_owned(),
            });
        }
        let records = records.into_iter().map(Into::into);
        if let Some(bulk) = self.bulk.get_mut(store) {
            bulk.observe(state.stream_time_committed_ms.get());
            let come_to = bulk.take(records, end_offset)?;
            self.come_to(&state, come_to);
            return Ok(());
        }
        let mut positions = Positions::default();
        positions.set_offset(store, end_offset);
        // By way of the uncommitted: that keeps the last of a key's records only, and puts keys in order.
        let restored = put_records(&state, records)
            .and_then(|()| self.write(std::slice::from_ref(&state), &positions));
        if restored.is_err() {
            state.discard();
        }
        restored
    }

    /// Much of a store's changelog is about to be restored. Until [`Stores::finish_bulk`] what is restored of a store on disk is
    /// collected, and written in large sorted pieces by another thread. It is seen, and [`Stores::positions`] says so, some time later,
    /// at the latest after `finish_bulk` or a commit.
    ///
    /// A kill loses what was not written yet, as its positions say. It may leave rows beyond the position: see [`Stores::ahead`].
    ///
    /// # Errors
    /// When there is no such store, or the database refuses.
    pub fn begin_bulk(&mut self, store: &str) -> Result<(), StoreError> {
        let state = self.state(store)?;
        if let (Committed::RocksDb(_), Some(database)) = (&state.committed, &self.database)
            && !self.bulk.contains_key(store)
        {
            let bulk = Bulk::new(
                database,
                store,
                retention(state.kind),
                state.deleted_below.get(),
            );
            database.set_bulk(store, true)?;
            self.bulk.insert(store.to_owned(), bulk);
        }
        Ok(())
    }

    /// Ends what [`Stores::begin_bulk`] began, if it did, once everything is in the store.
    ///
    /// # Errors
    /// When the disk cannot be written.
    pub fn finish_bulk(&mut self, store: &str) -> Result<(), StoreError> {
        self.settle_bulk(store)?;
        match (self.bulk.remove(store), &self.database) {
            (Some(_), Some(database)) => database.set_bulk(store, false),
            _ => Ok(()),
        }
    }

    /// Waits until what was restored in bulk is in the store.
    fn settle_bulk(&mut self, store: &str) -> Result<(), StoreError> {
        if let Some(bulk) = self.bulk.get_mut(store) {
            let come_to = bulk.settle()?;
            let state = self.state(store)?.clone();
            self.come_to(&state, come_to);
        }
        Ok(())
    }

    /// Rows that were restored in bulk have come into the store.
    fn come_to(&mut self, state: &StoreState, come_to: Option<ComeTo>) {
        if let Some(come_to) = come_to {
            state.restored(come_to.stream_time_ms, come_to.deleted_below);
            let mut positions = Positions::default();
            positions.set_offset(&state.name, come_to.end_offset);
            self.positions.update(&positions);
            self.ahead.remove(&state.name);
        }
    }

    /// Where a kill has cut off a restoration in bulk between two positions: the end offset that no row of the store is beyond. Until
    /// it has been restored so far, the store is between two states of its changelog.
    pub fn ahead(&self, store: &str) -> Option<i64> {
        self.ahead.get(store).copied()
    }

    /// What the last commit or restoration stood for; for persistent stores also that of an earlier process.
    pub fn positions(&self) -> &Positions {
        &self.positions
    }

    /// Memory that uncommitted writes take, in bytes. When it reaches a limit of the runtime's, it is time to commit.
    pub fn uncommitted_bytes(&self) -> usize {
        self.stores
            .values()
            .map(|state| state.overlay.borrow().bytes())
            .sum()
    }

    /// A handle on a key-value store. Handles share what is uncommitted, and keep the directory open.
    ///
    /// # Errors
    /// When there is no such store, or it is of another kind.
    pub fn key_value(&self, store: &str) -> Result<Box<dyn KeyValueStore>, StoreError> {
        let state = self.state(store)?;
        match state.kind {
            StoreKind::KeyValue => Ok(Box::new(KeyValue(state.clone()))),
            StoreKind::Window { .. } => Err(state.wrong_kind("key-value")),
        }
    }

    /// A handle on a window store. Handles share what is uncommitted, and keep the directory open.
    ///
    /// # Errors
    /// When there is no such store, or it is of another kind.
    pub fn window(&self, store: &str) -> Result<Box<dyn WindowStore>, StoreError> {
        let state = self.state(store)?;
        match retention(state.kind) {
            Some(retention) => Ok(Box::new(Window {
                state: state.clone(),
                retention,
                scratch: RefCell::default(),
            })),
            None => Err(state.wrong_kind("window")),
        }
    }

    /// The committed content of a store, for any thread, unchanged by what comes after.
    ///
    /// # Errors
    /// When there is no such store.
    pub fn snapshot(&self, store: &str) -> Result<Snapshot, StoreError> {
        let state = self.state(store)?;
        Ok(Snapshot {
            store: store.to_owned(),
            entries: match &state.committed {
                Committed::Memory(entries) => Entries::Memory(entries.borrow().clone()),
                Committed::RocksDb(column) => Entries::RocksDb(column.snapshot()),
            },
            window: retention(state.kind)
                .map(|retention| (retention, state.stream_time_committed_ms.get())),
        })
    }

    fn state(&self, store: &str) -> Result<&Rc<StoreState>, StoreError> {
        self.stores
            .get(store)
            .ok_or_else(|| StoreError::UnknownStore {
                store: store.to_owned(),
            })
    }
}

fn check(specs: &[StoreSpec]) -> Result<(), StoreError> {
    let mut names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    names.sort_unstable();
    if let Some((twice, _)) = names.iter().zip(names.iter().skip(1)).find(|(a, b)| a == b) {
        return Err(StoreError::DuplicateStore {
            store: (*twice).to_owned(),
        });
    }
    for spec in specs {
        if let StoreKind::Window {
            retention_ms,
            segment_interval_ms,
        } = spec.kind
        {
            for (what, found_ms) in [
                ("retention", retention_ms),
                ("segment interval", segment_interval_ms),
            ] {
                if found_ms <= 0 {
                    return Err(StoreError::NotPositive {
                        store: spec.name.clone(),
                        what,
                        found_ms,
                    });
                }
            }
        }
    }
    Ok(())
}

fn open_column(database: &Arc<Database>, spec: &StoreSpec) -> Result<StoreState, StoreError> {
    let kind = match (database.kind(&spec.name)?, spec.kind) {
        (None, kind) => {
            let mut batch = database.batch(0);
            batch.set_kind(&spec.name, kind);
            batch.write()?;
            kind
        }
        // The retention may change; where windows lie on disk may not.
        (
            Some(StoreKind::Window {
                segment_interval_ms,
                ..
            }),
            StoreKind::Window { retention_ms, .. },
        ) => StoreKind::Window {
            retention_ms,
            segment_interval_ms,
        },
        (Some(StoreKind::KeyValue), StoreKind::KeyValue) => StoreKind::KeyValue,
        (Some(found), expected) => {
            return Err(StoreError::WrongKind {
                store: spec.name.clone(),
                expected: expected.name(),
                found: found.name(),
            });
        }
    };
    Ok(StoreState::new(
        spec.name.clone(),
        kind,
        Committed::RocksDb(database.column(&spec.name)),
        database.stream_time_ms(&spec.name)?,
    ))
}

fn retention(kind: StoreKind) -> Option<Retention> {
    match kind {
        StoreKind::KeyValue => None,
        StoreKind::Window {
            retention_ms,
            segment_interval_ms,
        } => Some(Retention {
            retention_ms,
            segment_interval_ms,
        }),
    }
}

/// The range of stored keys to delete because their segments have gone since the last commit.
fn expired_segments(state: &StoreState) -> Option<([u8; 8], [u8; 8])> {
    let live_from = live_segment_min(state)?;
    let deleted_below = state.deleted_below.get();
    (live_from > deleted_below).then(|| (deleted_below.to_be_bytes(), live_from.to_be_bytes()))
}

fn live_segment_min(state: &StoreState) -> Option<u64> {
    Some(retention(state.kind)?.live_segment_min(state.stream_time_ms.get()))
}

fn set_about(batch: &mut Batch<'_>, state: &StoreState, positions: &Positions) {
    if let Some(end_offset) = positions.offset(&state.name) {
        batch.set_offset(&state.name, end_offset);
    }
    if state.stream_time_ms.get() != state.stream_time_committed_ms.get() {
        batch.set_stream_time_ms(&state.name, state.stream_time_ms.get());
    }
}

/// Puts changelog records, with their keys as stored and without the expired ones, and observes their time.
fn put_records<'r>(
    state: &StoreState,
    records: impl Iterator<Item = RestoredRecord<'r>>,
) -> Result<(), StoreError> {
    let mut overlay = state.overlay.borrow_mut();
    let (mut stored_key, mut room) = (Vec::new(), Vec::new());
    for record in records {
        let key = record.key;
        state.check_lengths(key, record.value)?;
        let value = record.stored(&mut room);
        let Some(retention) = retention(state.kind) else {
            overlay.put(key, value);
            continue;
        };
        let mut stream_time_ms = state.stream_time_ms.get();
        let stored = retention.restored_key(&state.name, key, &mut stream_time_ms, &mut stored_key);
        let is_live = stored?;
        state.stream_time_ms.set(stream_time_ms);
        if is_live {
            overlay.put(&stored_key, value);
        }
    }
    Ok(())
}
