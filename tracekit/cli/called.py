"""Called: how tracekit was called here, so that what it says to type can be typed."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def us() -> str:
    """The command as it was called: `tracekit` alone where that is what the shell finds."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py" and called.parent.name == "tracekit":
        return f"{shlex.quote(sys.orig_argv[0])} -m tracekit"
    found = shutil.which("tracekit")
    if called.name != "tracekit" or not called.exists() or (found and called.samefile(found)):
        return "tracekit"
    return shlex.quote(str(called))
