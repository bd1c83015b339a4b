// The tour by franz-go: `tour BOOTSTRAP` prints a line a step (see ../README.md).
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const deadline = 60 * time.Second

type tour struct {
	server                                string
	records, shared, input, output, timed string
	group, copiers, transactional         string
	client                                *kgo.Client
	admin                                 *kadm.Client
	members                               []*kgo.Client
}

func check(what string, got, want any) error {
	if reflect.DeepEqual(got, want) {
		return nil
	}
	return fmt.Errorf("%s: got %v, want %v", what, got, want)
}

func within() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), deadline)
}

func (t *tour) open(options ...kgo.Opt) (*kgo.Client, error) {
	base := []kgo.Opt{kgo.SeedBrokers(t.server), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression())}
	return kgo.NewClient(append(base, options...)...)
}

// write produces the values in order and answers the offset of the first.
func (t *tour) write(topic string, partition int32, values []string, options ...kgo.Opt) (int64, error) {
	client, err := t.open(append([]kgo.Opt{kgo.ProducerLinger(20 * time.Millisecond)}, options...)...)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	var records []*kgo.Record
	for _, value := range values {
		records = append(records, &kgo.Record{Topic: topic, Partition: partition, Key: []byte("k"), Value: []byte(value)})
	}
	ctx, cancel := within()
	defer cancel()
	if err := client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return 0, err
	}
	return records[0].Offset, nil
}

// read answers the records of partition 0 from the offset to the end; there must be `count`.
func (t *tour) read(topic string, count int, offset int64, options ...kgo.Opt) ([]*kgo.Record, error) {
	// KeepControlRecords: the end is reached when the last offset, be it a marker's, has been seen.
	at := map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(offset)}}
	client, err := t.open(append([]kgo.Opt{kgo.ConsumePartitions(at), kgo.KeepControlRecords()}, options...)...)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := within()
	defer cancel()
	ends, err := t.admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	end, _ := ends.Lookup(topic, 0)
	var found []*kgo.Record
	for next := offset; next < end.Offset; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return nil, fmt.Errorf("%d records of %d: %w", len(found), count, err)
		}
		fetches.EachRecord(func(record *kgo.Record) {
			next = record.Offset + 1
			if !record.Attrs.IsControl() {
				found = append(found, record)
			}
		})
	}
	return found, check("records", len(found), count)
}

func values(records []*kgo.Record) (found []string) {
	for _, record := range records {
		found = append(found, string(record.Value))
	}
	return found
}

func (t *tour) createTopics() error {
	ctx, cancel := within()
	defer cancel()
	for topic, partitions := range map[string]int32{t.records: 1, t.shared: 4, t.input: 1, t.output: 1, t.timed: 1} {
		if _, err := t.admin.CreateTopic(ctx, partitions, 1, nil, topic); err != nil {
			return err
		}
	}
	details, err := t.admin.ListTopics(ctx, t.records, t.shared)
	if err != nil {
		return err
	}
	if _, err := t.admin.CreateTopic(ctx, 1, 1, nil, t.records); !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("a topic was created twice: %v", err)
	}
	return check("partitions", []int{len(details[t.records].Partitions), len(details[t.shared].Partitions)}, []int{1, 4})
}

func (t *tour) codec(name string, codec kgo.CompressionCodec) error {
	var wanted []string
	for n := range 100 {
		wanted = append(wanted, strings.Repeat(fmt.Sprintf("%s %d ", name, n), 50))
	}
	first, err := t.write(t.records, 0, wanted, kgo.ProducerBatchCompression(codec))
	if err != nil {
		return err
	}
	found, err := t.read(t.records, 100, first)
	if err != nil {
		return err
	}
	return check("values", values(found), wanted)
}

func (t *tour) headers() error {
	wanted := []kgo.RecordHeader{{Key: "a", Value: []byte("1")}, {Key: "empty", Value: []byte{}}, {Key: "a", Value: []byte{0, 255}}}
	ctx, cancel := within()
	defer cancel()
	record := &kgo.Record{Topic: t.records, Value: []byte("v"), Headers: wanted}
	if err := t.client.ProduceSync(ctx, record).FirstErr(); err != nil {
		return err
	}
	found, err := t.read(t.records, 1, record.Offset)
	if err != nil {
		return err
	}
	return check("headers", fmt.Sprintf("%q", found[0].Headers), fmt.Sprintf("%q", wanted))
}

func (t *tour) member(group, topic string) (*kgo.Client, error) {
	return t.open(kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
}

func (t *tour) groupOfTwo() error {
	for partition := range int32(4) {
		var records []string
		for n := range 10 {
			records = append(records, fmt.Sprint(partition, " ", n))
		}
		if _, err := t.write(t.shared, partition, records); err != nil {
			return err
		}
	}
	for range 2 {
		member, err := t.member(t.group, t.shared)
		if err != nil {
			return err
		}
		t.members = append(t.members, member)
	}
	ctx, cancel := within()
	defer cancel()
	found := map[string]bool{}
	for {
		for _, member := range t.members {
			short, done := context.WithTimeout(ctx, 200*time.Millisecond)
			member.PollFetches(short).EachRecord(func(record *kgo.Record) { found[string(record.Value)] = true })
			done()
		}
		groups, err := t.admin.DescribeGroups(ctx, t.group)
		if err != nil {
			return err
		}
		var counts []int
		for _, member := range groups[t.group].Members {
			if assigned, ok := member.Assigned.AsConsumer(); ok {
				for _, topic := range assigned.Topics {
					counts = append(counts, len(topic.Partitions))
				}
			}
		}
		if len(found) == 40 && groups[t.group].State == "Stable" && slices.Equal(counts, []int{2, 2}) {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("partitions %v, %d records of 40", counts, len(found))
		}
	}
}

func (t *tour) describeGroup() error {
	ctx, cancel := within()
	defer cancel()
	groups, err := t.admin.DescribeGroups(ctx, t.group)
	if err != nil {
		return err
	}
	group := groups[t.group]
	return check("state and members", fmt.Sprint(group.State, " ", len(group.Members)), "Stable 2")
}

func (t *tour) commitAndResume() error {
	ctx, cancel := within()
	defer cancel()
	offsets := map[string]map[int32]kgo.EpochOffset{t.shared: {}}
	for partition := range int32(4) {
		offsets[t.shared][partition] = kgo.EpochOffset{Epoch: -1, Offset: 10}
	}
	var failed error
	if len(t.members) != 2 {
		return errors.New("the group has no members")
	}
	// A member commits for its own partitions: those that it has been given.
	mine, err := t.admin.DescribeGroups(ctx, t.group)
	if err != nil {
		return err
	}
	for _, member := range t.members {
		id, _ := member.GroupMetadata()
		own := map[string]map[int32]kgo.EpochOffset{t.shared: {}}
		for _, described := range mine[t.group].Members {
			if assigned, ok := described.Assigned.AsConsumer(); ok && described.MemberID == id {
				for _, topic := range assigned.Topics {
					for _, partition := range topic.Partitions {
						own[t.shared][partition] = offsets[t.shared][partition]
					}
				}
			}
		}
		failed = errors.Join(failed, check("own partitions", len(own[t.shared]), 2))
		member.CommitOffsetsSync(ctx, own, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, response *kmsg.OffsetCommitResponse, err error) {
			failed = errors.Join(failed, err)
			if response != nil {
				for _, topic := range response.Topics {
					for _, partition := range topic.Partitions {
						failed = errors.Join(failed, kerr.ErrorForCode(partition.ErrorCode))
					}
				}
			}
		})
	}
	for _, member := range t.members {
		member.Close()
	}
	t.members = nil
	if failed != nil {
		return failed
	}
	for partition := range int32(4) {
		if _, err := t.write(t.shared, partition, []string{fmt.Sprint(partition, " more")}); err != nil {
			return err
		}
	}
	member, err := t.member(t.group, t.shared)
	if err != nil {
		return err
	}
	defer member.Close()
	var found []string
	for len(found) < 4 {
		fetches := member.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return fmt.Errorf("%v after the committed ones: %w", found, err)
		}
		found = append(found, values(fetches.Records())...)
	}
	slices.Sort(found)
	return check("records", found, []string{"0 more", "1 more", "2 more", "3 more"})
}

func (t *tour) transactions() error {
	client, err := t.open(kgo.TransactionalID(t.transactional + ".a"))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := within()
	defer cancel()
	for _, commit := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort} {
		if err := client.BeginTransaction(); err != nil {
			return err
		}
		for n := range 3 {
			name := map[kgo.TransactionEndTry]string{kgo.TryCommit: "c", kgo.TryAbort: "a"}[commit]
			if err := client.ProduceSync(ctx, &kgo.Record{Topic: t.output, Value: []byte(fmt.Sprint(name, n))}).FirstErr(); err != nil {
				return err
			}
		}
		if err := client.EndTransaction(ctx, commit); err != nil {
			return err
		}
	}
	return nil
}

func (t *tour) readUncommitted() error {
	found, err := t.read(t.output, 6, 0, kgo.FetchIsolationLevel(kgo.ReadUncommitted()))
	if err != nil {
		return err
	}
	return check("values", values(found), []string{"c0", "c1", "c2", "a0", "a1", "a2"})
}

func (t *tour) readCommitted() error {
	found, err := t.read(t.output, 3, 0, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		return err
	}
	return check("values", values(found), []string{"c0", "c1", "c2"})
}

func (t *tour) offsetsInATransaction() error {
	if _, err := t.write(t.input, 0, []string{"0", "1", "2", "3"}); err != nil {
		return err
	}
	session, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(t.server), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionalID(t.transactional+".b"),
		kgo.ConsumerGroup(t.copiers), kgo.ConsumeTopics(t.input), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.RequireStableFetchOffsets())
	if err != nil {
		return err
	}
	defer session.Close()
	ctx, cancel := within()
	defer cancel()
	for _, end := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort} {
		// Two records a transaction; the aborted ones' offsets are not the group's.
		count := 0
		for count < 2 {
			fetches := session.PollRecords(ctx, 2-count)
			if err := fetches.Err0(); err != nil {
				return err
			}
			count += fetches.NumRecords()
		}
		if err := session.Begin(); err != nil {
			return err
		}
		if err := session.ProduceSync(ctx, &kgo.Record{Topic: t.output, Value: []byte("copied")}).FirstErr(); err != nil {
			return err
		}
		committed, err := session.End(ctx, end)
		if err != nil {
			return err
		}
		if err := check("committed", committed, end == kgo.TryCommit); err != nil {
			return err
		}
		// A commit is answered before its markers are written.
		for at := int64(-1); at != 2; {
			offsets, err := t.admin.FetchOffsets(ctx, t.copiers)
			if err != nil {
				return fmt.Errorf("the group's offset: got %d, want 2: %w", at, err)
			}
			offset, _ := offsets.Lookup(t.input, 0)
			at = offset.At
		}
	}
	return nil
}

func (t *tour) offsetsByTime() error {
	ctx, cancel := within()
	defer cancel()
	base := time.Now().Add(-100 * time.Second).Truncate(time.Millisecond)
	for n := range 5 {
		record := &kgo.Record{Topic: t.timed, Value: []byte(fmt.Sprint(n)), Timestamp: base.Add(time.Duration(n) * time.Second)}
		if err := t.client.ProduceSync(ctx, record).FirstErr(); err != nil {
			return err
		}
	}
	between, err := t.admin.ListOffsetsAfterMilli(ctx, base.UnixMilli()+2500, t.timed)
	if err != nil {
		return err
	}
	starts, err := t.admin.ListStartOffsets(ctx, t.timed)
	if err != nil {
		return err
	}
	// After the last: franz-go answers the end.
	after, err := t.admin.ListOffsetsAfterMilli(ctx, base.UnixMilli()+9000, t.timed)
	if err != nil {
		return err
	}
	middle, _ := between.Lookup(t.timed, 0)
	start, _ := starts.Lookup(t.timed, 0)
	end, _ := after.Lookup(t.timed, 0)
	return check("offsets and time", []int64{middle.Offset, middle.Timestamp, start.Offset, end.Offset}, []int64{3, base.UnixMilli() + 3000, 0, 5})
}

func (t *tour) topicConfig(key string) (string, error) {
	ctx, cancel := within()
	defer cancel()
	topics, err := t.admin.DescribeTopicConfigs(ctx, t.timed)
	if err != nil {
		return "", err
	}
	topic, err := topics.On(t.timed, nil)
	if err != nil {
		return "", err
	}
	for _, config := range topic.Configs {
		if config.Key == key {
			return config.MaybeValue(), nil
		}
	}
	return "", fmt.Errorf("no %s", key)
}

func (t *tour) describeConfig() error {
	value, err := t.topicConfig("cleanup.policy")
	if err != nil {
		return err
	}
	return check("cleanup.policy", value, "delete")
}

func (t *tour) alterConfig() error {
	ctx, cancel := within()
	defer cancel()
	wanted := "86400000"
	responses, err := t.admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &wanted}}, t.timed)
	if err != nil {
		return err
	}
	if response, err := responses.On(t.timed, nil); err != nil || response.Err != nil {
		return errors.Join(err, response.Err)
	}
	value, err := t.topicConfig("retention.ms")
	if err != nil {
		return err
	}
	return check("retention.ms", value, wanted)
}

func (t *tour) listed() ([]string, error) {
	ctx, cancel := within()
	defer cancel()
	groups, err := t.admin.ListGroups(ctx)
	return groups.Groups(), err
}

func (t *tour) listGroups() error {
	groups, err := t.listed()
	if err != nil {
		return err
	}
	return check("groups", []bool{slices.Contains(groups, t.group), slices.Contains(groups, t.copiers)}, []bool{true, true})
}

func (t *tour) deleteGroup() error {
	ctx, cancel := within()
	defer cancel()
	if _, err := t.admin.DeleteGroup(ctx, t.group); err != nil {
		return err
	}
	groups, err := t.listed()
	if err != nil {
		return err
	}
	return check("still there", slices.Contains(groups, t.group), false)
}

func (t *tour) deleteRecords() error {
	ctx, cancel := within()
	defer cancel()
	var before kadm.Offsets
	before.AddOffset(t.timed, 0, 2, -1)
	if _, err := t.admin.DeleteRecords(ctx, before); err != nil {
		return err
	}
	starts, err := t.admin.ListStartOffsets(ctx, t.timed)
	if err != nil {
		return err
	}
	start, _ := starts.Lookup(t.timed, 0)
	found, err := t.read(t.timed, 3, 2)
	if err != nil {
		return err
	}
	return check("first, and the first record", []int64{start.Offset, found[0].Offset}, []int64{2, 2})
}

func (t *tour) deleteTopics() error {
	ctx, cancel := within()
	defer cancel()
	mine := []string{t.records, t.shared, t.input, t.output, t.timed}
	responses, err := t.admin.DeleteTopics(ctx, mine...)
	if err := errors.Join(err, responses.Error()); err != nil {
		return err
	}
	for {
		details, err := t.admin.ListTopics(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(mine, details.Has) {
			return nil
		}
	}
}

func main() {
	suffix := make([]byte, 4)
	_, _ = rand.Read(suffix)
	name := "tour-go-" + hex.EncodeToString(suffix)
	t := &tour{server: os.Args[1], records: name + ".records", shared: name + ".shared", input: name + ".input", output: name + ".output", timed: name + ".timed",
		group: name + ".group", copiers: name + ".copiers", transactional: name}
	var err error
	if t.client, err = t.open(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	defer t.client.Close()
	t.admin = kadm.NewClient(t.client)
	steps := []struct {
		name string
		run  func() error
	}{
		{"create topics", t.createTopics},
		{"codec none", func() error { return t.codec("none", kgo.NoCompression()) }},
		{"codec gzip", func() error { return t.codec("gzip", kgo.GzipCompression()) }},
		{"codec snappy", func() error { return t.codec("snappy", kgo.SnappyCompression()) }},
		{"codec lz4", func() error { return t.codec("lz4", kgo.Lz4Compression()) }},
		{"codec zstd", func() error { return t.codec("zstd", kgo.ZstdCompression()) }},
		{"headers", t.headers},
		{"group of two members", t.groupOfTwo},
		{"describe group", t.describeGroup},
		{"commit and resume", t.commitAndResume},
		{"transactions, one committed, one aborted", t.transactions},
		{"read uncommitted", t.readUncommitted},
		{"read committed", t.readCommitted},
		{"offsets in a transaction", t.offsetsInATransaction},
		{"offsets by time", t.offsetsByTime},
		{"describe config", t.describeConfig},
		{"alter config", t.alterConfig},
		{"list groups", t.listGroups},
		{"delete group", t.deleteGroup},
		{"delete records", t.deleteRecords},
		{"delete topics", t.deleteTopics},
	}
	failed := 0
	for _, step := range steps {
		if err := step.run(); err != nil {
			failed++
			fmt.Printf("FAILED %s: %s\n", step.name, strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Println("ok", step.name)
		}
	}
	if failed > 0 {
		os.Exit(1)
	}
}
