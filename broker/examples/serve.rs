//! A broker that listens, in twenty lines: `cargo run --example serve -- DIR HOST:PORT [PROPERTY=VALUE]...`

use brooklet_broker::server::Server;
use brooklet_broker::{Broker, BrokerConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(address)) = (arguments.next(), arguments.next()) else {
        return Err("usage: serve DIR HOST:PORT [PROPERTY=VALUE]...".into());
    };
    let mut config = BrokerConfig::new(dir);
    for property in arguments {
        let (name, value) = property
            .split_once('=')
            .ok_or("properties are NAME=VALUE")?;
        config = config.property(name, value)?;
    }
    let broker = Broker::open(config)?;
    let server = Server::bind(broker.clone(), address).await?;
    println!("listening on {}", server.local_addr()?);
    server
        .run(async { drop(tokio::signal::ctrl_c().await) })
        .await?;
    broker.shutdown()?;
    Ok(())
}
