//! Streams groups (KIP-1071).
#![allow(dead_code)]
pub(crate) mod assignor;
pub(crate) mod reconcile;
pub(crate) mod records;
pub(crate) mod tasks;
pub(crate) mod topology;
