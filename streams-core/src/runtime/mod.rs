//! The edge: threads, restoration, commits, internal topics, the state directory.

mod application;
mod aside;
mod caught_up;
mod internal_topics;
pub mod metrics;
mod requests;
mod restoration_progress;
mod restore;
mod signal;
mod state_directory;
#[cfg(feature = "simulation")]
pub mod stepped;
mod stream_thread;
pub mod streams;
pub mod topics;
mod transaction;
