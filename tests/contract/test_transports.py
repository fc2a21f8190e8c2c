"""Every transport passes the one contract. A new broker is a rig, and a row here."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.contract.rigs.kafka_python import KafkaPythonRig
from tests.contract.rigs.pubsub import PubSubRig
from tracekit.testing import Rig, TransportContract

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.brokers import Kafka


class TestKafkaPython(TransportContract):
    @pytest.fixture
    def rig(self, kafka: Kafka) -> Rig:
        return KafkaPythonRig(kafka)


@pytest.mark.server
class TestPubSub(TransportContract):
    @pytest.fixture
    def rig(self, pubsub_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub_server)
        with closing(PubSubRig()) as rig:
            yield rig
