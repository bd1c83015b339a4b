//! Exactly once, under kill -9: at every point that docs/design/exactly-once.md names, of the application, of the broker inside it and of the
//! broker as a server; and of the demo or of our broker or of both at random moments, on our broker and (where one is named) on Apache Kafka. The tables and every output topic read
//! committed are those of the CSV files: nothing is missing, and no update is there twice.
//!
//! `make test` runs a few seeds; `make chaos` goes on with new ones for `BROOKLET_CHAOS_SECONDS`. `BROOKLET_KAFKA=host:port` names an Apache
//! Kafka whose topics may be deleted, and is used in place of ours.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

use brooklet::fault;
use brooklet::prelude::{Cluster, Consumed};
use brooklet::topics::{self, NewTopic};
use brooklet_streams_core::client::{AdminRequest, AdminResponse};

use crate::flights::{self, Flight};
use crate::programs::{Program, Random, broker, example, free_port, start_broker};

const LIMIT: Duration = Duration::from_secs(300);
/// Of the year: enough for some hundred commits.
const FLIGHTS: usize = 20_000;
/// In the short form.
const FLIGHTS_SHORT: usize = 8_000;

/// How long `make chaos` goes on; `None` in the short form.
fn chaos_seconds() -> Option<u64> {
    let seconds = std::env::var("BROOKLET_CHAOS_SECONDS").ok()?;
    Some(seconds.parse().unwrap())
}

/// The first flights of the year, as the demo takes them.
fn some_flights(count: usize) -> Vec<Flight> {
    let mut year = flights::year();
    year.truncate(count);
    year
}

fn demo(cluster: &str, state: &Path, flights: usize, cached: bool) -> std::process::Command {
    let mut demo = example("flight_delays");
    demo.args(["--cluster", cluster, "--commit-ms", "20", "--flights"])
        .arg(flights.to_string())
        .arg("--state-dir")
        .arg(state);
    if !cached {
        // Every update goes downstream.
        demo.args(["--cache-bytes", "0"]);
    }
    demo
}

/// Makes the output topics before the demo does, to be deleted from by nobody: every update is to be found.
fn keep_every_update(cluster: &Cluster) {
    let new: Vec<NewTopic> = ["delays-by-manufacturer", "delays-by-carrier-day"]
        .iter()
        .map(|name| NewTopic::new(*name, 4).config("retention.ms", "-1"))
        .collect();
    topics::create(cluster, &new).unwrap();
}

/// The counts that were written for each key of an output topic, in order.
fn counts(cluster: &Cluster, topic: &str) -> BTreeMap<Vec<u8>, Vec<u64>> {
    let mut counts: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::new();
    topics::read(
        cluster,
        topic,
        &Consumed::default(),
        |_, _, record: brooklet::Record<Vec<u8>, String>| {
            let value: serde_json::Value = serde_json::from_str(&record.value).unwrap();
            let stats = value.get("stats").unwrap_or(&value);
            let count = stats["flights"].as_u64().unwrap();
            counts.entry(record.key).or_default().push(count);
        },
    )
    .unwrap();
    counts
}

/// What was printed and what a reader of committed records finds is what the CSV files say.
fn check(cluster: &Cluster, flights: &[Flight], cached: bool, printed: &[String], what: &str) {
    let (days, _) = flights::by_carrier_day(flights, 400);
    let manufacturers = flights::by_manufacturer(flights);
    let mut rows = flights::manufacturer_rows(&manufacturers);
    rows.extend(flights::carrier_day_rows(&days));
    for row in rows {
        assert!(
            printed.contains(&row),
            "{what}: {row} is missing in\n{}",
            printed.join("\n")
        );
    }
    let totals = |of: &mut dyn Iterator<Item = u64>| {
        let mut totals: Vec<u64> = of.collect();
        totals.sort_unstable();
        totals
    };
    for (topic, expected) in [
        (
            "delays-by-manufacturer",
            totals(&mut manufacturers.values().map(|stats| stats.flights)),
        ),
        (
            "delays-by-carrier-day",
            totals(&mut days.values().map(|stats| stats.flights)),
        ),
    ] {
        let counts = counts(cluster, topic);
        let last = totals(&mut counts.values().map(|counts| *counts.last().unwrap()));
        assert_eq!(last, expected, "{what}: {topic}");
        for (key, counts) in counts {
            let key = key.escape_ascii();
            assert!(
                counts.is_sorted_by(|before, after| before < after),
                "{what}: {topic}, {key}: an update is there twice: {counts:?}"
            );
            if !cached {
                let every: Vec<u64> = (1..=*counts.last().unwrap()).collect();
                assert_eq!(
                    counts, every,
                    "{what}: {topic}, {key}: not every update, once"
                );
            }
        }
    }
}

#[test]
fn a_demo_killed_at_every_point_of_a_commit_repeats_and_loses_nothing() {
    let flights = some_flights(FLIGHTS / 4);
    for (number, point) in fault::POINTS.iter().enumerate() {
        // Every other point without a cache.
        let cached = number % 2 == 0;
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("demo");
        let cluster = format!("embedded:{}", data.display());
        let state = directory.path().join("state");
        keep_every_update(&Cluster::embedded(&data));
        let start = || demo(&cluster, &state, flights.len(), cached);
        let mut lives = 0;
        // The same point again in the next life, which begins where the first was cut off.
        for passing in [3, 2] {
            let mut killed =
                Program::start(start().args(["--fault", &format!("{point}:{passing}")]));
            assert!(
                killed.ended_within(LIMIT),
                "{point}: neither killed nor done"
            );
            if killed.was_killed() {
                lives += 1;
            }
        }
        assert!(lives > 0, "{point} was never come to");
        let printed = Program::start(&mut start()).finish(LIMIT);
        check(&Cluster::embedded(&data), &flights, cached, &printed, point);
    }
}

#[test]
fn a_demo_killed_while_its_stores_are_restored_repeats_and_loses_nothing() {
    let (before, all) = (some_flights(FLIGHTS / 8), some_flights(FLIGHTS / 4));
    for point in fault::RESTORATION_POINTS.iter().copied() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("demo");
        let cluster = format!("embedded:{}", data.display());
        let state = directory.path().join("state");
        keep_every_update(&Cluster::embedded(&data));
        Program::start(&mut demo(&cluster, &state, before.len(), false)).finish(LIMIT);
        // From nothing, and then from what the lives before have restored; the last kills come to what is done already, if they come.
        std::fs::remove_dir_all(state.join("flight-delays")).unwrap();
        let mut lives = 0;
        for passing in [2, 1, 3] {
            let mut start = demo(&cluster, &state, all.len(), false);
            let mut killed = Program::start(start.args(["--fault", &format!("{point}:{passing}")]));
            assert!(
                killed.ended_within(LIMIT),
                "{point}: neither killed nor done"
            );
            lives += u32::from(killed.was_killed());
        }
        assert!(lives > 1, "{point} was come to {lives} times only");
        let printed = Program::start(&mut demo(&cluster, &state, all.len(), false)).finish(LIMIT);
        check(&Cluster::embedded(&data), &all, false, &printed, point);
    }
}

/// A demo that is killed while it undoes what failed: in its next life too, and then again, if it comes to that.
fn killed_while_undoing(
    point: &str,
    address: &str,
    cluster: impl Fn() -> Cluster,
    random: &mut Random,
) {
    let cached = random.below(2) == 0;
    let what = format!("{point} on {address}, cached {cached}");
    let flights = some_flights(FLIGHTS / 4);
    let directory = tempfile::tempdir().unwrap();
    keep_every_update(&cluster());
    let start = || demo(address, directory.path(), flights.len(), cached);
    let mut lives = 0;
    for _ in 0..3 {
        let at = format!("{point}:{}", 1 + random.below(3));
        let mut killed = Program::start(start().args(["--fault", &at]));
        assert!(
            killed.ended_within(LIMIT),
            "{what}, {at}: neither killed nor done"
        );
        lives += u32::from(killed.was_killed());
    }
    assert!(lives > 1, "{what}: come to {lives} times only");
    let printed = Program::start(&mut start()).finish(LIMIT);
    check(&cluster(), &flights, cached, &printed, &what);
}

#[test]
fn a_demo_killed_while_it_undoes_a_transaction_repeats_and_loses_nothing() {
    for_seeds(1, |seed| {
        let mut random = Random(seed);
        for point in fault::UNDOING_POINTS.iter().copied() {
            let directory = tempfile::tempdir().unwrap();
            let data = directory.path().join("demo");
            let address = format!("embedded:{}", data.display());
            let embedded = || Cluster::embedded(&data);
            killed_while_undoing(point, &address, embedded, &mut random);

            let port = free_port();
            let address = format!("127.0.0.1:{port}");
            let _broker = start_broker(&directory.path().join("broker"), port);
            let server = || Cluster::kafka(&address);
            killed_while_undoing(point, &address, server, &mut random);
        }
    });
}

#[test]
fn the_page_names_every_point_at_which_these_tests_kill() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/design/exactly-once.md");
    let page = std::fs::read_to_string(page).unwrap();
    let points = [
        fault::POINTS,
        fault::RESTORATION_POINTS,
        fault::UNDOING_POINTS,
        fault::BROKER_POINTS,
    ];
    for point in points.into_iter().flatten() {
        let name = point.to_uppercase();
        assert!(page.contains(&name), "{name} is not on the page");
    }
}

/// The broker's points, each with the passing at which it kills. After the marker of a partition it kills several times: with other numbers of
/// markers written.
fn kills_in_the_broker(random: &mut Random) -> Vec<(&'static str, u64)> {
    let is_short = chaos_seconds().is_none();
    let mut kills = Vec::new();
    for point in fault::BROKER_POINTS.iter().copied() {
        match (point, is_short) {
            ("marker-appended", true) => kills.extend([1, 2, 5].map(|passing| (point, passing))),
            ("marker-appended", false) => {
                kills.extend((0..6).map(|_| (point, 1 + random.below(20))));
            }
            (_, true) => kills.push((point, 2)),
            (_, false) => kills.push((point, 1 + random.below(3))),
        }
    }
    for left in (1..kills.len()).rev() {
        let other = random.below(left as u64 + 1) as usize;
        kills.swap(left, other);
    }
    kills
}

/// Calls it with so many seeds in the short form, and with new ones for as long as `make chaos` goes on.
pub(crate) fn for_seeds(count: u64, mut run: impl FnMut(u64)) {
    let deadline = Instant::now() + Duration::from_secs(chaos_seconds().unwrap_or(0));
    let first: u64 = std::env::var("BROOKLET_CHAOS_SEED").map_or(1, |seed| seed.parse().unwrap());
    for seed in first.. {
        run(seed);
        if seed + 1 >= first + count && Instant::now() >= deadline {
            return;
        }
    }
}

/// Of the year: what each life of a chain has to do at least, beside what the one before has left. It takes several transactions.
const FLIGHTS_MORE: usize = 1_000;

#[test]
fn a_demo_killed_at_every_point_of_the_broker_inside_it_repeats_and_loses_nothing() {
    for_seeds(1, |seed| {
        let mut random = Random(seed);
        let cached = random.below(2) == 0;
        let what = format!("seed {seed}, cached {cached}");
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("demo");
        let cluster = format!("embedded:{}", data.display());
        let state = directory.path().join("state");
        keep_every_update(&Cluster::embedded(&data));
        let mut flights = 0;
        let start = |flights| demo(&cluster, &state, flights, cached);
        for (point, passing) in kills_in_the_broker(&mut random) {
            let at = format!("{point}:{passing}");
            loop {
                flights += FLIGHTS_MORE;
                assert!(flights <= FLIGHTS, "{what}: {at} was never come to");
                let mut life = Program::start(start(flights).args(["--fault", &at]));
                assert!(
                    life.ended_within(LIMIT),
                    "{what}, {at}: neither killed nor done"
                );
                if life.was_killed() {
                    break;
                }
            }
        }
        let printed = Program::start(&mut start(flights)).finish(LIMIT);
        let flights = some_flights(flights);
        check(&Cluster::embedded(&data), &flights, cached, &printed, &what);
    });
}

#[test]
fn a_broker_killed_at_every_point_of_its_coordinator_repeats_and_loses_nothing() {
    for_seeds(1, |seed| {
        let mut random = Random(seed);
        let cached = random.below(2) == 0;
        let what = format!("seed {seed}, cached {cached}");
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("broker");
        let state = directory.path().join("state");
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let first = start_broker(&data, port);
        keep_every_update(&Cluster::kafka(&address));
        first.kill();
        let mut flights = 2 * FLIGHTS_MORE;
        let start = |flights| Program::start(&mut demo(&address, &state, flights, cached));
        let mut application: Option<Program> = None;
        for (point, passing) in kills_in_the_broker(&mut random) {
            let at = format!("{point}:{passing}");
            // It may be killed before it listens, by what it ends of its earlier life.
            let mut life = Program::start(broker(&data, port).args(["--fault", &at]));
            let application = application.get_or_insert_with(|| start(flights));
            while !life.ended_within(Duration::from_millis(20)) {
                if application.ended_within(Duration::ZERO) {
                    flights += FLIGHTS_MORE;
                    assert!(flights <= FLIGHTS, "{what}: {at} was never come to");
                    std::mem::replace(application, start(flights)).finish(LIMIT);
                }
            }
            assert!(life.was_killed(), "{what}, {at}: the broker ended");
        }
        let _broker = start_broker(&data, port);
        let printed = application.unwrap().finish(LIMIT);
        let flights = some_flights(flights);
        check(&Cluster::kafka(&address), &flights, cached, &printed, &what);
    });
}

/// Who is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    /// The demo with the broker in it.
    Whole,
    /// The demo, on a broker that lives.
    Application,
    /// The broker, under a demo that lives.
    Broker,
    Either,
}

/// One life of a demo under random kills.
fn killed_at_random(seed: u64, victim: Victim, flights: &[Flight]) {
    let mut random = Random(seed * 4 + victim as u64);
    let cached = random.below(2) == 0;
    let what = format!("seed {seed}, {victim:?}, cached {cached}");
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("broker");
    let state = directory.path().join("state");
    let port = free_port();
    let embedded = matches!(victim, Victim::Whole);
    let address = if embedded {
        format!("embedded:{}", data.display())
    } else {
        format!("127.0.0.1:{port}")
    };
    let mut broker = (!embedded).then(|| start_broker(&data, port));
    keep_every_update(&if embedded {
        Cluster::embedded(&data)
    } else {
        Cluster::kafka(&address)
    });
    let start = || Program::start(&mut demo(&address, &state, flights.len(), cached));
    let mut application = start();
    let mut kills = 0;
    let (kills_max, lives_ms) = match chaos_seconds() {
        Some(_) => (6, 2_500),
        None => (3, 900),
    };
    while kills < kills_max
        && !application.ended_within(Duration::from_millis(150 + random.below(lives_ms)))
    {
        kills += 1;
        let kills_broker = match victim {
            Victim::Whole | Victim::Application => false,
            Victim::Broker => true,
            Victim::Either => random.below(2) == 0,
        };
        if kills_broker {
            broker.take().unwrap().kill();
            broker = Some(start_broker(&data, port));
        } else {
            application.kill();
            application = start();
        }
    }
    let printed = application.finish(LIMIT);
    let cluster = if embedded {
        Cluster::embedded(&data)
    } else {
        Cluster::kafka(&address)
    };
    check(&cluster, flights, cached, &printed, &what);
    println!("{what}: exact after {kills} kills");
}

/// One life on a Kafka that is not ours: the application is killed.
fn killed_on_kafka(seed: u64, address: &str, flights: &[Flight]) {
    let cluster = Cluster::kafka(address);
    delete_topics(&cluster);
    let mut random = Random(seed);
    let cached = random.below(2) == 0;
    let what = format!("seed {seed} on {address}, cached {cached}");
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    keep_every_update(&cluster);
    let start = || Program::start(&mut demo(address, &state, flights.len(), cached));
    let mut application = start();
    let mut kills = 0;
    while kills < 5 && !application.ended_within(Duration::from_millis(1_000 + random.below(4_000)))
    {
        application.kill();
        kills += 1;
        application = start();
    }
    let printed = application.finish(LIMIT);
    check(&cluster, flights, cached, &printed, &what);
    println!("{what}: exact after {kills} kills");
}

/// Deletes what an earlier life has left, with the offsets that were committed of it.
fn delete_topics(cluster: &Cluster) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let AdminResponse::Topics(found) =
            topics::request(cluster, AdminRequest::ListTopics).unwrap()
        else {
            panic!("not topics")
        };
        let found: Vec<String> = found
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| !name.starts_with("__"))
            .collect();
        if found.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{found:?} are not deleted");
        topics::request(cluster, AdminRequest::DeleteTopics(found)).unwrap();
    }
}

#[test]
fn killed_at_random_moments_the_demo_and_the_broker_repeat_and_lose_nothing() {
    let deadline = Instant::now() + Duration::from_secs(chaos_seconds().unwrap_or(0));
    let first: u64 = std::env::var("BROOKLET_CHAOS_SEED").map_or(1, |seed| seed.parse().unwrap());
    let flights = some_flights(match chaos_seconds() {
        Some(_) => FLIGHTS,
        None => FLIGHTS_SHORT,
    });
    let kafka = std::env::var("BROOKLET_KAFKA").ok();
    for seed in first.. {
        if let Some(kafka) = &kafka {
            killed_on_kafka(seed, kafka, &flights);
            if Instant::now() >= deadline {
                break;
            }
            continue;
        }
        for victim in [
            Victim::Whole,
            Victim::Application,
            Victim::Broker,
            Victim::Either,
        ] {
            killed_at_random(seed, victim, &flights);
        }
        if Instant::now() >= deadline {
            break;
        }
    }
}

#[test]
fn stores_whose_directory_is_damaged_are_rebuilt_and_the_tables_are_exact() {
    let (before, all) = (some_flights(FLIGHTS / 8), some_flights(FLIGHTS / 4));
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("demo");
    let cluster = format!("embedded:{}", data.display());
    let state = directory.path().join("state");
    Program::start(&mut demo(&cluster, &state, before.len(), true)).finish(LIMIT);
    let mut damaged = 0;
    for task in std::fs::read_dir(state.join("flight-delays")).unwrap() {
        let current = task.unwrap().path().join("rocksdb/CURRENT");
        if current.exists() {
            std::fs::write(current, "nonsense").unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0, "there are stores on disk");
    let printed = Program::start(&mut demo(&cluster, &state, all.len(), true)).finish(LIMIT);
    check(
        &Cluster::embedded(&data),
        &all,
        true,
        &printed,
        "with damaged stores",
    );
}

#[test]
fn a_reader_of_committed_records_never_sees_part_of_a_transaction() {
    // Both outputs of the demo are written in the same transactions as the offsets; a reader that sees an update of the one in a task's
    // transaction sees the whole of it. Without a cache every flight is one update, so committed counts never have a gap.
    let flights = some_flights(FLIGHTS / 4);
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("broker");
    let port = free_port();
    let _broker = start_broker(&data, port);
    let address = format!("127.0.0.1:{port}");
    let cluster = Cluster::kafka(&address);
    keep_every_update(&cluster);
    let state = directory.path().join("state");
    let mut application = Program::start(&mut demo(&address, &state, flights.len(), false));
    let mut seen: HashMap<Vec<u8>, usize> = HashMap::new();
    while !application.ended_within(Duration::from_millis(50)) {
        if topics::end_offsets(&cluster, "delays-by-manufacturer")
            .unwrap()
            .is_none()
        {
            continue;
        }
        for (key, counts) in counts(&cluster, "delays-by-manufacturer") {
            let every: Vec<u64> = (1..=counts.len() as u64).collect();
            assert_eq!(counts, every, "{}", key.escape_ascii());
            let before = seen.insert(key, counts.len()).unwrap_or(0);
            assert!(before <= counts.len(), "what was committed is gone");
        }
    }
    let printed = application.finish(LIMIT);
    check(&cluster, &flights, false, &printed, "read while it ran");
}
