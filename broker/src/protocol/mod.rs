//! What travels on the wire and lies in the log.

pub mod compression;
pub mod record_batch;
