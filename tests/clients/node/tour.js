// The tour by kafkajs: `node tour.js BOOTSTRAP` prints a line a step (see ../README.md).
"use strict";
const assert = require("node:assert");
const { randomBytes } = require("node:crypto");
const { Kafka, CompressionTypes, CompressionCodecs, ConfigResourceTypes, logLevel } = require("kafkajs");
const snappy = require("kafkajs-snappy");
const lz4 = require("lz4-napi");
const zstd = require("@bokuweb/zstd-wasm");

// kafkajs knows none and gzip by itself; the others are given to it.
CompressionCodecs[CompressionTypes.Snappy] = snappy;
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: (encoder) => lz4.compressFrame(encoder.buffer),
  decompress: (buffer) => lz4.decompressFrame(buffer),
});
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => Buffer.from(zstd.compress(encoder.buffer, 3)),
  decompress: async (buffer) => Buffer.from(zstd.decompress(buffer)),
});

const server = process.argv[2];
const name = `tour-node-${randomBytes(4).toString("hex")}`;
const [records, shared, input, output, timed] = ["records", "shared", "input", "output", "timed"].map((part) => `${name}.${part}`);
const [group, copiers] = [`${name}.group`, `${name}.copiers`];
const deadlineMs = 60_000;
const kafka = new Kafka({ clientId: "tour", brokers: [server], logLevel: logLevel.NOTHING });
const admin = kafka.admin();
const partitions = [0, 1, 2, 3];
let members = [];

/** Waits until the condition holds, asking after every event and once in a while. */
async function until(what, condition) {
  const deadline = Date.now() + deadlineMs;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`not within ${deadlineMs} ms: ${what()}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Writes records in order and answers the offset of the first. */
async function write(topic, values, { partition = 0, compression = CompressionTypes.None, headers, timestamps } = {}) {
  const producer = kafka.producer();
  await producer.connect();
  const messages = values.map((value, n) => ({ key: "k", value, partition, headers, timestamp: timestamps?.[n] }));
  const [{ baseOffset }] = await producer.send({ topic, acks: -1, compression, messages });
  await producer.disconnect();
  return Number(baseOffset);
}

/** `count` records of partition 0 from `offset`; kafkajs reads in groups only, so that each read has one of its own. */
async function read(topic, count, offset = 0, readUncommitted = true) {
  const found = [];
  let position = -1;
  const reader = `${name}.reader.${randomBytes(4).toString("hex")}`;
  const consumer = kafka.consumer({ groupId: reader, readUncommitted, maxWaitTimeInMs: 100 });
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  const [{ high }] = await admin.fetchTopicOffsets(topic);
  consumer.on(consumer.events.END_BATCH_PROCESS, ({ payload }) => (position = Math.max(position, Number(payload.lastOffset) + 1)));
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ message }) => void (Number(message.offset) >= offset && found.push(message)),
  });
  consumer.seek({ topic, partition: 0, offset: String(offset) });
  // The batch that holds the last marker ends the log; kafkajs passes it on as an empty one.
  await until(() => `${count} records of ${topic}, found ${found.length} up to ${position} of ${high}`, () => found.length >= count && position >= Number(high));
  await consumer.disconnect();
  assert.strictEqual(found.length, count, "records");
  return found;
}

const texts = (messages) => messages.map(({ value }) => value.toString());

async function createTopics() {
  const topics = [records, shared, input, output, timed].map((topic) => ({ topic, numPartitions: topic === shared ? 4 : 1, replicationFactor: 1 }));
  assert.strictEqual(await admin.createTopics({ topics, waitForLeaders: true }), true);
  assert.strictEqual(await admin.createTopics({ topics: topics.slice(0, 1) }), false, "a topic was created twice");
  const found = await admin.fetchTopicMetadata({ topics: [records, shared] });
  assert.deepStrictEqual(Object.fromEntries(found.topics.map((topic) => [topic.name, topic.partitions.length])), { [records]: 1, [shared]: 4 });
}

async function codec(compression) {
  const values = Array.from({ length: 100 }, (_, n) => `${compression} ${n} `.repeat(50));
  const first = await write(records, values, { compression });
  assert.deepStrictEqual(texts(await read(records, 100, first)), values);
}

async function headers() {
  const first = await write(records, ["v"], { headers: { a: ["1", Buffer.from([0, 255])], empty: "" } });
  const [found] = await read(records, 1, first);
  assert.deepStrictEqual(found.headers.a, [Buffer.from("1"), Buffer.from([0, 255])]);
  assert.deepStrictEqual(found.headers.empty, Buffer.alloc(0));
}

async function groupOfTwo() {
  for (const partition of partitions) await write(shared, Array.from({ length: 10 }, (_, n) => `${partition} ${n}`), { partition });
  const found = new Set();
  for (const _ of [1, 2]) {
    const consumer = kafka.consumer({ groupId: group, maxWaitTimeInMs: 100, heartbeatInterval: 200, rebalanceTimeout: 10_000 });
    const member = { consumer, assigned: [] };
    consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => (member.assigned = payload.memberAssignment[shared] ?? []));
    await consumer.connect();
    await consumer.subscribe({ topic: shared, fromBeginning: true });
    await consumer.run({ autoCommit: false, eachMessage: async ({ message }) => void found.add(message.value.toString()) });
    members.push(member);
  }
  await until(
    () => `two partitions a member, now ${members.map((member) => member.assigned.length)}, and ${found.size} records of 40`,
    () => found.size === 40 && members.every((member) => member.assigned.length === 2),
  );
  assert.deepStrictEqual(members.flatMap((member) => member.assigned).sort(), partitions);
}

async function describeGroup() {
  const { groups } = await admin.describeGroups([group]);
  assert.deepStrictEqual([groups[0].state, groups[0].members.length], ["Stable", 2]);
}

async function commitAndResume() {
  assert.strictEqual(members.length, 2, "the group has no members");
  for (const { consumer, assigned } of members) {
    await consumer.commitOffsets(assigned.map((partition) => ({ topic: shared, partition, offset: "10", metadata: "read" })));
  }
  for (const { consumer } of members) await consumer.disconnect();
  members = [];
  for (const partition of partitions) await write(shared, [`${partition} more`], { partition });
  const found = [];
  const consumer = kafka.consumer({ groupId: group, maxWaitTimeInMs: 100 });
  await consumer.connect();
  await consumer.subscribe({ topic: shared, fromBeginning: true });
  await consumer.run({ autoCommit: false, eachMessage: async ({ message }) => void found.push(message.value.toString()) });
  await until(() => `4 records after the committed ones, found ${found}`, () => found.length >= 4);
  await consumer.disconnect();
  assert.deepStrictEqual(found.sort(), partitions.map((partition) => `${partition} more`));
  const [topic] = await admin.fetchOffsets({ groupId: group, topics: [shared] });
  assert.deepStrictEqual(topic.partitions.map(({ offset, metadata }) => [offset, metadata]), partitions.map(() => ["10", "read"]));
}

async function transactions() {
  const producer = kafka.producer({ transactionalId: `${name}.a`, idempotent: true, maxInFlightRequests: 1 });
  await producer.connect();
  for (const [end, letter] of [["commit", "c"], ["abort", "a"]]) {
    const transaction = await producer.transaction();
    await transaction.send({ topic: output, acks: -1, messages: [0, 1, 2].map((n) => ({ value: `${letter}${n}`, partition: 0 })) });
    await transaction[end]();
  }
  await producer.disconnect();
}

const readUncommitted = async () => assert.deepStrictEqual(texts(await read(output, 6)), ["c0", "c1", "c2", "a0", "a1", "a2"]);
const readCommitted = async () => assert.deepStrictEqual(texts(await read(output, 3, 0, false)), ["c0", "c1", "c2"]);

async function offsetsInATransaction() {
  await write(input, ["0", "1", "2", "3"]);
  const producer = kafka.producer({ transactionalId: `${name}.b`, idempotent: true, maxInFlightRequests: 1 });
  await producer.connect();
  for (const [end, offset] of [["commit", "2"], ["abort", "4"]]) {
    const transaction = await producer.transaction();
    await transaction.send({ topic: output, acks: -1, messages: [{ value: "copied", partition: 0 }] });
    await transaction.sendOffsets({ consumerGroupId: copiers, topics: [{ topic: input, partitions: [{ partition: 0, offset }] }] });
    await transaction[end]();
    // A commit is answered before its markers are written.
    let committed;
    await until(() => `the group's offset is 2, now ${committed}`, async () => {
      const [topic] = await admin.fetchOffsets({ groupId: copiers, topics: [input] });
      committed = topic.partitions[0].offset;
      return committed === "2";
    });
  }
  await producer.disconnect();
}

async function offsetsByTime() {
  const base = Date.now() - 100_000;
  await write(timed, ["0", "1", "2", "3", "4"], { timestamps: [0, 1, 2, 3, 4].map((n) => String(base + n * 1000)) });
  const offsetAt = async (time) => (await admin.fetchTopicOffsetsByTimestamp(timed, time))[0].offset;
  assert.strictEqual(await offsetAt(base + 2500), "3");
  assert.strictEqual(await offsetAt(base + 9000), "5", "after the last: kafkajs answers the end");
  const [{ low, high }] = await admin.fetchTopicOffsets(timed);
  assert.deepStrictEqual([low, high], ["0", "5"]);
}

async function topicConfig(key) {
  const { resources } = await admin.describeConfigs({ includeSynonyms: false, resources: [{ type: ConfigResourceTypes.TOPIC, name: timed, configNames: [key] }] });
  return resources[0].configEntries.find((entry) => entry.configName === key)?.configValue;
}

const describeConfig = async () => assert.strictEqual(await topicConfig("cleanup.policy"), "delete");

async function alterConfig() {
  const configEntries = [{ name: "retention.ms", value: "86400000" }];
  await admin.alterConfigs({ validateOnly: false, resources: [{ type: ConfigResourceTypes.TOPIC, name: timed, configEntries }] });
  assert.strictEqual(await topicConfig("retention.ms"), "86400000");
}

const listed = async () => (await admin.listGroups()).groups.map(({ groupId }) => groupId);

async function listGroups() {
  const found = await listed();
  assert.deepStrictEqual([group, copiers].filter((id) => !found.includes(id)), []);
}

async function deleteGroup() {
  await admin.deleteGroups([group]);
  assert.ok(!(await listed()).includes(group), "still there");
}

async function deleteRecords() {
  await admin.deleteTopicRecords({ topic: timed, partitions: [{ partition: 0, offset: "2" }] });
  const [{ low }] = await admin.fetchTopicOffsets(timed);
  assert.strictEqual(low, "2");
  assert.deepStrictEqual((await read(timed, 3, 2)).map(({ offset }) => offset), ["2", "3", "4"]);
}

async function deleteTopics() {
  const mine = [records, shared, input, output, timed];
  await admin.deleteTopics({ topics: mine });
  await until(() => "the topics are gone", async () => !(await admin.listTopics()).some((topic) => mine.includes(topic)));
}

const steps = [
  ["create topics", createTopics],
  ["codec none", () => codec(CompressionTypes.None)],
  ["codec gzip", () => codec(CompressionTypes.GZIP)],
  ["codec snappy", () => codec(CompressionTypes.Snappy)],
  ["codec lz4", () => codec(CompressionTypes.LZ4)],
  ["codec zstd", () => codec(CompressionTypes.ZSTD)],
  ["headers", headers],
  ["group of two members", groupOfTwo],
  ["describe group", describeGroup],
  ["commit and resume", commitAndResume],
  ["transactions, one committed, one aborted", transactions],
  ["read uncommitted", readUncommitted],
  ["read committed", readCommitted],
  ["offsets in a transaction", offsetsInATransaction],
  ["offsets by time", offsetsByTime],
  ["describe config", describeConfig],
  ["alter config", alterConfig],
  ["list groups", listGroups],
  ["delete group", deleteGroup],
  ["delete records", deleteRecords],
  ["delete topics", deleteTopics],
];

(async () => {
  let failed = 0;
  await zstd.init();
  await admin.connect();
  for (const [step, action] of steps) {
    try {
      await action();
      console.log(`ok ${step}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${step}: ${String(error.message).replace(/\s+/g, " ")}`);
    }
  }
  await admin.disconnect();
  process.exit(failed ? 1 : 0);
})();
