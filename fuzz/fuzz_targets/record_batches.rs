//! Record batches, from a producer that may send anything: raw bytes, and batches that were whole before a few of their bytes were changed
//! (with their CRC put right again, so that what is behind it is reached).
#![no_main]

use arbitrary::Arbitrary;
use brooklet_broker::log::{AppendOrigin, Log, LogConfig, OpenOptions, ValidBatch};
use brooklet_broker::protocol::compression::Codec;
use brooklet_broker::protocol::record_batch::{self, Builder, RecordBatch};
use brooklet_fuzz::in_proportion;
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use std::path::Path;
use std::sync::Arc;

use brooklet_broker::disk::{Disk, SimDisk};

const NOW_MS: i64 = 1_700_000_000_000;

#[derive(Arbitrary, Debug)]
struct Record {
    timestamp: i32,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

#[derive(Arbitrary, Debug)]
enum Input {
    Raw(Vec<u8>),
    Built {
        records: Vec<Record>,
        codec: u8,
        producer: Option<(u8, u8, u8)>,
        transactional: bool,
        changes: Vec<(u16, u8)>,
        compact: bool,
    },
}

fn bytes_of(input: Input) -> (BytesMut, bool, bool) {
    match input {
        Input::Raw(bytes) => (BytesMut::from(bytes.as_slice()), false, false),
        Input::Built { records, codec, producer, transactional, changes, compact } => {
            let mut builder = Builder::new().codec(Codec::from_id(codec % 5).expect("five codecs"));
            if let Some((id, epoch, sequence)) = producer {
                builder = builder.producer(id.into(), epoch.into(), sequence.into());
            }
            if transactional {
                builder = builder.transactional();
            }
            if records.is_empty() {
                // A batch has a record: bytes without one come as `Raw`.
                builder.append(NOW_MS, None, None, &[]);
            }
            for record in &records {
                let headers: Vec<(&str, Option<&[u8]>)> =
                    record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
                builder.append(NOW_MS + i64::from(record.timestamp), record.key.as_deref(), record.value.as_deref(), &headers);
            }
            let whole = changes.is_empty() && !records.is_empty();
            let mut bytes = builder.build();
            let length = bytes.len();
            for (at, change) in changes {
                bytes[usize::from(at) % length] ^= change;
            }
            let crc = crc_fast::crc32_iscsi(&bytes[21..]);
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
            (bytes, compact, whole && !compact && !transactional)
        }
    }
}

fuzz_target!(|input: Input| {
    let (bytes, compact, valid) = bytes_of(input);
    if let Ok(batch) = RecordBatch::parse(&bytes) {
        let mut scratch = Vec::new();
        // A decompressor may grow what it gets, up to its bound and no further.
        if let Ok(records) = batch.records(&mut scratch, 1 << 20) {
            for record in records {
                let Ok(record) = record else { break };
                for (key, value) in record.headers() {
                    std::hint::black_box((key, value));
                }
            }
        }
        assert!(scratch.len() <= 1 << 20, "decompressed beyond the bound");
    }
    for batch in record_batch::batches(&bytes) {
        assert!(batch.size_bytes() <= bytes.len());
    }
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/data")).expect("a directory");
    let config = LogConfig { compact, ..LogConfig::default() };
    let options = OpenOptions {
        dir: "/data/t-0".into(),
        topic_id: uuid::Uuid::from_u128(1),
        config,
        clean_shutdown: false,
        recovery_point: 0,
        log_start_offset: 0,
    };
    let (mut log, _) = Log::open(Arc::new(disk), options, NOW_MS).expect("an empty log opens");
    let rules = log.append_rules();
    let length = bytes.len();
    let checked = if bytes.get(21 + 1).is_some_and(|attributes| attributes & 7 == 0) {
        in_proportion(length, "check", || ValidBatch::check(bytes.clone(), &rules, AppendOrigin::Client, NOW_MS))
    } else {
        ValidBatch::check(bytes.clone(), &rules, AppendOrigin::Client, NOW_MS)
    };
    match checked {
        Ok(batch) => {
            if let Ok(appended) = log.append(batch, 0, NOW_MS) {
                let end = log.log_end_offset();
                let read = log.read(0, usize::MAX, end, true).expect("what was appended is read");
                assert_eq!(read.next_offset, appended.last_offset + 1);
            }
        }
        Err(error) => assert!(!valid || error.to_string().contains("timestamp") || error.to_string().contains("larger"), "refused: {error}"),
    }
});
