"""Functions of the user's own that a configuration names: `path: train.py:evaluate`.

The file of such a function is one of the run's plugin files. It is copied into the run's folder, known by its hash,
loaded by every process, and runs from somebody else's folder only when it is trusted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .plugin_files import parts_of


def with_function_files(data: Any) -> Any:
    """A configuration's plain data, the functions that its options name among its `plugins`.

    One that is there already, from wherever, is known by the names of file and function; a ConfigError where two
    different files have one name.
    """
    if not isinstance(data, Mapping) or not isinstance(plugins := data.get("plugins", []), list):
        return data
    named: dict[str, str] = {}
    for path in _named({key: value for key, value in data.items() if key != "plugins"}):
        name = Path(path).name
        if named.setdefault(name, path) != path:
            raise ConfigError(
                f"'{named[name]}' and '{path}' are two files of one name, and a run keeps them by their names; "
                "rename one of them"
            )
    known = {Path(one).name for one in plugins if isinstance(one, str)}
    missing = [path for name, path in named.items() if name not in known]
    return {**data, "plugins": [*plugins, *missing]} if missing else data


def _named(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _named(one)
    elif isinstance(value, str) and parts_of(value)[1]:
        yield value
