//! Whether a round of group commit syncs its files one after the other or the whole file system at once: by what each has taken.
//!
//! - One file is synced by itself, which tells what a file costs.
//! - Several are synced at once as long as that takes no longer than the files one by one would. If it did, because another program's
//!   writes went along, it is left for sixteen rounds, then for thirty-two, and so on.
//! - Now and then the files are synced one by one all the same: what they cost may have changed.

use std::time::Duration;

/// Rounds without, after one at once was slower.
const PAUSE_MIN: u32 = 16;
const PAUSE_MAX: u32 = 1024;
/// After so many rounds at once, one file by file.
const REMEASURE_AFTER: u32 = 512;

#[derive(Clone, Debug)]
pub(super) struct SyncChoice {
    /// Of one file, a moving average.
    file: Option<Duration>,
    /// Rounds to go without.
    paused: u32,
    next_pause: u32,
    /// Rounds at once since files were synced one by one.
    unmeasured: u32,
}

impl Default for SyncChoice {
    fn default() -> Self {
        Self {
            file: None,
            paused: 0,
            next_pause: PAUSE_MIN,
            unmeasured: 0,
        }
    }
}

impl SyncChoice {
    /// Whether the next round, of so many files, is to be at once.
    pub(super) fn at_once(&mut self, files: usize) -> bool {
        if files < 2 || self.file.is_none() || self.unmeasured >= REMEASURE_AFTER {
            return false;
        }
        if self.paused > 0 {
            self.paused -= 1;
            return false;
        }
        true
    }

    pub(super) fn took_one_by_one(&mut self, files: usize, took: Duration) {
        let Ok(files @ 1..) = u32::try_from(files) else {
            return;
        };
        let each = took / files;
        self.file = Some(self.file.map_or(each, |before| (before * 3 + each) / 4));
        self.unmeasured = 0;
    }

    pub(super) fn took_at_once(&mut self, files: usize, took: Duration) {
        self.unmeasured += 1;
        let files = u32::try_from(files).unwrap_or(u32::MAX);
        let one_by_one = self
            .file
            .map_or(Duration::MAX, |file| file.saturating_mul(files));
        if took > one_by_one {
            self.paused = self.next_pause;
            self.next_pause = (self.next_pause * 2).min(PAUSE_MAX);
        } else {
            self.next_pause = PAUSE_MIN;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn several_files_are_synced_at_once_when_it_is_known_what_one_costs() {
        let mut choice = SyncChoice::default();
        assert!(!choice.at_once(16));
        choice.took_one_by_one(16, 16 * MS);
        assert!(!choice.at_once(1));
        assert!(choice.at_once(2));
        choice.took_at_once(2, MS);
        assert!(choice.at_once(2));
    }

    #[test]
    fn a_slow_sync_of_all_is_left_for_longer_each_time() {
        let mut choice = SyncChoice::default();
        choice.took_one_by_one(1, MS);
        for pause in [16, 32, 64] {
            assert!(choice.at_once(4));
            choice.took_at_once(4, 300 * MS);
            for _ in 0..pause {
                assert!(!choice.at_once(4));
                choice.took_one_by_one(4, 4 * MS);
            }
        }
        assert!(choice.at_once(4));
        choice.took_at_once(4, MS);
        // Quick again: the next slow one counts as the first.
        assert!(choice.at_once(4));
        choice.took_at_once(4, 300 * MS);
        assert_eq!(choice.paused, PAUSE_MIN);
    }

    #[test]
    fn what_a_file_costs_is_measured_again() {
        let mut choice = SyncChoice::default();
        choice.took_one_by_one(1, 100 * MS);
        for _ in 0..REMEASURE_AFTER {
            assert!(choice.at_once(2));
            choice.took_at_once(2, 150 * MS);
        }
        assert!(!choice.at_once(2));
        for _ in 0..20 {
            choice.took_one_by_one(2, 2 * MS);
        }
        assert!(choice.at_once(2));
        choice.took_at_once(2, 150 * MS);
        assert!(!choice.at_once(2));
    }
}
