"""Apache Kafka: one node in KRaft mode, with its data in a folder."""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kafka.admin import KafkaAdminClient, NewTopic

from tests.integration.servers.process import Server, free_ports, listens, running
from tests.integration.servers.programs import made, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOGGING: Final = """\
status = warn
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %p %c %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""


@dataclass(frozen=True, slots=True)
class Kafka:
    """A broker that runs."""

    server: Server
    address: str


@contextmanager
def kafka(folder: Path) -> Iterator[Kafka]:
    """Ready for clients. Topics are made at their first use, with one partition."""
    jars = made("kafka")
    port, control = free_ports(2)
    (folder / "log4j2.properties").write_text(_LOGGING)
    settings = folder / "server.properties"
    settings.write_text(
        "\n".join(
            f"{name}={value}"
            for name, value in {
                "process.roles": "broker,controller",
                "node.id": 1,
                "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{control}",
                "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
                "controller.listener.names": "CONTROLLER",
                "controller.quorum.bootstrap.servers": f"127.0.0.1:{control}",
                "log.dirs": folder / "kafka-data",
                "offsets.topic.replication.factor": 1,
                "offsets.topic.num.partitions": 1,
                "transaction.state.log.replication.factor": 1,
                "transaction.state.log.min.isr": 1,
                "share.coordinator.state.topic.replication.factor": 1,
                "share.coordinator.state.topic.min.isr": 1,
                "group.initial.rebalance.delay.ms": 0,
            }.items()
        )
    )
    java: list[str | Path] = [
        "java",
        "-Xmx512m",
        f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}",
        "-cp",
        f"{jars}/*",
    ]
    id_ = run([*java, "kafka.tools.StorageTool", "random-uuid"]).split()[-1]
    run([*java, "kafka.tools.StorageTool", "format", "--standalone", "-t", id_, "-c", settings])
    command = [*java, "kafka.Kafka", settings]
    with running("kafka", command, folder, lambda: listens(port)) as server:
        yield Kafka(server, f"127.0.0.1:{port}")


def create_topic(broker: Kafka, name: str, partitions: int) -> None:
    """For what must be there before its first use."""
    with closing(KafkaAdminClient(bootstrap_servers=broker.address)) as admin:
        admin.create_topics([NewTopic(name, partitions, 1)])
