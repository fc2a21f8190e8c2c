"""Flows: spans of any origin in, the flow, its waits, its paths and its breaks out. Pure."""

from __future__ import annotations

from tracekit.flow.breaks import Break, BreakReason, Knowledge
from tracekit.flow.build import Flow, build_flow, build_flows
from tracekit.flow.critical_path import Path, Segment
from tracekit.flow.edges import MessageEdge
from tracekit.flow.labels import label
from tracekit.flow.render import render, render_line
from tracekit.flow.tree import Tree
from tracekit.flow.waits import Wait, WaitSource

__all__ = [
    "Break",
    "BreakReason",
    "Flow",
    "Knowledge",
    "MessageEdge",
    "Path",
    "Segment",
    "Tree",
    "Wait",
    "WaitSource",
    "build_flow",
    "build_flows",
    "label",
    "render",
    "render_line",
]
