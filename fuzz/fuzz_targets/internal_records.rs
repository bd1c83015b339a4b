//! Records of the internal topics, which any client may read and an administrator may have damaged: what decodes must encode to a record
//! that decodes to the same.
#![no_main]

use brooklet_broker::coordinator::group::records::GroupRecord;
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
});
