//! Windows over event time, and spans of time to declare them with.

mod time;

use std::time::Duration;

pub use time::TimeWindows;

/// So many days of 24 hours.
pub const fn days(n: u64) -> Duration {
    hours(n.saturating_mul(24))
}

/// So many hours.
pub const fn hours(n: u64) -> Duration {
    minutes(n.saturating_mul(60))
}

/// So many minutes.
pub const fn minutes(n: u64) -> Duration {
    seconds(n.saturating_mul(60))
}

/// So many seconds.
pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// So many milliseconds.
pub const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}
