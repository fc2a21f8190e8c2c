"""The shop's customers: a line for each order, and where to look once there is something."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest
from tracekit_demo import customers
from tracekit_demo.scenarios import Scenario

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Shop(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(202)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def shop() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), _Shop) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_an_order_is_a_line_with_its_flow() -> None:
    with shop() as port:
        said = customers.placed(Scenario("async", "declined"), "127.0.0.1", port)

    start, flow_id = said.split("   flow ")
    assert start == "async, declined: 202"
    assert len(bytes.fromhex(flow_id)) == 16


def test_nobody_who_answers_is_a_line_too() -> None:
    with shop() as port:
        pass

    assert customers.placed(Scenario("async"), "127.0.0.1", port).startswith(
        f"no answer from http://127.0.0.1:{port} ("
    )


def test_where_to_look_is_said_once_after_the_first_answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("time.sleep", sleep)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with shop() as port, pytest.raises(SystemExit):
            customers.main(
                {"ORDERS_URL": f"http://127.0.0.1:{port}", "ORDER_EVERY_S": "3", "LOOK": "over there\n"}
            )
    finally:
        signal.signal(signal.SIGTERM, before)

    first, look, second = capsys.readouterr().out.splitlines()
    assert (first[:24], look, second[:8]) == ("order 1: sync, accepted:", "over there", "order 2:")
    assert slept == [3, 3]
