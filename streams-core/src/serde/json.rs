//! JSON by serde_json, for any type that is `serde::Serialize` and `serde::Deserialize`.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Deserializer, Payload, SerdeError, Serializer};

/// JSON text, compact, fields in the order of their declaration.
///
/// ```
/// use brooklet_streams_core::serde::{Json, Payload, Deserializer, Serializer};
///
/// #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
/// struct Plane {
///     tail_number: String,
///     seats: u16,
/// }
///
/// let plane = Plane { tail_number: "N10156".to_owned(), seats: 55 };
/// let mut bytes = Vec::new();
/// Json::new().serialize("planes", &plane, &mut bytes)?;
/// assert_eq!(bytes, br#"{"tail_number":"N10156","seats":55}"#);
/// assert_eq!(Json::<Plane>::new().deserialize("planes", Payload::from(&bytes[..]))?, plane);
/// # Ok::<(), brooklet_streams_core::serde::SerdeError>(())
/// ```
pub struct Json<T>(PhantomData<fn(T) -> T>);

impl<T> Json<T> {
    /// The serde.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Clone for Json<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Json<T> {}

impl<T> Default for Json<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Json<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Json<{}>", type_name::<T>())
    }
}

impl<T: Serialize + 'static> Serializer<T> for Json<T> {
    fn serialize(&self, _topic: &str, value: &T, out: &mut Vec<u8>) -> Result<(), SerdeError> {
        serde_json::to_writer(out, value)
            .map_err(|error| SerdeError::new(format_args!("{} as JSON: {error}", type_name::<T>())))
    }

    /// What JSON writes as `null` is Kafka's null: `None`, so that a table's deleted row is a tombstone.
    fn is_null(&self, value: &T) -> bool {
        value.serialize(IsNull).is_ok()
    }
}

impl<T: DeserializeOwned + 'static> Deserializer<T> for Json<T> {
    fn deserialize(&self, _topic: &str, data: Payload<'_>) -> Result<T, SerdeError> {
        // serde_json's own text ends in the position: `at line 1 column 7`.
        serde_json::from_slice(data.as_slice()).map_err(|error| {
            SerdeError::new(format_args!(
                "{} from JSON of {} bytes: {error}",
                type_name::<T>(),
                data.len()
            ))
        })
    }

    fn null(&self) -> Option<T> {
        serde_json::from_str("null").ok()
    }
}

/// Serialises what JSON writes as `null`, and nothing else: the first call of anything else is an error.
struct IsNull;

/// The value is not null.
#[derive(Debug)]
struct NotNull;

impl fmt::Display for NotNull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not null")
    }
}

impl std::error::Error for NotNull {}

impl serde::ser::Error for NotNull {
    fn custom<M: fmt::Display>(_message: M) -> Self {
        Self
    }
}

type Never = serde::ser::Impossible<(), NotNull>;

macro_rules! not_null {
    ($($method:ident($($argument:ty),*) -> $result:ty;)+) => {
        $(fn $method(self, $(_: $argument),*) -> Result<$result, NotNull> {
            Err(NotNull)
        })+
    };
}

impl serde::Serializer for IsNull {
    type Ok = ();
    type Error = NotNull;
    type SerializeSeq = Never;
    type SerializeTuple = Never;
    type SerializeTupleStruct = Never;
    type SerializeTupleVariant = Never;
    type SerializeMap = Never;
    type SerializeStruct = Never;
    type SerializeStructVariant = Never;

    fn serialize_none(self) -> Result<(), NotNull> {
        Ok(())
    }

    fn serialize_unit(self) -> Result<(), NotNull> {
        Ok(())
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), NotNull> {
        Ok(())
    }

    fn serialize_some<S: Serialize + ?Sized>(self, value: &S) -> Result<(), NotNull> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<S: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &S,
    ) -> Result<(), NotNull> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<S: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &S,
    ) -> Result<(), NotNull> {
        Err(NotNull)
    }

    not_null! {
        serialize_bool(bool) -> ();
        serialize_i8(i8) -> ();
        serialize_i16(i16) -> ();
        serialize_i32(i32) -> ();
        serialize_i64(i64) -> ();
        serialize_i128(i128) -> ();
        serialize_u8(u8) -> ();
        serialize_u16(u16) -> ();
        serialize_u32(u32) -> ();
        serialize_u64(u64) -> ();
        serialize_u128(u128) -> ();
        serialize_f32(f32) -> ();
        serialize_f64(f64) -> ();
        serialize_char(char) -> ();
        serialize_str(&str) -> ();
        serialize_bytes(&[u8]) -> ();
        serialize_unit_variant(&'static str, u32, &'static str) -> ();
        serialize_seq(Option<usize>) -> Never;
        serialize_tuple(usize) -> Never;
        serialize_tuple_struct(&'static str, usize) -> Never;
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Never;
        serialize_map(Option<usize>) -> Never;
        serialize_struct(&'static str, usize) -> Never;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> Never;
    }
}

/// Makes JSON the default serde of one or more types.
///
/// ```
/// #[derive(Clone, serde::Serialize, serde::Deserialize)]
/// struct Flight {
///     carrier: String,
///     delay_minutes: Option<i64>,
/// }
///
/// brooklet_streams_core::json_serde!(Flight);
///
/// let mut bytes = Vec::new();
/// let flight = Flight { carrier: "UA".to_owned(), delay_minutes: Some(2) };
/// brooklet_streams_core::serde::default_serde().serialize("flights", &flight, &mut bytes)?;
/// assert_eq!(bytes, br#"{"carrier":"UA","delay_minutes":2}"#);
/// # Ok::<(), brooklet_streams_core::serde::SerdeError>(())
/// ```
#[macro_export]
macro_rules! json_serde {
    ($($type:ty),+ $(,)?) => {$(
        impl $crate::serde::HasSerde for $type {
            type Serde = $crate::serde::Json<$type>;
        }
    )+};
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_error_names_the_type_and_the_position() {
        let error = Json::<Vec<u8>>::new()
            .deserialize("topic", Payload::from(&b"[1, x]"[..]))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "alloc::vec::Vec<u8> from JSON of 6 bytes: expected value at line 1 column 5"
        );
    }

    #[test]
    fn none_is_null_and_everything_else_is_not() {
        let options = Json::<Option<i64>>::new();
        assert!(options.is_null(&None));
        assert!(!options.is_null(&Some(0)));
        assert_eq!(options.null(), Some(None));
        assert!(Json::<serde_json::Value>::new().is_null(&serde_json::Value::Null));
        assert!(Json::<Option<Option<i64>>>::new().is_null(&Some(None)));
        assert!(!Json::<Vec<i64>>::new().is_null(&Vec::new()));
        assert!(!Json::<String>::new().is_null(&String::new()));
        assert_eq!(Json::<i64>::new().null(), None);
    }

    #[test]
    fn bytes_after_the_value_are_an_error() {
        let error = Json::<i64>::new()
            .deserialize("topic", Payload::from(&b"1 2"[..]))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "i64 from JSON of 3 bytes: trailing characters at line 1 column 3"
        );
    }
}
