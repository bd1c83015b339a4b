//! `brooklet group`: list and describe consumer groups, which every streams application is one of.

use std::collections::HashMap;
use std::error::Error;

use brooklet_streams_core::client::{AdminRequest, AdminResponse, OffsetSpec, TopicPartition};
use clap::Subcommand;

use crate::connection::{Connection, print_table, unexpected};

/// List and describe consumer groups.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// List the groups with their state.
    List {
        #[command(flatten)]
        connection: Connection,
    },
    /// Show committed offsets with their lag, and the members.
    Describe {
        /// Its id: for a streams application, the application id.
        group: String,
        #[command(flatten)]
        connection: Connection,
    },
}

pub(crate) fn run(command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::List { connection } => {
            let AdminResponse::Groups(groups) = connection.call(AdminRequest::ListGroups)? else {
                return Err(unexpected());
            };
            let rows: Vec<Vec<String>> = groups
                .into_iter()
                .map(|group| {
                    vec![
                        group.group,
                        or_dash(group.state),
                        or_dash(group.protocol_type),
                    ]
                })
                .collect();
            Ok(print_table(&["GROUP", "STATE", "PROTOCOL TYPE"], &rows)?)
        }
        Command::Describe { group, connection } => describe(&group, &connection),
    }
}

fn or_dash(text: String) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text
    }
}

fn describe(group: &str, connection: &Connection) -> Result<(), Box<dyn Error>> {
    let AdminResponse::Group(description) =
        connection.call(AdminRequest::DescribeGroup(group.to_owned()))?
    else {
        return Err(unexpected());
    };
    let fetch = AdminRequest::FetchOffsets {
        group: group.to_owned(),
        partitions: Vec::new(),
    };
    let AdminResponse::CommittedOffsets(committed) = connection.call(fetch)? else {
        return Err(unexpected());
    };
    if committed.is_empty() && description.members.is_empty() {
        return Err(format!(
            "group {group} has neither members nor committed offsets on {}",
            connection.bootstrap
        )
        .into());
    }
    println!("group {group}: {}\n", or_dash(description.state));
    let asked: Vec<(TopicPartition, OffsetSpec)> = committed
        .iter()
        .map(|(at, _)| {
            (
                at.clone(),
                OffsetSpec::Latest {
                    read_committed: false,
                },
            )
        })
        .collect();
    let ends: HashMap<TopicPartition, i64> = if asked.is_empty() {
        HashMap::new()
    } else {
        let AdminResponse::Offsets(ends) = connection.call(AdminRequest::ListOffsets(asked))?
        else {
            return Err(unexpected());
        };
        ends.into_iter()
            .filter_map(|(at, end)| Some((at, end.ok()?)))
            .collect()
    };
    let rows: Vec<Vec<String>> = committed
        .into_iter()
        .filter_map(|(at, offset)| {
            let offset = offset?.offset;
            let (end, lag) = ends
                .get(&at)
                .map_or(("-".to_owned(), "-".to_owned()), |end| {
                    (end.to_string(), (end - offset).to_string())
                });
            Some(vec![
                at.topic.to_string(),
                at.partition.to_string(),
                offset.to_string(),
                end,
                lag,
            ])
        })
        .collect();
    print_table(&["TOPIC", "PARTITION", "COMMITTED", "END", "LAG"], &rows)?;
    if !description.members.is_empty() {
        println!();
        let rows: Vec<Vec<String>> = description
            .members
            .into_iter()
            .map(|member| {
                let assignment: Vec<String> =
                    member.assignment.iter().map(ToString::to_string).collect();
                vec![
                    member.member_id,
                    member.client_id,
                    member.host,
                    or_dash(assignment.join(",")),
                ]
            })
            .collect();
        print_table(&["MEMBER", "CLIENT", "HOST", "ASSIGNMENT"], &rows)?;
    }
    Ok(())
}
