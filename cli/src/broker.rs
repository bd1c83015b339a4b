//! `brooklet broker`: our broker as a server.

use std::error::Error;
use std::path::PathBuf;

use brooklet_broker::server::Server;
use brooklet_broker::{Broker, BrokerConfig, Flush};
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
    #[arg(
        long,
        short,
        default_value = "127.0.0.1:9092",
        value_name = "HOST:PORT"
    )]
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
    let runtime = tokio::runtime::Runtime::new()?;
    let served = runtime.block_on(async {
        let server = Server::bind(broker.clone(), arguments.listen.as_str())
            .await
            .map_err(|error| format!("{} cannot be listened on: {error}", arguments.listen))?;
        let address = server.local_addr()?;
        tracing::info!(%address, data = %arguments.data.display(), "broker is ready");
        server.run(stop_signal()).await?;
        Ok(())
    });
    tracing::info!("stopping");
    broker.shutdown()?;
    served
}

/// Ends with the first SIGINT or SIGTERM.
async fn stop_signal() {
    #[cfg(unix)]
    if let Ok(mut terminate) =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
    {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        return;
    }
    // Without SIGTERM, the interrupt alone.
    let _ = tokio::signal::ctrl_c().await;
}
