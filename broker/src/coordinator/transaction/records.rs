//! The records of `__transaction_state`, in Kafka's formats: one key a transactional id, and as its value what the coordinator knows of
//! it. Big-endian; a uvarint is seven bits a byte, lowest first.
//!
//! ```text
//! key    version i16 = 0, transactional id (length i16, bytes)
//! value  version i16 (written: 1)
//!        producer id i64, producer epoch i16, timeout ms i32, state i8,
//!        partitions (null in state EMPTY): of each topic its name, and partition numbers i32,
//!        last update ms i64, start ms i64 (-1: no transaction)
//!        v0: an array's length is i32 (-1 null), a string's i16
//!        v1: both are uvarint + 1 (0 null); a topic and the value end with tagged fields: uvarint count, then
//!            uvarint tag, uvarint size, bytes; left out when they have their default
//!            0 previous producer id i64 (-1) · 1 next producer id i64 (-1)
//!            2 transaction version of the client i16 (0) · 3 next producer epoch i16 (-1)
//! ```
//! A null value is a tombstone: the transactional id has expired.

use std::collections::BTreeSet;
use std::sync::Arc;

/// State of a transactional id. The numbers are those of the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i8)]
pub enum State {
    /// A producer has been initialised and no transaction has begun since.
    Empty = 0,
    /// A transaction is open.
    Ongoing = 1,
    /// It will commit, whatever happens now.
    PrepareCommit = 2,
    /// It will abort.
    PrepareAbort = 3,
    /// It has committed: every marker is written.
    CompleteCommit = 4,
    /// It has aborted.
    CompleteAbort = 5,
    /// The id has expired. Never written: a tombstone is.
    Dead = 6,
    /// An open transaction is being fenced. Never written: the abort that follows is.
    PrepareEpochFence = 7,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Empty,
        Self::Ongoing,
        Self::PrepareCommit,
        Self::PrepareAbort,
        Self::CompleteCommit,
        Self::CompleteAbort,
        Self::Dead,
        Self::PrepareEpochFence,
    ];

    /// As Kafka's tools show and filter it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::PrepareCommit => "PrepareCommit",
            Self::PrepareAbort => "PrepareAbort",
            Self::CompleteCommit => "CompleteCommit",
            Self::CompleteAbort => "CompleteAbort",
            Self::Dead => "Dead",
            Self::PrepareEpochFence => "PrepareEpochFence",
        }
    }

    /// The outcome is decided and its markers are being written.
    pub fn is_prepared(self) -> bool {
        matches!(self, Self::PrepareCommit | Self::PrepareAbort)
    }

    fn from_number(number: i8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as i8 == number)
    }
}

/// Topic and number of a partition in a transaction.
pub type TopicPartition = (Arc<str>, i32);

/// What is known of a transactional id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Its producer.
    pub producer_id: i64,
    /// The producer id before the last change; tells a retry of the call that changed it.
    pub previous_producer_id: i64,
    /// The producer id that is in force once this transaction is complete; -1: the same.
    pub next_producer_id: i64,
    /// Epoch of the producer; older ones are fenced.
    pub producer_epoch: i16,
    /// For two-phase commits, which are not served: kept as it was read.
    pub next_producer_epoch: i16,
    /// The epoch before the last bump, to tell a retry of the call that bumped it. Not in the record: a restart forgets it, as Kafka does.
    pub last_producer_epoch: i16,
    /// How long a transaction may be open.
    pub timeout_ms: i32,
    /// Where it is.
    pub state: State,
    /// Partitions with records of the transaction, and those that may get some.
    pub partitions: BTreeSet<TopicPartition>,
    /// When the last of these records was written.
    pub last_update_ms: i64,
    /// When the transaction began; -1 if there is none.
    pub start_ms: i64,
    /// What the client speaks: 2 if its epoch is bumped at the end of each transaction (KIP-890).
    pub client_version: i16,
}

/// Why a record cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A key or value of a version that this broker does not know.
    #[error("unknown {0} version {1}")]
    UnknownVersion(&'static str, i16),
    /// Bytes are missing or make no sense.
    #[error("malformed {0}")]
    Malformed(&'static str),
}

/// Longest transactional id that a record can hold.
pub const ID_BYTES_MAX: usize = i16::MAX as usize;

/// The key of a transactional id. The id was checked to be at most `ID_BYTES_MAX` long.
pub fn encode_key(transactional_id: &str) -> Vec<u8> {
    let mut key = vec![0, 0];
    let length = transactional_id.len().min(ID_BYTES_MAX);
    key.extend_from_slice(&(length as i16).to_be_bytes());
    key.extend_from_slice(
        transactional_id
            .as_bytes()
            .get(..length)
            .unwrap_or_default(),
    );
    key
}

/// The transactional id of a key.
pub fn decode_key(key: &[u8]) -> Result<String, RecordError> {
    const KEY: RecordError = RecordError::Malformed("key");
    let mut input = Input(key);
    match input.i16().ok_or(KEY)? {
        0 => {}
        other => return Err(RecordError::UnknownVersion("key", other)),
    }
    let length = input.i16().ok_or(KEY)?;
    let bytes = usize::try_from(length)
        .ok()
        .and_then(|length| input.slice(length))
        .ok_or(KEY)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| KEY)
}

impl Transaction {
    /// The value as it lies in the log, version 1.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0, 1];
        out.extend_from_slice(&self.producer_id.to_be_bytes());
        out.extend_from_slice(&self.producer_epoch.to_be_bytes());
        out.extend_from_slice(&self.timeout_ms.to_be_bytes());
        out.push(self.state as i8 as u8);
        if self.state == State::Empty {
            put_uvarint(&mut out, 0);
        } else {
            self.encode_partitions(&mut out);
        }
        out.extend_from_slice(&self.last_update_ms.to_be_bytes());
        out.extend_from_slice(&self.start_ms.to_be_bytes());
        let mut tagged: Vec<(u32, Vec<u8>)> = Vec::new();
        if self.previous_producer_id != -1 {
            tagged.push((0, self.previous_producer_id.to_be_bytes().into()));
        }
        if self.next_producer_id != -1 {
            tagged.push((1, self.next_producer_id.to_be_bytes().into()));
        }
        if self.client_version != 0 {
            tagged.push((2, self.client_version.to_be_bytes().into()));
        }
        if self.next_producer_epoch != -1 {
            tagged.push((3, self.next_producer_epoch.to_be_bytes().into()));
        }
        put_uvarint(&mut out, tagged.len() as u32);
        for (tag, bytes) in tagged {
            put_uvarint(&mut out, tag);
            put_uvarint(&mut out, bytes.len() as u32);
            out.extend_from_slice(&bytes);
        }
        out
    }

    fn encode_partitions(&self, out: &mut Vec<u8>) {
        let partitions: Vec<_> = self.partitions.iter().collect();
        // They are sorted, so those of a topic are neighbours.
        let topics: Vec<_> = partitions
            .chunk_by(|left, right| left.0 == right.0)
            .collect();
        put_uvarint(out, topics.len() as u32 + 1);
        for of_topic in topics {
            let topic = of_topic.first().map_or("", |(topic, _)| topic);
            put_uvarint(out, topic.len() as u32 + 1);
            out.extend_from_slice(topic.as_bytes());
            put_uvarint(out, of_topic.len() as u32 + 1);
            for (_, index) in of_topic {
                out.extend_from_slice(&index.to_be_bytes());
            }
            put_uvarint(out, 0);
        }
    }

    /// Reads a value of version 0 or 1.
    pub fn decode(value: &[u8]) -> Result<Self, RecordError> {
        const VALUE: RecordError = RecordError::Malformed("transaction");
        let mut input = Input(value);
        let version = input.i16().ok_or(VALUE)?;
        if !(0..=1).contains(&version) {
            return Err(RecordError::UnknownVersion("transaction", version));
        }
        Self::decode_fields(&mut input, version == 1).ok_or(VALUE)
    }

    fn decode_fields(input: &mut Input<'_>, flexible: bool) -> Option<Self> {
        let mut transaction = Self {
            producer_id: input.i64()?,
            previous_producer_id: -1,
            next_producer_id: -1,
            producer_epoch: input.i16()?,
            next_producer_epoch: -1,
            last_producer_epoch: -1,
            timeout_ms: input.i32()?,
            state: State::from_number(i8::from_be_bytes(input.take()?))?,
            partitions: BTreeSet::new(),
            last_update_ms: -1,
            start_ms: -1,
            client_version: 0,
        };
        for _ in 0..input.array_length(flexible)? {
            let topic: Arc<str> = Arc::from(input.string(flexible)?);
            for _ in 0..input.array_length(flexible)? {
                let index = input.i32()?;
                transaction.partitions.insert((topic.clone(), index));
            }
            if flexible {
                for _ in 0..input.uvarint()? {
                    input.tagged_field()?;
                }
            }
        }
        transaction.last_update_ms = input.i64()?;
        transaction.start_ms = input.i64()?;
        if flexible {
            for _ in 0..input.uvarint()? {
                let (tag, bytes) = input.tagged_field()?;
                let mut field = Input(bytes);
                match tag {
                    0 => transaction.previous_producer_id = field.i64()?,
                    1 => transaction.next_producer_id = field.i64()?,
                    2 => transaction.client_version = field.i16()?,
                    3 => transaction.next_producer_epoch = field.i16()?,
                    _ => {}
                }
            }
        }
        if transaction.state == State::Empty {
            transaction.partitions.clear();
        }
        Some(transaction)
    }
}

fn put_uvarint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn slice(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.slice(N)?.try_into().ok()
    }

    fn i16(&mut self) -> Option<i16> {
        self.take().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.take().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_be_bytes)
    }

    fn uvarint(&mut self) -> Option<u32> {
        let mut value = 0_u64;
        for shift in (0..35).step_by(7) {
            let [byte] = self.take()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).ok();
            }
        }
        None
    }

    /// Null counts as empty. Nothing is allocated by it: each element has to be there.
    fn array_length(&mut self, flexible: bool) -> Option<u32> {
        if flexible {
            Some(self.uvarint()?.saturating_sub(1))
        } else {
            u32::try_from(self.i32()?.max(0)).ok()
        }
    }

    fn string(&mut self, flexible: bool) -> Option<&'a str> {
        let length = if flexible {
            self.uvarint()?.checked_sub(1)?
        } else {
            u32::try_from(self.i16()?).ok()?
        };
        std::str::from_utf8(self.slice(usize::try_from(length).ok()?)?).ok()
    }

    fn tagged_field(&mut self) -> Option<(u32, &'a [u8])> {
        let tag = self.uvarint()?;
        let size = usize::try_from(self.uvarint()?).ok()?;
        Some((tag, self.slice(size)?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn transaction() -> impl Strategy<Value = Transaction> {
        let ids = (-1..9_i64, -1..9_i64, -1..9_i64, any::<i64>(), any::<i64>());
        let small = (any::<i16>(), any::<i16>(), 0..3_i16, any::<i32>());
        let partitions = prop::collection::btree_set(("[a-c]{1,3}", any::<i32>()), 0..6);
        (ids, small, 0..8_usize, partitions).prop_map(|(ids, small, state, partitions)| {
            let state = State::ALL.into_iter().nth(state).unwrap();
            let partitions = partitions
                .into_iter()
                .filter(|_| state != State::Empty)
                .map(|(topic, index)| (Arc::from(topic.as_str()), index));
            Transaction {
                producer_id: ids.0,
                previous_producer_id: ids.1,
                next_producer_id: ids.2,
                last_update_ms: ids.3,
                start_ms: ids.4,
                producer_epoch: small.0,
                next_producer_epoch: small.1,
                client_version: small.2,
                timeout_ms: small.3,
                last_producer_epoch: -1,
                state,
                partitions: partitions.collect(),
            }
        })
    }

    proptest! {
        #[test]
        fn a_transaction_decodes_to_itself(transaction in transaction(), id in ".{0,20}") {
            prop_assert_eq!(Transaction::decode(&transaction.encode()), Ok(transaction));
            prop_assert_eq!(decode_key(&encode_key(&id)), Ok(id));
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = (Transaction::decode(&bytes), decode_key(&bytes));
        }
    }

    fn example() -> Transaction {
        Transaction {
            producer_id: 5,
            previous_producer_id: 5,
            next_producer_id: -1,
            producer_epoch: 3,
            next_producer_epoch: -1,
            last_producer_epoch: -1,
            timeout_ms: 60_000,
            state: State::Ongoing,
            partitions: [("t", 0), ("t", 7), ("u", 1)]
                .map(|(topic, index)| (Arc::from(topic), index))
                .into(),
            last_update_ms: 9,
            start_ms: 8,
            client_version: 2,
        }
    }

    #[test]
    fn an_open_transaction_is_the_bytes_that_kafka_writes() {
        assert_eq!(encode_key("ab"), [0, 0, 0, 2, b'a', b'b']);
        #[rustfmt::skip]
        let bytes = [
            0, 1, // version
            0, 0, 0, 0, 0, 0, 0, 5, // producer id
            0, 3, // epoch
            0, 0, 0xea, 0x60, // timeout
            1, // ongoing
            3, // two topics
            2, b't', 3, 0, 0, 0, 0, 0, 0, 0, 7, 0,
            2, b'u', 2, 0, 0, 0, 1, 0,
            0, 0, 0, 0, 0, 0, 0, 9, // last update
            0, 0, 0, 0, 0, 0, 0, 8, // start
            2, // tagged fields
            0, 8, 0, 0, 0, 0, 0, 0, 0, 5, // previous producer id
            2, 2, 0, 2, // client's transaction version
        ];
        assert_eq!(example().encode(), bytes);
    }

    #[test]
    fn the_older_version_is_read_too() {
        #[rustfmt::skip]
        let bytes = [
            0, 0,
            0, 0, 0, 0, 0, 0, 0, 5,
            0, 3,
            0, 0, 0xea, 0x60,
            1,
            0, 0, 0, 2,
            0, 1, b't', 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 7,
            0, 1, b'u', 0, 0, 0, 1, 0, 0, 0, 1,
            0, 0, 0, 0, 0, 0, 0, 9,
            0, 0, 0, 0, 0, 0, 0, 8,
        ];
        let mut expected = example();
        expected.previous_producer_id = -1;
        expected.client_version = 0;
        assert_eq!(Transaction::decode(&bytes), Ok(expected));
    }

    #[test]
    fn an_unknown_version_is_named() {
        assert_eq!(
            Transaction::decode(&[0, 2]),
            Err(RecordError::UnknownVersion("transaction", 2))
        );
        assert_eq!(
            decode_key(&[0, 1]),
            Err(RecordError::UnknownVersion("key", 1))
        );
    }
}
