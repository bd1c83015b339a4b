//! The commands of the metadata journal, byte for byte.
//!
//! Integers are big-endian; a string is its length as u32 and its bytes; an id is 16 bytes.
//!
//! ```text
//! 1 CreateTopic         name, id, partition count i32, configs
//! 2 DeleteTopic         id
//! 3 SetPartitionCount   id, partition count i32
//! 4 SetTopicConfigs     id, configs (all of them, not the difference)
//! 5 ReserveProducerIds  end i64
//! 6 StartLeaderEpoch    epoch i32
//! 7 SetConfigs          resource type i8, name, configs (all of them; none removes the resource)
//! configs: count u32, then name and value as strings
//! ```

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{ConfigResource, Topic};

/// A change of the metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A topic appears.
    CreateTopic(Topic),
    /// A topic disappears.
    DeleteTopic {
        /// Which.
        id: Uuid,
    },
    /// A topic has more partitions.
    SetPartitionCount {
        /// Which.
        id: Uuid,
        /// How many from now on.
        partition_count: i32,
    },
    /// A topic has other configs.
    SetTopicConfigs {
        /// Which.
        id: Uuid,
        /// All that are set from now on.
        configs: BTreeMap<String, String>,
    },
    /// Producer ids below `end` may be given out.
    ReserveProducerIds {
        /// Exclusive.
        end: i64,
    },
    /// Batches carry this leader epoch from now on.
    StartLeaderEpoch {
        /// The epoch.
        epoch: i32,
    },
    /// A resource other than a topic has other configs.
    SetConfigs {
        /// Which.
        resource: ConfigResource,
        /// All that are set from now on.
        configs: BTreeMap<String, String>,
    },
}

impl Command {
    /// The bytes of the command.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::CreateTopic(topic) => {
                out.push(1);
                put_string(&mut out, &topic.name);
                out.extend_from_slice(topic.id.as_bytes());
                out.extend_from_slice(&topic.partition_count.to_be_bytes());
                put_configs(&mut out, &topic.configs);
            }
            Self::DeleteTopic { id } => {
                out.push(2);
                out.extend_from_slice(id.as_bytes());
            }
            Self::SetPartitionCount {
                id,
                partition_count,
            } => {
                out.push(3);
                out.extend_from_slice(id.as_bytes());
                out.extend_from_slice(&partition_count.to_be_bytes());
            }
            Self::SetTopicConfigs { id, configs } => {
                out.push(4);
                out.extend_from_slice(id.as_bytes());
                put_configs(&mut out, configs);
            }
            Self::ReserveProducerIds { end } => {
                out.push(5);
                out.extend_from_slice(&end.to_be_bytes());
            }
            Self::StartLeaderEpoch { epoch } => {
                out.push(6);
                out.extend_from_slice(&epoch.to_be_bytes());
            }
            Self::SetConfigs { resource, configs } => {
                out.push(7);
                let (kind, name) = resource.key();
                out.push(kind as u8);
                put_string(&mut out, &name);
                put_configs(&mut out, configs);
            }
        }
        out
    }

    /// The command of these bytes, or `None` if they are not one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = bytes;
        let command = match take::<1>(&mut input)? {
            [1] => Self::CreateTopic(Topic {
                name: take_string(&mut input)?.into(),
                id: Uuid::from_bytes(take(&mut input)?),
                partition_count: i32::from_be_bytes(take(&mut input)?),
                configs: take_configs(&mut input)?,
            }),
            [2] => Self::DeleteTopic {
                id: Uuid::from_bytes(take(&mut input)?),
            },
            [3] => Self::SetPartitionCount {
                id: Uuid::from_bytes(take(&mut input)?),
                partition_count: i32::from_be_bytes(take(&mut input)?),
            },
            [4] => Self::SetTopicConfigs {
                id: Uuid::from_bytes(take(&mut input)?),
                configs: take_configs(&mut input)?,
            },
            [5] => Self::ReserveProducerIds {
                end: i64::from_be_bytes(take(&mut input)?),
            },
            [6] => Self::StartLeaderEpoch {
                epoch: i32::from_be_bytes(take(&mut input)?),
            },
            [7] => {
                let [kind] = take(&mut input)?;
                let name = take_string(&mut input)?;
                Self::SetConfigs {
                    resource: ConfigResource::of_key(kind as i8, &name)?,
                    configs: take_configs(&mut input)?,
                }
            }
            _ => return None,
        };
        input.is_empty().then_some(command)
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    // Names and values come from frames, whose length fits.
    out.extend_from_slice(&(text.len() as u32).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_configs(out: &mut Vec<u8>, configs: &BTreeMap<String, String>) {
    out.extend_from_slice(&(configs.len() as u32).to_be_bytes());
    for (name, value) in configs {
        put_string(out, name);
        put_string(out, value);
    }
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = input.split_first_chunk::<N>()?;
    *input = rest;
    Some(*taken)
}

fn take_string(input: &mut &[u8]) -> Option<String> {
    let length = u32::from_be_bytes(take(input)?) as usize;
    let (taken, rest) = input.split_at_checked(length)?;
    *input = rest;
    String::from_utf8(taken.to_vec()).ok()
}

fn take_configs(input: &mut &[u8]) -> Option<BTreeMap<String, String>> {
    let mut configs = BTreeMap::new();
    for _ in 0..u32::from_be_bytes(take(input)?) {
        configs.insert(take_string(input)?, take_string(input)?);
    }
    Some(configs)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn configs() -> impl Strategy<Value = BTreeMap<String, String>> {
        prop::collection::btree_map(".{0,8}", ".{0,8}", 0..4)
    }

    fn resource() -> impl Strategy<Value = ConfigResource> {
        prop_oneof![
            any::<i32>().prop_map(|id| ConfigResource::Broker(Some(id))),
            Just(ConfigResource::Broker(None)),
            ".{0,8}".prop_map(ConfigResource::Group),
        ]
    }

    fn command() -> impl Strategy<Value = Command> {
        let id = any::<[u8; 16]>().prop_map(Uuid::from_bytes);
        prop_oneof![
            (".{0,12}", id.clone(), any::<i32>(), configs()).prop_map(
                |(name, id, partition_count, configs)| {
                    Command::CreateTopic(Topic {
                        name: name.into(),
                        id,
                        partition_count,
                        configs,
                    })
                }
            ),
            id.clone().prop_map(|id| Command::DeleteTopic { id }),
            (id.clone(), any::<i32>()).prop_map(|(id, partition_count)| {
                Command::SetPartitionCount {
                    id,
                    partition_count,
                }
            }),
            (id, configs()).prop_map(|(id, configs)| Command::SetTopicConfigs { id, configs }),
            any::<i64>().prop_map(|end| Command::ReserveProducerIds { end }),
            any::<i32>().prop_map(|epoch| Command::StartLeaderEpoch { epoch }),
            (resource(), configs())
                .prop_map(|(resource, configs)| Command::SetConfigs { resource, configs }),
        ]
    }

    proptest! {
        #[test]
        fn a_command_decodes_to_itself_and_its_prefixes_to_none(command in command()) {
            let bytes = command.encode();
            prop_assert_eq!(Command::decode(&bytes), Some(command));
            for end in 0..bytes.len() {
                prop_assert_eq!(Command::decode(bytes.get(..end).unwrap_or_default()), None);
            }
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Command::decode(&bytes);
        }
    }
}
