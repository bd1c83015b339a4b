//! What is committed beside an input's offset: the partition's time, in Kafka Streams' encoding (`TopicPartitionMetadata`), so that an
//! application can be taken over in either direction.
//!
//! Base64 of `version i8 = 2, partition time i64 big-endian, processors' metadata`. The last is empty here: operators that must keep
//! something small keep it in their stores' positions.

const VERSION: u8 = 2;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The text to commit for a partition whose highest event time is `partition_time` (-1: none yet).
pub(crate) fn encode(partition_time: i64) -> String {
    let mut bytes = vec![VERSION];
    bytes.extend(partition_time.to_be_bytes());
    let mut text = String::with_capacity(12);
    // Nine bytes are three groups of three, so nothing is padded.
    for group in bytes.chunks_exact(3) {
        let bits = group
            .iter()
            .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        for shift in [18, 12, 6, 0] {
            text.extend(
                ALPHABET
                    .get((bits >> shift & 0x3f) as usize)
                    .map(|letter| char::from(*letter)),
            );
        }
    }
    text
}

/// The partition time in committed text; `None` when it is not of this encoding (nothing committed, or by another kind of program).
pub(crate) fn decode(text: &str) -> Option<i64> {
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
    rest.first_chunk().map(|time| i64::from_be_bytes(*time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_that_of_kafka_streams() {
        // Recorded from TopicPartitionMetadata(1234567890123, empty).encode() of Kafka Streams 4.3.1.
        assert_eq!(encode(1_234_567_890_123), "AgAAAR9x+wTL");
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for time in [-1, 0, 1, i64::MAX, 1_700_000_000_000] {
            assert_eq!(decode(&encode(time)), Some(time));
        }
    }

    #[test]
    fn other_text_is_no_partition_time() {
        for text in ["", "A", "hello, world", "////", "AwAAAAAAAAAB"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
