"""A shop's back: takes orders from Kafka, calls the stock over HTTP, and says so in its log."""

import json
import logging
import os

import requests
from kafka import KafkaConsumer

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
log = logging.getLogger("worker")

consumer = KafkaConsumer(
    os.environ["TOPIC"],
    bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
    api_version=tuple(map(int, os.environ["KAFKA_API_VERSION"].split("."))),
    group_id=os.environ["GROUP"],
    auto_offset_reset="earliest",
    value_deserializer=json.loads,
)
consumer.partitions_for_topic(os.environ["TOPIC"])

for message in consumer:
    answer = requests.post(f"{os.environ['STOCK_URL']}/reserve/{message.value['order']}", timeout=10)
    log.info("order %s reserved: %s", message.value["order"], answer.status_code)
