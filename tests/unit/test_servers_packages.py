"""Packages of the real tests: root has what is missing installed, anybody else is told the cure."""

from __future__ import annotations

import pytest

from tests.integration.servers import packages


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What apt-get is asked for: nothing is there but itself, and it does what it is asked for."""
    asked: list[tuple[str, ...]] = []

    def apt(*arguments: str) -> str:
        asked.append(arguments)
        return ""

    monkeypatch.setattr(packages, "_apt", apt)
    monkeypatch.setattr(packages, "_refresh", lambda: apt("update"))
    monkeypatch.setattr(packages, "found", {"apt-get": "/usr/bin/apt-get"}.get)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return asked


def test_what_is_there_is_not_asked_for(ran: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "found", lambda command: f"/usr/bin/{command}")

    packages.ensure(packages.PACKAGES)

    assert ran == []


def test_root_has_what_is_missing_installed_each_package_once(ran: list[tuple[str, ...]]) -> None:
    packages.ensure(["docker", "dockerd", "ip"])

    assert ran == [
        ("update",),
        ("install", "--yes", "--no-install-recommends", "docker.io", "iproute2"),
    ]


def test_who_is_not_root_is_told_the_cure(
    ran: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    with pytest.raises(packages.MissingError, match=r"as root, apt-get install docker\.io iproute2"):
        packages.ensure(["dockerd", "ip"])

    assert ran == []


def test_without_apt_get_the_packages_are_named(
    ran: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "found", lambda _: None)

    with pytest.raises(packages.MissingError, match="not installed: maven, and there is no apt-get"):
        packages.ensure(["mvn"])

    assert ran == []


def test_what_apt_get_says_is_told_where_it_fails(
    ran: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "_apt", lambda *_: "E: Unable to locate package maven")

    with pytest.raises(packages.MissingError, match="Unable to locate package maven"):
        packages.ensure(["mvn"])

    assert ran == [("update",)]
