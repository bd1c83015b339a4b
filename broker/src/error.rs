//! What can go wrong with a broker as a whole.

use std::io;
use std::path::PathBuf;

use crate::log::LogError;

/// Why a broker does not open, or an operation on it failed. What clients are told is in `protocol::ErrorCode`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// A setting is unknown or has a bad value.
    #[error("property {name}: {reason}")]
    Config {
        /// Kafka's name of the property.
        name: String,
        /// What was expected and found.
        reason: String,
    },
    /// Another process uses the data directory.
    #[error(
        "{} is in use by another process: stop it, or start this broker with another data directory",
        dir.display()
    )]
    Locked {
        /// The data directory.
        dir: PathBuf,
    },
    /// The data directory was written by a newer version.
    #[error(
        "{} has format version {found}, this broker knows up to {known}: start it with the version that wrote it, or a newer one",
        path.display()
    )]
    NewerFormat {
        /// The file that says so.
        path: PathBuf,
        /// The version found.
        found: i64,
        /// The newest version known.
        known: i64,
    },
    /// The data directory holds something that is not ours.
    #[error("{}: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        reason: String,
    },
    /// A file operation failed.
    #[error("{operation} {}: {source}", path.display())]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A partition's log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The metadata journal failed to sync: nothing more is changed.
    #[error("metadata takes no changes since its journal failed: {reason}")]
    Poisoned {
        /// The first failure.
        reason: String,
    },
    /// The broker has been shut down.
    #[error("the broker has been shut down")]
    Closed,
}

impl BrokerError {
    pub(crate) fn disk(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Disk {
            operation,
            path,
            source,
        }
    }
}
