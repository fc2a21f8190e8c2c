"""Jaeger: all of it in one program, its traces in memory or in badger."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tests.integration.servers.process import Server, answers, free_ports, listens, running
from tests.integration.servers.programs import made

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

Kept: TypeAlias = Literal["memory", "badger"]


@dataclass(frozen=True, slots=True)
class Jaeger:
    """A Jaeger that runs: where it takes OTLP, and where it is asked."""

    server: Server
    grpc: str
    http: str
    query: str


@contextmanager
def jaeger(
    folder: Path, kept: Kept = "memory", *, ports: tuple[int, ...] = (), max_traces: int = 100_000
) -> Iterator[Jaeger]:
    """Ready. On badger its traces are in the folder, over restarts; `ports` are those of an earlier one."""
    ports = ports or tuple(free_ports(4))
    grpc, http, query, query_grpc = (f"127.0.0.1:{port}" for port in ports)
    written = folder / "jaeger.yaml"
    written.write_text(json.dumps(config(folder, kept, grpc, http, query, query_grpc, max_traces)))
    command: list[str | Path] = [made("jaeger"), "--config", written]
    # The query API is up before the receivers are.
    with running(
        "jaeger", command, folder, lambda: answers(f"http://{query}/api/v3/services") and listens(ports[0])
    ) as server:
        yield Jaeger(server, grpc, f"http://{http}", f"http://{query}")


def config(
    folder: Path, kept: Kept, grpc: str, http: str, query: str, query_grpc: str, max_traces: int
) -> Mapping[str, Any]:
    """Its configuration; JSON is YAML."""
    directories = {"keys": f"{folder}/badger/keys", "values": f"{folder}/badger/values"}
    backends = {
        "memory": {"memory": {"max_traces": max_traces}},
        "badger": {"badger": {"directories": directories, "ephemeral": False}},
    }
    return {
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query"],
            # Without a batch: what was acknowledged is in the store.
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}},
            "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "warn"}},
        },
        "extensions": {
            "jaeger_storage": {"backends": {"kept": backends[kept]}},
            "jaeger_query": {
                "storage": {"traces": "kept"},
                "http": {"endpoint": query},
                "grpc": {"endpoint": query_grpc},
            },
        },
        "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": grpc}, "http": {"endpoint": http}}}},
        "exporters": {"jaeger_storage_exporter": {"trace_storage": "kept"}},
    }
