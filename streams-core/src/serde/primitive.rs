//! Types with a fixed form, byte for byte as Kafka's Java serdes have it.
//!
//! | type | bytes |
//! |---|---|
//! | `i16`, `i32`, `i64` | 2, 4, 8 bytes, big-endian, two's complement |
//! | `f32`, `f64` | 4, 8 bytes, big-endian, IEEE 754; every NaN of an `f64` is written as `7ff8000000000000` |
//! | `bool` | one byte, 0 or 1 (KIP-907) |
//! | `String` | UTF-8 |
//! | `Bytes`, `Vec<u8>` | themselves |
//! | `Uuid` | its 36 characters, lower case |
//! | `()` | null, and nothing else (KIP-527) |

use bytes::Bytes;
use uuid::Uuid;

use super::{Deserializer, HasSerde, Payload, SerdeError, Serializer};

/// Integers and floats of a fixed width, big-endian (Kafka's `ShortSerde`, `IntegerSerde`, `LongSerde`, `FloatSerde`, `DoubleSerde`).
#[derive(Clone, Copy, Debug, Default)]
pub struct BigEndian;

macro_rules! big_endian {
    ($($number:ident as $bits:ident from $to_bits:expr;)*) => {$(
        impl Serializer<$number> for BigEndian {
            #[inline]
            fn serialize(&self, _topic: &str, value: &$number, out: &mut Vec<u8>) -> Result<(), SerdeError> {
                let to_bits: fn($number) -> $bits = $to_bits;
                out.extend_from_slice(&to_bits(*value).to_be_bytes());
                Ok(())
            }
        }

        impl Deserializer<$number> for BigEndian {
            #[inline]
            fn deserialize(&self, _topic: &str, data: Payload<'_>) -> Result<$number, SerdeError> {
                match data.as_slice().try_into() {
                    Ok(bytes) => Ok($number::from_be_bytes(bytes)),
                    Err(_) => Err(wrong_length(stringify!($number), size_of::<$number>(), data.len())),
                }
            }
        }

        impl HasSerde for $number {
            type Serde = BigEndian;
        }
    )*};
}

big_endian! {
    i16 as i16 from |value| value;
    i32 as i32 from |value| value;
    i64 as i64 from |value| value;
    f32 as u32 from f32::to_bits;
    f64 as u64 from |value| if value.is_nan() { 0x7ff8_0000_0000_0000 } else { value.to_bits() };
}

fn wrong_length(what: &str, expected: usize, found: usize) -> SerdeError {
    let bytes = if expected == 1 { "byte" } else { "bytes" };
    SerdeError::new(format_args!("{what} has {expected} {bytes}, found {found}"))
}

/// One byte, 0 or 1 (Kafka's `BooleanSerde`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Boolean;

impl Serializer<bool> for Boolean {
    fn serialize(&self, _topic: &str, value: &bool, out: &mut Vec<u8>) -> Result<(), SerdeError> {
        out.push(u8::from(*value));
        Ok(())
    }
}

impl Deserializer<bool> for Boolean {
    fn deserialize(&self, _topic: &str, data: Payload<'_>) -> Result<bool, SerdeError> {
        match data.as_slice() {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(SerdeError::new(format_args!(
                "bool is 0 or 1, found {other}"
            ))),
            bytes => Err(wrong_length("bool", 1, bytes.len())),
        }
    }
}

impl HasSerde for bool {
    type Serde = Boolean;
}

/// UTF-8, checked: Kafka's `StringDeserializer` replaces what is malformed, this one says where it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Utf8;

impl Serializer<String> for Utf8 {
    #[inline]
    fn serialize(&self, _topic: &str, value: &String, out: &mut Vec<u8>) -> Result<(), SerdeError> {
        out.extend_from_slice(value.as_bytes());
        Ok(())
    }
}

impl Deserializer<String> for Utf8 {
    #[inline]
    fn deserialize(&self, _topic: &str, data: Payload<'_>) -> Result<String, SerdeError> {
        text(&data).map(str::to_owned)
    }
}

impl HasSerde for String {
    type Serde = Utf8;
}

fn text(data: &[u8]) -> Result<&str, SerdeError> {
    std::str::from_utf8(data).map_err(|error| {
        let at = error.valid_up_to();
        // `valid_up_to` is below the length whenever there is an error.
        let byte = data.get(at).copied().unwrap_or_default();
        SerdeError::new(format_args!(
            "string of {} bytes is not UTF-8: byte {byte:#04x} at {at}",
            data.len()
        ))
    })
}

/// Bytes as they are. Reading [`Bytes`] shares the fetched batch, reading a `Vec<u8>` copies.
///
/// A [`Bytes`] that is kept keeps the whole fetched batch; where that matters (a store reads copies anyway) take `Vec<u8>`.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawBytes;

impl Serializer<Bytes> for RawBytes {
    fn serialize(&self, _topic: &str, value: &Bytes, out: &mut Vec<u8>) -> Result<(), SerdeError> {
        out.extend_from_slice(value);
        Ok(())
    }
}

impl Deserializer<Bytes> for RawBytes {
    fn deserialize(&self, _topic: &str, data: Payload<'_>) -> Result<Bytes, SerdeError> {
        Ok(data.to_bytes())
    }
}

impl HasSerde for Bytes {
    type Serde = RawBytes;
}

impl Serializer<Vec<u8>> for RawBytes {
    fn serialize(
        &self,
        _topic: &str,
        value: &Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), SerdeError> {
        out.extend_from_slice(value);
        Ok(())
    }
}

impl Deserializer<Vec<u8>> for RawBytes {
    fn deserialize(&self, _topic: &str, data: Payload<'_>) -> Result<Vec<u8>, SerdeError> {
        Ok(data.to_vec())
    }
}

impl HasSerde for Vec<u8> {
    type Serde = RawBytes;
}

/// A UUID as its 36 characters in lower case (Kafka's `UUIDSerde`).
#[derive(Clone, Copy, Debug, Default)]
pub struct UuidText;

impl Serializer<Uuid> for UuidText {
    fn serialize(&self, _topic: &str, value: &Uuid, out: &mut Vec<u8>) -> Result<(), SerdeError> {
        out.extend_from_slice(value.hyphenated().encode_lower(&mut [0; 36]).as_bytes());
        Ok(())
    }
}

impl Deserializer<Uuid> for UuidText {
    fn deserialize(&self, _topic: &str, data: Payload<'_>) -> Result<Uuid, SerdeError> {
        // Braces, `urn:uuid:` and 32 bare digits, which the parser takes too, are of other lengths.
        if data.len() != 36 {
            return Err(SerdeError::new(format_args!(
                "uuid has 36 characters, found {} bytes",
                data.len()
            )));
        }
        let text = text(&data)?;
        Uuid::try_parse(text)
            .map_err(|error| SerdeError::new(format_args!("uuid {text:?}: {error}")))
    }
}

impl HasSerde for Uuid {
    type Serde = UuidText;
}

/// Nothing: always null (Kafka's `VoidSerde`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Void;

impl Serializer<()> for Void {
    fn serialize(&self, _topic: &str, _value: &(), _out: &mut Vec<u8>) -> Result<(), SerdeError> {
        Ok(())
    }

    fn is_null(&self, _value: &()) -> bool {
        true
    }
}

impl Deserializer<()> for Void {
    fn deserialize(&self, _topic: &str, data: Payload<'_>) -> Result<(), SerdeError> {
        Err(SerdeError::new(format_args!(
            "() is null, found {} bytes",
            data.len()
        )))
    }

    fn null(&self) -> Option<()> {
        Some(())
    }
}

impl HasSerde for () {
    type Serde = Void;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::fmt::Debug;

    use super::*;
    use crate::serde::default_serde;

    fn check<T: HasSerde + PartialEq + Debug>(value: T, bytes: &[u8]) {
        let serde = default_serde::<T>();
        let mut out = vec![7];
        serde.serialize("topic", &value, &mut out).unwrap();
        assert_eq!(
            out.split_first().unwrap().1,
            bytes,
            "bytes of {value:?}, appended"
        );
        assert_eq!(
            serde.deserialize("topic", Payload::from(bytes)).unwrap(),
            value
        );
    }

    fn error<T: HasSerde + Debug>(bytes: &[u8]) -> String {
        default_serde::<T>()
            .deserialize("topic", Payload::from(bytes))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn bytes_equal_those_of_kafkas_java_serdes() {
        check(-2_i16, &[0xff, 0xfe]);
        check(258_i32, &[0, 0, 1, 2]);
        check(1_i64 << 40, &[0, 0, 1, 0, 0, 0, 0, 0]);
        check(i64::MIN, &[0x80, 0, 0, 0, 0, 0, 0, 0]);
        check(1.5_f32, &[0x3f, 0xc0, 0, 0]);
        check(-0.0_f64, &[0x80, 0, 0, 0, 0, 0, 0, 0]);
        check(true, &[1]);
        check(false, &[0]);
        check("Gänse".to_owned(), b"G\xc3\xa4nse");
        check(String::new(), b"");
        check(vec![1_u8, 2], &[1, 2]);
        check(Bytes::from_static(b"ab"), b"ab");
        check(
            Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0fff),
            b"01020304-0506-0708-090a-0b0c0d0e0fff",
        );
    }

    #[test]
    fn every_double_nan_is_written_as_the_canonical_one() {
        let mut out = Vec::new();
        BigEndian
            .serialize("topic", &f64::from_bits(0xfff8_0000_0000_0001), &mut out)
            .unwrap();
        assert_eq!(out, [0x7f, 0xf8, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn errors_name_expected_and_found_lengths() {
        assert_eq!(error::<i64>(&[0; 4]), "i64 has 8 bytes, found 4");
        assert_eq!(error::<i32>(&[0; 8]), "i32 has 4 bytes, found 8");
        assert_eq!(error::<i16>(&[]), "i16 has 2 bytes, found 0");
        assert_eq!(error::<f64>(&[0; 9]), "f64 has 8 bytes, found 9");
        assert_eq!(error::<bool>(&[]), "bool has 1 byte, found 0");
        assert_eq!(error::<bool>(&[2]), "bool is 0 or 1, found 2");
        assert_eq!(
            error::<String>(b"ab\xff"),
            "string of 3 bytes is not UTF-8: byte 0xff at 2"
        );
        assert_eq!(
            error::<Uuid>(b"0102"),
            "uuid has 36 characters, found 4 bytes"
        );
        assert!(error::<Uuid>(&[b'-'; 36]).starts_with("uuid \"----"));
        assert_eq!(error::<()>(b"x"), "() is null, found 1 bytes");
    }

    #[test]
    fn bytes_share_the_fetched_batch() {
        let batch = Bytes::from_static(b"key and value");
        let value: Bytes = RawBytes
            .deserialize("topic", Payload::shared(&batch[8..], &batch))
            .unwrap();
        assert_eq!(value.as_ptr(), batch[8..].as_ptr());
    }

    #[test]
    fn unit_is_null_both_ways() {
        assert!(Void.is_null(&()));
        assert_eq!(Void.null(), Some(()));
    }
}
