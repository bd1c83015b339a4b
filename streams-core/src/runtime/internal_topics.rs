//! The internal topics that a topology needs: created when missing, checked when there.

use crate::client::{AdminRequest, AdminResponse, ClientErrorKind, NewTopic};
use crate::error::StreamsError;

use super::requests::Requests;

/// What is to be done about the internal topics. Pure: `existing` is the cluster's answer.
pub(crate) fn missing(
    needed: &[NewTopic],
    existing: &[(String, Option<i32>)],
) -> Result<Vec<NewTopic>, StreamsError> {
    let mut missing = Vec::new();
    for topic in needed {
        let found = existing
            .iter()
            .find(|(name, _)| *name == topic.name)
            .and_then(|(_, partitions)| *partitions);
        match found {
            None => missing.push(topic.clone()),
            Some(partitions) if partitions == topic.partitions => {}
            Some(partitions) => {
                return Err(StreamsError::Other(format!(
                    "internal topic {} has {partitions} partitions, the topology needs {}: the number of input partitions has changed since it was created; \
                     reset the application (delete its internal topics and its state directory), or give it another application.id",
                    topic.name, topic.partitions
                )));
            }
        }
    }
    Ok(missing)
}

/// Creates what is missing. Another creator may win: that is fine as long as its partitions fit.
pub(crate) fn create(requests: &mut Requests, needed: &[NewTopic]) -> Result<(), StreamsError> {
    if needed.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = needed.iter().map(|topic| topic.name.clone()).collect();
    let missing = missing(needed, &describe(requests, names.clone())?)?;
    if !missing.is_empty() {
        tracing::info!(topics = ?missing.iter().map(|topic| &topic.name).collect::<Vec<_>>(), "creating internal topics");
        let AdminResponse::PerTopic(results) =
            requests.call(AdminRequest::CreateTopics(missing))?
        else {
            return Err(StreamsError::Other(
                "the cluster answered a CreateTopics request with something else".to_owned(),
            ));
        };
        for (topic, result) in results {
            match result {
                Ok(()) => {}
                Err(error) if error.kind == ClientErrorKind::TopicExists => {}
                Err(error) => {
                    return Err(StreamsError::Other(format!(
                        "internal topic {topic} cannot be created: {error}"
                    )));
                }
            }
        }
    }
    let missing = self::missing(needed, &describe(requests, names)?)?;
    match missing.first() {
        None => Ok(()),
        Some(topic) => Err(StreamsError::Other(format!(
            "internal topic {} was created but the cluster does not show it",
            topic.name
        ))),
    }
}

/// The partition counts of topics; `None` for one that does not exist.
pub(crate) fn describe(
    requests: &mut Requests,
    names: Vec<String>,
) -> Result<Vec<(String, Option<i32>)>, StreamsError> {
    match requests.call(AdminRequest::DescribeTopics(names))? {
        AdminResponse::Topics(topics) => Ok(topics),
        _ => Err(StreamsError::Other(
            "the cluster answered a request for topics with something else".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn topic(name: &str, partitions: i32) -> NewTopic {
        NewTopic {
            name: name.to_owned(),
            partitions,
            replication_factor: -1,
            configs: Vec::new(),
        }
    }

    #[test]
    fn what_exists_is_not_created_again() {
        let needed = [topic("app-a-repartition", 4), topic("app-b-changelog", 4)];
        let existing = [
            ("app-a-repartition".to_owned(), Some(4)),
            ("app-b-changelog".to_owned(), None),
        ];
        assert_eq!(
            missing(&needed, &existing).unwrap(),
            [topic("app-b-changelog", 4)]
        );
    }

    #[test]
    fn a_changed_number_of_partitions_is_an_error_that_names_the_fix() {
        let error = missing(
            &[topic("app-a-repartition", 4)],
            &[("app-a-repartition".to_owned(), Some(2))],
        )
        .unwrap_err()
        .to_string();
        assert!(
            error.contains("app-a-repartition has 2 partitions, the topology needs 4")
                && error.contains("reset the application"),
            "{error}"
        );
    }
}
