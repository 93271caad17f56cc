"""Image files: which files of a folder are images, and one file as 8 bits of grey or colour."""

from __future__ import annotations

import mimetypes
import os
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import TaskError

_ENDINGS = "jpg jpeg jpe jfif png apng bmp dib gif pbm pgm ppm pnm tif tiff webp avif jp2 tga"
SUFFIXES = frozenset(f".{ending}" for ending in _ENDINGS.split())
"""What the name of an image in a folder ends in, in any case; a file that is named by itself may have any."""

BACKGROUND = (255, 255, 255)
"""What lies behind what is transparent."""


# -- which files --------------------------------------------------------------------------------------------


@dataclass
class Scan:
    """The images of a folder and of all folders in it, linked ones too, by (folder, name).

    left_out: reason -> files that look like images and are none of these.
    """

    images: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, path: str) -> None:
        """Note a file, or a folder, with the reason why it is not taken."""
        self.left_out.setdefault(reason, []).append(path)

    def say(self, folder: str | Path) -> None:
        """Warn of what is left out, in one sentence."""
        if self.left_out:
            told = "; ".join(f"{reason}: {_some(paths)}" for reason, paths in self.left_out.items())
            warnings.warn(f"left out of the images of {shown(folder)}: {told}", stacklevel=3)


def scan(folder: str | Path, into: Scan | None = None) -> Scan:
    """All images in a folder and below. Hidden files and folders are left out, whose names begin with a dot."""
    found = Scan() if into is None else into
    by_folder: dict[str, list[str]] = {}
    _walk(str(folder), by_folder, found, frozenset(), None)
    found.images += [os.path.join(where, name) for where in sorted(by_folder) for name in by_folder[where]]
    return found


def class_folders(folder: Path) -> dict[str, Path]:
    """Class name -> its folder, by name; hidden folders are no classes. Names are composed (NFC), however the file
    system spells them. Raises TaskError for a name that is no text, and for two that are the same."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_dir():
            continue
        name = class_name(path)
        if name in found:
            raise TaskError(
                f"{folder} has two folders of the class {name}, {found[name].name!a} and {path.name!a}; keep one"
            )
        found[name] = path
    return dict(sorted(found.items()))


def class_name(path: Path) -> str:
    """The class that a folder stands for."""
    try:
        path.name.encode()
    except UnicodeEncodeError as error:
        raise TaskError(
            f"the class folder {shown(path)} has a name that is not UTF-8, so no file can record it; rename it"
        ) from error
    return composed(path.name)


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", name)


def differing(name: str) -> str:
    """A name as it can be told from one that looks alike: with escapes where it is more than plain letters."""
    return name if name.isascii() and name.isprintable() and name == name.strip() else ascii(name)


def shown(path: str | Path) -> str:
    """A path that can be printed everywhere: bytes that are no UTF-8 as escapes."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def beside(folder: Path, classes: Iterable[Path], into: Scan) -> None:
    """Leave out images that lie in `folder` itself, or in hidden folders of it, where only class folders count."""
    taken = {path.name for path in classes}
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            hidden = entry.name.startswith(".")
            if entry.is_dir() and hidden and entry.name not in taken:
                _walk(entry.path, {}, into, frozenset(), "hidden")
            elif not entry.is_dir() and _looks_like_image(entry.path):
                into.leave_out("hidden" if hidden else "in no class folder", entry.path)


def _walk(
    folder: str, by_folder: dict[str, list[str]], found: Scan, above: frozenset[str], reason: str | None
) -> None:
    """The images below: folder -> names. With a reason, all are left out."""
    here = os.path.realpath(folder)
    if here in above:
        found.leave_out("a link to a folder around it", folder)
        return
    with os.scandir(folder) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    for entry in inside:
        why = "hidden" if entry.name.startswith(".") else reason
        if entry.is_dir():
            _walk(entry.path, by_folder, found, above | {here}, why)
        elif why is None and os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            if entry.is_file():
                by_folder.setdefault(folder, []).append(entry.name)
            else:
                found.leave_out("a link to nothing, or no file", entry.path)
        elif _looks_like_image(entry.path):
            found.leave_out(why or "of an ending that is not read", entry.path)


def _looks_like_image(path: str) -> bool:
    """Whether whoever put the file there may have meant an image: by its ending, without one by its content."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix:
        return suffix in SUFFIXES or (mimetypes.guess_type(path)[0] or "").startswith("image/")
    try:
        from PIL import Image

        with Image.open(path):
            return True
    except Exception:  # of what is no image, a decoder can raise anything at all
        return False


def _some(paths: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(paths) - limit} more" if len(paths) > limit else ""
    return ", ".join(shown(path) for path in paths[:limit]) + more


# -- one file -----------------------------------------------------------------------------------------------


def read_image(path: str | Path, *, upright: bool = False, raw: bool = False) -> Any:
    """An image file as PIL's image, decoded, of 8 bits and without transparency.

    16 bits become the 8 that they are shown with, and what is transparent is laid over white. upright: turned as the
    file's EXIF orientation says. raw: as the file has it. Raises TaskError, naming the file, for one that is no image,
    or whose numbers do not say how bright they are.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with open(path, "rb") as file:
            image: Any = Image.open(file)
            image.load()
            if upright:
                image = ImageOps.exif_transpose(image)
            return image if raw else plain(image)
    except FileNotFoundError as error:
        raise TaskError(f"there is no image file {shown(path)}") from error
    except UnidentifiedImageError as error:
        raise TaskError(f"{shown(path)} cannot be read as an image: it is of no known format") from error
    except TaskError as error:
        raise TaskError(f"{shown(path)} cannot be read as an image: {error}") from error
    except Exception as error:  # a decoder can raise anything at all on damaged bytes
        raise TaskError(
            f"{shown(path)} cannot be read as an image ({type(error).__name__}: {error})"
        ) from error


def plain(image: Any) -> Any:
    """A PIL image with 8 bits a channel and nothing transparent; as it is where it has both.

    Raises TaskError for one of 32 bits, which do not say what is white.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _eight_bits(image)
    if image.mode in ("I", "F"):
        raise TaskError(
            f"its pixels are 32-bit numbers (mode {image.mode}), which do not say what is white; convert it to 8 or 16 "
            "bits"
        )
    if image.mode == "LAB":
        from PIL import ImageCms

        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
    return _over_background(image)


def _over_background(image: Any) -> Any:
    from PIL import Image

    if "transparency" not in image.info and not image.mode.endswith(("A", "a")):
        return image
    grey = image.mode in ("1", "L", "LA", "La")
    if image.mode in ("La", "RGBa"):  # colours that are multiplied by their opacity already
        image = image.convert(image.mode[:-1] + "A")
    image = image.convert("RGBA")
    over = Image.alpha_composite(Image.new("RGBA", image.size, (*BACKGROUND, 255)), image)
    return over.convert("L" if grey else "RGB")


def _eight_bits(image: Any) -> Any:
    """16 bits of grey as 8; an image of 32 bits as it is."""
    import numpy as np
    from PIL import Image

    tags = getattr(image, "tag_v2", {})  # of a TIFF
    depth = tags.get(258, (16,))[0]  # bits per sample
    if image.mode == "I" and (image.format not in ("PNG", "PPM") or image.getextrema()[1] > 0xFFFF):
        return image
    values = np.asarray(image).astype(np.float64)
    grey = np.rint(255 * values / (2**depth - 1)).clip(0, 255).astype(np.uint8)
    if tags.get(262) == 0:  # white is zero
        grey = 255 - grey
    made = Image.fromarray(grey)
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # one value that is transparent
        made.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return made
