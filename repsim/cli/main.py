"""The command line: which verb is meant, and errors in one line."""

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Sequence

from repsim._common.files import check_folder
from repsim._common.messages import InternalError
from repsim.cli.verbs import VERBS, verb


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns 0, or 2 after one line on standard error for a user's error."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser(words).parse_args(words)
    warnings.showwarning = lambda text, *_, **__: print(f"caution: {text}", file=sys.stderr)
    chosen = verb(arguments.verb)
    try:
        if getattr(arguments, "out", None) is not None and chosen.writes != "nothing":
            check_folder(arguments.out.parent if chosen.writes == "file" else arguments.out)
        chosen.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except InternalError:  # ours to mend, so with everything that helps
        raise
    except (ValueError, TypeError, KeyError, OSError, MemoryError, RuntimeError) as error:
        if arguments.debug:
            traceback.print_exc()
        else:
            text = error.args[0] if isinstance(error, KeyError) and error.args else error
            print(" ".join(str(text).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; files already written are whole", file=sys.stderr)
        return 130
    return 0


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of all verbs; only the one that is meant has its options, as the others need not be imported."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show a traceback for errors")
    parser = argparse.ArgumentParser(prog="repsim", description="Do these two networks see the same thing?")
    verbs = parser.add_subparsers(required=True, metavar="VERB", dest="verb")
    meant = next((word for word in words if not word.startswith("-")), None)
    for name, (_, text) in VERBS.items():
        sub = verbs.add_parser(name, help=text, description=text, parents=[common])
        if name == meant:
            verb(name).add_arguments(sub)
    return parser


if __name__ == "__main__":
    sys.exit(main())
