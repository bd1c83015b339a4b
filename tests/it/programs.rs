//! The programs under test: examples and the command, as cargo has built them beside this test.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Where cargo has put this profile's binaries.
fn profile_directory() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent()
        .and_then(|deps| deps.parent())
        .unwrap()
        .to_owned()
}

/// An example, ready to be started.
pub(crate) fn example(name: &str) -> Command {
    let path = profile_directory().join("examples").join(name);
    assert!(
        path.exists(),
        "{} is not built: `cargo test` builds it, `cargo test --test it` alone does not: run `cargo build --examples` first",
        path.display()
    );
    Command::new(path)
}

/// The `brooklet` command, ready to be started.
pub(crate) fn brooklet() -> Command {
    let path = profile_directory().join("brooklet");
    assert!(
        path.exists(),
        "{} is not built: `cargo test --workspace` builds it: run `cargo build -p brooklet-cli` first",
        path.display()
    );
    Command::new(path)
}

/// A started program. It is killed when dropped.
pub(crate) struct Program {
    child: Child,
    lines: Receiver<String>,
    printed: Vec<String>,
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            lines,
            printed: Vec::new(),
        }
    }

    /// Waits until the program has ended, at the most so long; whether it has.
    pub(crate) fn ended_within(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => self.printed.push(line),
                Err(RecvTimeoutError::Timeout) => return false,
                // Standard output is closed.
                Err(RecvTimeoutError::Disconnected) => return true,
            }
        }
    }

    /// Waits for the end, and asserts that it was a success; what was printed.
    pub(crate) fn finish(mut self, limit: Duration) -> Vec<String> {
        assert!(
            self.ended_within(limit),
            "still running after {limit:?}; printed so far:\n{}",
            self.printed.join("\n")
        );
        let status = self.child.wait().unwrap();
        assert!(
            status.success(),
            "ended with {status}; printed:\n{}",
            self.printed.join("\n")
        );
        std::mem::take(&mut self.printed)
    }

    /// Whether it was ended by a signal; it has ended.
    pub(crate) fn was_killed(&mut self) -> bool {
        use std::os::unix::process::ExitStatusExt;
        let status = self.child.wait().unwrap();
        assert!(
            status.success() || status.signal().is_some(),
            "ended with {status}; printed:\n{}",
            self.printed.join("\n")
        );
        status.signal().is_some()
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Numbers that look random and are the same for a seed (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// A port of the loopback that nobody listens on.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A broker as a server on this port of the loopback, listening when this returns.
pub(crate) fn start_broker(data: &Path, port: u16) -> Program {
    start_broker_with(data, port, &[])
}

/// A broker as a server, ready to be started. Groups do not wait for more members: there are none.
pub(crate) fn broker(data: &Path, port: u16) -> Command {
    let mut command = brooklet();
    command
        .args(["broker", "--data"])
        .arg(data)
        .args(["--listen", &format!("127.0.0.1:{port}")])
        .args(["--config", "group.initial.rebalance.delay.ms=0"]);
    command
}

/// The same as [`start_broker`], with further arguments.
pub(crate) fn start_broker_with(data: &Path, port: u16, arguments: &[&str]) -> Program {
    let address = format!("127.0.0.1:{port}");
    let mut broker = Program::start(broker(data, port).args(arguments));
    let deadline = Instant::now() + Duration::from_secs(30);
    while std::net::TcpStream::connect(&address).is_err() {
        assert!(Instant::now() < deadline, "the broker does not listen");
        assert!(
            !broker.ended_within(Duration::from_millis(5)),
            "the broker ended"
        );
    }
    broker
}
