//! Compaction in an embedded broker: who drives it, what it chooses, and what stops it.

use std::collections::BTreeMap;

use super::*;
use crate::CleanerStats;
use crate::protocol::compression::Codec;

const MIB: usize = 1 << 20;

/// A compacted topic whose segments are as small as Kafka lets them be.
const COMPACTED: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    ("segment.bytes", "1048576"),
    ("delete.retention.ms", "1000"),
];

fn put(broker: &Broker, topic: &str, records: &[(&str, Option<&[u8]>)]) {
    let mut builder = Builder::new();
    for (key, value) in records {
        builder.append(broker.core.now_ms(), Some(key.as_bytes()), *value, &[]);
    }
    let partition = broker.partition(topic, 0).unwrap();
    partition
        .append(builder.build(), broker.core.now_ms())
        .unwrap();
}

/// So many batches of a quarter of a segment, over so many keys.
fn fill(broker: &Broker, topic: &str, count: usize, keys: usize) {
    for turn in 0..count {
        let value = vec![turn as u8; MIB / 4];
        put(
            broker,
            topic,
            &[(&format!("k{}", turn % keys), Some(&value))],
        );
    }
    broker.flush_once();
}

/// Key → offset and first byte of the value, as a reader from the start finds them.
fn table(broker: &Broker, topic: &str) -> BTreeMap<String, (i64, Option<u8>)> {
    let partition = broker.partition(topic, 0).unwrap();
    let (mut table, mut scratch) = (BTreeMap::new(), Vec::new());
    let mut offset = partition.log_start_offset();
    loop {
        let fetched = partition
            .fetch(offset, MIB, Isolation::ReadCommitted)
            .unwrap();
        if fetched.next_offset == offset {
            return table;
        }
        for batch in fetched
            .batches
            .iter()
            .flat_map(|bytes| record_batch::batches(bytes))
        {
            for record in batch.records(&mut scratch, 4 * MIB).unwrap() {
                let record = record.unwrap();
                let key = String::from_utf8(record.key.unwrap().to_vec()).unwrap();
                let value = record.value.and_then(|value| value.first().copied());
                table.insert(key, (record.offset, value));
            }
        }
        offset = fetched.next_offset;
    }
}

/// Time passes until the cleaner has nothing more to do.
fn clean(fixture: &Fixture) -> CleanerStats {
    fixture.clock.advance(15_000);
    while fixture.broker().step() <= fixture.clock.now_ms() {}
    fixture.broker().cleaner_stats()
}

#[test]
fn a_compacted_topic_shrinks_as_time_passes_and_reads_the_same() {
    let mut fixture = Fixture::new();
    create(fixture.broker(), "table", 1, COMPACTED).unwrap();
    fill(fixture.broker(), "table", 40, 3);
    let before = (
        fixture.broker().partition("table", 0).unwrap().size_bytes(),
        table(fixture.broker(), "table"),
    );
    let stats = clean(&fixture);
    assert!(
        stats.passes >= 1 && stats.bytes_after < stats.bytes_before,
        "{stats:?}"
    );
    assert_eq!(stats.uncleanable, BTreeMap::new());
    let size_bytes = fixture.broker().partition("table", 0).unwrap().size_bytes();
    assert!(size_bytes < before.0 / 2, "{size_bytes} of {}", before.0);
    assert_eq!(table(fixture.broker(), "table"), before.1);
    assert!(
        fixture
            .broker()
            .metrics_text()
            .contains("kafka_log_logcleaner_passes_total 1")
    );
    let checkpoint = std::fs::read_to_string(fixture.dir.path().join("cleaner-offset-checkpoint"));
    let checkpoint = checkpoint.unwrap();
    assert!(checkpoint.starts_with("0\n1\ntable 0 "), "{checkpoint}");
    // What is clean is not cleaned again, nor after a restart.
    assert_eq!(clean(&fixture).passes, stats.passes);
    fixture.restart();
    assert_eq!(clean(&fixture).passes, 0);
    fixture.crash();
    assert_eq!(clean(&fixture).passes, 0);
    assert_eq!(table(fixture.broker(), "table"), before.1);
}

#[test]
fn only_what_is_dirty_enough_is_cleaned_and_only_where_it_is_wanted() {
    let fixture = Fixture::with(|config| {
        config
            .topic_defaults
            .insert("min.cleanable.dirty.ratio".into(), "0.9".into());
    });
    create(
        fixture.broker(),
        "deleted",
        1,
        &[("segment.bytes", "1048576")],
    )
    .unwrap();
    create(fixture.broker(), "table", 1, COMPACTED).unwrap();
    fill(fixture.broker(), "deleted", 20, 2);
    fill(fixture.broker(), "table", 20, 20);
    assert_eq!(clean(&fixture).passes, 1, "everything was dirty");
    fill(fixture.broker(), "table", 20, 20);
    let stats = clean(&fixture);
    assert_eq!(stats.passes, 1, "half is dirty");
    assert!(
        (400_000..600_000).contains(&stats.dirty_ratio_max_ppm),
        "{stats:?}"
    );
}

#[test]
fn a_record_is_left_alone_before_min_and_cleaned_after_max_compaction_lag() {
    let fixture = Fixture::new();
    let mut configs = COMPACTED.to_vec();
    configs.push(("min.compaction.lag.ms", "60000"));
    create(fixture.broker(), "young", 1, &configs).unwrap();
    fill(fixture.broker(), "young", 20, 2);
    assert_eq!(clean(&fixture).passes, 0);
    fixture.clock.advance(60_000);
    assert_eq!(clean(&fixture).passes, 1);
    // Hardly dirty, and in the active segment: sealed for its age.
    let mut configs = COMPACTED.to_vec();
    configs.push(("max.compaction.lag.ms", "60000"));
    configs.push(("min.cleanable.dirty.ratio", "1"));
    create(fixture.broker(), "old", 1, &configs).unwrap();
    put(fixture.broker(), "old", &[("a", Some(b"1"))]);
    put(fixture.broker(), "old", &[("a", Some(b"2"))]);
    fixture.broker().flush_once();
    assert_eq!(clean(&fixture).passes, 1);
    fixture.clock.advance(60_000);
    clean(&fixture);
    fixture.broker().flush_once();
    let stats = clean(&fixture);
    assert_eq!((stats.passes, stats.records_after), (2, 2 + 1), "{stats:?}");
    assert_eq!(read_all(fixture.broker(), "old"), ["2"]);
}

#[test]
fn one_bad_partition_does_not_stop_the_others_and_is_tried_again_when_it_changes() {
    let fixture = Fixture::new();
    for name in ["bad", "good"] {
        create(fixture.broker(), name, 1, COMPACTED).unwrap();
        fill(fixture.broker(), name, 20, 2);
    }
    let path = fixture.dir.path().join("bad-0/00000000000000000000.log");
    let sound = std::fs::read(&path).unwrap();
    let mut damaged = sound.clone();
    damaged[1000] ^= 1;
    std::fs::write(&path, damaged).unwrap();
    fixture.clock.advance(15_000);
    for _ in 0..5 {
        fixture.broker().step();
        fixture.clock.advance(15_000);
    }
    let stats = fixture.broker().cleaner_stats();
    assert_eq!((stats.passes, stats.passes_failed), (1, 1), "{stats:?}");
    assert!(
        stats.uncleanable["bad-0"].contains("00000000000000000000.log"),
        "{stats:?}"
    );
    assert_eq!(table(fixture.broker(), "good").len(), 2);
    // Repaired, and a config says so.
    std::fs::write(&path, sound).unwrap();
    assert_eq!(clean(&fixture).passes, 1);
    fixture
        .broker()
        .core
        .set_topic_configs("bad", false, |configs| {
            let mut configs = configs.clone();
            configs.insert("delete.retention.ms".into(), "2000".into());
            Ok(configs)
        })
        .unwrap();
    let stats = clean(&fixture);
    assert_eq!((stats.passes, stats.uncleanable.len()), (2, 0), "{stats:?}");
}

#[test]
fn a_topic_of_the_same_name_begins_dirty() {
    let fixture = Fixture::new();
    create(fixture.broker(), "table", 1, COMPACTED).unwrap();
    fill(fixture.broker(), "table", 20, 2);
    clean(&fixture);
    fixture.broker().core.delete_topic("table").unwrap();
    let path = fixture.dir.path().join("cleaner-offset-checkpoint");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "0\n0\n");
    create(fixture.broker(), "table", 1, COMPACTED).unwrap();
    fill(fixture.broker(), "table", 20, 2);
    let compacted = fixture.broker().compact("table", 0).unwrap().unwrap();
    assert_eq!(compacted[0].progress.records_after, 2);
}

#[test]
fn compact_now_takes_the_active_segment_too() {
    let fixture = Fixture::with(|config| config.cleaner_enabled = false);
    create(fixture.broker(), "table", 1, COMPACTED).unwrap();
    put(
        fixture.broker(),
        "table",
        &[("a", Some(b"1")), ("b", Some(b"1"))],
    );
    put(fixture.broker(), "table", &[("a", Some(b"2")), ("b", None)]);
    assert_eq!(clean(&fixture).passes, 0, "log.cleaner.enable=false");
    let compacted = fixture.broker().compact("table", 0).unwrap().unwrap();
    assert_eq!(compacted.len(), 1);
    assert_eq!(
        (compacted[0].cleaned_to, compacted[0].progress.records_after),
        (4, 2)
    );
    let expected = BTreeMap::from([
        ("a".to_owned(), (2, Some(b'2'))),
        ("b".to_owned(), (3, None)),
    ]);
    assert_eq!(table(fixture.broker(), "table"), expected);
    fixture.clock.advance(1000);
    // Nothing is dirty, so nothing is done: a tombstone waits for the next dirty record.
    assert_eq!(fixture.broker().compact("table", 0).unwrap().unwrap(), []);
    put(fixture.broker(), "table", &[("a", Some(b"3"))]);
    fixture.broker().compact("table", 0).unwrap();
    assert_eq!(
        table(fixture.broker(), "table").keys().collect::<Vec<_>>(),
        ["a"]
    );
    assert_eq!(fixture.broker().compact("other", 0).unwrap(), None);
}

#[test]
fn committed_offsets_are_compacted_and_read_back() {
    let mut fixture = Fixture::with(|config| config.offsets_topic_partitions = 1);
    fixture.create("orders", 1);
    for offset in 0..50 {
        assert_eq!(fixture.commit("group", "orders", offset), 0);
    }
    let partition = fixture.broker().partition(OFFSETS_TOPIC, 0).unwrap();
    let before = partition.size_bytes();
    fixture.broker().compact(OFFSETS_TOPIC, 0).unwrap().unwrap();
    assert!(
        partition.size_bytes() < before / 10,
        "{} of {before}",
        partition.size_bytes()
    );
    drop(partition);
    fixture.crash();
    assert_eq!(fixture.committed("group", "orders"), 49);
}

#[test]
fn the_cleaners_thread_compacts_while_a_producer_and_a_reader_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = BrokerConfig::new(dir.path());
    config.cleaner_backoff_ms = 1;
    config.flush = Flush::Os;
    // So that a pass ends where the map is full.
    config.cleaner_map_bytes_max = 20 * 40;
    let broker = Broker::open(config).unwrap();
    create(&broker, "table", 1, COMPACTED).unwrap();
    let value = vec![7; 8 * 1024];
    let keys: Vec<_> = (0..100).map(|key| format!("k{key}")).collect();
    let mut turns = 0_usize;
    // Until it has been compacted several times under a producer that does not stop.
    while broker.cleaner_stats().passes < 8 {
        turns += 1;
        for keys in keys.chunks(10) {
            let records: Vec<_> = keys
                .iter()
                .map(|key| (key.as_str(), Some(&value[..])))
                .collect();
            put(&broker, "table", &records);
        }
        let found = table(&broker, "table");
        assert_eq!(found.len(), 100);
        let latest = found.values().map(|(offset, _)| *offset).max();
        assert_eq!(latest, Some(turns as i64 * 100 - 1));
    }
    let stats = broker.cleaner_stats();
    assert_eq!(stats.uncleanable, BTreeMap::new());
    let expected = table(&broker, "table");
    broker.shutdown().unwrap();
    drop(broker);
    let names = std::fs::read_dir(dir.path().join("table-0")).unwrap();
    let mut names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(names.all(|name| !name.ends_with("cleaned") && !name.ends_with("swap")));
    let broker = Broker::open(BrokerConfig::new(dir.path())).unwrap();
    assert_eq!(table(&broker, "table"), expected);
}

#[test]
fn a_compressed_topic_keeps_its_codec_through_the_broker() {
    let fixture = Fixture::new();
    let mut configs = COMPACTED.to_vec();
    configs.push(("compression.type", "zstd"));
    create(fixture.broker(), "table", 1, &configs).unwrap();
    put(
        fixture.broker(),
        "table",
        &[("a", Some(b"1")), ("b", Some(b"2"))],
    );
    put(fixture.broker(), "table", &[("a", Some(b"3"))]);
    fixture.broker().compact("table", 0).unwrap();
    let partition = fixture.broker().partition("table", 0).unwrap();
    let fetched = partition.fetch(0, MIB, Isolation::ReadCommitted).unwrap();
    let batches = fetched
        .batches
        .iter()
        .flat_map(|bytes| record_batch::batches(bytes));
    let codecs: Vec<_> = batches.map(|batch| batch.codec().unwrap()).collect();
    assert_eq!(codecs, [Codec::Zstd, Codec::Zstd]);
}

#[test]
fn what_compaction_replaces_stays_for_its_delay_under_another_name() {
    let mut fixture = Fixture::new();
    let mut configs = COMPACTED.to_vec();
    configs.push(("file.delete.delay.ms", "5000"));
    create(fixture.broker(), "t", 1, &configs).unwrap();
    let compact = |fixture: &Fixture| {
        fill(fixture.broker(), "t", 12, 2);
        fixture.broker().compact("t", 0).unwrap();
    };
    let logs = |fixture: &Fixture, suffix| {
        let names = names_ending(fixture, "t-0", suffix);
        names.iter().filter(|name| name.contains(".log")).count()
    };
    compact(&fixture);
    let replaced = logs(&fixture, ".deleted");
    assert!(replaced >= 3, "{replaced}");
    assert_eq!(names_ending(&fixture, "t-0", ".swap").len(), 0);
    // The first segment is replaced once more while its last replacement waits: both wait for their own time.
    fixture.clock.advance(3000);
    compact(&fixture);
    let both = logs(&fixture, ".deleted");
    assert!(both > replaced, "{both}");
    fixture.clock.advance(2000);
    fixture.broker().step();
    assert_eq!(logs(&fixture, ".deleted"), both - replaced);
    let found = table(fixture.broker(), "t");
    assert_eq!(found.len(), 2);
    // A start does not wait for the time.
    fixture.crash();
    assert!(names_ending(&fixture, "t-0", ".deleted").is_empty());
    assert_eq!(table(fixture.broker(), "t"), found);
    // Without a delay nothing waits.
    let mut configs = COMPACTED.to_vec();
    configs.push(("file.delete.delay.ms", "0"));
    create(fixture.broker(), "u", 1, &configs).unwrap();
    fill(fixture.broker(), "u", 12, 2);
    let passes = fixture.broker().compact("u", 0).unwrap().unwrap();
    assert!(!passes.is_empty());
    assert!(names_ending(&fixture, "u-0", ".deleted").is_empty());
}
