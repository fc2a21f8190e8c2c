"""`python -m tracekit`: the command line, without its script."""

import sys

from tracekit.cli import main

code = main()
# Run by -m, Python ends by SIGINT where a Ctrl-C, though caught, had met code that was made from a text, as
# dataclasses and named tuples are. Any other such code makes it forget that.
eval("0")  # noqa: S307
sys.exit(code)
