//! Kafka's offset checkpoint files: one offset a topic-partition, as text.
//!
//! ```text
//! 0                  version
//! 2                  entries
//! orders 0 1042      topic, partition, offset
//! orders 1 977
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::disk::Disk;

/// Recovery points, in the data directory.
pub const RECOVERY_POINT_FILE: &str = "recovery-point-offset-checkpoint";
/// Log start offsets, in the data directory.
pub const LOG_START_OFFSET_FILE: &str = "log-start-offset-checkpoint";
/// High watermarks, in the data directory.
pub const HIGH_WATERMARK_FILE: &str = "replication-offset-checkpoint";

/// Reads a checkpoint; empty if the file is not there, an `InvalidData` error if it is not one.
pub fn read(disk: &dyn Disk, path: &Path) -> io::Result<BTreeMap<(String, i32), i64>> {
    let contents = match disk.read_file(path) {
        Ok(contents) => contents,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let text = str::from_utf8(&contents)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    parse(text).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} is not an offset checkpoint", path.display()),
        )
    })
}

fn parse(text: &str) -> Option<BTreeMap<(String, i32), i64>> {
    let mut lines = text.lines();
    if lines.next()?.trim() != "0" {
        return None;
    }
    let count: usize = lines.next()?.trim().parse().ok()?;
    let mut offsets = BTreeMap::new();
    for line in lines.filter(|line| !line.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let topic = words.next()?;
        let partition = words.next()?.parse().ok()?;
        let offset = words.next()?.parse().ok()?;
        if words.next().is_some() {
            return None;
        }
        offsets.insert((topic.to_owned(), partition), offset);
    }
    (offsets.len() == count).then_some(offsets)
}

/// Replaces a checkpoint atomically; durable when it returns.
pub fn write(
    disk: &dyn Disk,
    path: &Path,
    offsets: &BTreeMap<(String, i32), i64>,
) -> io::Result<()> {
    let mut text = format!("0\n{}\n", offsets.len());
    for ((topic, partition), offset) in offsets {
        text.push_str(&format!("{topic} {partition} {offset}\n"));
    }
    disk.write_file_atomically(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_checkpoint_reads_as_kafka_writes_it() {
        let offsets = parse("0\n2\norders 0 1042\norders 1 977\n").expect("valid");
        assert_eq!(offsets.get(&("orders".to_owned(), 1)), Some(&977));
        assert_eq!(offsets.len(), 2);
    }

    #[test]
    fn a_cut_offset_checkpoint_is_refused() {
        assert_eq!(parse("0\n2\norders 0 1042\n"), None);
        assert_eq!(parse("1\n0\n"), None);
        assert_eq!(parse(""), None);
    }
}
