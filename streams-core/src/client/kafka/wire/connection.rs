//! One connection to one broker: frames out and in, in order.
//!
//! A task owns the socket. Requests are written as they come and answered in order, as Kafka promises, so the queue of who waits for an
//! answer is all there is to remember. A request that times out ends the connection: nobody could tell which answer came late.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use kafka_wire::{
    ApiVersionsRequest, ApiVersionsResponse, OutboundFrameLimits, RequestResponsePair,
    ResponseHeader,
};
use kafka_wire_core::{ApiVersion, DecodeLimits, Decoder, KafkaDecode, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::error_code;
use crate::client::{ClientError, ClientErrorKind};

/// Largest frame in either direction. A broker that announces more is not one, or is broken: the connection ends before a byte of it
/// is stored.
const FRAME_BYTES_MAX: usize = 100 * 1024 * 1024;

/// Requests written and not yet answered; further callers wait.
const IN_FLIGHT_MAX: usize = 64;

struct Outgoing {
    correlation_id: i32,
    frame: BytesMut,
    reply: oneshot::Sender<Result<Bytes, String>>,
}

/// A connection whose broker has told which versions it serves.
pub(super) struct Connection {
    address: String,
    client_id: StrBytes,
    outgoing: mpsc::Sender<Outgoing>,
    task: AbortHandle,
    next_correlation_id: AtomicI32,
    versions: HashMap<i16, (i16, i16)>,
}

impl Connection {
    /// Connects and asks for versions.
    pub(super) async fn open(
        address: &str,
        client_id: &str,
        patience: Duration,
    ) -> Result<Self, ClientError> {
        let stream = timeout(patience, TcpStream::connect(address))
            .await
            .map_err(|_| {
                ClientError::new(
                    ClientErrorKind::Retriable,
                    format_args!("broker {address}: no connection within {patience:?}"),
                )
            })?
            .map_err(|error| {
                ClientError::new(
                    ClientErrorKind::Retriable,
                    format_args!("broker {address}: {error}"),
                )
            })?;
        // Small requests that wait for their answers: nothing to coalesce. A failure costs latency only.
        let _ = stream.set_nodelay(true);
        let (outgoing, requests) = mpsc::channel(IN_FLIGHT_MAX);
        let task = tokio::spawn(serve(stream, requests)).abort_handle();
        let mut connection = Self {
            address: address.to_owned(),
            client_id: StrBytes::from(client_id),
            outgoing,
            task,
            next_correlation_id: AtomicI32::new(0),
            versions: HashMap::new(),
        };
        connection.versions = connection.ask_versions(patience).await?;
        Ok(connection)
    }

    /// Whether requests can still be sent.
    pub(super) fn is_open(&self) -> bool {
        !self.outgoing.is_closed()
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The highest version of `R` that both sides know, not above `version_max` (where a later one names topics by id only).
    pub(super) fn version<R: RequestResponsePair>(
        &self,
        version_max: i16,
    ) -> Result<ApiVersion, ClientError> {
        let ours = R::API_DESCRIPTOR.supported_versions;
        let highest = R::API_DESCRIPTOR
            .latest_stable_version()
            .map_or(ours.min().value(), ApiVersion::value)
            .min(version_max);
        let theirs = self.versions.get(&R::API_KEY.value()).copied();
        theirs
            .map(|(min, max)| (min.max(ours.min().value()), max.min(highest)))
            .filter(|(min, max)| min <= max)
            .map(|(_, max)| ApiVersion::new(max))
            .ok_or_else(|| {
                let theirs = theirs
                    .map_or_else(|| "none".to_owned(), |(min, max)| format!("{min} to {max}"));
                ClientError::new(
                    ClientErrorKind::Fatal,
                    format_args!(
                        "broker {}: serves of {} versions {theirs}, want one of {} to {highest}",
                        self.address,
                        R::NAME,
                        ours.min()
                    ),
                )
            })
    }

    /// Whether the broker serves `R` at all.
    pub(super) fn serves<R: RequestResponsePair>(&self) -> bool {
        self.version::<R>(i16::MAX).is_ok()
    }

    /// Sends one request in a version and waits for its answer.
    pub(super) async fn call<R: RequestResponsePair>(
        &self,
        request: &R,
        version: ApiVersion,
        patience: Duration,
    ) -> Result<R::Response, ClientError> {
        let (header_version, frame) = self.exchange(request, version, patience).await?;
        let malformed = |error: kafka_wire_core::DecodeError| {
            ClientError::new(
                ClientErrorKind::Retriable,
                format_args!(
                    "broker {}: answer to {} is malformed: {error}",
                    self.address,
                    R::NAME
                ),
            )
        };
        let decoded = decode::<R>(frame, header_version, version);
        if decoded.is_err() {
            // What follows cannot be trusted either.
            self.task.abort();
        }
        decoded.map_err(malformed)
    }

    async fn exchange<R: RequestResponsePair>(
        &self,
        request: &R,
        version: ApiVersion,
        patience: Duration,
    ) -> Result<(i16, Bytes), ClientError> {
        let correlation_id = self.next_correlation_id.fetch_add(1, Ordering::Relaxed);
        let mut frame = BytesMut::new();
        let limits = OutboundFrameLimits::new(FRAME_BYTES_MAX);
        let unwritable = |error: kafka_wire_core::EncodeError| {
            let kind = ClientErrorKind::Fatal;
            ClientError::new(kind, format_args!("{} v{version}: {error}", R::NAME))
        };
        kafka_wire::encode_request(
            &mut frame,
            correlation_id,
            Some(self.client_id.clone()),
            request,
            version,
            limits,
        )
        .map_err(unwritable)?;
        let header_version =
            kafka_wire::response_header_version_for::<R>(version).map_err(unwritable)?;

        let lost = |reason: &str| {
            ClientError::new(
                ClientErrorKind::Retriable,
                format_args!(
                    "broker {}: {} not answered: {reason}",
                    self.address,
                    R::NAME
                ),
            )
        };
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.outgoing
                .send(Outgoing {
                    correlation_id,
                    frame,
                    reply,
                })
                .await
                .map_err(|_| lost("the connection is closed"))?;
            match answer.await {
                Ok(Ok(frame)) => Ok(frame),
                Ok(Err(reason)) => Err(lost(&reason)),
                Err(_) => Err(lost("the connection was closed")),
            }
        };
        match timeout(patience, exchange).await {
            Ok(frame) => Ok((header_version, frame?)),
            Err(_) => {
                self.task.abort();
                Err(lost(&format!("no answer within {patience:?}")))
            }
        }
    }

    async fn ask_versions(
        &self,
        patience: Duration,
    ) -> Result<HashMap<i16, (i16, i16)>, ClientError> {
        let mut request = ApiVersionsRequest::default();
        request.client_software_name = StrBytes::from("brooklet");
        request.client_software_version = StrBytes::from(env!("CARGO_PKG_VERSION"));
        let mut version = ApiVersion::new(3);
        loop {
            let (header_version, frame) = self.exchange(&request, version, patience).await?;
            // A broker that does not know the version says so in version 0, whatever was asked (KIP-511).
            let code = frame
                .get(4..6)
                .and_then(|code| code.first_chunk::<2>())
                .map_or(error_code::NONE, |code| i16::from_be_bytes(*code));
            if code == error_code::UNSUPPORTED_VERSION && version.value() > 0 {
                version = ApiVersion::new(0);
                request = ApiVersionsRequest::default();
                continue;
            }
            let response: ApiVersionsResponse =
                decode::<ApiVersionsRequest>(frame, header_version, version).map_err(|error| {
                    ClientError::new(
                        ClientErrorKind::Retriable,
                        format_args!(
                            "broker {}: answer to ApiVersions is malformed: {error}",
                            self.address
                        ),
                    )
                })?;
            error_code::check(
                response.error_code,
                format_args!("broker {}: ApiVersions", self.address),
                None,
            )?;
            return Ok(response
                .api_keys
                .iter()
                .map(|api| (api.api_key, (api.min_version, api.max_version)))
                .collect());
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn decode<R: RequestResponsePair>(
    frame: Bytes,
    header_version: i16,
    version: ApiVersion,
) -> Result<R::Response, kafka_wire_core::DecodeError> {
    let mut limits = DecodeLimits::default();
    limits.max_frame_bytes = FRAME_BYTES_MAX;
    let mut decoder = Decoder::new(frame, limits)?;
    ResponseHeader::decode(&mut decoder, ApiVersion::new(header_version))?;
    // Bytes behind the answer are left alone, as Kafka's own clients do (librdkafka's mock broker sends one too many).
    R::Response::decode(&mut decoder, version)
}

/// Owns the socket until it fails or nobody holds the connection. Whoever still waits learns why.
async fn serve(stream: TcpStream, mut requests: mpsc::Receiver<Outgoing>) {
    let (mut reader, mut writer) = stream.into_split();
    let mut waiting: VecDeque<(i32, oneshot::Sender<Result<Bytes, String>>)> = VecDeque::new();
    let mut inbox = BytesMut::new();
    let reason = loop {
        tokio::select! {
            request = requests.recv() => {
                let Some(Outgoing { correlation_id, frame, reply }) = request else { break "nobody holds the connection".to_owned() };
                waiting.push_back((correlation_id, reply));
                if let Err(error) = writer.write_all(&frame).await {
                    break error.to_string();
                }
            }
            read = reader.read_buf(&mut inbox) => match read {
                Ok(0) => break "the broker closed the connection".to_owned(),
                Ok(_) => if let Err(reason) = deliver(&mut inbox, &mut waiting) { break reason },
                Err(error) => break error.to_string(),
            },
        }
    };
    // Closed first, so that nobody queues behind the last answer.
    requests.close();
    for (_, reply) in waiting {
        // Its caller may have gone; nothing to tell then.
        let _ = reply.send(Err(reason.clone()));
    }
}

/// Gives the whole frames of `inbox` to those who wait for them.
fn deliver(
    inbox: &mut BytesMut,
    waiting: &mut VecDeque<(i32, oneshot::Sender<Result<Bytes, String>>)>,
) -> Result<(), String> {
    while let Some(frame) = take_frame(inbox)? {
        let correlation_id = frame.first_chunk::<4>().map(|id| i32::from_be_bytes(*id));
        let Some((expected, reply)) = waiting.pop_front() else {
            return Err("an answer that nobody asked for".to_owned());
        };
        if correlation_id != Some(expected) {
            let reason = format!("answer has correlation id {correlation_id:?}, want {expected}");
            let _ = reply.send(Err(reason.clone()));
            return Err(reason);
        }
        let _ = reply.send(Ok(frame));
    }
    Ok(())
}

/// Takes the first whole frame off `inbox`, without its length.
fn take_frame(inbox: &mut BytesMut) -> Result<Option<Bytes>, String> {
    let Some(length) = inbox.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes(*length);
    let size = usize::try_from(length)
        .ok()
        .filter(|size| (4..=FRAME_BYTES_MAX).contains(size))
        .ok_or_else(|| format!("frame of {length} bytes, want 4 to {FRAME_BYTES_MAX}"))?;
    if inbox.len() - 4 < size {
        // Grows with what arrives, not with what is announced.
        return Ok(None);
    }
    inbox.advance(4);
    Ok(Some(inbox.split_to(size).freeze()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn frames_are_taken_whole_and_in_order() {
        let mut inbox = BytesMut::from(&[0, 0, 0, 4, 1, 2, 3, 4, 0, 0, 0, 5, 5, 6, 7, 8][..]);
        assert_eq!(
            take_frame(&mut inbox).unwrap().as_deref(),
            Some(&[1, 2, 3, 4][..])
        );
        assert_eq!(take_frame(&mut inbox).unwrap(), None);
        inbox.extend_from_slice(&[9]);
        assert_eq!(
            take_frame(&mut inbox).unwrap().as_deref(),
            Some(&[5, 6, 7, 8, 9][..])
        );
        assert!(inbox.is_empty());
    }

    #[test]
    fn a_frame_above_the_bound_or_below_a_header_is_refused_before_it_is_stored() {
        for length in [i32::MAX, 100 * 1024 * 1024 + 1, -1, 0, 3] {
            let mut inbox = BytesMut::from(&length.to_be_bytes()[..]);
            assert!(
                take_frame(&mut inbox)
                    .unwrap_err()
                    .contains(&length.to_string())
            );
        }
    }

    #[test]
    fn an_answer_out_of_order_is_an_error_to_its_caller_and_to_the_connection() {
        let (reply, mut answer) = oneshot::channel();
        let mut waiting = VecDeque::from([(7, reply)]);
        let mut inbox = BytesMut::from(&[0, 0, 0, 4, 0, 0, 0, 8][..]);
        assert!(deliver(&mut inbox, &mut waiting).is_err());
        assert!(answer.try_recv().unwrap().is_err());
        let mut inbox = BytesMut::from(&[0, 0, 0, 4, 0, 0, 0, 8][..]);
        assert!(
            deliver(&mut inbox, &mut VecDeque::new())
                .unwrap_err()
                .contains("nobody asked")
        );
    }
}
