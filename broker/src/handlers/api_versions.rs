//! ApiVersions (key 18), v0–v4.
//! - The served table. A version that is not served is answered by `protocol::decode`, in version 0 with error 35.
//! - Features (v3) as of `protocol::features`; those whose levels start at 0 from v4 on, as by Kafka.

use kafka_wire::{ApiVersionsRequest, ApiVersionsResponse};

use crate::protocol::api;

pub(super) fn handle(_request: ApiVersionsRequest) -> ApiVersionsResponse {
    api::served_answer()
}
