"""Every transport passes the one contract. A new broker is a rig, and a row here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.rigs.kafka_python import KafkaPythonRig
from tracekit.testing import Rig, TransportContract

if TYPE_CHECKING:
    from tests.brokers import Kafka


class TestKafkaPython(TransportContract):
    @pytest.fixture
    def rig(self, kafka: Kafka) -> Rig:
        return KafkaPythonRig(kafka)
