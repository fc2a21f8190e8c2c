"""Install the packages and make the programs that are missing, and say what that takes."""

from __future__ import annotations

import argparse
import sys
import time

from tests.integration.servers.packages import PACKAGES, MissingError, ensure
from tests.integration.servers.programs import PROGRAMS, ProgramError, made


def main() -> int:
    """The exit code: 1 where one cannot be had."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.integration.servers",
        description=f"{__doc__} All of them by default: 25 minutes on two cores, once.",
    )
    parser.add_argument("name", nargs="*", help=f"{', '.join(PROGRAMS)}; all by default")
    chosen = parser.parse_args().name
    names = chosen or [*PROGRAMS]
    if unknown := {*names} - {*PROGRAMS}:
        parser.error(f"no program is called {', '.join(sorted(unknown))}; there are {', '.join(PROGRAMS)}")
    try:
        ensure(() if chosen else PACKAGES)
    except MissingError as error:
        print(f"packages: {error}", file=sys.stderr)
        return 1
    for name in names:
        began = time.monotonic()

        def say(what: str, name: str = name) -> None:
            print(f"{name} {PROGRAMS[name].version}: {what}", flush=True)

        try:
            path = made(name, say)
        except ProgramError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        took = time.monotonic() - began
        say(f"{path}" + (f", made in {took:.0f} s" if took > 1 else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
