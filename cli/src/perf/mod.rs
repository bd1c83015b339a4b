//! `brooklet perf`: how fast a cluster takes and gives records, seen from a client.

use std::error::Error;
use std::sync::Arc;
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use clap::Subcommand;

use crate::consume::Unpark;

mod consume;
mod histogram;
mod produce;

use histogram::Histogram;

/// Measure how fast records are produced and consumed.
#[derive(Subcommand)]
pub(crate) enum Command {
    Produce(produce::Arguments),
    Consume(consume::Arguments),
}

pub(crate) fn run(command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Produce(arguments) => produce::run(&arguments),
        Command::Consume(arguments) => consume::run(&arguments),
    }
}

/// How often a line says how it goes.
const REPORT_EVERY: Duration = Duration::from_secs(5);

fn waker() -> Waker {
    Waker::from(Arc::new(Unpark(thread::current())))
}

/// Records and bytes over time, with what each record took.
struct Tally {
    since: Instant,
    records: u64,
    bytes: u64,
    times: Histogram,
}

impl Tally {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            records: 0,
            bytes: 0,
            times: Histogram::default(),
        }
    }

    /// `1000 records, 5000.0 records/s (4.88 MB/s), latency 1.2 ms avg, 7.0 ms max`, with percentiles in the `whole` account.
    fn line(&self, done: &str, whole: bool) -> String {
        let seconds = self.since.elapsed().as_secs_f64().max(1e-9);
        let mut line = format!(
            "{} records {done}, {:.1} records/s ({:.2} MB/s)",
            self.records,
            self.records as f64 / seconds,
            self.bytes as f64 / seconds / (1024.0 * 1024.0),
        );
        let times = &self.times;
        if let (Some(mean), Some(max)) = (times.mean_us(), times.max_us()) {
            let ms = |us: f64| us / 1000.0;
            line.push_str(&format!(
                ", latency {:.2} ms avg, {:.2} ms max",
                ms(mean),
                ms(max as f64)
            ));
            if whole {
                for (name, share) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999)]
                {
                    let us = times.percentile_us(share);
                    line.push_str(&format!(", {:.2} ms {name}", ms(us as f64)));
                }
            }
        }
        line
    }
}
