//! `brooklet perf produce`: records as fast as the cluster takes them, or at a rate.

use std::collections::VecDeque;
use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

use brooklet_streams_core::client::{
    Cluster as _, Producer, ProducerOptions, RecordRef, TopicHandle,
};
use brooklet_streams_core::clock::{Clock, SystemClock};
use brooklet_streams_core::record::Headers;
use clap::Args;

use super::{REPORT_EVERY, Tally, waker};
use crate::connection::Connection;
use crate::topic::setting;

/// Produce records and say how long their acknowledgements took, from the append on.
///
/// `brooklet perf produce orders --records 1000000 --record-size 100`
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// The topic, which must exist.
    topic: String,
    /// How many records.
    #[arg(long, short = 'n', default_value_t = 1_000_000)]
    records: u64,
    /// Bytes of each value.
    #[arg(long, default_value_t = 100)]
    record_size: usize,
    /// Records a second at most; without it as many as the cluster takes.
    #[arg(long, value_name = "RECORDS")]
    throughput: Option<u64>,
    /// A batch is sent when it has so many bytes.
    #[arg(long, default_value_t = 16 * 1024)]
    batch_bytes: usize,
    /// A batch is sent at the latest after so long.
    #[arg(long, default_value_t = 5)]
    linger_ms: i64,
    /// A setting of the client under librdkafka's name, like `acks=1` or `compression.codec=lz4`. May be repeated.
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = setting)]
    properties: Vec<(String, String)>,
    #[command(flatten)]
    connection: Connection,
}

/// Bytes appended and not acknowledged, as `buffer.memory`.
const PENDING_BYTES_MAX: usize = 32 * 1024 * 1024;

/// How long the topic may take to be known.
const TOPIC_PATIENCE: Duration = Duration::from_secs(30);

/// When the records of each partition were appended that are not acknowledged.
struct Unacknowledged {
    appended: Vec<VecDeque<Instant>>,
    failure: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let cluster = arguments.connection.cluster();
    let mut producer = cluster.producer(&ProducerOptions {
        client_id: "brooklet-perf".to_owned(),
        batch_bytes: arguments.batch_bytes,
        linger_ms: arguments.linger_ms,
        properties: arguments.properties.clone(),
        transaction: None,
    })?;
    let topic = producer.topic(&arguments.topic)?;
    let partitions = partitions(producer.as_mut(), topic, arguments)?;
    let value = payload(arguments.record_size);
    let headers = Headers::default();
    let mut unacknowledged = Unacknowledged {
        appended: vec![VecDeque::new(); partitions],
        failure: None,
    };
    let (mut whole, mut lately) = (Tally::new(), Tally::new());
    // Records go to one partition until its batch is full, as a client without keys does it.
    let in_a_row = (arguments.batch_bytes / (arguments.record_size + 10)).max(1) as u64;
    let waker = waker();
    let mut completions = Vec::new();
    for index in 0..arguments.records {
        if let Some(rate) = arguments.throughput {
            let due = Duration::from_secs_f64(index as f64 / rate.max(1) as f64);
            while let Some(early) = due
                .checked_sub(whole.since.elapsed())
                .filter(|early| !early.is_zero())
            {
                producer.poll(SystemClock.now_ms(), &waker, &mut completions)?;
                unacknowledged.settle(&mut completions, &mut [&mut whole, &mut lately], arguments);
                thread::park_timeout(early.min(Duration::from_millis(1)));
            }
        }
        while producer.pending_bytes() > PENDING_BYTES_MAX {
            producer.poll(SystemClock.now_ms(), &waker, &mut completions)?;
            unacknowledged.settle(&mut completions, &mut [&mut whole, &mut lately], arguments);
            if producer.pending_bytes() > PENDING_BYTES_MAX {
                thread::park_timeout(Duration::from_millis(10));
            }
        }
        let at = (index / in_a_row) as usize % partitions;
        let now_ms = SystemClock.now_ms();
        let record = RecordRef {
            key: None,
            value: Some(&value),
            timestamp: now_ms,
            headers: &headers,
        };
        producer.append(topic, i32::try_from(at)?, record)?;
        if let Some(appended) = unacknowledged.appended.get_mut(at) {
            appended.push_back(Instant::now());
        }
        if index % 64 == 0 {
            producer.poll(now_ms, &waker, &mut completions)?;
            unacknowledged.settle(&mut completions, &mut [&mut whole, &mut lately], arguments);
            if lately.since.elapsed() >= REPORT_EVERY {
                eprintln!("{}", lately.line("acknowledged", false));
                lately = Tally::new();
            }
        }
        if let Some(failure) = unacknowledged.failure.take() {
            return Err(failure.into());
        }
    }
    producer.flush(SystemClock.now_ms());
    while producer.pending_records() > 0 && unacknowledged.failure.is_none() {
        producer.poll(SystemClock.now_ms(), &waker, &mut completions)?;
        if completions.is_empty() {
            thread::park_timeout(Duration::from_millis(10));
        }
        unacknowledged.settle(&mut completions, &mut [&mut whole, &mut lately], arguments);
    }
    // What was acknowledged with the last poll.
    producer.poll(SystemClock.now_ms(), &waker, &mut completions)?;
    unacknowledged.settle(&mut completions, &mut [&mut whole, &mut lately], arguments);
    if let Some(failure) = unacknowledged.failure {
        return Err(failure.into());
    }
    println!("{}", whole.line("acknowledged", true));
    Ok(())
}

impl Unacknowledged {
    /// Acknowledgements come in the order of the appends to their partition.
    fn settle(
        &mut self,
        completions: &mut Vec<brooklet_streams_core::client::Completion>,
        tallies: &mut [&mut Tally],
        arguments: &Arguments,
    ) {
        for completion in completions.drain(..) {
            if let Err(error) = completion.result {
                self.failure.get_or_insert(error.to_string());
            }
            let at = usize::try_from(completion.partition).unwrap_or(usize::MAX);
            let Some(appended) = self.appended.get_mut(at) else {
                continue;
            };
            for _ in 0..completion.records {
                let Some(since) = appended.pop_front() else {
                    break;
                };
                let us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
                for tally in tallies.iter_mut() {
                    tally.times.record(us);
                    tally.records += 1;
                    tally.bytes += arguments.record_size as u64;
                }
            }
        }
    }
}

fn partitions(
    producer: &mut dyn Producer,
    topic: TopicHandle,
    arguments: &Arguments,
) -> Result<usize, Box<dyn Error>> {
    let waker = waker();
    let begin = Instant::now();
    loop {
        if let Some(partitions) = producer.partitions(topic).filter(|count| *count > 0) {
            return Ok(usize::try_from(partitions)?);
        }
        if begin.elapsed() > TOPIC_PATIENCE {
            return Err(format!(
                "topic {} does not exist on {}",
                arguments.topic, arguments.connection.bootstrap
            )
            .into());
        }
        producer.poll(SystemClock.now_ms(), &waker, &mut Vec::new())?;
        thread::park_timeout(Duration::from_millis(10));
    }
}

/// Letters in an order that repeats late, so that a codec does not find much.
fn payload(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut letter = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b'A' + (state % 26) as u8
    };
    (0..bytes).map(|_| letter()).collect()
}
