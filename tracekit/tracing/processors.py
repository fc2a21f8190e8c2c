"""Span processors and samplers that cannot hurt the application, and the one of ours."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanKind

from tracekit import context as ours
from tracekit import semconv
from tracekit.guard import count_drop, shielded, swallow
from tracekit.pathway import Pathway
from tracekit.tracing.quick import QuickSpan, watch_starts
from tracekit.tracing.templates import declared_of, name_by_template

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span
    from opentelemetry.trace import Link, TraceState
    from opentelemetry.util.types import Attributes

_CLIENT: Final = SpanKind.CLIENT


class Taker(ABC):
    """A processor of ours, that can make use of being the only one to see a span."""

    @abstractmethod
    def take(self, span: ReadableSpan) -> None:
        """The span has ended, and nobody will look at it or change it but this one."""


class FlowProcessor(SpanProcessor):
    """Puts `tracekit.flow.id` on every span, then hands it to the processors behind a shield.

    Each span is told where it stands in its flow; `service` names the origin of flows that begin
    here. What a processor raises is counted, never raised into the application. Switched off
    (`active` False) once undone: a provider of the application's cannot lose a processor again.
    A span that was open when the process forked belongs to the parent: its copy in the child is not
    handed on (case 50). `is_shared`: the spans go to processors of the application's besides.
    """

    def __init__(
        self, service: str, processors: Sequence[SpanProcessor] = (), *, is_shared: bool = False
    ) -> None:
        self._service = service
        self._processors = [*processors]
        self._is_shared = is_shared
        self.active = True
        self._off_ns = 0
        self._look_at_them()

    def add(self, processor: SpanProcessor) -> None:
        """Hand spans to one more."""
        self._processors.append(processor)
        self._look_at_them()

    def _look_at_them(self) -> None:
        self.is_watched = watch_starts(self._processors)
        """Whether a processor looks at spans as they start."""
        takers = [one for one in self._processors if isinstance(one, Taker)]
        self._takers = takers if len(takers) == len(self._processors) and not self._is_shared else None

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if not self.active:
            return
        if ours.remembered(span) is None:  # else whoever began it has told it
            try:
                self._tell(span, parent_context)
            except Exception as error:  # noqa: BLE001 - the shield of a hot path
                swallow("the flow of a span", error)
        for processor in self._processors:
            try:
                processor.on_start(span, parent_context)
            except Exception as error:  # noqa: BLE001 - the shield of a hot path
                swallow("a span processor", error)

    def on_end(self, span: ReadableSpan) -> None:
        if _fork and born_before_fork(span):
            return
        if not self.active:
            if (span.start_time or 0) < self._off_ns:
                count_drop("late", "spans that ended when tracing was undone already")
            return
        if self._takers is not None:
            for taker in self._takers:
                try:
                    taker.take(span)
                except Exception as error:  # noqa: BLE001 - the shield of a hot path
                    swallow("a span processor", error)
            return
        if isinstance(span, QuickSpan):
            span = span.readable()
        for processor in self._processors:
            try:
                processor.on_end(span)
            except Exception as error:  # noqa: BLE001 - the shield of a hot path
                swallow("a span processor", error)

    def _tell(self, span: Span, parent_context: Context | None) -> None:
        pathway = ours.pathway_of(parent_context)
        if pathway is None or not pathway.flow_id:  # this span is the entry
            context = span.get_span_context()
            pathway = Pathway(
                flow_id=trace.format_trace_id(context.trace_id),
                origin_ns=pathway.origin_ns if pathway else span.start_time or 0,
                origin=self._service,
            )
        elif not pathway.origin_ns:
            # Behind a service that knows only traceparent: the flow is known, its beginning not.
            pathway = Pathway(pathway.flow_id, pathway.hash, span.start_time or 0)
        ours.remember(span, pathway)
        if not pathway.is_hub:
            span.set_attribute(semconv.FLOW_ID, pathway.flow_id)
        if span.kind is _CLIENT:
            name_by_template(span, parent_context)
        parent = span.parent
        if parent is not None and parent.is_remote and not parent.trace_flags.sampled:
            span.set_attribute(semconv.CONTEXT_SAMPLED, False)

    def switch_off(self) -> None:
        """Hand no span on any more; those that are still open are counted as they end."""
        if self.active:
            self._off_ns = time.time_ns()
            self.active = False

    def shutdown(self) -> None:
        self.switch_off()
        for processor in self._processors:
            with shielded("a span processor"):
                processor.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        flushed = True
        for processor in self._processors:
            done = False
            with shielded("a span processor"):
                done = processor.force_flush(timeout_millis)
            flushed = flushed and done
        return flushed


class ShieldedSampler(Sampler):
    """Somebody's sampler: where it raises, the span is recorded."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        if kind is _CLIENT:
            with shielded("the declared path of a request"):
                if (found := declared_of(name, attributes, parent_context)) is not None:
                    name = found[0]
                    attributes = {**(attributes or {}), semconv.URL_TEMPLATE: found[1]}
        with shielded("a sampler"):
            return self._sampler.should_sample(
                parent_context, trace_id, name, kind, attributes, links, trace_state
            )
        return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes, trace_state)

    def get_description(self) -> str:
        return self._sampler.get_description()


class _Fork:
    """When this process was forked from another, in Unix ns; 0 where it was not."""

    def __init__(self) -> None:
        self.at_ns = 0
        os.register_at_fork(after_in_child=self._in_child)

    def _in_child(self) -> None:
        self.at_ns = time.time_ns()
        with shielded("the context of a forked process"):
            span = trace.get_current_span()
            context = span.get_span_context()
            if not context.is_valid or context.is_remote:
                return
            pathway = ours.pathway_of()
            remote = trace.NonRecordingSpan(
                trace.SpanContext(
                    context.trace_id,
                    context.span_id,
                    is_remote=True,
                    trace_flags=context.trace_flags,
                    trace_state=context.trace_state,
                )
            )
            inherited = trace.set_span_in_context(remote)
            # Not by `with`: the child goes on from here, and its context was never ours to give back.
            otel.attach(ours.with_pathway(pathway, inherited) if pathway else inherited)


_fork: list[_Fork] = []


def watch_forks() -> None:
    """From now on, a forked child works under its parent's span as under a remote one."""
    if not _fork and hasattr(os, "register_at_fork"):
        _fork.append(_Fork())


def born_before_fork(span: ReadableSpan) -> bool:
    """Whether this process only inherited the span, and its parent will export it."""
    return bool(_fork) and _fork[0].at_ns != 0 and (span.start_time or 0) <= _fork[0].at_ns
