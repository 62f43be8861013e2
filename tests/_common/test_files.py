"""Files are written whole or not at all."""

import hashlib
import os
import stat
from pathlib import Path

import pytest

from repsim._common.files import sha256_of, whole_file, write_text
from tests.conftest import exactly


def write_half(path: Path, error: BaseException) -> None:
    """Begins to write, and fails."""
    with whole_file(path) as temporary:
        temporary.write_text("half of the n")
        raise error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_written_file_holds_what_was_written_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a.npz") as temporary:
        temporary.write_bytes(b"new")
        assert not (tmp_path / "a.npz").exists()  # only the end of the block puts it there
    assert (tmp_path / "a.npz").read_bytes() == b"new"
    assert names(tmp_path) == ["a.npz"]


def test_the_temporary_file_stands_in_the_same_folder_under_the_same_suffix(tmp_path: Path) -> None:
    with whole_file(tmp_path / "picture.v1.svg") as temporary:
        assert temporary.parent == tmp_path  # a rename between file systems would copy, and could stop halfway
        assert temporary.suffix == ".svg"  # writers read the format from it
        temporary.write_bytes(b"x")


def test_folders_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "folders" / "a.txt", "text")
    assert (tmp_path / "new" / "folders" / "a.txt").read_text() == "text"


def test_text_is_utf8_whatever_the_locale(tmp_path: Path) -> None:
    write_text(str(tmp_path / "a.txt"), "λ = 1")
    assert (tmp_path / "a.txt").read_bytes() == "λ = 1".encode()


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), MemoryError()])
def test_a_failed_block_leaves_the_old_file_and_its_own_error(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(type(error)) as raised:
        write_half(target, error)
    assert raised.value is error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    text = (
        f"save: {target} could not be written (No space left on device); nothing was changed. "
        "Free some space or choose another place."
    )
    with pytest.raises(OSError, match=exactly(text)):
        write_half(target, OSError(28, "No space left on device"))
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    target = tmp_path / "file" / "a.txt"
    text = (
        f"save: {target} could not be written (File exists); nothing was changed. "
        "Free some space or choose another place."
    )
    with pytest.raises(OSError, match=exactly(text)):
        write_text(target, "text")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_folder_at_the_target_is_one_line_and_stays(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.mkdir()
    text = (
        f"save: {target} could not be written (Is a directory); nothing was changed. "
        "Free some space or choose another place."
    )
    with pytest.raises(OSError, match=exactly(text)):
        write_text(target, "text")
    assert names(tmp_path) == ["a.txt"]
    assert target.is_dir()


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_other_users_may_read_what_the_umask_lets_them(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a.txt", "text")
        assert os.umask(mask) == mask  # asking for the mask must not change it
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_the_digest_is_sha256_of_all_bytes(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "a").write_bytes(content[:size])
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content[:size]).hexdigest()
