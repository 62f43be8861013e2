"""`python -m repsim` is the command `repsim`."""

import sys

from repsim.cli import main

sys.exit(main())
