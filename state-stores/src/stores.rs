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
use crate::key_schema::{self, WindowKey};
use crate::key_value::KeyValue;
use crate::memory;
use crate::rocksdb::{Batch, Database};
use crate::snapshot::{Entries, Snapshot};
use crate::state::{Committed, NO_STREAM_TIME, StoreState};
use crate::window::{Retention, Window};
use crate::{
    Backend, KeyValueStore, Memory, Positions, StoreError, StoreKind, StoreSpec, WindowStore,
};

/// The stores of one task. They live on one thread, with it.
pub struct Stores {
    database: Option<Arc<Database>>,
    stores: BTreeMap<String, Rc<StoreState>>,
    positions: Positions,
}

impl Stores {
    /// Opens the stores of a task, making what is not there.
    ///
    /// `directory` is the task's own; it may be `None` when all stores are in memory, and is not touched then.
    /// Stores on disk that no spec names are left as they are.
    ///
    /// # Errors
    /// - [`StoreError::Locked`]: somebody else has the directory open.
    /// - [`StoreError::NewerFormat`]: a newer version wrote it.
    /// - [`StoreError::Corrupt`]: it is damaged; [`Stores::delete`] it and restore.
    /// - [`StoreError::WrongKind`]: a store on disk is of another kind; rename it, or delete and restore.
    /// - [`StoreError::DirectoryMissing`], [`StoreError::DuplicateStore`], [`StoreError::NotPositive`]: the specs.
    /// - [`StoreError::Io`], [`StoreError::Database`]: the file system.
    pub fn open(
        directory: Option<&Path>,
        specs: &[StoreSpec],
        memory: &Memory,
    ) -> Result<Stores, StoreError> {
        check(specs)?;
        let persistent: Vec<&StoreSpec> = specs
            .iter()
            .filter(|spec| spec.backend == Backend::RocksDb)
            .collect();
        let database = match (persistent.first(), directory) {
            (None, _) => None,
            (Some(first), None) => {
                return Err(StoreError::DirectoryMissing {
                    store: first.name.clone(),
                });
            }
            (Some(_), Some(directory)) => Some(Database::open(
                Directory::open(directory)?,
                persistent.iter().map(|spec| spec.name.as_str()),
                memory,
            )?),
        };

        let mut stores = BTreeMap::new();
        let mut positions = Positions::default();
        for spec in specs {
            let state = match (&database, spec.backend) {
                (Some(database), Backend::RocksDb) => open_column(database, spec)?,
                _ => StoreState::new(
                    spec.name.clone(),
                    spec.kind,
                    Committed::Memory(RefCell::default()),
                    NO_STREAM_TIME,
                ),
            };
            stores.insert(spec.name.clone(), Rc::new(state));
        }
        if let Some(database) = &database {
            let on_disk = database.positions()?;
            for spec in persistent {
                if let Some(end_offset) = on_disk.offset(&spec.name) {
                    positions.set_offset(&spec.name, end_offset);
                }
            }
            for (name, bytes) in on_disk.all_metadata() {
                positions.set_metadata(name, bytes.to_vec());
            }
        }
        Ok(Stores {
            database,
            stores,
            positions,
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
        if let Some(database) = &self.database {
            let mut batch = database.batch(self.uncommitted_bytes());
            for state in self.stores.values() {
                if let Committed::RocksDb(column) = &state.committed {
                    let expired = expired_segments(state);
                    if let Some((from, to)) = expired {
                        batch.delete_range(column, &from, &to);
                    }
                    let live_from = expired.map_or([0; 8], |(_, to)| to);
                    state.overlay.borrow_mut().in_order(|key, value| {
                        if expired.is_none() || key >= live_from.as_slice() {
                            batch.put(column, key, value);
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
        for state in self.stores.values() {
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
    /// exclusive end of the piece in the changelog. Larger pieces cost less; a few megabytes are plenty.
    ///
    /// Keys and values are as the store has them: the window key for a window store (expired ones are dropped), the
    /// timestamp before the value for a store with timestamps.
    ///
    /// # Errors
    /// - [`StoreError::UncommittedWrites`] when the store has any.
    /// - [`StoreError::InvalidWindowKey`] and [`StoreError::NegativeWindowStart`] for a changelog that is not this
    ///   store's; nothing of the piece is written then.
    /// - When the disk cannot be written.
    pub fn restore<'r>(
        &mut self,
        store: &str,
        records: impl IntoIterator<Item = (&'r [u8], Option<&'r [u8]>)>,
        end_offset: i64,
    ) -> Result<(), StoreError> {
        let state = self.state(store)?.clone();
        if !state.overlay.borrow().is_empty() {
            return Err(StoreError::UncommittedWrites {
                store: store.to_owned(),
            });
        }
        let mut records = records.into_iter();
        let mut positions = Positions::default();
        positions.set_offset(store, end_offset);
        let stream_time_ms = state.stream_time_ms.get();
        let restored = match (&state.committed, &self.database) {
            (Committed::RocksDb(column), Some(database)) => {
                let mut batch = database.batch(0);
                stored_records(&state, &mut records, |key, value| {
                    batch.put(column, key, value)
                })
                .and_then(|()| {
                    if let Some((from, to)) = expired_segments(&state) {
                        batch.delete_range(column, &from, &to);
                    }
                    set_about(&mut batch, &state, &positions);
                    batch.write()
                })
            }
            (Committed::Memory(entries), _) => {
                // First all are looked at: an in-memory store cannot take back half a piece.
                let mut piece = Vec::new();
                stored_records(&state, &mut records, |key, value| {
                    piece.push((key.to_vec(), value.map(<[u8]>::to_vec)));
                })
                .map(|()| {
                    StoreState::write_memory(entries, |entries| {
                        for (key, value) in &piece {
                            memory::put(entries, key, value.as_deref());
                        }
                        if let Some((_, to)) = expired_segments(&state) {
                            memory::drop_below(entries, &to);
                        }
                    });
                })
            }
            (Committed::RocksDb(_), None) => unreachable!("a persistent store without a database"),
        };
        if let Err(error) = restored {
            state.stream_time_ms.set(stream_time_ms);
            return Err(error);
        }
        state.committed(live_segment_min(&state));
        self.positions.update(&positions);
        Ok(())
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

/// Gives changelog records to `write` with their keys as stored, without the expired ones, and observes their time.
fn stored_records<'r>(
    state: &StoreState,
    records: &mut dyn Iterator<Item = (&'r [u8], Option<&'r [u8]>)>,
    mut write: impl FnMut(&[u8], Option<&[u8]>),
) -> Result<(), StoreError> {
    let mut stored_key = Vec::new();
    for (key, value) in records {
        state.check_lengths(key, value)?;
        let Some(retention) = retention(state.kind) else {
            write(key, value);
            continue;
        };
        let window_key = WindowKey::parse(key).ok_or_else(|| StoreError::InvalidWindowKey {
            store: state.name.clone(),
            bytes: key.len(),
        })?;
        let window_start_ms = window_key.window_start_ms;
        if window_start_ms < 0 {
            return Err(StoreError::NegativeWindowStart {
                store: state.name.clone(),
                window_start_ms,
            });
        }
        let stream_time_ms = state.stream_time_ms.get().max(window_start_ms);
        state.stream_time_ms.set(stream_time_ms);
        let segment = retention.segment_of(window_start_ms);
        if segment >= retention.live_segment_min(stream_time_ms) {
            key_schema::stored_key(segment, &window_key, &mut stored_key);
            write(&stored_key, value);
        }
    }
    Ok(())
}
