//! Debian's kcat (librdkafka) against a listening broker: what a stranger's client sees. Without kcat on the PATH nothing is tested, and
//! that is printed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use brooklet_broker::server::Server;
use brooklet_broker::{Broker, BrokerConfig};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// No command may take longer.
const COMMAND_TIME: Duration = Duration::from_secs(30);

fn has_kcat() -> bool {
    let found = Command::new("kcat")
        .arg("-V")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        println!("skipped: kcat is not on the PATH");
    }
    found
}

/// A broker that listens on a free port until it is dropped.
struct Listening {
    runtime: Runtime,
    broker: Broker,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    stopped: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
}

impl Listening {
    fn start(dir: &std::path::Path) -> Self {
        let mut config = BrokerConfig::new(dir)
            .property("group.initial.rebalance.delay.ms", "0")
            .unwrap();
        config.offsets_topic_partitions = 4;
        config.partitions_default = 2;
        Self::start_with(config)
    }

    fn start_with(config: BrokerConfig) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let broker = Broker::open(config).unwrap();
        let server = runtime
            .block_on(Server::bind(broker.clone(), "127.0.0.1:0"))
            .unwrap();
        let address = server.local_addr().unwrap();
        let (stop, stopping) = oneshot::channel();
        let stopped = runtime.spawn(server.run(async { drop(stopping.await) }));
        Self {
            runtime,
            broker,
            address,
            stop: Some(stop),
            stopped: Some(stopped),
        }
    }

    fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.runtime
            .block_on(self.stopped.take().unwrap())
            .unwrap()
            .unwrap();
        self.broker.shutdown().unwrap();
    }

    /// Runs kcat with this input and returns its output.
    fn kcat(&self, arguments: &[&str], input: &str) -> String {
        let mut child = Command::new("kcat")
            // Cargo names the directory of rdkafka's own librdkafka here when the whole workspace is tested: another client.
            .env_remove("LD_LIBRARY_PATH")
            .args(["-b", &self.address.to_string()])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let writing = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let complaints = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).map(|_| text)
        });
        // Its output ends when it does.
        let (ended, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            ended.send(stdout.read_to_string(&mut text).map(|_| text))
        });
        let Ok(output) = output.recv_timeout(COMMAND_TIME) else {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!(
                "kcat {arguments:?} took too long: {}",
                complaints.join().unwrap().unwrap()
            );
        };
        let status = child.wait().unwrap();
        // A consumer leaves its input unread.
        drop(writing.join().unwrap());
        let output = output.unwrap();
        let complaints = complaints.join().unwrap().unwrap();
        assert!(
            status.success(),
            "kcat {arguments:?}: {status}: {complaints}"
        );
        output
    }
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn every_codec_is_produced_and_consumed() {
    if !has_kcat() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let broker = Listening::start(dir.path());
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = format!("codec-{codec}");
        let lines: String = (0..500)
            .map(|number| format!("key{number}:the value of record number {number}\n"))
            .collect();
        broker.kcat(
            &[
                "-P",
                "-t",
                &topic,
                "-K:",
                "-X",
                &format!("compression.codec={codec}"),
                "-X",
                "linger.ms=5",
            ],
            &lines,
        );
        let read = broker.kcat(
            &["-C", "-t", &topic, "-K:", "-e", "-q", "-o", "beginning"],
            "",
        );
        assert_eq!(sorted(&read), sorted(&lines), "{codec}");
    }
    broker.stop();
}

#[test]
fn an_idempotent_producer_with_acks_all_loses_and_repeats_nothing() {
    if !has_kcat() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let broker = Listening::start(dir.path());
    let lines: String = (0..2000).map(|number| format!("{number}\n")).collect();
    broker.kcat(
        &[
            "-P",
            "-t",
            "t",
            "-X",
            "enable.idempotence=true",
            "-X",
            "batch.num.messages=50",
        ],
        &lines,
    );
    broker.stop();
    let broker = Listening::start(dir.path());
    let read = broker.kcat(&["-C", "-t", "t", "-e", "-q", "-o", "beginning"], "");
    assert_eq!(sorted(&read), sorted(&lines));
    broker.stop();
}

#[test]
fn metadata_is_listed() {
    if !has_kcat() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let broker = Listening::start(dir.path());
    broker.kcat(&["-P", "-t", "orders"], "one\n");
    let listed = broker.kcat(&["-L"], "");
    for line in [
        &format!("broker 1 at {}", broker.address),
        "topic \"orders\" with 2 partitions",
        "leader 1, replicas: 1, isrs: 1",
    ] {
        assert!(listed.contains(line), "{listed}");
    }
    broker.stop();
}

#[test]
fn a_group_goes_on_where_it_committed() {
    if !has_kcat() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let broker = Listening::start(dir.path());
    let group = [
        "-G",
        "readers",
        "-q",
        "-e",
        "-X",
        "auto.offset.reset=earliest",
        "t",
    ];
    broker.kcat(&["-P", "-t", "t"], "a\nb\nc\n");
    assert_eq!(sorted(&broker.kcat(&group, "")), ["a", "b", "c"]);
    broker.kcat(&["-P", "-t", "t"], "d\n");
    assert_eq!(broker.kcat(&group, ""), "d\n");
    broker.stop();
    let broker = Listening::start(dir.path());
    broker.kcat(&["-P", "-t", "t"], "e\n");
    assert_eq!(broker.kcat(&group, ""), "e\n");
    broker.stop();
}

#[test]
fn offsets_are_found_by_time() {
    if !has_kcat() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let broker = Listening::start(dir.path());
    broker.kcat(&["-P", "-t", "t", "-p", "0"], "a\nb\n");
    let found = broker.kcat(&["-Q", "-t", "t:0:0", "-t", "t:0:-1"], "");
    assert!(
        found.contains("offset 0") || found.contains("offset 2"),
        "{found}"
    );
    broker.stop();
}

#[test]
fn a_transaction_is_read_by_consumers_that_read_committed() {
    if !has_kcat() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let broker = Listening::start(dir.path());
    for run in ["first", "second"] {
        let produce = ["-P", "-t", "t", "-X", "transactional.id=x"];
        broker.kcat(&produce, &format!("{run}-a\n{run}-b\n{run}-c\n"));
    }
    let isolation = "isolation.level=read_committed";
    let read = broker.kcat(&["-C", "-t", "t", "-e", "-q", "-X", isolation], "");
    let expected = [
        "first-a", "first-b", "first-c", "second-a", "second-b", "second-c",
    ];
    assert_eq!(sorted(&read), expected);
    broker.stop();
}
