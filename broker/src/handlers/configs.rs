//! What the three APIs that show and change configs share: the types of resources, and which config of which type has which values.
//!
//! - Topics, brokers (what can change while they run: the defaults of topic configs) and groups have configs of their own.
//! - The loggers of a broker (8) are one, whose level is set when the broker starts: shown, not changed. Client metrics (16) are left out.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use crate::broker::Core;
use crate::metadata::{ConfigResource, Refusal, group_config, topic_config};
use crate::protocol::ErrorCode;

pub(super) const TOPIC: i8 = 2;
pub(super) const BROKER: i8 = 4;
pub(super) const BROKER_LOGGER: i8 = 8;
pub(super) const CLIENT_METRICS: i8 = 16;
pub(super) const GROUP: i8 = 32;

/// A kind of configs: a table of names with the values they take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table<'a> {
    Topic,
    Broker,
    /// With the broker's settings, which bound the values.
    Group(&'a BTreeMap<String, i64>),
}

impl Table<'_> {
    /// The value as it is kept, or why it is refused.
    pub(super) fn check(self, name: &str, value: &str) -> Result<String, Refusal> {
        let checked = match self {
            Self::Topic => definition_of(name, topic_config::by_name(name), "topic")?.check(value),
            Self::Broker => {
                definition_of(name, topic_config::by_server_name(name), "dynamic broker")?
                    .check(value)
            }
            Self::Group(settings) => {
                definition_of(name, group_config::by_name(name), "group")?.check(value, settings)
            }
        };
        checked.map_err(Refusal::InvalidConfig)
    }

    /// Checks what the configs are together.
    pub(super) fn check_together(
        self,
        configs: BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, Refusal> {
        if let Self::Group(settings) = self {
            group_config::check_together(&configs, settings).map_err(Refusal::InvalidConfig)?;
        }
        Ok(configs)
    }

    /// The definition of a config whose values are lists.
    pub(super) fn list(self, name: &str) -> Option<&'static topic_config::Definition> {
        let definition = match self {
            Self::Topic => topic_config::by_name(name),
            Self::Broker => topic_config::by_server_name(name),
            Self::Group(_) => None,
        };
        definition.filter(|definition| matches!(definition.kind, topic_config::Kind::List(_)))
    }

    pub(super) fn knows(self, name: &str) -> Result<(), Refusal> {
        match self {
            Self::Topic => definition_of(name, topic_config::by_name(name), "topic").map(drop),
            Self::Broker => {
                definition_of(name, topic_config::by_server_name(name), "dynamic broker").map(drop)
            }
            Self::Group(_) => definition_of(name, group_config::by_name(name), "group").map(drop),
        }
    }
}

fn definition_of<T>(name: &str, definition: Option<T>, kind: &str) -> Result<T, Refusal> {
    definition.ok_or_else(|| Refusal::InvalidConfig(format!("unknown {kind} config name: {name}")))
}

/// What a change is made to.
pub(super) enum Target {
    Topic(String),
    Other(ConfigResource),
}

/// The resource that is to be changed, or why it cannot be.
pub(super) fn target(core: &Core, kind: i8, name: &str) -> Result<Target, (ErrorCode, String)> {
    let invalid = |reason: String| Err((ErrorCode::InvalidRequest, reason));
    match kind {
        TOPIC => Ok(Target::Topic(name.to_owned())),
        BROKER => Ok(Target::Other(ConfigResource::Broker(broker_id(
            core, name,
        )?))),
        GROUP if name.is_empty() => invalid("default group resources are not allowed".into()),
        GROUP => Ok(Target::Other(ConfigResource::Group(name.to_owned()))),
        BROKER_LOGGER => invalid(
            "the level of the broker's log is set when it starts, and cannot be changed".into(),
        ),
        other => invalid(format!("configs of resource type {other} are not served")),
    }
}

/// The broker of a resource name: this one, or for the empty name all.
pub(super) fn broker_id(core: &Core, name: &str) -> Result<Option<i32>, (ErrorCode, String)> {
    let node_id = core.config.node_id;
    if name.is_empty() {
        Ok(None)
    } else if name == node_id.to_string() {
        Ok(Some(node_id))
    } else {
        Err((
            ErrorCode::InvalidRequest,
            format!(
                "unexpected broker id, expected {node_id} or an empty string, but received {name}"
            ),
        ))
    }
}

/// Changes the configs of a target.
pub(super) fn change(
    core: &Core,
    target: &Target,
    validate_only: bool,
    change: impl FnOnce(
        Table<'_>,
        &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, Refusal>,
) -> Result<(), (ErrorCode, String)> {
    let result = match target {
        Target::Topic(name) => {
            core.set_topic_configs(name, validate_only, |current| change(Table::Topic, current))
        }
        Target::Other(resource) => {
            let table = match resource {
                ConfigResource::Broker(_) => Table::Broker,
                ConfigResource::Group(_) => Table::Group(&core.config.group_settings),
            };
            core.set_configs(resource, validate_only, |current| {
                table.check_together(change(table, current)?)
            })
        }
    };
    result.map_err(|error| super::errors::of_change(&error))
}

/// Which keys are there more than once.
pub(super) fn repeated<K: Eq + Hash>(keys: impl IntoIterator<Item = K>) -> HashMap<K, bool> {
    let mut repeated = HashMap::new();
    for key in keys {
        repeated
            .entry(key)
            .and_modify(|is_repeated| *is_repeated = true)
            .or_insert(false);
    }
    repeated
}

/// The refusal of a resource that the request names more than once.
pub(super) fn named_again() -> (ErrorCode, String) {
    (
        ErrorCode::InvalidRequest,
        "each resource must appear at most once".into(),
    )
}
