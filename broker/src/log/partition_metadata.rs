//! `partition.metadata`: which topic a partition's directory belongs to, so that a new topic of an old name does not inherit its records.
//!
//! ```text
//! version: 0
//! topic_id: <the id's 16 bytes in base64, URL alphabet, no padding>
//! ```

use uuid::Uuid;

pub(super) const FILE: &str = "partition.metadata";

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// 128 bits, six to a letter.
const LETTERS: u32 = 22;

pub(super) fn encode(topic_id: Uuid) -> String {
    // The last letter holds two bits of the id and four zeros.
    let id = topic_id.as_u128();
    let letters = (0..LETTERS).map(|letter| {
        let shift = 128i32 - 6 * (letter as i32 + 1);
        let bits = if shift >= 0 {
            id >> shift
        } else {
            id << -shift
        };
        let index = (bits & 63) as usize;
        char::from(ALPHABET.get(index).copied().unwrap_or(b'A'))
    });
    format!("version: 0\ntopic_id: {}\n", letters.collect::<String>())
}

/// `None` if it is not the whole file.
pub(super) fn decode(bytes: &[u8]) -> Option<Uuid> {
    let mut lines = str::from_utf8(bytes).ok()?.lines();
    if lines.next()? != "version: 0" {
        return None;
    }
    let letters = lines.next()?.strip_prefix("topic_id: ")?;
    if letters.len() != LETTERS as usize {
        return None;
    }
    let mut id = 0u128;
    for (index, letter) in letters.bytes().enumerate() {
        let bits = ALPHABET.iter().position(|known| *known == letter)? as u128;
        id = if index == LETTERS as usize - 1 {
            (id << 2) | (bits >> 4)
        } else {
            (id << 6) | bits
        };
    }
    Some(Uuid::from_u128(id))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_reads_back(id: u128) {
            let id = Uuid::from_u128(id);
            prop_assert_eq!(decode(encode(id).as_bytes()), Some(id));
        }
    }

    #[test]
    fn the_text_is_kafka_s() {
        // Kafka's own id of the metadata topic: 0, 1 prints as this.
        assert_eq!(
            encode(Uuid::from_u128(1)),
            "version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ\n"
        );
        assert_eq!(decode(b"version: 0\ntopic_id: AAAA"), None);
        assert_eq!(decode(b"version: 0\n"), None);
    }
}
