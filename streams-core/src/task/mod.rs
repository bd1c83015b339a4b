//! The engine: one sub-topology over one partition. No IO, no threads, no clock.

use std::cell::RefCell;
use std::rc::Rc;

/// The output of all tasks of a thread.
pub(crate) type SharedCollector = Rc<RefCell<RecordCollector>>;

/// Appends the output of tasks to a producer.
pub(crate) struct RecordCollector {
    #[expect(dead_code, reason = "the sinks use it")]
    pub(crate) producer: Box<dyn crate::client::Producer>,
}

/// What nodes may ask for while a task is set up.
pub(crate) struct TaskSetup {}
