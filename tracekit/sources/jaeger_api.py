"""JaegerApi: the questions that a Jaeger is asked (its API v3, and the one of its own page for tags)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from tracekit.sources.jaeger_traces import parted
from tracekit.sources.web import NotFoundError, Web

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_JAEGER: Final = "http://127.0.0.1:16686"
ID_DIGITS: Final = 32


class JaegerApi:
    """A Jaeger at a URL. Each question may raise SourceError. Bounds: those of `Web`."""

    def __init__(self, url: str = DEFAULT_JAEGER, *, option: str = "--server") -> None:
        """`option` is the one by which somebody said where it is. Raises SourceError for what is no URL."""
        self.web = Web(
            url,
            default=DEFAULT_JAEGER,
            what="Jaeger with its query API",
            start="a Jaeger, of version 2",
            option=option,
        )

    def services(self) -> Sequence[str]:
        """The services that it has spans of."""
        try:
            found = self.web.json("/api/v3/services").get("services", [])  # an empty list it leaves out
        except NotFoundError as error:
            raise self.web.strange() from error
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise self.web.strange()
        return sorted(found)

    def trace(self, trace_id: str) -> Sequence[Any]:
        """The parts of a trace (`jaeger_traces`); none where it has no such trace."""
        found = self._parted(f"/api/v3/traces/{quote(trace_id, safe='')}?raw_traces=true")
        return found.get(trace_id, ())

    def traces(
        self,
        service: str,
        since_ns: int,
        until_ns: int,
        most: int,
        attributes: Mapping[str, str] | None = None,
    ) -> Mapping[str, Sequence[Any]]:
        """The parts of the latest traces in which a span of the service began within these times, by id."""
        asked = {
            "query.service_name": service,
            "query.start_time_min": _moment(since_ns),
            "query.start_time_max": _moment(until_ns),
            "query.num_traces": str(most),
            # As they came: else Jaeger moves spans to where clocks might agree, and gives some another id.
            "query.raw_traces": "true",
            **({"query.attributes": json.dumps(attributes)} if attributes else {}),
        }
        return self._parted(f"/api/v3/traces?{urlencode(asked)}")

    def tagged(
        self, service: str, key: str, value: str, since_ns: int, until_ns: int, most: int
    ) -> Sequence[str]:
        """Ids of the traces with such a span of the service. Raises NotFoundError where it knows no tags.

        Jaeger 2.13 passes over `query.attributes` of its API v3; the API of its own page has them.
        """
        asked = {
            "service": service,
            "tags": json.dumps({key: value}),
            "start": str(since_ns // 1000),
            "end": str(until_ns // 1000),
            "limit": str(most),
        }
        found = self.web.json(f"/api/traces?{urlencode(asked)}").get("data")
        return self.web.read_by(  # type: ignore[no-any-return]  # what was read is a list of texts
            lambda traces: [str(trace["traceID"]).zfill(ID_DIGITS) for trace in traces or ()], found
        )

    def _parted(self, path: str) -> dict[str, list[Any]]:
        """The traces of an answer: one object or several, each with OTLP's JSON as its `result`."""
        found: dict[str, list[Any]] = {}
        try:
            for part in self.web.objects(path):
                for trace_id, parts in self.web.read_by(parted, part.get("result")).items():
                    found.setdefault(trace_id, []).extend(parts)
        except NotFoundError:
            return {}
        return found


def _moment(ns: int) -> str:
    """As RFC 3339 writes it."""
    return datetime.fromtimestamp(max(ns, 0) // 1000 / 1_000_000, UTC).isoformat()
