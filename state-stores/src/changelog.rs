//! How a change leaves a store for its changelog.

use std::cell::RefCell;
use std::rc::Rc;

use crate::StoreError;

/// One change of a store, as its changelog topic holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangelogRecord<'a> {
    /// The record's key: the store's key, or for a window store the [window key](crate::key_schema).
    pub key: &'a [u8],
    /// The plain value, without the timestamp it is stored with; `None` deletes.
    pub value: Option<&'a [u8]>,
    /// The timestamp stored with the value, in milliseconds since the epoch. `None` (deletes, stores without
    /// timestamps) stands for that of the record being processed, which only the task knows.
    pub timestamp_ms: Option<i64>,
}

/// Takes the changes of one store. The runtime implements it over a producer.
pub trait ChangelogSink {
    /// Takes one change, in the order of the writes.
    ///
    /// # Errors
    /// [`StoreError::Changelog`] when it cannot be taken; the write to the store has happened by then.
    fn log(&mut self, record: ChangelogRecord<'_>) -> Result<(), StoreError>;
}

impl<L: ChangelogSink + ?Sized> ChangelogSink for Box<L> {
    fn log(&mut self, record: ChangelogRecord<'_>) -> Result<(), StoreError> {
        (**self).log(record)
    }
}

/// A sink that several stores of a task share.
impl<L: ChangelogSink + ?Sized> ChangelogSink for Rc<RefCell<L>> {
    fn log(&mut self, record: ChangelogRecord<'_>) -> Result<(), StoreError> {
        self.borrow_mut().log(record)
    }
}
