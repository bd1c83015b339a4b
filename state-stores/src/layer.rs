//! What is written once over any store.

mod change_logging;

pub use change_logging::{ChangeLogging, ValueFormat};
