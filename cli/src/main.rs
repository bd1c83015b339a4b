//! The `brooklet` command: a broker, and the everyday tools of a Kafka user. A file a subcommand.
//!
//! Everything but `broker`, `log` and `topology` works against any Kafka cluster.

use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

mod broker;
mod connection;
mod consume;
mod group;
mod log;
mod produce;
mod topic;
mod topology;

/// Kafka Streams for Rust, and its broker.
///
/// A first round, in two terminals:
///
///   brooklet broker --data ./data --listen 127.0.0.1:9092
///
///   brooklet topic create greetings --partitions 2
///   echo 'ada=hello' | brooklet produce greetings --key-separator =
///   brooklet consume greetings --from-beginning --keys
///
/// Set RUST_LOG=debug to see what happens inside.
#[derive(Parser)]
#[command(
    version,
    verbatim_doc_comment,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Broker(broker::Arguments),
    #[command(subcommand)]
    Topic(topic::Command),
    Produce(produce::Arguments),
    Consume(consume::Arguments),
    #[command(subcommand)]
    Group(group::Command),
    #[command(subcommand)]
    Log(log::Command),
    Topology(topology::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let level = if matches!(arguments.command, Command::Broker(_)) {
        "info"
    } else {
        "warn"
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let run = || -> Result<(), Box<dyn Error>> {
        match arguments.command {
            Command::Broker(arguments) => broker::run(arguments),
            Command::Topic(command) => topic::run(command),
            Command::Produce(arguments) => produce::run(arguments),
            Command::Consume(arguments) => consume::run(arguments),
            Command::Group(command) => group::run(command),
            Command::Log(command) => log::run(command),
            Command::Topology(arguments) => topology::run(arguments),
        }
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        // Somebody read enough: `brooklet consume ... | head`.
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("brooklet: {error}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
