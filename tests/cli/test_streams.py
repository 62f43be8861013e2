"""What is printed, on every terminal and without one: results are written, errors are one line."""

import io
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from repsim.cli.main import main
from tests.support.commands import PGD, STANDARD

COMPARE = ["compare", STANDARD, PGD, "--data", "digits", "--limit", "30", "--layers", "layer3.0", "--metric", "cka"]


def run(words: list[str], *, shell: str = "", **environment: str) -> "subprocess.CompletedProcess[bytes]":
    """A command in a process of its own; `shell` is what stands behind it."""
    line = shlex.join([sys.executable, "-m", "repsim", *words])
    env = {**os.environ, **environment}
    return subprocess.run(["sh", "-c", f"{line} {shell}"], capture_output=True, env=env, check=False, timeout=300)


def broken_pipe() -> IO[str]:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", buffering=1)


def full() -> IO[str]:
    return open("/dev/full", "w", buffering=1)


STREAMS: dict[str, Callable[[], Any]] = {
    "closed": lambda: None,
    "full": full,
    "broken pipe": broken_pipe,
    "ascii": lambda: io.TextIOWrapper(io.BytesIO(), encoding="ascii"),
    "latin-1": lambda: io.TextIOWrapper(io.BytesIO(), encoding="latin-1"),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_results_are_written_wherever_the_text_goes(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = STREAMS[kind]()
    monkeypatch.setattr(sys, "stdout", stream)
    code = main([*COMPARE, "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "summary.json").exists()
    assert (tmp_path / "out" / "cka.npz").exists()
    assert code == (2 if kind == "full" else 0)
    line = (
        "repsim: standard output could not be written (No space left on device); files that were written are whole.\n"
    )
    assert capsys.readouterr().err == (line if kind == "full" else "")
    if kind in ("ascii", "latin-1"):
        stream.flush()
        printed = stream.buffer.getvalue().decode(kind)
        assert f"written to {tmp_path / 'out'}" in printed
        assert "1 ? 1" in printed if kind == "ascii" else "1 × 1" in printed


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_errors_are_told_on_every_terminal(encoding: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["compare", "λ×", PGD, "--data", "digits", "--out", str(tmp_path / "x")]) == 2
    stream.flush()
    lines = stream.buffer.getvalue().decode(encoding).splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 1
    assert lines[0].startswith("load_model: the architecture must be known; got '?")


def test_without_standard_error_nothing_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["heatmap", "nothing.npz"]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize("shell", [">&-", ">&- 2>&-", "> /dev/full", "| head -c 1"])
def test_a_process_of_its_own_ends_as_it_should(shell: str, tmp_path: Path) -> None:
    done = run([*COMPARE, "--out", str(tmp_path / "out")], shell=shell, PYTHONUNBUFFERED="1")
    assert (tmp_path / "out" / "summary.json").exists()
    assert done.returncode == (2 if "full" in shell else 0)
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("error", [ValueError(), MemoryError(), OSError(), KeyError(), RuntimeError("")])
def test_no_line_of_an_error_is_empty(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("repsim.cli.inspect.print_table", fail)
    assert main(["metrics"]) == 2
    line = f"repsim: ended by a {type(error).__name__} that gives no reason. Pass --debug to see where.\n"
    assert capsys.readouterr().err == line


def test_ctrl_c_is_one_line_from_the_first_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["repsim.cli.main"], "verb", interrupted)
    assert main(["metrics"]) == 130
    assert capsys.readouterr().err == "stopped; files already written are whole\n"


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.15, 0.4, 0.8])
def test_ctrl_c_in_the_first_second_is_one_line(after: float, tmp_path: Path) -> None:
    code = (
        "import sys; from repsim.cli.main import main; print('ready', flush=True); "
        f"sys.exit(main({[*COMPARE, '--out', str(tmp_path / 'out')]!r}))"
    )
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); " + code
    )  # ignored in background jobs
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=120)[1]
    assert (process.returncode, err) in [(130, b"stopped; files already written are whole\n"), (0, b"")]
