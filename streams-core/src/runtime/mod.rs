//! The edge: threads, restoration, commits, internal topics, the state directory.

mod application;
mod caught_up;
mod internal_topics;
pub mod metrics;
mod requests;
mod restoration_progress;
mod restore;
mod signal;
mod state_directory;
mod stream_thread;
pub mod streams;
pub mod topics;
mod transaction;
