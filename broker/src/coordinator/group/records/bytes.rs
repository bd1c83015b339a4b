//! How Kafka writes the fields of coordinator records: big-endian; strings, bytes and arrays with their length in front.
//!
//! A flexible version writes lengths as unsigned varints plus one (0 is null), and ends each struct with its tagged fields.

use ::bytes::Bytes;

pub(crate) fn put_i16(out: &mut Vec<u8>, value: i16) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_i32(out: &mut Vec<u8>, value: i32) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_string(out: &mut Vec<u8>, text: Option<&str>) {
    let Some(text) = text else {
        return put_i16(out, -1);
    };
    // Strings come from requests, whose strings have an i16 length too, or (flexible versions) are checked on the way in.
    let length = text.len().min(i16::MAX as usize);
    put_i16(out, length as i16);
    out.extend_from_slice(text.as_bytes().get(..length).unwrap_or_default());
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_i32(out, bytes.len() as i32);
    out.extend_from_slice(bytes);
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = input.split_first_chunk::<N>()?;
    *input = rest;
    Some(*taken)
}

pub(crate) fn take_i16(input: &mut &[u8]) -> Option<i16> {
    take(input).map(i16::from_be_bytes)
}

pub(crate) fn take_i32(input: &mut &[u8]) -> Option<i32> {
    take(input).map(i32::from_be_bytes)
}

pub(crate) fn take_i64(input: &mut &[u8]) -> Option<i64> {
    take(input).map(i64::from_be_bytes)
}

pub(crate) fn take_slice<'a>(input: &mut &'a [u8], length: i64) -> Option<&'a [u8]> {
    let (taken, rest) = input.split_at_checked(usize::try_from(length).ok()?)?;
    *input = rest;
    Some(taken)
}

/// The outer `None` is malformed, the inner is null.
pub(crate) fn take_string(input: &mut &[u8]) -> Option<Option<String>> {
    let length = take_i16(input)?;
    if length == -1 {
        return Some(None);
    }
    let bytes = take_slice(input, i64::from(length))?;
    String::from_utf8(bytes.to_vec()).ok().map(Some)
}

pub(crate) fn take_bytes(input: &mut &[u8]) -> Option<Bytes> {
    let length = take_i32(input)?;
    take_slice(input, i64::from(length)).map(Bytes::copy_from_slice)
}

pub(crate) fn put_i8(out: &mut Vec<u8>, value: i8) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_uuid(out: &mut Vec<u8>, id: uuid::Uuid) {
    out.extend_from_slice(id.as_bytes());
}

pub(crate) fn put_uvarint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Length of a compact string, bytes or array; `None` is null.
pub(crate) fn put_compact_length(out: &mut Vec<u8>, length: Option<usize>) {
    // Nothing in a record is longer than a batch, which has an i32 length.
    put_uvarint(out, length.map_or(0, |length| length as u32 + 1));
}

pub(crate) fn put_compact_string(out: &mut Vec<u8>, text: Option<&str>) {
    put_compact_length(out, text.map(str::len));
    out.extend_from_slice(text.unwrap_or_default().as_bytes());
}

pub(crate) fn put_compact_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_compact_length(out, Some(bytes.len()));
    out.extend_from_slice(bytes);
}

/// The tagged fields at the end of a struct: (tag, content), in ascending order.
pub(crate) fn put_tags(out: &mut Vec<u8>, tags: &[(u32, &[u8])]) {
    put_uvarint(out, tags.len() as u32);
    for (tag, content) in tags {
        put_uvarint(out, *tag);
        put_uvarint(out, content.len() as u32);
        out.extend_from_slice(content);
    }
}

pub(crate) fn take_i8(input: &mut &[u8]) -> Option<i8> {
    take(input).map(i8::from_be_bytes)
}

pub(crate) fn take_uuid(input: &mut &[u8]) -> Option<uuid::Uuid> {
    take(input).map(uuid::Uuid::from_bytes)
}

pub(crate) fn take_uvarint(input: &mut &[u8]) -> Option<u32> {
    let mut value = 0_u32;
    for shift in [0, 7, 14, 21, 28] {
        let [byte] = take::<1>(input)?;
        value |= u32::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// The outer `None` is malformed, the inner is null. A length is never more than the bytes that are left, since every element has one.
pub(crate) fn take_compact_length(input: &mut &[u8]) -> Option<Option<usize>> {
    let Some(length) = take_uvarint(input)?.checked_sub(1) else {
        return Some(None);
    };
    let length = usize::try_from(length).ok()?;
    (length <= input.len()).then_some(Some(length))
}

/// The outer `None` is malformed, the inner is null.
pub(crate) fn take_compact_string(input: &mut &[u8]) -> Option<Option<String>> {
    let Some(length) = take_compact_length(input)? else {
        return Some(None);
    };
    let bytes = take_slice(input, length as i64)?;
    String::from_utf8(bytes.to_vec()).ok().map(Some)
}

pub(crate) fn take_compact_bytes(input: &mut &[u8]) -> Option<Bytes> {
    let length = take_compact_length(input)??;
    take_slice(input, length as i64).map(Bytes::copy_from_slice)
}

/// A compact array that is not null.
pub(crate) fn take_compact_array<T>(
    input: &mut &[u8],
    mut element: impl FnMut(&mut &[u8]) -> Option<T>,
) -> Option<Vec<T>> {
    let length = take_compact_length(input)??;
    (0..length).map(|_| element(input)).collect()
}

/// The tagged fields at the end of a struct. Unknown ones are for the caller to ignore.
pub(crate) fn take_tags<'a>(input: &mut &'a [u8]) -> Option<Vec<(u32, &'a [u8])>> {
    let count = take_uvarint(input)?;
    let mut tags = Vec::new();
    for _ in 0..count {
        let tag = take_uvarint(input)?;
        let length = take_uvarint(input)?;
        tags.push((tag, take_slice(input, i64::from(length))?));
    }
    Some(tags)
}
