"""Reads a topic with a classic consumer group of kafka-python whose members come and go, and checks that
every record was processed at least once and that nothing was skipped below a committed offset.

Usage: groups_kafka_python.py BROKERS TOPIC COUNT STRATEGY; the topic holds COUNT records. STRATEGY is
"range", "sticky" or "cooperative-sticky".
"""

import sys
import threading
import time

from kafka import KafkaAdminClient, KafkaConsumer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.errors import KafkaError

LIMIT_SECONDS = 60

brokers, topic, count, strategy = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
assignor = {
    "range": RangePartitionAssignor,
    "sticky": StickyPartitionAssignor,
    "cooperative-sticky": CooperativeStickyAssignor,
}[strategy]
group = f"{topic}-{strategy}"
deadline = time.monotonic() + LIMIT_SECONDS
seen, lock, joined = {}, threading.Lock(), threading.Event()
# Python only prints what a thread raises; the members must not fail unnoticed.
raised, print_raised = [], threading.excepthook


def note_raised(what):
    raised.append(f"{what.thread.name if what.thread else '?'}: {what.exc_value!r}")
    print_raised(what)


threading.excepthook = note_raised


def commit(member):
    # It raises while the group rebalances; what is not committed is read again.
    try:
        member.commit()
    except KafkaError:
        pass


def read(name, until):
    member = KafkaConsumer(
        topic,
        bootstrap_servers=brokers.split(","),
        group_id=group,
        client_id=name,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        partition_assignment_strategy=[assignor],
        heartbeat_interval_ms=300,
        session_timeout_ms=6000,
        max_poll_records=50,
    )
    while not until() and time.monotonic() < deadline:
        found = member.poll(timeout_ms=100)
        if member.assignment():
            joined.set()
        with lock:
            for at, records in found.items():
                seen.setdefault(at.partition, set()).update(r.offset for r in records)
        if found:
            commit(member)
    member.close()


def total():
    with lock:
        return sum(len(offsets) for offsets in seen.values())


first_done = threading.Event()
threads = [threading.Thread(target=read, args=("first", first_done.is_set))]
threads[0].start()
if not joined.wait(LIMIT_SECONDS):
    sys.exit("the first member was never assigned anything")
for name in ("second", "third"):
    threads.append(threading.Thread(target=read, args=(name, lambda: total() >= count)))
threads[1].start()
# The first leaves in the middle, and another takes its place.
time.sleep(1.0)
first_done.set()
threads[2].start()
for thread in threads:
    thread.join()

assert not raised, f"members failed: {raised}"
assert total() == count, f"{total()} of {count} records were processed"
admin = KafkaAdminClient(bootstrap_servers=brokers.split(","))
committed = admin.list_group_offsets(group)[group]
assert committed, "nothing was committed"
for at, offset in committed.items():
    missed = [o for o in range(offset.offset) if o not in seen.get(at.partition, ())]
    assert not missed, f"partition {at.partition} was committed past {missed[:3]}"
admin.close()
print("ok")
