"""Networks by name, or from the file of an architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .architecture import Architecture
from .config import ModelConfig, parse_model, parse_part
from .defaults import named
from .documents import plain, reachable, read_json
from .errors import ArchloomError, ConfigError, SpaceError, UnknownName, shown
from .factories import Entry
from .model import Model, ModelParts, build_network
from .plugins import Host
from .resolve import model_parts
from .shared import offers, shared_network
from .space import NamedArchitecture, SearchSpace, check
from .trust import beside

FORMAT, DECISIONS = "archloom architecture 1", "archloom decisions 1"


@dataclass(frozen=True)
class Found:
    """An architecture with its space, and what its file or its authors say about it.

    The sections are the plain data that space and parts were made from, as a configuration has them. outputs: the shape
    of one output, where that is no classes' logits.
    """

    space: SearchSpace
    architecture: Architecture
    shape: tuple[int, ...]
    classes: tuple[str, ...] | None
    parts: ModelParts
    published: Mapping[str, Any]
    space_section: Mapping[str, Any]
    model_section: Mapping[str, Any]
    outputs: tuple[int, ...] | None = None

    def build(self, num_classes: int | None = None, *, seed: int = 0, task: Any = None) -> Model:
        """The whole model, its weights drawn from `seed`, for so many classes or for the outputs of `task`."""
        count = num_classes if num_classes is not None else len(self.classes or ()) or 1000
        if task is None and num_classes is None and self.outputs is not None:
            task = self
        try:
            return build_network(
                self.space,
                self.architecture,
                self.parts,
                shape=self.shape,
                num_classes=count,
                task=task,
                seed=seed,
            )
        except ArchloomError:
            raise
        except (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError, MemoryError) as error:
            raise ConfigError(
                f"the network '{shown(str(self.architecture))}' of space '{self.space_section.get('type')}' cannot be "
                f"built for {'images' if len(self.shape) == 3 else 'inputs'} of {'x'.join(map(str, self.shape))}"
                f"{' (channels x height x width)' if len(self.shape) == 3 else ''}: "
                f"{type(error).__name__}: {error}"
            ) from error


def architecture_document(
    space: Mapping[str, Any],
    architecture: Architecture,
    *,
    shape: tuple[int, ...],
    classes: tuple[str, ...],
    model: Mapping[str, Any],
    outputs: tuple[int, ...] | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """What `architecture.json` holds: enough to build the network anywhere. outputs: where they are no classes."""
    return {
        "format": FORMAT,
        "space": dict(space),
        "architecture": architecture.to_json(),
        "shape": list(shape),
        "classes": list(classes),
        "model": dict(model),
        **({} if outputs is None else {"outputs": list(outputs)}),
        **facts,
    }


def find(name: str | Path | Mapping[str, Any], host: Host, options: Mapping[str, Any] | None = None) -> Found:
    """A named architecture, an architecture file, a run folder that holds one, or such a file's content.

    `options` are given to the architecture's space, over those that the name implies.
    """
    options = dict(options or {})
    if isinstance(name, Mapping):
        return _from_document(name, host, options, "the architecture")
    path = Path(name)
    with reachable(path, "the architecture"):
        path = path / "architecture.json" if path.is_dir() else path
        there = path.is_file()
    if there:
        return _from_document(read_json(path, "the architecture"), host, options, str(path))
    if path.suffix == ".json" or len(path.parts) > 1:
        raise ConfigError(f"there is no architecture file {name}")
    return _from_name(str(name), host, options)


def decisions_document(space: Mapping[str, Any], architecture: Architecture, **facts: Any) -> dict[str, Any]:
    """What `architecture.json` holds of a run without a task: decisions alone, of which no network can be built."""
    return {"format": DECISIONS, "space": dict(space), "architecture": architecture.to_json(), **facts}


def refuse_decisions(document: Any, where: str) -> None:
    """A ConfigError for the decisions of a run without a task, of which no network can be built."""
    if isinstance(document, Mapping) and document.get("format") == DECISIONS:
        raise ConfigError(
            f"{where} comes from a search without a task (task: null): it holds decisions, and no network can be built "
            "of them"
        )


def _from_document(document: Any, host: Host, options: dict[str, Any], where: str) -> Found:
    refuse_decisions(document, where)
    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        raise ConfigError(f"{where} is no architecture file of archloom (its 'format' is not '{FORMAT}')")
    document = plain(document, where)
    for key in ("space", "architecture", "shape", "classes", "model"):
        if key not in document:
            raise ConfigError(f"{where} lacks '{key}'")
    damaged = f"{where} is damaged"
    if isinstance(document["space"], Mapping) and "type" not in document["space"]:
        raise ConfigError(f"{damaged}: its space lacks 'type'")
    part = parse_part(document["space"], f"{damaged}: space")
    entry = host.get("space", part.type)
    given = {**part.options, **options}
    space = _space(entry, given, host, where)
    model = named(parse_model(document["model"], f"{damaged}: model"), host)
    try:
        architecture = check(space, Architecture.from_json(document["architecture"]))
    except SpaceError as error:
        raise SpaceError(f"{where}: {error}") from error
    return Found(
        space=space,
        architecture=architecture,
        shape=input_sizes(document["shape"], damaged),
        classes=class_names(document["classes"], damaged),
        parts=model_parts(host, model),
        published={},
        space_section={"type": entry.name, **given},
        model_section=model.model_dump(),
        outputs=output_sizes(document, damaged),
    )


def _space(entry: Entry, options: Mapping[str, Any], host: Host, where: str) -> Any:
    """A space by its entry; a ConfigError where its factory cannot make it of these options."""
    checked = entry.validate(options, where)
    try:
        return entry.make(checked, host=host)
    except ArchloomError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{where}: space '{entry.name}' cannot be made: {type(error).__name__}: {error}"
        ) from error


SIDE = 2**16
"""The most channels, and the longest side, of inputs that a document may name."""


def input_sizes(value: Any, where: str) -> tuple[int, ...]:
    """The shape of one input as a document from outside gives it; a ConfigError where it is none."""
    return _sizes(value, f"{where}: 'shape' is [channels, height, width], or [channels, length] of a series")


def output_sizes(document: Mapping[str, Any], where: str) -> tuple[int, ...] | None:
    """The shape of one output, where a document from outside names it; a ConfigError where it is none."""
    value = document.get("outputs")
    return (
        None
        if value is None
        else _sizes(value, f"{where}: 'outputs' is the shape of one output, such as [1]")
    )


def _sizes(value: Any, rule: str) -> tuple[int, ...]:
    sizes = value if isinstance(value, list | tuple) else ()
    if not 1 <= len(sizes) <= 4 or not all(type(size) is int and 1 <= size <= SIDE for size in sizes):
        raise ConfigError(f"{rule}, whole numbers from 1 to {SIDE:,}, not {shown(repr(value))}")
    return tuple(sizes)


def class_names(value: Any, where: str) -> tuple[str, ...]:
    """The classes' names as a document from outside gives them; a ConfigError where they are none."""
    if not isinstance(value, list | tuple) or not all(isinstance(name, str | int) for name in value):
        raise ConfigError(f"{where}: 'classes' is a list of names, not {shown(repr(value))}")
    return tuple(map(str, value))


def _from_name(name: str, host: Host, options: dict[str, Any]) -> Found:
    known: list[str] = []
    for entry in host.entries("space"):
        if any(option.required for option in entry.options):
            continue
        accepted = {option.name for option in entry.options}
        if not options.keys() <= accepted:
            theirs = _names(_space(entry, {}, host, f"space '{entry.name}'"))
            if name not in theirs:
                known += theirs
                continue
        space = _space(entry, options, host, f"space '{entry.name}'")
        named: Mapping[str, NamedArchitecture] = getattr(space, "named", {})
        known += named
        if name in named:
            return _of_name(entry, named[name], options, host)
    hint = "There is no file or folder of that name either; an architecture.json file or a run folder is taken too."
    raise UnknownName("architecture", name, known, hint)


def _names(space: Any) -> list[str]:
    return list(getattr(space, "named", {}))


def _of_name(entry: Any, found: NamedArchitecture, options: dict[str, Any], host: Host) -> Found:
    space = _space(entry, {**found.options, **options}, host, f"space '{entry.name}'")
    model = named(ModelConfig.model_validate(getattr(space, "recommended_model", {})), host)
    side = found.resolution
    return Found(
        space=space,
        architecture=check(space, found.architecture),
        shape=(getattr(space, "in_channels", 3), side, side),
        classes=None,
        parts=model_parts(host, model),
        published=found.published,
        space_section={"type": entry.name, **found.options, **options},
        model_section=model.model_dump(),
    )


def build(
    name: str | Path | Mapping[str, Any] | Architecture | Any,
    num_classes: int | None = None,
    *,
    seed: int = 0,
    host: Host | None = None,
    trust: bool = False,
    **options: Any,
) -> Model:
    """A network by name ("fbnet_a"), from an architecture file, from a run folder, or as a search found it.

    name: the result of a search, one of its trials, or the architecture of either will do too. num_classes: 1000 for a
    name, the file's own for a file, unless given. options: those of the architecture's space (`reference=True`).
    Weights are drawn from `seed`. Plugin files that a run folder names are loaded with it; trust: also where they
    never ran on this machine.
    """
    source: str | Path | Mapping[str, Any] = _meant(name)
    folder = source.get("folder") if isinstance(source, Mapping) else source
    host = host or Host(beside(folder, trust=trust) if isinstance(folder, str | Path) else [])
    return find(source, host, options).build(num_classes, seed=seed)


def _meant(name: Any) -> str | Path | Mapping[str, Any]:
    """What a thing that holds an architecture means for `find`: its document."""
    held = name if isinstance(name, Architecture) else getattr(name, "architecture", None)
    if isinstance(held, Architecture):
        if held.document is None:
            raise ConfigError(
                "an architecture alone does not say of which space it is; build the run's folder, its "
                "architecture.json, or the architecture of a search's result"
            )
        return held.document
    if isinstance(name, str | Path | Mapping):
        return name
    if hasattr(name, "architecture"):
        raise ConfigError(
            "the search left a front and no single network; choose one of it: archloom.build(result.front[0])"
        )
    raise ConfigError(
        f"a network is built from a name, a file, a folder or a search's result, not {type(name).__name__}"
    )


def supernet(
    name: str,
    num_classes: int | None = None,
    *,
    seed: int = 0,
    host: Host | None = None,
    **options: Any,
) -> Any:
    """The shared network of a search space by name, an `archloom.shared.SharedNetwork`, with weights from `seed`.

    It ends at features, or, where the space's networks own their head, at `num_classes` outputs (1000). options: those
    of the space, over their defaults. Raises UnknownName, or ConfigError for a space that shares no weights.
    """
    if not isinstance(name, str):
        raise ConfigError(
            f"a supernet is made of a space by name, not of a {type(name).__name__}; of a space that is made, "
            "archloom.shared.shared_network(space, seed, num_classes) gives it"
        )
    host = host or Host()
    entry = host.get("space", name)
    space = _space(entry, options, host, f"space '{name}'")
    if "supernet" not in offers(space):
        raise ConfigError(f"space '{name}' shares no weights, so that it has no supernet")
    if not getattr(space, "owns_head", False):
        if num_classes is not None:
            raise ConfigError(
                f"the networks of space '{name}' end at features, which have no classes; leave num_classes out, or "
                "give the supernet a neck and a head (archloom.model.ModelParts)"
            )
        return shared_network(space, seed)
    return shared_network(space, seed, 1000 if num_classes is None else num_classes)
