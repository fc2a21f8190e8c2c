"""Redis, as the demo starts it."""

from tracekit_demo.servers.redis import Redis, redis

__all__ = ["Redis", "redis"]
