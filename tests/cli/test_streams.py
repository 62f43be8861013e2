"""What is printed, on every terminal and without one: results are written, errors are one line."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from repsim.cli.main import main
from tests.support.commands import PGD, STANDARD

COMPARE = ["compare", STANDARD, PGD, "--data", "digits", "--limit", "30", "--layers", "layer3.0", "--metric", "cka"]


def run(words: list[str], *, shell: str = "", **environment: str) -> "subprocess.CompletedProcess[bytes]":
    """A command in a process of its own; `shell` is what stands behind it."""
    import shlex

    line = shlex.join([sys.executable, "-m", "repsim", *words])
    env = {**os.environ, **environment}
    return subprocess.run(["sh", "-c", f"{line} {shell}"], capture_output=True, env=env, check=False, timeout=300)


@pytest.mark.parametrize("shell", [">&-", ">&- 2>&-", "> /dev/full", "| head -c 1"])
def test_results_are_written_wherever_the_text_goes(shell: str, tmp_path: Path) -> None:
    done = run([*COMPARE, "--out", str(tmp_path / "out")], shell=shell, PYTHONUNBUFFERED="1")
    assert (tmp_path / "out" / "summary.json").exists()
    assert (tmp_path / "out" / "cka.npz").exists()
    if shell == "> /dev/full":
        assert done.returncode == 2
        assert done.stderr.decode().splitlines()[-1] == (
            "repsim: standard output could not be written (No space left on device); files that were written are whole."
        )
    else:
        assert (done.returncode, b"Traceback" in done.stderr, b"Error" in done.stderr) == (0, False, False)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_our_signs(encoding: str, tmp_path: Path) -> None:
    done = run([*COMPARE, "--out", str(tmp_path / "out")], PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"written to" in done.stdout
    wrong = run(["compare", "λ×", PGD, "--data", "digits", "--out", str(tmp_path / "x")], PYTHONIOENCODING=encoding)
    assert wrong.returncode == 2
    assert len(wrong.stderr.splitlines()) == 1


class Silent(Exception):
    pass


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


@pytest.mark.parametrize("after", [0.15, 0.4, 0.8])
def test_ctrl_c_in_the_first_second_is_one_line(after: float, tmp_path: Path) -> None:
    code = (
        "import sys, repsim.cli.main as m; print('ready', flush=True); "
        f"sys.exit(m.main({[*COMPARE, '--out', str(tmp_path / 'out')]!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=120)[1]
    assert (process.returncode, err) in [(130, b"stopped; files already written are whole\n"), (0, b"")]
