//! The record cache: typed, write-back, over each cached store of a stream thread.
//!
//! 1. A read or an update of a cached key touches neither serdes nor the store. The first read of a key loads it, also when the store
//!    does not have it.
//! 2. An update makes its entry dirty, and nothing else happens: nothing is written or emitted inside a put.
//! 3. At a commit the dirty entries of each store are flushed, stores upstream first, in the order of the latest update of each key:
//!    written to the store and its changelog, then told to the store's flush listener (which emits downstream) under the record context
//!    of that update. So between two flushes only the last of a key's values is seen, and its old value is the one flushed before.
//! 4. All caches of a thread share one budget of bytes. When it is exceeded, the task evicts between two records: the least recently
//!    used entry first; if that is dirty, all dirty entries of its store are flushed, as Kafka's `NamedCache` does.
//!
//! ## Evicting other tasks' entries
//! An eviction emits, so a dirty entry can only go while its own task is at work. A task over the budget drops the thread's oldest entries
//! as long as they are clean or its own; a task whose dirty entries are older than all that is asked to flush them at its next step.
//!
//! ## What an entry costs
//! Serialised sizes of key and value as they were when last read or flushed, an average of those where they are not known yet, and the
//! entry itself. So a value that grows between two flushes is charged at the second.

pub(crate) mod entries;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use crate::error::ProcessError;
use crate::processor::TaskContext;

/// The caches of one stream thread: one budget, one clock of uses.
pub struct ThreadCache {
    bytes_max: usize,
    bytes: Cell<usize>,
    /// Grows with each use of an entry.
    clock: Cell<u64>,
    updates_may_continue: bool,
    stores: RefCell<Vec<Registered>>,
}

struct Registered {
    /// Asks the store's task to flush.
    task: Rc<Cell<bool>>,
    store: Weak<dyn CachedStore>,
}

impl ThreadCache {
    /// A budget of `bytes_max` bytes (`statestore.cache.max.bytes` divided by the number of stream threads); with 0 nothing is cached.
    ///
    /// `updates_may_continue` says whether the processing-exception handler may let a task go on after an error. Then an update keeps a
    /// copy of the value while the user's closure has it.
    pub fn new(bytes_max: usize, updates_may_continue: bool) -> Rc<Self> {
        Rc::new(Self {
            bytes_max,
            bytes: Cell::new(0),
            clock: Cell::new(0),
            updates_may_continue,
            stores: RefCell::default(),
        })
    }

    /// What the cached entries cost, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.bytes_max > 0
    }

    pub(crate) fn updates_may_continue(&self) -> bool {
        self.updates_may_continue
    }

    #[inline]
    pub(crate) fn tick(&self) -> u64 {
        let now = self.clock.get() + 1;
        self.clock.set(now);
        now
    }

    /// An entry's cost changed from `before` to `after` bytes.
    #[inline]
    pub(crate) fn recharge(&self, before: usize, after: usize) {
        debug_assert!(
            self.bytes.get() >= before,
            "the cache gives back {before} bytes of {}",
            self.bytes.get()
        );
        self.bytes
            .set(self.bytes.get().saturating_sub(before) + after);
    }

    #[inline]
    fn is_over(&self) -> bool {
        self.bytes.get() > self.bytes_max
    }
}

/// A cached store, as its task sees it.
pub(crate) trait CachedStore {
    fn name(&self) -> &str;

    fn is_dirty(&self) -> bool;

    /// Writes and tells all that is dirty now.
    fn flush(&self, task: &mut TaskContext) -> Result<(), ProcessError>;

    /// The least recently used entry.
    fn oldest(&self) -> Option<Oldest>;

    /// Drops the least recently used entry if it is clean.
    fn drop_oldest(&self);

    /// Drops the least recently used entry; when it is dirty, flushes it and then all else that is dirty.
    fn evict_oldest(&self, task: &mut TaskContext) -> Result<(), ProcessError>;
}

/// When an entry was used last, and whether it can just be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Oldest {
    pub(crate) used: u64,
    pub(crate) is_dirty: bool,
}

/// The cached stores of one task, in the topological order of the nodes that own them.
pub struct TaskCaches {
    thread: Rc<ThreadCache>,
    stores: Vec<Rc<dyn CachedStore>>,
    flush_requested: Rc<Cell<bool>>,
}

impl TaskCaches {
    /// The caches of a task of the thread; [`StoreBuilder::build`](crate::typed_store::StoreBuilder::build) adds the task's cached stores.
    pub fn new(thread: &Rc<ThreadCache>) -> Self {
        Self {
            thread: Rc::clone(thread),
            stores: Vec::new(),
            flush_requested: Rc::default(),
        }
    }

    pub(crate) fn thread(&self) -> &Rc<ThreadCache> {
        &self.thread
    }

    /// Adds a store. Its flush must not emit into the stores before it.
    pub(crate) fn add(&mut self, store: Rc<dyn CachedStore>) {
        let registered = Registered {
            task: Rc::clone(&self.flush_requested),
            store: Rc::downgrade(&store),
        };
        self.thread.stores.borrow_mut().push(registered);
        self.stores.push(store);
    }

    /// Whether [`TaskCaches::evict`] is to be called. To be asked after each record, so that nothing is emitted inside a put.
    #[inline]
    pub fn wants_eviction(&self) -> bool {
        self.thread.is_over() || self.flush_requested.get()
    }

    /// Brings the thread's caches under their budget as far as this task can, and flushes if another task asked for it. Emits; to be called
    /// between records.
    ///
    /// # Errors
    /// What a flush listener, a store or a serde reports.
    pub fn evict(&self, task: &mut TaskContext) -> Result<(), ProcessError> {
        if self.flush_requested.take() {
            self.flush(task)?;
        }
        // Flushing a store can fill those below it, but a task has only so many.
        let mut fruitless = 0;
        while self.thread.is_over() && fruitless <= self.stores.len() {
            let Some(victim) = self.victim() else { break };
            let before = self.thread.bytes();
            victim.evict_oldest(task)?;
            fruitless = if self.thread.bytes() < before {
                0
            } else {
                fruitless + 1
            };
        }
        Ok(())
    }

    /// The store of this task whose oldest entry is to go; `None` when there is none or the budget is kept. Drops clean entries of other
    /// tasks that are older.
    fn victim(&self) -> Option<Rc<dyn CachedStore>> {
        let own = self
            .stores
            .iter()
            .filter_map(|store| Some((store.oldest()?, store)));
        let own = own.min_by_key(|(oldest, _)| oldest.used);
        let own_used = own.as_ref().map_or(u64::MAX, |(oldest, _)| oldest.used);
        for other in self
            .thread
            .stores
            .borrow()
            .iter()
            .filter(|other| !Rc::ptr_eq(&other.task, &self.flush_requested))
        {
            let Some(store) = other.store.upgrade() else {
                continue;
            };
            while let Some(oldest) = store
                .oldest()
                .filter(|oldest| oldest.used < own_used && self.thread.is_over())
            {
                if oldest.is_dirty {
                    other.task.set(true);
                    break;
                }
                store.drop_oldest();
            }
        }
        own.filter(|_| self.thread.is_over())
            .map(|(_, store)| Rc::clone(store))
    }

    /// Flushes all that is dirty, upstream first. Emits. To be called at a commit, before the producer is flushed.
    ///
    /// # Errors
    /// What a flush listener, a store or a serde reports; a flush that makes an upstream store dirty again and again.
    pub fn flush(&self, task: &mut TaskContext) -> Result<(), ProcessError> {
        // One pass is enough when stores are in topological order. A store shared by an upstream and a downstream node may need another.
        for _ in 0..=self.stores.len() {
            for store in &self.stores {
                store.flush(task)?;
            }
            if !self.stores.iter().any(|store| store.is_dirty()) {
                return Ok(());
            }
        }
        let dirty: Vec<_> = self
            .stores
            .iter()
            .filter(|store| store.is_dirty())
            .map(|store| store.name())
            .collect();
        Err(ProcessError::new(format!(
            "flushing store {} changes it again: its records reach a node that writes to it",
            dirty.join(", ")
        )))
    }
}

impl Drop for TaskCaches {
    fn drop(&mut self) {
        self.thread
            .stores
            .borrow_mut()
            .retain(|registered| !Rc::ptr_eq(&registered.task, &self.flush_requested));
    }
}
