//! Kafka Streams for Rust, with its own broker.
