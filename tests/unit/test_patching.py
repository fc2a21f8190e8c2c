"""Wrapping what somebody else has wrapped before us."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import wrapt

from tracekit.patching import Function, Names, Patches, when_imported

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class Client:
    name = "billing"

    def send(self, topic: str, value: str = "", headers: object = None) -> str:
        return f"{self.name} {topic} {value} {headers}"


def _passing(function: Function) -> Function:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


def test_a_wrapper_of_wrapt_still_learns_its_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    def theirs(wrapped: Function, instance: Any, args: Any, kwargs: Any) -> Any:
        return f"{instance.name}: {wrapped(*args, **kwargs)}"

    before = wrapt.FunctionWrapper(vars(Client)["send"], theirs)
    monkeypatch.setattr(Client, "send", before)
    patches = Patches()
    patches.wrap(f"{__name__}:Client.send", _passing)
    assert Client().send("orders", headers=1) == "billing: billing orders  1"
    patches.undo()
    assert vars(Client)["send"] is before


def test_a_call_goes_back_in_the_form_in_which_it_came() -> None:
    names = Names(Client.send)
    args, kwargs = ("client", "orders"), {"value": "paid"}
    call = names.bind(args, kwargs)
    assert call is not None
    stamped = {**call, "headers": []}
    assert names.unbind(stamped, len(args)) == (args, {"value": "paid", "headers": []})


def test_a_positional_argument_of_ours_goes_back_in_its_place() -> None:
    names = Names(Client.send)
    args = ("client", "orders", "paid", None)
    call = names.bind(args, {})
    assert call is not None
    assert names.unbind({**call, "headers": []}, len(args)) == ((*args[:3], []), {})


def test_what_waits_for_an_import_can_be_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "late_library.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    done: list[str] = []
    when_imported("late_library", lambda: done.append("first"))
    forget = when_imported("late_library", lambda: done.append("taken back"))
    when_imported("late_library", lambda: done.append("last"))

    forget()
    forget()
    importlib.import_module("late_library")
    when_imported("late_library", lambda: done.append("at once"))

    assert done == ["first", "last", "at once"]


def test_configuring_again_and_again_leaves_no_import_hooks() -> None:
    program = """
import tracekit, wrapt
def hooks():
    return sum(map(len, wrapt.importer._post_import_hooks.values()))
def cycle():
    tracekit.configure("orders", quiet=True).undo()
cycle()
once = hooks()
for _ in range(20):
    cycle()
print(once > 0, hooks() == once)
"""
    variables = {
        **os.environ,
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
    }

    done = subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=False
    )

    assert (done.stdout, done.stderr) == ("True True\n", "")
