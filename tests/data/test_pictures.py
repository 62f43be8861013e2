"""The right pixels, or one line: programs named as pictures, bombs, depths, EXIF, alpha."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from repsim import load_data
from repsim.data.pictures import read_picture

RAMP = np.linspace(0, 1, 256).reshape(16, 16)


def read(folder: Path, **options: Any) -> torch.Tensor:
    return load_data(f"imagefolder:{folder}", **options).images


def folder_of(tmp_path: Path, pictures: dict[str, Any]) -> Path:
    """Pictures, arrays or bytes by name, in one class."""
    (tmp_path / "set" / "a").mkdir(parents=True)
    for name, content in pictures.items():
        path = tmp_path / "set" / "a" / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            (content if isinstance(content, Image.Image) else Image.fromarray(content)).save(path)
    return tmp_path / "set"


def png(width: int, height: int, depth: int, kind: int, rows: bytes = b"") -> bytes:
    """A PNG from its parts."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


PROGRAM = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "gif"])
@pytest.mark.parametrize(
    "content", [PROGRAM, b"%!PS-Adobe-3.0\n", b"\xd7\xcd\xc6\x9a" + bytes(60), b"P7\n" + bytes(60)]
)
def test_a_program_is_no_picture(suffix: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark, program = tmp_path / "ran", tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {mark}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    folder = folder_of(tmp_path, {f"x.{suffix}": content})
    with pytest.raises(ValueError, match=r"\Aload_data: every file must be a readable image; got .*/x\..* \(cannot"):
        read(folder)
    assert not mark.exists()


@pytest.mark.parametrize("size", [(9460, 9460), (20000, 20000), (2**31 - 1, 2**31 - 1), (0, 5)])
def test_a_bomb_is_named_before_it_goes_off(size: tuple[int, int], tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"x.png": png(*size, 8, 0)})
    with pytest.raises(ValueError, match=r"\Aload_data: every file must be a readable image; got .*/x\.png \("):
        read(folder)


@pytest.mark.parametrize("name", ["x.jfif", "x.JPE", "x.dib"])
def test_more_names_of_pictures(name: str, tmp_path: Path) -> None:
    kind = "jpeg" if name[2] in "jJ" else "dib"
    (tmp_path / "set" / "a").mkdir(parents=True)
    Image.fromarray(np.full((4, 4), 9, np.uint8)).save(tmp_path / "set" / "a" / name, format=kind)
    assert read(tmp_path / "set").unique().tolist() == [9]


DEPTHS: dict[str, tuple[np.ndarray, str, tuple[float, float] | None]] = {
    "16 bits": ((RAMP * 65535).round().astype(np.uint16), "png", None),
    "16 bits in a TIFF": ((RAMP * 65535).round().astype(np.uint16), "tif", None),
    "16 bits in a PGM": ((RAMP * 65535).round().astype(np.uint16), "pgm", None),
    "12 bits": ((RAMP * 4095).round().astype(np.uint16), "png", (0, 4095)),
    "8 bits in 16": ((RAMP * 255).round().astype(np.uint16), "tif", (0, 255)),
    "8 bits in 32": ((RAMP * 255).round().astype(np.int32), "tif", (0, 255)),
    "any in 32": ((RAMP * 100000).round().astype(np.int32), "tif", (0, 100000)),
    "below zero": ((RAMP * 2000 - 1000).round().astype(np.int32), "tif", (-1000, 1000)),
    "fractions": (RAMP.astype(np.float32), "tif", None),
    "large fractions": ((RAMP * 7).astype(np.float32), "tif", (0, 7)),
}


@pytest.mark.parametrize("kind", DEPTHS)
def test_every_depth_gives_the_picture(kind: str, tmp_path: Path) -> None:
    levels, suffix, stated = DEPTHS[kind]
    folder = folder_of(tmp_path, {f"x.{suffix}": levels})
    if stated is not None:
        with pytest.raises(
            ValueError, match=r"\Aload_data: the range of pixels must be known; got .*/x\.\w+ of "
        ) as error:
            read(folder)
        assert str(error.value).endswith(": the levels of black and white.")
    images = read(folder, pixel_range=stated)
    assert images.dtype == torch.uint8
    assert np.abs(images[0, 0].numpy() - RAMP * 255).max() <= 0.51


def test_a_dark_picture_is_read_by_the_range_of_its_set(tmp_path: Path) -> None:
    full = (RAMP * 65535).round().astype(np.uint16)
    images = read(folder_of(tmp_path, {"x.png": full, "y.png": full // 64, "z.png": np.full((16, 16), 7, np.uint8)}))
    assert images[1].max() == 4
    assert images[2].unique().tolist() == [7]


@pytest.mark.parametrize("levels", [np.float32(np.nan), np.float32(np.inf), np.float32(-1)])
def test_levels_outside_their_range_are_named(levels: np.float32, tmp_path: Path) -> None:
    array = RAMP.astype(np.float32)
    array[3, 3] = levels
    folder = folder_of(tmp_path, {"x.tif": array})
    with pytest.raises(ValueError, match=r"\Aload_data: the range of pixels must be known; got .*x\.tif of fractions"):
        read(folder)
    with pytest.raises(ValueError, match=r"\Aload_data: levels must lie in pixel_range=\(0, 1\); got "):
        read(folder, pixel_range=(0, 1))


@pytest.mark.parametrize("kind", [2, 6, 4])
@pytest.mark.parametrize("most", [65535, 4095, 255])
def test_sixteen_bits_in_each_channel(kind: int, most: int, tmp_path: Path) -> None:
    levels = (RAMP * most).round().astype(">u2")
    channels = {
        2: [levels] * 3,
        6: [*[levels] * 3, np.full_like(levels, 65535)],
        4: [levels, np.full_like(levels, 65535)],
    }
    rows = b"".join(b"\0" + row.tobytes() for row in np.stack(channels[kind], -1).astype(">u2"))
    folder = folder_of(tmp_path, {"x.png": png(16, 16, 16, kind, rows)})
    if most < 65535:
        with pytest.raises(ValueError, match=r"\Aload_data: the range of pixels must be known; got "):
            read(folder)
        return
    assert np.abs(read(folder)[0, 0].numpy() - RAMP * 255).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_refused(mode: str, tmp_path: Path) -> None:
    pixels = np.full((4, 4, 4), (200, 10, 10, 255), np.uint8)
    opaque = Image.fromarray(pixels.copy())
    pixels[1, 2, 3] = 254
    seen = Image.fromarray(pixels)
    if mode == "P":
        seen, opaque = (i.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE) for i in (seen, opaque))
        seen.info["transparency"] = 0
    else:
        seen, opaque = seen.convert(mode), opaque.convert(mode)
    folder = folder_of(tmp_path, {"x.png": seen})
    with pytest.raises(
        ValueError, match=r"/x\.png \(transparent parts\)\. Put it on the background that it is meant for\.\Z"
    ):
        read(folder)
    opaque.save(folder / "a" / "x.png")
    assert len(read(folder)) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(orientation: int, tmp_path: Path) -> None:
    turned: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: np.rot90(a),
    }
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "set" / "a").mkdir(parents=True)
    image.save(tmp_path / "set" / "a" / "x.png", exif=exif)
    assert np.array_equal(read(tmp_path / "set")[0, 0].numpy(), turned[orientation](pixels))


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_picture_is_pixels_or_one_line(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    kind = ["png", "jpg", "bmp", "gif", "webp", "tif", "ppm"][seed % 7]
    path = tmp_path / f"x.{kind}"
    Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    for place in rng.integers(0, len(content), 3):
        content[place] = rng.integers(256)
    path.write_bytes(bytes(content[: rng.integers(1, len(content) + 1)] if seed % 2 else content))
    try:
        read_picture(str(path))
    except ValueError as error:
        text = str(error)
    else:
        return
    assert text.startswith(f"load_data: every file must be a readable image; got {path} (")
    assert "\n" not in text
