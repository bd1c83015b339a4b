//! Which values are Kafka's null: the serde says so.

use std::sync::Arc;

use brooklet_streams_core::processor::{DropReason, TaskContext};
use brooklet_streams_core::record::Record;
use brooklet_streams_core::serde::{Deserializer, Payload, SerdeError, Serializer, SharedSerde};

/// Asks whether a value is null; costs nothing for types that have none.
pub(crate) struct NullCheck<T>(Option<SharedSerde<T>>);

impl<T> Clone for NullCheck<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: 'static> NullCheck<T> {
    /// For values of this serde.
    pub(crate) fn of(serde: &SharedSerde<T>) -> Self {
        Self(serde.null().is_some().then(|| Arc::clone(serde)))
    }

    /// For values of this serde, when it is known; without it nothing is null.
    pub(crate) fn of_known(serde: Option<&SharedSerde<T>>) -> Self {
        Self(serde.and_then(|serde| Self::of(serde).0))
    }

    #[inline]
    pub(crate) fn is_null(&self, value: &T) -> bool {
        self.0.as_ref().is_some_and(|serde| serde.is_null(value))
    }
}

/// Drops records with a null key or value, and counts them.
pub(crate) struct Nulls<K, V> {
    pub(crate) keys: NullCheck<K>,
    pub(crate) values: NullCheck<V>,
}

impl<K, V> Clone for Nulls<K, V> {
    fn clone(&self) -> Self {
        Self {
            keys: self.keys.clone(),
            values: self.values.clone(),
        }
    }
}

impl<K: 'static, V: 'static> Nulls<K, V> {
    /// Whether the record is dropped.
    #[inline]
    pub(crate) fn drop(&self, record: &Record<K, V>, task: &mut TaskContext) -> bool {
        let reason = if self.keys.is_null(&record.key) {
            DropReason::NullKey
        } else if self.values.is_null(&record.value) {
            DropReason::NullValue
        } else {
            return false;
        };
        task.drop_record(reason);
        true
    }
}

/// The serde of `T`, and `None` as null.
pub(crate) struct OrNull<T>(pub(crate) SharedSerde<T>);

impl<T: 'static> Serializer<Option<T>> for OrNull<T> {
    fn serialize(
        &self,
        topic: &str,
        value: &Option<T>,
        out: &mut Vec<u8>,
    ) -> Result<(), SerdeError> {
        match value {
            Some(value) => self.0.serialize(topic, value, out),
            None => Ok(()),
        }
    }

    fn is_null(&self, value: &Option<T>) -> bool {
        value.as_ref().is_none_or(|value| self.0.is_null(value))
    }

    fn unpartitioned_bytes(&self) -> usize {
        self.0.unpartitioned_bytes()
    }
}

impl<T: 'static> Deserializer<Option<T>> for OrNull<T> {
    fn deserialize(&self, topic: &str, data: Payload<'_>) -> Result<Option<T>, SerdeError> {
        self.0.deserialize(topic, data).map(Some)
    }

    fn null(&self) -> Option<Option<T>> {
        Some(None)
    }
}

/// Stands in where no serde is known.
pub(crate) struct Unknown;

impl<T> Serializer<T> for Unknown {
    fn serialize(&self, topic: &str, _value: &T, _out: &mut Vec<u8>) -> Result<(), SerdeError> {
        Err(SerdeError::new(format_args!(
            "no serde is known for what is written to {topic}"
        )))
    }
}

impl<T> Deserializer<T> for Unknown {
    fn deserialize(&self, topic: &str, _data: Payload<'_>) -> Result<T, SerdeError> {
        Err(SerdeError::new(format_args!(
            "no serde is known for what is read from {topic}"
        )))
    }
}
