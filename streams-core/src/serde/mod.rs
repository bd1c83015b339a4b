//! Bytes to values and back, at topics and stores only.
//!
//! A type has a default serde ([`HasSerde`]), which an option (`Consumed::with`, `Produced::with`, ...) overrides. A type without one
//! does not compile where one is needed.

//!
//! | type | bytes | file |
//! |---|---|---|
//! | `String`, `Bytes`, `Vec<u8>`, `i16`, `i32`, `i64`, `f32`, `f64`, `bool`, `Uuid`, `()` | those of Kafka's Java serdes | `primitive.rs` |
//! | `Option<T>` | those of `T`; `None` is Kafka's null | `nullable.rs` |
//! | any serde type | JSON, with [`json_serde!`](crate::json_serde) | `json.rs` |
//! | any serde type with a schema | Avro, with [`avro_serde!`](crate::avro_serde) | `avro.rs` |
//! | `Windowed<K>` | those of Kafka Streams' windowed keys | `windowed.rs` |

use std::sync::Arc;

use bytes::Bytes;

mod avro;
mod json;
mod nullable;
mod primitive;
mod windowed;

pub use apache_avro::{AvroSchema, Schema};

pub use self::avro::{Avro, AvroDatum};
pub use self::json::Json;
pub use self::nullable::Nullable;
pub use self::primitive::{BigEndian, Boolean, RawBytes, Utf8, UuidText, Void};
pub use self::windowed::{TimeWindowed, Window, Windowed};
pub use crate::error::SerdeError;

/// Bytes of a key or a value as they were fetched: a slice, and where it is known the buffer that holds it, so that a serde that keeps
/// bytes (like [`Bytes`]' own) shares instead of copying.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    slice: &'a [u8],
    owner: Option<&'a Bytes>,
}

impl<'a> Payload<'a> {
    /// A slice of `owner`.
    ///
    /// # Panics
    /// [`Payload::to_bytes`] panics when `slice` does not lie in `owner`.
    pub fn shared(slice: &'a [u8], owner: &'a Bytes) -> Self {
        Self {
            slice,
            owner: Some(owner),
        }
    }

    /// The bytes, living as long as the batch.
    pub fn as_slice(&self) -> &'a [u8] {
        self.slice
    }

    /// A part of these bytes, of the same buffer. `part` must lie in them.
    pub(crate) fn narrowed(&self, part: &'a [u8]) -> Self {
        Self {
            slice: part,
            owner: self.owner,
        }
    }

    /// The bytes for keeps: shared with the fetched batch where possible, else copied.
    pub fn to_bytes(&self) -> Bytes {
        match self.owner {
            Some(owner) => owner.slice_ref(self.slice),
            None => Bytes::copy_from_slice(self.slice),
        }
    }
}

impl<'a> From<&'a [u8]> for Payload<'a> {
    fn from(slice: &'a [u8]) -> Self {
        Self { slice, owner: None }
    }
}

impl std::ops::Deref for Payload<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.slice
    }
}

/// Writes values of type `T`.
pub trait Serializer<T>: Send + Sync + 'static {
    /// Appends the bytes of `value` to `out`. `topic` is the topic, or for a store its changelog topic (Kafka's rule, which schema
    /// registries depend on). Not called for a null.
    ///
    /// # Errors
    /// When `value` has no bytes in this format.
    fn serialize(&self, topic: &str, value: &T, out: &mut Vec<u8>) -> Result<(), SerdeError>;

    /// Whether `value` is Kafka's null (`None` of an `Option`).
    fn is_null(&self, _value: &T) -> bool {
        false
    }

    /// How many bytes at the end of a key do not choose its partition: the window of a windowed key, so that all windows of a key are in
    /// the partition of the key (Kafka's `WindowedStreamPartitioner`).
    fn unpartitioned_bytes(&self) -> usize {
        0
    }
}

/// Reads values of type `T`.
pub trait Deserializer<T>: Send + Sync + 'static {
    /// The value that `data` stands for.
    ///
    /// # Errors
    /// When `data` is not of this format.
    fn deserialize(&self, topic: &str, data: Payload<'_>) -> Result<T, SerdeError>;

    /// What a null reads as: `None` when `T` has no null, and then the operator's row for nulls applies.
    fn null(&self) -> Option<T> {
        None
    }
}

/// Both ways.
pub trait Serde<T>: Serializer<T> + Deserializer<T> {}
impl<T, S: Serializer<T> + Deserializer<T>> Serde<T> for S {}

/// A serde held by an option or a node: shared by all tasks.
pub type SharedSerde<T> = Arc<dyn Serde<T>>;

/// A type with a default serde.
///
/// Strings, bytes, integers, floats, booleans, UUIDs and `Option`s of such types have one. For a type of your own, one line chooses
/// it: `brooklet::json_serde!(Flight);` or `brooklet::avro_serde!(Flight);`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no default serde",
    label = "a serde for `{Self}` is needed here",
    note = "give the type one with `brooklet::json_serde!({Self});` or `brooklet::avro_serde!({Self});`",
    note = "or pass one here through the options value: `Consumed::with(key, value)`, `Produced::with(key, value)`, `Grouped::with(key, value)`, `Materialized::with(key, value)`"
)]
pub trait HasSerde: Sized + 'static {
    /// The serde.
    type Serde: Serde<Self> + Default;
}

/// The default serde of `T`, shared.
pub fn default_serde<T: HasSerde>() -> SharedSerde<T> {
    Arc::new(T::Serde::default())
}
