//! What clients are answered, and what readers see.

use super::*;

#[test]
fn a_commit_shows_all_of_a_transaction_and_an_abort_nothing() {
    for version in [0, 2] {
        let machine = Machine::with_topics(&[("a", 2), ("b", 1)]);
        let mut client = Client::start(&machine, "x", version);
        for (commit, value) in [(true, "one"), (false, "two"), (true, "three")] {
            assert_eq!(client.send(&machine, "a", 0, value), NONE);
            assert_eq!(client.send(&machine, "a", 1, value), NONE);
            assert_eq!(client.send(&machine, "b", 0, value), NONE);
            assert_eq!(client.send(&machine, "b", 0, value), NONE);
            assert_eq!(client.end(&machine, commit), NONE);
        }
        machine.settle();
        assert_eq!(machine.committed("a", 0), ["one", "three"]);
        assert_eq!(machine.committed("a", 1), ["one", "three"]);
        assert_eq!(machine.committed("b", 0), ["one", "one", "three", "three"]);
        assert_eq!(machine.state_name("x"), "CompleteCommit");
    }
}

#[test]
fn a_commit_is_visible_after_two_rounds_and_answered_after_one() {
    let machine = Machine::with_topics(&[("a", 2), ("b", 1)]);
    let mut client = Client::start(&machine, "x", 2);
    for (topic, index) in [("a", 0), ("a", 1), ("b", 0)] {
        assert_eq!(client.send(&machine, topic, index, "v"), NONE);
    }
    machine.settle();
    let answer = submit(&machine.broker, 2, client.end_request(true));
    assert!(answer.try_recv().is_err(), "PREPARE is not on disk");
    assert_eq!(machine.markers("a", 0), []);
    machine.broker.flush_once();
    assert_eq!(answer.try_recv().unwrap().error_code, NONE);
    assert_eq!(machine.committed("a", 0), [""; 0]);
    assert_eq!(machine.broker.flush_once(), 3, "the markers, in one round");
    for (topic, index) in [("a", 0), ("a", 1), ("b", 0)] {
        assert_eq!(machine.committed(topic, index), ["v"]);
    }
    // COMPLETE is there, and has no round of its own.
    assert_eq!(machine.state_name("x"), "CompleteCommit");
    assert_eq!(machine.broker.flush_once(), 0);
    machine.clock.advance(10_000);
    machine.broker.step();
    assert_eq!(machine.broker.flush_once(), 1, "nothing came after it");
}

#[test]
fn with_flush_os_a_commit_is_visible_when_it_is_answered() {
    let machine = Machine::with(Flush::Os);
    machine.create(&[("a", 1)]);
    let mut client = Client::start(&machine, "x", 2);
    assert_eq!(client.send(&machine, "a", 0, "v"), NONE);
    assert_eq!(client.end(&machine, true), NONE);
    assert_eq!(machine.committed("a", 0), ["v"]);
    assert_eq!(machine.state_name("x"), "CompleteCommit");
}

#[test]
fn the_next_transaction_waits_for_the_markers_of_the_last_and_is_not_refused() {
    for version in [0, 2] {
        let machine = Machine::with_topics(&[("a", 2)]);
        let mut client = Client::start(&machine, "x", version);
        assert_eq!(client.send(&machine, "a", 0, "one"), NONE);
        let answer = submit(&machine.broker, version, client.end_request(true));
        machine.broker.flush_once();
        let ended = answer.try_recv().unwrap();
        assert_eq!(ended.error_code, NONE);
        if version == 2 {
            client.set_producer(Producer {
                id: ended.producer_id,
                epoch: ended.producer_epoch,
            });
        }
        // The markers are not on disk yet.
        assert_eq!(machine.state_name("x"), "PrepareCommit");
        assert_eq!(client.send(&machine, "a", 0, "two"), NONE);
        assert_eq!(machine.committed("a", 0), ["one"]);
        assert_eq!(client.end(&machine, true), NONE);
        machine.settle();
        assert_eq!(machine.committed("a", 0), ["one", "two"]);
    }
}

#[test]
fn what_comes_before_the_markers_of_the_last_transaction_is_not_refused_either() {
    let machine = Machine::with_topics(&[("a", 1)]);
    let mut client = Client::start(&machine, "x", 2);
    assert_eq!(client.send(&machine, "a", 0, "one"), NONE);
    assert_eq!(client.send_offset(&machine, "g", "a", 1), NONE);
    let ended = submit(&machine.broker, 2, client.end_request(true));
    // With threads the answer may be out before the markers are appended; here PREPARE is not even on disk.
    assert_eq!(machine.markers("a", 0), []);
    client.producer.epoch += 1;
    client.sequences.clear();
    let written = submit(&machine.broker, 2, client.produce("a", 0, "two"));
    let committed = submit(&machine.broker, 2, client.commit_offset("g", "a", 2));
    machine.settle();
    assert_eq!(ended.try_recv().unwrap().error_code, NONE);
    let written = written.try_recv().unwrap();
    assert_eq!(written.responses[0].partition_responses[0].error_code, NONE);
    assert_eq!(
        committed.try_recv().unwrap().topics[0].partitions[0].error_code,
        NONE
    );
    assert_eq!(client.end(&machine, true), NONE);
    machine.settle();
    assert_eq!(machine.committed("a", 0), ["one", "two"]);
    assert_eq!(machine.offset("g", "a", true), (2, NONE));
}

#[test]
fn a_batch_does_not_overtake_one_that_waits_for_the_coordinator() {
    let machine = Machine::with_topics(&[("a", 2)]);
    let mut client = Client::start(&machine, "x", 2);
    let mut sent = Vec::new();
    let mut send = |index: i32, value: &str| {
        sent.push(submit(
            &machine.broker,
            2,
            client.produce("a", index, value),
        ));
        let key = ("a".to_owned(), index);
        *client.sequences.entry(key).or_insert(0) += 1;
    };
    // A client has several requests under way: the first opens the transaction on its partition while the third waits behind the second.
    send(0, "one");
    send(1, "two");
    send(0, "three");
    machine.broker.flush_once();
    assert_eq!(
        machine.broker.partition("a", 0).unwrap().log_end_offset(),
        1
    );
    send(0, "four");
    machine.settle();
    for answer in sent {
        let answer = answer.try_recv().unwrap();
        assert_eq!(answer.responses[0].partition_responses[0].error_code, NONE);
    }
    assert_eq!(client.end(&machine, true), NONE);
    machine.settle();
    assert_eq!(machine.committed("a", 0), ["one", "three", "four"]);
    assert_eq!(machine.committed("a", 1), ["two"]);
}

#[test]
fn requests_that_wait_for_too_long_are_refused() {
    let machine = Machine::with_topics(&[("a", 1)]);
    let mut client = Client::start(&machine, "x", 2);
    assert_eq!(client.send(&machine, "a", 0, "one"), NONE);
    let _ended = submit(&machine.broker, 2, client.end_request(true));
    client.producer.epoch += 1;
    client.sequences.clear();
    let late = submit(&machine.broker, 2, client.produce("a", 0, "two"));
    machine.clock.advance(HOLD_MS_MAX - 1);
    machine.broker.step();
    assert!(late.try_recv().is_err());
    machine.clock.advance(1);
    machine.broker.step();
    let refused = late.try_recv().unwrap();
    assert_eq!(
        refused.responses[0].partition_responses[0].error_code,
        code(ErrorCode::ConcurrentTransactions)
    );
    machine.settle();
    assert_eq!(machine.committed("a", 0), ["one"]);
}

#[test]
fn a_new_instance_fences_the_old_one_and_aborts_what_it_left_open() {
    for version in [0, 2] {
        let machine = Machine::with_topics(&[("a", 1)]);
        let mut old = Client::start(&machine, "x", version);
        assert_eq!(old.send(&machine, "a", 0, "old"), NONE);
        let mut new = Client::start(&machine, "x", version);
        assert_eq!(new.producer.id, old.producer.id);
        assert!(new.producer.epoch > old.producer.epoch);
        let invalid = code(ErrorCode::InvalidProducerEpoch);
        assert_eq!(old.write(&machine, "a", 0, "zombie"), invalid);
        assert_eq!(old.end(&machine, true), code(ErrorCode::ProducerFenced));
        assert_eq!(
            old.send_offset(&machine, "g", "a", 5),
            if version == 2 {
                invalid
            } else {
                code(ErrorCode::ProducerFenced)
            }
        );
        assert_eq!(
            old.init_as(&machine, old.producer),
            code(ErrorCode::ProducerFenced)
        );
        assert_eq!(new.send(&machine, "a", 0, "new"), NONE);
        assert_eq!(new.end(&machine, true), NONE);
        machine.settle();
        assert_eq!(machine.committed("a", 0), ["new"]);
    }
}

#[test]
fn an_end_whose_answer_was_lost_is_answered_again() {
    let machine = Machine::with_topics(&[("a", 1)]);
    for version in [0, 2] {
        let mut client = Client::start(&machine, "x", version);
        assert_eq!(client.send(&machine, "a", 0, "v"), NONE);
        let before = client.clone();
        assert_eq!(client.end(&machine, true), NONE);
        let mut again = before.clone();
        assert_eq!(again.end(&machine, true), NONE);
        assert_eq!(again.producer, client.producer);
        let refused = before.clone().end(&machine, false);
        assert_eq!(refused, code(ErrorCode::InvalidTxnState));
    }
}

#[test]
fn a_transaction_that_is_open_for_too_long_is_aborted() {
    let machine = Machine::with_topics(&[("a", 1)]);
    let mut client = Client::new("x", 2);
    client.timeout_ms = 15_000;
    assert_eq!(client.init(&machine), NONE);
    assert_eq!(client.send(&machine, "a", 0, "late"), NONE);
    machine.clock.advance(15_000);
    machine.broker.step();
    machine.settle();
    assert_eq!(machine.state_name("x"), "Ongoing");
    machine.clock.advance(10_000);
    machine.broker.step();
    machine.settle();
    assert_eq!(machine.state_name("x"), "CompleteAbort");
    assert_eq!(client.end(&machine, true), code(ErrorCode::ProducerFenced));
    assert_eq!(
        client.write(&machine, "a", 0, "later"),
        code(ErrorCode::InvalidProducerEpoch)
    );
    assert_eq!(machine.committed("a", 0), [""; 0]);
    assert_eq!(client.init(&machine), NONE);
    assert_eq!(client.send(&machine, "a", 0, "again"), NONE);
    assert_eq!(client.end(&machine, true), NONE);
    machine.settle();
    assert_eq!(machine.committed("a", 0), ["again"]);
}

#[test]
fn a_timeout_above_the_brokers_is_refused() {
    let machine = Machine::new();
    for timeout_ms in [0, -1, 900_001] {
        let mut client = Client::new("x", 2);
        client.timeout_ms = timeout_ms;
        assert_eq!(
            client.init(&machine),
            code(ErrorCode::InvalidTransactionTimeout)
        );
    }
    let mut client = Client::new("x", 2);
    client.timeout_ms = 900_000;
    assert_eq!(client.init(&machine), NONE);
    let mut nameless = Client::new("", 2);
    assert_eq!(nameless.init(&machine), code(ErrorCode::InvalidRequest));
}

#[test]
fn an_idle_id_is_forgotten_and_its_producer_starts_anew() {
    let mut machine = Machine::with_topics(&[("a", 1)]);
    let mut client = Client::start(&machine, "x", 2);
    let first = client.producer;
    assert_eq!(client.send(&machine, "a", 0, "v"), NONE);
    assert_eq!(client.end(&machine, true), NONE);
    let mut open = Client::start(&machine, "open", 2);
    open.timeout_ms = i32::MAX;
    machine.clock.advance(604_800_000);
    machine.broker.step();
    machine.settle();
    assert!(machine.state("x").is_none());
    assert_eq!(
        client.send(&machine, "a", 0, "late"),
        code(ErrorCode::InvalidProducerIdMapping)
    );
    machine.crash(Crash::LoseUnsynced);
    assert!(machine.state("x").is_none());
    assert_eq!(client.init(&machine), NONE);
    assert!(client.producer.id > first.id);
    assert_eq!(client.producer.epoch, 0);
}

#[test]
fn a_client_that_adds_partitions_itself_cannot_write_to_others() {
    let machine = Machine::with_topics(&[("a", 2)]);
    let mut client = Client::start(&machine, "x", 0);
    // Neither before a transaction, nor beside it.
    assert_eq!(
        client.write(&machine, "a", 0, "v"),
        code(ErrorCode::InvalidTxnState)
    );
    assert_eq!(client.send(&machine, "a", 0, "v"), NONE);
    assert_eq!(
        client.write(&machine, "a", 1, "v"),
        code(ErrorCode::InvalidTxnState)
    );
    assert_eq!(client.end(&machine, true), NONE);
    // A late batch of the transaction that has ended, with the same epoch: it would hang.
    machine.settle();
    assert_eq!(
        client.write(&machine, "a", 0, "late"),
        code(ErrorCode::InvalidTxnState)
    );
    let partition = machine.broker.partition("a", 0).unwrap();
    assert_eq!(partition.last_stable_offset(), partition.high_watermark());
}

#[test]
fn partitions_that_are_not_there_are_refused_with_the_others() {
    let machine = Machine::with_topics(&[("a", 1)]);
    let client = Client::start(&machine, "x", 0);
    assert_eq!(
        client.add(&machine, "a", 1),
        code(ErrorCode::UnknownTopicOrPartition)
    );
    assert_eq!(
        client.add(&machine, "nowhere", 0),
        code(ErrorCode::UnknownTopicOrPartition)
    );
    assert_eq!(machine.state_name("x"), "Empty");
}

#[test]
fn a_marker_for_a_deleted_topic_is_skipped() {
    let machine = Machine::with_topics(&[("a", 1), ("b", 1)]);
    let mut client = Client::start(&machine, "x", 2);
    assert_eq!(client.send(&machine, "a", 0, "v"), NONE);
    assert_eq!(client.send(&machine, "b", 0, "v"), NONE);
    assert!(machine.core().delete_topic("a").is_ok());
    assert_eq!(client.end(&machine, true), NONE);
    machine.settle();
    assert_eq!(machine.committed("b", 0), ["v"]);
    assert_eq!(machine.state_name("x"), "CompleteCommit");
    // And one that is deleted while its marker is on its way.
    machine.create(&[("a", 1)]);
    assert_eq!(client.send(&machine, "a", 0, "v"), NONE);
    let answer = submit(&machine.broker, 2, client.end_request(true));
    machine.broker.flush_once();
    assert_eq!(answer.try_recv().unwrap().error_code, NONE);
    assert!(machine.core().delete_topic("a").is_ok());
    machine.settle();
    assert_eq!(machine.state_name("x"), "CompleteCommit");
}

#[test]
fn an_exhausted_epoch_goes_on_as_another_producer() {
    let machine = Machine::with_topics(&[("a", 1)]);
    let mut client = Client::start(&machine, "x", 2);
    // As if 32,766 transactions had ended.
    let mut exhausted = (*machine.state("x").unwrap()).clone();
    exhausted.producer_epoch = i16::MAX - 1;
    client.producer.epoch = exhausted.producer_epoch;
    {
        let transactions = &machine.core().transactions;
        let mut shard = transactions.lock(machine.core(), "x");
        let entry = shard.ids.get_mut("x").unwrap();
        entry.latest = Some(Arc::new(exhausted));
        entry.durable = entry.latest.clone();
    }
    let mut before = client.clone();
    assert_eq!(client.send(&machine, "a", 0, "last"), NONE);
    assert_eq!(client.end(&machine, true), NONE);
    assert!(client.producer.id > before.producer.id);
    assert_eq!(client.producer.epoch, 0);
    assert_eq!(client.send(&machine, "a", 0, "first"), NONE);
    assert_eq!(client.end(&machine, true), NONE);
    machine.settle();
    assert_eq!(machine.committed("a", 0), ["last", "first"]);
    assert_eq!(
        before.write(&machine, "a", 0, "zombie"),
        code(ErrorCode::InvalidProducerIdMapping)
    );
}

#[test]
fn offsets_count_once_their_transaction_commits_and_are_unstable_until_then() {
    for version in [0, 2] {
        let mut machine = Machine::with_topics(&[("a", 1)]);
        let mut client = Client::start(&machine, "x", version);
        assert_eq!(client.send_offset(&machine, "g", "a", 5), NONE);
        assert_eq!(machine.offset("g", "a", false), (-1, NONE));
        let unstable = (-1, code(ErrorCode::UnstableOffsetCommit));
        assert_eq!(machine.offset("g", "a", true), unstable);
        machine.crash(Crash::LoseUnsynced);
        assert_eq!(machine.offset("g", "a", true), unstable);
        assert_eq!(client.end(&machine, true), NONE);
        machine.settle();
        assert_eq!(machine.offset("g", "a", true), (5, NONE));
        assert_eq!(client.send_offset(&machine, "g", "a", 9), NONE);
        assert_eq!(client.end(&machine, false), NONE);
        machine.settle();
        assert_eq!(machine.offset("g", "a", true), (5, NONE));
        machine.crash(Crash::LoseUnsynced);
        assert_eq!(machine.offset("g", "a", true), (5, NONE));
    }
}

#[test]
fn offsets_for_a_deleted_topic_do_not_come_back_with_their_transaction() {
    let mut machine = Machine::with_topics(&[("a", 1)]);
    let mut client = Client::start(&machine, "x", 2);
    assert_eq!(client.send_offset(&machine, "g", "a", 5), NONE);
    assert!(machine.core().delete_topic("a").is_ok());
    machine.settle();
    machine.create(&[("a", 1)]);
    assert_eq!(client.end(&machine, true), NONE);
    machine.settle();
    assert_eq!(machine.offset("g", "a", true), (-1, NONE));
    machine.crash(Crash::LoseUnsynced);
    assert_eq!(machine.offset("g", "a", true), (-1, NONE));
}

#[test]
fn offsets_of_a_member_that_was_replaced_are_refused() {
    let machine = Machine::with_topics(&[("a", 1)]);
    let client = Client::start(&machine, "x", 2);
    let commit = |generation: i32, member: &str, instance: Option<&str>| {
        let mut request = client.commit_offset("g", "a", 5);
        request.generation_id_or_member_epoch = generation;
        request.member_id = member.into();
        request.group_instance_id = instance.map(Into::into);
        let response = call(&machine.broker, 2, request).unwrap();
        response.topics[0].partitions[0].error_code
    };
    // Nobody has joined: a generation cannot be current.
    assert_eq!(commit(3, "m", None), code(ErrorCode::IllegalGeneration));
    let mut join = message!(wire::JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        protocol_type: "consumer".into(),
        protocols: vec![message!(
            wire::join_group_request::JoinGroupRequestProtocol {
                name: "range".into()
            }
        )],
    });
    let joined = call(&machine.broker, 2, join.clone()).unwrap();
    join.member_id = joined.member_id;
    let answer = submit(&machine.broker, 2, join);
    machine.clock.advance(3000);
    machine.broker.step();
    machine.settle();
    let joined = answer.try_recv().unwrap();
    assert_eq!(joined.error_code, NONE);
    let member = joined.member_id.as_str();
    assert_eq!(commit(joined.generation_id, member, None), NONE);
    assert_eq!(
        commit(joined.generation_id - 1, member, None),
        code(ErrorCode::IllegalGeneration)
    );
    assert_eq!(
        commit(joined.generation_id, "other", None),
        code(ErrorCode::UnknownMemberId)
    );
}

#[test]
fn transactions_are_listed_and_described() {
    let machine = Machine::with_topics(&[("a", 2)]);
    let mut one = Client::start(&machine, "one", 2);
    let two = Client::start(&machine, "two", 2);
    assert_eq!(one.send(&machine, "a", 1, "v"), NONE);
    machine.clock.advance(5000);
    let list = |change: fn(&mut wire::ListTransactionsRequest)| {
        let mut request = message!(wire::ListTransactionsRequest {
            duration_filter: -1
        });
        change(&mut request);
        let response = call(&machine.broker, 2, request).unwrap();
        let ids = response.transaction_states.iter();
        let ids: Vec<_> = ids
            .map(|state| format!("{} {}", state.transactional_id, state.transaction_state))
            .collect();
        let unknown: Vec<_> = response
            .unknown_state_filters
            .iter()
            .map(|name| name.to_string())
            .collect();
        (response.error_code, ids.join(", "), unknown.join(", "))
    };
    let found = |ids: &str| (NONE, ids.to_owned(), String::new());
    assert_eq!(list(|_| {}), found("one Ongoing, two Empty"));
    assert_eq!(
        list(|request| request.state_filters = vec!["Empty".into(), "Odd".into()]),
        (NONE, "two Empty".into(), "Odd".into())
    );
    assert_eq!(
        list(|request| request.state_filters = vec!["Odd".into()]),
        (NONE, String::new(), "Odd".into())
    );
    assert_eq!(
        list(|request| request.duration_filter = 4999),
        found("one Ongoing")
    );
    assert_eq!(list(|request| request.duration_filter = 5000), found(""));
    assert_eq!(
        list(|request| request.transactional_id_pattern = Some("t.*".into())),
        found("two Empty")
    );
    assert_eq!(
        list(|request| request.transactional_id_pattern = Some("t".into())),
        found("")
    );
    assert_eq!(
        list(|request| request.transactional_id_pattern = Some("(".into())).0,
        code(ErrorCode::InvalidRegularExpression)
    );
    let request = message!(wire::ListTransactionsRequest {
        duration_filter: -1,
        producer_id_filters: vec![two.producer.id]
    });
    let listed = call(&machine.broker, 2, request).unwrap();
    assert_eq!(listed.transaction_states.len(), 1);
    let described = call(
        &machine.broker,
        2,
        message!(wire::DescribeTransactionsRequest {
            transactional_ids: vec!["one".into(), "three".into()]
        }),
    );
    let states = described.unwrap().transaction_states;
    assert_eq!(&*states[0].transaction_state, "Ongoing");
    assert_eq!(states[0].producer_id, one.producer.id);
    assert_eq!(states[0].transaction_start_time_ms, NOW_MS);
    assert_eq!(&*states[0].topics[0].topic, "a");
    assert_eq!(states[0].topics[0].partitions, [1]);
    assert_eq!(
        states[1].error_code,
        code(ErrorCode::TransactionalIdNotFound)
    );
}

#[test]
fn a_transaction_that_hangs_is_ended_by_an_administrator() {
    let machine = Machine::with_topics(&[("a", 1)]);
    let mut client = Client::start(&machine, "x", 0);
    assert_eq!(client.send(&machine, "a", 0, "v"), NONE);
    let partition = machine.broker.partition("a", 0).unwrap();
    assert_eq!(partition.last_stable_offset(), 0);
    let request = message!(wire::WriteTxnMarkersRequest {
        markers: vec![message!(
            wire::write_txn_markers_request::WritableTxnMarker {
                producer_id: client.producer.id,
                producer_epoch: client.producer.epoch,
                transaction_result: false,
                coordinator_epoch: 0,
                topics: vec![message!(
                    wire::write_txn_markers_request::WritableTxnMarkerTopic {
                        name: "a".into(),
                        partition_indexes: vec![0]
                    }
                )]
            }
        )]
    });
    let response = call(&machine.broker, 2, request).unwrap();
    assert_eq!(response.markers[0].topics[0].partitions[0].error_code, NONE);
    assert_eq!(partition.last_stable_offset(), partition.high_watermark());
    assert_eq!(machine.committed("a", 0), [""; 0]);
}

#[test]
fn the_coordinator_is_found_and_its_topic_is_kafkas() {
    let machine = Machine::new();
    let request = message!(wire::FindCoordinatorRequest {
        key_type: 1,
        coordinator_keys: vec!["x".into(), "y".into()]
    });
    let found = call(&machine.broker, 2, request).unwrap();
    assert_eq!(found.coordinators.len(), 2);
    assert_eq!(found.coordinators[0].error_code, NONE);
    assert_eq!(found.coordinators[0].node_id, 1);
    let topic = machine.core().topic(TRANSACTIONS_TOPIC).unwrap();
    assert_eq!(topic.configs["cleanup.policy"], "compact");
    assert_eq!(partition_of("abc", 50), 4);
}
