"""Does to a topic what an operator does, with confluent-kafka's AdminClient: creates it with settings,
shows and changes them, deletes records, deletes the topic.

Usage: administration.py BROKERS TOPIC; prints one line per step that went as it should.
"""

import sys
import time

from confluent_kafka import Consumer, ElectionType, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic,
    ResourceType,
)

LIMIT_SECONDS = 60

brokers, topic = sys.argv[1], sys.argv[2]
deadline = time.monotonic() + LIMIT_SECONDS
admin = AdminClient({"bootstrap.servers": brokers})


def step(text):
    print(text, flush=True)


def until(what, holds):
    while True:
        if holds():
            return
        if time.monotonic() > deadline:
            sys.exit(f"never: {what}")
        time.sleep(0.05)


def only(futures):
    (future,) = futures.values()
    return future.result(timeout=LIMIT_SECONDS)


def replicas(index):
    partitions = admin.list_topics(topic, timeout=10).topics[topic].partitions
    return partitions[index].replicas if index in partitions else None


def settings():
    shown = only(admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]))
    return {name: entry.value for name, entry in shown.items()}


only(admin.create_topics([NewTopic(topic, 1, 3, config={
    "retention.ms": "3600000", "min.insync.replicas": "2", "cleanup.policy": "delete",
})]))
until("the topic is shown", lambda: topic in admin.list_topics(timeout=10).topics)
shown = settings()
assert shown["retention.ms"] == "3600000" and shown["retention.bytes"] == "-1", shown
step("created with settings")

changed = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[
    ConfigEntry("retention.ms", None, incremental_operation=AlterConfigOpType.DELETE),
    ConfigEntry("retention.bytes", "1000000", incremental_operation=AlterConfigOpType.SET),
    ConfigEntry("segment.bytes", "1048576", incremental_operation=AlterConfigOpType.SET),
])
only(admin.incremental_alter_configs([changed]))
until("the change is shown", lambda: settings()["retention.bytes"] == "1000000")
assert settings()["retention.ms"] == "-1"
refused = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[
    ConfigEntry("min.insync.replicas", "4", incremental_operation=AlterConfigOpType.SET),
])
try:
    only(admin.incremental_alter_configs([refused]))
    sys.exit("a min ISR beyond the replicas was accepted")
except KafkaException as error:
    assert error.args[0].name() == "INVALID_CONFIG", error
step("settings changed")

producer = Producer({"bootstrap.servers": brokers, "acks": "all", "linger.ms": 5})
for _ in range(400):
    producer.produce(topic, b"x" * 10000)
    producer.poll(0)
assert producer.flush(LIMIT_SECONDS) == 0
consumer = Consumer({"bootstrap.servers": brokers, "group.id": "unused"})
low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)
assert high == 400, (low, high)
deleted = only(admin.delete_records([TopicPartition(topic, 0, low + 10)]))
assert deleted.low_watermark == low + 10, deleted.low_watermark
try:
    only(admin.delete_records([TopicPartition(topic, 0, 1000)]))
    sys.exit("records beyond the end were deleted")
except KafkaException as error:
    assert error.args[0].name() == "OFFSET_OUT_OF_RANGE", error
step("records deleted")

assert only(admin.create_partitions([NewPartitions(topic, 3)])) is None
until("the partitions are shown", lambda: replicas(2))
only(admin.create_partitions([NewPartitions(topic, 4, replica_assignment=[[2, 1, 3]])]))
until("the replicas are those asked for", lambda: replicas(3) == [2, 1, 3])
try:
    only(admin.create_partitions([NewPartitions(topic, 2)]))
    sys.exit("a topic was made smaller")
except KafkaException as error:
    assert error.args[0].name() == "INVALID_PARTITIONS", error
step("partitions added")

elected = admin.elect_leaders(ElectionType.PREFERRED, [TopicPartition(topic, 0)])
(error,) = elected.result(timeout=LIMIT_SECONDS).values()
assert error is None or error.name() == "ELECTION_NOT_NEEDED", error
step("the preferred leader leads")

elected = admin.elect_leaders(ElectionType.UNCLEAN, [TopicPartition(topic, 0)])
(error,) = elected.result(timeout=LIMIT_SECONDS).values()
assert error is not None and error.name() == "ELECTION_NOT_NEEDED", error
step("no unclean election while there is a leader")

only(admin.delete_topics([topic], operation_timeout=10))
until("the topic is gone", lambda: topic not in admin.list_topics(timeout=10).topics)
step("deleted")
