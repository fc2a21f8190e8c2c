"""Transports: one file a client library, each found by its entry point."""
