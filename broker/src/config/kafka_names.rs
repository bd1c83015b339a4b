//! Names of Kafka's server properties that this broker does not take, with the reason; and the nearest name to one that nobody knows.

/// Properties that are known to Kafka and cannot do anything here. A name ending in `.` stands for all that begin with it.
const NOT_SUPPORTED: &[(&str, &str)] = &[
    (
        "add.partitions.to.txn.",
        "the transaction coordinator is on the same node",
    ),
    (
        "alter.config.policy.class.name",
        "classes cannot be plugged in",
    ),
    (
        "alter.log.dirs.replication.quota.",
        "there is one data directory",
    ),
    ("authorizer.class.name", "nothing is authorized yet"),
    (
        "auto.leader.rebalance.enable",
        "the only replica of a partition always leads",
    ),
    (
        "background.threads",
        "there are three background threads, whatever is asked for",
    ),
    ("broker.heartbeat.interval.ms", "there is one node"),
    (
        "broker.id.generation.enable",
        "node.id says which node it is",
    ),
    ("broker.rack", "there is one node"),
    ("broker.session.timeout.ms", "there is one node"),
    ("client.quota.callback.", "there are no quotas yet"),
    ("config.providers", "values are taken as they are written"),
    (
        "connection.failed.authentication.delay.ms",
        "there is no authentication yet",
    ),
    (
        "connections.max.reauth.ms",
        "there is no authentication yet",
    ),
    (
        "controlled.shutdown.",
        "leadership cannot move to another node",
    ),
    ("controller.", "this node is its own controller"),
    ("cordoned.log.dirs", "there is one data directory"),
    (
        "create.topic.policy.class.name",
        "classes cannot be plugged in",
    ),
    ("delegation.token.", "there is no authentication yet"),
    ("early.start.listeners", "there is one listener"),
    (
        "fetch.purgatory.purge.interval.requests",
        "requests that wait are not purged by count",
    ),
    ("follower.", "there are no followers"),
    ("group.share.", "share groups are left for later"),
    (
        "initial.broker.registration.timeout.ms",
        "there is one node",
    ),
    ("inter.broker.", "there is one node"),
    ("internal.", "meant for Kafka's own tests"),
    ("kafka.metrics.", "metrics are scraped: --metrics-listen"),
    ("leader.", "there are no followers"),
    ("listener.name.", "there is no authentication yet"),
    (
        "listener.security.protocol.map",
        "the only protocol is PLAINTEXT",
    ),
    (
        "log.dir.failure.timeout.ms",
        "an error of one partition's files does not take the broker down",
    ),
    (
        "log.flush.start.offset.checkpoint.interval.ms",
        "written with log.flush.offset.checkpoint.interval.ms",
    ),
    (
        "log.initial.task.delay.ms",
        "tasks are run when they are due",
    ),
    ("log.local.retention.", "there is no tiered storage"),
    (
        "max.connection.creation.rate",
        "connections are bounded in number, not in rate",
    ),
    (
        "max.incremental.fetch.session.cache.slots",
        "the number of fetch sessions is fixed at Kafka's 1000",
    ),
    ("metadata.", "metadata is a journal of this broker's own"),
    ("metric.reporters", "metrics are scraped: --metrics-listen"),
    ("metrics.", "metrics are scraped: --metrics-listen"),
    (
        "num.io.threads",
        "requests run on the network threads (num.network.threads)",
    ),
    (
        "num.recovery.threads.per.data.dir",
        "logs are recovered one after the other",
    ),
    ("num.replica.", "there is one replica"),
    ("password.encoder.", "there are no passwords yet"),
    ("plugin.", "classes cannot be plugged in"),
    ("principal.builder.class", "there is no authentication yet"),
    (
        "producer.purgatory.purge.interval.requests",
        "requests that wait are not purged by count",
    ),
    (
        "queued.max.requests",
        "requests are bounded by connection (64) and by queued.max.request.bytes",
    ),
    ("quota.", "there are no quotas yet"),
    ("quotas.", "there are no quotas yet"),
    ("remote.", "there is no tiered storage"),
    ("replica.", "there is one replica"),
    ("replication.quota.", "there is one replica"),
    ("request.timeout.ms", "there is no other node to ask"),
    ("reserved.broker.max.id", "node.id says which node it is"),
    ("sasl.", "there is no authentication yet"),
    ("security.", "there is no authentication yet"),
    (
        "server.max.startup.time.ms",
        "the broker starts when its logs are recovered",
    ),
    ("share.coordinator.", "share groups are left for later"),
    ("share.fetch.", "share groups are left for later"),
    ("ssl.", "TLS is left for later"),
    ("telemetry.", "client telemetry is not served"),
    ("unstable.", "only stable versions are served"),
    ("zookeeper.", "there is no ZooKeeper, here as in Kafka 4"),
];

/// Properties that say what is so anyway: any other value is refused.
const FIXED: &[(&str, &[&str], &str)] = &[
    ("default.replication.factor", &["1"], "there is one broker"),
    (
        "offsets.topic.replication.factor",
        &["1"],
        "there is one broker",
    ),
    (
        "transaction.state.log.replication.factor",
        &["1"],
        "there is one broker",
    ),
    (
        "transaction.state.log.min.isr",
        &["1"],
        "there is one broker",
    ),
    (
        "process.roles",
        &["broker,controller", "controller,broker"],
        "this node is both",
    ),
];

/// What is known of a name that no setting has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// The value is what is so anyway.
    AsItIs,
    /// Why the property, or this value of it, cannot be taken.
    Refused(String),
    /// Nothing.
    Unknown,
}

pub(super) fn look_up(name: &str, value: &str) -> Known {
    if let Some((_, values, why)) = FIXED.iter().find(|(fixed, ..)| *fixed == name) {
        let without_blanks: String = value.split_whitespace().collect();
        return if values.contains(&without_blanks.as_str()) {
            Known::AsItIs
        } else {
            Known::Refused(format!(
                "{value} is not supported, only {}: {why}",
                values.first().unwrap_or(&"")
            ))
        };
    }
    let is_meant = |known: &str| name == known || (known.ends_with('.') && name.starts_with(known));
    match NOT_SUPPORTED.iter().find(|(known, _)| is_meant(known)) {
        Some((_, why)) => {
            Known::Refused(format!("a property of Kafka that is not supported: {why}"))
        }
        None => Known::Unknown,
    }
}

/// The name that is most like this one, if one is near enough to be meant.
pub(super) fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let fixed = FIXED.iter().map(|(name, ..)| *name);
    names
        .into_iter()
        .chain(fixed)
        .map(|known| (edits(name, known), known))
        .min()
        .filter(|(edits, _)| *edits <= 3.max(name.len() / 5))
        .map(|(_, known)| known)
}

/// How many characters have to be put in, taken out or replaced to get from one to the other.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (above, left) in from.chars().enumerate() {
        let mut diagonal = above;
        let mut before = above + 1;
        if let Some(first) = row.first_mut() {
            *first = before;
        }
        for (cell, right) in row.iter_mut().skip(1).zip(&to) {
            let replaced = diagonal + usize::from(left != *right);
            diagonal = *cell;
            *cell = replaced.min(diagonal + 1).min(before + 1);
            before = *cell;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (from, to, expected) in [
            ("", "", 0),
            ("a", "", 1),
            ("", "ab", 2),
            ("kitten", "sitting", 3),
            ("num.partition", "num.partitions", 1),
            ("abc", "abc", 0),
        ] {
            assert_eq!(edits(from, to), expected, "{from} to {to}");
        }
    }

    #[test]
    fn only_a_name_that_could_be_meant_is_offered() {
        let names = ["num.partitions", "node.id"];
        assert_eq!(nearest("num.partition", names), Some("num.partitions"));
        assert_eq!(nearest("completely.other", names), None);
    }

    #[test]
    fn what_is_so_anyway_may_be_said() {
        assert_eq!(
            look_up("process.roles", "broker, controller"),
            Known::AsItIs
        );
        assert!(matches!(
            look_up("default.replication.factor", "3"),
            Known::Refused(why) if why.contains("one broker")
        ));
        assert!(matches!(
            look_up("ssl.keystore.location", "x"),
            Known::Refused(_)
        ));
        assert_eq!(look_up("num.partition", "1"), Known::Unknown);
    }
}
