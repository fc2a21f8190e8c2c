"""Servers that messages go through, each started on free loopback ports, and ended, by who uses it."""
