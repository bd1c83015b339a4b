//! The main job prints what the CSV files say.

use std::time::Duration;

use crate::flights;
use crate::programs::{Program, example};

const LIMIT: Duration = Duration::from_secs(300);

/// The rows of the two tables, and the line with the rate.
fn parse(printed: &[String]) -> (Vec<String>, Vec<String>, String) {
    let mut parts = printed.split(String::is_empty).map(<[String]>::to_vec);
    let manufacturers = parts.next().unwrap();
    let carrier_days = parts.next().unwrap();
    let rest = parts.next().unwrap();
    assert_eq!(manufacturers[0], "manufacturer\tflights\tmean delay (min)");
    assert_eq!(
        carrier_days[0],
        "day\tcarrier\tairline\tflights\tmean delay (min)"
    );
    (
        manufacturers[1..].to_vec(),
        carrier_days[1..].to_vec(),
        rest[0].clone(),
    )
}

#[test]
fn the_demo_prints_the_tables_that_the_csv_files_give() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = format!("embedded:{}", directory.path().join("demo").display());
    let printed =
        Program::start(example("flight_delays").args(["--cluster", &cluster])).finish(LIMIT);
    let (manufacturers, carrier_days, rate) = parse(&printed);

    let year = flights::year();
    let (days, _) = flights::by_carrier_day(&year, 400);
    assert_eq!(
        manufacturers,
        flights::manufacturer_rows(&flights::by_manufacturer(&year))
    );
    assert_eq!(carrier_days, flights::carrier_day_rows(&days));
    assert!(rate.contains("(0 dropped as late)"), "{rate}");

    let again =
        Program::start(example("flight_delays").args(["--cluster", &cluster])).finish(LIMIT);
    let (manufacturers_again, carrier_days_again, rate) = parse(&again);
    assert_eq!(
        (manufacturers_again, carrier_days_again),
        (manufacturers, carrier_days)
    );
    assert!(rate.contains("nothing new to process"), "{rate}");
}

#[test]
fn with_one_partition_and_a_short_grace_the_late_flights_are_those_of_the_model() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = format!("embedded:{}", directory.path().join("demo").display());
    let arguments = [
        "--cluster",
        &cluster,
        "--partitions",
        "1",
        "--grace-days",
        "0",
    ];
    let printed = Program::start(example("flight_delays").args(arguments)).finish(LIMIT);
    let (_, carrier_days, rate) = parse(&printed);

    let (days, late) = flights::by_carrier_day(&flights::year(), 0);
    assert!(late > 0, "the data must have flights that are late");
    assert_eq!(carrier_days, flights::carrier_day_rows(&days));
    assert!(
        rate.contains(&format!("({late} dropped as late)")),
        "the model drops {late}: {rate}"
    );
}

#[test]
fn word_count_counts_the_words_of_files_and_of_standard_input() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("text");
    std::fs::write(&text, "to be or not to be\nthat is the question: to be\n").unwrap();
    let printed = Program::start(example("word_count").arg(&text)).finish(LIMIT);
    assert_eq!(
        printed,
        [
            "3\tbe",
            "3\tto",
            "1\tis",
            "1\tnot",
            "1\tor",
            "1\tquestion",
            "1\tthat",
            "1\tthe"
        ]
    );

    let input = std::fs::File::open(&text).unwrap();
    let output = example("word_count").stdin(input).output().unwrap();
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .collect::<Vec<_>>(),
        printed
    );
}

#[test]
fn the_processor_lets_each_reading_through_once_a_minute() {
    let printed = Program::start(&mut example("dedup_processor")).finish(LIMIT);
    let readings: Vec<&String> = printed
        .iter()
        .filter(|line| line.contains("\tat "))
        .collect();
    assert_eq!(
        readings,
        [
            "a\t20\tat 0 ms",
            "b\t21\tat 1000 ms",
            "c\t22\tat 50000 ms",
            "d\t23\tat 75000 ms",
            "a\t20\tat 76000 ms"
        ]
    );
    assert!(
        printed
            .iter()
            .any(|line| line.contains("Processor: dedup (stores: [seen])"))
    );
}
