"""`make bench`: what tracekit costs an application, and what its collector takes in, keeps and finds.

http, kafka: cost for each HTTP request and Kafka message, with nothing, contrib and tracekit. Each round
runs every contender once, each in a process of its own, exporting over HTTP to a receiver process; the
medians of the rounds are compared. Fails where tracekit is dearer than contrib.

ingest: a million spans over HTTP into the collector, on one core, and flows asked for through its API.
Fails where a floor is missed. A program `jaeger` on PATH, or the one that `make test-real` made, is given the
same, once on memory and once on badger; without it, the output says how to get it.

tiers, estate: only where they are asked for, as they take minutes and the real programs (made once, in a
quarter of an hour). What a span and a point cost the agent, the buffer, Kafka, the gateways, Jaeger and
Prometheus; and what gateways keep of the flows of a hundred services. docs/scaling.md says how to read them.

Read the ratios: machines are noisy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracekit_demo.broker import embedded_broker

from benchmarks import collector

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CONTENDERS: Final = ("none", "contrib", "tracekit")
WORKS: Final = ("http", "kafka", "ingest")
ASKED_FOR: Final = ("tiers", "estate")
UNITS: Final = {"http": "FastAPI request", "kafka": "Kafka message, produced, consumed and processed"}


@contextmanager
def _receiver() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.receiver"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def _run(work: str, contender: str, count: int, endpoint: str, broker: str, topic: str) -> float:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    arguments = [work, contender, str(count), endpoint, broker, topic]
    command = [sys.executable, "-m", "benchmarks.contender", *arguments]
    done = subprocess.run(command, env=plain, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        sys.exit(f"{work} with {contender} failed:\n{done.stderr}")
    return float(json.loads(done.stdout.splitlines()[-1])["us"])


def _measured(work: str, rounds: int, count: int, endpoint: str, broker: str) -> dict[str, float]:
    took: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
    for number in range(rounds):
        for contender in CONTENDERS[number % 3 :] + CONTENDERS[: number % 3]:
            topic = f"{contender}-{number}"
            took[contender].append(_run(work, contender, count, endpoint, broker, topic))
            print(f"\r{work}: round {number + 1} of {rounds}, {contender:<10}", end="", file=sys.stderr)
    print(f"\r{'':<60}\r", end="", file=sys.stderr)
    return {contender: statistics.median(values) for contender, values in took.items()}


def _application(works: Sequence[str], rounds: int, count: int) -> int:
    dearer = []
    topics = [f"{contender}-{number}" for contender in CONTENDERS for number in range(rounds)]
    with _receiver() as endpoint, embedded_broker(topics) as broker:
        for work in works:
            cost = _measured(work, rounds, count, endpoint, broker.address)
            added = {name: cost[name] - cost["none"] for name in ("contrib", "tracekit")}
            print(f"{UNITS[work]}, CPU us each (median of {rounds} rounds of {count})")
            print(f"  none      {cost['none']:7.0f}")
            for name, more in added.items():
                print(f"  {name:<9} {cost[name]:7.0f}   {more:+5.0f}")
            ratio = added["tracekit"] / added["contrib"]
            print(f"  tracekit adds {ratio:.2f} times what contrib adds\n")
            if ratio > 1:
                dearer.append(work)
    if dearer:
        print(f"dearer than contrib: {', '.join(dearer)}")
    return 1 if dearer else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "work", nargs="*", metavar="work", help="http, kafka, ingest, which are the default; tiers, estate"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of http and kafka")
    parser.add_argument("--count", type=int, default=3000, help="units of http or kafka in each round")
    parser.add_argument(
        "--spans", type=int, default=1_000_000, help="of ingest; aims and floors are for a million"
    )
    parser.add_argument("--tier-spans", type=int, default=60_000, help="of tiers")
    parser.add_argument("--no-peers", action="store_true", help="leave Jaeger out")
    parser.add_argument(
        "--profile", type=Path, help="where the collector's time went, for pstats; slows it down"
    )
    arguments = parser.parse_args()
    works = arguments.work or WORKS
    if wrong := set(works) - {*WORKS, *ASKED_FOR}:
        parser.error(f"{', '.join(sorted(wrong))}: the works are {', '.join((*WORKS, *ASKED_FOR))}")
    code = 0
    if applications := [work for work in works if work in UNITS]:
        code |= _application(applications, arguments.rounds, arguments.count)
    if "ingest" in works:
        code |= collector.measure(
            arguments.spans, with_peers=not arguments.no_peers, profile=arguments.profile
        )
    if "tiers" in works:
        from benchmarks import tiers  # with the programs' servers, which the others do without

        code |= tiers.measure(arguments.tier_spans)
    if "estate" in works:
        from benchmarks import estate

        code |= estate.measure()
    return code


if __name__ == "__main__":
    sys.exit(main())
