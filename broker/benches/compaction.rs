//! How fast a pass of the cleaner is: bytes of dirty log for each second of wall time, and of CPU time of its one thread.
//!
//! `cargo bench -p brooklet-broker --bench compaction [-- MIB]` (192 if nobody says). The log lies in a temporary directory (`TMPDIR`), and is read from the page cache.
//! Each byte is read twice, once for the map, once to be rewritten, and checked by its CRC both times.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use brooklet_broker::disk::RealDisk;
use brooklet_broker::log::cleaner::choose::candidate;
use brooklet_broker::log::cleaner::{CleaningLimits, CleaningProgress};
use brooklet_broker::log::{AppendOrigin, Log, LogConfig, OpenOptions};
use brooklet_broker::protocol::compression::Codec;
use brooklet_broker::protocol::record_batch::Builder;

const NOW_MS: i64 = 1_700_000_000_000;
/// As the producers' default `batch.size`.
const BATCH_BYTES: usize = 16 * 1024;

fn main() -> Result<(), Box<dyn Error>> {
    // cargo adds --bench.
    let mib = std::env::args().skip(1).find_map(|word| word.parse().ok());
    let is_bench = std::env::args().any(|word| word == "--bench");
    // `cargo test` only wants to know that it runs.
    let mib: usize = mib.unwrap_or(if is_bench { 192 } else { 1 });
    println!("value bytes, superseded %, codec: dirty MiB, kept %, MiB/s wall, MiB/s CPU, map MiB");
    for codec in [Codec::None, Codec::Lz4] {
        for value_bytes in [100, 1000] {
            for superseded_percent in [10, 50, 90] {
                let (progress, wall_s, cpu_s) =
                    run(mib << 20, value_bytes, superseded_percent, codec)?;
                let dirty = progress.bytes_before as f64 / f64::from(1 << 20);
                println!(
                    "{value_bytes}, {superseded_percent}, {}: {dirty:.0}, {:.1}, {:.0}, {:.0}, {:.1}",
                    codec.name(),
                    100.0 * progress.records_after as f64 / progress.records_before.max(1) as f64,
                    dirty / wall_s,
                    dirty / cpu_s,
                    progress.map_bytes as f64 / f64::from(1 << 20),
                );
            }
        }
    }
    Ok(())
}

/// Fills a log and cleans it: what was done, seconds of wall and CPU time.
fn run(
    bytes: usize,
    value_bytes: usize,
    superseded_percent: u64,
    codec: Codec,
) -> Result<(CleaningProgress, f64, f64), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let options = OpenOptions {
        dir: dir.path().join("table-0"),
        topic_id: uuid::Uuid::from_u128(1),
        config: LogConfig {
            compact: true,
            delete: false,
            segment_bytes: 128 << 20,
            tail_bytes_max: 0,
            ..LogConfig::default()
        },
        clean_shutdown: false,
        recovery_point: 0,
        log_start_offset: 0,
    };
    let (mut log, _) = Log::open(Arc::new(RealDisk), options, NOW_MS)?;
    // Xorshift: which key is written again is in no order, and values compress by about a half.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut appended = 0;
    let mut keys = 0;
    let mut value = vec![0; value_bytes];
    while appended < bytes {
        let mut builder = Builder::with_capacity(BATCH_BYTES).codec(codec);
        while builder.size_bytes() + value_bytes < BATCH_BYTES {
            let key = if keys > 0 && random() % 100 < superseded_percent {
                random() % keys
            } else {
                keys += 1;
                keys - 1
            };
            let key = format!("key-{key:016}");
            for chunk in value.chunks_mut(16) {
                let random = random().to_le_bytes();
                let length = chunk.len().min(8);
                if let Some((to, from)) = chunk.get_mut(..length).zip(random.get(..length)) {
                    to.copy_from_slice(from);
                }
            }
            builder.append(NOW_MS, Some(key.as_bytes()), Some(&value), &[]);
        }
        appended += builder.size_bytes();
        log.append_bytes(builder.build(), AppendOrigin::Coordinator, 0, NOW_MS)?;
    }
    log.seal_active(NOW_MS)?;
    if let Some(job) = log.begin_sync() {
        let result = job.run();
        log.complete_sync(job, result)?;
    }
    let candidate = candidate(&log.cleaning_view(log.log_end_offset())?, None, NOW_MS);
    let (wall, cpu_s) = (Instant::now(), thread_cpu_s());
    let mut job = log
        .begin_cleaning(&candidate, CleaningLimits::default(), NOW_MS)?
        .ok_or("nothing to clean")?;
    job.map(&mut |_| true)?;
    while let Some(group) = job.next_group(&mut |_| true)? {
        log.swap_at_once(group)?;
    }
    let (wall_s, cpu_s) = (wall.elapsed().as_secs_f64(), thread_cpu_s() - cpu_s);
    assert_eq!(job.cleaned_to(), log.log_end_offset(), "one pass is enough");
    Ok((job.progress(), wall_s, cpu_s))
}

/// CPU time of this thread, where the system tells it.
fn thread_cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split_whitespace().next();
    nanoseconds
        .and_then(|word| word.parse::<f64>().ok())
        .map_or(f64::NAN, |nanoseconds| nanoseconds / 1e9)
}
