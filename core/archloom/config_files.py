"""Configurations in files, and their keys set from outside."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from .config import Part, SearchConfig, parse_config
from .documents import DEPTH, parse_yaml
from .documents import read_yaml as _read_yaml
from .errors import ConfigError, shown
from .functions import with_function_files
from .plugin_files import from_folder


def read_config(path: str | Path, overrides: Iterable[str] = ()) -> SearchConfig:
    """A configuration from a YAML file, with `key=value` overrides: `strategy.population=20`."""
    return parse_config(located(override(read_yaml(path), overrides), path), str(path))


def located(data: Any, path: str | Path) -> Any:
    """`data`, its plugin files and its functions as they lie beside the file `path`, where they lie there."""
    data = with_function_files(data)
    files = data.get("plugins") if isinstance(data, Mapping) else None
    if not isinstance(files, list):
        return data
    home = Path(path).resolve().parent
    return {**data, "plugins": [from_folder(one, home) if isinstance(one, str) else one for one in files]}


def read_yaml(path: str | Path) -> Any:
    """The plain data in a YAML file; a ConfigError where it cannot be read."""
    return _read_yaml(path, "the configuration")


def override(data: Any, overrides: Iterable[str]) -> Any:
    """`data` with dotted keys set: `budget.trials=20`, `estimators.0.runs=5`; values are YAML.

    A metric's own dots belong to its name: `pick.within.accuracy.trained=1`. So do those of a key that is there, or
    that stands in quotes: `strategies."beta-0.5".population=9`.
    """
    for text in overrides:
        found = _OVERRIDE.match(text)
        if found is None:
            raise ConfigError(f"--set takes key=value, not '{shown(text)}'")
        path = [quoted or bare.strip() for _, quoted, bare in _KEY.findall(found[1])]
        if len(path) > DEPTH:
            raise ConfigError(f"--set {shown(text)}: a key has at most {DEPTH} parts, this one {len(path):,}")
        value = parse_yaml(found[2], f"--set {shown(text)}: the value")
        data = _set(data, path, value, shown(text), ())
    return data


_KEY = re.compile(r"""(["'])(.+?)\1|([^."']+)""")
_PART = r"""(?:"[^"]+"|'[^']+'|[^."'=]+)"""
_OVERRIDE = re.compile(rf"\s*({_PART}(?:\.{_PART})*)\s*=(.*)", re.DOTALL)


def _of_metrics(model: Any, path: tuple[str, ...] = ()) -> Iterable[tuple[str, ...]]:
    """The places of a configuration that map metrics to figures: there, what follows is one name with its dots."""
    for name, field in model.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if get_origin(kind) is dict and get_args(kind)[1] is not Any:
                yield (*path, name)
            elif hasattr(kind, "model_fields"):
                yield from _of_metrics(kind, (*path, name))


def _of_parts(model: Any, path: tuple[str, ...] = ()) -> Iterable[tuple[tuple[str, ...], str]]:
    """The places of a configuration that hold a part when nothing is written, and its name."""
    for name, field in model.model_fields.items():
        if isinstance(field.default, Part):
            yield (*path, name), field.default.type
        elif isinstance(field.default, BaseModel):
            yield from _of_parts(type(field.default), (*path, name))


_METRICS, _DEFAULTS = frozenset(_of_metrics(SearchConfig)), dict(_of_parts(SearchConfig))


def _set(node: Any, path: list[str], value: Any, text: str, at: tuple[str, ...]) -> Any:
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(node, list):
        if not head.isdecimal() or not head.isascii() or len(head) > 9 or int(head) >= len(node):
            raise ConfigError(f"--set {text}: '{shown(head)}' is no position of a list of {len(node)}")
        return [
            _set(item, rest, value, text, (*at, head)) if i == int(head) else item
            for i, item in enumerate(node)
        ]
    if node is None:
        node = {"type": _DEFAULTS[at]} if at in _DEFAULTS else {}
    if isinstance(node, str):
        node = {"type": node}
    if not isinstance(node, Mapping):
        raise ConfigError(f"--set {text}: '{shown(head)}' cannot be set inside {shown(repr(node))}")
    head, rest = _key(node, path, at)
    return {**node, head: _set(node.get(head), rest, value, text, (*at, head))}


def _key(node: Mapping[str, Any], path: list[str], at: tuple[str, ...]) -> tuple[str, list[str]]:
    """The key of `node` that a path begins with, dots of its own included, and what is left of the path."""
    if at in _METRICS:
        return ".".join(path), []
    for length in range(len(path), 1, -1):
        if (joined := ".".join(path[:length])) in node:
            return joined, path[length:]
    return path[0], path[1:]
