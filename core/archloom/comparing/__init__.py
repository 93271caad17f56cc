"""Strategies against each other: the same space, estimators and budget, many seeds, random search always among them.

    compare(config, folder)    all searches, then comparison.json and comparison.html in the folder

The folder holds runs.jsonl as well, a line for each search that ended: a comparison that was interrupted, or that gets
more seeds or strategies, goes on from there. docs/compare.md tells how to read the result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contents import contents_of, plugin_contents, task_contents
from ..context import remembered
from ..environment import describe, versions
from ..errors import ConfigError, RunError
from ..folder import Folder, Identity, Kind
from ..observing import Observers, name_of
from ..plugins import Host
from ..processes import check_main_guard
from ..ranks import Ranks
from ..resolve import Resolved, resolve
from ..run import Log, write_atomically, write_json
from ..surroundings import undisturbed
from .config import Comparison, parse_comparison, read_comparison
from .page import page
from .results import FORMAT, Direction, results, seconds
from .runs import Searches, run_all

__all__ = ["FORMAT", "Compared", "compare", "parse_comparison", "read_comparison"]

Notify = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Compared:
    """Where the result lies. `document`: what comparison.json holds, the same for each run of the same comparison.
    `environment`: what environment.json holds, where and how fast it was run."""

    folder: Path
    document: Mapping[str, Any]
    environment: Mapping[str, Any]


@undisturbed("a comparison")
def compare(
    config: Comparison | Mapping[str, Any] | str | Path,
    folder: str | Path,
    *,
    host: Host | None = None,
    notify: Notify = lambda event: None,
) -> Compared:
    """Run every search that `folder` has not yet, and write comparison.json and comparison.html there.

    config: a `Comparison`, a dictionary, or a YAML file. host: the plugins; where it was given some that lie in no
    file, `processes` must be 1. Raises a RunError where the folder holds a comparison of something else.
    """
    check_main_guard()
    comparison = _as_comparison(config)
    host = host or Host(comparison.shared.plugins)
    comparison = comparison.named(host)
    folder = Path(folder)
    resolved = {
        label: resolve(comparison.of(label, 0), host) for label in comparison.protocol.strategies
    }  # whatever is wrong is said before anything runs
    directions = _directions(comparison, resolved[comparison.baseline])
    for one in resolved.values():
        if one.method is None:  # options that a strategy refuses are refused before the first search of any
            one.context(Ranks(), remembered(), seed=0).strategy(one.strategy)
    with Folder.begin_or_go_on(
        folder, COMPARISON, _identity(comparison, resolved[comparison.baseline])
    ) as claimed:
        tell = Observers([(name_of(notify), notify)])
        tell({"event": "start", "folder": str(folder)})
        with closing(_log(claimed, comparison)) as log:
            optima = _optima(comparison, folder, host)
            records = run_all(comparison, folder, host, log, tell)
        document = results(comparison, records, directions, optima)
        write_json(folder / "comparison.json", document)
        environment = describe(host, comparison.of(comparison.baseline, 0)) | {
            "seconds": seconds(comparison, records)
        }
        write_json(folder / "environment.json", environment)
        write_atomically(folder / "comparison.html", page(document, environment).encode())
    return Compared(folder, document, environment)


def _as_comparison(config: Comparison | Mapping[str, Any] | str | Path) -> Comparison:
    if isinstance(config, Comparison):
        return config
    return read_comparison(config) if isinstance(config, str | Path) else parse_comparison(config)


def _directions(comparison: Comparison, resolved: Resolved) -> dict[str, Direction]:
    """Direction and unit of each score; a ConfigError where its metrics are unknown or do not go together."""
    found = {}
    for label, names in comparison.protocol.score.items():
        unknown = [name for name in names if name not in resolved.metrics]
        if unknown:
            raise ConfigError(
                f"score '{label}' needs '{unknown[0]}', which no estimator here measures; there are "
                f"{', '.join(resolved.metrics)}"
            )
        metrics = [resolved.metrics[name] for name in names]
        if len({(metric.direction, metric.unit) for metric in metrics}) > 1:
            raise ConfigError(
                f"score '{label}' is a mean of metrics that differ in unit or direction: {', '.join(names)}"
            )
        found[label] = Direction(metrics[0].direction, metrics[0].unit)
    return found


def _begun(folder: Path) -> bool:
    log = folder / "runs.jsonl"
    return log.exists() and log.stat().st_size > 0


def _said_by_the_log(folder: Path) -> Identity | None:
    """The identity in the first line of a folder's log, where older versions kept it; None where there is no log."""
    path = folder / "runs.jsonl"
    if not _begun(folder):
        return None
    try:
        with path.open("rb") as file:
            return Identity(dict(json.loads(file.readline())["identity"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(
            f"{path}, line 1, is no start of a comparison with its identity. Restore the file, or name another folder"
        ) from error


COMPARISON = Kind(
    "compare",
    "comparison",
    ("runs.*", "comparison.*", "optimum.json", "environment.json"),
    begun=_begun,
    legacy=_said_by_the_log,
)
"""What `archloom compare` leaves."""


def _identity(comparison: Comparison, resolved: Resolved) -> Identity:
    """What all searches of a folder share, and the files that the strategies name."""
    settings = comparison.identity()
    named = {label: one.to_json() for label, one in comparison.protocol.strategies.items()}
    contents = {
        **contents_of({**settings, "strategies": named}),
        **plugin_contents(resolved.host.files),
        **task_contents(resolved.task),
    }
    return Identity(settings, contents, versions(resolved.host))


def _log(folder: Folder, comparison: Comparison) -> Log:
    try:
        log = Log(folder.path / "runs.jsonl", folder.lock.check)
    except OSError as error:
        raise RunError(f"cannot open the folder {folder.path}: {error.strerror or error}") from error
    if not log.events:
        log.append({"event": "start", "identity": comparison.identity()})
    return log


def _optima(comparison: Comparison, folder: Path, host: Host) -> dict[str, dict[str, float]]:
    """The best scores of the whole space, measured once for one folder; empty where nobody asked."""
    protocol = comparison.protocol
    if protocol.optimum is None:
        return {}
    if protocol.optimum != "exhaustive":
        return {label: {"best": protocol.optimum} for label in protocol.score}
    asked = json.dumps([comparison.identity(), protocol.select, protocol.score], sort_keys=True)
    key = hashlib.sha256(asked.encode()).hexdigest()
    path = folder / "optimum.json"
    if path.exists():
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(f"{path} is damaged; delete it to have it measured again") from error
        if kept.get("of") == key:
            return dict(kept["optima"])
    optima = Searches(comparison, folder, host).optima(protocol.score)
    write_json(path, {"of": key, "optima": optima})
    return optima
