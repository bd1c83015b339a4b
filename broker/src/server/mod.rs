//! The network edge: a listener, a task a connection. The only place with tokio and sockets.

use std::future::Future;
use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, ToSocketAddrs};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::broker::Broker;
use crate::config::BrokerConfig;

mod connection;
mod limits;
mod metrics;
mod sending;

pub use metrics::MetricsServer;

use limits::Limits;

/// How long connections may take to write their last answers when the server stops.
const DRAIN_TIME: std::time::Duration = std::time::Duration::from_secs(2);

/// A broker that listens.
#[derive(Debug)]
pub struct Server {
    broker: Broker,
    listener: TcpListener,
}

impl Server {
    /// Listens on the address (port 0: any free one) and makes the broker tell clients to come there, unless its configuration names another
    /// place. Listening on all interfaces tells them `localhost`.
    pub async fn bind(broker: Broker, addr: impl ToSocketAddrs) -> io::Result<Self> {
        let listener = listen(broker.config(), addr).await?;
        let local = listener.local_addr()?;
        let host = if local.ip().is_unspecified() {
            "localhost".to_owned()
        } else {
            local.ip().to_string()
        };
        broker.advertise(&host, local.port());
        Ok(Self { broker, listener })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the future completes; then takes no more requests, writes the answers that are due, and returns. The broker is the
    /// caller's to shut down.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        run(self.broker, self.listener, shutdown).await
    }
}

/// Listens with the socket settings of the configuration; a connection inherits the sizes of its buffers.
async fn listen(config: &BrokerConfig, addr: impl ToSocketAddrs) -> io::Result<TcpListener> {
    let mut failed = None;
    for addr in tokio::net::lookup_host(addr).await? {
        let listen = || {
            let socket = if addr.is_ipv4() {
                TcpSocket::new_v4()?
            } else {
                TcpSocket::new_v6()?
            };
            socket.set_reuseaddr(true)?;
            if let Ok(bytes) = u32::try_from(config.socket_send_buffer_bytes) {
                socket.set_send_buffer_size(bytes)?;
            }
            if let Ok(bytes) = u32::try_from(config.socket_receive_buffer_bytes) {
                socket.set_recv_buffer_size(bytes)?;
            }
            socket.bind(addr)?;
            socket.listen(config.listen_backlog)
        };
        match listen() {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable)))
}

/// Serves a listener until `shutdown` completes.
pub async fn run(
    broker: Broker,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let limits = Limits::new(broker.clone());
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, or a peer that gave up: neither is a reason to stop serving the others.
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                continue;
            }
        };
        let place = match limits.admit(peer.ip().to_canonical()) {
            Ok(place) => place,
            Err(reason) => {
                tracing::warn!(%peer, %reason, "connection closed");
                continue;
            }
        };
        let (broker, limits, stopped) = (broker.clone(), limits.clone(), stopped.clone());
        connections.spawn(async move {
            let _place = place;
            match connection::serve(broker, limits, stream, peer, stopped).await {
                Ok(()) => tracing::debug!(%peer, "connection closed"),
                Err(error) => tracing::warn!(%peer, %error, "connection closed"),
            }
        });
    }
    drop(listener);
    // Nobody is left to hear if every connection is gone already.
    let _ = stop.send(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_TIME, drained).await.is_err() {
        tracing::warn!("connections aborted that did not take their last answers");
    }
    Ok(())
}
