//! What the comparisons ask of the machine they run on.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// How many appends of 4 KiB the disk syncs one after another in a second.
pub(crate) fn fdatasyncs_per_s(directory: &Path) -> std::io::Result<f64> {
    let path = directory.join("fdatasync.probe");
    let mut file = File::create(&path)?;
    let block = [7_u8; 4096];
    let began = Instant::now();
    let mut count = 0.0;
    while began.elapsed() < Duration::from_secs(1) {
        file.write_all(&block)?;
        file.sync_data()?;
        count += 1.0;
    }
    let rate = count / began.elapsed().as_secs_f64();
    fs::remove_file(&path)?;
    Ok(rate)
}

/// CPU seconds that a process has used, from /proc.
pub(crate) fn cpu_seconds(pid: &str) -> Option<f64> {
    // Linux' clock tick is a hundredth of a second for user space on every architecture we know.
    const TICKS_PER_S: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may hold spaces; user and system time are the 12th and 13th after it.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_S)
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values.get(middle).copied().unwrap_or(f64::NAN),
        _ => values
            .get(middle - 1..=middle)
            .map_or(f64::NAN, |pair| pair.iter().sum::<f64>() / 2.0),
    }
}

/// Processor, cores and memory, as Linux tells them.
pub(crate) fn describe() -> String {
    let field = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default()
            .to_owned();
        line.split_once(':')
            .map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory_gib = field("/proc/meminfo", "MemTotal")
        .trim_end_matches(" kB")
        .parse::<f64>()
        .unwrap_or(f64::NAN)
        / 1024.0
        / 1024.0;
    format!(
        "{cores} cores ({}), {memory_gib:.0} GiB, {} {}",
        field("/proc/cpuinfo", "model name"),
        std::env::consts::OS,
        std::env::consts::ARCH
    )
}
