"""Queries in PromQL, put together from parts that dashboards and alerts share.

`by` are labels that stay; `where` are matchers; `window` is how far a rate looks back.
"""

from __future__ import annotations

from typing import Final

from grafana.source import names

INTERVAL: Final = "$__rate_interval"
"""Grafana's: four times what lies between two points, so that a rate finds some."""
KNOWN: Final = "6h"
"""How long somebody who says nothing any more is remembered."""
SUCCEEDED: Final = f'{names.ERROR}=""'
AT_WORK: Final = f'{names.IN_BATCH}=""'
"""Matches messages and batches as a whole: the time of a batch's messages is in that of the batch."""


def chosen(metric: str, *where: str) -> str:
    """The series of a metric for which all of that holds."""
    matchers = both(*where)
    return f"{metric}{{{matchers}}}" if matchers else metric


def both(*where: str) -> str:
    """A matcher of which all hold."""
    return ", ".join(filter(None, where))


def total(value: str, *by: str) -> str:
    """The sum, by labels."""
    return f"sum by ({', '.join(by)}) ({value})"


def per_second(counter: str, *by: str, where: str = "", window: str = INTERVAL) -> str:
    """How often."""
    return total(f"rate({chosen(counter, where)}[{window}])", *by)


def quantile(share: float, histogram: str, *by: str, where: str = "", window: str = INTERVAL) -> str:
    """What this share stayed below."""
    buckets = per_second(f"{histogram}_bucket", "le", *by, where=where, window=window)
    return f"histogram_quantile({share}, {buckets})"


def mean(histogram: str, *by: str, where: str = "", window: str = INTERVAL) -> str:
    """Of what it measured."""
    whole = per_second(f"{histogram}_sum", *by, where=where, window=window)
    return f"({ratio(whole, per_second(f'{histogram}_count', *by, where=where, window=window))})"


def ratio(part: str, whole: str) -> str:
    """One by the other, where they have the same labels."""
    return f"{part} / {whole}"


def failing(counter: str, error: str, *by: str, where: str = "", window: str = INTERVAL) -> str:
    """The share that failed: for which the matcher `error` holds too. Where none failed, there is nothing."""
    return ratio(
        per_second(counter, *by, where=both(where, error), window=window),
        per_second(counter, *by, where=where, window=window),
    )


def grown(counter: str, *by: str, where: str = "", window: str = INTERVAL, beside: str = "") -> str:
    """By how much a counter grew that begins with the first thing that it counts.

    `increase` sees only what comes after the first point: a single loss would never show. What was counted
    before is taken off, however long there has been none (Prometheus was away); but not where that is more:
    then the same instance has begun again, at nothing. `beside` is a metric of the instances that are meant.
    """
    series = chosen(counter, where)
    grew = f"{series} - (last_over_time({series}[{KNOWN}] offset {window}) <= {series}) or {series}"
    return total(f"({grew}) and on ({names.INSTANCE}) {beside}" if beside else grew, *by)


def share_waiting(*by: str, where: str = "", window: str = INTERVAL) -> str:
    """Of the time from a message's publishing to the end of its processing: the share before it began.

    Not by the time of flows: of a fan-out's branches each would count the wait that they share. Of means, and
    not of sums: each message of a batch waits, and all of them are worked on until the batch is done.
    """
    waited = mean(names.WAIT, *by, where=where, window=window)
    processed = mean(names.PROCESS, *by, where=both(where, AT_WORK), window=window)
    return ratio(waited, f"({waited} + {processed})")


def backlog_growth(*, sent: str = "", taken: str = "", window: str = INTERVAL) -> str:
    """Messages a second by which what waits for a group grows; `sent` and `taken` are matchers.

    A send that failed adds nothing: else a broker that is gone would look like consumers that are.
    """
    destination, group = names.DESTINATION, names.GROUP
    added = per_second(names.SENT, destination, where=both(sent, SUCCEEDED), window=window)
    removed = per_second(names.CONSUMED, destination, group, where=taken, window=window)
    return f"{added} - on ({destination}) group_right () {removed}"


def labelled(value: str, label: str, text: str, source: str = "", pattern: str = "") -> str:
    """With one more label: the text, with `$1` from the source, where the pattern matches all of that."""
    return f'label_replace({value}, "{label}", "{text}", "{source}", "{pattern}")'


def joined(value: str, label: str, *sources: str) -> str:
    """With one more label, of others with blanks between them."""
    return f'label_join({value}, "{label}", " ", {", ".join(map(_quoted, sources))})'


def _quoted(text: str) -> str:
    return f'"{text}"'


def either(*values: str) -> str:
    """All of these, whose labels differ."""
    return " or ".join(values)
