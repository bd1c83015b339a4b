//! The comparisons that are not of throughput: end-to-end latency, and how a store comes back.

use std::error::Error;
use std::fmt::Write as _;
use std::process::Command;

use crate::machine::{self, median};
use crate::{PARTITIONS, Side, Sides, printed};

const GUARANTEE: [&str; 2] = ["--guarantee", "exactly_once_v2"];

/// What one run printed, as it was.
struct Printed(serde_json::Value);

impl Printed {
    fn of(command: &mut Command) -> Result<Self, Box<dyn Error>> {
        let line = printed(command)?;
        let json = serde_json::from_str(&line).map_err(|error| format!("{error}: {line}"))?;
        Ok(Self(json))
    }

    /// NaN where this side does not tell it.
    fn number(&self, name: &str) -> f64 {
        let value = self.0.get(name).and_then(serde_json::Value::as_f64);
        value.unwrap_or(f64::NAN)
    }
}

fn cell(value: f64, decimals: usize) -> String {
    if value.is_nan() {
        String::new()
    } else {
        format!("{value:.decimals$}")
    }
}

/// One record a millisecond, exactly once, from before its send until a reader of committed records has it.
pub(crate) fn latency(sides: &Sides<'_>) -> Result<String, Box<dyn Error>> {
    // Kafka Streams as it comes, and with its smallest interval; ours begins a commit when the last has ended.
    let rows = [
        (Side::Peer, "100"),
        (Side::Peer, "1"),
        (Side::OursOs, "0"),
        (Side::OursDurable, "0"),
    ];
    let mut page = format!(
        "## Latency\n\nExactly once: 1,000 records a second for 20 s into {PARTITIONS} partitions, passed on by an application with {} stream \
         thread(s), read committed; from before the send of a record until its reader has it, in milliseconds. At commit.interval.ms=0 a \
         commit begins as soon as there is something to commit and the one before has ended. The disk is asked before and after \
         each of our runs: appends of 4 KiB, each synced. Medians of {}. Machine: {}.\n\n\
         | side | commit.interval.ms | p50 | p99 | p99.9 | fdatasync p50 | commits | CPU s |\n|---|---:|---:|---:|---:|---:|---:|---:|\n",
        sides.options.threads,
        sides.options.rounds,
        machine::describe()
    );
    let mut runs: Vec<Vec<Printed>> = rows.iter().map(|_| Vec::new()).collect();
    for round in 0..sides.options.rounds {
        for ((side, commit_ms), runs) in rows.iter().zip(&mut runs) {
            let mut command = sides.command(*side, &["latency"]);
            let run = Printed::of(command.args(GUARANTEE).args(["--commit-ms", commit_ms]))?;
            eprintln!(
                "round {} latency {:<36} commit every {commit_ms:>3} ms: p50 {:.2} ms, p99 {:.2} ms",
                round + 1,
                side.name(),
                run.number("p50_ms"),
                run.number("p99_ms")
            );
            runs.push(run);
        }
    }
    for ((side, commit_ms), runs) in rows.iter().zip(&runs) {
        let of = |name| median(runs.iter().map(|run| run.number(name)));
        let _ = writeln!(
            page,
            "| {} | {commit_ms} | {:.2} | {:.2} | {:.2} | {} | {} | {} |",
            side.name(),
            of("p50_ms"),
            of("p99_ms"),
            of("p999_ms"),
            cell(of("fdatasync_p50_ms"), 3),
            cell(of("commits"), 0),
            cell(of("cpu_seconds"), 1)
        );
    }
    Ok(page)
}

/// A store of many keys: from scratch, and after a kill -9 with its disk intact.
pub(crate) fn restore(sides: &Sides<'_>) -> Result<String, Box<dyn Error>> {
    let keys = &sides.options.restore_keys;
    let mut page = format!(
        "## Restoration\n\nExactly once: a store of {keys} keys with values of about 100 bytes in {PARTITIONS} partitions, {} stream thread(s). \
         From scratch: the state directory is deleted; until all is restored and the application runs. Restart: the process is killed with -9 \
         while it processes, its disk is intact; from the start of the process, the broker in it included, until a record is processed. \
         Medians of {}. Machine: {}.\n\n\
         | side | from scratch, records/s | seconds until it runs | restart, s | of it the broker's | records restored then | peak MB |\n\
         |---|---:|---:|---:|---:|---:|---:|\n",
        sides.options.threads,
        sides.options.restore_rounds,
        machine::describe()
    );
    for side in [Side::Peer, Side::OursOs, Side::OursDurable] {
        let mut runs = Vec::new();
        for round in 0..sides.options.restore_rounds {
            let mut command = sides.command(side, &["restore"]);
            let run =
                Printed::of(
                    command
                        .args(GUARANTEE)
                        .args(["--commit-ms", "100", "--n", keys]),
                )?;
            eprintln!(
                "round {} restore {:<36} {:>10.0} records/s, {:.2} s until it runs, restart {} s",
                round + 1,
                side.name(),
                run.number("records_per_s_from_first"),
                run.number("seconds"),
                cell(run.number("restart_seconds"), 3)
            );
            runs.push(run);
        }
        let of = |name| median(runs.iter().map(|run| run.number(name)));
        let _ = writeln!(
            page,
            "| {} | {:.0} | {:.2} | {} | {} | {} | {} |",
            side.name(),
            of("records_per_s_from_first"),
            of("seconds"),
            cell(of("restart_seconds"), 3),
            cell(of("restart_seconds_broker"), 3),
            cell(of("restart_restored"), 0),
            cell(of("peak_rss_mb"), 0)
        );
    }
    Ok(page)
}
