//! Our side of the comparison with Kafka Streams: the workloads of `benches/peers/PeerBench.java`, on the same records.
//!
//! ```text
//! cargo bench --bench streams -- load --cluster embedded:DIR --n 3000000 --keys 100000
//! cargo bench --bench streams -- run passthrough|join|aggregate --cluster embedded:DIR [--flush os|durable] [--threads N] [--guarantee exactly_once_v2]
//! cargo bench --bench streams -- latency --cluster embedded:DIR [--flush os|durable] [--guarantee …] [--commit-ms 0]   # one record a millisecond
//! cargo bench --bench streams -- restore --cluster embedded:DIR [--n 5000000]     # from scratch, and after kill -9 with the disk intact
//! cargo bench --bench streams -- fdatasync DIR        # what the disk does on its own: 64 KiB appends, each synced
//! ```
//!
//! Each prints one JSON line as PeerBench does; `run` when all input is processed and committed. `make bench-peers` alternates the two.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use brooklet::State;
use brooklet::prelude::*;
use brooklet::topics::{self, NewTopic, TopicWriter};
use brooklet_streams_core::client::record_batch::BatchCursor;
use brooklet_streams_core::client::{
    AdminRequest, Cluster as _, ConsumerOptions, ProducerOptions, RecordRef, TopicPartition,
};

const FIRST_TIMESTAMP_MS: i64 = 1_700_000_000_000;

struct Options {
    cluster: String,
    flush: Flush,
    n: u64,
    keys: u32,
    partitions: i32,
    threads: usize,
    guarantee: String,
    commit_ms: u64,
    state_dir: PathBuf,
    application: String,
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
        println!(
            "usage: load | run WORKLOAD | latency | restore | fdatasync DIR; see the head of benches/streams.rs"
        );
        return Ok(());
    };
    let what = if ["load", "latency", "restore"].contains(&verb.as_str()) {
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
        guarantee: "at_least_once".to_owned(),
        commit_ms: 1_000,
        state_dir: std::env::temp_dir().join("brooklet-bench-state"),
        application: "restore".to_owned(),
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
            "--guarantee" => options.guarantee = value,
            "--commit-ms" => options.commit_ms = value.parse()?,
            "--state-dir" => options.state_dir = value.into(),
            // Of the lives of `restore`.
            "--application" => options.application = value,
            _ => return Err(format!("{word} is not known").into()),
        }
    }
    match verb.as_str() {
        "load" => load(&options),
        "run" => run(&what, &options),
        "latency" => latency(&options),
        "restore" => restore(&options),
        "life" => life(&what, &options),
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
        .set("processing.guarantee", &options.guarantee)
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
        "{{\"workload\":\"{workload}\",\"guarantee\":\"{}\",\"threads\":{},\"records\":{records},\"seconds\":{seconds:.2},\"seconds_from_first\":{from_first:.2},\
         \"records_per_s\":{:.0},\"records_per_s_from_first\":{:.0},\"cpu_seconds\":{cpu_seconds:.1},\"peak_rss_mb\":{}}}",
        options.guarantee,
        options.threads,
        records as f64 / seconds,
        records as f64 / from_first,
        usage()?.1
    );
    std::fs::remove_dir_all(options.state_dir.join(application))?;
    Ok(())
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn thread_waker() -> Waker {
    Waker::from(Arc::new(Unpark(thread::current())))
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

/// End to end: a record a millisecond into a topic, through an application that passes it on, to a reader of committed records.
fn latency(options: &Options) -> Result<(), Box<dyn Error>> {
    let directory = options
        .cluster
        .strip_prefix("embedded:")
        .map(PathBuf::from)
        .unwrap_or_else(std::env::temp_dir);
    let probe_before = fdatasync_latencies_ms(&directory)?;
    let cluster = cluster(options);
    let application = format!("latency-{}", now_ms());
    let (input, output) = (format!("{application}-in"), format!("{application}-out"));
    topics::create(
        &cluster,
        &[
            NewTopic::new(&input, options.partitions),
            NewTopic::new(&output, options.partitions),
        ],
    )?;
    let builder = StreamsBuilder::new();
    builder
        .stream::<Option<Vec<u8>>, Vec<u8>>(&*input, Consumed::default())
        .map_values(|_key, value| value)
        .to(&output, Produced::default());
    let streams = Streams::new(&application, builder.build()?)
        .cluster(cluster.clone())
        .state_dir(&options.state_dir)
        .stream_threads(options.threads)
        .set("processing.guarantee", &options.guarantee)
        .commit_interval(Duration::from_millis(options.commit_ms))
        .set("linger.ms", "0")
        .start()?;
    while streams.state() != State::Running {
        thread::sleep(Duration::from_millis(10));
    }
    let records = usize::try_from(options.n.min(20_000))?;
    let begin = Instant::now();
    let reader = {
        let (cluster, output, partitions) = (cluster.clone(), output, options.partitions);
        thread::spawn(move || {
            read_latencies_ms(&cluster, &output, partitions, records, begin)
                .map_err(|error| error.to_string())
        })
    };
    let cpu_before = usage()?.0;
    write_paced(&cluster, &input, options.partitions, records, begin)?;
    let mut latencies = reader
        .join()
        .map_err(|_| "the reader panicked")?
        .map_err(|error| format!("{error}; {:?}", streams.metrics()))?;
    let cpu_seconds = usage()?.0 - cpu_before;
    let commits = streams.commit_latencies();
    streams.stop()?;
    let mut probe = fdatasync_latencies_ms(&directory)?;
    probe.extend(probe_before);
    println!(
        "{{\"workload\":\"latency\",\"guarantee\":\"{}\",\"n\":{records},\"p50_ms\":{:.2},\"p99_ms\":{:.2},\"p999_ms\":{:.2},\
         \"fdatasync_p50_ms\":{:.3},\"cpu_seconds\":{cpu_seconds:.1},\"commits\":{}}}",
        options.guarantee,
        percentile(&mut latencies, 0.5),
        percentile(&mut latencies, 0.99),
        percentile(&mut latencies, 0.999),
        percentile(&mut probe, 0.5),
        commits.commits
    );
    std::fs::remove_dir_all(options.state_dir.join(application))?;
    Ok(())
}

/// Writes the time since `begin` as a record's value, a record a millisecond; each is sent at once.
fn write_paced(
    cluster: &Cluster,
    topic: &str,
    partitions: i32,
    records: usize,
    begin: Instant,
) -> Result<(), Box<dyn Error>> {
    let mut producer = cluster.producer(&ProducerOptions {
        client_id: "latency-writer".to_owned(),
        batch_bytes: 16 << 10,
        linger_ms: 0,
        properties: Vec::new(),
        transaction: None,
    })?;
    let handle = producer.topic(topic)?;
    let (waker, mut completions, headers) = (thread_waker(), Vec::new(), Headers::default());
    while producer.partitions(handle).is_none() {
        producer.poll(now_ms(), &waker, &mut completions)?;
        thread::park_timeout(Duration::from_millis(10));
    }
    let mut next = Instant::now();
    for (number, partition) in (0..records).zip((0..partitions).cycle()) {
        loop {
            producer.poll(now_ms(), &waker, &mut completions)?;
            let left = next.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // Woken early by an acknowledgement.
            thread::park_timeout(left);
        }
        next += Duration::from_millis(1);
        let value = begin.elapsed().as_nanos().to_string();
        let record = RecordRef {
            key: None,
            value: Some(value.as_bytes()),
            timestamp: now_ms(),
            headers: &headers,
        };
        producer.append(handle, partition, record)?;
        producer.flush(now_ms());
        if let Some(error) = completions
            .drain(..)
            .find_map(|completion| completion.result.err())
        {
            return Err(
                format!("record {number} or one before it was not written: {error}").into(),
            );
        }
    }
    while producer.pending_records() > 0 {
        producer.poll(now_ms(), &waker, &mut completions)?;
        thread::park_timeout(Duration::from_millis(1));
    }
    Ok(())
}

/// How long a reader waits for the next record.
const READ_PATIENCE: Duration = Duration::from_secs(10);

/// How old each record is when a reader of committed records has it.
fn read_latencies_ms(
    cluster: &Cluster,
    topic: &str,
    partitions: i32,
    records: usize,
    begin: Instant,
) -> Result<Vec<f64>, Box<dyn Error>> {
    let mut consumer = cluster.consumer(&ConsumerOptions {
        client_id: "latency-reader".to_owned(),
        read_committed: true,
        partition_fetch_bytes_max: 1 << 20,
        properties: Vec::new(),
    })?;
    for partition in 0..partitions {
        consumer.add(&TopicPartition::new(topic, partition), 0)?;
    }
    let (waker, mut fetched) = (thread_waker(), Vec::new());
    let mut latencies = Vec::with_capacity(records);
    let mut last = Instant::now();
    // The position may lie within a batch that is handed over again.
    let mut positions = std::collections::HashMap::new();
    while latencies.len() < records {
        consumer.poll(now_ms(), &waker, &mut fetched)?;
        if fetched.is_empty() {
            if last.elapsed() > READ_PATIENCE {
                return Err(format!("{} of {records} records came", latencies.len()).into());
            }
            thread::park_timeout(Duration::from_millis(100));
            continue;
        }
        let now = begin.elapsed();
        for part in fetched.drain(..) {
            let position = positions.entry(part.slot).or_insert(0);
            for batch in part.batches {
                let mut cursor = BatchCursor::new(batch)?;
                cursor.skip_below(*position)?;
                while let Some(record) = cursor.next()? {
                    let value = record.value.ok_or("a record has no value")?;
                    let sent: u64 = std::str::from_utf8(&value)?.parse()?;
                    latencies.push((now - Duration::from_nanos(sent)).as_secs_f64() * 1e3);
                    last = Instant::now();
                }
            }
            *position = part.next_offset.max(*position);
        }
    }
    Ok(latencies)
}

fn percentile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = (values.len() as f64 * part) as usize;
    values
        .get(index.min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

/// What a store is restored from: each key once.
const RESTORE_INPUT: &str = "restore-in";

/// Fills a store of `n` keys, then times its restoration from nothing, and a restart after kill -9 with the disk intact. Each life is a
/// process of its own.
fn restore(options: &Options) -> Result<(), Box<dyn Error>> {
    {
        let cluster = cluster(options);
        topics::request(
            &cluster,
            AdminRequest::DeleteTopics(vec![RESTORE_INPUT.to_owned()]),
        )?;
        topics::create(
            &cluster,
            &[NewTopic::new(RESTORE_INPUT, options.partitions).config("retention.ms", "-1")],
        )?;
        let mut writer =
            TopicWriter::<String, String>::new(&cluster, RESTORE_INPUT, Produced::default())?;
        for i in 0..options.n {
            let value = format!(
                "value of key {i} with some text so that it is about a hundred bytes long, as the values of the other loads are"
            );
            writer.send(&Record::new(
                format!("key-{i}"),
                value,
                FIRST_TIMESTAMP_MS + i64::try_from(i)?,
            ))?;
        }
        writer.flush()?;
    }
    let application = format!("restore-{}", now_ms());
    let state = options.state_dir.join(&application);
    Life::start(&application, "fill", options)?.end()?;
    std::fs::remove_dir_all(&state)?;
    let scratch = Life::start(&application, "scratch", options)?.end()?;
    let mut serving = Life::start(&application, "serve", options)?;
    serving.line()?;
    // While it is busy with records that keep coming.
    thread::sleep(Duration::from_secs(2));
    serving.process.kill()?;
    serving.process.wait()?;
    let again = Life::start(&application, "again", options)?.end()?;
    println!(
        "{{\"workload\":\"restore\",\"guarantee\":\"{}\",\"keys\":{},{scratch},{again}}}",
        options.guarantee, options.n
    );
    std::fs::remove_dir_all(&state)?;
    Ok(())
}

/// A process that runs the application of `restore` once.
struct Life {
    process: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Life {
    fn start(application: &str, name: &str, options: &Options) -> Result<Self, Box<dyn Error>> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["life", name, "--application", application])
            .args(["--cluster", &options.cluster])
            .args(["--flush", flush_name(options.flush)])
            .args(["--n", &options.n.to_string()])
            .args(["--threads", &options.threads.to_string()])
            .args(["--guarantee", &options.guarantee])
            .args(["--commit-ms", &options.commit_ms.to_string()])
            .arg("--state-dir")
            .arg(&options.state_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(process.stdout.take().ok_or("stdout is piped")?);
        Ok(Self { process, lines })
    }

    fn line(&mut self) -> Result<String, Box<dyn Error>> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// What it printed, once it has ended.
    fn end(mut self) -> Result<String, Box<dyn Error>> {
        let line = self.line()?;
        let status = self.process.wait()?;
        if status.success() {
            Ok(line)
        } else {
            Err(format!("a life of the application ended with {status}").into())
        }
    }
}

fn flush_name(flush: Flush) -> &'static str {
    match flush {
        Flush::Durable => "durable",
        Flush::Os => "os",
    }
}

/// One process of `restore`. What it prints becomes part of the result.
fn life(name: &str, options: &Options) -> Result<(), Box<dyn Error>> {
    let begin = Instant::now();
    let cluster = cluster(options);
    let builder = StreamsBuilder::new();
    let table = builder.table_with::<Vec<u8>, Vec<u8>>(
        RESTORE_INPUT,
        Consumed::default(),
        Materialized::named("big"),
    );
    drop(table);
    // The broker is opened here; the peer's runs all the time.
    let mut writer =
        TopicWriter::<String, String>::new(&cluster, RESTORE_INPUT, Produced::default())?;
    if name == "again" {
        // There is something to process, wherever the earlier life was killed.
        writer.send(&Record::new(
            "key-0".to_owned(),
            "again".to_owned(),
            FIRST_TIMESTAMP_MS,
        ))?;
        writer.flush()?;
    }
    let opened = Instant::now();
    let streams = Streams::new(&options.application, builder.build()?)
        .cluster(cluster)
        .state_dir(&options.state_dir)
        .stream_threads(options.threads)
        .set("processing.guarantee", &options.guarantee)
        .commit_interval(Duration::from_millis(options.commit_ms))
        .cache_bytes(64 << 20)
        .set("max.partition.fetch.bytes", "4194304")
        .start()?;
    let started = Instant::now();
    match name {
        "fill" => streams.wait_until_caught_up(Duration::from_secs(600))?,
        "scratch" => {
            while streams.state() == State::Rebalancing {
                thread::sleep(Duration::from_millis(1));
            }
            let (seconds, from_first) = (opened.elapsed(), started.elapsed());
            let restored = streams.metric_total("restore-total");
            println!(
                "\"seconds\":{:.2},\"restored\":{restored},\"records_per_s\":{:.0},\"records_per_s_from_first\":{:.0},\"peak_rss_mb\":{}",
                seconds.as_secs_f64(),
                restored / seconds.as_secs_f64(),
                restored / from_first.as_secs_f64(),
                usage()?.1
            );
        }
        "serve" => {
            streams.wait_until_caught_up(Duration::from_secs(600))?;
            println!("serving");
            std::io::stdout().flush()?;
            // Until it is killed.
            for i in (0..options.n).cycle() {
                writer.send(&Record::new(
                    format!("key-{i}"),
                    format!("another value of key {i}"),
                    FIRST_TIMESTAMP_MS,
                ))?;
                writer.flush()?;
            }
        }
        "again" => {
            while streams.metric_total("process-total") == 0.0 {
                if streams.state() == State::Error {
                    streams.stop()?;
                    return Err("the application failed".into());
                }
                thread::sleep(Duration::from_millis(1));
            }
            println!(
                "\"restart_seconds\":{:.3},\"restart_seconds_broker\":{:.3},\"restart_restored\":{}",
                begin.elapsed().as_secs_f64(),
                (opened - begin).as_secs_f64(),
                streams.metric_total("restore-total")
            );
        }
        _ => return Err(format!("{name} is no life").into()),
    }
    streams.stop()?;
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

/// How long the disk takes for an appended block of 4 KiB to be synced, for a second.
fn fdatasync_latencies_ms(directory: &Path) -> std::io::Result<Vec<f64>> {
    std::fs::create_dir_all(directory)?;
    let path = directory.join("fdatasync-probe");
    let mut file = std::fs::File::create(&path)?;
    let block = [7_u8; 4096];
    let mut latencies = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(1) {
        let one = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        latencies.push(one.elapsed().as_secs_f64() * 1e3);
    }
    std::fs::remove_file(path)?;
    Ok(latencies)
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
