//! Wakers of a partition: called after the high watermark advanced.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Called when something that was waited for may have come. Must be quick and must not assume that it has.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// The wakers of one partition. Waking takes a snapshot, so a waker may add and remove wakers.
#[derive(Default)]
pub(crate) struct Watchers {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next_id: u64,
    wakers: Arc<Vec<(u64, Waker)>>,
}

impl fmt::Debug for Watchers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Watchers").finish_non_exhaustive()
    }
}

impl Watchers {
    pub(crate) fn add(watchers: &Arc<Self>, waker: Waker) -> Watch {
        let mut inner = watchers
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let id = inner.next_id;
        inner.next_id += 1;
        Arc::make_mut(&mut inner.wakers).push((id, waker));
        Watch {
            watchers: Arc::downgrade(watchers),
            id,
        }
    }

    pub(crate) fn wake(&self) {
        let wakers = self
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .wakers
            .clone();
        for (_, waker) in wakers.iter() {
            waker();
        }
    }

    fn remove(&self, id: u64) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut inner.wakers).retain(|(other, _)| *other != id);
    }
}

/// A registered waker; dropping it ends the registration.
#[derive(Debug)]
#[must_use = "dropping a watch ends it"]
pub struct Watch {
    watchers: Weak<Watchers>,
    id: u64,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(watchers) = self.watchers.upgrade() {
            watchers.remove(self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_waker_is_called_until_its_watch_is_dropped() {
        let watchers = Arc::new(Watchers::default());
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = calls.clone();
        let watch = Watchers::add(
            &watchers,
            Arc::new(move || {
                counter.fetch_add(1, Ordering::SeqCst);
            }),
        );
        watchers.wake();
        watchers.wake();
        drop(watch);
        watchers.wake();
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_waker_may_drop_its_own_watch() {
        let watchers = Arc::new(Watchers::default());
        let slot: Arc<Mutex<Option<Watch>>> = Arc::default();
        let inside = slot.clone();
        let watch = Watchers::add(
            &watchers,
            Arc::new(move || {
                inside.lock().unwrap_or_else(PoisonError::into_inner).take();
            }),
        );
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(watch);
        watchers.wake();
        assert!(
            slot.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_none()
        );
    }
}
