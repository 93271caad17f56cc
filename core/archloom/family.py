"""The networks that follow from a found one, where its space says which: larger ones, usually."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .architecture import Architecture
from .config import Part
from .cost import count
from .folder import path_name
from .metrics import outputs_beyond_classes
from .model import ModelParts, assemble
from .plugins import Host
from .resolve import make
from .run import write_json
from .space import input_shape
from .task import Task
from .zoo import architecture_document

FOLDER, LISTING = "family", "family.json"


@dataclass(frozen=True)
class Member:
    """One network of a family: the space that builds it, the shape (C, H, W) of its images, what it costs."""

    name: str
    space: Mapping[str, Any]
    architecture: Architecture
    shape: tuple[int, ...]
    params: int
    macs: int

    @property
    def file(self) -> str:
        """Its architecture file, within the run folder."""
        plain = re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", self.name)
        return f"{FOLDER}/{self.name if plain else path_name(self.name)}.json"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: the figures, and where the architecture file is."""
        return {
            "name": self.name,
            "params": self.params,
            "macs": self.macs,
            "shape": list(self.shape),
            "file": self.file,
        }


def family(
    host: Host, space: Part, architecture: Architecture, task: Task, parts: ModelParts
) -> list[Member]:
    """What the space's `family(architecture)` names, counted with the task's head; [] where it has none.

    Nothing is computed: the networks are outlined on the meta device.
    """
    named = getattr(make(host, "space", space), "family", None)
    if named is None:
        return []
    members = []
    for name, options in named(architecture).items():
        part = Part(type=space.type, options={**space.options, **options})
        other = make(host, "space", part)
        shape = input_shape(other, architecture, task)
        with torch.device("meta"):
            model = assemble(other, architecture, task, parts, seed=0)
        cost = count(model, shape)
        members.append(Member(name, part.model_dump(), architecture, shape, cost.params, cost.macs))
    return members


def write_family(folder: Path, members: Sequence[Member], model: Mapping[str, Any], task: Task) -> None:
    """An architecture file for each member, and the listing of all; nothing where there are none."""
    if not members:
        return
    (folder / FOLDER).mkdir(exist_ok=True)
    for member in members:
        document = architecture_document(
            member.space,
            member.architecture,
            shape=member.shape,
            classes=tuple(task.classes),
            outputs=outputs_beyond_classes(task),
            model=model,
            metrics={"params": member.params, "macs": member.macs},
        )
        write_json(folder / member.file, document)
    write_json(folder / LISTING, [member.to_json() for member in members])
