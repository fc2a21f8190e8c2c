"""The contract of transports has teeth: what a transport can get wrong fails the claim about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from kafka.errors import MessageSizeTooLargeError

from tests.contract.rigs.kafka_python import KafkaPythonRig
from tracekit.testing import Rig, TransportContract
from tracekit.transports import kafka_python
from tracekit.transports.kafka_python import KafkaPython

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.brokers import Kafka

    Claim = Callable[[TransportContract, Rig], None]
    Faults = dict[str, tuple[Claim, type[Exception], dict[tuple[object, str], Any]]]

_stamp = KafkaPython.stamp


def into_the_callers_list(self: KafkaPython, call: Any, headers: Any) -> Any:
    stamped: Any = _stamp(self, call, headers)
    if call.get("headers") is not None:
        call["headers"][:] = stamped["headers"]
    return stamped


def without_the_callers_own(self: KafkaPython, call: Any, headers: Any) -> Any:
    own = {name for name, _ in call.get("headers") or ()}
    return _stamp(self, call, [[pair for pair in headers[0] if pair[0] not in own]])


def beside_those_that_are_there(self: KafkaPython, call: Any, headers: Any) -> Any:
    stamped: Any = _stamp(self, call, headers)
    return {**stamped, "headers": (call.get("headers") or []) + stamped["headers"]}


FAULTS: Faults = {
    "our headers go into the caller's list": (
        TransportContract.test_the_callers_objects_are_unchanged,
        AssertionError,
        {(KafkaPython, "stamp"): into_the_callers_list},
    ),
    "the caller's headers are left out": (
        TransportContract.test_the_callers_objects_are_unchanged,
        AssertionError,
        {(KafkaPython, "stamp"): without_the_callers_own},
    ),
    "nothing is put on the message": (
        TransportContract.test_the_callers_objects_are_unchanged,
        AssertionError,
        {(KafkaPython, "stamp"): lambda self, call, headers: call},
    ),
    "context is put beside the one that is there": (
        TransportContract.test_one_that_we_wrote_is_replaced,
        AssertionError,
        {(KafkaPython, "stamp"): beside_those_that_are_there},
    ),
    "nobody looks for room": (
        TransportContract.test_a_full_message_is_still_sent,
        MessageSizeTooLargeError,
        {
            (kafka_python, "_room"): lambda config, call: None,
            (KafkaPython, "is_oversized"): lambda self, error: False,
        },
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_transport_is_found_out_where(fault: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    claim, error, faulty = FAULTS[fault]
    for (owner, name), function in faulty.items():
        monkeypatch.setattr(owner, name, function)

    with pytest.raises(error):
        claim(TransportContract(), KafkaPythonRig(kafka))
