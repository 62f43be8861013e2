"""The command line: one file for each verb, `main` reads which one is meant."""

from repsim.cli.main import main

__all__ = ["main"]
