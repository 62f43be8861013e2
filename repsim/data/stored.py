"""Images under another input condition as one .npz without pickle, which is read for the asked settings alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repsim._common.archive import read_archive, write_archive
from repsim._common.messages import some
from repsim.data.image_set import ImageSet

_MUST = "the file must hold the images that are asked for"


def write_images(path: Path, made: ImageSet, settings: Mapping[str, Any]) -> None:
    """Writes a derived set and what it was made with, whole or not at all.

    Args:
        path: Where to.
        made: Images under a condition.
        settings: All that their pixels depend on, as JSON.

    Raises:
        OSError: The file could not be written; what stood there is untouched.
    """
    facts = {"settings": settings, "condition": made.condition, "record": made.record}
    facts |= {"ids": made.ids, "pixels": made.pixel_digest}
    # Moved pixels are noise: nothing to compress.
    write_archive(path, facts, {"images": made.images.numpy()}, compressed=False)


def read_images(path: Path, clean: ImageSet, settings: Mapping[str, Any]) -> ImageSet:
    """Reads what `write_images` wrote of these very images with these very settings. Nothing in it is executed.

    Args:
        path: The file.
        clean: The images that the set was made from, under no condition.
        settings: What it must have been made with.

    Raises:
        ValueError: A damaged file, one of other settings or images, or pixels that are not those that were written.
    """

    def made(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> ImageSet:
        asked, written = json.loads(json.dumps(settings)), facts["settings"]
        if other := [name for name in {**asked, **written} if asked.get(name) != written.get(name)]:
            raise ValueError(f"made with another {some(other)}")
        if facts["ids"] != list(clean.ids):
            raise ValueError("made from other images")
        found = clean.derived(torch.from_numpy(arrays["images"]), facts["condition"], facts["record"])
        if found.condition != facts["condition"] or found.pixel_digest != facts["pixels"]:
            raise ValueError("pixels that differ from the digest written with them")
        return found

    return read_archive(path, made, function="read_images", again="Make them again", must=_MUST)
