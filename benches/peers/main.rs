//! Ours and the JVM's, side by side: starts the peer, lets both sides run the same workloads in turn, and writes docs/benchmarks/peers.md.
//!
//! ```text
//! cargo bench --bench peers -- compare [passthrough] [join] [aggregate] [--records N] [--keys N] [--rounds N] [--threads N]
//! ```
//!
//! 1. Apache Kafka is started on loopback and loaded; the same records are written into our data directory.
//! 2. In each round every workload is run once by each side, each in a process of its own; who goes first alternates.
//! 3. A run is over when the group's committed offsets have reached the end of its input.
//! 4. The page has the medians, their ratio, and every single run.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

mod machine;

use machine::{cpu_seconds, fdatasyncs_per_s, median};

/// Where both sides read and write.
const PARTITIONS: &str = "4";

struct Options {
    directory: PathBuf,
    keys: String,
    port: String,
    records: String,
    rounds: usize,
    threads: String,
    workloads: Vec<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut options = Options {
        directory: std::env::temp_dir()
            .join(format!("brooklet-bench-peers-{}", std::process::id())),
        keys: "100000".to_owned(),
        port: "19092".to_owned(),
        records: "3000000".to_owned(),
        rounds: 3,
        threads: "1".to_owned(),
        workloads: Vec::new(),
    };
    // cargo passes --bench to every benchmark.
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench");
    if arguments.next().as_deref() != Some("compare") {
        // `cargo bench` runs every benchmark, and this one needs Java.
        println!(
            "usage: compare; see the head of benches/peers/main.rs, or run `make bench-peers`"
        );
        return Ok(());
    }
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .ok_or_else(|| format!("{argument} needs a value"))
        };
        match argument.as_str() {
            "--directory" => options.directory = value()?.into(),
            "--keys" => options.keys = value()?,
            "--port" => options.port = value()?,
            "--records" => options.records = value()?,
            "--rounds" => options.rounds = value()?.parse()?,
            "--threads" => options.threads = value()?,
            "passthrough" | "join" | "aggregate" => options.workloads.push(argument),
            _ => return Err(format!("{argument} is not known").into()),
        }
    }
    if options.workloads.is_empty() {
        options.workloads = ["passthrough", "join", "aggregate"]
            .map(str::to_owned)
            .to_vec();
    }
    let result = compare(&options);
    let _ = fs::remove_dir_all(&options.directory);
    result
}

/// What a run printed: one JSON line.
#[derive(Clone)]
struct Run {
    round: usize,
    records_per_s: f64,
    cpu_seconds: f64,
    peak_mb: f64,
    records: f64,
    /// CPU seconds of the peer's broker in the same time; ours is in the process already.
    broker_cpu_seconds: f64,
    /// The disk's raw rate of small synced appends just before, where the run syncs.
    fdatasyncs_per_s: Option<f64>,
}

impl Run {
    fn cpu_per_million(&self) -> f64 {
        self.cpu_seconds / self.records * 1e6
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Peer,
    OursOs,
    OursDurable,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Side::Peer => "Kafka Streams 4.3.1 on Apache Kafka",
            Side::OursOs => "Brooklet, flush=os",
            Side::OursDurable => "Brooklet, durable",
        }
    }
}

/// Ends the peer's broker with the comparison, however that ends.
struct PeerBroker {
    script: PathBuf,
    port: String,
}

impl Drop for PeerBroker {
    fn drop(&mut self) {
        let _ = Command::new(&self.script)
            .args(["stop", &self.port])
            .status();
    }
}

fn compare(options: &Options) -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = root.join("benches/peers/kafka.sh");
    let page = root.join("docs/benchmarks/peers.md");
    let bootstrap = format!("127.0.0.1:{}", options.port);
    let data = options.directory.join("data");
    let cluster = format!("embedded:{}", data.display());
    let state = options.directory.join("state").display().to_string();
    fs::create_dir_all(&data)?;
    let ours = streams_benchmark(root)?;

    if TcpStream::connect(&bootstrap).is_ok() {
        return Err(
            format!("something listens on {bootstrap} already; choose another --port").into(),
        );
    }
    eprintln!(
        "starting Apache Kafka, and loading {} records into both sides",
        options.records
    );
    checked(Command::new(&script).args(["start", &options.port]))?;
    let broker = PeerBroker {
        script: script.clone(),
        port: options.port.clone(),
    };
    let load = [
        "--n",
        &options.records,
        "--keys",
        &options.keys,
        "--partitions",
        PARTITIONS,
    ];
    checked(
        Command::new(&script)
            .args(["bench", "load", "orders", "--bootstrap", &bootstrap])
            .args(load),
    )?;
    checked(
        Command::new(&ours)
            .args(["load", "--cluster", &cluster])
            .args(load),
    )?;

    let mut runs: BTreeMap<(usize, Side), Vec<Run>> = BTreeMap::new();
    for round in 0..options.rounds {
        for (index, workload) in options.workloads.iter().enumerate() {
            let mut sides = [Side::Peer, Side::OursOs, Side::OursDurable];
            if round % 2 == 1 {
                sides.reverse();
            }
            for side in sides {
                let fdatasyncs_per_s = (side == Side::OursDurable)
                    .then(|| fdatasyncs_per_s(&data))
                    .transpose()?;
                let broker_before = peer_broker_cpu_seconds(&broker);
                let common = [
                    "--threads",
                    &options.threads,
                    "--partitions",
                    PARTITIONS,
                    "--commit-ms",
                    "1000",
                    "--state-dir",
                    &state,
                ];
                let mut command = match side {
                    Side::Peer => Command::new(&script),
                    Side::OursOs | Side::OursDurable => Command::new(&ours),
                };
                match side {
                    Side::Peer => {
                        command.args(["bench", "run", workload, "--bootstrap", &bootstrap])
                    }
                    Side::OursOs => {
                        command.args(["run", workload, "--cluster", &cluster, "--flush", "os"])
                    }
                    Side::OursDurable => {
                        command.args(["run", workload, "--cluster", &cluster, "--flush", "durable"])
                    }
                };
                let line = printed(command.args(common))?;
                let broker_cpu_seconds = if side == Side::Peer {
                    peer_broker_cpu_seconds(&broker) - broker_before
                } else {
                    0.0
                };
                let run = parse(&line, round, broker_cpu_seconds, fdatasyncs_per_s)?;
                eprintln!(
                    "round {} {workload:>12} {:<36} {:>10.0} records/s",
                    round + 1,
                    side.name(),
                    run.records_per_s
                );
                runs.entry((index, side)).or_default().push(run);
            }
        }
    }
    drop(broker);

    let text = report(options, &runs);
    fs::create_dir_all(page.parent().ok_or("the page has a folder")?)?;
    fs::write(&page, &text)?;
    println!("{text}");
    eprintln!("written to {}", page.display());
    Ok(())
}

/// Builds our side, `benches/streams.rs`, and says where it is.
fn streams_benchmark(root: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = [
        "bench",
        "--bench",
        "streams",
        "--no-run",
        "--message-format",
        "json-render-diagnostics",
    ];
    let output = Command::new(cargo)
        .args(build)
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let executable = text.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_ours = message.get("target")?.get("name")?.as_str()? == "streams";
        message
            .get("executable")?
            .as_str()
            .filter(|_| is_ours)
            .map(PathBuf::from)
    });
    executable.ok_or_else(|| "cargo built no benchmark `streams`".into())
}

fn checked(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let status = command.stdin(Stdio::null()).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{command:?} ended with {status}").into())
    }
}

/// The last line that the command printed.
fn printed(command: &mut Command) -> Result<String, Box<dyn Error>> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("{command:?} ended with {}", output.status).into());
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(text
        .lines()
        .last()
        .ok_or_else(|| format!("{command:?} printed nothing"))?
        .to_owned())
}

fn parse(
    line: &str,
    round: usize,
    broker_cpu_seconds: f64,
    fdatasyncs_per_s: Option<f64>,
) -> Result<Run, Box<dyn Error>> {
    let json: serde_json::Value =
        serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))?;
    let number = |name: &str| {
        json.get(name)
            .and_then(serde_json::Value::as_f64)
            .ok_or_else(|| format!("no {name} in {line}"))
    };
    Ok(Run {
        round,
        // From the first record (the peer) or the started application (ours): the start of a JVM is not held against it.
        records_per_s: number("records_per_s_from_first")?,
        cpu_seconds: number("cpu_seconds")?,
        peak_mb: number("peak_rss_mb")?,
        records: number("records")?,
        broker_cpu_seconds,
        fdatasyncs_per_s,
    })
}

/// CPU seconds of the peer's broker until now, from /proc; zero where there is none.
fn peer_broker_cpu_seconds(broker: &PeerBroker) -> f64 {
    let cache = std::env::var_os("PEERS_DIR")
        .map(PathBuf::from)
        .or_else(|| {
            let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
            cache
                .or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")))
                .map(|cache| cache.join("brooklet-peers"))
        });
    let seconds = || -> Option<f64> {
        let pid =
            fs::read_to_string(cache?.join(format!("kraft-{}", broker.port)).join("pid")).ok()?;
        cpu_seconds(pid.trim())
    };
    seconds().unwrap_or(0.0)
}

fn report(options: &Options, runs: &BTreeMap<(usize, Side), Vec<Run>>) -> String {
    let mut page = String::new();
    let _ = writeln!(
        page,
        "# Side by side with Kafka Streams\n\n\
         Written by `make bench-peers`; not edited by hand. {} orders and {} customers of about 100 bytes in 4 partitions, {} stream \
         thread(s), at least once, a commit a second, 64 MiB of record cache. Both sides in one run on one machine, alternating, medians of {}. \
         A run is over when the committed offsets have reached the end of the input.\n\n\
         Machine: {}.\n\n\
         - Both are timed from the started application, so that the start of a JVM is not in the figures.\n\
         - The peer's CPU and memory are the application's alone; ours are of one process that is application and broker.\n\
         - `flush=os` is Kafka's default. Durable is ours: an acknowledged record is on disk.\n\n\
         ## Medians\n",
        options.records,
        options.keys,
        options.threads,
        options.rounds,
        machine::describe()
    );
    let _ = writeln!(
        page,
        "| workload | side | records/s | CPU s per million | peak MB | times the peer's rate |\n|---|---|---:|---:|---:|---:|"
    );
    for (index, workload) in options.workloads.iter().enumerate() {
        let peer = runs.get(&(index, Side::Peer)).map_or(f64::NAN, |runs| {
            median(runs.iter().map(|run| run.records_per_s))
        });
        for side in [Side::Peer, Side::OursOs, Side::OursDurable] {
            let Some(runs) = runs.get(&(index, side)) else {
                continue;
            };
            let rate = median(runs.iter().map(|run| run.records_per_s));
            let _ = writeln!(
                page,
                "| {workload} | {} | {rate:.0} | {:.2} | {:.0} | {:.1} |",
                side.name(),
                median(runs.iter().map(Run::cpu_per_million)),
                median(runs.iter().map(|run| run.peak_mb)),
                rate / peer
            );
        }
    }
    let _ = writeln!(
        page,
        "\n## Every run\n\n| workload | side | round | records/s | CPU s | of the peer's broker | peak MB | fdatasync/s just before |\n|---|---|---:|---:|---:|---:|---:|---:|"
    );
    for ((index, side), runs) in runs {
        let workload = options.workloads.get(*index).map_or("", String::as_str);
        for run in runs {
            let broker = if *side == Side::Peer {
                format!("{:.1}", run.broker_cpu_seconds)
            } else {
                String::new()
            };
            let fdatasync = run
                .fdatasyncs_per_s
                .map_or(String::new(), |rate| format!("{rate:.0}"));
            let _ = writeln!(
                page,
                "| {workload} | {} | {} | {:.0} | {:.1} | {broker} | {:.0} | {fdatasync} |",
                side.name(),
                run.round + 1,
                run.records_per_s,
                run.cpu_seconds,
                run.peak_mb
            );
        }
    }
    page
}
