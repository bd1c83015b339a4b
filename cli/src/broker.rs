//! `brooklet broker`: our broker as a server.

use std::error::Error;
use std::path::PathBuf;

use brooklet_broker::server::{MetricsServer, Server};
use brooklet_broker::{Broker, BrokerConfig, Flush};
use clap::{Args, ValueEnum};

use crate::topic::setting;

/// Run a broker that any Kafka client can use.
///
/// `brooklet broker --data ./data --listen 127.0.0.1:9092`
///
/// `brooklet broker server.properties --config num.partitions=4 --metrics-listen 127.0.0.1:9404`
///
/// Acknowledged means on disk; `--flush os` gives Apache Kafka's default instead. SIGTERM or Ctrl-C stops it cleanly.
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// A file of settings under Kafka's server property names. What is given here otherwise wins over it.
    #[arg(value_name = "SERVER.PROPERTIES")]
    properties: Option<PathBuf>,
    /// Directory of its data, created when missing; or `log.dirs` of the file.
    #[arg(long, short)]
    data: Option<PathBuf>,
    /// Where it listens: 127.0.0.1:9092, unless the file's `listeners` says otherwise.
    #[arg(long, short, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// When a write with acks=all is acknowledged: on disk (as without this), or in the system's page cache.
    #[arg(long, value_enum)]
    flush: Option<When>,
    /// A setting under Kafka's server property name, like `num.partitions=4`. May be repeated.
    #[arg(long = "config", value_name = "NAME=VALUE", value_parser = setting)]
    configs: Vec<(String, String)>,
    /// Take a replication factor above one as one, instead of refusing it.
    #[arg(long)]
    clamp_replication_factor: bool,
    /// Answer `GET /metrics` here, in Prometheus' text format.
    #[arg(long, value_name = "HOST:PORT")]
    metrics_listen: Option<String>,
    /// For crash tests: end as by kill -9 at this point, when it is passed for the Nth time.
    #[arg(long, value_name = "POINT:N", hide = true)]
    fault: Option<String>,
}

/// Where it listens when nobody says.
const LISTEN: &str = "127.0.0.1:9092";

#[derive(Clone, Copy, ValueEnum)]
enum When {
    Durable,
    Os,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let config = config(&arguments)?;
    if let Some(fault) = &arguments.fault {
        let (point, passing) = fault.split_once(':').unwrap_or((fault, "1"));
        if !brooklet_broker::fault::arm(point, passing.parse()?) {
            return Err(format!("--fault {point}: this command has no such point").into());
        }
    }
    let listen = config.listen.clone().unwrap_or_else(|| LISTEN.to_owned());
    let data = config.data_dir.display().to_string();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    runtime.worker_threads(config.network_threads.unwrap_or(cores.max(8)));
    let runtime = runtime.enable_all().build()?;
    let broker = Broker::open(config)?;
    let served = runtime.block_on(async {
        let unbound = |address: &str, error| format!("{address} cannot be listened on: {error}");
        let server = Server::bind(broker.clone(), listen.as_str())
            .await
            .map_err(|error| unbound(&listen, error))?;
        if let Some(listen) = &arguments.metrics_listen {
            let scraped = MetricsServer::bind(broker.clone(), listen.as_str())
                .await
                .map_err(|error| unbound(listen, error))?;
            tracing::info!(address = %scraped.local_addr()?, "metrics are at /metrics");
            // Ends with the runtime.
            tokio::spawn(scraped.run(std::future::pending()));
        }
        let address = server.local_addr()?;
        tracing::info!(%address, %data, "broker is ready");
        server.run(stop_signal()).await?;
        Ok(())
    });
    tracing::info!("stopping");
    broker.shutdown()?;
    served
}

/// The file's settings, and over them those of the command line.
fn config(arguments: &Arguments) -> Result<BrokerConfig, Box<dyn Error>> {
    let mut config = BrokerConfig::new("");
    if let Some(path) = &arguments.properties {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        config = config.properties_file(&text)?;
    }
    let configs = arguments.configs.iter();
    config = config.properties(configs.map(|(name, value)| (name.as_str(), value.as_str())))?;
    if let Some(data) = &arguments.data {
        config.data_dir.clone_from(data);
    }
    if config.data_dir.as_os_str().is_empty() {
        return Err("where is the data? Say --data DIR, or log.dirs in a properties file".into());
    }
    if let Some(listen) = &arguments.listen {
        config.listen = Some(listen.clone());
    }
    match arguments.flush {
        Some(When::Durable) => config.flush = Flush::Durable,
        Some(When::Os) => config.flush = Flush::Os,
        None => {}
    }
    config.replication_factor_clamp |= arguments.clamp_replication_factor;
    Ok(config)
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
