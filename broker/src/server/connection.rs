//! One connection: frames in, answers out in the order of the requests.
//!
//! 1. The reading half cuts frames, decodes them and hands each to its handler in order; the place of its answer goes into a queue.
//! 2. The writing half takes the places in order and writes each answer when it is there.
//!
//! Both are bounded. At most `PIPELINE_MAX` answers are owed and `IN_FLIGHT_BYTES_MAX` request bytes are unanswered; beyond that nothing is
//! read. A request whose answer can be large starts only when the answers before it are written, so a client that asks and does not
//! read holds one answer, and its own connection only. What all connections hold together is bounded by `limits`. An answer holds the records that
//! are in memory for it; of those in a file, its handle (`sending`).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::limits::{AnswerBytes, Limits, RequestBytes, SMALL_FRAME_BYTES};
use super::sending::{Outlet, Socket};
use crate::broker::Broker;
use crate::protocol::framing::FrameCutter;
use crate::protocol::{self, Decoded, FrameError, Pieces, ReplyFrame, Request, Response};

/// Answers owed to one connection.
const PIPELINE_MAX: usize = 64;

/// Request bytes of one connection that are not answered.
const IN_FLIGHT_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("bad frame: {0}")]
    Frame(#[from] FrameError),
    #[error("closed in the middle of a frame, {0} bytes in")]
    Torn(usize),
    #[error("silent for {0} ms")]
    Idle(i64),
    #[error("stopped for {0:?} in the middle of a request of {1} bytes")]
    Stalled(Duration, usize),
    #[error("took nothing for {0:?} while answers hold all the memory they may")]
    Slow(Duration),
}

/// The place of an answer in the queue.
struct Owed {
    answer: Pending,
    request_bytes: usize,
    /// Given back when the answer is written.
    _share: Option<RequestBytes>,
}

enum Pending {
    /// Encoded already.
    Encoded(Pieces),
    Response(
        ReplyFrame,
        oneshot::Receiver<(Response, Option<AnswerBytes>)>,
    ),
}

pub(super) async fn serve(
    broker: Broker,
    limits: Arc<Limits>,
    stream: TcpStream,
    peer: SocketAddr,
    stopped: watch::Receiver<bool>,
) -> Result<(), ConnectionError> {
    let served = exchange(&broker, limits, stream, peer, stopped).await;
    let metrics = broker.metrics();
    match &served {
        Err(ConnectionError::Idle(_) | ConnectionError::Stalled(..) | ConnectionError::Slow(_)) => {
            metrics.connections_expired.fetch_add(1, Ordering::Relaxed);
        }
        Err(ConnectionError::Frame(_)) => {
            metrics.frames_refused.fetch_add(1, Ordering::Relaxed);
        }
        _ => {}
    }
    served
}

async fn exchange(
    broker: &Broker,
    limits: Arc<Limits>,
    stream: TcpStream,
    peer: SocketAddr,
    stopped: watch::Receiver<bool>,
) -> Result<(), ConnectionError> {
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    let (owe, owed) = mpsc::channel(PIPELINE_MAX);
    // Request bytes whose answers are written, told to the reading half.
    let (done, progress) = watch::channel(Progress::default());
    let idle_ms = broker.config().connections_idle_ms_max;
    // In a set, which ends its task when it is dropped: no writing half outlives its connection.
    let mut writing = JoinSet::new();
    writing.spawn(write_answers(write, owed, done, idle_ms, limits.clone()));
    let reading = read_requests(broker.clone(), limits, read, peer, stopped, owe, progress);
    tokio::select! {
        read = reading => {
            read?;
            // The queue is closed: the writing half ends when the last answer is written.
            match writing.join_next().await {
                Some(Ok(written)) => written,
                _ => Ok(()),
            }
        }
        written = writing.join_next() => match written {
            Some(Ok(written)) => written,
            _ => Ok(()),
        },
    }
}

/// How far the writing half is.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    answers: u64,
    request_bytes: u64,
}

async fn read_requests(
    broker: Broker,
    limits: Arc<Limits>,
    mut stream: OwnedReadHalf,
    peer: SocketAddr,
    mut stopped: watch::Receiver<bool>,
    owe: mpsc::Sender<Owed>,
    mut progress: watch::Receiver<Progress>,
) -> Result<(), ConnectionError> {
    let cutter = FrameCutter::new(broker.config().request_bytes_max);
    let idle_ms = broker.config().connections_idle_ms_max;
    let idle = idle_time(idle_ms);
    let client_host = format!("/{}", peer.ip());
    let mut buffer = BytesMut::new();
    let mut started = Progress::default();
    // Of the frame that is being read.
    let mut share = None;
    loop {
        while let Some(frame) = cutter.next(&mut buffer)? {
            let request_bytes = frame.len();
            let mut share = share.take();
            if share.is_none() && started.answers > progress.borrow().answers {
                share = limits.request(request_bytes).await;
            }
            let pending = match protocol::decode(frame, &client_host)? {
                Decoded::Answer(answer) => Pending::Encoded(answer),
                Decoded::Request(incoming) => {
                    let first = may_be_answered_at_length(&incoming.request);
                    let allowed = |now: &Progress| {
                        started.request_bytes - now.request_bytes <= IN_FLIGHT_BYTES_MAX as u64
                            && (!first || started.answers == now.answers)
                    };
                    if progress.wait_for(allowed).await.is_err() {
                        // The writing half has ended, and says why.
                        return Ok(());
                    }
                    if matches!(incoming.request, Request::Fetch(_)) {
                        limits.room_for_an_answer().await;
                    }
                    let (answer, answered) = oneshot::channel();
                    let (counting, limits) = (broker.clone(), limits.clone());
                    let api = incoming.request.api();
                    let begun = Instant::now();
                    let reply = incoming.reply;
                    let may_wait = may_wait_for_disk(&incoming.request);
                    let submit = || {
                        broker.submit(
                            &incoming.context,
                            incoming.request,
                            Box::new(move |response| {
                                let bytes = counting.count_answer(&response);
                                let metrics = counting.metrics();
                                metrics.answered(api, request_bytes, begun.elapsed());
                                // The connection may be gone by then.
                                drop(answer.send((response, limits.answer(bytes))));
                            }),
                        );
                    };
                    if may_wait {
                        on_this_thread(submit)
                    } else {
                        submit()
                    }
                    Pending::Response(reply, answered)
                }
            };
            started.answers += 1;
            started.request_bytes += request_bytes as u64;
            if owe
                .send(Owed {
                    answer: pending,
                    request_bytes,
                    _share: share,
                })
                .await
                .is_err()
            {
                return Ok(());
            }
        }
        let claimed = cutter.claimed(&buffer).unwrap_or(0);
        if share.is_none() && claimed > SMALL_FRAME_BYTES {
            share = tokio::select! {
                share = limits.request(claimed) => share,
                _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
            };
        }
        let patience = match share {
            Some(_) => limits.stall.min(idle),
            None => idle,
        };
        buffer.reserve(cutter.room(&buffer));
        let read = tokio::select! {
            read = tokio::time::timeout(patience, stream.read_buf(&mut buffer)) => read,
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
        };
        match read {
            Err(_) if share.is_some() => {
                return Err(ConnectionError::Stalled(patience, claimed));
            }
            // A client that waits for an answer is not idle.
            Err(_) if started.answers > progress.borrow().answers => {}
            Err(_) => return Err(ConnectionError::Idle(idle_ms)),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Ok(Err(error)) => return Err(error.into()),
            Ok(Ok(0)) if buffer.is_empty() => return Ok(()),
            Ok(Ok(0)) => return Err(ConnectionError::Torn(buffer.len())),
            Ok(Ok(_)) => {}
        }
    }
}

/// What may wait for the disk as a rule: it creates, deletes or syncs. The others are answered from memory or the page cache; to have another
/// thread take over for them costs more than most of them do (40 % of a broker's CPU under a load of Produce).
fn may_wait_for_disk(request: &Request) -> bool {
    !matches!(
        request,
        Request::Produce(_)
            | Request::Fetch(_)
            | Request::ListOffsets(_)
            | Request::OffsetCommit(_)
            | Request::AddPartitionsToTxn(_)
            | Request::AddOffsetsToTxn(_)
            | Request::TxnOffsetCommit(_)
            | Request::EndTxn(_)
            | Request::ApiVersions(_)
            | Request::Heartbeat(_)
            | Request::OffsetFetch(_)
            | Request::ListGroups(_)
            | Request::DescribeGroups(_)
            | Request::DescribeCluster(_)
            | Request::DescribeConfigs(_)
            | Request::DescribeTopicPartitions(_)
            | Request::ListPartitionReassignments(_)
            | Request::OffsetForLeaderEpoch(_)
    )
}

/// Whose answers grow with what is on the broker, not with the request.
fn may_be_answered_at_length(request: &Request) -> bool {
    matches!(
        request,
        Request::Fetch(_)
            | Request::Metadata(_)
            | Request::DescribeTopicPartitions(_)
            | Request::DescribeLogDirs(_)
            | Request::DescribeConfigs(_)
            | Request::ListGroups(_)
            | Request::ListConfigResources(_)
    )
}

/// Runs what may wait for the disk; on a runtime with several threads the others take over meanwhile.
fn on_this_thread(run: impl FnOnce()) {
    match tokio::runtime::Handle::current().runtime_flavor() {
        tokio::runtime::RuntimeFlavor::CurrentThread => run(),
        _ => tokio::task::block_in_place(run),
    }
}

fn idle_time(idle_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(idle_ms).unwrap_or(u64::MAX))
}

/// Writes all of it, unless the peer takes nothing for too long: until it counts as idle, or, while answers hold all the memory they may, as
/// stalled.
async fn write(
    outlet: &mut impl Outlet,
    mut answer: Pieces,
    idle_ms: i64,
    stall: Duration,
    is_full: impl Fn() -> bool,
) -> Result<(), ConnectionError> {
    let idle = idle_time(idle_ms);
    let mut waited = Duration::ZERO;
    while answer.left_bytes() > 0 {
        let patience = stall.min(idle.saturating_sub(waited));
        match tokio::time::timeout(patience, outlet.send(&mut answer)).await {
            Err(_) => {
                waited += patience;
                if waited >= idle {
                    return Err(ConnectionError::Idle(idle_ms));
                }
                if is_full() {
                    return Err(ConnectionError::Slow(waited));
                }
            }
            Ok(sent) => {
                sent?;
                waited = Duration::ZERO;
            }
        }
    }
    Ok(())
}

async fn write_answers(
    stream: OwnedWriteHalf,
    mut owed: mpsc::Receiver<Owed>,
    done: watch::Sender<Progress>,
    idle_ms: i64,
    limits: Arc<Limits>,
) -> Result<(), ConnectionError> {
    let mut socket = Socket::new(stream);
    while let Some(Owed {
        answer,
        request_bytes,
        _share,
    }) = owed.recv().await
    {
        let mut held = None;
        let pieces = match answer {
            Pending::Encoded(pieces) => Some(pieces),
            Pending::Response(reply, answered) => match answered.await {
                Ok((Response::Silence, _)) => None,
                Ok((response, bytes)) => {
                    held = bytes;
                    Some(protocol::encode(&reply, response)?)
                }
                // The broker was shut down under the request: there will be no answer.
                Err(_) => return Ok(()),
            },
        };
        if let Some(pieces) = pieces {
            let is_full = || limits.is_full_of_answers();
            match write(&mut socket, pieces, idle_ms, limits.stall, is_full).await {
                Err(ConnectionError::Io(error))
                    if matches!(
                        error.kind(),
                        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                    ) =>
                {
                    return Ok(());
                }
                written => written?,
            }
        }
        drop(held);
        done.send_modify(|progress| {
            progress.answers += 1;
            progress.request_bytes += request_bytes as u64;
        });
    }
    match socket.shutdown().await {
        Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;

    use super::*;
    use crate::server::sending::Copying;

    const LONG: Duration = Duration::from_secs(60);

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    #[test]
    fn a_peer_that_takes_nothing_is_given_up() {
        runtime().block_on(async {
            let (here, _there) = tokio::io::duplex(16);
            let mut here = Copying(here);
            let answer = Bytes::from(vec![7; 17]);
            assert!(matches!(
                write(&mut here, answer.into(), 1, LONG, || false).await,
                Err(ConnectionError::Idle(1))
            ));
        });
    }

    #[test]
    fn a_peer_that_takes_nothing_is_given_up_sooner_when_others_need_the_memory() {
        runtime().block_on(async {
            let (here, _there) = tokio::io::duplex(16);
            let mut here = Copying(here);
            let answer = Bytes::from(vec![7; 17]);
            let soon = Duration::from_millis(1);
            assert!(matches!(
                write(&mut here, answer.into(), 60_000, soon, || true).await,
                Err(ConnectionError::Slow(_))
            ));
        });
    }

    #[test]
    fn an_answer_larger_than_the_pipe_arrives_whole() {
        runtime().block_on(async {
            let (here, mut there) = tokio::io::duplex(16);
            let mut here = Copying(here);
            let answer = Bytes::from((0..=255).collect::<Vec<u8>>());
            let mut read = vec![0; answer.len()];
            let (written, taken) = tokio::join!(
                write(&mut here, answer.clone().into(), 60_000, LONG, || true),
                there.read_exact(&mut read)
            );
            written.unwrap();
            taken.unwrap();
            assert_eq!(read, answer);
        });
    }
}
