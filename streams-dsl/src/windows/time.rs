//! Tumbling and hopping windows: `[start, end)`, aligned to the epoch.

use std::time::Duration;

/// Windows of one size, starting at every multiple of the advance since the epoch: tumbling when the advance is the size, hopping when
/// it is less, so that windows overlap (KIP-328, KIP-633).
///
/// ```
/// use brooklet_streams_dsl::{TimeWindows, days, hours};
///
/// let daily = TimeWindows::of_size(days(1)).grace(hours(2)); // tumbling
/// let sliding_day = TimeWindows::of_size(days(1)).advance_by(hours(1)); // hopping, no grace
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeWindows {
    size_ms: i64,
    advance_ms: i64,
    grace_ms: i64,
}

impl TimeWindows {
    /// Tumbling windows of this size, without grace. Fractions of a millisecond are cut off.
    pub fn of_size(size: Duration) -> Self {
        let size_ms = as_ms(size);
        Self {
            size_ms,
            advance_ms: size_ms,
            grace_ms: 0,
        }
    }

    /// Makes the windows hop: one starts every `advance`, which is more than zero and at most the size.
    #[must_use]
    pub fn advance_by(mut self, advance: Duration) -> Self {
        self.advance_ms = as_ms(advance);
        self
    }

    /// Keeps each window open until the operator's stream time is `grace` past its end: records before that still count. Without it, a window is closed as
    /// soon as stream time reaches its end.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace_ms = as_ms(grace);
        self
    }

    /// Length of a window, in milliseconds.
    pub fn size_ms(&self) -> i64 {
        self.size_ms
    }

    /// From one window's start to the next one's, in milliseconds.
    pub fn advance_ms(&self) -> i64 {
        self.advance_ms
    }

    /// How late a record may be, in milliseconds.
    pub fn grace_ms(&self) -> i64 {
        self.grace_ms
    }

    /// Starts of the windows that contain `timestamp`, ascending; none for a negative one.
    pub fn starts_of(&self, timestamp: i64) -> impl Iterator<Item = i64> + use<> {
        let advance = self.advance_ms.max(1);
        let first = timestamp
            .saturating_sub(self.size_ms)
            .saturating_add(advance)
            .max(0)
            / advance
            * advance;
        (0..)
            .map_while(move |n: i64| n.checked_mul(advance)?.checked_add(first))
            .take_while(move |start| *start <= timestamp)
    }

    /// What is wrong with these windows.
    pub(crate) fn problem(&self) -> Option<String> {
        let Self {
            size_ms,
            advance_ms,
            ..
        } = *self;
        if size_ms < 1 {
            return Some("the size of time windows must be at least 1 ms".to_owned());
        }
        if advance_ms < 1 || advance_ms > size_ms {
            return Some(format!(
                "time windows of {size_ms} ms cannot advance by {advance_ms} ms: use 1 to {size_ms} ms"
            ));
        }
        None
    }
}

/// Whole milliseconds, at most `i64::MAX`.
fn as_ms(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::windows::{days, millis};

    fn starts(windows: TimeWindows, timestamp: i64) -> Vec<i64> {
        windows.starts_of(timestamp).collect()
    }

    #[test]
    fn a_tumbling_window_contains_its_start_and_not_its_end() {
        let windows = TimeWindows::of_size(millis(10));
        assert_eq!(starts(windows, 0), [0]);
        assert_eq!(starts(windows, 9), [0]);
        assert_eq!(starts(windows, 10), [10]);
    }

    #[test]
    fn hopping_windows_overlap_and_never_start_before_the_epoch() {
        let windows = TimeWindows::of_size(millis(12)).advance_by(millis(5));
        assert_eq!(starts(windows, 0), [0]);
        assert_eq!(starts(windows, 7), [0, 5]);
        assert_eq!(starts(windows, 12), [5, 10]);
        assert_eq!(starts(windows, 21), [10, 15, 20]);
    }

    #[test]
    fn every_start_is_a_window_around_the_timestamp_and_none_is_missing() {
        for (size, advance) in [(1, 1), (10, 10), (10, 3), (7, 2), (100, 1)] {
            let windows = TimeWindows::of_size(millis(size)).advance_by(millis(advance));
            let (size, advance) = (windows.size_ms(), windows.advance_ms());
            for timestamp in 0..250 {
                let expected: Vec<i64> = (0..=timestamp)
                    .filter(|start| start % advance == 0 && start + size > timestamp)
                    .collect();
                assert_eq!(
                    starts(windows, timestamp),
                    expected,
                    "size {size}, advance {advance}, timestamp {timestamp}"
                );
            }
        }
    }

    #[test]
    fn a_negative_timestamp_is_in_no_window() {
        assert!(starts(TimeWindows::of_size(days(1)), -1).is_empty());
    }

    #[test]
    fn the_end_of_time_does_not_overflow() {
        assert_eq!(
            starts(TimeWindows::of_size(millis(10)), i64::MAX),
            [i64::MAX / 10 * 10]
        );
        assert_eq!(starts(TimeWindows::of_size(Duration::MAX), 7), [0]);
    }

    #[test]
    fn an_advance_of_zero_or_beyond_the_size_is_refused() {
        assert!(TimeWindows::of_size(millis(10)).problem().is_none());
        assert!(
            TimeWindows::of_size(millis(10))
                .advance_by(millis(11))
                .problem()
                .is_some()
        );
        assert!(
            TimeWindows::of_size(millis(10))
                .advance_by(millis(0))
                .problem()
                .is_some()
        );
        assert!(TimeWindows::of_size(millis(0)).problem().is_some());
    }
}
