"""Networks by name, or from the file of an architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .architecture import Architecture
from .config import ModelConfig
from .documents import read_json
from .errors import ConfigError, UnknownName
from .model import Model, ModelParts
from .plugins import Host
from .randomness import forked_rng
from .resolve import model_parts
from .space import NamedArchitecture, SearchSpace, check, weight_formats
from .trust import beside

FORMAT = "archloom architecture 1"


@dataclass(frozen=True)
class Found:
    """An architecture with its space, and what its file or its authors say about it.

    The sections are the plain data that space and parts were made from, as a configuration has them.
    """

    space: SearchSpace
    architecture: Architecture
    shape: tuple[int, int, int]
    classes: tuple[str, ...] | None
    parts: ModelParts
    published: Mapping[str, Any]
    space_section: Mapping[str, Any]
    model_section: Mapping[str, Any]

    def build(self, num_classes: int | None = None, *, seed: int = 0) -> Model:
        """The whole model, its weights drawn from `seed`."""
        count = num_classes if num_classes is not None else len(self.classes or ()) or 1000
        with forked_rng(seed, "backbone"):
            backbone = self.space.build(self.architecture)
        model = self.parts.assemble(backbone, shape=self.shape, num_classes=count, seed=seed)
        model.weight_formats = weight_formats(self.space, self.architecture)
        return model


def architecture_document(
    space: Mapping[str, Any],
    architecture: Architecture,
    *,
    shape: tuple[int, int, int],
    classes: tuple[str, ...],
    model: Mapping[str, Any],
    **facts: Any,
) -> dict[str, Any]:
    """What `architecture.json` holds: enough to build the network anywhere."""
    return {
        "format": FORMAT,
        "space": dict(space),
        "architecture": architecture.to_json(),
        "shape": list(shape),
        "classes": list(classes),
        "model": dict(model),
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
    if path.is_dir():
        path = path / "architecture.json"
    if path.is_file():
        return _from_document(read_json(path, "the architecture"), host, options, str(path))
    if path.suffix == ".json" or len(path.parts) > 1:
        raise ConfigError(f"there is no architecture file {name}")
    return _from_name(str(name), host, options)


def _from_document(document: Any, host: Host, options: dict[str, Any], where: str) -> Found:
    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        raise ConfigError(f"{where} is no architecture file of archloom (its 'format' is not '{FORMAT}')")
    try:
        given = dict(document["space"])
        entry = host.get("space", given.pop("type"))
        space = entry.make(entry.validate(given | options, where), host=host)
        model = ModelConfig.model_validate(document["model"])
        return Found(
            space=space,
            architecture=check(space, Architecture.from_json(document["architecture"])),
            shape=tuple(document["shape"]),
            classes=tuple(document["classes"]),
            parts=model_parts(host, model),
            published={},
            space_section={"type": entry.name, **given, **options},
            model_section=model.model_dump(),
        )
    except KeyError as error:
        raise ConfigError(f"{where} lacks {error}") from error
    except (TypeError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        raise ConfigError(f"{where} is damaged: {' '.join(str(error).split())}") from error


def _from_name(name: str, host: Host, options: dict[str, Any]) -> Found:
    known: list[str] = []
    for entry in host.entries("space"):
        if any(option.required for option in entry.options):
            continue
        accepted = {option.name for option in entry.options}
        if not options.keys() <= accepted:
            theirs = _names(entry.make(entry.validate({}), host=host))
            if name not in theirs:
                known += theirs
                continue
        space = entry.make(entry.validate(options), host=host)
        named: Mapping[str, NamedArchitecture] = getattr(space, "named", {})
        known += named
        if name in named:
            return _named(entry, named[name], options, host)
    raise UnknownName("architecture", name, known, "An architecture.json file or a run folder is taken too.")


def _names(space: Any) -> list[str]:
    return list(getattr(space, "named", {}))


def _named(entry: Any, found: NamedArchitecture, options: dict[str, Any], host: Host) -> Found:
    space = entry.make(entry.validate({**found.options, **options}), host=host)
    model = ModelConfig.model_validate(getattr(space, "recommended_model", {}))
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
    name: str | Path | Mapping[str, Any],
    num_classes: int | None = None,
    *,
    seed: int = 0,
    host: Host | None = None,
    trust: bool = False,
    **options: Any,
) -> Model:
    """A network by name ("fbnet_a"), from an architecture file, or from a run folder.

    num_classes: 1000 for a name, the file's own for a file, unless given. options: those of the
    architecture's space (`reference=True`). Weights are drawn from `seed`. Plugin files that a run folder names are
    loaded with it; trust: also where they never ran on this machine.
    """
    host = host or Host([] if isinstance(name, Mapping) else beside(name, trust=trust))
    return find(name, host, options).build(num_classes, seed=seed)
