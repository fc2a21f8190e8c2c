"""`python -m tracekit.cli`: the command line, without its script."""

import sys

from tracekit.cli import main

sys.exit(main())
