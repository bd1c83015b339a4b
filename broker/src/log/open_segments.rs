//! Files of segments that were read last: they stay open for the next read, a bounded number of them in the whole process.
//!
//! A segment has a [`Slot`], which knows its files as long as somebody holds them open; a list that all slots share does so for those that
//! were used last. A segment that is deleted or swapped takes its slot along: its files are closed when the last read of them has ended,
//! and a new segment of the same name begins with an empty slot. So nothing here goes by names.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::disk::DiskFile;
use crate::log::index_file::OpenIndex;
use crate::log::offset_index::OffsetEntry;

/// Segments whose files are held open between reads: two files each.
const SEGMENTS_MAX: usize = 64;

static RECENT: Mutex<Recent> = Mutex::new(Recent(VecDeque::new()));

/// What a read of a segment uses.
#[derive(Debug)]
pub(super) struct OpenSegment {
    pub(super) file: Arc<dyn DiskFile>,
    /// Of a sealed segment.
    pub(super) offset_index: Option<OpenIndex<OffsetEntry>>,
}

/// The ones used last, the newest at the end.
struct Recent(VecDeque<Arc<OpenSegment>>);

impl Recent {
    /// Notes a use. Returns what is no longer held, to be dropped without the lock.
    fn note(&mut self, segment: &Arc<OpenSegment>) -> Option<Arc<OpenSegment>> {
        let is_newest = |newest| Arc::ptr_eq(newest, segment);
        if self.0.back().is_some_and(is_newest) {
            return None;
        }
        let before = self.forget(segment);
        self.0.push_back(segment.clone());
        if self.0.len() > SEGMENTS_MAX {
            return self.0.pop_front();
        }
        before
    }

    fn forget(&mut self, segment: &Arc<OpenSegment>) -> Option<Arc<OpenSegment>> {
        let place = self.0.iter().position(|held| Arc::ptr_eq(held, segment))?;
        self.0.remove(place)
    }
}

/// A segment's open files, if they are open.
#[derive(Debug, Default)]
pub(super) struct Slot(Mutex<Weak<OpenSegment>>);

impl Slot {
    /// The segment's files, opened if need be.
    pub(super) fn open<E>(
        &self,
        open: impl FnOnce() -> Result<OpenSegment, E>,
    ) -> Result<Arc<OpenSegment>, E> {
        let mut slot = lock(&self.0);
        let segment = match slot.upgrade() {
            Some(segment) => segment,
            None => {
                let opened = Arc::new(open()?);
                *slot = Arc::downgrade(&opened);
                opened
            }
        };
        drop(slot);
        let closed = lock(&RECENT).note(&segment);
        drop(closed);
        Ok(segment)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(segment) = lock(&self.0).upgrade() {
            let closed = lock(&RECENT).forget(&segment);
            drop(closed);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::convert::Infallible;
    use std::path::Path;

    use super::*;
    use crate::disk::{Disk, SimDisk};

    fn segment() -> OpenSegment {
        let file = SimDisk::default().open_or_create(Path::new("/segment"));
        OpenSegment {
            file: file.unwrap(),
            offset_index: None,
        }
    }

    #[test]
    fn the_segments_used_last_are_held_and_no_more() {
        let mut recent = Recent(VecDeque::new());
        let segments: Vec<_> = (0..SEGMENTS_MAX).map(|_| Arc::new(segment())).collect();
        for segment in &segments {
            assert!(recent.note(segment).is_none());
        }
        let (first, second) = (segments.first().unwrap(), segments.get(1).unwrap());
        // Used again: it is not the oldest any more, and is held once.
        assert!(Arc::ptr_eq(&recent.note(first).unwrap(), first));
        assert_eq!(recent.0.len(), SEGMENTS_MAX);
        let closed = recent.note(&Arc::new(segment())).unwrap();
        assert!(Arc::ptr_eq(&closed, second));
        assert_eq!(recent.0.len(), SEGMENTS_MAX);
    }

    #[test]
    fn a_slot_opens_its_files_once_and_closes_them_with_itself() {
        let slot = Slot::default();
        let opened = slot.open(|| Ok::<_, Infallible>(segment())).unwrap();
        let again = slot.open(|| -> Result<_, Infallible> { panic!("opened again") });
        assert!(Arc::ptr_eq(&opened, &again.unwrap()));
        let file = Arc::downgrade(&opened.file);
        drop(opened);
        assert!(file.upgrade().is_some());
        drop(slot);
        assert!(file.upgrade().is_none());
    }

    #[test]
    fn a_segment_that_cannot_be_opened_is_tried_again() {
        let slot = Slot::default();
        assert_eq!(slot.open(|| Err("gone")).unwrap_err(), "gone");
        assert!(slot.open(|| Ok::<_, &str>(segment())).is_ok());
    }
}
