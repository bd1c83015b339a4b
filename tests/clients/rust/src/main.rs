//! The tour by librdkafka, through the crate rdkafka: `tour BOOTSTRAP` prints a line a step (see ../README.md).

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Debug;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

struct Tour {
    server: String,
    records: String,
    shared: String,
    input: String,
    output: String,
    timed: String,
    group: String,
    copiers: String,
    transactional: String,
    admin: AdminClient<DefaultClientContext>,
    client: BaseConsumer,
    members: Vec<BaseConsumer>,
}

fn check<T: PartialEq + Debug>(what: &str, got: T, want: T) -> Outcome {
    if got == want {
        Ok(())
    } else {
        Err(format!("{what}: got {got:?}, want {want:?}").into())
    }
}

fn until(
    mut what: impl FnMut() -> String,
    mut condition: impl FnMut() -> Outcome<bool>,
) -> Outcome {
    let begin = Instant::now();
    while !condition()? {
        if begin.elapsed() > DEADLINE {
            return Err(format!("not within {DEADLINE:?}: {}", what()).into());
        }
    }
    Ok(())
}

fn text(message: &impl Message) -> String {
    String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned()
}

fn texts(messages: &[OwnedMessage]) -> Vec<String> {
    messages.iter().map(text).collect()
}

fn config(server: &str, settings: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", server);
    for (key, value) in settings {
        config.set(*key, *value);
    }
    config
}

impl Tour {
    fn new(server: &str) -> Outcome<Self> {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let name = format!("tour-rust-{:08x}", nanos as u32 ^ std::process::id());
        let of = |part: &str| format!("{name}.{part}");
        Ok(Self {
            server: server.to_owned(),
            records: of("records"),
            shared: of("shared"),
            input: of("input"),
            output: of("output"),
            timed: of("timed"),
            group: of("group"),
            copiers: of("copiers"),
            transactional: name.clone(),
            admin: config(server, &[]).create()?,
            client: config(server, &[("group.id", "none")]).create()?,
            members: Vec::new(),
        })
    }

    fn topics(&self) -> [&str; 5] {
        [
            &self.records,
            &self.shared,
            &self.input,
            &self.output,
            &self.timed,
        ]
    }

    /// Writes records in order and answers the offset of the first.
    fn write(
        &self,
        topic: &str,
        partition: i32,
        values: &[String],
        settings: &[(&str, &str)],
    ) -> Outcome<i64> {
        let (_, first) = self.client.fetch_watermarks(topic, partition, DEADLINE)?;
        let producer: BaseProducer = config(&self.server, settings)
            .set("linger.ms", "20")
            .create()?;
        for value in values {
            producer
                .send(
                    BaseRecord::to(topic)
                        .partition(partition)
                        .key("k")
                        .payload(value),
                )
                .map_err(|(error, _)| error)?;
        }
        producer.flush(DEADLINE)?;
        let (_, end) = self.client.fetch_watermarks(topic, partition, DEADLINE)?;
        check("records written", end - first, i64::try_from(values.len())?)?;
        Ok(first)
    }

    /// The records of partition 0 from the offset to the end; there must be `count`.
    fn read(
        &self,
        topic: &str,
        count: usize,
        offset: i64,
        isolation: &str,
    ) -> Outcome<Vec<OwnedMessage>> {
        let settings = [
            ("group.id", "none"),
            ("enable.auto.commit", "false"),
            ("enable.partition.eof", "true"),
            ("isolation.level", isolation),
        ];
        let consumer: BaseConsumer = config(&self.server, &settings).create()?;
        let mut place = TopicPartitionList::new();
        place.add_partition_offset(topic, 0, Offset::Offset(offset))?;
        consumer.assign(&place)?;
        let mut found = Vec::new();
        let mut at_end = false;
        until(
            || format!("the end of {topic}"),
            || {
                match consumer.poll(POLL) {
                    Some(Ok(message)) => found.push(message.detach()),
                    Some(Err(KafkaError::PartitionEOF(_))) => at_end = true,
                    Some(Err(error)) => return Err(error.into()),
                    None => {}
                }
                Ok(at_end)
            },
        )?;
        check("records", found.len(), count)?;
        Ok(found)
    }

    fn member(&self, group: &str, topic: &str) -> Outcome<BaseConsumer> {
        let settings = [
            ("group.id", group),
            ("enable.auto.commit", "false"),
            ("auto.offset.reset", "earliest"),
        ];
        let member: BaseConsumer = config(&self.server, &settings).create()?;
        member.subscribe(&[topic])?;
        Ok(member)
    }

    fn create_topics(&mut self) -> Outcome {
        let partitions = |topic: &str| if topic == self.shared { 4 } else { 1 };
        let topics = self
            .topics()
            .map(|topic| NewTopic::new(topic, partitions(topic), TopicReplication::Fixed(1)));
        for result in pollster::block_on(self.admin.create_topics(&topics, &AdminOptions::new()))? {
            result.map_err(|(topic, code)| format!("{topic}: {code}"))?;
        }
        for topic in [&self.records, &self.shared] {
            let metadata = self.client.fetch_metadata(Some(topic), DEADLINE)?;
            let found = metadata
                .topics()
                .first()
                .map(|topic| topic.partitions().len());
            check("partitions", found, usize::try_from(partitions(topic)).ok())?;
        }
        let again =
            pollster::block_on(self.admin.create_topics(&topics[..1], &AdminOptions::new()))?;
        check(
            "created twice",
            again,
            vec![Err((
                self.records.clone(),
                RDKafkaErrorCode::TopicAlreadyExists,
            ))],
        )
    }

    fn codec(&mut self, name: &str) -> Outcome {
        let values: Vec<String> = (0..100)
            .map(|n| format!("{name} {n} ").repeat(50))
            .collect();
        let first = self.write(&self.records, 0, &values, &[("compression.type", name)])?;
        check(
            "values",
            texts(&self.read(&self.records, 100, first, "read_uncommitted")?),
            values,
        )
    }

    fn headers(&mut self) -> Outcome {
        let wanted: [(&str, Option<&[u8]>); 4] = [
            ("a", Some(b"1")),
            ("empty", Some(b"")),
            ("null", None),
            ("a", Some(&[0, 255])),
        ];
        let headers = wanted
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header { key, value: *value })
            });
        let (_, offset) = self.client.fetch_watermarks(&self.records, 0, DEADLINE)?;
        let producer: BaseProducer = config(&self.server, &[]).create()?;
        producer
            .send(
                BaseRecord::to(&self.records)
                    .partition(0)
                    .key("k")
                    .payload("v")
                    .headers(headers),
            )
            .map_err(|(error, _)| error)?;
        producer.flush(DEADLINE)?;
        let found = self.read(&self.records, 1, offset, "read_uncommitted")?;
        let headers = found
            .first()
            .and_then(Message::headers)
            .ok_or("no headers")?;
        check(
            "headers",
            headers
                .iter()
                .map(|header| (header.key, header.value))
                .collect::<Vec<_>>(),
            wanted.to_vec(),
        )
    }

    fn group_of_two_members(&mut self) -> Outcome {
        for partition in 0..4 {
            let values: Vec<String> = (0..10).map(|n| format!("{partition} {n}")).collect();
            self.write(&self.shared, partition, &values, &[])?;
        }
        self.members = vec![
            self.member(&self.group, &self.shared)?,
            self.member(&self.group, &self.shared)?,
        ];
        let mut found = BTreeSet::new();
        let mut counts = Vec::new();
        until(
            || "two partitions a member and 40 records".to_owned(),
            || {
                counts.clear();
                for member in &self.members {
                    while let Some(message) = member.poll(POLL) {
                        found.insert(text(&message?));
                    }
                    counts.push(member.assignment()?.count());
                }
                Ok(found.len() == 40 && counts == [2, 2])
            },
        )
    }

    fn describe_group(&mut self) -> Outcome {
        let list = self.client.fetch_group_list(Some(&self.group), DEADLINE)?;
        let group = list.groups().first().ok_or("no such group")?;
        check(
            "state and members",
            (group.state(), group.members().len()),
            ("Stable", 2),
        )
    }

    fn commit_and_resume(&mut self) -> Outcome {
        check("members", self.members.len(), 2)?;
        for member in &self.members {
            let mut offsets = member.assignment()?;
            offsets.set_all_offsets(Offset::Offset(10))?;
            member.commit(&offsets, CommitMode::Sync)?;
        }
        self.members.clear();
        for partition in 0..4 {
            self.write(&self.shared, partition, &[format!("{partition} more")], &[])?;
        }
        let member = self.member(&self.group, &self.shared)?;
        let mut found = Vec::new();
        until(
            || "4 records after the committed ones".to_owned(),
            || {
                if let Some(message) = member.poll(POLL) {
                    found.push(text(&message?));
                }
                Ok(found.len() >= 4)
            },
        )?;
        found.sort();
        check(
            "records",
            found,
            (0..4)
                .map(|partition| format!("{partition} more"))
                .collect(),
        )
    }

    fn transactions(&mut self) -> Outcome {
        let producer: BaseProducer = config(
            &self.server,
            &[("transactional.id", &format!("{}.a", self.transactional))],
        )
        .create()?;
        producer.init_transactions(DEADLINE)?;
        for letter in ["c", "a"] {
            producer.begin_transaction()?;
            for n in 0..3 {
                let value = format!("{letter}{n}");
                producer
                    .send(
                        BaseRecord::to(&self.output)
                            .partition(0)
                            .key("k")
                            .payload(&value),
                    )
                    .map_err(|(error, _)| error)?;
            }
            producer.flush(DEADLINE)?;
            if letter == "c" {
                producer.commit_transaction(DEADLINE)?
            } else {
                producer.abort_transaction(DEADLINE)?
            }
        }
        Ok(())
    }

    fn read_uncommitted(&mut self) -> Outcome {
        let found = self.read(&self.output, 6, 0, "read_uncommitted")?;
        check(
            "values",
            texts(&found),
            ["c0", "c1", "c2", "a0", "a1", "a2"]
                .map(str::to_owned)
                .to_vec(),
        )
    }

    fn read_committed(&mut self) -> Outcome {
        let found = self.read(&self.output, 3, 0, "read_committed")?;
        check(
            "values",
            texts(&found),
            ["c0", "c1", "c2"].map(str::to_owned).to_vec(),
        )
    }

    fn offsets_in_a_transaction(&mut self) -> Outcome {
        self.write(
            &self.input,
            0,
            &["0", "1", "2", "3"].map(str::to_owned),
            &[],
        )?;
        let consumer = self.member(&self.copiers, &self.input)?;
        let mut found = 0;
        until(
            || "4 records of the input".to_owned(),
            || {
                if let Some(message) = consumer.poll(POLL) {
                    message?;
                    found += 1;
                }
                Ok(found == 4)
            },
        )?;
        let producer: BaseProducer = config(
            &self.server,
            &[("transactional.id", &format!("{}.b", self.transactional))],
        )
        .create()?;
        producer.init_transactions(DEADLINE)?;
        for offset in [2, 4] {
            producer.begin_transaction()?;
            producer
                .send(
                    BaseRecord::to(&self.output)
                        .partition(0)
                        .key("k")
                        .payload("copied"),
                )
                .map_err(|(error, _)| error)?;
            let mut offsets = TopicPartitionList::new();
            offsets.add_partition_offset(&self.input, 0, Offset::Offset(offset))?;
            let group = consumer.group_metadata().ok_or("no group metadata")?;
            // Delivery reports are taken in a flush; a commit would wait for them in vain.
            producer.flush(DEADLINE)?;
            producer.send_offsets_to_transaction(&offsets, &group, DEADLINE)?;
            if offset == 2 {
                producer.commit_transaction(DEADLINE)?
            } else {
                producer.abort_transaction(DEADLINE)?
            }
            // The consumer asks for the stable offset: it waits for the markers.
            let committed = consumer.committed_offsets(offsets, DEADLINE)?;
            check(
                "the group's offset",
                committed
                    .find_partition(&self.input, 0)
                    .map(|place| place.offset()),
                Some(Offset::Offset(2)),
            )?;
        }
        Ok(())
    }

    fn offsets_by_time(&mut self) -> Outcome {
        let base =
            i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())? - 100_000;
        let producer: BaseProducer = config(&self.server, &[]).create()?;
        for n in 0..5 {
            let value = n.to_string();
            let record = BaseRecord::to(&self.timed)
                .partition(0)
                .key("k")
                .payload(&value)
                .timestamp(base + n * 1000);
            producer.send(record).map_err(|(error, _)| error)?;
        }
        producer.flush(DEADLINE)?;
        let offset_at = |time: i64| -> Outcome<Offset> {
            let mut places = TopicPartitionList::new();
            places.add_partition_offset(&self.timed, 0, Offset::Offset(time))?;
            let found = self.client.offsets_for_times(places, DEADLINE)?;
            Ok(found
                .find_partition(&self.timed, 0)
                .ok_or("no such partition")?
                .offset())
        };
        check("offset", offset_at(base + 2500)?, Offset::Offset(3))?;
        check("after the last", offset_at(base + 9000)?, Offset::End)?;
        check(
            "first and end",
            self.client.fetch_watermarks(&self.timed, 0, DEADLINE)?,
            (0, 5),
        )
    }

    fn topic_config(&self, key: &str) -> Outcome<Option<String>> {
        let described = pollster::block_on(self.admin.describe_configs(
            &[ResourceSpecifier::Topic(&self.timed)],
            &AdminOptions::new(),
        ))?;
        let resource = described.into_iter().next().ok_or("no answer")??;
        Ok(resource.get(key).and_then(|entry| entry.value.clone()))
    }

    fn describe_config(&mut self) -> Outcome {
        check(
            "cleanup.policy",
            self.topic_config("cleanup.policy")?.as_deref(),
            Some("delete"),
        )
    }

    fn alter_config(&mut self) -> Outcome {
        let altered =
            AlterConfig::new(ResourceSpecifier::Topic(&self.timed)).set("retention.ms", "86400000");
        for result in
            pollster::block_on(self.admin.alter_configs(&[altered], &AdminOptions::new()))?
        {
            result.map_err(|(resource, code)| format!("{resource:?}: {code}"))?;
        }
        check(
            "retention.ms",
            self.topic_config("retention.ms")?.as_deref(),
            Some("86400000"),
        )
    }

    fn listed(&self) -> Outcome<Vec<String>> {
        let list = self.client.fetch_group_list(None, DEADLINE)?;
        Ok(list
            .groups()
            .iter()
            .map(|group| group.name().to_owned())
            .collect())
    }

    fn list_groups(&mut self) -> Outcome {
        let found = self.listed()?;
        check(
            "groups",
            [found.contains(&self.group), found.contains(&self.copiers)],
            [true, true],
        )
    }

    fn delete_group(&mut self) -> Outcome {
        for result in pollster::block_on(
            self.admin
                .delete_groups(&[&self.group], &AdminOptions::new()),
        )? {
            result.map_err(|(group, code)| format!("{group}: {code}"))?;
        }
        check("still there", self.listed()?.contains(&self.group), false)
    }

    fn delete_records(&mut self) -> Outcome {
        let mut before = TopicPartitionList::new();
        before.add_partition_offset(&self.timed, 0, Offset::Offset(2))?;
        let deleted = pollster::block_on(self.admin.delete_records(&before, &AdminOptions::new()))?;
        let place = deleted.find_partition(&self.timed, 0).ok_or("no answer")?;
        place.error()?;
        check("low watermark", place.offset(), Offset::Offset(2))?;
        check(
            "first and end",
            self.client.fetch_watermarks(&self.timed, 0, DEADLINE)?,
            (2, 5),
        )?;
        let found = self.read(&self.timed, 3, 2, "read_uncommitted")?;
        check("first record", found.first().map(Message::offset), Some(2))
    }

    fn delete_topics(&mut self) -> Outcome {
        for result in pollster::block_on(
            self.admin
                .delete_topics(&self.topics(), &AdminOptions::new()),
        )? {
            result.map_err(|(topic, code)| format!("{topic}: {code}"))?;
        }
        until(
            || "the topics are gone".to_owned(),
            || {
                let metadata = self.client.fetch_metadata(None, DEADLINE)?;
                Ok(!metadata
                    .topics()
                    .iter()
                    .any(|topic| self.topics().contains(&topic.name())))
            },
        )
    }
}

type Step = (&'static str, fn(&mut Tour) -> Outcome);

fn main() -> Outcome {
    let server = std::env::args().nth(1).ok_or("tour BOOTSTRAP")?;
    let mut tour = Tour::new(&server)?;
    let steps: [Step; 21] = [
        ("create topics", Tour::create_topics),
        ("codec none", |tour| tour.codec("none")),
        ("codec gzip", |tour| tour.codec("gzip")),
        ("codec snappy", |tour| tour.codec("snappy")),
        ("codec lz4", |tour| tour.codec("lz4")),
        ("codec zstd", |tour| tour.codec("zstd")),
        ("headers", Tour::headers),
        ("group of two members", Tour::group_of_two_members),
        ("describe group", Tour::describe_group),
        ("commit and resume", Tour::commit_and_resume),
        (
            "transactions, one committed, one aborted",
            Tour::transactions,
        ),
        ("read uncommitted", Tour::read_uncommitted),
        ("read committed", Tour::read_committed),
        ("offsets in a transaction", Tour::offsets_in_a_transaction),
        ("offsets by time", Tour::offsets_by_time),
        ("describe config", Tour::describe_config),
        ("alter config", Tour::alter_config),
        ("list groups", Tour::list_groups),
        ("delete group", Tour::delete_group),
        ("delete records", Tour::delete_records),
        ("delete topics", Tour::delete_topics),
    ];
    let mut failed = 0;
    for (name, step) in steps {
        match step(&mut tour) {
            Ok(()) => println!("ok {name}"),
            Err(error) => {
                failed += 1;
                println!("FAILED {name}: {}", error.to_string().replace('\n', " "));
            }
        }
    }
    std::process::exit(i32::from(failed > 0));
}
