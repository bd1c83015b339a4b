//! Stores in RocksDB: one database for the stores of a task, a column family for each.
//!
//! The default column family holds what is about the stores rather than in them:
//!
//! ```text
//! kind/STORE          "key-value", or "window " and the segment interval in ms
//! offset/STORE        changelog end offset, 8 bytes big-endian
//! ahead/STORE         what no row is beyond, while that may be more than the offset; see `bulk.rs`
//! stream-time/STORE   observed stream time of a window store, 8 bytes big-endian
//! metadata/NAME       opaque
//! ```
//!
//! Every commit is one write batch over all of them, in the write-ahead log but not synced: a kill loses nothing, and a
//! loss of power loses whole batches from the end. Why so: docs/decisions/0004-databases-and-segments.md.

mod bulk;
mod column;
mod database;
mod options;

pub(crate) use bulk::{Bulk, ComeTo};
pub(crate) use column::{Column, ColumnCursor, ColumnSnapshot};
pub(crate) use database::{Batch, Database};
pub use options::Memory;

#[cfg(test)]
mod tests;
