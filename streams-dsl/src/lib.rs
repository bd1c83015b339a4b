//! Typed streams and tables, compiled to a topology.
