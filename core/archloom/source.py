"""What a SOURCE on the command line means: a network that can be trained, judged, looked at and exported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from .assembly import ARCHITECTURE as BACKBONE
from .assembly import build_model
from .config import ModelConfig, Part, parse_model, parse_part
from .config_files import override
from .defaults import default, named
from .documents import reachable, read_json, read_mapping
from .errors import ConfigError, shown
from .metrics import outputs_beyond_classes
from .model import Model
from .plugins import Host
from .resolve import make
from .run import write_atomically, write_json
from .task import Task
from .training import Recipe
from .trust import beside
from .zoo import (
    Found,
    architecture_document,
    class_names,
    find,
    input_sizes,
    output_sizes,
    refuse_decisions,
)

ARCHITECTURE, MODEL, WEIGHTS = "architecture.json", "model.yaml", "weights.safetensors"
"""What a folder holds: an architecture of a search space, or a model section, and the trained weights."""

FORMAT = "archloom model 1"


@dataclass(frozen=True)
class Source:
    """A network: what it takes and gives, how to build it, and what lies beside it.

    classes: None where nothing says them (a network by name). outputs: the shape of one output, where that is no
    classes' logits. make: builds it for what stands for a task, from a seed. document: enough to build it anywhere, as
    plain data, of `kind` "architecture" or "model". weights: the trained weights beside it, if any.
    stored: the task and the recipe that are written beside it, as plain data.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    classes: tuple[str, ...] | None
    document: Mapping[str, Any]
    stored: Mapping[str, Any]
    weights: Path | None
    make: Callable[[Any, int], Model] = field(repr=False, compare=False)
    found: Found | None = field(default=None, repr=False, compare=False)
    outputs: tuple[int, ...] | None = None

    def build(self, num_classes: int | None = None, *, seed: int = 0) -> Model:
        """The whole model with weights drawn from `seed`; as many classes as are known (else 1000), or as said."""
        if num_classes is None and self.outputs is not None:
            return self.make(_Known(self.name, self.shape, self.classes or (), self.outputs), seed)
        known = self.classes or tuple(str(number) for number in range(1000))
        if num_classes is not None and num_classes != len(known):
            known = tuple(str(number) for number in range(num_classes))
        return self.make(_Known(self.name, self.shape, known), seed)

    def write(self, folder: Path) -> Path:
        """The document as a file of `folder`, which a later command takes as its source."""
        if self.kind == "architecture":
            path = folder / ARCHITECTURE
            write_json(path, dict(self.document))
        else:
            path = folder / MODEL
            write_atomically(path, yaml.safe_dump(dict(self.document), sort_keys=False).encode())
        return path

    def for_task(self, task: Task) -> Source:
        """The same network for the inputs and the outputs of a task; refused where it cannot take them."""
        if self.shape[0] != task.shape[0]:
            raise ConfigError(
                f"{self.name} takes {self.shape[0]} channels, the images of task '{task.name}' have {task.shape[0]}"
            )
        shape = self.shape if self.kind == "architecture" else task.shape
        classes = tuple(task.classes)
        outputs = outputs_beyond_classes(task)
        document = _with_outputs({**self.document, "shape": list(shape), "classes": list(classes)}, outputs)
        return replace(self, shape=shape, classes=classes, document=document, outputs=outputs)


plugins_beside = beside
"""The plugin files that the configuration beside a source names; see `archloom.trust`."""


@dataclass(frozen=True)
class _Known:
    """What a model must know of a task: enough to build it where there is no data."""

    name: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    outputs: tuple[int, ...] | None = None


def _with_outputs(document: Mapping[str, Any], outputs: tuple[int, ...] | None) -> dict[str, Any]:
    """The document with the shape of one output, where that is no classes' logits."""
    rest = {key: value for key, value in document.items() if key != "outputs"}
    return rest if outputs is None else {**rest, "outputs": list(outputs)}


def open_source(
    source: str | Path,
    host: Host,
    *,
    task: Task | None = None,
    options: Mapping[str, Any] | None = None,
) -> Source:
    """A run folder, a folder of `archloom retrain`, an architecture file, a model's YAML file, or a name.

    task: whose images and classes it is for; where it is left out, what the source itself says of them.
    options: those of a named architecture's space. Raises ConfigError or UnknownName, which say what is known.
    """
    kind, document, stored, base = _read(source)
    path = Path(source)
    weights = path / WEIGHTS if path.is_dir() and (path / WEIGHTS).exists() else None
    if kind == "model":
        made = _model_source(str(source), document, stored, weights, host, task, base)
    else:
        found = find(source if kind == "name" else document, host, dict(options or {}))
        made = _architecture_source(str(source), found, document, stored, weights)
    return made if task is None else made.for_task(task)


def source_of(document: Mapping[str, Any], host: Host, name: str = "the network") -> Source:
    """The source that a document means, the content of an architecture file or of a model's: without weights."""
    if "model" in document and "space" not in document:
        return _model_source(name, document, {}, None, host, None, Path())
    return _architecture_source(name, find(document, host), document, {}, None)


def _architecture_source(
    name: str, found: Found, document: Mapping[str, Any], stored: Mapping[str, Any], weights: Path | None
) -> Source:
    def build(known: _Known, seed: int) -> Model:
        return found.build(task=known, seed=seed)

    document = document or architecture_document(
        found.space_section, found.architecture, shape=found.shape, classes=(), model=found.model_section
    )
    return Source(
        name,
        "architecture",
        found.shape,
        found.classes,
        document,
        stored,
        weights,
        build,
        found,
        found.outputs,
    )


def _model_source(
    name: str,
    document: Mapping[str, Any],
    stored: Mapping[str, Any],
    weights: Path | None,
    host: Host,
    task: Task | None,
    base: Path,
) -> Source:
    section = named(_self_contained(parse_model(document["model"], name), base, name), host)
    outputs = output_sizes(document, name)
    if task is None and "task" in stored and not ("shape" in document and "classes" in document):
        task = make(host, "task", parse_part(stored["task"], "task"))
    if task is not None:
        shape, classes, outputs = tuple(task.shape), tuple(task.classes), outputs_beyond_classes(task)
    elif "shape" in document and "classes" in document:
        shape, classes = input_sizes(document["shape"], name), class_names(document["classes"], name)
    else:
        raise ConfigError(f"which task? {name} says neither 'task' nor 'shape' and 'classes': --task digits")
    whole = {
        "format": FORMAT,
        "model": section.model_dump(),
        "shape": list(shape),
        "classes": list(classes),
    }

    def build(known: _Known, seed: int) -> Model:
        return build_model(section, replace(known, name=name, shape=shape), host, seed=seed)

    whole = _with_outputs(whole, outputs)
    return Source(name, "model", shape, classes, whole, stored, weights, build, outputs=outputs)


def _self_contained(section: ModelConfig, base: Path, where: str) -> ModelConfig:
    """The section with the architecture file that its backbone names taken in, so that it can be moved."""
    part = section.backbone
    if part is None or part.type != BACKBONE or part.options.get("path") is None:
        return section
    if not isinstance(part.options["path"], str):
        raise ConfigError(
            f"{where}: backbone '{BACKBONE}': the path is {shown(repr(part.options['path']))}, no text"
        )
    path = Path(part.options["path"])
    path = path if path.exists() else base / path
    path = path / ARCHITECTURE if path.is_dir() else path
    if not path.exists():
        raise ConfigError(
            f"{where}: backbone '{BACKBONE}': there is no architecture file or run folder {part.options['path']}"
        )
    rest = {key: value for key, value in part.options.items() if key != "path"}
    inlined = Part(type=part.type, options={**rest, "document": dict(_json(path))})
    return section.model_copy(update={"backbone": inlined})


def _read(source: str | Path) -> tuple[str, Mapping[str, Any], Mapping[str, Any], Path]:
    """What kind of source it is, its document, what is stored beside it, and where relative paths start."""
    with reachable(source, "the source"):
        return _look_at(source)


def _look_at(source: str | Path) -> tuple[str, Mapping[str, Any], Mapping[str, Any], Path]:
    path = Path(source)
    if path.is_dir():
        beside: Mapping[str, Any] = {}
        for name in ("config.yaml", "training.yaml"):
            if (path / name).is_file():
                beside = _mapping(path / name)
                break
        if (path / ARCHITECTURE).is_file():
            return "architecture", _json(path / ARCHITECTURE), _parts(beside), path
        if (path / MODEL).is_file():
            document = _mapping(path / MODEL)
            return "model", document, _parts(beside or document), path
        _refuse_export(path)
        raise ConfigError(
            f"the folder {source} holds neither {ARCHITECTURE} nor {MODEL}: it is no run that found something, "
            "and nothing was trained in it"
        )
    if path.suffix in (".yaml", ".yml"):
        document = _mapping(path)
        if "objectives" in document:
            raise ConfigError(
                f"{path} configures a search and describes no network; give the search's run folder, or a file with "
                "backbone, neck, head and loss"
            )
        if "model" not in document:
            document = {"model": document}
        return "model", document, _parts(document), path.parent
    if path.is_file():
        return "architecture", _json(path), {}, path.parent
    return "name", {}, {}, Path()


def _refuse_export(folder: Path) -> None:
    """A ConfigError for a folder of `archloom export` that is no source: its config.json says what it is."""
    path = folder / "config.json"
    facts = read_json(path, "the exported folder's config.json") if path.is_file() else None
    if not isinstance(facts, Mapping):
        return
    own = facts.get("archloom")  # where a format has a config.json of its own, ours lies in it
    if isinstance(own, Mapping):
        facts = own
    if str(facts.get("format")).startswith("archloom export"):
        kind = f"format '{shown(str(facts['kind']))}'" if "kind" in facts else "another format"
        raise ConfigError(
            f"the folder {folder} is an export of {kind}; of exports, those of format safetensors "
            "alone are sources. Name what was exported, or export that again with --format safetensors"
        )


def _parts(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: data[key] for key in ("task", "recipe", "plugins") if data.get(key)}


def _json(path: Path) -> Mapping[str, Any]:
    data = read_json(path, "the architecture")
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path} is no architecture file of archloom: it holds no keys and values")
    refuse_decisions(data, str(path))
    return data


def _mapping(path: Path) -> Mapping[str, Any]:
    return read_mapping(path, "")


@dataclass(frozen=True)
class Chosen:
    """The task and the recipe of a training, made, and as the plain data that made them."""

    task: Task
    recipe: Recipe
    parts: Mapping[str, Any]


def choose(
    source: str | Path,
    host: Host,
    *,
    task: str | None = None,
    recipe: str | None = None,
    overrides: Iterable[str] = (),
) -> Chosen:
    """Task and recipe: what is stored beside the source, unless named here; `overrides` set their options.

    recipe: a name, or a YAML file of a recipe's fields, over those of the recipe that its `base` names.
    """
    _, _, stored, _ = _read(source)
    parts = {key: stored[key] for key in ("task", "recipe") if key in stored}
    if task is not None:
        parts["task"] = {"type": task}
    if recipe is not None:
        parts["recipe"] = _recipe_part(recipe, host)
    if "task" not in parts:
        raise ConfigError(f"which task? '{source}' names none beside it, so name one: --task digits")
    if "recipe" not in parts:
        parts["recipe"] = {"type": default(host, "recipe").name}
    parts = override(parts, overrides)
    if extra := set(parts) - {"task", "recipe"}:
        raise ConfigError(f"--set takes task.* and recipe.* here, not {', '.join(sorted(extra))}")
    made_task = make(host, "task", parse_part(parts["task"], "task"))
    made_recipe = make(host, "recipe", parse_part(parts["recipe"], "recipe"))
    return Chosen(made_task, made_recipe, parts)


def _recipe_part(recipe: str, host: Host) -> dict[str, Any]:
    """A recipe by name, or a file's fields over those of its base."""
    if Path(recipe).suffix not in (".yaml", ".yml"):
        return {"type": recipe}
    given = dict(_mapping(Path(recipe)))
    if "type" in given:
        raise ConfigError(
            f"{recipe}: a recipe file names the recipe that it starts from under 'base', not 'type'"
        )
    base = given.pop("base") if "base" in given else default(host, "recipe").name
    return {"type": base, **given}
