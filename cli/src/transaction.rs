//! `brooklet transaction`: list and describe transactions, and end one that hangs.

use std::error::Error;

use brooklet_streams_core::client::TopicPartition;
use brooklet_streams_core::client::kafka::{AdminClient, Recipient, messages as wire};
use clap::Subcommand;

use crate::connection::{Connection, print_table};

/// List and describe transactions, and abort one that hangs.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// List transactional ids with their state: `brooklet transaction list --state Ongoing`.
    List {
        /// Only those in this state, like Ongoing or CompleteCommit. May be repeated.
        #[arg(long = "state", value_name = "STATE")]
        states: Vec<String>,
        #[command(flatten)]
        connection: Connection,
    },
    /// Show one: `brooklet transaction describe my-transactional-id`.
    Describe {
        /// Its transactional id.
        id: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// End a transaction that hangs in a partition and holds back its readers:
    /// `brooklet transaction abort --topic orders --partition 0 --start-offset 42`.
    Abort {
        /// The topic.
        #[arg(long)]
        topic: String,
        /// The partition.
        #[arg(long)]
        partition: i32,
        /// Where the transaction begins in it: the last stable offset of the partition, if it is the one that holds readers back.
        #[arg(long)]
        start_offset: i64,
        #[command(flatten)]
        connection: Connection,
    },
}

pub(crate) fn run(command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::List { states, connection } => list(&states, &connection),
        Command::Describe { id, connection } => describe(id, &connection),
        Command::Abort {
            topic,
            partition,
            start_offset,
            connection,
        } => abort(
            &TopicPartition::new(topic.as_str(), partition),
            start_offset,
            &connection,
        ),
    }
}

fn list(states: &[String], connection: &Connection) -> Result<(), Box<dyn Error>> {
    let mut rows = Vec::new();
    // Each broker knows the transactions that it coordinates.
    for node in connection.nodes()? {
        let states: Vec<_> = states.iter().map(|state| state.as_str().into()).collect();
        let response = connection.ask(
            Recipient::Node(node),
            move |_| {
                let mut request = wire::ListTransactionsRequest::default();
                request.state_filters = states.clone();
                request
            },
            |response: &wire::ListTransactionsResponse| response.error_code,
        )?;
        AdminClient::check(response.error_code, "listing transactions", None)?;
        if let Some(unknown) = response.unknown_state_filters.first() {
            return Err(format!("there is no state {unknown}").into());
        }
        rows.extend(response.transaction_states.iter().map(|state| {
            vec![
                state.transactional_id.to_string(),
                node.to_string(),
                state.producer_id.to_string(),
                state.transaction_state.to_string(),
            ]
        }));
    }
    rows.sort();
    Ok(print_table(
        &["TRANSACTIONAL ID", "COORDINATOR", "PRODUCER ID", "STATE"],
        &rows,
    )?)
}

fn describe(id: String, connection: &Connection) -> Result<(), Box<dyn Error>> {
    let asked = id.clone();
    let response = connection.ask(
        Recipient::TransactionCoordinator(id.clone()),
        move |_| {
            let mut request = wire::DescribeTransactionsRequest::default();
            request.transactional_ids = vec![asked.as_str().into()];
            request
        },
        |response: &wire::DescribeTransactionsResponse| {
            let first = response.transaction_states.first();
            first.map_or(0, |state| state.error_code)
        },
    )?;
    let state = response
        .transaction_states
        .first()
        .ok_or_else(|| format!("the cluster said nothing about {id}"))?;
    AdminClient::check(
        state.error_code,
        &format!("describing transactional id {id}"),
        None,
    )?;
    let partitions: Vec<String> = state
        .topics
        .iter()
        .flat_map(|topic| {
            let name = topic.topic.to_string();
            let indexes = topic.partitions.iter();
            indexes.map(move |index| format!("{name}-{index}"))
        })
        .collect();
    let started = match state.transaction_start_time_ms {
        ms if ms < 0 => "-".to_owned(),
        ms => ms.to_string(),
    };
    let rows = [
        ("state", state.transaction_state.to_string()),
        ("producer id", state.producer_id.to_string()),
        ("producer epoch", state.producer_epoch.to_string()),
        ("time-out in ms", state.transaction_timeout_ms.to_string()),
        ("begun at (ms since 1970)", started),
        ("partitions", partitions.join(",")),
    ]
    .map(|(name, value)| vec![name.to_owned(), value]);
    Ok(print_table(&["TRANSACTIONAL ID", &id], &rows)?)
}

fn abort(
    at: &TopicPartition,
    start_offset: i64,
    connection: &Connection,
) -> Result<(), Box<dyn Error>> {
    use wire::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
    let partition = at.clone();
    let response = connection.ask(
        Recipient::Leader(at.clone()),
        move |_| {
            let mut topic = wire::describe_producers_request::TopicRequest::default();
            topic.name = (&*partition.topic).into();
            topic.partition_indexes = vec![partition.partition];
            let mut request = wire::DescribeProducersRequest::default();
            request.topics = vec![topic];
            request
        },
        |_: &wire::DescribeProducersResponse| 0,
    )?;
    let described = response
        .topics
        .first()
        .and_then(|topic| topic.partitions.first())
        .ok_or_else(|| format!("the cluster said nothing about {at}"))?;
    AdminClient::check(
        described.error_code,
        &format!("describing the producers of {at}"),
        described.error_message.as_deref(),
    )?;
    let producer = described
        .active_producers
        .iter()
        .find(|producer| producer.current_txn_start_offset == start_offset)
        .ok_or_else(|| {
            let open: Vec<String> = described
                .active_producers
                .iter()
                .filter(|producer| producer.current_txn_start_offset >= 0)
                .map(|producer| producer.current_txn_start_offset.to_string())
                .collect();
            let open = match open.as_slice() {
                [] => "none is open".to_owned(),
                open => format!("open ones begin at {}", open.join(", ")),
            };
            format!("no transaction begins at offset {start_offset} of {at}: {open}")
        })?;
    let producer_id = producer.producer_id;
    let producer_epoch = i16::try_from(producer.producer_epoch)?;
    // A producer whose coordinator wrote no marker here yet has none.
    let coordinator_epoch = producer.coordinator_epoch.max(0);
    let partition = at.clone();
    let response = connection.ask(
        Recipient::Leader(at.clone()),
        move |_| {
            let mut topic = WritableTxnMarkerTopic::default();
            topic.name = (&*partition.topic).into();
            topic.partition_indexes = vec![partition.partition];
            let mut marker = WritableTxnMarker::default();
            marker.producer_id = producer_id;
            marker.producer_epoch = producer_epoch;
            marker.coordinator_epoch = coordinator_epoch;
            marker.transaction_result = false;
            marker.topics = vec![topic];
            let mut request = wire::WriteTxnMarkersRequest::default();
            request.markers = vec![marker];
            request
        },
        |_: &wire::WriteTxnMarkersResponse| 0,
    )?;
    let written = response
        .markers
        .iter()
        .flat_map(|marker| &marker.topics)
        .flat_map(|topic| &topic.partitions)
        .next()
        .ok_or_else(|| format!("the cluster said nothing about {at}"))?;
    AdminClient::check(
        written.error_code,
        &format!("aborting the transaction at offset {start_offset} of {at}"),
        None,
    )?;
    println!("transaction of producer {producer_id} aborted in {at}");
    Ok(())
}
