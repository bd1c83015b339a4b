//! Kafka's wire protocol: the only place that knows versions.
//!
//! 1. `framing` cuts a connection's bytes into frames, never allocating ahead of what arrived.
//! 2. `decode` reads the header, looks the API up in the served table (`api`), and decodes the body into one `Request`.
//! 3. `adapt` lifts old shapes of a request into the newest one, so a handler sees one struct a message.
//! 4. The answer comes back as one `Response`; `adapt` lowers it to what its version can carry, and `encode` frames it.
//!
//! Record bytes of Produce and Fetch pass through untouched: those of a Fetch are sent from where they are, in memory or in a file (`fetch_frame`,
//! `pieces`).

pub mod api;
pub mod compression;
pub mod error_code;
pub mod features;
pub mod framing;
pub mod record_batch;

mod adapt;
mod consumer_protocol;
mod fetch_frame;
mod pieces;

pub use api::{Api, ApiRequest, Request, Response};
pub(crate) use consumer_protocol::{
    ConsumerSubscription, consumer_assignment, consumer_subscription, encode_consumer_assignment,
};
pub use error_code::ErrorCode;
pub use fetch_frame::StoredFetch;
pub use pieces::Pieces;

use bytes::{Bytes, BytesMut};
use kafka_wire::{RequestHeader, request_header_version, response_header_version};
pub(crate) use kafka_wire_core::StrBytes;
use kafka_wire_core::{
    ApiKey, ApiVersion, DecodeLimits, Decoder, Encoder, KafkaDecode, KafkaEncode,
};

/// Builds a wire message from its defaults and the fields that are named.
///
/// The generated structs are non-exhaustive (a newer Kafka adds fields), so a struct literal is not possible.
macro_rules! message {
    ($ty:ty { $($field:ident : $value:expr),* $(,)? }) => {{
        #[allow(unused_mut, reason = "a message may be all defaults")]
        let mut value = <$ty>::default();
        $(value.$field = $value;)*
        value
    }};
}
pub(crate) use message;

/// What a request's version says about the client, in terms that a handler can act on.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// The client's own name for itself, from the request header; empty when it gave none.
    pub client_id: String,
    /// The client's address, without the port, as Kafka shows it in group descriptions.
    pub client_host: String,
    /// JoinGroup v4+: a new member must come back with the id it is given (KIP-394).
    pub member_id_required: bool,
    /// JoinGroup v9+: the client understands that a leader need not assign (KIP-814).
    pub may_skip_assignment: bool,
    /// ConsumerGroupHeartbeat v1+: the client chooses its member id.
    pub member_id_by_client: bool,
    /// Fetch and Produce v13+, OffsetCommit and OffsetFetch v10+: topics are named by id only.
    pub topics_by_id: bool,
    /// OffsetCommit v9+: the client knows member epochs, and that a group may not be there.
    pub knows_member_epochs: bool,
    /// 2 if the client bumps its epoch with each transaction and leaves it to the broker to add partitions (KIP-890): Produce v12+,
    /// AddPartitionsToTxn v4+, EndTxn v5+, TxnOffsetCommit v5+. Else 0.
    pub transaction_version: i16,
    /// The client knows that after TRANSACTION_ABORTABLE (120) it has to abort.
    pub knows_abortable: bool,
    /// The answer to a Fetch may leave records where they are, as `Response::StoredFetch`: they are only sent on.
    pub records_may_stay: bool,
    /// CreateTopics v4+: -1 partitions or replicas mean the broker's default.
    pub counts_may_default: bool,
}

impl RequestContext {
    /// The context of a caller inside the process: it speaks the newest versions.
    pub fn in_process(client_id: &str) -> Self {
        Self {
            client_id: client_id.to_owned(),
            client_host: "in-process".to_owned(),
            member_id_required: true,
            may_skip_assignment: true,
            member_id_by_client: true,
            topics_by_id: false,
            knows_member_epochs: true,
            transaction_version: 2,
            knows_abortable: true,
            records_may_stay: false,
            counts_may_default: true,
        }
    }
}

/// A request as it came from a connection.
#[derive(Debug)]
pub struct Incoming {
    /// The request, in its newest shape.
    pub request: Request,
    /// What its version and header say about the client.
    pub context: RequestContext,
    /// How its answer has to be framed.
    pub reply: ReplyFrame,
}

/// How to frame the answer to one request.
#[derive(Debug, Clone, Copy)]
pub struct ReplyFrame {
    api: &'static Api,
    version: i16,
    correlation_id: i32,
}

/// What a frame turned out to hold.
#[derive(Debug)]
pub enum Decoded {
    /// A request to be handled.
    Request(Box<Incoming>),
    /// Something the protocol itself answers: the framed bytes to send. Today that is ApiVersions in a version that is not
    /// served, which Kafka answers in version 0 with error 35 and the served table, so that the client can ask again.
    Answer(Pieces),
}

/// Why a frame closes its connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length prefix is negative or beyond `socket.request.max.bytes`.
    #[error("frame of {length} bytes, allowed are 0 to {length_max}")]
    Length {
        /// What the prefix said.
        length: i64,
        /// The largest length accepted.
        length_max: usize,
    },
    /// The frame is too short to hold a request header.
    #[error("frame of {length} bytes holds no request header")]
    NoHeader {
        /// Bytes in the frame.
        length: usize,
    },
    /// The API key is not served.
    #[error("api key {key} is not served")]
    UnknownApi {
        /// The key in the header.
        key: i16,
    },
    /// The version of a served API is not served.
    #[error("{api} version {version} is not served, only {min} to {max}")]
    UnsupportedVersion {
        /// Name of the API.
        api: &'static str,
        /// The version in the header.
        version: i16,
        /// Lowest version served.
        min: i16,
        /// Highest version served.
        max: i16,
    },
    /// The header or the body does not decode.
    #[error("{api} version {version} does not decode: {reason}")]
    Malformed {
        /// Name of the API.
        api: &'static str,
        /// The version in the header.
        version: i16,
        /// What the decoder found.
        reason: String,
    },
    /// The answer cannot be written in the version that was asked. A bug of ours, reported and survived.
    #[error("answer to {api} version {version} does not encode: {reason}")]
    Unencodable {
        /// Name of the API.
        api: &'static str,
        /// The version asked for.
        version: i16,
        /// What the encoder found.
        reason: String,
    },
}

fn limits(frame_bytes: usize) -> DecodeLimits {
    let mut limits = DecodeLimits::default();
    // Nothing inside a frame can be longer than the frame, which is bounded already.
    limits.max_frame_bytes = frame_bytes;
    limits.max_bytes_bytes = frame_bytes;
    // An element of two bytes can become a hundred in memory, so their number is bounded too: no list of ours is longer than a topic
    // has partitions.
    limits.max_array_elements = crate::metadata::PARTITIONS_MAX as usize;
    limits
}

/// Decodes one frame (without its length prefix).
pub fn decode(frame: Bytes, client_host: &str) -> Result<Decoded, FrameError> {
    let length = frame.len();
    let (Some(key), Some(version), Some(correlation_id)) =
        (be_i16(&frame, 0), be_i16(&frame, 2), be_i32(&frame, 4))
    else {
        return Err(FrameError::NoHeader { length });
    };
    let Some(api) = api::find(key) else {
        return Err(FrameError::UnknownApi { key });
    };
    if !api.serves(version) {
        if key == api::API_VERSIONS {
            let reply = ReplyFrame {
                api,
                version: 0,
                correlation_id,
            };
            let mut answer = api::served_answer();
            answer.error_code = ErrorCode::UnsupportedVersion.code();
            return Ok(Decoded::Answer(encode(
                &reply,
                Response::ApiVersions(answer),
            )?));
        }
        return Err(FrameError::UnsupportedVersion {
            api: api.name,
            version,
            min: api.min,
            max: api.max,
        });
    }
    let malformed = |error: kafka_wire_core::DecodeError| FrameError::Malformed {
        api: api.name,
        version,
        reason: error.to_string(),
    };
    let mut decoder = Decoder::new(frame, limits(length)).map_err(malformed)?;
    let header_version = request_header_version(api.is_flexible(version));
    let header =
        RequestHeader::decode(&mut decoder, ApiVersion::new(header_version)).map_err(malformed)?;
    let mut request =
        Request::decode(api, &mut decoder, ApiVersion::new(version)).map_err(malformed)?;
    // Bytes after the body are ignored, as by Kafka: librdkafka 2.12 leaves three behind when it asks for the metadata of all topics.
    adapt::lift(&mut request, version);
    let context = RequestContext {
        client_id: header
            .client_id
            .map(|id| id.as_str().to_owned())
            .unwrap_or_default(),
        client_host: client_host.to_owned(),
        member_id_required: version >= 4,
        transaction_version: api::transaction_version(key, version),
        knows_abortable: api::knows_abortable(key, version),
        may_skip_assignment: version >= 9,
        member_id_by_client: version >= 1,
        topics_by_id: match key {
            api::PRODUCE | api::FETCH => version >= 13,
            api::OFFSET_COMMIT | api::OFFSET_FETCH => version >= 10,
            _ => false,
        },
        knows_member_epochs: version >= 9,
        records_may_stay: true,
        counts_may_default: version >= 4,
    };
    let reply = ReplyFrame {
        api,
        version,
        correlation_id,
    };
    Ok(Decoded::Request(Box::new(Incoming {
        request,
        context,
        reply,
    })))
}

/// Frames one answer, length prefix included.
pub fn encode(reply: &ReplyFrame, mut response: Response) -> Result<Pieces, FrameError> {
    let ReplyFrame {
        api,
        version,
        correlation_id,
    } = *reply;
    let unencodable = |error: kafka_wire_core::EncodeError| FrameError::Unencodable {
        api: api.name,
        version,
        reason: error.to_string(),
    };
    adapt::lower(&mut response, version);
    let wire_version = ApiVersion::new(version);
    let flexible = api.is_flexible(version);
    let header_version = response_header_version(ApiKey::new(api.key), wire_version, flexible);
    let header_bytes = if header_version > 0 { 5 } else { 4 };
    let start = |buffer: &mut BytesMut, body_bytes: usize| {
        let length = i32::try_from(header_bytes + body_bytes).map_err(|_| FrameError::Length {
            length: (header_bytes + body_bytes) as i64,
            length_max: i32::MAX as usize,
        })?;
        buffer.extend_from_slice(&length.to_be_bytes());
        buffer.extend_from_slice(&correlation_id.to_be_bytes());
        if header_version > 0 {
            // No tagged fields.
            buffer.extend_from_slice(&[0]);
        }
        Ok::<_, FrameError>(())
    };
    let mut buffer = BytesMut::new();
    if let Response::StoredFetch(answer) = response {
        let mut pieces = fetch_frame::encode(answer, version).map_err(unencodable)?;
        start(&mut buffer, pieces.left_bytes())?;
        pieces.push_front(buffer.freeze());
        return Ok(pieces);
    }
    let body_bytes = response.encoded_len(wire_version).map_err(unencodable)?;
    buffer.reserve(4 + header_bytes + body_bytes);
    start(&mut buffer, body_bytes)?;
    response
        .encode_into(&mut buffer, wire_version)
        .map_err(unencodable)?;
    Ok(buffer.freeze().into())
}

fn be_i16(bytes: &[u8], at: usize) -> Option<i16> {
    Some(i16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn be_i32(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// An id as it stands in a message.
pub(crate) fn wire_id(id: uuid::Uuid) -> kafka_wire_core::Uuid {
    kafka_wire_core::Uuid::from_bytes(id.into_bytes())
}

/// An id of a message.
pub(crate) fn id_of(id: kafka_wire_core::Uuid) -> uuid::Uuid {
    uuid::Uuid::from_bytes(id.to_bytes())
}

/// Topics in a member's metadata of the consumer protocol; `None` if it is not that.
pub(crate) fn subscribed_topics(metadata: &Bytes) -> Option<Vec<String>> {
    let (_, subscription) =
        kafka_wire::decode_consumer_protocol_subscription(metadata.clone(), limits(metadata.len()))
            .ok()?;
    Some(
        subscription
            .topics
            .iter()
            .map(|topic| topic.as_str().to_owned())
            .collect(),
    )
}

/// Encodes a request as a client would: for tests, and for tools that speak to a broker.
pub fn encode_request(
    request: &Request,
    version: i16,
    correlation_id: i32,
    client_id: &str,
) -> Result<Bytes, FrameError> {
    let api = request.api();
    let unencodable = |error: kafka_wire_core::EncodeError| FrameError::Unencodable {
        api: api.name,
        version,
        reason: error.to_string(),
    };
    let header = message!(RequestHeader {
        request_api_key: api.key,
        request_api_version: version,
        correlation_id: correlation_id,
        client_id: Some(client_id.into()),
    });
    let mut buffer = BytesMut::new();
    buffer.extend_from_slice(&[0; 4]);
    let header_version = ApiVersion::new(request_header_version(api.is_flexible(version)));
    let mut encoder = Encoder::new(&mut buffer);
    header
        .encode(&mut encoder, header_version)
        .map_err(unencodable)?;
    request
        .encode_into(&mut buffer, ApiVersion::new(version))
        .map_err(unencodable)?;
    let length = (buffer.len() - 4) as i32;
    if let Some(prefix) = buffer.get_mut(..4) {
        prefix.copy_from_slice(&length.to_be_bytes());
    }
    Ok(buffer.freeze())
}

#[cfg(test)]
mod tests;
