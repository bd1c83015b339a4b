//! The tools of an operator, against our broker as a server.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

/// A broker that listens on a free port, killed when dropped.
struct Server {
    child: Child,
    address: String,
    /// Where its metrics are, if anywhere.
    metrics: Option<String>,
    /// Kept open, so that it can go on writing.
    log: BufReader<std::process::ChildStderr>,
    _data: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_brooklet"))
            .args(["broker", "--listen", "127.0.0.1:0", "--data"])
            .arg(data.path())
            .args(arguments)
            .env("RUST_LOG", "info")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut server = Self {
            child,
            address: String::new(),
            metrics: None,
            log,
            _data: data,
        };
        while server.address.is_empty() {
            let mut line = String::new();
            assert_ne!(server.log.read_line(&mut line).unwrap(), 0, "it ended");
            let address = line.split_once("address=").map(|(_, address)| {
                let address = address.split_whitespace().next();
                address.unwrap().to_owned()
            });
            if line.contains("metrics are at") {
                server.metrics = address;
            } else if line.contains("broker is ready") {
                server.address = address.unwrap();
            }
        }
        server
    }

    fn output(&self, arguments: &[&str], input: &str) -> std::process::Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_brooklet"))
            .args(arguments)
            .args(["--bootstrap", &self.address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    }

    /// Runs a command that must succeed; what it prints.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments, "");
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must fail; its error.
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments, "");
        assert!(!output.status.success(), "{arguments:?} succeeded");
        String::from_utf8(output.stderr).unwrap()
    }
}

/// The cells of the line that begins with these.
fn row<'a>(table: &'a str, begins: &[&str]) -> Vec<&'a str> {
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|cells| cells.starts_with(begins))
        .unwrap_or_else(|| panic!("no line begins with {begins:?} in:\n{table}"))
}

#[test]
fn a_groups_offsets_are_moved_only_when_told_to() {
    let server = Server::start(&[]);
    server.run(&["topic", "create", "orders", "--partitions", "1"]);
    let written = server.output(&["produce", "orders"], "1\n2\n3\n4\n5\n");
    assert!(written.status.success());
    let reset = |to: &[&str], execute: bool| {
        let mut arguments = vec!["group", "reset-offsets", "billing", "--topic", "orders"];
        arguments.extend_from_slice(to);
        if execute {
            arguments.push("--execute");
        }
        server.run(&arguments)
    };
    let planned = reset(&["--to-latest"], false);
    assert_eq!(row(&planned, &["orders", "0"]), ["orders", "0", "-", "5"]);
    assert!(planned.contains("--execute"), "{planned}");
    // Nothing was done, so there is still nothing to shift.
    let refused = server.fails(&[
        "group",
        "reset-offsets",
        "billing",
        "--topic",
        "orders",
        "--shift-by",
        "-1",
    ]);
    assert!(refused.contains("orders"), "{refused}");
    reset(&["--to-offset", "3"], true);
    let moved = reset(&["--shift-by", "-1"], true);
    assert_eq!(row(&moved, &["orders", "0"]), ["orders", "0", "3", "2"]);
    let described = server.run(&["group", "describe", "billing"]);
    assert_eq!(
        row(&described, &["orders", "0"]),
        ["orders", "0", "2", "5", "3"]
    );
    let by_time = reset(&["--to-datetime", "2000-01-01T00:00:00Z"], false);
    assert_eq!(row(&by_time, &["orders", "0"])[3], "0");
    let recent = reset(&["--by-duration", "PT1H"], false);
    assert_eq!(row(&recent, &["orders", "0"])[3], "0");
    let all = server.run(&[
        "group",
        "reset-offsets",
        "billing",
        "--all-topics",
        "--to-earliest",
    ]);
    assert_eq!(row(&all, &["orders", "0"]), ["orders", "0", "2", "0"]);
    let missing = server.fails(&[
        "group",
        "reset-offsets",
        "billing",
        "--topic",
        "orders:1",
        "--to-earliest",
    ]);
    assert!(missing.contains("not 1"), "{missing}");
    server.run(&["group", "delete", "billing"]);
    let gone = server.fails(&["group", "delete", "billing"]);
    assert!(gone.contains("billing"), "{gone}");
}

#[test]
fn settings_of_topics_brokers_and_groups_are_shown_and_changed() {
    let server = Server::start(&[]);
    server.run(&["topic", "create", "orders"]);
    server.run(&[
        "config",
        "alter",
        "--topic",
        "orders",
        "--set",
        "retention.ms=60000",
    ]);
    let shown = server.run(&["config", "describe", "--topic", "orders"]);
    assert_eq!(
        row(&shown, &["retention.ms"]),
        ["retention.ms", "60000", "topic"]
    );
    assert!(
        !shown.contains("segment.bytes"),
        "defaults are not shown:\n{shown}"
    );
    let all = server.run(&["config", "describe", "--topic", "orders", "--all"]);
    assert_eq!(row(&all, &["segment.bytes"])[2], "default");
    server.run(&[
        "config",
        "alter",
        "--topic",
        "orders",
        "--delete",
        "retention.ms",
    ]);
    let shown = server.run(&["config", "describe", "--topic", "orders"]);
    assert!(!shown.contains("retention.ms"), "{shown}");

    server.run(&[
        "config",
        "alter",
        "--group",
        "billing",
        "--set",
        "consumer.session.timeout.ms=50000",
    ]);
    let shown = server.run(&["config", "describe", "--group", "billing"]);
    assert_eq!(
        row(&shown, &["consumer.session.timeout.ms"]),
        ["consumer.session.timeout.ms", "50000", "group"]
    );
    server.run(&[
        "config",
        "alter",
        "--brokers",
        "--set",
        "log.retention.ms=1000",
    ]);
    let shown = server.run(&["config", "describe", "--broker", "1"]);
    assert_eq!(row(&shown, &["log.retention.ms"])[1], "1000");

    let refused = server.fails(&[
        "config",
        "alter",
        "--topic",
        "orders",
        "--set",
        "retention.msec=1",
    ]);
    assert!(refused.contains("retention.msec"), "{refused}");
    let refused = server.fails(&["config", "describe", "--topic", "nothing"]);
    assert!(refused.contains("nothing"), "{refused}");
}

#[test]
fn perf_says_rates_and_percentiles() {
    let server = Server::start(&[]);
    server.run(&["topic", "create", "load", "--partitions", "2"]);
    let produced = server.run(&[
        "perf",
        "produce",
        "load",
        "--records",
        "5000",
        "--record-size",
        "50",
    ]);
    assert!(
        produced.starts_with("5000 records acknowledged, "),
        "{produced}"
    );
    for name in ["avg", "max", "p50", "p95", "p99", "p99.9"] {
        assert!(
            produced.contains(&format!(" ms {name}")),
            "{name} is not in {produced}"
        );
    }
    let consumed = server.run(&["perf", "consume", "load"]);
    assert!(consumed.starts_with("5000 records read, "), "{consumed}");
    let limited = server.run(&["perf", "consume", "load", "--records", "100"]);
    assert!(limited.starts_with("100 records read, "), "{limited}");
    let missing = server.fails(&["perf", "consume", "nothing"]);
    assert!(missing.contains("nothing does not exist"), "{missing}");
}

#[test]
fn a_replication_factor_is_clamped_and_metrics_are_served_when_told_to() {
    let strict = Server::start(&[]);
    let refused = strict.fails(&["topic", "create", "orders", "--replication-factor", "3"]);
    assert!(refused.contains("orders"), "{refused}");
    let clamping = Server::start(&[
        "--clamp-replication-factor",
        "--metrics-listen",
        "127.0.0.1:0",
    ]);
    clamping.run(&[
        "topic",
        "create",
        "orders",
        "--replication-factor",
        "3",
        "--partitions",
        "7",
    ]);
    let mut stream = TcpStream::connect(clamping.metrics.as_ref().unwrap()).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.contains("kafka_server_replicamanager_partitioncount 7"),
        "{answer}"
    );
}

#[test]
fn a_properties_file_is_read_and_its_mistakes_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("server.properties");
    let data = directory.path().join("data");
    let broker = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_brooklet"))
            .args(["broker", file.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let misspelt = broker("num.partition=4\n");
    assert!(
        misspelt.contains("num.partition") && misspelt.contains("did you mean num.partitions"),
        "{misspelt}"
    );
    let unsupported = broker("num.io.threads=8\n");
    assert!(
        unsupported.contains("num.io.threads") && unsupported.contains("not supported"),
        "{unsupported}"
    );
    let homeless = broker("num.partitions=4\n");
    assert!(homeless.contains("--data"), "{homeless}");
    // What is right gets as far as the listener, which cannot be bound.
    let unbound = broker(&format!(
        "log.dirs={}\nlisteners=PLAINTEXT://256.0.0.1:1\n",
        data.display()
    ));
    assert!(unbound.contains("256.0.0.1:1"), "{unbound}");
    assert!(data.join("meta.properties").exists());
}

#[test]
fn what_is_not_built_yet_says_so() {
    for (subcommand, says) in [
        ("acl", "acl is not built yet"),
        ("user", "user is not built yet"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_brooklet"))
            .args([subcommand, "list", "--all"])
            .output()
            .unwrap();
        assert!(!output.status.success());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_stopped_brokers_logs_are_verified_and_compacted() {
    let mut server = Server::start(&[]);
    server.run(&[
        "topic",
        "create",
        "table",
        "--config",
        "cleanup.policy=compact",
    ]);
    for turn in 0..20 {
        let written = server.output(
            &["produce", "table", "--key-separator", "="],
            &format!("ada={turn}\nbob={turn}\n"),
        );
        assert!(written.status.success());
    }
    // Killed, not stopped: the command recovers as a broker does.
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let data = server._data.path();
    let log = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_brooklet"))
            .arg("log")
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.success(),
            text(output.stdout) + &text(output.stderr),
        )
    };
    let path = data.to_str().unwrap();
    let (done, sound) = log(&["verify", path]);
    assert!(
        done && sound.contains("40 records") && sound.contains(" 0 damaged"),
        "{sound}"
    );
    let (done, compacted) = log(&["compact", "--data", path, "--topic", "table"]);
    assert!(
        done && compacted.contains("table-0: ") && compacted.contains("2 dirty keys"),
        "{compacted}"
    );
    let (done, sound) = log(&["verify", path]);
    assert!(done && sound.contains(" 2 records"), "{sound}");
    let (done, refused) = log(&["compact", "--data", path, "--topic", "tables"]);
    assert!(!done && refused.contains("tables"), "{refused}");
    let segment = data.join("table-0/00000000000000000000.log");
    let mut bytes = std::fs::read(&segment).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let (done, damaged) = log(&["verify", segment.to_str().unwrap()]);
    assert!(!done && damaged.contains("crc"), "{damaged}");
}
