//! `brooklet log`: what a log segment holds, whether its files are sound, and compaction on demand.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use brooklet_broker::disk::RealDisk;
use brooklet_broker::log::verify_segment;
use brooklet_broker::messages::MetadataRequest;
use brooklet_broker::protocol::record_batch::RecordBatch;
use brooklet_broker::{Broker, BrokerConfig, Drive};
use clap::Subcommand;

use crate::topic::setting;

/// A compressed batch is shown up to this size.
const DECOMPRESSED_BYTES_MAX: usize = 256 << 20;

/// Look into log files, ours and Apache Kafka's.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Print the batches of segment files, and their records: `brooklet log dump data/orders-0/*.log --records`.
    Dump {
        /// Segment files, as `00000000000000000000.log`. Ours and Apache Kafka's have the same format.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Also every record.
        #[arg(long, short)]
        records: bool,
    },
    /// Check segments with their indexes, changing nothing: `brooklet log verify data`. Ends with an error if anything is damaged.
    ///
    /// Of a broker that is running the last segment of a partition may look torn: it is being written.
    Verify {
        /// A data directory, a partition's directory, or segment files. Ours and Apache Kafka's.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// Also say what is well.
        #[arg(long, short)]
        verbose: bool,
    },
    /// Compact the compacted topics of a data directory now, with what a running broker would still leave alone: `brooklet log compact --data data`.
    ///
    /// The broker must be stopped; a running one compacts by itself.
    Compact {
        /// The data directory.
        #[arg(long, short)]
        data: PathBuf,
        /// Only this topic. May be repeated.
        #[arg(long = "topic", short)]
        topics: Vec<String>,
        /// A setting under Kafka's server property name, like `log.cleaner.dedupe.buffer.size=1048576`. May be repeated.
        #[arg(long = "config", value_name = "NAME=VALUE", value_parser = setting)]
        configs: Vec<(String, String)>,
    },
}

pub(crate) fn run(command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Dump { files, records } => dump(&files, records),
        Command::Verify { paths, verbose } => verify(&paths, verbose),
        Command::Compact {
            data,
            topics,
            configs,
        } => compact(&data, &topics, &configs),
    }
}

/// The segment files at a path: itself, or those in it or in the directories in it.
fn segments_at(path: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    let entries = |dir: &Path| {
        let entries = fs::read_dir(dir).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        entries.map_err(|error| format!("{}: {error}", dir.display()))
    };
    for entry in entries(path)? {
        let inside = entry.path();
        if inside.is_dir() {
            found.extend(entries(&inside)?.iter().map(fs::DirEntry::path));
        } else {
            found.push(inside);
        }
    }
    found.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    found.sort();
    Ok(found)
}

fn verify(paths: &[PathBuf], verbose: bool) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    let (mut segments, mut records, mut bytes, mut damaged) = (0, 0, 0, 0);
    for path in paths {
        for segment in segments_at(path)? {
            let found = verify_segment(&RealDisk, &segment)
                .map_err(|error| format!("{}: {error}", segment.display()))?;
            segments += 1;
            records += found.records;
            bytes += found.bytes;
            damaged += usize::from(!found.problems.is_empty());
            let name = segment.display();
            for problem in &found.problems {
                writeln!(out, "{name}: {problem}")?;
            }
            if verbose && found.problems.is_empty() {
                writeln!(
                    out,
                    "{name}: offsets {}..{} batches {} (empty {}) records {} index entries {} bytes {}",
                    found.base_offset,
                    found.next_offset,
                    found.batches,
                    found.empty_batches,
                    found.records,
                    found.index_entries,
                    found.bytes
                )?;
            }
        }
    }
    writeln!(
        out,
        "{segments} segments, {records} records, {bytes} bytes: {damaged} damaged"
    )?;
    match damaged {
        0 => Ok(()),
        _ => Err("some segments are damaged, see above".into()),
    }
}

fn compact(
    data: &Path,
    topics: &[String],
    configs: &[(String, String)],
) -> Result<(), Box<dyn Error>> {
    if !data.is_dir() {
        // Opening a broker would create one.
        return Err(format!("{} is not a directory", data.display()).into());
    }
    let mut config = BrokerConfig::new(data);
    for (name, value) in configs {
        config = config.property(name, value)?;
    }
    config.drive = Drive::Manual;
    let broker = Broker::open(config)?;
    let mut request = MetadataRequest::default();
    request.topics = None;
    let mut found: Vec<(String, usize)> = broker
        .call(request)?
        .topics
        .into_iter()
        .filter_map(|topic| Some((topic.name?.to_string(), topic.partitions.len())))
        .collect();
    found.sort();
    for wanted in topics {
        if !found.iter().any(|(name, _)| name == wanted) {
            return Err(format!("there is no topic {wanted}").into());
        }
    }
    found.retain(|(name, _)| topics.is_empty() || topics.contains(name));
    let mut out = std::io::stdout().lock();
    let mut failed = false;
    for (topic, partitions) in found {
        for index in 0..i32::try_from(partitions)? {
            let size = || {
                let partition = broker.partition(&topic, index);
                partition.map_or(0, |partition| partition.size_bytes())
            };
            let before = size();
            match broker.compact(&topic, index) {
                Ok(None) if topics.contains(&topic) && index == 0 => {
                    writeln!(out, "{topic}: its cleanup.policy is not compact")?;
                }
                Ok(None) => {}
                Ok(Some(passes)) => {
                    let keys: u64 = passes.iter().map(|pass| pass.progress.map_keys).sum();
                    let after = size();
                    let passes = passes.len();
                    writeln!(
                        out,
                        "{topic}-{index}: {before} bytes to {after}, {keys} dirty keys in {passes} passes"
                    )?;
                }
                Err(error) => {
                    writeln!(out, "{topic}-{index}: {error}")?;
                    failed = true;
                }
            }
        }
    }
    broker.shutdown()?;
    match failed {
        false => Ok(()),
        true => Err("some partitions were not compacted, see above".into()),
    }
}

fn dump(files: &[PathBuf], records: bool) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    let mut damaged = false;
    for file in files {
        let bytes = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        writeln!(out, "{}: {} bytes", file.display(), bytes.len())?;
        let mut at = 0;
        let mut scratch = Vec::new();
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let batch = match RecordBatch::parse(rest) {
                Ok(batch) => batch,
                Err(error) => {
                    writeln!(
                        out,
                        "at {at}: {error}: {} bytes are not a whole batch",
                        rest.len()
                    )?;
                    damaged = true;
                    break;
                }
            };
            let codec = batch.codec().map_or_else(
                |error| error.to_string(),
                |codec| format!("{codec:?}").to_lowercase(),
            );
            write!(
                out,
                "at {at}: offsets {}..={} records {} bytes {} codec {codec} leader epoch {} max timestamp {}",
                batch.base_offset(),
                batch.last_offset(),
                batch.record_count(),
                batch.size_bytes(),
                batch.leader_epoch(),
                batch.max_timestamp(),
            )?;
            if batch.has_producer_id() {
                write!(
                    out,
                    " producer {} epoch {} sequence {}",
                    batch.producer_id(),
                    batch.producer_epoch(),
                    batch.base_sequence()
                )?;
            }
            for (flag, is_set) in [
                (" transactional", batch.is_transactional()),
                (" control", batch.is_control()),
            ] {
                if is_set {
                    write!(out, "{flag}")?;
                }
            }
            if let Some(horizon_ms) = batch.delete_horizon_ms() {
                write!(out, " delete horizon {horizon_ms}")?;
            }
            if let Err(error) = batch.verify_crc() {
                write!(out, " DAMAGED: {error}")?;
                damaged = true;
            }
            writeln!(out)?;
            if records {
                for record in batch.records(&mut scratch, DECOMPRESSED_BYTES_MAX)? {
                    let record = record?;
                    let text = |bytes: Option<&[u8]>| {
                        bytes.map_or("null".to_owned(), |bytes| bytes.escape_ascii().to_string())
                    };
                    writeln!(
                        out,
                        "  {} at {}: {} = {}",
                        record.offset,
                        record.timestamp,
                        text(record.key),
                        text(record.value)
                    )?;
                }
            }
            at += batch.size_bytes();
        }
    }
    if damaged {
        Err("some bytes are not valid record batches, see above".into())
    } else {
        Ok(())
    }
}
