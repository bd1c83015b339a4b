//! Counts the words of text files, or of standard input: flat_map_values, group_by (which repartitions by itself), count.
//!
//! ```text
//! cargo run --example word_count -- README.md docs/*.md
//! echo "to be or not to be" | cargo run --example word_count
//! ```
//!
//! The broker is in this process, on a directory that is removed at the end.

use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::time::Duration;

use brooklet::prelude::*;
use brooklet::topics::{self, NewTopic, TopicWriter};

fn topology() -> brooklet::Result<Topology> {
    let builder = StreamsBuilder::new();
    builder
        .stream::<String, String>("lines", Consumed::default())
        .flat_map_values(|_file, line| {
            line.split(|c: char| !c.is_alphanumeric())
                .filter(|word| !word.is_empty())
                .map(str::to_lowercase)
                .collect::<Vec<_>>()
        })
        .group_by(|_file, word| word.clone())
        .count(Materialized::named("counts"))
        .to_stream()
        .to("counts-by-word", Produced::default());
    Ok(builder.build()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let cluster = Cluster::embedded(directory.path().join("broker")).flush(Flush::Os);
    let topic = |name: &str| NewTopic {
        name: name.to_owned(),
        partitions: 2,
        replication_factor: -1,
        configs: Vec::new(),
    };
    topics::create(&cluster, &[topic("lines"), topic("counts-by-word")])?;

    let mut lines = TopicWriter::<String, String>::new(&cluster, "lines", Produced::default())?;
    let files: Vec<String> = std::env::args().skip(1).collect();
    let mut write = |name: &str, text: &mut dyn BufRead| -> Result<(), Box<dyn Error>> {
        for (number, line) in text.lines().enumerate() {
            lines.send(&Record::new(name.to_owned(), line?, number as i64))?;
        }
        Ok(())
    };
    if files.is_empty() {
        write("standard input", &mut io::stdin().lock())?;
    }
    for file in files {
        let mut text =
            BufReader::new(File::open(&file).map_err(|error| format!("{file}: {error}"))?);
        write(&file, &mut text)?;
    }
    lines.flush()?;

    let streams = Streams::new("word-count", topology()?)
        .cluster(cluster.clone())
        .state_dir(directory.path().join("state"))
        .commit_interval(Duration::from_millis(100))
        .start()?;
    streams.wait_until_caught_up(Duration::from_secs(600))?;
    streams.stop()?;

    let mut counts: HashMap<String, i64> = HashMap::new();
    topics::read(
        &cluster,
        "counts-by-word",
        &Consumed::default(),
        |_partition, _offset, record: Record<String, i64>| {
            counts.insert(record.key, record.value);
        },
    )?;
    let mut counts: Vec<(String, i64)> = counts.into_iter().collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    for (word, count) in counts.iter().take(20) {
        println!("{count}\t{word}");
    }
    Ok(())
}
