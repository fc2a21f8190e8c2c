"""A program that forks inside an active span; its child leaves the block too, and works on."""

import os
import sys

from opentelemetry import trace

import tracekit

handle = tracekit.configure("forking", quiet=True)
tracer = trace.get_tracer("program")

with tracer.start_as_current_span("parent"):
    child = os.fork()
    with tracer.start_as_current_span("in the child" if child == 0 else "in the parent"):
        pass

if child == 0:
    with tracer.start_as_current_span("after the block"):
        pass
    handle.flush()
    os._exit(0)

os.waitpid(child, 0)
sys.exit(0 if handle.flush() else 1)
