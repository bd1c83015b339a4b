//! `brooklet config`: settings of topics, brokers and groups.

use std::error::Error;

use brooklet_streams_core::client::kafka::{AdminClient, Recipient, messages as wire};
use clap::{Args, Subcommand};

use crate::connection::{Connection, print_table};
use crate::topic::setting;

/// Show and change settings of topics, brokers and groups.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show settings with where they come from: `brooklet config describe --topic orders`.
    Describe {
        #[command(flatten)]
        resource: Resource,
        /// Also those that have their default value.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        connection: Connection,
    },
    /// Change settings: `brooklet config alter --topic orders --set retention.ms=60000 --delete segment.ms`.
    Alter {
        #[command(flatten)]
        resource: Resource,
        /// A setting with its new value. May be repeated.
        #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
        set: Vec<(String, String)>,
        /// A setting that has its default again. May be repeated.
        #[arg(long, value_name = "NAME")]
        delete: Vec<String>,
        #[command(flatten)]
        connection: Connection,
    },
}

/// Whose settings.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Resource {
    /// A topic.
    #[arg(long)]
    topic: Option<String>,
    /// A broker, by its id.
    #[arg(long, value_name = "ID")]
    broker: Option<i32>,
    /// All brokers.
    #[arg(long)]
    brokers: bool,
    /// A group.
    #[arg(long)]
    group: Option<String>,
}

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const GROUP: i8 = 32;

const SET: i8 = 0;
const DELETE: i8 = 1;

/// How DescribeConfigs numbers where a value comes from.
const SOURCES: [&str; 10] = [
    "unknown",
    "topic",
    "broker, changed while it runs",
    "all brokers, changed while they run",
    "broker",
    "default",
    "logger",
    "client metrics",
    "group",
    "unknown",
];
const DEFAULT_SOURCE: i8 = 5;

impl Resource {
    /// Kafka's number for its type, its name, who has to be asked, and how it is called here.
    fn resolve(&self) -> (i8, String, Recipient, String) {
        if let Some(topic) = &self.topic {
            (
                TOPIC,
                topic.clone(),
                Recipient::Any,
                format!("topic {topic}"),
            )
        } else if let Some(group) = &self.group {
            let to = Recipient::GroupCoordinator(group.clone());
            (GROUP, group.clone(), to, format!("group {group}"))
        } else if let Some(id) = self.broker {
            let to = Recipient::Node(id);
            (BROKER, id.to_string(), to, format!("broker {id}"))
        } else {
            (
                BROKER,
                String::new(),
                Recipient::Any,
                "all brokers".to_owned(),
            )
        }
    }
}

pub(crate) fn run(command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Describe {
            resource,
            all,
            connection,
        } => describe(&resource, all, &connection),
        Command::Alter {
            resource,
            set,
            delete,
            connection,
        } => alter(&resource, &set, &delete, &connection),
    }
}

fn describe(resource: &Resource, all: bool, connection: &Connection) -> Result<(), Box<dyn Error>> {
    let (kind, name, to, what) = resource.resolve();
    let response = connection.ask(
        to,
        move |_| {
            let mut resource = wire::describe_configs_request::DescribeConfigsResource::default();
            resource.resource_type = kind;
            resource.resource_name = name.as_str().into();
            resource.configuration_keys = None;
            let mut request = wire::DescribeConfigsRequest::default();
            request.resources = vec![resource];
            request
        },
        |response: &wire::DescribeConfigsResponse| {
            response
                .results
                .first()
                .map_or(0, |result| result.error_code)
        },
    )?;
    let result = response
        .results
        .first()
        .ok_or_else(|| format!("the cluster said nothing about {what}"))?;
    AdminClient::check(
        result.error_code,
        &format!("settings of {what}"),
        result.error_message.as_deref(),
    )?;
    let mut rows: Vec<Vec<String>> = result
        .configs
        .iter()
        .filter(|config| all || config.config_source != DEFAULT_SOURCE)
        .map(|config| {
            let source = usize::try_from(config.config_source).unwrap_or(0);
            let value = match &config.value {
                Some(value) => value.to_string(),
                None if config.is_sensitive => "(secret)".to_owned(),
                None => "-".to_owned(),
            };
            vec![
                config.name.to_string(),
                value,
                SOURCES.get(source).copied().unwrap_or("unknown").to_owned(),
            ]
        })
        .collect();
    rows.sort();
    Ok(print_table(&["SETTING", "VALUE", "FROM"], &rows)?)
}

fn alter(
    resource: &Resource,
    set: &[(String, String)],
    delete: &[String],
    connection: &Connection,
) -> Result<(), Box<dyn Error>> {
    use wire::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
    if set.is_empty() && delete.is_empty() {
        return Err("nothing to change: say --set NAME=VALUE or --delete NAME".into());
    }
    let change = |name: &str, operation: i8, value: Option<&str>| {
        let mut config = AlterableConfig::default();
        config.name = name.into();
        config.config_operation = operation;
        config.value = value.map(Into::into);
        config
    };
    let changes: Vec<_> = set
        .iter()
        .map(|(name, value)| change(name, SET, Some(value)))
        .chain(delete.iter().map(|name| change(name, DELETE, None)))
        .collect();
    let (kind, name, to, what) = resource.resolve();
    let count = changes.len();
    let response = connection.ask(
        to,
        move |_| {
            let mut resource = AlterConfigsResource::default();
            resource.resource_type = kind;
            resource.resource_name = name.as_str().into();
            resource.configs = changes.clone();
            let mut request = wire::IncrementalAlterConfigsRequest::default();
            request.resources = vec![resource];
            request
        },
        |response: &wire::IncrementalAlterConfigsResponse| {
            response
                .responses
                .first()
                .map_or(0, |result| result.error_code)
        },
    )?;
    let result = response
        .responses
        .first()
        .ok_or_else(|| format!("the cluster said nothing about {what}"))?;
    AdminClient::check(
        result.error_code,
        &format!("changing settings of {what}"),
        result.error_message.as_deref(),
    )?;
    println!("{count} setting(s) of {what} changed");
    Ok(())
}
