//! `brooklet consume`: records of a topic, a line each.

use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use brooklet_streams_core::client::record_batch::BatchCursor;
use brooklet_streams_core::client::{
    AdminRequest, AdminResponse, ClientError, ClientErrorKind, Cluster as _, ConsumerOptions,
    Fetched, OffsetSpec, Slot, TopicPartition,
};
use brooklet_streams_core::clock::{Clock, SystemClock};
use clap::Args;

use crate::connection::{Connection, unexpected};

/// Print the records of a topic, a line each, and wait for more.
///
/// `brooklet consume orders --from-beginning --keys --max 10`
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// The topic.
    topic: String,
    /// Begin with the oldest record, not with the next one to come.
    #[arg(long, short)]
    from_beginning: bool,
    /// Only this partition.
    #[arg(long, short)]
    partition: Option<i32>,
    /// Stop after so many records.
    #[arg(long, short = 'n')]
    max: Option<u64>,
    /// Stop at the end that the topic has now.
    #[arg(long, short)]
    exit: bool,
    /// Print the key before the value, with a tab between.
    #[arg(long, short)]
    keys: bool,
    /// Print partition, offset and timestamp (milliseconds) first.
    #[arg(long, short)]
    verbose: bool,
    /// Keys are windowed, as `to_stream()` of a windowed table writes them: print KEY@START, the start in milliseconds.
    #[arg(long)]
    windowed_keys: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) struct Unpark(pub(crate) Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A partition that is read.
pub(crate) struct Partition {
    pub(crate) slot: Slot,
    pub(crate) partition: i32,
    pub(crate) position: i64,
    pub(crate) end: i64,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let mut partitions = open(
        &arguments.connection,
        &arguments.topic,
        arguments.partition,
        arguments.from_beginning,
    )?;
    let cluster = arguments.connection.cluster();
    let options = ConsumerOptions {
        client_id: "brooklet-consume".to_owned(),
        read_committed: false,
        partition_fetch_bytes_max: 1 << 20,
        properties: Vec::new(),
    };
    let mut consumer = cluster.consumer(&options)?;
    for partition in &mut partitions {
        partition.slot = consumer.add(
            &TopicPartition::new(arguments.topic.as_str(), partition.partition),
            partition.position,
        )?;
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut out = std::io::stdout().lock();
    let mut fetched: Vec<Fetched> = Vec::new();
    let mut left = arguments.max.unwrap_or(u64::MAX);
    while left > 0
        && !(arguments.exit
            && partitions
                .iter()
                .all(|partition| partition.position >= partition.end))
    {
        consumer.poll(SystemClock.now_ms(), &waker, &mut fetched)?;
        if fetched.is_empty() {
            out.flush()?;
            thread::park_timeout(Duration::from_millis(200));
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
                while left > 0
                    && let Some(record) = cursor.next().map_err(ClientError::from)?
                {
                    if arguments.exit && record.offset >= partition.end {
                        break;
                    }
                    left -= 1;
                    if arguments.verbose {
                        write!(
                            out,
                            "{}\t{}\t{}\t",
                            partition.partition, record.offset, record.timestamp
                        )?;
                    }
                    if arguments.keys || arguments.windowed_keys {
                        write_key(&mut out, record.key.as_deref(), arguments.windowed_keys)?;
                    }
                    out.write_all(record.value.as_deref().unwrap_or(b"null"))?;
                    out.write_all(b"\n")?;
                }
            }
            partition.position = fetched.next_offset;
        }
    }
    out.flush()?;
    Ok(())
}

fn write_key(out: &mut impl Write, key: Option<&[u8]>, windowed: bool) -> std::io::Result<()> {
    match key {
        Some(key) if windowed && key.len() >= 8 => {
            let (key, start) = key.split_at(key.len() - 8);
            let start = start.try_into().map(i64::from_be_bytes).unwrap_or_default();
            out.write_all(key)?;
            write!(out, "@{start}\t")
        }
        key => {
            out.write_all(key.unwrap_or(b"null"))?;
            out.write_all(b"\t")
        }
    }
}

type Offsets = Vec<(TopicPartition, Result<i64, ClientError>)>;

/// The wanted partitions with where to begin, and the end they have now.
pub(crate) fn open(
    connection: &Connection,
    topic: &str,
    only: Option<i32>,
    from_beginning: bool,
) -> Result<Vec<Partition>, Box<dyn Error>> {
    let AdminResponse::Topics(topics) =
        connection.call(AdminRequest::DescribeTopics(vec![topic.to_owned()]))?
    else {
        return Err(unexpected());
    };
    let count = topics
        .into_iter()
        .find_map(|(_, partitions)| partitions)
        .ok_or_else(|| format!("topic {topic} does not exist on {}", connection.bootstrap))?;
    let wanted: Vec<i32> = match only {
        Some(partition) if (0..count).contains(&partition) => vec![partition],
        Some(partition) => {
            return Err(format!(
                "topic {topic} has partitions 0 to {}, not {partition}",
                count - 1
            )
            .into());
        }
        None => (0..count).collect(),
    };
    let offsets = |spec: OffsetSpec| -> Result<Offsets, Box<dyn Error>> {
        let asked = wanted
            .iter()
            .map(|partition| (TopicPartition::new(topic, *partition), spec))
            .collect();
        let AdminResponse::Offsets(mut offsets) =
            connection.call(AdminRequest::ListOffsets(asked))?
        else {
            return Err(unexpected());
        };
        offsets.sort_by_key(|(partition, _)| partition.partition);
        Ok(offsets)
    };
    let ends = offsets(OffsetSpec::Latest {
        read_committed: false,
    })?;
    let begins = if from_beginning {
        offsets(OffsetSpec::Earliest)?
    } else {
        ends.clone()
    };
    begins
        .into_iter()
        .zip(ends)
        .map(|((at, position), (_, end))| {
            Ok(Partition {
                slot: Slot(u32::MAX),
                partition: at.partition,
                position: position?,
                end: end?,
            })
        })
        .collect()
}
