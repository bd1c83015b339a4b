//! Coordinators: owners of state that clients share, kept in internal topics.
//!
//! `handle(request)` decides and returns records and an answer; `replay(record)` is the only thing that changes durable state, and
//! it runs when the record is below the high watermark of its partition. The answer waits for that. So a restart, and later a failover
//! and a simulation, replay the same path, and nobody is told of state that a crash takes back.

pub mod group;
mod pending;
pub mod producer_ids;
pub mod transaction;
