//! What is committed beside an input's offset: the partition's time, in Kafka Streams' encoding (`TopicPartitionMetadata`), so that an
//! application can be taken over in either direction.
//!
//! Base64 of `version i8 = 2, partition time i64 big-endian, processors' metadata`. The last is `count i32` and for each `length i32, name,
//! i64`, and nothing at all when there is none. Operators keep their stream time there, under `stream-time/` and their node's name: so it is
//! committed with the offsets that it stands for, and is there also where the disk is new.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

const VERSION: u8 = 2;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

const PREFIX: &str = "stream-time/";
/// Kafka takes 4096 bytes of text. Operators that would make it more go without.
const BYTES_MAX: usize = 3000;

/// Stream times of a task's operators, by node: the highest event time each has seen, -1 before the first.
pub(crate) type OperatorTimes = Vec<(Arc<str>, Rc<Cell<i64>>)>;

/// The text to commit for a partition whose highest event time is `partition_time` (-1: none yet).
pub(crate) fn encode(partition_time: i64, operators: &OperatorTimes) -> String {
    let mut bytes = vec![VERSION];
    bytes.extend(partition_time.to_be_bytes());
    let (mut count, mut times) = (0_i32, Vec::new());
    for (name, time) in operators.iter().filter(|(_, time)| time.get() >= 0) {
        let length = PREFIX.len() + name.len();
        let Ok(name_bytes) = i32::try_from(length) else {
            continue;
        };
        if times.len() + length + 12 > BYTES_MAX {
            continue;
        }
        count += 1;
        times.extend(name_bytes.to_be_bytes());
        times.extend(PREFIX.as_bytes());
        times.extend(name.as_bytes());
        times.extend(time.get().to_be_bytes());
    }
    if count > 0 {
        bytes.extend(count.to_be_bytes());
        bytes.extend(times);
    }
    base64(&bytes)
}

fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = [0, 1, 2].iter().fold(0u32, |bits, place| {
            bits << 8 | group.get(*place).map_or(0, |byte| u32::from(*byte))
        });
        for place in 0..4 {
            let letter = ALPHABET.get((bits >> (18 - 6 * place) & 0x3f) as usize);
            match letter.filter(|_| place <= group.len()) {
                Some(letter) => text.push(char::from(*letter)),
                None => text.push('='),
            }
        }
    }
    text
}

/// Reads committed text; `None` when it is not of this encoding (nothing committed, or by another kind of program).
pub(crate) fn decode(text: &str) -> Option<(i64, Vec<(String, i64)>)> {
    let mut bytes = Vec::new();
    for group in text.trim_end_matches('=').as_bytes().chunks(4) {
        let mut bits = 0u32;
        for letter in group {
            let value = ALPHABET.iter().position(|known| known == letter)?;
            bits = bits << 6 | u32::try_from(value).ok()?;
        }
        bits <<= 6 * (4 - group.len());
        let [_, first, second, third] = bits.to_be_bytes();
        bytes.extend(
            [first, second, third]
                .into_iter()
                .take(group.len().saturating_sub(1)),
        );
    }
    let (version, rest) = bytes.split_first()?;
    if !(1..=VERSION).contains(version) {
        return None;
    }
    let (time, rest) = rest.split_first_chunk()?;
    Some((
        i64::from_be_bytes(*time),
        operator_times(rest).unwrap_or_default(),
    ))
}

/// `None` when it is cut short, or not ours to read.
fn operator_times(bytes: &[u8]) -> Option<Vec<(String, i64)>> {
    let (count, mut rest) = bytes.split_first_chunk()?;
    let mut times = Vec::new();
    for _ in 0..i32::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk()?;
        let (name, after) =
            after.split_at_checked(usize::try_from(i32::from_be_bytes(*length)).ok()?)?;
        let (time, after) = after.split_first_chunk()?;
        rest = after;
        // Others are Kafka Streams' own.
        let name = std::str::from_utf8(name).ok();
        if let Some(node) = name.and_then(|name| name.strip_prefix(PREFIX)) {
            times.push((node.to_owned(), i64::from_be_bytes(*time)));
        }
    }
    Some(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operators(times: &[(&str, i64)]) -> OperatorTimes {
        times
            .iter()
            .map(|(name, time)| (Arc::from(*name), Rc::new(Cell::new(*time))))
            .collect()
    }

    #[test]
    fn text_is_that_of_kafka_streams() {
        // Recorded from TopicPartitionMetadata(1234567890123, empty).encode() of Kafka Streams 4.3.1.
        assert_eq!(encode(1_234_567_890_123, &Vec::new()), "AgAAAR9x+wTL");
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for time in [-1, 0, 1, i64::MAX, 1_700_000_000_000] {
            assert_eq!(decode(&encode(time, &Vec::new())), Some((time, vec![])));
            for name in ["a", "ab", "KSTREAM-AGGREGATE-0000000003"] {
                let text = encode(time, &operators(&[(name, 7), ("silent", -1), ("b", time)]));
                let mut times = vec![(name.to_owned(), 7)];
                times.extend((time >= 0).then(|| ("b".to_owned(), time)));
                assert_eq!(decode(&text), Some((time, times)), "{text}");
            }
        }
    }

    #[test]
    fn however_many_operators_the_text_fits() {
        let name = "KSTREAM-AGGREGATE-with-a-long-name-0000000003";
        let text = encode(1, &operators(&vec![(name, 7); 500]));
        assert!(text.len() <= 4096, "{}", text.len());
        assert!(decode(&text).is_some_and(|(_, times)| times.len() > 20));
    }

    #[test]
    fn other_text_is_no_partition_time() {
        for text in ["", "A", "hello, world", "////", "AwAAAAAAAAAB"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
