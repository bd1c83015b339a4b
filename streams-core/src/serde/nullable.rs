//! Null as a value: `Option<T>` has the bytes of `T`, and `None` is Kafka's null.

use super::{Deserializer, HasSerde, Payload, SerdeError, Serializer};

/// The serde of `Option<T>` over a serde of `T`.
///
/// `Some` of a value that is itself null in `S` (`Some(None)`, `Some(())`) is null too, and reads back as `None`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nullable<S>(pub S);

impl<T, S: Serializer<T>> Serializer<Option<T>> for Nullable<S> {
    fn serialize(
        &self,
        topic: &str,
        value: &Option<T>,
        out: &mut Vec<u8>,
    ) -> Result<(), SerdeError> {
        value
            .as_ref()
            .map_or(Ok(()), |value| self.0.serialize(topic, value, out))
    }

    fn is_null(&self, value: &Option<T>) -> bool {
        value.as_ref().is_none_or(|value| self.0.is_null(value))
    }

    fn unpartitioned_bytes(&self) -> usize {
        self.0.unpartitioned_bytes()
    }
}

impl<T, S: Deserializer<T>> Deserializer<Option<T>> for Nullable<S> {
    fn deserialize(&self, topic: &str, data: Payload<'_>) -> Result<Option<T>, SerdeError> {
        self.0.deserialize(topic, data).map(Some)
    }

    fn null(&self) -> Option<Option<T>> {
        Some(None)
    }
}

impl<T: HasSerde> HasSerde for Option<T> {
    type Serde = Nullable<T::Serde>;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::serde::{Payload, default_serde};

    #[test]
    fn none_is_null_and_some_has_the_bytes_of_its_value() {
        let serde = default_serde::<Option<i16>>();
        assert!(serde.is_null(&None));
        assert!(!serde.is_null(&Some(1)));
        assert_eq!(serde.null(), Some(None));
        let mut out = Vec::new();
        serde.serialize("topic", &Some(1), &mut out).unwrap();
        assert_eq!(out, [0, 1]);
        assert_eq!(
            serde
                .deserialize("topic", Payload::from(&[0, 2][..]))
                .unwrap(),
            Some(2)
        );
    }
}
