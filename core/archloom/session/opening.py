"""What a search is given: a configuration, in whatever form, and a folder, a new one or a run's."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import SearchConfig, parse_config, read_config
from ..documents import read_yaml
from ..errors import RunError


def as_config(config: SearchConfig | Mapping[str, Any] | str | Path) -> SearchConfig:
    """A checked configuration from whatever it was given as."""
    if isinstance(config, SearchConfig):
        return config
    return read_config(config) if isinstance(config, str | Path) else parse_config(config)


def read_stored(folder: str | Path) -> dict[str, Any]:
    """The configuration in a run folder, as plain data."""
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise RunError(f"{folder} is no run folder: it has no config.yaml")
    stored = read_yaml(path, "the run's configuration", error=RunError)
    if not isinstance(stored, dict):
        raise RunError(f"{path} holds no configuration; restore it, or start a new run")
    return stored


def holds_a_run(folder: Path) -> bool:
    """Whether a run began there; one that was killed before its first event did not."""
    log = folder / "log.jsonl"
    return log.exists() and log.stat().st_size > 0


def fresh_folder(config: SearchConfig) -> Path:
    """A folder in runs/ that is not there yet, named by date, space, and who searches."""
    who = (config.method or config.strategy or config.space).type
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.space.type}-{who}"
    folder, number = Path("runs") / stem, 2
    while folder.exists():
        folder, number = Path("runs") / f"{stem}-{number}", number + 1
    return folder
