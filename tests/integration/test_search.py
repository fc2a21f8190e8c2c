"""Search over a real archive: it finds the flows that meet a query, and no others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest

from tests.integration.test_api import keep, renamed, soon
from tracekit.collector.disk import DiskStore
from tracekit.collector.shapes import MAX_NAME
from tracekit.flow.search import matches, parse, plain
from tracekit.testing.spans import at, called, messaging, processed, request, sent, shop, span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracekit.flow import Flow
    from tracekit.model import Span

NOW_NS: Final = at(60_000)


HOSTILE: Final = (
    "",
    "\x00",
    "a\x00b\x01\x1f\x7f\x9f",
    "\xf8øÿ\xff",
    "GET /STRASSE/ẞ",
    "GET /İstanbul/ısparta/I",
    "GET /\u212aelvin/ﬁne/ΣΊΣΥΦΟΣ",
    "\U0001f600\u200d\u202e",
    "[]",
    "ß" * MAX_NAME,
    "GET /" + "long" * 200,
)
"""Names that are easily taken for others, or for what stands between them."""


def flows() -> list[list[Span]]:
    """One of each kind."""
    twice = request("two breaks alike", 6000, 6010)
    entry = request("GET /straße", 300, 310, status=500, service="größe")
    again = request("POST /pay", 400, 900)
    orders = sent("orders", 1010, 1018)
    failed = processed(orders, 1100, 1110, failed=True)
    return [
        shop(),
        renamed(shop(), 7),
        [
            entry,
            span("work", 301, 305, parent=entry, service="größe", failed=True, attributes={"order.id": 17}),
        ],
        [again, called("http://10.0.0.7/x", 410, 420, parent=again, resend=1, method="GET")],
        [orders, failed, processed(orders, 1200, 1210, attributes={"order.id": "17", "amount": 20.5})],
        [processed(None, 2000, 2001, attributes={"tracekit.messaging.context": "absent"})],
        [replace(request("GET /open", 3000, None), end_ns=None)],
        [request('GET "quoted\\" %_', 4000, 4001, status=404)],
        *([request(name, 5000 + number, 5001 + number)] for number, name in enumerate(HOSTILE)),
        [
            twice,
            *(
                span("no destination", at, at, parent=twice, attributes=messaging("send", ""))
                for at in (6001, 6002)
            ),
        ],
    ]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DiskStore]:
    with DiskStore(tmp_path_factory.mktemp("search") / "data") as archive:
        for spans in flows():
            keep(archive, spans)
        soon(
            lambda: archive.find(()).flows,
            lambda found: len(found) == len(flows()) and all(flow.is_analysed for flow in found),
        )
        yield archive


@pytest.fixture(scope="module")
def built(archive: DiskStore) -> list[Flow]:
    """All flows, the latest first."""
    found = [archive.build(summary.id) for summary in archive.find(()).flows]
    assert len(found) == len(flows())
    return [each.flow for each in found if each is not None]


QUERIES: Final = [
    "",
    *(f"{field} {comparison} {value}" for field, value in [
        ("completion", "10ms"), ("response", "84ms"), ("waited", "0"), ("waited", "1s"), ("spans", "2"),
        ("errors", "1"), ("retries", "0"), ("duplicates", "0"), ("breaks", "0"), ("open", "0"),
        ("status", "404"), ("started", "2023-11-14T22:13:22"), ("started", "58s"), ("order.id", "17"),
        ("amount.none", "1"), ('"amount"', "20.5"),
    ] for comparison in ("=", "!=", "<", "<=", ">", ">=")),
    *(f"{field} {comparison} {value}" for field, value in [
        ("name", '"POST /orders"'), ("name", '"get /STRASSE"'), ("service", "GRÖSSE"), ("service", "payment"),
        ("queue", "orders"), ("queue", "ORDER.confirmed"), ("break", "headers_lost"), ("name", '""'),
        ("name", r'"GET \"quoted\\\" %_"'),
    ] for comparison in ("=", "!=")),
    "error", "retries", "duplicates", "break", "open",
    "pay", "ORDERS", "straSSe", "%", "_", '"\\""', "lost", "nothing",
    "pay error completion > 1s", "order.id=17 error", "order.id=17 status=500", "http.request.method=get",
    "exception.type = x", "service.name = payment",
    *(f"name {comparison} {plain(name)}" for comparison in ("=", "!=") for name in (
        *HOSTILE, "GET /strasse/SS", "get /i\u0307stanbul/ısparta/i", "GET /istanbul/isparta/i",
        "get /KELVIN/FINE/σίσυφος", "SS" * MAX_NAME, "long" * 200,
    )),
    *(f"{field} = {plain(text)}" for field in ("service", "queue", "break") for text in HOSTILE),
    *map(plain, [
        *(name for name in HOSTILE[1:] if len(name) < MAX_NAME), "ss", "ẞ", "i", "ı", "İ", "\u0307", "k",
        "\u212a", "fi", "σ", "ς", "ΟΣ", "\x01", "\xff", "ÿ", "\xf9", "b\xff", "long" * 120, "\u202e",
    ]),
    "breaks = 2", "breaks > 1", "breaks < 2",
]  # fmt: skip


@pytest.mark.parametrize("text", QUERIES)
def test_an_archive_finds_what_meets_the_query_and_nothing_else(
    archive: DiskStore, built: list[Flow], text: str
) -> None:
    query = parse(text, now_ns=NOW_NS)

    found = [flow.id for flow in archive.find(query).flows]

    assert found == [flow.id for flow in built if matches(query, flow)]


def test_the_queries_tell_flows_apart(built: list[Flow]) -> None:
    answers = {tuple(matches(parse(text, now_ns=NOW_NS), flow) for flow in built) for text in QUERIES}

    assert len(answers) > 25
