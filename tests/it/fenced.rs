//! Transactions that are taken away from an application that lives: it goes on from what is committed, and counts everything once.

use std::collections::BTreeMap;
use std::path::Path;
use std::task::Waker;
use std::time::{Duration, Instant};

use brooklet::clock::{Clock, SystemClock};
use brooklet::prelude::*;
use brooklet::processor::{InitContext, Processor, ProcessorContext};
use brooklet::topics::{self, NewTopic, TopicWriter};
use brooklet::typed_store::{KeyValueStoreBuilder, TimestampedKeyValueStore};
use brooklet_streams_core::client::{
    AdminRequest, AdminResponse, ClaimState, Cluster as _, OffsetSpec, Producer, ProducerOptions,
    TopicPartition, TransactionOptions, TransactionRequest,
};

use crate::programs::{free_port, start_broker, start_broker_with};

const LIMIT: Duration = Duration::from_secs(120);
const APPLICATION: &str = "fenced";
const ROUNDS: i64 = 4;

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

fn process_id(state: &Path) -> String {
    let id = std::fs::read_to_string(state.join(APPLICATION).join("process-id")).unwrap();
    id.trim().to_owned()
}

/// A producer with the transactional id of the application's first thread, which fences that.
fn rival(cluster: &Cluster, state: &Path) -> Box<dyn Producer> {
    let mut producer = cluster
        .producer(&ProducerOptions {
            client_id: "rival".to_owned(),
            batch_bytes: 16_384,
            linger_ms: 0,
            properties: Vec::new(),
            transaction: Some(TransactionOptions {
                transactional_id: format!("{APPLICATION}-{}-1", process_id(state)),
                timeout_ms: 10_000,
                group: APPLICATION.to_owned(),
            }),
        })
        .unwrap();
    producer.submit_transaction(TransactionRequest::Initialize);
    let deadline = Instant::now() + LIMIT;
    let mut completions = Vec::new();
    loop {
        let now_ms = SystemClock.now_ms();
        producer
            .poll(now_ms, Waker::noop(), &mut completions)
            .unwrap();
        match producer.poll_transaction(now_ms, Waker::noop()) {
            Some(Ok(())) => return producer,
            // The coordinator is loading, or ends what the other had open.
            Some(Err(_)) => producer.submit_transaction(TransactionRequest::Initialize),
            None => std::thread::yield_now(),
        }
        assert!(
            Instant::now() < deadline,
            "the rival's producer is not initialised"
        );
    }
}

fn create(cluster: &Cluster) {
    let new: Vec<NewTopic> = ["lines", "counts-by-word"]
        .iter()
        .map(|name| NewTopic::new(*name, 2))
        .collect();
    topics::create(cluster, &new).unwrap();
}

fn application(cluster: &Cluster, state: &Path) -> Streams {
    Streams::new(APPLICATION, word_count())
        .cluster(cluster.clone())
        .state_dir(state)
        .processing_guarantee(ProcessingGuarantee::ExactlyOnce)
        .commit_interval(Duration::from_millis(10))
        .cache_bytes(0)
}

/// Two hundred lines.
fn write(cluster: &Cluster, round: i64) {
    let mut lines =
        TopicWriter::<String, String>::new(cluster, "lines", Produced::default()).unwrap();
    for number in 0..200 {
        let record = Record::new(format!("{number}"), "to be or not to be".to_owned(), round);
        lines.send(&record).unwrap();
    }
    lines.flush().unwrap();
}

/// Every update of every word is there, once and in order.
fn check(cluster: &Cluster, rounds: i64) {
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
    for (word, each) in [("to", 2), ("be", 2), ("or", 1), ("not", 1)] {
        let every: Vec<i64> = (1..=each * 200 * rounds).collect();
        assert_eq!(updates[word], every, "{word}: every update, once");
    }
}

fn fenced_again_and_again(cluster: &Cluster, directory: &Path) {
    create(cluster);
    let state = directory.join("state");
    let streams = application(cluster, &state).start().unwrap();
    let mut rivals = Vec::new();
    for round in 0..ROUNDS {
        write(cluster, round);
        // Some of it is committed, some is in a transaction, some is not read yet.
        rivals.push(rival(cluster, &state));
    }
    streams.wait_until_caught_up(LIMIT).unwrap();
    let undone = streams.metric_total("aborted-transactions-total");
    streams.stop().unwrap();
    assert!(undone >= 1.0, "no transaction was ever fenced");
    check(cluster, ROUNDS);
}

#[test]
fn an_application_that_is_fenced_while_it_holds_its_group_goes_on_and_counts_once() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = Cluster::embedded(directory.path().join("broker"));
    fenced_again_and_again(&cluster, directory.path());
}

#[test]
fn over_the_wire_too_a_fenced_application_goes_on_and_counts_once() {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let _broker = start_broker(&directory.path().join("broker"), port);
    let cluster = Cluster::kafka(format!("127.0.0.1:{port}"));
    fenced_again_and_again(&cluster, directory.path());
}

/// What a process does that was stopped for so long that another took its place: it is not told until it asks.
#[test]
fn an_application_whose_group_another_has_taken_stops_with_that_reason_and_commits_nothing_more() {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let _broker = start_broker(&directory.path().join("broker"), port);
    let address = format!("127.0.0.1:{port}");
    let cluster = Cluster::kafka(&address);
    create(&cluster);
    let state = directory.path().join("state");
    let streams = application(&cluster, &state).start().unwrap();
    write(&cluster, 0);
    streams.wait_until_caught_up(LIMIT).unwrap();

    // Another process under the same id, as of a copied state directory.
    let elsewhere = Cluster::kafka(&address);
    let mut claim = elsewhere
        .claim(APPLICATION, &process_id(&state), &["lines".to_owned()])
        .unwrap();
    let deadline = Instant::now() + LIMIT;
    loop {
        match claim.poll(SystemClock.now_ms(), Waker::noop()) {
            ClaimState::Held(_) => break,
            ClaimState::Pending => std::thread::yield_now(),
            refused => panic!("the group is not given to the other: {refused:?}"),
        }
        assert!(Instant::now() < deadline, "the other has not joined");
    }
    write(&cluster, 1);
    let error = streams.wait_until_caught_up(LIMIT).unwrap_err().to_string();
    assert!(
        error.contains("another process"),
        "it says to whom its group went: {error}"
    );
    let stopped = streams.stop().unwrap_err().to_string();
    assert_eq!(stopped, error, "the reason stays");
    check(&cluster, 1);

    // Its next life, once the other has left, does what it could not.
    drop(claim);
    let streams = application(&cluster, &state).start().unwrap();
    streams.wait_until_caught_up(LIMIT).unwrap();
    streams.stop().unwrap();
    check(&cluster, 2);
}

/// How often a broker under test looks for transactions that have timed out.
const TIME_OUTS: (&str, &str) = (
    "transaction.abort.timed.out.transaction.cleanup.interval.ms",
    "50",
);

/// Counts each word in a store, and tells every count. The word's value may ask for a commit: there is none otherwise.
#[derive(Default)]
struct Count {
    counts: Option<TimestampedKeyValueStore<String, i64>>,
}

const COMMIT: &str = "commit";

impl Processor<String, String, String, i64> for Count {
    fn init(&mut self, context: &mut InitContext<'_, String, i64>) -> Result<(), ProcessError> {
        self.counts = Some(context.key_value_store("counts")?);
        Ok(())
    }

    fn process(
        &mut self,
        record: Record<String, String>,
        context: &mut ProcessorContext<'_, String, i64>,
    ) -> Result<(), ProcessError> {
        if record.value == COMMIT {
            context.request_commit();
            return Ok(());
        }
        let counts = self.counts.as_ref().unwrap();
        let before = counts.read(&record.key)?.map_or(0, |count| count.value);
        // Forwarded whether it is in the store or in its cache.
        let _ = counts.put(&record.key, Some(before + 1), record.timestamp, context)?;
        context.forward(Record::new(record.key, before + 1, record.timestamp))
    }
}

fn counting(is_cached: bool) -> Topology {
    let mut topology = Topology::builder();
    let words = topology
        .add_source::<String, String>("words", ["words"], Consumed::default())
        .unwrap();
    let count = topology
        .add_processor("count", Count::default, &[words])
        .unwrap();
    let store = KeyValueStoreBuilder::<String, i64>::new("counts").caching(is_cached);
    topology.add_state_store(store).unwrap();
    topology.connect(count, &["counts"]).unwrap();
    topology
        .add_sink("updates", "updates", Produced::default(), &[count])
        .unwrap();
    topology.build().unwrap()
}

/// Each word so often, and then perhaps the wish for a commit.
fn write_words(cluster: &Cluster, times: usize, commit: bool) {
    let mut words =
        TopicWriter::<String, String>::new(cluster, "words", Produced::default()).unwrap();
    for word in ["to", "be"].repeat(times) {
        let record = Record::new(word.to_owned(), String::new(), 0);
        words.send(&record).unwrap();
    }
    if commit {
        let record = Record::new(String::new(), COMMIT.to_owned(), 0);
        words.send(&record).unwrap();
    }
    words.flush().unwrap();
}

/// Whether there are updates in a transaction that is neither committed nor aborted.
fn is_open(cluster: &Cluster) -> bool {
    let end = |read_committed| {
        let partition = TopicPartition::new("updates", 0);
        let latest = OffsetSpec::Latest { read_committed };
        let asked = AdminRequest::ListOffsets(vec![(partition, latest)]);
        let AdminResponse::Offsets(offsets) = topics::request(cluster, asked).unwrap() else {
            panic!("not offsets")
        };
        offsets.into_iter().next().unwrap().1.unwrap()
    };
    // In this order: the first cannot pass the second.
    let stable = end(true);
    stable < end(false)
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        std::thread::yield_now();
    }
}

/// The coordinator aborts an idle thread's transaction. The thread learns of it when it writes on, or when it only commits.
fn timed_out(cluster: &Cluster, directory: &Path, is_cached: bool, writes_on: bool) {
    let new: Vec<NewTopic> = ["words", "updates"]
        .iter()
        .map(|name| NewTopic::new(*name, 1))
        .collect();
    topics::create(cluster, &new).unwrap();
    let start = || {
        Streams::new("timed-out", counting(is_cached))
            .cluster(cluster.clone())
            .state_dir(directory.join("state"))
            .processing_guarantee(ProcessingGuarantee::ExactlyOnce)
            .commit_interval(Duration::from_secs(3_600))
            .set("linger.ms", "0")
            // The least that librdkafka takes.
            .set("transaction.timeout.ms", "1000")
            .start()
            .unwrap()
    };
    let streams = start();
    write_words(cluster, 50, true);
    streams.wait_until_caught_up(LIMIT).unwrap();
    let undone = streams.metric_total("aborted-transactions-total");

    write_words(cluster, 30, false);
    wait_until("words in an open transaction", || is_open(cluster));
    wait_until("its end by time-out", || !is_open(cluster));
    write_words(cluster, if writes_on { 20 } else { 0 }, true);
    streams.wait_until_caught_up(LIMIT).unwrap();
    assert!(
        streams.metric_total("aborted-transactions-total") > undone,
        "the thread has noticed nothing"
    );
    streams.stop().unwrap();

    // What its store holds is what was committed.
    let streams = start();
    write_words(cluster, 10, true);
    streams.wait_until_caught_up(LIMIT).unwrap();
    streams.stop().unwrap();
    let mut updates: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    topics::read(
        cluster,
        "updates",
        &Consumed::default(),
        |_, _, record: Record<String, i64>| {
            updates.entry(record.key).or_default().push(record.value);
        },
    )
    .unwrap();
    let every: Vec<i64> = (1..=if writes_on { 110 } else { 90 }).collect();
    for word in ["to", "be"] {
        assert_eq!(updates[word], every, "{word}: every update, once");
    }
}

#[test]
fn a_thread_whose_transaction_timed_out_undoes_it_and_goes_on() {
    for (is_cached, writes_on) in [(false, true), (true, false)] {
        let directory = tempfile::tempdir().unwrap();
        let cluster =
            Cluster::embedded(directory.path().join("broker")).set(TIME_OUTS.0, TIME_OUTS.1);
        timed_out(&cluster, directory.path(), is_cached, writes_on);
    }
}

#[test]
fn over_the_wire_too_a_thread_whose_transaction_timed_out_undoes_it_and_goes_on() {
    for (is_cached, writes_on) in [(false, true), (true, false)] {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let time_outs = format!("{}={}", TIME_OUTS.0, TIME_OUTS.1);
        let data = directory.path().join("broker");
        let _broker = start_broker_with(&data, port, &["--config", &time_outs]);
        let cluster = Cluster::kafka(format!("127.0.0.1:{port}"));
        timed_out(&cluster, directory.path(), is_cached, writes_on);
    }
}
