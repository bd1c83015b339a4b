//! librdkafka behind a safe surface: the only unsafe code of the clients.
//!
//! ## The simple consumer, one queue a partition
//! librdkafka's group consumer merges all partitions into one queue; then a paused partition has to be paused inside librdkafka, which
//! throws away what it had fetched. The simple consumer keeps a queue for each partition: a paused one is just not read, its queue fills
//! to its bound, and fetching of that partition stops by itself. It also knows no group, which is our own business (`wire/`).
//!
//! ## What holds for all of it
//! - A `Client` outlives every topic, queue and message made from it: they hold it in an `Arc`, or borrow it.
//! - librdkafka's handles may be used from any thread. Each queue is read by one thread at a time, which `&mut` sees to.
//! - Callbacks run on librdkafka's threads with the queue locked: they set a flag and wake, and never call back.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::catch_unwind;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use rdkafka_sys as sys;
use rdkafka_sys::rd_kafka_resp_err_t as Code;

use super::wire::error_code;
use crate::client::{
    ClientError, ClientErrorKind, CommittedOffset, MemberIdentity, RecordRef, TopicPartition,
};

const ERROR_TEXT_BYTES: usize = 512;

/// The waker of whoever polls, for callbacks.
#[derive(Debug, Default)]
pub(super) struct WakeCell(Mutex<Option<Waker>>);

impl WakeCell {
    pub(super) fn register(&self, waker: &Waker) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }

    pub(super) fn wake(&self) {
        // Kept, not taken: a poll that finds nothing need not register again to be woken again.
        let waker = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Set when a queue that was empty has something in it.
#[derive(Debug)]
struct Signal {
    ready: AtomicBool,
    wake: Arc<WakeCell>,
}

extern "C" fn on_queue_event(_client: *mut sys::rd_kafka_t, signal: *mut c_void) {
    // SAFETY: the pointer is that of the `Signal` in the `Arc` of a `Queue`, which unregisters this callback, under the queue's lock,
    // before it gives the signal up.
    let signal = unsafe { &*signal.cast::<Signal>() };
    signal.ready.store(true, Ordering::Release);
    // A waker that panics must not unwind into C.
    let _ = catch_unwind(std::panic::AssertUnwindSafe(|| signal.wake.wake()));
}

extern "C" fn on_log(
    _client: *const sys::rd_kafka_t,
    level: c_int,
    facility: *const c_char,
    text: *const c_char,
) {
    // SAFETY: librdkafka passes two strings that live through the call.
    let (facility, text) = unsafe { (text_of(facility), text_of(text)) };
    let _ = catch_unwind(|| match level {
        0..=3 => tracing::error!(target: "librdkafka", facility, "{text}"),
        4 => tracing::warn!(target: "librdkafka", facility, "{text}"),
        5 | 6 => tracing::info!(target: "librdkafka", facility, "{text}"),
        _ => tracing::debug!(target: "librdkafka", facility, "{text}"),
    });
}

/// An error of one partition that librdkafka does not hand out as a message: that its topic does not exist.
type Reported = Mutex<Option<(Code, String)>>;

extern "C" fn on_error(
    _client: *mut sys::rd_kafka_t,
    code: c_int,
    text: *const c_char,
    reported: *mut c_void,
) {
    // SAFETY: the pointer is that of the `Reported` of the client that calls, which is dropped after the last call.
    let reported = unsafe { &*reported.cast::<Reported>() };
    // SAFETY: a C string that lives through the call.
    let text = unsafe { text_of(text) };
    let code = Code::try_from(code).unwrap_or(Code::RD_KAFKA_RESP_ERR__FAIL);
    *reported.lock().unwrap_or_else(PoisonError::into_inner) = Some((code, text));
}

/// The text at `text`, empty for null.
///
/// # Safety
/// `text` is null or a C string.
unsafe fn text_of(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

fn c_string(text: &str, what: &str) -> Result<CString, ClientError> {
    CString::new(text).map_err(|_| {
        ClientError::new(
            ClientErrorKind::Config,
            format_args!("{what} {text:?} has a zero byte"),
        )
    })
}

/// The error of a librdkafka code; `what` says what was done.
pub(super) fn error_of(code: Code, what: impl std::fmt::Display) -> ClientError {
    // SAFETY: returns a static string for every code.
    let text = unsafe { text_of(sys::rd_kafka_err2str(code)) };
    ClientError::new(kind_of(code), format_args!("{what}: {text}"))
}

fn kind_of(code: Code) -> ClientErrorKind {
    match code {
        Code::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC | Code::RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION => {
            ClientErrorKind::UnknownTopicOrPartition
        }
        Code::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET => ClientErrorKind::OffsetOutOfRange,
        Code::RD_KAFKA_RESP_ERR__FENCED => ClientErrorKind::Fenced,
        Code::RD_KAFKA_RESP_ERR__INVALID_ARG | Code::RD_KAFKA_RESP_ERR__AUTHENTICATION => {
            ClientErrorKind::Config
        }
        Code::RD_KAFKA_RESP_ERR__TRANSPORT
        | Code::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN
        | Code::RD_KAFKA_RESP_ERR__RESOLVE
        | Code::RD_KAFKA_RESP_ERR__TIMED_OUT
        | Code::RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE
        | Code::RD_KAFKA_RESP_ERR__MSG_TIMED_OUT
        | Code::RD_KAFKA_RESP_ERR__QUEUE_FULL
        | Code::RD_KAFKA_RESP_ERR__IN_PROGRESS
        | Code::RD_KAFKA_RESP_ERR__RETRY
        | Code::RD_KAFKA_RESP_ERR__PARTIAL
        | Code::RD_KAFKA_RESP_ERR__ISR_INSUFF
        | Code::RD_KAFKA_RESP_ERR__NODE_UPDATE
        | Code::RD_KAFKA_RESP_ERR__WAIT_CACHE => ClientErrorKind::Retriable,
        // From zero on they are Kafka's own, which fit into 16 bits; below they are librdkafka's.
        code => match i16::try_from(code as i32) {
            Ok(code) if code > 0 => error_code::kind(code),
            _ => ClientErrorKind::Fatal,
        },
    }
}

/// A librdkafka instance with its threads.
pub(super) struct Client {
    client: NonNull<sys::rd_kafka_t>,
    /// Written by `on_error`, which runs on the thread that reads a partition's queue, while it does.
    reported: Box<Reported>,
    /// A producer with a transactional id.
    transactional: bool,
}

// SAFETY: librdkafka's handles are made for use from several threads.
unsafe impl Send for Client {}
// SAFETY: as above.
unsafe impl Sync for Client {}

/// Which half of librdkafka an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Consumer,
    Producer,
}

impl Client {
    /// Starts an instance with settings under librdkafka's names. It connects when there is something to do.
    pub(super) fn start(
        role: Role,
        settings: &[(String, String)],
    ) -> Result<Arc<Self>, ClientError> {
        let mut text = [0 as c_char; ERROR_TEXT_BYTES];
        let reported: Box<Reported> = Box::default();
        // SAFETY: `conf` is made here and given away to `rd_kafka_new`, or destroyed on every other way out. `text` is as long as said.
        unsafe {
            let conf = sys::rd_kafka_conf_new();
            for (name, value) in settings {
                let set = c_string(name, "setting")
                    .and_then(|key| Ok((key, c_string(value, "value of a setting")?)))
                    .and_then(|(key, value)| {
                        match sys::rd_kafka_conf_set(
                            conf,
                            key.as_ptr(),
                            value.as_ptr(),
                            text.as_mut_ptr(),
                            text.len(),
                        ) {
                            sys::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK => Ok(()),
                            _ => Err(ClientError::new(
                                ClientErrorKind::Config,
                                format_args!("setting {name}: {}", text_of(text.as_ptr())),
                            )),
                        }
                    });
                if let Err(error) = set {
                    sys::rd_kafka_conf_destroy(conf);
                    return Err(error);
                }
            }
            sys::rd_kafka_conf_set_log_cb(conf, Some(on_log));
            sys::rd_kafka_conf_set_opaque(conf, (&raw const *reported).cast_mut().cast::<c_void>());
            sys::rd_kafka_conf_set_error_cb(conf, Some(on_error));
            // Errors of the whole instance come as events, not through the callback.
            sys::rd_kafka_conf_set_events(conf, sys::RD_KAFKA_EVENT_DR | sys::RD_KAFKA_EVENT_ERROR);
            let kind = match role {
                Role::Consumer => sys::rd_kafka_type_t::RD_KAFKA_CONSUMER,
                Role::Producer => sys::rd_kafka_type_t::RD_KAFKA_PRODUCER,
            };
            let client = sys::rd_kafka_new(kind, conf, text.as_mut_ptr(), text.len());
            match NonNull::new(client) {
                Some(client) => Ok(Arc::new(Self {
                    client,
                    reported,
                    transactional: settings.iter().any(|(name, _)| name == "transactional.id"),
                })),
                None => {
                    // On failure the settings stay ours.
                    sys::rd_kafka_conf_destroy(conf);
                    Err(ClientError::new(
                        ClientErrorKind::Config,
                        format_args!("librdkafka: {}", text_of(text.as_ptr())),
                    ))
                }
            }
        }
    }

    fn as_ptr(&self) -> *mut sys::rd_kafka_t {
        self.client.as_ptr()
    }

    /// The error after which this instance does nothing more, when it has happened.
    pub(super) fn fatal_error(&self) -> Option<ClientError> {
        let mut text = [0 as c_char; ERROR_TEXT_BYTES];
        // SAFETY: the handle lives, and `text` is as long as said.
        let (code, text) = unsafe {
            let code = sys::rd_kafka_fatal_error(self.as_ptr(), text.as_mut_ptr(), text.len());
            (code, text_of(text.as_ptr()))
        };
        (code != Code::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| {
            let kind = if self.transactional {
                transaction_kind(code, true, false, false)
            } else if kind_of(code) == ClientErrorKind::Fenced {
                ClientErrorKind::Fenced
            } else {
                ClientErrorKind::Fatal
            };
            ClientError::new(kind, format_args!("librdkafka: {text}"))
        })
    }
}

/// Transactions. Each call waits, at most so long as it is told: they are for a thread of their own.
impl Client {
    pub(super) fn init_transactions(&self, timeout_ms: i32) -> Result<(), ClientError> {
        // SAFETY: the handle lives.
        let error = unsafe { sys::rd_kafka_init_transactions(self.as_ptr(), timeout_ms) };
        self.transaction_result(error, "initialising the transactional producer")
    }

    pub(super) fn begin_transaction(&self) -> Result<(), ClientError> {
        // SAFETY: the handle lives.
        let error = unsafe { sys::rd_kafka_begin_transaction(self.as_ptr()) };
        self.transaction_result(error, "beginning a transaction")
    }

    pub(super) fn commit_transaction(&self, timeout_ms: i32) -> Result<(), ClientError> {
        // SAFETY: the handle lives.
        let error = unsafe { sys::rd_kafka_commit_transaction(self.as_ptr(), timeout_ms) };
        self.transaction_result(error, "committing the transaction")
    }

    pub(super) fn abort_transaction(&self, timeout_ms: i32) -> Result<(), ClientError> {
        // SAFETY: the handle lives.
        let error = unsafe { sys::rd_kafka_abort_transaction(self.as_ptr(), timeout_ms) };
        self.transaction_result(error, "aborting the transaction")
    }

    /// Makes the offsets part of the transaction, as this member of the group.
    pub(super) fn send_offsets_to_transaction(
        &self,
        group: &str,
        member: &MemberIdentity,
        offsets: &[(TopicPartition, CommittedOffset)],
        timeout_ms: i32,
    ) -> Result<(), ClientError> {
        let group = c_string(group, "group")?;
        let member_id = c_string(&member.member_id, "member id")?;
        let instance_id = member
            .instance_id
            .as_deref()
            .map(|id| c_string(id, "instance id"))
            .transpose()?;
        let mut texts = Vec::with_capacity(offsets.len());
        for (partition, committed) in offsets {
            texts.push((
                c_string(&partition.topic, "topic")?,
                partition.partition,
                committed,
            ));
        }
        let size = c_int::try_from(texts.len()).unwrap_or(c_int::MAX);
        // SAFETY: list and metadata are made here and given back below; the strings live through the calls, which copy them. An entry's
        // metadata is allocated as the list frees it, by the C library's allocator.
        unsafe {
            let list = sys::rd_kafka_topic_partition_list_new(size);
            for (topic, partition, committed) in &texts {
                let entry =
                    &mut *sys::rd_kafka_topic_partition_list_add(list, topic.as_ptr(), *partition);
                entry.offset = committed.offset;
                let bytes = committed.metadata.as_bytes();
                if !bytes.is_empty() {
                    let copy = sys::rd_kafka_mem_malloc(ptr::null_mut(), bytes.len());
                    if !copy.is_null() {
                        ptr::copy_nonoverlapping(bytes.as_ptr(), copy.cast::<u8>(), bytes.len());
                        entry.metadata = copy;
                        entry.metadata_size = bytes.len();
                    }
                }
            }
            let identity = sys::rd_kafka_consumer_group_metadata_new_with_genid(
                group.as_ptr(),
                member.generation,
                member_id.as_ptr(),
                instance_id.as_ref().map_or(ptr::null(), |id| id.as_ptr()),
            );
            let error = sys::rd_kafka_send_offsets_to_transaction(
                self.as_ptr(),
                list,
                identity,
                timeout_ms,
            );
            sys::rd_kafka_consumer_group_metadata_destroy(identity);
            sys::rd_kafka_topic_partition_list_destroy(list);
            self.transaction_result(error, "sending offsets to the transaction")
        }
    }

    /// What `error`, which is given back here, asks for.
    fn transaction_result(
        &self,
        error: *mut sys::rd_kafka_error_t,
        what: &str,
    ) -> Result<(), ClientError> {
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: the error is ours until it is destroyed here, and its text with it.
        let (code, text, fatal, retriable, requires_abort) = unsafe {
            let told = (
                sys::rd_kafka_error_code(error),
                text_of(sys::rd_kafka_error_string(error)),
                sys::rd_kafka_error_is_fatal(error) != 0,
                sys::rd_kafka_error_is_retriable(error) != 0,
                sys::rd_kafka_error_txn_requires_abort(error) != 0,
            );
            sys::rd_kafka_error_destroy(error);
            told
        };
        let kind = transaction_kind(code, fatal, retriable, requires_abort);
        Err(ClientError::new(kind, format_args!("{what}: {text}")))
    }
}

/// What follows from an error of a transaction: librdkafka's own verdict, and what it leaves open.
fn transaction_kind(
    code: Code,
    fatal: bool,
    retriable: bool,
    requires_abort: bool,
) -> ClientErrorKind {
    match code {
        Code::RD_KAFKA_RESP_ERR__FENCED
        | Code::RD_KAFKA_RESP_ERR_PRODUCER_FENCED
        | Code::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID => ClientErrorKind::Fenced,
        Code::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        | Code::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED
        | Code::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED
        | Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED
        | Code::RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE
        | Code::RD_KAFKA_RESP_ERR_INVALID_TRANSACTION_TIMEOUT => ClientErrorKind::Config,
        _ if fatal => ClientErrorKind::ProducerLost,
        _ if requires_abort => ClientErrorKind::Abortable,
        _ if retriable => ClientErrorKind::Retriable,
        // Not in the state that the call wants: an error that came in between, which only a new start settles.
        Code::RD_KAFKA_RESP_ERR__STATE | Code::RD_KAFKA_RESP_ERR__CONFLICT => {
            ClientErrorKind::ProducerLost
        }
        code => kind_of(code),
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: nothing made from this handle is left, see the module comment; it is destroyed once.
        unsafe {
            sys::rd_kafka_destroy_flags(self.as_ptr(), sys::RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE)
        };
    }
}

/// A topic of an instance.
pub(super) struct Topic {
    topic: NonNull<sys::rd_kafka_topic_t>,
    name: CString,
    client: Arc<Client>,
}

// SAFETY: as `Client`.
unsafe impl Send for Topic {}

impl Topic {
    /// The topic `name`. `tag` comes back with every delivery ([`Delivery::tag`]).
    pub(super) fn new(client: &Arc<Client>, name: &str, tag: u32) -> Result<Self, ClientError> {
        let c_name = c_string(name, "topic")?;
        // SAFETY: the settings are a copy that `rd_kafka_topic_new` takes over, also when it fails.
        let topic = unsafe {
            let conf = sys::rd_kafka_default_topic_conf_dup(client.as_ptr());
            sys::rd_kafka_topic_conf_set_opaque(conf, ptr::without_provenance_mut(tag as usize));
            sys::rd_kafka_topic_new(client.as_ptr(), c_name.as_ptr(), conf)
        };
        match NonNull::new(topic) {
            Some(topic) => Ok(Self {
                topic,
                name: c_name,
                client: Arc::clone(client),
            }),
            // SAFETY: reads what the failed call left for this thread.
            None => Err(error_of(
                unsafe { sys::rd_kafka_last_error() },
                format_args!("topic {name}"),
            )),
        }
    }

    /// Starts to fetch a partition at `offset`.
    pub(super) fn start(&self, partition: i32, offset: i64) -> Result<(), ClientError> {
        // SAFETY: the handle lives.
        let started =
            unsafe { sys::rd_kafka_consume_start(self.topic.as_ptr(), partition, offset) };
        self.done(started, "starting to fetch", partition)
    }

    /// Stops to fetch a partition and drops what was fetched. Waits for librdkafka's own thread, not for a broker.
    pub(super) fn stop(&self, partition: i32) -> Result<(), ClientError> {
        // SAFETY: the handle lives.
        let stopped = unsafe { sys::rd_kafka_consume_stop(self.topic.as_ptr(), partition) };
        self.done(stopped, "stopping to fetch", partition)
    }

    fn done(&self, result: c_int, doing: &str, partition: i32) -> Result<(), ClientError> {
        if result == 0 {
            return Ok(());
        }
        // SAFETY: reads what the failed call left for this thread.
        let code = unsafe { sys::rd_kafka_last_error() };
        Err(error_of(
            code,
            format_args!("{doing} {}-{partition}", self.name.to_string_lossy()),
        ))
    }

    /// The high watermark of a partition as the last fetch told it.
    pub(super) fn high_watermark(&self, partition: i32) -> Option<i64> {
        let (mut low, mut high) = (-1, -1);
        // SAFETY: the handle and the name live; both results are local.
        let code = unsafe {
            sys::rd_kafka_get_watermark_offsets(
                self.client.as_ptr(),
                self.name.as_ptr(),
                partition,
                &raw mut low,
                &raw mut high,
            )
        };
        (code == Code::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(high)
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: the handle lives until here and is given back once.
        unsafe { sys::rd_kafka_topic_destroy(self.topic.as_ptr()) };
    }
}

/// A queue of an instance, that wakes when something comes into it.
pub(super) struct Queue {
    queue: NonNull<sys::rd_kafka_queue_t>,
    signal: Arc<Signal>,
    client: Arc<Client>,
}

// SAFETY: as `Client`; the messages in it are handed out to one thread at a time, by `&mut`.
unsafe impl Send for Queue {}

impl Queue {
    /// The queue of what concerns the whole instance: delivery reports and errors.
    pub(super) fn of_client(
        client: &Arc<Client>,
        wake: &Arc<WakeCell>,
    ) -> Result<Self, ClientError> {
        // SAFETY: the handle lives.
        let queue = unsafe { sys::rd_kafka_queue_get_main(client.as_ptr()) };
        Self::new(queue, client, wake)
    }

    /// The queue of one partition's records.
    pub(super) fn of_partition(
        client: &Arc<Client>,
        topic: &Topic,
        partition: i32,
        wake: &Arc<WakeCell>,
    ) -> Result<Self, ClientError> {
        // SAFETY: the handle and the name live.
        let queue = unsafe {
            sys::rd_kafka_queue_get_partition(client.as_ptr(), topic.name.as_ptr(), partition)
        };
        Self::new(queue, client, wake)
    }

    fn new(
        queue: *mut sys::rd_kafka_queue_t,
        client: &Arc<Client>,
        wake: &Arc<WakeCell>,
    ) -> Result<Self, ClientError> {
        let queue = NonNull::new(queue)
            .ok_or_else(|| ClientError::new(ClientErrorKind::Fatal, "librdkafka: no such queue"))?;
        // Ready from the start: what is in it now announces itself no more.
        let signal = Arc::new(Signal {
            ready: AtomicBool::new(true),
            wake: Arc::clone(wake),
        });
        let opaque = Arc::as_ptr(&signal).cast_mut().cast::<c_void>();
        // SAFETY: the signal is held by this queue, which takes the callback away before it is dropped.
        unsafe {
            sys::rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(on_queue_event), opaque)
        };
        Ok(Self {
            queue,
            signal,
            client: Arc::clone(client),
        })
    }

    /// Whether something may be in it; asked before reading, so that what comes while reading is not missed.
    pub(super) fn take_ready(&self) -> bool {
        self.signal.ready.swap(false, Ordering::AcqRel)
    }

    /// Says that the queue was not read to its end.
    pub(super) fn set_ready(&self) {
        self.signal.ready.store(true, Ordering::Release);
    }

    /// Takes messages until `messages` is full or the queue empty; never waits. Returns whether it was emptied, and an error of the
    /// partition that came behind them.
    pub(super) fn consume(&mut self, messages: &mut Messages) -> (bool, Option<ClientError>) {
        messages.clear();
        let room = messages.pointers.capacity();
        // SAFETY: the vector has room for so many pointers, and librdkafka writes as many as it returns; each is then ours to destroy.
        let count = unsafe {
            sys::rd_kafka_consume_batch_queue(
                self.queue.as_ptr(),
                0,
                messages.pointers.as_mut_ptr(),
                room,
            )
        };
        let count = usize::try_from(count).unwrap_or(0).min(room);
        // SAFETY: as above.
        unsafe { messages.pointers.set_len(count) };
        let reported = self
            .client
            .reported
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        (
            count < room,
            reported.map(|(code, text)| ClientError::new(kind_of(code), text)),
        )
    }

    /// Calls `delivery` for each record whose fate is known, and logs errors that pass. Reads the queue to its end, without waiting.
    pub(super) fn deliveries(&mut self, mut delivery: impl FnMut(Delivery)) {
        loop {
            // SAFETY: the handle lives; the event is ours until it is destroyed below.
            let event = unsafe { sys::rd_kafka_queue_poll(self.queue.as_ptr(), 0) };
            if event.is_null() {
                return;
            }
            // SAFETY: the event lives until the end of the block, and so do its messages and texts.
            unsafe {
                match sys::rd_kafka_event_type(event) {
                    sys::RD_KAFKA_EVENT_DR => loop {
                        let message = sys::rd_kafka_event_message_next(event);
                        if message.is_null() {
                            break;
                        }
                        let message = &*message;
                        delivery(Delivery {
                            tag: sys::rd_kafka_topic_opaque(message.rkt).addr() as u32,
                            partition: message.partition,
                            bytes: message._private.addr(),
                            offset: message.offset,
                            code: message.err,
                        });
                    },
                    sys::RD_KAFKA_EVENT_ERROR => {
                        let text = text_of(sys::rd_kafka_event_error_string(event));
                        // Fatal ones stay with the instance, where `fatal_error` finds them.
                        tracing::warn!(target: "librdkafka", error = text, "client error");
                    }
                    _ => {}
                }
                sys::rd_kafka_event_destroy(event);
            }
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: under the queue's lock the callback is taken away, so that none runs after; then the queue is given back once.
        unsafe {
            sys::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut());
            sys::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
        // Only now may the signal go, and after it the instance.
        let _ = (&self.signal, &self.client);
    }
}

/// The fate of one record.
pub(super) struct Delivery {
    pub(super) tag: u32,
    pub(super) partition: i32,
    /// What was given to [`produce`].
    pub(super) bytes: usize,
    pub(super) offset: i64,
    pub(super) code: Code,
}

impl Delivery {
    pub(super) fn is_ok(&self) -> bool {
        self.code == Code::RD_KAFKA_RESP_ERR_NO_ERROR
    }

    /// Whether librdkafka has dropped the record, with all others of its transaction.
    pub(super) fn is_purged(&self) -> bool {
        matches!(
            self.code,
            Code::RD_KAFKA_RESP_ERR__PURGE_QUEUE | Code::RD_KAFKA_RESP_ERR__PURGE_INFLIGHT
        )
    }
}

/// Messages taken off a queue, destroyed with it.
pub(super) struct Messages {
    pointers: Vec<*mut sys::rd_kafka_message_t>,
}

// SAFETY: the messages are owned by this value alone.
unsafe impl Send for Messages {}

impl Messages {
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self {
            pointers: Vec::with_capacity(capacity),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Message<'_>> {
        // SAFETY: each pointer is a message that lives until `clear`, which takes `&mut self`.
        self.pointers
            .iter()
            .map(|message| Message(unsafe { &**message }))
    }

    pub(super) fn clear(&mut self) {
        for message in self.pointers.drain(..) {
            // SAFETY: each is ours, and destroyed once.
            unsafe { sys::rd_kafka_message_destroy(message) };
        }
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A fetched record, or an event in its place.
#[derive(Clone, Copy)]
pub(super) struct Message<'a>(&'a sys::rd_kafka_message_t);

/// What a [`Message`] is.
pub(super) enum Arrived {
    Record,
    /// Nothing more below this offset.
    End,
    Error(Code),
}

impl<'a> Message<'a> {
    pub(super) fn arrived(&self) -> Arrived {
        match self.0.err {
            Code::RD_KAFKA_RESP_ERR_NO_ERROR => Arrived::Record,
            Code::RD_KAFKA_RESP_ERR__PARTITION_EOF => Arrived::End,
            code => Arrived::Error(code),
        }
    }

    pub(super) fn offset(&self) -> i64 {
        self.0.offset
    }

    /// In milliseconds, -1 for none.
    pub(super) fn timestamp(&self) -> i64 {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message lives; the kind is local.
        unsafe { sys::rd_kafka_message_timestamp(self.0, &raw mut kind) }
    }

    pub(super) fn key(&self) -> Option<&'a [u8]> {
        // SAFETY: librdkafka's pointer and length of a message that lives as long as 'a.
        unsafe { bytes_at(self.0.key, self.0.key_len) }
    }

    pub(super) fn value(&self) -> Option<&'a [u8]> {
        // SAFETY: as above.
        unsafe { bytes_at(self.0.payload, self.0.len) }
    }

    pub(super) fn headers(&self) -> HeaderIter<'a> {
        let mut headers = ptr::null_mut();
        // SAFETY: the message lives. It owns the headers, which are parsed by this call.
        let code = unsafe { sys::rd_kafka_message_headers(self.0, &raw mut headers) };
        let headers = if code == Code::RD_KAFKA_RESP_ERR_NO_ERROR {
            headers
        } else {
            ptr::null_mut()
        };
        HeaderIter {
            headers,
            index: 0,
            _message: *self,
        }
    }

    /// What librdkafka says about an error.
    pub(super) fn error_text(&self) -> String {
        // SAFETY: the text lives as long as the message.
        unsafe { text_of(sys::rd_kafka_message_errstr(self.0)) }
    }
}

/// The bytes at `pointer`; `None` for null.
///
/// # Safety
/// `pointer` is null, or `length` bytes are there for 'a.
unsafe fn bytes_at<'a>(pointer: *const c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller's promise.
    (!pointer.is_null()).then(|| unsafe { slice::from_raw_parts(pointer.cast::<u8>(), length) })
}

/// Headers of a message, in order.
#[derive(Clone)]
pub(super) struct HeaderIter<'a> {
    headers: *mut sys::rd_kafka_headers_t,
    index: usize,
    /// Owner of the headers.
    _message: Message<'a>,
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.headers.is_null() {
            return None;
        }
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the headers live as long as the message; the results are local. The call tells when there are no more.
        let code = unsafe {
            sys::rd_kafka_header_get_all(
                self.headers,
                self.index,
                &raw mut name,
                &raw mut value,
                &raw mut size,
            )
        };
        if code != Code::RD_KAFKA_RESP_ERR_NO_ERROR {
            return None;
        }
        self.index += 1;
        // SAFETY: a C string and so many bytes, owned by the message.
        unsafe { Some((CStr::from_ptr(name).to_bytes(), bytes_at(value, size))) }
    }
}

/// Why a record was not taken.
pub(super) enum Refused {
    /// The queue is full; a poll makes room.
    Full,
    Error(ClientError),
}

/// Gives a copy of `record` to the producer. `bytes` comes back with its delivery.
///
/// librdkafka reads a timestamp of 0 as "now". A record of the epoch's first millisecond is therefore sent as of its second: off by one
/// millisecond in 1970 rather than by fifty years.
pub(super) fn produce(
    topic: &Topic,
    partition: i32,
    record: RecordRef<'_>,
    bytes: usize,
) -> Result<(), Refused> {
    use sys::rd_kafka_vtype_t as Kind;
    use sys::rd_kafka_vu_s__bindgen_ty_1 as Value;

    let memory = |bytes: Option<&[u8]>| {
        // With a length of zero the pointer tells empty from null.
        let (pointer, size) = bytes.map_or((ptr::null_mut(), 0), |bytes| {
            (bytes.as_ptr().cast_mut().cast::<c_void>(), bytes.len())
        });
        Value {
            mem: sys::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 { ptr: pointer, size },
        }
    };
    let headers = native_headers(record).map_err(Refused::Error)?;
    let arguments = [
        sys::rd_kafka_vu_t {
            vtype: Kind::RD_KAFKA_VTYPE_RKT,
            u: Value {
                rkt: topic.topic.as_ptr(),
            },
        },
        sys::rd_kafka_vu_t {
            vtype: Kind::RD_KAFKA_VTYPE_PARTITION,
            u: Value { i32_: partition },
        },
        sys::rd_kafka_vu_t {
            vtype: Kind::RD_KAFKA_VTYPE_MSGFLAGS,
            u: Value {
                i: sys::RD_KAFKA_MSG_F_COPY,
            },
        },
        sys::rd_kafka_vu_t {
            vtype: Kind::RD_KAFKA_VTYPE_KEY,
            u: memory(record.key),
        },
        sys::rd_kafka_vu_t {
            vtype: Kind::RD_KAFKA_VTYPE_VALUE,
            u: memory(record.value),
        },
        sys::rd_kafka_vu_t {
            vtype: Kind::RD_KAFKA_VTYPE_TIMESTAMP,
            u: Value {
                i64_: if record.timestamp == 0 {
                    1
                } else {
                    record.timestamp
                },
            },
        },
        sys::rd_kafka_vu_t {
            vtype: Kind::RD_KAFKA_VTYPE_OPAQUE,
            u: Value {
                ptr: ptr::without_provenance_mut(bytes),
            },
        },
        sys::rd_kafka_vu_t {
            vtype: Kind::RD_KAFKA_VTYPE_HEADERS,
            u: Value { headers },
        },
    ];
    // Without headers the last argument is left out: null is not a list of none.
    let count = if headers.is_null() {
        arguments.len() - 1
    } else {
        arguments.len()
    };
    // SAFETY: the arguments live through the call, which copies key and value and takes the headers over when it succeeds.
    unsafe {
        let error = sys::rd_kafka_produceva(topic.client.as_ptr(), arguments.as_ptr(), count);
        if error.is_null() {
            return Ok(());
        }
        let code = sys::rd_kafka_error_code(error);
        sys::rd_kafka_error_destroy(error);
        if !headers.is_null() {
            sys::rd_kafka_headers_destroy(headers);
        }
        if code == Code::RD_KAFKA_RESP_ERR__QUEUE_FULL {
            return Err(Refused::Full);
        }
        Err(Refused::Error(topic.client.fatal_error().unwrap_or_else(
            || {
                let mut error = error_of(
                    code,
                    format_args!("producing to {}-{partition}", topic.name.to_string_lossy()),
                );
                // Its transaction has failed already.
                if topic.client.transactional && code == Code::RD_KAFKA_RESP_ERR__STATE {
                    error.kind = ClientErrorKind::Abortable;
                }
                error
            },
        )))
    }
}

/// A record's headers as librdkafka's; null for none.
fn native_headers(record: RecordRef<'_>) -> Result<*mut sys::rd_kafka_headers_t, ClientError> {
    if record.headers.is_empty() {
        return Ok(ptr::null_mut());
    }
    // SAFETY: the list is made here; names and values are copied into it, with their lengths.
    unsafe {
        let headers = sys::rd_kafka_headers_new(record.headers.iter().len());
        for header in record.headers.iter() {
            let (value, size) = header.value.as_ref().map_or((ptr::null(), 0), |value| {
                (value.as_ptr().cast::<c_void>(), value.len())
            });
            let (Ok(name_size), Ok(size)) =
                (isize::try_from(header.key.len()), isize::try_from(size))
            else {
                continue;
            };
            let code = sys::rd_kafka_header_add(
                headers,
                header.key.as_ptr().cast::<c_char>(),
                name_size,
                value,
                size,
            );
            if code != Code::RD_KAFKA_RESP_ERR_NO_ERROR {
                sys::rd_kafka_headers_destroy(headers);
                return Err(error_of(code, format_args!("header {}", header.key)));
            }
        }
        Ok(headers)
    }
}
