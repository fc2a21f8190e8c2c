"""A Docker engine of our own, the small images that stand in for public ones, and compose.yaml under them.

No image can be pulled here: each is a Debian with the program in it that the other tests run. The engine's
data are kept beside the programs. It has a network namespace of its own: bridges, rules and ports are there,
so it does nothing to this machine's network (nor to an engine that runs here), and no packet leaves it.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.integration.servers.packages import ensure, found
from tests.integration.servers.process import free_ports, running
from tests.integration.servers.programs import FOLDER, ROOT, ProgramError, made, run, variables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

IMAGES: Final = Path(__file__).parent / "images"
LEFT_OUT: Final = "grafana"
"""The service of compose.yaml that no registry of programs has."""
_PROJECT: Final = "tracekit-test"
_COMMANDS: Final = ("docker", "dockerd", "iptables", "ip", "debootstrap")
_CLONE_NEWNET: Final = 0x40000000
_INSIDE: Final[Mapping[str, tuple[str, ...]]] = {
    "kafka": ("kafka",),
    "collector": ("otelcol",),
    "jaeger": ("jaeger",),
    "prometheus": ("prometheus", "promtool"),
    "postgres": (),
    "python": ("wheels",),
}
"""Local images, and the programs in each: a name as Dockerfiles have it."""


class Engine:
    """An engine that runs. `environment` is what makes `docker` speak to it."""

    pid = 0

    def __init__(self, host: str) -> None:
        self.environment = {
            "DOCKER_HOST": host,
            "DOCKER_CONFIG": str(made("compose")),
            # Debian's has no BuildKit, and our Dockerfiles are to be fine without.
            "DOCKER_BUILDKIT": "0",
        }

    def docker(self, *arguments: str | Path) -> str:
        """What it prints. Raises ProgramError where it fails."""
        return run(["docker", *arguments], environment=self.environment)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Within the block, sockets of this thread are on the engine's side, whose loopback has the ports."""
        with (
            Path("/proc/thread-self/ns/net").open("rb") as ours,
            Path(f"/proc/{self.pid}/ns/net").open("rb") as its,
        ):
            _enter(its.fileno())
            try:
                yield
            finally:
                _enter(ours.fileno())

    def has(self, image: str) -> bool:
        """Whether it has an image of that name."""
        return bool(self.docker("images", "--quiet", image).strip())

    def build(self, image: str, dockerfile: Path, context: Path, *more: str) -> None:
        """Build it from what is in the context, and from nothing else."""
        self.docker(
            "build", "--quiet", "--network", "none", "--tag", image, "--file", dockerfile, *more, context
        )

    def local(self, name: str) -> str:
        """The local image that stands in for a public one; built where it is missing."""
        dockerfile = IMAGES / f"{name}.Dockerfile"
        inside = {each: _program(each) for each in _INSIDE[name]}
        scripts = sorted(IMAGES.glob(f"{name}.sh"))
        base = self._debian()
        key = hashlib.sha256(
            b"\0".join(
                [
                    base.encode(),
                    *(path.read_bytes() for path in (dockerfile, *scripts)),
                    *(str(path).encode() for path in inside.values()),
                ]
            )
        )
        image = f"tracekit-test/{name}:{key.hexdigest()[:12]}"
        if not self.has(image):
            with tempfile.TemporaryDirectory(dir=FOLDER, prefix=f"{name}-") as context:
                for into, path in inside.items():
                    if path.is_dir():
                        shutil.copytree(path, Path(context) / into, copy_function=os.link)
                    else:
                        (Path(context) / into).hardlink_to(path)
                for script in scripts:
                    shutil.copyfile(script, Path(context) / script.name)
                self.build(image, dockerfile, Path(context), "--build-arg", f"DEBIAN={base}")
        return image

    def _debian(self) -> str:
        archive = made("debian")
        image = f"tracekit-test/{archive.parent.name}:made"
        if not self.has(image):
            self.docker("import", archive, image)
        return image


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "the network namespace cannot be entered")


def _program(name: str) -> Path:
    return made("prometheus").with_name("promtool") if name == "promtool" else made(name)


@contextmanager
def engine() -> Iterator[Engine]:
    """An engine, for who is root; ended with the block. One at a time: its images are kept.

    Raises MissingError where it cannot be installed, ServerError with its log where it does not start.
    """
    ensure(_COMMANDS)
    if os.geteuid() != 0:
        raise ProgramError("a Docker engine takes root. The cure: run this as root")
    data = FOLDER / "docker"
    data.mkdir(parents=True, exist_ok=True)
    with (
        (FOLDER / "docker.lock").open("w") as lock,
        tempfile.TemporaryDirectory(prefix="tk-docker-") as temporary,  # a socket's path must be short
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = Path(temporary)
        host = f"unix://{folder}/docker.sock"
        command = [
            *("unshare", "--net", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"),
            found("dockerd") or "dockerd",
            f"--data-root={data}",
            f"--exec-root={folder / 'exec'}",
            f"--pidfile={folder / 'pid'}",
            f"--host={host}",
            "--bridge=none",  # only compose's own networks
        ]
        running_engine = Engine(host)

        def is_ready() -> bool:
            asked = ["docker", "info"]
            return not subprocess.run(
                asked, env={**os.environ, **running_engine.environment}, capture_output=True, check=False
            ).returncode

        with running("dockerd", command, folder, is_ready) as server:
            running_engine.pid = server.process.pid
            yield running_engine


class Compose:
    """compose.yaml, with local images in place of the public ones, and ports that nobody has."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self._file = folder / "images.env"
        names = [name for name in variables() if name.endswith("_PORT")]
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))

    def build(self) -> None:
        """All images that compose.yaml's default profile names, but Grafana's."""
        local = {name: self.engine.local(name) for name in _INSIDE}
        images = {f"{name.upper()}_IMAGE": image for name, image in local.items()}
        images["TRACEKIT_IMAGE"] = "tracekit-test/tracekit:made"
        written = {**variables(), **images, **{name: str(port) for name, port in self.ports.items()}}
        self._file.write_text("".join(f"{name}={value}\n" for name, value in written.items()))
        self.engine.build(
            images["TRACEKIT_IMAGE"],
            ROOT / "Dockerfile",
            ROOT,
            *("--target", "tracekit", "--build-arg", f"PYTHON_IMAGE={local['python']}"),
        )
        # Those of earlier code; younger ones save the next build half a minute.
        self.engine.docker("image", "prune", "--force", "--filter", "until=48h")

    def __call__(self, *arguments: str) -> str:
        """What `docker compose` prints. Raises ProgramError where it fails."""
        options = [
            "--project-directory",
            str(ROOT),
            "--env-file",
            str(self._file),
            "--project-name",
            _PROJECT,
        ]
        return self.engine.docker("compose", *options, *arguments)

    def services(self) -> Sequence[str]:
        """The services of the default profile that can be had."""
        return sorted({*self("config", "--services").split()} - {LEFT_OUT})

    @contextmanager
    def up(self) -> Iterator[None]:
        """All of them healthy within the block; nothing is left of them afterwards."""
        self.down()  # what a killed run has left
        try:
            try:
                self("up", "--detach", "--no-build", "--wait", "--wait-timeout", "300", *self.services())
            except ProgramError as error:
                said = self("ps", "--all"), self("logs", "--tail", "15", "--no-color")
                raise ProgramError("\n".join([str(error), *said])) from None
            yield
        finally:
            self.down()

    def down(self) -> None:
        """Away with them, and with what they kept."""
        self("down", "--volumes", "--remove-orphans", "--timeout", "10")


def config(*profiles: str) -> str:
    """compose.yaml as it is run, as JSON, under `.env`. Raises ProgramError where it is not valid."""
    chosen = [part for profile in profiles for part in ("--profile", profile)]
    return run(
        ["docker", "compose", "--project-directory", ROOT, *chosen, "config", "--format", "json"],
        environment={"DOCKER_CONFIG": str(made("compose"))},
    )
