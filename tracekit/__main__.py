"""`python -m tracekit`: the command line, without its script."""

import sys

from tracekit.cli import main

sys.exit(main())
