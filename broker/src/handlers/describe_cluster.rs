//! DescribeCluster (key 60), v0–v2.
//! - Authorized operations, when asked: all that a cluster has, since nothing is authorized.
//! - This broker, which is also the controller. Controllers as endpoints (v1) are not served (114).

use kafka_wire::describe_cluster_response::DescribeClusterBroker;
use kafka_wire::{DescribeClusterRequest, DescribeClusterResponse};

use super::{CLUSTER_OPERATIONS, NO_OPERATIONS};
use crate::broker::Core;
use crate::protocol::{ErrorCode, message};

const BROKERS: i8 = 1;

pub(super) fn handle(core: &Core, request: DescribeClusterRequest) -> DescribeClusterResponse {
    if request.endpoint_type != BROKERS {
        return message!(DescribeClusterResponse {
            error_code: ErrorCode::MismatchedEndpointType.code(),
            error_message: Some(ErrorCode::MismatchedEndpointType.message().into()),
            endpoint_type: BROKERS,
        });
    }
    let (host, port) = core.endpoint();
    let authorized = if request.include_cluster_authorized_operations {
        CLUSTER_OPERATIONS
    } else {
        NO_OPERATIONS
    };
    message!(DescribeClusterResponse {
        cluster_authorized_operations: authorized,
        endpoint_type: BROKERS,
        cluster_id: core.data_dir.cluster_id.clone().into(),
        controller_id: core.config.node_id,
        brokers: vec![message!(DescribeClusterBroker {
            broker_id: core.config.node_id,
            host: host.into(),
            port: i32::from(port),
        })],
    })
}
