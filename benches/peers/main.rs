//! Ours and the JVM's, side by side: starts the peer, lets both sides run the same workloads in turn, and writes docs/benchmarks/peers.md.
//!
//! ```text
//! cargo bench --bench peers -- compare [passthrough] [join] [aggregate] [exactly-once] [latency] [restore]
//!     [--records N] [--keys N] [--rounds N] [--threads N] [--commit-ms N] [--restore-keys N] [--restore-rounds N]
//! ```
//!
//! 1. Apache Kafka is started on loopback and loaded; the same records are written into our data directory.
//! 2. In each round every workload is run once by each side, each in a process of its own; who goes first alternates.
//! 3. A run is over when the group's committed offsets have reached the end of its input.
//! 4. The page has a section for each of: the workloads at least once; `exactly-once`, which runs the three of them beside our own runs
//!    at least once; `latency`; `restore`. Sections that were not run stay as they are.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

mod machine;

mod single;

use machine::{cpu_seconds, fdatasyncs_per_s, median};

/// Where both sides read and write.
const PARTITIONS: &str = "4";

const STREAMS: [&str; 3] = ["passthrough", "join", "aggregate"];

struct Options {
    directory: PathBuf,
    keys: String,
    port: String,
    records: String,
    rounds: usize,
    threads: String,
    commit_ms: String,
    restore_keys: String,
    restore_rounds: usize,
    workloads: Vec<String>,
}

impl Options {
    /// Those of the named workloads that are run on the loaded records, at least once.
    fn at_least_once(&self) -> Vec<&str> {
        let named = self.workloads.iter().map(String::as_str);
        named.filter(|name| STREAMS.contains(name)).collect()
    }

    fn has(&self, workload: &str) -> bool {
        self.workloads.iter().any(|name| name == workload)
    }
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
        commit_ms: "1000".to_owned(),
        restore_keys: "5000000".to_owned(),
        restore_rounds: 1,
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
            "--commit-ms" => options.commit_ms = value()?,
            "--restore-keys" => options.restore_keys = value()?,
            "--restore-rounds" => options.restore_rounds = value()?.parse()?,
            "passthrough" | "join" | "aggregate" | "exactly-once" | "latency" | "restore" => {
                options.workloads.push(argument)
            }
            _ => return Err(format!("{argument} is not known").into()),
        }
    }
    if options.workloads.is_empty() {
        let all = STREAMS
            .into_iter()
            .chain(["exactly-once", "latency", "restore"]);
        options.workloads = all.map(str::to_owned).collect();
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

/// What runs are compared by: a workload and its guarantee.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Case {
    /// Index in [`STREAMS`].
    workload: usize,
    exactly_once: bool,
}

impl Case {
    fn workload(self) -> &'static str {
        STREAMS.get(self.workload).copied().unwrap_or_default()
    }

    fn guarantee(self) -> &'static str {
        if self.exactly_once {
            "exactly_once_v2"
        } else {
            "at_least_once"
        }
    }
}

type Runs = BTreeMap<(Case, Side), Vec<Run>>;

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

/// Both sides, ready to run.
struct Sides<'a> {
    options: &'a Options,
    broker: PeerBroker,
    bootstrap: String,
    ours: PathBuf,
    /// Our data directory; durable and flush=os use the same.
    data: PathBuf,
    state: String,
}

impl Sides<'_> {
    /// A command of `side` with where its topics and its state are. `verb` has up to two words.
    fn command(&self, side: Side, verb: &[&str]) -> Command {
        let cluster = format!("embedded:{}", self.data.display());
        let mut command;
        match side {
            Side::Peer => {
                command = Command::new(&self.broker.script);
                command
                    .arg("bench")
                    .args(verb)
                    .args(["--bootstrap", &self.bootstrap]);
            }
            Side::OursOs | Side::OursDurable => {
                let flush = if side == Side::OursOs {
                    "os"
                } else {
                    "durable"
                };
                command = Command::new(&self.ours);
                command
                    .args(verb)
                    .args(["--cluster", &cluster, "--flush", flush]);
            }
        }
        let common = [
            "--threads",
            &self.options.threads,
            "--partitions",
            PARTITIONS,
            "--state-dir",
            &self.state,
        ];
        command.args(common);
        command
    }
}

fn compare(options: &Options) -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = root.join("benches/peers/kafka.sh");
    let page = root.join("docs/benchmarks/peers.md");
    let bootstrap = format!("127.0.0.1:{}", options.port);
    let data = options.directory.join("data");
    let state = options.directory.join("state").display().to_string();
    fs::create_dir_all(&data)?;
    let ours = streams_benchmark(root)?;

    if TcpStream::connect(&bootstrap).is_ok() {
        return Err(
            format!("something listens on {bootstrap} already; choose another --port").into(),
        );
    }
    eprintln!("starting Apache Kafka");
    checked(Command::new(&script).args(["start", &options.port]))?;
    let sides = Sides {
        options,
        broker: PeerBroker {
            script,
            port: options.port.clone(),
        },
        bootstrap,
        ours,
        data,
        state,
    };
    let mut sections = Vec::new();
    if !options.at_least_once().is_empty() || options.has("exactly-once") {
        eprintln!("loading {} records into both sides", options.records);
        let load = ["--n", &options.records, "--keys", &options.keys];
        checked(sides.command(Side::Peer, &["load", "orders"]).args(load))?;
        checked(sides.command(Side::OursOs, &["load"]).args(load))?;
        let runs = run_streams(&sides)?;
        if !options.at_least_once().is_empty() {
            sections.push(at_least_once_section(options, &runs));
        }
        if options.has("exactly-once") {
            sections.push(exactly_once_section(options, &runs));
        }
    }
    if options.has("latency") {
        sections.push(single::latency(&sides)?);
    }
    if options.has("restore") {
        sections.push(single::restore(&sides)?);
    }
    drop(sides);

    let text = merged(&fs::read_to_string(&page).unwrap_or_default(), &sections);
    fs::create_dir_all(page.parent().ok_or("the page has a folder")?)?;
    fs::write(&page, &text)?;
    println!("{text}");
    eprintln!("written to {}", page.display());
    Ok(())
}

/// The workloads of [`STREAMS`], with each guarantee that was asked for.
fn run_streams(sides: &Sides<'_>) -> Result<Runs, Box<dyn Error>> {
    let options = sides.options;
    let mut runs = Runs::new();
    for round in 0..options.rounds {
        for (workload, name) in STREAMS.into_iter().enumerate() {
            let mut order = [Side::Peer, Side::OursOs, Side::OursDurable];
            if round % 2 == 1 {
                order.reverse();
            }
            for side in order {
                // The two guarantees one after the other: their ratio is to be of the same minute.
                for exactly_once in [false, true] {
                    let case = Case {
                        workload,
                        exactly_once,
                    };
                    let is_named = options.at_least_once().contains(&name);
                    // Exactly once is compared with our own runs at least once.
                    let is_wanted = if exactly_once {
                        options.has("exactly-once")
                    } else {
                        is_named || options.has("exactly-once") && side != Side::Peer
                    };
                    if is_wanted {
                        let run = run_once(sides, case, side, round)?;
                        runs.entry((case, side)).or_default().push(run);
                    }
                }
            }
        }
    }
    Ok(runs)
}

fn run_once(
    sides: &Sides<'_>,
    case: Case,
    side: Side,
    round: usize,
) -> Result<Run, Box<dyn Error>> {
    let fdatasyncs_per_s = (side == Side::OursDurable)
        .then(|| fdatasyncs_per_s(&sides.data))
        .transpose()?;
    let broker_before = peer_broker_cpu_seconds(&sides.broker);
    let mut command = sides.command(side, &["run", case.workload()]);
    let line = printed(command.args([
        "--guarantee",
        case.guarantee(),
        "--commit-ms",
        &sides.options.commit_ms,
    ]))?;
    let broker_cpu_seconds = if side == Side::Peer {
        peer_broker_cpu_seconds(&sides.broker) - broker_before
    } else {
        0.0
    };
    let run = parse(&line, round, broker_cpu_seconds, fdatasyncs_per_s)?;
    eprintln!(
        "round {} {:>12} {:>16} {:<36} {:>10.0} records/s",
        round + 1,
        case.workload(),
        case.guarantee(),
        side.name(),
        run.records_per_s
    );
    Ok(run)
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

/// The sections of the page, in order; each begins with its title.
const TITLES: [&str; 4] = [
    "## At least once",
    "## Exactly once",
    "## Latency",
    "## Restoration",
];

/// The page with `sections` in the place of those of the same title; the others are kept.
fn merged(page: &str, sections: &[String]) -> String {
    let mut text = "# Side by side with Kafka Streams\n\n\
         Written by `make bench-peers`, each section by a run of its own; not edited by hand. Both sides in one run on one machine, \
         alternating.\n\n\
         - Rates are from the started application, so that the start of a JVM is not in the figures.\n\
         - The peer's CPU and memory are the application's alone; ours are of one process that is application and broker.\n\
         - `flush=os` is Kafka's default. Durable is ours: an acknowledged record is on disk.\n"
        .to_owned();
    let kept = page
        .split("\n## ")
        .skip(1)
        .map(|body| format!("## {}", body.trim_end()));
    let kept: Vec<String> = kept.collect();
    for title in TITLES {
        let is_it = |section: &&String| section.lines().next() == Some(title);
        let section = sections
            .iter()
            .find(is_it)
            .or_else(|| kept.iter().find(is_it));
        if let Some(section) = section {
            let _ = write!(text, "\n{}\n", section.trim_end());
        }
    }
    text
}

fn what_was_run(options: &Options) -> String {
    format!(
        "{} orders and {} customers of about 100 bytes in {PARTITIONS} partitions, {} stream thread(s), a commit every {} ms, 64 MiB of \
         record cache; medians of {}. A run is over when the committed offsets have reached the end of the input. Machine: {}.\n\n",
        options.records,
        options.keys,
        options.threads,
        options.commit_ms,
        options.rounds,
        machine::describe()
    )
}

fn rate(runs: &Runs, case: Case, side: Side) -> Option<f64> {
    let runs = runs.get(&(case, side))?;
    Some(median(runs.iter().map(|run| run.records_per_s)))
}

fn at_least_once_section(options: &Options, runs: &Runs) -> String {
    let mut page = format!("## At least once\n\n{}", what_was_run(options));
    medians(&mut page, runs, false);
    every_run(&mut page, runs, false);
    page
}

fn exactly_once_section(options: &Options, runs: &Runs) -> String {
    let mut page = format!("## Exactly once\n\n{}", what_was_run(options));
    medians(&mut page, runs, true);
    let _ = writeln!(
        page,
        "\nOur own price of it, at the same commit interval:\n\n\
         | workload | side | at least once, records/s | exactly once, records/s | ratio |\n|---|---|---:|---:|---:|"
    );
    for (workload, name) in STREAMS.into_iter().enumerate() {
        for side in [Side::Peer, Side::OursOs, Side::OursDurable] {
            let of = |exactly_once| {
                let case = Case {
                    workload,
                    exactly_once,
                };
                rate(runs, case, side)
            };
            if let (Some(at_least), Some(exactly)) = (of(false), of(true)) {
                let _ = writeln!(
                    page,
                    "| {name} | {} | {at_least:.0} | {exactly:.0} | {:.2} |",
                    side.name(),
                    exactly / at_least
                );
            }
        }
    }
    every_run(&mut page, runs, true);
    page
}

fn medians(page: &mut String, runs: &Runs, exactly_once: bool) {
    let _ = writeln!(
        page,
        "| workload | side | records/s | CPU s per million | peak MB | times the peer's rate |\n|---|---|---:|---:|---:|---:|"
    );
    for ((case, side), of_case) in runs {
        if case.exactly_once != exactly_once {
            continue;
        }
        let Some(peer) = rate(runs, *case, Side::Peer) else {
            continue;
        };
        let rate = median(of_case.iter().map(|run| run.records_per_s));
        let _ = writeln!(
            page,
            "| {} | {} | {rate:.0} | {:.2} | {:.0} | {:.1} |",
            case.workload(),
            side.name(),
            median(of_case.iter().map(Run::cpu_per_million)),
            median(of_case.iter().map(|run| run.peak_mb)),
            rate / peer
        );
    }
}

fn every_run(page: &mut String, runs: &Runs, exactly_once: bool) {
    let _ = writeln!(
        page,
        "\n### Every run, {}\n\n| workload | side | round | records/s | CPU s | of the peer's broker | peak MB | fdatasync/s just before |\n|---|---|---:|---:|---:|---:|---:|---:|",
        if exactly_once {
            "exactly once"
        } else {
            "at least once"
        }
    );
    for ((case, side), of_case) in runs {
        if case.exactly_once != exactly_once {
            continue;
        }
        for run in of_case {
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
                "| {} | {} | {} | {:.0} | {:.1} | {broker} | {:.0} | {fdatasync} |",
                case.workload(),
                side.name(),
                run.round + 1,
                run.records_per_s,
                run.cpu_seconds,
                run.peak_mb
            );
        }
    }
}
