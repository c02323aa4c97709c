"""A client of the chaos run that others wrote: librdkafka, through confluent-kafka.

Usage: librdkafka_client.py BROKERS TOPIC PARTITIONS

Reads lines "partition value" and produces them, idempotent and with acks=all; consumes the topic from its
start at the same time. Says what happens on standard output, one line each:

  a INDEX OFFSET              the record of the INDEXth line was acknowledged
  f INDEX CODE                it was not, and will not be tried again
  r PARTITION OFFSET VALUE    a record was consumed
  w TEXT                      something worth knowing

After the end of the input it waits for the acknowledgements, until they are consumed, and ends.
"""

import sys
import threading
import time

from confluent_kafka import Consumer, Producer, TopicPartition

LIMIT_SECONDS = 180

brokers, topic, partitions = sys.argv[1], sys.argv[2], int(sys.argv[3])
speaking = threading.Lock()
acked = {}
finished = threading.Event()


def say(line):
    with speaking:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def consume():
    consumer = Consumer({
        "bootstrap.servers": brokers,
        "log_level": 0,
    "log_level": 0,
        "group.id": "unused-but-demanded",
        "enable.auto.commit": False,
        "auto.offset.reset": "error",
        "fetch.error.backoff.ms": 50,
        "reconnect.backoff.max.ms": 500,
        "error_cb": lambda error: say(f"w consumer: {error}"),
    })
    consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
    read = {}
    deadline = None
    while True:
        if finished.is_set():
            deadline = deadline or time.monotonic() + LIMIT_SECONDS
            if all(read.get(p, -1) >= offset for p, offset in acked.items()):
                break
            if time.monotonic() > deadline:
                say(f"w the consumer gave up: it read {read}, acknowledged are {acked}")
                break
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error():
            say(f"w consumer: {message.error()}")
            continue
        read[message.partition()] = max(read.get(message.partition(), -1), message.offset())
        say(f"r {message.partition()} {message.offset()} {message.value().decode(errors='replace')}")
    consumer.close()


consumer_thread = threading.Thread(target=consume, daemon=True)
consumer_thread.start()

producer = Producer({
    "bootstrap.servers": brokers,
    "log_level": 0,
    "enable.idempotence": True,
    "acks": "all",
    "linger.ms": 5,
    "message.timeout.ms": 0,
    "reconnect.backoff.max.ms": 500,
    "error_cb": lambda error: say(f"w producer: {error}"),
})


def produce(index, partition, value):
    def delivered(error, message):
        if error is not None:
            say(f"f {index} {error.code()}")
            return
        offset = message.offset()
        acked[partition] = max(acked.get(partition, -1), offset)
        say(f"a {index} {offset}")

    while True:
        try:
            producer.produce(topic, value.encode(), partition=partition, on_delivery=delivered)
            break
        except BufferError:
            producer.poll(0.1)
    producer.poll(0)


# Deliveries must be reported while no input comes, too.
def poll():
    while not finished.is_set():
        producer.poll(0.1)


threading.Thread(target=poll, daemon=True).start()
for index, line in enumerate(sys.stdin):
    partition, value = line.rstrip("\n").split(" ", 1)
    produce(index, int(partition), value)
left = producer.flush(LIMIT_SECONDS)
if left:
    say(f"w {left} records are not acknowledged")
finished.set()
consumer_thread.join(LIMIT_SECONDS + 10)
sys.exit(1 if consumer_thread.is_alive() else 0)
