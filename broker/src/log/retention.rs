//! Which segments a log no longer keeps: by time, by size, and below its start. Decided here, done in [`crate::log::Log::apply_retention`].

use crate::log::LogConfig;

/// A segment as retention sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentView {
    /// Exclusive.
    pub(super) end_offset: i64,
    pub(super) size_bytes: u64,
    /// Its highest timestamp, or when it was first seen if its records have none.
    pub(super) newest_ms: i64,
}

/// What to do: nothing, or delete the oldest segments, perhaps all, after a roll.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) delete_oldest: usize,
    /// The active segment goes too: a new one must be there before.
    pub(super) roll: bool,
}

/// Chooses among the segments, oldest first, the last of which is the active one. A segment goes if it lies below the high watermark and
/// - below the log start offset (never the active one), or
/// - `delete` is a policy and its newest record is older than `retention_ms`, or without it the log would still have `retention_bytes`.
pub(super) fn choose(
    segments: &[SegmentView],
    config: &LogConfig,
    log_start_offset: i64,
    high_watermark: i64,
    now_ms: i64,
) -> Choice {
    let mut size_bytes: u64 = segments.iter().map(|segment| segment.size_bytes).sum();
    let mut choice = Choice::default();
    for (index, segment) in segments.iter().enumerate() {
        let is_active = index + 1 == segments.len();
        let is_empty_active = is_active && segment.size_bytes == 0;
        let below_start = !is_active && segment.end_offset <= log_start_offset;
        let expired = config
            .retention_ms
            .is_some_and(|retention_ms| now_ms.saturating_sub(segment.newest_ms) > retention_ms);
        let rest_bytes = size_bytes - segment.size_bytes;
        let oversized = config
            .retention_bytes
            .is_some_and(|retention_bytes| rest_bytes >= retention_bytes);
        let goes = below_start || (config.delete && (expired || oversized));
        if segment.end_offset > high_watermark || is_empty_active || !goes {
            break;
        }
        size_bytes = rest_bytes;
        choice.delete_oldest += 1;
        choice.roll = is_active;
    }
    choice
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segments of ten offsets and 100 bytes, with these newest times.
    fn segments(newest_ms: &[i64]) -> Vec<SegmentView> {
        newest_ms
            .iter()
            .enumerate()
            .map(|(index, newest_ms)| SegmentView {
                end_offset: (index as i64 + 1) * 10,
                size_bytes: 100,
                newest_ms: *newest_ms,
            })
            .collect()
    }

    fn config(retention_ms: Option<i64>, retention_bytes: Option<u64>) -> LogConfig {
        LogConfig {
            retention_ms,
            retention_bytes,
            ..LogConfig::default()
        }
    }

    fn delete(count: usize) -> Choice {
        Choice {
            delete_oldest: count,
            roll: false,
        }
    }

    #[test]
    fn time_takes_the_oldest_and_stops_at_the_first_that_stays() {
        let config = config(Some(50), None);
        assert_eq!(
            choose(&segments(&[10, 20, 90, 30, 100]), &config, 0, 50, 100),
            delete(2)
        );
        assert_eq!(
            choose(&segments(&[10, 20, 90, 30, 100]), &config, 0, 15, 100),
            delete(1),
            "not above the high watermark"
        );
        assert_eq!(
            choose(&segments(&[50]), &config, 0, 10, 100),
            delete(0),
            "exactly as old is kept"
        );
    }

    #[test]
    fn a_log_expired_as_a_whole_rolls_first() {
        let config = config(Some(50), None);
        assert_eq!(
            choose(&segments(&[10, 20]), &config, 0, 20, 100),
            Choice {
                delete_oldest: 2,
                roll: true
            }
        );
        assert_eq!(choose(&segments(&[10, 20]), &config, 0, 19, 100), delete(1));
        let mut with_empty = segments(&[10, 20]);
        with_empty.push(SegmentView {
            end_offset: 20,
            size_bytes: 0,
            newest_ms: 0,
        });
        assert_eq!(choose(&with_empty, &config, 0, 20, 100), delete(2));
    }

    #[test]
    fn size_keeps_at_least_what_is_asked_for() {
        assert_eq!(
            choose(
                &segments(&[1, 1, 1, 1]),
                &config(None, Some(200)),
                0,
                40,
                100
            ),
            delete(2)
        );
        assert_eq!(
            choose(
                &segments(&[1, 1, 1, 1]),
                &config(None, Some(201)),
                0,
                40,
                100
            ),
            delete(1)
        );
        assert_eq!(
            choose(
                &segments(&[1, 1, 1, 1]),
                &config(None, Some(400)),
                0,
                40,
                100
            ),
            delete(0)
        );
    }

    #[test]
    fn without_the_delete_policy_only_what_is_below_the_start_goes() {
        let config = LogConfig {
            delete: false,
            compact: true,
            ..config(Some(1), Some(1))
        };
        assert_eq!(
            choose(&segments(&[1, 1, 1]), &config, 0, 30, 100),
            delete(0)
        );
        assert_eq!(
            choose(&segments(&[1, 1, 1]), &config, 20, 30, 100),
            delete(2)
        );
        assert_eq!(
            choose(&segments(&[1, 1, 1]), &config, 30, 30, 100),
            delete(2),
            "the active one stays"
        );
    }
}
