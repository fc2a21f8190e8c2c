"""A shop's front: takes an order over HTTP and sends it to Kafka."""

import json
import logging
import os

from fastapi import FastAPI
from kafka import KafkaProducer

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
log = logging.getLogger("front")

app = FastAPI()
producer = KafkaProducer(
    bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
    api_version=tuple(map(int, os.environ["KAFKA_API_VERSION"].split("."))),
    value_serializer=lambda value: json.dumps(value).encode(),
)


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/orders/{number}", status_code=202)
def order(number: str) -> dict[str, str]:
    log.info("order taken")
    producer.send(os.environ["TOPIC"], {"order": number})
    return {"order": number}
