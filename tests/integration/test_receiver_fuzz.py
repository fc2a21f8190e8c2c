"""Whatever comes over the wire is answered rightly, and brings down nothing."""

from __future__ import annotations

import gzip
import http.client
import importlib.util
import json
import re
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integration.otlp_samples import KINDS, samples
from tests.integration.receiver_in_a_process import MAX_BYTES
from tracekit.otlp import OtlpError, decode_logs, decode_metrics, decode_spans, rejected_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tracekit.otlp import Decoded, Encoding, Signal

ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024
SAMPLES = samples()
CONTENT_TYPES = {"protobuf": "application/x-protobuf", "json": "application/json"}
METHODS = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
}
DECODERS: dict[Signal, Callable[[bytes, Encoding], Decoded[Any]]] = {
    "traces": decode_spans,
    "logs": decode_logs,
    "metrics": decode_metrics,
}
ODD = [
    b"",
    b"\x00",
    b"\xff",
    b"\xff" * 9 + b"\x01",
    b"\x0a\x00",
    b"null",
    b"-1",
    b"1e999",
    b'"',
    b"{",
    b"[]",
    b"\xed\xa0\x80",
]


@st.composite
def mutations(draw: st.DrawFn, body: bytes) -> bytes:
    """The bytes, with up to four parts taken out, doubled, put elsewhere, or made into something else."""
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(body)))
        part = body[at : at + draw(st.integers(1, 40))]
        rest = body[at + len(part) :]
        put = draw(st.sampled_from([b"", part + part, *ODD]) | st.binary(max_size=8))
        body = body[:at] + put + rest
    return body


@st.composite
def requests(draw: st.DrawFn) -> tuple[Signal, Encoding, bytes]:
    signal, encoding, body = draw(st.sampled_from(SAMPLES))
    return signal, encoding, draw(mutations(body))


def expected(signal: Signal, encoding: Encoding, body: bytes) -> tuple[int, int]:
    """The status that is due, and how many records are refused."""
    try:
        decoded = DECODERS[signal](body, encoding)
    except OtlpError:
        return 400, 0
    return (400, 0) if decoded.rejected and not decoded.records else (200, decoded.rejected)


@dataclass
class Child:
    """A collector in a process of its own."""

    http_port: int
    grpc_port: int
    stdin: IO[str]
    stdout: IO[str]

    def ask(self, what: str) -> Any:
        print(what, file=self.stdin, flush=True)
        return json.loads(self.stdout.readline())


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    """Says nothing on its standard error, and ends well."""
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(
            [sys.executable, "-m", "tests.integration.receiver_in_a_process"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        http_port, grpc_port = map(int, process.stdout.readline().split())
        yield Child(http_port, grpc_port, process.stdin, process.stdout)
        refused = Child(0, 0, process.stdin, process.stdout).ask("status")
        process.stdin.close()
        assert process.wait(30) == 0
        said.seek(0)
        assert (said.read(), "500" in refused) == ("", False)


def test_fuzzed_requests_over_http_get_the_status_that_is_due(child: Child) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", child.http_port, timeout=60)

    @settings(max_examples=300, deadline=None)
    @given(requests(), st.booleans())
    def send(request: tuple[Signal, Encoding, bytes], is_zipped: bool) -> None:
        signal, encoding, body = request
        headers = {"content-type": CONTENT_TYPES[encoding]} | (
            {"content-encoding": "gzip"} if is_zipped else {}
        )
        connection.request("POST", f"/v1/{signal}", gzip.compress(body, 1) if is_zipped else body, headers)
        answer = connection.getresponse()
        read = answer.read()
        assert answer.headers["content-type"] == CONTENT_TYPES[encoding]
        rejected = rejected_of(read, encoding) if answer.status == 200 else 0
        assert (answer.status, rejected) == expected(signal, encoding, body)

    send()
    connection.close()


def test_fuzzed_gzip_gets_an_answer(child: Child) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", child.http_port, timeout=60)

    @settings(max_examples=100, deadline=None)
    @given(st.sampled_from(SAMPLES).flatmap(lambda sample: mutations(gzip.compress(sample[2]))))
    def send(body: bytes) -> None:
        connection.request(
            "POST", "/v1/traces", body, {"content-type": "application/json", "content-encoding": "gzip"}
        )
        answer = connection.getresponse()
        answer.read()
        assert answer.status in (200, 400)

    send()
    connection.close()


def test_fuzzed_requests_over_grpc_get_the_status_that_is_due(child: Child) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{child.grpc_port}") as channel:
        exports = {signal: channel.unary_unary(method) for signal, method in METHODS.items()}

        @settings(max_examples=200, deadline=None)
        @given(requests())
        def send(request: tuple[Signal, Encoding, bytes]) -> None:
            signal, _, body = request
            status, rejected = expected(signal, "protobuf", body)
            if status == 200:
                assert rejected_of(exports[signal](body, timeout=60), "protobuf") == rejected
            else:
                with pytest.raises(grpc.RpcError) as refused:
                    exports[signal](body, timeout=60)
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT

        send()


def test_fuzzed_http_gets_an_answer_that_is_none_of_ours_to_blame(child: Child) -> None:
    body = SAMPLES[0][2]
    plain = b"POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-protobuf\r\n"
    heads = [
        plain + b"Content-Length: %d\r\n\r\n" % len(body) + body,
        plain + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\nx: y\r\n\r\n" % (len(body), body),
        plain + b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
        b"GET /v1/logs?x=%20 HTTP/1.0\r\nConnection: keep-alive\r\nUpgrade: h2c\r\n\r\n",
    ]

    @settings(max_examples=200, deadline=None)
    @given(st.sampled_from(heads).flatmap(mutations), st.sampled_from(heads))
    def send(first: bytes, second: bytes) -> None:
        with socket.create_connection(("127.0.0.1", child.http_port), timeout=60) as sender:
            heard = b""
            try:
                sender.sendall(first + second)
                sender.shutdown(socket.SHUT_WR)
                while piece := sender.recv(65536):
                    heard += piece
            except ConnectionError:
                pass  # it was cut off
        found = {int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", heard)}
        assert found <= {100, 200, 400, 403, 404, 405, 413, 415, 431}

    send()
    # And whoever behaves is served as ever.
    connection = http.client.HTTPConnection("127.0.0.1", child.http_port, timeout=60)
    connection.request("POST", "/v1/traces", body, {"content-type": CONTENT_TYPES["protobuf"]})
    assert connection.getresponse().status == 200
    connection.close()


def test_large_fuzzed_requests_take_no_more_memory_than_the_limits(child: Child) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", child.http_port, timeout=60)
    child.ask("reset")
    before = child.ask("peak")

    @settings(max_examples=8, deadline=None)
    @given(st.sampled_from([sample for sample in SAMPLES if sample[1] == "protobuf"]), st.data())
    def send(sample: tuple[Signal, Encoding, bytes], data: st.DataObject) -> None:
        signal, encoding, body = sample
        many = data.draw(mutations(body)) * (MIB // len(body))  # end to end they are one request
        headers = {"content-type": CONTENT_TYPES[encoding], "content-encoding": "gzip"}
        connection.request("POST", f"/v1/{signal}", gzip.compress(many, 1), headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status in (200, 400)

    send()
    connection.close()
    assert child.ask("peak") - before < 3 * MAX_BYTES + 100 * MIB


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python"
)
def test_the_decoder_and_the_scanner_keep_their_promises_under_coverage_guided_fuzzing(
    tmp_path: Path,
) -> None:
    for number, (signal, encoding, body) in enumerate(SAMPLES):
        (tmp_path / str(number)).write_bytes(bytes([KINDS.index((signal, encoding))]) + body)

    # Through a shell: a process begins with the largest memory that the one had which started it, and
    # libFuzzer would hold that of the tests before this one against the decoder.
    shell = ["sh", "-c", '"$@"; exit $?', "sh"]
    command = [*shell, sys.executable, "-m", "tests.integration.fuzz_otlp", str(tmp_path)]
    limits = [
        "-runs=10000",
        "-seed=1",  # a longer one, with other seeds, is run by hand
        "-max_len=8192",
        "-timeout=30",
        "-rss_limit_mb=400",
        f"-artifact_prefix={tmp_path}/",
    ]
    run = subprocess.run(command + limits, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
    assert "Done " in run.stderr
