//! At least once: kill -9 at random moments, twenty times: of the broker with the application alive, and of the application with the broker inside.

use std::time::Duration;

use brooklet::prelude::Cluster;
use brooklet::topics;
use brooklet_streams_core::client::{AdminRequest, AdminResponse, TopicPartition};

use crate::flights;
use crate::programs::{Program, Random, example, free_port, start_broker};

const KILLS: usize = 20;
const LIMIT: Duration = Duration::from_secs(300);
const APPLICATION: &str = "flight-delays";

#[test]
fn a_broker_killed_twenty_times_under_a_live_application_loses_nothing_and_the_tables_are_the_same()
{
    let expected = expected_rows();
    let (mut kills, mut seed) = (0, 20);
    // The application may end before it is killed often enough: then it begins anew.
    while kills < KILLS {
        seed += 1;
        kills += kill_the_broker(seed, KILLS - kills, &expected);
    }
}

/// The rows that the demo must print.
fn expected_rows() -> Vec<String> {
    let year = flights::year();
    let (days, _) = flights::by_carrier_day(&year, 400);
    let mut expected = flights::manufacturer_rows(&flights::by_manufacturer(&year));
    expected.extend(flights::carrier_day_rows(&days));
    expected
}

/// One life of an application whose broker is killed again and again; how often.
fn kill_the_broker(seed: u64, kills_max: usize, expected: &[String]) -> usize {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("broker");
    let port = free_port();
    let mut random = Random(seed);
    let mut broker = start_broker(&data, port);
    let mut application = Program::start(
        example("flight_delays")
            .args([
                "--cluster",
                &format!("127.0.0.1:{port}"),
                "--commit-ms",
                "100",
                "--at-least-once",
                "--state-dir",
            ])
            .arg(directory.path().join("state")),
    );
    let mut kills = 0;
    while kills < kills_max
        && !application.ended_within(Duration::from_millis(50 + random.below(600)))
    {
        broker.kill();
        kills += 1;
        broker = start_broker(&data, port);
    }
    let printed = application.finish(LIMIT);
    for row in expected {
        assert!(
            printed.contains(row),
            "after {kills} kills, seed {seed}: {row} is missing in\n{}",
            printed.join("\n")
        );
    }
    drop(broker);
    kills
}

/// What is in the inputs of the application beyond its committed offsets.
fn uncommitted(cluster: &Cluster, topics: &[&str]) -> u64 {
    let mut uncommitted = 0;
    for topic in topics {
        let Some(ends) = topics::end_offsets(cluster, topic).unwrap() else {
            continue;
        };
        let partitions: Vec<TopicPartition> = (0i32..)
            .zip(&ends)
            .map(|(partition, _)| TopicPartition::new(*topic, partition))
            .collect();
        let request = AdminRequest::FetchOffsets {
            group: APPLICATION.to_owned(),
            partitions,
        };
        let AdminResponse::CommittedOffsets(committed) = topics::request(cluster, request).unwrap()
        else {
            panic!("not offsets")
        };
        for ((_, committed), end) in committed.into_iter().zip(ends) {
            uncommitted +=
                u64::try_from(end - committed.map_or(0, |committed| committed.offset)).unwrap();
        }
    }
    uncommitted
}

fn total(cluster: &Cluster, topic: &str) -> u64 {
    topics::end_offsets(cluster, topic)
        .unwrap()
        .unwrap_or_default()
        .into_iter()
        .map(|end| u64::try_from(end).unwrap())
        .sum()
}

/// The internal topics behind `group_by`.
fn repartition_topics(cluster: &Cluster) -> Vec<String> {
    let AdminResponse::Topics(topics) = topics::request(cluster, AdminRequest::ListTopics).unwrap()
    else {
        panic!("not topics")
    };
    topics
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| name.ends_with("-repartition"))
        .collect()
}

#[test]
fn a_demo_killed_twenty_times_misses_no_flight_and_repeats_at_most_what_was_not_committed() {
    let year = flights::year();
    let (mut kills, mut seed) = (0, 40);
    // The demo may end before it is killed often enough: then it begins anew.
    while kills < KILLS {
        seed += 1;
        kills += kill_the_demo(seed, KILLS - kills, &year);
    }
}

/// One life of a demo that is killed again and again; how often.
fn kill_the_demo(seed: u64, kills_max: usize, year: &[flights::Flight]) -> usize {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("demo");
    let mut random = Random(seed);
    let start = || {
        Program::start(example("flight_delays").args([
            "--cluster",
            &format!("embedded:{}", data.display()),
            "--commit-ms",
            "100",
            "--at-least-once",
        ]))
    };
    let (mut kills, mut reprocessed_max) = (0, 0);
    while kills < kills_max {
        let mut demo = start();
        if demo.ended_within(Duration::from_millis(100 + random.below(1_200))) {
            break;
        }
        demo.kill();
        kills += 1;
        let cluster = Cluster::embedded(&data);
        let repartition = repartition_topics(&cluster);
        // What the aggregations may have taken in, and take in again. What the first half repeats is counted at the end, in the topics
        // between the two halves.
        let topics: Vec<&str> = repartition.iter().map(String::as_str).collect();
        reprocessed_max += uncommitted(&cluster, &topics);
    }
    start().finish(LIMIT);

    let (days, _) = flights::by_carrier_day(year, 400);
    let manufacturers = flights::by_manufacturer(year);
    let departed: u64 = days.values().map(|stats| stats.flights).sum();
    let joined: u64 = manufacturers.values().map(|stats| stats.flights).sum();

    let cluster = Cluster::embedded(&data);
    assert_eq!(
        total(&cluster, "flights"),
        year.len() as u64,
        "seed {seed}: loading must neither lose nor repeat a flight"
    );
    let repeated = repartition_topics(&cluster)
        .iter()
        .map(|topic| total(&cluster, topic))
        .sum::<u64>()
        - departed
        - joined;
    let bound = repeated + reprocessed_max;

    let mut counted = std::collections::HashMap::new();
    topics::read(
        &cluster,
        "delays-by-manufacturer",
        &brooklet::prelude::Consumed::default(),
        |_, _, record: brooklet::Record<String, String>| {
            let value: serde_json::Value = serde_json::from_str(&record.value).unwrap();
            counted.insert(record.key, value["flights"].as_u64().unwrap());
        },
    )
    .unwrap();
    let mut excess = 0;
    for (manufacturer, stats) in &manufacturers {
        let counted = counted.get(manufacturer).copied().unwrap_or(0);
        assert!(
            counted >= stats.flights,
            "seed {seed}: {manufacturer} has {counted} flights, not {}",
            stats.flights
        );
        excess += counted - stats.flights;
    }
    assert!(
        excess <= bound,
        "seed {seed}: {excess} flights too many, at most {bound} were reprocessed"
    );
    println!("seed {seed}, {kills} kills: {excess} flights counted twice, bound {bound}");
    kills
}
