//! What the main job must print, computed from the CSV files without any of our code.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::sync::OnceLock;

/// One row of the year, in the order in which the demo loads it: months in calendar order.
#[derive(Clone)]
pub(crate) struct Flight {
    pub(crate) carrier: String,
    pub(crate) tail_number: String,
    pub(crate) departure_delay_min: Option<i64>,
    pub(crate) scheduled_min: i64,
}

/// Count and sum of delays.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Stats {
    pub(crate) flights: u64,
    pub(crate) delay_min_sum: i64,
}

impl Stats {
    fn add(&mut self, delay_min: i64) {
        self.flights += 1;
        self.delay_min_sum += delay_min;
    }

    fn mean(&self) -> f64 {
        self.delay_min_sum as f64 / self.flights as f64
    }
}

fn data(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("examples/data")
        .join(file)
}

/// The wanted columns of a CSV file, row by row.
fn table<const N: usize>(
    read: impl std::io::Read,
    columns: [&str; N],
) -> impl Iterator<Item = [String; N]> {
    let mut lines = BufReader::new(read).lines().map(|line| line.unwrap());
    let header = lines.next().unwrap();
    let places = columns.map(|column| header.split(',').position(|name| name == column).unwrap());
    lines.map(move |line| {
        let fields: Vec<&str> = line.split(',').collect();
        places.map(|place| fields[place].to_owned())
    })
}

/// Days since 1970-01-01, by counting.
fn day_number(year: i64, month: i64, day: i64) -> i64 {
    let leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let days_before: i64 = (1970..year)
        .map(|year| if leap(year) { 366 } else { 365 })
        .sum();
    let lengths = [
        31,
        if leap(year) { 29 } else { 28 },
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    days_before
        + lengths[..usize::try_from(month - 1).unwrap()]
            .iter()
            .sum::<i64>()
        + day
        - 1
}

/// All of them; read once for all tests.
pub(crate) fn year() -> Vec<Flight> {
    static YEAR: OnceLock<Vec<Flight>> = OnceLock::new();
    YEAR.get_or_init(read_year).clone()
}

fn read_year() -> Vec<Flight> {
    let file = std::fs::File::open(data("flights.csv.gz")).unwrap();
    let columns = [
        "month",
        "carrier",
        "tailnum",
        "dep_delay",
        "time_hour",
        "minute",
    ];
    let mut days = HashMap::new();
    let mut rows: Vec<(u32, Flight)> = table(flate2::read::GzDecoder::new(file), columns)
        .map(|[month, carrier, tail_number, delay, hour, minute]| {
            let part = |from: usize, to: usize| hour[from..to].parse::<i64>().unwrap();
            let day = *days
                .entry(hour[..10].to_owned())
                .or_insert_with(|| day_number(part(0, 4), part(5, 7), part(8, 10)));
            let flight = Flight {
                carrier,
                tail_number,
                departure_delay_min: delay.parse().ok(),
                scheduled_min: day * 1440 + part(11, 13) * 60 + minute.parse::<i64>().unwrap(),
            };
            (month.parse().unwrap(), flight)
        })
        .collect();
    // Stable: the order within a month is the file's.
    rows.sort_by_key(|(month, _)| *month);
    rows.into_iter().map(|(_, flight)| flight).collect()
}

/// The stats of every manufacturer.
pub(crate) fn by_manufacturer(flights: &[Flight]) -> BTreeMap<String, Stats> {
    let planes: HashMap<String, String> = table(
        std::fs::File::open(data("planes.csv")).unwrap(),
        ["tailnum", "manufacturer"],
    )
    .map(|[tail_number, manufacturer]| (tail_number, manufacturer))
    .collect();
    let mut stats: BTreeMap<String, Stats> = BTreeMap::new();
    for flight in flights {
        if let (Some(delay), Some(manufacturer)) =
            (flight.departure_delay_min, planes.get(&flight.tail_number))
        {
            stats.entry(manufacturer.clone()).or_default().add(delay);
        }
    }
    stats
}

/// The stats of every carrier's UTC day, and how many flights are dropped as late when the operator sees the flights in this order.
pub(crate) fn by_carrier_day(
    flights: &[Flight],
    grace_days: i64,
) -> (BTreeMap<(i64, String), Stats>, u64) {
    let mut stats: BTreeMap<(i64, String), Stats> = BTreeMap::new();
    let (mut stream_time_min, mut late) = (i64::MIN / 2, 0);
    for flight in flights {
        let Some(delay) = flight.departure_delay_min else {
            continue;
        };
        stream_time_min = stream_time_min.max(flight.scheduled_min);
        let day = flight.scheduled_min.div_euclid(1440);
        if (day + 1) * 1440 > stream_time_min - grace_days * 1440 {
            stats
                .entry((day, flight.carrier.clone()))
                .or_default()
                .add(delay);
        } else {
            late += 1;
        }
    }
    (stats, late)
}

/// The first table that the demo prints, without its header.
pub(crate) fn manufacturer_rows(stats: &BTreeMap<String, Stats>) -> Vec<String> {
    let mut rows: Vec<_> = stats.iter().collect();
    rows.sort_by(|a, b| b.1.flights.cmp(&a.1.flights).then(a.0.cmp(b.0)));
    rows.into_iter()
        .take(10)
        .map(|(name, stats)| format!("{name}\t{}\t{:.2}", stats.flights, stats.mean()))
        .collect()
}

/// The second table, without its header.
pub(crate) fn carrier_day_rows(stats: &BTreeMap<(i64, String), Stats>) -> Vec<String> {
    let airlines: HashMap<String, String> = table(
        std::fs::File::open(data("airlines.csv")).unwrap(),
        ["carrier", "name"],
    )
    .map(|[carrier, name]| (carrier, name))
    .collect();
    let date = |wanted: i64| {
        (1..=12)
            .flat_map(|month| (1..=31).map(move |day| (2013, month, day)))
            .chain([(2014, 1, 1)])
            // What would be the 31st of June is the 1st of July, which comes later.
            .rfind(|(year, month, day)| day_number(*year, *month, *day) == wanted)
            .map(|(year, month, day)| format!("{year}-{month:02}-{day:02}"))
            .unwrap()
    };
    let mut rows: Vec<_> = stats
        .iter()
        .filter(|(_, stats)| stats.flights >= 50)
        .collect();
    rows.sort_by(|a, b| {
        b.1.mean()
            .total_cmp(&a.1.mean())
            .then_with(|| (&a.0.1, a.0.0).cmp(&(&b.0.1, b.0.0)))
    });
    rows.into_iter()
        .take(10)
        .map(|((day, carrier), stats)| {
            format!(
                "{}\t{carrier}\t{}\t{}\t{:.2}",
                date(*day),
                airlines[carrier],
                stats.flights,
                stats.mean()
            )
        })
        .collect()
}
