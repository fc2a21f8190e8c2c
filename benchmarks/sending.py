"""Sends a load over HTTP on kept connections, each with a request under way, and times the answers."""

from __future__ import annotations

import http.client
import mmap
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from benchmarks.orders import Load

CONNECTIONS: Final = 4
_TIMEOUT_S: Final = 60
_BUSY: Final = (429, 503)


@dataclass(slots=True)
class Sent:
    """How it went: seconds in all, and for each answer; how often the receiver had no time (429, 503)."""

    seconds: float = 0
    answers_s: list[float] = field(default_factory=list)
    busy: int = 0


def send(load: Load, endpoint: str) -> Sent:
    """Send all of it; what the receiver has no time for is sent again when it says.

    Raises RuntimeError for any other answer than 200.
    """
    sent = Sent()
    failures: list[str] = []
    places = iter(load.places)
    turn = threading.Lock()

    def work() -> None:
        connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=_TIMEOUT_S)
        try:
            while not failures:
                with turn:
                    place = next(places, None)
                if place is None:
                    return
                _post(connection, whole[place[0] : sum(place)], sent)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            failures.append(f"{endpoint}: {error!r}")
        finally:
            connection.close()

    with load.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        threads = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sent.seconds = time.perf_counter() - began
    if failures:
        raise RuntimeError(failures[0])
    return sent


def _post(connection: http.client.HTTPConnection, body: bytes, sent: Sent) -> None:
    while True:
        began = time.perf_counter()
        connection.request("POST", "/v1/traces", body, {"content-type": "application/x-protobuf"})
        answer = connection.getresponse()
        said = answer.read()
        if answer.status == 200:
            sent.answers_s.append(time.perf_counter() - began)
            return
        if answer.status not in _BUSY:
            raise RuntimeError(f"{answer.status} {said!r}")
        sent.busy += 1
        time.sleep(float(answer.headers.get("retry-after", 1)))
