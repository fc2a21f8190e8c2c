"""The embedded broker: real kafka-python clients against the mock cluster in its own process."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from kafka import KafkaConsumer, KafkaProducer
from tracekit_demo import broker
from tracekit_demo.broker import BrokerError, embedded_broker

HEADERS = [("traceparent", b"00-1-2-01"), ("twice", b"1"), ("twice", b""), ("bytes", bytes(range(256)))]


def test_a_record_comes_back_with_its_headers_as_they_were() -> None:
    with embedded_broker(["orders"], partitions=1) as kafka:
        producer = KafkaProducer(**kafka.settings)
        sent = producer.send("orders", value=b"one", key=b"k", headers=HEADERS).get(timeout=10)
        consumer = KafkaConsumer("orders", group_id="g", auto_offset_reset="earliest", **kafka.settings)
        consumer.partitions_for_topic("orders")
        got = next(consumer)
        consumer.close()
        producer.close()

    assert (got.topic, got.partition, got.offset) == ("orders", 0, sent.offset)
    assert (got.key, got.value, list(got.headers)) == (b"k", b"one", HEADERS)


def test_its_settings_are_in_the_environment_that_it_offers() -> None:
    with embedded_broker() as kafka:
        assert kafka.environment == {"KAFKA_BOOTSTRAP_SERVERS": kafka.address, "KAFKA_API_VERSION": "2.3"}
        assert kafka.address.startswith("127.0.0.1:")


def test_it_is_gone_when_the_block_ends() -> None:
    with embedded_broker() as kafka:
        assert psutil.pid_exists(kafka.pid)

    assert not psutil.pid_exists(kafka.pid)


COMMAND = [sys.executable, "-P", str(Path(broker.__file__)), "orders"]


@pytest.mark.parametrize("sign", ["terminate", "interrupt", "end of input"])
def test_it_ends_cleanly_at(sign: str) -> None:
    pipe = subprocess.PIPE
    until = ["--until-stdin-closes"] if sign == "end of input" else []
    with subprocess.Popen([*COMMAND, *until], stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("127.0.0.1:")
        if sign == "end of input":
            process.stdin.close()
            process.stdin = None
        else:
            line = process.stdout.readline()
            assert line == f'KafkaProducer(bootstrap_servers="{address}", api_version=(2, 3))\n'
            os.kill(process.pid, signal.SIGTERM if sign == "terminate" else signal.SIGINT)
        rest, said = process.communicate(timeout=10)

    assert (process.returncode, rest, said) == (0, "", "")


def test_in_the_background_it_serves_plain_clients_at_the_port_that_was_asked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [*COMMAND, "--port", str(port)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        line = process.stdout.readline()
        consumer = KafkaConsumer(
            "orders", bootstrap_servers=address, group_id="billing", auto_offset_reset="earliest"
        )
        producer = KafkaProducer(bootstrap_servers=address)
        producer.send("orders", b"one", headers=HEADERS)
        got = next(consumer)
        consumer.close()
        producer.send("orders", b"two")
        producer.close()
        again = KafkaConsumer(
            "orders", bootstrap_servers=address, group_id="billing", consumer_timeout_ms=20_000
        )
        after = [message.value for _, message in zip([1], again, strict=False)]
        again.close()
        second = subprocess.run(command, capture_output=True, text=True, timeout=10)
        process.terminate()
        rest, said = process.communicate(timeout=10)

    assert (address, line) == (f"localhost:{port}", f'KafkaProducer(bootstrap_servers="{address}")\n')
    assert (got.value, list(got.headers), after) == (b"one", HEADERS, [b"two"])
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr.startswith(f"--port {port}: ")
    assert "in use. Use what listens there, or name another, as in --port 19092" in second.stderr
    assert (process.returncode, rest, said) == (0, "", "")


def test_without_the_wheel_it_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with (
        pytest.raises(BrokerError, match=r"pip install '\.\[demo\]' in tracekit's clone.*--kafka"),
        broker.mock_cluster((), 1),
    ):
        pass


def test_without_the_mocks_symbols_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "_librdkafka", lambda: ctypes.CDLL(None))

    with pytest.raises(BrokerError, match="has no mock cluster"), broker.mock_cluster((), 1):
        pass


def test_a_topic_named_twice_is_refused_in_words() -> None:
    with pytest.raises(BrokerError, match="refuses the topic"), embedded_broker(["orders", "orders"]):
        pass
