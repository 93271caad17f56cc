"""Strategies against each other: the same space, estimators and budget, many seeds, random search always among them.

    compare(config, folder)    all searches, then comparison.json and comparison.html in the folder

The folder holds runs.jsonl as well, a line for each search that ended: a comparison that was interrupted, or that gets
more seeds or strategies, goes on from there. docs/compare.md tells how to read the result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine import check_identity
from ..environment import describe
from ..errors import ConfigError, RunError
from ..plugins import Host
from ..processes import check_main_guard
from ..resolve import Resolved, resolve
from ..run import Log, write_atomically, write_json
from .config import BASELINE, Comparison, parse_comparison, read_comparison
from .page import page
from .results import FORMAT, Direction, results
from .runs import Searches, run_all

__all__ = ["BASELINE", "FORMAT", "Compared", "compare", "parse_comparison", "read_comparison"]

Notify = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Compared:
    """Where the result lies, and what comparison.json holds."""

    folder: Path
    document: Mapping[str, Any]


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
    folder = Path(folder)
    resolved = {
        label: resolve(comparison.of(label, 0), host) for label in comparison.protocol.strategies
    }  # whatever is wrong is said before anything runs
    directions = _directions(comparison, resolved[BASELINE])
    log = _open(comparison, folder, host)
    try:
        notify({"event": "start", "folder": str(folder)})
        optima = _optima(comparison, folder, host)
        records = run_all(comparison, folder, host, log, notify)
    finally:
        log.close()
    document = results(comparison, records, directions, optima)
    document["environment"] = describe(host, comparison.of(BASELINE, 0))
    write_json(folder / "comparison.json", document)
    write_atomically(folder / "comparison.html", page(document).encode())
    return Compared(folder, document)


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


def _open(comparison: Comparison, folder: Path, host: Host) -> Log:
    """The folder's log, checked to be of the same comparison."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log = Log(folder / "runs.jsonl")
    except OSError as error:
        raise RunError(f"cannot open the folder {folder}: {error.strerror or error}") from error
    first = next(log.of("start"), None)
    identity = json.loads(json.dumps(comparison.identity()))
    if first is None:
        log.append({"event": "start", "identity": identity})
        return log
    try:
        check_identity(first["identity"], identity)
    except RunError as error:
        log.close()
        raise RunError(f"{folder} holds another comparison; name another --folder. {error}") from None
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
