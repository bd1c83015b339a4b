//! The brokers of a cluster as one client sees them: connections, and who coordinates which group.
//!
//! Leaders are not cached: requests that need them are rare, and asking first makes them right.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_wire::metadata_request::MetadataRequestTopic;
use kafka_wire::{FindCoordinatorRequest, MetadataRequest, MetadataResponse, RequestResponsePair};
use kafka_wire_core::{ApiVersion, StrBytes};
use tokio::time::Instant;

use super::connection::Connection;
use super::error_code;
use crate::client::{ClientError, ClientErrorKind};

const RECONNECT_BACKOFF_MIN: Duration = Duration::from_millis(50);
const RECONNECT_BACKOFF_MAX: Duration = Duration::from_secs(1);
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// Versions from 13 on name topics by id only.
const METADATA_VERSION_MAX: i16 = 12;
const GROUP_KEY: i8 = 0;
const TRANSACTION_KEY: i8 = 1;

/// The connection to one address, or when to try again.
#[derive(Default)]
struct Link {
    connection: Option<Arc<Connection>>,
    backoff: Duration,
    not_before: Option<Instant>,
}

#[derive(Default)]
struct Known {
    links: HashMap<String, Arc<tokio::sync::Mutex<Link>>>,
    addresses: HashMap<i32, String>,
    coordinators: HashMap<String, String>,
}

pub(super) struct Brokers {
    bootstrap: Vec<String>,
    client_id: String,
    request_patience: Duration,
    known: Mutex<Known>,
}

impl Brokers {
    pub(super) fn new(bootstrap: Vec<String>, client_id: &str, request_patience: Duration) -> Self {
        Self {
            bootstrap,
            client_id: client_id.to_owned(),
            request_patience,
            known: Mutex::new(Known::default()),
        }
    }

    pub(super) fn bootstrap(&self) -> String {
        self.bootstrap.join(",")
    }

    pub(super) fn request_patience(&self) -> Duration {
        self.request_patience
    }

    /// Short sections without waits: a panic in one leaves nothing half done.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to `address`: the open one, or a new one after the backoff of earlier failures.
    pub(super) async fn connect(&self, address: &str) -> Result<Arc<Connection>, ClientError> {
        let link = Arc::clone(self.known().links.entry(address.to_owned()).or_default());
        // Held while connecting, so that callers at the same time share the attempt.
        let mut link = link.lock().await;
        if let Some(connection) = link
            .connection
            .as_ref()
            .filter(|connection| connection.is_open())
        {
            return Ok(Arc::clone(connection));
        }
        link.connection = None;
        if let Some(not_before) = link.not_before {
            tokio::time::sleep_until(not_before).await;
        }
        match Connection::open(
            address,
            &self.client_id,
            CONNECT_PATIENCE.min(self.request_patience),
        )
        .await
        {
            Ok(connection) => {
                let connection = Arc::new(connection);
                *link = Link {
                    connection: Some(Arc::clone(&connection)),
                    ..Link::default()
                };
                Ok(connection)
            }
            Err(error) => {
                link.backoff =
                    (link.backoff * 2).clamp(RECONNECT_BACKOFF_MIN, RECONNECT_BACKOFF_MAX);
                link.not_before = Some(Instant::now() + link.backoff);
                Err(error)
            }
        }
    }

    /// A connection to any broker: those named at the start in order, then those heard of since.
    pub(super) async fn any(&self) -> Result<Arc<Connection>, ClientError> {
        let mut addresses = self.bootstrap.clone();
        addresses.extend(
            self.known()
                .addresses
                .values()
                .filter(|address| !self.bootstrap.contains(address))
                .cloned(),
        );
        let mut first_error = None;
        for address in &addresses {
            match self.connect(address).await {
                Ok(connection) => return Ok(connection),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        Err(first_error.unwrap_or_else(|| {
            ClientError::new(ClientErrorKind::Config, "bootstrap.servers is empty")
        }))
    }

    /// A connection to the broker of this id, as the last metadata named it.
    pub(super) async fn node(&self, node_id: i32) -> Result<Arc<Connection>, ClientError> {
        let address = self.known().addresses.get(&node_id).cloned();
        match address {
            Some(address) => self.connect(&address).await,
            None => Err(ClientError::new(
                ClientErrorKind::Retriable,
                format_args!("broker {node_id} is not in the cluster's metadata"),
            )),
        }
    }

    /// Topics with partitions and leaders; all of them for `None`. Never creates a topic.
    pub(super) async fn metadata(
        &self,
        topics: Option<&[String]>,
    ) -> Result<MetadataResponse, ClientError> {
        let connection = self.any().await?;
        let version = connection.version::<MetadataRequest>(METADATA_VERSION_MAX)?;
        let mut request = MetadataRequest::default();
        request.allow_auto_topic_creation = false;
        request.topics = topics.map(|topics| {
            let topic = |name: &String| {
                let mut topic = MetadataRequestTopic::default();
                topic.name = Some(StrBytes::from(name.as_str()));
                topic
            };
            topics.iter().map(topic).collect()
        });
        if version.value() < 4 {
            // Versions before could not say no: whether the broker creates topics is then its own setting.
            request.allow_auto_topic_creation = true;
        }
        if version.value() == 0 {
            // There, an empty list means all.
            request.topics.get_or_insert_default();
        }
        let response = connection
            .call(&request, version, self.request_patience)
            .await?;
        let mut known = self.known();
        for broker in &response.brokers {
            known
                .addresses
                .insert(broker.node_id, address(&broker.host, broker.port));
        }
        drop(known);
        Ok(response)
    }

    /// A connection to the coordinator of `group`, as found the last time or now.
    pub(super) async fn coordinator(&self, group: &str) -> Result<Arc<Connection>, ClientError> {
        let cached = self.known().coordinators.get(group).cloned();
        if let Some(address) = cached {
            let connected = self.connect(&address).await;
            if connected.is_err() {
                self.forget_coordinator(group);
            }
            return connected;
        }
        let connection = self.any().await?;
        let version = connection.version::<FindCoordinatorRequest>(i16::MAX)?;
        let mut request = FindCoordinatorRequest::default();
        if version.value() >= 1 {
            request.key_type = GROUP_KEY;
        }
        if version.value() >= 4 {
            request.coordinator_keys = vec![StrBytes::from(group)];
        } else {
            request.key = StrBytes::from(group);
        }
        let response = connection
            .call(&request, version, self.request_patience)
            .await?;
        let what = format_args!("finding the coordinator of group {group}").to_string();
        let (host, port) = if version.value() >= 4 {
            let found = response.coordinators.first().ok_or_else(|| {
                ClientError::new(
                    ClientErrorKind::Retriable,
                    format_args!("{what}: the answer is empty"),
                )
            })?;
            error_code::check(found.error_code, &what, found.error_message.as_deref())?;
            (found.host.clone(), found.port)
        } else {
            error_code::check(
                response.error_code,
                &what,
                response.error_message.as_deref(),
            )?;
            (response.host, response.port)
        };
        let address = address(&host, port);
        self.known()
            .coordinators
            .insert(group.to_owned(), address.clone());
        self.connect(&address).await
    }

    /// A connection to the coordinator of a transactional id, asked for each time.
    pub(super) async fn transaction_coordinator(
        &self,
        id: &str,
    ) -> Result<Arc<Connection>, ClientError> {
        let connection = self.any().await?;
        let version = connection.version::<FindCoordinatorRequest>(i16::MAX)?;
        let mut request = FindCoordinatorRequest::default();
        request.key_type = TRANSACTION_KEY;
        if version.value() >= 4 {
            request.coordinator_keys = vec![StrBytes::from(id)];
        } else {
            request.key = StrBytes::from(id);
        }
        let response = connection
            .call(&request, version, self.request_patience)
            .await?;
        let what = format!("finding the coordinator of transactional id {id}");
        let (code, message, host, port) = match response.coordinators.first() {
            Some(found) => (
                found.error_code,
                found.error_message.as_deref(),
                &found.host,
                found.port,
            ),
            None => (
                response.error_code,
                response.error_message.as_deref(),
                &response.host,
                response.port,
            ),
        };
        error_code::check(code, &what, message)?;
        self.connect(&address(host, port)).await
    }

    /// Finds it anew the next time.
    pub(super) fn forget_coordinator(&self, group: &str) {
        self.known().coordinators.remove(group);
    }

    /// Forgets the coordinator when `code` says that it is another now.
    pub(super) fn heed_coordinator(&self, group: &str, code: i16) {
        if matches!(
            code,
            error_code::NOT_COORDINATOR | error_code::COORDINATOR_NOT_AVAILABLE
        ) {
            self.forget_coordinator(group);
        }
    }

    /// One request to the coordinator of `group`, built for the version that both sides know. A lost connection forgets the
    /// coordinator; codes in the answer are the caller's.
    pub(super) async fn call_coordinator<R: RequestResponsePair>(
        &self,
        group: &str,
        version_max: i16,
        patience: Duration,
        build: impl FnOnce(ApiVersion) -> R,
    ) -> Result<(ApiVersion, R::Response), ClientError> {
        let connection = self.coordinator(group).await?;
        let version = connection.version::<R>(version_max)?;
        let answer = connection.call(&build(version), version, patience).await;
        if answer.is_err() {
            self.forget_coordinator(group);
        }
        Ok((version, answer?))
    }
}

fn address(host: &str, port: i32) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}
