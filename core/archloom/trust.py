"""Which plugin files run: those that their user names, and those in a folder that ran on this machine before.

    keep(folder, ...)     copy plugin files into a folder whose configuration names them
    beside(source)        those that the configuration in a folder names, where they may run
    remember(plugin)      it ran here, because its user named it

A plugin file is code. Where a folder came from somebody else, its plugin files never ran here, and run only when the
user says that they are trusted. What ran here is known by its hash, which is written down in the user's own data
folder, so that a run of one's own may be moved, copied and opened from anywhere.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .documents import reachable, read_json, read_yaml
from .errors import ConfigError, PluginError, shown
from .plugin_files import PluginFile, absolute, from_folder, parts_of, read_plugin

logger = logging.getLogger("archloom")

FOLDER, ORIGINS = "plugins", "origins.json"
"""Where a folder keeps the plugin files that its configuration names, and where they came from."""


def keep(folder: Path, plugins: Iterable[PluginFile]) -> list[str]:
    """Copy plugin files into `folder`, each under its hash; their paths from there, for its configuration."""
    from .run import write_atomically, write_json  # which import torch

    kept, origins = [], {}
    for plugin in plugins:
        if plugin.module:  # it is installed, and goes by its name
            kept.append(plugin.entry)
            continue
        home = folder / FOLDER / plugin.digest[:12]
        if home.resolve() != plugin.path.parent:
            for name, content in plugin.files.items():
                write_atomically(home / name, content)
            origins[home.name] = {"from": plugin.entry, "sha256": plugin.digest}
        kept.append((Path(FOLDER) / home.name / Path(plugin.entry).name).as_posix())
    if origins:
        known = _origins(folder)
        write_json(folder / FOLDER / ORIGINS, {**known, **origins})
    return kept


def _origins(folder: Path) -> dict[str, Any]:
    path = folder / FOLDER / ORIGINS
    known = read_json(path, "the plugin files' origins") if path.is_file() else {}
    return known if isinstance(known, dict) else {}


def beside(source: str | Path, named: Iterable[str | Path] = (), *, trust: bool = False) -> list[str]:
    """The plugin files that the configuration in a folder, or a YAML file, names; of a JSON file, its folder's.

    Paths start at the folder, or where one works. Those of a folder must have run on this machine before, or be
    trusted: a PluginError otherwise. A YAML file that is named itself is the user's own word. Files that are `named`
    besides come first, and take the place of those of the same name.
    """
    with reachable(source, "the source"):
        return _beside(source, named, trust)


def _beside(source: str | Path, named: Iterable[str | Path], trust: bool) -> list[str]:
    own = list(dict.fromkeys(absolute(file) for file in named))
    taken = {Path(file).name for file in own}
    path = Path(source)
    if path.suffix == ".json" and path.is_file():
        path = path.parent
    if path.is_dir():
        files = (path / name for name in ("config.yaml", "training.yaml"))
        file = next((one for one in files if one.is_file()), None)
    else:
        file = path if path.suffix in (".yaml", ".yml") and path.is_file() else None
    stored = None if file is None else read_yaml(file, "the configuration")
    listed = stored.get("plugins") if isinstance(stored, Mapping) else None
    if not listed or file is None:
        return own
    if isinstance(listed, list):
        listed = [one for one in listed if Path(str(one)).name not in taken]
    found = named_files(listed, file, trust=trust or not path.is_dir())
    return list(dict.fromkeys([*own, *found]))


def named_files(named: Any, file: Path, *, trust: bool) -> list[str]:
    """The plugin files that a configuration's `plugins` names; see `beside`."""
    if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
        raise ConfigError(f"{file.parent}: 'plugins' is a list of files, not {shown(repr(named))}")
    found = [absolute(from_folder(one, file.parent)) for one in named]
    if not trust:
        for one in found:
            _check_known(read_plugin(one), file.parent)
    return found


def _check_known(plugin: PluginFile, folder: Path) -> None:
    if plugin.digest not in _known | _written():
        raise PluginError(
            f"{folder} names the plugin file {plugin.path}, which never ran on this machine: it came with the "
            "folder, or was changed there. A plugin file is code, and does whatever you may do. Read it; if you trust "
            "it, say --trust (in Python: trust=True), or name your own copy with --plugin"
        )
    origin = _origins(folder).get(plugin.path.parent.name)
    first = str(origin.get("from")) if isinstance(origin, dict) else ""
    file, _ = parts_of(first)
    if first and file.is_file() and file.suffix == ".py" and read_plugin(first).digest != plugin.digest:
        logger.warning("%s was changed since; the copy in %s is used", file, plugin.path.parent)


_known: set[str] = set()


def remember(plugin: PluginFile) -> None:
    """Write down that this plugin file ran here because its user named it, where that can be written."""
    if plugin.digest in _known:
        return
    _known.add(plugin.digest)
    path = _trusted()
    if path is None or plugin.digest in _written():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"sha256": plugin.digest, "file": str(plugin.path)}) + "\n")
    except (OSError, UnicodeError):
        logger.info("%s cannot be written; plugin files in run folders will need --trust", path)


def _trusted() -> Path | None:
    """The file of hashes that ran here; None where the user has no folder of their own."""
    try:
        home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    except RuntimeError:
        return None
    return Path(home) / "archloom" / "plugin-files.jsonl"


def _written() -> set[str]:
    path = _trusted()
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path else []
    except (OSError, UnicodeError):
        return set()
    return {match[1] for line in lines if (match := re.match(r'{"sha256": "([0-9a-f]{64})"', line))}
