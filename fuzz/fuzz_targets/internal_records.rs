//! Records of the internal topics, which any client may read and an administrator may have damaged: what decodes must encode to a record
//! that decodes to the same.
#![no_main]

use brooklet_broker::coordinator::group::records::GroupRecord;
use brooklet_broker::coordinator::transaction::records::{self, Transaction};
use brooklet_fuzz::in_proportion;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, Option<Vec<u8>>)| {
    let (key, value) = input;
    let length = key.len() + value.as_ref().map_or(0, Vec::len);
    let decoded = in_proportion(length, "group record", || GroupRecord::decode(&key, value.as_deref()));
    if let Ok(record) = decoded {
        let (key, value) = record.encode();
        assert_eq!(GroupRecord::decode(&key, value.as_deref()).expect("what we encode decodes"), record);
    }
    let decoded = in_proportion(key.len(), "transaction's key", || records::decode_key(&key));
    if let Ok(id) = decoded {
        assert_eq!(records::decode_key(&records::encode_key(&id)).expect("what we encode decodes"), id);
    }
    if let Some(value) = &value {
        let decoded = in_proportion(value.len(), "transaction", || Transaction::decode(value));
        if let Ok(transaction) = decoded {
            // Partitions of an empty one are not written, as with Kafka.
            let encoded = transaction.encode();
            assert_eq!(Transaction::decode(&encoded).expect("what we encode decodes").encode(), encoded);
        }
    }
});
