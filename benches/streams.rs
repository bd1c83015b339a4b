//! Our side of the comparison with Kafka Streams: the workloads of `benches/peers/PeerBench.java`, on the same records.
//!
//! ```text
//! cargo bench --bench streams -- load --cluster embedded:DIR --n 3000000 --keys 100000
//! cargo bench --bench streams -- run passthrough|join|aggregate --cluster embedded:DIR [--flush os|durable] [--threads N]
//! cargo bench --bench streams -- fdatasync DIR        # what the disk does on its own: 64 KiB appends, each synced
//! ```
//!
//! `run` prints one JSON line as PeerBench does, when all input is processed and committed. `make bench-peers` alternates the two.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use brooklet::prelude::*;
use brooklet::topics::{self, NewTopic, TopicWriter};
use brooklet_streams_core::client::AdminRequest;

const FIRST_TIMESTAMP_MS: i64 = 1_700_000_000_000;

struct Options {
    cluster: String,
    flush: Flush,
    n: u64,
    keys: u32,
    partitions: i32,
    threads: usize,
    commit_ms: u64,
    state_dir: PathBuf,
}

fn main() -> Result<(), Box<dyn Error>> {
    // cargo adds --bench.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let mut words = words.into_iter();
    let Some(verb) = words.next() else {
        // `cargo test` and `cargo bench` without arguments only want to know that it starts.
        println!("usage: load | run WORKLOAD | fdatasync DIR; see the head of benches/streams.rs");
        return Ok(());
    };
    let what = if verb == "load" {
        String::new()
    } else {
        words.next().ok_or("what?")?
    };
    let mut options = Options {
        cluster: "embedded:bench-data".to_owned(),
        flush: Flush::Os,
        n: 1_000_000,
        keys: 100_000,
        partitions: 4,
        threads: 1,
        commit_ms: 1_000,
        state_dir: std::env::temp_dir().join("brooklet-bench-state"),
    };
    while let Some(word) = words.next() {
        let value = words
            .next()
            .ok_or_else(|| format!("{word} wants a value"))?;
        match word.as_str() {
            "--cluster" => options.cluster = value,
            "--flush" => {
                options.flush = if value == "durable" {
                    Flush::Durable
                } else {
                    Flush::Os
                }
            }
            "--n" => options.n = value.parse()?,
            "--keys" => options.keys = value.parse()?,
            "--partitions" => options.partitions = value.parse()?,
            "--threads" => options.threads = value.parse()?,
            "--commit-ms" => options.commit_ms = value.parse()?,
            "--state-dir" => options.state_dir = value.into(),
            _ => return Err(format!("{word} is not known").into()),
        }
    }
    match verb.as_str() {
        "load" => load(&options),
        "run" => run(&what, &options),
        "fdatasync" => fdatasync(&what),
        _ => Err(format!("{verb} is not known").into()),
    }
}

fn cluster(options: &Options) -> Cluster {
    match options.cluster.strip_prefix("embedded:") {
        Some(directory) => Cluster::embedded(directory).flush(options.flush),
        None => Cluster::kafka(&options.cluster),
    }
}

/// `java.util.SplittableRandom`, so that both sides process the same records.
struct SplittableRandom(u64);

impl SplittableRandom {
    fn next_int(&mut self) -> i32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 33)).wrapping_mul(0x62a9_d9ed_7997_05f5);
        let z = (z ^ (z >> 28)).wrapping_mul(0xcb24_d0a5_c88c_35b3);
        (z >> 32) as u32 as i32
    }

    fn below(&mut self, bound: i32) -> i32 {
        let random = self.next_int();
        let mask = bound - 1;
        if bound & mask == 0 {
            return random & mask;
        }
        let mut u = ((random as u32) >> 1) as i32;
        loop {
            let r = u % bound;
            if u.wrapping_add(mask).wrapping_sub(r) >= 0 {
                return r;
            }
            u = ((self.next_int() as u32) >> 1) as i32;
        }
    }
}

fn load(options: &Options) -> Result<(), Box<dyn Error>> {
    let cluster = cluster(options);
    topics::create(
        &cluster,
        &[
            NewTopic::new("orders", options.partitions).config("retention.ms", "-1"),
            NewTopic::new("customers", options.partitions).config("cleanup.policy", "compact"),
        ],
    )?;
    let mut customers =
        TopicWriter::<String, String>::new(&cluster, "customers", Produced::default())?;
    for i in 0..options.keys {
        let value = format!(
            "segment-{},customer number {i} with a value of a realistic size of a hundred bytes or so padding",
            i % 50
        );
        customers.send(&Record::new(format!("c{i}"), value, FIRST_TIMESTAMP_MS))?;
    }
    customers.flush()?;
    let mut orders = TopicWriter::<String, String>::new(&cluster, "orders", Produced::default())?;
    let mut random = SplittableRandom(42);
    for i in 0..options.n {
        let customer = random.below(i32::try_from(options.keys)?);
        if i % 4 == 0 {
            // PeerBench draws an amount for its second topic here.
            random.below(100_000);
        }
        let value = format!(
            "{},order number {i} with some text so that the value is about a hundred bytes long on the wire",
            random.below(100_000)
        );
        orders.send(&Record::new(
            format!("c{customer}"),
            value,
            FIRST_TIMESTAMP_MS + i64::try_from(i)?,
        ))?;
    }
    orders.flush()?;
    Ok(())
}

fn amount(value: &str) -> &str {
    value
        .bytes()
        .position(|byte| byte == b',')
        .and_then(|comma| value.get(..comma))
        .unwrap_or(value)
}

fn topology(workload: &str) -> Result<(Topology, Vec<&'static str>), Box<dyn Error>> {
    let builder = StreamsBuilder::new();
    let orders = builder.stream::<String, String>("orders", Consumed::default());
    let inputs = match workload {
        "passthrough" => {
            orders
                .map_values(|_key, value| value)
                .to("out", Produced::default());
            vec!["orders"]
        }
        "aggregate" => {
            orders
                .group_by_key()
                .aggregate(
                    || 0i64,
                    |_key, value: String, sum: i64| {
                        sum + amount(&value).parse::<i64>().unwrap_or(0)
                    },
                    Materialized::named("totals"),
                )
                .to_stream()
                .to("out", Produced::default());
            vec!["orders"]
        }
        "join" => {
            let customers = builder.table_with::<String, String>(
                "customers",
                Consumed::default(),
                Materialized::named("customers-store"),
            );
            orders
                .join(&customers, |order, customer| {
                    format!("{}:{}", amount(customer), amount(&order))
                })
                .to("out", Produced::default());
            vec!["orders", "customers"]
        }
        _ => return Err(format!("workload {workload} is not known").into()),
    };
    Ok((builder.build()?, inputs))
}

fn run(workload: &str, options: &Options) -> Result<(), Box<dyn Error>> {
    let cluster = cluster(options);
    topics::request(&cluster, AdminRequest::DeleteTopics(vec!["out".to_owned()]))?;
    topics::create(
        &cluster,
        &[NewTopic::new("out", options.partitions).config("retention.ms", "-1")],
    )?;
    let (topology, inputs) = topology(workload)?;
    let mut records = 0;
    for topic in inputs {
        records += topics::end_offsets(&cluster, topic)?
            .unwrap_or_default()
            .into_iter()
            .sum::<i64>();
    }
    let application = format!(
        "bench-{workload}-{}",
        SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos()
    );
    let before = usage()?;
    let begin = Instant::now();
    let streams = Streams::new(&application, topology)
        .cluster(cluster)
        .state_dir(&options.state_dir)
        .stream_threads(options.threads)
        .commit_interval(Duration::from_millis(options.commit_ms))
        .cache_bytes(64 << 20)
        .set("batch.size", "262144")
        .set("linger.ms", "20")
        .set("max.partition.fetch.bytes", "4194304")
        .set("buffered.records.per.partition", "5000")
        .start()?;
    let started = begin.elapsed();
    streams.wait_until_caught_up(Duration::from_secs(600))?;
    let seconds = begin.elapsed().as_secs_f64();
    let cpu_seconds = usage()?.0 - before.0;
    let from_first = seconds - started.as_secs_f64();
    streams.stop()?;
    println!(
        "{{\"workload\":\"{workload}\",\"guarantee\":\"at_least_once\",\"threads\":{},\"records\":{records},\"seconds\":{seconds:.2},\"seconds_from_first\":{from_first:.2},\
         \"records_per_s\":{:.0},\"records_per_s_from_first\":{:.0},\"cpu_seconds\":{cpu_seconds:.1},\"peak_rss_mb\":{}}}",
        options.threads,
        records as f64 / seconds,
        records as f64 / from_first,
        usage()?.1
    );
    std::fs::remove_dir_all(options.state_dir.join(application))?;
    Ok(())
}

/// CPU seconds of this process so far, and its peak memory in MB.
fn usage() -> Result<(f64, u64), Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |index: usize| {
        fields
            .get(index)
            .and_then(|field| field.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(((ticks(11) + ticks(12)) / 100.0, peak.unwrap_or(0) / 1024))
}

fn fdatasync(directory: &str) -> Result<(), Box<dyn Error>> {
    let path = PathBuf::from(directory).join("fdatasync-probe");
    let mut file = std::fs::File::create(&path)?;
    let block = vec![7u8; 64 << 10];
    let begin = Instant::now();
    let mut syncs = 0;
    while begin.elapsed() < Duration::from_secs(2) {
        file.write_all(&block)?;
        file.sync_data()?;
        syncs += 1;
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "{{\"fdatasync_per_s\":{:.0},\"mb_per_s\":{:.0}}}",
        f64::from(syncs) / seconds,
        f64::from(syncs) / seconds / 16.0
    );
    std::fs::remove_file(path)?;
    Ok(())
}
