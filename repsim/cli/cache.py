"""`repsim cache`: shows what is kept of decoded images, and clears it."""

import argparse
from pathlib import Path

from repsim.cli.verbs import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `repsim cache` takes to its parser."""
    parser.add_argument("--root", type=Path, help="as for other verbs; default: the user's cache folder")
    parser.add_argument(
        "--clear", action="store_true", help="remove the decoded images; they are made again when needed"
    )


def run(arguments: argparse.Namespace) -> None:
    """Prints where decoded images are kept and how large they are; with --clear they are removed first."""
    from repsim._common.files import remove_leftovers
    from repsim.data.decoded_cache import cache_files, cache_folder

    folder = cache_folder(arguments.root)
    files = cache_files(folder)
    size = sum(file.stat().st_size for file in files)
    if arguments.clear:
        for file in files:
            file.unlink(missing_ok=True)
        remove_leftovers(folder)
    done = "removed from" if arguments.clear else "in"
    print(f"{len(files)} sets of decoded images, {size / 2**20:.1f} MiB, {done} {folder}")


CACHE = Verb(add_arguments, run, "nothing")
