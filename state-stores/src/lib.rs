//! Keyed bytes on disk and in memory for Brooklet's tasks.
