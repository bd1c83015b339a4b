//! Whatever the length of the runs that a task takes, and however its input comes in, the output is the same.

use proptest::prelude::*;

use super::*;
use crate::processor::Children;
use crate::typed_store::{FlushListener, Flushed, TimestampedKeyValueStore, Written};

/// A topology and its input, as numbers that any choice of makes sense of.
#[derive(Clone, Debug)]
struct Plan {
    sources: usize,
    steps: Vec<Step>,
    /// For each source, records as (key, value, timestamp).
    records: Vec<Vec<(u8, u8, i64)>>,
}

/// A processor: what it does, and below which nodes it is.
#[derive(Clone, Debug)]
struct Step {
    does: Does,
    parents: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Does {
    /// Adds its number to the value.
    Marks,
    /// Sends a second record, three milliseconds later.
    Doubles,
    /// Lets pass what has an even value at the end.
    Filters,
    /// Counts by key in a shared store, and sends the count.
    Counts { store: usize },
    /// Joins with the count in a shared store.
    Joins { store: usize },
    /// Counts by key in a cached store of its own, whose flush sends.
    CountsCached,
    /// Punctuates by stream time.
    Ticks { interval_ms: i64 },
    /// Asks for a commit now and then.
    Commits,
}

const SHARED_STORES: usize = 2;

/// A processor of a plan.
struct Planned {
    number: usize,
    does: Does,
    store: Option<TimestampedKeyValueStore<String, i64>>,
    taken: u64,
}

struct SendsFlushed(Children<String, String>);

impl FlushListener<String, i64> for SendsFlushed {
    fn wants_old(&self) -> bool {
        true
    }

    fn flushed(
        &mut self,
        change: Flushed<String, i64>,
        task: &mut TaskContext,
    ) -> Result<(), ProcessError> {
        self.0.forward(
            Record::new(
                change.key,
                format!("{:?}<-{:?}", change.new, change.old),
                change.timestamp,
            ),
            task,
        )
    }
}

impl Processor<String, String, String, String> for Planned {
    fn init(&mut self, context: &mut InitContext<'_, String, String>) -> Result<(), ProcessError> {
        match self.does {
            Does::Counts { store } | Does::Joins { store } => {
                self.store = Some(context.key_value_store(&format!("shared-{store}"))?)
            }
            Does::CountsCached => {
                let store = context.key_value_store(&format!("cached-{}", self.number))?;
                store.set_flush_listener(Box::new(SendsFlushed(context.children())));
                self.store = Some(store);
            }
            Does::Ticks { interval_ms } => {
                context.schedule(interval_ms, PunctuationType::StreamTime)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn process(
        &mut self,
        record: Record<String, String>,
        context: &mut ProcessorContext<'_, String, String>,
    ) -> Result<(), ProcessError> {
        self.taken += 1;
        let timestamp = record.timestamp;
        let store = self.store.as_ref();
        match self.does {
            Does::Marks => {
                let value = format!("{}.{}", record.value, self.number);
                context.forward(record.with_value(value))
            }
            Does::Doubles => {
                context.forward(record.clone())?;
                context.forward(record.with_timestamp(timestamp + 3))
            }
            Does::Filters
                if record
                    .value
                    .bytes()
                    .last()
                    .is_some_and(|last| last % 2 == 0) =>
            {
                context.forward(record)
            }
            Does::Filters => Ok(()),
            Does::Counts { .. } | Does::CountsCached => {
                let count = store.unwrap().update(&record.key, context, |old| {
                    let count = old.as_ref().map_or(0, |old| old.value) + 1;
                    Ok((
                        Some(count),
                        old.map_or(timestamp, |old| old.timestamp.max(timestamp)),
                    ))
                })?;
                match count {
                    Written::Stored(count) => {
                        context.forward(record.with_value(format!("{}={count:?}", self.number)))
                    }
                    Written::Cached | Written::Expired => Ok(()),
                }
            }
            Does::Joins { .. } => {
                let count = store.unwrap().read(&record.key)?.map(|count| count.value);
                let value = format!("{}x{count:?}", record.value);
                context.forward(record.with_value(value))
            }
            Does::Ticks { .. } => context.forward(record),
            Does::Commits => {
                if self.taken.is_multiple_of(5) {
                    context.request_commit();
                }
                context.forward(record)
            }
        }
    }

    fn punctuate(
        &mut self,
        _punctuation: Punctuation,
        timestamp: i64,
        context: &mut ProcessorContext<'_, String, String>,
    ) -> Result<(), ProcessError> {
        context.forward(Record::new(
            "tick".to_owned(),
            format!("{} after {}", self.number, self.taken),
            timestamp,
        ))
    }
}

fn topology(plan: &Plan) -> TopologyBuilder {
    let mut builder = Topology::builder();
    let mut nodes: Vec<Node<String, String>> = Vec::new();
    for source in 0..plan.sources {
        nodes.push(
            builder
                .add_source(
                    format!("source-{source}"),
                    [format!("in-{source}")],
                    strings(),
                )
                .unwrap(),
        );
    }
    for store in 0..SHARED_STORES {
        builder
            .add_state_store(
                KeyValueStoreBuilder::<String, i64>::new(format!("shared-{store}")).in_memory(),
            )
            .unwrap();
    }
    let add = |builder: &mut TopologyBuilder,
               number: usize,
               does: Does,
               parents: &[Node<String, String>]| {
        let supplier = move || Planned {
            number,
            does,
            store: None,
            taken: 0,
        };
        let node = builder
            .add_processor(format!("step-{number}"), supplier, parents)
            .unwrap();
        match does {
            Does::Counts { store } | Does::Joins { store } => builder
                .connect(node, &[&format!("shared-{store}")])
                .unwrap(),
            Does::CountsCached => {
                let name = format!("cached-{number}");
                builder
                    .add_state_store(
                        KeyValueStoreBuilder::<String, i64>::new(name.clone())
                            .in_memory()
                            .caching(true),
                    )
                    .unwrap();
                builder.connect(node, &[&name]).unwrap();
            }
            _ => {}
        }
        node
    };
    // One count and one join of every source, so that all of it is one sub-topology.
    for source in 0..plan.sources {
        let parent = [nodes[source]];
        nodes.push(add(
            &mut builder,
            100 + source,
            Does::Counts { store: 0 },
            &parent,
        ));
        nodes.push(add(
            &mut builder,
            200 + source,
            Does::Joins { store: 1 },
            &parent,
        ));
    }
    for (number, step) in plan.steps.iter().enumerate() {
        let mut places: Vec<usize> = step
            .parents
            .iter()
            .map(|parent| parent % nodes.len())
            .collect();
        places.sort_unstable();
        places.dedup();
        let parents: Vec<Node<String, String>> =
            places.into_iter().map(|place| nodes[place]).collect();
        nodes.push(add(&mut builder, number, step.does, &parents));
    }
    let last = nodes.split_off(nodes.len() - 3);
    builder
        .add_sink("one", "out-1", Produced::default(), &last)
        .unwrap();
    builder
        .add_sink("two", "out-2", Produced::default(), &last[1..])
        .unwrap();
    builder
}

/// Everything that can be seen of a task that has taken all of the plan's records.
#[derive(Debug, PartialEq)]
struct Seen {
    output: Vec<String>,
    positions: Vec<i64>,
    stream_time: i64,
    processed: Vec<(Arc<str>, u64)>,
}

fn run(plan: &Plan, records_max: usize, chunks: &[(usize, usize)]) -> Seen {
    let written = SharedWritten::default();
    let built = topology(plan).build().unwrap();
    let environment = TaskEnvironment {
        application_id: "app".into(),
        collector: RecordCollector::new(Box::new(TestProducer::new(&written, 3))),
        // A few entries only, so that evictions happen.
        cache: ThreadCache::new(600, false),
        globals: GlobalStores::new(),
        settings: StreamSettings::default(),
    };
    let stores = Stores::open(
        None,
        &built.store_specs(0),
        &brooklet_state_stores::Memory::new(1 << 20),
    )
    .unwrap();
    let inputs = (0..plan.sources)
        .map(|source| TopicPartition::new(format!("in-{source}"), 0))
        .collect();
    let task = Task::new(
        &built,
        TaskId {
            subtopology: 0,
            partition: 0,
        },
        inputs,
        stores,
        &environment,
        0,
    )
    .unwrap();
    let mut bench = Bench { task, written };

    let total = |source: usize| i64::try_from(plan.records[source].len()).unwrap();
    let mut fed = vec![0; plan.sources];
    let everything = (0..plan.sources).map(|source| (source, usize::MAX));
    for (source, count) in chunks
        .iter()
        .map(|(source, count)| (source % plan.sources, *count))
        .chain(everything)
    {
        let rest = &plan.records[source][fed[source]..];
        let chunk: Vec<(String, String, i64)> = rest
            .iter()
            .take(count)
            .map(|(key, value, timestamp)| (format!("k{key}"), format!("v{value}"), *timestamp))
            .collect();
        let records: Vec<In<'_>> = chunk
            .iter()
            .map(|(key, value, timestamp)| (Some(key.as_str()), Some(value.as_str()), *timestamp))
            .collect();
        bench.fetched(
            source,
            i64::try_from(fed[source]).unwrap(),
            &records,
            total(source),
        );
        fed[source] += records.len();
        while bench.task.process(0, records_max).unwrap() > 0 || bench.task.wants_commit() {
            if bench.task.wants_commit() {
                bench.task.flush(0).unwrap();
                bench.task.commit_stores(&Positions::default()).unwrap();
            }
        }
    }
    bench.task.flush(0).unwrap();
    let positions = bench.positions();
    assert_eq!(
        positions,
        (0..plan.sources).map(total).collect::<Vec<_>>(),
        "all records are taken"
    );
    Seen {
        output: bench.output(),
        positions,
        stream_time: bench.task.stream_time(),
        processed: bench.task.processed(),
    }
}

fn does() -> impl Strategy<Value = Does> {
    prop_oneof![
        Just(Does::Marks),
        Just(Does::Doubles),
        Just(Does::Filters),
        (0..SHARED_STORES).prop_map(|store| Does::Counts { store }),
        (0..SHARED_STORES).prop_map(|store| Does::Joins { store }),
        Just(Does::CountsCached),
        (1i64..20).prop_map(|interval_ms| Does::Ticks { interval_ms }),
        Just(Does::Commits),
    ]
}

fn plans() -> impl Strategy<Value = Plan> {
    let step = (does(), prop::collection::vec(0usize..40, 1..4))
        .prop_map(|(does, parents)| Step { does, parents })
        .boxed();
    let records = prop::collection::vec((0u8..4, 0u8..10, 0i64..60), 0..40);
    (1usize..4).prop_flat_map(move |sources| {
        (
            prop::collection::vec(step.clone(), 0..7),
            prop::collection::vec(records.clone(), sources),
        )
            .prop_map(move |(steps, records)| Plan {
                sources,
                steps,
                records,
            })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_length_of_runs_does_not_show(plan in plans(), chunks in prop::collection::vec((0usize..3, 0usize..9), 0..20)) {
        let expected = run(&plan, 1, &[]);
        for records_max in [1, 2, 7, 1_000] {
            prop_assert_eq!(&run(&plan, records_max, &chunks), &expected, "records_max {} with chunks", records_max);
            prop_assert_eq!(&run(&plan, records_max, &[]), &expected, "records_max {} at once", records_max);
        }
    }
}
