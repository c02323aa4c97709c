"""Reads a topic with a consumer group of confluent-kafka whose members come and go, and checks that
every record was processed at least once and that nothing was skipped below a committed offset.

Usage: groups.py BROKERS TOPIC COUNT PROTOCOL [STRATEGY]; the records' values are 0 to COUNT - 1.
PROTOCOL is "classic" (with a STRATEGY such as range) or "consumer" (KIP-848).
"""

import sys
import threading
import time

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException
from confluent_kafka.admin import AdminClient

LIMIT_SECONDS = 60

brokers, topic, count, protocol = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
strategy = sys.argv[5] if len(sys.argv) > 5 else None
group = f"{topic}-{protocol}-{strategy}"
deadline = time.monotonic() + LIMIT_SECONDS
seen, lock, joined = {}, threading.Lock(), threading.Event()


def consumer(name):
    config = {
        "bootstrap.servers": brokers,
        "group.id": group,
        "client.id": name,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
    }
    if protocol == "consumer":
        config["group.protocol"] = "consumer"
    else:
        config["heartbeat.interval.ms"] = 300
        config["session.timeout.ms"] = 6000
        config["partition.assignment.strategy"] = strategy
    return Consumer(config)


def commit(member):
    # Not waited for: a commit stands behind a join on the same connection, and the join waits for
    # the other members, which must be free to take part.
    try:
        member.commit(asynchronous=True)
    except KafkaException:
        pass


def read(name, until):
    member = consumer(name)
    member.subscribe([topic])
    # A client that closes before it knows that it has joined says nothing to anybody.
    known = False
    while not (until() and known) and time.monotonic() < deadline:
        message = member.poll(0.1)
        if member.assignment():
            known = True
            joined.set()
        if message is None or message.error():
            continue
        with lock:
            seen.setdefault(message.partition(), set()).add(message.offset())
        member.store_offsets(message)
        if message.offset() % 20 == 0:
            commit(member)
    commit(member)
    member.close()


def total():
    with lock:
        return sum(len(offsets) for offsets in seen.values())


first_done = threading.Event()
threads = [threading.Thread(target=read, args=("first", lambda: first_done.is_set()))]
threads[0].start()
if not joined.wait(LIMIT_SECONDS):
    sys.exit("the first member was never assigned anything")
threads.append(threading.Thread(target=read, args=("second", lambda: total() >= count)))
threads[1].start()
# The first leaves in the middle, and another takes its place.
time.sleep(1.0)
first_done.set()
threads.append(threading.Thread(target=read, args=("third", lambda: total() >= count)))
threads[2].start()
for thread in threads:
    thread.join()

assert total() == count, f"{total()} of {count} records were processed"
admin = AdminClient({"bootstrap.servers": brokers})
answer = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
for committed in answer[group].result(10).topic_partitions:
    missed = [o for o in range(committed.offset) if o not in seen.get(committed.partition, ())]
    assert not missed, f"partition {committed.partition} was committed past {missed[:3]}"
# A client says that it leaves and does not wait for the answer. Far below the session's time-out: an
# empty group is one that everybody has left, not one whose members were given up.
deadline = time.monotonic() + 5
while True:
    described = admin.describe_consumer_groups([group])[group].result(10)
    if described.state.name == "EMPTY":
        break
    members = [(m.client_id, m.member_id) for m in described.members]
    assert time.monotonic() < deadline, f"{described.state} with {members}"
print("ok")
