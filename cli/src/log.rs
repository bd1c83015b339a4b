//! `brooklet log dump`: what a log segment holds, batch by batch.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use brooklet_broker::protocol::record_batch::RecordBatch;
use clap::Subcommand;

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
}

pub(crate) fn run(command: Command) -> Result<(), Box<dyn Error>> {
    let Command::Dump { files, records } = command;
    let mut out = std::io::stdout().lock();
    let mut damaged = false;
    for file in files {
        let bytes = fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
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
