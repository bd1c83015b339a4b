#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::disk::{Crash, Fault, Piece, RealDisk, SimDisk};
use crate::protocol::compression::Codec;
use crate::protocol::record_batch::{Builder, RecordBatch, batches};

const NOW_MS: i64 = 1_700_000_000_000;
const DIR: &str = "/data/orders-0";

fn sim_disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

/// Small segments, an index entry every few batches, a tail that holds some.
fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 1500,
        index_interval_bytes: 200,
        tail_bytes_max: 400,
        ..LogConfig::default()
    }
}

fn options(config: LogConfig) -> OpenOptions {
    OpenOptions {
        dir: PathBuf::from(DIR),
        topic_id: Uuid::from_u128(7),
        config,
        clean_shutdown: false,
        recovery_point: 0,
        log_start_offset: 0,
    }
}

fn open(disk: &SimDisk, options: OpenOptions) -> (Log, Recovery) {
    Log::open(Arc::new(disk.clone()), options, NOW_MS).unwrap()
}

/// A batch of so many records whose values tell it apart.
fn batch(count: usize, tag: u64, timestamp: i64) -> BytesMut {
    build(Builder::new(), count, tag, timestamp)
}

fn build(mut builder: Builder, count: usize, tag: u64, timestamp: i64) -> BytesMut {
    for index in 0..count {
        builder.append(
            timestamp + index as i64,
            Some(format!("k{tag}").as_bytes()),
            Some(format!("value {tag} {index}").as_bytes()),
            &[],
        );
    }
    builder.build()
}

fn append(log: &mut Log, bytes: BytesMut) -> Appended {
    log.append_bytes(bytes, AppendOrigin::Client, 0, NOW_MS)
        .unwrap()
}

fn sync(log: &mut Log) -> i64 {
    match log.begin_sync() {
        Some(job) => {
            let result = job.run();
            log.complete_sync(job, result).unwrap()
        }
        None => log.flushed_offset(),
    }
}

/// What a read finds, carried out both ways: the bytes that are found in their file are those that are read.
pub(super) fn both_ways(plan: impl Fn() -> ReadPlan) -> ReadSlice {
    let read = plan().perform().unwrap();
    let located = plan().locate().unwrap();
    assert_eq!(
        located.batches.iter().map(Piece::size_bytes).sum::<usize>(),
        located.size_bytes
    );
    assert!(contents(&located) == read.batches.concat(), "{located:?}");
    assert_eq!(located.first_offset, read.first_offset);
    // A gap may be passed with what lies before it.
    assert!(located.next_offset >= read.next_offset, "{located:?}");
    assert!(
        read.aborted
            .iter()
            .all(|aborted| located.aborted.contains(aborted)),
        "{located:?}"
    );
    read
}

fn contents(located: &ReadSlice<Vec<Piece>>) -> Vec<u8> {
    let mut found = Vec::new();
    for piece in &located.batches {
        match piece.clone() {
            Piece::Memory(bytes) => found.extend_from_slice(&bytes),
            Piece::File(mut range) => {
                found.extend_from_slice(&range.take_front(range.size_bytes).unwrap());
            }
        }
    }
    found
}

/// All batches from an offset on, one by one.
fn read_all(log: &Log, from: i64, max_bytes: usize) -> Vec<Vec<u8>> {
    let end = log.log_end_offset();
    let mut found = Vec::new();
    let mut offset = from;
    while offset < end {
        let slice = log.read(offset, max_bytes, end, true).unwrap();
        assert_eq!(
            slice.size_bytes,
            slice.batches.iter().map(Bytes::len).sum::<usize>()
        );
        for bytes in &slice.batches {
            found.extend(batches(bytes).map(|batch| batch.bytes().to_vec()));
        }
        assert!(slice.next_offset > offset, "{slice:?}");
        offset = slice.next_offset;
    }
    found
}

// ---- Against a model -----------------------------------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Action {
    Append {
        count: usize,
        codec: u8,
        timestamp: i64,
    },
    Idempotent {
        producer: i64,
        count: usize,
        repeat: bool,
    },
    Read {
        at: prop::sample::Index,
        max_bytes: usize,
        bound: prop::sample::Index,
        at_least_one: bool,
    },
    ByTime {
        timestamp: i64,
    },
    Sync,
    Reopen {
        clean: bool,
    },
    DeleteBefore {
        at: prop::sample::Index,
    },
    ReleaseTail,
}

fn action() -> impl Strategy<Value = Action> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        6 => (1usize..6, 0u8..5, 0i64..2000).prop_map(|(count, codec, timestamp)| Action::Append { count, codec, timestamp }),
        3 => (0i64..3, 1usize..4, any::<bool>()).prop_map(|(producer, count, repeat)| Action::Idempotent { producer, count, repeat }),
        6 => (index(), 0usize..2000, index(), any::<bool>())
            .prop_map(|(at, max_bytes, bound, at_least_one)| Action::Read { at, max_bytes, bound, at_least_one }),
        2 => (-5i64..2200).prop_map(|timestamp| Action::ByTime { timestamp }),
        1 => Just(Action::Sync),
        1 => any::<bool>().prop_map(|clean| Action::Reopen { clean }),
        1 => index().prop_map(|at| Action::DeleteBefore { at }),
        1 => Just(Action::ReleaseTail),
    ]
}

/// Of a producer's batch: its first sequence, its records, its base offset.
type LastBatch = (i32, usize, i64);

#[derive(Debug, Default)]
struct Model {
    /// Base offset, last offset, bytes as stored.
    batches: Vec<(i64, i64, Vec<u8>)>,
    start: i64,
    /// Producer → next sequence, and its last batch: sequence, count, base offset.
    producers: std::collections::BTreeMap<i64, (i32, Option<LastBatch>)>,
    tag: u64,
}

impl Model {
    fn end(&self) -> i64 {
        self.batches.last().map_or(0, |batch| batch.1 + 1)
    }

    fn place(&mut self, mut bytes: BytesMut, count: usize) -> i64 {
        let base = self.end();
        record_batch::set_place(&mut bytes, base, 0);
        self.batches
            .push((base, base + count as i64 - 1, bytes.to_vec()));
        base
    }

    fn read(&self, offset: i64, max_bytes: usize, bound: i64, at_least_one: bool) -> Vec<Vec<u8>> {
        let mut found: Vec<Vec<u8>> = Vec::new();
        let mut size = 0;
        if offset >= bound {
            return found;
        }
        for (_, last, bytes) in self.batches.iter().filter(|batch| batch.1 >= offset) {
            let fits = size + bytes.len() <= max_bytes || (found.is_empty() && at_least_one);
            if *last >= bound || !fits {
                break;
            }
            size += bytes.len();
            found.push(bytes.clone());
        }
        found
    }

    fn by_time(&self, timestamp: i64) -> Option<(i64, i64)> {
        let mut scratch = Vec::new();
        for (_, _, bytes) in &self.batches {
            for record in RecordBatch::parse(bytes)
                .unwrap()
                .records(&mut scratch, 1 << 20)
                .unwrap()
            {
                let record = record.unwrap();
                if record.timestamp >= timestamp && record.offset >= self.start {
                    return Some((record.offset, record.timestamp));
                }
            }
        }
        None
    }
}

fn reopen(log: Log, disk: &SimDisk, clean: bool) -> Log {
    let mut options = options(log.config().clone());
    options.log_start_offset = log.log_start_offset();
    options.recovery_point = log.flushed_offset();
    options.clean_shutdown = clean;
    if clean {
        log.close().unwrap();
    } else {
        drop(log);
    }
    let (log, report) = open(disk, options);
    if clean {
        assert_eq!(report, Recovery::default());
    }
    assert_eq!((report.bytes_truncated, report.segments_deleted), (0, 0));
    assert_eq!(log.flushed_offset(), log.log_end_offset());
    log
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_log_does_what_its_model_does(actions in prop::collection::vec(action(), 1..120)) {
        let disk = sim_disk();
        let (mut log, _) = open(&disk, options(config()));
        let mut model = Model::default();
        for action in actions {
            match action {
                Action::Append { count, codec, timestamp } => {
                    model.tag += 1;
                    let bytes = build(Builder::new().codec(Codec::from_id(codec).unwrap()), count, model.tag, timestamp);
                    let base = model.place(bytes.clone(), count);
                    let appended = append(&mut log, bytes);
                    prop_assert_eq!((appended.base_offset, appended.last_offset, appended.duplicate), (base, base + count as i64 - 1, false));
                }
                Action::Idempotent { producer, count, repeat } => {
                    model.tag += 1;
                    let (next, last) = model.producers.get(&producer).copied().unwrap_or_default();
                    let (sequence, count, expected) = match last.filter(|_| repeat) {
                        Some((sequence, count, base)) => (sequence, count, Some(base)),
                        None => (next, count, None),
                    };
                    let bytes = build(Builder::new().producer(producer, 0, sequence), count, model.tag, 1000);
                    let appended = append(&mut log, bytes.clone());
                    prop_assert_eq!(appended.duplicate, expected.is_some());
                    let base = expected.unwrap_or_else(|| model.place(bytes, count));
                    prop_assert_eq!(appended.base_offset, base);
                    model.producers.insert(producer, (sequence + count as i32, Some((sequence, count, base))));
                }
                Action::Read { at, max_bytes, bound, at_least_one } => {
                    let end = model.end();
                    let offset = model.start + at.index((end - model.start + 1) as usize) as i64;
                    // A high watermark lies between batches.
                    let bounds: Vec<i64> = model.batches.iter().map(|batch| batch.0).filter(|base| *base >= model.start).chain([end]).collect();
                    let bound = bounds[bound.index(bounds.len())];
                    let whole = log.read(offset, max_bytes, bound, at_least_one).unwrap();
                    let plan = || log.plan_read(offset, max_bytes, bound, at_least_one).unwrap();
                    both_ways(plan);
                    // No gaps here.
                    prop_assert_eq!(plan().locate().unwrap().next_offset, plan().perform().unwrap().next_offset);
                    let found: Vec<Vec<u8>> =
                        whole.batches.iter().flat_map(|bytes| batches(bytes)).map(|batch| batch.bytes().to_vec()).collect();
                    let expected = model.read(offset, max_bytes, bound, at_least_one);
                    // A read may end early, with its segment, but not be empty for that.
                    prop_assert!(expected.starts_with(&found), "{:?}", whole);
                    prop_assert_eq!(found.is_empty(), expected.is_empty());
                    if let Some(first) = found.first() {
                        prop_assert_eq!(whole.first_offset, RecordBatch::parse(first).unwrap().base_offset());
                    }
                    if let Some(last) = found.last() {
                        prop_assert_eq!(whole.next_offset, RecordBatch::parse(last).unwrap().last_offset() + 1);
                    }
                }
                Action::ByTime { timestamp } => {
                    let found = log.offset_for_timestamp(timestamp).unwrap().map(|found| (found.offset, found.timestamp));
                    prop_assert_eq!(found, model.by_time(timestamp));
                }
                Action::Sync => {
                    prop_assert_eq!(sync(&mut log), model.end());
                }
                Action::Reopen { clean } => {
                    log = reopen(log, &disk, clean);
                    prop_assert_eq!(log.log_end_offset(), model.end());
                }
                Action::DeleteBefore { at } => {
                    let offset = model.start + at.index((model.end() - model.start + 1) as usize) as i64;
                    log.delete_records_before(offset).unwrap();
                    model.start = model.start.max(offset);
                }
                Action::ReleaseTail => log.release_tail(),
            }
            prop_assert_eq!(log.log_start_offset(), model.start);
            log.check_invariants(model.end());
        }
        let expected: Vec<Vec<u8>> = model.batches.iter().filter(|batch| batch.1 >= model.start).map(|batch| batch.2.clone()).collect();
        prop_assert_eq!(&read_all(&log, model.start, 700), &expected);
        log = reopen(log, &disk, false);
        prop_assert_eq!(read_all(&log, model.start, 700), expected);
    }
}

// ---- Crashes -------------------------------------------------------------------------------------------------------------------------

/// What the script knew when the disk stopped.
#[derive(Debug, Default)]
struct Known {
    /// Appended, in order, since the log start: base offset and stored bytes.
    appended: Vec<(i64, Vec<u8>)>,
    flushed: i64,
    /// As in the checkpoints, which are only ever behind.
    recovery_point: i64,
    log_start: i64,
}

/// Appends of several producers, rolls, syncs, a retention that takes all, deletions, a clean close and more of the same. Stops at the first
/// error.
fn run_script(disk: &SimDisk, known: &mut Known) -> Result<(), LogError> {
    let mut tag = 0;
    let mut clean = false;
    let mut sequence = 0;
    for round in 0..3 {
        let mut opened = options(config());
        opened.clean_shutdown = clean;
        opened.recovery_point = known.recovery_point;
        opened.log_start_offset = known.log_start;
        let (mut log, _) = Log::open(Arc::new(disk.clone()), opened, NOW_MS)?;
        for step in 0..14 {
            tag += 1;
            let builder = if step % 3 == 0 {
                Builder::new().producer(5, 0, sequence)
            } else {
                Builder::new()
            };
            sequence += if step % 3 == 0 { 2 } else { 0 };
            let mut bytes = build(builder, 2, tag, NOW_MS - 1000 + tag as i64);
            let appended =
                match log.append_bytes(bytes.clone(), AppendOrigin::Client, round, NOW_MS) {
                    Ok(appended) => appended,
                    Err(AppendError::Log(error)) => return Err(error),
                    Err(error) => panic!("{error}"),
                };
            record_batch::set_place(&mut bytes, appended.base_offset, round);
            known.appended.push((appended.base_offset, bytes.to_vec()));
            if step % 4 == 3
                && let Some(job) = log.begin_sync()
            {
                let result = job.run();
                known.flushed = log.complete_sync(job, result)?;
                if step % 8 == 7 {
                    known.recovery_point = known.flushed;
                }
            }
        }
        if round == 1 {
            // The whole log has expired below what is flushed.
            let later_ms = NOW_MS + 8 * 24 * 3_600_000;
            log.apply_retention(later_ms, known.flushed)?;
            known.log_start = log.log_start_offset();
        }
        if round == 0 {
            log.delete_records_before(known.flushed - 3)?;
            known.log_start = log.log_start_offset();
        }
        let end = log.log_end_offset();
        log.close()?;
        clean = true;
        known.flushed = end;
        known.recovery_point = end;
    }
    Ok(())
}

fn check_after_crash(disk: &SimDisk, known: &Known, history: &str) {
    let opened = OpenOptions {
        recovery_point: known.recovery_point,
        log_start_offset: known.log_start,
        ..options(config())
    };
    let (mut log, report) = open(disk, opened);
    let (start, end) = (log.log_start_offset(), log.log_end_offset());
    assert!(
        end >= known.flushed,
        "{history}: log ends at {end}, flushed was {}: {report:?}",
        known.flushed
    );
    assert!(!report.ends_before_recovery_point, "{history}: {report:?}");
    log.check_invariants(end);
    assert_eq!(log.flushed_offset(), end, "{history}");
    // Everything served is what was appended there, byte for byte, and nothing below the flushed offset is missing.
    let appended = |base_offset: i64| {
        known
            .appended
            .iter()
            .rfind(|batch| batch.0 == base_offset)
            .map(|batch| &batch.1)
    };
    let mut next = start;
    for bytes in read_all(&log, start, 600) {
        let batch = RecordBatch::parse(&bytes).unwrap();
        batch
            .verify_crc()
            .unwrap_or_else(|error| panic!("{history}: {error}"));
        assert!(
            batch.base_offset() <= next && next <= batch.last_offset(),
            "{history}: gap at {next}: {batch:?}"
        );
        // The last append may have reached the disk before its error did.
        if let Some(expected) = appended(batch.base_offset()) {
            assert_eq!(&bytes, expected, "{history}: at {}", batch.base_offset());
        } else {
            assert!(
                batch.base_offset() >= known.flushed,
                "{history}: unknown batch at {}",
                batch.base_offset()
            );
        }
        next = batch.last_offset() + 1;
    }
    assert_eq!(next, end, "{history}");
    // Retention may have been under way, but took nothing that is not flushed.
    assert!(
        start <= known.flushed.max(known.log_start),
        "{history}: starts at {start}, flushed was {}",
        known.flushed
    );
    // It goes on: what is acknowledged now stays, through another crash that loses all that is not synced.
    let bytes = batch(2, 999, NOW_MS);
    let base = append(&mut log, bytes).base_offset;
    assert_eq!(base, end, "{history}");
    let flushed = sync(&mut log);
    let expected = read_all(&log, start, 600);
    let crashed = disk.crash(Crash::LoseUnsynced);
    let opened = OpenOptions {
        recovery_point: flushed,
        log_start_offset: start,
        ..options(config())
    };
    let (log, report) = open(&crashed, opened);
    assert_eq!(
        (log.log_end_offset(), report.bytes_truncated),
        (flushed, 0),
        "{history}: {report:?}"
    );
    assert_eq!(read_all(&log, start, 600), expected, "{history}");
}

#[test]
fn a_crash_at_any_operation_keeps_what_is_flushed_and_serves_nothing_torn() {
    let whole = sim_disk();
    let before = whole.operations();
    let mut known = Known::default();
    run_script(&whole, &mut known).unwrap();
    let operations = whole.operations() - before;
    assert!(
        operations > 100,
        "the script is long enough to meet every path: {operations}"
    );
    for operation in 0..=operations {
        let disk = sim_disk();
        disk.set_fault(Fault::StopAt(before + operation));
        let mut known = Known::default();
        let result = run_script(&disk, &mut known);
        assert_eq!(result.is_ok(), operation == operations);
        let torn = (0..6).map(|seed| Crash::Torn {
            seed: operation * 100 + seed,
        });
        for crash in [Crash::LoseUnsynced, Crash::KeepAll]
            .into_iter()
            .chain(torn)
        {
            check_after_crash(
                &disk.crash(crash),
                &known,
                &format!("operation {operation}, {crash:?}"),
            );
        }
    }
}

#[test]
fn a_failed_operation_leaves_a_log_that_goes_on_or_says_why_not() {
    let whole = sim_disk();
    let before = whole.operations();
    run_script(&whole, &mut Known::default()).unwrap();
    let operations = whole.operations() - before;
    for operation in 0..operations {
        let disk = sim_disk();
        let (mut log, _) = open(&disk, options(config()));
        disk.set_fault(Fault::OnceAt(before + operation));
        let mut stored = Vec::new();
        for tag in 0..40 {
            // What failed is tried again, as a client does; the log must take it or stay poisoned.
            for _ in 0..2 {
                let bytes = build(
                    Builder::new().producer(1, 0, tag * 2),
                    2,
                    tag as u64,
                    NOW_MS,
                );
                match log.append_bytes(bytes, AppendOrigin::Client, 0, NOW_MS) {
                    Ok(appended) => {
                        stored.push(appended.base_offset);
                        break;
                    }
                    Err(AppendError::Log(_)) => {}
                    Err(error) => panic!("operation {operation}: {error}"),
                }
            }
            if tag % 7 == 6
                && let Some(job) = log.begin_sync()
            {
                let result = job.run();
                let _ = log.complete_sync(job, result);
            }
        }
        disk.set_fault(Fault::OnceAt(u64::MAX));
        if log.poison_reason().is_none() {
            assert_eq!(
                stored,
                (0..40).map(|tag| tag * 2).collect::<Vec<i64>>(),
                "operation {operation}"
            );
            let expected = read_all(&log, 0, 500);
            let log = reopen(log, &disk, true);
            assert_eq!(read_all(&log, 0, 500), expected, "operation {operation}");
        } else {
            let flushed = log.flushed_offset();
            drop(log);
            let (log, _) = open(
                &disk.crash(Crash::LoseUnsynced),
                OpenOptions {
                    recovery_point: flushed,
                    ..options(config())
                },
            );
            // A sync that failed late may have brought more to the disk.
            assert!(log.log_end_offset() >= flushed, "operation {operation}");
        }
    }
}

#[test]
fn a_corrupt_byte_anywhere_in_the_unflushed_tail_cuts_there() {
    let disk = sim_disk();
    let (mut log, _) = open(&disk, options(LogConfig::default()));
    for tag in 0..3 {
        append(&mut log, batch(2, tag, NOW_MS));
    }
    let flushed = sync(&mut log);
    let flushed_bytes = log.size_bytes();
    for tag in 3..6 {
        append(&mut log, batch(2, tag, NOW_MS));
    }
    let stored = read_all(&log, 0, 10_000);
    drop(log);
    let path = segment::path(Path::new(DIR), 0, segment::LOG);
    let length = disk.open(&path).unwrap().len_bytes().unwrap();
    let mut start = flushed_bytes;
    for expected in 3..6 {
        let end = start + stored[expected].len() as u64;
        for position in start..end {
            // Base offset and leader epoch are outside the CRC; offsets are checked by their order instead.
            let within = position - start;
            if (12..16).contains(&within) || within < 8 {
                continue;
            }
            let damaged = disk.crash(Crash::KeepAll);
            let file = damaged.open(&path).unwrap();
            let mut byte = [0];
            file.read_at(position, &mut byte).unwrap();
            file.write_all_at(position, &[byte[0] ^ 0x41]).unwrap();
            let (log, report) = open(
                &damaged,
                OpenOptions {
                    recovery_point: flushed,
                    ..options(LogConfig::default())
                },
            );
            assert_eq!(log.log_end_offset(), expected as i64 * 2, "byte {position}");
            assert_eq!(report.bytes_truncated, length - start, "byte {position}");
            assert_eq!(read_all(&log, 0, 10_000), stored[..expected]);
        }
        start = end;
    }
}

#[test]
fn garbage_at_the_end_is_cut_whatever_it_is() {
    proptest!(|(garbage in prop::collection::vec(any::<u8>(), 1..200), magic in any::<bool>())| {
        let mut garbage = garbage;
        if magic && garbage.len() > 20 {
            garbage[16] = 2;
            garbage[8..12].copy_from_slice(&100i32.to_be_bytes());
        }
        let disk = sim_disk();
        let (mut log, _) = open(&disk, options(config()));
        append(&mut log, batch(2, 1, NOW_MS));
        let length = log.size_bytes();
        drop(log);
        let path = segment::path(Path::new(DIR), 0, segment::LOG);
        disk.open(&path).unwrap().write_all_at(length, &garbage).unwrap();
        let (mut log, report) = open(&disk, options(config()));
        prop_assert_eq!(report.bytes_truncated, garbage.len() as u64);
        prop_assert_eq!(append(&mut log, batch(1, 2, NOW_MS)).base_offset, 2);
    });
}

#[test]
fn a_crash_s_missing_end_of_a_sealed_segment_takes_the_later_segments_along() {
    let disk = sim_disk();
    let (mut log, _) = open(&disk, options(config()));
    while log.segment_count() < 4 {
        append(&mut log, batch(2, 1, NOW_MS));
    }
    let stored = read_all(&log, 0, 10_000);
    let second = log.sealed[1].base_offset;
    let length = log.sealed[0].size_bytes;
    drop(log);
    // The last batch of the first segment never reached the disk; the file ends cleanly before it.
    let last = stored
        .iter()
        .rfind(|bytes| RecordBatch::parse(bytes).unwrap().last_offset() < second)
        .unwrap();
    let path = segment::path(Path::new(DIR), 0, segment::LOG);
    disk.open(&path)
        .unwrap()
        .truncate(length - last.len() as u64)
        .unwrap();
    let (mut log, report) = open(&disk, options(config()));
    assert_eq!(log.log_end_offset(), second - 2);
    assert_eq!((report.segments_deleted, report.bytes_truncated), (3, 0));
    assert_eq!(
        append(&mut log, batch(2, 9, NOW_MS)).base_offset,
        second - 2
    );
    assert!(
        disk.open(&segment::path(Path::new(DIR), second, segment::LOG))
            .is_err()
    );
}

#[test]
fn a_recovery_point_of_another_log_is_not_believed() {
    let disk = sim_disk();
    let (mut log, _) = open(&disk, options(LogConfig::default()));
    append(&mut log, batch(2, 1, NOW_MS));
    append(&mut log, batch(2, 2, NOW_MS));
    let length = log.size_bytes();
    drop(log);
    let path = segment::path(Path::new(DIR), 0, segment::LOG);
    disk.open(&path)
        .unwrap()
        .write_all_at(length - 1, b"x")
        .unwrap();
    let (log, report) = open(
        &disk,
        OpenOptions {
            recovery_point: 1000,
            ..options(LogConfig::default())
        },
    );
    assert!(report.ends_before_recovery_point);
    assert_eq!(
        log.log_end_offset(),
        2,
        "the damaged second batch was found in spite of the recovery point"
    );
}

// ---- Single claims -------------------------------------------------------------------------------------------------------------------

#[test]
fn nothing_is_created_before_the_first_append() {
    let disk = sim_disk();
    let before = disk.operations();
    let (mut log, report) = open(&disk, options(config()));
    assert_eq!(report, Recovery::default());
    assert!(log.begin_sync().is_none());
    assert_eq!(
        log.read(0, 100, 0, true).unwrap().batches,
        Vec::<Bytes>::new()
    );
    log.apply_retention(NOW_MS, 0).unwrap();
    log.close().unwrap();
    assert_eq!(disk.operations(), before);
}

#[test]
fn a_directory_of_another_topic_is_refused() {
    let disk = sim_disk();
    let (mut log, _) = open(&disk, options(config()));
    append(&mut log, batch(1, 1, NOW_MS));
    log.close().unwrap();
    let other = OpenOptions {
        topic_id: Uuid::from_u128(8),
        ..options(config())
    };
    let result = Log::open(Arc::new(disk), other, NOW_MS);
    assert!(
        matches!(result, Err(LogError::TopicId { found, want, .. }) if found == Uuid::from_u128(7) && want == Uuid::from_u128(8))
    );
}

#[test]
fn a_read_outside_the_log_says_where_it_lies() {
    let disk = sim_disk();
    let (mut log, _) = open(&disk, options(config()));
    for tag in 0..20 {
        append(&mut log, batch(2, tag, NOW_MS));
    }
    log.delete_records_before(11).unwrap();
    for offset in [-1, 0, 10, 41] {
        let result = log.read(offset, 100, 40, true);
        assert!(
            matches!(
                result,
                Err(ReadError::OutOfRange {
                    log_start_offset: 11,
                    log_end_offset: 40,
                    ..
                })
            ),
            "{offset}: {result:?}"
        );
    }
    assert_eq!(
        log.read(11, 100, 40, true).unwrap().first_offset,
        10,
        "the batch that holds it, whole"
    );
    assert_eq!(log.read(40, 100, 40, true).unwrap().next_offset, 40);
}

#[test]
fn the_tail_is_shared_not_copied() {
    let disk = sim_disk();
    let (mut log, _) = open(&disk, options(LogConfig::default()));
    let bytes = batch(2, 1, NOW_MS);
    let address = bytes.as_ptr();
    append(&mut log, bytes);
    assert_eq!(
        log.read(0, 1000, 2, false).unwrap().batches[0].as_ptr(),
        address
    );
    log.release_tail();
    assert_ne!(
        log.read(0, 1000, 2, false).unwrap().batches[0].as_ptr(),
        address
    );
}

#[test]
fn a_failed_sync_poisons_and_serves_only_what_is_flushed() {
    let disk = sim_disk();
    let (mut log, _) = open(&disk, options(config()));
    append(&mut log, batch(2, 1, NOW_MS));
    sync(&mut log);
    append(&mut log, batch(2, 2, NOW_MS));
    disk.set_fault(Fault::NextSync);
    let job = log.begin_sync().unwrap();
    let result = job.run();
    assert!(matches!(
        log.complete_sync(job, result),
        Err(LogError::Poisoned { .. })
    ));
    let refused = log.append_bytes(batch(2, 3, NOW_MS), AppendOrigin::Client, 0, NOW_MS);
    assert!(matches!(
        refused,
        Err(AppendError::Log(LogError::Poisoned { .. }))
    ));
    assert!(log.begin_sync().is_none());
    assert_eq!(log.flushed_offset(), 2);
    assert_eq!(log.read(0, 1000, 4, true).unwrap().next_offset, 2);
    assert!(log.read(2, 1000, 4, true).unwrap().batches.is_empty());
    assert!(matches!(log.close(), Err(LogError::Poisoned { .. })));
}

#[test]
fn one_sync_is_under_way_at_a_time_and_covers_what_came_before_it() {
    let disk = sim_disk();
    let (mut log, _) = open(&disk, options(config()));
    append(&mut log, batch(2, 1, NOW_MS));
    let job = log.begin_sync().unwrap();
    append(&mut log, batch(3, 2, NOW_MS));
    assert!(log.begin_sync().is_none());
    let result = job.run();
    assert_eq!(log.complete_sync(job, result).unwrap(), 2);
    assert_eq!(sync(&mut log), 5);
    assert!(log.begin_sync().is_none());
}

#[test]
fn a_close_syncs_again_what_a_sync_under_way_has_taken() {
    let disk = sim_disk();
    let (mut log, _) = open(&disk, options(config()));
    for tag in 0..30 {
        append(&mut log, batch(2, tag, NOW_MS));
    }
    let job = log.begin_sync().unwrap();
    let expected = read_all(&log, 0, 1000);
    log.close().unwrap();
    drop(job);
    let opened = OpenOptions {
        clean_shutdown: true,
        ..options(config())
    };
    let (log, report) = open(&disk.crash(Crash::LoseUnsynced), opened);
    assert_eq!(report, Recovery::default());
    assert_eq!(read_all(&log, 0, 1000), expected);
}

#[test]
fn a_failed_write_leaves_no_trace() {
    let disk = sim_disk();
    let (mut log, _) = open(&disk, options(config()));
    append(&mut log, batch(2, 1, NOW_MS));
    disk.set_fault(Fault::OnceAt(disk.operations()));
    let refused = log.append_bytes(batch(5, 2, NOW_MS), AppendOrigin::Client, 0, NOW_MS);
    assert!(matches!(
        refused,
        Err(AppendError::Log(LogError::Disk {
            operation: "append to",
            ..
        }))
    ));
    assert_eq!(append(&mut log, batch(1, 3, NOW_MS)).base_offset, 2);
    let log = reopen(log, &disk, false);
    assert_eq!(log.log_end_offset(), 3);
}

#[test]
fn segments_roll_by_size_time_index_and_offset() {
    let disk = sim_disk();
    let roll = |config: LogConfig, second_ms: i64| {
        let (mut log, _) = open(
            &disk,
            OpenOptions {
                dir: PathBuf::from(format!("/data/t-{}", disk.operations())),
                ..options(config)
            },
        );
        append(&mut log, batch(2, 1, NOW_MS));
        append(&mut log, batch(2, 2, second_ms));
        log.segment_count()
    };
    let size = batch(2, 1, NOW_MS).len() as u32;
    assert_eq!(
        roll(
            LogConfig {
                segment_bytes: 2 * size,
                ..config()
            },
            NOW_MS
        ),
        1
    );
    assert_eq!(
        roll(
            LogConfig {
                segment_bytes: 2 * size - 1,
                ..config()
            },
            NOW_MS
        ),
        2
    );
    assert_eq!(
        roll(
            LogConfig {
                segment_ms: 999,
                ..LogConfig::default()
            },
            NOW_MS + 999
        ),
        1
    );
    assert_eq!(
        roll(
            LogConfig {
                segment_ms: 999,
                ..LogConfig::default()
            },
            NOW_MS + 1000
        ),
        2
    );
    assert_eq!(
        roll(
            LogConfig {
                index_bytes_max: 7,
                ..LogConfig::default()
            },
            NOW_MS
        ),
        2
    );
    // Some of the jitter is taken off, and never more.
    let rolled_after: Vec<usize> = [100, 998, 1000]
        .map(|age_ms| {
            let config = LogConfig {
                segment_ms: 999,
                segment_jitter_ms: 900,
                ..LogConfig::default()
            };
            roll(config, NOW_MS + age_ms)
        })
        .to_vec();
    assert_eq!((rolled_after[0], rolled_after[2]), (1, 2));
    let segment = ActiveSegment {
        size_bytes: 1,
        ..ActiveSegment::empty(Path::new(DIR), 10, NOW_MS)
    };
    assert!(!segment.must_roll(
        &LogConfig::default(),
        1,
        NOW_MS,
        10 + i64::from(i32::MAX),
        NOW_MS
    ));
    assert!(segment.must_roll(
        &LogConfig::default(),
        1,
        NOW_MS,
        11 + i64::from(i32::MAX),
        NOW_MS
    ));
}

#[test]
fn log_append_time_is_put_on_the_batch() {
    let disk = sim_disk();
    let (mut log, _) = open(
        &disk,
        options(LogConfig {
            timestamp_type: TimestampType::LogAppendTime,
            ..config()
        }),
    );
    let appended = append(&mut log, batch(2, 1, 5));
    assert_eq!(appended.log_append_time_ms, NOW_MS);
    let stored = read_all(&log, 0, 1000);
    let batch = RecordBatch::parse(&stored[0]).unwrap();
    batch.verify_crc().unwrap();
    assert_eq!(
        (batch.max_timestamp(), batch.timestamp_type()),
        (NOW_MS, TimestampType::LogAppendTime)
    );
    let found = log.offset_for_timestamp(NOW_MS - 1).unwrap().unwrap();
    assert_eq!((found.offset, found.timestamp), (0, NOW_MS));
}

#[test]
fn retries_are_answered_with_their_offset_after_a_restart() {
    for clean in [true, false] {
        let disk = sim_disk();
        let (mut log, _) = open(&disk, options(LogConfig::default()));
        let idempotent = |turn: i32| {
            build(
                Builder::new().producer(9, 1, turn * 2),
                2,
                turn as u64,
                NOW_MS,
            )
        };
        for turn in 0..6 {
            append(&mut log, batch(1, 50, NOW_MS));
            append(&mut log, idempotent(turn));
        }
        let mut log = reopen(log, &disk, clean);
        let remembered = if clean { 5..6 } else { 1..6 };
        for turn in remembered {
            let again = append(&mut log, idempotent(turn));
            assert_eq!(
                (again.base_offset, again.duplicate),
                (i64::from(turn) * 3 + 1, true),
                "clean {clean}"
            );
        }
        assert_eq!(log.log_end_offset(), 18);
        let gap = log.append_bytes(idempotent(7), AppendOrigin::Client, 0, NOW_MS);
        assert!(matches!(
            gap,
            Err(AppendError::OutOfOrderSequence {
                found: 14,
                want: 12,
                ..
            })
        ));
        let old_epoch = build(Builder::new().producer(9, 0, 12), 2, 6, NOW_MS);
        let fenced = log.append_bytes(old_epoch, AppendOrigin::Client, 0, NOW_MS);
        assert!(matches!(
            fenced,
            Err(AppendError::InvalidProducerEpoch {
                found: 0,
                current: 1,
                ..
            })
        ));
    }
}

/// A log of batches that differ in size, several KiB each, in two sealed segments and an active one, with nothing in memory.
fn large_batches(disk: &SimDisk, index_interval_bytes: u32) -> (Log, Vec<i64>) {
    let config = LogConfig {
        segment_bytes: 400_000,
        index_interval_bytes,
        tail_bytes_max: 0,
        ..LogConfig::default()
    };
    let (mut log, _) = open(disk, options(config));
    let mut bases = Vec::new();
    for tag in 0..200 {
        let mut builder = Builder::new();
        for index in 0..1 + tag % 7 {
            let value = vec![tag as u8; 700 + 31 * index];
            builder.append(NOW_MS, None, Some(&value), &[]);
        }
        bases.push(append(&mut log, builder.build()).base_offset);
    }
    sync(&mut log);
    assert!(log.segment_count() >= 2);
    (log, bases)
}

#[test]
fn bytes_that_stay_in_their_file_are_those_that_would_be_read() {
    for index_interval_bytes in [0, 4_096, 50_000, 1 << 30] {
        let (log, bases) = large_batches(&SimDisk::clone(&sim_disk()), index_interval_bytes);
        let end = log.log_end_offset();
        let mut in_files = 0;
        for &from in bases.iter().step_by(7) {
            for max_bytes in [0, 1, 16_384, 30_000, 60_001, 1 << 20] {
                for bound in bases.iter().copied().step_by(23).chain([end]) {
                    for at_least_one in [false, true] {
                        let plan = || log.plan_read(from, max_bytes, bound, at_least_one).unwrap();
                        let read = both_ways(plan);
                        let located = plan().locate().unwrap();
                        assert_eq!(located.next_offset, read.next_offset);
                        in_files += located
                            .batches
                            .iter()
                            .filter(|piece| piece.held_bytes() == 0)
                            .count();
                    }
                }
            }
        }
        assert!(in_files > 100, "{in_files}");
    }
}

#[test]
fn an_index_that_points_into_a_batch_costs_a_walk_and_no_records() {
    let disk = sim_disk();
    let (log, _) = large_batches(&disk, 4_096);
    let expected = log.read(0, 100_000, 500, true).unwrap();
    let index = disk
        .open(&segment::path(Path::new(DIR), 0, segment::OFFSET_INDEX))
        .unwrap();
    // All but the first few entries, by which the read begins.
    for at in (64..index.len_bytes().unwrap()).step_by(8) {
        let mut position = [0; 4];
        index.read_at(at + 4, &mut position).unwrap();
        let moved = i32::from_be_bytes(position) + 100;
        index.write_all_at(at + 4, &moved.to_be_bytes()).unwrap();
    }
    let located = log
        .plan_read(0, 100_000, 500, true)
        .unwrap()
        .locate()
        .unwrap();
    assert!(contents(&located) == expected.batches.concat());
    assert_eq!(located.next_offset, expected.next_offset);
}

#[test]
fn bytes_in_a_file_stay_there_when_their_segment_is_deleted() {
    let disk = sim_disk();
    let (mut log, _) = large_batches(&disk, 4_096);
    let end = log.log_end_offset();
    let expected = log.read(0, 100_000, end, true).unwrap();
    let located = log
        .plan_read(0, 100_000, end, true)
        .unwrap()
        .locate()
        .unwrap();
    assert!(located.batches.iter().all(|piece| piece.held_bytes() == 0));
    let later_ms = NOW_MS + 8 * 24 * 3_600_000;
    assert!(log.apply_retention(later_ms, end).unwrap() > 1);
    for path in log.take_deleted().1 {
        disk.remove_file(&path).unwrap();
    }
    let name = segment::path(Path::new(DIR), 0, segment::LOG);
    assert!(disk.open(&name).is_err());
    assert!(contents(&located) == expected.batches.concat());
}

#[test]
fn retention_of_a_whole_log_keeps_its_end_through_a_crash() {
    let disk = sim_disk();
    let (mut log, _) = open(&disk, options(config()));
    for tag in 0..30 {
        append(&mut log, batch(2, tag, NOW_MS));
    }
    sync(&mut log);
    let held = log.plan_read(0, 10_000, 60, true).unwrap();
    let later_ms = NOW_MS + 8 * 24 * 3_600_000;
    let segments = log.segment_count();
    assert_eq!(log.apply_retention(later_ms, 60).unwrap(), segments);
    assert_eq!(
        (
            log.log_start_offset(),
            log.log_end_offset(),
            log.size_bytes()
        ),
        (60, 60, 0)
    );
    assert!(
        held.perform().unwrap().next_offset > 0,
        "a reader keeps what it holds"
    );
    assert_eq!(log.apply_retention(later_ms, 60).unwrap(), 0);
    let name = segment::path(Path::new(DIR), 60, segment::LOG);
    assert!(
        disk.crash(Crash::LoseUnsynced).open(&name).is_ok(),
        "the name that says where the log ends was on disk before the others went"
    );
    for crash in [Crash::LoseUnsynced, Crash::KeepAll] {
        let (log, _) = open(
            &disk.crash(crash),
            OpenOptions {
                recovery_point: 60,
                ..options(config())
            },
        );
        assert_eq!(log.log_end_offset(), 60, "{crash:?}");
    }
}

#[test]
fn a_log_that_was_lost_below_its_start_does_not_use_offsets_again() {
    let disk = sim_disk();
    let (mut log, _) = open(&disk, options(config()));
    append(&mut log, batch(2, 1, NOW_MS));
    drop(log);
    let (mut log, _) = open(
        &disk,
        OpenOptions {
            log_start_offset: 100,
            ..options(config())
        },
    );
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (100, 100));
    assert_eq!(append(&mut log, batch(1, 2, NOW_MS)).base_offset, 100);
}

#[test]
fn missing_or_cut_indexes_are_made_anew() {
    let disk = sim_disk();
    let (mut log, _) = open(&disk, options(config()));
    for tag in 0..60 {
        append(&mut log, batch(2, tag, NOW_MS + tag as i64));
    }
    let expected = read_all(&log, 0, 1000);
    log.close().unwrap();
    let dir = Path::new(DIR);
    let contents = |disk: &SimDisk| -> Vec<(String, Vec<u8>)> {
        let mut names: Vec<String> = disk
            .list(dir)
            .unwrap()
            .into_iter()
            .map(|entry| entry.name)
            .collect();
        names.sort();
        names
            .into_iter()
            .filter(|name| name.ends_with("index"))
            .map(|name| (name.clone(), disk.read_file(&dir.join(name)).unwrap()))
            .collect()
    };
    let indexes = contents(&disk);
    assert!(indexes.len() > 4);
    for (name, whole) in &indexes {
        for cut in [None, Some(whole.len() as u64 / 2 + 1)] {
            let damaged = disk.crash(Crash::KeepAll);
            match cut {
                None => damaged.remove_file(&dir.join(name)).unwrap(),
                Some(length) => damaged
                    .open(&dir.join(name))
                    .unwrap()
                    .truncate(length)
                    .unwrap(),
            }
            let (log, _) = open(
                &damaged,
                OpenOptions {
                    clean_shutdown: true,
                    ..options(config())
                },
            );
            assert_eq!(read_all(&log, 0, 1000), expected, "{name} {cut:?}");
            assert_eq!(
                log.offset_for_timestamp(NOW_MS + 40)
                    .unwrap()
                    .unwrap()
                    .timestamp,
                NOW_MS + 40
            );
            log.close().unwrap();
            assert_eq!(contents(&damaged), indexes, "{name} {cut:?}");
        }
    }
}

#[test]
fn the_leader_epochs_survive_the_loss_of_their_file() {
    let disk = sim_disk();
    let (mut log, _) = open(&disk, options(config()));
    for tag in 0..30 {
        log.append_bytes(
            batch(2, tag, NOW_MS),
            AppendOrigin::Client,
            tag as i32 / 10,
            NOW_MS,
        )
        .unwrap();
    }
    log.close().unwrap();
    disk.remove_file(&Path::new(DIR).join(leader_epochs::FILE))
        .unwrap();
    let (log, _) = open(
        &disk,
        OpenOptions {
            clean_shutdown: true,
            ..options(config())
        },
    );
    assert_eq!(log.latest_leader_epoch(), Some(2));
    assert_eq!(log.end_offset_for_epoch(0), Some((0, 20)));
    assert_eq!(log.end_offset_for_epoch(1), Some((1, 40)));
    assert_eq!(log.end_offset_for_epoch(2), Some((2, 60)));
    assert_eq!(log.end_offset_for_epoch(3), None);
}

#[test]
fn the_highest_timestamp_is_found_in_any_segment() {
    let disk = sim_disk();
    let (mut log, _) = open(&disk, options(config()));
    assert_eq!(log.max_timestamp().unwrap(), None);
    for tag in 0..60 {
        let timestamp = if tag == 13 { NOW_MS + 77 } else { NOW_MS };
        append(&mut log, batch(2, tag, timestamp));
    }
    let log = reopen(log, &disk, true);
    let expected = TimestampOffset {
        timestamp: NOW_MS + 78,
        offset: 27,
        leader_epoch: 0,
    };
    assert_eq!(log.max_timestamp().unwrap(), Some(expected));
}

#[test]
fn a_log_lives_on_the_real_disk() {
    let data = tempfile::tempdir().unwrap();
    let opened = OpenOptions {
        dir: data.path().join("orders-0"),
        ..options(config())
    };
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let (mut log, _) = Log::open(Arc::clone(&disk), opened.clone(), NOW_MS).unwrap();
    for tag in 0..60 {
        append(&mut log, batch(2, tag, NOW_MS));
    }
    assert_eq!(sync(&mut log), 120);
    let expected = read_all(&log, 0, 1000);
    log.close().unwrap();
    let (log, report) = Log::open(
        Arc::clone(&disk),
        OpenOptions {
            clean_shutdown: true,
            ..opened.clone()
        },
        NOW_MS,
    )
    .unwrap();
    assert_eq!(report, Recovery::default());
    assert_eq!(read_all(&log, 0, 1000), expected);
    drop(log);
    let (log, report) = Log::open(disk, opened, NOW_MS).unwrap();
    assert!(report.segments_scanned > 3);
    assert_eq!(read_all(&log, 0, 1000), expected);
}

#[test]
fn a_tail_of_zeros_is_cut() {
    let disk = sim_disk();
    let (mut log, _) = open(&disk, options(config()));
    append(&mut log, batch(2, 1, NOW_MS));
    let length = log.size_bytes();
    drop(log);
    // As a file that was made longer in advance has it, or a file system after a crash.
    let path = segment::path(Path::new(DIR), 0, segment::LOG);
    let file = disk.open(&path).unwrap();
    file.truncate(length + 100_000).unwrap();
    let (mut log, report) = open(&disk, options(config()));
    assert_eq!(report.bytes_truncated, 100_000);
    assert_eq!(file.len_bytes().unwrap(), length);
    assert_eq!(append(&mut log, batch(1, 2, NOW_MS)).base_offset, 2);
}

#[test]
fn a_preallocated_segment_gives_back_what_it_does_not_need() {
    use std::os::unix::fs::MetadataExt;
    const SEGMENT_BYTES: u32 = 4 << 20;
    let data = tempfile::tempdir().unwrap();
    let opened = OpenOptions {
        dir: data.path().join("orders-0"),
        ..options(LogConfig {
            segment_bytes: SEGMENT_BYTES,
            preallocate: true,
            ..config()
        })
    };
    let allocated = |base_offset: i64| {
        let path = segment::path(&opened.dir, base_offset, segment::LOG);
        let metadata = std::fs::metadata(path).unwrap();
        (metadata.blocks() * 512, metadata.len())
    };
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let can_preallocate = {
        let file = disk.open_or_create(&data.path().join("probe")).unwrap();
        file.preallocate(4096).is_ok()
    };
    let (mut log, _) = Log::open(Arc::clone(&disk), opened.clone(), NOW_MS).unwrap();
    append(&mut log, batch(2, 1, NOW_MS));
    let size_bytes = log.size_bytes();
    let (bytes, length) = allocated(0);
    assert_eq!(length, size_bytes, "its length is that of its batches");
    assert_eq!(bytes >= SEGMENT_BYTES.into(), can_preallocate, "{bytes}");
    // A kill: the next start appends to it, and gives back what it did not get itself.
    sync(&mut log);
    drop(log);
    let (mut log, report) = Log::open(Arc::clone(&disk), opened.clone(), NOW_MS).unwrap();
    assert_eq!(report.bytes_truncated, 0);
    append(&mut log, batch(2, 2, NOW_MS));
    log.seal_active(NOW_MS).unwrap();
    let (bytes, length) = allocated(0);
    assert!(bytes < 1 << 20, "{bytes} of {length}");
    append(&mut log, batch(2, 3, NOW_MS));
    log.close().unwrap();
    let (bytes, length) = allocated(4);
    assert!(bytes < 1 << 20, "{bytes} of {length}");
}

// ---- A failed log, opened anew ---------------------------------------------------------------------------------------------------------

/// Two synced batches of producer 9, then eighteen that are not, over several segments; the sync of these fails.
fn failed_log(disk: &SimDisk) -> (Log, Vec<Vec<u8>>) {
    let (mut log, _) = open(disk, options(config()));
    let idempotent = |sequence| build(Builder::new().producer(9, 0, sequence), 6, 1, NOW_MS);
    append(&mut log, idempotent(0));
    append(&mut log, idempotent(6));
    sync(&mut log);
    let acknowledged = read_all(&log, 0, 10_000);
    for turn in 2..20 {
        append(&mut log, idempotent(6 * turn));
    }
    assert!(log.segment_count() > 2);
    disk.set_fault(Fault::NextSync);
    let job = log.begin_sync().unwrap();
    let result = job.run();
    log.complete_sync(job, result).unwrap_err();
    (log, acknowledged)
}

#[test]
fn a_failed_log_is_opened_anew_with_what_was_acknowledged_and_nothing_else() {
    let disk = sim_disk();
    let (failed, acknowledged) = failed_log(&disk);
    let flushed = failed.flushed_offset();
    let mut log = failed.reopening().unwrap().run(NOW_MS).unwrap();
    assert_eq!(
        (log.log_end_offset(), log.flushed_offset()),
        (flushed, flushed)
    );
    log.check_invariants(flushed);
    assert!(log.reopening().is_none(), "it is not poisoned");
    // The failed one still reads what it has read.
    assert_eq!(
        failed.read(0, 10_000, flushed, true).unwrap().next_offset,
        flushed
    );
    // A retry of what was answered with an error is no duplicate, one of what was acknowledged is.
    let retry = |sequence| build(Builder::new().producer(9, 0, sequence), 6, 1, NOW_MS);
    assert!(append(&mut log, retry(6)).duplicate);
    let retried = append(&mut log, retry(12));
    assert_eq!((retried.duplicate, retried.base_offset), (false, flushed));
    sync(&mut log);
    let (read, _) = open(
        &disk.crash(Crash::LoseUnsynced),
        OpenOptions {
            recovery_point: flushed,
            ..options(config())
        },
    );
    assert_eq!(read.log_end_offset(), flushed + 6);
    assert_eq!(read_all(&read, 0, 10_000)[..2], acknowledged);
}

#[test]
fn a_log_whose_first_sync_failed_begins_again() {
    let disk = sim_disk();
    let (mut log, _) = open(&disk, options(config()));
    append(&mut log, batch(2, 1, NOW_MS));
    disk.set_fault(Fault::NextSync);
    let job = log.begin_sync().unwrap();
    let result = job.run();
    log.complete_sync(job, result).unwrap_err();
    let mut log = log.reopening().unwrap().run(NOW_MS).unwrap();
    assert_eq!(append(&mut log, batch(2, 2, NOW_MS)).base_offset, 0);
    sync(&mut log);
    let (log, _) = open(&disk.crash(Crash::LoseUnsynced), options(config()));
    assert_eq!(log.log_end_offset(), 2);
}

/// Also on a disk that fails again meanwhile: the next attempt, or the next start, finds all that was acknowledged.
#[test]
fn a_crash_or_a_failure_at_each_operation_of_opening_anew_loses_nothing_acknowledged() {
    for at in 0.. {
        let disk = sim_disk();
        let (failed, acknowledged) = failed_log(&disk);
        let flushed = failed.flushed_offset();
        let operations = disk.operations();
        disk.set_fault(Fault::StopAt(operations + at));
        let is_done = failed.reopening().unwrap().run(NOW_MS).is_ok();
        for crash in [
            Crash::LoseUnsynced,
            Crash::KeepAll,
            Crash::Torn { seed: at },
            Crash::Torn { seed: at + 1000 },
        ] {
            let (log, _) = open(
                &disk.crash(crash),
                OpenOptions {
                    recovery_point: flushed,
                    ..options(config())
                },
            );
            assert!(log.log_end_offset() >= flushed, "{at} {crash:?}: {log:?}");
            assert_eq!(
                read_all(&log, 0, 10_000)[..2],
                acknowledged,
                "{at} {crash:?}"
            );
        }
        disk.clear_fault();
        let mut log = match is_done {
            true => break,
            false => failed.reopening().unwrap().run(NOW_MS).unwrap(),
        };
        assert_eq!(log.log_end_offset(), flushed, "{at}");
        append(&mut log, batch(1, 7, NOW_MS));
        sync(&mut log);
        let (log, _) = open(
            &disk.crash(Crash::LoseUnsynced),
            OpenOptions {
                recovery_point: flushed,
                ..options(config())
            },
        );
        assert_eq!(log.log_end_offset(), flushed + 1, "{at}");
    }
}
