//! `brooklet perf consume`: how fast the records of a topic are read.

use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

use brooklet_streams_core::client::record_batch::BatchCursor;
use brooklet_streams_core::client::{
    ClientError, ClientErrorKind, Cluster as _, ConsumerOptions, TopicPartition,
};
use brooklet_streams_core::clock::{Clock, SystemClock};
use clap::Args;

use super::{REPORT_EVERY, Tally, waker};
use crate::connection::Connection;
use crate::topic::setting;

/// Read the records of a topic and say how fast that was.
///
/// `brooklet perf consume orders --records 1000000`
///
/// With --latest it reads what comes from now on, and the latency of a record is the time since its timestamp.
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// The topic.
    topic: String,
    /// Stop after so many records; without it at the end that the topic has now.
    #[arg(long, short = 'n', required_if_eq("latest", "true"))]
    records: Option<u64>,
    /// Begin with the next record to come, not with the oldest.
    #[arg(long)]
    latest: bool,
    /// Give up when nothing comes for so long.
    #[arg(long, default_value_t = 10_000)]
    timeout_ms: u64,
    /// A setting of the client under librdkafka's name, like `fetch.min.bytes=100000`. May be repeated.
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = setting)]
    properties: Vec<(String, String)>,
    #[command(flatten)]
    connection: Connection,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let mut partitions = crate::consume::open(
        &arguments.connection,
        &arguments.topic,
        None,
        !arguments.latest,
    )?;
    let cluster = arguments.connection.cluster();
    let mut consumer = cluster.consumer(&ConsumerOptions {
        client_id: "brooklet-perf".to_owned(),
        read_committed: false,
        partition_fetch_bytes_max: 1 << 20,
        properties: arguments.properties.clone(),
    })?;
    for partition in &mut partitions {
        let at = TopicPartition::new(arguments.topic.as_str(), partition.partition);
        partition.slot = consumer.add(&at, partition.position)?;
    }
    let waker = waker();
    let mut fetched = Vec::new();
    let mut wanted = arguments.records.unwrap_or(u64::MAX);
    let timeout = Duration::from_millis(arguments.timeout_ms);
    let mut last = Instant::now();
    let (mut whole, mut lately) = (Tally::new(), Tally::new());
    while wanted > 0
        && (arguments.records.is_some()
            || partitions
                .iter()
                .any(|partition| partition.position < partition.end))
    {
        consumer.poll(SystemClock.now_ms(), &waker, &mut fetched)?;
        if fetched.is_empty() {
            if last.elapsed() > timeout {
                println!("{}", whole.line("read", true));
                return Err(format!("nothing came for {timeout:?}").into());
            }
            thread::park_timeout(Duration::from_millis(10));
            continue;
        }
        for fetched in fetched.drain(..) {
            let Some(partition) = partitions
                .iter_mut()
                .find(|partition| partition.slot == fetched.slot)
            else {
                continue;
            };
            match fetched.error {
                Some(error) if error.kind == ClientErrorKind::Retriable => continue,
                Some(error) => return Err(error.into()),
                None => {}
            }
            for batch in fetched.batches {
                let mut cursor = BatchCursor::new(batch).map_err(ClientError::from)?;
                cursor
                    .skip_below(partition.position)
                    .map_err(ClientError::from)?;
                let now_ms = SystemClock.now_ms();
                while wanted > 0
                    && let Some(record) = cursor.next().map_err(ClientError::from)?
                {
                    wanted -= 1;
                    last = Instant::now();
                    let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len) as u64;
                    let bytes = length(record.key.as_deref()) + length(record.value.as_deref());
                    for tally in [&mut whole, &mut lately] {
                        tally.records += 1;
                        tally.bytes += bytes;
                        if arguments.latest {
                            let age_ms = u64::try_from(now_ms - record.timestamp).unwrap_or(0);
                            tally.times.record(age_ms.saturating_mul(1000));
                        }
                    }
                }
            }
            partition.position = fetched.next_offset;
        }
        if lately.since.elapsed() >= REPORT_EVERY {
            eprintln!("{}", lately.line("read", false));
            lately = Tally::new();
        }
    }
    println!("{}", whole.line("read", true));
    Ok(())
}
