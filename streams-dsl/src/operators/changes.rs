//! What a cached store of a table sends on when it is flushed.

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{Children, InitContext, TaskContext};
use brooklet_streams_core::record::{Datum, Record};
use brooklet_streams_core::typed_store::{FlushListener, Flushed};

use crate::change::Change;

/// Forwards each flushed row to the children of the table's node.
pub(crate) struct ForwardChanges<K, V> {
    children: Children<K, Change<V>>,
    sends_old: bool,
}

impl<K, V> ForwardChanges<K, V> {
    /// For the node that is set up; `None` when it has no children, and so nobody to tell.
    pub(crate) fn below(context: &InitContext<'_, K, Change<V>>, sends_old: bool) -> Option<Self> {
        let children = context.children();
        (!children.is_empty()).then_some(Self {
            children,
            sends_old,
        })
    }
}

impl<K: Datum, V: Datum> FlushListener<K, V> for ForwardChanges<K, V> {
    fn wants_old(&self) -> bool {
        self.sends_old
    }

    fn flushed(
        &mut self,
        change: Flushed<K, V>,
        task: &mut TaskContext,
    ) -> Result<(), ProcessError> {
        let Flushed {
            key,
            new,
            old,
            timestamp,
            headers,
        } = change;
        let old = old.filter(|_| self.sends_old);
        self.children.forward(
            Record {
                key,
                value: Change { new, old },
                timestamp,
                headers,
            },
            task,
        )
    }
}
