//! AddOffsetsToTxn (key 25), v0–v4.
//! - Adds the partition of `__consumer_offsets` that belongs to a group. For clients that do not leave it to TxnOffsetCommit v5.

use std::sync::Arc;

use kafka_wire::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};

use super::errors;
use crate::broker::{Answer, Core};
use crate::coordinator::transaction::Request;
use crate::metadata::OFFSETS_TOPIC;
use crate::protocol::{ErrorCode, message};

pub(super) fn handle(core: &Arc<Core>, request: AddOffsetsToTxnRequest, answer: Answer) {
    let respond = |code: ErrorCode| {
        message!(AddOffsetsToTxnResponse {
            error_code: code.code()
        })
    };
    if request.group_id.is_empty() {
        return answer(respond(ErrorCode::InvalidGroupId).into());
    }
    if core.ensure_offsets_topic().is_err() {
        return answer(respond(ErrorCode::CoordinatorNotAvailable).into());
    }
    let index = core.offsets_partition_index(&request.group_id);
    core.transactions.handle(
        core,
        &request.transactional_id,
        Request::AddPartitions {
            producer_id: request.producer_id,
            producer_epoch: request.producer_epoch,
            partitions: [(OFFSETS_TOPIC.into(), index)].into(),
            client_version: 0,
        },
        Box::new(move |result| answer(respond(errors::of_transaction_result(&result)).into())),
    );
}
