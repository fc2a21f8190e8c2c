"""The delegating meter provider: instruments that follow when the target is switched.

Instruments are made once and kept by those who record, so each of them holds the way to make itself
again on the next target; callbacks of observable ones are registered there too.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Generic, TypeVar

from opentelemetry.metrics import (
    CallbackT,
    Counter,
    Histogram,
    Meter,
    MeterProvider,
    NoOpMeterProvider,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    UpDownCounter,
    _Gauge,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.context import Context
    from opentelemetry.util.types import Attributes

Made = TypeVar("Made")


class _Followed(Generic[Made]):
    """One instrument, made anew on each target."""

    __slots__ = ("__weakref__", "_make", "instrument")

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make = make
        self.instrument = make()

    def follow(self) -> None:
        self.instrument = self._make()


class _Counter(Counter):
    def __init__(self, followed: _Followed[Counter]) -> None:
        self._followed = followed

    def add(
        self, amount: float, attributes: Attributes | None = None, context: Context | None = None
    ) -> None:
        self._followed.instrument.add(amount, attributes, context)


class _UpDownCounter(UpDownCounter):
    def __init__(self, followed: _Followed[UpDownCounter]) -> None:
        self._followed = followed

    def add(
        self, amount: float, attributes: Attributes | None = None, context: Context | None = None
    ) -> None:
        self._followed.instrument.add(amount, attributes, context)


class _Histogram(Histogram):
    def __init__(self, followed: _Followed[Histogram]) -> None:
        self._followed = followed

    def record(
        self, amount: float, attributes: Attributes | None = None, context: Context | None = None
    ) -> None:
        self._followed.instrument.record(amount, attributes, context)


class _FollowedGauge(_Gauge):
    def __init__(self, followed: _Followed[_Gauge]) -> None:
        self._followed = followed

    def set(
        self, amount: float, attributes: Attributes | None = None, context: Context | None = None
    ) -> None:
        self._followed.instrument.set(amount, attributes, context)


class DelegatingMeter(Meter):
    """A meter of whatever provider is the target now."""

    def __init__(
        self,
        provider: DelegatingMeterProvider,
        name: str,
        version: str | None,
        schema_url: str | None,
        attributes: Attributes,
    ) -> None:
        super().__init__(name, version, schema_url)
        self._provider = provider
        self._attributes = attributes
        # Synchronous instruments live as long as those who record; observable ones, which nobody
        # holds, as long as the meter.
        self._followed: weakref.WeakSet[_Followed[object]] = weakref.WeakSet()
        self._observed: list[_Followed[object]] = []

    def _now(self) -> Meter:
        return self._provider.target.get_meter(self.name, self.version, self.schema_url, self._attributes)

    def follow(self) -> None:
        for followed in [*self._followed]:
            followed.follow()

    def _following(self, make: Callable[[Meter], Made]) -> _Followed[Made]:
        followed = _Followed(lambda: make(self._now()))
        self._followed.add(followed)  # type: ignore[arg-type]  # a set of all kinds
        return followed

    def _observing(self, make: Callable[[Meter], Made]) -> Made:
        followed = self._following(make)
        self._observed.append(followed)  # type: ignore[arg-type]  # a list of all kinds
        return followed.instrument

    def create_counter(self, name: str, unit: str = "", description: str = "") -> Counter:
        return _Counter(self._following(lambda meter: meter.create_counter(name, unit, description)))

    def create_up_down_counter(self, name: str, unit: str = "", description: str = "") -> UpDownCounter:
        return _UpDownCounter(
            self._following(lambda meter: meter.create_up_down_counter(name, unit, description))
        )

    def create_gauge(self, name: str, unit: str = "", description: str = "") -> _Gauge:
        return _FollowedGauge(self._following(lambda meter: meter.create_gauge(name, unit, description)))

    def create_histogram(
        self,
        name: str,
        unit: str = "",
        description: str = "",
        *,
        explicit_bucket_boundaries_advisory: Sequence[float] | None = None,
    ) -> Histogram:
        return _Histogram(
            self._following(
                lambda meter: meter.create_histogram(
                    name,
                    unit,
                    description,
                    explicit_bucket_boundaries_advisory=explicit_bucket_boundaries_advisory,
                )
            )
        )

    def create_observable_counter(
        self, name: str, callbacks: Sequence[CallbackT] | None = None, unit: str = "", description: str = ""
    ) -> ObservableCounter:
        return self._observing(lambda m: m.create_observable_counter(name, callbacks, unit, description))

    def create_observable_up_down_counter(
        self, name: str, callbacks: Sequence[CallbackT] | None = None, unit: str = "", description: str = ""
    ) -> ObservableUpDownCounter:
        return self._observing(
            lambda m: m.create_observable_up_down_counter(name, callbacks, unit, description)
        )

    def create_observable_gauge(
        self, name: str, callbacks: Sequence[CallbackT] | None = None, unit: str = "", description: str = ""
    ) -> ObservableGauge:
        return self._observing(lambda m: m.create_observable_gauge(name, callbacks, unit, description))


class DelegatingMeterProvider(MeterProvider):
    """The process's meter provider; `target` does the work."""

    def __init__(self) -> None:
        self._target: MeterProvider = NoOpMeterProvider()
        # By what they were asked for, as libraries ask anew for each instrument. Attributes by their
        # text: their values may be lists.
        self._meters: dict[tuple[str, str | None, str | None, str], DelegatingMeter] = {}

    @property
    def target(self) -> MeterProvider:
        return self._target

    @target.setter
    def target(self, target: MeterProvider) -> None:
        self._target = target
        for meter in [*self._meters.values()]:
            meter.follow()

    def get_meter(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> Meter:
        key = name, version, schema_url, repr(sorted((attributes or {}).items()))
        meter = self._meters.get(key)
        if meter is None:
            made = DelegatingMeter(self, name, version, schema_url, attributes)
            meter = self._meters.setdefault(key, made)
        return meter
