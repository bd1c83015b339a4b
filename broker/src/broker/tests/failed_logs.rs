//! Logs that fail and come back while the broker runs: no room, a failed sync, a write that could not be undone.

use super::*;
use crate::disk::{Crash, Fault};
use crate::reopening::FIRST_DELAY_MS;

struct OnDisk {
    disk: SimDisk,
    clock: Arc<ManualClock>,
    broker: Broker,
}

impl OnDisk {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(NOW_MS));
        let disk = SimDisk::new();
        let broker = open_with_journal(&disk, &clock, 0);
        create(&broker, "t", 2, &[]).unwrap();
        OnDisk {
            disk,
            clock,
            broker,
        }
    }

    /// The error code and the base offset of a batch of producer 9, which waits for the disk.
    fn produce(&self, sequence: i32, value: &str) -> (i16, i64) {
        let mut builder = Builder::new().producer(9, 0, sequence);
        builder.append(NOW_MS, Some(b"k"), Some(value.as_bytes()), &[]);
        let (sender, answer) = mpsc::channel();
        self.broker.submit(
            &RequestContext::in_process("test"),
            produce_request("t", -1, 1000, builder.build()).into(),
            Box::new(move |response| sender.send(response).unwrap()),
        );
        self.broker.flush_once();
        let answer = produced(answer.try_recv().unwrap());
        (answer.error_code, answer.base_offset)
    }

    fn read(&self) -> Vec<String> {
        let partition = self.broker.partition("t", 0).unwrap();
        let fetched = partition.fetch(0, 10_000, Isolation::ReadUncommitted);
        values(&fetched.unwrap().batches)
    }

    fn has_failed(&self) -> bool {
        self.broker.partition("t", 0).unwrap().has_failed()
    }

    /// Notices what has failed, and comes to its first try.
    fn try_again(&self) {
        let next_ms = self.broker.step();
        assert!(next_ms <= self.clock.now_ms() + FIRST_DELAY_MS);
        self.clock.advance(FIRST_DELAY_MS);
        self.broker.step();
    }

    fn crash(&mut self) {
        self.disk = self.disk.crash(Crash::LoseUnsynced);
        self.broker = open_with_journal(&self.disk, &self.clock, 0);
    }
}

/// KafkaStorageError.
const STORAGE_ERROR: i16 = 56;

#[test]
fn a_full_disk_refuses_and_takes_writes_again_when_there_is_room() {
    let mut on_disk = OnDisk::new();
    assert_eq!(on_disk.produce(0, "a"), (0, 0));
    on_disk.disk.set_fault(Fault::Full);
    assert_eq!(on_disk.produce(1, "b").0, STORAGE_ERROR);
    assert_eq!(on_disk.produce(1, "b").0, STORAGE_ERROR);
    assert_eq!(on_disk.read(), ["a"]);
    on_disk.disk.clear_fault();
    assert_eq!(on_disk.produce(1, "b"), (0, 1));
    assert_eq!(on_disk.read(), ["a", "b"]);
    on_disk.crash();
    assert_eq!(on_disk.read(), ["a", "b"]);
}

#[test]
fn after_a_failed_sync_the_log_comes_back_and_a_retry_is_there_once() {
    let mut on_disk = OnDisk::new();
    assert_eq!(on_disk.produce(0, "a"), (0, 0));
    let failed = on_disk.broker.partition("t", 0).unwrap();
    let woken = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = woken.clone();
    let _watch = failed.watch(Arc::new(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }));
    on_disk.disk.set_fault(Fault::NextSync);
    assert_eq!(on_disk.produce(1, "b").0, STORAGE_ERROR);
    assert_eq!(on_disk.produce(1, "b").0, STORAGE_ERROR);
    assert!(on_disk.has_failed());
    assert_eq!(on_disk.read(), ["a"]);
    on_disk.try_again();
    assert!(!on_disk.has_failed());
    assert_eq!(
        on_disk.read(),
        ["a"],
        "what was answered with an error is gone"
    );
    let before = woken.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(on_disk.produce(1, "b"), (0, 1));
    assert_eq!(on_disk.produce(1, "b"), (0, 1), "a duplicate");
    assert_eq!(on_disk.read(), ["a", "b"]);
    assert!(
        woken.load(std::sync::atomic::Ordering::Relaxed) > before,
        "who watched the failed one watches the other"
    );
    // Who holds the failed one is not told that its offsets are there now.
    assert!(failed.has_failed());
    assert_eq!(failed.high_watermark(), 1);
    assert!(matches!(
        failed.append(batch(&["c"]), NOW_MS),
        Err(PartitionError::Gone(_))
    ));
    on_disk.crash();
    assert_eq!(on_disk.read(), ["a", "b"]);
}

#[test]
fn a_disk_that_goes_on_failing_is_tried_less_and_less_often() {
    let on_disk = OnDisk::new();
    assert_eq!(on_disk.produce(0, "a"), (0, 0));
    let failed = on_disk.broker.partition("t", 0).unwrap();
    // The write fails, and cannot be undone.
    on_disk
        .disk
        .set_fault(Fault::StopAt(on_disk.disk.operations()));
    assert_eq!(on_disk.produce(1, "b").0, STORAGE_ERROR);
    on_disk.try_again();
    let core = &on_disk.broker.core;
    for delay_s in [2, 4, 8, 16, 32, 60, 60] {
        let next_ms = core.reopenings.next_ms().unwrap();
        assert_eq!(next_ms, on_disk.clock.now_ms() + delay_s * 1000);
        on_disk.clock.advance(delay_s * 1000);
        core.reopen_failed(on_disk.clock.now_ms());
        assert!(Arc::ptr_eq(&failed, &core.partition("t", 0).unwrap()));
    }
    on_disk.disk.clear_fault();
    on_disk.clock.advance(60_000);
    on_disk.broker.core.reopen_failed(on_disk.clock.now_ms());
    assert_eq!(on_disk.produce(1, "b"), (0, 1));
    assert_eq!(on_disk.read(), ["a", "b"]);
}

#[test]
fn a_failed_partition_whose_topic_is_deleted_does_not_come_back() {
    let on_disk = OnDisk::new();
    assert_eq!(on_disk.produce(0, "a"), (0, 0));
    on_disk.disk.set_fault(Fault::NextSync);
    assert_eq!(on_disk.produce(1, "b").0, STORAGE_ERROR);
    on_disk.broker.step();
    delete(&on_disk.broker, "t");
    create(&on_disk.broker, "t", 1, &[]).unwrap();
    on_disk.try_again();
    assert_eq!(on_disk.read(), Vec::<String>::new());
    assert_eq!(on_disk.produce(0, "c"), (0, 0));
}

#[test]
fn what_was_acknowledged_without_a_sync_is_not_cut_off() {
    let clock = Arc::new(ManualClock::new(NOW_MS));
    let disk = SimDisk::new();
    let mut config = config(Path::new("/data"), clock.clone());
    config.disk = Arc::new(disk.clone());
    config.lock_data_dir = false;
    config.flush = Flush::Os;
    let broker = Broker::open(config).unwrap();
    create(&broker, "t", 1, &[]).unwrap();
    let partition = broker.partition("t", 0).unwrap();
    partition.append(batch(&["a"]), NOW_MS).unwrap();
    partition.mark_dirty();
    disk.set_fault(Fault::NextSync);
    broker.flush_once();
    broker.step();
    clock.advance(FIRST_DELAY_MS);
    broker.step();
    assert!(Arc::ptr_eq(&partition, &broker.partition("t", 0).unwrap()));
    assert!(partition.has_failed());
    assert_eq!(partition.log_end_offset(), 1);
}
