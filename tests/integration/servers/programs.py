"""Programs: the real ones, made from the package registries, once, and kept outside of the tree.

Their versions stand in `.env`, beside those of the images that compose.yaml runs.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.integration.servers.packages import PACKAGES, MissingError, ensure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT: Final = Path(__file__).parents[3]
FOLDER: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tracekit" / "programs"
BUILDER: Final = ROOT / "collector-config" / "builder.yaml"
LOCK: Final = ROOT / "requirements.lock"
PUBSUB: Final = ROOT / "demo" / "pubsub"
DEBIAN_PACKAGES: Final = (
    "openjdk-17-jre-headless",
    "postgresql-15",
    "python3",
    "python3-pip",
    "python3-venv",
    "wget",
)
"""What is in the Debian that local images are built on."""
_TAIL: Final = 20


class ProgramError(RuntimeError):
    """A program cannot be had; says why, and what to do."""


def variables() -> Mapping[str, str]:
    """The variables of `.env`."""
    rows = (ROOT / ".env").read_text().splitlines()
    pairs = (row.partition("=") for row in rows if row and not row.startswith("#"))
    return {name: value for name, _, value in pairs}


@dataclass(frozen=True, slots=True)
class Program:
    """A program: `make` puts it into an empty folder; `key` is what it was made from, beside the version."""

    name: str
    version: str
    needs: Mapping[str, str]
    """Commands that making it takes, and how to come by those that are no Debian packages (see there)."""
    make: Callable[[Path, str], None]
    file: str = ""
    """Of the folder, what is run; empty for the folder itself."""
    key: bytes = b""

    @property
    def path(self) -> Path:
        """Where it is once it is made."""
        key = f"-{hashlib.sha256(self.key).hexdigest()[:8]}" if self.key else ""
        return FOLDER / f"{self.name}-{self.version}{key}" / self.file


def made(name: str, say: Callable[[str], None] = lambda _: None) -> Path:
    """The path of a program, which is made where it is missing. Raises ProgramError."""
    try:
        return _made(PROGRAMS[name], say)
    except OSError as error:
        raise ProgramError(
            f"nothing can be kept in {FOLDER}: {error}. "
            "The cure: set XDG_CACHE_HOME to a folder that can be written, or make room there"
        ) from error


def _made(program: Program, say: Callable[[str], None]) -> Path:
    if program.path.exists():
        return program.path
    try:
        ensure(command for command in program.needs if command in PACKAGES)
    except MissingError as error:
        raise ProgramError(str(error)) from error
    for command, cure in program.needs.items():
        if command not in PACKAGES and shutil.which(command) is None:
            raise ProgramError(f"making it takes `{command}`, which is not on PATH. The cure: {cure}")
    folder = program.path.parent if program.file else program.path
    with _alone(say):
        if program.path.exists():
            return program.path
        say("being made; this takes minutes, once")
        with tempfile.TemporaryDirectory(dir=FOLDER, prefix=f"{program.name}-") as temporary:
            work = Path(temporary) / "made"
            work.mkdir()
            program.make(work, program.version)
            work.replace(folder)
    return program.path


@contextmanager
def _alone(say: Callable[[str], None]) -> Iterator[None]:
    """Two that make the same at once would take twice as long."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("somebody else makes programs; waiting for that")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(
    command: Sequence[str | Path], *, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """What a command prints. Raises ProgramError where it fails."""
    if shutil.which(command[0]) is None:
        raise ProgramError(f"`{command[0]}` is not on PATH. The cure: install it")
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-_TAIL:])
        raise ProgramError(f"`{' '.join(map(str, command))}` failed ({done.returncode}):\n{said}")
    return done.stdout


def _collector(folder: Path, version: str) -> None:
    """Only the components that the configurations use, by the Collector's own builder."""
    builder = f"go.opentelemetry.io/collector/cmd/builder@v{version}"
    run(["go", "install", builder], environment={"GOBIN": str(folder)})
    with tempfile.TemporaryDirectory() as sources:  # where its `output_path` leads to
        run([folder / "builder", "--config", BUILDER], cwd=Path(sources))
        shutil.move(f"{sources}/build/otelcol", folder / "otelcol")


def _jaeger(folder: Path, version: str) -> None:
    _go_built(
        f"github.com/jaegertracing/jaeger@{_JAEGER_MODULES[version]}", "./cmd/jaeger", folder / "jaeger"
    )


def _go_built(module: str, command: str, into: Path) -> None:
    """In a copy of its module, with its own sums: `go install` refuses replace and exclude directives."""
    found = json.loads(run(["go", "mod", "download", "-json", module]))["Dir"]
    with tempfile.TemporaryDirectory() as temporary:
        sources = Path(temporary) / "sources"
        shutil.copytree(found, sources, copy_function=shutil.copyfile)
        for path in [sources, *sources.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)  # the module cache is for reading
        run(["go", "build", "-o", into, command], cwd=sources)


_JAEGER_MODULES: Final = {"2.13.0": "v1.76.0"}
"""The module's version of each release: the registry holds none under 2."""


def _prometheus(folder: Path, version: str) -> None:
    _, minor, patch = version.split(".")
    for command in ("prometheus", "promtool"):
        module = f"github.com/prometheus/prometheus/cmd/{command}@v0.3{minor}.{patch}"
        run(["go", "install", module], environment={"GOBIN": str(folder)})


_KAFKA_POM: Final = """\
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>tests</groupId><artifactId>kafka</artifactId><version>1</version><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{}</version></dependency>
<dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-core</artifactId><version>2.25.3</version></dependency>
<dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.3</version></dependency>
</dependencies></project>
"""


def _kafka(folder: Path, version: str) -> None:
    (folder / "pom.xml").write_text(_KAFKA_POM.format(version))
    run(["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=."], cwd=folder)


def _compose(folder: Path, version: str) -> None:
    """A plugin of `docker`: `folder` is the configuration that finds it (DOCKER_CONFIG)."""
    plugins = folder / "cli-plugins"
    plugins.mkdir()
    _go_built(f"github.com/docker/compose/v2@v{version}", "./cmd", plugins / "docker-compose")


def _pubsub(folder: Path, _: str) -> None:
    run(["go", "build", "-o", folder / "pubsub", "."], cwd=PUBSUB, environment={"CGO_ENABLED": "0"})


def _wheels(folder: Path, version: str) -> None:
    """All that the lock names, as Dockerfile takes it: for the Python of its image, not for ours."""
    pip = [sys.executable, "-m", "pip"]
    if importlib.util.find_spec("pip") is None:
        pip = ["uv", "tool", "run", "--python", sys.executable, "pip"]
    options = ["--quiet", "--require-hashes", "--only-binary", ":all:", "--python-version", version]
    run([*pip, "download", *options, "--requirement", LOCK, "--dest", folder])


def _debian(folder: Path, version: str) -> None:
    """A Debian as an archive, with what local images run. Its mounts end with it, however it ends."""
    if os.geteuid() != 0:
        raise ProgramError("debootstrap takes root. The cure: run this as root")
    root = folder / "root"
    options = ["--variant=minbase", f"--include={','.join(DEBIAN_PACKAGES)}"]
    run(["unshare", "--mount", "debootstrap", *options, version, root])
    run(
        [
            "tar",
            "--directory",
            root,
            "--exclude=./var/cache/apt/archives/*",
            "--create",
            "--file",
            folder / "debian.tar",
            ".",
        ]
    )
    shutil.rmtree(root)


_GO: Final = {"go": "install Go 1.25 or newer (https://go.dev/dl)"}
_VARIABLES: Final = variables()
PROGRAMS: Final = {
    program.name: program
    for program in (
        Program(
            "kafka",
            _VARIABLES["KAFKA_TESTED"],
            {"java": "", "mvn": ""},
            _kafka,
            key=_KAFKA_POM.encode(),
        ),
        Program(
            "otelcol", _VARIABLES["COLLECTOR_TESTED"], _GO, _collector, "otelcol", key=BUILDER.read_bytes()
        ),
        Program("jaeger", _VARIABLES["JAEGER_TESTED"], _GO, _jaeger, "jaeger"),
        Program("prometheus", _VARIABLES["PROMETHEUS_TESTED"], _GO, _prometheus, "prometheus"),
        Program("compose", _VARIABLES["COMPOSE_TESTED"], _GO, _compose),
        Program(
            "debian",
            "bookworm",
            {"debootstrap": ""},
            _debian,
            "debian.tar",
            key=" ".join(DEBIAN_PACKAGES).encode(),
        ),
        Program("wheels", _VARIABLES["PYTHON_TESTED"], {}, _wheels, key=LOCK.read_bytes()),
        Program(
            "pubsub",
            _VARIABLES["PUBSUB_TESTED"],
            _GO,
            _pubsub,
            "pubsub",
            key=b"".join((PUBSUB / name).read_bytes() for name in ("main.go", "go.sum")),
        ),
    )
}
