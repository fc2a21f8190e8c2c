"""The embedded backend of one machine: OTLP in, a store, and both behind ports of loopback.

It traces nothing, itself least of all: nothing in here imports what traces, and what other people's
instrumentation puts in the place of Starlette and of gRPC's server is not used (`app`, `rpc`).
"""

from __future__ import annotations
