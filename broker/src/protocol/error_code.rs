//! Kafka's error codes, as far as this broker answers them.

macro_rules! error_codes {
    ($($code:literal $name:ident $message:literal;)*) => {
        /// An error code of the protocol. `message` is what clients show when there is nothing more specific.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(i16)]
        #[allow(missing_docs, reason = "the names are Kafka's")]
        pub enum ErrorCode { $($name = $code),* }

        impl ErrorCode {
            /// The code as it stands in a message.
            pub fn code(self) -> i16 { self as i16 }

            /// A short explanation.
            pub fn message(self) -> &'static str { match self { $(Self::$name => $message),* } }

            /// The error of a code, if it is one that this broker answers.
            pub fn from_code(code: i16) -> Option<Self> { match code { $($code => Some(Self::$name),)* _ => None } }
        }
    };
}

error_codes! {
    -1 UnknownServerError "the broker met an error it did not expect";
    0 None "no error";
    1 OffsetOutOfRange "the offset is outside the log";
    2 CorruptMessage "the batch does not match its checksum, or is malformed";
    3 UnknownTopicOrPartition "this broker does not host this topic-partition";
    5 LeaderNotAvailable "the partition has no leader yet";
    7 RequestTimedOut "the request timed out";
    9 ReplicaNotAvailable "the replica is not available";
    10 MessageTooLarge "the batch is larger than max.message.bytes";
    12 OffsetMetadataTooLarge "the metadata of the committed offset is too long";
    14 CoordinatorLoadInProgress "the coordinator is loading";
    15 CoordinatorNotAvailable "the coordinator is not available";
    16 NotCoordinator "this is not the coordinator of the group";
    17 InvalidTopic "the topic name is not valid";
    18 RecordListTooLarge "the batch is larger than segment.bytes";
    19 NotEnoughReplicas "fewer replicas are in sync than min.insync.replicas";
    21 InvalidRequiredAcks "acks must be -1, 0 or 1";
    22 IllegalGeneration "the generation is not the group's current one";
    23 InconsistentGroupProtocol "the member's protocols do not match the group's";
    24 InvalidGroupId "the group id is not valid";
    25 UnknownMemberId "the coordinator does not know this member";
    26 InvalidSessionTimeout "the session timeout is outside the allowed range";
    27 RebalanceInProgress "the group is rebalancing, rejoin it";
    28 InvalidCommitOffsetSize "the offsets do not fit into one batch";
    32 InvalidTimestamp "the timestamp of a record is out of range";
    33 UnsupportedSaslMechanism "the SASL mechanism is not supported";
    35 UnsupportedVersion "not supported by this broker";
    36 TopicAlreadyExists "a topic with this name exists";
    37 InvalidPartitions "the number of partitions is not valid";
    38 InvalidReplicationFactor "the replication factor is not valid";
    39 InvalidReplicaAssignment "the replica assignment is not valid";
    40 InvalidConfig "the configuration is not valid";
    42 InvalidRequest "the request is not valid";
    43 UnsupportedForMessageFormat "the batch format is too old";
    44 PolicyViolation "refused by policy";
    45 OutOfOrderSequenceNumber "the producer's sequence number is out of order";
    46 DuplicateSequenceNumber "the producer's sequence number is a duplicate";
    47 InvalidProducerEpoch "the producer's epoch is older than the current one";
    48 InvalidTxnState "the producer is in an invalid transactional state";
    49 InvalidProducerIdMapping "the producer id is not the one of the transactional id";
    50 InvalidTransactionTimeout "the transaction timeout is larger than transaction.max.timeout.ms";
    51 ConcurrentTransactions "the previous transaction is still being completed";
    52 TransactionCoordinatorFenced "the transaction coordinator's epoch is older than the current one";
    55 OperationNotAttempted "not attempted, because something else in the request was refused";
    56 KafkaStorageError "a disk operation failed";
    57 LogDirNotFound "the log directory is not one of this broker's";
    59 UnknownProducerId "the producer id is not known";
    60 ReassignmentInProgress "a reassignment is in progress";
    68 NonEmptyGroup "the group is not empty";
    69 GroupIdNotFound "there is no such group";
    70 FetchSessionIdNotFound "there is no such fetch session";
    71 InvalidFetchSessionEpoch "the epoch of the fetch session is not the expected one";
    73 TopicDeletionDisabled "topics are not deleted here: delete.topic.enable is false";
    74 FencedLeaderEpoch "the leader epoch is older than the broker's";
    75 UnknownLeaderEpoch "the leader epoch is newer than the broker's";
    76 UnsupportedCompressionType "the compression codec is not supported";
    79 MemberIdRequired "join again with the member id in this answer";
    81 GroupMaxSizeReached "the group is full";
    82 FencedInstanceId "another member has taken over this instance id";
    84 ElectionNotNeeded "the preferred replica leads already";
    85 NoReassignmentInProgress "no reassignment of this partition is in progress";
    86 GroupSubscribedToTopic "the group is subscribed to the topic";
    87 InvalidRecord "a record is not valid";
    88 UnstableOffsetCommit "an open transaction may commit another offset";
    90 ProducerFenced "a newer producer with the same transactional id has fenced this one";
    95 InvalidUpdateVersion "the level of a feature cannot be changed to this";
    100 UnknownTopicId "this broker does not host this topic id";
    102 BrokerIdNotRegistered "there is no broker with this id";
    103 InconsistentTopicId "the topic id does not match the topic";
    105 TransactionalIdNotFound "there is no such transactional id";
    110 FencedMemberEpoch "the member's epoch is not the one the coordinator knows: it has to join again";
    111 UnreleasedInstanceId "another member has the instance id";
    112 UnsupportedAssignor "the assignor is not supported";
    113 StaleMemberEpoch "the member's epoch is old";
    106 FetchSessionTopicIdError "the fetch session names topics in the other way";
    114 MismatchedEndpointType "this is a broker, not a controller";
    120 TransactionAbortable "the transaction has to be aborted";
    128 InvalidRegularExpression "the regular expression is not valid";
    130 StreamsInvalidTopology "the topology is not valid";
    131 StreamsInvalidTopologyEpoch "the topology epoch is not valid";
}
