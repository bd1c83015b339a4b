//! Group configs (KIP-848, KIP-1071): Kafka's names, the broker's settings that give their defaults and bounds, in one table.
//!
//! All values are numbers. A value set on a group must lie within the broker's bounds when it is set; where the bounds have become
//! narrower since, the nearest allowed value is in force.

use std::collections::BTreeMap;

/// A broker setting and its default.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Kafka's server property name.
    pub name: &'static str,
    /// Kafka's default.
    pub default: i64,
}

/// One group config.
#[derive(Debug)]
pub struct Definition {
    /// The group's name for it.
    pub name: &'static str,
    /// The broker property that gives its default.
    pub default: Setting,
    /// Least value that makes sense at all.
    pub least: i64,
    /// The broker's lower bound.
    pub min: Option<Setting>,
    /// The broker's upper bound.
    pub max: Option<Setting>,
    /// Whether DescribeConfigs calls it a 64-bit number.
    pub is_long: bool,
    /// One sentence for DescribeConfigs.
    pub documentation: &'static str,
}

const fn setting(name: &'static str, default: i64) -> Setting {
    Setting { name, default }
}

/// Every group config, by name.
pub static DEFINITIONS: &[Definition] = &[
    Definition {
        name: "consumer.assignment.interval.ms",
        default: setting("group.consumer.assignment.interval.ms", 1000),
        least: 0,
        min: Some(setting("group.consumer.min.assignment.interval.ms", 0)),
        max: Some(setting("group.consumer.max.assignment.interval.ms", 15_000)),
        is_long: false,
        documentation: "Least time between two assignments of a consumer group.",
    },
    Definition {
        name: "consumer.heartbeat.interval.ms",
        default: setting("group.consumer.heartbeat.interval.ms", 5000),
        least: 1,
        min: Some(setting("group.consumer.min.heartbeat.interval.ms", 5000)),
        max: Some(setting("group.consumer.max.heartbeat.interval.ms", 15_000)),
        is_long: false,
        documentation: "How often a member of a consumer group has to heartbeat.",
    },
    Definition {
        name: "consumer.session.timeout.ms",
        default: setting("group.consumer.session.timeout.ms", 45_000),
        least: 1,
        min: Some(setting("group.consumer.min.session.timeout.ms", 45_000)),
        max: Some(setting("group.consumer.max.session.timeout.ms", 60_000)),
        is_long: false,
        documentation: "A member of a consumer group that is silent for longer is removed.",
    },
    Definition {
        name: "streams.acceptable.recovery.lag",
        default: setting("group.streams.acceptable.recovery.lag", 10_000),
        least: 0,
        min: None,
        max: None,
        is_long: true,
        documentation: "A task whose changelog lag is below this counts as caught up.",
    },
    Definition {
        name: "streams.assignment.interval.ms",
        default: setting("group.streams.assignment.interval.ms", 1000),
        least: 0,
        min: Some(setting("group.streams.min.assignment.interval.ms", 0)),
        max: Some(setting("group.streams.max.assignment.interval.ms", 15_000)),
        is_long: false,
        documentation: "Least time between two assignments of a streams group.",
    },
    Definition {
        name: "streams.heartbeat.interval.ms",
        default: setting("group.streams.heartbeat.interval.ms", 5000),
        least: 1,
        min: Some(setting("group.streams.min.heartbeat.interval.ms", 5000)),
        max: Some(setting("group.streams.max.heartbeat.interval.ms", 15_000)),
        is_long: false,
        documentation: "How often a member of a streams group has to heartbeat.",
    },
    Definition {
        name: "streams.initial.rebalance.delay.ms",
        default: setting("group.streams.initial.rebalance.delay.ms", 3000),
        least: 0,
        min: None,
        max: None,
        is_long: false,
        documentation: "How long the first member of a streams group waits for others.",
    },
    Definition {
        name: "streams.num.standby.replicas",
        default: setting("group.streams.num.standby.replicas", 0),
        least: 0,
        min: None,
        max: Some(setting("group.streams.max.standby.replicas", 2)),
        is_long: false,
        documentation: "Standby tasks for each task with state.",
    },
    Definition {
        name: "streams.num.warmup.replicas",
        default: setting("group.streams.num.warmup.replicas", 2),
        least: 1,
        min: None,
        max: Some(setting("group.streams.max.warmup.replicas", 20)),
        is_long: false,
        documentation: "Tasks that may warm up at a time.",
    },
    Definition {
        name: "streams.session.timeout.ms",
        default: setting("group.streams.session.timeout.ms", 45_000),
        least: 1,
        min: Some(setting("group.streams.min.session.timeout.ms", 45_000)),
        max: Some(setting("group.streams.max.session.timeout.ms", 60_000)),
        is_long: false,
        documentation: "A member of a streams group that is silent for longer is removed.",
    },
    Definition {
        name: "streams.task.offset.interval.ms",
        default: setting("group.streams.task.offset.interval.ms", 60_000),
        least: 1,
        min: Some(setting("group.streams.min.task.offset.interval.ms", 15_000)),
        max: None,
        is_long: false,
        documentation: "How often a member of a streams group tells its tasks' changelog offsets.",
    },
];

/// The configs in force for one group: what a group coordinator decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are Kafka's names")]
pub struct GroupConfig {
    pub consumer_assignment_interval_ms: i64,
    pub consumer_heartbeat_interval_ms: i32,
    pub consumer_session_timeout_ms: i32,
    pub streams_acceptable_recovery_lag: i64,
    pub streams_assignment_interval_ms: i64,
    pub streams_heartbeat_interval_ms: i32,
    pub streams_initial_rebalance_delay_ms: i64,
    pub streams_standby_replicas: i32,
    pub streams_warmup_replicas: i32,
    pub streams_session_timeout_ms: i32,
    pub streams_task_offset_interval_ms: i32,
}

impl GroupConfig {
    /// The group's configs over the broker's settings over Kafka's defaults.
    pub fn new(configs: &BTreeMap<String, String>, settings: &BTreeMap<String, i64>) -> Self {
        let long = |name: &str| match by_name(name) {
            Some(definition) => definition.effective(configs, settings).0,
            None => unreachable!("{name} is not in the table of group configs"),
        };
        let int = |name: &str| i32::try_from(long(name)).unwrap_or(i32::MAX);
        Self {
            consumer_assignment_interval_ms: long("consumer.assignment.interval.ms"),
            consumer_heartbeat_interval_ms: int("consumer.heartbeat.interval.ms"),
            consumer_session_timeout_ms: int("consumer.session.timeout.ms"),
            streams_acceptable_recovery_lag: long("streams.acceptable.recovery.lag"),
            streams_assignment_interval_ms: long("streams.assignment.interval.ms"),
            streams_heartbeat_interval_ms: int("streams.heartbeat.interval.ms"),
            streams_initial_rebalance_delay_ms: long("streams.initial.rebalance.delay.ms"),
            streams_standby_replicas: int("streams.num.standby.replicas"),
            streams_warmup_replicas: int("streams.num.warmup.replicas"),
            streams_session_timeout_ms: int("streams.session.timeout.ms"),
            streams_task_offset_interval_ms: int("streams.task.offset.interval.ms"),
        }
    }
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self::new(&BTreeMap::new(), &BTreeMap::new())
    }
}

/// The definition of a group config.
pub fn by_name(name: &str) -> Option<&'static Definition> {
    DEFINITIONS
        .iter()
        .find(|definition| definition.name == name)
}

/// Every broker setting of the table.
pub fn settings() -> impl Iterator<Item = Setting> {
    DEFINITIONS.iter().flat_map(|definition| {
        [Some(definition.default), definition.min, definition.max]
            .into_iter()
            .flatten()
    })
}

fn in_force(setting: Setting, settings: &BTreeMap<String, i64>) -> i64 {
    settings
        .get(setting.name)
        .copied()
        .unwrap_or(setting.default)
}

impl Definition {
    fn bounds(&self, settings: &BTreeMap<String, i64>) -> (i64, i64) {
        let widest = if self.is_long {
            i64::MAX
        } else {
            i64::from(i32::MAX)
        };
        let min = self
            .min
            .map_or(self.least, |setting| in_force(setting, settings))
            .max(self.least);
        let max = self
            .max
            .map_or(widest, |setting| in_force(setting, settings))
            .min(widest);
        (min, max.max(min))
    }

    /// The value in force, and whether it was set on the group.
    pub fn effective(
        &self,
        configs: &BTreeMap<String, String>,
        settings: &BTreeMap<String, i64>,
    ) -> (i64, bool) {
        let set = configs.get(self.name).and_then(|value| value.parse().ok());
        let (min, max) = self.bounds(settings);
        match set {
            Some(value) => (i64::clamp(value, min, max), true),
            None => (in_force(self.default, settings), false),
        }
    }

    /// The value as it is kept, or why it is refused.
    pub fn check(&self, value: &str, settings: &BTreeMap<String, i64>) -> Result<String, String> {
        let name = self.name;
        let (min, max) = self.bounds(settings);
        match value.trim().parse::<i64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(number.to_string()),
            Ok(number) => Err(format!(
                "invalid value {number} for configuration {name}: must be from {min} to {max}"
            )),
            Err(_) => Err(format!(
                "invalid value {value} for configuration {name}: must be a number"
            )),
        }
    }
}

/// Checks what the configs of a group are together: a session outlasts a heartbeat interval.
pub fn check_together(
    configs: &BTreeMap<String, String>,
    settings: &BTreeMap<String, i64>,
) -> Result<(), String> {
    let config = GroupConfig::new(configs, settings);
    for (kind, session_timeout_ms, heartbeat_interval_ms) in [
        (
            "consumer",
            config.consumer_session_timeout_ms,
            config.consumer_heartbeat_interval_ms,
        ),
        (
            "streams",
            config.streams_session_timeout_ms,
            config.streams_heartbeat_interval_ms,
        ),
    ] {
        if session_timeout_ms <= heartbeat_interval_ms {
            return Err(format!(
                "{kind}.session.timeout.ms ({session_timeout_ms}) must be greater than {kind}.heartbeat.interval.ms ({heartbeat_interval_ms})"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_groups_value_wins_over_the_brokers_over_kafkas() {
        let none = BTreeMap::new();
        assert_eq!(GroupConfig::default().consumer_session_timeout_ms, 45_000);
        let settings = BTreeMap::from([("group.consumer.session.timeout.ms".to_owned(), 50_000)]);
        assert_eq!(
            GroupConfig::new(&none, &settings).consumer_session_timeout_ms,
            50_000
        );
        let set = BTreeMap::from([("consumer.session.timeout.ms".to_owned(), "55000".to_owned())]);
        assert_eq!(
            GroupConfig::new(&set, &settings).consumer_session_timeout_ms,
            55_000
        );
    }

    #[test]
    fn a_value_outside_the_brokers_bounds_is_refused_by_name() {
        let definition = by_name("consumer.session.timeout.ms").unwrap();
        let refused = definition.check("60001", &BTreeMap::new()).unwrap_err();
        assert!(refused.contains("consumer.session.timeout.ms") && refused.contains("60000"));
        let wider = BTreeMap::from([(
            "group.consumer.max.session.timeout.ms".to_owned(),
            i64::from(i32::MAX),
        )]);
        assert_eq!(definition.check("60001", &wider).unwrap(), "60001");
    }

    #[test]
    fn a_value_that_narrower_bounds_exclude_is_clamped() {
        let set = BTreeMap::from([("consumer.session.timeout.ms".to_owned(), "90000".to_owned())]);
        assert_eq!(
            GroupConfig::new(&set, &BTreeMap::new()).consumer_session_timeout_ms,
            60_000
        );
    }

    #[test]
    fn a_session_outlasts_a_heartbeat_interval() {
        let settings = BTreeMap::from([("group.consumer.min.session.timeout.ms".to_owned(), 1000)]);
        let set = BTreeMap::from([("consumer.session.timeout.ms".to_owned(), "4000".to_owned())]);
        let refused = check_together(&set, &settings).unwrap_err();
        assert!(
            refused.contains("consumer.heartbeat.interval.ms"),
            "{refused}"
        );
        assert_eq!(check_together(&BTreeMap::new(), &settings), Ok(()));
    }
}
