"""A checker of telemetry against OpenTelemetry's conventions 1.44: everything that tests emit.

`violations(spans, metrics)` gives readable lines, none where all is well. What is in the registry file
counts, and what `conventions/tracekit.yaml` adds to it. Spans and metrics of other people's scopes can be
exempted; whoever tests with them names the scope.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from opentelemetry.sdk.metrics.export import Gauge, Histogram, MetricsData, Sum

from tracekit.model import Attributes, Span, Status

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

_FILE: Final = Path(__file__).with_name("registry-1.44.json")
OURS: Final = Path(__file__).parents[2] / "conventions" / "tracekit.yaml"

DURATION_BOUNDARIES: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""Of every HTTP and messaging duration. Source: conventions 1.44, metrics, ExplicitBucketBoundaries."""

OPEN_ENUMERATIONS: Final = frozenset(
    {
        "messaging.system",
        "error.type",
        "db.system.name",
        "rpc.system.name",
        "cloud.provider",
        "cloud.platform",
        "host.arch",
        "os.type",
        "telemetry.sdk.language",
        "otel.component.type",
    }
)
"""Enumerations that take other values: the registry's are those that everybody agreed on."""

_FAMILIES: Final = {
    "aws_sqs": "aws.sqs",
    "aws.sns": "aws.sns",
}  # value of messaging.system → part of the group
_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "string": str,
    "int": int,
    "double": float,
    "boolean": bool,
}
_DURATION: Final = re.compile(r"(?:http|messaging)\..+\.duration")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric as it was exported: `points` are the attribute sets of its data points."""

    name: str
    instrument: str
    unit: str
    points: Sequence[Attributes] = ()
    boundaries: tuple[float, ...] | None = None
    scope: str = ""


def metrics_of(data: MetricsData | None) -> list[Metric]:
    """The metrics that an in-memory reader of the SDK collected."""
    found = []
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                points: Sequence[Any] = metric.data.data_points
                bounds = {tuple(getattr(point, "explicit_bounds", ())) for point in points}
                found.append(
                    Metric(
                        name=metric.name,
                        instrument=_instrument(metric.data),
                        unit=metric.unit or "",
                        points=[dict(point.attributes or {}) for point in points],
                        boundaries=bounds.pop()
                        if isinstance(metric.data, Histogram) and len(bounds) == 1
                        else None,
                        scope=scope.scope.name,
                    )
                )
    return found


def _instrument(data: object) -> str:
    if isinstance(data, Sum):
        return "counter" if data.is_monotonic else "updowncounter"
    return "gauge" if isinstance(data, Gauge) else "histogram"


def violations(
    spans: Iterable[Span], metrics: Iterable[Metric] = (), *, foreign: Collection[str] = ()
) -> list[str]:
    """What breaks the conventions, a line each, without repetition; `foreign` scopes are exempt."""
    found: dict[str, None] = {}
    for span in spans:
        if span.scope not in foreign:
            found.update(dict.fromkeys(f"span {span.name!r}: {problem}" for problem in _of_span(span)))
    for metric in metrics:
        if metric.scope not in foreign:
            found.update(
                dict.fromkeys(f"metric {metric.name!r}: {problem}" for problem in _of_metric(metric))
            )
    return list(found)


@functools.cache
def _registry() -> Any:
    """Theirs and ours, in the form of theirs."""
    known = json.loads(_FILE.read_text(encoding="utf-8"))
    for group in yaml.safe_load(OURS.read_text(encoding="utf-8"))["groups"]:
        if group["type"] == "attribute_group":
            known["attributes"].update({each["id"]: _described(each) for each in group["attributes"]})
        elif group["type"] == "metric":
            known["metrics"][group["metric_name"]] = {
                "instrument": group["instrument"],
                "unit": group["unit"],
                "attributes": {each["ref"]: _level(each) for each in group["attributes"]},
            }
    return known


def _described(attribute: Any) -> Any:
    kind = attribute["type"]
    if isinstance(kind, dict):
        kind = {"enum": [member["value"] for member in kind["members"]], "old": []}
    return {"type": kind, "stability": attribute["stability"]}


def _level(reference: Any) -> str:
    level = reference["requirement_level"]
    return next(iter(level)) if isinstance(level, dict) else str(level)


# -- attributes -------------------------------------------------------------------------------------


def _of_attributes(attributes: Attributes) -> Iterator[str]:
    for name, value in attributes.items():
        yield from _of_attribute(name, value)


def _of_attribute(name: str, value: object) -> Iterator[str]:
    known = _registry()["attributes"]
    entry = known.get(name)
    if entry is None:
        # http.request.header.<key> and the like
        stem = next(
            (s for s in _stems(name) if str(known.get(s, {}).get("type")).startswith("template")), None
        )
        if stem is None:
            yield f"{name} is no attribute of the conventions"
            return
        entry = {**known[stem], "type": known[stem]["type"].removeprefix("template[").removesuffix("]")}
    if "deprecated" in entry:
        yield f"{name} is deprecated; instead: {entry['deprecated'].strip()}"
        return
    kind = entry["type"]
    if isinstance(kind, dict):
        yield from _of_enumerated(name, value, kind["enum"], kind["old"])
    elif not _fits(value, kind):
        yield f"{name} is {value!r}, not of type {kind}"


def _stems(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _of_enumerated(name: str, value: object, values: list[object], old: list[object]) -> Iterator[str]:
    if type(value) is not type(values[0]):
        yield f"{name} is {value!r}, not of type {type(values[0]).__name__}"
    elif value in values:
        return
    elif value in old:
        yield f"{name} is {value!r}, an old value"
    elif name not in OPEN_ENUMERATIONS:
        yield f"{name} is {value!r}, not one of {', '.join(map(str, values))}"


def _fits(value: object, kind: str) -> bool:
    if kind == "any":
        return True
    if kind.endswith("[]"):
        return isinstance(value, list | tuple) and all(_fits(item, kind[:-2]) for item in value)
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


# -- spans ------------------------------------------------------------------------------------------


def _of_span(span: Span) -> Iterator[str]:
    yield from _of_attributes(span.attributes)
    for link in span.links:
        yield from (f"a link's {problem}" for problem in _of_attributes(link.attributes))
    for event in span.events:
        yield from (f"event {event.name!r}: {problem}" for problem in _of_attributes(event.attributes))
        if (
            event.name == "exception"
            and not {"exception.type", "exception.message"} & event.attributes.keys()
        ):
            yield "event 'exception': neither exception.type nor exception.message"
    # A span of ours that shows a wait is no operation: it only says where.
    is_operation = "tracekit.messaging.wait" not in span.attributes
    if is_operation and any(name.startswith("messaging.") for name in span.attributes):
        yield from _of_messaging(span)
    for mark, groups in _groups(span).items():
        yield from _of_group(span, mark, groups)


def _groups(span: Span) -> Mapping[str, tuple[str, ...]]:
    """By what marks a span as one of a family: its groups, the general first, for this kind."""
    kind = span.kind.name.lower()
    found: dict[str, tuple[str, ...]] = {}
    if any(name.startswith("http.") for name in span.attributes):
        found["http.*"] = (f"http.{kind}",)
    if any(name.startswith("graphql.") for name in span.attributes):
        found["graphql.*"] = (f"graphql.{kind}",)
    for family, system in (
        ("rpc", span.attributes.get("rpc.system.name")),
        ("db", span.attributes.get("db.system.name")),
    ):
        if any(name.startswith(f"{family}.") for name in span.attributes):
            call = ".call" if family == "rpc" else ""
            found[f"{family}.*"] = (f"{family}{call}.{kind}", f"{family}.{system}{call}.{kind}")
    system = span.attributes.get("messaging.system")
    operation = span.attributes.get("messaging.operation.type")
    if operation in ("create", "send", "receive", "process", "settle"):
        part = _FAMILIES.get(str(system), system)
        found[f"messaging.operation.type={operation}"] = (
            f"messaging.{operation}.{kind}",
            f"messaging.{part}.{operation}.{kind}",
        )
    return found


def _of_group(span: Span, mark: str, groups: Sequence[str]) -> Iterator[str]:
    known = _registry()["spans"]
    if groups[0] not in known:
        stem = groups[0].rpartition(".")[0]
        kinds = sorted(name.rpartition(".")[2].upper() for name in known if name.rpartition(".")[0] == stem)
        yield f"kind {span.kind.name} with {mark}; it is {' or '.join(kinds)}"
        return
    wanted: dict[str, tuple[str, str]] = {}
    for group in groups:
        for name, requirement in known.get(group, {"attributes": {}})["attributes"].items():
            if name not in wanted or requirement == "required" != wanted[name][0]:
                wanted[name] = requirement, group
    for name, (requirement, group) in wanted.items():
        if requirement == "required" and name not in span.attributes:
            yield f"{name} is missing; {group} requires it"
    failed = span.status is Status.ERROR and "error.type" in wanted
    if failed and "error.type" not in span.attributes:
        yield "error.type is missing; the status is ERROR"


def _of_messaging(span: Span) -> Iterator[str]:
    attributes = span.attributes
    operation = attributes.get("messaging.operation.type")
    if operation is None:
        yield "messaging.operation.type is missing"
    batch = "messaging.batch.message_count" in attributes
    if operation in ("create", "send", "process") and not batch and not _destination(attributes):
        yield "messaging.destination.name is missing; a single message has one"
    if attributes.get("messaging.kafka.message.tombstone") is False:
        yield "messaging.kafka.message.tombstone is False; it is set only when true"
    verb = attributes.get("messaging.operation.name")
    if isinstance(verb, str):
        names = _names(verb, attributes)
        if span.name not in names:
            yield f"the name is not {' or '.join(map(repr, names))}"


def _destination(attributes: Attributes) -> str:
    return str(
        attributes.get("messaging.destination.template") or attributes.get("messaging.destination.name") or ""
    )


def _names(verb: str, attributes: Attributes) -> tuple[str, ...]:
    # Source: conventions 1.44, messaging spans, "Span name".
    template = attributes.get("messaging.destination.template")
    if template:
        return (f"{verb} {template}",)
    fleeting = attributes.get("messaging.destination.temporary") or attributes.get(
        "messaging.destination.anonymous"
    )
    if _destination(attributes) and not fleeting:
        return (f"{verb} {_destination(attributes)}",)
    address, port = attributes.get("server.address"), attributes.get("server.port")
    return (verb, f"{verb} {address}:{port}") if address else (verb,)


# -- metrics ----------------------------------------------------------------------------------------


def _of_metric(metric: Metric) -> Iterator[str]:
    for point in metric.points:
        yield from _of_attributes(point)
    entry = _registry()["metrics"].get(metric.name)
    if entry is None:
        yield "no metric of the conventions"
        return
    if metric.instrument != entry["instrument"]:
        yield f"a {metric.instrument}, not a {entry['instrument']}"
    if metric.unit != entry["unit"]:
        yield f"its unit is {metric.unit!r}, not {entry['unit']!r}"
    for name, requirement in entry["attributes"].items():
        if requirement == "required" and any(name not in point for point in metric.points):
            yield f"{name} is missing; it is required"
    if _DURATION.fullmatch(metric.name) and metric.boundaries != DURATION_BOUNDARIES:
        yield f"its bucket boundaries are {metric.boundaries}, not {DURATION_BOUNDARIES}"
