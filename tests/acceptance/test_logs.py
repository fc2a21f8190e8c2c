"""Logs: ids in every line, secrets out, lines over OTLP, and the application's set-up left alone.

Real structlog and logging, and the SDK's own pipeline with its in-memory exporter.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest
import structlog
from opentelemetry import context as otel
from opentelemetry._logs import NoOpLoggerProvider, SeverityNumber
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from tracekit import guard
from tracekit.context import with_pathway
from tracekit.logs import INTEGRATIONS, add_ids, export, integrations, redact
from tracekit.logs.records import of_logging
from tracekit.patching import Patches
from tracekit.pathway import NO_FLOW, Pathway
from tracekit.redaction import FAILED, REDACTED, REDACTOR, Redactor
from tracekit.tracing.providers import Providers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.trace import Span

    from tracekit.patching import Integration

tracer = TracerProvider().get_tracer("tests")
unsampled = TracerProvider(sampler=ALWAYS_OFF).get_tracer("tests")


def in_memory() -> InMemoryLogRecordExporter:
    make: Callable[[], InMemoryLogRecordExporter] = InMemoryLogRecordExporter  # the SDK has it untyped
    return make()


class Exported:
    """What was exported so far."""

    def __init__(self, exporter: InMemoryLogRecordExporter) -> None:
        self._exporter = exporter

    @property
    def records(self) -> Sequence[ReadableLogRecord]:
        return self._exporter.get_finished_logs()

    @property
    def lines(self) -> list[tuple[object, dict[str, object]]]:
        """Body and attributes of each, in order."""
        return [(r.log_record.body, dict(r.log_record.attributes or {})) for r in self.records]

    @property
    def bodies(self) -> list[object]:
        return [body for body, _ in self.lines]


@pytest.fixture
def exported() -> Iterator[Exported]:
    exporter = in_memory()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    providers = Providers()
    before, providers.logs.target = providers.logs.target, provider
    yield Exported(exporter)
    providers.logs.target = before
    provider.shutdown()


@contextmanager
def installed(using: Sequence[Integration] = INTEGRATIONS) -> Iterator[None]:
    patches = Patches()
    for integration in using:
        integration.install(patches)
    try:
        yield
    finally:
        patches.undo()


@pytest.fixture
def instrumented() -> Iterator[None]:
    with installed():
        yield


@pytest.fixture(autouse=True)
def as_configured() -> Iterator[None]:
    """structlog as it was before the test."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def shielding() -> Iterator[None]:
    """The shield as users have it: it swallows and counts."""
    before = guard._drops.reraise
    guard.reraise(False)
    guard.forget()
    yield
    guard.reraise(before)
    guard.forget()


def to_list(lines: list[dict[str, Any]]) -> Callable[..., Any]:
    """A renderer that keeps the event dicts."""

    def render(logger: object, method: str, event: dict[str, Any]) -> str:
        lines.append(dict(event))
        return ""

    return render


@pytest.fixture
def lines() -> list[dict[str, Any]]:
    """structlog's lines, of loggers that write nowhere else."""
    rendered: list[dict[str, Any]] = []
    structlog.configure(processors=[to_list(rendered)], logger_factory=structlog.ReturnLoggerFactory())
    return rendered


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    """What the standard library's logger "shop" wrote, with the ids in its format."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(
        logging.Formatter(
            "%(trace_id)s %(span_id)s %(tracekit.flow.id)s %(message)s", defaults={"trace_id": "-"}
        )
    )
    shop = logging.getLogger("shop")
    shop.addHandler(handler)
    shop.setLevel(logging.INFO)
    shop.propagate = False
    yield written
    shop.removeHandler(handler)
    shop.setLevel(logging.NOTSET)
    shop.propagate = True


def ids_of(span: Span) -> dict[str, str]:
    context = span.get_span_context()
    trace_id = format(context.trace_id, "032x")
    return {"trace_id": trace_id, "span_id": format(context.span_id, "016x"), "tracekit.flow.id": trace_id}


# -- structlog: ids ---------------------------------------------------------------------------------


def test_a_structlog_line_carries_the_ids_of_its_span_and_flow(
    lines: list[dict[str, Any]], instrumented: None
) -> None:
    with tracer.start_as_current_span("work") as span:
        structlog.get_logger().info("paid", amount=3)

    assert lines == [{"event": "paid", "amount": 3, **ids_of(span)}]


def test_a_line_in_an_unsampled_span_carries_its_ids_too(
    lines: list[dict[str, Any]], instrumented: None
) -> None:
    with unsampled.start_as_current_span("work") as span:
        structlog.get_logger().info("paid")

    assert lines == [{"event": "paid", **ids_of(span)}]


def test_a_line_outside_of_any_span_stays_as_it_is(lines: list[dict[str, Any]], instrumented: None) -> None:
    structlog.get_logger().info("paid", amount=3)

    assert lines == [{"event": "paid", "amount": 3}]


def test_the_flow_id_is_that_of_the_message_in_process(
    lines: list[dict[str, Any]], instrumented: None
) -> None:
    with tracer.start_as_current_span("work") as span:
        token = otel.attach(with_pathway(Pathway("ab" * 16)))
        structlog.get_logger().info("paid")
        otel.detach(token)

    assert lines == [{"event": "paid", **ids_of(span), "tracekit.flow.id": "ab" * 16}]


def test_a_line_in_a_hub_has_no_flow_id(lines: list[dict[str, Any]], instrumented: None) -> None:
    with tracer.start_as_current_span("batch"):
        token = otel.attach(with_pathway(Pathway(NO_FLOW)))
        structlog.get_logger().info("polled")
        otel.detach(token)

    assert lines[0].keys() == {"event", "trace_id", "span_id"}


def test_ids_that_the_application_sets_stay(lines: list[dict[str, Any]], instrumented: None) -> None:
    with tracer.start_as_current_span("work"):
        structlog.get_logger().info("paid", trace_id="mine")

    assert lines[0]["trace_id"] == "mine"


# -- structlog: whatever the set-up -----------------------------------------------------------------


@pytest.mark.parametrize("order", ["before", "after", "cached before", "bound before", "given to the logger"])
def test_lines_carry_ids_whenever_structlog_was_configured(order: str) -> None:
    rendered: list[dict[str, Any]] = []
    chain: list[Any] = [structlog.processors.add_log_level, to_list(rendered)]

    def configure() -> None:
        structlog.configure(
            processors=chain,
            logger_factory=structlog.ReturnLoggerFactory(),
            cache_logger_on_first_use=order == "cached before",
        )

    log = structlog.get_logger()
    if order == "given to the logger":
        log = structlog.wrap_logger(structlog.ReturnLogger(), processors=chain)
    elif order != "after":
        configure()
    if order == "cached before":
        log.info("first")
    if order == "bound before":
        log = log.bind(user="ann").bind(shop="x")
    rendered.clear()

    with installed(), tracer.start_as_current_span("work") as span:
        if order == "after":
            configure()
        log.info("paid")
        log.bind(n=1).bind(n=2).info("paid")

    assert [{key: line.get(key) for key in ids_of(span)} for line in rendered] == [ids_of(span)] * 2


def test_a_line_of_an_application_that_never_configured_structlog_carries_ids(
    instrumented: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with tracer.start_as_current_span("work") as span:
        structlog.get_logger().info("paid")

    assert ids_of(span)["span_id"] in capsys.readouterr().out


def test_the_configuration_is_never_touched(exported: Exported) -> None:
    chain: list[Any] = [structlog.processors.add_log_level, structlog.processors.JSONRenderer()]
    structlog.configure(processors=chain, cache_logger_on_first_use=True)
    before = structlog.get_config()

    with installed():
        during = structlog.get_config()
    after = structlog.get_config()

    assert before == during == after
    assert after["processors"] is chain
    assert "_processors" not in vars(structlog.BoundLoggerBase)


def test_loggers_bound_while_instrumented_are_plain_after_the_undo(lines: list[dict[str, Any]]) -> None:
    with installed():
        log = structlog.get_logger().bind(user="ann")
        log.info("first")
    with tracer.start_as_current_span("work"):
        log.info("second")

    assert lines[-1] == {"event": "second", "user": "ann"}
    assert vars(log)["_processors"] is structlog.get_config()["processors"]


def by_hand(rendered: list[dict[str, Any]]) -> None:
    structlog.configure(
        processors=[add_ids, redact, export, to_list(rendered)],
        logger_factory=structlog.ReturnLoggerFactory(),
    )


def test_an_application_that_put_our_processors_in_by_hand_gets_every_line_once(exported: Exported) -> None:
    rendered: list[dict[str, Any]] = []
    structlog.configure(
        processors=[add_ids, redact, export, to_list(rendered)],
        logger_factory=structlog.ReturnLoggerFactory(),
    )

    with installed(), tracer.start_as_current_span("work") as span:
        structlog.get_logger().info("paid", password="x")

    assert rendered == [{"event": "paid", "password": REDACTED, **ids_of(span)}]
    assert exported.bodies == ["paid"]


def test_the_processors_work_by_hand_alone(exported: Exported) -> None:
    rendered: list[dict[str, Any]] = []
    structlog.configure(
        processors=[add_ids, redact, export, to_list(rendered)],
        logger_factory=structlog.ReturnLoggerFactory(),
    )

    with tracer.start_as_current_span("work") as span:
        structlog.get_logger().info("paid", token="x")

    assert rendered == [{"event": "paid", "token": REDACTED, **ids_of(span)}]
    assert exported.lines == [
        ("paid", {"token": REDACTED, "tracekit.flow.id": ids_of(span)["tracekit.flow.id"]})
    ]


def test_call_site_parameters_still_name_the_application(
    lines: list[dict[str, Any]], instrumented: None, exported: Exported
) -> None:
    site = structlog.processors.CallsiteParameterAdder({structlog.processors.CallsiteParameter.FUNC_NAME})
    structlog.configure(processors=[site, structlog.get_config()["processors"][-1]])

    structlog.get_logger().info("paid")

    assert lines[0]["func_name"] == "test_call_site_parameters_still_name_the_application"


def test_a_line_logged_with_await_carries_the_ids(lines: list[dict[str, Any]], instrumented: None) -> None:
    async def work() -> None:
        await structlog.get_logger().ainfo("paid")

    with tracer.start_as_current_span("work") as span:
        asyncio.run(work())

    assert lines == [{"event": "paid", **ids_of(span)}]


def test_a_renderer_that_is_not_the_last_processor_still_gives_the_output(
    instrumented: None, exported: Exported
) -> None:
    written = io.BytesIO()

    def encode(logger: object, method: str, text: Any) -> bytes:
        return str(text).encode()

    structlog.configure(
        processors=[structlog.processors.JSONRenderer(), encode],
        logger_factory=structlog.BytesLoggerFactory(written),
    )

    structlog.get_logger().info("paid", detail="password=x")

    assert written.getvalue() == b'{"detail": "password=[redacted]", "event": "paid"}\n'


# -- structlog: redaction ---------------------------------------------------------------------------


def test_secrets_leave_neither_by_the_output_nor_over_otlp(
    lines: list[dict[str, Any]], instrumented: None, exported: Exported
) -> None:
    structlog.get_logger().info("login with password=hunter2", headers={"Authorization": "Bearer x", "a": 1})

    hidden = {"headers": {"Authorization": REDACTED, "a": 1}}
    assert lines == [{"event": "login with password=[redacted]", **hidden}]
    assert exported.lines == [("login with password=[redacted]", hidden)]


def test_a_secret_in_a_traceback_leaves_by_no_renderer(
    instrumented: None, exported: Exported, capsys: pytest.CaptureFixture[str]
) -> None:
    structlog.configure(processors=[structlog.dev.ConsoleRenderer(colors=False)])

    try:
        raise ValueError("no login for password=hunter2")
    except ValueError:
        structlog.get_logger().exception("failed")

    attributes = exported.lines[0][1]
    assert "hunter2" not in capsys.readouterr().out
    assert attributes["exception.type"] == "ValueError"
    assert attributes["exception.message"] == "no login for password=[redacted]"
    assert str(attributes["exception.stacktrace"]).endswith("password=[redacted]")


def test_a_traceback_without_secrets_is_left_to_the_renderer(
    lines: list[dict[str, Any]], instrumented: None
) -> None:
    structlog.get_logger().error("failed", exc_info=ValueError("no"))

    assert isinstance(lines[0]["exc_info"], ValueError)


def test_what_the_application_handed_over_is_not_changed(
    lines: list[dict[str, Any]], instrumented: None
) -> None:
    order = {"id": 1, "password": "x"}

    structlog.get_logger().bind(order=order).info("paid")

    assert order == {"id": 1, "password": "x"}
    assert lines[0]["order"] == {"id": 1, "password": REDACTED}


def failing(text: str) -> str:
    raise LookupError(text)


def test_a_redactor_that_raises_hides_the_value_and_is_counted(
    lines: list[dict[str, Any]], exported: Exported, shielding: None
) -> None:
    with installed(integrations(Redactor(rules=(failing,)))):
        structlog.get_logger().info("paid", n=1)

    assert lines == [{"event": FAILED, "n": 1}]
    assert exported.lines == [(FAILED, {"n": 1})]
    assert guard.dropped().keys() == {"internal"}


# -- export -----------------------------------------------------------------------------------------


def test_a_structlog_line_goes_over_otlp_with_the_context_of_its_span(
    lines: list[dict[str, Any]], instrumented: None, exported: Exported
) -> None:
    start = time.time_ns()
    with tracer.start_as_current_span("work") as span:
        structlog.get_logger().warning("slow", took=1.5, order={"id": 7})

    record = exported.records[0].log_record
    context = span.get_span_context()
    assert (record.trace_id, record.span_id) == (context.trace_id, context.span_id)
    assert (record.severity_number, record.severity_text) == (SeverityNumber.WARN, "WARNING")
    assert exported.lines == [
        ("slow", {"took": 1.5, "order": {"id": 7}, "tracekit.flow.id": ids_of(span)["tracekit.flow.id"]})
    ]
    assert record.timestamp is not None
    assert start <= record.timestamp <= time.time_ns()


def test_a_standard_record_goes_over_otlp_with_the_context_of_its_span(
    output: io.StringIO, instrumented: None, exported: Exported
) -> None:
    with tracer.start_as_current_span("work") as span:
        logging.getLogger("shop").error("no stock for %s", "tea", extra={"order": 7})

    record, scope = exported.records[0].log_record, exported.records[0].instrumentation_scope
    context = span.get_span_context()
    assert (record.trace_id, record.span_id) == (context.trace_id, context.span_id)
    assert (record.severity_number, record.severity_text) == (SeverityNumber.ERROR, "ERROR")
    assert exported.lines == [
        ("no stock for tea", {"order": 7, "tracekit.flow.id": ids_of(span)["tracekit.flow.id"]})
    ]
    assert scope is not None
    assert scope.name == "shop"


def test_an_exception_has_the_attributes_of_the_conventions(
    output: io.StringIO, instrumented: None, exported: Exported
) -> None:
    try:
        raise KeyError("tea")
    except KeyError:
        logging.getLogger("shop").exception("failed")

    attributes = exported.lines[0][1]
    assert attributes.keys() == {"exception.type", "exception.message", "exception.stacktrace"}
    assert (attributes["exception.type"], attributes["exception.message"]) == ("KeyError", "'tea'")
    assert str(attributes["exception.stacktrace"]).startswith("Traceback")


def test_secrets_of_a_standard_record_are_redacted_in_what_is_exported_only(
    output: io.StringIO, instrumented: None, exported: Exported
) -> None:
    logging.getLogger("shop").info("card %s", "4111111111111111", extra={"api_key": "x"})
    logging.getLogger("shop").info("login %(user)s %(password)s", {"user": "ann", "password": "x"})

    assert exported.lines == [("card [redacted]", {"api_key": REDACTED}), (f"login ann {REDACTED}", {})]
    assert "card 4111111111111111" in output.getvalue()


@pytest.mark.parametrize(
    ("level", "expected"),
    [(5, 4), (10, 5), (15, 8), (20, 9), (25, 12), (30, 13), (40, 17), (50, 21), (1000, 24)],
)
def test_levels_become_severities(
    level: int, expected: int, output: io.StringIO, instrumented: None, exported: Exported
) -> None:
    logging.getLogger("shop").setLevel(1)

    logging.getLogger("shop").log(level, "x")

    assert exported.records[0].log_record.severity_number == SeverityNumber(expected)


@pytest.mark.parametrize("method", ["render_to_log_kwargs", "wrap_for_formatter", "to text"])
def test_a_structlog_line_written_through_the_standard_library_is_exported_once(
    method: str, output: io.StringIO, instrumented: None, exported: Exported
) -> None:
    renderer: Any = {
        "render_to_log_kwargs": structlog.stdlib.render_to_log_kwargs,
        "wrap_for_formatter": structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        "to text": structlog.processors.JSONRenderer(),
    }[method]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, renderer],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )

    with tracer.start_as_current_span("work"):
        structlog.get_logger("shop").info("paid", order=7)
        logging.getLogger("shop").info("direct")
        structlog.get_logger("shop").debug("silent")

    assert exported.bodies == ["paid", "direct"]
    assert {r.instrumentation_scope.name for r in exported.records if r.instrumentation_scope} == {"shop"}
    assert len(output.getvalue().splitlines()) == 2


def test_the_line_after_one_that_a_renderer_drops_is_exported(
    output: io.StringIO, instrumented: None, exported: Exported
) -> None:
    def drop(logger: object, method: str, event: Any) -> Any:
        raise structlog.DropEvent

    structlog.configure(
        processors=[drop],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    structlog.get_logger("shop").info("dropped")
    logging.getLogger("shop").info("written")

    assert exported.bodies[-1] == "written"


def test_a_line_that_the_standard_library_silences_is_not_exported(
    output: io.StringIO, instrumented: None, exported: Exported
) -> None:
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.stdlib.LoggerFactory()
    )

    structlog.get_logger("shop").debug("silent")

    assert exported.bodies == []


@pytest.mark.parametrize("name", ["opentelemetry.sdk", "tracekit", "tracekit.collector", "opentelemetry"])
def test_lines_about_telemetry_are_not_exported(name: str, instrumented: None, exported: Exported) -> None:
    logging.getLogger(name).error("could not export")

    assert exported.bodies == []


def test_lines_written_while_exporting_are_not_exported(
    output: io.StringIO, instrumented: None, exported: Exported
) -> None:
    token = otel.attach(otel.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
    logging.getLogger("shop").error("POST /v1/traces")
    otel.detach(token)

    assert exported.bodies == []


def test_a_pipeline_that_logs_does_not_feed_itself(
    output: io.StringIO, instrumented: None, exported: Exported
) -> None:
    class Chatty(SimpleLogRecordProcessor):
        def on_emit(self, log_record: Any) -> None:
            logging.getLogger("shop").info("emitting")

    provider = Providers().logs.target
    assert isinstance(provider, LoggerProvider)
    provider.add_log_record_processor(Chatty(in_memory()))

    logging.getLogger("shop").info("paid")

    assert exported.bodies == ["paid"]
    assert len(output.getvalue().splitlines()) == 2


def test_a_pipeline_that_raises_does_not_reach_the_application(
    output: io.StringIO, instrumented: None, exported: Exported, shielding: None
) -> None:
    class Broken(SimpleLogRecordProcessor):
        def on_emit(self, log_record: Any) -> None:
            raise OSError("broken")

    provider = Providers().logs.target
    assert isinstance(provider, LoggerProvider)
    provider.add_log_record_processor(Broken(in_memory()))

    logging.getLogger("shop").info("paid")

    assert guard.dropped() == {"internal": 1}
    assert "paid" in output.getvalue()


def test_where_opentelemetrys_own_handler_exports_we_do_not(
    output: io.StringIO, instrumented: None, exported: Exported
) -> None:
    class LoggingHandler(logging.NullHandler):
        __module__ = "opentelemetry.instrumentation.logging.handler"

    handler = LoggingHandler()
    logging.getLogger("shop").addHandler(handler)

    logging.getLogger("shop").info("paid")

    logging.getLogger("shop").removeHandler(handler)
    assert exported.bodies == []


class Record(NamedTuple):
    """As client libraries hand out messages."""

    topic: str
    value: bytes


@dataclass
class Order:
    card: str


def test_no_payload_leaves_by_way_of_an_attribute(
    lines: list[dict[str, Any]], instrumented: None, exported: Exported
) -> None:
    structlog.get_logger().info("got", record=Record("orders", b"secret"), body=b"secret", order=Order("x"))

    assert exported.lines[0][1] == {
        "record": f"<{__name__}.Record>",
        "body": "<6 bytes>",
        "order": f"<{__name__}.Order>",
    }


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def nested(depth: int) -> object:
    return {"deeper": nested(depth - 1)} if depth else "end"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1 << 70, hex(1 << 70)),
        (-(1 << 63), -(1 << 63)),
        ("lone \ud800 surrogate", "lone ? surrogate"),
        (Decimal("3.10"), "3.10"),
        ({1: "x", "": "y", "\ud800": "z"}, {"1": "x", "''": "y", "?": "z"}),
        ({3}, (3,)),
        (ValueError("no"), "ValueError: no"),
        (SeverityNumber.WARN, 13),
        (Unprintable(), f"<{__name__}.Unprintable>"),
    ],
)
def test_any_value_goes_over_otlp_in_a_form_that_it_carries(
    value: object, expected: object, output: io.StringIO, instrumented: None, exported: Exported
) -> None:
    logging.getLogger("shop").info("x", extra={"value": value})

    assert exported.lines == [("x", {"value": expected})]


def test_endless_and_deep_values_are_cut(output: io.StringIO, instrumented: None, exported: Exported) -> None:
    loop: list[object] = []
    loop.append(loop)

    logging.getLogger("shop").info("x", extra={"loop": loop, "deep": nested(50)})

    attributes = exported.lines[0][1]
    assert "<too large>" in repr(attributes["loop"])
    assert "<too large>" in repr(attributes["deep"])


def test_of_a_huge_value_the_first_items_are_exported(
    output: io.StringIO, instrumented: None, exported: Exported
) -> None:
    huge = {"list": [1] * 100_000, "dict": dict.fromkeys(range(100_000))}
    for name, value in huge.items():
        logging.getLogger("shop").info(name, extra={"huge": value})

    (_, of_list), (_, of_dict) = exported.lines
    assert of_list["huge"] == (*[1] * 10_000, "<too large>")
    assert len(cast("dict[str, object]", of_dict["huge"])) == 10_001


class Shelf(Mapping[str, object]):
    """A mapping whose items lie elsewhere: asking for one may take long."""

    def __getitem__(self, name: str) -> object:
        raise AssertionError("an item was asked for")

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("the names were asked for")

    def __len__(self) -> int:
        raise AssertionError("the length was asked for")


def test_what_has_no_end_or_lies_elsewhere_is_not_looked_through(
    lines: list[dict[str, Any]], instrumented: None, exported: Exported
) -> None:
    shelf, numbers = Shelf(), range(10**12)

    structlog.get_logger().info("stored", shelf=shelf, numbers=numbers)

    assert lines == [{"event": "stored", "shelf": shelf, "numbers": numbers}]
    assert exported.lines == [("stored", {"shelf": f"<{__name__}.Shelf>", "numbers": "<range>"})]


def test_a_record_whose_arguments_do_not_fit_is_exported_as_it_is() -> None:
    record = logging.makeLogRecord({"msg": "%d pieces", "args": ("many",), "levelno": 20})

    assert of_logging(record, REDACTOR).body == "%d pieces"


def test_an_argument_whose_text_raises_does_not_cost_the_line() -> None:
    class Mute:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    record = logging.makeLogRecord({"msg": "paid by %s", "args": (Mute(),), "levelno": 20})

    assert of_logging(record, REDACTOR).body == "paid by %s"
    assert guard.dropped() == {"internal": 1}


def test_without_a_provider_lines_are_written_and_nothing_else_happens(
    output: io.StringIO, instrumented: None, exported: Exported
) -> None:
    Providers().logs.target = NoOpLoggerProvider()

    logging.getLogger("shop").info("paid")

    assert "paid" in output.getvalue()
    assert exported.bodies == []


# -- standard library -------------------------------------------------------------------------------


def test_a_formatter_may_ask_for_the_ids(output: io.StringIO, instrumented: None) -> None:
    with tracer.start_as_current_span("work") as span:
        logging.getLogger("shop").info("inside")
    logging.getLogger("shop").info("outside")

    ids = ids_of(span)
    assert output.getvalue().splitlines() == [
        f"{ids['trace_id']} {ids['span_id']} {ids['tracekit.flow.id']} inside",
        "   outside",
    ]


def test_an_application_that_passes_ids_itself_keeps_them(
    output: io.StringIO, instrumented: None, exported: Exported
) -> None:
    logging.getLogger("shop").info("x", extra={"trace_id": "mine", "span_id": "mine too"})

    assert output.getvalue() == "mine mine too  x\n"


def test_a_line_that_a_filter_drops_is_not_exported(
    output: io.StringIO, instrumented: None, exported: Exported
) -> None:
    def never(record: logging.LogRecord) -> bool:
        return False

    logging.getLogger("shop").addFilter(never)

    logging.getLogger("shop").info("x")

    logging.getLogger("shop").removeFilter(never)
    assert exported.bodies == []


def test_threads_do_not_mix_their_lines(output: io.StringIO, instrumented: None, exported: Exported) -> None:
    structlog.configure(
        processors=[structlog.stdlib.render_to_log_kwargs], logger_factory=structlog.stdlib.LoggerFactory()
    )

    def work(number: int) -> None:
        for n in range(50):
            structlog.get_logger("shop").info(f"structlog {number} {n}")
            logging.getLogger("shop").info(f"logging {number} {n}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(map(str, exported.bodies)) == sorted(
        f"{kind} {number} {n}" for kind in ("structlog", "logging") for number in range(4) for n in range(50)
    )


def test_undoing_restores_the_very_same_functions(exported: Exported) -> None:
    before = vars(logging.Logger).copy()
    bound = dict(vars(structlog.BoundLoggerBase))

    with installed():
        pass

    assert vars(logging.Logger) == before
    assert dict(vars(structlog.BoundLoggerBase)) == bound


def run(program: str) -> list[str]:
    """The lines of standard output of a program that is instrumented, then sets up its logging."""
    start = textwrap.dedent(
        """
        import logging, logging.config, sys
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry import _logs
        from tracekit.logs import INTEGRATIONS
        from tracekit.patching import Patches
        provider, exporter = LoggerProvider(), InMemoryLogRecordExporter()
        provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        _logs.set_logger_provider(provider)
        INTEGRATIONS[1].install(Patches())
        tracer = TracerProvider().get_tracer("tests")
        """
    )
    end = 'print("exported", [record.log_record.body for record in exporter.get_finished_logs()])'
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", start + textwrap.dedent(program) + end],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OTEL_SDK_DISABLED": "false"},
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_basic_config_still_works_after_us() -> None:
    program = """
        logging.basicConfig(level="INFO", stream=sys.stdout, format="%(span_id)s|%(message)s")
        with tracer.start_as_current_span("work") as span:
            logging.info("paid")
            print(format(span.get_span_context().span_id, "016x"))
        """

    line, span_id, exported = run(program)

    assert (line, exported) == (f"{span_id}|paid", "exported ['paid']")


def test_dict_config_after_us_silences_nothing() -> None:
    config = {
        "version": 1,
        "disable_existing_loggers": True,
        "formatters": {"plain": {"format": "%(trace_id)s|%(message)s"}},
        "handlers": {
            "out": {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stdout"}
        },
        "root": {"level": "INFO", "handlers": ["out"]},
    }
    program = f"""
        import json
        logging.config.dictConfig(json.loads({json.dumps(config)!r}))
        logging.getLogger("shop").info("paid")
        """

    assert run(program) == ["|paid", "exported ['paid']"]


# -- cost -------------------------------------------------------------------------------------------


def test_a_line_costs_a_small_multiple_of_what_it_did(exported: Exported) -> None:
    Providers().logs.target = NoOpLoggerProvider()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.ReturnLoggerFactory(),
    )
    log = structlog.get_logger().bind(service="shop")

    def seconds() -> float:
        best = []
        for _ in range(5):
            start = time.thread_time()
            for n in range(300):
                log.info("order paid", order=n, amount=12.5, user="ann", path="/orders/7")
            best.append(time.thread_time() - start)
        return min(best)

    with tracer.start_as_current_span("work"):
        plain = seconds()
        with installed():
            ours = seconds()

    assert ours < 10 * plain
