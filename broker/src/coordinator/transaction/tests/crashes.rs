//! A run of transactions that is cut off at every operation of the disk.

use super::*;

const PARTITIONS: [(&str, i32); 3] = [("a", 0), ("a", 1), ("b", 0)];

/// What a client knows of one of its transactions.
#[derive(Debug, Default)]
struct Told {
    sent: Vec<(&'static str, i32)>,
    has_offset: bool,
    /// It has asked for this end.
    end: Option<bool>,
    /// And was told that it is so.
    is_ended: bool,
}

/// Where a transaction writes, and how it ends.
type Chapter = (&'static [(&'static str, i32)], Option<bool>);

/// Each writes `t` and its number to these partitions, commits its number as an offset, and ends: with a commit, an abort, or not at all.
const STORY: [Chapter; 5] = [
    (&[("a", 0), ("a", 1)], Some(true)),
    (&[("a", 0), ("b", 0)], Some(false)),
    (&[("a", 1), ("b", 0), ("a", 0)], Some(true)),
    (&[("b", 0)], Some(true)),
    (&[("a", 0), ("a", 1)], None),
];

/// Goes on until something is refused or not answered.
fn tell(machine: &Machine, client: &mut Client) -> Vec<Told> {
    let mut told = Vec::new();
    for (number, (partitions, end)) in STORY.iter().enumerate() {
        told.push(Told::default());
        let now = told.last_mut().unwrap();
        for (topic, index) in *partitions {
            if client.send(machine, topic, *index, &format!("t{number}")) != NONE {
                return told;
            }
            now.sent.push((topic, *index));
        }
        if client.send_offset(machine, "g", "a", number as i64) != NONE {
            return told;
        }
        now.has_offset = true;
        now.end = *end;
        if let Some(commit) = end {
            if client.end(machine, *commit) != NONE {
                return told;
            }
            now.is_ended = true;
        }
    }
    told
}

/// What readers see of the story: the numbers of the transactions that are visible. Every one is whole.
fn visible(machine: &Machine, told: &[Told], at: &str) -> Vec<usize> {
    let seen: Vec<_> = PARTITIONS
        .iter()
        .map(|(topic, index)| machine.committed(topic, *index))
        .collect();
    let count_in = |place: &(&str, i32), value: &str| {
        let at = PARTITIONS.iter().position(|partition| partition == place);
        let values = seen[at.unwrap()].iter();
        values.filter(|seen| *seen == value).count()
    };
    let mut visible = Vec::new();
    for (number, told) in told.iter().enumerate() {
        let value = format!("t{number}");
        let places = STORY[number].0;
        let found: usize = PARTITIONS.iter().map(|place| count_in(place, &value)).sum();
        if found == 0 {
            continue;
        }
        assert_eq!(found, places.len(), "{at}: {value} is torn: {seen:?}");
        for place in places {
            assert_eq!(
                count_in(place, &value),
                1,
                "{at}: {value} is torn: {seen:?}"
            );
        }
        assert_eq!(
            told.sent.len(),
            places.len(),
            "{at}: {value} was not complete"
        );
        visible.push(number);
    }
    for (number, told) in told.iter().enumerate() {
        let is_visible = visible.contains(&number);
        match (told.end, told.is_ended) {
            (Some(true), true) => assert!(is_visible, "{at}: acknowledged t{number} is lost"),
            (Some(true), false) => {}
            (Some(false) | None, _) => assert!(!is_visible, "{at}: t{number} did not commit"),
        }
    }
    let offset = visible.last().map_or(-1, |number| *number as i64);
    assert_eq!(
        machine.offset("g", "a", false),
        (offset, NONE),
        "{at}: {told:?}"
    );
    visible
}

/// No marker without the PREPARE that decided it, and all markers of an epoch say the same.
fn check_markers(machine: &Machine, version: i16, at: &str) {
    let Some(state) = machine.state("x") else {
        return;
    };
    let mut outcomes = BTreeMap::new();
    for (topic, index) in PARTITIONS.into_iter().chain([(OFFSETS_TOPIC, 0)]) {
        if machine.broker.partition(topic, index).is_none() {
            continue;
        }
        for (producer_id, epoch, commit) in machine.markers(topic, index) {
            // The epoch of an older client says nothing of its transaction.
            if version >= 2 && producer_id == state.producer_id {
                // The epoch is bumped by PREPARE.
                assert!(epoch <= state.producer_epoch, "{at}: {epoch} {state:?}");
                let outcome = *outcomes.entry(epoch).or_insert(commit);
                assert_eq!(outcome, commit, "{at}: two outcomes of epoch {epoch}");
            }
        }
    }
}

fn set_up() -> SimDisk {
    let machine = Machine::with_topics(&[("a", 2), ("b", 1)]);
    // So that its topics are there.
    let mut first = Client::start(&machine, "first", 2);
    assert_eq!(first.send_offset(&machine, "other", "a", 1), NONE);
    assert_eq!(first.end(&machine, true), NONE);
    machine.settle();
    machine.broker.shutdown().unwrap();
    machine.disk
}

fn cut_off_everywhere(version: i16, crash: impl Fn(u64) -> Crash) {
    let base = set_up();
    let clock = Arc::new(ManualClock::new(NOW_MS));
    let mut cuts = 0;
    for cut in 0.. {
        let at = format!("version {version}, cut {cut}, {:?}", crash(cut));
        let disk = base.crash(Crash::KeepAll);
        let broker = open(&disk, &clock, Flush::Durable, JOURNAL_BYTES);
        let mut machine = Machine {
            disk,
            clock: clock.clone(),
            flush: Flush::Durable,
            sync_journal_bytes_max: JOURNAL_BYTES,
            broker,
        };
        let mut client = Client::start(&machine, "x", version);
        let first = machine.disk.operations();
        machine.disk.set_fault(Fault::StopAt(first + cut));
        let told = tell(&machine, &mut client);
        machine.settle();
        let is_whole = machine.disk.operations() <= first + cut;
        machine.crash(crash(cut));
        check_markers(&machine, version, &at);
        machine.settle();
        check_markers(&machine, version, &at);
        // Whoever comes next ends what is open.
        let mut next = Client::start(&machine, "x", version);
        machine.settle();
        for (topic, index) in PARTITIONS.into_iter().chain([(OFFSETS_TOPIC, 0)]) {
            let partition = machine.broker.partition(topic, index).unwrap();
            let stable = partition.last_stable_offset();
            assert_eq!(
                stable,
                partition.high_watermark(),
                "{at}: {topic}-{index} hangs"
            );
        }
        let seen = visible(&machine, &told, &at);
        assert_eq!(next.send(&machine, "a", 0, "next"), NONE, "{at}");
        assert_eq!(next.end(&machine, true), NONE, "{at}");
        machine.crash(Crash::LoseUnsynced);
        machine.settle();
        assert_eq!(visible(&machine, &told, &at), seen, "{at}");
        assert_eq!(machine.committed("a", 0).last().unwrap(), "next", "{at}");
        if is_whole {
            assert_eq!(seen, [0, 2, 3]);
            cuts = cut;
            break;
        }
    }
    assert!(cuts > 50, "only {cuts} operations");
}

#[test]
fn a_crash_at_every_operation_leaves_whole_transactions() {
    cut_off_everywhere(2, |_| Crash::LoseUnsynced);
}

#[test]
fn a_crash_at_every_operation_leaves_whole_transactions_of_older_clients() {
    cut_off_everywhere(0, |_| Crash::LoseUnsynced);
}

#[test]
fn a_crash_that_keeps_some_of_what_was_not_synced_leaves_whole_transactions() {
    cut_off_everywhere(2, |cut| Crash::Torn { seed: cut });
    cut_off_everywhere(0, |cut| Crash::Torn { seed: cut + 7 });
}

#[test]
fn a_kill_at_every_operation_leaves_whole_transactions() {
    cut_off_everywhere(2, |_| Crash::KeepAll);
}

/// A COMPLETE is waited for by nobody: the next transaction may be open when a crash takes it.
#[test]
fn a_complete_that_is_lost_is_written_again() {
    for version in [0, 2] {
        let mut machine = Machine::with_topics(&[("a", 1)]);
        let mut client = Client::start(&machine, "x", version);
        assert_eq!(client.send(&machine, "a", 0, "v"), NONE);
        let answer = submit(&machine.broker, version, client.end_request(true));
        machine.broker.flush_once();
        assert_eq!(answer.try_recv().unwrap().error_code, NONE);
        machine.broker.flush_once();
        assert_eq!(machine.committed("a", 0), ["v"]);
        machine.crash(Crash::LoseUnsynced);
        assert_eq!(machine.state_name("x"), "PrepareCommit");
        machine.settle();
        assert_eq!(machine.state_name("x"), "CompleteCommit");
        assert_eq!(machine.committed("a", 0), ["v"]);
        assert_eq!(client.init(&machine), NONE);
    }
}

#[test]
fn an_open_transaction_outlives_a_restart_and_can_be_committed() {
    for version in [0, 2] {
        let mut machine = Machine::with_topics(&[("a", 2)]);
        let mut client = Client::start(&machine, "x", version);
        assert_eq!(client.send(&machine, "a", 0, "before"), NONE);
        machine.crash(Crash::LoseUnsynced);
        assert_eq!(machine.state_name("x"), "Ongoing");
        assert_eq!(client.send(&machine, "a", 0, "after"), NONE);
        assert_eq!(client.send(&machine, "a", 1, "after"), NONE);
        assert_eq!(client.end(&machine, true), NONE);
        machine.settle();
        assert_eq!(machine.committed("a", 0), ["before", "after"]);
        assert_eq!(machine.committed("a", 1), ["after"]);
    }
}

#[test]
fn an_open_transaction_of_a_producer_that_never_comes_back_times_out() {
    let mut machine = Machine::with_topics(&[("a", 1)]);
    let mut client = Client::start(&machine, "x", 2);
    assert_eq!(client.send(&machine, "a", 0, "v"), NONE);
    machine.crash(Crash::KeepAll);
    machine.clock.advance(60_001);
    machine.broker.step();
    machine.settle();
    assert_eq!(machine.state_name("x"), "CompleteAbort");
    let partition = machine.broker.partition("a", 0).unwrap();
    assert_eq!(partition.last_stable_offset(), partition.high_watermark());
}

/// Of a transaction in both partitions of `a`: PREPARE is durable, and of the two markers one meets a sync that fails.
fn prepare_with_a_marker_lost(machine: &Machine, client: &mut Client) {
    assert_eq!(client.send(machine, "a", 0, "v"), NONE);
    assert_eq!(client.send(machine, "a", 1, "v"), NONE);
    let answer = submit(&machine.broker, 2, client.end_request(true));
    machine.broker.flush_once();
    assert_eq!(answer.try_recv().unwrap().error_code, NONE);
    machine.disk.set_fault(Fault::NextSync);
    machine.settle();
    assert_eq!(machine.state_name("x"), "PrepareCommit");
}

/// A disk that fails under one partition of a transaction holds back that transaction, and no other.
#[test]
fn a_marker_that_cannot_be_written_is_written_after_a_restart() {
    let mut machine = Machine::without_journal(&[("a", 2)]);
    let mut client = Client::start(&machine, "x", 2);
    let mut other = Client::start(&machine, "y", 2);
    prepare_with_a_marker_lost(&machine, &mut client);
    machine.clock.advance(10_000);
    machine.broker.step();
    machine.settle();
    assert_eq!(machine.state_name("x"), "PrepareCommit");
    let failed = |index| machine.broker.partition("a", index).unwrap().has_failed();
    let good = i32::from(failed(0));
    assert!(failed(1 - good) && !failed(good));
    assert_eq!(other.send(&machine, "a", good, "w"), NONE);
    assert_eq!(other.end(&machine, true), NONE);
    machine.crash(Crash::LoseUnsynced);
    machine.settle();
    assert_eq!(machine.state_name("x"), "CompleteCommit");
    assert_eq!(machine.committed("a", good), ["v", "w"]);
    assert_eq!(machine.committed("a", 1 - good), ["v"]);
}

#[test]
fn a_marker_that_a_failed_sync_has_lost_is_written_again_when_the_log_is_back() {
    let mut machine = Machine::without_journal(&[("a", 2)]);
    let mut client = Client::start(&machine, "x", 2);
    prepare_with_a_marker_lost(&machine, &mut client);
    let failed = |index| machine.broker.partition("a", index).unwrap().has_failed();
    assert!(failed(0) != failed(1));
    machine.broker.step();
    machine.clock.advance(crate::reopening::FIRST_DELAY_MS);
    machine.broker.step();
    assert!(!failed(0) && !failed(1));
    machine.clock.advance(MARKERS_RETRY_MS);
    machine.broker.step();
    machine.settle();
    assert_eq!(machine.state_name("x"), "CompleteCommit");
    for index in [0, 1] {
        assert_eq!(machine.committed("a", index), ["v"]);
        assert_eq!(machine.markers("a", index).len(), 1);
    }
    machine.crash(Crash::LoseUnsynced);
    machine.settle();
    assert_eq!(machine.committed("a", 0), ["v"]);
    assert_eq!(machine.committed("a", 1), ["v"]);
}

#[test]
fn a_marker_that_cannot_be_written_is_tried_again_until_it_can() {
    for version in [0, 2] {
        let machine = Machine::with_topics(&[("a", 2)]);
        let mut client = Client::start(&machine, "x", version);
        assert_eq!(client.send(&machine, "a", 0, "v"), NONE);
        assert_eq!(client.send(&machine, "a", 1, "v"), NONE);
        let answer = submit(&machine.broker, version, client.end_request(true));
        // PREPARE is written to the journal and synced, then two markers are written: the second one fails, and what is written of it is undone.
        machine
            .disk
            .set_fault(Fault::OnceAt(machine.disk.operations() + 3));
        machine.broker.flush_once();
        assert_eq!(answer.try_recv().unwrap().error_code, NONE);
        machine.settle();
        assert_eq!(machine.state_name("x"), "PrepareCommit");
        assert_eq!(machine.committed("a", 0), ["v"], "what can be reached is");
        assert!(machine.committed("a", 1).is_empty());
        assert!(machine.broker.step() <= NOW_MS + MARKERS_RETRY_MS);
        machine.clock.advance(MARKERS_RETRY_MS);
        machine.broker.step();
        machine.settle();
        assert_eq!(machine.state_name("x"), "CompleteCommit");
        assert_eq!(machine.committed("a", 1), ["v"]);
        assert_eq!(machine.markers("a", 0).len(), 1, "not a second one");
    }
}

#[test]
fn a_transaction_whose_failed_partition_is_deleted_completes() {
    let machine = Machine::without_journal(&[("a", 1), ("b", 1)]);
    let mut client = Client::start(&machine, "x", 2);
    assert_eq!(client.send(&machine, "a", 0, "v"), NONE);
    assert_eq!(client.send(&machine, "b", 0, "v"), NONE);
    let answer = submit(&machine.broker, 2, client.end_request(true));
    machine.broker.flush_once();
    assert_eq!(answer.try_recv().unwrap().error_code, NONE);
    // One marker's sync fails, and that log takes no more.
    machine.disk.set_fault(Fault::NextSync);
    machine.settle();
    assert_eq!(machine.state_name("x"), "PrepareCommit");
    let has_failed = |topic: &str| machine.broker.partition(topic, 0).unwrap().has_failed();
    let (failed, good) = match (has_failed("a"), has_failed("b")) {
        (true, false) => ("a", "b"),
        (false, true) => ("b", "a"),
        both => unreachable!("one of them: {both:?}"),
    };
    assert_eq!(machine.committed(good, 0), ["v"]);
    // A new instance waits for the end, and is answered when the topic goes.
    let next = submit(
        &machine.broker,
        2,
        client.init_request(Producer { id: -1, epoch: -1 }),
    );
    assert!(next.try_recv().is_err());
    machine.core().delete_topic(failed).unwrap();
    machine.settle();
    assert_eq!(next.try_recv().unwrap().error_code, NONE);
    assert_eq!(machine.state_name("x"), "Empty");
}

#[test]
fn a_topic_that_is_deleted_while_its_marker_cannot_be_written_holds_nothing_back() {
    let machine = Machine::with_topics(&[("a", 1)]);
    let mut client = Client::start(&machine, "x", 2);
    assert_eq!(client.send(&machine, "a", 0, "v"), NONE);
    let answer = submit(&machine.broker, 2, client.end_request(true));
    machine
        .disk
        .set_fault(Fault::OnceAt(machine.disk.operations() + 1));
    machine.broker.flush_once();
    assert_eq!(answer.try_recv().unwrap().error_code, NONE);
    assert_eq!(machine.state_name("x"), "PrepareCommit");
    machine.core().delete_topic("a").unwrap();
    machine.clock.advance(MARKERS_RETRY_MS);
    machine.broker.step();
    machine.settle();
    assert_eq!(machine.state_name("x"), "CompleteCommit");
}
