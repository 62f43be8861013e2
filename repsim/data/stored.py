"""Images under another input condition as one .npz without pickle, which is read for the asked settings alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repsim._common.files import whole_file
from repsim._common.messages import message, some
from repsim.data.image_set import ImageSet


def write_images(path: Path, made: ImageSet, settings: Mapping[str, Any]) -> None:
    """Writes a derived set and what it was made with, whole or not at all.

    Args:
        path: Where to.
        made: Images under a condition.
        settings: All that their pixels depend on, as JSON.

    Raises:
        OSError: The file could not be written; what stood there is untouched.
    """
    facts = {"format": 1, "settings": settings, "condition": made.condition, "record": made.record}
    facts |= {"ids": made.ids, "pixels": made.pixel_digest}
    with whole_file(path) as temporary, open(temporary, "wb") as stream:  # moved pixels are noise: nothing to compress
        np.savez(stream, facts=np.array(json.dumps(facts)), images=made.images.numpy())


def read_images(path: Path, clean: ImageSet, settings: Mapping[str, Any]) -> ImageSet:
    """Reads what `write_images` wrote of these very images with these very settings. Nothing in it is executed.

    Args:
        path: The file.
        clean: The images that the set was made from, under no condition.
        settings: What it must have been made with.

    Raises:
        ValueError: A damaged file, one of other settings or images, or pixels that are not those that were written.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            facts, pixels = json.loads(str(stored["facts"])), stored["images"]
        asked, written = json.loads(json.dumps(settings)), facts["settings"]
        other = [name for name in {**asked, **written} if asked.get(name) != written.get(name)]
        reason = f"made with another {some(other)}" if other else ""
        if not reason and facts["ids"] != list(clean.ids):
            reason = "made from other images"
        if not reason:
            made = clean.derived(torch.from_numpy(pixels), facts["condition"], facts["record"])
            if made.condition == facts["condition"] and made.pixel_digest == facts["pixels"]:
                return made
            reason = "pixels that differ from the digest written with them"
    except Exception:  # a damaged archive fails in as many ways as it has bytes
        reason = "damaged, or something else"
    must = "the file must hold the images that are asked for"
    raise ValueError(message("read_images", must, f"{path} ({reason})", "Make them again"))
