//! Keyed bytes on disk and in memory for Brooklet's tasks.
//!
//! This crate knows neither serdes, topics nor tasks: keys and values are byte slices, and a change
//! leaves for a changelog through [`ChangelogSink`]. Where to look:
//!
//! | question | file |
//! |---|---|
//! | What can a store do? | `store.rs`, `iterator.rs` |
//! | How are the stores of a task opened, committed, restored? | `stores.rs`, `spec.rs`, `positions.rs` |
//! | Where do writes wait until they are committed? | `overlay.rs`, and `merge.rs` which reads through them |
//! | What are the bytes of a window key, of a value with a timestamp? | `key_schema.rs`, `timestamped.rs` |
//! | How do windows expire? | `window.rs` |
//! | What does RocksDB do, and with which options? | `rocksdb/` (nothing else names it) |
//! | How does a change reach its changelog? | `changelog.rs`, `layer/change_logging.rs` |
//! | What may another thread read? | `snapshot.rs` |
//! | What must every store do? | `suite.rs` |
//!
//! A write waits in memory, uncommitted, until [`Stores::commit`] writes all of a task's stores and the
//! changelog offsets they stand for in one atomic batch. After a kill at any moment the directory holds
//! exactly one commit, and [`Stores::positions`] says which.
//!
//! ```
//! use brooklet_state_stores::{Backend, Memory, Positions, StoreSpec, Stores};
//!
//! # fn main() -> Result<(), brooklet_state_stores::StoreError> {
//! let specs = [StoreSpec::key_value("counts", Backend::InMemory)];
//! let mut stores = Stores::open(None, &specs, &Memory::new(64 << 20))?;
//! let mut counts = stores.key_value("counts")?;
//! counts.put(b"brook", Some(b"1"))?;
//!
//! let mut value = Vec::new();
//! assert!(counts.read(b"brook", &mut value)?); // A store reads its own uncommitted writes.
//! assert_eq!(value, b"1");
//!
//! let mut positions = Positions::default();
//! positions.set_offset("counts", 1); // Changelog offsets below 1 are in the store.
//! stores.commit(&positions)?;
//! # Ok(())
//! # }
//! ```
#![warn(missing_docs)]

mod changelog;
mod directory;
mod error;
mod iterator;
pub mod key_schema;
mod key_value;
mod layer;
mod memory;
mod merge;
mod overlay;
mod positions;
mod rocksdb;
mod snapshot;
mod spec;
mod state;
mod store;
mod stores;
#[cfg(test)]
mod suite;
pub mod timestamped;
mod window;

pub use changelog::{ChangelogRecord, ChangelogSink};
pub use error::StoreError;
pub use iterator::{Direction, StoreIterator, WindowIterator};
pub use layer::{ChangeLogging, ValueFormat};
pub use positions::Positions;
pub use rocksdb::Memory;
pub use snapshot::Snapshot;
pub use spec::{Backend, StoreKind, StoreSpec};
pub use store::{KeyValueStore, PutOutcome, WindowStore};
pub use stores::{PreparedStores, RestoredRecord, Stores};
