//! `brooklet broker`: our broker as a server.

use std::error::Error;
use std::path::PathBuf;

use brooklet_broker::{Broker, BrokerConfig, Flush, server};
use clap::{Args, ValueEnum};

use crate::topic::setting;

/// Run a broker that any Kafka client can use.
///
/// `brooklet broker --data ./data --listen 127.0.0.1:9092`
///
/// Acknowledged means on disk; `--flush os` gives Apache Kafka's default instead. SIGTERM or Ctrl-C stops it cleanly.
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// Directory of its data, created when missing.
    #[arg(long, short)]
    data: PathBuf,
    /// Where it listens.
    #[arg(long, short, default_value = "127.0.0.1:9092", value_name = "HOST:PORT")]
    listen: String,
    /// When a write with acks=all is acknowledged: on disk, or in the system's page cache.
    #[arg(long, value_enum, default_value_t = When::Durable)]
    flush: When,
    /// A setting under Kafka's server property name, like `num.partitions=4`. May be repeated.
    #[arg(long = "config", value_name = "NAME=VALUE", value_parser = setting)]
    configs: Vec<(String, String)>,
}

#[derive(Clone, Copy, ValueEnum)]
enum When {
    Durable,
    Os,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let mut config = BrokerConfig::new(&arguments.data);
    config.flush = match arguments.flush {
        When::Durable => Flush::Durable,
        When::Os => Flush::Os,
    };
    for (name, value) in &arguments.configs {
        config = config.property(name, value)?;
    }
    let broker = Broker::open(config)?;
    server::run_until_signal(broker, &arguments.listen)?;
    Ok(())
}
