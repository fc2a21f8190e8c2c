"""The real programs, each started on free loopback ports, and ended, by who uses it.

`python -m tests.integration.servers` makes what is missing: once, outside of the tree (`programs.FOLDER`).
"""
