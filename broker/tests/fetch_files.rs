//! Answers to Fetch whose records the kernel sends from their files: what arrives, over a real socket, is what the log holds.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use brooklet_broker::protocol::record_batch::{Builder, RecordBatch, batches};
use brooklet_broker::protocol::{Request, encode_request};
use brooklet_broker::server::Server;
use brooklet_broker::{Broker, BrokerConfig, Isolation, Partition, messages as wire};
use bytes::BytesMut;
use tokio::sync::oneshot;

const NOW_MS: i64 = 1_700_000_000_000;

/// Runs a broker for the length of a test.
fn with_broker(properties: &[(&str, &str)], test: impl FnOnce(SocketAddr, &Broker, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    let config = BrokerConfig::new(dir.path());
    let config = config.properties(properties.iter().copied()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let broker = Broker::open(config).unwrap();
    let server = runtime
        .block_on(Server::bind(broker.clone(), "127.0.0.1:0"))
        .unwrap();
    let address = server.local_addr().unwrap();
    let (stop, stopping) = oneshot::channel::<()>();
    let stopped = runtime.spawn(server.run(async { drop(stopping.await) }));
    test(address, &broker, dir.path());
    stop.send(()).unwrap();
    runtime.block_on(stopped).unwrap().unwrap();
    broker.shutdown().unwrap();
}

fn create(broker: &Broker, topic: &str, partitions: i32) {
    let mut creatable = wire::create_topics_request::CreatableTopic::default();
    creatable.name = topic.into();
    creatable.num_partitions = partitions;
    creatable.replication_factor = 1;
    let mut request = wire::CreateTopicsRequest::default();
    request.topics = vec![creatable];
    assert_eq!(broker.call(request).unwrap().topics[0].error_code, 0);
}

/// Batches of about 30 KB, none like another.
fn batch(seed: usize) -> BytesMut {
    let mut builder = Builder::new();
    for index in 0..6 + seed % 5 {
        let value: Vec<u8> = (0..4_000)
            .map(|at| ((seed * 31 + index * 7 + at) % 251) as u8)
            .collect();
        builder.append(NOW_MS, None, Some(&value), &[]);
    }
    builder.build()
}

fn append(partition: &Arc<Partition>, seeds: std::ops::Range<usize>) {
    let mut last = 0;
    for seed in seeds {
        last = partition.append(batch(seed), NOW_MS).unwrap().last_offset;
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while partition.high_watermark() <= last {
        assert!(Instant::now() < deadline, "never synced");
        std::thread::yield_now();
    }
}

/// What the log holds from an offset on, as a caller in the process reads it.
fn in_process(partition: &Partition, from: i64, bytes_max: usize) -> Vec<u8> {
    let found = partition.fetch(from, bytes_max, Isolation::ReadUncommitted);
    found.unwrap().batches.concat()
}

/// Connects, and asks for the partitions of a topic from these offsets on.
fn ask(address: SocketAddr, topic: &str, from: &[i64], bytes_max: i32) -> TcpStream {
    let partitions = from.iter().enumerate().map(|(index, offset)| {
        let mut partition = wire::fetch_request::FetchPartition::default();
        partition.partition = index as i32;
        partition.fetch_offset = *offset;
        partition.partition_max_bytes = bytes_max;
        partition
    });
    let mut wanted = wire::fetch_request::FetchTopic::default();
    wanted.topic = topic.into();
    wanted.partitions = partitions.collect();
    let mut request = wire::FetchRequest::default();
    request.max_bytes = i32::MAX;
    request.topics = vec![wanted];
    request.replica_id = -1;
    let frame = encode_request(&Request::Fetch(request), 11, 1, "c").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream.write_all(&frame).unwrap();
    stream
}

/// Reads an answer of version 11 with one topic, some bytes at a time: the records of its partitions.
fn answered(stream: &mut TcpStream, read_bytes: usize) -> Vec<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    for some in frame.chunks_mut(read_bytes) {
        stream.read_exact(some).unwrap();
    }
    let mut at = 0;
    let mut take = |bytes: usize| {
        at += bytes;
        &frame[at - bytes..at]
    };
    let int = |bytes: &[u8]| i32::from_be_bytes(bytes.try_into().unwrap()) as usize;
    // Correlation id; throttle time, error, session.
    take(4);
    assert_eq!(take(4 + 2 + 4)[4..6], [0, 0]);
    assert_eq!(int(take(4)), 1);
    let name_bytes = i16::from_be_bytes(take(2).try_into().unwrap()) as usize;
    take(name_bytes);
    let count = int(take(4));
    let mut found = Vec::new();
    for index in 0..count {
        assert_eq!(int(take(4)), index);
        assert_eq!(take(2), [0, 0], "partition {index}");
        // High watermark, last stable offset, log start offset; no aborted transactions; no preferred replica.
        take(24);
        assert_eq!(take(8), [0xff; 8]);
        let records_bytes = int(take(4));
        found.push(take(records_bytes).to_vec());
    }
    assert_eq!(at, frame.len());
    found
}

/// Nothing is in memory, and a segment holds a few hundred batches at most.
const SETTINGS: [(&str, &str); 2] = [
    ("log.segment.bytes", "3000000"),
    ("log.index.interval.bytes", "4096"),
];

#[test]
fn what_is_sent_from_files_is_what_the_log_holds() {
    with_broker(&SETTINGS, |address, broker, _| {
        create(broker, "t", 3);
        let partitions = [0, 1, 2].map(|index| broker.partition("t", index).unwrap());
        for (index, partition) in partitions.iter().enumerate() {
            append(partition, index * 1_000..index * 1_000 + 300);
        }
        for bytes_max in [1, 20_000, 50_001, 1 << 20, 10_000_000] {
            for from in [0, 33, 700] {
                let offsets = [from, from + 1, from * 2];
                let mut stream = ask(address, "t", &offsets, bytes_max);
                let found = answered(&mut stream, 1 << 20);
                for ((records, partition), offset) in found.iter().zip(&partitions).zip(offsets) {
                    // Only the first partition gets a batch that is larger than it asked for.
                    let wanted = in_process(partition, offset, bytes_max as usize);
                    let is_larger = wanted.len() > bytes_max as usize;
                    let is_first = Arc::ptr_eq(partition, &partitions[0]);
                    assert!(
                        *records == wanted || (is_larger && !is_first && records.is_empty()),
                        "{bytes_max} from {offset}"
                    );
                    for batch in batches(records) {
                        batch.verify_crc().unwrap();
                    }
                }
            }
        }
    });
}

#[test]
fn a_slow_reader_gets_every_byte_though_the_segment_is_deleted_meanwhile() {
    let settings = [
        SETTINGS[0],
        SETTINGS[1],
        ("socket.send.buffer.bytes", "65536"),
        ("log.segment.delete.delay.ms", "0"),
    ];
    with_broker(&settings, |address, broker, dir| {
        create(broker, "t", 1);
        let partition = broker.partition("t", 0).unwrap();
        append(&partition, 0..300);
        let end = partition.high_watermark();
        let expected = in_process(&partition, 0, 2_500_000);
        assert!(expected.len() > 2_400_000);
        let mut slow = ask(address, "t", &[0], 2_500_000);
        // The answer is on its way: its first bytes are here.
        let mut peeked = [0; 1];
        assert_eq!(slow.peek(&mut peeked).unwrap(), 1);
        let mut topic = wire::delete_records_request::DeleteRecordsTopic::default();
        topic.name = "t".into();
        let mut wanted = wire::delete_records_request::DeleteRecordsPartition::default();
        wanted.offset = end;
        topic.partitions = vec![wanted];
        let mut request = wire::DeleteRecordsRequest::default();
        request.topics = vec![topic];
        broker.call(request).unwrap();
        assert_eq!(partition.log_start_offset(), end);
        let is_there = || {
            let mut names = std::fs::read_dir(dir.join("t-0")).unwrap();
            names.any(|entry| {
                let name = entry.unwrap().file_name();
                name.to_str()
                    .unwrap()
                    .starts_with("00000000000000000000.log")
            })
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while is_there() {
            assert!(Instant::now() < deadline, "never deleted");
            std::thread::yield_now();
        }
        // What is written now goes elsewhere.
        append(&partition, 5_000..5_050);
        assert!(answered(&mut slow, 10_000) == [expected]);
    });
}

#[test]
fn a_connection_that_goes_in_the_middle_of_a_file_hurts_nobody() {
    with_broker(&SETTINGS, |address, broker, _| {
        create(broker, "t", 1);
        let partition = broker.partition("t", 0).unwrap();
        append(&partition, 0..200);
        let expected = in_process(&partition, 0, 2_500_000);
        for taken in [0, 1, 1_000, 100_000, 1_000_000] {
            let mut leaving = ask(address, "t", &[0], 2_500_000);
            let mut some = vec![0; taken];
            leaving.read_exact(&mut some).unwrap();
            drop(leaving);
            let found = answered(&mut ask(address, "t", &[0], 2_500_000), 1 << 20);
            assert!(found == [&expected[..]], "{taken}");
        }
    });
}

#[test]
fn a_reader_behind_a_writer_gets_every_batch_once() {
    with_broker(&SETTINGS, |address, broker, _| {
        create(broker, "t", 1);
        let partition = broker.partition("t", 0).unwrap();
        append(&partition, 0..100);
        let writer = std::thread::spawn({
            let partition = partition.clone();
            move || {
                for round in 0..50 {
                    append(&partition, 100 + round * 10..110 + round * 10);
                }
            }
        });
        let (mut seeds, mut offset) = (0, 0);
        while seeds < 600 {
            let found = answered(&mut ask(address, "t", &[offset], 700_000), 50_000);
            let mut rest = &found[0][..];
            while !rest.is_empty() {
                let read = RecordBatch::parse(rest).unwrap();
                read.verify_crc().unwrap();
                assert_eq!(read.base_offset(), offset);
                // As it was built, but for its base offset and leader epoch, which the CRC leaves out.
                let built = batch(seeds);
                assert!(read.bytes()[17..] == built[17..], "batch {seeds}");
                offset = read.last_offset() + 1;
                seeds += 1;
                rest = &rest[read.bytes().len()..];
            }
        }
        writer.join().unwrap();
        assert_eq!(offset, partition.high_watermark());
    });
}
