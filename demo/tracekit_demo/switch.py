"""Switches the faults of the demo that runs, from another terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tracekit_demo.home import FAULTS, Home, default_folder

if TYPE_CHECKING:
    from pathlib import Path


def switch(name: str | None, *, on: bool, data: Path | None = None) -> int:
    """Switch this fault of the demo that has this home, or list all; gives the exit code."""
    home = Home(data or default_folder())
    named = f" --data {data}" if data else ""
    if not home.is_held():
        other = "" if data else ", or name the directory of yours: --data FOLDER"
        print(
            f"tracekit demo: no demo runs in {home.folder}. Start one in another terminal: "
            f"tracekit demo{named}{other}",
            file=sys.stderr,
        )
        return 1
    if name is None:
        for each, what in FAULTS.items():
            print(f"{each:<16}{'on ' if each in home.faults_on() else 'off'}  {what}")
        return 0
    home.switch(name, on=on)
    cure = f"It ends with the demo, or by: tracekit demo fault {name} off{named}"
    print(f"{name} is on: {FAULTS[name]}. {cure}" if on else f"{name} is off")
    return 0
