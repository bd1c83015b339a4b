//! `brooklet group`: list, describe, move and delete consumer groups, which every streams application is one of.

use std::collections::HashMap;
use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use brooklet_streams_core::client::kafka::{AdminClient, Recipient, messages as wire};
use brooklet_streams_core::client::{
    AdminRequest, AdminResponse, CommittedOffset, MemberIdentity, OffsetSpec, TopicPartition,
};
use clap::{Args, Subcommand};

use crate::connection::{Connection, print_table, unexpected};
use crate::reset::{self, Target};

/// List, describe, move and delete consumer groups.
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
    /// Move a group to other offsets, while it has no members: `brooklet group reset-offsets billing --topic orders --to-earliest --execute`.
    ///
    /// Without --execute it only says what it would do.
    ResetOffsets(ResetOffsets),
    /// Delete groups with their offsets, while they have no members: `brooklet group delete billing`.
    Delete {
        /// Their ids.
        #[arg(required = true)]
        groups: Vec<String>,
        #[command(flatten)]
        connection: Connection,
    },
}

#[derive(Args)]
pub(crate) struct ResetOffsets {
    /// Its id.
    group: String,
    /// A topic, or some of its partitions: `orders` or `orders:0,2`. May be repeated.
    #[arg(
        long = "topic",
        value_name = "TOPIC[:PARTITIONS]",
        required_unless_present = "all_topics"
    )]
    topics: Vec<String>,
    /// Every partition that the group has committed.
    #[arg(long, conflicts_with = "topics")]
    all_topics: bool,
    #[command(flatten)]
    to: To,
    /// Only say what it would do, which is so anyway.
    #[arg(long, conflicts_with = "execute")]
    dry_run: bool,
    /// Do it.
    #[arg(long)]
    execute: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Where to.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct To {
    /// The oldest record.
    #[arg(long)]
    to_earliest: bool,
    /// The next record to come.
    #[arg(long)]
    to_latest: bool,
    /// Where it is now.
    #[arg(long)]
    to_current: bool,
    /// This offset, or the nearest there is.
    #[arg(long, value_name = "OFFSET")]
    to_offset: Option<i64>,
    /// So many records further, or back if it is negative.
    #[arg(long, value_name = "RECORDS", allow_negative_numbers = true)]
    shift_by: Option<i64>,
    /// The first record since this time: 2026-02-28T12:30:00.000Z.
    #[arg(long, value_name = "TIME", value_parser = reset::parse_time)]
    to_datetime: Option<i64>,
    /// The first record of the last so long: P1D or PT15M.
    #[arg(long, value_name = "DURATION", value_parser = reset::parse_duration)]
    by_duration: Option<Duration>,
}

impl To {
    fn target(&self) -> Result<Target, Box<dyn Error>> {
        Ok(if let Some(offset) = self.to_offset {
            Target::Offset(offset)
        } else if let Some(by) = self.shift_by {
            Target::Shift(by)
        } else if let Some(time_ms) = self.to_datetime {
            Target::Time(time_ms)
        } else if let Some(duration) = self.by_duration {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
            Target::Time(i64::try_from(now.saturating_sub(duration).as_millis())?)
        } else if self.to_earliest {
            Target::Earliest
        } else if self.to_latest {
            Target::Latest
        } else {
            Target::Current
        })
    }
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
        Command::ResetOffsets(arguments) => reset_offsets(&arguments),
        Command::Delete { groups, connection } => delete(&groups, &connection),
    }
}

fn delete(groups: &[String], connection: &Connection) -> Result<(), Box<dyn Error>> {
    let mut failed = None;
    for group in groups {
        let asked = group.clone();
        let code = |response: &wire::DeleteGroupsResponse| {
            response
                .results
                .first()
                .map_or(0, |result| result.error_code)
        };
        let response = connection.ask(
            Recipient::GroupCoordinator(group.clone()),
            move |_| {
                let mut request = wire::DeleteGroupsRequest::default();
                request.groups_names = vec![asked.as_str().into()];
                request
            },
            code,
        )?;
        match AdminClient::check(code(&response), &format!("deleting group {group}"), None) {
            Ok(()) => println!("{group} deleted"),
            Err(error) => {
                eprintln!("{group}: {error}");
                failed = Some(error);
            }
        }
    }
    match failed {
        None => Ok(()),
        Some(_) => Err("not every group was deleted".into()),
    }
}

fn reset_offsets(arguments: &ResetOffsets) -> Result<(), Box<dyn Error>> {
    let connection = &arguments.connection;
    let group = arguments.group.as_str();
    let AdminResponse::Group(description) =
        connection.call(AdminRequest::DescribeGroup(group.to_owned()))?
    else {
        return Err(unexpected());
    };
    if !description.members.is_empty() {
        return Err(format!(
            "group {group} has {} member(s): its offsets can be moved when they are stopped",
            description.members.len()
        )
        .into());
    }
    let AdminResponse::CommittedOffsets(committed) =
        connection.call(AdminRequest::FetchOffsets {
            group: group.to_owned(),
            partitions: Vec::new(),
        })?
    else {
        return Err(unexpected());
    };
    let committed: HashMap<TopicPartition, CommittedOffset> = committed
        .into_iter()
        .filter_map(|(at, offset)| Some((at, offset?)))
        .collect();
    let mut partitions = if arguments.all_topics {
        committed.keys().cloned().collect()
    } else {
        let mut partitions = Vec::new();
        for topic in &arguments.topics {
            partitions.extend(partitions_of(topic, connection)?);
        }
        partitions
    };
    if partitions.is_empty() {
        return Err(format!("group {group} has no committed offsets").into());
    }
    partitions.sort();
    partitions.dedup();
    let target = arguments.to.target()?;
    let starts = offsets(connection, &partitions, OffsetSpec::Earliest)?;
    let end = OffsetSpec::Latest {
        read_committed: false,
    };
    let ends = offsets(connection, &partitions, end)?;
    let at_times = match target {
        Target::Time(time_ms) => offsets(connection, &partitions, OffsetSpec::Timestamp(time_ms))?,
        _ => HashMap::new(),
    };
    let mut rows = Vec::new();
    let mut moved = Vec::new();
    for at in partitions {
        let known = |offsets: &HashMap<TopicPartition, i64>| {
            offsets
                .get(&at)
                .copied()
                .ok_or_else(|| format!("the cluster said nothing about {at}"))
        };
        let before = committed.get(&at).map(|committed| committed.offset);
        let partition = reset::Partition {
            committed: before,
            start: known(&starts)?,
            end: known(&ends)?,
            at_time: at_times.get(&at).copied(),
        };
        let offset =
            reset::offset(target, partition).map_err(|reason| format!("{at}: {reason}"))?;
        rows.push(vec![
            at.topic.to_string(),
            at.partition.to_string(),
            before.map_or("-".to_owned(), |offset| offset.to_string()),
            offset.to_string(),
        ]);
        let metadata = String::new();
        moved.push((at, CommittedOffset { offset, metadata }));
    }
    print_table(&["TOPIC", "PARTITION", "COMMITTED", "NEW"], &rows)?;
    if !arguments.execute {
        println!("\nnothing was changed: add --execute to do it");
        return Ok(());
    }
    connection.call(AdminRequest::CommitOffsets {
        group: group.to_owned(),
        member: MemberIdentity::simple(),
        offsets: moved,
    })?;
    println!("\noffsets of group {group} are changed");
    Ok(())
}

/// `TOPIC` or `TOPIC:0,2` as partitions.
fn partitions_of(
    text: &str,
    connection: &Connection,
) -> Result<Vec<TopicPartition>, Box<dyn Error>> {
    let (topic, wanted) = match text.split_once(':') {
        None => (text, None),
        Some((topic, partitions)) => {
            let parsed: Result<Vec<i32>, _> = partitions
                .split(',')
                .map(|index| index.trim().parse())
                .collect();
            let parsed = parsed.map_err(|_| format!("{text:?} is not TOPIC or TOPIC:0,2"))?;
            (topic, Some(parsed))
        }
    };
    let AdminResponse::Topics(topics) =
        connection.call(AdminRequest::DescribeTopics(vec![topic.to_owned()]))?
    else {
        return Err(unexpected());
    };
    let count = topics
        .into_iter()
        .find_map(|(_, partitions)| partitions)
        .ok_or_else(|| format!("topic {topic} does not exist on {}", connection.bootstrap))?;
    let wanted = wanted.unwrap_or_else(|| (0..count).collect());
    if let Some(missing) = wanted.iter().find(|index| !(0..count).contains(index)) {
        return Err(format!(
            "topic {topic} has partitions 0 to {}, not {missing}",
            count - 1
        )
        .into());
    }
    Ok(wanted
        .into_iter()
        .map(|index| TopicPartition::new(topic, index))
        .collect())
}

fn offsets(
    connection: &Connection,
    partitions: &[TopicPartition],
    spec: OffsetSpec,
) -> Result<HashMap<TopicPartition, i64>, Box<dyn Error>> {
    let asked = partitions.iter().map(|at| (at.clone(), spec)).collect();
    let AdminResponse::Offsets(offsets) = connection.call(AdminRequest::ListOffsets(asked))? else {
        return Err(unexpected());
    };
    let mut found = HashMap::new();
    for (at, offset) in offsets {
        found.insert(at, offset?);
    }
    Ok(found)
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
