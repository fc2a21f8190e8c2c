"""A Kafka for one machine: the mock cluster inside the confluent-kafka wheel, in a process of its own.

    python -m tracekit_demo.broker --port 9092 order.created order.confirmed

prints its address, and serves Kafka clients until SIGTERM or Ctrl-C. Everything is in memory and gone at
its end. `embedded_broker()` does the same for the length of a with-block.

Its limits (librdkafka 2.16): no CreateTopics (give the topics here; others appear at first use), no
transaction isolation, one kafka-python member per consumer group, and without `--port` kafka-python must
be told `api_version=(2, 3)`, for it cannot find the version out. With `--shared-group` the first group
takes all members that join within three seconds, and none later.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import selectors
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NamedTuple, NoReturn, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

API_VERSION: Final = (2, 3)
DISCONNECT: Final = -195  # librdkafka's own number for it
CURE: Final = (
    "pip install '.[demo]' in tracekit's clone, or name a Kafka of your own (tracekit demo --kafka HOST:PORT)"
)
_MOCK_PARTITIONS: Final = 4
_ERROR_SIZE: Final = 512
_NUDGE_S: Final = 0.02
_JOIN_MS: Final = 3000  # as Kafka's own group.initial.rebalance.delay.ms
_METADATA_MS: Final = 300
_LEADER_LAG_MS: Final = 1000
_SESSION_MS: Final = 6000
_JOIN_GROUP: Final = 11  # the request's number in Kafka's protocol
_API_VERSIONS: Final = 18
_LAST_PLAIN_VERSION: Final = 2
_UNSUPPORTED_VERSION: Final = 35
# Kafka 2.3's newest version of each request. The mock claims newer ones, of which it cannot read some.
_NEWEST: Final = {0: 7, 1: 11, 2: 5, 3: 8, 8: 7, 9: 5, 10: 2, 11: 5, 12: 3, 13: 2, 14: 3, 22: 1}


class BrokerError(RuntimeError):
    """The embedded broker cannot run here; the message says why, and what to do."""


class KafkaSettings(TypedDict):
    """What a kafka-python client must be given to talk to the broker."""

    bootstrap_servers: str
    api_version: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Broker:
    """A running embedded broker."""

    address: str
    pid: int
    orders: IO[str] = field(repr=False, compare=False)
    answers: IO[str] = field(repr=False, compare=False)

    def fail(self, request: int, *errors: int) -> None:
        """Have the next requests of this kind answered with these errors, in turn; 0 is none.

        Both are numbers of Kafka's protocol; the error DISCONNECT breaks the connection off instead.
        """
        print(request, *errors, file=self.orders, flush=True)
        self.answers.readline()

    @property
    def settings(self) -> KafkaSettings:
        """The arguments of a kafka-python client: `KafkaProducer(**broker.settings)`."""
        return {"bootstrap_servers": self.address, "api_version": API_VERSION}

    @property
    def environment(self) -> Mapping[str, str]:
        """The same as environment variables, as the services of the demo read them."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.address,
            "KAFKA_API_VERSION": ".".join(map(str, API_VERSION)),
        }


@contextmanager
def embedded_broker(
    topics: Sequence[str] = (),
    *,
    partitions: int = _MOCK_PARTITIONS,
    shared_group: bool = False,
    timeout_s: float = 10.0,
) -> Iterator[Broker]:
    """Run the mock cluster in a process of its own, with `topics` created, until the block ends.

    `shared_group`: the first consumer group waits 3 s for further members, also of kafka-python.
    Raises BrokerError where it cannot start, with its own words and the cure.
    """
    # By path and -P: it starts also where the package was put on sys.path by hand, and no module
    # beside this file hides one of the same name.
    command = [sys.executable, "-P", str(Path(__file__)), "--until-stdin-closes"]
    command += ["--partitions", str(partitions), *topics]
    if shared_group:
        command.append("--shared-group")
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            process_group=0,  # Ctrl-C is for whoever started it, who ends it when its clients are gone
        )
        try:
            address = _first_line(process, timeout_s)
            if not address:
                process.kill()
                process.wait()
                said.seek(0)
                raise BrokerError(said.read().strip() or f"the embedded broker said nothing; {CURE}")
            yield Broker(address, process.pid, _pipe(process.stdin), _pipe(process.stdout))
        finally:
            _end(process)


def _first_line(process: subprocess.Popen[str], timeout_s: float) -> str:
    stdout = _pipe(process.stdout)
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        return stdout.readline().strip() if selector.select(timeout_s) else ""


def _end(process: subprocess.Popen[str]) -> None:
    _pipe(process.stdin).close()  # the end of its standard input is its sign to go
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _pipe(process.stdout).close()


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None  # Popen was asked for a pipe
    return stream


class Mock(NamedTuple):
    """The address of a mock cluster, and what makes its next requests of a kind fail: kind, errors."""

    address: str
    fail: Callable[[int, Sequence[int]], None]


@contextmanager
def mock_cluster(
    topics: Sequence[str], partitions: int, *, shared_group: bool = False, port: int | None = None
) -> Iterator[Mock]:
    """The mock cluster inside this process. Raises BrokerError.

    At a `port` that is given, clients find out by themselves which version they talk to.
    """
    library = _librdkafka()
    try:
        _declare(library)
    except AttributeError as error:
        raise BrokerError(f"this confluent-kafka has no mock cluster ({error}); {CURE}") from error
    said = ctypes.create_string_buffer(_ERROR_SIZE)
    settings = library.rd_kafka_conf_new()
    library.rd_kafka_conf_set(settings, b"log_level", b"3", said, _ERROR_SIZE)
    handle = library.rd_kafka_new(0, settings, said, _ERROR_SIZE)
    if not handle:
        raise BrokerError(f"librdkafka does not start: {said.value.decode(errors='replace')}; {CURE}")
    try:
        cluster = library.rd_kafka_mock_cluster_new(handle, 1)
        if not cluster:
            raise BrokerError(f"librdkafka's mock cluster cannot listen on loopback; {CURE}")
        address = library.rd_kafka_mock_cluster_bootstraps(cluster).decode()
        try:
            with _kept_awake(address):
                # A group of one need not wait for others: its first message comes after 0.1 s, not 3 s.
                # Through the front the topic's metadata may come later than the member joins, who would
                # then be assigned nothing.
                delay_ms = _JOIN_MS if shared_group else 0 if port is None else _METADATA_MS
                library.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, delay_ms)
                if shared_group:
                    # The mock's group is up as soon as the leader has assigned the partitions; whoever
                    # asks for its own after that gets an InvalidRequestError. So the leader, who is the
                    # first to join, hears last that the group has formed: its answer is held back.
                    library.rd_kafka_mock_broker_push_request_error_rtts(
                        cluster, 1, _JOIN_GROUP, 1, 0, _LEADER_LAG_MS
                    )
                for topic in topics:
                    if code := library.rd_kafka_mock_topic_create(cluster, topic.encode(), partitions, 1):
                        raise BrokerError(f"librdkafka refuses the topic {topic!r} (error {code})")
                if port is not None:
                    library.rd_kafka_mock_broker_set_host_port(cluster, 1, b"localhost", port)
                    for request, newest in _NEWEST.items():
                        library.rd_kafka_mock_set_apiversion(cluster, request, 0, newest)

            def fail(request: int, errors: Sequence[int]) -> None:
                codes = (ctypes.c_int * len(errors))(*errors)
                library.rd_kafka_mock_push_request_errors_array(cluster, request, len(errors), codes)

            if port is None:
                yield Mock(address, fail)
            else:
                with _front(address, port):
                    yield Mock(f"localhost:{port}", fail)
        finally:
            with _kept_awake(address):
                library.rd_kafka_mock_cluster_destroy(cluster)
    finally:
        library.rd_kafka_destroy(handle)


@contextmanager
def _kept_awake(address: str) -> Iterator[None]:
    """What is asked of the mock is done by its own thread, which at times misses that it was asked.

    It then looks after a second; a connection makes it look at once (a start took 0.1 s, or 1.1, or 2.2).
    """
    host, _, port = address.rpartition(":")
    done = threading.Event()

    def connect() -> None:
        while not done.wait(_NUDGE_S):
            with suppress(OSError):
                socket.create_connection((host, int(port)), timeout=_NUDGE_S).close()

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def _front(address: str, port: int) -> Iterator[None]:
    """Serve at this port what is served at the address, where the mock picks a port of its own.

    kafka-python begins with an ApiVersions request newer than the mock knows, and cannot read how the mock
    refuses it. So that one is refused here, as Kafka does: in the oldest form, with the versions that are
    known.
    """
    host, _, inner_port = address.rpartition(":")

    class Connection(socketserver.StreamRequestHandler):
        disable_nagle_algorithm = True

        def handle(self) -> None:
            with suppress(OSError), socket.create_connection((host, int(inner_port))) as inner:
                inner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
                threading.Thread(target=self.answer, args=(inner,), daemon=True).start()
                while len(size := self.rfile.read(4)) == 4:
                    request = self.rfile.read(int.from_bytes(size))
                    key, version, number = struct.unpack_from(">hhi", request)
                    if key == _API_VERSIONS and version > _LAST_PLAIN_VERSION:
                        known = (1, _API_VERSIONS, 0, _LAST_PLAIN_VERSION)
                        refusal = struct.pack(">ihihhh", number, _UNSUPPORTED_VERSION, *known)
                        self.connection.sendall(struct.pack(">i", len(refusal)) + refusal)
                    else:
                        if key == _JOIN_GROUP and version <= _NEWEST[_JOIN_GROUP]:
                            request = _with_short_session(request)
                        inner.sendall(size + request)
                inner.shutdown(socket.SHUT_RDWR)

        def answer(self, inner: socket.socket) -> None:
            with suppress(OSError):
                while some := inner.recv(1 << 16):
                    self.connection.sendall(some)
                self.connection.shutdown(socket.SHUT_RDWR)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    try:
        server = Server(("127.0.0.1", port), Connection)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BrokerError(
            f"--port {port}: {reason}. Use what listens there, or name another, as in --port 19092"
        ) from error
    with server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()


def _with_short_session(join: bytes) -> bytes:
    """The request with a session of 6 s at most.

    The mock keeps a group closed for so long after its member left: 45 s with kafka-python's default.
    """
    at = 8
    for _ in ("client id", "group id"):
        at += 2 + max(int.from_bytes(join[at : at + 2], signed=True), 0)
    session = min(int.from_bytes(join[at : at + 4]), _SESSION_MS)
    return join[:at] + session.to_bytes(4) + join[at + 4 :]


def _librdkafka() -> ctypes.CDLL:
    spec = importlib.util.find_spec("confluent_kafka")
    if spec is None or spec.origin is None:
        raise BrokerError(f"the embedded Kafka is part of confluent-kafka, which is not installed; {CURE}")
    package = Path(spec.origin).parent
    places = [
        (package.parent / "confluent_kafka.libs", "librdkafka-*.so*"),
        (package / ".dylibs", "librdkafka*"),
    ]
    for folder, pattern in places:
        for path in sorted(folder.glob(pattern)):
            try:
                return ctypes.CDLL(str(path))
            except OSError as error:
                raise BrokerError(f"{path} does not load: {error}; {CURE}") from error
    looked = " and ".join(str(folder) for folder, _ in places)
    raise BrokerError(f"no librdkafka in {looked}: confluent-kafka was not installed from a wheel; {CURE}")


def _declare(library: ctypes.CDLL) -> None:
    # Without these ctypes takes every pointer for an int of 32 bits. The mock's part of the API is
    # experimental by its header, hence the pinned version in pyproject.toml.
    pointer, text, number, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t
    for name, result, arguments in (
        ("rd_kafka_conf_new", pointer, ()),
        ("rd_kafka_conf_set", number, (pointer, text, text, text, size)),
        ("rd_kafka_new", pointer, (number, pointer, text, size)),
        ("rd_kafka_destroy", None, (pointer,)),
        ("rd_kafka_mock_cluster_new", pointer, (pointer, number)),
        ("rd_kafka_mock_cluster_destroy", None, (pointer,)),
        ("rd_kafka_mock_cluster_bootstraps", text, (pointer,)),
        ("rd_kafka_mock_broker_set_host_port", number, (pointer, ctypes.c_int32, text, number)),
        ("rd_kafka_mock_set_apiversion", number, (pointer, ctypes.c_int16, ctypes.c_int16, ctypes.c_int16)),
        ("rd_kafka_mock_topic_create", number, (pointer, text, number, number)),
        ("rd_kafka_mock_group_initial_rebalance_delay_ms", None, (pointer, ctypes.c_int32)),
        (
            "rd_kafka_mock_push_request_errors_array",
            None,
            (pointer, ctypes.c_int16, size, ctypes.POINTER(ctypes.c_int)),
        ),
        (
            "rd_kafka_mock_broker_push_request_error_rtts",  # and, for each answer: error, delay in ms
            number,
            (pointer, ctypes.c_int32, ctypes.c_int16, size),
        ),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


def main() -> int:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m tracekit_demo.broker",
        description="A Kafka for one machine, in memory, until Ctrl-C or SIGTERM.",
    )
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help="topics to create")
    parser.add_argument("--partitions", type=int, default=_MOCK_PARTITIONS, help="of each topic (default: 4)")
    parser.add_argument(
        "--port",
        type=int,
        help="listen there, as in --port 9092 (default: any that is free; clients of kafka-python then need "
        f"api_version={API_VERSION})",
    )
    parser.add_argument(
        "--shared-group", action="store_true", help="let the first consumer group have several members"
    )
    parser.add_argument(
        "--until-stdin-closes",
        action="store_true",
        help="end with standard input too, for a program that starts it and may die",
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        with mock_cluster(
            arguments.topics, arguments.partitions, shared_group=arguments.shared_group, port=arguments.port
        ) as mock:
            address = mock.address
            print(address, flush=True)
            if arguments.until_stdin_closes:
                for line in sys.stdin:  # as `Broker.fail` writes them
                    request, *errors = map(int, line.split())
                    mock.fail(request, errors)
                    print("done", flush=True)
            else:
                version = "" if arguments.port else f", api_version={API_VERSION}"
                print(f'KafkaProducer(bootstrap_servers="{address}"{version})', flush=True)
                signal.pause()
    except BrokerError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _stop(number: int, frame: object) -> NoReturn:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
