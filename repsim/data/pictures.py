"""One picture file -> pixels: which files are read, what each kind of pixel means, what is refused."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from repsim._common.messages import message

if TYPE_CHECKING:
    from PIL import Image as Pillow

#: What a picture's name ends in.
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

#: The formats that these suffixes name. Pillow looks at the content, and some of its other formats start programs.
_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM")

#: More pixels than this are taken for a decompression bomb, as Pillow does.
_MOST_PIXELS = 89_478_485

#: The highest level of cameras and scanners that write fewer than 16 bits into 16.
_FEWER_BITS = (255, 1023, 4095, 16383)

#: Lowest and highest level that a file may hold, as a caller states it.
PixelRange = tuple[float, float]


@dataclass(frozen=True)
class Deep:
    """Grey levels of more than 8 bits, whose range the whole set tells, and not one picture.

    Attributes:
        levels: (h, w) uint16, int32 or float32; or, with `high_byte`, (h, w, 3) uint8.
        path: The file.
        full: The highest level that the file itself states; 0 where it states none.
        high_byte: Whether Pillow gave the upper 8 of 16 bits.
    """

    levels: np.ndarray
    path: str
    full: int = 0
    high_byte: bool = False


def read_picture(path: str) -> "np.ndarray | Deep":
    """The pixels of a file, upright.

    Args:
        path: A file in one of the formats that `SUFFIXES` name, whatever its own suffix.

    Returns:
        (h, w) or (h, w, 3) uint8; `Deep` where there are more than 8 bits.

    Raises:
        ValueError: A file that is no such picture, or damaged, or of too many pixels, or with transparent parts.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=_FORMATS) as image:
            pixels = image.width * image.height
            if not 0 < pixels <= _MOST_PIXELS:
                raise _unreadable(path, f"{image.width}×{image.height} pixels, more than {_MOST_PIXELS:,}")
            deep, pnm = _is_deep(image), image.format == "PPM"
            image.load()
            image = ImageOps.exif_transpose(image)
            if _shows_what_is_behind(image):
                raise _unreadable(path, "transparent parts", "Put it on the background that it is meant for")
            if image.mode[0] in "IF":
                full = 65535 if pnm else 0  # Pillow scales those by the highest level they state
                levels = np.asarray(image)
                unsigned = (full or deep or image.mode != "I") and levels.min() >= 0 and levels.max() <= 65535
                return Deep(levels.astype(np.uint16) if unsigned and image.mode != "F" else levels, path, full)
            plain = np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
            return Deep(plain, path, high_byte=True) if deep else plain
    except Exception as error:  # a damaged picture fails in as many ways as it has bytes
        if isinstance(error, ValueError) and str(error).startswith("load_data: "):
            raise
        reason = " ".join(printable(str(error)).split()) or type(error).__name__
        raise _unreadable(path, reason) from error


def eight_bits(found: Sequence[Deep], pixel_range: PixelRange | None) -> list[np.ndarray]:
    """Levels of more than 8 bits as uint8, by the range that is stated, or that the set itself leaves no doubt about.

    Args:
        found: All such pictures of a set.
        pixel_range: The lowest and the highest level, which become 0 and 255; None where the set must tell.

    Returns:
        (h, w) or (h, w, 3) uint8 of each.

    Raises:
        ValueError: Levels outside the range, or none that tell which range is meant: 16 bits of which the upper two are
            never used may be 14, 12 or 8 bits; integers of 32 bits and fractions outside [0, 1] may be anything.
    """
    if pixel_range is not None:
        return [_scaled(one, *pixel_range) for one in found]
    sixteen = [d for d in found if d.levels.dtype == np.uint16 and not d.full]
    high = [d for d in found if d.high_byte]
    highest = max((int(d.levels.max()) for d in sixteen), default=65535)
    highest = min(highest, max((int(d.levels.max()) * 256 + 255 for d in high), default=65535))
    if highest <= max(_FEWER_BITS):
        likely = next(level for level in _FEWER_BITS if highest <= level)
        raise _no_range((sixteen or high)[0].path, f"16 bits with levels up to {highest}", f"(0, {likely})")
    ranges = {np.dtype(np.uint16): (0, 65535), np.dtype(np.uint8): (0, 255), np.dtype(np.float32): (0, 1)}
    for one in found:
        if one.levels.dtype not in ranges:
            got = f"32 bits with levels from {one.levels.min()} to {one.levels.max()}"
            raise _no_range(one.path, got, "(0, 65535)")
    fractions = [d for d in found if d.levels.dtype == np.float32]
    if fractions:
        low, top = min(float(d.levels.min()) for d in fractions), max(float(d.levels.max()) for d in fractions)
        if not (low >= 0 and 0.5 < top <= 1):
            raise _no_range(fractions[0].path, f"fractions from {low:g} to {top:g}", "(0, 1)")
    return [_scaled(one, *ranges[one.levels.dtype]) for one in found]


def _scaled(one: Deep, low: float, high: float) -> np.ndarray:
    if one.high_byte:
        if (low, high) not in ((0, 255), (0, 65535)):
            got = f"16 bits in each of several channels, of which 8 can be read, and pixel_range=({low:g}, {high:g})"
            raise _unreadable(one.path, got, "Convert the pictures to 8 bits")
        return one.levels
    levels = one.levels.astype(np.float64)
    if not (levels.min() >= low and levels.max() <= high):  # also where there is a NaN
        must = f"levels must lie in pixel_range=({low:g}, {high:g})"
        got = f"{levels.min():g} to {levels.max():g} in {printable(one.path)}"
        raise ValueError(message("load_data", must, got, "State the range that the files were written with"))
    return np.rint((levels - low) * (255 / (high - low))).astype(np.uint8)


def resized(pixels: np.ndarray, size: int | None) -> np.ndarray:
    """The shorter side brought to `size` and the centre cut out; None leaves the picture as it is."""
    from PIL import Image

    if size is None:
        return pixels
    image = Image.fromarray(pixels)
    scale = size / min(image.size)
    image = image.resize([max(size, round(v * scale)) for v in image.size], Image.Resampling.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def printable(path: str | os.PathLike[str]) -> str:
    """A file's name as text, also where its bytes are none."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _is_deep(image: "Pillow.Image") -> bool:
    """Whether the file holds 16 bits for each channel, asked before its pixels are read."""
    tiles: Any = getattr(image, "tile", ())
    return any(";16" in str(part) for tile in tiles for part in tile[3:])


def _shows_what_is_behind(image: "Pillow.Image") -> bool:
    """Whether some of a picture is transparent: its colours there are whatever the program that wrote it left."""
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        lowest: Any = image.convert("RGBA").getchannel("A").getextrema()[0]
        return lowest < 255
    return False


def _unreadable(path: str, reason: str, advice: str = "Repair or remove the file") -> ValueError:
    return ValueError(
        message("load_data", "every file must be a readable image", f"{printable(path)} ({reason})", advice)
    )


def _no_range(path: str, got: str, example: str) -> ValueError:
    must = "the range of pixels must be known"
    advice = f"Pass pixel_range={example}, say: the levels of black and white"
    return ValueError(message("load_data", must, f"{printable(path)} of {got}", advice))
