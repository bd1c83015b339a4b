//! The client traits over the model. At every call the seed chooses: done, not yet, refused, done without an answer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::task::Waker;
use std::time::Duration;

use brooklet::clock::Clock;
use brooklet_streams_core::client::record_batch::BatchBuilder;
use brooklet_streams_core::client::{
    Admin, AdminRequest, AdminResponse, Claim, ClaimState, ClientError, ClientErrorKind, Cluster,
    Completion, Consumer, ConsumerOptions, Fetched, MemberIdentity, OffsetSpec, Producer,
    ProducerOptions, RecordRef, RequestId, Slot, TopicHandle, TopicPartition, TransactionRequest,
};

use super::cluster::{Flight, Late, Model, Refusal, Shared, Stored, Writer, error};

impl Clock for Shared {
    fn now_ms(&self) -> i64 {
        self.lock().now_ms
    }

    /// Nobody else runs: time moves on, and the cluster with it.
    fn wait(&self, at_most: Duration) {
        let mut model = self.lock();
        model.now_ms += i64::try_from(at_most.as_millis()).unwrap().max(1);
        model.go_on();
    }
}

impl Cluster for Shared {
    fn consumer(&self, options: &ConsumerOptions) -> Result<Box<dyn Consumer>, ClientError> {
        Ok(Box::new(SimConsumer {
            model: self.clone(),
            read_committed: options.read_committed,
            slots: Vec::new(),
        }))
    }

    fn producer(&self, options: &ProducerOptions) -> Result<Box<dyn Producer>, ClientError> {
        let mut model = self.lock();
        if model.fails() {
            model.note("fault: no producer", &options.client_id);
            return Err(error(ClientErrorKind::Retriable, "no producer for now"));
        }
        let transaction = options.transaction.as_ref().unwrap();
        Ok(Box::new(SimProducer {
            model: self.clone(),
            id: transaction.transactional_id.clone(),
            timeout_ms: i64::from(transaction.timeout_ms),
            linger_ms: options.linger_ms,
            topics: Vec::new(),
            writer: None,
            open: BTreeMap::new(),
            flights: VecDeque::new(),
            failed: BTreeSet::new(),
            acknowledged: VecDeque::new(),
            pending_records: 0,
            begun: false,
            request: None,
            answer: None,
        }))
    }

    fn admin(&self) -> Result<Box<dyn Admin>, ClientError> {
        Ok(Box::new(SimAdmin {
            model: self.clone(),
            asked: VecDeque::new(),
            ids: 0,
        }))
    }

    fn claim(
        &self,
        _application_id: &str,
        process_id: &str,
        _topics: &[String],
    ) -> Result<Box<dyn Claim>, ClientError> {
        let member = self.lock().claim(process_id);
        Ok(Box::new(SimClaim {
            model: self.clone(),
            instance: process_id.to_owned(),
            member,
            known_generation: None,
            lost: false,
        }))
    }

    fn name(&self) -> String {
        "the simulated cluster".to_owned()
    }
}

struct SimClaim {
    model: Shared,
    instance: String,
    member: u64,
    /// Who has lost its place does not know it at once.
    known_generation: Option<i32>,
    lost: bool,
}

impl Claim for SimClaim {
    fn poll(&mut self, _now_ms: i64, _waker: &Waker) -> ClaimState {
        let mut model = self.model.lock();
        let is_slow = model.is_late();
        match model.generation_of(self.member) {
            None if self.lost || !is_slow => {
                self.lost = true;
                return ClaimState::Lost("another process has this place".to_owned());
            }
            Some(_) if model.is_rebalancing() && !is_slow => return ClaimState::Pending,
            Some(generation) if !is_slow => self.known_generation = Some(generation),
            _ => {}
        }
        match self.known_generation {
            None => ClaimState::Pending,
            Some(generation) => ClaimState::Held(MemberIdentity {
                member_id: self.member.to_string(),
                generation,
                instance_id: Some(self.instance.clone()),
            }),
        }
    }
}

struct SimSlot {
    at: TopicPartition,
    position: i64,
    reported_end: i64,
    paused: bool,
    stuck: bool,
}

struct SimConsumer {
    model: Shared,
    read_committed: bool,
    slots: Vec<Option<SimSlot>>,
}

impl SimConsumer {
    fn slot(&mut self, slot: Slot) -> Option<&mut SimSlot> {
        self.slots.get_mut(slot.0 as usize)?.as_mut()
    }
}

impl Consumer for SimConsumer {
    fn add(&mut self, partition: &TopicPartition, offset: i64) -> Result<Slot, ClientError> {
        let added = SimSlot {
            at: partition.clone(),
            position: offset,
            reported_end: -1,
            paused: false,
            stuck: false,
        };
        let index = match self.slots.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.slots.push(None);
                self.slots.len() - 1
            }
        };
        self.slots[index] = Some(added);
        Ok(Slot(u32::try_from(index).unwrap()))
    }

    fn remove(&mut self, slot: Slot) {
        if let Some(removed) = self.slots.get_mut(slot.0 as usize) {
            *removed = None;
        }
    }

    fn seek(&mut self, slot: Slot, offset: i64) {
        if let Some(slot) = self.slot(slot) {
            (slot.position, slot.reported_end, slot.stuck) = (offset, -1, false);
        }
    }

    fn pause(&mut self, slot: Slot) {
        if let Some(slot) = self.slot(slot) {
            slot.paused = true;
        }
    }

    fn resume(&mut self, slot: Slot) {
        if let Some(slot) = self.slot(slot) {
            slot.paused = false;
        }
    }

    fn poll(
        &mut self,
        _now_ms: i64,
        _waker: &Waker,
        fetched: &mut Vec<Fetched>,
    ) -> Result<(), ClientError> {
        let model = self.model.clone();
        let mut model = model.lock();
        if model.fails() && model.one_in(10) {
            model.note("fault: consumer", "");
            return Err(error(ClientErrorKind::Retriable, "the consumer"));
        }
        for (slot, index) in self.slots.iter_mut().zip(0..) {
            let Some(slot) = slot else { continue };
            if slot.stuck || slot.paused || model.is_late() {
                continue;
            }
            fetched.extend(fetch(&mut model, slot, Slot(index), self.read_committed));
        }
        Ok(())
    }
}

fn fetch(model: &mut Model, slot: &mut SimSlot, id: Slot, read_committed: bool) -> Option<Fetched> {
    let failed = |slot: &SimSlot, kind, what| Fetched {
        slot: id,
        batches: Vec::new(),
        next_offset: slot.position,
        end_offset: -1,
        error: Some(error(kind, what)),
    };
    if model.fails() {
        model.note("fault: fetch", &slot.at);
        return Some(failed(slot, ClientErrorKind::Retriable, "fetch"));
    }
    let Some((start, stable_end, end)) = model.offsets(&slot.at) else {
        slot.stuck = true;
        let kind = ClientErrorKind::UnknownTopicOrPartition;
        return Some(failed(slot, kind, "no such partition"));
    };
    if !(start..=end).contains(&slot.position) {
        model.note(
            "out of range",
            format_args!("{} {}", slot.at, slot.position),
        );
        slot.stuck = true;
        return Some(failed(slot, ClientErrorKind::OffsetOutOfRange, "position"));
    }
    let end_offset = if read_committed { stable_end } else { end };
    if slot.position >= end_offset && slot.reported_end == end_offset {
        return None;
    }
    let many = 1 + model.random.below(60) as usize;
    let (records, next) = model.read(&slot.at, slot.position, many, read_committed);
    let mut batches = Vec::new();
    // A batch may begin before the position: it is fetched whole.
    let per_batch = 1 + model.random.below(20) as usize;
    for records in records.chunks(per_batch) {
        let mut batch = BatchBuilder::new(1_024);
        for (offset, record) in records {
            batch
                .append_at(
                    *offset,
                    record.timestamp,
                    record.key.as_deref(),
                    record.value.as_deref(),
                    std::iter::empty(),
                )
                .unwrap();
        }
        batches.push(batch.finish().freeze());
    }
    (slot.position, slot.reported_end) = (next, end_offset);
    Some(Fetched {
        slot: id,
        batches,
        next_offset: next,
        end_offset,
        error: None,
    })
}

struct OpenBatch {
    records: Vec<Stored>,
    since_ms: i64,
}

struct SimProducer {
    model: Shared,
    id: String,
    timeout_ms: i64,
    linger_ms: i64,
    topics: Vec<(String, bool)>,
    writer: Option<Writer>,
    open: BTreeMap<(u32, i32), OpenBatch>,
    flights: VecDeque<(TopicHandle, TopicPartition, Vec<Stored>)>,
    /// Partitions a batch of this transaction was given up for.
    failed: BTreeSet<TopicPartition>,
    acknowledged: VecDeque<Completion>,
    pending_records: usize,
    /// Something of the open transaction was sent.
    begun: bool,
    request: Option<TransactionRequest>,
    answer: Option<Result<(), ClientError>>,
}

impl SimProducer {
    fn close_batches(&mut self, is_due: impl Fn(&OpenBatch) -> bool) {
        let due: Vec<(u32, i32)> = self
            .open
            .iter()
            .filter(|(_, batch)| is_due(batch))
            .map(|(at, _)| *at)
            .collect();
        for (topic, partition) in due {
            let batch = self.open.remove(&(topic, partition)).unwrap();
            let at = TopicPartition::new(self.topics[topic as usize].0.as_str(), partition);
            self.flights
                .push_back((TopicHandle(topic), at, batch.records));
        }
    }

    /// Lets what is on its way arrive; those of one partition in order.
    fn deliver(&mut self, model: &mut Model) {
        let Some(writer) = self.writer else { return };
        let mut waiting = BTreeSet::new();
        for (topic, at, records) in std::mem::take(&mut self.flights) {
            if waiting.contains(&at) || model.is_late() {
                waiting.insert(at.clone());
                self.flights.push_back((topic, at, records));
                continue;
            }
            self.begun = true;
            let result = if model.fails() || self.failed.contains(&at) {
                self.failed.insert(at.clone());
                self.fail(model, writer, &at, &records)
            } else {
                match model.append_as(&self.id, writer, &at, &records) {
                    Ok(last) => Ok(last),
                    Err(Refusal::Busy) => {
                        waiting.insert(at.clone());
                        self.flights.push_back((topic, at, records));
                        continue;
                    }
                    Err(Refusal::Stale) => {
                        model.note("stale batch", &self.id);
                        let kind = model.lost();
                        Err(error(kind, "a batch of an older epoch"))
                    }
                }
            };
            self.acknowledged.push_back(Completion {
                topic,
                partition: at.partition,
                records: u32::try_from(records.len()).unwrap(),
                result,
            });
        }
    }

    /// A batch that is not acknowledged: it may be in the log.
    fn fail(
        &self,
        model: &mut Model,
        writer: Writer,
        at: &TopicPartition,
        records: &[Stored],
    ) -> Result<i64, ClientError> {
        let is_there = model.one_in(2) && model.append_as(&self.id, writer, at, records).is_ok();
        model.note("fault: batch", format_args!("{at} {is_there}"));
        let kind = match model.random.below(4) {
            0 => ClientErrorKind::Abortable,
            1 => model.lost(),
            _ => ClientErrorKind::Retriable,
        };
        Err(error(kind, "a batch"))
    }

    /// Lets a step of the transactions arrive.
    fn ask(&mut self, model: &mut Model) {
        if self.request.is_none() || model.is_late() {
            return;
        }
        let step = self.request.take().unwrap();
        let is_end = matches!(step, TransactionRequest::Commit | TransactionRequest::Abort);
        if is_end && !self.begun {
            // The cluster knows of no transaction.
            self.answer = Some(Ok(()));
            return;
        }
        if matches!(step, TransactionRequest::SendOffsets { .. }) {
            self.begun = true;
        }
        let (id, timeout_ms) = (self.id.clone(), self.timeout_ms);
        if !model.fails() {
            let done = model.step(&id, self.writer, timeout_ms, &step);
            self.answered(&step, done);
            return;
        }
        model.note("fault: step", format_args!("{id} {step:?}"));
        let failure = match model.random.below(8) {
            // Not done.
            0 => ClientErrorKind::Retriable,
            1 => ClientErrorKind::Abortable,
            2 => model.lost(),
            // Done, and the answer is lost.
            3 => {
                let _ = model.step(&id, self.writer, timeout_ms, &step);
                model.lost()
            }
            4..=6 => {
                let _ = model.step(&id, self.writer, timeout_ms, &step);
                ClientErrorKind::Retriable
            }
            // Done later, if it still may be.
            _ => {
                if let Some(writer) = self.writer {
                    model.leave_behind(Late {
                        transactional_id: id,
                        writer,
                        flights: VecDeque::from([Flight::Step(step)]),
                    });
                }
                ClientErrorKind::Retriable
            }
        };
        self.answer = Some(Err(error(failure, "a step of the transaction")));
    }

    fn answered(&mut self, step: &TransactionRequest, done: Result<Writer, ClientError>) {
        self.answer = Some(done.map(|writer| {
            self.writer = Some(writer);
            if !matches!(step, TransactionRequest::SendOffsets { .. }) {
                self.begun = false;
                self.failed.clear();
            }
        }));
    }

    /// What is not acknowledged is dropped, where it has not arrived.
    fn drop_pending(&mut self) {
        self.open.clear();
        self.acknowledged.clear();
        self.pending_records = 0;
        self.leave_flights_behind();
    }

    fn leave_flights_behind(&mut self) {
        let flights: VecDeque<Flight> = std::mem::take(&mut self.flights)
            .into_iter()
            .map(|(_, at, records)| Flight::Batch(at, records))
            .chain(self.request.take().map(Flight::Step))
            .collect();
        if let Some(writer) = self.writer {
            self.model.lock().leave_behind(Late {
                transactional_id: self.id.clone(),
                writer,
                flights,
            });
        }
    }
}

impl Drop for SimProducer {
    fn drop(&mut self) {
        self.leave_flights_behind();
    }
}

impl Producer for SimProducer {
    fn topic(&mut self, name: &str) -> Result<TopicHandle, ClientError> {
        let index = match self.topics.iter().position(|(known, _)| known == name) {
            Some(known) => known,
            None => {
                self.topics.push((name.to_owned(), false));
                self.topics.len() - 1
            }
        };
        Ok(TopicHandle(u32::try_from(index).unwrap()))
    }

    fn partitions(&mut self, topic: TopicHandle) -> Option<i32> {
        let mut model = self.model.lock();
        let (name, is_known) = self.topics.get_mut(topic.0 as usize)?;
        *is_known |= !model.is_late();
        is_known.then(|| model.partition_count(name)).flatten()
    }

    fn append(
        &mut self,
        topic: TopicHandle,
        partition: i32,
        record: RecordRef<'_>,
    ) -> Result<(), ClientError> {
        assert!(record.headers.is_empty(), "the model keeps no headers");
        let mut model = self.model.lock();
        if self.writer.is_none() {
            return Err(error(ClientErrorKind::ProducerLost, "not initialised"));
        }
        if model.fails() && model.one_in(10) {
            let kind = match model.random.below(2) {
                0 => ClientErrorKind::Abortable,
                _ => model.lost(),
            };
            model.note("fault: record", self.topics[topic.0 as usize].0.clone());
            return Err(error(kind, "a record"));
        }
        let now_ms = model.now_ms;
        drop(model);
        let batch = self
            .open
            .entry((topic.0, partition))
            .or_insert_with(|| OpenBatch {
                records: Vec::new(),
                since_ms: now_ms,
            });
        batch.records.push(Stored {
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            timestamp: record.timestamp,
        });
        self.pending_records += 1;
        Ok(())
    }

    fn flush(&mut self, _now_ms: i64) {
        self.close_batches(|_| true);
    }

    fn poll(
        &mut self,
        now_ms: i64,
        _waker: &Waker,
        completions: &mut Vec<Completion>,
    ) -> Result<(), ClientError> {
        let linger_ms = self.linger_ms;
        self.close_batches(|batch| {
            now_ms - batch.since_ms >= linger_ms || batch.records.len() > 30
        });
        let model = self.model.clone();
        let mut model = model.lock();
        self.deliver(&mut model);
        self.ask(&mut model);
        if self.writer.is_some() && model.fails() && model.one_in(10) {
            let kind = match model.random.below(3) {
                0 => ClientErrorKind::Abortable,
                1 => ClientErrorKind::Retriable,
                _ => model.lost(),
            };
            model.note("fault: producer", &self.id);
            return Err(error(kind, "the producer"));
        }
        while !self.acknowledged.is_empty() && !model.is_late() {
            let next = self.acknowledged.pop_front().unwrap();
            self.pending_records -= next.records as usize;
            completions.push(next);
        }
        Ok(())
    }

    fn pending_records(&self) -> usize {
        self.pending_records
    }

    fn pending_bytes(&self) -> usize {
        self.pending_records * 32
    }

    fn submit_transaction(&mut self, request: TransactionRequest) {
        match request {
            TransactionRequest::Abort | TransactionRequest::Initialize => self.drop_pending(),
            TransactionRequest::Commit => {
                assert_eq!(
                    self.pending_records, 0,
                    "a commit before its output is there"
                );
                self.model.lock().commits_asked += 1;
            }
            TransactionRequest::SendOffsets { .. } => {}
        }
        self.answer = None;
        self.request = Some(request);
    }

    fn poll_transaction(
        &mut self,
        _now_ms: i64,
        _waker: &Waker,
    ) -> Option<Result<(), ClientError>> {
        let model = self.model.clone();
        self.ask(&mut model.lock());
        self.answer.take()
    }
}

struct SimAdmin {
    model: Shared,
    asked: VecDeque<(RequestId, AdminRequest)>,
    ids: u64,
}

impl Admin for SimAdmin {
    fn submit(&mut self, request: AdminRequest) -> RequestId {
        self.ids += 1;
        self.asked.push_back((RequestId(self.ids), request));
        RequestId(self.ids)
    }

    fn poll(
        &mut self,
        _now_ms: i64,
        _waker: &Waker,
        answers: &mut Vec<(RequestId, Result<AdminResponse, ClientError>)>,
    ) {
        let mut model = self.model.lock();
        for (id, request) in std::mem::take(&mut self.asked) {
            if model.is_late() {
                self.asked.push_back((id, request));
                continue;
            }
            let fails = model.fails();
            let answer = if fails && model.one_in(2) {
                None
            } else {
                Some(answer(&mut model, request))
            };
            if fails {
                model.note("fault: request", "");
            }
            answers.push((
                id,
                match answer {
                    Some(answer) if !fails => answer,
                    _ => Err(error(ClientErrorKind::Retriable, "a request")),
                },
            ));
        }
    }
}

fn answer(model: &mut Model, request: AdminRequest) -> Result<AdminResponse, ClientError> {
    let unknown = || {
        error(
            ClientErrorKind::UnknownTopicOrPartition,
            "no such partition",
        )
    };
    Ok(match request {
        AdminRequest::DescribeTopics(names) => AdminResponse::Topics(
            names
                .into_iter()
                .map(|name| {
                    let count = model.partition_count(&name);
                    (name, count)
                })
                .collect(),
        ),
        AdminRequest::TopicIds(names) => AdminResponse::TopicIds(
            names
                .into_iter()
                .map(|name| {
                    let id = model.topic_id(&name);
                    (name, id)
                })
                .collect(),
        ),
        AdminRequest::CreateTopics(topics) => AdminResponse::PerTopic(
            topics
                .into_iter()
                .map(|topic| {
                    let created = model.create(&topic);
                    (topic.name, created)
                })
                .collect(),
        ),
        AdminRequest::ListOffsets(asked) => AdminResponse::Offsets(
            asked
                .into_iter()
                .map(|(at, spec)| {
                    let offsets = model.offsets(&at).ok_or_else(unknown);
                    let offset = offsets.map(|(start, stable_end, end)| match spec {
                        OffsetSpec::Earliest => start,
                        OffsetSpec::Latest {
                            read_committed: true,
                        } => stable_end,
                        _ => end,
                    });
                    (at, offset)
                })
                .collect(),
        ),
        AdminRequest::DeleteRecords(asked) => AdminResponse::Offsets(
            asked
                .into_iter()
                .map(|(at, offset)| {
                    let start = model.delete_below(&at, offset).ok_or_else(unknown);
                    model.note("purge", &at);
                    (at, start)
                })
                .collect(),
        ),
        AdminRequest::FetchOffsets { partitions, .. } => AdminResponse::CommittedOffsets(
            partitions
                .into_iter()
                .map(|at| {
                    let committed = model.committed(&at)?;
                    Ok((at, committed))
                })
                .collect::<Result<_, ClientError>>()?,
        ),
        AdminRequest::CommitOffsets {
            member, offsets, ..
        } => {
            model.commit_offsets(&member, &offsets)?;
            AdminResponse::Done
        }
        other => panic!("the model is not asked for {other:?}"),
    })
}
