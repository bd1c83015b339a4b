//! Topic configs: Kafka's names, types, defaults and bounds in one table.

use std::collections::BTreeMap;

/// The type of a config's value, as DescribeConfigs tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A 32-bit number, with its least value.
    Int(i64),
    /// A 32-bit number, within one of these, both ends included.
    Within(&'static [(i64, i64)]),
    /// A 64-bit number, with its least value.
    Long(i64),
    /// A number between zero and one.
    Ratio,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of these words; empty allows any.
    List(&'static [&'static str]),
}

impl Kind {
    /// The number DescribeConfigs uses for the type.
    pub fn code(self) -> i8 {
        match self {
            Self::Boolean => 1,
            Self::Word(_) => 2,
            Self::Int(_) | Self::Within(_) => 3,
            Self::Long(_) => 5,
            Self::Ratio => 6,
            Self::List(_) => 7,
        }
    }
}

/// One topic config.
#[derive(Debug)]
pub struct Definition {
    /// The topic's name for it.
    pub name: &'static str,
    /// The broker property that gives its default, if Kafka has one.
    pub server_name: Option<&'static str>,
    /// Type and bounds.
    pub kind: Kind,
    /// Kafka's default.
    pub default: &'static str,
    /// One sentence for DescribeConfigs.
    pub documentation: &'static str,
}

const MAX: &str = "9223372036854775807";
const CODECS: &[&str] = &[
    "producer",
    "uncompressed",
    "none",
    "gzip",
    "snappy",
    "lz4",
    "zstd",
];

macro_rules! definitions {
    ($($name:literal $server:expr, $kind:expr, $default:expr, $documentation:literal;)*) => {
        /// Every topic config, by name.
        pub static DEFINITIONS: &[Definition] = &[$(Definition {
            name: $name, server_name: $server, kind: $kind, default: $default, documentation: $documentation,
        }),*];
    };
}

definitions! {
    "cleanup.policy" Some("log.cleanup.policy"), Kind::List(&["delete", "compact"]), "delete", "Delete old segments, or keep the last record of each key, or both.";
    "compression.gzip.level" Some("compression.gzip.level"), Kind::Within(&[(-1, -1), (1, 9)]), "-1", "Level when the broker itself compresses with gzip; -1 is gzip's own default.";
    "compression.lz4.level" Some("compression.lz4.level"), Kind::Within(&[(9, 9)]), "9", "Level when the broker itself compresses with lz4: there is one.";
    "compression.type" Some("compression.type"), Kind::Word(CODECS), "producer", "The codec batches are stored in; producer keeps what was sent.";
    "compression.zstd.level" Some("compression.zstd.level"), Kind::Within(&[(-131_072, 22)]), "3", "Level when the broker itself compresses with zstd.";
    "delete.retention.ms" Some("log.cleaner.delete.retention.ms"), Kind::Long(0), "86400000", "How long a tombstone outlives its first cleaning.";
    "file.delete.delay.ms" Some("log.segment.delete.delay.ms"), Kind::Long(0), "60000", "How long a deleted segment stays on disk, under another name.";
    "flush.messages" Some("log.flush.interval.messages"), Kind::Long(1), MAX, "Sync after so many records, apart from what acknowledgement asks for.";
    "flush.ms" Some("log.flush.interval.ms"), Kind::Long(0), MAX, "Sync after so many milliseconds, apart from what acknowledgement asks for.";
    "follower.replication.throttled.replicas" None, Kind::List(&[]), "", "Replicas whose replication is throttled on the follower's side.";
    "index.interval.bytes" Some("log.index.interval.bytes"), Kind::Int(0), "4096", "Bytes of log between two entries of the offset index.";
    "leader.replication.throttled.replicas" None, Kind::List(&[]), "", "Replicas whose replication is throttled on the leader's side.";
    "max.compaction.lag.ms" Some("log.cleaner.max.compaction.lag.ms"), Kind::Long(1), MAX, "A record is compacted at the latest after this time.";
    "max.message.bytes" Some("message.max.bytes"), Kind::Int(0), "1048588", "Largest batch accepted.";
    "message.timestamp.after.max.ms" Some("log.message.timestamp.after.max.ms"), Kind::Long(0), "3600000", "How far a record's timestamp may be ahead of the broker's clock.";
    "message.timestamp.before.max.ms" Some("log.message.timestamp.before.max.ms"), Kind::Long(0), MAX, "How far a record's timestamp may be behind the broker's clock.";
    "message.timestamp.type" Some("log.message.timestamp.type"), Kind::Word(&["CreateTime", "LogAppendTime"]), "CreateTime", "Whose time a record carries: the producer's or the broker's.";
    "min.cleanable.dirty.ratio" Some("log.cleaner.min.cleanable.ratio"), Kind::Ratio, "0.5", "Share of dirty bytes from which a log is compacted.";
    "min.compaction.lag.ms" Some("log.cleaner.min.compaction.lag.ms"), Kind::Long(0), "0", "A record is not compacted before this time.";
    "min.insync.replicas" Some("min.insync.replicas"), Kind::Int(1), "1", "Replicas that must be in sync for acks=all.";
    "preallocate" Some("log.preallocate"), Kind::Boolean, "false", "Whether a new segment's file is preallocated.";
    "retention.bytes" Some("log.retention.bytes"), Kind::Long(-1), "-1", "Old segments of a partition are deleted beyond this size; -1 is no limit.";
    "retention.ms" Some("log.retention.ms"), Kind::Long(-1), "604800000", "Segments are deleted when their last record is older; -1 is no limit.";
    "segment.bytes" Some("log.segment.bytes"), Kind::Int(1048576), "1073741824", "Size of a segment file.";
    "segment.index.bytes" Some("log.index.size.max.bytes"), Kind::Int(4), "10485760", "Size of a segment's index files.";
    "segment.jitter.ms" Some("log.roll.jitter.ms"), Kind::Long(0), "0", "Random time taken off segment.ms, so that segments do not roll all at once.";
    "segment.ms" Some("log.roll.ms"), Kind::Long(1), "604800000", "A segment is rolled after this time even when it is not full.";
    "unclean.leader.election.enable" Some("unclean.leader.election.enable"), Kind::Boolean, "false", "Whether a replica that is not in sync may lead.";
}

/// The definition of a topic config.
pub fn by_name(name: &str) -> Option<&'static Definition> {
    DEFINITIONS
        .iter()
        .find(|definition| definition.name == name)
}

/// The definition whose default a broker property gives.
pub fn by_server_name(name: &str) -> Option<&'static Definition> {
    DEFINITIONS
        .iter()
        .find(|definition| definition.server_name == Some(name))
}

impl Definition {
    /// The value as it is kept, or why it is refused.
    pub fn check(&self, value: &str) -> Result<String, String> {
        let name = self.name;
        let value = value.trim();
        let wanted =
            |wanted: String| format!("invalid value {value} for configuration {name}: {wanted}");
        match self.kind {
            Kind::Boolean => match value.to_ascii_lowercase().as_str() {
                word @ ("true" | "false") => Ok(word.to_owned()),
                _ => Err(wanted("must be true or false".into())),
            },
            Kind::Int(min) | Kind::Long(min) => {
                let max = if matches!(self.kind, Kind::Int(_)) {
                    i64::from(i32::MAX)
                } else {
                    i64::MAX
                };
                match value.parse::<i64>() {
                    Ok(number) if (min..=max).contains(&number) => Ok(number.to_string()),
                    Ok(_) => Err(wanted(format!("must be from {min} to {max}"))),
                    Err(_) => Err(wanted("must be a number".into())),
                }
            }
            Kind::Within(ranges) => {
                let holds = |number: i64| {
                    ranges
                        .iter()
                        .any(|(min, max)| (*min..=*max).contains(&number))
                };
                match value.parse::<i64>() {
                    Ok(number) if holds(number) => Ok(number.to_string()),
                    _ => {
                        let ranges = ranges.iter().map(|(min, max)| match max - min {
                            0 => min.to_string(),
                            _ => format!("from {min} to {max}"),
                        });
                        let ranges: Vec<_> = ranges.collect();
                        Err(wanted(format!("must be {}", ranges.join(" or "))))
                    }
                }
            }
            Kind::Ratio => match value.parse::<f64>() {
                Ok(number) if (0.0..=1.0).contains(&number) => Ok(value.to_owned()),
                _ => Err(wanted("must be between 0 and 1".into())),
            },
            Kind::Word(words) if words.contains(&value) => Ok(value.to_owned()),
            Kind::Word(words) => Err(wanted(format!("must be one of {}", words.join(", ")))),
            Kind::List(words) => {
                let list: Vec<_> = value
                    .split(',')
                    .map(str::trim)
                    .filter(|word| !word.is_empty())
                    .collect();
                match list
                    .iter()
                    .find(|word| !words.is_empty() && !words.contains(word))
                {
                    Some(_) => Err(wanted(format!("must be a list of {}", words.join(", ")))),
                    None => Ok(list.join(",")),
                }
            }
        }
    }
}

/// Checks overrides given by a client; the error names the config.
pub fn check_all<'a>(
    overrides: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<BTreeMap<String, String>, String> {
    let mut checked = BTreeMap::new();
    for (name, value) in overrides {
        let Some(definition) = by_name(name) else {
            return Err(format!("unknown topic config name: {name}"));
        };
        checked.insert(name.to_owned(), definition.check(value)?);
    }
    Ok(checked)
}

/// Where a value comes from, as DescribeConfigs tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Set on the topic.
    Topic,
    /// Set on the broker.
    Broker,
    /// Kafka's default.
    Default,
}

impl Source {
    /// The number DescribeConfigs uses.
    pub fn code(self) -> i8 {
        match self {
            Self::Topic => 1,
            Self::Broker => 4,
            Self::Default => 5,
        }
    }
}

/// The value in force, and where it comes from.
pub fn effective<'a>(
    definition: &Definition,
    overrides: &'a BTreeMap<String, String>,
    defaults: &'a BTreeMap<String, String>,
) -> (&'a str, Source) {
    if let Some(value) = overrides.get(definition.name) {
        (value, Source::Topic)
    } else if let Some(value) = defaults.get(definition.name) {
        (value, Source::Broker)
    } else {
        // A definition's default lives as long as the program.
        (
            by_name(definition.name).map_or("", |definition| definition.default),
            Source::Default,
        )
    }
}

/// The page `docs/reference/topic-configs.md`, from the table.
pub fn reference_page() -> String {
    let mut page = String::from(
        "# Topic configs\n\n\
         Generated from the table in `broker/src/metadata/topic_config.rs`; a test keeps it current (`UPDATE_EXPECT=1` rewrites it). The broker's\n\
         property gives the default of all topics.\n\n\
         | config | broker's property | default | what it says |\n|---|---|---|---|\n",
    );
    for definition in DEFINITIONS {
        let code = |text: &str| match text {
            "" => String::new(),
            text => format!("`{text}`"),
        };
        page.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            definition.name,
            code(definition.server_name.unwrap_or_default()),
            code(definition.default),
            definition.documentation
        ));
    }
    page.push_str(
        "\n## How they are obeyed\n\n\
         A name that is not in the table is refused. What is not as in Kafka:\n\n\
         - `compression.*.level` holds where the broker itself compresses: when `compression.type` is another codec than a batch came with. Batches that\n\
         \x20 compaction has to write anew are compressed at their codec's default level, as in Kafka.\n\
         - `compression.lz4.level`: 9 is Kafka's default, which it compresses with its fast encoder; so do we, and have no other. Other levels are refused.\n\
         - `preallocate`: the file system sets a new segment's bytes aside, without making the file longer (Kafka does, and has zeros at its end after a\n\
         \x20 crash). What is not needed is given back when the segment is rolled or closed. Linux only; elsewhere, and on file systems that cannot, nothing is set aside.\n\
         - `file.delete.delay.ms`: segments that retention or DeleteRecords delete stay for so long as `.deleted`, those of a deleted topic, for the broker's\n\
         \x20 `log.segment.delete.delay.ms`, in a directory whose name ends in `-delete`. A start removes both at once. What compaction replaces goes at once: readers keep\n\
         \x20 what they have begun to read.\n\
         - `flush.messages`, `flush.ms`: with `flush=durable` a record is synced before it is acknowledged, which is sooner. With `flush=os` an append that finds\n\
         \x20 so many records unsynced, or one for so long, has the log synced; it does not wait for that. The time is also looked at every\n\
         \x20 `log.flush.scheduler.interval.ms` (never, unless it is set; then it is also the default of `log.flush.interval.ms`, as in Kafka), and what would be due\n\
         \x20 before the next look is synced then. Everything is synced once a minute (`log.flush.offset.checkpoint.interval.ms`).\n\
         - `min.insync.replicas` above 1 refuses every write with `acks=all`: there is one replica.\n\
         - `leader.replication.throttled.replicas`, `follower.replication.throttled.replicas` and `unclean.leader.election.enable` are kept, and mean nothing on one node.\n",
    );
    page
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_reference_page_is_current() {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");
        let path = format!("{docs}/reference/topic-configs.md");
        // The packaged crate has no docs folder beside it; the repository always has.
        if !std::path::Path::new(docs).exists() {
            return;
        }
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&path, reference_page()).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            reference_page(),
            "run the broker's tests with UPDATE_EXPECT=1"
        );
    }

    #[test]
    fn every_default_passes_its_own_check() {
        for definition in DEFINITIONS {
            assert_eq!(
                definition.check(definition.default).as_deref(),
                Ok(definition.default),
                "{}",
                definition.name
            );
        }
    }

    #[test]
    fn an_unknown_name_is_refused_by_name() {
        assert!(
            check_all([("retention.msec", "1")])
                .unwrap_err()
                .contains("retention.msec")
        );
    }

    #[test]
    fn values_out_of_bounds_are_refused() {
        for (name, value) in [
            ("retention.ms", "-2"),
            ("segment.bytes", "100"),
            ("segment.bytes", "4294967296"),
            ("min.cleanable.dirty.ratio", "1.5"),
            ("cleanup.policy", "delete,forget"),
            ("preallocate", "yes"),
            ("compression.gzip.level", "0"),
            ("compression.gzip.level", "10"),
            ("compression.lz4.level", "12"),
            ("compression.zstd.level", "23"),
            ("message.timestamp.type", "createtime"),
        ] {
            assert!(
                check_all([(name, value)]).unwrap_err().contains(name),
                "{name}={value}"
            );
        }
    }

    #[test]
    fn the_topics_value_wins_over_the_brokers_over_kafkas() {
        let definition = by_name("retention.ms").unwrap();
        let set = BTreeMap::from([("retention.ms".to_owned(), "5".to_owned())]);
        let none = BTreeMap::new();
        assert_eq!(effective(definition, &set, &set), ("5", Source::Topic));
        assert_eq!(effective(definition, &none, &set), ("5", Source::Broker));
        assert_eq!(
            effective(definition, &none, &none),
            ("604800000", Source::Default)
        );
    }
}
