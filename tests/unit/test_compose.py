"""compose.yaml: what it may take of a machine, what it opens, and that `.env` says what is in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
TEXT: Final = (ROOT / "compose.yaml").read_text()
COMPOSE: Final[dict[str, Any]] = yaml.safe_load(TEXT)
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
ENV: Final = (ROOT / ".env").read_text()
VARIABLES: Final = dict(re.findall(r"^([A-Z_]+)=(.*)$", ENV, re.MULTILINE))
MIB: Final = 1 << 20


def limit(service: dict[str, Any]) -> int:
    """Its limit of memory, in bytes."""
    found = re.fullmatch(r"(\d+)m", service["mem_limit"])
    assert found
    return int(found[1]) * MIB


def test_the_limits_of_memory_add_up_to_under_two_and_a_half_gib() -> None:
    assert sum(limit(service) for service in SERVICES.values() if "profiles" not in service) < 2560 * MIB


def test_the_tour_adds_a_gib_at_most() -> None:
    assert sum(limit(service) for service in SERVICES.values() if "profiles" in service) <= 1024 * MIB


def test_what_is_published_is_on_loopback() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]

    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_each_service_has_a_check_but_those_that_cannot() -> None:
    # The Collector's image has nothing that could ask it; the customers are waited for by nobody, and the
    # topics until they are done.
    assert {name for name, service in SERVICES.items() if "healthcheck" not in service} == {
        "collector",
        "customers",
        "topics",
    }


def test_who_waits_for_another_waits_until_it_is_well_where_that_can_be_known() -> None:
    conditions = {
        (name, awaited): how["condition"]
        for name, service in SERVICES.items()
        for awaited, how in service.get("depends_on", {}).items()
    }

    unknown = {"collector": "service_started", "topics": "service_completed_successfully"}
    assert conditions == {
        **{(name, awaited): unknown.get(awaited, "service_healthy") for name, awaited in conditions},
        ("topics", "tracekit"): "service_started",  # it waits for the image alone
    }


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_a_variable_and_a_fall_is_got_up_from(name: str) -> None:
    assert re.fullmatch(r"\$\{[A-Z]+_IMAGE\}", SERVICES[name]["image"])
    assert SERVICES[name]["restart"] == "on-failure"


def test_env_has_the_variables_that_compose_takes_and_no_others() -> None:
    taken = set(re.findall(r"\$\{([A-Z_]+)\}", TEXT))

    assert taken == {name for name in VARIABLES if not name.endswith("_TESTED")}


def test_env_says_of_each_image_what_tests_ran() -> None:
    images = {name.removesuffix("_IMAGE") for name in VARIABLES if name.endswith("_IMAGE")}

    assert {f"{name}_TESTED" for name in images - {"TRACEKIT"}} <= set(VARIABLES)


def test_env_says_why_where_the_image_is_not_what_tests_ran() -> None:
    unexplained = [
        name
        for part in ENV.split("\n\n")[1:]
        for name, image in re.findall(r"^([A-Z]+)_IMAGE=(.*)$", part, re.MULTILINE)
        if VARIABLES.get(f"{name}_TESTED", image) not in image and not part.startswith("#")
    ]

    assert unexplained == []


def test_prometheus_is_started_with_what_its_configuration_asks_for() -> None:
    asked = re.findall(r"^#   (--\S+)", (ROOT / "prometheus" / "prometheus.yaml").read_text(), re.MULTILINE)

    assert asked
    assert set(asked) <= set(SERVICES["prometheus"]["command"])
