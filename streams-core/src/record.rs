//! What flows through a topology: a record with its key, value, timestamp and headers.

use std::sync::Arc;

use bytes::Bytes;

/// One record on its way through a task: typed, owned, moved from node to node.
///
/// `K` and `V` mean *present*. A stream that carries nulls has `Option<K>` or `Option<V>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<K, V> {
    /// The key.
    pub key: K,
    /// The value.
    pub value: V,
    /// Event time in milliseconds since the epoch, never negative.
    pub timestamp: i64,
    /// Headers, shared when cloned. Most records have none, which costs nothing.
    pub headers: Headers,
}

impl<K, V> Record<K, V> {
    /// A record without headers.
    pub fn new(key: K, value: V, timestamp: i64) -> Self {
        Self {
            key,
            value,
            timestamp,
            headers: Headers::default(),
        }
    }

    /// The same record with another key.
    pub fn with_key<K2>(self, key: K2) -> Record<K2, V> {
        Record {
            key,
            value: self.value,
            timestamp: self.timestamp,
            headers: self.headers,
        }
    }

    /// The same record with another value.
    pub fn with_value<V2>(self, value: V2) -> Record<K, V2> {
        Record {
            key: self.key,
            value,
            timestamp: self.timestamp,
            headers: self.headers,
        }
    }

    /// The same record at another event time, in milliseconds.
    pub fn with_timestamp(mut self, timestamp: i64) -> Self {
        self.timestamp = timestamp;
        self
    }
}

/// A record's headers: names and values in order; a name may occur more than once. Cloning shares them; a change copies them first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Option<Arc<Vec<Header>>>);

/// One header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name.
    pub key: String,
    /// The value; `None` is Kafka's null.
    pub value: Option<Bytes>,
}

impl Headers {
    /// Adds a header at the end.
    pub fn push(&mut self, key: impl Into<String>, value: Option<Bytes>) {
        let headers = Arc::make_mut(self.0.get_or_insert_with(Default::default));
        headers.push(Header {
            key: key.into(),
            value,
        });
    }

    /// The last header of that name, which is the one that counts (Kafka's `Headers#lastHeader`).
    pub fn last(&self, key: &str) -> Option<&Header> {
        self.iter().rev().find(|header| header.key == key)
    }

    /// All headers, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Header> {
        self.0.as_deref().map_or(&[][..], Vec::as_slice).iter()
    }

    /// Whether both are one list, or there are none in either.
    #[inline]
    pub(crate) fn is_same(&self, other: &Headers) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(mine), Some(theirs)) => Arc::ptr_eq(mine, theirs),
            _ => false,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.as_deref().is_none_or(Vec::is_empty)
    }
}

/// Where the record being processed was read from. Absent in punctuations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordMetadata {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// What a record of a topology must be: cloned at a fan-out and held by stores. Implemented by every such type.
pub trait Datum: Clone + 'static {}
impl<T: Clone + 'static> Datum for T {}
