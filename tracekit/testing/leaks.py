"""Leaks: secrets that a flow carries, in names, attributes, events and log lines. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tracekit.redaction import REDACTED, REDACTOR

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tracekit.flow import Flow
    from tracekit.model import LogLine


def leaks(flow: Flow, logs: Iterable[LogLine], patterns: Sequence[str]) -> list[str]:
    """Where the flow or its log lines hold what redaction would hide, or what one of the patterns finds."""
    extra = [re.compile(pattern) for pattern in patterns]
    return [
        where
        for where, key, value in (*_of_spans(flow), *_of_lines(logs))
        if REDACTOR.value(value, key) is not value or any(each.search(str(value)) for each in extra)
    ]


def without_secrets(text: str, patterns: Sequence[str]) -> str:
    """The text as it may be shown: what must not be in a span must not be in a build log either."""
    text = REDACTOR.text(text)
    for pattern in patterns:
        text = re.sub(pattern, REDACTED, text)
    return text


def _of_spans(flow: Flow) -> Iterator[tuple[str, str, object]]:
    """Each value with where it stands and its key."""
    for span in flow.spans:
        where = f"`{span.name}` ({span.service.name})"
        yield f"the name of {where}", "", span.name
        yield f"the status of {where}", "", span.status_message
        yield from _of_attributes(where, span.attributes)
        for event in span.events:
            yield f"the name of an event of {where}", "", event.name
            yield from _of_attributes(f"event {event.name} of {where}", event.attributes)
        for link in span.links:
            yield from _of_attributes(f"a link of {where}", link.attributes)


def _of_lines(logs: Iterable[LogLine]) -> Iterator[tuple[str, str, object]]:
    for line in logs:
        where = f"a log line of {line.service.name}"
        yield where, "", line.body
        yield from _of_attributes(where, line.attributes)


def _of_attributes(where: str, attributes: Mapping[str, object]) -> Iterator[tuple[str, str, object]]:
    for key, value in attributes.items():
        yield f"{key} of {where}", key, value
