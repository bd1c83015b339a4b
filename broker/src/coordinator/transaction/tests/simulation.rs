//! Producers that do what they like on a machine that fails as it likes, from a seed.

use super::*;

const SEEDS: u64 = 300;
const STEPS: usize = 60;
const PARTITIONS: [(&str, i32); 4] = [("a", 0), ("a", 1), ("b", 0), ("b", 1)];

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Open,
    Committed,
    Aborted,
    /// A commit was asked for and not answered.
    Unknown,
}

#[derive(Debug)]
struct Story {
    values: Vec<(usize, String)>,
    has_offset: bool,
    outcome: Outcome,
}

struct Actor {
    name: String,
    client: Client,
    /// It has a producer, as far as it knows.
    is_ready: bool,
    /// Something went wrong in the open transaction: it may not commit.
    must_abort: bool,
    stories: Vec<Story>,
}

impl Actor {
    fn open(&mut self) -> &mut Story {
        let is_open = self
            .stories
            .last()
            .is_some_and(|story| story.outcome == Outcome::Open);
        if !is_open {
            self.stories.push(Story {
                values: Vec::new(),
                has_offset: false,
                outcome: Outcome::Open,
            });
        }
        self.stories.last_mut().unwrap()
    }

    /// The open transaction is given up: it did not ask for a commit.
    fn give_up(&mut self) {
        self.is_ready = false;
        self.must_abort = false;
        if let Some(story) = self.stories.last_mut()
            && story.outcome == Outcome::Open
        {
            story.outcome = Outcome::Aborted;
        }
    }

    fn act(&mut self, machine: &Machine, random: &mut Random) {
        if !self.is_ready {
            self.give_up();
            self.is_ready = self.client.init(machine) == NONE;
            return;
        }
        let number = match self.stories.last() {
            Some(story) if story.outcome == Outcome::Open => self.stories.len() - 1,
            _ => self.stories.len(),
        };
        match random.below(10) {
            0..=5 if !self.must_abort => {
                let at = random.below(PARTITIONS.len() as u64) as usize;
                let (topic, index) = PARTITIONS[at];
                let count = self.open().values.len();
                let value = format!("{}:{number}:{count}", self.name);
                let code = self.client.send(machine, topic, index, &value);
                self.open().values.push((at, value));
                self.must_abort = code != NONE;
            }
            6 if !self.must_abort && !self.open().values.is_empty() => {
                let group = format!("g-{}", self.name);
                let code = self.client.send_offset(machine, &group, "a", number as i64);
                self.open().has_offset = true;
                self.must_abort = code != NONE;
            }
            7 => {
                // Another instance begins; the old one does not know.
                let mut zombie = self.client.clone();
                self.give_up();
                let code = self.client.init(machine);
                self.is_ready = code == NONE;
                if self.is_ready {
                    assert_ne!(zombie.send(machine, "a", 0, "zombie"), NONE);
                    assert_ne!(zombie.send_offset(machine, "z", "a", 1), NONE);
                    assert_ne!(zombie.end(machine, true), NONE);
                }
            }
            _ => {
                let is_empty = self.open().values.is_empty();
                if self.must_abort && self.client.version < 2 {
                    // Its sequences are not known any more, and its epoch would stay.
                    return self.give_up();
                }
                let commit = !self.must_abort && !is_empty && !random.one_in(3);
                if is_empty && self.client.version < 2 {
                    return;
                }
                let mut code = self.client.end(machine, commit);
                if code == UNANSWERED && random.one_in(2) {
                    code = self.client.end(machine, commit);
                }
                let story = self.open();
                story.outcome = match (commit, code) {
                    (true, NONE) => Outcome::Committed,
                    (true, _) => Outcome::Unknown,
                    (false, _) => Outcome::Aborted,
                };
                self.must_abort = false;
                self.is_ready = code == NONE;
            }
        }
    }
}

fn crash_of(random: &mut Random) -> Crash {
    match random.below(3) {
        0 => Crash::LoseUnsynced,
        1 => Crash::KeepAll,
        _ => Crash::Torn {
            seed: random.below(u64::MAX),
        },
    }
}

/// Returns how many transactions came to which outcome.
fn run(seed: u64) -> BTreeMap<Outcome, usize> {
    let mut random = Random(seed);
    let mut machine = Machine::with_topics(&[("a", 2), ("b", 2)]);
    let mut actors: Vec<_> = [2, 2, 0]
        .into_iter()
        .enumerate()
        .map(|(number, version)| {
            let name = format!("p{number}");
            let mut client = Client::new(&name, version);
            client.timeout_ms = 15_000;
            Actor {
                name,
                client,
                is_ready: false,
                must_abort: false,
                stories: Vec::new(),
            }
        })
        .collect();
    for _ in 0..STEPS {
        let turn = random.below(actors.len() as u64) as usize;
        match random.below(24) {
            0 => {
                machine.clock.advance(random.below(20_000) as i64);
                machine.broker.step();
            }
            1 => machine.crash(crash_of(&mut random)),
            2 => {
                let operation = machine.disk.operations() + random.below(30);
                machine.disk.set_fault(match random.below(3) {
                    0 => Fault::NextSync,
                    1 => Fault::OnceAt(operation),
                    _ => Fault::StopAt(operation),
                });
            }
            3 => {
                machine.broker.flush_once();
            }
            _ => actors[turn].act(&machine, &mut random),
        }
    }
    machine.crash(crash_of(&mut random));
    machine.settle();
    for actor in &mut actors {
        actor.give_up();
        assert_eq!(actor.client.init(&machine), NONE);
    }
    machine.settle();
    check(&machine, &actors);
    machine.crash(Crash::LoseUnsynced);
    machine.settle();
    check(&machine, &actors);
    let mut outcomes = BTreeMap::new();
    for story in actors.iter().flat_map(|actor| &actor.stories) {
        *outcomes.entry(story.outcome).or_insert(0) += 1;
    }
    outcomes
}

fn check(machine: &Machine, actors: &[Actor]) {
    let seen: Vec<_> = PARTITIONS
        .iter()
        .map(|(topic, index)| machine.committed(topic, *index))
        .collect();
    let offsets_partition = machine.broker.partition(OFFSETS_TOPIC, 0);
    let partitions = PARTITIONS
        .iter()
        .filter_map(|(topic, index)| machine.broker.partition(topic, *index));
    for partition in partitions.chain(offsets_partition) {
        let stable = partition.last_stable_offset();
        assert_eq!(
            stable,
            partition.high_watermark(),
            "{} hangs",
            partition.topic()
        );
    }
    let mut expected: Vec<Vec<String>> = vec![Vec::new(); PARTITIONS.len()];
    for actor in actors {
        let mut offset = -1;
        for (number, story) in actor.stories.iter().enumerate() {
            let found = story
                .values
                .iter()
                .filter(|(at, value)| seen[*at].contains(value))
                .count();
            let is_visible = found > 0;
            assert!(
                found == 0 || found == story.values.len(),
                "{} {number} is torn: {story:?} {seen:?}",
                actor.name
            );
            match story.outcome {
                Outcome::Committed => assert!(is_visible, "{} {number} is lost", actor.name),
                Outcome::Unknown => {}
                Outcome::Open | Outcome::Aborted => {
                    assert!(!is_visible, "{} {number} did not commit", actor.name);
                }
            }
            if is_visible {
                for (at, value) in &story.values {
                    expected[*at].push(value.clone());
                }
                if story.has_offset {
                    offset = number as i64;
                }
            }
        }
        let found = machine.offset(&format!("g-{}", actor.name), "a", true);
        assert_eq!(found, (offset, NONE), "{}: {:?}", actor.name, actor.stories);
    }
    // Nothing else, nothing twice, and in the order of each producer.
    for (seen, expected) in seen.iter().zip(expected) {
        for actor in actors {
            let prefix = format!("{}:", actor.name);
            let of = |values: &[String]| -> Vec<String> {
                let of = values.iter().filter(|value| value.starts_with(&prefix));
                of.cloned().collect()
            };
            assert_eq!(of(seen), of(&expected));
        }
        assert_eq!(seen.len(), expected.len(), "{seen:?}");
    }
}

#[test]
fn random_producers_on_a_failing_machine_leave_whole_transactions() {
    let mut outcomes = BTreeMap::new();
    for seed in 0..SEEDS {
        let Ok(of_run) = std::panic::catch_unwind(|| run(seed)) else {
            panic!("seed {seed}");
        };
        for (outcome, count) in of_run {
            *outcomes.entry(outcome).or_insert(0) += count;
        }
    }
    // The chances are such that each comes up often.
    for outcome in [Outcome::Committed, Outcome::Aborted, Outcome::Unknown] {
        let count: usize = outcomes.get(&outcome).copied().unwrap_or(0);
        assert!(count > 20, "{outcomes:?}");
    }
}
