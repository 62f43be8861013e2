"""One run, one folder; one process, one target; no leftovers."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from repsim._common import files
from repsim._common.files import remove_leftovers, temporary_prefix, whole_file, write_text
from repsim._common.locks import alone
from repsim._common.run_folder import LIST, run_folder
from tests.conftest import exactly


def run(folder: Path, *names: str) -> None:
    with run_folder(folder, "compare"):
        for name in names:
            write_text(folder / name, name)


def listed(folder: Path) -> dict[str, object]:
    return json.loads((folder / LIST).read_text())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_list_is_there_first_and_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists: list[dict[str, object]] = []

    def seen(written: dict[Path, Path]) -> None:
        put_in_place(written)
        if any(path.name == LIST for path in written):
            lists.append({**listed(tmp_path / "out"), "there": names(tmp_path / "out")})

    put_in_place = files.put_in_place
    monkeypatch.setattr("repsim._common.files.put_in_place", seen)
    run(tmp_path / "out", "a", "b")
    first, last = lists
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in "ab"}
    assert (first["verb"], first["finished"], first["files"]) == ("compare", False, {"a": None, "b": None})
    assert {"a", "b"}.isdisjoint(first["there"])  # type: ignore[arg-type]
    assert (last["id"], last["finished"], last["files"]) == (first["id"], True, digests)


def test_files_come_to_their_place_together(tmp_path: Path) -> None:
    with run_folder(tmp_path, "compare"):
        write_text(tmp_path / "a", "1")
        assert not (tmp_path / "a").exists()
        write_text(tmp_path / "a", "2")
    assert (tmp_path / "a").read_text() == "2"
    assert names(tmp_path) == ["a", LIST]


def test_an_earlier_run_is_replaced_as_a_whole(tmp_path: Path) -> None:
    run(tmp_path, "a", "b", "c")
    (tmp_path / "mine.txt").write_text("the user's own")
    (tmp_path / "networks").mkdir()
    write_text(tmp_path / "networks" / "x", "stays")
    run(tmp_path, "b", "d")
    assert names(tmp_path) == ["b", "d", "mine.txt", "networks", LIST]
    assert names(tmp_path / "networks") == ["x"]


def stopped(folder: Path, *names: str) -> None:
    with run_folder(folder, "compare"):
        for name in names:
            write_text(folder / name, "new")
        raise KeyboardInterrupt


def test_a_run_that_fails_leaves_an_earlier_one_as_it_was(tmp_path: Path) -> None:
    run(tmp_path, "a", "b")
    before = {name: (tmp_path / name).read_text() for name in names(tmp_path)}
    with pytest.raises(KeyboardInterrupt):
        stopped(tmp_path, "b", "c")
    assert {name: (tmp_path / name).read_text() for name in names(tmp_path)} == before


def test_what_a_first_run_has_done_is_kept_when_it_fails_and_replaced_by_the_next(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        stopped(tmp_path, "b")
    assert names(tmp_path) == ["b", LIST]
    assert not listed(tmp_path)["finished"]
    run(tmp_path, "c")
    assert names(tmp_path) == ["c", LIST]


@pytest.mark.parametrize("at", range(1, 9))
def test_a_run_that_is_killed_while_it_replaces_another_leaves_no_mixture(at: int, tmp_path: Path) -> None:
    run(tmp_path, "a", "b")
    old = {name: (tmp_path / name).read_text() for name in "ab"}
    code = (
        "import os, sys, pathlib\n"
        "from repsim._common.files import write_text\n"
        "from repsim._common.run_folder import run_folder\n"
        f"folder, left = pathlib.Path({str(tmp_path)!r}), [{at}]\n"
        "def kill(event, arguments):\n"
        "    if event in ('os.rename', 'os.remove'):\n"
        "        left[0] -= 1\n"
        "        if not left[0]: os.kill(os.getpid(), 9)\n"
        "with run_folder(folder, 'compare'):\n"
        "    for name in 'bc': write_text(folder / name, 'new ' + name)\n"
        "    sys.addaudithook(kill)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    there = {name: (tmp_path / name).read_text() for name in "abc" if (tmp_path / name).exists()}
    new = {"b": "new b", "c": "new c"}
    assert there.items() <= old.items() or there.items() <= new.items()
    run(tmp_path, "d")
    assert names(tmp_path) == ["d", LIST]


def test_adversarial_images_are_kept_for_later_runs(tmp_path: Path) -> None:
    kept = "pgd-20 net linf_0.1-0123abcd.npz"
    run(tmp_path, kept, "a")
    run(tmp_path, "b")
    assert names(tmp_path) == ["b", kept, LIST]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"files": ["../x"]}', '{"files": ["a/b"]}', '{"files": [3]}', '{"files": [".."]}']
)
def test_a_list_that_is_none_is_refused_and_nothing_is_removed(text: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "x").write_text("elsewhere")
    (tmp_path / "out" / LIST).write_text(text)
    message = (
        f"repsim: --out of compare must be a folder of its own; got {tmp_path / 'out' / LIST} that is damaged. "
        "Choose another folder, or empty this one."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        run(tmp_path / "out", "a")
    assert (tmp_path / "x").exists()


def test_a_run_without_a_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    message = (
        f"repsim: --out of compare must be a folder of its own; got {tmp_path} with summary.json of a run without a "
        "list of its files. Choose another folder, or empty this one."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        run(tmp_path, "a")


# --- One process for one target -------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [True, False])
def test_a_second_process_is_refused(folder: bool, tmp_path: Path) -> None:
    target = tmp_path / "new" / "out"
    code = (
        "import sys, pathlib; from repsim._common.locks import alone\n"
        f"with alone(pathlib.Path({str(target)!r}), 'train', folder={folder}):\n"
        "    print('inside', flush=True); sys.stdin.read()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout is not None
        assert other.stdout.readline() == "inside\n"
        message = (
            f"train: one run must write to a target at a time; got another one that writes to {target} now. "
            "Wait for it, or choose another --out."
        )
        with pytest.raises(ValueError, match=exactly(message)), alone(target, "train", folder=folder):
            pass
        other.kill()
    with alone(target, "train", folder=folder):
        pass
    assert not any(
        "lock" in name for name in names(tmp_path) + (names(target.parent) if target.parent.exists() else [])
    )


def test_two_files_of_one_folder_are_two_targets(tmp_path: Path) -> None:
    with alone(tmp_path / "a", "train"), alone(tmp_path / "b", "train"):
        pass
    assert names(tmp_path) == []


# --- Leftovers ------------------------------------------------------------------------------------------------


def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_what_a_killed_process_left_is_removed_by_the_next_write(tmp_path: Path) -> None:
    own, dead = temporary_prefix(), temporary_prefix().replace(f"-{os.getpid()}-", f"-{dead_process()}-")
    for name in (f"{own}1.npz", f"{dead}2.npz", ".repsim-other-12-3.npz", ".repsim-", ".mine"):
        (tmp_path / name).write_text("x")
    (tmp_path / f"{dead}folder").mkdir()
    (tmp_path / f"{dead}folder" / "inside").write_text("x")
    write_text(tmp_path / "a", "text")
    assert names(tmp_path) == sorted([f"{own}1.npz", ".repsim-other-12-3.npz", ".repsim-", ".mine", "a"])


def test_what_is_old_is_removed_wherever_its_process_was(tmp_path: Path) -> None:
    old = tmp_path / ".repsim-other-12-3.npz"
    old.write_text("x")
    long_ago = time.time() - 25 * 3600
    os.utime(old, (long_ago, long_ago))
    remove_leftovers(tmp_path)
    assert names(tmp_path) == []


def test_another_users_leftovers_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / temporary_prefix().replace(f"-{os.getpid()}-", f"-{dead_process()}-")).write_text("x")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    remove_leftovers(tmp_path)
    assert len(names(tmp_path)) == 1


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("flush"), fsync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda a, b: (done.append("rename"), replace(a, b))[1])
    write_text(tmp_path / "a", "text")
    assert done == ["flush", "rename", "flush"]


def test_threads_that_write_leave_the_mask_of_the_process(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        threads = [
            threading.Thread(target=lambda k=k: [write_text(tmp_path / f"{k}-{i}", "x") for i in range(8)])
            for k in range(4)
        ]
        [t.start() for t in threads]
        [t.join() for t in threads]
        modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    finally:
        assert os.umask(before) == 0o027
    assert modes == {0o640}


def test_long_names_are_written(tmp_path: Path) -> None:
    with whole_file(tmp_path / ("x" * 240 + ".npz")) as temporary:
        assert temporary.suffix == ".npz"
        temporary.write_text("x")
    assert names(tmp_path) == ["x" * 240 + ".npz"]
