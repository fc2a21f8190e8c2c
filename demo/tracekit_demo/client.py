"""The shop's customer: posts an order as any client would that is part of a trace of its own."""

from __future__ import annotations

import http.client
import json
import secrets
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tracekit_demo.scenarios import Scenario

_TIMEOUT_S: Final = 15.0


def place(port: int, scenario: Scenario, *, host: str = "127.0.0.1") -> tuple[str, int]:
    """Place the order; gives the id of its flow, which is that of the client's trace, and the status.

    Raises OSError or http.client.HTTPException where nobody answers.
    """
    flow_id = secrets.token_hex(16)
    headers = {
        "content-type": "application/json",
        "traceparent": f"00-{flow_id}-{secrets.token_hex(8)}-01",
    }
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("POST", "/orders", json.dumps(scenario.order), headers)
        response = connection.getresponse()
        response.read()
        return flow_id, response.status
    finally:
        connection.close()
