//! Whether an application has processed and committed all of its input.

use std::collections::HashMap;

use crate::client::{AdminRequest, AdminResponse, OffsetSpec, TopicPartition};
use crate::error::StreamsError;

use super::requests::Requests;

/// Records between the committed offsets of `group` and the ends of `inputs`.
///
/// The ends are asked for after the committed offsets. So when the result is zero, everything upstream was committed before the ends of
/// the repartition topics were read, and these ends are final unless new input arrives.
pub(crate) fn lag(
    requests: &mut Requests,
    group: &str,
    inputs: &[TopicPartition],
) -> Result<u64, StreamsError> {
    let unexpected = || {
        StreamsError::Other(
            "the cluster answered a request for offsets with something else".to_owned(),
        )
    };
    let AdminResponse::CommittedOffsets(committed) = requests.call(AdminRequest::FetchOffsets {
        group: group.to_owned(),
        partitions: inputs.to_vec(),
    })?
    else {
        return Err(unexpected());
    };
    let committed: HashMap<TopicPartition, i64> = committed
        .into_iter()
        .filter_map(|(partition, committed)| Some((partition, committed?.offset)))
        .collect();
    let ask = |spec: OffsetSpec| {
        AdminRequest::ListOffsets(
            inputs
                .iter()
                .map(|partition| (partition.clone(), spec))
                .collect(),
        )
    };
    let AdminResponse::Offsets(starts) = requests.call(ask(OffsetSpec::Earliest))? else {
        return Err(unexpected());
    };
    let AdminResponse::Offsets(ends) = requests.call(ask(OffsetSpec::Latest {
        read_committed: false,
    }))?
    else {
        return Err(unexpected());
    };
    let starts: HashMap<TopicPartition, i64> = starts
        .into_iter()
        .filter_map(|(partition, start)| Some((partition, start.ok()?)))
        .collect();
    let mut lag = 0;
    for (partition, end) in ends {
        // What retention has deleted need not be processed any more.
        let start = starts.get(&partition).copied().unwrap_or(0);
        let from = committed
            .get(&partition)
            .copied()
            .unwrap_or(start)
            .max(start);
        lag += u64::try_from(end? - from).unwrap_or(0);
    }
    Ok(lag)
}
