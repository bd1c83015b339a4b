//! Compaction of one log: its invariants against a model, each crash point, and a reader in the middle.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;

use uuid::Uuid;

use super::choose::candidate;
use super::*;
use crate::disk::{Disk, SimDisk};
use crate::log::{AppendOrigin, Appended, LogConfig, OpenOptions};
use crate::protocol::compression::Codec;
use crate::protocol::record_batch::{Builder, RecordBatch, batches};

const NOW_MS: i64 = 1_700_000_000_000;
const DIR: &str = "/data/table-0";
const DELETE_RETENTION_MS: i64 = 1000;

fn sim_disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 600,
        index_interval_bytes: 100,
        tail_bytes_max: 300,
        compact: true,
        delete: false,
        delete_retention_ms: DELETE_RETENTION_MS,
        ..LogConfig::default()
    }
}

fn options() -> OpenOptions {
    OpenOptions {
        dir: PathBuf::from(DIR),
        topic_id: Uuid::from_u128(7),
        config: config(),
        clean_shutdown: false,
        recovery_point: 0,
        log_start_offset: 0,
    }
}

fn open(disk: &SimDisk, options: OpenOptions) -> Log {
    Log::open(Arc::new(disk.clone()), options, NOW_MS)
        .unwrap()
        .0
}

fn append(log: &mut Log, bytes: BytesMut, now_ms: i64) -> Appended {
    log.append_bytes(bytes, AppendOrigin::Client, 0, now_ms)
        .unwrap()
}

fn sync(log: &mut Log) {
    if let Some(job) = log.begin_sync() {
        let result = job.run();
        log.complete_sync(job, result).unwrap();
    }
}

/// Records of one batch: key, and value or tombstone.
fn batch(builder: Builder, records: &[(&str, Option<&str>)]) -> BytesMut {
    let mut builder = builder;
    for (index, (key, value)) in records.iter().enumerate() {
        let value = value.map(str::as_bytes);
        builder.append(
            NOW_MS + index as i64,
            Some(key.as_bytes()),
            value,
            &[("h", value)],
        );
    }
    builder.build()
}

fn put(log: &mut Log, records: &[(&str, Option<&str>)]) -> i64 {
    append(log, batch(Builder::new(), records), NOW_MS).base_offset
}

/// Limits whose map holds so many keys.
fn limits(keys_max: usize) -> CleaningLimits {
    CleaningLimits {
        map_bytes_max: (keys_max + 2) * offset_map::SLOT_BYTES,
        map_load_percent: 99,
        io_buffer_bytes: 128,
        seed: 5,
    }
}

/// One pass over all that can be cleaned; where it ended.
fn pass(
    log: &mut Log,
    from: Option<i64>,
    limits: CleaningLimits,
    now_ms: i64,
) -> Result<(i64, CleaningProgress), CleanError> {
    let view = log.cleaning_view(log.log_end_offset())?;
    let candidate = candidate(&view, from, now_ms);
    let Some(mut job) = log.begin_cleaning(&candidate, limits, now_ms)? else {
        return Ok((candidate.first_dirty_offset, CleaningProgress::default()));
    };
    let mut pace = |_| true;
    job.map(&mut pace)?;
    while let Some(group) = job.next_group(&mut pace)? {
        log.swap_at_once(group)?;
    }
    Ok((job.cleaned_to(), job.progress()))
}

fn seal(log: &mut Log, now_ms: i64) {
    log.seal_active(now_ms).unwrap();
    sync(log);
}

/// Seals and cleans everything.
fn clean_all(log: &mut Log, now_ms: i64) -> CleaningProgress {
    seal(log, now_ms);
    pass(log, None, limits(1000), now_ms).unwrap().1
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    offset: i64,
    timestamp: i64,
    key: String,
    value: Option<String>,
}

/// All batches of the log, as a reader from `from` on gets them.
fn read_batches(log: &Log, from: i64) -> Vec<Vec<u8>> {
    let end = log.log_end_offset();
    let mut found = Vec::new();
    let mut offset = from;
    while offset < end {
        let slice = log.read(offset, 200, end, true).unwrap();
        for bytes in &slice.batches {
            found.extend(batches(bytes).map(|batch| batch.bytes().to_vec()));
        }
        assert!(slice.next_offset > offset, "{slice:?}");
        offset = slice.next_offset;
    }
    found
}

fn records_of(bytes: &[u8]) -> Vec<Seen> {
    let batch = RecordBatch::parse(bytes).unwrap();
    batch.verify_crc().unwrap();
    batch.check_records(1 << 20, |_| {}).unwrap();
    let mut scratch = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    batch
        .records(&mut scratch, 1 << 20)
        .unwrap()
        .map(|record| {
            let record = record.unwrap();
            let value = record.value.map(text);
            let header = record.headers().next().map(|(_, value)| value.map(text));
            assert!(
                header.is_none_or(|header| header == value),
                "headers go along"
            );
            Seen {
                offset: record.offset,
                timestamp: record.timestamp,
                key: text(record.key.unwrap()),
                value,
            }
        })
        .collect()
}

fn read(log: &Log) -> Vec<Seen> {
    let batches = read_batches(log, log.log_start_offset());
    let data = batches
        .iter()
        .filter(|bytes| !RecordBatch::parse(bytes).unwrap().is_control());
    data.flat_map(|bytes| records_of(bytes)).collect()
}

/// As `offset key=value`, for a look at once.
fn show(log: &Log) -> String {
    let seen = read(log).into_iter().map(|seen| {
        let value = seen.value.unwrap_or_else(|| "-".to_owned());
        format!("{} {}={value}", seen.offset, seen.key)
    });
    seen.collect::<Vec<_>>().join(", ")
}

// ---- One thing at a time -------------------------------------------------------------------------------------------------------------

#[test]
fn the_last_record_of_each_key_stays_with_its_offset() {
    let disk = sim_disk();
    let mut log = open(&disk, options());
    for turn in 0..30 {
        let (key, value) = (format!("k{}", turn % 3), format!("v{turn}"));
        put(&mut log, &[(&key, Some(&value)), ("same", Some(&value))]);
    }
    let before = log.segment_count();
    let progress = clean_all(&mut log, NOW_MS);
    assert_eq!(show(&log), "54 k0=v27, 56 k1=v28, 58 k2=v29, 59 same=v29");
    // What is left of them is put together when the next pass comes by.
    clean_all(&mut log, NOW_MS);
    assert!(log.segment_count() < before);
    assert_eq!((progress.records_before, progress.records_after), (60, 4));
    assert_eq!(log.log_end_offset(), 60);
    log.check_invariants(60);
}

#[test]
fn batches_stay_in_their_codec_and_untouched_ones_stay_as_they_are() {
    for codec in Codec::ALL {
        let mut log = open(&sim_disk(), options());
        let builder = || Builder::new().codec(codec);
        append(
            &mut log,
            batch(builder(), &[("a", Some("1")), ("b", Some("2"))]),
            NOW_MS,
        );
        append(&mut log, batch(builder(), &[("a", Some("3"))]), NOW_MS);
        let before = read_batches(&log, 0);
        clean_all(&mut log, NOW_MS);
        let after = read_batches(&log, 0);
        assert_eq!(show(&log), "1 b=2, 2 a=3", "{codec:?}");
        assert_eq!(after[1], before[1]);
        let first = RecordBatch::parse(&after[0]).unwrap();
        assert_eq!(first.codec().unwrap(), codec);
        assert_eq!((first.base_offset(), first.last_offset()), (0, 1));
        assert_eq!(records_of(&after[0])[0].timestamp, NOW_MS + 1);
    }
}

#[test]
fn a_tombstone_outlives_the_first_cleaning_and_goes_after_delete_retention_ms() {
    let mut log = open(&sim_disk(), options());
    put(&mut log, &[("a", Some("1")), ("b", Some("2"))]);
    put(&mut log, &[("a", None), ("c", Some("3"))]);
    put(&mut log, &[("d", Some("4"))]);
    clean_all(&mut log, NOW_MS);
    assert_eq!(show(&log), "1 b=2, 2 a=-, 3 c=3, 4 d=4");
    let marked = &read_batches(&log, 2)[0];
    let horizon = RecordBatch::parse(marked).unwrap().delete_horizon_ms();
    assert_eq!(horizon, Some(NOW_MS + DELETE_RETENTION_MS));
    assert_eq!(records_of(marked)[0].timestamp, NOW_MS);
    assert_eq!(records_of(marked)[1].timestamp, NOW_MS + 1);
    clean_all(&mut log, NOW_MS + DELETE_RETENTION_MS - 1);
    assert_eq!(show(&log), "1 b=2, 2 a=-, 3 c=3, 4 d=4");
    clean_all(&mut log, NOW_MS + DELETE_RETENTION_MS);
    assert_eq!(show(&log), "1 b=2, 3 c=3, 4 d=4");
    assert_eq!(
        records_of(&read_batches(&log, 2)[0])[0].timestamp,
        NOW_MS + 1
    );
}

#[test]
fn a_map_that_is_full_leaves_the_rest_to_the_next_pass() {
    let mut log = open(&sim_disk(), options());
    for turn in 0..40 {
        put(
            &mut log,
            &[
                (&format!("k{}", turn % 10), Some("v")),
                (&format!("n{turn}"), Some("v")),
            ],
        );
    }
    seal(&mut log, NOW_MS);
    let expected: BTreeSet<_> = {
        let mut whole = open(&sim_disk(), options());
        for turn in 0..40 {
            put(
                &mut whole,
                &[
                    (&format!("k{}", turn % 10), Some("v")),
                    (&format!("n{turn}"), Some("v")),
                ],
            );
        }
        clean_all(&mut whole, NOW_MS);
        read(&whole).into_iter().map(|seen| seen.offset).collect()
    };
    let (mut from, mut passes) = (0, 0);
    while from < log.log_end_offset() {
        let (to, progress) = pass(&mut log, Some(from), limits(3), NOW_MS).unwrap();
        assert!(
            to > from && progress.map_keys <= 4,
            "{from} {to} {progress:?}"
        );
        (from, passes) = (to, passes + 1);
    }
    assert!(passes >= 16, "{passes}");
    let found: BTreeSet<_> = read(&log).into_iter().map(|seen| seen.offset).collect();
    assert_eq!(found, expected);
}

#[test]
fn what_does_not_fit_into_one_segment_is_split() {
    let mut log = open(&sim_disk(), options());
    for turn in 0..12 {
        put(
            &mut log,
            &[(&format!("k{turn}"), Some("v")), ("same", Some("w"))],
        );
    }
    seal(&mut log, NOW_MS);
    let view = log.cleaning_view(24).unwrap();
    let mut job = log
        .begin_cleaning(&candidate(&view, None, NOW_MS), limits(100), NOW_MS)
        .unwrap()
        .unwrap();
    job.segment_bytes = 10_000;
    job.output_bytes_max = 250;
    job.map(&mut |_| true).unwrap();
    while let Some(group) = job.next_group(&mut |_| true).unwrap() {
        log.swap_at_once(group).unwrap();
    }
    assert!(log.segment_count() > 4, "{log:?}");
    assert!(log.sealed.iter().all(|segment| segment.size_bytes <= 250));
    log.check_invariants(24);
    assert_eq!(read(&log).len(), 13);
    assert_eq!(read_batches(&log, 0).len(), 12);
    let reopened = open_as_crashed(log);
    assert_eq!(read(&reopened).len(), 13);
}

/// What a kill of the process leaves, opened with nothing known.
fn open_as_crashed(log: Log) -> Log {
    let disk = Arc::clone(&log.disk);
    let end = log.log_end_offset();
    drop(log);
    let (log, recovery) = Log::open(disk, options(), NOW_MS).unwrap();
    assert_eq!(
        (recovery.bytes_truncated, recovery.segments_deleted),
        (0, 0)
    );
    assert_eq!(log.log_end_offset(), end);
    log.check_invariants(end);
    log
}

#[test]
fn the_log_end_stays_though_everything_before_it_goes() {
    let disk = sim_disk();
    let mut log = open(&disk, options());
    put(&mut log, &[("a", Some("1"))]);
    put(&mut log, &[("a", None)]);
    clean_all(&mut log, NOW_MS);
    clean_all(&mut log, NOW_MS + DELETE_RETENTION_MS);
    assert_eq!(show(&log), "");
    let log = open_as_crashed(log);
    assert_eq!(log.log_end_offset(), 2);
    log.close().unwrap();
    let clean = OpenOptions {
        clean_shutdown: true,
        ..options()
    };
    assert_eq!(open(&disk, clean).log_end_offset(), 2);
}

#[test]
fn an_active_producers_last_batch_stays_without_its_records() {
    let disk = sim_disk();
    let mut log = open(&disk, options());
    let last = || {
        batch(
            Builder::new().producer(9, 2, 3),
            &[("a", Some("2")), ("b", Some("2"))],
        )
    };
    append(
        &mut log,
        batch(Builder::new().producer(9, 2, 0), &[("a", Some("1")); 3]),
        NOW_MS,
    );
    let appended = append(&mut log, last(), NOW_MS);
    put(&mut log, &[("a", Some("3")), ("b", Some("3"))]);
    clean_all(&mut log, NOW_MS);
    assert_eq!(show(&log), "5 a=3, 6 b=3");
    let headers = read_batches(&log, 0);
    let kept = RecordBatch::parse(&headers[0]).unwrap();
    assert_eq!(
        (kept.base_offset(), kept.last_offset(), kept.record_count()),
        (3, 4, 0)
    );
    assert_eq!(
        (
            kept.base_sequence(),
            kept.last_sequence(),
            kept.base_timestamp()
        ),
        (3, 4, -1)
    );
    let mut log = open_as_crashed(log);
    let again = append(&mut log, last(), NOW_MS);
    assert!(again.duplicate);
    assert_eq!(
        (again.base_offset, again.last_offset),
        (appended.base_offset, appended.last_offset)
    );
    let next = batch(Builder::new().producer(9, 2, 5), &[("c", Some("1"))]);
    assert!(!append(&mut log, next, NOW_MS).duplicate);
    // Once it has expired, nothing is kept for it.
    log.producers.expire(i64::MAX, 1);
    put(&mut log, &[("c", Some("2"))]);
    clean_all(&mut log, NOW_MS);
    assert!(
        read_batches(&log, 0)
            .iter()
            .all(|bytes| !RecordBatch::parse(bytes).unwrap().has_producer_id())
    );
}

/// Producers that only deleted batches tell of, compaction before and after the deletion, and a crash that nothing was noted before.
#[test]
fn a_producer_whose_batches_are_deleted_is_known_after_compaction_and_a_crash() {
    for compacts_first in [false, true] {
        let disk = sim_disk();
        let mut log = open(&disk, options());
        let last = || batch(Builder::new().producer(9, 2, 0), &[("p", Some("1"))]);
        let appended = append(&mut log, last(), NOW_MS);
        for turn in 0..40 {
            let key = format!("k{turn}");
            put(&mut log, &[(&key, Some("1"))]);
            put(&mut log, &[("a", Some(&key))]);
        }
        seal(&mut log, NOW_MS);
        if compacts_first {
            clean_all(&mut log, NOW_MS);
        }
        assert!(log.segment_count() > 3);
        // The segment with the producer's batch goes.
        let second = log.sealed[1].base_offset;
        log.delete_records_before(second).unwrap();
        assert_eq!(log.sealed[0].base_offset, second);
        if !compacts_first {
            clean_all(&mut log, NOW_MS);
            assert_eq!(log.sealed[0].base_offset, second);
        }
        let log_disk = Arc::new(disk.crash(crate::disk::Crash::LoseUnsynced));
        drop(log);
        let (mut log, _) = Log::open(log_disk, options(), NOW_MS).unwrap();
        let again = append(&mut log, last(), NOW_MS);
        assert!(again.duplicate, "compacts first: {compacts_first}");
        assert_eq!(again.base_offset, appended.base_offset);
    }
}

#[test]
fn records_without_a_key_go_and_are_counted() {
    let mut log = open(&sim_disk(), options());
    log.set_config(LogConfig {
        compact: false,
        ..config()
    });
    let mut builder = Builder::new();
    builder.append(NOW_MS, None, Some(b"v"), &[]);
    builder.append(NOW_MS, Some(b"a"), Some(b"v"), &[]);
    append(&mut log, builder.build(), NOW_MS);
    log.set_config(config());
    let progress = clean_all(&mut log, NOW_MS);
    assert_eq!(show(&log), "1 a=v");
    assert_eq!(progress.records_without_key, 1);
}

#[test]
fn a_damaged_batch_stops_the_pass_and_nothing_changes() {
    let disk = sim_disk();
    let mut log = open(&disk, options());
    for turn in 0..20 {
        put(&mut log, &[("a", Some(&turn.to_string()))]);
    }
    seal(&mut log, NOW_MS);
    let path = log.sealed[1].path.clone();
    let file = disk.open(&path).unwrap();
    let mut byte = [0];
    file.read_at(70, &mut byte).unwrap();
    file.write_all_at(70, &[byte[0] ^ 1]).unwrap();
    let before = disk.list(Path::new(DIR)).unwrap();
    let failed = pass(&mut log, None, limits(100), NOW_MS).unwrap_err();
    assert!(
        matches!(failed, CleanError::Corrupt { position: 0, .. }),
        "{failed}"
    );
    assert!(failed.to_string().contains("00000000000000000"), "{failed}");
    assert_eq!(disk.list(Path::new(DIR)).unwrap(), before);
}

#[test]
fn a_reader_in_the_middle_of_a_segment_goes_on_across_the_swap() {
    let mut log = open(&sim_disk(), options());
    for turn in 0..20 {
        put(
            &mut log,
            &[
                ("a", Some(&turn.to_string())),
                (&turn.to_string(), Some("v")),
            ],
        );
    }
    seal(&mut log, NOW_MS);
    log.release_tail();
    let before = read_batches(&log, 0);
    let end = log.log_end_offset();
    // Planned before the swap, performed after it: the old bytes, at the old positions.
    let plans: Vec<_> = (0..end)
        .map(|offset| log.plan_read(offset, 1, end, true).unwrap())
        .collect();
    pass(&mut log, None, limits(100), NOW_MS).unwrap();
    for (offset, plan) in plans.into_iter().enumerate() {
        let slice = plan.perform().unwrap();
        assert_eq!(slice.batches[0], before[offset / 2]);
        // And on from there in the new segments: every offset that is left, none twice.
        let rest: Vec<_> = read_batches(&log, slice.next_offset)
            .iter()
            .flat_map(|bytes| records_of(bytes))
            .map(|seen| seen.offset)
            .filter(|offset| *offset >= slice.next_offset)
            .collect();
        let expected = read(&log).into_iter().map(|seen| seen.offset);
        let expected: Vec<_> = expected
            .filter(|offset| *offset >= slice.next_offset)
            .collect();
        assert_eq!(rest, expected);
    }
}

#[test]
fn segments_that_were_deleted_meanwhile_stop_the_pass() {
    let disk = sim_disk();
    let mut log = open(&disk, options());
    for turn in 0..40 {
        put(&mut log, &[("a", Some(&turn.to_string()))]);
    }
    seal(&mut log, NOW_MS);
    let view = log.cleaning_view(40).unwrap();
    let mut job = log
        .begin_cleaning(&candidate(&view, None, NOW_MS), limits(100), NOW_MS)
        .unwrap()
        .unwrap();
    job.map(&mut |_| true).unwrap();
    let group = job.next_group(&mut |_| true).unwrap().unwrap();
    log.delete_records_before(20).unwrap();
    assert!(matches!(log.swap_at_once(group), Err(CleanError::Changed)));
    let names = disk.list(Path::new(DIR)).unwrap();
    assert!(
        names
            .iter()
            .all(|entry| !entry.name.contains("cleaned") && !entry.name.contains("swap")),
        "{names:?}"
    );
    assert_eq!(read_batches(&log, 20).len(), 20);
}

#[test]
fn a_pass_that_is_stopped_leaves_nothing_behind() {
    let disk = sim_disk();
    let mut log = open(&disk, options());
    for turn in 0..40 {
        put(&mut log, &[("a", Some(&turn.to_string()))]);
    }
    seal(&mut log, NOW_MS);
    let before = disk.list(Path::new(DIR)).unwrap();
    let view = log.cleaning_view(40).unwrap();
    let candidate = candidate(&view, None, NOW_MS);
    for calls_max in 0..60 {
        let mut calls = 0;
        let mut pace = |_| {
            calls += 1;
            calls <= calls_max
        };
        let mut job = log
            .begin_cleaning(&candidate, limits(100), NOW_MS)
            .unwrap()
            .unwrap();
        let group = job.map(&mut pace).and_then(|()| job.next_group(&mut pace));
        match group {
            Err(error) => assert!(matches!(error, CleanError::Stopped), "{error}"),
            Ok(group) => group.unwrap().discard(),
        }
        assert_eq!(disk.list(Path::new(DIR)).unwrap(), before);
    }
}

#[test]
fn verify_finds_cleaned_segments_sound_and_says_what_is_damaged() {
    let disk = sim_disk();
    let mut log = open(&disk, options());
    for turn in 0..20 {
        put(
            &mut log,
            &[
                ("a", Some(&turn.to_string())),
                (&turn.to_string(), Some("v")),
            ],
        );
    }
    clean_all(&mut log, NOW_MS);
    let paths: Vec<_> = log
        .sealed
        .iter()
        .map(|segment| segment.path.clone())
        .collect();
    let (mut records, mut entries) = (0, 0);
    for path in &paths {
        let verified = crate::log::verify_segment(&disk, path).unwrap();
        assert_eq!(verified.problems, Vec::<String>::new());
        records += verified.records;
        entries += verified.index_entries;
    }
    assert_eq!(records, 21);
    assert!(entries > 4, "{entries}");
    for (extension, at, what) in [
        ("log", 70, "crc"),
        ("index", 7, "offset index"),
        ("timeindex", 11, "time index"),
    ] {
        let damaged = disk.crash(crate::disk::Crash::KeepAll);
        let file = damaged.open(&paths[0].with_extension(extension)).unwrap();
        let mut byte = [0];
        file.read_at(at, &mut byte).unwrap();
        file.write_all_at(at, &[byte[0] ^ 1]).unwrap();
        let problems = crate::log::verify_segment(&damaged, &paths[0])
            .unwrap()
            .problems;
        assert!(
            problems.iter().any(|problem| problem.contains(what)),
            "{problems:?}"
        );
    }
}
