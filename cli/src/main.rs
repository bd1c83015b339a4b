//! The `brooklet` command: a broker, and the everyday tools of a Kafka user. A file a subcommand.
//!
//! Everything but `broker`, `log` and `topology` works against any Kafka cluster.

use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

mod broker;
mod config;
mod connection;
mod consume;
mod group;
mod log;
mod perf;
mod produce;
mod reset;
mod topic;
mod topology;
mod transaction;

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
    Transaction(transaction::Command),
    #[command(subcommand)]
    Config(config::Command),
    #[command(subcommand)]
    Log(log::Command),
    #[command(subcommand)]
    Perf(perf::Command),
    Topology(topology::Arguments),
    /// Reserved for access control lists, which are not built yet.
    #[command(hide = true, disable_help_flag = true)]
    Acl(Reserved),
    /// Reserved for users and their passwords, which are not built yet.
    #[command(hide = true, disable_help_flag = true)]
    User(Reserved),
}

/// Whatever is said to a subcommand that is not there yet.
#[derive(clap::Args)]
struct Reserved {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<String>,
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
            Command::Transaction(command) => transaction::run(command),
            Command::Config(command) => config::run(command),
            Command::Perf(command) => perf::run(command),
            Command::Acl(_) => {
                Err("acl is not built yet: whoever can connect may do everything".into())
            }
            Command::User(_) => Err("user is not built yet: nobody has to say who they are".into()),
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
