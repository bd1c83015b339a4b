//! `brooklet topic`: create, list, describe, delete.

use std::error::Error;

use brooklet_streams_core::client::{
    AdminRequest, AdminResponse, NewTopic, OffsetSpec, TopicPartition,
};
use clap::Subcommand;

use crate::connection::{Connection, print_table, unexpected};

/// Create, list, describe and delete topics.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Create topics: `brooklet topic create orders --partitions 4 --config cleanup.policy=compact`.
    Create {
        /// Their names.
        #[arg(required = true)]
        topics: Vec<String>,
        /// How many partitions; -1 leaves it to the cluster.
        #[arg(long, short, default_value_t = -1, allow_negative_numbers = true)]
        partitions: i32,
        /// How many copies; -1 leaves it to the cluster.
        #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
        replication_factor: i16,
        /// A setting under Kafka's name, like `retention.ms=-1`. May be repeated.
        #[arg(long = "config", value_name = "NAME=VALUE", value_parser = setting)]
        configs: Vec<(String, String)>,
        #[command(flatten)]
        connection: Connection,
    },
    /// List the topics and their number of partitions.
    List {
        /// Also those that begin with two underscores, which are the cluster's own.
        #[arg(long)]
        internal: bool,
        #[command(flatten)]
        connection: Connection,
    },
    /// Show partitions with their offsets, and the settings.
    Describe {
        /// Its name.
        topic: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// Delete topics and all of their records.
    Delete {
        /// Their names.
        #[arg(required = true)]
        topics: Vec<String>,
        #[command(flatten)]
        connection: Connection,
    },
}

pub(crate) fn setting(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("{text:?} is not NAME=VALUE"))
}

pub(crate) fn run(command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Create {
            topics,
            partitions,
            replication_factor,
            configs,
            connection,
        } => {
            let new = |name: &String| NewTopic {
                name: name.clone(),
                partitions,
                replication_factor,
                configs: configs.clone(),
            };
            per_topic(
                connection.call(AdminRequest::CreateTopics(topics.iter().map(new).collect()))?,
                "created",
            )
        }
        Command::Delete { topics, connection } => per_topic(
            connection.call(AdminRequest::DeleteTopics(topics))?,
            "deleted",
        ),
        Command::List {
            internal,
            connection,
        } => {
            let AdminResponse::Topics(topics) = connection.call(AdminRequest::ListTopics)? else {
                return Err(unexpected());
            };
            let rows: Vec<Vec<String>> = topics
                .into_iter()
                .filter(|(name, _)| internal || !name.starts_with("__"))
                .map(|(name, partitions)| vec![name, partitions.unwrap_or(0).to_string()])
                .collect();
            Ok(print_table(&["TOPIC", "PARTITIONS"], &rows)?)
        }
        Command::Describe { topic, connection } => describe(&topic, &connection),
    }
}

fn per_topic(response: AdminResponse, done: &str) -> Result<(), Box<dyn Error>> {
    let AdminResponse::PerTopic(results) = response else {
        return Err(unexpected());
    };
    let mut failed = None;
    for (topic, result) in results {
        match result {
            Ok(()) => println!("{done} {topic}"),
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

fn describe(topic: &str, connection: &Connection) -> Result<(), Box<dyn Error>> {
    let AdminResponse::Topics(topics) =
        connection.call(AdminRequest::DescribeTopics(vec![topic.to_owned()]))?
    else {
        return Err(unexpected());
    };
    let partitions = topics
        .into_iter()
        .find_map(|(_, partitions)| partitions)
        .ok_or_else(|| format!("topic {topic} does not exist on {}", connection.bootstrap))?;
    let offsets = |spec: OffsetSpec| -> Result<Vec<String>, Box<dyn Error>> {
        let asked = (0..partitions)
            .map(|partition| (TopicPartition::new(topic, partition), spec))
            .collect();
        let AdminResponse::Offsets(mut offsets) =
            connection.call(AdminRequest::ListOffsets(asked))?
        else {
            return Err(unexpected());
        };
        offsets.sort_by_key(|(partition, _)| partition.partition);
        Ok(offsets
            .into_iter()
            .map(|(_, offset)| {
                offset.map_or_else(|error| error.to_string(), |offset| offset.to_string())
            })
            .collect())
    };
    let starts = offsets(OffsetSpec::Earliest)?;
    let ends = offsets(OffsetSpec::Latest {
        read_committed: false,
    })?;
    let rows: Vec<Vec<String>> = (0..)
        .zip(starts.into_iter().zip(ends))
        .map(|(partition, (start, end)): (i32, _)| vec![partition.to_string(), start, end])
        .collect();
    print_table(&["PARTITION", "LOG START", "HIGH WATERMARK"], &rows)?;
    let AdminResponse::Configs(configs) =
        connection.call(AdminRequest::DescribeTopicConfigs(topic.to_owned()))?
    else {
        return Err(unexpected());
    };
    println!();
    Ok(print_table(
        &["SETTING", "VALUE"],
        &configs
            .into_iter()
            .map(|(name, value)| vec![name, value])
            .collect::<Vec<_>>(),
    )?)
}
