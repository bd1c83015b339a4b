//! Starting, stopping, failing and coming back: applications on an embedded broker.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::Duration;

use brooklet::prelude::*;
use brooklet::topics::{self, NewTopic, TopicWriter};
use brooklet_streams_core::client;

use crate::programs::{free_port, start_broker};

const LIMIT: Duration = Duration::from_secs(60);

fn cluster(directory: &Path) -> Cluster {
    Cluster::embedded(directory.join("broker")).flush(Flush::Os)
}

fn create(cluster: &Cluster, names: &[&str]) {
    let new: Vec<NewTopic> = names.iter().map(|name| NewTopic::new(*name, 2)).collect();
    topics::create(cluster, &new).unwrap();
}

fn write(cluster: &Cluster, topic: &str, lines: &[&str]) {
    let mut writer =
        TopicWriter::<String, String>::new(cluster, topic, Produced::default()).unwrap();
    for (number, line) in lines.iter().enumerate() {
        let record = Record::new(format!("line {number}"), (*line).to_owned(), number as i64);
        writer.send(&record).unwrap();
    }
    writer.flush().unwrap();
}

fn word_count() -> Topology {
    let builder = StreamsBuilder::new();
    builder
        .stream::<String, String>("lines", Consumed::default())
        .flat_map_values(|_, line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .group_by(|_, word| word.clone())
        .count(Materialized::named("counts"))
        .to_stream()
        .to("counts-by-word", Produced::default());
    builder.build().unwrap()
}

fn application(directory: &Path, cluster: &Cluster, topology: Topology) -> Streams {
    Streams::new("application", topology)
        .cluster(cluster.clone())
        .state_dir(directory.join("state"))
        .commit_interval(Duration::from_millis(20))
}

fn counts(cluster: &Cluster) -> BTreeMap<String, i64> {
    let mut counts = BTreeMap::new();
    topics::read(
        cluster,
        "counts-by-word",
        &Consumed::default(),
        |_, _, record: Record<String, i64>| {
            counts.insert(record.key, record.value);
        },
    )
    .unwrap();
    counts
}

fn expected(pairs: &[(&str, i64)]) -> BTreeMap<String, i64> {
    pairs
        .iter()
        .map(|(word, count)| ((*word).to_owned(), *count))
        .collect()
}

#[test]
fn a_lost_state_directory_is_restored_from_the_changelogs() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = cluster(directory.path());
    create(&cluster, &["lines", "counts-by-word"]);
    write(&cluster, "lines", &["to be or not to be", "be"]);
    let first = application(directory.path(), &cluster, word_count())
        .stream_threads(2)
        .start()
        .unwrap();
    first.wait_until_caught_up(LIMIT).unwrap();
    first.stop().unwrap();
    assert_eq!(
        counts(&cluster),
        expected(&[("be", 3), ("not", 1), ("or", 1), ("to", 2)])
    );

    std::fs::remove_dir_all(directory.path().join("state")).unwrap();
    write(&cluster, "lines", &["be quick"]);
    let second = application(directory.path(), &cluster, word_count())
        .start()
        .unwrap();
    second.wait_until_caught_up(LIMIT).unwrap();
    assert!(
        second.metric_total("restore-total") >= 4.0,
        "four rows were to be restored"
    );
    second.stop().unwrap();
    assert_eq!(
        counts(&cluster),
        expected(&[("be", 4), ("not", 1), ("or", 1), ("quick", 1), ("to", 2)])
    );

    let third = application(directory.path(), &cluster, word_count())
        .start()
        .unwrap();
    third.wait_until_caught_up(LIMIT).unwrap();
    assert_eq!(
        third.metric_total("restore-total"),
        0.0,
        "after a clean stop nothing is missing"
    );
    third.stop().unwrap();
}

#[test]
fn a_store_that_knows_more_than_its_changelog_is_rebuilt() {
    let directory = tempfile::tempdir().unwrap();
    let first = cluster(directory.path());
    create(&first, &["lines", "counts-by-word"]);
    write(&first, "lines", &["be be be be"]);
    let streams = application(directory.path(), &first, word_count())
        .start()
        .unwrap();
    streams.wait_until_caught_up(LIMIT).unwrap();
    streams.stop().unwrap();

    let another = Cluster::embedded(directory.path().join("another broker")).flush(Flush::Os);
    create(&another, &["lines", "counts-by-word"]);
    write(&another, "lines", &["be"]);
    let streams = application(directory.path(), &another, word_count())
        .start()
        .unwrap();
    streams.wait_until_caught_up(LIMIT).unwrap();
    streams.stop().unwrap();
    assert_eq!(
        counts(&another),
        expected(&[("be", 1)]),
        "the rows of the other cluster are gone"
    );
}

fn a_changelog_created_anew(cluster: &Cluster, directory: &Path) {
    create(cluster, &["lines", "counts-by-word"]);
    write(cluster, "lines", &["be be be be"]);
    let streams = application(directory, cluster, word_count())
        .start()
        .unwrap();
    streams.wait_until_caught_up(LIMIT).unwrap();
    streams.stop().unwrap();

    // It has other records, and more than the old one: no position tells.
    let changelog = "application-counts-changelog";
    let delete = client::AdminRequest::DeleteTopics(vec![changelog.to_owned()]);
    topics::request(cluster, delete).unwrap();
    topics::create(
        cluster,
        &[NewTopic::new(changelog, 2).config("cleanup.policy", "compact")],
    )
    .unwrap();
    let mut counts_anew =
        TopicWriter::<String, i64>::new(cluster, changelog, Produced::default()).unwrap();
    for (word, count) in [("be", 1_000), ("or", 1), ("not", 1)] {
        let record = Record::new(word.to_owned(), count, 0);
        counts_anew.send(&record).unwrap();
    }
    for number in 0..100 {
        let record = Record::new(format!("word {number}"), 1, 0);
        counts_anew.send(&record).unwrap();
    }
    counts_anew.flush().unwrap();

    write(cluster, "lines", &["", "be"]);
    let streams = application(directory, cluster, word_count())
        .start()
        .unwrap();
    streams.wait_until_caught_up(LIMIT).unwrap();
    streams.stop().unwrap();
    assert_eq!(
        counts(cluster).get("be"),
        Some(&1_001),
        "counted on from the changelog that is there"
    );
}

#[test]
fn a_store_whose_changelog_was_created_anew_is_rebuilt_however_far_that_has_grown() {
    let directory = tempfile::tempdir().unwrap();
    a_changelog_created_anew(&cluster(directory.path()), directory.path());
}

#[test]
fn over_the_wire_too_a_store_whose_changelog_was_created_anew_is_rebuilt() {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let _broker = start_broker(&directory.path().join("broker"), port);
    let cluster = Cluster::kafka(format!("127.0.0.1:{port}"));
    a_changelog_created_anew(&cluster, directory.path());
}

/// As Kafka's coordinator does, ours forgets what was committed of a topic with the topic.
fn an_input_created_anew(cluster: &Cluster, directory: &Path, lines_anew: &[&str], be: i64) {
    create(cluster, &["lines", "counts-by-word"]);
    write(cluster, "lines", &["be", "be", "be", "be"]);
    let run = || {
        let streams = application(directory, cluster, word_count())
            .processing_guarantee(ProcessingGuarantee::ExactlyOnce)
            .start()
            .unwrap();
        streams.wait_until_caught_up(LIMIT).unwrap();
        streams.stop().unwrap();
    };
    run();
    let delete = client::AdminRequest::DeleteTopics(vec!["lines".to_owned()]);
    topics::request(cluster, delete).unwrap();
    create(cluster, &["lines"]);
    write(cluster, "lines", lines_anew);
    run();
    assert_eq!(
        counts(cluster).get("be"),
        Some(&be),
        "the new topic is read from its beginning, and counted on"
    );
}

#[test]
fn an_input_created_anew_is_read_from_its_beginning_be_it_shorter_or_longer() {
    for (lines_anew, be) in [(&["be"][..], 5), (&["be"; 9][..], 13)] {
        let directory = tempfile::tempdir().unwrap();
        an_input_created_anew(&cluster(directory.path()), directory.path(), lines_anew, be);
    }
}

#[test]
fn over_the_wire_too_an_input_created_anew_is_read_from_its_beginning() {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let _broker = start_broker(&directory.path().join("broker"), port);
    let cluster = Cluster::kafka(format!("127.0.0.1:{port}"));
    an_input_created_anew(&cluster, directory.path(), &["be"; 9], 13);
}

#[test]
fn a_second_instance_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = cluster(directory.path());
    create(&cluster, &["lines", "counts-by-word"]);
    let first = application(directory.path(), &cluster, word_count())
        .start()
        .unwrap();
    let error = application(directory.path(), &cluster, word_count())
        .start()
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("application application is already running"),
        "{error}"
    );
    first.stop().unwrap();
    application(directory.path(), &cluster, word_count())
        .start()
        .unwrap()
        .stop()
        .unwrap();
}

#[test]
fn a_second_instance_over_the_wire_is_refused_and_the_first_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let broker = start_broker(&directory.path().join("broker"), port);
    let cluster = Cluster::kafka(format!("127.0.0.1:{port}"));
    create(&cluster, &["lines", "counts-by-word"]);
    write(&cluster, "lines", &["be"]);
    // Another state directory, as on another machine: it is the group that tells of the first.
    let instance = |machine: &str| {
        application(&directory.path().join(machine), &cluster, word_count()).start()
    };
    let first = instance("first").unwrap();
    first.wait_until_caught_up(LIMIT).unwrap();
    let error = match instance("second") {
        Err(error) => error.to_string(),
        // `start` returns before the group has answered.
        Ok(second) => second.wait_until_caught_up(LIMIT).unwrap_err().to_string(),
    };
    assert!(
        error.contains("group application") && error.contains(&format!("127.0.0.1:{port}")),
        "{error}"
    );
    write(&cluster, "lines", &["be"]);
    first.wait_until_caught_up(LIMIT).unwrap();
    assert_eq!(counts(&cluster), expected(&[("be", 2)]));
    first.stop().unwrap();
    // The place is free when the first has left.
    let third = instance("second").unwrap();
    write(&cluster, "lines", &["be"]);
    third.wait_until_caught_up(LIMIT).unwrap();
    assert_eq!(counts(&cluster), expected(&[("be", 3)]));
    third.stop().unwrap();
    broker.kill();
}

#[test]
fn what_is_missing_or_wrong_is_named_by_start() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = cluster(directory.path());
    let start = || application(directory.path(), &cluster, word_count());
    let error = |streams: Streams| streams.start().map(drop).unwrap_err().to_string();
    assert!(error(start()).contains("source topic lines does not exist on the embedded broker in"));
    create(&cluster, &["lines"]);
    assert!(error(start()).contains("sink topic counts-by-word does not exist"));
    assert_eq!(
        error(start().set("comit.interval.ms", "1")),
        "setting comit.interval.ms: is not a setting that Brooklet knows"
    );
    assert!(error(Streams::new("application", word_count())).contains("no cluster is set"));
    assert!(
        error(Streams::new("a/b", word_count()).cluster(cluster.clone()))
            .contains("application.id")
    );
}

#[test]
fn start_and_stop_work_inside_a_tokio_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let cluster = cluster(directory.path());
        create(&cluster, &["lines", "counts-by-word"]);
        write(&cluster, "lines", &["be"]);
        let streams = application(directory.path(), &cluster, word_count())
            .start()
            .unwrap();
        streams.wait_until_caught_up(LIMIT).unwrap();
        let stop = streams.stop_handle();
        stop.stop();
        streams.run_until_stopped().unwrap();
        assert_eq!(counts(&cluster), expected(&[("be", 1)]));
    });
}

#[test]
fn a_closure_that_fails_stops_the_application_and_the_error_says_where() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = cluster(directory.path());
    create(&cluster, &["lines", "numbers"]);
    write(&cluster, "lines", &["one"]);
    let builder = StreamsBuilder::new();
    builder
        .stream::<String, String>("lines", Consumed::default())
        .try_map_values(|_, line| line.parse::<i64>())
        .named("parse")
        .to("numbers", Produced::default());
    let streams = application(directory.path(), &cluster, builder.build().unwrap())
        .start()
        .unwrap();
    let error = streams.wait_until_caught_up(LIMIT).unwrap_err().to_string();
    assert!(
        error.contains("lines-")
            && error.contains("at offset 0")
            && error.contains("parse: invalid digit"),
        "{error}"
    );
    assert_eq!(streams.state(), brooklet::State::Error);
    assert!(streams.stop().is_err());
}

#[test]
fn records_held_for_a_topic_that_does_not_exist_are_not_committed() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = cluster(directory.path());
    create(&cluster, &["lines"]);
    write(&cluster, "lines", &["elsewhere"]);
    let topology = || {
        let builder = StreamsBuilder::new();
        builder
            .stream::<String, String>("lines", Consumed::default())
            .to_dynamic(|record, _| record.value.clone(), Produced::default());
        builder.build().unwrap()
    };
    let streams = application(directory.path(), &cluster, topology())
        .start()
        .unwrap();
    let error = streams
        .wait_until_caught_up(Duration::from_millis(300))
        .unwrap_err()
        .to_string();
    assert!(error.contains("1 records are not yet processed"), "{error}");
    streams.stop().unwrap();

    create(&cluster, &["elsewhere"]);
    let streams = application(directory.path(), &cluster, topology())
        .start()
        .unwrap();
    streams.wait_until_caught_up(LIMIT).unwrap();
    streams.stop().unwrap();
    let mut found = Vec::new();
    topics::read(
        &cluster,
        "elsewhere",
        &Consumed::default(),
        |_, _, record: Record<String, String>| found.push(record.value),
    )
    .unwrap();
    assert_eq!(found, ["elsewhere"]);
}

#[test]
fn what_a_cache_sends_to_a_topic_that_does_not_exist_is_not_committed_exactly_once_either() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = cluster(directory.path());
    create(&cluster, &["lines"]);
    let topology = || {
        let builder = StreamsBuilder::new();
        builder
            .stream::<String, String>("lines", Consumed::default())
            .group_by_key()
            .count(Materialized::named("counts"))
            .to_stream()
            .to_dynamic(|_, _| "elsewhere".to_owned(), Produced::default());
        builder.build().unwrap()
    };
    write(&cluster, "lines", &["held when the cache is flushed"]);
    let start = || {
        application(directory.path(), &cluster, topology())
            .processing_guarantee(ProcessingGuarantee::ExactlyOnce)
            .start()
            .unwrap()
    };
    let streams = start();
    let error = streams
        .wait_until_caught_up(Duration::from_millis(500))
        .unwrap_err()
        .to_string();
    assert!(error.contains("1 records are not yet processed"), "{error}");
    streams.stop().unwrap();

    create(&cluster, &["elsewhere"]);
    let streams = start();
    streams.wait_until_caught_up(LIMIT).unwrap();
    streams.stop().unwrap();
    let mut found = Vec::new();
    topics::read(
        &cluster,
        "elsewhere",
        &Consumed::default(),
        |_, _, record: Record<String, i64>| found.push(record.value),
    )
    .unwrap();
    assert_eq!(found, [1]);
}

/// A cluster on which the beginning of a partition is deleted just when somebody begins to read it there.
struct Pruned {
    cluster: Cluster,
    partition: client::TopicPartition,
    from: i64,
    pruned: Arc<AtomicBool>,
}

struct PrunedConsumer {
    consumer: Box<dyn client::Consumer>,
    cluster: Cluster,
    partition: client::TopicPartition,
    from: i64,
    pruned: Arc<AtomicBool>,
}

impl client::Consumer for PrunedConsumer {
    fn add(
        &mut self,
        partition: &client::TopicPartition,
        offset: i64,
    ) -> Result<client::Slot, client::ClientError> {
        if *partition == self.partition && !self.pruned.swap(true, Ordering::SeqCst) {
            let request = client::AdminRequest::DeleteRecords(vec![(partition.clone(), self.from)]);
            topics::request(&self.cluster, request).unwrap();
        }
        self.consumer.add(partition, offset)
    }

    fn remove(&mut self, slot: client::Slot) {
        self.consumer.remove(slot);
    }

    fn seek(&mut self, slot: client::Slot, offset: i64) {
        self.consumer.seek(slot, offset);
    }

    fn pause(&mut self, slot: client::Slot) {
        self.consumer.pause(slot);
    }

    fn resume(&mut self, slot: client::Slot) {
        self.consumer.resume(slot);
    }

    fn poll(
        &mut self,
        now_ms: i64,
        waker: &Waker,
        fetched: &mut Vec<client::Fetched>,
    ) -> Result<(), client::ClientError> {
        self.consumer.poll(now_ms, waker, fetched)
    }
}

impl client::Cluster for Pruned {
    fn consumer(
        &self,
        options: &client::ConsumerOptions,
    ) -> Result<Box<dyn client::Consumer>, client::ClientError> {
        Ok(Box::new(PrunedConsumer {
            consumer: self.cluster.consumer(options)?,
            cluster: self.cluster.clone(),
            partition: self.partition.clone(),
            from: self.from,
            pruned: Arc::clone(&self.pruned),
        }))
    }

    fn producer(
        &self,
        options: &client::ProducerOptions,
    ) -> Result<Box<dyn client::Producer>, client::ClientError> {
        self.cluster.producer(options)
    }

    fn admin(&self) -> Result<Box<dyn client::Admin>, client::ClientError> {
        self.cluster.admin()
    }

    fn claim(
        &self,
        application_id: &str,
        process_id: &str,
        topics: &[String],
    ) -> Result<Box<dyn client::Claim>, client::ClientError> {
        self.cluster.claim(application_id, process_id, topics)
    }

    fn name(&self) -> String {
        self.cluster.name()
    }
}

#[test]
fn a_changelog_whose_beginning_goes_while_it_is_restored_is_restored_from_what_is_left() {
    for guarantee in [
        ProcessingGuarantee::AtLeastOnce,
        ProcessingGuarantee::ExactlyOnce,
    ] {
        let directory = tempfile::tempdir().unwrap();
        let cluster = cluster(directory.path());
        topics::create(
            &cluster,
            &[
                NewTopic::new("lines", 1),
                NewTopic::new("counts-by-word", 1),
            ],
        )
        .unwrap();
        write(&cluster, "lines", &["a b c d"]);
        let start = |cluster: Pruned| {
            Streams::new("application", word_count())
                .cluster(cluster)
                .state_dir(directory.path().join("state"))
                .commit_interval(Duration::from_millis(20))
                .processing_guarantee(guarantee)
                .start()
                .unwrap()
        };
        let pruned = Arc::new(AtomicBool::new(true));
        let cluster_to_prune = || Pruned {
            cluster: cluster.clone(),
            partition: client::TopicPartition::new("application-counts-changelog", 0),
            from: 3,
            pruned: Arc::clone(&pruned),
        };
        let streams = start(cluster_to_prune());
        streams.wait_until_caught_up(LIMIT).unwrap();
        streams.stop().unwrap();

        std::fs::remove_dir_all(directory.path().join("state")).unwrap();
        pruned.store(false, Ordering::SeqCst);
        let streams = start(cluster_to_prune());
        write(&cluster, "lines", &["a d"]);
        streams.wait_until_caught_up(LIMIT).unwrap();
        assert!(pruned.load(Ordering::SeqCst), "nothing was restored");
        streams.stop().unwrap();
        // Of the four rows the changelog has the last one still.
        assert_eq!(
            counts(&cluster),
            expected(&[("a", 1), ("b", 1), ("c", 1), ("d", 2)])
        );
    }
}

#[test]
fn an_application_that_begins_at_the_end_passes_over_what_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = cluster(directory.path());
    create(&cluster, &["lines", "counts-by-word"]);
    write(&cluster, "lines", &["old"]);
    let start = || {
        application(directory.path(), &cluster, word_count())
            .set("auto.offset.reset", "latest")
            .start()
            .unwrap()
    };
    let streams = start();
    streams.wait_until_caught_up(LIMIT).unwrap();
    streams.stop().unwrap();
    // Written while the application is down: it was there before, so this is not for the reset policy to skip.
    write(&cluster, "lines", &["new"]);
    let streams = start();
    streams.wait_until_caught_up(LIMIT).unwrap();
    streams.stop().unwrap();
    assert_eq!(counts(&cluster), expected(&[("new", 1)]));
}
