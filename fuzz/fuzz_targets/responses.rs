//! A broker that may answer anything: every answer that Brooklet's own client reads (streams-core, `client/kafka/wire`), in every version, by the
//! decoder and the limit that it uses. (That crate itself is not linked here: librdkafka's configure does not survive a sanitizer's environment.)
#![no_main]

use brooklet_fuzz::in_proportion;
use bytes::Bytes;
use kafka_wire::{KafkaMessage, RequestResponsePair};
use kafka_wire_core::{ApiVersion, DecodeLimits, Decoder, KafkaDecode};
use libfuzzer_sys::fuzz_target;

/// As there.
const FRAME_BYTES_MAX: usize = 64 << 20;

fn decode<R: RequestResponsePair + KafkaMessage>(version: u8, frame: Bytes) {
    let (min, max) = (R::SUPPORTED_VERSIONS.min().value(), R::SUPPORTED_VERSIONS.max().value());
    let version = ApiVersion::new(min + i16::from(version) % (max - min + 1));
    let mut limits = DecodeLimits::default();
    limits.max_frame_bytes = FRAME_BYTES_MAX;
    if let Ok(mut decoder) = Decoder::new(frame, limits)
        && kafka_wire::ResponseHeader::decode(&mut decoder, ApiVersion::new(i16::from(R::is_flexible(version)))).is_ok()
    {
        // What it finds does not matter, only that it comes to an end.
        let _ = R::Response::decode(&mut decoder, version);
    }
}

macro_rules! decoders {
    ($($request:ident),* $(,)?) => { &[$(decode::<kafka_wire::$request> as fn(u8, Bytes)),*] };
}

const DECODERS: &[fn(u8, Bytes)] = decoders![
    ApiVersionsRequest,
    ConsumerGroupDescribeRequest,
    CreateTopicsRequest,
    DeleteRecordsRequest,
    DeleteTopicsRequest,
    DescribeConfigsRequest,
    DescribeGroupsRequest,
    FindCoordinatorRequest,
    HeartbeatRequest,
    JoinGroupRequest,
    LeaveGroupRequest,
    ListGroupsRequest,
    ListOffsetsRequest,
    MetadataRequest,
    OffsetCommitRequest,
    OffsetFetchRequest,
    SyncGroupRequest,
];

fuzz_target!(|input: (u8, u8, Vec<u8>)| {
    let (api, version, frame) = input;
    let decoder = DECODERS[usize::from(api) % DECODERS.len()];
    in_proportion(frame.len(), "response", || decoder(version, Bytes::from(frame.clone())));
});
