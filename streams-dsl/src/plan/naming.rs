//! Automatic names, numbered as Kafka Streams numbers them, so that state and topics of a Java application are found again.

pub(crate) const STREAM_SOURCE: &str = "KSTREAM-SOURCE-";
pub(crate) const FILTER: &str = "KSTREAM-FILTER-";
pub(crate) const MAP: &str = "KSTREAM-MAP-";
pub(crate) const MAP_VALUES: &str = "KSTREAM-MAPVALUES-";
pub(crate) const FLAT_MAP: &str = "KSTREAM-FLATMAP-";
pub(crate) const FLAT_MAP_VALUES: &str = "KSTREAM-FLATMAPVALUES-";
pub(crate) const KEY_SELECT: &str = "KSTREAM-KEY-SELECT-";
pub(crate) const PEEK: &str = "KSTREAM-PEEK-";
pub(crate) const FOR_EACH: &str = "KSTREAM-FOREACH-";
pub(crate) const MERGE: &str = "KSTREAM-MERGE-";
pub(crate) const BRANCH: &str = "KSTREAM-BRANCH-";
pub(crate) const PROCESSOR: &str = "KSTREAM-PROCESSOR-";
pub(crate) const SINK: &str = "KSTREAM-SINK-";
pub(crate) const REPARTITION: &str = "KSTREAM-REPARTITION-";
pub(crate) const JOIN: &str = "KSTREAM-JOIN-";
pub(crate) const LEFT_JOIN: &str = "KSTREAM-LEFTJOIN-";
pub(crate) const AGGREGATE: &str = "KSTREAM-AGGREGATE-";
pub(crate) const REDUCE: &str = "KSTREAM-REDUCE-";
pub(crate) const TABLE_SOURCE: &str = "KTABLE-SOURCE-";
pub(crate) const TABLE_FILTER: &str = "KTABLE-FILTER-";
pub(crate) const TABLE_MAP_VALUES: &str = "KTABLE-MAPVALUES-";
pub(crate) const TABLE_TO_STREAM: &str = "KTABLE-TOSTREAM-";

const REPARTITION_SUFFIX: &str = "-repartition";

/// Numbers the nodes and stores of one builder, in the order of the calls.
#[derive(Debug, Default)]
pub(crate) struct Names {
    next: u32,
}

impl Names {
    /// The next node's name: `prefix` and a number of ten digits.
    pub(crate) fn node(&mut self, prefix: &str) -> String {
        let number = self.next;
        self.next += 1;
        format!("{prefix}{number:010}")
    }

    /// The next store's name.
    pub(crate) fn store(&mut self, prefix: &str) -> String {
        self.node(&format!("{prefix}STATE-STORE-"))
    }
}

/// A node's name: numbered in any case, and replaced when the user gives one.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    pub(crate) automatic: String,
    pub(crate) given: Option<String>,
}

impl Name {
    pub(crate) fn automatic(automatic: String) -> Self {
        Self {
            automatic,
            given: None,
        }
    }

    pub(crate) fn given(mut self, given: Option<String>) -> Self {
        self.given = given;
        self
    }

    pub(crate) fn as_str(&self) -> &str {
        self.given.as_deref().unwrap_or(&self.automatic)
    }
}

/// Names of the three nodes around a repartition topic, and of the topic itself (without the application's prefix).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RepartitionNames {
    pub(crate) topic: String,
    pub(crate) filter: String,
    pub(crate) sink: String,
    pub(crate) source: String,
}

/// The three numbers that a repartition takes, whether they are used or not.
#[derive(Clone, Debug)]
pub(crate) struct RepartitionNumbers {
    sink: String,
    filter: String,
    source: String,
}

impl RepartitionNumbers {
    pub(crate) fn take(names: &mut Names) -> Self {
        Self {
            sink: names.node(SINK),
            filter: names.node(FILTER),
            source: names.node(STREAM_SOURCE),
        }
    }

    /// The automatic name of the source behind the topic.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// The names, for a topic called after `prefix`: numbered when the prefix itself is an automatic name.
    pub(crate) fn resolve(&self, prefix: &str) -> RepartitionNames {
        let topic = if prefix.ends_with(REPARTITION_SUFFIX) {
            prefix.to_owned()
        } else {
            format!("{prefix}{REPARTITION_SUFFIX}")
        };
        if is_automatic(prefix) {
            let Self {
                sink,
                filter,
                source,
            } = self.clone();
            return RepartitionNames {
                topic,
                filter,
                sink,
                source,
            };
        }
        RepartitionNames {
            filter: format!("{topic}-filter"),
            sink: format!("{topic}-sink"),
            source: format!("{topic}-source"),
            topic,
        }
    }
}

/// Whether it matches `KSTREAM.*-[0-9]{10}`.
fn is_automatic(name: &str) -> bool {
    name.strip_prefix("KSTREAM")
        .and_then(|rest| rest.rsplit_once('-'))
        .is_some_and(|(_, number)| {
            number.len() == 10 && number.bytes().all(|byte| byte.is_ascii_digit())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_and_stores_share_one_count() {
        let mut names = Names::default();
        assert_eq!(names.node(STREAM_SOURCE), "KSTREAM-SOURCE-0000000000");
        assert_eq!(
            names.store(AGGREGATE),
            "KSTREAM-AGGREGATE-STATE-STORE-0000000001"
        );
        assert_eq!(names.store("planes-"), "planes-STATE-STORE-0000000002");
    }

    #[test]
    fn a_repartition_takes_three_numbers_and_uses_them_only_under_an_automatic_prefix() {
        let mut names = Names::default();
        let numbers = RepartitionNumbers::take(&mut names);
        assert_eq!(names.node(SINK), "KSTREAM-SINK-0000000003");
        let automatic = numbers.resolve("KSTREAM-KEY-SELECT-0000000004");
        assert_eq!(automatic.topic, "KSTREAM-KEY-SELECT-0000000004-repartition");
        assert_eq!(
            (
                automatic.sink.as_str(),
                automatic.filter.as_str(),
                automatic.source.as_str()
            ),
            (
                "KSTREAM-SINK-0000000000",
                "KSTREAM-FILTER-0000000001",
                "KSTREAM-SOURCE-0000000002"
            )
        );
        let named = numbers.resolve("counts");
        assert_eq!(
            named,
            RepartitionNames {
                topic: "counts-repartition".into(),
                filter: "counts-repartition-filter".into(),
                sink: "counts-repartition-sink".into(),
                source: "counts-repartition-source".into(),
            }
        );
        assert_eq!(
            numbers.resolve("mine-repartition").topic,
            "mine-repartition"
        );
    }
}
