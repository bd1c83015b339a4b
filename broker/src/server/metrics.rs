//! `GET /metrics` over HTTP/1.1: one request a connection, few connections, short times.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::broker::Broker;

/// Scrapes at a time.
const CONNECTIONS_MAX: usize = 8;
/// Longest request head.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// How long a scrape may take in all.
const TIME_MAX: Duration = Duration::from_secs(10);

/// A listener for scrapes.
#[derive(Debug)]
pub struct MetricsServer {
    broker: Broker,
    listener: TcpListener,
}

impl MetricsServer {
    /// Listens on the address (port 0: any free one).
    pub async fn bind(broker: Broker, addr: impl ToSocketAddrs) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        Ok(Self { broker, listener })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers scrapes until the future completes.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut scrapes = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                accepted = self.listener.accept() => accepted,
                Some(_) = scrapes.join_next(), if !scrapes.is_empty() => continue,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "scrape not accepted");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            // Beyond the bound it is closed: Prometheus asks again.
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                continue;
            };
            let broker = self.broker.clone();
            scrapes.spawn(async move {
                let _slot = slot;
                match tokio::time::timeout(TIME_MAX, answer(&broker, stream)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "scrape failed"),
                    Err(_) => tracing::debug!("scrape took too long"),
                }
            });
        }
    }
}

async fn answer(broker: &Broker, mut stream: TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > HEAD_BYTES_MAX {
            return respond(&mut stream, "431 Request Header Fields Too Large", "").await;
        }
        let mut chunk = [0; 1024];
        let read = stream.read(&mut chunk).await?;
        if read == 0 {
            return Ok(());
        }
        head.extend_from_slice(chunk.get(..read).unwrap_or_default());
    }
    match requested(&head) {
        Ok("/metrics") => {
            // Every partition's log is asked: not on the thread that serves connections.
            let broker = broker.clone();
            let text = tokio::task::spawn_blocking(move || broker.metrics_text()).await;
            respond(&mut stream, "200 OK", &text.unwrap_or_default()).await
        }
        Ok(_) => respond(&mut stream, "404 Not Found", "try /metrics\n").await,
        Err(status) => respond(&mut stream, status, "").await,
    }
}

/// The path that a request's head asks for, without its query, or the status that refuses it.
fn requested(head: &[u8]) -> Result<&str, &'static str> {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| "400 Bad Request")?;
    let mut words = line.split(' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some("GET"), Some(target), Some(version), None) if version.starts_with("HTTP/1.") => {
            Ok(target.split('?').next().unwrap_or_default())
        }
        (Some(_), Some(_), Some(version), None) if version.starts_with("HTTP/1.") => {
            Err("405 Method Not Allowed")
        }
        _ => Err("400 Bad Request"),
    }
}

async fn respond(stream: &mut TcpStream, status: &str, body: &str) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_get_of_http_1_is_understood() {
        assert_eq!(
            requested(b"GET /metrics?x=1 HTTP/1.1\r\n\r\n"),
            Ok("/metrics")
        );
        assert_eq!(requested(b"GET / HTTP/1.0\r\n\r\n"), Ok("/"));
        assert_eq!(
            requested(b"POST /metrics HTTP/1.1\r\n\r\n"),
            Err("405 Method Not Allowed")
        );
        for garbage in [
            &b""[..],
            b"\xff\xfe",
            b"GET",
            b"GET /metrics",
            b"\0\0\0\x0a\0\x12",
        ] {
            assert_eq!(requested(garbage), Err("400 Bad Request"));
        }
    }
}
