"""Pieces of work done by several processes at once, which end when their parent does."""

import collections
import multiprocessing
import pickle
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from repsim._common.files import remove_leftovers, temporary_prefix

#: What the folder is called first that holds the work of all processes.
_MARK = "repsim-work-"

#: Does piece `number` in process `place` and says how far it is: (number, place, report).
Work = Callable[[int, int, Callable[[int], None]], None]


def share_out(
    work: Work, count: int, *, processes: int, report: Callable[[int, int], None], failed: Callable[[int, str], None]
) -> None:
    """Does pieces 0 … count−1 of a work in processes of their own.

    A piece that fails leaves the others alone. When this call ends, by Ctrl-C too, the processes end with it; those
    whose parent was killed end at their next report.

    Args:
        work: What is done; it must be picklable. Each process reads its own copy from a temporary file.
        count: How many pieces there are; each process takes the next one.
        processes: How many at once.
        report: Called with (number, progress) as a piece reports.
        failed: Called with (number, reason) of a piece that raised an error or whose process ended.
    """
    context = multiprocessing.get_context("spawn")
    waiting = collections.deque(range(count))
    busy: dict[Any, tuple[BaseProcess, int]] = {}  # by the parent's end of the pipe

    def give(pipe: Any, process: BaseProcess) -> None:
        if waiting:
            busy[pipe] = process, waiting.popleft()
            pipe.send(busy[pipe][1])
        else:
            pipe.close()
            del busy[pipe]

    started: list[BaseProcess] = []
    remove_leftovers(tempfile.gettempdir(), _MARK)
    with tempfile.TemporaryDirectory(prefix=temporary_prefix(_MARK)) as folder:
        file = Path(folder) / "work.pickle"
        file.write_bytes(pickle.dumps(work))
        try:
            with _interrupts_ignored():
                for place in range(min(processes, count)):
                    ours, theirs = context.Pipe()
                    process = context.Process(target=_serve, args=(theirs, str(file), place), daemon=True)
                    process.start()
                    theirs.close()
                    started.append(process)
                    busy[ours] = process, waiting.popleft()
                    ours.send(busy[ours][1])
            while busy:
                for pipe in wait(list(busy)):
                    process, number = busy[pipe]
                    try:
                        news = pipe.recv()  # type: ignore[union-attr]
                    except (EOFError, ConnectionError):
                        process.join()
                        failed(number, f"its process ended with code {process.exitcode}")
                        del busy[pipe]
                        continue
                    if isinstance(news, int):
                        report(number, news)
                        continue
                    if news:
                        failed(number, news)
                    give(pipe, process)
            for number in waiting:
                failed(number, "no process was left for it")
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.join(10)
                process.kill()


def one_line(error: BaseException) -> str:
    """An error as a line without the stop that ends it."""
    text = " ".join(str(error).split()).removesuffix(".")
    ours = isinstance(error, ValueError | TypeError | RuntimeError | OSError) and ": " in text
    return text if ours else f"{type(error).__name__}: {text}"


def _serve(pipe: Connection, file: str, place: int) -> None:
    """A process: takes numbers until there are no more; sends progress (int), then why a piece failed, or ""."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporary files are removed
    try:
        work: Work = pickle.loads(Path(file).read_bytes())
        while True:
            number = pipe.recv()
            try:
                work(number, place, pipe.send)
                reason = ""
            except Exception as error:
                reason = one_line(error)
            pipe.send(reason)
    except (EOFError, ConnectionError):
        return  # no more work, or the parent is gone


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started inside never see Ctrl-C, which the terminal sends to all of them: their parent ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
