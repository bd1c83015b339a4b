//! What to clean: which part of a log, and which log first. Decided on values, without IO.
//!
//! ```text
//! |-- clean ---|-- cleanable --|-- not yet --|
//! log start    first dirty     end           log end
//! ```
//!
//! - *First dirty* is where the last pass ended (`cleaner-offset-checkpoint`); the log start if that is not in the log.
//! - *End* is the base of the first segment that must not be touched: the active one; one that is not wholly synced, acknowledged and
//!   free of open transactions; one with a record younger than `min.compaction.lag.ms`.
//! - The dirty ratio is cleanable / (clean + cleanable), in bytes. A log is due if it is above `min.cleanable.dirty.ratio`, or if its oldest
//!   dirty record is older than `max.compaction.lag.ms`. The filthiest that is due comes first.

/// A sealed segment as the choice sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentView {
    pub base_offset: i64,
    /// Exclusive.
    pub end_offset: i64,
    pub size_bytes: u64,
    /// Its highest timestamp, if its records have any.
    pub max_timestamp: Option<i64>,
    /// Of its first batch; known only where there is a `max.compaction.lag.ms`.
    pub first_timestamp: Option<i64>,
}

/// A log as the choice sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogView {
    /// Of the active segment's first batch, if it has one.
    pub active_first_timestamp: Option<i64>,
    pub log_start_offset: i64,
    pub log_end_offset: i64,
    /// Nothing at or above it is touched: not synced, not acknowledged, or of an open transaction.
    pub bound: i64,
    /// Below it all is on disk.
    pub synced_to: i64,
    /// Oldest first.
    pub sealed: Vec<SegmentView>,
    pub cleanable_ratio_min_ppm: u32,
    pub compaction_lag_min_ms: i64,
    pub compaction_lag_max_ms: Option<i64>,
}

/// What of a log can be cleaned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub first_dirty_offset: i64,
    /// Exclusive, and the base of a segment.
    pub end_offset: i64,
    pub clean_bytes: u64,
    pub cleanable_bytes: u64,
    /// Something dirty is older than `max.compaction.lag.ms`.
    pub is_overdue: bool,
    ratio_min_ppm: u32,
}

impl Candidate {
    /// Share of bytes to be cleaned, in millionths.
    pub fn dirty_ratio_ppm(&self) -> u32 {
        let total = u128::from(self.clean_bytes) + u128::from(self.cleanable_bytes);
        let dirty = u128::from(self.cleanable_bytes) * 1_000_000;
        // At most a million.
        dirty.checked_div(total).unwrap_or(0) as u32
    }

    /// Whether it has to be cleaned now.
    pub fn is_due(&self) -> bool {
        self.cleanable_bytes > 0 && (self.is_overdue || self.dirty_ratio_ppm() > self.ratio_min_ppm)
    }
}

/// What can be cleaned of this log, if the last pass ended at `checkpoint`.
pub fn candidate(log: &LogView, checkpoint: Option<i64>, now_ms: i64) -> Candidate {
    let first_dirty_offset = checkpoint
        .filter(|offset| (log.log_start_offset..=log.log_end_offset).contains(offset))
        .unwrap_or(log.log_start_offset);
    let youngest_ms = now_ms.saturating_sub(log.compaction_lag_min_ms);
    let end_offset = log
        .sealed
        .iter()
        .take_while(|segment| {
            let is_young = log.compaction_lag_min_ms > 0
                && segment.end_offset > first_dirty_offset
                && segment
                    .max_timestamp
                    .is_some_and(|newest| newest > youngest_ms);
            segment.end_offset <= log.bound && !is_young
        })
        .last()
        .map_or(log.log_start_offset, |segment| segment.end_offset);
    let mut choice = Candidate {
        first_dirty_offset: first_dirty_offset.min(end_offset.max(log.log_start_offset)),
        end_offset,
        clean_bytes: 0,
        cleanable_bytes: 0,
        is_overdue: false,
        ratio_min_ppm: log.cleanable_ratio_min_ppm,
    };
    if end_offset <= first_dirty_offset {
        // All that may be cleaned is.
        choice.first_dirty_offset = first_dirty_offset;
    }
    for segment in &log.sealed {
        if segment.end_offset <= first_dirty_offset {
            choice.clean_bytes += segment.size_bytes;
        } else if segment.end_offset <= end_offset {
            choice.cleanable_bytes += segment.size_bytes;
            let oldest = segment.first_timestamp.filter(|timestamp| *timestamp > 0);
            choice.is_overdue |= match (oldest, log.compaction_lag_max_ms) {
                (Some(oldest), Some(lag_ms)) => oldest < now_ms.saturating_sub(lag_ms),
                _ => false,
            };
        }
    }
    choice
}

/// The index of the filthiest that is due.
pub fn filthiest(candidates: &[Candidate]) -> Option<usize> {
    candidates
        .iter()
        .enumerate()
        .filter(|(_, candidate)| candidate.is_due())
        // The first of equals.
        .max_by_key(|(index, candidate)| (candidate.dirty_ratio_ppm(), std::cmp::Reverse(*index)))
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segments of ten offsets and 100 bytes, with these newest times.
    fn log(newest_ms: &[i64]) -> LogView {
        let sealed: Vec<_> = newest_ms
            .iter()
            .enumerate()
            .map(|(index, newest)| SegmentView {
                base_offset: index as i64 * 10,
                end_offset: index as i64 * 10 + 10,
                size_bytes: 100,
                max_timestamp: Some(*newest),
                first_timestamp: Some(*newest - 1),
            })
            .collect();
        let end = newest_ms.len() as i64 * 10;
        LogView {
            log_start_offset: 0,
            log_end_offset: end + 5,
            bound: end + 5,
            synced_to: end + 5,
            sealed,
            active_first_timestamp: None,
            cleanable_ratio_min_ppm: 500_000,
            compaction_lag_min_ms: 0,
            compaction_lag_max_ms: None,
        }
    }

    #[test]
    fn the_ratio_is_of_bytes_and_has_to_be_above_the_minimum() {
        let half = candidate(&log(&[1, 1, 1, 1]), Some(20), 100);
        assert_eq!((half.clean_bytes, half.cleanable_bytes), (200, 200));
        assert_eq!(half.dirty_ratio_ppm(), 500_000);
        assert!(!half.is_due());
        let more = candidate(&log(&[1, 1, 1, 1]), Some(10), 100);
        assert!(more.is_due());
        assert_eq!((more.first_dirty_offset, more.end_offset), (10, 40));
        assert!(!candidate(&log(&[]), None, 100).is_due());
    }

    #[test]
    fn only_whole_segments_below_the_bound_are_touched() {
        let bounded = LogView {
            bound: 29,
            ..log(&[1, 1, 1, 1])
        };
        assert_eq!(candidate(&bounded, None, 100).end_offset, 20);
        assert_eq!(candidate(&bounded, Some(25), 100).cleanable_bytes, 0);
        assert_eq!(candidate(&bounded, Some(25), 100).first_dirty_offset, 25);
    }

    #[test]
    fn a_checkpoint_outside_the_log_is_not_believed() {
        assert_eq!(candidate(&log(&[1]), Some(16), 100).first_dirty_offset, 0);
        let cut = LogView {
            log_start_offset: 10,
            ..log(&[1, 1])
        };
        assert_eq!(candidate(&cut, Some(9), 100).first_dirty_offset, 10);
    }

    #[test]
    fn a_young_record_holds_its_segment_and_all_later_ones() {
        let young = LogView {
            compaction_lag_min_ms: 50,
            ..log(&[10, 60, 20])
        };
        assert_eq!(candidate(&young, None, 100).end_offset, 10);
        assert_eq!(candidate(&young, None, 110).end_offset, 30);
    }

    #[test]
    fn an_old_record_makes_a_log_due_below_the_ratio() {
        let old = LogView {
            compaction_lag_max_ms: Some(50),
            ..log(&[10, 60, 40])
        };
        assert!(!candidate(&old, Some(20), 89).is_due());
        assert!(candidate(&old, Some(20), 90).is_due());
    }

    #[test]
    fn the_filthiest_comes_first() {
        let candidates =
            [Some(30), Some(10), None, None].map(|from| candidate(&log(&[1; 4]), from, 100));
        assert_eq!(filthiest(&candidates), Some(2));
        assert_eq!(filthiest(&candidates[..1]), None);
    }
}
