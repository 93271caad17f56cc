"""A trained network for the world outside: ONNX, torch.export, TorchScript, safetensors, timm.

Everything is written beside the target, read back and compared with the network itself on real images; only what
agrees is moved to its place.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, ExportError, UnknownName
from ..randomness import torch_rng
from ..run import write_json
from ..surroundings import plainly
from ..task import Task
from ..trained import Trained, default_folder
from . import folders, graphs
from .card import facts_of, write_card
from .checking import logits_of, prepared

IMAGES = 256
"""So many test images the exported network is compared on, and RANDOM random ones where there is no task."""
RANDOM = 32


@dataclass(frozen=True)
class Format:
    """A format that can be exported to: the file that it makes beside config.json, and who writes it."""

    name: str
    file: str
    about: str
    write: Callable[..., float]
    graph: bool = True


FORMATS = {
    made.name: made
    for made in (
        Format("onnx", "model.onnx", "for onnxruntime and others", graphs.write_onnx),
        Format("torch", "model.pt2", "a torch.export program", graphs.write_torch),
        Format("torchscript", "model.torchscript.pt", "a trace, for libtorch", graphs.write_torchscript),
        Format(
            "safetensors",
            "weights.safetensors",
            "a folder for archloom itself",
            folders.write_safetensors,
            False,
        ),
        Format("timm", "model.safetensors", "a folder for timm.create_model", folders.write_timm, False),
    )
}


@dataclass(frozen=True)
class Exported:
    """What was written: the folder, the network's file in it, and how far its logits are from the network's own.

    checked_on: which images they were compared on, in words.
    """

    folder: Path
    file: Path
    difference: float
    checked_on: str


@plainly
def export(
    trained: Trained, format: str, folder: str | Path | None = None, *, batch: int | None = None
) -> Exported:
    """Write a network in one of `FORMATS` into `folder` (default: export/FORMAT beside the source).

    batch: the only batch size that a graph shall take; None, any. Raises UnknownName for another format, ConfigError
    where a package is missing, ExportError where the network cannot be written or what was written is not the
    network. Then the folder is as it was before.
    """
    if format not in FORMATS:
        raise UnknownName("format", format, FORMATS)
    chosen = FORMATS[format]
    if batch is not None and (batch < 1 or not chosen.graph):
        told = f"not {batch}" if chosen.graph else f"and the format '{format}' has no graph to fix one in"
        raise ConfigError(f"batch is 'dynamic' or a whole number of at least 1, {told}")
    target = Path(folder) if folder is not None else default_folder(trained.source.name, "export") / format
    images, checked_on = test_images(trained)
    wanted = logits_of(trained.model, images)
    facts = facts_of(trained, chosen.file, format, batch)
    with _new_files(target) as made:
        path = made / chosen.file
        if chosen.graph:
            network = prepared(trained.model, trained.shape)
            difference = chosen.write(network, path, images, wanted, batch, facts)
        else:
            difference = chosen.write(trained, path, images, wanted, facts)
        check = {"images": len(images), "of": checked_on, "largest_difference": difference}
        if format != "timm":  # whose config.json is timm's own
            write_json(made / "config.json", {**facts, "check": check})
        write_card(made / "README.md", trained, {**facts, "check": check})
    return Exported(target, target / chosen.file, difference, checked_on)


def test_images(trained: Trained) -> tuple[Tensor, str]:
    """Images (N, C, H, W) to compare on, and where they are from: up to IMAGES of the test split, evenly spread."""
    if trained.task is None:
        images = torch.randn(RANDOM, *trained.shape, generator=torch_rng(0, "export"))
        return images, "random images (no task is known)"
    return _spread(trained.task, trained), f"the test split of task '{trained.task.name}'"


def _spread(task: Task, trained: Trained) -> Tensor:
    data: Any = task.dataset("test", resolution=trained.resolution)
    count = min(IMAGES, len(data))
    return torch.stack([data[i * len(data) // count][0] for i in range(count)]).contiguous()


@contextmanager
def _new_files(target: Path) -> Iterator[Path]:
    """A folder to write into. What is in it at the end goes to `target`, file by file; after an error, nothing does."""
    near = next(parent for parent in target.absolute().parents if parent.exists())
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=near))
    except OSError as error:
        raise ExportError(f"cannot write to {target}: {error.strerror or error}") from error
    try:
        yield made
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted(made.iterdir()):
            os.replace(path, target / path.name)
    except OSError as error:
        raise ExportError(f"cannot write to {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
