//! A Kafka-compatible, log-compacting broker, in-process or as a server.

pub mod disk;
pub mod log;
pub mod protocol;
