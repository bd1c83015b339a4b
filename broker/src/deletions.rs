//! Files that are deleted and still on disk, under names that nobody opens (`.deleted`, `-delete`): they go when `file.delete.delay.ms` has
//! passed, or with the next start.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::disk::Disk;

/// What is to be removed, and when.
#[derive(Debug, Default)]
pub(crate) struct Deletions {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By time, and in the order in which they came.
    due: BTreeMap<(i64, u64), Doomed>,
    next: u64,
}

/// A name that goes.
#[derive(Debug)]
pub(crate) enum Doomed {
    File(PathBuf),
    /// With everything in it.
    Dir(PathBuf),
}

impl Deletions {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, due_ms: i64, doomed: impl IntoIterator<Item = Doomed>) {
        let mut state = self.lock();
        for doomed in doomed {
            let number = state.next;
            state.next += 1;
            state.due.insert((due_ms, number), doomed);
        }
    }

    /// When the next one goes.
    pub(crate) fn next_ms(&self) -> Option<i64> {
        let state = self.lock();
        let ((due_ms, _), _) = state.due.first_key_value()?;
        Some(*due_ms)
    }

    /// Removes what is due; how many.
    pub(crate) fn remove_due(&self, disk: &dyn Disk, now_ms: i64) -> usize {
        let due = {
            let mut state = self.lock();
            let later = state.due.split_off(&(now_ms.saturating_add(1), 0));
            std::mem::replace(&mut state.due, later)
        };
        let count = due.len();
        for doomed in due.into_values() {
            let (path, removed) = match doomed {
                Doomed::File(path) => (path.clone(), disk.remove_file(&path)),
                Doomed::Dir(path) => (path.clone(), disk.remove_dir_all(&path)),
            };
            match removed {
                // With the directory of its topic.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "what was deleted is not removed before the next start");
                }
                Ok(()) => {}
            }
        }
        count
    }
}
