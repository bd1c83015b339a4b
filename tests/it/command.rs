//! The `brooklet` command: a broker as a server, and the everyday tools against it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rdkafka::producer::Producer;

use crate::librdkafka::{committed, producer, send};
use crate::programs::{Program, brooklet, free_port, start_broker};

const LIMIT: Duration = Duration::from_secs(30);

struct Server {
    program: Program,
    address: String,
}

impl Server {
    fn start(data: &Path) -> Self {
        let port = free_port();
        Self {
            program: start_broker(data, port),
            address: format!("127.0.0.1:{port}"),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = brooklet();
        command.args(arguments).args(["--bootstrap", &self.address]);
        command
    }

    /// Runs a command that must succeed; what it prints.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must fail; its error.
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?} succeeded");
        String::from_utf8(output.stderr).unwrap()
    }

    fn produce(&self, topic: &str, lines: &str) {
        let mut produce = self
            .command(&["produce", topic, "--key-separator", "="])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        produce
            .stdin
            .take()
            .unwrap()
            .write_all(lines.as_bytes())
            .unwrap();
        assert!(produce.wait().unwrap().success());
    }

    /// SIGTERM; the broker must end cleanly.
    fn stop(self) {
        let terminated = Command::new("kill")
            .args(["-TERM", &self.program.id().to_string()])
            .status()
            .unwrap();
        assert!(terminated.success());
        self.program.finish(LIMIT);
    }
}

#[test]
fn a_broker_serves_the_tools_and_keeps_its_records_over_a_stop() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let server = Server::start(&data);
    let created = server.run(&[
        "topic",
        "create",
        "greetings",
        "--partitions",
        "2",
        "--config",
        "retention.ms=-1",
    ]);
    assert_eq!(created, "created greetings\n");
    server.produce("greetings", "ada=hello\ngrace=good morning\nada=good bye\n");
    let consume = [
        "consume",
        "greetings",
        "--from-beginning",
        "--keys",
        "--exit",
    ];
    let consumed = server.run(&consume);
    let mut lines: Vec<&str> = consumed.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        ["ada\tgood bye", "ada\thello", "grace\tgood morning"]
    );
    let described = server.run(&["topic", "describe", "greetings"]);
    assert!(
        described.contains("PARTITION  LOG START  HIGH WATERMARK"),
        "{described}"
    );
    assert!(
        described
            .lines()
            .any(|line| line.starts_with("retention.ms") && line.ends_with("-1")),
        "{described}"
    );
    assert!(
        server
            .fails(&["topic", "create", "greetings"])
            .contains("exists")
    );
    assert!(
        server
            .fails(&["consume", "nothing"])
            .contains("topic nothing does not exist")
    );
    assert!(
        server
            .fails(&["topic", "create", "odd", "--config", "retention.mz=1"])
            .contains("retention.mz")
    );
    assert_eq!(
        server.run(&["group", "list"]),
        "GROUP  STATE  PROTOCOL TYPE\n"
    );
    server.stop();

    let files: Vec<_> = (0..2)
        .map(|partition| data.join(format!("greetings-{partition}/{:020}.log", 0)))
        .filter(|file| file.exists())
        .collect();
    let dump = brooklet()
        .args(["log", "dump", "--records"])
        .args(&files)
        .output()
        .unwrap();
    let dumped = String::from_utf8(dump.stdout).unwrap();
    assert!(
        dump.status.success() && dumped.contains("ada = good bye"),
        "{dumped}"
    );

    let server = Server::start(&data);
    assert_eq!(
        server.run(&consume).lines().count(),
        3,
        "records outlive a stop"
    );
    assert_eq!(
        server.run(&["topic", "delete", "greetings"]),
        "deleted greetings\n"
    );
    assert_eq!(server.run(&["topic", "list"]), "TOPIC  PARTITIONS\n");
    server.stop();
}

#[test]
fn a_second_broker_on_the_same_data_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let listen = format!("127.0.0.1:{}", free_port());
    let output = brooklet()
        .args(["broker", "--data"])
        .arg(directory.path())
        .args(["--listen", &listen])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains(&directory.path().display().to_string()),
        "{error}"
    );
    server.stop();
}

#[test]
fn a_damaged_segment_is_shown_as_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    server.run(&["topic", "create", "one", "--partitions", "1"]);
    server.produce("one", "key=a value that is long enough\n");
    server.stop();
    let file = directory.path().join(format!("one-0/{:020}.log", 0));
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 0xff;
    std::fs::write(&file, bytes).unwrap();
    let dump = brooklet()
        .args(["log", "dump"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(!dump.status.success());
    assert!(String::from_utf8(dump.stdout).unwrap().contains("DAMAGED"));
}

#[test]
fn a_transaction_that_hangs_is_listed_described_and_aborted() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    server.run(&["topic", "create", "orders", "--partitions", "1"]);
    let hanging = producer(&server.address, Some("hanging"));
    hanging.begin_transaction().unwrap();
    send(&hanging, "orders", 0, &["of a transaction".to_owned()]);
    let values = ["after".to_owned()];
    send(&producer(&server.address, None), "orders", 0, &values);
    let rows = |table: &str| -> Vec<Vec<String>> {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        table.lines().skip(1).map(words).collect()
    };
    let listed = rows(&server.run(&["transaction", "list", "--state", "Ongoing"]));
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((&*listed[0][0], &*listed[0][3]), ("hanging", "Ongoing"));
    let none = server.run(&["transaction", "list", "--state", "CompleteCommit"]);
    assert!(rows(&none).is_empty(), "{none}");
    let described = rows(&server.run(&["transaction", "describe", "hanging"]));
    let producer_id = &listed[0][2];
    for row in [
        vec!["state", "Ongoing"],
        vec!["producer", "id", producer_id],
        vec!["partitions", "orders-0"],
    ] {
        assert!(
            described.iter().any(|found| *found == row),
            "{row:?}: {described:?}"
        );
    }
    assert!(
        server
            .fails(&["transaction", "describe", "nobody"])
            .contains("nobody")
    );
    let abort = |start_offset: &'static str| {
        let at = ["--topic", "orders", "--partition", "0", "--start-offset"];
        [&["transaction", "abort"], &at[..], &[start_offset]].concat()
    };
    let refused = server.fails(&abort("1"));
    assert!(refused.contains("open ones begin at 0"), "{refused}");
    let aborted = server.run(&abort("0"));
    assert!(aborted.contains(producer_id), "{aborted}");
    // Readers of committed records go on, without what was in it.
    assert_eq!(committed(&server.address, "orders", 1), values);
    let again = server.fails(&abort("0"));
    assert!(again.contains("none is open"), "{again}");
    server.stop();
}
