//! The cluster that a command talks to, and one request to it.

use std::error::Error;
use std::time::Duration;

use brooklet::{Cluster, topics};
use brooklet_streams_core::client::kafka::{AdminClient, Recipient, messages};
use brooklet_streams_core::client::{AdminRequest, AdminResponse};
use clap::Args;

/// Options of every command that talks to a cluster.
#[derive(Args, Clone)]
pub(crate) struct Connection {
    /// Any Kafka cluster: one or more HOST:PORT, separated by commas.
    #[arg(
        long,
        short,
        default_value = "127.0.0.1:9092",
        value_name = "HOST:PORT",
        env = "BROOKLET_BOOTSTRAP"
    )]
    pub(crate) bootstrap: String,
}

impl Connection {
    /// The cluster, connected to when first used.
    pub(crate) fn cluster(&self) -> Cluster {
        Cluster::kafka(&self.bootstrap)
    }

    /// One request, and its answer.
    pub(crate) fn call(&self, request: AdminRequest) -> Result<AdminResponse, Box<dyn Error>> {
        Ok(topics::request(&self.cluster(), request)?)
    }
}

/// How long the cluster may take to answer a tool.
const PATIENCE: Duration = Duration::from_secs(30);

impl Connection {
    /// One request of the protocol, and its answer; asked again while `code` of the answer is one that passes.
    pub(crate) fn ask<R>(
        &self,
        to: Recipient,
        build: impl Fn(i16) -> R + Send + Sync + 'static,
        code: impl Fn(&R::Response) -> i16 + Send + Sync + 'static,
    ) -> Result<R::Response, Box<dyn Error>>
    where
        R: messages::RequestResponsePair + Send + Sync + 'static,
        R::Response: Send + 'static,
    {
        let admin = AdminClient::connect(&self.bootstrap)?;
        Ok(admin.ask(to, PATIENCE, build, code)?)
    }

    /// The ids of the cluster's brokers.
    pub(crate) fn nodes(&self) -> Result<Vec<i32>, Box<dyn Error>> {
        let response = self.ask(
            Recipient::Any,
            |_| {
                let mut request = messages::MetadataRequest::default();
                request.topics = Some(Vec::new());
                request.allow_auto_topic_creation = true;
                request
            },
            |_: &messages::MetadataResponse| 0,
        )?;
        Ok(response
            .brokers
            .iter()
            .map(|broker| broker.node_id)
            .collect())
    }
}

/// An answer of another kind than asked for.
pub(crate) fn unexpected() -> Box<dyn Error> {
    "the cluster answered with something else than was asked for".into()
}

/// Prints rows with their columns aligned, numbers as they come.
pub(crate) fn print_table(header: &[&str], rows: &[Vec<String>]) -> std::io::Result<()> {
    use std::io::Write;
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = std::io::stdout().lock();
    let header: Vec<String> = header.iter().map(|&cell| cell.to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
