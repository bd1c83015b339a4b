//! What is due when: stream-time and wall-clock punctuations of a task.

use crate::error::ProcessError;
use crate::processor::{Punctuation, PunctuationType};

/// The punctuations that a task's processors asked for.
pub(crate) struct Punctuations {
    scheduled: Vec<Schedule>,
    next_id: u32,
    /// When the first stream-time punctuation is due; looked at after each record.
    pub(crate) stream_due_ms: i64,
}

struct Schedule {
    id: Punctuation,
    node: usize,
    kind: PunctuationType,
    interval_ms: i64,
    due_ms: i64,
}

impl Default for Punctuations {
    fn default() -> Self {
        Self {
            scheduled: Vec::new(),
            next_id: 0,
            stream_due_ms: i64::MAX,
        }
    }
}

impl Punctuations {
    /// Adds one, first due at `start_ms`, or by the rule of its kind.
    pub(crate) fn schedule(
        &mut self,
        node: usize,
        start_ms: Option<i64>,
        interval_ms: i64,
        kind: PunctuationType,
        now_ms: i64,
    ) -> Result<Punctuation, ProcessError> {
        if interval_ms < 1 {
            return Err(ProcessError::new(format!(
                "a punctuation's interval must be at least one millisecond, is {interval_ms}"
            )));
        }
        if let Some(start_ms) = start_ms.filter(|start_ms| *start_ms < 0) {
            return Err(ProcessError::new(format!(
                "a punctuation's start must not be negative, is {start_ms}"
            )));
        }
        let due_ms = start_ms.unwrap_or(match kind {
            // With the first record, whatever its time: punctuations are aligned to zero.
            PunctuationType::StreamTime => 0,
            PunctuationType::WallClockTime => now_ms.saturating_add(interval_ms),
        });
        let id = Punctuation(self.next_id);
        self.next_id += 1;
        self.scheduled.push(Schedule {
            id,
            node,
            kind,
            interval_ms,
            due_ms,
        });
        self.note_stream_due();
        Ok(id)
    }

    pub(crate) fn cancel(&mut self, id: Punctuation) {
        self.scheduled.retain(|schedule| schedule.id != id);
        self.note_stream_due();
    }

    /// Takes the punctuation that has been due longest at `time_ms`, and moves it to its next time after that: missed intervals are
    /// one call, and the grid stays where it was. One whose next time lies beyond the end of time is never due again.
    pub(crate) fn take_due(
        &mut self,
        kind: PunctuationType,
        time_ms: i64,
    ) -> Option<(Punctuation, usize)> {
        let due = |schedule: &&mut Schedule| schedule.kind == kind && schedule.due_ms <= time_ms;
        let schedule = self
            .scheduled
            .iter_mut()
            .filter(due)
            .min_by_key(|schedule| (schedule.due_ms, schedule.id))?;
        let (id, node) = (schedule.id, schedule.node);
        let missed = (time_ms - schedule.due_ms) / schedule.interval_ms;
        // Of the two terms the first is at most `time_ms`.
        let next =
            (schedule.due_ms + missed * schedule.interval_ms).checked_add(schedule.interval_ms);
        match next {
            Some(due_ms) => {
                schedule.due_ms = due_ms;
                self.note_stream_due();
            }
            None => self.cancel(id),
        }
        Some((id, node))
    }

    /// When the first of this kind is due.
    pub(crate) fn next_due(&self, kind: PunctuationType) -> Option<i64> {
        self.scheduled
            .iter()
            .filter(|schedule| schedule.kind == kind)
            .map(|schedule| schedule.due_ms)
            .min()
    }

    fn note_stream_due(&mut self) {
        self.stream_due_ms = self
            .next_due(PunctuationType::StreamTime)
            .unwrap_or(i64::MAX);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_stream_time_punctuation_is_due_with_the_first_record() {
        let mut punctuations = Punctuations::default();
        let id = punctuations
            .schedule(3, None, 10, PunctuationType::StreamTime, 1_000)
            .unwrap();
        assert_eq!(punctuations.take_due(PunctuationType::StreamTime, -1), None);
        assert_eq!(
            punctuations.take_due(PunctuationType::StreamTime, 0),
            Some((id, 3))
        );
        assert_eq!(punctuations.take_due(PunctuationType::StreamTime, 9), None);
        assert_eq!(
            punctuations.take_due(PunctuationType::StreamTime, 10),
            Some((id, 3))
        );
    }

    #[test]
    fn missed_intervals_are_one_call_on_the_same_grid() {
        let mut punctuations = Punctuations::default();
        punctuations
            .schedule(0, None, 10, PunctuationType::StreamTime, 0)
            .unwrap();
        assert!(
            punctuations
                .take_due(PunctuationType::StreamTime, 47)
                .is_some()
        );
        assert_eq!(punctuations.take_due(PunctuationType::StreamTime, 47), None);
        assert_eq!(punctuations.next_due(PunctuationType::StreamTime), Some(50));
    }

    #[test]
    fn a_punctuation_at_the_end_of_time_is_the_last() {
        for interval_ms in [1, 10, i64::MAX] {
            let mut punctuations = Punctuations::default();
            let id = punctuations
                .schedule(0, None, interval_ms, PunctuationType::StreamTime, 0)
                .unwrap();
            let last = punctuations.take_due(PunctuationType::StreamTime, i64::MAX);
            assert_eq!(last, Some((id, 0)));
            assert_eq!(
                punctuations.take_due(PunctuationType::StreamTime, i64::MAX),
                None
            );
        }
    }

    #[test]
    fn a_wall_clock_punctuation_is_first_due_after_one_interval() {
        let mut punctuations = Punctuations::default();
        punctuations
            .schedule(0, None, 10, PunctuationType::WallClockTime, 100)
            .unwrap();
        assert_eq!(
            punctuations.next_due(PunctuationType::WallClockTime),
            Some(110)
        );
        assert_eq!(punctuations.stream_due_ms, i64::MAX);
    }

    #[test]
    fn a_cancelled_punctuation_is_never_due() {
        let mut punctuations = Punctuations::default();
        let id = punctuations
            .schedule(0, Some(5), 10, PunctuationType::StreamTime, 0)
            .unwrap();
        punctuations.cancel(id);
        assert_eq!(
            punctuations.take_due(PunctuationType::StreamTime, 100),
            None
        );
        assert_eq!(punctuations.stream_due_ms, i64::MAX);
    }
}
