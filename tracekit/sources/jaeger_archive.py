"""JaegerArchive: what `tracekit serve` shows where a Jaeger has the spans."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Final

from tracekit.collector.disk import DiskStore
from tracekit.otlp import OtlpError
from tracekit.sources.jaeger import Jaeger
from tracekit.sources.web import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tracekit.collector.archive import Built, Held, Page
    from tracekit.flow.search import Query
    from tracekit.model import Span

_POLL_S: Final = 3.0
_NO_SPANS: Final = (
    "flows are read from {} here: send spans to where it takes them (OTEL_EXPORTER_OTLP_TRACES_ENDPOINT)"
)
_MOST_BUILT: Final = 500


class JaegerArchive(DiskStore):
    """A store whose flows are read from a Jaeger: only log lines and metrics are kept here.

    Spans that are sent here are refused, for nobody would see them, and that is told; so is a request without
    any, by which somebody tries it. Flows are looked for every few seconds, so that those who watch are told
    of them. Where Jaeger does not answer, what is asked for raises OSError.
    """

    def __init__(
        self, folder: Path, url: str, *, max_bytes: int, progress: Callable[[str], None] | None = None
    ) -> None:
        """Raises as DiskStore does, and SourceError for what is no URL."""
        self._jaeger = Jaeger(url, option="--jaeger")
        self._told: OrderedDict[str, int] = OrderedDict()
        self._unreached = ""
        self._ended = threading.Event()
        super().__init__(folder, max_bytes=max_bytes, progress=progress)
        self._looking = threading.Thread(target=self._look, name="tracekit-collector-jaeger", daemon=True)
        self._looking.start()

    def close(self) -> None:
        self._ended.set()
        self._looking.join()
        super().close()

    def add_encoded_spans(self, body: bytes) -> bool:
        return False

    def add_spans(self, spans: Sequence[Span]) -> None:
        refusal = _NO_SPANS.format(self._jaeger.url)
        if spans:
            self._say(f"spans that came were refused: {refusal}")
        raise OtlpError(refusal)

    def flow(self, flow_id: str) -> tuple[Span, ...]:
        built = self.build(flow_id)
        return () if built is None else built.flow.spans

    def trace(self, trace_id: str) -> tuple[Span, ...]:
        with _reached():
            return tuple(self._jaeger.trace(trace_id))

    def build(self, flow_id: str) -> Built | None:
        with _reached():
            return self._jaeger.build(flow_id)

    def find(self, query: Query, *, limit: int = 100, after: str | None = None) -> Page:
        with _reached():
            return self._jaeger.find(query, limit, after)

    def ids(self, prefix: str) -> list[str]:
        with _reached():
            return [*self._jaeger.ids(prefix)]

    def held(self) -> Held:
        held = super().held()
        troubles = (*held.troubles, self._unreached) if self._unreached else held.troubles
        return replace(held, flows=len(self._told), troubles=troubles)

    def _look(self) -> None:
        while not self._ended.wait(_POLL_S):
            try:
                built = [*islice(self._jaeger.settled((), self._told), _MOST_BUILT)]
                self._unreached = ""
            except SourceError as error:
                self._unreached = str(error)
                continue
            if built:
                self._builder.tell(built)


@contextmanager
def _reached() -> Iterator[None]:
    """What a store cannot read is an OSError."""
    try:
        yield
    except SourceError as error:
        raise OSError(str(error)) from error
