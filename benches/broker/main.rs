//! Our broker and Apache Kafka's, side by side under Kafka's own load tools; writes docs/benchmarks/broker.md.
//!
//! ```text
//! cargo bench --bench broker -- compare [--brooklet PATH] [--rounds N] [--records N] [--seconds N]
//! cargo bench --bench broker -- flush [--brooklet PATH] [--rounds N] [--seconds N]
//! ```
//!
//! `flush` needs no Java and writes nothing: it prints the loads of sixteen producers for `flush=os` and durable in turn.
//!
//! 1. Each round runs every side in turn, in an order that alternates, each on an empty data directory and a port of its own, nothing else running.
//! 2. Under each: ProducerPerformance with records of 100 bytes and 1 KiB, ConsumerPerformance over both, ProducerPerformance at a steady
//!    thousand records a second for the latency, one producer at that pace and sixteen at once (a load of ours, with one request in flight each, and with
//!    five), and transactions one after another (`benches/peers/PeerBench.java`).
//! 3. Beside the clients' figures: the CPU seconds that the broker used per GB, and its memory.
//! 4. Then what needs no peer: start on an empty directory, and after kill -9 with a thousand partitions.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use brooklet_broker::messages;
use brooklet_broker::protocol::record_batch::Builder;
use brooklet_broker::protocol::{Request, encode_request};

#[path = "../peers/machine.rs"]
mod machine;

use machine::{cpu_seconds, fdatasyncs_per_s, median};

type Failure = Box<dyn Error>;

struct Options {
    brooklet: PathBuf,
    directory: PathBuf,
    port: u16,
    rounds: usize,
    /// Of 100 bytes; of 1 KiB a fifth as many.
    records: u64,
    /// Of each timed load.
    seconds: u64,
}

fn main() -> Result<(), Failure> {
    let mut options = Options {
        brooklet: PathBuf::new(),
        directory: std::env::temp_dir()
            .join(format!("brooklet-bench-broker-{}", std::process::id())),
        port: 19392,
        rounds: 3,
        records: 3_000_000,
        seconds: 8,
    };
    // cargo passes --bench to every benchmark.
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench");
    let run: fn(&Options) -> Result<(), Failure> = match arguments.next().as_deref() {
        Some("compare") => compare,
        Some("flush") => flush,
        // `cargo bench` runs every benchmark, and this one needs Java.
        _ => {
            println!(
                "usage: compare or flush; see the head of benches/broker/main.rs, or run `make bench-broker`"
            );
            return Ok(());
        }
    };
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .ok_or_else(|| format!("{argument} needs a value"))
        };
        match argument.as_str() {
            "--brooklet" => options.brooklet = value()?.into(),
            "--directory" => options.directory = value()?.into(),
            "--port" => options.port = value()?.parse()?,
            "--records" => options.records = value()?.parse()?,
            "--rounds" => options.rounds = value()?.parse()?,
            "--seconds" => options.seconds = value()?.parse()?,
            _ => return Err(format!("{argument} is not known").into()),
        }
    }
    if !options.brooklet.exists() {
        return Err(
            "--brooklet: give the path of the built command, e.g. target/release/brooklet".into(),
        );
    }
    let result = run(&options);
    let _ = fs::remove_dir_all(&options.directory);
    result
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Peer,
    OursOs,
    OursDurable,
}

impl Side {
    const ALL: [Side; 3] = [Side::Peer, Side::OursOs, Side::OursDurable];

    fn name(self) -> &'static str {
        match self {
            Side::Peer => "Apache Kafka 4.3.1",
            Side::OursOs => "Brooklet, flush=os",
            Side::OursDurable => "Brooklet, durable",
        }
    }
}

/// What is measured: a row of the page. The value is in the unit that the name ends with.
const FIGURES: &[&str] = &[
    "produce 100 B, records/s",
    "produce 100 B, broker CPU s/GB",
    "produce 1 KiB, MB/s",
    "produce 1 KiB, broker CPU s/GB",
    "consume 100 B, records/s",
    "consume 100 B, broker CPU s/GB",
    "consume 1 KiB, MB/s",
    "consume 1 KiB, broker CPU s/GB",
    "acks=all at 1,000 records/s, p50 ms",
    "acks=all at 1,000 records/s, p99 ms",
    "1 producer of 1 record at 1,000 requests/s, p50 ms",
    "1 producer of 1 record at 1,000 requests/s, p99 ms",
    "16 producers of 64 KiB batches, MB/s",
    "16 producers of 64 KiB batches, p50 ms",
    "16 producers of 64 KiB batches, p99 ms",
    "16 producers of 16 KiB batches, 5 in flight, MB/s",
    "16 producers of 16 KiB batches, 5 in flight, p50 ms",
    "16 producers of 16 KiB batches, 5 in flight, p99 ms",
    "16 producers of 1 record, requests/s",
    "16 producers of 1 record, p50 ms",
    "16 producers of 1 record, p99 ms",
    "transactions of 10 records, transactions/s",
    "commit, p50 ms",
    "commit, p99 ms",
    "memory when idle, MB",
    "memory afterwards, MB",
    "fdatasync/s of the disk just before",
];

type Figures = BTreeMap<(&'static str, Side), Vec<f64>>;

fn compare(options: &Options) -> Result<(), Failure> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let peers = root.join("benches/peers/kafka.sh");
    let page = root.join("docs/benchmarks/broker.md");
    fs::create_dir_all(&options.directory)?;
    let mut figures = Figures::new();
    for round in 0..options.rounds {
        let mut sides = Side::ALL;
        if round % 2 == 1 {
            sides.reverse();
        }
        for side in sides {
            let note = |name: &'static str, value: f64, figures: &mut Figures| {
                assert!(FIGURES.contains(&name), "{name} has no row");
                eprintln!("round {} {:<20} {name}: {value:.2}", round + 1, side.name());
                figures.entry((name, side)).or_default().push(value);
            };
            note(
                "fdatasync/s of the disk just before",
                fdatasyncs_per_s(&options.directory)?,
                &mut figures,
            );
            let broker = Broker::start(options, &peers, side)?;
            note("memory when idle, MB", broker.memory_mb(), &mut figures);
            let tool = Tools {
                peers: &peers,
                server: broker.address.to_string(),
            };
            for (topic, partitions) in [
                ("small", 4),
                ("large", 4),
                ("steady", 1),
                ("one", 1),
                ("many", 16),
                ("flights", 16),
                ("ones", 16),
            ] {
                tool.create(topic, partitions)?;
            }
            let loads = [
                (
                    "small",
                    options.records,
                    100,
                    "produce 100 B, records/s",
                    "produce 100 B, broker CPU s/GB",
                ),
                (
                    "large",
                    options.records / 5,
                    1024,
                    "produce 1 KiB, MB/s",
                    "produce 1 KiB, broker CPU s/GB",
                ),
            ];
            for (topic, records, bytes, rate, cpu) in loads {
                let before = broker.cpu_seconds();
                let produced = tool.produce(topic, records, bytes, None)?;
                let used = broker.cpu_seconds() - before;
                note(
                    rate,
                    if bytes == 100 {
                        produced.records_per_s
                    } else {
                        produced.mb_per_s
                    },
                    &mut figures,
                );
                note(
                    cpu,
                    used / (records as f64 * bytes as f64 / 1e9),
                    &mut figures,
                );
            }
            let loads = [
                (
                    "small",
                    options.records,
                    100,
                    "consume 100 B, records/s",
                    "consume 100 B, broker CPU s/GB",
                ),
                (
                    "large",
                    options.records / 5,
                    1024,
                    "consume 1 KiB, MB/s",
                    "consume 1 KiB, broker CPU s/GB",
                ),
            ];
            for (topic, records, bytes, rate, cpu) in loads {
                let before = broker.cpu_seconds();
                let (mb_per_s, records_per_s) = tool.consume(topic, records)?;
                let used = broker.cpu_seconds() - before;
                note(
                    rate,
                    if bytes == 100 {
                        records_per_s
                    } else {
                        mb_per_s
                    },
                    &mut figures,
                );
                note(
                    cpu,
                    used / (records as f64 * bytes as f64 / 1e9),
                    &mut figures,
                );
            }
            let steady = tool.produce("steady", options.seconds * 1000, 1024, Some(1000))?;
            note(
                "acks=all at 1,000 records/s, p50 ms",
                steady.p50_ms,
                &mut figures,
            );
            note(
                "acks=all at 1,000 records/s, p99 ms",
                steady.p99_ms,
                &mut figures,
            );
            let load = Load {
                producers: 1,
                records: 1,
                in_flight: 1,
                pause: Duration::from_millis(1),
                time: Duration::from_secs(options.seconds),
            };
            // Kafka's tool tells whole milliseconds.
            let one = produce(broker.address, "one", &load)?;
            note(
                "1 producer of 1 record at 1,000 requests/s, p50 ms",
                one.p50_ms,
                &mut figures,
            );
            note(
                "1 producer of 1 record at 1,000 requests/s, p99 ms",
                one.p99_ms,
                &mut figures,
            );
            for (name, value) in sixteen(broker.address, options)? {
                note(name, value, &mut figures);
            }
            let transactions = tool.transactions(options.seconds)?;
            note(
                "transactions of 10 records, transactions/s",
                transactions.0,
                &mut figures,
            );
            note("commit, p50 ms", transactions.1, &mut figures);
            note("commit, p99 ms", transactions.2, &mut figures);
            note("memory afterwards, MB", broker.memory_mb(), &mut figures);
        }
    }
    let starts = starts(options)?;
    let text = report(options, &figures, &starts);
    fs::create_dir_all(page.parent().ok_or("the page has a folder")?)?;
    fs::write(&page, &text)?;
    println!("{text}");
    eprintln!("written to {}", page.display());
    Ok(())
}

/// A broker under test. It ends with this value.
struct Broker {
    address: SocketAddr,
    process: Process,
}

enum Process {
    Ours(Child),
    Peer {
        script: PathBuf,
        port: u16,
        pid: String,
    },
}

impl Broker {
    fn start(options: &Options, peers: &Path, side: Side) -> Result<Self, Failure> {
        let address = SocketAddr::from(([127, 0, 0, 1], options.port));
        if TcpStream::connect(address).is_ok() {
            return Err(
                format!("something listens on {address} already; choose another --port").into(),
            );
        }
        let data = options.directory.join("data");
        let _ = fs::remove_dir_all(&data);
        let flush = match side {
            Side::Peer => {
                // Its data is kept beside its jars: begin with none.
                let data = cache()?.join(format!("kraft-{}", options.port));
                let _ = fs::remove_dir_all(&data);
                checked(Command::new(peers).args(["start", &options.port.to_string()]))?;
                let pid = fs::read_to_string(data.join("pid"))?.trim().to_owned();
                let process = Process::Peer {
                    script: peers.to_owned(),
                    port: options.port,
                    pid,
                };
                return Ok(Self { address, process });
            }
            Side::OursOs => "os",
            Side::OursDurable => "durable",
        };
        Ok(Self {
            address,
            process: Process::Ours(start_ours(options, &data, flush)?),
        })
    }

    fn pid(&self) -> String {
        match &self.process {
            Process::Ours(child) => child.id().to_string(),
            Process::Peer { pid, .. } => pid.clone(),
        }
    }

    fn cpu_seconds(&self) -> f64 {
        cpu_seconds(&self.pid()).unwrap_or(f64::NAN)
    }

    fn memory_mb(&self) -> f64 {
        memory_mb(&self.pid()).unwrap_or(f64::NAN)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        match &mut self.process {
            Process::Ours(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Process::Peer { script, port, pid } => {
                let _ = Command::new(script)
                    .args(["stop", &port.to_string()])
                    .status();
                while Path::new("/proc").join(&*pid).exists() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }
}

fn cache() -> Result<PathBuf, Failure> {
    let of = |name: &str| std::env::var_os(name).map(PathBuf::from);
    of("PEERS_DIR")
        .or_else(|| {
            Some(
                of("XDG_CACHE_HOME")
                    .or_else(|| Some(of("HOME")?.join(".cache")))?
                    .join("brooklet-peers"),
            )
        })
        .ok_or_else(|| "neither PEERS_DIR nor HOME is set".into())
}

/// Starts our broker and returns when it answers on its port.
fn start_ours(options: &Options, data: &Path, flush: &str) -> Result<Child, Failure> {
    let address = SocketAddr::from(([127, 0, 0, 1], options.port));
    let mut child = Command::new(&options.brooklet)
        .args(["broker", "--data"])
        .arg(data)
        .args(["--listen", &address.to_string(), "--flush", flush])
        .args(["--config", "group.initial.rebalance.delay.ms=0"])
        .stdin(Stdio::null())
        .stderr(File::create(options.directory.join("broker.log"))?)
        .spawn()?;
    while TcpStream::connect(address).is_err() {
        if let Some(status) = child.try_wait()? {
            return Err(format!(
                "our broker ended with {status}; see {}",
                options.directory.display()
            )
            .into());
        }
        std::thread::yield_now();
    }
    Ok(child)
}

fn memory_mb(pid: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}

/// Kafka's own load tools.
struct Tools<'a> {
    peers: &'a Path,
    server: String,
}

struct Produced {
    records_per_s: f64,
    mb_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
}

impl Tools<'_> {
    fn run(&self, arguments: &[&str]) -> Result<String, Failure> {
        let output = Command::new(self.peers)
            .args(arguments)
            .stdin(Stdio::null())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            Ok(text)
        } else {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(format!(
                "{arguments:?} ended with {}:\n{text}{errors}",
                output.status
            )
            .into())
        }
    }

    fn create(&self, topic: &str, partitions: u32) -> Result<(), Failure> {
        let partitions = partitions.to_string();
        self.run(&[
            "tool",
            "org.apache.kafka.tools.TopicCommand",
            "--bootstrap-server",
            &self.server,
            "--create",
            "--topic",
            topic,
            "--partitions",
            &partitions,
        ])
        .map(drop)
    }

    /// ProducerPerformance, as fast as it can or at a rate.
    fn produce(
        &self,
        topic: &str,
        records: u64,
        bytes: u64,
        records_per_s: Option<u64>,
    ) -> Result<Produced, Failure> {
        let servers = format!("bootstrap.servers={}", self.server);
        let (batch, linger) = match records_per_s {
            None => ("batch.size=65536", "linger.ms=5"),
            Some(_) => ("batch.size=16384", "linger.ms=0"),
        };
        let throughput = records_per_s.map_or("-1".to_owned(), |rate| rate.to_string());
        let text = self.run(&[
            "tool",
            "org.apache.kafka.tools.ProducerPerformance",
            "--topic",
            topic,
            "--num-records",
            &records.to_string(),
            "--record-size",
            &bytes.to_string(),
            "--throughput",
            &throughput,
            "--producer-props",
            &servers,
            "acks=all",
            batch,
            linger,
        ])?;
        // "N records sent, R records/sec (M MB/sec), A ms avg latency, X ms max latency, P ms 50th, Q ms 95th, S ms 99th, T ms 99.9th."
        let line = text
            .lines()
            .rfind(|line| line.contains("99th"))
            .ok_or_else(|| format!("no summary in {text}"))?;
        let number = |before: &str| -> Result<f64, Failure> {
            let end = line
                .find(before)
                .ok_or_else(|| format!("no \"{before}\" in {line}"))?;
            let start = line[..end].rfind([' ', '(']).map_or(0, |at| at + 1);
            Ok(line[start..end].parse()?)
        };
        Ok(Produced {
            records_per_s: number(" records/sec")?,
            mb_per_s: number(" MB/sec")?,
            p50_ms: number(" ms 50th")?,
            p99_ms: number(" ms 99th")?,
        })
    }

    /// ConsumerPerformance; MB/s and records/s of the fetching alone, without the start.
    fn consume(&self, topic: &str, records: u64) -> Result<(f64, f64), Failure> {
        let text = self.run(&[
            "tool",
            "org.apache.kafka.tools.ConsumerPerformance",
            "--bootstrap-server",
            &self.server,
            "--topic",
            topic,
            "--num-records",
            &records.to_string(),
            "--timeout",
            "60000",
        ])?;
        // start.time, end.time, data.consumed.in.MB, MB.sec, data.consumed.in.nMsg, nMsg.sec, rebalance.time.ms, fetch.time.ms, fetch.MB.sec,
        // fetch.nMsg.sec
        let line = text
            .lines()
            .rfind(|line| line.matches(", ").count() >= 9)
            .ok_or_else(|| format!("no summary in {text}"))?;
        let columns: Vec<&str> = line.split(", ").collect();
        match columns.as_slice() {
            [.., mb, records] => Ok((mb.trim().parse()?, records.trim().parse()?)),
            _ => Err(format!("no summary in {line}").into()),
        }
    }

    /// Transactions a second, and p50 and p99 of a commit in ms.
    fn transactions(&self, seconds: u64) -> Result<(f64, f64, f64), Failure> {
        let text = self.run(&[
            "bench",
            "transactions",
            "ten",
            "--bootstrap",
            &self.server,
            "--n",
            &(seconds * 1000).to_string(),
        ])?;
        let line = text.lines().last().ok_or("PeerBench printed nothing")?;
        let json: serde_json::Value = serde_json::from_str(line)?;
        let number = |name: &str| {
            json.get(name)
                .and_then(serde_json::Value::as_f64)
                .ok_or_else(|| format!("no {name} in {line}"))
        };
        Ok((
            number("transactions_per_s")?,
            number("commit_p50_ms")?,
            number("commit_p99_ms")?,
        ))
    }
}

/// The loads of sixteen producers, each with its own partition of a topic of its own: a row and its value.
fn sixteen(address: SocketAddr, options: &Options) -> Result<Vec<(&'static str, f64)>, Failure> {
    let load = |records, in_flight| Load {
        producers: 16,
        records,
        in_flight,
        pause: Duration::ZERO,
        time: Duration::from_secs(options.seconds),
    };
    let many = produce(address, "many", &load(64, 1))?;
    let flights = produce(address, "flights", &load(16, 5))?;
    let ones = produce(address, "ones", &load(1, 1))?;
    Ok(vec![
        ("16 producers of 64 KiB batches, MB/s", many.mb_per_s),
        ("16 producers of 64 KiB batches, p50 ms", many.p50_ms),
        ("16 producers of 64 KiB batches, p99 ms", many.p99_ms),
        (
            "16 producers of 16 KiB batches, 5 in flight, MB/s",
            flights.mb_per_s,
        ),
        (
            "16 producers of 16 KiB batches, 5 in flight, p50 ms",
            flights.p50_ms,
        ),
        (
            "16 producers of 16 KiB batches, 5 in flight, p99 ms",
            flights.p99_ms,
        ),
        ("16 producers of 1 record, requests/s", ones.requests_per_s),
        ("16 producers of 1 record, p50 ms", ones.p50_ms),
        ("16 producers of 1 record, p99 ms", ones.p99_ms),
    ])
}

/// What durability costs sixteen producers: our broker alone, both ways in turn.
fn flush(options: &Options) -> Result<(), Failure> {
    let mut figures = Figures::new();
    for round in 0..options.rounds {
        for (side, flush) in [(Side::OursOs, "os"), (Side::OursDurable, "durable")] {
            let data = options.directory.join(format!("{flush}-{round}"));
            fs::create_dir_all(&options.directory)?;
            let broker = start_ours(options, &data, flush)?;
            let address = format!("127.0.0.1:{}", options.port);
            for topic in ["many", "flights", "ones"] {
                let topic = ["topic", "create", topic, "--partitions", "16"];
                checked(
                    Command::new(&options.brooklet)
                        .args(topic)
                        .args(["-b", &address]),
                )?;
            }
            let taken = sixteen(address.parse()?, options);
            kill(broker);
            fs::remove_dir_all(&data)?;
            for (name, value) in taken? {
                figures.entry((name, side)).or_default().push(value);
            }
        }
    }
    for (name, os) in figures
        .iter()
        .filter(|((_, side), _)| *side == Side::OursOs)
    {
        let durable = figures.get(&(name.0, Side::OursDurable));
        let durable = durable.into_iter().flatten().copied();
        println!(
            "{:<55} os {:>9.2} durable {:>9.2}",
            name.0,
            median(os.iter().copied()),
            median(durable)
        );
    }
    Ok(())
}

/// Connections, each to its own partition, each with so many Produces (acks=all) in flight.
#[derive(Clone, Copy)]
struct Load {
    producers: i32,
    /// Of 1 KiB, in each batch.
    records: usize,
    in_flight: usize,
    /// From one request to the next, if the answer is there by then.
    pause: Duration,
    time: Duration,
}

struct Taken {
    mb_per_s: f64,
    requests_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
}

fn produce(address: SocketAddr, topic: &str, load: &Load) -> Result<Taken, Failure> {
    let load = *load;
    let records = load.records;
    let stop = Arc::new(AtomicBool::new(false));
    let latencies: Arc<Mutex<Vec<f64>>> = Arc::default();
    let began = Instant::now();
    let threads: Vec<_> = (0..load.producers)
        .map(|partition| {
            let (stop, latencies, topic) = (stop.clone(), latencies.clone(), topic.to_owned());
            std::thread::spawn(move || -> Result<(), String> {
                let mut own = Vec::new();
                let result = produce_until(address, &topic, partition, &load, &stop, &mut own);
                latencies
                    .lock()
                    .map_err(|error| error.to_string())?
                    .extend(own);
                result.map_err(|error| error.to_string())
            })
        })
        .collect();
    std::thread::sleep(load.time);
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().map_err(|_| "a producer panicked")??;
    }
    let elapsed = began.elapsed().as_secs_f64();
    let mut latencies = latencies.lock().map_err(|error| error.to_string())?;
    latencies.sort_by(f64::total_cmp);
    let at = |share: f64| {
        latencies
            .get((latencies.len() as f64 * share) as usize)
            .copied()
            .unwrap_or(f64::NAN)
    };
    Ok(Taken {
        mb_per_s: latencies.len() as f64 * records as f64 / 1024.0 / elapsed,
        requests_per_s: latencies.len() as f64 / elapsed,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
    })
}

fn produce_until(
    address: SocketAddr,
    topic: &str,
    partition: i32,
    load: &Load,
    stop: &AtomicBool,
    latencies_ms: &mut Vec<f64>,
) -> Result<(), Failure> {
    let mut batch = Builder::new();
    let value = vec![b'x'; 1024];
    let now_ms = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_millis();
    for _ in 0..load.records {
        batch.append(i64::try_from(now_ms)?, None, Some(&value), &[]);
    }
    let mut of_partition = messages::produce_request::PartitionProduceData::default();
    of_partition.index = partition;
    of_partition.records = Some(batch.build().freeze());
    let mut of_topic = messages::produce_request::TopicProduceData::default();
    of_topic.name = topic.into();
    of_topic.partition_data = vec![of_partition];
    let mut request = messages::ProduceRequest::default();
    request.transactional_id = None;
    request.acks = -1;
    request.timeout_ms = 30_000;
    request.topic_data = vec![of_topic];
    let frame = encode_request(&Request::Produce(request), 9, 1, "sixteen")?;
    let mut connection = TcpStream::connect(address)?;
    connection.set_nodelay(true)?;
    let mut answer = Vec::new();
    let mut due = Instant::now();
    let mut sent = VecDeque::new();
    while !stop.load(Ordering::Relaxed) {
        while sent.len() < load.in_flight {
            due += load.pause;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            sent.push_back(Instant::now());
            connection.write_all(&frame)?;
        }
        let mut length = [0; 4];
        connection.read_exact(&mut length)?;
        answer.resize(usize::try_from(i32::from_be_bytes(length))?, 0);
        connection.read_exact(&mut answer)?;
        let sent = sent.pop_front().ok_or("an answer too many")?;
        latencies_ms.push(sent.elapsed().as_secs_f64() * 1e3);
        // Version 9: correlation id, tags, one topic (count 2), its name, one partition (count 2), its index, its error.
        let error = answer
            .get(4 + 1 + 1 + 1 + topic.len() + 1 + 4..)
            .and_then(|rest| rest.first_chunk());
        if error.map(|code| i16::from_be_bytes(*code)) != Some(0) {
            return Err(format!("produce to {topic}-{partition} failed: {answer:?}").into());
        }
    }
    Ok(())
}

/// How long our broker takes until it listens, in ms, medians: on an empty directory, and after kill -9 with 1,000 partitions of which all have records.
fn starts(options: &Options) -> Result<(f64, f64), Failure> {
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/kafka.sh");
    let timed = |data: &Path| -> Result<(f64, Child), Failure> {
        let began = Instant::now();
        let child = start_ours(options, data, "durable")?;
        Ok((began.elapsed().as_secs_f64() * 1e3, child))
    };
    let mut empty = Vec::new();
    for turn in 0..5 {
        let (ms, child) = timed(&options.directory.join(format!("empty-{turn}")))?;
        kill(child);
        empty.push(ms);
    }
    let data = options.directory.join("thousand");
    let (_, child) = timed(&data)?;
    let server = format!("127.0.0.1:{}", options.port);
    let tool = Tools {
        peers: &peers,
        server,
    };
    tool.create("thousand", 1000)?;
    tool.produce("thousand", 100_000, 100, None)?;
    kill(child);
    let mut full = Vec::new();
    for _ in 0..5 {
        let (ms, child) = timed(&data)?;
        kill(child);
        full.push(ms);
    }
    Ok((median(empty.into_iter()), median(full.into_iter())))
}

fn kill(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn checked(command: &mut Command) -> Result<(), Failure> {
    let status = command.stdin(Stdio::null()).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{command:?} ended with {status}").into())
    }
}

fn report(options: &Options, figures: &Figures, starts: &(f64, f64)) -> String {
    let mut page = String::new();
    let _ = writeln!(
        page,
        "# The broker beside Apache Kafka's\n\n\
         Written by `make bench-broker`; not edited by hand. Kafka's own ProducerPerformance and ConsumerPerformance against each broker in turn, {} \
         records of 100 bytes and {} of 1 KiB in 4 partitions, acks=all; a thousand records a second of 1 KiB for the latency; one connection \
         of our own load at a thousand requests a second, and sixteen as fast as they are answered, one request in flight each, and with five; transactions of ten records, one after another, by the Java client. Medians of {} \
         alternations, each on an empty directory.\n\n\
         Machine: {}.\n\n\
         - Clients and brokers share the cores, so that a rate is the client's limit as often as the broker's: the broker's CPU seconds per GB are \
         beside it.\n\
         - `flush=os` is what Kafka does: acknowledged is in the page cache. Durable is our default: acknowledged is on disk.\n",
        options.records,
        options.records / 5,
        options.rounds,
        machine::describe()
    );
    let of = |name: &'static str, side: Side| {
        figures
            .get(&(name, side))
            .map_or(f64::NAN, |values| median(values.iter().copied()))
    };
    let _ = writeln!(
        page,
        "| | {} |\n|---|{}|",
        Side::ALL.map(Side::name).join(" | "),
        Side::ALL.map(|_| "---:").join("|")
    );
    for name in FIGURES {
        let cells = Side::ALL.map(|side| number(of(name, side)));
        let _ = writeln!(page, "| {name} | {} |", cells.join(" | "));
    }
    let _ = writeln!(
        page,
        "\nOurs alone: listening {:.0} ms after its start on an empty directory, {:.0} ms after kill -9 with 1,000 partitions that have records (medians of 5).\n\n\
         ## Every run\n\n| | round | {} |\n|---|---:|{}|",
        starts.0,
        starts.1,
        Side::ALL.map(Side::name).join(" | "),
        Side::ALL.map(|_| "---:").join("|")
    );
    for name in FIGURES {
        for round in 0..options.rounds {
            let cells = Side::ALL.map(|side| {
                number(
                    figures
                        .get(&(*name, side))
                        .and_then(|values| values.get(round))
                        .copied()
                        .unwrap_or(f64::NAN),
                )
            });
            let _ = writeln!(page, "| {name} | {} | {} |", round + 1, cells.join(" | "));
        }
    }
    page
}

fn number(value: f64) -> String {
    if value >= 1000.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}
