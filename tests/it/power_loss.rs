//! Exactly once when the power goes: under a whole application with its broker inside, on a disk that keeps what was synced, and of the rest what
//! it likes. The stores' directory falls back to an earlier commit too, or is gone. Whatever is left, the output read committed is what the
//! input says: nothing is missing, and nothing is there twice.
//!
//! A seed chooses the operation of the disk with which everything stops, what is kept, and how often it happens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use brooklet::clock::Clock;
use brooklet::prelude::*;
use brooklet::topics::{self, NewTopic, TopicWriter};
use brooklet_broker::disk::{Crash, Fault, SimDisk};

use crate::exactly_once::for_seeds;
use crate::programs::Random;

const LIMIT: Duration = Duration::from_secs(120);
/// How long a life waits for what the disk, stopped, may never let happen.
const LIFE: Duration = Duration::from_secs(5);
const APPLICATION: &str = "power-loss";
const WORDS: [&str; 5] = ["to", "be", "or", "not", "question"];
/// Written by each life.
const LINES: usize = 400;
/// About as many operations of the disk as a life takes.
const OPERATIONS: u64 = 260;
/// About as many as the broker takes to open.
const OPERATIONS_OF_START: u64 = 120;
/// About as many as an application's first start takes: its topics are made then.
const OPERATIONS_OF_APPLICATION: u64 = 100;

/// Goes fifty times as fast as the machine's: a start is patient with a cluster, and a disk without power does not come back.
struct Hurried(Instant);

const HURRY: u32 = 50;

impl Clock for Hurried {
    fn now_ms(&self) -> i64 {
        i64::try_from((self.0.elapsed() * HURRY).as_millis()).unwrap()
    }

    fn wait(&self, at_most: Duration) {
        std::thread::park_timeout(at_most / HURRY);
    }
}

/// Each line goes through as it is, and its words are counted behind a repartition topic.
fn topology() -> Topology {
    let builder = StreamsBuilder::new();
    let lines = builder.stream::<String, String>("lines", Consumed::default());
    lines.to("lines-seen", Produced::default());
    lines
        .flat_map_values(|_, line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .filter(|_, word| WORDS.contains(&word.as_str()))
        .group_by(|_, word| word.clone())
        .count(Materialized::named("counts"))
        .to_stream()
        .to("counts-by-word", Produced::default());
    builder.build().unwrap()
}

fn cluster(disk: &SimDisk) -> Cluster {
    Cluster::embedded("/broker").on_disk(Arc::new(disk.clone()))
}

/// A line that is like no other, with some of the words.
fn line(number: usize) -> String {
    let word = |stride: usize| WORDS[number / stride % WORDS.len()];
    format!("{number} {} {}", word(1), word(WORDS.len()))
}

/// Writes the next lines; they are on disk when this returns.
fn write(cluster: &Cluster, written: &mut usize) {
    let mut lines =
        TopicWriter::<String, String>::new(cluster, "lines", Produced::default()).unwrap();
    for number in *written..*written + LINES {
        let record = Record::new(number.to_string(), line(number), 0);
        lines.send(&record).unwrap();
    }
    lines.flush().unwrap();
    *written += LINES;
}

fn application(cluster: &Cluster, state: &Path, cached: bool) -> Streams {
    Streams::new(APPLICATION, topology())
        .cluster(cluster.clone())
        .state_dir(state)
        .processing_guarantee(ProcessingGuarantee::ExactlyOnce)
        .commit_interval(Duration::from_millis(5))
        .set("linger.ms", "1")
        .cache_bytes(if cached { 1 << 20 } else { 0 })
}

/// Runs until it has done everything, or until the disk stops.
fn live(disk: &SimDisk, state: &Path, cached: bool, written: &mut usize, random: &mut Random) {
    let cluster = cluster(disk);
    if random.below(4) == 0 {
        // In the middle of what the broker does about the last time, or when it is open: then the topic is found.
        let last = disk.operations() + random.below(OPERATIONS_OF_START);
        disk.set_fault(Fault::StopAt(last));
        let opened = topics::end_offsets(&cluster, "lines").is_ok();
        tracing::debug!(opened, "the power is gone");
        disk.set_fault(Fault::StopAt(disk.operations()));
        return;
    }
    write(&cluster, written);
    // What is refused by a broker without a disk is not tried for long.
    let mut application = application(&cluster, state, cached).set("task.timeout.ms", "500");
    let goes_in_start = random.below(4) == 0;
    if goes_in_start {
        let last = disk.operations() + random.below(OPERATIONS_OF_APPLICATION);
        disk.set_fault(Fault::StopAt(last));
        application = application.clock(Hurried(Instant::now()));
    }
    let streams = match application.start() {
        Ok(streams) => streams,
        Err(error) => {
            assert!(goes_in_start, "not started: {error}");
            tracing::debug!(%error, "the power is gone");
            return disk.set_fault(Fault::StopAt(disk.operations()));
        }
    };
    if !goes_in_start {
        disk.set_fault(Fault::StopAt(disk.operations() + random.below(OPERATIONS)));
    }
    let ended = streams.wait_until_caught_up(LIFE);
    // Nothing that comes now counts.
    disk.set_fault(Fault::StopAt(disk.operations()));
    drop(streams);
    tracing::debug!(?ended, "the power is gone");
}

/// What a disk may leave of the stores, whose writes nobody syncs: a beginning of the log, or nothing.
pub(crate) fn lose_of_stores(state: &Path, application: &str, random: &mut Random) {
    let Ok(tasks) = std::fs::read_dir(state.join(application)) else {
        return;
    };
    let mut tasks: Vec<PathBuf> = tasks.map(|task| task.unwrap().path()).collect();
    tasks.sort_unstable();
    for task in tasks {
        let database = task.join("rocksdb");
        if !database.exists() {
            continue;
        }
        match random.below(3) {
            0 => {}
            1 => std::fs::remove_dir_all(&database).unwrap(),
            _ => {
                let logs = std::fs::read_dir(&database)
                    .unwrap()
                    .map(|entry| entry.unwrap().path());
                let newest = logs
                    .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
                    .max();
                if let Some(newest) = newest {
                    let log = std::fs::OpenOptions::new()
                        .write(true)
                        .open(newest)
                        .unwrap();
                    let length = log.metadata().unwrap().len();
                    log.set_len(random.below(length + 1)).unwrap();
                }
            }
        }
    }
}

fn check(cluster: &Cluster, written: usize, cached: bool, what: &str) {
    let mut seen = Vec::new();
    topics::read(
        cluster,
        "lines-seen",
        &Consumed::default(),
        |_, _, record: Record<String, String>| seen.push(record.value),
    )
    .unwrap();
    let mut lines: Vec<String> = (0..written).map(line).collect();
    lines.sort_unstable();
    seen.sort_unstable();
    assert_eq!(seen, lines, "{what}: every line, once");

    let mut expected: BTreeMap<&str, i64> = BTreeMap::new();
    for line in &lines {
        for word in line.split(' ').skip(1) {
            let word = WORDS.iter().find(|known| **known == word).unwrap();
            *expected.entry(word).or_default() += 1;
        }
    }
    let mut updates: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    topics::read(
        cluster,
        "counts-by-word",
        &Consumed::default(),
        |_, _, record: Record<String, i64>| {
            updates.entry(record.key).or_default().push(record.value);
        },
    )
    .unwrap();
    assert_eq!(updates.len(), expected.len(), "{what}: {updates:?}");
    for (word, count) in expected {
        let updates = &updates[word];
        assert_eq!(updates.last(), Some(&count), "{what}: {word}");
        if cached {
            let in_order = updates.is_sorted_by(|before, after| before < after);
            assert!(in_order, "{what}: {word}: {updates:?}");
        } else {
            let every: Vec<i64> = (1..=count).collect();
            assert_eq!(*updates, every, "{what}: {word}: every update, once");
        }
    }
}

fn power_goes(seed: u64) {
    let mut random = Random(seed);
    let cached = random.below(2) == 0;
    let what = format!("seed {seed}, cached {cached}");
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let mut disk = SimDisk::new();
    let new: Vec<NewTopic> = ["lines", "lines-seen", "counts-by-word"]
        .iter()
        .map(|name| NewTopic::new(*name, 2))
        .collect();
    topics::create(&cluster(&disk), &new).unwrap();
    let mut written = 0;
    for _ in 0..2 + random.below(3) {
        live(&disk, &state, cached, &mut written, &mut random);
        disk = disk.crash(match random.below(4) {
            0 => Crash::LoseUnsynced,
            _ => Crash::Torn {
                seed: random.below(u64::MAX),
            },
        });
        lose_of_stores(&state, APPLICATION, &mut random);
    }
    let cluster = cluster(&disk);
    write(&cluster, &mut written);
    let streams = application(&cluster, &state, cached).start().unwrap();
    streams.wait_until_caught_up(LIMIT).unwrap();
    streams.stop().unwrap();
    check(&cluster, written, cached, &what);
}

#[test]
fn an_application_and_its_broker_that_lose_power_repeat_and_lose_nothing() {
    for_seeds(6, power_goes);
}
