"""The command line: which verb is meant, and errors in one line."""

import argparse
import contextlib
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import repsim
from repsim._common.alone import check_alone
from repsim._common.files import check_folder, remove_leftovers
from repsim._common.locks import alone
from repsim._common.messages import InternalError
from repsim._common.provenance import VERSION
from repsim.cli.streams import careful_streams, tell
from repsim.cli.verbs import EXAMPLES, VERBS, Verb, verb


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The words behind `repsim`; None takes those of this process.

    Returns:
        0; 2 after one line on standard error for a user's error, or where the results are written and could not be
        printed; 130 after Ctrl-C.
    """
    check_alone(Path(__file__).parents[1], ours=getattr(repsim, "__version__", "") == VERSION)
    words = list(sys.argv[1:] if argv is None else argv)
    with careful_streams() as streams:
        code = _run(words)
        return streams.end(code)


def _run(words: Sequence[str]) -> int:
    debug = "--debug" in words
    try:
        arguments = _parser(words).parse_args(words)
        warnings.showwarning = lambda text, *_, **__: tell(f"caution: {text}")
        chosen = verb(arguments.verb)
        with _silent(arguments.quiet or _as_json(arguments)), _target(arguments, chosen, words):
            chosen.run(arguments)
        if _as_json(arguments):
            print((arguments.out / "summary.json").read_text(encoding="utf-8"))
    except InternalError:  # ours to mend, so with everything that helps
        raise
    except (ValueError, TypeError, KeyError, OSError, MemoryError, RuntimeError) as error:
        if debug:
            traceback.print_exc()
        else:
            text = error.args[0] if isinstance(error, KeyError) and error.args else error
            line = " ".join(str(text).split())
            tell(line or f"repsim: ended by a {type(error).__name__} that gives no reason. Pass --debug to see where.")
        return 2
    except KeyboardInterrupt:
        tell("stopped; files already written are whole")
        return 130
    return 0


@contextlib.contextmanager
def _silent(silent: bool) -> Iterator[None]:
    """Inside, nothing is printed but errors and cautions, and no bar is shown."""
    if not silent:
        yield
        return
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        with open(os.devnull, "w", encoding="utf-8") as nothing, contextlib.redirect_stdout(nothing):
            yield
    finally:
        os.environ.pop("TQDM_DISABLE")
        if before is not None:
            os.environ["TQDM_DISABLE"] = before


def _as_json(arguments: argparse.Namespace) -> bool:
    return getattr(arguments, "json", False)


@contextlib.contextmanager
def _target(arguments: argparse.Namespace, chosen: Verb, words: Sequence[str]) -> Iterator[None]:
    """Holds what `--out` names for this run alone; nothing where nothing is written."""
    out = getattr(arguments, "out", None)
    if out is None or chosen.writes == "nothing" or getattr(arguments, "dry_run", False):
        if out is not None and chosen.writes == "folder":
            check_folder(out)
        yield
    elif chosen.writes == "folder":
        from repsim._common.run_folder import run_folder

        command = shlex.join(["repsim", *words])
        with run_folder(out, arguments.verb, command=command) as written:
            yield
            if chosen.page:
                _write_page(out, written, arguments.verb, command)
    else:
        with alone(out, arguments.verb):
            remove_leftovers(out.parent)
            yield


def _write_page(out: Path, written: Mapping[str, Path], verb: str, command: str) -> None:
    """The page of what a run has written; a run of hours does not fail for it."""
    from repsim.studies.report import write_page

    try:
        write_page(out, waiting=written, verb=verb, command=command)
    except (ValueError, TypeError, KeyError, ImportError) as error:
        tell(f"caution: {out / 'report.html'} was not written ({error}); repsim report {out} makes it anew")


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of all verbs; only the one that is meant has its options, as the others need not be imported."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show a traceback for errors")
    common.add_argument("--quiet", action="store_true", help="print nothing but errors and cautions")
    parser = argparse.ArgumentParser(prog="repsim", description="Do these two networks see the same thing?")
    parser.add_argument("--version", action="version", version=f"repsim {VERSION}")
    verbs = parser.add_subparsers(required=True, metavar="VERB", dest="verb")
    meant = next((word for word in words if not word.startswith("-")), None)
    for name, (_, text) in VERBS.items():
        examples = "\n".join(f"  {line}" for line in EXAMPLES[name])
        sub = verbs.add_parser(
            name,
            help=text,
            description=text,
            parents=[common],
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == meant:
            verb(name).add_arguments(sub)
    return parser


if __name__ == "__main__":
    sys.exit(main())
