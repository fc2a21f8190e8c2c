"""Trust: which routes context is taken from, which hosts it is given to, and what cannot be meant."""

from __future__ import annotations

import pytest

from tracekit.tracing.trust import TRUST_ALL, Trust, is_pattern


@pytest.mark.parametrize(
    ("path", "taken"),
    [
        ("/orders", True),
        ("/webhooks", False),
        ("/webhooks/", False),
        ("/webhooks/stripe", False),
        ("/webhooks/own/billing", True),
        ("/webhooksomething", True),
        ("/callback", False),
        ("/callback/more", True),
        ("", True),
    ],
)
def test_the_longest_pattern_that_fits_says_whether_a_route_is_trusted(path: str, taken: bool) -> None:
    trust = Trust.of({"/webhooks/*": "none", "/webhooks/own/*": "internal", "/callback": "none"})

    assert trust.takes(path) is taken


def test_a_star_alone_means_every_route() -> None:
    trust = Trust.of({"/*": "none", "/internal/*": "internal"})

    assert (trust.takes("/"), trust.takes("/orders"), trust.takes("/internal/x")) == (False, False, True)


@pytest.mark.parametrize(
    ("host", "given"),
    [
        ("orders", True),
        ("api.partner.example", False),
        ("API.Partner.Example.", False),
        ("evil-api.partner.example", True),
        ("x.other.example", False),
        ("our.other.example", True),
        ("other.example", True),
        ("::1", False),
    ],
)
def test_the_longest_pattern_that_fits_says_whether_a_host_is_trusted(host: str, given: bool) -> None:
    trust = Trust.of(
        {
            "api.partner.example": "none",
            "*.other.example": "none",
            "our.other.example": "internal",
            "[::1]": "none",
        }
    )

    assert trust.gives(host) is given


def test_by_default_everybody_is_trusted() -> None:
    assert (TRUST_ALL.takes("/webhooks/x"), TRUST_ALL.gives("api.partner.example")) == (True, True)
    assert Trust.of({}) == TRUST_ALL


@pytest.mark.parametrize(
    ("pattern", "can_be_meant"),
    [
        ("/", True),
        ("/*", True),
        ("/webhooks/*", True),
        ("/web*hooks", False),
        ("/web*", False),
        ("*", True),
        ("*.Partner.example", True),
        ("[::1]", True),
        ("https://api.partner.example", False),
        ("api.partner.example:443", False),
        ("a b", False),
        ("", False),
        (7, False),
    ],
)
def test_a_pattern_is_a_route_or_a_host(pattern: object, can_be_meant: bool) -> None:
    assert is_pattern(pattern) is can_be_meant
