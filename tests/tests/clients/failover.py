"""Keeps consumer groups of confluent-kafka reading while brokers die and restart, and counts what they
notice: rebalances, and records that nobody processed.

Usage: failover.py BROKERS TOPIC FILE RATE; the lines of FILE are written to TOPIC, RATE a second (0: as
fast as it goes). Says "stable" once every member has partitions and reads. Then it takes commands, a line
each: "report" prints per group the rebalances since it was stable; "finish" ends the writing (with RATE 0
once all is written), waits until every group has processed every record, closes all members and prints
per group "NAME rebalances=N missing=N skipped=N".
"""

import sys
import threading
import time

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, Producer
from confluent_kafka.admin import AdminClient

LIMIT_SECONDS = 240
MEMBERS = 2

brokers, topic, path, rate = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
finishing = threading.Event()
written, write_lock = set(), threading.Lock()
failures = []


def delivered(error, message):
    if error is not None:
        failures.append(str(error))
        return
    with write_lock:
        written.add((message.partition(), message.offset()))


def write():
    producer = Producer({"bootstrap.servers": brokers, "acks": "all", "enable.idempotence": True})
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if rate and finishing.is_set():
                break
            while True:
                try:
                    producer.produce(topic, line.rstrip("\n"), on_delivery=delivered)
                    break
                except BufferError:
                    producer.poll(0.05)
            producer.poll(0)
            if rate:
                time.sleep(1 / rate)
    if producer.flush(60):
        failures.append("records were not written in time")


class Group:
    def __init__(self, name, config):
        self.name, self.config = name, config
        self.lock, self.seen, self.rebalances = threading.Lock(), set(), 0
        self.assigned, self.stop = set(), threading.Event()
        self.threads = [threading.Thread(target=self.read, args=(i,)) for i in range(MEMBERS)]

    def rebalanced(self, *_):
        with self.lock:
            self.rebalances += 1

    def read(self, number):
        config = {
            "bootstrap.servers": brokers,
            "group.id": self.name,
            "client.id": f"{self.name}-{number}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            **self.config,
        }
        member = Consumer(config)
        member.subscribe(
            [topic],
            on_assign=self.rebalanced,
            on_revoke=self.rebalanced,
            on_lost=self.rebalanced,
        )
        count = 0
        while not self.stop.is_set():
            message = member.poll(0.1)
            if message is None or message.error():
                continue
            with self.lock:
                self.seen.add((message.partition(), message.offset()))
                self.assigned.add(number)
            member.store_offsets(message)
            count += 1
            if count % 50 == 0:
                self.commit(member)
        self.commit(member)
        member.close()

    @staticmethod
    def commit(member):
        try:
            member.commit(asynchronous=True)
        except KafkaException:
            pass

    def missing(self):
        with self.lock, write_lock:
            return len(written - self.seen)


def wait(what, condition):
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"{what}: not in time")
        time.sleep(0.05)


groups = [
    Group(f"{topic}-consumer", {"group.protocol": "consumer"}),
    Group(
        f"{topic}-classic",
        {
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": 10000,
            "heartbeat.interval.ms": 500,
        },
    ),
]
writer = threading.Thread(target=write)
writer.start()
for group in groups:
    for thread in group.threads:
        thread.start()
wait("every member reads", lambda: all(len(g.assigned) == MEMBERS for g in groups))
# Cooperative rebalances take two rounds: quiet for a while is stable.
quiet = [(-1, 0.0)] * len(groups)
while any(time.monotonic() - since < 3 or count < 0 for count, since in quiet):
    for index, group in enumerate(groups):
        if group.rebalances != quiet[index][0]:
            quiet[index] = (group.rebalances, time.monotonic())
    time.sleep(0.05)
stable = [group.rebalances for group in groups]
print("stable", flush=True)


def moved():
    return [group.rebalances - before for group, before in zip(groups, stable)]


for line in sys.stdin:
    if line.strip() == "report":
        print(" ".join(f"{g.name}={n}" for g, n in zip(groups, moved())), flush=True)
    if line.strip() == "finish":
        break
finishing.set()
writer.join()
assert not failures, failures[:3]
wait("every record is processed", lambda: not any(group.missing() for group in groups))
counts = moved()
admin = AdminClient({"bootstrap.servers": brokers})
for group in groups:
    group.stop.set()
for group in groups:
    for thread in group.threads:
        thread.join()
for group, count in zip(groups, counts):
    asked = [ConsumerGroupTopicPartitions(group.name)]
    found = admin.list_consumer_group_offsets(asked)[group.name].result(20).topic_partitions
    skipped = 0
    for partition in found:
        mine = {at for at in written if at[0] == partition.partition and at[1] < partition.offset}
        skipped += len(mine - group.seen)
    print(f"{group.name} rebalances={count} missing={group.missing()} skipped={skipped}", flush=True)
