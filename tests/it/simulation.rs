//! Exactly once, simulated: the stream threads themselves, stepped one at a time over a model of a cluster. A seed chooses everything that is not
//! certain: what arrives when, what is refused, what is done without an answer; time-outs, rebalances, another process that takes the
//! place of this one and gives it back, crashes with the stores as they are left or as a loss of power leaves them. After that all is
//! calm until everything is processed, and then the outputs, stores and offsets are those of a plain computation.
//!
//! `make test` runs some seeds, `make simulation` more: `BROOKLET_SIM_SEEDS` of them, from `BROOKLET_SIM_SEED` on. A seed that fails is printed with
//! what happened last; the same seed does the same again.

mod clients;
mod cluster;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;
use std::time::Duration;

use brooklet::prelude::*;
use brooklet_state_stores::key_schema::WindowKey;
use brooklet_state_stores::{Backend, Direction, Memory, StoreKind, Stores};
use brooklet_streams_core::client::{NewTopic, TopicPartition};
use brooklet_streams_core::partitioner::partition_of;
use brooklet_streams_core::runtime::stepped::SteppedStreams;

use crate::power_loss::lose_of_stores;
use crate::programs::Random;
use cluster::{Shared, Stored};

const APPLICATION: &str = "simulated";
const PARTITIONS: i32 = 2;
const USERS: u64 = 5;
const PRODUCTS: u64 = 7;
const CATEGORIES: u64 = 3;
/// Orders of a seed.
const ORDERS: usize = 600;
const WINDOW_MS: i64 = 1_000;
/// More actions than any seed needs once all is calm.
const CALM_ACTIONS: usize = 200_000;

/// In the short form.
const SEEDS: u64 = 30;
/// What these seeds must have come to.
const HAPPEN: [&str; 20] = [
    "ended",
    "fault: batch",
    "fault: consumer",
    "fault: fetch",
    "fault: no producer",
    "fault: producer",
    "fault: record",
    "fault: request",
    "fault: step",
    "jump",
    "kill",
    "late",
    "late and refused",
    "old generation",
    "power loss",
    "stale batch",
    "stale offsets",
    "stopped",
    "time-out",
    "zombie refused",
];

/// What a seed runs.
#[derive(Clone, Copy, Debug)]
struct Plan {
    cached: bool,
    on_disk: bool,
    threads: usize,
    commit_ms: u64,
    /// Of the second directory: a copy of the first one's, or of its own.
    same_process: bool,
}

impl Plan {
    fn of(random: &mut Random) -> Self {
        Self {
            cached: random.below(3) == 0,
            on_disk: random.below(5) == 0,
            threads: 1 + random.below(2) as usize,
            commit_ms: [0, 5, 30, 100][random.below(4) as usize],
            same_process: random.below(2) == 0,
        }
    }
}

/// Each order goes through as it is, is joined with the category of its product, and is counted by category, in all and in windows.
fn topology(plan: Plan) -> Topology {
    let builder = StreamsBuilder::new();
    fn kept<K: 'static, V: 'static>(plan: Plan, kept: Materialized<K, V>) -> Materialized<K, V> {
        let kept = kept.caching(plan.cached);
        if plan.on_disk { kept } else { kept.in_memory() }
    }
    let products = builder.table_with(
        "products",
        Consumed::default(),
        kept(plan, Materialized::<String, String>::named("categories")),
    );
    let orders = builder.stream::<String, String>("orders", Consumed::default());
    orders.to("orders-seen", Produced::default());
    let joined = orders
        .map(|user, order| (product_of(&order), format!("{user} {order}")))
        .join(&products, |order, category| format!("{category} {order}"));
    joined.to("joined", Produced::default());
    let by_category = joined.group_by(|_, joined| first(joined));
    by_category
        .count(kept(plan, Materialized::named("totals")))
        .to_stream()
        .to("totals-out", Produced::default());
    by_category
        .windowed_by(TimeWindows::of_size(ms(WINDOW_MS)).grace(ms(1_000_000)))
        .count(kept(plan, Materialized::named("windows")).retention(ms(2_000_000)))
        .to_stream()
        .map(|window, count| (format!("{} {}", window.key, window.window.start), count))
        .to("windows-out", Produced::default());
    builder.build().unwrap()
}

fn ms(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

fn first(of: &str) -> String {
    of.split(' ').next().unwrap().to_owned()
}

fn product_of(order: &str) -> String {
    order.split(' ').nth(1).unwrap().to_owned()
}

/// `number product`, of a user, at a time.
fn order(number: usize) -> (String, String, i64) {
    let mut random = Random(number as u64);
    (
        format!("user{}", random.below(USERS)),
        format!("{number} product{}", random.below(PRODUCTS)),
        10_000 + 10 * i64::try_from(number).unwrap() + i64::try_from(random.below(200)).unwrap(),
    )
}

fn category_of(product: &str) -> String {
    let number: u64 = product.strip_prefix("product").unwrap().parse().unwrap();
    format!("category{}", number % CATEGORIES)
}

fn write(cluster: &Shared, topic: &str, key: &str, value: &str, timestamp: i64) {
    let at = TopicPartition::new(topic, partition_of(key.as_bytes(), PARTITIONS));
    let record = Stored {
        key: Some(key.as_bytes().to_vec()),
        value: Some(value.as_bytes().to_vec()),
        timestamp,
    };
    cluster.lock().append(&at, record);
}

/// One seed: the cluster, the input that is written by and by, and the processes.
struct Simulation {
    seed: u64,
    plan: Plan,
    random: Random,
    cluster: Shared,
    directory: tempfile::TempDir,
    written: usize,
    /// In which of the two directories, and the application.
    active: Option<(usize, SteppedStreams)>,
    /// A process that was stopped when another took its place, and does not know.
    zombie: Option<SteppedStreams>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let plan = Plan::of(&mut random);
        let cluster = Shared::new(random.below(u64::MAX));
        for name in [
            "products",
            "orders",
            "orders-seen",
            "joined",
            "totals-out",
            "windows-out",
        ] {
            let new = NewTopic::new(name, PARTITIONS);
            cluster.lock().create(&new).unwrap();
        }
        for number in 0..PRODUCTS {
            let product = format!("product{number}");
            write(&cluster, "products", &product, "not yet known", 0);
            write(&cluster, "products", &product, &category_of(&product), 1);
        }
        // No disk is waited for where there is memory in its place.
        let directory = match tempfile::tempdir_in("/dev/shm") {
            Ok(directory) => directory,
            Err(_) => tempfile::tempdir().unwrap(),
        };
        let simulation = Self {
            seed,
            plan,
            random,
            cluster,
            directory,
            written: 0,
            active: None,
            zombie: None,
        };
        for number in 0..2 {
            let root = simulation.state(number).join(APPLICATION);
            std::fs::create_dir_all(&root).unwrap();
            let last = if plan.same_process { 0 } else { number };
            let id = format!("00000000-0000-4000-8000-00000000000{last}\n");
            std::fs::write(root.join("process-id"), id).unwrap();
        }
        simulation
    }

    fn state(&self, number: usize) -> PathBuf {
        self.directory.path().join(number.to_string())
    }

    fn start(&mut self, number: usize) {
        let plan = self.plan;
        let streams = Streams::new(APPLICATION, topology(plan))
            .cluster(self.cluster.clone())
            .clock(self.cluster.clone())
            .state_dir(self.state(number))
            .processing_guarantee(ProcessingGuarantee::ExactlyOnce)
            .stream_threads(plan.threads)
            .commit_interval(Duration::from_millis(plan.commit_ms))
            .cache_bytes(if plan.cached { 1 << 20 } else { 0 })
            .state_memory_bytes(8 << 20)
            .set("linger.ms", "3")
            .set("transaction.timeout.ms", "2000")
            .set("task.timeout.ms", "20000")
            .set("repartition.purge.interval.ms", "200");
        match SteppedStreams::start(streams) {
            Ok(started) => self.active = Some((number, started)),
            Err(error) => {
                let mut model = self.cluster.lock();
                assert!(!model.calm, "seed {}: not started: {error}", self.seed);
                model.note("not started", error);
            }
        }
    }

    /// What a process that ended as it did leaves on its disk.
    fn after_a_crash(&mut self, number: usize) {
        if self.plan.on_disk && self.random.below(3) == 0 {
            self.cluster.lock().note("power loss", number);
            lose_of_stores(&self.state(number), APPLICATION, &mut self.random);
        }
    }

    fn write_some(&mut self) {
        let some = 1 + self.random.below(40) as usize;
        for number in self.written..(self.written + some).min(ORDERS) {
            let (user, order, timestamp) = order(number);
            write(&self.cluster, "orders", &user, &order, timestamp);
            self.written = number + 1;
        }
    }

    /// One round of a thread, or something that it waits for.
    fn step(&mut self) {
        let Some((number, active)) = &mut self.active else {
            return;
        };
        let number = *number;
        let stepped = match self.random.below(6) {
            0 => Ok(active.step_aside()),
            _ => active.step(self.random.below(active.threads() as u64) as usize),
        };
        let mut model = self.cluster.lock();
        model.go_on();
        match stepped {
            Ok(true) => {}
            // Who has nothing to do waits.
            Ok(false) => model.now_ms += 1,
            Err(error) => {
                assert!(!model.calm, "seed {}: {error}", self.seed);
                model.note("ended", error);
                drop(model);
                self.active = None;
                self.after_a_crash(number);
            }
        }
    }

    fn kill(&mut self) {
        if let Some((number, killed)) = self.active.take() {
            self.cluster.lock().note("kill", number);
            drop(killed);
            self.after_a_crash(number);
        }
    }

    /// What may happen at any time.
    fn act(&mut self) {
        let commits_asked = self.cluster.lock().commits_asked;
        match self.random.below(1_000) {
            0..3 => self.kill(),
            3..7 => self.cluster.lock().rebalance(),
            7..9 => {
                let jump = 100 + i64::try_from(self.random.below(5_000)).unwrap();
                let mut model = self.cluster.lock();
                model.note("jump", jump);
                model.now_ms += jump;
            }
            9..12 if self.zombie.is_none() => {
                if let Some((number, stopped)) = self.active.take() {
                    self.cluster.lock().note("zombie", number);
                    self.zombie = Some(stopped);
                    self.start(1 - number);
                }
            }
            12..14 => {
                if let Some((_, stopping)) = &mut self.active {
                    self.cluster.lock().note("stop", "");
                    stopping.stop();
                }
            }
            14..40 => self.write_some(),
            40..120 => self.step_zombie(),
            120..200 => {
                self.cluster.lock().now_ms += i64::try_from(self.random.below(30)).unwrap();
            }
            _ => self.step(),
        }
        // Between the question and its answer much is not certain.
        if self.cluster.lock().commits_asked > commits_asked && self.random.below(25) == 0 {
            self.kill();
        }
        if let Some((number, stopping)) = &mut self.active
            && stopping.stopped()
        {
            let number = *number;
            let (_, stopped) = self.active.take().unwrap();
            self.cluster.lock().note("stopped", number);
            stopped.close().unwrap();
        }
        if self.active.is_none() {
            // The directory of a zombie is locked.
            let number = match &self.zombie {
                Some(_) => self.locked_by_zombie() ^ 1,
                None => self.random.below(2) as usize,
            };
            self.start(number);
        }
    }

    fn locked_by_zombie(&self) -> usize {
        let is_locked = |number: &usize| {
            let lock = self.state(*number).join(APPLICATION).join(".lock");
            std::fs::File::open(lock).is_ok_and(|lock| lock.try_lock().is_err())
        };
        (0..2).find(is_locked).unwrap()
    }

    fn step_zombie(&mut self) {
        let Some(zombie) = &mut self.zombie else {
            return;
        };
        let thread = self.random.below(zombie.threads() as u64) as usize;
        let stepped = match self.random.below(6) {
            0 => Ok(zombie.step_aside()),
            _ => zombie.step(thread),
        };
        if let Err(error) = stepped {
            self.cluster.lock().note("zombie ended", error);
            self.zombie = None;
        }
    }

    /// Everything processed, committed, and the markers written.
    fn is_done(&self) -> bool {
        let mut model = self.cluster.lock();
        let repartition = model.topic_names().into_iter();
        let repartition = repartition.filter(|topic| topic.ends_with("-repartition"));
        let inputs: Vec<String> = ["orders".to_owned(), "products".to_owned()]
            .into_iter()
            .chain(repartition)
            .collect();
        model.is_settled()
            && inputs.iter().all(|topic| {
                (0..PARTITIONS).all(|partition| {
                    let at = TopicPartition::new(topic.as_str(), partition);
                    let (_, _, end) = model.offsets(&at).unwrap();
                    let committed = model.committed(&at).unwrap();
                    end == 0 || committed.is_some_and(|committed| committed.offset == end)
                })
            })
    }

    fn run(&mut self) {
        self.start(0);
        while self.written < ORDERS {
            self.act();
        }
        // And what is left of it, for a while.
        for _ in 0..self.random.below(600) {
            self.act();
        }
        self.cluster.lock().calm = true;
        self.zombie = None;
        // A thread that was never committed between its failures would end with the next: this is a life without any.
        if let Some((number, last)) = self.active.take() {
            drop(last);
            self.start(number);
        } else {
            self.start(0);
        }
        let mut actions = 0;
        while !self.is_done() {
            self.step();
            actions += 1;
            assert!(actions < CALM_ACTIONS, "seed {}: not done", self.seed);
        }
        let (number, mut last) = self.active.take().unwrap();
        last.stop();
        while !last.stopped() {
            for thread in 0..last.threads() {
                last.step(thread).unwrap();
            }
            let mut model = self.cluster.lock();
            model.now_ms += 1;
            model.go_on();
        }
        last.close().unwrap();
        self.check(number);
    }

    fn read(&self, topic: &str) -> Vec<(String, Stored)> {
        let all = self.cluster.lock().all_committed(topic);
        all.into_iter()
            .map(|(_, record)| (text(record.key.as_deref().unwrap()), record))
            .collect()
    }

    fn check(&self, number: usize) {
        let what = format!("seed {}, {:?}", self.seed, self.plan);
        let orders: Vec<(String, String, i64)> = (0..ORDERS).map(order).collect();

        let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (user, record) in self.read("orders-seen") {
            seen.entry(user)
                .or_default()
                .push(text(&record.value.unwrap()));
        }
        let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (user, order, _) in &orders {
            expected
                .entry(user.clone())
                .or_default()
                .push(order.clone());
        }
        assert_eq!(seen, expected, "{what}: every order, once, in order");

        let mut joined: Vec<String> = self
            .read("joined")
            .into_iter()
            .map(|(_, record)| text(&record.value.unwrap()))
            .collect();
        let mut expected: Vec<String> = orders
            .iter()
            .map(|(user, order, _)| format!("{} {user} {order}", category_of(&product_of(order))))
            .collect();
        joined.sort_unstable();
        expected.sort_unstable();
        let of = |some: &[String], others: &[String]| -> Vec<String> {
            let only = some.iter().filter(|one| !others.contains(one));
            only.cloned().collect()
        };
        let (more, less) = (of(&joined, &expected), of(&expected, &joined));
        assert_eq!(joined.len(), expected.len(), "{what}: {more:?} {less:?}");
        assert_eq!(more, less, "{what}: joined with something else");

        let mut totals: BTreeMap<String, i64> = BTreeMap::new();
        let mut windows: BTreeMap<String, i64> = BTreeMap::new();
        for (_, order, timestamp) in &orders {
            let category = category_of(&product_of(order));
            let window = timestamp - timestamp % WINDOW_MS;
            *windows.entry(format!("{category} {window}")).or_default() += 1;
            *totals.entry(category).or_default() += 1;
        }
        self.check_updates("totals-out", &totals, &what);
        self.check_updates("windows-out", &windows, &what);

        // The changelogs hold the same, and the stores what the changelogs hold.
        let mut counts: Vec<i64> = totals.values().copied().collect();
        let mut of_changelog: Vec<i64> = latest(self, "totals")
            .values()
            .map(|(value, _)| i64::from_be_bytes(value.as_slice().try_into().unwrap()))
            .collect();
        counts.sort_unstable();
        of_changelog.sort_unstable();
        assert_eq!(counts, of_changelog, "{what}: the changelog of totals");
        assert_eq!(
            latest(self, "windows").len(),
            windows.len(),
            "{what}: the changelog of windows"
        );
        if self.plan.on_disk {
            check_stores(self, number, &what);
        }
    }

    fn check_updates(&self, topic: &str, expected: &BTreeMap<String, i64>, what: &str) {
        let mut updates: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for (key, record) in self.read(topic) {
            let count = i64::from_be_bytes(record.value.unwrap().try_into().unwrap());
            updates.entry(key).or_default().push(count);
        }
        let last: BTreeMap<String, i64> = updates
            .iter()
            .map(|(key, counts)| (key.clone(), *counts.last().unwrap()))
            .collect();
        assert_eq!(last, *expected, "{what}: {topic}");
        for (key, counts) in updates {
            if self.plan.cached {
                let rises = counts.is_sorted_by(|before, after| before < after);
                assert!(rises, "{what}: {topic}: {key}: {counts:?}");
            } else {
                let every: Vec<i64> = (1..=*counts.last().unwrap()).collect();
                assert_eq!(counts, every, "{what}: {topic}: {key}: every update, once");
            }
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn changelog(store: &str) -> String {
    format!("{APPLICATION}-{store}-changelog")
}

/// The last value of each key in a store's changelog, with its time.
fn latest(simulation: &Simulation, store: &str) -> BTreeMap<(i32, Vec<u8>), (Vec<u8>, i64)> {
    let mut latest = BTreeMap::new();
    for (partition, record) in simulation.cluster.lock().all_committed(&changelog(store)) {
        let key = (partition, record.key.unwrap());
        match record.value {
            Some(value) => latest.insert(key, (value, record.timestamp)),
            None => latest.remove(&key),
        };
    }
    latest
}

/// The stores in a directory hold what their changelogs say, and say so.
fn check_stores(simulation: &Simulation, number: usize, what: &str) {
    let root = simulation.state(number).join(APPLICATION);
    let topology = topology(simulation.plan);
    let memory = Memory::new(8 << 20);
    let mut rows = 0;
    for subtopology in topology.subtopologies() {
        let specs = topology.store_specs(subtopology.id);
        if specs.is_empty() {
            continue;
        }
        for partition in 0..PARTITIONS {
            let directory = root.join(format!("{}_{partition}", subtopology.id));
            let stores = Stores::open(Some(&directory), &specs, &memory).unwrap();
            for spec in specs.iter().filter(|spec| spec.backend == Backend::RocksDb) {
                let at = TopicPartition::new(changelog(&spec.name), partition);
                let position = stores.positions().offset(&spec.name).unwrap();
                let mut model = simulation.cluster.lock();
                let (_, _, end) = model.offsets(&at).unwrap();
                assert!(position <= end, "{what}: {at}: {position} of {end}");
                // Markers may follow, and nothing else.
                let (missing, _) = model.read(&at, position, usize::MAX, true);
                assert!(missing.is_empty(), "{what}: {at}: {position} of {end}");
                drop(model);
                let mut held = BTreeMap::new();
                let snapshot = stores.snapshot(&spec.name).unwrap();
                match spec.kind {
                    StoreKind::KeyValue => {
                        let all = (Bound::Unbounded, Bound::Unbounded);
                        let mut all = snapshot.range(all.0, all.1, Direction::Forward).unwrap();
                        while let Some((key, value)) = all.next().unwrap() {
                            held.insert((partition, key.to_vec()), value.to_vec());
                        }
                    }
                    _ => {
                        let all = (Bound::Unbounded, Bound::Unbounded);
                        let mut all = snapshot
                            .fetch_range(all.0, all.1, 0, i64::MAX, Direction::Forward)
                            .unwrap();
                        while let Some((key, window_start_ms, value)) = all.next().unwrap() {
                            let mut bytes = Vec::new();
                            let key = WindowKey {
                                key,
                                window_start_ms,
                                sequence: 0,
                            };
                            key.append_to(&mut bytes);
                            held.insert((partition, bytes), value.to_vec());
                        }
                    }
                }
                rows += held.len();
                let logged: BTreeMap<(i32, Vec<u8>), Vec<u8>> = latest(simulation, &spec.name)
                    .into_iter()
                    .filter(|((of, _), _)| *of == partition)
                    .map(|(key, (value, timestamp))| {
                        (key, [&timestamp.to_be_bytes()[..], &value].concat())
                    })
                    .collect();
                assert_eq!(held, logged, "{what}: store {} of {partition}", spec.name);
            }
        }
    }
    assert!(rows > 0, "{what}: there are stores on disk");
}

/// Prints what happened last when its seed has failed.
struct Told(Shared, u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let model = self.0.lock();
            for event in &model.events {
                eprintln!("{event}");
            }
            eprintln!("BROOKLET_SIM_SEED={} does this again", self.1);
        }
    }
}

/// What happened, and a digest of it.
fn simulate(seed: u64) -> (BTreeMap<&'static str, u64>, u64) {
    let mut simulation = Simulation::new(seed);
    let told = Told(simulation.cluster.clone(), seed);
    simulation.run();
    let model = told.0.lock();
    (model.happened.clone(), model.digest)
}

#[test]
fn whatever_a_simulated_cluster_does_every_update_is_there_once() {
    let number = |name: &str, otherwise: u64| {
        std::env::var(name).map_or(otherwise, |number| number.parse().unwrap())
    };
    let (first, count) = (
        number("BROOKLET_SIM_SEED", 1),
        number("BROOKLET_SIM_SEEDS", SEEDS),
    );
    let mut happened: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in first..first + count {
        for (what, often) in simulate(seed).0 {
            *happened.entry(what).or_default() += often;
        }
    }
    println!("{happened:#?}");
    let seldom: Vec<&str> = HAPPEN
        .iter()
        .copied()
        .filter(|what| !happened.contains_key(what))
        .collect();
    assert!(
        seldom.is_empty() || count < SEEDS,
        "{seldom:?} did not happen"
    );
}

#[test]
fn a_seed_does_the_same_again() {
    for seed in [1, 12] {
        assert_eq!(simulate(seed), simulate(seed), "seed {seed}");
    }
}
