//! Topologies and the tasks that run them: Brooklet's engine, runtime and test driver.
//!
//! Where to look:
//!
//! | question | file |
//! |---|---|
//! | what flows through a topology | [`record`], [`serde`] |
//! | what a user implements | [`processor`] |
//! | what a user declares | [`topology`] |
//! | how one record is processed | `task/` |
//! | what a typed store is, and what the record cache does | [`typed_store`], `cache/` |
//! | what talks to a cluster | [`client`] |
//! | threads, restoration, commits, internal topics | `runtime/` |
//!
//! The engine (`task/`, `topology/`, `cache/`) is pure: time, records and disk are arguments. The runtime performs at the edge, and
//! the test driver is a second driver of the same tasks.
#![warn(missing_docs)]

mod cache;
pub mod client;
pub mod clock;
pub mod config;
pub mod error;
pub mod fault;
pub mod partitioner;
pub mod processor;
pub mod record;
pub mod runtime;
pub mod serde;
pub mod task;
pub mod test_driver;
pub mod topology;
pub mod typed_store;

pub use error::{ProcessError, StreamsError};
pub use record::{Headers, Record, RecordMetadata};
pub use runtime::streams::{RunningStreams, State, StopHandle, Streams};
