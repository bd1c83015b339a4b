//! What can go wrong in a store.

use std::path::PathBuf;

/// Why an operation on a store or on a task's stores failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No store of this name was in the specs the stores were opened with.
    #[error("store {store}: not among the stores that were opened")]
    UnknownStore {
        /// The name asked for.
        store: String,
    },
    /// Two specs have the same name.
    #[error("store {store}: named twice among the stores to open")]
    DuplicateStore {
        /// The name given twice.
        store: String,
    },
    /// The store was asked for, or opened, as another kind than it is.
    #[error("store {store}: is a {found} store, not a {expected} store")]
    WrongKind {
        /// The store's name.
        store: String,
        /// The kind asked for.
        expected: &'static str,
        /// The kind it is, in its spec or on disk.
        found: &'static str,
    },
    /// A window store with a retention or a segment interval that is not positive.
    #[error("store {store}: {what} must be above zero, is {found_ms} ms")]
    NotPositive {
        /// The store's name.
        store: String,
        /// Which of the two.
        what: &'static str,
        /// The value given, in milliseconds.
        found_ms: i64,
    },
    /// A persistent store was asked for without a directory to keep it in.
    #[error("store {store}: is persistent and needs a state directory")]
    DirectoryMissing {
        /// The first persistent store.
        store: String,
    },
    /// Another process, or another part of this one, has the directory open.
    #[error(
        "{}: in use by another process; stop it, or give this one a state directory of its own",
        directory.display()
    )]
    Locked {
        /// The directory of the task's stores.
        directory: PathBuf,
    },
    /// The directory was written by a newer version with another layout.
    #[error(
        "{}: has state format {found}, this version knows up to {known}; run the newer version, or delete the directory and let it be restored",
        directory.display()
    )]
    NewerFormat {
        /// The directory of the task's stores.
        directory: PathBuf,
        /// The version found on disk.
        found: u32,
        /// The newest version this code knows.
        known: u32,
    },
    /// The files are damaged. Deleting the directory loses nothing that a changelog restores.
    #[error(
        "{}: state is corrupt: {reason}; delete the directory and let it be restored from the changelogs",
        directory.display()
    )]
    Corrupt {
        /// The directory of the task's stores.
        directory: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The database failed for another reason: a full disk, a lost device.
    #[error("{}: {action}: {reason}", directory.display())]
    Database {
        /// The directory of the task's stores.
        directory: PathBuf,
        /// What was being done.
        action: &'static str,
        /// RocksDB's own words.
        reason: String,
    },
    /// A file operation on the directory failed.
    #[error("{}: {action}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A key or a value is longer than a store can hold (4 GiB - 2).
    #[error("store {store}: {what} of {bytes} bytes is too large")]
    TooLarge {
        /// The store's name.
        store: String,
        /// `key` or `value`.
        what: &'static str,
        /// Its length in bytes.
        bytes: usize,
    },
    /// A window that starts before the epoch; Kafka has none, and their keys would not sort.
    #[error("store {store}: window start {window_start_ms} ms is negative")]
    NegativeWindowStart {
        /// The store's name.
        store: String,
        /// The start given, in milliseconds since the epoch.
        window_start_ms: i64,
    },
    /// A changelog record whose key is not a window key.
    #[error("store {store}: changelog key of {bytes} bytes is not a window key")]
    InvalidWindowKey {
        /// The store's name.
        store: String,
        /// The key's length in bytes.
        bytes: usize,
    },
    /// A value too short for the timestamp it should begin with.
    #[error("value of {bytes} bytes has no room for a timestamp")]
    MissingTimestamp {
        /// The value's length in bytes.
        bytes: usize,
    },
    /// Restoring a store that has uncommitted writes, which would hide what is restored.
    #[error("store {store}: has uncommitted writes, commit or discard them before restoring")]
    UncommittedWrites {
        /// The store's name.
        store: String,
    },
    /// The changelog did not take a record.
    #[error("changelog: {0}")]
    Changelog(#[source] Box<dyn std::error::Error + Send + Sync>),
}
