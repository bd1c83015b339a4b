//! Clients that misbehave: they lose their connection, and nobody else notices.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use brooklet_broker::server::Server;
use brooklet_broker::{Broker, BrokerConfig};
use tokio::sync::oneshot;

/// Runs a broker for the length of a test.
fn with_broker(test: impl FnOnce(SocketAddr, &Broker)) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let broker = Broker::open(BrokerConfig::new(dir.path())).unwrap();
    let server = runtime
        .block_on(Server::bind(broker.clone(), "127.0.0.1:0"))
        .unwrap();
    let address = server.local_addr().unwrap();
    let (stop, stopping) = oneshot::channel::<()>();
    let stopped = runtime.spawn(server.run(async { drop(stopping.await) }));
    test(address, &broker);
    stop.send(()).unwrap();
    runtime.block_on(stopped).unwrap().unwrap();
    broker.shutdown().unwrap();
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

/// ApiVersions v0 with this correlation id.
fn api_versions(correlation_id: i32) -> Vec<u8> {
    let mut frame = vec![0, 0, 0, 10, 0, 18, 0, 0];
    frame.extend_from_slice(&correlation_id.to_be_bytes());
    frame.extend_from_slice(&[0xff, 0xff]);
    frame
}

fn read_answer(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut body).unwrap();
    body
}

fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    // Closed, or reset because what we sent was not read.
    match stream.read_to_end(&mut rest) {
        Ok(_) => rest.is_empty(),
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn bad_frames_close_their_connection_and_no_other() {
    with_broker(|address, _| {
        let mut good = connect(address);
        let bad: [&[u8]; 6] = [
            // A negative length, and one beyond the bound.
            &[0xff, 0xff, 0xff, 0xff],
            &[0x7f, 0xff, 0xff, 0xff],
            // No header.
            &[0, 0, 0, 2, 0, 3],
            // No such API, no such version.
            &[0, 0, 0, 10, 0x7f, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff],
            &[0, 0, 0, 10, 0, 3, 0, 99, 0, 0, 0, 1, 0xff, 0xff],
            // Metadata v1 with two billion topics.
            &[
                0, 0, 0, 14, 0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff,
            ],
        ];
        for (round, frame) in bad.into_iter().enumerate() {
            let mut stream = connect(address);
            stream.write_all(frame).unwrap();
            assert!(is_closed(&mut stream), "frame {round}");
            good.write_all(&api_versions(round as i32)).unwrap();
            assert_eq!(read_answer(&mut good)[..4], (round as i32).to_be_bytes());
        }
    });
}

#[test]
fn a_connection_closed_in_the_middle_of_a_frame_hurts_nobody() {
    with_broker(|address, _| {
        let frame = api_versions(1);
        for end in 1..frame.len() {
            connect(address).write_all(&frame[..end]).unwrap();
        }
        let mut good = connect(address);
        good.write_all(&frame).unwrap();
        assert_eq!(read_answer(&mut good)[..4], 1_i32.to_be_bytes());
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    with_broker(|address, _| {
        let mut stream = connect(address);
        let sending = stream.try_clone().unwrap();
        let sender = std::thread::spawn(move || {
            let mut sending = sending;
            for correlation_id in 0..500 {
                sending.write_all(&api_versions(correlation_id)).unwrap();
            }
        });
        for correlation_id in 0..500_i32 {
            assert_eq!(read_answer(&mut stream)[..4], correlation_id.to_be_bytes());
        }
        sender.join().unwrap();
    });
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    with_broker(|address, _| {
        let mut slow = connect(address);
        slow.set_write_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        // Until the broker stops reading from it.
        let requests: Vec<u8> = (0..1000).flat_map(api_versions).collect();
        for _ in 0..2000 {
            if slow.write_all(&requests).is_err() {
                break;
            }
        }
        let mut good = connect(address);
        good.write_all(&api_versions(7)).unwrap();
        assert_eq!(read_answer(&mut good)[..4], 7_i32.to_be_bytes());
    });
}

#[test]
fn a_large_claim_costs_no_memory() {
    with_broker(|address, _| {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            let line = status
                .lines()
                .find(|line| line.starts_with("VmRSS:"))
                .unwrap_or("VmRSS: 0 kB")
                .to_owned();
            line.split_whitespace()
                .nth(1)
                .and_then(|number| number.parse::<u64>().ok())
                .unwrap_or(0)
        };
        let before = resident();
        // A Produce of 100 MB each, of which only the header comes.
        let streams: Vec<_> = (0..50)
            .map(|_| {
                let mut stream = connect(address);
                stream.write_all(&100_000_000_u32.to_be_bytes()).unwrap();
                stream.write_all(&[0, 0, 0, 9, 0, 0, 0, 1]).unwrap();
                stream
            })
            .collect();
        let mut good = connect(address);
        good.write_all(&api_versions(1)).unwrap();
        read_answer(&mut good);
        let grown = resident().saturating_sub(before);
        assert!(grown < 100_000, "{grown} kB for {} claims", streams.len());
    });
}
