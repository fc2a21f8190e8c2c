"""Process: a server until the end of a block; the demo's, for its servers are started the same way."""

from tracekit_demo.servers.process import Server, ServerError, answers, fetched, free_ports, listens, running

__all__ = ["Server", "ServerError", "answers", "fetched", "free_ports", "listens", "running"]
