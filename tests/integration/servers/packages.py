"""Packages: commands that come from Debian, installed where they are missing and we may."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PACKAGES: Final[Mapping[str, str]] = {
    "activemq": "activemq",
    "debootstrap": "debootstrap",
    "docker": "docker.io",
    "dockerd": "docker.io",
    "ip": "iproute2",
    "iptables": "iptables",
    "java": "openjdk-17-jre-headless",
    "mvn": "maven",
    "nats-server": "nats-server",
    "openssl": "openssl",
    "rabbitmq-server": "rabbitmq-server",
    "redis-server": "redis-server",
}
"""Commands, and the package that each comes with."""

_SYSTEM: Final = "/usr/local/sbin:/usr/sbin:/sbin"
_TAIL: Final = 5


class MissingError(RuntimeError):
    """A command cannot be had; says why, and what to do."""


def found(command: str) -> str | None:
    """The path of a command, also where only root's PATH has it."""
    return shutil.which(command, path=f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM}")


def ensure(commands: Iterable[str]) -> None:
    """Return once all are there. Raises MissingError."""
    missing = sorted({PACKAGES[command] for command in commands if found(command) is None})
    if not missing:
        return
    names = " ".join(missing)
    cure = f"The cure: as root, apt-get install {names}"
    if found("apt-get") is None:
        raise MissingError(f"not installed: {names}, and there is no apt-get here. Install what gives them")
    if os.geteuid() != 0:
        raise MissingError(f"not installed: {names}, and we are not root. {cure}")
    _refresh()
    if said := _apt("install", "--yes", "--no-install-recommends", *missing):
        raise MissingError(f"{names} cannot be installed. {cure}. It says:\n{said}")


@functools.cache
def _refresh() -> None:
    _apt("update")  # where that fails, an older list may do


def _apt(*arguments: str) -> str:
    """What it says where it fails, else nothing."""
    done = subprocess.run(
        ["apt-get", "-q", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return "\n".join((done.stdout + done.stderr).splitlines()[-_TAIL:]) if done.returncode else ""
