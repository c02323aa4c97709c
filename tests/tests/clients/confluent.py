"""Writes the records of standard input (key, tab, value) to a topic of one partition with
confluent-kafka, and at the same time reads them back with assign() and prints them.

Usage: confluent.py BROKERS TOPIC COUNT; ends when COUNT records are written and read.
"""

import sys
import threading
import time

from confluent_kafka import Consumer, Producer, TopicPartition

LIMIT_SECONDS = 80

brokers, topic, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
deadline = time.monotonic() + LIMIT_SECONDS
failures = []


def produce():
    producer = Producer({
        "bootstrap.servers": brokers,
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": 5,
    })

    def delivered(error, message):
        if error is not None:
            failures.append(f"not delivered: {error}")

    for line in sys.stdin:
        key, value = line.rstrip("\n").split("\t", 1)
        producer.produce(topic, value.encode(), key.encode(), on_delivery=delivered)
        producer.poll(0)
    left = producer.flush(max(0.0, deadline - time.monotonic()))
    if left:
        failures.append(f"{left} records are not acknowledged")


def consume():
    consumer = Consumer({
        "bootstrap.servers": brokers,
        "group.id": "unused-but-demanded",
        "enable.auto.commit": False,
        "fetch.error.backoff.ms": 50,
    })
    consumer.assign([TopicPartition(topic, 0, 0)])
    read = 0
    while read < count and not failures:
        if time.monotonic() > deadline:
            failures.append(f"{read} of {count} records are read")
            break
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error():
            print(f"consumer: {message.error()}", file=sys.stderr)
            continue
        print(f"{message.key().decode()}\t{message.value().decode()}", flush=True)
        read += 1
    consumer.close()


writer = threading.Thread(target=produce, daemon=True)
writer.start()
consume()
if not failures:
    writer.join(max(0.0, deadline - time.monotonic()))
    if writer.is_alive():
        failures.append("the producer does not end")
for failure in failures:
    print(failure, file=sys.stderr)
sys.exit(1 if failures else 0)
