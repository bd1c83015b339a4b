//! ListPartitionReassignments (key 46), v0.
//! - There is one broker, so nothing is ever being reassigned; describing topics asks nevertheless.

use kafka_wire::ListPartitionReassignmentsResponse;

pub(super) fn handle() -> ListPartitionReassignmentsResponse {
    ListPartitionReassignmentsResponse::default()
}
