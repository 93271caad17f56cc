"""Tiny data sets in the real layouts, and what a plugin registers."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import pluggy
from PIL import Image

from archloom import hookspecs


def registered(plugin) -> dict:
    """The task factories of a plugin, through its hook."""
    manager, factories = pluggy.PluginManager("archloom"), {}
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    manager.check_pending()
    manager.hook.register_tasks(register=lambda name, factory, **_: factories.update({name: factory}))
    return factories


def cifar_pixels(count: int, seed: int) -> np.ndarray:
    """uint8 (count, 3072): the red plane, the green one, the blue one, each row by row."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def write_cifar10(root: Path) -> dict[str, str]:
    """5 x 20 training and 20 test images as CIFAR-10's Python archive has them. Returns the checksums."""
    folder = root / "cifar-10-batches-py"
    batches = {
        f"data_batch_{i}": (20, i, [n % 10 for n in range(20)]) for i in range(1, 6)
    } | {"test_batch": (20, 6, [n % 10 for n in range(20)])}  # fmt: skip
    files = {
        name: {
            b"batch_label": name.encode(),
            b"labels": labels,
            b"data": cifar_pixels(count, seed),
            b"filenames": [f"{n}.png".encode() for n in range(count)],
        }
        for name, (count, seed, labels) in batches.items()
    }
    names = b"airplane automobile bird cat deer dog frog horse ship truck".split()
    files["batches.meta"] = {b"num_cases_per_batch": 20, b"label_names": names, b"num_vis": 3072}
    return _pickled(folder, files)


def write_cifar100(root: Path) -> dict[str, str]:
    """200 training and 100 test images as CIFAR-100's Python archive has them. Returns the checksums."""
    files = {
        name: {
            b"batch_label": name.encode(),
            b"fine_labels": [n % 100 for n in range(count)],
            b"coarse_labels": [n % 20 for n in range(count)],
            b"data": cifar_pixels(count, seed),
            b"filenames": [f"{n}.png".encode() for n in range(count)],
        }
        for name, count, seed in (("train", 200, 7), ("test", 100, 8))
    }
    files["meta"] = {
        b"fine_label_names": [f"fine {n}".encode() for n in range(100)],
        b"coarse_label_names": [f"coarse {n}".encode() for n in range(20)],
    }
    return _pickled(root / "cifar-100-python", files)


class Python2Pickler(pickle._Pickler):
    """Writes bytes as the str of Python 2, as the published archives have them. Python 3's own protocol 2
    writes a call that makes bytes again; the reader's `encoding` would have no effect on those."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_str2(self, value: bytes) -> None:
        head = b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + len(value).to_bytes(4, "little")
        self.write(head + value)
        self.memoize(value)

    dispatch[bytes] = save_str2


def python2_pickle(value: object) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def _pickled(folder: Path, files: dict[str, dict]) -> dict[str, str]:
    folder.mkdir(parents=True)
    checksums = {}
    for name, content in files.items():
        data = python2_pickle(content)
        (folder / name).write_bytes(data)
        checksums[name] = hashlib.md5(data).hexdigest()
    return checksums


def trust(monkeypatch, archive, checksums: dict[str, str]) -> None:
    """Let torchvision's class expect these files instead of the published ones; it still checks them."""
    for attribute in ("train_list", "test_list"):
        files = [[name, checksums[name]] for name, _ in getattr(archive, attribute)]
        monkeypatch.setattr(archive, attribute, files)
    monkeypatch.setattr(archive, "meta", archive.meta | {"md5": checksums[archive.meta["filename"]]})


def write_folder(root: Path, counts: dict[str, int], classes=("cat", "dog", "owl")) -> Path:
    """`counts` images of each class for each split. A class has a colour, each image its own size."""
    colours = {"cat": (250, 10, 10), "dog": (10, 250, 10), "owl": (10, 10, 250)}
    for split, count in counts.items():
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                suffix = ("png", "jpg", "JPEG")[i % 3]
                Image.new("RGB", (40 + i, 48), colours.get(name, (90, 90, 90))).save(
                    folder / f"{name}_{i}.{suffix}"
                )
    return root
