"""`TextSet`: texts with labels and names, in a fixed order."""

import csv
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from repsim._common.messages import message, some
from repsim.data.image_set import stratified_rows

#: Columns that hold texts, labels and names, the usual names first.
_TEXTS = ("text", "sentence", "review", "content", "question")
_LABELS = ("label", "labels", "class", "target", "sentiment", "category")
_IDS = ("id", "idx", "index")


@dataclass(frozen=True, eq=False)
class TextSet:
    """Texts in a fixed order.

    Attributes:
        texts: n texts.
        labels: (n,) int64 class indices; -1 where there is none.
        ids: n different names.
        name: What results call the set.
        classes: The class names, where they are known.
    """

    texts: tuple[str, ...]
    labels: Int[Tensor, " n"]
    ids: tuple[str, ...]
    name: str
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.texts)
        if not n or len(self.labels) != n or len(self.ids) != n or len(set(self.ids)) != n:
            got = f"{n} texts, {len(self.labels)} labels, {len(set(self.ids))} different ids"
            raise ValueError(message("TextSet", "every text must have a label and an id", got, "Align them"))

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"TextSet({self.name!r}, {len(self):,} texts, {len(self.classes)} classes)"

    @property
    def digest(self) -> str:
        """Of the names and texts, in order; the same whatever tokenizer reads them."""
        digest = hashlib.sha256()
        for name, text in zip(self.ids, self.texts, strict=True):
            digest.update(f"{len(name)} {len(text)} {name}{text}".encode())
        return digest.hexdigest()

    def encoded(self, tokenizer: Callable[..., Any], *, max_length: int | None = None) -> dict[str, Tensor]:
        """All texts as one batch of named inputs, padded, with their mask.

        Args:
            tokenizer: Takes a list of texts as those of transformers do.
            max_length: Tokens that are kept of each; None is what the tokenizer takes.
        """
        made = tokenizer(list(self.texts), padding=True, truncation=True, max_length=max_length, return_tensors="pt")
        return {str(name): value for name, value in dict(made).items() if isinstance(value, Tensor)}


def read_texts(path: str | Path, *, limit: int | None = None, seed: int = 0) -> TextSet:
    """The texts of a CSV file with a head: columns text, label and id, or what such are usually called.

    Args:
        path: The file.
        limit: Keep this many, the classes in proportion.
        seed: Which ones `limit` keeps.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No column of texts, or no rows.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(message("load_data", "the file of texts must exist", str(path), "Check the path"))
    with open(path, newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        rows, head = list(reader), [name for name in reader.fieldnames or []]
    by_lower = {name.lower().strip(): name for name in head}
    text, label, name = (
        next((by_lower[each] for each in usual if each in by_lower), None) for usual in (_TEXTS, _LABELS, _IDS)
    )
    if text is None or not rows:
        got = f"{path} with {len(rows)} rows and columns {some(head)}"
        raise ValueError(message("load_data", "a file of texts must have a column text", got, "Name it so"))
    given = [(row[label] or "").strip() if label else "" for row in rows]
    known = sorted({value for value in given if value}, key=lambda v: (not v.lstrip("-").isdecimal(), _number(v), v))
    numbers = [int(v) for v in known] if known and all(v.isdecimal() for v in known) else list(range(len(known)))
    place = dict(zip(known, numbers, strict=True))
    labels = torch.tensor([place.get(value, -1) for value in given])
    chosen = range(len(rows)) if limit is None else stratified_rows(labels.numpy(), limit=limit, seed=seed)
    at = [int(i) for i in chosen]
    ids = tuple(str(rows[i][name]) if name else str(i) for i in at)
    return TextSet(tuple(rows[i][text] or "" for i in at), labels[at], ids, f"text:{path.name}", tuple(known))


def _number(value: str) -> int:
    return int(value) if value.lstrip("-").isdecimal() else 0
