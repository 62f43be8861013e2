"""How much room there is: the machine's, and what limits on the process and on its control groups leave."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from repsim.numerics import memory
from repsim.numerics.memory import available_memory, check_memory
from tests.conftest import exactly

Groups = Callable[[str, dict[str, str]], None]


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Groups:
    """Writes what a system says of control groups."""

    def write(own: str, files: dict[str, str]) -> None:
        (tmp_path / "cgroup").write_text(own)
        for name, text in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.setattr(memory, "_PROCESS_GROUPS", str(tmp_path / "cgroup"))
        monkeypatch.setattr(memory, "_GROUPS", str(tmp_path / "groups"))

    monkeypatch.setattr(memory, "_free_in_the_machine", lambda: 2**40)
    return write


def test_version_2(groups: Groups) -> None:
    given = {
        "a/b/memory.max": "1000\n",
        "a/b/memory.current": "700\n",
        "a/b/memory.stat": "anon 5\ninactive_file 200\n",
    }
    groups("0::/a/b\n", given)
    assert available_memory() == 500
    groups("0::/a/b\n", {"a/memory.max": "900", "a/memory.current": "600", "a/memory.stat": "", "memory.max": "max"})
    assert available_memory() == 300  # the group around it is narrower
    groups("0::/a/b\n", {"a/memory.max": "max", "a/b/memory.max": "max"})
    assert available_memory() == 2**40


def test_version_1(groups: Groups) -> None:
    files = {"memory/x/memory.limit_in_bytes": "1000", "memory/x/memory.usage_in_bytes": "400"}
    groups("4:cpu,memory:/x\n0::/\n", {**files, "memory/x/memory.stat": "cache 9\ntotal_inactive_file 100\n"})
    assert available_memory() == 700
    groups("4:memory:/x\n", {"memory/x/memory.limit_in_bytes": "9223372036854771712"})
    assert available_memory() == 2**40


def test_a_container_sees_its_own_group_at_the_root(groups: Groups) -> None:
    files = {"memory/memory.limit_in_bytes": "1000", "memory/memory.usage_in_bytes": "1100", "memory/memory.stat": ""}
    groups("4:memory:/docker/0123\n", files)
    assert available_memory() == 0


def test_what_cannot_be_read_is_no_limit(groups: Groups) -> None:
    groups("damaged\n0::/a\n", {"a/memory.max": "no number"})
    assert available_memory() == 2**40


def test_a_limit_on_the_address_space_counts() -> None:
    code = "from repsim.numerics.memory import available_memory; print(available_memory())"
    limit = 3 * 2**30
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert 0 < int(done.stdout) < limit - 100 * 2**20  # less what torch itself takes


def test_what_would_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 2**30)
    check_memory("f", 2**30, "things", "Take fewer")
    text = "f: things must fit into memory; got 2.0 GiB with 1.0 GiB free. Take fewer."
    with pytest.raises(MemoryError, match=exactly(text)):
        check_memory("f", 2**31, "things", "Take fewer")
