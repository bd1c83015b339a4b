//! The place of one instance in its group: it joins as the only member, and a second one is refused.
//!
//! Until the group shares its tasks out, one instance does all of them, and another that starts would process everything twice. So:
//!
//! 1. Look at the group. A live member with another instance id: refused, with its name.
//! 2. Join as a static member (KIP-345) whose instance id is the process id. So a restart after a crash takes its own place at once
//!    instead of waiting for its old session to end, and a second process with the same id fences the first.
//! 3. The leader assigns everything to itself and nothing to others. Whoever has nothing in hand after the sync is refused: so it ends
//!    when two start in the same moment. A leader stays one while it lives, so a late-comer never takes over.
//! 4. Heartbeat. A rebalance means that someone else has come: join again, as in 3. An unknown member id means that the session ended
//!    while this process was stopped: begin anew at 1.
//!
//! ## The protocol type is Kafka's `consumer`
//! So tools that know consumer groups show this one, and the cluster keeps the offsets of the topics named in the subscription. The mark
//! that tells "everything" from "nothing" is the assignment's user data, since a group may have no partitions yet.

use std::sync::mpsc as blocking;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_wire::consumer_protocol_assignment::TopicPartition as AssignedTopic;
use kafka_wire::join_group_request::JoinGroupRequestProtocol;
use kafka_wire::leave_group_request::MemberIdentity as LeavingMember;
use kafka_wire::sync_group_request::SyncGroupRequestAssignment;
use kafka_wire::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, DescribeGroupsRequest,
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, SyncGroupRequest,
};
use kafka_wire_core::{ApiVersion, DecodeLimits, StrBytes};
use tokio::sync::oneshot;

use super::brokers::Brokers;
use super::{WireClient, error_code, requests};
use crate::client::{
    Claim, ClaimState, ClientError, ClientErrorKind, GroupDescription, MemberIdentity,
};

/// After so long without a heartbeat the place is free for another process.
const SESSION_TIMEOUT_MS: i32 = 10_000;
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(3_000);
/// How long a rebalance waits for members; a join is answered within.
const REBALANCE_TIMEOUT_MS: i32 = 10_000;
const JOIN_PATIENCE: Duration = Duration::from_secs(25);
const REQUEST_PATIENCE: Duration = Duration::from_secs(8);
const LEAVE_PATIENCE: Duration = Duration::from_secs(2);
const RETRY_BACKOFF: Duration = Duration::from_millis(200);

/// The versions that brought static membership (KIP-345), and all that is needed here. Every broker since Kafka 2.3 serves them.
const JOIN_VERSION_MAX: i16 = 5;
const MEMBER_VERSION_MAX: i16 = 3;

const PROTOCOL_TYPE: &str = "consumer";
const PROTOCOL: &str = "brooklet-one-instance";
const EVERYTHING: &[u8] = b"everything";
const PAYLOAD_VERSION: ApiVersion = ApiVersion::new(0);

/// The handle; the work is in [`ClaimTask`].
pub(in crate::client::kafka) struct WireClaim {
    shared: Arc<Shared>,
    /// Dropped to leave.
    leave: Option<oneshot::Sender<()>>,
    /// Closes when the group has been left.
    left: blocking::Receiver<()>,
    /// Keeps the wire thread until then.
    _client: WireClient,
}

struct Shared {
    state: Mutex<(ClaimState, Option<Waker>)>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, (ClaimState, Option<Waker>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, state: ClaimState) {
        let waker = {
            let mut current = self.state();
            if current.0 == state {
                return;
            }
            current.0 = state;
            current.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn was_held(&self) -> bool {
        matches!(self.state().0, ClaimState::Held(_))
    }

    /// The end of the claim: lost when it was held, refused when not.
    fn end(&self, reason: String) {
        let state = if self.was_held() {
            ClaimState::Lost(reason)
        } else {
            ClaimState::Refused(reason)
        };
        self.publish(state);
    }
}

impl WireClaim {
    pub(super) fn new(
        client: WireClient,
        bootstrap: Vec<String>,
        group: &str,
        instance_id: &str,
        topics: &[String],
    ) -> (Self, ClaimTask) {
        let shared = Arc::new(Shared {
            state: Mutex::new((ClaimState::Pending, None)),
        });
        let (leave, leaving) = oneshot::channel();
        let (done, left) = blocking::channel();
        let task = ClaimTask {
            leaving,
            _done: done,
            member: Member {
                // Connections of its own: a join is answered only when the rebalance ends, and commits must not queue behind it.
                brokers: Brokers::new(bootstrap, group, REQUEST_PATIENCE),
                group: group.to_owned(),
                instance_id: instance_id.to_owned(),
                topics: topics.to_vec(),
                shared: Arc::clone(&shared),
                place: Mutex::new(None),
            },
        };
        (
            Self {
                shared,
                leave: Some(leave),
                left,
                _client: client,
            },
            task,
        )
    }
}

impl Claim for WireClaim {
    fn poll(&mut self, _now_ms: i64, waker: &Waker) -> ClaimState {
        let mut state = self.shared.state();
        if !state.1.as_ref().is_some_and(|known| known.will_wake(waker)) {
            state.1 = Some(waker.clone());
        }
        state.0.clone()
    }
}

impl Drop for WireClaim {
    /// Leaves the group, so that another instance can start at once. Waits for it, but not for long: the session ends anyway.
    fn drop(&mut self) {
        self.leave = None;
        let _ = self.left.recv_timeout(LEAVE_PATIENCE);
    }
}

/// What the wire thread runs for one claim.
pub(super) struct ClaimTask {
    leaving: oneshot::Receiver<()>,
    /// Dropped at the end, which the handle waits for.
    _done: blocking::Sender<()>,
    member: Member,
}

impl ClaimTask {
    pub(super) async fn run(self) {
        let Self {
            leaving,
            _done,
            member,
        } = self;
        tokio::select! {
            () = member.hold() => {}
            _ = leaving => {}
        }
        // The future above is dropped at its last wait; what it knew of its place is here.
        let _ = tokio::time::timeout(LEAVE_PATIENCE, member.leave()).await;
    }
}

struct Member {
    brokers: Brokers,
    group: String,
    instance_id: String,
    topics: Vec<String>,
    shared: Arc<Shared>,
    /// Our member id from the first join on, empty when not yet told; `None` when there is nothing to leave.
    place: Mutex<Option<String>>,
}

/// What to do after an answer of the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// All is well.
    Continue,
    /// A moment later the same.
    Again,
    /// Join with the same member id.
    Rejoin,
    /// Look, and join as a new member.
    StartOver,
    /// Another process has our instance id.
    Fenced,
    /// Nothing will help.
    Fail,
}

fn next(code: i16) -> Next {
    match code {
        error_code::NONE => Next::Continue,
        error_code::COORDINATOR_LOAD_IN_PROGRESS
        | error_code::COORDINATOR_NOT_AVAILABLE
        | error_code::NOT_COORDINATOR => Next::Again,
        error_code::REBALANCE_IN_PROGRESS
        | error_code::ILLEGAL_GENERATION
        | error_code::MEMBER_ID_REQUIRED => Next::Rejoin,
        error_code::UNKNOWN_MEMBER_ID => Next::StartOver,
        error_code::FENCED_INSTANCE_ID => Next::Fenced,
        code if error_code::is_transient(code) => Next::Again,
        _ => Next::Fail,
    }
}

/// Why a group cannot be ours, from its members; `None` when it can.
fn refusal(cluster: &str, description: &GroupDescription, instance_id: &str) -> Option<String> {
    let other = description
        .members
        .iter()
        .find(|member| member.instance_id.as_deref() != Some(instance_id))?;
    let instance = other
        .instance_id
        .as_deref()
        .map_or_else(String::new, |id| format!(", instance {id}"));
    let session = SESSION_TIMEOUT_MS / 1000;
    Some(format!(
        "group {} on {cluster} is taken by client {} at {}{instance}: an application runs as one instance for now. Stop the other one; \
         if it was killed, its place is free {session} seconds later",
        description.group, other.client_id, other.host,
    ))
}

/// An error that ends the claim.
struct Final(String);

impl Member {
    /// Joins and keeps the place until it is refused or lost.
    async fn hold(&self) {
        let mut start_over = true;
        loop {
            match self.live(start_over).await {
                Ok(Next::StartOver) => {
                    start_over = true;
                    self.set_place(None);
                }
                Ok(_) => {
                    start_over = false;
                    tokio::time::sleep(RETRY_BACKOFF).await;
                }
                Err(Final(reason)) => {
                    tracing::warn!(
                        group = self.group,
                        reason,
                        "the claim on the group has ended"
                    );
                    self.shared.end(reason);
                    return;
                }
            }
        }
    }

    /// One join and what follows, until something asks for another.
    async fn live(&self, look: bool) -> Result<Next, Final> {
        if look && let Some(next) = self.look().await? {
            return Ok(next);
        }
        let Some(joined) = self.join().await? else {
            return Ok(Next::Again);
        };
        match joined {
            Ok(joined) => match self.sync(&joined).await? {
                Next::Continue => self.beat(&joined).await,
                next => Ok(next),
            },
            Err(next) => Ok(next),
        }
    }

    /// Step 1. `None` to go on.
    async fn look(&self) -> Result<Option<Next>, Final> {
        let coordinator = match self.brokers.coordinator(&self.group).await {
            Ok(coordinator) => coordinator,
            Err(error) => return self.pass(error).map(Some),
        };
        if !coordinator.serves::<DescribeGroupsRequest>() {
            // Then the join tells.
            return Ok(None);
        }
        match requests::describe_group(&self.brokers, &self.group).await {
            Ok(description) => {
                match refusal(&self.brokers.bootstrap(), &description, &self.instance_id) {
                    Some(reason) => Err(Final(reason)),
                    None => Ok(None),
                }
            }
            Err(failure) => self.pass(failure.error).map(Some),
        }
    }

    /// Step 2. `None` when the call itself failed for now.
    async fn join(&self) -> Result<Option<Result<JoinGroupResponse, Next>>, Final> {
        let member_id = self.place().clone().unwrap_or_default();
        // From here on there may be a place to leave, even when no answer comes.
        self.set_place(Some(member_id.clone()));
        let metadata = self
            .subscription()
            .map_err(|error| Final(error.to_string()))?;
        let build = |version: ApiVersion| {
            let mut protocol = JoinGroupRequestProtocol::default();
            protocol.name = StrBytes::from(PROTOCOL);
            protocol.metadata = metadata;
            let mut request = JoinGroupRequest::default();
            request.group_id = StrBytes::from(self.group.as_str());
            request.session_timeout_ms = SESSION_TIMEOUT_MS;
            request.rebalance_timeout_ms = if version.value() >= 1 {
                REBALANCE_TIMEOUT_MS
            } else {
                -1
            };
            request.member_id = StrBytes::from(member_id.as_str());
            if version.value() >= 5 {
                request.group_instance_id = Some(StrBytes::from(self.instance_id.as_str()));
            }
            request.protocol_type = StrBytes::from(PROTOCOL_TYPE);
            request.protocols = vec![protocol];
            request
        };
        let response = match self
            .brokers
            .call_coordinator(&self.group, JOIN_VERSION_MAX, JOIN_PATIENCE, build)
            .await
        {
            Ok((_, response)) => response,
            Err(error) => return self.pass(error).map(|_| None),
        };
        if !response.member_id.is_empty() {
            self.set_place(Some(response.member_id.as_str().to_owned()));
        }
        match self.heed(response.error_code, "joining")? {
            Next::Continue => Ok(Some(Ok(response))),
            next => Ok(Some(Err(next))),
        }
    }

    /// Step 3.
    async fn sync(&self, joined: &JoinGroupResponse) -> Result<Next, Final> {
        let leads = joined.leader == joined.member_id;
        let mut assignments = Vec::new();
        if leads {
            for member in &joined.members {
                let ours = member.member_id == joined.member_id;
                let mut assignment = SyncGroupRequestAssignment::default();
                assignment.member_id = member.member_id.clone();
                assignment.assignment = self
                    .assignment(ours)
                    .await
                    .map_err(|error| Final(error.to_string()))?;
                assignments.push(assignment);
            }
        }
        let build = |version: ApiVersion| {
            let mut request = SyncGroupRequest::default();
            request.group_id = StrBytes::from(self.group.as_str());
            request.generation_id = joined.generation_id;
            request.member_id = joined.member_id.clone();
            if version.value() >= 3 {
                request.group_instance_id = Some(StrBytes::from(self.instance_id.as_str()));
            }
            request.assignments = assignments;
            request
        };
        let response = match self
            .brokers
            .call_coordinator(&self.group, MEMBER_VERSION_MAX, JOIN_PATIENCE, build)
            .await
        {
            Ok((_, response)) => response,
            Err(error) => return self.pass(error),
        };
        match self.heed(response.error_code, "syncing")? {
            Next::Continue => {}
            next => return Ok(next),
        }
        if !is_everything(response.assignment) {
            let reason = match requests::describe_group(&self.brokers, &self.group).await {
                Ok(description) => {
                    refusal(&self.brokers.bootstrap(), &description, &self.instance_id)
                }
                Err(_) => None,
            };
            let unnamed = || {
                format!(
                    "group {} on {} is taken by member {}",
                    self.group,
                    self.brokers.bootstrap(),
                    joined.leader
                )
            };
            return Err(Final(reason.unwrap_or_else(unnamed)));
        }
        self.shared.publish(ClaimState::Held(MemberIdentity {
            member_id: joined.member_id.as_str().to_owned(),
            generation: joined.generation_id,
            instance_id: Some(self.instance_id.clone()),
        }));
        Ok(Next::Continue)
    }

    /// Step 4: until something happens.
    async fn beat(&self, joined: &JoinGroupResponse) -> Result<Next, Final> {
        loop {
            tokio::time::sleep(HEARTBEAT_INTERVAL).await;
            let build = |version: ApiVersion| {
                let mut request = HeartbeatRequest::default();
                request.group_id = StrBytes::from(self.group.as_str());
                request.generation_id = joined.generation_id;
                request.member_id = joined.member_id.clone();
                if version.value() >= 3 {
                    request.group_instance_id = Some(StrBytes::from(self.instance_id.as_str()));
                }
                request
            };
            // While nobody answers nobody else can take the place either; should the session have ended, the first answer says so.
            let next = match self
                .brokers
                .call_coordinator(&self.group, MEMBER_VERSION_MAX, REQUEST_PATIENCE, build)
                .await
            {
                Ok((_, response)) => self.heed(response.error_code, "heartbeat")?,
                Err(error) => self.pass(error)?,
            };
            if !matches!(next, Next::Continue | Next::Again) {
                return Ok(next);
            }
        }
    }

    async fn leave(&self) {
        let Some(member_id) = self.place().clone() else {
            return;
        };
        let build = |version: ApiVersion| {
            let mut request = LeaveGroupRequest::default();
            request.group_id = StrBytes::from(self.group.as_str());
            if version.value() >= 3 {
                let mut member = LeavingMember::default();
                member.member_id = StrBytes::from(member_id.as_str());
                member.group_instance_id = Some(StrBytes::from(self.instance_id.as_str()));
                request.members = vec![member];
            } else {
                request.member_id = StrBytes::from(member_id.as_str());
            }
            request
        };
        if let Err(error) = self
            .brokers
            .call_coordinator(&self.group, MEMBER_VERSION_MAX, LEAVE_PATIENCE, build)
            .await
        {
            tracing::debug!(group = self.group, %error, "not left; the session ends by itself");
        }
    }

    /// What a code asks for; the end when nothing will help.
    fn heed(&self, code: i16, doing: &str) -> Result<Next, Final> {
        self.brokers.heed_coordinator(&self.group, code);
        match next(code) {
            Next::Fenced => {
                // The place is not ours to leave any more.
                self.set_place(None);
                Err(Final(format!(
                    "group {} on {}: another process has started as instance {}, with a copy of this one's state directory or the same process id",
                    self.group,
                    self.brokers.bootstrap(),
                    self.instance_id,
                )))
            }
            Next::Fail => {
                let error = error_code::error(
                    code,
                    format_args!(
                        "group {} on {}: {doing}",
                        self.group,
                        self.brokers.bootstrap()
                    ),
                    None,
                );
                Err(Final(format!(
                    "{error}; is the group id in use by other clients?"
                )))
            }
            next => Ok(next),
        }
    }

    /// A call without an answer: tried again, or the end when it cannot succeed.
    fn pass(&self, error: ClientError) -> Result<Next, Final> {
        if error.kind == ClientErrorKind::Retriable {
            tracing::debug!(group = self.group, %error, "trying again");
            return Ok(Next::Again);
        }
        Err(Final(format!("group {}: {error}", self.group)))
    }

    fn place(&self) -> MutexGuard<'_, Option<String>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_place(&self, place: Option<String>) {
        *self.place() = place;
    }

    /// What the group is told of us: the topics whose offsets are to be kept.
    fn subscription(&self) -> Result<Bytes, kafka_wire_core::EncodeError> {
        let mut subscription = ConsumerProtocolSubscription::default();
        subscription.topics = self
            .topics
            .iter()
            .map(|topic| StrBytes::from(topic.as_str()))
            .collect();
        let mut payload = BytesMut::new();
        kafka_wire::encode_consumer_protocol_subscription(
            &mut payload,
            &subscription,
            PAYLOAD_VERSION,
        )?;
        Ok(payload.freeze())
    }

    /// Everything for us, nothing for others. The partitions are for those who look at the group; topics that do not exist yet are
    /// left out.
    async fn assignment(&self, ours: bool) -> Result<Bytes, kafka_wire_core::EncodeError> {
        let mut assignment = ConsumerProtocolAssignment::default();
        if ours {
            assignment.user_data = Some(Bytes::from_static(EVERYTHING));
            if let Ok(metadata) = self.brokers.metadata(Some(&self.topics)).await {
                for topic in &metadata.topics {
                    if let (Some(name), Ok(Some(count))) =
                        (&topic.name, requests::partition_count(topic))
                    {
                        let mut assigned = AssignedTopic::default();
                        assigned.topic = name.clone();
                        assigned.partitions = (0..count).collect();
                        assignment.assigned_partitions.push(assigned);
                    }
                }
            }
        }
        let mut payload = BytesMut::new();
        kafka_wire::encode_consumer_protocol_assignment(
            &mut payload,
            &assignment,
            PAYLOAD_VERSION,
        )?;
        Ok(payload.freeze())
    }
}

/// Whether an assignment bears the mark.
fn is_everything(assignment: Bytes) -> bool {
    kafka_wire::decode_consumer_protocol_assignment(assignment, DecodeLimits::default())
        .is_ok_and(|(_, assignment)| assignment.user_data.as_deref() == Some(EVERYTHING))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::client::MemberDescription;

    fn group(instances: &[Option<&str>]) -> GroupDescription {
        let member = |instance: &Option<&str>| MemberDescription {
            member_id: "m".to_owned(),
            instance_id: instance.map(str::to_owned),
            client_id: "delays".to_owned(),
            host: "/10.0.0.7".to_owned(),
            assignment: Vec::new(),
        };
        GroupDescription {
            group: "flight-delays".to_owned(),
            state: "Stable".to_owned(),
            protocol: PROTOCOL.to_owned(),
            members: instances.iter().map(member).collect(),
        }
    }

    #[test]
    fn a_group_is_free_when_empty_or_when_only_our_earlier_life_is_in_it() {
        assert_eq!(refusal("c:1", &group(&[]), "me"), None);
        assert_eq!(refusal("c:1", &group(&[Some("me")]), "me"), None);
    }

    #[test]
    fn another_member_is_named_in_the_refusal() {
        let reason = refusal("c:1", &group(&[Some("me"), Some("you")]), "me").unwrap();
        for part in [
            "flight-delays",
            "c:1",
            "delays",
            "/10.0.0.7",
            "instance you",
            "10 seconds",
        ] {
            assert!(reason.contains(part), "{part} in {reason}");
        }
        assert!(refusal("c:1", &group(&[None]), "me").is_some());
    }

    #[test]
    fn each_answer_has_its_next_step() {
        assert_eq!(next(error_code::NONE), Next::Continue);
        assert_eq!(next(error_code::NOT_COORDINATOR), Next::Again);
        assert_eq!(next(error_code::REBALANCE_IN_PROGRESS), Next::Rejoin);
        assert_eq!(next(error_code::UNKNOWN_MEMBER_ID), Next::StartOver);
        assert_eq!(next(error_code::FENCED_INSTANCE_ID), Next::Fenced);
        assert_eq!(next(23), Next::Fail);
    }

    #[test]
    fn only_the_mark_is_everything() {
        let mut payload = BytesMut::new();
        let mut assignment = ConsumerProtocolAssignment::default();
        kafka_wire::encode_consumer_protocol_assignment(&mut payload, &assignment, PAYLOAD_VERSION)
            .unwrap();
        assert!(!is_everything(payload.split().freeze()));
        assignment.user_data = Some(Bytes::from_static(EVERYTHING));
        kafka_wire::encode_consumer_protocol_assignment(&mut payload, &assignment, PAYLOAD_VERSION)
            .unwrap();
        assert!(is_everything(payload.split().freeze()));
        assert!(!is_everything(Bytes::new()));
        assert!(!is_everything(Bytes::from_static(&[255; 9])));
    }

    #[test]
    fn what_was_held_is_lost_and_what_was_not_is_refused() {
        let shared = Shared {
            state: Mutex::new((ClaimState::Pending, None)),
        };
        shared.end("no".to_owned());
        assert_eq!(shared.state().0, ClaimState::Refused("no".to_owned()));
        shared.publish(ClaimState::Held(MemberIdentity::simple()));
        shared.end("no".to_owned());
        assert_eq!(shared.state().0, ClaimState::Lost("no".to_owned()));
    }
}
