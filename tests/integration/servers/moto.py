"""SQS and SNS by moto, as the demo starts them."""

from tracekit_demo.servers.moto import Moto, moto

__all__ = ["Moto", "moto"]
