//! ApiVersions (key 18), v0–v4.
//! - The served table. A version that is not served is answered by `protocol::decode`, in version 0 with error 35.
//! - No features are finalized yet, so clients take the older of two ways where there are two.

use kafka_wire::{ApiVersionsRequest, ApiVersionsResponse};

use crate::protocol::api;

pub(super) fn handle(_request: ApiVersionsRequest) -> ApiVersionsResponse {
    api::served_answer()
}
