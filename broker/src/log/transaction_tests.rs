//! Transactions in a log against a model: what is stable, what is told as aborted, and what a client that obeys it sees.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::disk::{Crash, Fault, SimDisk};
use crate::protocol::record_batch::{Builder, batches};

const NOW_MS: i64 = 1_700_000_000_000;
const DIR: &str = "/data/orders-0";

fn sim_disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

/// Segments of some five batches; a tail that holds two.
fn options() -> OpenOptions {
    OpenOptions {
        dir: PathBuf::from(DIR),
        topic_id: Uuid::from_u128(7),
        config: LogConfig {
            segment_bytes: 500,
            index_interval_bytes: 100,
            tail_bytes_max: 200,
            ..LogConfig::default()
        },
        clean_shutdown: false,
        recovery_point: 0,
        log_start_offset: 0,
    }
}

// ---- The model -----------------------------------------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Data {
        producer: i64,
        sequence: i32,
        epoch: i16,
    },
    Marker {
        producer: i64,
        epoch: i16,
        commit: bool,
    },
}

/// A batch of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    base: i64,
    last: i64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Transaction {
    producer: i64,
    first: i64,
    /// Marker's offset, and whether it commits.
    end: Option<(i64, bool)>,
}

/// Everything follows from the batches, and from how far the high watermark is.
#[derive(Clone, Debug, Default)]
struct Model {
    entries: Vec<Entry>,
    high_watermark: i64,
    log_start: i64,
    /// As in the checkpoint.
    recovery_point: i64,
}

impl Model {
    fn end(&self) -> i64 {
        self.entries.last().map_or(0, |entry| entry.last + 1)
    }

    fn push(&mut self, appended: Appended, kind: Kind) {
        assert_eq!(appended.base_offset, self.end());
        self.entries.push(Entry {
            base: appended.base_offset,
            last: appended.last_offset,
            kind,
        });
    }

    fn transactions(&self) -> Vec<Transaction> {
        let mut found: Vec<Transaction> = Vec::new();
        for entry in &self.entries {
            let open = |producer: i64| {
                move |found: &&mut Transaction| found.producer == producer && found.end.is_none()
            };
            match entry.kind {
                Kind::Plain => {}
                Kind::Data { producer, .. } => {
                    if found.iter_mut().find(open(producer)).is_none() {
                        found.push(Transaction {
                            producer,
                            first: entry.base,
                            end: None,
                        });
                    }
                }
                Kind::Marker {
                    producer, commit, ..
                } => {
                    if let Some(transaction) = found.iter_mut().find(open(producer)) {
                        transaction.end = Some((entry.last, commit));
                    }
                }
            }
        }
        found
    }

    fn is_open(&self, producer: i64) -> bool {
        self.transactions()
            .iter()
            .any(|found| found.producer == producer && found.end.is_none())
    }

    fn last_stable(&self) -> i64 {
        let unstable = self.transactions().into_iter().filter(|found| {
            found
                .end
                .is_none_or(|(marker, _)| marker >= self.high_watermark)
        });
        let first = unstable.map(|found| found.first.max(self.log_start)).min();
        first.unwrap_or(i64::MAX).min(self.high_watermark)
    }

    /// What a reader of `[start, end)` is told.
    fn aborted(&self, start: i64, end: i64) -> BTreeSet<(i64, i64)> {
        self.transactions()
            .into_iter()
            .filter(|found| {
                found
                    .end
                    .is_some_and(|(marker, commit)| !commit && marker >= start)
                    && found.first < end
            })
            .map(|found| (found.producer, found.first))
            .collect()
    }

    /// The offsets that a read-committed client sees.
    fn visible(&self, start: i64) -> Vec<i64> {
        let (transactions, last_stable) = (self.transactions(), self.last_stable());
        let mut offsets = Vec::new();
        for entry in &self.entries {
            let is_seen = match entry.kind {
                Kind::Plain => true,
                Kind::Marker { .. } => false,
                Kind::Data { producer, .. } => transactions.iter().any(|found| {
                    found.producer == producer
                        && found.first <= entry.base
                        && found
                            .end
                            .is_some_and(|(marker, commit)| commit && entry.last < marker)
                }),
            };
            if is_seen && entry.last < last_stable {
                offsets.extend((entry.base..=entry.last).filter(|offset| *offset >= start));
            }
        }
        offsets
    }

    /// Epoch and next sequence of a producer; its last batch of that epoch.
    fn producer(&self, producer: i64) -> (i16, i32, Option<Entry>) {
        let (mut epoch, mut next, mut last) = (0, 0, None);
        for entry in &self.entries {
            match entry.kind {
                Kind::Data {
                    producer: of,
                    sequence,
                    epoch: found,
                } if of == producer => {
                    epoch = found;
                    next = sequence + (entry.last - entry.base + 1) as i32;
                    last = Some(*entry);
                }
                Kind::Marker {
                    producer: of,
                    epoch: found,
                    ..
                } if of == producer && found != epoch => {
                    (epoch, next, last) = (found, 0, None);
                }
                _ => {}
            }
        }
        (epoch, next, last)
    }
}

// ---- The log, driven and read --------------------------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Action {
    Plain,
    Data {
        producer: i64,
        count: usize,
    },
    Marker {
        producer: i64,
        commit: bool,
        version_2: bool,
    },
    Retry {
        producer: i64,
    },
    Sync {
        note_recovery_point: bool,
    },
    DeleteBefore {
        at: prop::sample::Index,
    },
    Reopen,
    ReleaseTail,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => Just(Action::Plain),
        8 => (0i64..4, 1usize..3).prop_map(|(producer, count)| Action::Data { producer, count }),
        4 => (0i64..4, any::<bool>(), any::<bool>()).prop_map(|(producer, commit, version_2)| Action::Marker { producer, commit, version_2 }),
        1 => (0i64..4).prop_map(|producer| Action::Retry { producer }),
        3 => any::<bool>().prop_map(|note_recovery_point| Action::Sync { note_recovery_point }),
        1 => any::<prop::sample::Index>().prop_map(|at| Action::DeleteBefore { at }),
        1 => Just(Action::Reopen),
        1 => Just(Action::ReleaseTail),
    ]
}

fn data(producer: i64, epoch: i16, sequence: i32, count: usize) -> BytesMut {
    let mut builder = Builder::new()
        .producer(producer, epoch, sequence)
        .transactional();
    for _ in 0..count {
        builder.append(NOW_MS, Some(b"k"), Some(b"v"), &[]);
    }
    builder.build()
}

fn append(
    log: &mut Log,
    bytes: BytesMut,
    guard: Option<VerificationGuard>,
) -> Result<Appended, AppendError> {
    let batch = ValidBatch::check(bytes, &log.append_rules(), AppendOrigin::Client, NOW_MS)?;
    log.append(batch.verified(guard), 0, NOW_MS)
}

/// The disk's error, if it was one; what the log refuses is a failure of the test.
fn disk_failed(error: AppendError) -> LogError {
    match error {
        AppendError::Log(error) => error,
        error => panic!("{error}"),
    }
}

fn append_data(
    log: &mut Log,
    model: &mut Model,
    producer: i64,
    count: usize,
) -> Result<(), LogError> {
    let (epoch, sequence, _) = model.producer(producer);
    let guard = log.begin_verification(producer, epoch, sequence, 2, NOW_MS);
    assert_eq!(guard.is_none(), model.is_open(producer));
    let appended =
        append(log, data(producer, epoch, sequence, count), guard).map_err(disk_failed)?;
    assert!(!appended.duplicate);
    model.push(
        appended,
        Kind::Data {
            producer,
            sequence,
            epoch,
        },
    );
    Ok(())
}

fn append_marker(
    log: &mut Log,
    model: &mut Model,
    producer: i64,
    commit: bool,
    version_2: bool,
) -> Result<(), LogError> {
    let (epoch, _, _) = model.producer(producer);
    let marker = Marker {
        producer_id: producer,
        producer_epoch: if version_2 { epoch + 1 } else { epoch },
        commit,
        coordinator_epoch: 0,
        transaction_version: if version_2 { 2 } else { 1 },
    };
    let appended = log.append_marker(&marker, 0, NOW_MS).map_err(disk_failed)?;
    let epoch = marker.producer_epoch;
    model.push(
        appended,
        Kind::Marker {
            producer,
            epoch,
            commit,
        },
    );
    Ok(())
}

fn sync(log: &mut Log, model: &mut Model) -> Result<(), LogError> {
    if let Some(job) = log.begin_sync() {
        let result = job.run();
        let flushed = log.complete_sync(job, result)?;
        log.release_completed(flushed);
        model.high_watermark = flushed;
    }
    Ok(())
}

fn perform(
    disk: &SimDisk,
    log: &mut Log,
    model: &mut Model,
    action: &Action,
) -> Result<(), LogError> {
    match action {
        Action::Plain => {
            let mut builder = Builder::new();
            builder.append(NOW_MS, Some(b"k"), Some(b"v"), &[]);
            let appended = append(log, builder.build(), None).map_err(disk_failed)?;
            model.push(appended, Kind::Plain);
        }
        Action::Data { producer, count } => append_data(log, model, *producer, *count)?,
        Action::Marker {
            producer,
            commit,
            version_2,
        } => {
            append_marker(log, model, *producer, *commit, *version_2)?;
        }
        Action::Retry { producer } => check_retry(log, model, *producer),
        Action::Sync {
            note_recovery_point,
        } => {
            sync(log, model)?;
            if *note_recovery_point {
                model.recovery_point = model.high_watermark;
            }
        }
        Action::DeleteBefore { at } => {
            let span = model.high_watermark.max(model.log_start) - model.log_start;
            let offset = model.log_start + at.index(span as usize + 1) as i64;
            log.delete_records_before(offset)?;
            model.log_start = offset;
        }
        Action::Reopen => {
            let clean = OpenOptions {
                clean_shutdown: true,
                recovery_point: model.end(),
                log_start_offset: model.log_start,
                ..options()
            };
            let (nothing, _) = Log::open(Arc::new(SimDisk::new()), options(), NOW_MS)?;
            std::mem::replace(log, nothing).close()?;
            model.recovery_point = model.end();
            model.high_watermark = model.end();
            let (reopened, report) = Log::open(Arc::new(disk.clone()), clean, NOW_MS)?;
            assert_eq!(report, Recovery::default());
            *log = reopened;
        }
        Action::ReleaseTail => log.release_tail(),
    }
    Ok(())
}

/// A retry of the producer's last batch is answered with its offset, if the transaction may still know it.
fn check_retry(log: &mut Log, model: &Model, producer: i64) {
    let (epoch, _, last) = model.producer(producer);
    let Some(Entry {
        base,
        last,
        kind: Kind::Data { sequence, .. },
    }) = last
    else {
        return;
    };
    let count = (last - base + 1) as usize;
    let retried = append(log, data(producer, epoch, sequence, count), None).unwrap();
    assert_eq!(
        (retried.base_offset, retried.last_offset, retried.duplicate),
        (base, last, true)
    );
}

/// What Kafka's consumer makes of one fetch: the offsets of the records it hands on.
fn as_a_client_does(slice: &ReadSlice, from: i64) -> Vec<i64> {
    let mut aborted = slice.aborted.clone();
    aborted.sort_by_key(|transaction| transaction.first_offset);
    let mut aborted = aborted.into_iter().peekable();
    let mut skipped = BTreeSet::new();
    let mut offsets = Vec::new();
    for bytes in &slice.batches {
        for batch in batches(bytes) {
            while let Some(transaction) =
                aborted.next_if(|next| next.first_offset <= batch.last_offset())
            {
                skipped.insert(transaction.producer_id);
            }
            if batch.is_control() {
                if batch.end_transaction().is_some_and(|end| !end.commit) {
                    skipped.remove(&batch.producer_id());
                }
            } else if !(batch.is_transactional() && skipped.contains(&batch.producer_id())) {
                offsets.extend(
                    (batch.base_offset()..=batch.last_offset()).filter(|offset| *offset >= from),
                );
            }
        }
    }
    offsets
}

fn check(log: &Log, model: &Model, max_bytes: usize) {
    log.check_invariants(model.high_watermark);
    let unstable = log.first_unstable_offset().unwrap_or(i64::MAX);
    let stable = unstable.min(model.high_watermark);
    assert_eq!(stable, model.last_stable(), "{model:?}");
    for start in model.log_start..=model.end() {
        let mut seen = Vec::new();
        let mut offset = start;
        loop {
            let slice = super::tests::both_ways(|| {
                log.plan_committed_read(offset, max_bytes, stable, true)
                    .unwrap()
            });
            if slice.batches.is_empty() && slice.next_offset == offset {
                break;
            }
            if !slice.batches.is_empty() {
                let told: Vec<_> = slice
                    .aborted
                    .iter()
                    .map(|found| (found.producer_id, found.first_offset))
                    .collect();
                let distinct: BTreeSet<_> = told.iter().copied().collect();
                assert_eq!(told.len(), distinct.len(), "told twice: {told:?}");
                assert_eq!(
                    distinct,
                    model.aborted(offset, slice.next_offset),
                    "{offset}..{}: {model:?}",
                    slice.next_offset
                );
            }
            seen.extend(as_a_client_does(&slice, offset));
            offset = slice.next_offset;
        }
        assert_eq!(seen, model.visible(start), "from {start}: {model:?}");
    }
}

/// After a crash: the log has what was flushed and perhaps more of what was appended; all of the rest follows from it. Then it goes on.
fn check_after_crash(disk: &SimDisk, known: &Model, last_attempt: Option<&Action>) {
    let opened = OpenOptions {
        recovery_point: known.recovery_point,
        log_start_offset: known.log_start,
        ..options()
    };
    let (mut log, report) = Log::open(Arc::new(disk.clone()), opened, NOW_MS).unwrap();
    let end = log.log_end_offset();
    assert!(end >= known.high_watermark, "{end}: {report:?}, {known:?}");
    let mut model = known.clone();
    if end > model.end() {
        // The last append reached the disk before its error did.
        let appended = Appended {
            base_offset: model.end(),
            last_offset: end - 1,
            log_append_time_ms: -1,
            log_start_offset: 0,
            duplicate: false,
        };
        let kind = match last_attempt.unwrap() {
            Action::Data { producer, .. } => {
                let (epoch, sequence, _) = model.producer(*producer);
                Kind::Data {
                    producer: *producer,
                    sequence,
                    epoch,
                }
            }
            Action::Marker {
                producer,
                commit,
                version_2,
            } => {
                let (epoch, _, _) = model.producer(*producer);
                Kind::Marker {
                    producer: *producer,
                    epoch: epoch + i16::from(*version_2),
                    commit: *commit,
                }
            }
            _ => Kind::Plain,
        };
        model.push(appended, kind);
    }
    model.entries.retain(|entry| entry.base < end);
    assert_eq!(model.end(), end, "the end is between batches");
    model.high_watermark = end;
    model.log_start = log.log_start_offset();
    assert!(model.log_start >= known.log_start);
    check(&log, &model, 300);
    for producer in 0..4 {
        assert_eq!(
            log.producer(producer)
                .and_then(|found| found.transaction_first_offset),
            model
                .transactions()
                .iter()
                .find(|found| found.producer == producer && found.end.is_none())
                .map(|found| found.first)
        );
        check_retry(&mut log, &model, producer);
    }
    // It goes on: what is open is ended, and the next ones begin.
    for producer in 0..4 {
        append_data(&mut log, &mut model, producer, 1).unwrap();
        append_marker(&mut log, &mut model, producer, producer % 2 == 0, true).unwrap();
    }
    sync(&mut log, &mut model).unwrap();
    check(&log, &model, 300);
    perform(disk, &mut log, &mut model, &Action::Reopen).unwrap();
    check(&log, &model, 300);
}

/// Runs the actions until the disk stops; what was known then, and what was attempted last.
fn run<'a>(
    disk: &SimDisk,
    actions: &'a [Action],
    model: &mut Model,
) -> Result<Log, Option<&'a Action>> {
    let (mut log, _) = Log::open(Arc::new(disk.clone()), options(), NOW_MS).map_err(|_| None)?;
    for action in actions {
        perform(disk, &mut log, model, action).map_err(|_| Some(action))?;
    }
    Ok(log)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_a_committed_reader_sees_is_what_the_model_says(actions in prop::collection::vec(action(), 1..60), max_bytes in 0usize..800) {
        let disk = sim_disk();
        let mut model = Model::default();
        let (mut log, _) = Log::open(Arc::new(disk.clone()), options(), NOW_MS).unwrap();
        for action in &actions {
            perform(&disk, &mut log, &mut model, action).unwrap();
        }
        check(&log, &model, max_bytes);
    }

    #[test]
    fn after_a_crash_anywhere_the_transactions_are_those_of_the_batches_left(
        actions in prop::collection::vec(action(), 1..60), at in any::<prop::sample::Index>(), seed in any::<u64>(),
    ) {
        let whole = sim_disk();
        let before = whole.operations();
        run(&whole, &actions, &mut Model::default()).unwrap();
        let operations = whole.operations() - before;
        let disk = sim_disk();
        disk.set_fault(Fault::StopAt(before + at.index(operations as usize + 1) as u64));
        let mut known = Model::default();
        let last = run(&disk, &actions, &mut known).err().flatten();
        for crash in [Crash::LoseUnsynced, Crash::KeepAll, Crash::Torn { seed }] {
            check_after_crash(&disk.crash(crash), &known, last);
        }
    }
}

/// Three producers in each other's way over several segments; aborts whose transactions began segments before.
fn long_story() -> Vec<Action> {
    let mut actions = Vec::new();
    for round in 0..12 {
        actions.push(Action::Data {
            producer: 3,
            count: 1,
        });
        for producer in 0..2 {
            actions.push(Action::Data { producer, count: 2 });
        }
        actions.push(Action::Marker {
            producer: round % 2,
            commit: round % 3 == 0,
            version_2: round % 4 < 2,
        });
        if round % 2 == 0 {
            actions.push(Action::Plain);
        }
        if round % 5 == 4 {
            actions.push(Action::Marker {
                producer: 3,
                commit: false,
                version_2: true,
            });
        }
        if round % 3 == 2 {
            actions.push(Action::Sync {
                note_recovery_point: round % 2 == 0,
            });
        }
        if round == 6 {
            actions.push(Action::Reopen);
        }
    }
    actions
}

#[test]
fn a_crash_at_every_operation_of_a_long_story_loses_no_transaction() {
    let actions = long_story();
    let whole = sim_disk();
    let before = whole.operations();
    let log = run(&whole, &actions, &mut Model::default()).unwrap();
    assert!(log.segment_count() > 5, "{log:?}");
    let operations = whole.operations() - before;
    for operation in 0..=operations {
        let disk = sim_disk();
        disk.set_fault(Fault::StopAt(before + operation));
        let mut known = Model::default();
        let last = run(&disk, &actions, &mut known).err().flatten();
        for crash in [
            Crash::LoseUnsynced,
            Crash::KeepAll,
            Crash::Torn { seed: operation },
        ] {
            check_after_crash(&disk.crash(crash), &known, last);
        }
    }
}

/// A transaction that began two segments before the active one; all is synced but the batch that rolled.
fn just_rolled(disk: &SimDisk) -> (Log, Model) {
    let (mut log, _) = Log::open(Arc::new(disk.clone()), options(), NOW_MS).unwrap();
    let mut model = Model::default();
    append_data(&mut log, &mut model, 0, 2).unwrap();
    while log.segment_count() < 3 {
        sync(&mut log, &mut model).unwrap();
        perform(disk, &mut log, &mut model, &Action::Plain).unwrap();
    }
    assert_eq!(log.active.base_offset, model.high_watermark);
    (log, model)
}

/// Stops the disk at each operation of `steps`, and crashes in many ways. The steps tell the model what they have done.
fn check_crashes_within(steps: impl Fn(Log, &mut Model) -> Result<(), LogError>) {
    for recovery_point in ["none", "high watermark"] {
        for stop_at in 0.. {
            let disk = sim_disk();
            let (log, mut known) = just_rolled(&disk);
            if recovery_point != "none" {
                known.recovery_point = known.high_watermark;
            }
            disk.set_fault(Fault::StopAt(disk.operations() + stop_at));
            let is_done = steps(log, &mut known).is_ok();
            for crash in [Crash::LoseUnsynced, Crash::KeepAll]
                .into_iter()
                .chain((0..20).map(|seed| Crash::Torn { seed }))
            {
                check_after_crash(&disk.crash(crash), &known, None);
            }
            if is_done {
                assert!(stop_at > 3, "{stop_at}");
                break;
            }
        }
    }
}

#[test]
fn a_retry_of_deleted_records_is_recognised_after_a_crash() {
    check_crashes_within(|mut log, model| {
        log.delete_records_before(model.high_watermark)?;
        model.log_start = model.high_watermark;
        Ok(())
    });
}

#[test]
fn a_transaction_that_has_expired_as_a_whole_is_still_open_after_a_crash() {
    check_crashes_within(|mut log, model| {
        sync(&mut log, model)?;
        let later_ms = NOW_MS + 365 * 24 * 3_600_000;
        assert_eq!(log.apply_retention(later_ms, model.high_watermark)?, 3);
        model.log_start = model.high_watermark;
        log.close()
    });
}

#[test]
fn what_is_damaged_of_the_aborted_transactions_is_found_again() {
    let actions = long_story();
    let whole = sim_disk();
    let mut model = Model::default();
    let mut log = run(&whole, &actions, &mut model).unwrap();
    perform(&whole, &mut log, &mut model, &Action::Reopen).unwrap();
    let segment = log
        .sealed
        .iter()
        .position(|segment| !segment.aborted.is_empty())
        .unwrap();
    let (base_offset, end_offset) = (
        log.sealed[segment].base_offset,
        log.sealed[segment].end_offset,
    );
    let file = |disk: &SimDisk, extension| {
        disk.open_or_create(&segment::path(Path::new(DIR), base_offset, extension))
            .unwrap()
    };
    drop(log);
    for clean in [true, false] {
        for damage in ["cut", "version", "offset index"] {
            let disk = whole.crash(Crash::KeepAll);
            match damage {
                "cut" => file(&disk, segment::TRANSACTION_INDEX)
                    .truncate(33)
                    .unwrap(),
                "version" => file(&disk, segment::TRANSACTION_INDEX)
                    .write_all_at(0, &[0, 9])
                    .unwrap(),
                _ => disk
                    .remove_file(&segment::path(
                        Path::new(DIR),
                        base_offset,
                        segment::OFFSET_INDEX,
                    ))
                    .unwrap(),
            }
            let opened = OpenOptions {
                clean_shutdown: clean,
                recovery_point: model.end(),
                ..options()
            };
            let (log, report) = Log::open(Arc::new(disk.clone()), opened, NOW_MS).unwrap();
            assert!(
                report.indexes_rebuilt > 0,
                "{damage}, clean {clean}: {report:?}"
            );
            assert!(
                !report.ends_before_recovery_point,
                "{damage}, clean {clean}: {report:?}"
            );
            check(&log, &model, 300);
            let len_bytes = file(&disk, segment::TRANSACTION_INDEX).len_bytes().unwrap();
            assert!(
                len_bytes > 0 && len_bytes % 34 == 0,
                "{damage}, clean {clean}: {len_bytes}"
            );
        }
    }
    assert!(end_offset < model.end());
}

#[test]
fn segments_go_with_their_aborted_transactions() {
    let disk = sim_disk();
    let mut model = Model::default();
    let mut log = run(&disk, &long_story(), &mut model).unwrap();
    sync(&mut log, &mut model).unwrap();
    let indexes = |disk: &SimDisk| {
        let names = disk.list(Path::new(DIR)).unwrap();
        names
            .iter()
            .filter(|entry| entry.name.ends_with(".txnindex"))
            .count()
    };
    let before = indexes(&disk);
    let start = log.active.base_offset;
    log.delete_records_before(start).unwrap();
    model.log_start = start;
    assert!(
        before > 2 && indexes(&disk) <= 1,
        "{before}, {}",
        indexes(&disk)
    );
    // Producers are remembered, and an open transaction holds back no more than what is left.
    check(&log, &model, 300);
    for producer in 0..3 {
        check_retry(&mut log, &model, producer);
    }
    check_after_crash(&disk.crash(Crash::LoseUnsynced), &model, None);
}
