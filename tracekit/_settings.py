"""Settings: the arguments of `configure()` and the standard `OTEL_*` variables, checked at start-up.

A wrong one is a `SettingError` with the setting, its value and the cure, before anything is changed.
`TRACEKIT_*` exists only for what the standard lacks.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal, TypeAlias, cast, get_args
from urllib.parse import unquote, urlsplit

from tracekit.redaction import REDACTED

ParentRule: TypeAlias = Literal["auto", "message", "link"]
KafkaOwner: TypeAlias = Literal["tracekit", "contrib"]
Environment: TypeAlias = Mapping[str, str]

DEFAULT_ENDPOINTS: Final = {"http/protobuf": "http://localhost:4318", "grpc": "http://localhost:4317"}

_OURS: Final = (
    "TRACEKIT_PARENT",
    "TRACEKIT_KAFKA",
    "TRACEKIT_RECEIVE_SPANS",
    "TRACEKIT_WAIT_SPANS",
    "TRACEKIT_UNTRUSTED",
    "TRACEKIT_QUIET",
)
# Kubernetes and Docker tell of a service called tracekit, or tracekit-collector, in this way.
_OF_A_SERVICE: Final = re.compile(r"TRACEKIT_(\w+_)?(SERVICE_(HOST|PORT)\w*|PORT(_\d+_\w+)?)")
# As opentelemetry.util.re takes it, which leaves out what it does not take.
_HEADER: Final = re.compile(r"""[!#-'*+.0-9A-Z^-z|~-]+[ \t]*=[ \t]*[^"\\;,\x00-\x1f\x7f-\U0010ffff]*""")
_COMPRESSIONS: Final = {"http/protobuf": ("none", "gzip", "deflate"), "grpc": ("gzip",)}
_SIGNALS: Final = ("traces", "metrics", "logs")
_PLACES: Final = "a path (* only for all that is below), or a host's name without scheme, port and path"
# A variable for all signals, and those for one, which go before it.
_ENDPOINT: Final = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
)
_PROTOCOL: Final = (
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
    "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL",
)
_HEADERS: Final = (
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
    "OTEL_EXPORTER_OTLP_LOGS_HEADERS",
)
_COMPRESSION: Final = (
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
    "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION",
    "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION",
)
_TIMEOUT: Final = (
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT",
    "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT",
)
_NUMBERS: Final = (
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BLRP_SCHEDULE_DELAY",
    "OTEL_BLRP_EXPORT_TIMEOUT",
    "OTEL_BLRP_MAX_QUEUE_SIZE",
    "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_METRIC_EXPORT_TIMEOUT",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
)


class SettingError(ValueError):
    """A setting that cannot be: which one, its value, and the cure (`must be …; e.g. …`).

    Where it is raised, nothing has been changed yet.

        try:
            tracekit.configure("orders")
        except tracekit.SettingError as error:
            sys.exit(f"orders: {error}")
    """

    __module__ = "tracekit"  # its public home

    def __init__(self, setting: str, value: object, cure: str) -> None:
        super().__init__(f"{setting}={value!r}: {cure}")


@dataclass(frozen=True, slots=True)
class Settings:
    """What `configure()` goes by. `exporters` and `protocols` have what counts for each signal."""

    service: str
    protocols: Mapping[str, str]
    endpoint: str
    endpoint_given: bool
    """Whether the endpoint is `configure()`'s, which goes before those of the variables."""
    exporters: Mapping[str, tuple[str, ...]]
    propagators: tuple[str, ...]
    parent: ParentRule
    kafka: KafkaOwner
    receive_spans: bool
    wait_spans: bool
    trust: Mapping[str, str]
    quiet: bool
    disabled: bool
    without: frozenset[str] = field(default_factory=frozenset)
    """Integrations that are left alone: OTEL_PYTHON_DISABLED_INSTRUMENTATIONS."""


def read(
    environment: Environment | None = None,
    *,
    service: str | None = None,
    endpoint: str | None = None,
    parent: str | None = None,
    kafka: str | None = None,
    receive_spans: bool | None = None,
    wait_spans: bool | None = None,
    trust: Mapping[str, str] | None = None,
    quiet: bool | None = None,
) -> Settings:
    """The settings: an argument where it was given, else the variable, else the default.

    Raises SettingError for the first one that cannot be.
    """
    env = os.environ if environment is None else environment
    _no_others(env)
    for name in _NUMBERS:
        _number(env, name)
    _batches(env)
    _sampler(env)
    protocols = {
        signal: _protocol(env, (own, _PROTOCOL[0]))
        for signal, own in zip(_SIGNALS, _PROTOCOL[1:], strict=True)
    }
    for name in _TIMEOUT:
        _seconds(env, name)
    for name in _HEADERS:
        _pairs(env, name)
    for name, protocol in zip(_COMPRESSION[1:], protocols.values(), strict=True):
        _compression(env, (name, _COMPRESSION[0]), protocol)
    return Settings(
        service=_service(env, service),
        protocols=protocols,
        endpoint=_endpoint(env, endpoint, protocols["traces"]),
        endpoint_given=endpoint is not None,
        exporters={signal: _exporters(env, signal) for signal in _SIGNALS},
        propagators=_propagators(env),
        parent=cast("ParentRule", _choice("parent", parent, env, "TRACEKIT_PARENT", get_args(ParentRule))),
        kafka=_kafka(env, kafka),
        receive_spans=_truth(env, "TRACEKIT_RECEIVE_SPANS", "receive_spans", receive_spans),
        wait_spans=_truth(env, "TRACEKIT_WAIT_SPANS", "wait_spans", wait_spans),
        trust=_trust(env, trust),
        quiet=_truth(env, "TRACEKIT_QUIET", "quiet", quiet),
        disabled=_truth(env, "OTEL_SDK_DISABLED"),
        without=frozenset(_names(env.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", ""))),
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _no_others(env: Environment) -> None:
    for name, value in env.items():
        if name.startswith("TRACEKIT_") and name not in _OURS and not _OF_A_SERVICE.fullmatch(name):
            raise SettingError(name, value, f"there is no such setting; there are {', '.join(_OURS)}")


def _number(env: Environment, name: str) -> None:
    text = env.get(name, "").strip()
    if text and not text.isdecimal():
        raise SettingError(name, text, "must be a whole number, 0 or more (times in milliseconds); e.g. 5000")


def _batches(env: Environment) -> None:
    """What the SDK refuses of numbers, without naming the variable."""
    for size, bound, delay in (
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_SCHEDULE_DELAY"),
        ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "OTEL_BLRP_MAX_QUEUE_SIZE", "OTEL_BLRP_SCHEDULE_DELAY"),
    ):
        for name in (size, bound, delay):
            _positive(env, name)
        most, room = (
            int(env.get(name, "").strip() or default) for name, default in ((size, 512), (bound, 2048))
        )
        if most > room:
            # Whichever was given is the one to change.
            if env.get(size, "").strip():
                raise SettingError(size, str(most), f"must be at most {bound}, which is {room}")
            raise SettingError(bound, str(room), f"must be at least {size}, which is {most}")
    _positive(env, "OTEL_METRIC_EXPORT_INTERVAL")


def _positive(env: Environment, name: str) -> None:
    text = env.get(name, "").strip()
    if text and int(text) == 0:
        raise SettingError(name, text, "must be 1 or more")


def _pairs(env: Environment, name: str) -> None:
    """The headers of an export: OpenTelemetry would leave out what it cannot read."""
    for pair in _names(env.get(name, "")):
        if _HEADER.fullmatch(pair) is None:
            cure = "must be name=value pairs, URL-encoded; e.g. authorization=Bearer%20abc"
            raise SettingError(name, REDACTED, cure)


def _compression(env: Environment, names: tuple[str, str], protocol: str) -> None:
    name, text = next(((name, text) for name in names if (text := env.get(name, "").strip())), ("", ""))
    if text and text.lower() not in _COMPRESSIONS[protocol]:
        raise SettingError(
            name, text, f"must be one of {', '.join(_COMPRESSIONS[protocol])}, over {protocol}"
        )


def _seconds(env: Environment, name: str) -> None:
    """Seconds, as OpenTelemetry's exporters for Python read it; its specification has milliseconds."""
    text = env.get(name, "").strip()
    if text and re.fullmatch(r"\d+(\.\d*)?|\.\d+", text, re.ASCII) is None:
        raise SettingError(name, text, "must be seconds; e.g. 10 or 0.5")


def _truth(env: Environment, name: str, argument: str = "", given: object = None) -> bool:
    if isinstance(given, bool):
        return given
    if given is not None:
        raise SettingError(argument, given, "must be True or False")
    text = env.get(name, "").strip().lower()
    if text not in ("", "true", "false", "1", "0"):
        raise SettingError(name, env[name], "must be true or false")
    return text in ("true", "1")


def _choice(
    argument: str, given: str | None, env: Environment, variable: str, choices: tuple[str, ...]
) -> str:
    name, value = (argument, given) if given is not None else (variable, env.get(variable, ""))
    if value == "" and given is None:
        return choices[0]
    if value not in choices:
        raise SettingError(name, value, f"must be one of {', '.join(choices)}")
    return value


def _kafka(env: Environment, given: str | None) -> KafkaOwner:
    owner = _choice("kafka", given, env, "TRACEKIT_KAFKA", get_args(KafkaOwner))
    if owner == "contrib" and not _has("opentelemetry.instrumentation.kafka"):
        raise SettingError(
            "TRACEKIT_KAFKA" if given is None else "kafka",
            owner,
            "must be installed: pip install opentelemetry-instrumentation-kafka-python; or use tracekit",
        )
    return cast("KafkaOwner", owner)


def _has(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


def _trust(env: Environment, given: object) -> Mapping[str, str]:
    untrusted = _names(env.get("TRACEKIT_UNTRUSTED", ""))
    if given is None and not untrusted:
        return {}
    from tracekit.tracing.trust import Level, is_pattern  # loads OpenTelemetry

    if given is None:
        for place in untrusted:
            if not is_pattern(place):
                cure = f"must be {_PLACES}; e.g. /webhooks/*,api.partner.example"
                raise SettingError("TRACEKIT_UNTRUSTED", place, cure)
        return dict.fromkeys(untrusted, "none")
    if not isinstance(given, Mapping):
        raise SettingError("trust", given, "must be a mapping; e.g. {'/webhooks/*': 'none'}")
    for place, level in given.items():
        if not is_pattern(place):
            cure = f"must be of {_PLACES}; e.g. {{'/webhooks/*': 'none', 'api.partner.example': 'none'}}"
            raise SettingError("trust", {place: level}, cure)
        if level not in get_args(Level):
            cure = f"must be 'none' or 'internal'; e.g. {{{place!r}: 'none'}}"
            raise SettingError("trust", {place: level}, cure)
    return given


def _service(env: Environment, given: object) -> str:
    """OTEL_SERVICE_NAME, else `service.name` of the resource attributes, else the program's name."""
    pairs = _names(env.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    for pair in pairs:
        if "=" not in pair:
            cure = "must be name=value pairs; e.g. service.version=1.2,deployment.environment.name=test"
            raise SettingError("OTEL_RESOURCE_ATTRIBUTES", pair, cure)
    if given is not None:
        if not isinstance(given, str) or not given.strip():
            raise SettingError("service", given, "must be a name; e.g. orders")
        return given
    named = env.get("OTEL_SERVICE_NAME", "").strip()
    if named:
        return named
    program = Path(sys.argv[0]) if sys.argv and sys.argv[0] not in ("", "-c", "-m") else None
    if program is not None and program.name == "__main__.py":
        program = program.parent
    attributes = {
        name.strip(): unquote(value.strip()) for name, _, value in (p.partition("=") for p in pairs)
    }
    return attributes.get("service.name") or (program.stem if program else "") or "unknown_service"


def _protocol(env: Environment, names: tuple[str, str]) -> str:
    for name in names:
        value = env.get(name, "").strip()
        if not value:
            continue
        if value not in DEFAULT_ENDPOINTS:
            raise SettingError(name, value, f"must be one of {', '.join(DEFAULT_ENDPOINTS)}")
        if value == "grpc" and not _has("opentelemetry.exporter.otlp.proto.grpc"):
            cure = (
                "must be installed: pip install opentelemetry-exporter-otlp-proto-grpc; or use http/protobuf"
            )
            raise SettingError(name, value, cure)
        return value
    return "http/protobuf"


def _endpoint(env: Environment, given: object, protocol: str) -> str:
    """Where telemetry goes: the endpoint for all signals, which is also what the start-up line says."""
    found = "" if given is None else _url("endpoint", given, protocol)
    for name in _ENDPOINT:
        value = env.get(name, "").strip()
        if value:
            url = _url(name, value, protocol)
            found = found or url
    return found or DEFAULT_ENDPOINTS[protocol]


def _url(name: str, value: object, protocol: str) -> str:
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
        usable = parts and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not isinstance(value, str) or not usable:
        raise SettingError(name, value, f"must be a URL; e.g. {DEFAULT_ENDPOINTS[protocol]}")
    return value


def _known(group: str) -> set[str]:
    """The names under an entry point. Reads every installed package: only for what is not a default."""
    return {point.name for point in entry_points(group=group)}


def _exporters(env: Environment, signal: str) -> tuple[str, ...]:
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    names = _names(env.get(variable, "")) or ("otlp",)
    for name in names:
        if name not in ("otlp", "none") and name not in (known := _known(f"opentelemetry_{signal}_exporter")):
            raise SettingError(
                variable, name, f"must be one of {', '.join(['otlp', 'none', *sorted(known)])}"
            )
    return tuple(name for name in names if name != "none")


def _propagators(env: Environment) -> tuple[str, ...]:
    names = _names(env.get("OTEL_PROPAGATORS", ""))
    for name in names:
        if name != "none" and name not in (known := _known("opentelemetry_propagator")):
            raise SettingError(
                "OTEL_PROPAGATORS", name, f"must be some of {', '.join(sorted(known))}, or none"
            )
    return names


def _ratio(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def _sampler(env: Environment) -> None:
    name = env.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    if name and name not in (known := _known("opentelemetry_traces_sampler")):
        raise SettingError("OTEL_TRACES_SAMPLER", name, f"must be one of {', '.join(sorted(known))}")
    argument = env.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    if argument and name.endswith("traceidratio") and not _ratio(argument):
        raise SettingError("OTEL_TRACES_SAMPLER_ARG", argument, "must be a ratio from 0 to 1; e.g. 0.1")
