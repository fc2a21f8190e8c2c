"""ActiveMQ, as the demo starts it."""

from tracekit_demo.servers.activemq import ActiveMQ, activemq

__all__ = ["ActiveMQ", "activemq"]
