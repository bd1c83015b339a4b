//! Checking a batch before it is appended.

use bytes::BytesMut;

use crate::log::segment::BatchFacts;
use crate::log::{AppendError, LogConfig, Marker, VerificationGuard};
use crate::protocol::compression::Codec;
use crate::protocol::record_batch::{
    self, BatchError, DECOMPRESSED_BYTES_MAX, EndTransaction, RecordBatch, TimestampType,
};

/// Who appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOrigin {
    /// A client's produce request: every check applies.
    Client,
    /// A coordinator of this broker, which builds its batches itself: CRC, records and sequences are taken as they are.
    Coordinator,
}

/// What a batch must fulfil, copied from the log's configuration.
#[derive(Clone, Copy, Debug)]
pub struct AppendRules {
    pub message_bytes_max: u32,
    pub segment_bytes: u32,
    pub codec: Option<Codec>,
    pub compression_level: Option<i32>,
    pub timestamp_type: TimestampType,
    pub timestamp_before_max_ms: Option<i64>,
    pub timestamp_after_max_ms: Option<i64>,
    pub compact: bool,
}

impl From<&LogConfig> for AppendRules {
    fn from(config: &LogConfig) -> Self {
        AppendRules {
            message_bytes_max: config.message_bytes_max,
            segment_bytes: config.segment_bytes,
            codec: config.codec,
            compression_level: config.compression_level,
            timestamp_type: config.timestamp_type,
            timestamp_before_max_ms: config.timestamp_before_max_ms,
            timestamp_after_max_ms: config.timestamp_after_max_ms,
            compact: config.compact,
        }
    }
}

/// Bytes of records, uncompressed, that are held to compress them anew (`compression.type`); a batch of more is refused as corrupt.
const RECOMPRESSED_BYTES_MAX: usize = 64 << 20;
/// Offending records that an error names.
const RECORD_INDEXES_MAX: usize = 100;

/// A batch that may be appended: exactly one v2 batch, exclusively owned, of right length and CRC, with sound records.
#[derive(Debug)]
pub struct ValidBatch {
    pub(super) bytes: BytesMut,
    /// Offsets and leader epoch are the producer's, not yet the log's.
    pub(super) facts: BatchFacts,
    pub(super) origin: AppendOrigin,
    pub(super) timestamp_type: TimestampType,
    pub(super) guard: Option<VerificationGuard>,
}

impl ValidBatch {
    /// The same batch, with leave to begin a transaction.
    #[must_use]
    pub fn verified(mut self, guard: Option<VerificationGuard>) -> Self {
        self.guard = guard;
        self
    }

    /// The control batch of a marker.
    pub(super) fn of_marker(marker: &Marker, rules: &AppendRules, now_ms: i64) -> ValidBatch {
        let end = EndTransaction {
            commit: marker.commit,
            coordinator_epoch: marker.coordinator_epoch,
        };
        let bytes = end.batch(marker.producer_id, marker.producer_epoch, now_ms);
        let facts = BatchFacts {
            base_offset: 0,
            last_offset: 0,
            size_bytes: bytes.len() as u64,
            leader_epoch: -1,
            max_timestamp: now_ms,
            producer_id: marker.producer_id,
            producer_epoch: marker.producer_epoch,
            base_sequence: -1,
            last_sequence: -1,
            is_control: true,
            is_transactional: true,
            marker: Some(end),
        };
        ValidBatch {
            bytes,
            facts,
            origin: AppendOrigin::Coordinator,
            timestamp_type: rules.timestamp_type,
            guard: None,
        }
    }

    /// Checks everything that does not depend on the log's state. Pure, and the costly part of an append: call it without the log's lock.
    ///
    /// Records are walked, compressed ones as they are decompressed: what is stored can be read by every consumer. A false max timestamp
    /// in the header is put right, since the time index relies on it.
    pub fn check(
        mut bytes: BytesMut,
        rules: &AppendRules,
        origin: AppendOrigin,
        now_ms: i64,
    ) -> Result<ValidBatch, AppendError> {
        let size_bytes = bytes.len();
        check_size(size_bytes, rules)?;
        let batch = RecordBatch::parse(&bytes).map_err(of_batch)?;
        if batch.size_bytes() != size_bytes {
            return Err(invalid("want exactly one record batch"));
        }
        if batch.last_offset_delta() < 0 {
            return Err(invalid("batch has a negative last offset delta"));
        }
        let mut max_timestamp = batch.max_timestamp();
        if origin == AppendOrigin::Client {
            batch.verify_crc().map_err(of_batch)?;
            check_header(&batch)?;
            max_timestamp = check_records(&batch, rules, now_ms)?;
        }
        let mut facts = BatchFacts {
            max_timestamp,
            ..BatchFacts::from(batch.header())
        };
        let codec = rules.codec.filter(|_| origin == AppendOrigin::Client);
        let is_other = |codec: &Codec| batch.codec().is_ok_and(|found| found != *codec);
        let has_false_maximum = max_timestamp != batch.max_timestamp();
        if let Some(codec) = codec.filter(is_other) {
            let recompressed = batch
                .recompressed(codec, rules.compression_level, RECOMPRESSED_BYTES_MAX)
                .map_err(of_batch)?;
            check_size(recompressed.len(), rules)?;
            facts.size_bytes = recompressed.len() as u64;
            bytes = recompressed;
        }
        if has_false_maximum {
            record_batch::set_max_timestamp(&mut bytes, max_timestamp);
        }
        Ok(ValidBatch {
            bytes,
            facts,
            origin,
            timestamp_type: rules.timestamp_type,
            guard: None,
        })
    }

    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }
}

fn check_size(size_bytes: usize, rules: &AppendRules) -> Result<(), AppendError> {
    if size_bytes > rules.message_bytes_max as usize {
        return Err(AppendError::TooLarge {
            size_bytes,
            max_bytes: rules.message_bytes_max as usize,
        });
    }
    if size_bytes > rules.segment_bytes as usize {
        return Err(AppendError::LargerThanSegment {
            size_bytes,
            segment_bytes: rules.segment_bytes as usize,
        });
    }
    Ok(())
}

fn invalid(reason: &str) -> AppendError {
    AppendError::InvalidRecord {
        reason: reason.to_owned(),
        record_indexes: Vec::new(),
    }
}

fn of_batch(error: BatchError) -> AppendError {
    match error {
        BatchError::UnknownCodec { id } => AppendError::UnknownCodec { id },
        BatchError::Magic { .. } | BatchError::Invalid { .. } => invalid(&error.to_string()),
        error => AppendError::Corrupt(error),
    }
}

fn check_header(batch: &RecordBatch<'_>) -> Result<(), AppendError> {
    if batch.is_control() {
        return Err(invalid("clients may not write control batches"));
    }
    if i64::from(batch.record_count()) != i64::from(batch.last_offset_delta()) + 1 {
        return Err(invalid("batch's record count is not that of its offsets"));
    }
    if batch.has_producer_id() {
        if batch.producer_epoch() < 0 || batch.base_sequence() < 0 {
            return Err(invalid("batch has a producer id but no epoch or sequence"));
        }
    } else if batch.is_transactional() {
        return Err(invalid("batch is transactional but has no producer id"));
    }
    if batch.timestamp_type() == TimestampType::LogAppendTime {
        return Err(AppendError::InvalidTimestamp {
            timestamp: batch.max_timestamp(),
            record_indexes: Vec::new(),
        });
    }
    Ok(())
}

/// The highest timestamp of the records.
fn check_records(
    batch: &RecordBatch<'_>,
    rules: &AppendRules,
    now_ms: i64,
) -> Result<i64, AppendError> {
    let earliest = rules
        .timestamp_before_max_ms
        .map_or(i64::MIN, |before| now_ms.saturating_sub(before));
    let latest = rules
        .timestamp_after_max_ms
        .map_or(i64::MAX, |after| now_ms.saturating_add(after));
    let keeps_time = rules.timestamp_type == TimestampType::CreateTime;
    let mut max_timestamp = i64::MIN;
    let mut keyless = Vec::new();
    let mut untimely = Vec::new();
    let mut untimely_timestamp = None;
    let mut has_gap = false;
    let checked = batch.check_records(DECOMPRESSED_BYTES_MAX, |record| {
        has_gap |= record.offset_delta != record.index;
        max_timestamp = max_timestamp.max(record.timestamp);
        if rules.compact && !record.has_key && keyless.len() < RECORD_INDEXES_MAX {
            keyless.push(record.index);
        }
        // -1 is "no timestamp".
        let timely = record.timestamp == -1 || (earliest..=latest).contains(&record.timestamp);
        if keeps_time && !timely {
            untimely_timestamp.get_or_insert(record.timestamp);
            if untimely.len() < RECORD_INDEXES_MAX {
                untimely.push(record.index);
            }
        }
    });
    checked.map_err(of_batch)?;
    if has_gap {
        return Err(invalid("batch has a gap in its offsets"));
    }
    if !keyless.is_empty() {
        let reason = "a compacted topic takes no record without a key".to_owned();
        return Err(AppendError::InvalidRecord {
            reason,
            record_indexes: keyless,
        });
    }
    match untimely_timestamp {
        Some(timestamp) => Err(AppendError::InvalidTimestamp {
            timestamp,
            record_indexes: untimely,
        }),
        None => Ok(max_timestamp),
    }
}

/// What became of an appended batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub base_offset: i64,
    pub last_offset: i64,
    /// The time the broker put on the batch; -1 under CreateTime.
    pub log_append_time_ms: i64,
    pub log_start_offset: i64,
    /// The batch was there already (an idempotent retry): nothing was written, the offsets are the original ones. It may not be synced
    /// yet: an `acks=all` answer waits until `flushed_offset` is past `last_offset` all the same.
    pub duplicate: bool,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use proptest::prelude::*;

    use super::*;
    use crate::protocol::compression::Codec;
    use crate::protocol::record_batch::{Builder, HEADER_BYTES};

    const NOW_MS: i64 = 1_700_000_000_000;

    fn rules() -> AppendRules {
        AppendRules::from(&LogConfig::default())
    }

    fn check(bytes: BytesMut, rules: &AppendRules) -> Result<ValidBatch, AppendError> {
        ValidBatch::check(bytes, rules, AppendOrigin::Client, NOW_MS)
    }

    fn two_records(builder: Builder) -> BytesMut {
        let mut builder = builder;
        builder.append(NOW_MS, Some(b"k"), Some(b"v"), &[]);
        builder.append(NOW_MS - 5, None, Some(b"w"), &[("h", None)]);
        builder.build()
    }

    #[test]
    fn a_sound_batch_passes_with_every_codec() {
        for codec in Codec::ALL {
            let valid = check(two_records(Builder::new().codec(codec)), &rules()).unwrap();
            assert_eq!(valid.facts.max_timestamp, NOW_MS);
        }
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        let plain = || two_records(Builder::new());
        assert!(matches!(
            check(BytesMut::new(), &rules()),
            Err(AppendError::Corrupt(BatchError::TooShort { .. }))
        ));
        let mut two = plain();
        two.extend_from_slice(&plain());
        assert!(matches!(
            check(two, &rules()),
            Err(AppendError::InvalidRecord { .. })
        ));
        let mut flipped = plain();
        flipped[HEADER_BYTES + 3] ^= 1;
        assert!(matches!(
            check(flipped, &rules()),
            Err(AppendError::Corrupt(BatchError::Crc { .. }))
        ));
        let small = AppendRules {
            message_bytes_max: 50,
            ..rules()
        };
        assert!(matches!(
            check(plain(), &small),
            Err(AppendError::TooLarge { max_bytes: 50, .. })
        ));
        let small = AppendRules {
            segment_bytes: 50,
            ..rules()
        };
        assert!(matches!(
            check(plain(), &small),
            Err(AppendError::LargerThanSegment {
                segment_bytes: 50,
                ..
            })
        ));
        let mut old = plain();
        old[16] = 1;
        assert!(matches!(
            check(old, &rules()),
            Err(AppendError::InvalidRecord { .. })
        ));
        assert!(matches!(
            check(two_records(Builder::new().control()), &rules()),
            Err(AppendError::InvalidRecord { .. })
        ));
        assert!(matches!(
            check(two_records(Builder::new().transactional()), &rules()),
            Err(AppendError::InvalidRecord { .. })
        ));
        assert!(matches!(
            check(two_records(Builder::new().producer(1, 0, -1)), &rules()),
            Err(AppendError::InvalidRecord { .. })
        ));
        let compact = AppendRules {
            compact: true,
            ..rules()
        };
        let refused = check(plain(), &compact);
        assert!(
            matches!(refused, Err(AppendError::InvalidRecord { record_indexes, .. }) if record_indexes == [1])
        );
        let mut stamped = plain();
        record_batch::set_log_append_time(&mut stamped, NOW_MS);
        assert!(matches!(
            check(stamped, &rules()),
            Err(AppendError::InvalidTimestamp { .. })
        ));
    }

    #[test]
    fn timestamps_out_of_range_are_refused_under_create_time_only() {
        let mut builder = Builder::new();
        builder.append(NOW_MS + 3_600_000, None, None, &[]);
        builder.append(NOW_MS + 3_600_001, None, None, &[]);
        builder.append(-1, None, None, &[]);
        let bytes = builder.build();
        let refused = check(bytes.clone(), &rules());
        assert!(
            matches!(refused, Err(AppendError::InvalidTimestamp { record_indexes, .. }) if record_indexes == [1])
        );
        let before = AppendRules {
            timestamp_before_max_ms: Some(10),
            timestamp_after_max_ms: None,
            ..rules()
        };
        check(bytes.clone(), &before).unwrap();
        let append_time = AppendRules {
            timestamp_type: TimestampType::LogAppendTime,
            ..rules()
        };
        check(bytes, &append_time).unwrap();
    }

    #[test]
    fn a_batch_is_stored_with_the_topic_s_codec() {
        for (from, to) in Codec::ALL
            .into_iter()
            .flat_map(|from| Codec::ALL.map(|to| (from, to)))
        {
            let rules = AppendRules {
                codec: Some(to),
                ..rules()
            };
            let mut sent = two_records(Builder::new().codec(from).producer(4, 1, 6));
            record_batch::set_max_timestamp(&mut sent, 3);
            let valid = check(sent, &rules).unwrap();
            let stored = RecordBatch::parse(&valid.bytes).unwrap();
            stored.verify_crc().unwrap();
            assert_eq!(stored.codec().unwrap(), to, "{from:?}");
            assert_eq!(valid.facts, BatchFacts::from(stored.header()));
            assert_eq!(
                (stored.max_timestamp(), stored.base_sequence()),
                (NOW_MS, 6)
            );
            let mut scratch = Vec::new();
            let records: Vec<_> = stored
                .records(&mut scratch, 1 << 20)
                .unwrap()
                .map(|record| record.unwrap().value.unwrap().to_vec())
                .collect();
            assert_eq!(records, [b"v", b"w"]);
        }
        let uncompressed = AppendRules {
            codec: Some(Codec::None),
            message_bytes_max: 1000,
            ..rules()
        };
        let mut builder = Builder::new().codec(Codec::Gzip);
        builder.append(NOW_MS, None, Some(&[0; 1000]), &[]);
        assert!(matches!(
            check(builder.build(), &uncompressed),
            Err(AppendError::TooLarge { .. })
        ));
    }

    #[test]
    fn a_false_max_timestamp_is_put_right() {
        let mut bytes = two_records(Builder::new());
        record_batch::set_max_timestamp(&mut bytes, 3);
        let valid = check(bytes, &rules()).unwrap();
        let batch = RecordBatch::parse(&valid.bytes).unwrap();
        batch.verify_crc().unwrap();
        assert_eq!(batch.max_timestamp(), NOW_MS);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = check(BytesMut::from(&bytes[..]), &rules());
            let _ = ValidBatch::check(BytesMut::from(&bytes[..]), &rules(), AppendOrigin::Coordinator, NOW_MS);
        }

        #[test]
        fn a_batch_mutated_under_a_right_crc_never_panics(at in 0usize..200, byte in any::<u8>(), codec in 0u8..5) {
            let mut bytes = two_records(Builder::new().codec(Codec::from_id(codec).unwrap()));
            let at = at % bytes.len();
            bytes[at] = byte;
            let max_timestamp = RecordBatch::parse(&bytes).map_or(0, |batch| batch.max_timestamp());
            if bytes.len() >= HEADER_BYTES {
                record_batch::set_max_timestamp(&mut bytes, max_timestamp);
            }
            let _ = check(bytes, &rules());
        }
    }
}
