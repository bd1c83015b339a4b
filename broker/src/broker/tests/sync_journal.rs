//! The sync journal under a broker: what is acknowledged by it survives, whatever happens to the logs' own files.

use std::collections::BTreeMap;

use super::*;

const DATA: &str = "/data";
/// Two halves of sixteen pages: they turn often.
const JOURNAL_BYTES: u64 = 32 * 4096;

fn open(disk: &SimDisk, clock: &Arc<ManualClock>) -> Broker {
    let mut config = config(Path::new(DATA), clock.clone());
    config.disk = Arc::new(disk.clone());
    config.lock_data_dir = false;
    config.sync_journal_bytes_max = JOURNAL_BYTES;
    config.cleaner_backoff_ms = 1000;
    Broker::open(config).unwrap()
}

fn fresh() -> (SimDisk, Arc<ManualClock>, Broker) {
    let disk = SimDisk::new();
    let clock = Arc::new(ManualClock::new(NOW_MS));
    let broker = open(&disk, &clock);
    (disk, clock, broker)
}

fn append(broker: &Broker, topic: &str, index: i32, value: &str) {
    let partition = broker.partition(topic, index).unwrap();
    partition.append(batch(&[value]), NOW_MS).unwrap();
}

fn append_to_all(broker: &Broker, value: &str) {
    for index in 0..3 {
        append(broker, "t", index, value);
    }
}

/// A round of group commit for each value, in every partition.
fn commit_to_all(broker: &Broker, values: impl IntoIterator<Item = impl ToString>) {
    for value in values {
        append_to_all(broker, &value.to_string());
        broker.flush_once();
    }
}

fn ends(broker: &Broker) -> [i64; 3] {
    [0, 1, 2].map(|index| broker.partition("t", index).unwrap().high_watermark())
}

#[test]
fn partitions_are_acknowledged_by_one_write_and_one_sync() {
    let (disk, clock, broker) = fresh();
    create(&broker, "t", 3, &[]).unwrap();
    // The directories are new, then the journal is.
    for value in ["a", "b"] {
        append_to_all(&broker, value);
        assert_eq!(broker.flush_once(), 3);
    }
    append_to_all(&broker, "c");
    let before = disk.operations();
    assert_eq!(broker.flush_once(), 3);
    assert_eq!(disk.operations() - before, 2);
    assert_eq!(ends(&broker), [3, 3, 3]);
    let restarted = open(&disk.crash(Crash::LoseUnsynced), &clock);
    assert_eq!(ends(&restarted), [3, 3, 3]);
    assert_eq!(read_all(&restarted, "t"), ["a", "b", "c"]);
}

#[test]
fn a_journal_that_fails_is_left_alone_and_no_log_with_it() {
    let (disk, clock, broker) = fresh();
    create(&broker, "t", 3, &[]).unwrap();
    commit_to_all(&broker, ["a", "b"]);
    append_to_all(&broker, "c");
    disk.set_fault(Fault::NextSync);
    broker.flush_once();
    append_to_all(&broker, "d");
    let before = disk.operations();
    broker.flush_once();
    assert_eq!(disk.operations() - before, 3, "a sync for each log");
    assert_eq!(ends(&broker), [4, 4, 4]);
    let restarted = open(&disk.crash(Crash::LoseUnsynced), &clock);
    assert_eq!(ends(&restarted), [4, 4, 4]);
}

#[test]
fn a_full_journal_is_checkpointed_and_used_again() {
    let (disk, clock, broker) = fresh();
    create(&broker, "t", 3, &[]).unwrap();
    append_to_all(&broker, "0");
    broker.flush_once();
    let mut in_one_write = 0;
    for value in 1..200 {
        append_to_all(&broker, &value.to_string());
        let before = disk.operations();
        broker.flush_once();
        if disk.operations() - before == 2 {
            in_one_write += 1;
        }
        broker.step();
        let journal = disk.open(&Path::new(DATA).join("sync-0.journal")).unwrap();
        assert!(journal.len_bytes().unwrap() <= JOURNAL_BYTES / 2);
    }
    assert!(in_one_write >= 190, "{in_one_write}");
    let restarted = open(&disk.crash(Crash::LoseUnsynced), &clock);
    assert_eq!(ends(&restarted), [200, 200, 200]);
    let all: Vec<_> = (0..200).map(|value| value.to_string()).collect();
    assert_eq!(read_all(&restarted, "t"), all);
}

#[test]
fn without_a_checkpoint_the_logs_are_synced_by_themselves() {
    let (disk, clock, broker) = fresh();
    create(&broker, "t", 3, &[]).unwrap();
    commit_to_all(&broker, 0..100);
    assert_eq!(ends(&broker), [100, 100, 100]);
    let restarted = open(&disk.crash(Crash::LoseUnsynced), &clock);
    assert_eq!(ends(&restarted), [100, 100, 100]);
}

#[test]
fn records_whose_log_cannot_be_synced_are_there_after_a_restart() {
    let (disk, clock, broker) = fresh();
    create(&broker, "t", 3, &[]).unwrap();
    commit_to_all(&broker, 0..20);
    // The first half is full, and the checkpoint's first sync fails: one log takes no more, the others go on.
    disk.set_fault(Fault::NextSync);
    broker.step();
    let failed: Vec<_> = (0..3)
        .filter(|index| broker.partition("t", *index).unwrap().has_failed())
        .collect();
    assert_eq!(failed.len(), 1);
    for value in 20..60 {
        for index in (0..3).filter(|index| !failed.contains(index)) {
            append(&broker, "t", index, &value.to_string());
        }
        broker.flush_once();
        broker.step();
    }
    let restarted = open(&disk.crash(Crash::LoseUnsynced), &clock);
    for index in 0..3 {
        let want = if failed.contains(&index) { 20 } else { 60 };
        assert_eq!(ends(&restarted)[index as usize], want);
    }
    append_to_all(&restarted, "x");
    restarted.flush_once();
}

#[test]
fn a_log_that_could_not_be_synced_comes_back_with_what_the_journal_has() {
    let (disk, clock, broker) = fresh();
    create(&broker, "t", 3, &[]).unwrap();
    commit_to_all(&broker, 0..20);
    // What is not synced of this one is lost to the disk, whatever the system's memory says.
    disk.set_fault(Fault::NextSync);
    broker.step();
    let failed = (0..3).find(|index| broker.partition("t", *index).unwrap().has_failed());
    append(&broker, "t", (failed.unwrap() + 1) % 3, "meanwhile");
    broker.flush_once();
    clock.advance(crate::reopening::FIRST_DELAY_MS);
    broker.step();
    assert!((0..3).all(|index| !broker.partition("t", index).unwrap().has_failed()));
    for value in 20..60 {
        append_to_all(&broker, &value.to_string());
        broker.flush_once();
        broker.step();
    }
    append_to_all(&broker, "last");
    let before = disk.operations();
    broker.flush_once();
    assert_eq!(disk.operations() - before, 2, "the journal is in use again");
    let restarted = open(&disk.crash(Crash::LoseUnsynced), &clock);
    assert_eq!(ends(&restarted).iter().sum::<i64>(), 3 * 61 + 1);
    let failed = restarted.partition("t", failed.unwrap()).unwrap();
    let fetched = failed
        .fetch(0, 1 << 20, Isolation::ReadUncommitted)
        .unwrap();
    let mut want: Vec<_> = (0..60).map(|value| value.to_string()).collect();
    want.push("last".to_owned());
    assert_eq!(values(&fetched.batches), want);
}

#[test]
fn after_a_clean_stop_nothing_is_put_back() {
    let (disk, clock, broker) = fresh();
    create(&broker, "t", 3, &[]).unwrap();
    commit_to_all(&broker, ["a", "b"]);
    broker.shutdown().unwrap();
    drop(broker);
    let restarted = open(&disk, &clock);
    let journal = disk.read_file(&Path::new(DATA).join("sync-0.journal"));
    assert_eq!(journal.unwrap(), b"");
    assert_eq!(read_all(&restarted, "t"), ["a", "b"]);
}

#[test]
fn a_topic_deleted_and_created_anew_gets_nothing_of_the_old_one() {
    let (disk, clock, broker) = fresh();
    create(&broker, "t", 3, &[]).unwrap();
    commit_to_all(&broker, ["a", "b", "c"]);
    delete(&broker, "t");
    create(&broker, "t", 3, &[]).unwrap();
    append_to_all(&broker, "new");
    broker.flush_once();
    let restarted = open(&disk.crash(Crash::LoseUnsynced), &clock);
    assert_eq!(read_all(&restarted, "t"), ["new"]);
}

/// What a history has appended, and been told, of one partition.
#[derive(Debug, Default)]
struct Told {
    /// Key and value by offset.
    records: Vec<(String, String)>,
    acknowledged: usize,
}

const COMPACTED: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    ("segment.bytes", "1048576"),
    ("min.cleanable.dirty.ratio", "0.01"),
];

/// Splitmix64.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Appends, rounds of group commit, checkpoints and compaction, in an order that the seed chooses, until the disk stops.
fn live(broker: &Broker, clock: &ManualClock, seed: &mut u64, told: &mut [Told; 2]) {
    for _ in 0..60 {
        match next(seed) % 8 {
            0..4 => {
                let index = (next(seed) % 2) as usize;
                let key = format!("k{}", next(seed) % 5);
                let size = [10, 3000, 300_000][(next(seed) % 3) as usize];
                let value = format!("{}-{}", told[index].records.len(), "v".repeat(size));
                let mut builder = Builder::new();
                builder.append(NOW_MS, Some(key.as_bytes()), Some(value.as_bytes()), &[]);
                let partition = broker.partition("t", index as i32).unwrap();
                let Ok(appended) = partition.append(builder.build(), NOW_MS) else {
                    return;
                };
                assert_eq!(appended.base_offset as usize, told[index].records.len());
                told[index].records.push((key, value));
            }
            4..7 => {
                broker.flush_once();
            }
            _ => {
                clock.advance([1000, 71_000][(next(seed) % 2) as usize]);
                broker.step();
            }
        }
        for (index, told) in told.iter_mut().enumerate() {
            let partition = broker.partition("t", index as i32).unwrap();
            told.acknowledged = told.acknowledged.max(partition.high_watermark() as usize);
        }
    }
}

/// Key → offset and value of the last record of each.
fn latest(records: &[(String, String)]) -> BTreeMap<String, (i64, String)> {
    let numbered = records.iter().enumerate();
    numbered
        .map(|(offset, (key, value))| (key.clone(), (offset as i64, value.clone())))
        .collect()
}

fn read_latest(broker: &Broker, index: i32) -> BTreeMap<String, (i64, String)> {
    let partition = broker.partition("t", index).unwrap();
    let (mut table, mut scratch) = (BTreeMap::new(), Vec::new());
    let mut offset = partition.log_start_offset();
    loop {
        let fetched = partition
            .fetch(offset, 1 << 20, Isolation::ReadUncommitted)
            .unwrap();
        if fetched.next_offset == offset {
            return table;
        }
        for batch in fetched
            .batches
            .iter()
            .flat_map(|bytes| record_batch::batches(bytes))
        {
            batch.verify_crc().unwrap();
            for record in batch.records(&mut scratch, 1 << 20).unwrap() {
                let record = record.unwrap();
                let key = String::from_utf8(record.key.unwrap().to_vec()).unwrap();
                let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                table.insert(key, (record.offset, value));
            }
        }
        offset = fetched.next_offset;
    }
}

fn put(broker: &Broker, key: &str, value: &str) {
    let mut builder = Builder::new();
    builder.append(NOW_MS, Some(key.as_bytes()), Some(value.as_bytes()), &[]);
    let partition = broker.partition("t", 0).unwrap();
    partition.append(builder.build(), NOW_MS).unwrap();
    broker.flush_once();
}

#[test]
fn what_compaction_has_replaced_is_not_put_back() {
    let (disk, clock, broker) = fresh();
    create(&broker, "t", 1, COMPACTED).unwrap();
    // The first round syncs names; the others are in the journal.
    for turn in 0..6 {
        put(&broker, ["a", "b", "c"][turn % 3], &turn.to_string());
    }
    // Too long for the journal, and enough for the next segment.
    let long = "v".repeat(600_000);
    for key in ["x", "y", "z"] {
        put(&broker, key, &long);
    }
    clock.advance(2000);
    while broker.step() <= clock.now_ms() {}
    assert!(broker.cleaner_stats().passes > 0);
    let want = read_latest(&broker, 0);
    for crash in [Crash::LoseUnsynced, Crash::KeepAll] {
        let restarted = open(&disk.crash(crash), &clock);
        assert_eq!(read_latest(&restarted, 0), want, "{crash:?}");
        assert_eq!(restarted.partition("t", 0).unwrap().log_end_offset(), 9);
    }
}

/// Lives one after another on one disk, each cut short by a power failure at an operation that the seed chooses.
#[test]
fn nothing_acknowledged_is_lost_whenever_the_power_goes() {
    for first_seed in 0..20 {
        let mut seed = first_seed;
        let (mut disk, clock, mut broker) = fresh();
        create(&broker, "t", 2, COMPACTED).unwrap();
        let mut told = <[Told; 2]>::default();
        for life in 0..6 {
            let stop = disk.operations() + 1 + next(&mut seed) % 150;
            disk.set_fault(Fault::StopAt(stop));
            live(&broker, &clock, &mut seed, &mut told);
            drop(broker);
            disk = disk.crash(match next(&mut seed) % 3 {
                0 => Crash::LoseUnsynced,
                1 => Crash::KeepAll,
                _ => Crash::Torn {
                    seed: next(&mut seed),
                },
            });
            broker = open(&disk, &clock);
            for (index, told) in told.iter_mut().enumerate() {
                let at = format!("seed {first_seed}, life {life}, partition {index}");
                let end = broker
                    .partition("t", index as i32)
                    .unwrap()
                    .log_end_offset() as usize;
                let appended = told.records.len();
                assert!(
                    told.acknowledged <= end && end <= appended,
                    "{at}: acknowledged {}, found {end}, appended {appended}",
                    told.acknowledged
                );
                told.records.truncate(end);
                told.acknowledged = end;
                assert_eq!(
                    read_latest(&broker, index as i32),
                    latest(&told.records),
                    "{at}"
                );
            }
        }
    }
}
