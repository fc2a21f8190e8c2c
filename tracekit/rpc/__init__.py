"""Remote calls: gRPC and GraphQL, on both sides. Spans and metrics of conventions 1.44.

Not by OpenTelemetry's own instrumentation of gRPC, which keeps to names of before (`rpc.system`,
`rpc.grpc.status_code`), drops metadata that is repeated, and gives a generator in the place of a call that
can be cancelled. Where it is switched on, it stands down.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from tracekit.patching import Integration
from tracekit.tracing.trust import TRUST_ALL, Trust

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracekit.patching import Patches

__all__ = ["integrations"]

_CONTRIB: Final = "opentelemetry.instrumentation.grpc"


def integrations(service: str = "", trust: Mapping[str, str] | Trust = TRUST_ALL) -> Sequence[Integration]:
    """How calls are instrumented, for this service, and with this trust in methods (as routes) and hosts."""
    whom = trust if isinstance(trust, Trust) else Trust.of(trust)
    return (
        Integration(
            "grpc", "grpc", "", functools.partial(_install_grpc, service=service, trust=whom), _CONTRIB
        ),
        Integration("strawberry", "strawberry", "", _install_strawberry),
        Integration("gql", "gql", "", _install_gql),
    )


def _install_grpc(patches: Patches, service: str, trust: Trust) -> None:
    from tracekit.messaging.contrib import stand_down
    from tracekit.rpc import grpc_clients, grpc_servers

    for name in ("GrpcInstrumentorClient", "GrpcInstrumentorServer"):
        for variant in (name, name.replace("Grpc", "GrpcAio")):
            stand_down(f"{_CONTRIB}:{variant}", (), patches)
    grpc_clients.install(patches, trust)
    grpc_servers.install(patches, service, trust)


def _install_strawberry(patches: Patches) -> None:
    from tracekit.rpc import graphql

    graphql.install_strawberry(patches)


def _install_gql(patches: Patches) -> None:
    from tracekit.rpc import graphql

    graphql.install_gql(patches)
