//! Compaction against a model: random histories of keys, tombstones, transactions and producers, with several passes, time and restarts in
//! between. The invariants that are checked, by their letters in `check`:
//!
//! - a: the last value of each key stays what it was, for a reader from the start.
//! - b: offsets rise, and what is at one never changes.
//! - c: a tombstone is there for `delete.retention.ms` after the pass that first cleaned it, and goes with one after that.
//! - d: nobody sees an aborted record that was not seen before; of what is cleaned, none is left.
//! - e: producers are recognised after cleaning and restart: retries, epochs.
//! - f: the log end does not go back.
//! - g: the same after a crash at any file operation, and after a failure of any.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;
use proptest::prelude::*;
use uuid::Uuid;

use super::choose::candidate;
use super::*;
use crate::disk::{Crash, Disk, Fault, SimDisk};
use crate::log::{
    AppendError, AppendOrigin, Appended, LogConfig, Marker, OpenOptions, ValidBatch,
    VerificationGuard,
};
use crate::protocol::compression::Codec;
use crate::protocol::record_batch::{Builder, batches};

const NOW_MS: i64 = 1_700_000_000_000;
const DIR: &str = "/data/table-0";
const DELETE_RETENTION_MS: i64 = 1000;
/// Idempotent ones; the others write transactions.
const IDEMPOTENT: std::ops::Range<i64> = 10..12;
const TRANSACTIONAL: std::ops::Range<i64> = 0..3;

fn options() -> OpenOptions {
    OpenOptions {
        dir: PathBuf::from(DIR),
        topic_id: Uuid::from_u128(7),
        config: LogConfig {
            segment_bytes: 700,
            index_interval_bytes: 100,
            tail_bytes_max: 300,
            compact: true,
            delete: false,
            delete_retention_ms: DELETE_RETENTION_MS,
            ..LogConfig::default()
        },
        clean_shutdown: false,
        recovery_point: 0,
        log_start_offset: 0,
    }
}

/// A record that was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    key: u8,
    value: Option<u32>,
    timestamp: i64,
    /// Index into `Model::transactions`.
    transaction: Option<usize>,
    batch_last_offset: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Open,
    Committed,
    Aborted,
}

#[derive(Clone, Debug, Default)]
struct ProducerModel {
    epoch: i16,
    next_sequence: i32,
    /// Of this epoch: the batch, and what it was answered.
    last: Option<(BytesMut, i64, i64)>,
    open: Option<usize>,
}

/// What was ever appended; nothing is removed from it.
#[derive(Clone, Debug)]
struct Model {
    records: BTreeMap<i64, Entry>,
    transactions: Vec<Outcome>,
    producers: BTreeMap<i64, ProducerModel>,
    end: i64,
    now_ms: i64,
    tag: u32,
    first_dirty: i64,
    /// Tombstone → when it was first cleaned.
    cleaned_ms: BTreeMap<i64, i64>,
    /// When the last pass was.
    last_pass_ms: i64,
}

impl Model {
    fn new() -> Self {
        Model {
            records: BTreeMap::new(),
            transactions: Vec::new(),
            producers: BTreeMap::new(),
            end: 0,
            now_ms: NOW_MS,
            tag: 0,
            first_dirty: 0,
            cleaned_ms: BTreeMap::new(),
            last_pass_ms: 0,
        }
    }

    fn is(&self, record: &Entry, outcome: Outcome) -> bool {
        record
            .transaction
            .is_some_and(|index| self.transactions[index] == outcome)
    }

    /// What counts: records without a transaction, or of one that was committed.
    fn committed(&self, below: i64) -> impl Iterator<Item = (i64, &Entry)> {
        self.records
            .range(..below)
            .filter(|(_, record)| {
                record.transaction.is_none() || self.is(record, Outcome::Committed)
            })
            .map(|(offset, record)| (*offset, record))
    }

    /// Key → its last record.
    fn last_of_keys(&self, below: i64) -> BTreeMap<u8, (i64, Option<u32>)> {
        self.committed(below)
            .map(|(offset, record)| (record.key, (offset, record.value)))
            .collect()
    }

    fn note_pass(&mut self, cleaned_to: i64) {
        self.first_dirty = self.first_dirty.max(cleaned_to);
        self.last_pass_ms = self.now_ms;
        for (offset, value) in self.last_of_keys(cleaned_to).into_values() {
            if value.is_none() && self.records[&offset].batch_last_offset < cleaned_to {
                self.cleaned_ms.entry(offset).or_insert(self.now_ms);
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Action {
    /// Key and whether it is a value.
    Append {
        records: Vec<(u8, bool)>,
        codec: u8,
    },
    Idempotent {
        producer: i64,
        records: Vec<(u8, bool)>,
    },
    Transactional {
        producer: i64,
        records: Vec<(u8, bool)>,
        codec: u8,
    },
    End {
        producer: i64,
        commit: bool,
        version_2: bool,
    },
    Seal,
    Clean {
        keys_max: usize,
    },
    Wait {
        ms: i64,
    },
    Reopen {
        clean: bool,
        knows_recovery_point: bool,
    },
}

fn action() -> impl Strategy<Value = Action> {
    let records = || prop::collection::vec((0u8..6, prop::bool::weighted(0.75)), 1..5);
    prop_oneof![
        5 => (records(), 0u8..5).prop_map(|(records, codec)| Action::Append { records, codec }),
        4 => (IDEMPOTENT, records()).prop_map(|(producer, records)| Action::Idempotent { producer, records }),
        7 => (TRANSACTIONAL, records(), 0u8..3).prop_map(|(producer, records, codec)| Action::Transactional { producer, records, codec }),
        6 => (TRANSACTIONAL, any::<bool>(), any::<bool>())
            .prop_map(|(producer, commit, version_2)| Action::End { producer, commit, version_2 }),
        2 => Just(Action::Seal),
        4 => prop_oneof![1usize..8, Just(1000)].prop_map(|keys_max| Action::Clean { keys_max }),
        3 => prop_oneof![Just(300i64), Just(DELETE_RETENTION_MS)].prop_map(|ms| Action::Wait { ms }),
        2 => any::<(bool, bool)>().prop_map(|(clean, knows_recovery_point)| Action::Reopen { clean, knows_recovery_point }),
    ]
}

fn text(record: &Entry) -> (String, Option<String>) {
    (
        format!("k{}", record.key),
        record.value.map(|tag| format!("value {tag}")),
    )
}

/// The disk's error, if it was one; what the log refuses is a failure of the test.
fn disk_failed(error: AppendError) -> LogError {
    match error {
        AppendError::Log(error) => error,
        error => panic!("{error}"),
    }
}

fn append(
    log: &mut Log,
    bytes: BytesMut,
    guard: Option<VerificationGuard>,
    now_ms: i64,
) -> Result<Appended, LogError> {
    let rules = log.append_rules();
    let batch = ValidBatch::check(bytes, &rules, AppendOrigin::Client, now_ms);
    let batch = batch.map_err(disk_failed)?.verified(guard);
    log.append(batch, 0, now_ms).map_err(disk_failed)
}

fn append_records(
    log: &mut Log,
    model: &mut Model,
    mut builder: Builder,
    producer: Option<i64>,
    records: &[(u8, bool)],
    transaction: Option<usize>,
    guard: Option<VerificationGuard>,
) -> Result<(), LogError> {
    let mut appended = Vec::new();
    for (index, (key, is_value)) in records.iter().enumerate() {
        model.tag += 1;
        let record = Entry {
            key: *key,
            value: is_value.then_some(model.tag),
            timestamp: model.now_ms - index as i64,
            transaction,
            batch_last_offset: 0,
        };
        let (key, value) = text(&record);
        let value = value.as_deref().map(str::as_bytes);
        builder.append(
            record.timestamp,
            Some(key.as_bytes()),
            value,
            &[("h", value)],
        );
        appended.push(record);
    }
    let bytes = builder.build();
    let answer = append(log, bytes.clone(), guard, model.now_ms)?;
    assert_eq!((answer.duplicate, answer.base_offset), (false, model.end));
    for (index, record) in appended.into_iter().enumerate() {
        let record = Entry {
            batch_last_offset: answer.last_offset,
            ..record
        };
        model
            .records
            .insert(answer.base_offset + index as i64, record);
    }
    model.end = answer.last_offset + 1;
    if let Some(producer) = producer {
        let state = model.producers.entry(producer).or_default();
        state.next_sequence += records.len() as i32;
        state.last = Some((bytes, answer.base_offset, answer.last_offset));
    }
    Ok(())
}

fn sync(log: &mut Log) -> Result<(), LogError> {
    if let Some(job) = log.begin_sync() {
        let result = job.run();
        let flushed = log.complete_sync(job, result)?;
        log.release_completed(flushed);
    }
    Ok(())
}

fn last_stable(log: &Log) -> i64 {
    log.first_unstable_offset()
        .unwrap_or(i64::MAX)
        .min(log.flushed_offset())
}

/// A pass over what can be cleaned, as far as the map holds.
fn clean(log: &mut Log, model: &mut Model, keys_max: usize) -> Result<(), CleanError> {
    let view = log.cleaning_view(last_stable(log))?;
    let candidate = candidate(&view, Some(model.first_dirty), model.now_ms);
    let limits = CleaningLimits {
        map_bytes_max: (keys_max + 2) * offset_map::SLOT_BYTES,
        map_load_percent: 99,
        io_buffer_bytes: 256,
        seed: u64::from(model.tag),
    };
    let Some(mut job) = log.begin_cleaning(&candidate, limits, model.now_ms)? else {
        return Ok(());
    };
    job.map(&mut |_| true)?;
    while let Some(group) = job.next_group(&mut |_| true)? {
        log.swap_at_once(group)?;
    }
    assert!(job.cleaned_to() > model.first_dirty, "a pass gets ahead");
    model.note_pass(job.cleaned_to());
    Ok(())
}

fn act(log: &mut Log, model: &mut Model, action: &Action) -> Result<(), CleanError> {
    match action {
        Action::Append { records, codec } => {
            let builder = Builder::new().codec(Codec::from_id(*codec).unwrap());
            append_records(log, model, builder, None, records, None, None)?;
        }
        Action::Idempotent { producer, records } => {
            let state = model.producers.entry(*producer).or_default();
            let builder = Builder::new().producer(*producer, state.epoch, state.next_sequence);
            append_records(log, model, builder, Some(*producer), records, None, None)?;
        }
        Action::Transactional {
            producer,
            records,
            codec,
        } => {
            let state = model.producers.entry(*producer).or_default().clone();
            let transaction = state.open.unwrap_or_else(|| {
                model.transactions.push(Outcome::Open);
                model.transactions.len() - 1
            });
            let (epoch, sequence) = (state.epoch, state.next_sequence);
            let guard = log.begin_verification(*producer, epoch, sequence, 2, model.now_ms);
            let builder = Builder::new()
                .producer(*producer, epoch, sequence)
                .transactional()
                .codec(Codec::from_id(*codec).unwrap());
            append_records(
                log,
                model,
                builder,
                Some(*producer),
                records,
                Some(transaction),
                guard,
            )?;
            model.producers.entry(*producer).or_default().open = Some(transaction);
        }
        Action::End {
            producer,
            commit,
            version_2,
        } => {
            let state = model.producers.entry(*producer).or_default();
            let marker = Marker {
                producer_id: *producer,
                producer_epoch: state.epoch + i16::from(*version_2),
                commit: *commit,
                coordinator_epoch: 0,
                transaction_version: if *version_2 { 2 } else { 1 },
            };
            let answer = log
                .append_marker(&marker, 0, model.now_ms)
                .map_err(disk_failed)?;
            model.end = answer.last_offset + 1;
            if *version_2 {
                (state.epoch, state.next_sequence, state.last) = (marker.producer_epoch, 0, None);
            }
            if let Some(transaction) = state.open.take() {
                model.transactions[transaction] = if *commit {
                    Outcome::Committed
                } else {
                    Outcome::Aborted
                };
            }
        }
        Action::Seal => log.seal_active(model.now_ms)?,
        Action::Clean { keys_max } => {
            sync(log)?;
            clean(log, model, *keys_max)?;
        }
        Action::Wait { ms } => model.now_ms += ms,
        Action::Reopen { .. } => unreachable!("the caller has the disk"),
    }
    Ok(())
}

fn reopen(log: Log, disk: &SimDisk, clean: bool, recovery_point: i64, now_ms: i64) -> Log {
    let disk = if clean {
        log.close().unwrap();
        disk.clone()
    } else {
        drop(log);
        disk.clone()
    };
    let options = OpenOptions {
        clean_shutdown: clean,
        recovery_point,
        ..options()
    };
    let (mut log, recovery) = Log::open(Arc::new(disk), options, now_ms).unwrap();
    assert_eq!(recovery.segments_deleted, 0, "{recovery:?}");
    log.release_completed(log.log_end_offset());
    log
}

/// What a read-committed client sees from the start on: offset, key, value.
fn committed_view(log: &Log, max_bytes: usize) -> Vec<(i64, String, Option<String>)> {
    let end = last_stable(log);
    let (mut seen, mut offset) = (Vec::new(), log.log_start_offset());
    let mut scratch = Vec::new();
    while offset < end {
        let slice = crate::log::tests::both_ways(|| {
            log.plan_committed_read(offset, max_bytes, end, true)
                .unwrap()
        });
        let mut aborted = slice.aborted.clone();
        aborted.sort_by_key(|transaction| transaction.first_offset);
        let mut aborted = aborted.into_iter().peekable();
        let mut skipped = BTreeSet::new();
        for batch in slice.batches.iter().flat_map(|bytes| batches(bytes)) {
            while let Some(begun) = aborted.next_if(|next| next.first_offset <= batch.last_offset())
            {
                skipped.insert(begun.producer_id);
            }
            if batch.is_control() {
                if batch.end_transaction().is_some_and(|end| !end.commit) {
                    skipped.remove(&batch.producer_id());
                }
                continue;
            }
            if batch.is_transactional() && skipped.contains(&batch.producer_id()) {
                continue;
            }
            for record in batch.records(&mut scratch, 1 << 20).unwrap() {
                let record = record.unwrap();
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                seen.push((
                    record.offset,
                    text(record.key.unwrap()),
                    record.value.map(text),
                ));
            }
        }
        assert!(slice.next_offset > offset, "{slice:?}");
        offset = slice.next_offset;
    }
    seen
}

/// All records of data, whatever became of their transactions, with their timestamps.
fn uncommitted_view(log: &Log) -> Vec<(i64, String, Option<String>, i64)> {
    // After a failed sync what is not flushed is not served.
    let end = match log.poison_reason() {
        None => log.log_end_offset(),
        Some(_) => log.flushed_offset(),
    };
    let (mut seen, mut offset) = (Vec::new(), log.log_start_offset());
    let mut scratch = Vec::new();
    while offset < end {
        let slice = log.read(offset, 300, end, true).unwrap();
        for batch in slice.batches.iter().flat_map(|bytes| batches(bytes)) {
            batch.verify_crc().unwrap();
            batch.check_records(1 << 20, |_| {}).unwrap();
            if batch.is_control() {
                continue;
            }
            for record in batch.records(&mut scratch, 1 << 20).unwrap() {
                let record = record.unwrap();
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                let (key, value) = (text(record.key.unwrap()), record.value.map(text));
                let header = record.headers().next().unwrap();
                assert_eq!(header, (&b"h"[..], record.value), "headers go along");
                seen.push((record.offset, key, value, record.timestamp));
            }
        }
        assert!(slice.next_offset > offset, "{slice:?}");
        offset = slice.next_offset;
    }
    seen
}

fn check(log: &Log, model: &Model) {
    // f
    assert_eq!(log.log_end_offset(), model.end, "f");
    log.check_invariants(log.flushed_offset());
    // b
    let uncommitted = uncommitted_view(log);
    assert!(
        uncommitted.is_sorted_by(|before, after| before.0 < after.0),
        "b: {uncommitted:?}"
    );
    for (offset, key, value, timestamp) in &uncommitted {
        let record = &model.records[offset];
        let expected = text(record);
        assert_eq!((key, value), (&expected.0, &expected.1), "b: at {offset}");
        assert_eq!(*timestamp, record.timestamp, "b: at {offset}");
    }
    // d
    let stable = last_stable(log);
    for (offset, ..) in &uncommitted {
        let is_aborted = model.is(&model.records[offset], Outcome::Aborted);
        assert!(
            !is_aborted || *offset >= model.first_dirty,
            "d: {offset} was aborted and cleaned"
        );
    }
    for max_bytes in [1, 400, 1 << 20] {
        let committed = committed_view(log, max_bytes);
        for (offset, ..) in &committed {
            let record = &model.records[offset];
            assert!(
                record.transaction.is_none() || model.is(record, Outcome::Committed),
                "d: {offset} is no committed record"
            );
        }
        // a
        let last: BTreeMap<_, _> = committed
            .iter()
            .map(|(_, key, value)| (key.clone(), value.clone()))
            .filter(|(key, _)| !key.is_empty())
            .collect();
        let last: BTreeMap<_, _> = last
            .into_iter()
            .filter(|(_, value)| value.is_some())
            .collect();
        let expected: BTreeMap<_, _> = model
            .last_of_keys(stable)
            .into_values()
            .map(|(offset, _)| text(&model.records[&offset]))
            .filter(|(_, value)| value.is_some())
            .collect();
        assert_eq!(last, expected, "a");
    }
    let offsets: BTreeSet<i64> = uncommitted.iter().map(|seen| seen.0).collect();
    // Nothing is left in the clean section that a later record of it supersedes.
    let last_of_clean = model.last_of_keys(model.first_dirty);
    for (offset, record) in model.committed(model.first_dirty) {
        let is_last = last_of_clean[&record.key].0 == offset;
        assert!(
            is_last || !offsets.contains(&offset),
            "{offset} is superseded"
        );
        // c
        if is_last && record.value.is_none() {
            let over = model
                .cleaned_ms
                .get(&offset)
                .is_some_and(|cleaned_ms| cleaned_ms + DELETE_RETENTION_MS <= model.last_pass_ms);
            assert_eq!(
                offsets.contains(&offset),
                !over,
                "c: tombstone {offset}, now {}, cleaned {:?}",
                model.now_ms,
                model.cleaned_ms.get(&offset)
            );
        }
    }
}

/// Invariant e, which writes nothing: what is repeated is known, and epochs are.
fn check_producers(log: &mut Log, model: &Model) {
    for (producer, state) in &model.producers {
        let found = log.producer(*producer);
        // One whose every batch was of an ended epoch, or that never wrote, may be forgotten only in the latter case.
        if let Some(found) = found {
            assert_eq!(found.producer_epoch, state.epoch, "e: epoch of {producer}");
        } else {
            assert!(
                state.last.is_none() && state.epoch == 0,
                "e: {producer} is forgotten"
            );
        }
        if let Some((bytes, base_offset, last_offset)) = &state.last {
            let answer = append(log, bytes.clone(), None, model.now_ms).unwrap();
            assert!(answer.duplicate, "e: a retry of {producer}");
            let found = (answer.base_offset, answer.last_offset);
            assert_eq!(
                found,
                (*base_offset, *last_offset),
                "e: a retry of {producer}"
            );
        }
    }
}

fn sim_disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn cleaning_keeps_the_invariants_a_to_f(actions in prop::collection::vec(action(), 1..90)) {
        let disk = sim_disk();
        let mut log = Log::open(Arc::new(disk.clone()), options(), NOW_MS).unwrap().0;
        let mut model = Model::new();
        for action in &actions {
            if let Action::Reopen { clean, knows_recovery_point } = action {
                sync(&mut log).unwrap();
                let recovery_point = if *knows_recovery_point { log.flushed_offset() } else { 0 };
                log = reopen(log, &disk, *clean, recovery_point, model.now_ms);
                check(&log, &model);
                check_producers(&mut log, &model);
            } else {
                act(&mut log, &mut model, action).unwrap();
            }
            if matches!(action, Action::Clean { .. }) {
                check(&log, &model);
                check_producers(&mut log, &model);
            }
        }
        sync(&mut log).unwrap();
        check(&log, &model);
    }
}

// ---- g -------------------------------------------------------------------------------------------------------------------------------

/// A log with everything in it, synced, and what is done to it then.
fn story() -> (SimDisk, Log, Model, Vec<Action>) {
    let disk = sim_disk();
    let mut log = Log::open(Arc::new(disk.clone()), options(), NOW_MS)
        .unwrap()
        .0;
    let mut model = Model::new();
    for turn in 0..5u8 {
        let key = turn % 4;
        let end = |producer, commit| Action::End {
            producer,
            commit,
            version_2: turn % 3 == 0,
        };
        let transactional = |producer, records: &[(u8, bool)]| Action::Transactional {
            producer,
            records: records.to_vec(),
            codec: 0,
        };
        let written = [
            Action::Append {
                records: vec![(key, true), (5, turn % 2 == 0)],
                codec: turn % 5,
            },
            Action::Idempotent {
                producer: 10 + i64::from(turn % 2),
                records: vec![(key, true)],
            },
            transactional(0, &[(key, true), (4, true)]),
            transactional(1, &[(3, false)]),
            end(1, turn % 2 == 0),
            end(0, turn % 4 != 1),
        ];
        for action in &written {
            act(&mut log, &mut model, action).unwrap();
        }
    }
    act(&mut log, &mut model, &Action::Seal).unwrap();
    sync(&mut log).unwrap();
    let rest = vec![
        Action::Clean { keys_max: 3 },
        Action::Clean { keys_max: 1000 },
        Action::Wait {
            ms: DELETE_RETENTION_MS,
        },
        Action::Append {
            records: vec![(0, true)],
            codec: 0,
        },
        Action::Seal,
        Action::Clean { keys_max: 1000 },
        Action::Wait {
            ms: DELETE_RETENTION_MS,
        },
        Action::Append {
            records: vec![(1, true)],
            codec: 0,
        },
        Action::Seal,
        Action::Clean { keys_max: 1000 },
    ];
    (disk, log, model, rest)
}

fn left_over(disk: &SimDisk) -> Vec<String> {
    let names = disk.list(Path::new(DIR)).unwrap().into_iter();
    names
        .map(|entry| entry.name)
        .filter(|name| name.ends_with("cleaned") || name.ends_with("swap") || name.ends_with("tmp"))
        .collect()
}

/// What a crash has left, opened; and then cleaned on. `model` is as it was when the last action had succeeded; the one under way may have
/// been done in part.
fn check_after_crash(disk: &SimDisk, model: &Model, failed: Option<&Action>, recovery_point: i64) {
    let mut model = model.clone();
    let options = OpenOptions {
        recovery_point,
        ..options()
    };
    let opened = Log::open(Arc::new(disk.clone()), options, model.now_ms);
    let (mut log, recovery) = opened.unwrap();
    assert_eq!(left_over(disk), Vec::<String>::new());
    log.release_completed(log.log_end_offset());
    // What was not synced may be gone, or be there though its append failed.
    let end = log.log_end_offset();
    if end != model.end {
        assert!(
            matches!(
                failed,
                Some(Action::Append { .. } | Action::Seal | Action::Clean { .. })
            ),
            "f: {end}, want {}: {recovery:?}",
            model.end
        );
        if let Some(Action::Append { records, .. }) = failed.filter(|_| end > model.end) {
            for (index, (key, is_value)) in records.iter().enumerate() {
                let record = Entry {
                    key: *key,
                    value: is_value.then_some(model.tag + index as u32 + 1),
                    timestamp: model.now_ms - index as i64,
                    transaction: None,
                    batch_last_offset: end - 1,
                };
                model.records.insert(model.end + index as i64, record);
            }
        }
        model.records.retain(|offset, _| *offset < end);
        model.end = end;
    }
    let is_torn = matches!(failed, Some(Action::Clean { .. }));
    if is_torn {
        // A pass done in part: the next one makes it whole, and what it did is no harm before.
        check_in_between(&log, &model);
    } else {
        check(&log, &model);
    }
    check_producers(&mut log, &model);
    act(&mut log, &mut model, &Action::Seal).unwrap();
    sync(&mut log).unwrap();
    if model.first_dirty < model.end {
        act(&mut log, &mut model, &Action::Clean { keys_max: 1000 }).unwrap();
    }
    check_in_between(&log, &model);
    check_producers(&mut log, &model);
}

/// Of [`check`] what holds also when a pass has come halfway: a, b, d and f.
fn check_in_between(log: &Log, model: &Model) {
    let unclean = Model {
        first_dirty: 0,
        ..model.clone()
    };
    check(log, &unclean);
}

#[test]
fn a_crash_at_any_file_operation_keeps_the_invariants_g() {
    let (disk, mut log, mut model, rest) = story();
    let first = disk.operations();
    for action in &rest {
        act(&mut log, &mut model, action).unwrap();
        check(&log, &model);
    }
    let operations = disk.operations() - first;
    assert!(operations > 100, "{operations}");
    for stop in 0..operations {
        let (disk, mut log, mut model, rest) = story();
        disk.set_fault(Fault::StopAt(first + stop));
        let mut failed = None;
        for action in &rest {
            let before = model.clone();
            let synced = act(&mut log, &mut model, action).and_then(|()| Ok(sync(&mut log)?));
            if synced.is_err() {
                (failed, model) = (Some(action), before);
                break;
            }
        }
        let flushed = log.flushed_offset();
        let recovery_points = [0, flushed / 2, flushed];
        for (index, crash) in [
            Crash::LoseUnsynced,
            Crash::KeepAll,
            Crash::Torn { seed: stop },
            Crash::Torn { seed: stop + 1000 },
        ]
        .into_iter()
        .enumerate()
        {
            let recovery_point = recovery_points[(stop as usize + index) % 3];
            check_after_crash(&disk.crash(crash), &model, failed, recovery_point);
        }
    }
}

#[test]
fn a_failure_of_any_file_operation_leaves_a_log_that_reads_right_g() {
    let (disk, mut log, mut model, rest) = story();
    let first = disk.operations();
    for action in &rest {
        act(&mut log, &mut model, action).unwrap();
    }
    for at in 0..disk.operations() - first {
        let (disk, mut log, mut model, rest) = story();
        disk.set_fault(Fault::OnceAt(first + at));
        for action in &rest {
            let mut after = model.clone();
            let done = act(&mut log, &mut after, action).and_then(|()| Ok(sync(&mut log)?));
            match done {
                Ok(()) => model = after,
                Err(_) => {
                    // An append may have been done, and its sync have failed.
                    if log.log_end_offset() == after.end {
                        (model.end, model.records, model.tag) =
                            (after.end, after.records, after.tag);
                    }
                    if log.poison_reason().is_some() {
                        break;
                    }
                }
            }
        }
        check_in_between(&log, &model);
        let (end, flushed) = (model.end, log.flushed_offset());
        drop(log);
        let disk = disk.crash(Crash::KeepAll);
        let options = OpenOptions {
            recovery_point: flushed,
            ..options()
        };
        let mut log = Log::open(Arc::new(disk.clone()), options, NOW_MS)
            .unwrap()
            .0;
        log.release_completed(log.log_end_offset());
        assert_eq!(left_over(&disk), Vec::<String>::new());
        assert_eq!(log.log_end_offset(), end);
        check_in_between(&log, &model);
        check_producers(&mut log, &model);
    }
}
