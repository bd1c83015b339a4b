//! Requests that wait for a condition (Kafka's purgatory): a produce for the high watermark, a fetch for bytes.
//!
//! A wait is a condition that is attempted once when it is added, again whenever something it watches has changed, and a last
//! time when its deadline has passed; the attempt that succeeds answers the request. Nothing polls: events attempt, and `expire(now)`
//! is called by whoever drives the broker, a thread or a simulation.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{Partition, Watch};

/// Why a condition is attempted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// Something it waits for may have come.
    Event,
    /// Its deadline has passed: it has to be answered now.
    Last,
}

/// Answers its request and returns true, or returns false to wait on. `Last` is always the end.
pub(crate) type Condition = Box<dyn FnMut(Attempt) -> bool + Send>;

/// The requests that wait.
#[derive(Default)]
pub(crate) struct Waiting {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next_id: u64,
    waits: BTreeMap<(i64, u64), Arc<Wait>>,
    closed: bool,
}

struct Wait {
    key: (i64, u64),
    waiting: Weak<Waiting>,
    /// Taken when it is done.
    state: Mutex<Option<WaitState>>,
}

struct WaitState {
    condition: Condition,
    watches: Vec<Watch>,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Waiting").finish_non_exhaustive()
    }
}

impl Waiting {
    /// Adds a wait on these partitions. The caller tells whoever calls `expire` of the deadline.
    pub(crate) fn add(
        self: &Arc<Self>,
        deadline_ms: i64,
        mut partitions: Vec<Arc<Partition>>,
        condition: Condition,
    ) {
        // A request may name a partition as often as it likes; one watch is enough.
        partitions.sort_unstable_by_key(Arc::as_ptr);
        partitions.dedup_by(|left, right| Arc::ptr_eq(left, right));
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (deadline_ms, inner.next_id);
        inner.next_id += 1;
        let wait = Arc::new(Wait {
            key,
            waiting: Arc::downgrade(self),
            state: Mutex::new(Some(WaitState {
                condition,
                watches: Vec::new(),
            })),
        });
        let closed = inner.closed;
        inner.waits.insert(key, wait.clone());
        drop(inner);
        for partition in partitions {
            let weak = Arc::downgrade(&wait);
            let watch = partition.watch(Arc::new(move || {
                if let Some(wait) = weak.upgrade() {
                    wait.attempt(Attempt::Event);
                }
            }));
            let mut state = wait.state.lock().unwrap_or_else(PoisonError::into_inner);
            match state.as_mut() {
                Some(state) => state.watches.push(watch),
                // Done already, by an event on an earlier partition.
                None => break,
            }
        }
        // What came before the watches were there.
        wait.attempt(if closed {
            Attempt::Last
        } else {
            Attempt::Event
        });
    }

    /// Ends every wait whose deadline has passed.
    pub(crate) fn expire(&self, now_ms: i64) {
        self.end_where(|deadline_ms| deadline_ms <= now_ms);
    }

    /// Ends every wait, and lets none begin: the broker stops.
    pub(crate) fn close(&self) {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed = true;
        self.end_where(|_| true);
    }

    fn end_where(&self, due: impl Fn(i64) -> bool) {
        loop {
            let wait = {
                let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
                match inner.waits.first_entry() {
                    Some(first) if due(first.key().0) => first.remove(),
                    _ => return,
                }
            };
            wait.attempt(Attempt::Last);
        }
    }

    /// The earliest deadline.
    pub(crate) fn next_deadline_ms(&self) -> Option<i64> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner
            .waits
            .first_key_value()
            .map(|((deadline_ms, _), _)| *deadline_ms)
    }
}

impl Wait {
    fn attempt(&self, attempt: Attempt) {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = guard.as_mut() else { return };
        if !(state.condition)(attempt) && attempt == Attempt::Event {
            return;
        }
        let done = guard.take();
        drop(guard);
        // Drops the watches, outside every lock.
        drop(done);
        if let Some(waiting) = self.waiting.upgrade() {
            waiting
                .inner
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .waits
                .remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn recorder(done_on: Attempt) -> (Condition, Arc<AtomicUsize>, Arc<AtomicUsize>) {
        let (events, lasts) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (event, last) = (events.clone(), lasts.clone());
        let condition: Condition = Box::new(move |attempt| {
            match attempt {
                Attempt::Event => event.fetch_add(1, Ordering::SeqCst),
                Attempt::Last => last.fetch_add(1, Ordering::SeqCst),
            };
            attempt == done_on
        });
        (condition, events, lasts)
    }

    #[test]
    fn a_wait_whose_condition_holds_is_done_at_once() {
        let waiting = Arc::new(Waiting::default());
        let (condition, events, lasts) = recorder(Attempt::Event);
        waiting.add(100, Vec::new(), condition);
        waiting.expire(1000);
        assert_eq!(
            (events.load(Ordering::SeqCst), lasts.load(Ordering::SeqCst)),
            (1, 0)
        );
        assert_eq!(waiting.next_deadline_ms(), None);
    }

    #[test]
    fn a_wait_ends_when_its_deadline_has_passed_and_not_before() {
        let waiting = Arc::new(Waiting::default());
        let (condition, _, lasts) = recorder(Attempt::Last);
        waiting.add(100, Vec::new(), condition);
        waiting.expire(99);
        assert_eq!(
            (lasts.load(Ordering::SeqCst), waiting.next_deadline_ms()),
            (0, Some(100))
        );
        waiting.expire(100);
        assert_eq!(
            (lasts.load(Ordering::SeqCst), waiting.next_deadline_ms()),
            (1, None)
        );
    }

    #[test]
    fn closing_ends_waits_and_lets_none_begin() {
        let waiting = Arc::new(Waiting::default());
        let (condition, _, lasts) = recorder(Attempt::Last);
        waiting.add(100, Vec::new(), condition);
        waiting.close();
        let (condition, _, late) = recorder(Attempt::Last);
        waiting.add(100, Vec::new(), condition);
        assert_eq!(
            (lasts.load(Ordering::SeqCst), late.load(Ordering::SeqCst)),
            (1, 1)
        );
    }
}
