//! How far the restoration of an instance is, told to people: a bar while standard error is a terminal, log lines otherwise.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

/// Shorter ones are not worth a bar.
const BAR_AFTER_MS: i64 = 300;
const BAR_EVERY_MS: i64 = 100;
const LINE_EVERY_MS: i64 = 5_000;
const BAR_CELLS: u64 = 30;

/// The restoration of all threads of an instance.
pub(crate) struct RestorationProgress {
    is_terminal: bool,
    progress: Mutex<Progress>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Records that are, or were, to be restored since there was last nothing to restore.
    total: u64,
    restored: u64,
    began_ms: i64,
    told_ms: i64,
    is_told: bool,
}

/// What is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tell {
    Nothing,
    /// How far it is.
    Progress,
    /// It is over.
    End,
}

impl RestorationProgress {
    /// As standard error is now.
    pub(crate) fn new() -> Self {
        Self {
            is_terminal: io::stderr().is_terminal(),
            progress: Mutex::default(),
        }
    }

    /// So many records are to be restored.
    pub(crate) fn add(&self, records: u64, now_ms: i64) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.add(records, now_ms);
    }

    /// So many are not to be restored any more, or not by what has begun it.
    pub(crate) fn forget(&self, records: u64, now_ms: i64) {
        {
            let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.total = progress.total.saturating_sub(records);
        }
        self.advance(0, now_ms);
    }

    /// So many of them are.
    pub(crate) fn advance(&self, records: u64, now_ms: i64) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let tell = progress.advance(records, now_ms, self.is_terminal);
        let Progress {
            total, restored, ..
        } = *progress;
        match (tell, self.is_terminal) {
            (Tell::Nothing, _) => {}
            (Tell::Progress, true) => draw(&format!("\r{}\x1b[K", progress.bar(now_ms))),
            (Tell::End, true) => draw("\r\x1b[K"),
            (Tell::Progress, false) => tracing::info!(restored, total, "restoring"),
            (Tell::End, false) => {
                tracing::info!(restored, took_ms = now_ms - progress.began_ms, "restored");
            }
        }
        if tell == Tell::End {
            *progress = Progress::default();
        }
    }
}

/// A terminal that went away is not an error of the application's.
fn draw(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr
        .write_all(text.as_bytes())
        .and_then(|()| stderr.flush());
}

impl Progress {
    fn add(&mut self, records: u64, now_ms: i64) {
        if self.total == 0 {
            self.began_ms = now_ms;
            self.told_ms = now_ms;
        }
        self.total = self.total.saturating_add(records);
    }

    fn advance(&mut self, records: u64, now_ms: i64, is_terminal: bool) -> Tell {
        self.restored = self.restored.saturating_add(records);
        if self.restored >= self.total {
            // A bar is taken away; a line is the last of several.
            if self.is_told {
                return Tell::End;
            }
            *self = Self::default();
            return Tell::Nothing;
        }
        let is_due = if is_terminal {
            now_ms - self.began_ms >= BAR_AFTER_MS && now_ms - self.told_ms >= BAR_EVERY_MS
        } else {
            now_ms - self.told_ms >= LINE_EVERY_MS
        };
        if !is_due {
            return Tell::Nothing;
        }
        self.told_ms = now_ms;
        self.is_told = true;
        Tell::Progress
    }

    fn bar(&self, now_ms: i64) -> String {
        let done = |of: u64| {
            let part = u128::from(self.restored.min(self.total)) * u128::from(of);
            u64::try_from(part / u128::from(self.total.max(1))).unwrap_or(of)
        };
        let cells: String = (0..BAR_CELLS)
            .map(|cell| if cell < done(BAR_CELLS) { '#' } else { '.' })
            .collect();
        let elapsed_ms = u64::try_from(now_ms - self.began_ms).unwrap_or(0).max(1);
        format!(
            "restoring stores [{cells}] {:>3} %  {} of {} records, {} a second",
            done(100),
            self.restored,
            self.total,
            self.restored.saturating_mul(1_000) / elapsed_ms
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(total: u64) -> Progress {
        let mut progress = Progress::default();
        progress.add(total, 1_000);
        progress
    }

    #[test]
    fn a_bar_is_told_ten_times_a_second_and_taken_away_at_the_end() {
        let mut progress = of(1_000);
        assert_eq!(progress.advance(100, 1_100, true), Tell::Nothing);
        assert_eq!(progress.advance(100, 1_300, true), Tell::Progress);
        assert_eq!(progress.advance(100, 1_350, true), Tell::Nothing);
        assert_eq!(
            progress.bar(2_000),
            "restoring stores [#########.....................]  30 %  300 of 1000 records, 300 a second"
        );
        assert_eq!(progress.advance(700, 1_360, true), Tell::End);
    }

    #[test]
    fn a_short_restoration_is_not_told_and_leaves_nothing_behind() {
        for is_terminal in [true, false] {
            let mut progress = of(10);
            assert_eq!(progress.advance(10, 1_250, is_terminal), Tell::Nothing);
            progress.add(20, 9_000);
            assert_eq!(progress.advance(10, 9_050, is_terminal), Tell::Nothing);
            assert_eq!(progress.restored, 10);
        }
    }

    #[test]
    fn lines_are_told_every_five_seconds() {
        let mut progress = of(1_000);
        assert_eq!(progress.advance(100, 5_900, false), Tell::Nothing);
        assert_eq!(progress.advance(100, 6_000, false), Tell::Progress);
        assert_eq!(progress.advance(100, 10_900, false), Tell::Nothing);
        assert_eq!(progress.advance(700, 11_000, false), Tell::End);
    }
}
