"""Texts from files: which column is what, and a digest that knows texts and order."""

from pathlib import Path

import pytest

from repsim import load_data
from repsim.data.text_set import TextSet, read_texts
from tests.conftest import exactly


def written(text: str, path: Path) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_by_their_usual_names(tmp_path: Path) -> None:
    data = read_texts(written('Sentence,extra,LABEL\n"a, b",9,pos\nc,9,neg\nd,9,\n', tmp_path / "x.csv"))
    assert data.texts == ("a, b", "c", "d")
    assert data.labels.tolist() == [1, 0, -1]
    assert (data.classes, data.ids, data.name) == (("neg", "pos"), ("0", "1", "2"), "text:x.csv")
    assert repr(data) == "TextSet('text:x.csv', 3 texts, 2 classes)"
    assert read_texts(written("text,label\na,10\nb,2\n", tmp_path / "y.csv")).labels.tolist() == [10, 2]


def test_a_part_keeps_classes_in_proportion(tmp_path: Path) -> None:
    path = written("text,label\n" + "".join(f"t{i},{i % 2}\n" for i in range(40)), tmp_path / "x.csv")
    data = load_data(f"text:{path}", limit=10)
    assert len(data) == 10
    assert data.labels.sum() == 5
    assert all(data.texts[k] == f"t{data.ids[k]}" for k in range(10))


def test_digests_know_texts_names_and_order(tmp_path: Path) -> None:
    one = read_texts(written("text\na\nbc\n", tmp_path / "x.csv"))
    digests = {one.digest} | {
        TextSet(texts, one.labels, ids, "x").digest
        for texts, ids in ((("bc", "a"), ("0", "1")), (("ab", "c"), ("0", "1")), (("a", "bc"), ("1", "0")))
    }
    assert len(digests) == 4


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "text,label\n", ""])
def test_files_without_texts(content: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\Aload_data: a file of texts must have a column text; got "):
        read_texts(written(content, tmp_path / "x.csv"))
    text = f"load_data: the file of texts must exist; got {tmp_path / 'y.csv'}. Check the path."
    with pytest.raises(FileNotFoundError, match=exactly(text)):
        read_texts(tmp_path / "y.csv")
