//! The body of a Fetch answer, whose records are not copied.
//!
//! The generated code encodes into one buffer, records included, which for a consumer that reads old data is a copy of everything. So records may
//! stand beside an answer, in pieces, in memory or in a file. The layers above a partition are written here, field by field; the generated
//! code encodes each partition as if it had no records; and these are put in their place.
//!
//! 1. Records are a partition's last field. Behind them come, from v12 on, its tagged fields: if there are none, one zero byte.
//! 2. So the encoding of a partition without records ends with their empty length and that byte. It is cut off there, and the length, the
//!    records and the byte are written instead.
//! 3. A partition that has tagged fields has no records: it tells of an error.

use bytes::{Bytes, BytesMut};
use kafka_wire::FetchResponse;
use kafka_wire::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_wire_core::{ApiVersion, EncodeError, Encoder, KafkaEncode};

use super::pieces::Pieces;
use crate::disk::Piece;

/// Fewer bytes in memory are copied: a piece costs more.
const PIECE_BYTES_MIN: usize = 4 * 1024;

/// First version with tagged fields and compact lengths.
const FLEXIBLE_SINCE: i16 = 12;
/// First version that names topics by id.
const IDS_SINCE: i16 = 13;
/// First version that tells an error of the whole request, and a session.
const SESSIONS_SINCE: i16 = 7;

/// A Fetch answer with records beside it, where they are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StoredFetch {
    /// The answer. Where a partition's `records` are `None`, they are the next of those beside it.
    pub response: FetchResponse,
    /// Whole batches of one partition after the other.
    pub records: Vec<Vec<Piece>>,
}

impl StoredFetch {
    /// Bytes of records that are in memory for it.
    pub fn held_bytes(&self) -> usize {
        self.records.iter().flatten().map(Piece::held_bytes).sum()
    }
}

/// The body of an answer.
pub(super) fn encode(answer: StoredFetch, version: i16) -> Result<Pieces, EncodeError> {
    let StoredFetch {
        mut response,
        records,
    } = answer;
    assert!(
        response.node_endpoints.is_empty() && response.unknown_tagged_fields.is_empty(),
        "an answer to Fetch has no tagged fields"
    );
    let mut body = Body {
        buffer: BytesMut::new(),
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
    let mut records = records.into_iter();
    for topic in &mut response.responses {
        body.write_topic(topic, &mut records)?;
    }
    assert_eq!(records.len(), 0, "records without their partition");
    if body.is_flexible {
        body.buffer.extend_from_slice(&[0]);
    }
    body.end_piece();
    Ok(body.pieces)
}

struct Body {
    /// Behind the last piece.
    buffer: BytesMut,
    pieces: Pieces,
    version: i16,
    is_flexible: bool,
}

impl Body {
    fn write_topic(
        &mut self,
        topic: &mut FetchableTopicResponse,
        records: &mut std::vec::IntoIter<Vec<Piece>>,
    ) -> Result<(), EncodeError> {
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
            if data.records.is_none() {
                data.records = Some(Bytes::new());
                let records = records.next().unwrap_or_default();
                self.write_stored(data, records)?;
            } else {
                data.encode_into(&mut self.buffer, ApiVersion::new(self.version))?;
            }
        }
        if self.is_flexible {
            Encoder::new(&mut self.buffer).write_tagged_fields(&topic.unknown_tagged_fields)?;
        }
        Ok(())
    }

    /// A partition whose records stand beside it, with them.
    fn write_stored(
        &mut self,
        data: &PartitionData,
        records: Vec<Piece>,
    ) -> Result<(), EncodeError> {
        assert!(
            data.diverging_epoch == Default::default()
                && data.current_leader == Default::default()
                && data.snapshot_id == Default::default()
                && data.unknown_tagged_fields.is_empty(),
            "a partition with records has no tagged fields"
        );
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
        let length = records.iter().map(Piece::size_bytes).sum();
        let too_long = EncodeError::LengthOverflow {
            kind: "records",
            length,
            maximum: i32::MAX as usize,
        };
        let length = i32::try_from(length).map_err(|_| too_long)?;
        let mut encoder = Encoder::new(&mut self.buffer);
        if self.is_flexible {
            encoder.write_unsigned_varint(length.cast_unsigned() + 1)?;
        } else {
            encoder.write_i32(length)?;
        }
        for piece in records {
            match piece {
                Piece::Memory(bytes) if bytes.len() < PIECE_BYTES_MIN => {
                    self.buffer.extend_from_slice(&bytes);
                }
                piece => {
                    self.end_piece();
                    self.pieces.push(piece);
                }
            }
        }
        self.buffer.extend_from_slice(tags);
        Ok(())
    }

    fn end_piece(&mut self) {
        let piece = self.buffer.split().freeze();
        self.pieces.push(Piece::Memory(piece));
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
    use std::path::Path;

    use kafka_wire::fetch_response::{AbortedTransaction, EpochEndOffset};
    use kafka_wire_core::{TaggedField, TaggedFields};

    use super::*;
    use crate::disk::{Disk, FileRange, SimDisk};
    use crate::protocol::{ReplyFrame, Response, adapt, api, message};

    /// Records of so many bytes, none like its neighbour.
    fn records(count: usize) -> Bytes {
        (0..count).map(|at| (at % 251) as u8).collect()
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

    /// A partition, and its records if they stand beside it.
    type Part = (PartitionData, Option<Vec<Piece>>);

    fn beside(pieces: Vec<Piece>) -> Part {
        (partition(None), Some(pieces))
    }

    fn memory(bytes: usize) -> Part {
        beside(vec![Piece::Memory(records(bytes))])
    }

    fn file(size_bytes: usize) -> Piece {
        let file = SimDisk::default().open_or_create(Path::new("/file"));
        let file = file.unwrap();
        file.write_all_at(3, &records(size_bytes)).unwrap();
        Piece::File(FileRange {
            file,
            position: 3,
            size_bytes,
        })
    }

    fn inside(records: Bytes) -> Part {
        (partition(Some(records)), None)
    }

    fn answer(topics: Vec<Vec<Part>>) -> StoredFetch {
        let mut records = Vec::new();
        let topics = topics.into_iter().enumerate().map(|(index, parts)| {
            let parts = parts.into_iter().map(|(data, beside)| {
                records.extend(beside);
                data
            });
            message!(FetchableTopicResponse {
                topic: format!("topic-{index}").as_str().into(),
                topic_id: crate::protocol::wire_id(uuid::Uuid::from_u128(index as u128 + 1)),
                partitions: parts.collect(),
            })
        });
        let response = message!(FetchResponse {
            throttle_time_ms: 5,
            session_id: 77,
            responses: topics.collect(),
        });
        StoredFetch { response, records }
    }

    /// The frame as pieces is the frame as the generated code writes it with the records inside, in every version that carries it. Returns
    /// the sizes of the pieces in the newest, without the first, the frame's header.
    fn check(answer: &StoredFetch) -> Vec<usize> {
        let api = api::find(api::FETCH).unwrap();
        let mut whole = answer.response.clone();
        let mut beside = answer.records.iter();
        let parts = whole
            .responses
            .iter_mut()
            .flat_map(|topic| &mut topic.partitions);
        for data in parts.filter(|data| data.records.is_none()) {
            let mut pieces = Pieces::default();
            for piece in beside.next().unwrap() {
                pieces.push(piece.clone());
            }
            data.records = Some(pieces.read_all().unwrap().into());
        }
        let mut sizes = Vec::new();
        for version in api.min..=api.max {
            let mut plain: Response = whole.clone().into();
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
            let frame = crate::protocol::encode(&reply, Response::StoredFetch(answer.clone()));
            let mut left = frame.unwrap();
            let mut frame = BytesMut::new();
            frame.extend_from_slice(&[0; 4]);
            frame.extend_from_slice(&[0, 0, 0, 6]);
            if version >= FLEXIBLE_SINCE {
                frame.extend_from_slice(&[0]);
            }
            frame.extend_from_slice(&expected);
            let length = (frame.len() - 4) as u32;
            frame
                .get_mut(..4)
                .unwrap()
                .copy_from_slice(&length.to_be_bytes());
            sizes.clear();
            let mut found = Vec::new();
            while let Some(piece) = left.front() {
                let mut one = Pieces::default();
                one.push(piece.clone());
                sizes.push(piece.size_bytes());
                left.advance(piece.size_bytes());
                found.extend(one.read_all().unwrap());
            }
            assert!(found == frame, "version {version}");
        }
        sizes.remove(0);
        sizes
    }

    #[test]
    fn records_are_pieces_between_what_is_encoded() {
        let count = |topics| check(&answer(topics)).len();
        assert_eq!(count(vec![vec![memory(PIECE_BYTES_MIN)]]), 3);
        assert_eq!(count(vec![vec![memory(20_000), memory(5_000)]]), 5);
        assert_eq!(count(vec![vec![memory(70_000)], vec![memory(1 << 21)]]), 5);
        let among_others = vec![
            vec![
                inside(Bytes::new()),
                memory(9_000),
                inside(records(PIECE_BYTES_MIN)),
            ],
            vec![],
            vec![memory(1), memory(PIECE_BYTES_MIN - 1)],
        ];
        assert_eq!(count(among_others), 3);
    }

    #[test]
    fn records_of_a_file_stay_there_however_few() {
        let answer = answer(vec![vec![
            beside(vec![file(17)]),
            beside(vec![file(70_000), file(2)]),
        ]]);
        assert_eq!(answer.held_bytes(), 0);
        let sizes = check(&answer);
        assert_eq!(sizes.len(), 6);
        let of_files = [1, 3, 4].map(|at| sizes.get(at).copied());
        assert_eq!(of_files, [Some(17), Some(70_000), Some(2)]);
    }

    #[test]
    fn small_batches_of_one_partition_are_copied_together() {
        let mut batches: Vec<_> = (0..200).map(|_| Piece::Memory(records(100))).collect();
        batches.push(Piece::Memory(records(PIECE_BYTES_MIN)));
        batches.push(Piece::Memory(records(100)));
        let answer = answer(vec![vec![beside(batches)]]);
        assert_eq!(answer.held_bytes(), 20_100 + PIECE_BYTES_MIN);
        let sizes = check(&answer);
        assert_eq!(sizes.len(), 3);
        assert_eq!(sizes.get(1), Some(&PIECE_BYTES_MIN));
    }

    #[test]
    fn without_records_beside_it_there_is_one_piece() {
        for topics in [
            vec![],
            vec![vec![]],
            vec![vec![inside(Bytes::new())], vec![inside(records(9_000))]],
            vec![vec![memory(PIECE_BYTES_MIN - 1)]],
        ] {
            assert_eq!(check(&answer(topics)).len(), 1);
        }
        let refused = StoredFetch {
            response: message!(FetchResponse { error_code: 70 }),
            records: Vec::new(),
        };
        assert_eq!(check(&refused).len(), 1);
    }

    #[test]
    fn what_stands_before_the_records_stays_there() {
        let mut aborting = partition(None);
        let aborted = |producer_id| {
            message!(AbortedTransaction {
                producer_id: producer_id,
                first_offset: 4
            })
        };
        aborting.aborted_transactions = Some((0..200).map(aborted).collect());
        let mut not_committed = partition(None);
        not_committed.aborted_transactions = None;
        let mut elsewhere = partition(None);
        elsewhere.preferred_read_replica = 1;
        let mut failed = partition(None);
        failed.error_code = 2;
        for data in [aborting, not_committed, elsewhere, failed] {
            let part = || (data.clone(), Some(vec![Piece::Memory(records(8_000))]));
            assert_eq!(check(&answer(vec![vec![part(), part()]])).len(), 5);
        }
    }

    #[test]
    fn tagged_fields_of_others_are_not_lost() {
        let mut diverging = partition(Some(Bytes::new()));
        diverging.diverging_epoch = message!(EpochEndOffset {
            epoch: 1,
            end_offset: 2
        });
        let mut answer = answer(vec![vec![memory(8_000), (diverging, None)]]);
        assert_eq!(check(&answer).len(), 3);
        let tag = TaggedField::new(99, Bytes::from_static(b"tag"));
        answer
            .response
            .responses
            .first_mut()
            .unwrap()
            .unknown_tagged_fields = TaggedFields::from_sorted(vec![tag]).unwrap();
        assert_eq!(check(&answer).len(), 3);
    }
}
