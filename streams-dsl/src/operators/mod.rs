//! What runs in a task: one file an operator. Each takes records as they come, and keeps nothing but what its file says.

pub(crate) mod aggregate;
pub(crate) mod changes;
pub(crate) mod filter;
pub(crate) mod flat_map;
pub(crate) mod map;
pub(crate) mod pass_through;
pub(crate) mod peek;
pub(crate) mod present;
pub(crate) mod row_store;
pub(crate) mod split;
pub(crate) mod stream_join;
pub(crate) mod table_filter;
pub(crate) mod table_map_values;
pub(crate) mod table_source;
pub(crate) mod to_stream;
pub(crate) mod window_aggregate;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::record::{Headers, Record};

/// What a record has beside its key and value. What is made of the record has it too.
#[derive(Clone)]
pub(crate) struct Rest {
    pub(crate) timestamp: i64,
    pub(crate) headers: Headers,
}

/// Takes a record apart.
#[inline]
pub(crate) fn parts<K, V>(record: Record<K, V>) -> (K, V, Rest) {
    let Record {
        key,
        value,
        timestamp,
        headers,
    } = record;
    (key, value, Rest { timestamp, headers })
}

impl Rest {
    /// A record of it.
    #[inline]
    pub(crate) fn with<K, V>(self, key: K, value: V) -> Record<K, V> {
        Record {
            key,
            value,
            timestamp: self.timestamp,
            headers: self.headers,
        }
    }
}

/// What `init` has opened.
#[inline]
pub(crate) fn opened<S>(store: &Option<S>) -> Result<&S, ProcessError> {
    store
        .as_ref()
        .ok_or_else(|| ProcessError::new("a record came before the store was opened"))
}
