"""A whole network from a `model:` section, without a search space: backbone, neck, head and loss by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from .backbone import OPTIONS, Backbone, backbone_of
from .config import ModelConfig, Part, parse_model
from .documents import read_yaml
from .drawing import own_rng
from .errors import ArchloomError, ConfigError, UnknownName
from .model import Model, evaluating, output_shape
from .plugins import Host
from .resolve import checked_component, model_parts
from .zoo import Found, find

ARCHITECTURE = "architecture"
"""The backbone that is a network of a search space: `{type: architecture, name: ...}` or with `path`."""


class Images(Protocol):
    """What a network must know of a task: its name, the shape of an input, (C, H, W) for images, and its classes; where
    it has other outputs, `outputs`, their shape (see `archloom.metrics.scoring_of`)."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def classes(self) -> Sequence[str]: ...


def read_model(path: str | Path) -> ModelConfig:
    """The `model:` section of a YAML file, or the file itself where it is nothing but one."""
    data = read_yaml(path, "the model")
    inner = data["model"] if isinstance(data, Mapping) and "model" in data else data
    return parse_model(inner, str(path))


def build_model(
    config: ModelConfig | Mapping[str, Any] | str | Path,
    task: Images,
    host: Host | None = None,
    *,
    seed: int = 0,
) -> Model:
    """The network that a `model:` section (or a YAML file with one) means, for the images and classes of `task`.

    Everything is looked up and checked before anything is built; parts that do not fit are refused with a
    ConfigError that names the part and both shapes. Weights are drawn from `seed`.
    """
    if isinstance(config, str | Path):
        config = read_model(config)
    config, host = parse_model(config), host or Host()
    if config.backbone is None:
        raise ConfigError(
            "the model names no backbone, and no search space supplies one here; "
            "for example: backbone: {type: ResNet, depth: 50}"
        )
    parts = model_parts(host, config.model_copy(update={"backbone": None}))
    name = f"backbone '{config.backbone.type}'"
    with own_rng(seed, "backbone"):
        made = _backbone(config.backbone, task, host)
    backbone = made.module
    shape = tuple(task.shape)
    with evaluating(backbone):
        try:
            output_shape(_First(backbone), shape)
        except ArchloomError:
            raise
        except Exception as error:
            raise ConfigError(
                f"{name} cannot take the images of task '{task.name}', of shape {(1, *shape)}: {error}"
            ) from error
    model = parts.assemble(backbone, shape=shape, task=task, seed=seed)
    model.weight_formats = made.formats
    model.freeze(f"backbone.{name}" for name in made.frozen)
    return model


class _First(nn.Module):
    """A backbone cut down to the first of its maps, so that its shape can be asked for."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Any) -> Any:
        maps = self.backbone(x)
        return maps[0] if isinstance(maps, tuple) else maps


def _backbone(part: Part, task: Images, host: Host) -> Backbone:
    if part.type == ARCHITECTURE:
        own = {key: value for key, value in part.options.items() if key not in OPTIONS}
        shape = tuple(task.shape)
        return backbone_of(_found(own, task, host), part.options, shape, f"backbone '{ARCHITECTURE}'")
    known = [n.removeprefix("backbone.") for n in host.names("component") if n.startswith("backbone.")]
    if part.type not in known:
        hint = f"A network of a search space is {{type: {ARCHITECTURE}, name: fbnet_a}}."
        raise UnknownName("backbone", part.type, [*known, ARCHITECTURE], hint)
    options, channels = dict(part.options), task.shape[0]
    given = options.pop("in_channels", channels)
    if given != channels:
        raise ConfigError(
            f"backbone '{part.type}': in_channels = {given}, but the images of task '{task.name}' have "
            f"{channels} channels; leave in_channels out, since it is found"
        )
    maker = checked_component(host, "backbone", Part(type=part.type, options=options))
    try:
        return Backbone(maker(in_channels=channels))
    except ArchloomError:
        raise
    except Exception as error:
        raise ConfigError(
            f"backbone '{part.type}' cannot be made: {type(error).__name__}: {error}"
        ) from error


def _found(options: Mapping[str, Any], task: Images, host: Host) -> Found:
    """The architecture that a backbone's `name`, `path` or `document` means; the other options are its space's."""
    own = dict(options)
    given = [(key, own.pop(key)) for key in ("name", "path", "document") if own.get(key) is not None]
    if len(given) != 1:
        raise ConfigError(
            f"backbone '{ARCHITECTURE}' takes either a name (name: fbnet_a), or a file or run folder "
            "(path: runs/mine/architecture.json), or such a file's content (document: ...)"
        )
    key, source = given[0]
    if key == "path" and not Path(source).exists():
        raise ConfigError(f"backbone '{ARCHITECTURE}': there is no architecture file or run folder {source}")
    wanted = source if isinstance(source, Mapping) else str(source)
    found, channels = find(wanted, host, own), task.shape[0]
    takes = getattr(found.space, "in_channels", channels)
    if takes != channels and key == "name" and "in_channels" not in own:
        return find(wanted, host, {**own, "in_channels": channels})
    if takes != channels:
        told = source if key != "document" else "the document"
        raise ConfigError(
            f"backbone '{ARCHITECTURE}' ({told}) takes {takes} channels, the images of task '{task.name}' "
            f"have {channels}; give it in_channels: {channels}"
        )
    return found
