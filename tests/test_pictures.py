"""Image files: which files of a folder are images, and one file as 8 bits of grey or colour."""

from __future__ import annotations

import itertools
import os
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from archloom.errors import TaskError
from archloom.pictures import class_folders, read_image, scan, shown

RAMP = (np.arange(40 * 30).reshape(40, 30) * 54 % 65536).astype(np.uint16)
"""16 bits of grey."""


def written(path: Path, image: Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def pixels(path: Path, mode: str = "RGB", **options: bool) -> np.ndarray:
    return np.asarray(read_image(path, **options).convert(mode)).astype(int)


# -- 16 bits, and other numbers ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm", "x.jp2"])
def test_sixteen_bits_of_grey_are_the_eight_that_they_are_shown_with(name, tmp_path):
    if name.endswith("jp2") and not features.check("jpg_2000"):
        pytest.skip("this Pillow reads no JPEG 2000")
    path = written(tmp_path / name, Image.fromarray(RAMP))
    wanted = np.rint(RAMP / 257).astype(int)
    assert np.abs(pixels(path, "L") - wanted).max() <= 1
    assert (pixels(path)[..., 1] == pixels(path, "L")).all()
    assert pixels(path, "L").max() - pixels(path, "L").min() > 200


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_either_order_of_bytes_is_read(order, tmp_path):
    values = RAMP.astype(order)
    path = tmp_path / "x.tif"
    data, tags = values.tobytes(), []
    for tag, kind, value in [
        (256, 4, 30), (257, 4, 40), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
        (278, 4, 40), (279, 4, len(data)),
    ]:  # fmt: skip
        tags.append((tag, kind, value))
    end = "<" if order[0] == "<" else ">"
    head = (b"II*\0" if end == "<" else b"MM\0*") + np.array(8 + len(data), end + "u4").tobytes()
    entries = b"".join(
        np.array([tag, kind], end + "u2").tobytes()
        + np.array(1, end + "u4").tobytes()
        + (np.array(value, end + "u4") if kind == 4 else np.array([value, 0], end + "u2")).tobytes()
        for tag, kind, value in tags
    )
    count = np.array(len(tags), end + "u2").tobytes()
    path.write_bytes(head + data + count + entries + bytes(4))
    assert np.abs(pixels(path, "L") - np.rint(RAMP / 257)).max() <= 1


def test_sixteen_bits_of_which_zero_is_white_are_not_inverted(tmp_path):
    path = written(tmp_path / "x.tif", Image.fromarray(RAMP), tiffinfo={262: 0})
    assert np.abs(pixels(path, "L") - (255 - np.rint(RAMP / 257))).max() <= 1


def test_one_transparent_value_of_sixteen_bits_is_background(tmp_path):
    image = Image.fromarray(np.full((4, 4), 1000, np.uint16))
    image.putpixel((1, 2), 30000)
    path = written(tmp_path / "x.png", image, transparency=1000)
    found = pixels(path, "L")
    assert found[2, 1] == round(30000 / 257)
    assert (np.delete(found.flatten(), 9) == 255).all()


def test_sixteen_bits_of_colour_are_eight(tmp_path):
    """Written as PNG by hand: Pillow writes none."""
    import struct
    import zlib

    colours = np.random.default_rng(0).integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 7, 5, 16, 2, 0, 0, 0)
    path = tmp_path / "x.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    assert np.abs(pixels(path) - colours / 257).max() <= 1


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_thirty_two_bits_are_refused_since_they_do_not_say_what_is_white(kind, tmp_path):
    path = written(tmp_path / "x.tif", Image.fromarray(RAMP.astype(kind)))
    with pytest.raises(TaskError, match=r"x\.tif cannot be read as an image: .*32-bit numbers.*8 or 16 bits"):
        read_image(path)
    assert read_image(path, raw=True).mode in ("I", "F")


# -- transparency and colour spaces -----------------------------------------------------------------


def half_transparent(mode: str) -> Image.Image:
    """Red, or grey 76, of opacity 0, 128 and 255 from left to right, which hides blue or black below it."""
    colour = Image.new("RGB", (30, 10), (255, 0, 0))
    opacity = Image.new("L", (30, 10))
    for column, value in enumerate((0, 128, 255)):
        opacity.paste(value, (10 * column, 0, 10 * column + 10, 10))
    colour.putalpha(opacity)
    return colour.convert(mode)


@pytest.mark.parametrize(
    ("name", "mode"),
    [*itertools.product(["x.png", "x.tif"], ["RGBA", "LA"]), ("x.webp", "RGBA")],  # WebP has no grey
)
def test_what_is_transparent_is_laid_over_white_and_not_dropped(name, mode, tmp_path):
    options = {"lossless": True, "exact": True} if name.endswith("webp") else {}
    found = pixels(written(tmp_path / name, half_transparent(mode), **options))
    assert (found[:, :10] == 255).all()
    wanted = (255, 127, 127) if mode == "RGBA" else (165, 165, 165)
    assert np.abs(found[5, 15] - wanted).max() <= 1
    assert np.abs(found[5, 25] - ((255, 0, 0) if mode == "RGBA" else (76, 76, 76))).max() <= 1


def test_the_transparent_colour_of_a_palette_is_background(tmp_path):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 200, 30, 90, 80, 70] + [0] * 750)
    image.paste(1, (0, 0, 4, 8))
    for name in ("x.png", "x.gif"):
        found = pixels(written(tmp_path / name, image, transparency=0))
        assert (found[:, 4:] == 255).all()
        assert (found[:, :4] == (90, 80, 70)).all()
    found = pixels(written(tmp_path / "y.png", image, transparency=bytes([128, 255])))
    assert np.abs(found[0, 6] - (132, 227, 142)).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_one_transparent_colour_is_background(mode, tmp_path):
    image = Image.new(mode, (6, 6), 9 if mode == "L" else (9, 8, 7))
    image.paste(100 if mode == "L" else (100, 0, 0), (0, 0, 3, 6))
    path = written(tmp_path / "x.png", image, transparency=9 if mode == "L" else (9, 8, 7))
    assert (pixels(path)[:, 3:] == 255).all()
    assert (pixels(path)[:, :3] == (100 if mode == "L" else (100, 0, 0))).all()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**31), st.sampled_from(["L", "RGB", "LA", "RGBA"]))
def test_an_opaque_image_is_its_own_pixels_to_the_bit(tmp_path, seed, mode):
    rng = np.random.default_rng(seed)
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = rng.integers(0, 256, (6, 5, bands), dtype=np.uint8)
    if mode.endswith("A"):
        values[..., -1] = 255
    image = Image.fromarray(values.squeeze())
    path = written(tmp_path / "x.png", image)
    assert (pixels(path) == np.asarray(image.convert("RGB"))).all()
    assert read_image(path).mode == mode.rstrip("A")


def test_cmyk_and_lab_are_read_as_the_colours_that_they_are(tmp_path):
    colour = Image.new("RGB", (8, 8), (200, 30, 60))
    assert (
        np.abs(pixels(written(tmp_path / "x.tif", colour.convert("CMYK")))[0, 0] - (200, 30, 60)).max() <= 1
    )
    lab = Image.merge("LAB", [Image.new("L", (8, 8), value) for value in (112, 192, 158)])  # L 44, a 64, b 30
    found = pixels(written(tmp_path / "y.tif", lab))[0, 0]
    assert np.abs(found - (200, 30, 60)).max() <= 12


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif"])
def test_an_image_is_turned_upright_where_that_is_asked_for(turned, name, tmp_path):
    image = Image.new("RGB", (40, 24), "black")
    image.paste("white", (0, 0, 20, 12))  # the corner that is at the top and left of the stored pixels
    exif = Image.Exif()
    exif[0x0112] = turned
    path = written(tmp_path / name, image, exif=exif)
    if not name.endswith("tif"):  # whose orientation is a part of the format, and obeyed by Pillow
        assert read_image(path).size == (40, 24)
        assert pixels(path)[3, 3].mean() > 200
    found = pixels(path, upright=True).mean(2)
    assert found.shape == ((24, 40) if turned < 5 else (40, 24))
    corner = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[turned]
    rows, columns = np.array(found.shape) // 2
    bright = [
        [found[r * rows : (r + 1) * rows, c * columns : (c + 1) * columns].mean() for c in (0, 1)]
        for r in (0, 1)
    ]
    assert np.unravel_index(np.argmax(bright), (2, 2)) == corner


# -- which files ------------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path):
    """A folder with images of many endings and kinds, and what is none."""
    image, top = Image.new("RGB", (4, 4)), tmp_path / "top"
    for name in ("a.png", "b.JPG", "c.jfif", "deep/d.webp", "e.bmp"):
        written(top / name, image, format={"c.jfif": "JPEG"}.get(name))
    if features.check("avif"):
        written(top / "f.avif", image)
    written(tmp_path / "elsewhere" / "g.png", image)
    (top / "linked").symlink_to(tmp_path / "elsewhere")
    (top / "h.png").symlink_to(tmp_path / "elsewhere" / "g.png")
    for name in (".ipynb_checkpoints/a.png", "._a.png", ".hidden.jpg", "deep/.cache/z.png"):
        written(top / name, image)
    (top / "notes.txt").write_text("no image")
    (top / ".DS_Store").write_bytes(b"x")
    return top


def test_linked_and_unusual_files_are_images_and_hidden_ones_are_none(mixed):
    found = scan(mixed)
    names = [os.path.relpath(path, mixed) for path in found.images]
    wanted = ["a.png", "b.JPG", "c.jfif", "e.bmp", "h.png", "deep/d.webp", "linked/g.png"]
    if features.check("avif"):
        wanted.insert(4, "f.avif")
    assert names == wanted
    hidden = sorted(os.path.relpath(path, mixed) for path in found.left_out["hidden"])
    assert hidden == sorted([".ipynb_checkpoints/a.png", "._a.png", ".hidden.jpg", "deep/.cache/z.png"])
    assert set(found.left_out) == {"hidden"}
    with pytest.warns(UserWarning, match=r"left out of the images of .*top: hidden: .*_a\.png"):
        found.say(mixed)


def test_what_looks_like_an_image_and_is_not_read_is_said(tmp_path):
    image = Image.new("RGB", (4, 4))
    written(tmp_path / "a.png", image)
    written(tmp_path / "without_ending", image, format="PNG")
    (tmp_path / "b.svg").write_text("<svg/>")
    (tmp_path / "LICENSE").write_text("free")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "around").symlink_to(tmp_path)
    found = scan(tmp_path)
    assert [Path(path).name for path in found.images] == ["a.png"]
    left = {reason: sorted(Path(path).name for path in paths) for reason, paths in found.left_out.items()}
    assert left == {
        "of an ending that is not read": ["b.svg", "without_ending"],
        "a link to nothing, or no file": ["gone.png"],
        "a link to a folder around it": ["around"],
    }


def test_a_folder_without_oddities_says_nothing(tmp_path):
    written(tmp_path / "a.png", Image.new("L", (4, 4)))
    (tmp_path / "notes.txt").write_text("no image")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scan(tmp_path).say(tmp_path)


def test_class_names_are_composed_and_ones_that_are_no_text_are_refused(tmp_path):
    (tmp_path / unicodedata.normalize("NFD", "café")).mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "bar").mkdir()
    assert list(class_folders(tmp_path)) == ["bar", unicodedata.normalize("NFC", "café")]
    (tmp_path / unicodedata.normalize("NFC", "café")).mkdir()
    with pytest.raises(TaskError, match=r"two folders of the class café, 'cafe\\u0301' and 'caf\\xe9'"):
        class_folders(tmp_path)
    (tmp_path / "latin").mkdir()
    os.mkdir(os.fsencode(tmp_path / "latin") + b"/caf\xe9")
    with pytest.raises(TaskError, match=r"latin/caf\\xe9 has a name that is not UTF-8"):
        class_folders(tmp_path / "latin")


def test_a_path_that_is_no_text_can_be_shown(tmp_path):
    assert shown(os.fsdecode(b"/a/caf\xe9.png")) == "/a/caf\\xe9.png"
    with pytest.raises(TaskError, match=r"there is no image file .*caf\\xe9\.png"):
        read_image(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
