"""What a search is given: a configuration, in whatever form, and a folder, a new one or a run's."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..config import LATER, SearchConfig, parse_config
from ..config_files import override, read_config
from ..contents import contents_of, leaves, plugin_contents, task_contents
from ..documents import reachable, read_json, read_yaml
from ..errors import ArchloomError, ConfigError, RunError
from ..folder import Identity, Kind
from ..functions import with_function_files
from ..latency import FORMAT as TABLE
from ..latency import table_name
from ..plugin_files import of_package, parts_of
from ..plugins import Host
from ..resolve import Resolved, completed
from ..run import recorded
from ..trust import named_files


def as_config(config: SearchConfig | Mapping[str, Any] | str | Path) -> SearchConfig:
    """A checked configuration from whatever it was given as."""
    if isinstance(config, SearchConfig):
        return config
    return read_config(config) if isinstance(config, str | Path) else parse_config(config)


def read_stored(folder: str | Path) -> dict[str, Any]:
    """The configuration in a run folder, as plain data."""
    path = Path(folder) / "config.yaml"
    with reachable(folder, "the run", error=RunError):
        if not path.is_file():
            raise RunError(f"{folder} is no run folder: it has no config.yaml")
    stored = read_yaml(path, "the run's configuration", error=RunError)
    if not isinstance(stored, dict):
        raise RunError(f"{path} holds no configuration; restore it, or start a new run")
    return stored


def reopened(folder: str | Path, overrides: Iterable[str] = (), *, trust: bool = False) -> SearchConfig:
    """The configuration of a run with overrides; its plugin files are the run's own copies, unless others are named.

    trust: as of `archloom.trust.beside`.
    """
    stored, where = with_function_files(read_stored(folder)), Path(folder) / "config.yaml"
    data = override(stored, overrides)
    if data.get("plugins") and data["plugins"] == stored.get("plugins"):
        data["plugins"] = named_files(data["plugins"], where, trust=trust)
    elif isinstance(data.get("plugins"), list) and isinstance(stored.get("plugins"), list):
        # others are named: the functions that the run has are still its own, where they are not named anew
        others = {Path(str(one)).name for one in data["plugins"]}
        functions = [one for one in stored["plugins"] if parts_of(one)[1] or of_package(one)[1]]
        own = [one for one in functions if Path(one).name not in others]
        data["plugins"] = [*data["plugins"], *named_files(own, where, trust=trust)]
    return parse_config(data, str(where))


def _holds_a_run(folder: Path) -> bool:
    """Whether a run began there; one that was killed before its first event did not."""
    log = folder / "log.jsonl"
    return log.exists() and log.stat().st_size > 0


def _said_by_the_log(folder: Path) -> Identity | None:
    """The identity in the first event of a log, where older versions kept it; None where there is no log."""
    path = folder / "log.jsonl"
    if not _holds_a_run(folder):
        return None
    try:
        with path.open("rb") as file:
            first = json.loads(file.readline())
        return Identity(dict(first["identity"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(
            f"{path}, line 1, is no start of a run with its identity. Restore the file, or name another folder"
        ) from error


SEARCH = Kind(
    "search",
    "run",
    (
        "config.yaml",
        "environment.json",
        "log.*",
        "checkpoint.pt*",
        "architecture.json",
        "family.json",
        "*.safetensors",
        "result.json",
        "report.html",
    ),
    begun=_holds_a_run,
    legacy=_said_by_the_log,
    again="Go on with it: archloom resume {path}; or name another folder",
)
"""What `archloom search` leaves."""


def search_kind(host: Host) -> Kind:
    """`SEARCH`; older versions wrote down the options that were given, and this host's defaults complete them."""

    def legacy(folder: Path) -> Identity | None:
        found = _said_by_the_log(folder)
        if found is None:
            return None
        known = {name: value for name, value in found.settings.items() if name in SearchConfig.model_fields}
        try:
            whole = completed(parse_config(known), host).identity()
        except ArchloomError:  # a plugin is not there, say: compared as it stands
            return found
        return Identity({name: whole.get(name, value) for name, value in found.settings.items()})

    return replace(SEARCH, legacy=legacy)


def keep_tables(config: SearchConfig, folder: Path) -> None:
    """Copies, under recorded/, of the latency tables that the configuration names: the page says what they hold for."""
    for _, value in leaves(config.model_dump(mode="json")):
        if isinstance(value, str) and value.endswith(".json") and Path(value).is_file():
            with suppress(ConfigError):  # some other file, which is its own reader's matter
                table = read_json(value, "the file")
                if isinstance(table, dict) and table.get("format") == TABLE:
                    recorded(folder, table_name(value), partial(dict, table))


def identity_of(resolved: Resolved) -> Identity:
    """What a search is, with the hashes of its files, its plugin files and its splits; what may change is left out."""
    settings = {name: value for name, value in resolved.config.identity().items() if name not in LATER}
    contents = contents_of(settings) | plugin_contents(resolved.host.files)
    return Identity(settings, contents | task_contents(resolved.task))


def fresh_path(config: SearchConfig) -> Path:
    """A name in runs/ by date, space, and who searches."""
    who = (config.method or config.strategy or config.space).type
    return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{config.space.type}-{who}"
