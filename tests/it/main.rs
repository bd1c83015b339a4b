//! The tests that cross crates, one binary for all of them: links are slow. A module a subject.

mod tidy;
