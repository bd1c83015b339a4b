//! A partition's directory after anything: appends, rolls and crashes, then bytes changed, cut or added in its files. Opening it must give a log
//! that can be read to its end and written to, or an error that says what is wrong.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arbitrary::Arbitrary;
use brooklet_broker::disk::{Crash, Disk, SimDisk};
use brooklet_broker::log::{AppendOrigin, Log, LogConfig, OpenOptions};
use brooklet_broker::protocol::record_batch::{Builder, batches};
use libfuzzer_sys::fuzz_target;

const NOW_MS: i64 = 1_700_000_000_000;
const DIR: &str = "/data/t-0";

#[derive(Arbitrary, Debug)]
enum Action {
    Append { count: u8, value_bytes: u8, producer: Option<(u8, u8)>, timestamp: i16 },
    Sync,
    Reopen { crash: Option<Fate>, recovery_point: u16, clean: bool },
    Change { file: u8, at: u16, bytes: Vec<u8> },
    Cut { file: u8, length: u16 },
    Remove { file: u8 },
    Retain,
}

#[derive(Arbitrary, Debug)]
enum Fate {
    Lost,
    Kept,
    Torn(u64),
}

fn options(clean_shutdown: bool, recovery_point: i64) -> OpenOptions {
    OpenOptions {
        dir: PathBuf::from(DIR),
        topic_id: uuid::Uuid::from_u128(1),
        config: LogConfig { segment_bytes: 1500, index_interval_bytes: 200, tail_bytes_max: 400, ..LogConfig::default() },
        clean_shutdown,
        recovery_point,
        log_start_offset: 0,
    }
}

fn file(disk: &SimDisk, number: u8) -> Option<PathBuf> {
    let entries = disk.list(Path::new(DIR)).ok()?;
    let mut names: Vec<PathBuf> = entries.into_iter().map(|entry| Path::new(DIR).join(entry.name)).collect();
    names.sort();
    if names.is_empty() {
        return None;
    }
    Some(names.swap_remove(usize::from(number) % names.len()))
}

/// Everything in the log is read, batch after batch.
fn read_all(log: &Log) {
    let end = log.log_end_offset();
    let mut offset = log.log_start_offset();
    while offset < end {
        let Ok(slice) = log.read(offset, 1 << 20, end, true) else { return };
        for bytes in &slice.batches {
            for batch in batches(bytes) {
                assert!(batch.header().base_offset() < end);
            }
        }
        assert!(slice.next_offset > offset, "a read goes on: {slice:?}");
        offset = slice.next_offset;
    }
}

fuzz_target!(|actions: Vec<Action>| {
    let mut disk = SimDisk::new();
    disk.create_dir_all(Path::new("/data")).expect("a directory");
    disk.sync_dir(Path::new("/")).expect("a directory is synced");
    let open = |disk: &SimDisk, clean, recovery_point| Log::open(Arc::new(disk.clone()), options(clean, recovery_point), NOW_MS).ok();
    let mut log = open(&disk, false, 0).map(|(log, _)| log);
    for action in actions.into_iter().take(40) {
        let Some(open_log) = log.as_mut() else { return };
        match action {
            Action::Append { count, value_bytes, producer, timestamp } => {
                let mut builder = Builder::new();
                if let Some((id, sequence)) = producer {
                    builder = builder.producer(id.into(), 0, sequence.into());
                }
                for number in 0..=count % 8 {
                    builder.append(NOW_MS + i64::from(timestamp), Some(&[number]), Some(&vec![7; value_bytes.into()]), &[]);
                }
                // Sequences may be refused.
                let _ = open_log.append_bytes(builder.build(), AppendOrigin::Client, 0, NOW_MS);
            }
            Action::Sync => {
                if let Some(job) = open_log.begin_sync() {
                    let result = job.run();
                    let _ = open_log.complete_sync(job, result);
                }
            }
            Action::Reopen { crash, recovery_point, clean } => {
                read_all(open_log);
                drop(log.take());
                disk = match crash {
                    None => disk,
                    Some(Fate::Lost) => disk.crash(Crash::LoseUnsynced),
                    Some(Fate::Kept) => disk.crash(Crash::KeepAll),
                    Some(Fate::Torn(seed)) => disk.crash(Crash::Torn { seed }),
                };
                log = open(&disk, clean, recovery_point.into()).map(|(log, _)| log);
                if let Some(log) = &log {
                    read_all(log);
                }
            }
            Action::Change { file: number, at, bytes } => {
                if let Some(path) = file(&disk, number)
                    && let Ok(file) = disk.open(&path)
                {
                    let _ = file.write_all_at(at.into(), &bytes);
                }
            }
            Action::Cut { file: number, length } => {
                if let Some(path) = file(&disk, number)
                    && let Ok(file) = disk.open(&path)
                {
                    let _ = file.truncate(length.into());
                }
            }
            Action::Remove { file: number } => {
                if let Some(path) = file(&disk, number) {
                    let _ = disk.remove_file(&path);
                }
            }
            Action::Retain => {
                let end = open_log.log_end_offset();
                let _ = open_log.apply_retention(NOW_MS + 8 * 24 * 3_600_000, end);
            }
        }
    }
    if let Some(log) = &log {
        read_all(log);
    }
});
