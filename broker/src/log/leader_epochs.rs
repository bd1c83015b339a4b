//! Which leader wrote from which offset on: `leader-epoch-checkpoint`.
//!
//! ```text
//! 0          version
//! 2          entries
//! 0 0        epoch, first offset
//! 3 1042
//! ```
//!
//! Every batch carries its epoch, so a lost file is made anew from the segments.

/// The epochs of a log, with the offset each starts at. Both rise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LeaderEpochs {
    entries: Vec<(i32, i64)>,
}

pub(super) const FILE: &str = "leader-epoch-checkpoint";

impl LeaderEpochs {
    /// Notes a batch; true if its epoch is new.
    pub(super) fn note(&mut self, epoch: i32, base_offset: i64) -> bool {
        let is_new = epoch >= 0 && self.latest().is_none_or(|latest| epoch > latest);
        if is_new {
            self.entries.push((epoch, base_offset));
        }
        is_new
    }

    /// Forgets epochs that start at or after this offset.
    pub(super) fn truncate_from(&mut self, end_offset: i64) {
        self.entries
            .retain(|(_, start_offset)| *start_offset < end_offset);
    }

    /// Forgets epochs that end at or before this offset; true if something changed.
    pub(super) fn truncate_before(&mut self, log_start_offset: i64) -> bool {
        let ended = self
            .entries
            .iter()
            .skip(1)
            .take_while(|(_, start_offset)| *start_offset <= log_start_offset)
            .count();
        self.entries.drain(..ended);
        let moved = self
            .entries
            .first_mut()
            .filter(|(_, start_offset)| *start_offset < log_start_offset);
        let changed = ended > 0 || moved.is_some();
        if let Some(first) = moved {
            first.1 = log_start_offset;
        }
        changed
    }

    pub(super) fn latest(&self) -> Option<i32> {
        self.entries.last().map(|(epoch, _)| *epoch)
    }

    /// The first epoch, if it starts at or before this offset.
    pub(super) fn first(&self, log_start_offset: i64) -> Option<i32> {
        let (epoch, start_offset) = self.entries.first()?;
        (*start_offset <= log_start_offset).then_some(*epoch)
    }

    /// The largest epoch at or below the wanted one, with its end offset (exclusive). `None` if the wanted one is not yet known here.
    pub(super) fn end_offset(&self, epoch: i32, log_end_offset: i64) -> Option<(i32, i64)> {
        let latest = self.latest()?;
        if epoch == latest {
            return Some((latest, log_end_offset));
        }
        let above = self.entries.partition_point(|(known, _)| *known <= epoch);
        let (_, end_offset) = self.entries.get(above)?;
        // Before the first known epoch it ended where that one starts.
        let floor = above
            .checked_sub(1)
            .and_then(|last| self.entries.get(last))
            .map_or(epoch, |(known, _)| *known);
        Some((floor, *end_offset))
    }

    pub(super) fn encode(&self) -> String {
        let mut text = format!("0\n{}\n", self.entries.len());
        for (epoch, start_offset) in &self.entries {
            text.push_str(&format!("{epoch} {start_offset}\n"));
        }
        text
    }

    /// `None` if it is not a whole checkpoint.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut lines = str::from_utf8(bytes).ok()?.lines();
        if lines.next()? != "0" {
            return None;
        }
        let count: usize = lines.next()?.parse().ok()?;
        let mut entries = Vec::new();
        for line in lines {
            let (epoch, start_offset) = line.split_once(' ')?;
            entries.push((epoch.parse().ok()?, start_offset.parse().ok()?));
        }
        let rises = entries.is_sorted_by(|a: &(i32, i64), b| a.0 < b.0 && a.1 <= b.1);
        (entries.len() == count && rises).then_some(LeaderEpochs { entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(entries: &[(i32, i64)]) -> LeaderEpochs {
        LeaderEpochs {
            entries: entries.to_vec(),
        }
    }

    #[test]
    fn an_epoch_ends_where_the_next_starts() {
        let epochs = epochs(&[(1, 10), (4, 20), (5, 30)]);
        assert_eq!(epochs.end_offset(5, 99), Some((5, 99)));
        assert_eq!(epochs.end_offset(4, 99), Some((4, 30)));
        assert_eq!(epochs.end_offset(3, 99), Some((1, 20)));
        assert_eq!(epochs.end_offset(0, 99), Some((0, 10)));
        assert_eq!(epochs.end_offset(6, 99), None);
        assert_eq!(LeaderEpochs::default().end_offset(0, 0), None);
    }

    #[test]
    fn epochs_only_rise_and_are_cut_at_both_ends() {
        let mut epochs = epochs(&[(1, 10), (4, 20), (5, 30)]);
        assert!(!epochs.note(5, 40));
        assert!(epochs.note(6, 40));
        epochs.truncate_from(40);
        assert_eq!(epochs.latest(), Some(5));
        assert!(epochs.truncate_before(25));
        assert_eq!(
            epochs,
            LeaderEpochs {
                entries: vec![(4, 25), (5, 30)]
            }
        );
        assert!(!epochs.truncate_before(25));
    }

    #[test]
    fn a_checkpoint_reads_back_and_a_cut_one_is_refused() {
        let epochs = epochs(&[(0, 0), (3, 1042)]);
        let text = epochs.encode();
        assert_eq!(text, "0\n2\n0 0\n3 1042\n");
        assert_eq!(LeaderEpochs::decode(text.as_bytes()), Some(epochs));
        for cut in 0..text.len() - 5 {
            assert_eq!(
                LeaderEpochs::decode(text.get(..cut).unwrap_or_default().as_bytes()),
                None,
                "{cut}"
            );
        }
    }
}
