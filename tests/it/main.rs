//! The tests that cross crates, one binary for all of them: links are slow. A module a subject.

// A test fails by panicking.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod command;
mod crashes;
mod demo;
mod exactly_once;
mod fenced;
mod flights;
mod librdkafka;
mod power_loss;
mod programs;
mod simulation;
mod streams;
mod tidy;
