"""The orders that the demo places: in which mode, how each ends, and what its caller is answered."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from random import Random

Mode: TypeAlias = Literal["sync", "async", "hybrid"]
Ending: TypeAlias = Literal["accepted", "declined", "malformed", "crashed"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)
ENDINGS: Final[tuple[Ending, ...]] = get_args(Ending)

_CARDS: Final[Mapping[Ending, str]] = {
    "accepted": "4242424242424242",
    "declined": "4000000000000002",
    "malformed": "4242",
    "crashed": "4000000000000119",
}
_ANSWERS: Final[Mapping[Ending, int]] = {"accepted": 201, "declined": 402, "malformed": 422, "crashed": 500}
_GOODS: Final = ("lamp", "chair", "desk", "shelf", "rug")
_ROUND: Final[tuple[Ending, ...]] = ("declined", "accepted", "crashed", "accepted", "malformed", "accepted")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One order: its content decides how it ends (see `tracekit_demo.shop`)."""

    mode: Mode
    ending: Ending = "accepted"
    sku: str = "lamp"
    quantity: int = 1

    @property
    def order(self) -> dict[str, str | int]:
        """What is posted to `/orders`."""
        card = _CARDS[self.ending]
        return {"mode": self.mode, "sku": self.sku, "quantity": self.quantity, "card": card}

    @property
    def answer(self) -> int:
        """The status that the caller gets; by events the bad news comes after the answer."""
        if self.mode == "async" or (self.mode == "hybrid" and self.ending == "accepted"):
            return 202
        return _ANSWERS[self.ending]


def stream(chance: Random) -> Iterator[Scenario]:
    """Orders without end: all modes in turn, first a plain one of each, then all endings in turn."""
    for mode in MODES:
        yield Scenario(mode)
    for ending in itertools.cycle(_ROUND):
        for mode in MODES:
            yield Scenario(mode, ending, chance.choice(_GOODS), chance.randint(1, 4))
