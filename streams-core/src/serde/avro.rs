//! Avro by apache-avro, for any type that is `serde::Serialize` and `serde::Deserialize` and has a schema.
//!
//! The bytes are one datum in Avro's binary encoding and nothing else: no header, no schema id. The writer's schema is the reader's.

use std::any::type_name;
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Deserializer, Payload, SerdeError, Serializer};

/// A type with an Avro schema. Implemented by [`avro_serde!`](crate::avro_serde).
pub trait AvroDatum {
    /// The schema.
    ///
    /// # Errors
    /// When its text is not one.
    fn avro_schema() -> Result<Schema, SerdeError>;
}

/// An Avro datum of type `T`, binary, without framing.
///
/// ```
/// use brooklet_streams_core::serde::{Avro, Deserializer, Payload, Serializer};
///
/// #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
/// struct Plane {
///     tail_number: String,
///     seats: i32,
/// }
///
/// let serde = Avro::<Plane>::with_schema(r#"{
///     "type": "record", "name": "Plane",
///     "fields": [{"name": "tail_number", "type": "string"}, {"name": "seats", "type": "int"}]
/// }"#)?;
/// let plane = Plane { tail_number: "N10156".to_owned(), seats: 55 };
/// let mut bytes = Vec::new();
/// serde.serialize("planes", &plane, &mut bytes)?;
/// assert_eq!(bytes, b"\x0cN10156\x6e");
/// assert_eq!(serde.deserialize("planes", Payload::from(&bytes[..]))?, plane);
/// # Ok::<(), brooklet_streams_core::serde::SerdeError>(())
/// ```
pub struct Avro<T> {
    // An invalid schema of a default serde has no better place to be reported than the first use.
    codec: Result<Arc<Codec>, String>,
    datum: PhantomData<fn(T) -> T>,
}

struct Codec {
    writer: GenericDatumWriter<'static>,
    reader: GenericDatumReader<'static>,
}

impl<T> Avro<T> {
    /// The serde with a schema given as JSON text.
    ///
    /// # Errors
    /// When the text is not a schema, or names a type that it does not define.
    pub fn with_schema(schema: &str) -> Result<Self, SerdeError> {
        let schema = Schema::parse_str(schema).map_err(|error| invalid_schema::<T>(&error))?;
        Self::of(schema)
    }

    /// The serde with a schema.
    ///
    /// # Errors
    /// When the schema names a type that it does not define.
    pub fn of(schema: Schema) -> Result<Self, SerdeError> {
        let schema = interned(schema);
        let writer = GenericDatumWriter::builder(schema)
            .build()
            .map_err(|error| invalid_schema::<T>(&error))?;
        let reader = GenericDatumReader::builder(schema)
            .build()
            .map_err(|error| invalid_schema::<T>(&error))?;
        Ok(Self {
            codec: Ok(Arc::new(Codec { writer, reader })),
            datum: PhantomData,
        })
    }

    fn codec(&self) -> Result<&Codec, SerdeError> {
        self.codec.as_deref().map_err(SerdeError::new)
    }
}

fn invalid_schema<T>(error: &apache_avro::Error) -> SerdeError {
    SerdeError::new(format_args!("avro schema of {}: {error}", type_name::<T>()))
}

/// The one copy of `schema` in this process. It is never freed: a program has few schemas, and apache-avro's reader and writer borrow
/// theirs.
fn interned(schema: Schema) -> &'static Schema {
    static SCHEMAS: Mutex<Option<HashMap<String, &'static Schema>>> = Mutex::new(None);
    // The text, not the canonical form: defaults and logical types must not be lost.
    let text = serde_json::to_string(&schema).unwrap_or_else(|_| format!("{schema:?}"));
    let mut schemas = SCHEMAS.lock().unwrap_or_else(PoisonError::into_inner);
    schemas
        .get_or_insert_default()
        .entry(text)
        .or_insert_with(|| Box::leak(Box::new(schema)))
}

impl<T: AvroDatum> Default for Avro<T> {
    fn default() -> Self {
        let serde = T::avro_schema().and_then(Self::of);
        serde.unwrap_or_else(|error| Self {
            codec: Err(error.to_string()),
            datum: PhantomData,
        })
    }
}

impl<T> Clone for Avro<T> {
    fn clone(&self) -> Self {
        Self {
            codec: self.codec.clone(),
            datum: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Avro<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Avro<{}>", type_name::<T>())
    }
}

impl<T: Serialize + 'static> Serializer<T> for Avro<T> {
    fn serialize(&self, _topic: &str, value: &T, out: &mut Vec<u8>) -> Result<(), SerdeError> {
        let start = out.len();
        match self.codec()?.writer.write_ser(out, value) {
            Ok(_) => Ok(()),
            Err(error) => {
                out.truncate(start);
                Err(SerdeError::new(format_args!(
                    "{} as avro: {error}",
                    type_name::<T>()
                )))
            }
        }
    }
}

impl<T: DeserializeOwned + 'static> Deserializer<T> for Avro<T> {
    fn deserialize(&self, _topic: &str, data: Payload<'_>) -> Result<T, SerdeError> {
        let mut rest = data.as_slice();
        let value = self
            .codec()?
            .reader
            .read_deser(&mut rest)
            .map_err(|error| {
                let at = data.len() - rest.len();
                SerdeError::new(format_args!(
                    "{} from avro of {} bytes: at byte {at}: {error}",
                    type_name::<T>(),
                    data.len()
                ))
            })?;
        if !rest.is_empty() {
            return Err(SerdeError::new(format_args!(
                "{} from avro of {} bytes: {} bytes are left over",
                type_name::<T>(),
                data.len(),
                rest.len()
            )));
        }
        Ok(value)
    }
}

/// Makes Avro the default serde of a type: with a schema as JSON text, or with the type's own (`apache_avro::AvroSchema`, which
/// apache-avro can derive).
///
/// ```
/// #[derive(Clone, serde::Serialize, serde::Deserialize)]
/// struct Airline {
///     name: String,
/// }
///
/// brooklet_streams_core::avro_serde!(
///     Airline,
///     r#"{"type": "record", "name": "Airline", "fields": [{"name": "name", "type": "string"}]}"#
/// );
///
/// let mut bytes = Vec::new();
/// let airline = Airline { name: "JetBlue".to_owned() };
/// brooklet_streams_core::serde::default_serde().serialize("airlines", &airline, &mut bytes)?;
/// assert_eq!(bytes, b"\x0eJetBlue");
/// # Ok::<(), brooklet_streams_core::serde::SerdeError>(())
/// ```
#[macro_export]
macro_rules! avro_serde {
    ($type:ty $(,)?) => {
        impl $crate::serde::AvroDatum for $type {
            fn avro_schema()
            -> ::std::result::Result<$crate::serde::Schema, $crate::serde::SerdeError> {
                ::std::result::Result::Ok(<$type as $crate::serde::AvroSchema>::get_schema())
            }
        }

        impl $crate::serde::HasSerde for $type {
            type Serde = $crate::serde::Avro<$type>;
        }
    };
    ($type:ty, $schema:expr $(,)?) => {
        impl $crate::serde::AvroDatum for $type {
            fn avro_schema()
            -> ::std::result::Result<$crate::serde::Schema, $crate::serde::SerdeError> {
                $crate::serde::Schema::parse_str($schema).map_err($crate::serde::SerdeError::new)
            }
        }

        impl $crate::serde::HasSerde for $type {
            type Serde = $crate::serde::Avro<$type>;
        }
    };
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use serde::Deserialize;

    use super::*;
    use crate::serde::{AvroSchema, default_serde};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Tree {
        leaves: i64,
        note: Option<String>,
        branches: Vec<Tree>,
    }

    // A schema that refers to itself needs its names resolved.
    crate::avro_serde!(
        Tree,
        r#"{"type": "record", "name": "Tree", "fields": [
            {"name": "leaves", "type": "long"},
            {"name": "note", "type": ["null", "string"]},
            {"name": "branches", "type": {"type": "array", "items": "Tree"}}
        ]}"#
    );

    #[derive(Debug, Serialize, Deserialize)]
    struct Broken;
    crate::avro_serde!(Broken, r#"{"type": "recrod"}"#);

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(transparent)]
    struct Count(i64);

    impl AvroSchema for Count {
        fn get_schema() -> Schema {
            Schema::Long
        }
    }
    crate::avro_serde!(Count);

    fn tree() -> Tree {
        Tree {
            leaves: -1,
            note: Some("oak".to_owned()),
            branches: vec![Tree {
                leaves: 64,
                note: None,
                branches: vec![],
            }],
        }
    }

    #[test]
    fn a_datum_has_the_bytes_of_the_avro_specification() {
        let mut out = vec![9];
        let serde = default_serde::<Tree>();
        serde.serialize("topic", &tree(), &mut out).unwrap();
        // zigzag(-1), union branch 1, length 3, "oak", block of 1: zigzag(64), branch 0, empty array; end of blocks.
        assert_eq!(out, b"\x09\x01\x02\x06oak\x02\x80\x01\x00\x00\x00");
        assert_eq!(
            serde
                .deserialize("topic", Payload::from(&out[1..]))
                .unwrap(),
            tree()
        );
    }

    #[test]
    fn a_schema_of_the_type_itself_is_used() {
        let mut out = Vec::new();
        default_serde::<Count>()
            .serialize("topic", &Count(1), &mut out)
            .unwrap();
        assert_eq!(out, [2]);
    }

    #[test]
    fn errors_name_the_type_and_the_position() {
        let serde = default_serde::<Count>();
        let error = serde
            .deserialize("topic", Payload::from(&[2, 2][..]))
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("Count from avro of 2 bytes: 1 bytes are left over"),
            "{error}"
        );
        let error = serde
            .deserialize("topic", Payload::from(&[0x80][..]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("Count from avro of 1 bytes: at byte 1: "),
            "{error}"
        );
    }

    #[test]
    fn an_invalid_schema_is_an_error_at_construction_or_at_the_first_use() {
        let error = Avro::<Tree>::with_schema("{").unwrap_err().to_string();
        assert!(
            error.starts_with("avro schema of ") && error.contains("Tree: "),
            "{error}"
        );
        let mut out = Vec::new();
        assert!(
            default_serde::<Broken>()
                .serialize("topic", &Broken, &mut out)
                .is_err()
        );
    }

    #[test]
    fn a_value_that_does_not_fit_leaves_the_output_as_it_was() {
        let serde = Avro::<(i64, String)>::with_schema(r#""long""#).unwrap();
        let mut out = vec![1];
        assert!(
            serde
                .serialize("topic", &(1, "x".to_owned()), &mut out)
                .is_err()
        );
        assert_eq!(out, [1]);
    }

    #[test]
    fn one_schema_is_kept_once() {
        assert!(std::ptr::eq(interned(Schema::Long), interned(Schema::Long)));
    }

    #[test]
    fn no_prefix_of_a_datum_reads_and_none_panics() {
        let serde = default_serde::<Tree>();
        let mut out = Vec::new();
        serde.serialize("topic", &tree(), &mut out).unwrap();
        for end in 0..out.len() {
            assert!(
                serde
                    .deserialize("topic", Payload::from(&out[..end]))
                    .is_err(),
                "{end} bytes"
            );
        }
    }
}
