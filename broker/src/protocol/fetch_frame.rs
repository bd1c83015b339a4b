//! The body of a Fetch answer, whose records are not copied.
//!
//! The generated code encodes into one buffer, records included, which for a consumer that reads old data is a copy of everything. So the
//! layers above a partition are written here, field by field; the generated code encodes each partition as if it had no records; and these are
//! put in their place as pieces of their own.
//!
//! 1. Records are a partition's last field. Behind them come, from v12 on, its tagged fields: if there are none, one zero byte.
//! 2. So the encoding of a partition without records ends with their empty length and that byte. It is cut off there, and the length, the
//!    records and the byte are written instead.
//! 3. What has tagged fields, or few records, is encoded as it is: such partitions are small.

use bytes::{Bytes, BytesMut};
use kafka_wire::FetchResponse;
use kafka_wire::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_wire_core::{ApiVersion, EncodeError, Encoder, KafkaEncode};

use super::pieces::Pieces;

/// Fewer bytes of records are copied: a piece costs more.
const PIECE_BYTES_MIN: usize = 4 * 1024;

/// First version with tagged fields and compact lengths.
const FLEXIBLE_SINCE: i16 = 12;
/// First version that names topics by id.
const IDS_SINCE: i16 = 13;
/// First version that tells an error of the whole request, and a session.
const SESSIONS_SINCE: i16 = 7;

/// Whether an answer is worth its pieces and has only the fields that are known here.
pub(super) fn can_be_split(response: &FetchResponse) -> bool {
    response.node_endpoints.is_empty()
        && response.unknown_tagged_fields.is_empty()
        && response
            .responses
            .iter()
            .flat_map(|topic| &topic.partitions)
            .any(is_split)
}

fn is_split(data: &PartitionData) -> bool {
    data.records
        .as_ref()
        .is_some_and(|records| records.len() >= PIECE_BYTES_MIN)
        && data.diverging_epoch == Default::default()
        && data.current_leader == Default::default()
        && data.snapshot_id == Default::default()
        && data.unknown_tagged_fields.is_empty()
}

/// The body of an answer that [`can_be_split`], behind what is in `buffer` already.
pub(super) fn encode(
    buffer: BytesMut,
    mut response: FetchResponse,
    version: i16,
) -> Result<Pieces, EncodeError> {
    let mut body = Body {
        buffer,
        pieces: Pieces::default(),
        version,
        is_flexible: version >= FLEXIBLE_SINCE,
    };
    let mut encoder = Encoder::new(&mut body.buffer);
    encoder.write_i32(response.throttle_time_ms)?;
    if version >= SESSIONS_SINCE {
        encoder.write_i16(response.error_code)?;
        encoder.write_i32(response.session_id)?;
    }
    body.write_count(response.responses.len())?;
    for topic in &mut response.responses {
        body.write_topic(topic)?;
    }
    if body.is_flexible {
        body.buffer.extend_from_slice(&[0]);
    }
    let Body {
        buffer, mut pieces, ..
    } = body;
    pieces.push(buffer.freeze());
    Ok(pieces)
}

struct Body {
    /// Behind the last piece.
    buffer: BytesMut,
    pieces: Pieces,
    version: i16,
    is_flexible: bool,
}

impl Body {
    fn write_topic(&mut self, topic: &mut FetchableTopicResponse) -> Result<(), EncodeError> {
        let mut encoder = Encoder::new(&mut self.buffer);
        if self.version >= IDS_SINCE {
            encoder.write_uuid(topic.topic_id)?;
        } else if self.is_flexible {
            encoder.write_compact_string(&topic.topic)?;
        } else {
            encoder.write_string(&topic.topic)?;
        }
        self.write_count(topic.partitions.len())?;
        for data in &mut topic.partitions {
            if is_split(data) {
                let records = data.records.replace(Bytes::new()).unwrap_or_default();
                self.write_split(data, records)?;
            } else {
                data.encode_into(&mut self.buffer, ApiVersion::new(self.version))?;
            }
        }
        if self.is_flexible {
            Encoder::new(&mut self.buffer).write_tagged_fields(&topic.unknown_tagged_fields)?;
        }
        Ok(())
    }

    /// A partition whose records were taken out, with them.
    fn write_split(&mut self, data: &PartitionData, records: Bytes) -> Result<(), EncodeError> {
        data.encode_into(&mut self.buffer, ApiVersion::new(self.version))?;
        // An empty compact length is one.
        let (no_records, tags): (&[u8], &[u8]) = if self.is_flexible {
            (&[1, 0], &[0])
        } else {
            (&[0; 4], &[])
        };
        assert!(
            self.buffer.ends_with(no_records),
            "a partition without records and tags ends otherwise in version {}",
            self.version
        );
        self.buffer.truncate(self.buffer.len() - no_records.len());
        let too_long = EncodeError::LengthOverflow {
            kind: "records",
            length: records.len(),
            maximum: i32::MAX as usize,
        };
        let length = i32::try_from(records.len()).map_err(|_| too_long)?;
        let mut encoder = Encoder::new(&mut self.buffer);
        if self.is_flexible {
            encoder.write_unsigned_varint(length.cast_unsigned() + 1)?;
        } else {
            encoder.write_i32(length)?;
        }
        self.pieces.push(self.buffer.split().freeze());
        self.pieces.push(records);
        self.buffer.extend_from_slice(tags);
        Ok(())
    }

    fn write_count(&mut self, count: usize) -> Result<(), EncodeError> {
        let mut encoder = Encoder::new(&mut self.buffer);
        if self.is_flexible {
            encoder.write_compact_array_len(count)
        } else {
            encoder.write_array_len(count)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::IoSlice;

    use bytes::Buf;
    use kafka_wire::fetch_response::{
        AbortedTransaction, EpochEndOffset, LeaderIdAndEpoch, NodeEndpoint, SnapshotId,
    };
    use kafka_wire_core::{TaggedField, TaggedFields};

    use super::*;
    use crate::protocol::{ReplyFrame, Response, adapt, api, message};

    /// Records of so many bytes, none like its neighbour.
    fn records(count: usize) -> Option<Bytes> {
        Some((0..count).map(|at| (at % 251) as u8).collect())
    }

    fn partition(records: Option<Bytes>) -> PartitionData {
        message!(PartitionData {
            partition_index: 7,
            high_watermark: 11,
            last_stable_offset: 9,
            log_start_offset: 3,
            records: records,
        })
    }

    fn answer(topics: Vec<Vec<PartitionData>>) -> FetchResponse {
        let topics = topics.into_iter().enumerate().map(|(index, partitions)| {
            message!(FetchableTopicResponse {
                topic: format!("topic-{index}").as_str().into(),
                topic_id: crate::protocol::wire_id(uuid::Uuid::from_u128(index as u128 + 1)),
                partitions: partitions,
            })
        });
        message!(FetchResponse {
            throttle_time_ms: 5,
            session_id: 77,
            responses: topics.collect(),
        })
    }

    fn tagged() -> TaggedFields {
        TaggedFields::from_sorted(vec![TaggedField::new(99, Bytes::from_static(b"tag"))]).unwrap()
    }

    /// The frame as pieces is the frame as the generated code writes it, in every version that carries it. Returns the number of pieces
    /// in the newest.
    fn check(response: &FetchResponse) -> usize {
        let api = api::find(api::FETCH).unwrap();
        let mut pieces_count = 0;
        for version in api.min..=api.max {
            let mut plain: Response = response.clone().into();
            adapt::lower(&mut plain, version);
            let mut expected = BytesMut::new();
            if plain
                .encode_into(&mut expected, ApiVersion::new(version))
                .is_err()
            {
                // Tagged fields and preferred replicas came late.
                assert!(version < FLEXIBLE_SINCE);
                continue;
            }
            let reply = ReplyFrame {
                api,
                version,
                correlation_id: 6,
            };
            let mut pieces = crate::protocol::encode(&reply, response.clone().into()).unwrap();
            let mut slices = [IoSlice::new(&[]); 16];
            pieces_count = pieces.chunks_vectored(&mut slices);
            let header_bytes = if version >= FLEXIBLE_SINCE { 5 } else { 4 };
            assert_eq!(
                pieces.get_i32() as usize,
                header_bytes + expected.len(),
                "version {version}"
            );
            assert_eq!(pieces.get_i32(), 6);
            pieces.advance(header_bytes - 4);
            let body = pieces.copy_to_bytes(pieces.remaining());
            assert!(body == expected, "version {version}");
        }
        pieces_count
    }

    #[test]
    fn records_are_pieces_between_what_is_encoded() {
        let large = |bytes| partition(records(bytes));
        assert_eq!(check(&answer(vec![vec![large(PIECE_BYTES_MIN)]])), 3);
        assert_eq!(check(&answer(vec![vec![large(20_000), large(5_000)]])), 5);
        assert_eq!(
            check(&answer(vec![vec![large(70_000)], vec![large(1 << 21)]])),
            5
        );
        let among_others = vec![
            vec![partition(None), large(9_000), partition(records(0))],
            vec![],
            vec![large(1), large(PIECE_BYTES_MIN - 1)],
        ];
        assert_eq!(check(&answer(among_others)), 3);
    }

    #[test]
    fn without_many_records_there_is_one_piece() {
        for topics in [
            vec![],
            vec![vec![]],
            vec![vec![partition(None)], vec![partition(records(0))]],
            vec![vec![partition(records(PIECE_BYTES_MIN - 1))]],
        ] {
            assert_eq!(check(&answer(topics)), 1);
        }
        assert_eq!(check(&message!(FetchResponse { error_code: 70 })), 1);
    }

    #[test]
    fn what_stands_before_the_records_stays_there() {
        let mut aborting = partition(records(8_000));
        let aborted = |producer_id| {
            message!(AbortedTransaction {
                producer_id: producer_id,
                first_offset: 4
            })
        };
        aborting.aborted_transactions = Some((0..200).map(aborted).collect());
        let mut not_committed = partition(records(8_000));
        not_committed.aborted_transactions = None;
        let mut elsewhere = partition(records(8_000));
        elsewhere.preferred_read_replica = 1;
        let mut failed = partition(records(8_000));
        failed.error_code = 2;
        for data in [aborting, not_committed, elsewhere, failed] {
            assert_eq!(check(&answer(vec![vec![data.clone()], vec![data]])), 5);
        }
    }

    #[test]
    fn a_partition_with_tagged_fields_is_encoded_with_its_records() {
        let [mut diverging, mut led, mut snapshot, mut unknown] =
            [(); 4].map(|()| partition(records(8_000)));
        diverging.diverging_epoch = message!(EpochEndOffset {
            epoch: 1,
            end_offset: 2
        });
        led.current_leader = message!(LeaderIdAndEpoch {
            leader_id: 1,
            leader_epoch: 2
        });
        snapshot.snapshot_id = message!(SnapshotId {
            end_offset: 1,
            epoch: 2
        });
        unknown.unknown_tagged_fields = tagged();
        for data in [diverging, led, snapshot, unknown] {
            assert_eq!(check(&answer(vec![vec![data.clone()]])), 1);
            let beside = vec![partition(records(8_000)), data];
            assert_eq!(check(&answer(vec![beside])), 3);
        }
    }

    #[test]
    fn tagged_fields_of_the_layers_above_are_not_lost() {
        let mut of_topic = answer(vec![vec![partition(records(8_000))]]);
        of_topic
            .responses
            .first_mut()
            .unwrap()
            .unknown_tagged_fields = tagged();
        assert_eq!(check(&of_topic), 3);
        let mut of_answer = answer(vec![vec![partition(records(8_000))]]);
        of_answer.unknown_tagged_fields = tagged();
        assert_eq!(check(&of_answer), 1);
        let mut with_endpoints = answer(vec![vec![partition(records(8_000))]]);
        with_endpoints.node_endpoints = vec![message!(NodeEndpoint {
            node_id: 1,
            host: "h".into(),
            port: 9
        })];
        assert_eq!(check(&with_endpoints), 1);
    }
}
