"""`python -m repsim` is the command `repsim`."""

import sys

from repsim.cli.main import main

sys.exit(main())
