//! A Kafka-compatible, log-compacting broker, in-process or as a server.
