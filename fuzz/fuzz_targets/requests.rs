//! A client that may send anything: frames of every served API and version, decoded, handled by a broker on a simulated disk, and answered.
//!
//! The first two bytes of each frame choose the API and its version, so that every input is a request and the fuzzer works on bodies.
//! Decoding must allocate in proportion to the frame; handling must not panic; every answer must encode. At the end the broker goes down,
//! cleanly or not, and must open again.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use arbitrary::Arbitrary;
use brooklet_broker::disk::{Crash, Disk, SimDisk};
use brooklet_broker::protocol::{self, Decoded, api};
use brooklet_broker::{Broker, BrokerConfig, Drive, clock};
use brooklet_fuzz::in_proportion;
use bytes::{BufMut, Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Frame {
    api: u8,
    version: u8,
    advance_ms: u16,
    body: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
struct Input {
    frames: Vec<Frame>,
    end: End,
}

#[derive(Arbitrary, Debug)]
enum End {
    Clean,
    Lost,
    Kept,
    Torn(u64),
}

fn config(disk: &SimDisk, clock: &Arc<clock::ManualClock>) -> BrokerConfig {
    let mut config = BrokerConfig::new("/data");
    config.drive = Drive::Manual;
    config.disk = Arc::new(disk.clone());
    config.lock_data_dir = false;
    config.clock = clock.clone();
    config.offsets_topic_partitions = 2;
    config.group_initial_rebalance_delay_ms = 0;
    config
}

fuzz_target!(|input: Input| {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/")).expect("a root");
    let clock = Arc::new(clock::ManualClock::new(1_700_000_000_000));
    let broker = Broker::open(config(&disk, &clock)).expect("an empty disk opens");
    for (number, frame) in input.frames.iter().take(8).enumerate() {
        let served = &api::SERVED[usize::from(frame.api) % api::SERVED.len()];
        let versions = i32::from(served.max) - i32::from(served.min) + 1;
        let version = served.min + (i32::from(frame.version) % versions) as i16;
        let mut bytes = BytesMut::new();
        bytes.put_i16(served.key);
        bytes.put_i16(version);
        bytes.put_i32(number as i32);
        bytes.put_i16(-1);
        if served.is_flexible(version) {
            bytes.put_u8(0);
        }
        bytes.put_slice(&frame.body);
        let bytes: Bytes = bytes.freeze();
        let decoded = in_proportion(bytes.len(), served.name, || protocol::decode(bytes.clone(), "/fuzz"));
        let Ok(Decoded::Request(incoming)) = decoded else { continue };
        let reply = incoming.reply;
        broker.submit(
            &incoming.context,
            incoming.request,
            Box::new(move |response| {
                protocol::encode(&reply, response).expect("an answer encodes in the version that was asked");
            }),
        );
        broker.flush_once();
        clock.advance(i64::from(frame.advance_ms));
        broker.step();
    }
    let disk = match input.end {
        End::Clean => {
            broker.shutdown().expect("a broker stops");
            disk
        }
        End::Lost => disk.crash(Crash::LoseUnsynced),
        End::Kept => disk.crash(Crash::KeepAll),
        End::Torn(seed) => disk.crash(Crash::Torn { seed }),
    };
    drop(broker);
    Broker::open(config(&disk, &clock)).expect("what a broker wrote opens again");
});
