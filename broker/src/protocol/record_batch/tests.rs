#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;

use super::*;

type Bytes = Vec<u8>;
type OwnedHeader = (String, Option<Bytes>);
type OwnedRecord = (i64, Option<Bytes>, Option<Bytes>, Vec<OwnedHeader>);

fn record() -> impl Strategy<Value = OwnedRecord> {
    let bytes = || prop::option::of(prop::collection::vec(any::<u8>(), 0..200));
    (
        any::<i64>(),
        bytes(),
        bytes(),
        prop::collection::vec(("[a-zé]{0,9}", bytes()), 0..4),
    )
}

fn build(records: &[OwnedRecord], builder: Builder) -> BytesMut {
    let mut builder = builder;
    for (timestamp, key, value, headers) in records {
        let headers: Vec<(&str, Option<&[u8]>)> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_deref()))
            .collect();
        builder.append(*timestamp, key.as_deref(), value.as_deref(), &headers);
    }
    builder.build()
}

proptest! {
    #[test]
    fn a_built_batch_reads_back(
        records in prop::collection::vec(record(), 1..30), codec in 0u8..5, base_offset in 0i64..1 << 40,
        producer in prop::option::of((0i64..1 << 50, 0i16..i16::MAX, 0..i32::MAX)),
    ) {
        let codec = Codec::from_id(codec).unwrap();
        let mut builder = Builder::new().codec(codec).base_offset(base_offset);
        if let Some((id, epoch, sequence)) = producer {
            builder = builder.producer(id, epoch, sequence);
        }
        let bytes = build(&records, builder);
        let batch = RecordBatch::parse(&bytes).unwrap();
        batch.verify_crc().unwrap();
        prop_assert_eq!(batch.size_bytes(), bytes.len());
        prop_assert_eq!(batch.codec().unwrap(), codec);
        prop_assert_eq!(batch.base_offset(), base_offset);
        prop_assert_eq!(batch.last_offset(), base_offset + records.len() as i64 - 1);
        prop_assert_eq!(batch.max_timestamp(), records.iter().map(|record| record.0).max().unwrap());
        prop_assert_eq!(batch.has_producer_id(), producer.is_some());
        if let Some((id, epoch, sequence)) = producer {
            prop_assert_eq!((batch.producer_id(), batch.producer_epoch(), batch.base_sequence()), (id, epoch, sequence));
            prop_assert_eq!(i64::from(batch.last_sequence()), (i64::from(sequence) + records.len() as i64 - 1) % (1 << 31));
        }
        let mut scratch = Vec::new();
        let read: Vec<OwnedRecord> = batch
            .records(&mut scratch, DECOMPRESSED_BYTES_MAX)
            .unwrap()
            .enumerate()
            .map(|(index, record)| {
                let record = record.unwrap();
                assert_eq!(record.offset, base_offset + index as i64);
                let headers = record
                    .headers()
                    .map(|(name, value)| (String::from_utf8(name.to_vec()).unwrap(), value.map(<[u8]>::to_vec)))
                    .collect();
                (record.timestamp, record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec), headers)
            })
            .collect();
        prop_assert_eq!(&read, &records);
        let mut outlines = Vec::new();
        batch.check_records(DECOMPRESSED_BYTES_MAX, |outline| outlines.push(outline)).unwrap();
        prop_assert_eq!(outlines.len(), records.len());
        for (outline, record) in outlines.iter().zip(&records) {
            prop_assert_eq!(outline.timestamp, record.0);
            prop_assert_eq!((outline.has_key, outline.has_value), (record.1.is_some(), record.2.is_some()));
            prop_assert_eq!(outline.index, outline.offset_delta);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), with_magic in any::<bool>()) {
        let mut bytes = bytes;
        if with_magic && bytes.len() > HEADER_BYTES {
            let length = (bytes.len() - LOG_OVERHEAD_BYTES) as i32;
            put_at(&mut bytes, LENGTH_AT, &length.to_be_bytes());
            bytes[MAGIC_AT] = 2;
        }
        read_all(&bytes);
    }

    #[test]
    fn a_mutated_batch_never_panics_and_fails_its_crc(
        records in prop::collection::vec(record(), 1..8), codec in 0u8..5,
        at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
    ) {
        let valid = build(&records, Builder::new().codec(Codec::from_id(codec).unwrap()));
        let mut mutated = valid.to_vec();
        let at = at.index(mutated.len());
        mutated[at] = byte;
        read_all(&mutated);
        if mutated != valid && at >= CRC_AT {
            prop_assert!(RecordBatch::parse(&mutated).unwrap().verify_crc().is_err());
        }
        read_all(&mutated[..cut.index(mutated.len())]);
    }

    #[test]
    fn the_walk_and_the_reader_agree_on_what_is_sound(
        records in prop::collection::vec(record(), 1..8), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = build(&records, Builder::new()).to_vec();
        let at = HEADER_BYTES + at.index(bytes.len() - HEADER_BYTES);
        bytes[at] = byte;
        let batch = RecordBatch::parse(&bytes).unwrap();
        let walked = batch.check_records(DECOMPRESSED_BYTES_MAX, |_| ()).is_ok();
        let mut scratch = Vec::new();
        let read = batch.records(&mut scratch, DECOMPRESSED_BYTES_MAX).unwrap().all(|record| record.is_ok());
        prop_assert_eq!(walked, read);
    }

    #[test]
    fn varlongs_have_the_size_they_say(value in any::<i64>(), shift in 0..64) {
        let value = value >> shift;
        let mut buffer = BytesMut::new();
        put_varlong(&mut buffer, value);
        prop_assert_eq!(buffer.len(), varlong_bytes(value));
        prop_assert_eq!(take_varlong(&mut &buffer[..]).unwrap(), value);
    }
}

fn read_all(bytes: &[u8]) {
    for batch in batches(bytes) {
        let _ = batch.verify_crc();
        let _ = (
            batch.last_offset(),
            batch.last_sequence(),
            batch.timestamp_type(),
        );
        let _ = batch.check_records(1 << 20, |_| ());
        let mut scratch = Vec::new();
        if let Ok(records) = batch.records(&mut scratch, 1 << 20) {
            for record in records.flatten() {
                let _ = record.headers().count();
            }
        }
    }
}

#[test]
fn a_batch_of_java_s_producer_reads() {
    // One record, no key, value "hello", written down from Apache Kafka's format by hand.
    let mut builder = Builder::new();
    builder.append(1_700_000_000_000, None, Some(b"hello"), &[]);
    let bytes = builder.build();
    let hex: String = bytes[HEADER_BYTES..]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    // length 11 (zigzag 16), attributes, timestamp delta, offset delta, key -1, value length 5, "hello", no headers.
    assert_eq!(hex, "16000000010a68656c6c6f00");
    assert_eq!(bytes.len(), 61 + 12);
    assert_eq!(&bytes[LENGTH_AT..LENGTH_AT + 4], &[0, 0, 0, 61]);
    assert_eq!(&bytes[RECORD_COUNT_AT..HEADER_BYTES], &[0, 0, 0, 1]);
}

#[test]
fn crc_is_castagnoli() {
    // The check value of CRC-32C.
    assert_eq!(crc_fast::crc32_iscsi(b"123456789"), 0xe306_9283);
}

#[test]
fn log_append_time_is_every_record_s_time() {
    let mut builder = Builder::new();
    builder.append(5, None, Some(b"a"), &[]);
    builder.append(9, None, Some(b"b"), &[]);
    let mut bytes = builder.build();
    set_log_append_time(&mut bytes, 77);
    let batch = RecordBatch::parse(&bytes).unwrap();
    batch.verify_crc().unwrap();
    assert_eq!(batch.timestamp_type(), TimestampType::LogAppendTime);
    let mut scratch = Vec::new();
    let times: Vec<i64> = batch
        .records(&mut scratch, 0)
        .unwrap()
        .map(|record| record.unwrap().timestamp)
        .collect();
    assert_eq!(times, [77, 77]);
}

#[test]
fn a_false_record_count_is_an_error_both_ways() {
    let mut builder = Builder::new();
    builder.append(5, None, Some(b"a"), &[]);
    builder.append(9, None, Some(b"b"), &[]);
    let bytes = builder.build();
    for count in [-1i32, 0, 1, 3, i32::MAX] {
        let mut bytes = bytes.clone();
        put_at(&mut bytes, RECORD_COUNT_AT, &count.to_be_bytes());
        let batch = RecordBatch::parse(&bytes).unwrap();
        assert!(batch.check_records(0, |_| ()).is_err(), "{count}");
        let mut scratch = Vec::new();
        assert!(
            batch
                .records(&mut scratch, 0)
                .unwrap()
                .any(|record| record.is_err()),
            "{count}"
        );
    }
}

#[test]
fn a_marker_has_kafka_s_bytes_and_reads_back() {
    let end = EndTransaction {
        commit: true,
        coordinator_epoch: 9,
    };
    let bytes = end.batch(5, 2, 1_700_000_000_000);
    let batch = RecordBatch::parse(&bytes).unwrap();
    batch.verify_crc().unwrap();
    assert!(batch.is_control() && batch.is_transactional());
    assert_eq!(
        (
            batch.producer_id(),
            batch.producer_epoch(),
            batch.base_sequence(),
            batch.record_count()
        ),
        (5, 2, -1, 1)
    );
    // Length 16 (zigzag 32), attributes, deltas; key of 4: version 0, type 1; value of 6: version 0, epoch 9; no headers.
    let record = [32, 0, 0, 0, 8, 0, 0, 0, 1, 12, 0, 0, 0, 0, 0, 9, 0];
    assert_eq!(&bytes[HEADER_BYTES..], record);
    assert_eq!(batch.end_transaction(), Some(end));
    // Other control records, and what is no control record, end nothing.
    assert_eq!(
        EndTransaction::decode(&[0, 0, 0, 2], &[0, 0, 0, 0, 0, 9]),
        None
    );
    assert_eq!(
        EndTransaction::decode(&[0, 0, 0], &[0, 0, 0, 0, 0, 9]),
        None
    );
    assert_eq!(EndTransaction::decode(&[0, 0, 0, 1], &[0, 0, 0]), None);
    let mut data = Builder::new();
    data.append(1, Some(&[0, 0, 0, 1]), Some(&[0, 0, 0, 0, 0, 9]), &[]);
    assert_eq!(
        RecordBatch::parse(&data.build()).unwrap().end_transaction(),
        None
    );
}

#[test]
fn sequences_wrap_to_zero() {
    assert_eq!(sequence_plus(i32::MAX, 1), 0);
    assert_eq!(sequence_plus(i32::MAX - 1, 3), 1);
    assert_eq!(sequence_minus(1, 3), i32::MAX - 1);
}

#[test]
fn a_compressed_bomb_is_refused_without_being_held() {
    let mut builder = Builder::new().codec(Codec::Zstd);
    builder.append(0, None, Some(&vec![0; 4 << 20]), &[]);
    let bytes = builder.build();
    assert!(bytes.len() < 4096);
    let batch = RecordBatch::parse(&bytes).unwrap();
    assert!(matches!(
        batch.check_records(1 << 20, |_| ()),
        Err(BatchError::Compression(CompressionError::TooLong { .. }))
    ));
    batch.check_records(5 << 20, |_| ()).unwrap();
}
