//! The cluster that a command talks to, and one request to it.

use std::error::Error;

use brooklet::{Cluster, topics};
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
