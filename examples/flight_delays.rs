//! The main job: a year of flights from New York City, joined with the planes that flew them.
//!
//! ```text
//! cargo run --release --example flight_delays                                   # the broker in this process, data in ./flight-delays-data
//! cargo run --release --example flight_delays -- --cluster embedded:/tmp/demo
//! cargo run --release --example flight_delays -- --cluster 127.0.0.1:9092       # our broker as a server, or any Apache Kafka
//! ```
//!
//! It loads `planes`, `airlines` and the year's `flights` (event time from the data, months in calendar order) into topics, then
//!
//! 1. takes the flights that departed, joins them with their plane by tail number, and counts flights and averages the departure delay by
//!    manufacturer for the year: topic `delays-by-manufacturer`;
//! 2. looks up the airline of every flight that departed, and does the same by carrier and UTC day in tumbling windows: topic
//!    `delays-by-carrier-day`.
//!
//! Killed at any moment and started again, it goes on where it was.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use brooklet::prelude::*;
use brooklet::topics::{self, NewTopic, TopicWriter};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

const DAY_MS: i64 = 86_400_000;
/// Longer than the year: tasks behind a repartition topic drift apart, and no flight may be dropped as late.
const GRACE_DAYS: u64 = 400;
/// 2013-01-01T00:00:00Z, before the first flight: every plane is known when it flies.
const PLANES_KNOWN_MS: i64 = 1_356_998_400_000;
const PARTITIONS: i32 = 4;
/// Event time runs through a year in a second: by Kafka's default, a log would begin a new segment for every week of it.
const SEGMENT_MS: &str = "63072000000";

/// One flight as the data has it; `departure_delay_min` is missing for a flight that never left.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Flight {
    carrier: String,
    flight: u32,
    origin: String,
    destination: String,
    departure_delay_min: Option<i32>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Plane {
    manufacturer: String,
    model: String,
    seats: Option<u32>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Airline {
    name: String,
}

/// A departure under the name it is grouped by.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Departure {
    by: String,
    delay_min: i32,
}

/// How many flights, and the sum of their departure delays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct DelayStats {
    flights: u64,
    delay_min_sum: i64,
}

impl DelayStats {
    fn add(mut self, delay_min: i32) -> Self {
        self.flights += 1;
        self.delay_min_sum += i64::from(delay_min);
        self
    }

    fn mean_min(&self) -> f64 {
        self.delay_min_sum as f64 / self.flights as f64
    }
}

/// [`DelayStats`] of a carrier's day, with the airline's name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct CarrierDay {
    airline: String,
    stats: DelayStats,
}

brooklet::json_serde!(Flight);
brooklet::json_serde!(Plane);
brooklet::json_serde!(Airline);
brooklet::json_serde!(Departure);
brooklet::json_serde!(DelayStats);
brooklet::json_serde!(CarrierDay);

fn topology(grace_days: u64) -> brooklet::Result<Topology> {
    let builder = StreamsBuilder::new();
    let planes = builder.table::<String, Plane>("planes", Consumed::default());
    let airlines = builder.global_table::<String, Airline>("airlines", Consumed::default());

    // A flight that was cancelled early may have no tail number: the key is optional.
    let departed = builder
        .stream::<Option<String>, Flight>("flights", Consumed::default())
        .filter(|_tail_number, flight| flight.departure_delay_min.is_some());

    departed
        .join(&planes, |flight, plane| Departure {
            by: plane.manufacturer.clone(),
            delay_min: flight.departure_delay_min.unwrap_or(0),
        })
        .group_by(|_tail_number, departure| departure.by.clone())
        .aggregate(
            DelayStats::default,
            |_manufacturer, departure, stats| stats.add(departure.delay_min),
            Materialized::named("by-manufacturer"),
        )
        .to_stream()
        .to("delays-by-manufacturer", Produced::default());

    departed
        .join_global(
            &airlines,
            |_tail_number, flight| flight.carrier.clone(),
            |flight, airline| {
                (
                    flight.carrier.clone(),
                    Departure {
                        by: airline.name.clone(),
                        delay_min: flight.departure_delay_min.unwrap_or(0),
                    },
                )
            },
        )
        .map(|_tail_number, (carrier, departure)| (carrier, departure))
        .group_by_key()
        .windowed_by(
            TimeWindows::of_size(Duration::from_secs(86_400))
                .grace(Duration::from_secs(86_400 * grace_days)),
        )
        .aggregate(
            CarrierDay::default,
            |_carrier, departure, day| CarrierDay {
                airline: departure.by,
                stats: day.stats.add(departure.delay_min),
            },
            Materialized::named("by-carrier-day"),
        )
        .to_stream()
        .to(
            "delays-by-carrier-day",
            Produced::with(carrier_day_keys(), Json::default()),
        );

    Ok(builder.build()?)
}

/// Keys of `delays-by-carrier-day`: the carrier, then the start of its day, as Kafka Streams writes windowed keys.
fn carrier_day_keys() -> TimeWindowed<String> {
    TimeWindowed::new(default_serde(), DAY_MS)
}

/// What the command line asks for.
struct Arguments {
    cluster: Cluster,
    cluster_name: String,
    data: PathBuf,
    state_dir: PathBuf,
    partitions: i32,
    grace_days: u64,
    threads: usize,
    commit_interval: Duration,
    guarantee: ProcessingGuarantee,
    cache_bytes: usize,
    /// So many of the year's flights, in order.
    flights: usize,
    describe: bool,
}

const USAGE: &str = "usage: flight_delays [--cluster embedded:DIR | HOST:PORT] [--data DIR] [--state-dir DIR] [--flush os|durable]
                     [--threads N] [--commit-ms N] [--at-least-once] [--cache-bytes N] [--flights N]
                     [--fault POINT:N] [--partitions N] [--grace-days N] [--describe]";

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let mut cluster = "embedded:flight-delays-data".to_owned();
    let mut data = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data");
    let mut state_dir = None;
    let (mut partitions, mut grace_days, mut threads, mut commit_ms, mut describe, mut flush) =
        (PARTITIONS, GRACE_DAYS, 2, 100, false, Flush::Os);
    let mut guarantee = ProcessingGuarantee::ExactlyOnce;
    let (mut cache_bytes, mut flights) = (32 << 20, usize::MAX);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--describe" {
            describe = true;
            continue;
        }
        if word == "--at-least-once" {
            guarantee = ProcessingGuarantee::AtLeastOnce;
            continue;
        }
        let mut value = || {
            words
                .next()
                .ok_or_else(|| format!("{word} wants a value\n{USAGE}"))
        };
        match word.as_str() {
            "--cluster" => cluster = value()?,
            "--data" => data = value()?.into(),
            "--state-dir" => state_dir = Some(PathBuf::from(value()?)),
            "--flush" => {
                flush = match value()?.as_str() {
                    "os" => Flush::Os,
                    "durable" => Flush::Durable,
                    other => {
                        return Err(
                            format!("--flush is os or durable, not {other}\n{USAGE}").into()
                        );
                    }
                }
            }
            "--threads" => threads = value()?.parse()?,
            "--cache-bytes" => cache_bytes = value()?.parse()?,
            "--flights" => flights = value()?.parse()?,
            // For the crash tests: the process is killed when it comes to this point for the Nth time.
            "--fault" => {
                let fault = value()?;
                let (point, passing) = fault.split_once(':').unwrap_or((&fault, "1"));
                if !brooklet::fault::arm(point, passing.parse()?) {
                    return Err(format!("--fault {point}: there is no such point").into());
                }
            }
            "--commit-ms" => commit_ms = value()?.parse()?,
            "--partitions" => partitions = value()?.parse()?,
            "--grace-days" => grace_days = value()?.parse()?,
            _ => return Err(format!("{word} is not known\n{USAGE}").into()),
        }
    }
    let (opened, default_state) = match cluster.strip_prefix("embedded:") {
        Some(dir) => (
            Cluster::embedded(dir).flush(flush),
            Path::new(dir).join("state"),
        ),
        None => (
            Cluster::kafka(&cluster),
            PathBuf::from("flight-delays-state"),
        ),
    };
    Ok(Arguments {
        cluster: opened,
        cluster_name: cluster,
        data,
        state_dir: state_dir.unwrap_or(default_state),
        partitions,
        grace_days,
        threads,
        commit_interval: Duration::from_millis(commit_ms),
        guarantee,
        cache_bytes,
        flights,
        describe,
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = arguments()?;
    let topology = topology(arguments.grace_days)?;
    if arguments.describe {
        print!("{}", topology.describe());
        return Ok(());
    }
    let cluster = arguments.cluster.clone();
    load(&arguments)?;

    let begin = Instant::now();
    let streams = Streams::new("flight-delays", topology)
        .cluster(cluster.clone())
        .state_dir(&arguments.state_dir)
        .stream_threads(arguments.threads)
        .processing_guarantee(arguments.guarantee)
        .commit_interval(arguments.commit_interval)
        .cache_bytes(arguments.cache_bytes)
        .set("topic.segment.ms", SEGMENT_MS)
        .set("batch.size", "262144")
        .set("linger.ms", "20")
        .set("buffered.records.per.partition", "10000")
        .start()?;
    streams.wait_until_caught_up(Duration::from_secs(600))?;
    let seconds = begin.elapsed().as_secs_f64();
    let (processed, late) = (
        streams.metric_total("process-total"),
        streams.metric_total("late-records-total"),
    );
    let latencies = streams.commit_latencies();
    streams.stop()?;

    print_manufacturers(&cluster)?;
    println!();
    print_carrier_days(&cluster)?;
    println!();
    if processed > 0.0 {
        println!(
            "{processed:.0} records in {seconds:.2} s: {:.0} records/s ({late:.0} dropped as late)",
            processed / seconds
        );
    } else {
        println!("nothing new to process: these are the results of an earlier run");
    }
    let guarantee = match arguments.guarantee {
        ProcessingGuarantee::ExactlyOnce => "exactly once",
        _ => "at least once",
    };
    println!(
        "{guarantee}: {} commits, latency p50 {} ms, p95 {} ms, p99 {} ms",
        latencies.commits, latencies.p50_ms, latencies.p95_ms, latencies.p99_ms
    );
    match arguments.cluster_name.strip_prefix("embedded:") {
        Some(dir) => println!(
            "look further (cargo install --path cli): brooklet broker --data {dir} --listen 127.0.0.1:9092   and then   brooklet consume delays-by-manufacturer --from-beginning"
        ),
        None => println!(
            "look further (cargo install --path cli): brooklet consume delays-by-manufacturer --bootstrap {} --from-beginning",
            arguments.cluster_name
        ),
    }
    Ok(())
}

/// Fills the input topics, or what is missing of them after an interruption.
fn load(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let cluster = &arguments.cluster;
    let compacted = |name: &str| {
        NewTopic::new(name, arguments.partitions)
            .config("cleanup.policy", "compact")
            .config("segment.ms", SEGMENT_MS)
    };
    let flights = NewTopic::new("flights", arguments.partitions)
        .config("retention.ms", "-1")
        .config("segment.ms", SEGMENT_MS);
    topics::create(
        cluster,
        &[
            compacted("planes"),
            compacted("airlines"),
            flights,
            compacted("delays-by-manufacturer"),
            compacted("delays-by-carrier-day"),
        ],
    )?;

    let mut planes = writer::<String, Plane>(cluster, "planes")?;
    for row in rows(
        File::open(arguments.data.join("planes.csv"))?,
        &["tailnum", "manufacturer", "model", "seats"],
    )? {
        let [tail_number, manufacturer, model, seats] = row?;
        let plane = Plane {
            manufacturer,
            model,
            seats: seats.parse().ok(),
        };
        planes.send(&Record::new(tail_number, plane, PLANES_KNOWN_MS))?;
    }
    planes.flush()?;

    let mut airlines = writer::<String, Airline>(cluster, "airlines")?;
    for row in rows(
        File::open(arguments.data.join("airlines.csv"))?,
        &["carrier", "name"],
    )? {
        let [carrier, name] = row?;
        airlines.send(&Record::new(carrier, Airline { name }, PLANES_KNOWN_MS))?;
    }
    airlines.flush()?;

    let compressed = File::open(arguments.data.join("flights.csv.gz"))?;
    let columns = [
        "month",
        "carrier",
        "flight",
        "tailnum",
        "origin",
        "dest",
        "dep_delay",
        "minute",
        "time_hour",
    ];
    let mut months: BTreeMap<u32, Vec<(Option<String>, Flight, i64)>> = BTreeMap::new();
    for row in rows(flate2::read::GzDecoder::new(compressed), &columns)? {
        let [
            month,
            carrier,
            flight,
            tail_number,
            origin,
            destination,
            delay,
            minute,
            hour,
        ] = row?;
        let scheduled_ms = utc_hour_ms(&hour)? + minute.parse::<i64>()? * 60_000;
        let flight = Flight {
            carrier,
            flight: flight.parse()?,
            origin,
            destination,
            departure_delay_min: delay.parse().ok(),
        };
        months.entry(month.parse()?).or_default().push((
            (tail_number != "NA").then_some(tail_number),
            flight,
            scheduled_ms,
        ));
        // Whatever else there is comes after these.
        if months
            .get(&1)
            .is_some_and(|first| first.len() >= arguments.flights)
        {
            break;
        }
    }
    let total: usize = months.values().map(Vec::len).sum();
    let total = total.min(arguments.flights);
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new(total as u64)
    } else {
        ProgressBar::hidden()
    };
    bar.set_style(ProgressStyle::with_template(
        "loading flights {bar:40} {pos}/{len} {per_sec}",
    )?);
    let mut flights = writer::<Option<String>, Flight>(cluster, "flights")?;
    for (tail_number, flight, scheduled_ms) in months.into_values().flatten().take(total) {
        flights.send(&Record::new(tail_number, flight, scheduled_ms))?;
        bar.inc(1);
    }
    flights.flush()?;
    bar.finish_and_clear();
    Ok(())
}

/// Writes on where an interrupted run stopped.
fn writer<K: HasSerde, V: HasSerde>(
    cluster: &Cluster,
    topic: &str,
) -> Result<TopicWriter<K, V>, Box<dyn Error>> {
    let present = topics::end_offsets(cluster, topic)?.unwrap_or_default();
    Ok(TopicWriter::new(cluster, topic, Produced::default())?.resume(present))
}

type Row<const N: usize> = Result<[String; N], Box<dyn Error>>;

/// The wanted columns of a CSV file without quotes, which these are.
fn rows<const N: usize>(
    file: impl std::io::Read,
    columns: &[&str; N],
) -> Result<impl Iterator<Item = Row<N>>, Box<dyn Error>> {
    let mut lines = BufReader::new(file).lines();
    let header = lines.next().ok_or("the file is empty")??;
    let names: Vec<&str> = header.split(',').collect();
    let mut places = [0; N];
    for (place, column) in places.iter_mut().zip(columns) {
        *place = names
            .iter()
            .position(|name| name == column)
            .ok_or_else(|| format!("the file has no column {column}"))?;
    }
    Ok(lines.map(move |line| {
        let line = line?;
        let cells: Vec<&str> = line.split(',').collect();
        let mut row = [const { String::new() }; N];
        for (cell, place) in row.iter_mut().zip(places) {
            *cell = (*cells
                .get(place)
                .ok_or_else(|| format!("a row is too short: {line}"))?)
            .to_owned();
        }
        Ok(row)
    }))
}

/// `2013-01-01T10:00:00Z` as milliseconds since the epoch.
fn utc_hour_ms(text: &str) -> Result<i64, Box<dyn Error>> {
    let number = |from: usize, to: usize| {
        text.get(from..to)
            .and_then(|digits| digits.parse::<i64>().ok())
            .ok_or_else(|| format!("{text} is not a time"))
    };
    let (year, month, day, hour) = (
        number(0, 4)?,
        number(5, 7)?,
        number(8, 10)?,
        number(11, 13)?,
    );
    // Days from the civil calendar, with the year beginning in March.
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100
        + day_of_year
        - 719_468;
    Ok(days * DAY_MS + hour * 3_600_000)
}

/// `2013-01-01` of a time in milliseconds.
fn utc_date(ms: i64) -> String {
    let days = ms.div_euclid(DAY_MS) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

fn print_manufacturers(cluster: &Cluster) -> Result<(), Box<dyn Error>> {
    let mut latest: HashMap<String, DelayStats> = HashMap::new();
    topics::read(
        cluster,
        "delays-by-manufacturer",
        &Consumed::default(),
        |_partition, _offset, record: Record<String, DelayStats>| {
            latest.insert(record.key, record.value);
        },
    )?;
    let mut rows: Vec<(String, DelayStats)> = latest.into_iter().collect();
    rows.sort_by(|a, b| b.1.flights.cmp(&a.1.flights).then_with(|| a.0.cmp(&b.0)));
    println!("manufacturer\tflights\tmean delay (min)");
    for (manufacturer, stats) in rows.iter().take(10) {
        println!("{manufacturer}\t{}\t{:.2}", stats.flights, stats.mean_min());
    }
    Ok(())
}

fn print_carrier_days(cluster: &Cluster) -> Result<(), Box<dyn Error>> {
    let mut latest: HashMap<(String, i64), CarrierDay> = HashMap::new();
    let consumed = Consumed::with(carrier_day_keys(), Json::<CarrierDay>::default());
    topics::read(
        cluster,
        "delays-by-carrier-day",
        &consumed,
        |_partition, _offset, record: Record<Windowed<String>, CarrierDay>| {
            latest.insert((record.key.key, record.key.window.start), record.value);
        },
    )?;
    let mut rows: Vec<((String, i64), CarrierDay)> = latest
        .into_iter()
        .filter(|(_, day)| day.stats.flights >= 50)
        .collect();
    rows.sort_by(|a, b| {
        b.1.stats
            .mean_min()
            .total_cmp(&a.1.stats.mean_min())
            .then_with(|| a.0.cmp(&b.0))
    });
    println!("day\tcarrier\tairline\tflights\tmean delay (min)");
    for ((carrier, start_ms), day) in rows.iter().take(10) {
        println!(
            "{}\t{carrier}\t{}\t{}\t{:.2}",
            utc_date(*start_ms),
            day.airline,
            day.stats.flights,
            day.stats.mean_min()
        );
    }
    Ok(())
}
