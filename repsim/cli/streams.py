"""What is printed: on every terminal, and never at the cost of the results."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import IO, Any


class Careful:
    """A stream whose failures do not end a run: the first is kept, and what is printed after it is dropped.

    Args:
        stream: Standard output or standard error; None where it was closed before the process began.
    """

    def __init__(self, stream: "IO[str] | None") -> None:
        self._stream = stream
        self.failure: OSError | ValueError | None = None

    def write(self, text: str) -> int:
        """Prints a text, with "?" for what the terminal has no sign for."""
        return self._tried(lambda stream: stream.write(_in_its_signs(text, stream)), len(text))

    def flush(self) -> None:
        """Hands on what is not printed yet."""
        self._tried(lambda stream: stream.flush(), 0)

    def _tried(self, use: Any, otherwise: int) -> int:
        if self._stream is None or self.failure is not None:
            return otherwise
        try:
            return use(self._stream) or otherwise
        except (OSError, ValueError) as error:  # full, gone, or closed
            self.failure = error
            return otherwise

    def __getattr__(self, name: str) -> Any:
        if self._stream is None:
            return getattr(sys.__stdout__ or open(os.devnull, "w"), name)
        return getattr(self._stream, name)


class Streams:
    """Both streams of a run.

    Args:
        out: Standard output.
        err: Standard error.
    """

    def __init__(self, out: Careful, err: Careful) -> None:
        self._out, self._err = out, err

    def end(self, code: int) -> int:
        """The exit code after all is printed: 2 where something could not be, unless its reader has left."""
        self._out.flush()
        self._err.flush()
        failure = self._out.failure
        if failure is None:
            return code
        with contextlib.suppress(OSError, ValueError, AttributeError):  # or Python fails once more at its own end
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())
        if isinstance(failure, BrokenPipeError):  # the reader, `head` say, has seen enough
            return code
        reason = getattr(failure, "strerror", None) or str(failure)
        tell(f"repsim: standard output could not be written ({reason}); files that were written are whole.")
        return code or 2


@contextlib.contextmanager
def careful_streams() -> Iterator[Streams]:
    """Inside, `print` cannot fail."""
    before = sys.stdout, sys.stderr
    out, err = Careful(sys.stdout), Careful(sys.stderr)
    sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
    try:
        yield Streams(out, err)
    finally:
        sys.stdout, sys.stderr = before


def tell(text: str) -> None:
    """A line on standard error."""
    print(text, file=sys.stderr)


def _in_its_signs(text: str, stream: "IO[str]") -> str:
    encoding = getattr(stream, "encoding", None)
    if not encoding:
        return text
    return text.encode(encoding, "replace").decode(encoding)
