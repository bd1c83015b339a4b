//! Which partition a key belongs to, as Kafka's default partitioner has it.

/// Java Kafka's murmur2 (`Utils#murmur2`): the seed is fixed, and the tail is read as signed bytes masked to eight bits.
pub fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;

    // Java's length is an i32; a key is never longer.
    let mut hash = SEED ^ data.len() as u32;
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let word = chunk
            .try_into()
            .map_or(0, u32::from_le_bytes)
            .wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ (word ^ (word >> R)).wrapping_mul(M);
    }
    let tail = chunks.remainder();
    if !tail.is_empty() {
        for (place, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The partition of a key, of `partitions` (at least one), as every Kafka client chooses it.
pub fn partition_of(key: &[u8], partitions: i32) -> i32 {
    // Without the sign bit it fits into an i32.
    (murmur2(key) & 0x7fff_ffff) as i32 % partitions.max(1)
}

/// As [`partition_of`], without the last `unpartitioned_bytes` of the key: see
/// [`Serializer::unpartitioned_bytes`](crate::serde::Serializer::unpartitioned_bytes).
pub(crate) fn partition_of_key(key: &[u8], unpartitioned_bytes: usize, partitions: i32) -> i32 {
    let hashed = key.len().saturating_sub(unpartitioned_bytes);
    partition_of(key.get(..hashed).unwrap_or(key), partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of Apache Kafka's `Utils.murmur2`.
    #[test]
    fn murmur2_is_javas() {
        for (key, expected) in [
            ("21", -973932308),
            ("foobar", -790332482),
            ("a-little-bit-long-string", -985981536),
            ("a-little-bit-longer-string", -1486304829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58897971,
            ),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, expected, "{key}");
        }
    }

    #[test]
    fn all_windows_of_a_key_are_in_the_partition_of_the_key() {
        for start in 0..100u64 {
            let key = [b"foobar".as_slice(), &start.to_be_bytes()].concat();
            assert_eq!(partition_of_key(&key, 8, 16), partition_of(b"foobar", 16));
        }
        assert_eq!(
            partition_of_key(b"foobar", 0, 16),
            partition_of(b"foobar", 16)
        );
    }

    #[test]
    fn a_partition_is_never_negative() {
        assert_eq!(partition_of(b"21", 4), ((-973932308i32) & 0x7fff_ffff) % 4);
        assert!((0..1000i32).all(|key| (0..7).contains(&partition_of(&key.to_be_bytes(), 7))));
    }
}
