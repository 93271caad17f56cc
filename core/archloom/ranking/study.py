"""One comparison in its folder: supernets trained, everything estimated, figures and a page written."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..architecture import Architecture
from ..contents import contents_of, plugin_contents, task_contents
from ..cost import count
from ..documents import read_yaml
from ..environment import describe, versions
from ..errors import ConfigError, RunError, SpaceError
from ..estimator import Context, Metric
from ..fitting import Fit
from ..folder import Folder, Identity, Kind, path_name
from ..history import check_history
from ..measuring import Outcome
from ..model import Model
from ..observing import Observers, name_of
from ..plugins import Host
from ..processes import check_main_guard
from ..randomness import derive_seed
from ..ranks import Ranks
from ..report import write_ranking
from ..run import Log, recorded, write_atomically, write_json
from ..session.process import cpu_threads
from ..surroundings import undisturbed
from .agreement import Array, agreement, kendall, resampling
from .config import RankConfig, as_rank
from .estimating import estimates
from .plan import BASELINES, Plan, Predictor, make_plan

logger = logging.getLogger("archloom")

Notify = Callable[[dict[str, Any]], None]
Columns = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Ranking:
    """What a comparison ends with. `document`: all of it as plain data, as in rank.json."""

    folder: Path
    document: Mapping[str, Any]


@undisturbed("a ranking")
def rank(
    config: RankConfig | Mapping[str, Any] | str | Path,
    folder: str | Path | None = None,
    *,
    host: Host | None = None,
    notify: Notify = lambda event: None,
) -> Ranking:
    """Compare predictors with the truth, in a folder (default: in runs/, date and space).

    A folder in which the same comparison was begun is gone on with: what is estimated there, and supernets that are
    trained, are not done again. Raises ConfigError for what cannot be meant, before anything runs.
    """
    check_main_guard()
    checked = as_rank(config)
    plan = make_plan(checked, host or Host(checked.plugins))
    fresh = Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{checked.space.type}-rank"
    identity = _identity(plan)
    with cpu_threads(checked.threads):
        if folder is None:
            claimed = Folder.fresh(fresh, RANKING, identity)
        else:
            claimed = Folder.begin_or_go_on(folder, RANKING, identity)
        with claimed, closing(Log(claimed.path / "estimates.jsonl", claimed.lock.check)) as log:
            _check_estimates(log)
            return _Study(plan, claimed, log, notify).run()


def _begun(folder: Path) -> bool:
    log = folder / "estimates.jsonl"
    return log.exists() and log.stat().st_size > 0


def _said_by_the_configuration(folder: Path) -> Identity | None:
    """The configuration beside the estimates, by which older versions knew a folder."""
    if not (folder / "estimates.jsonl").exists():
        return None
    path = folder / "config.yaml"
    begun = read_yaml(path, "the configuration", error=RunError) if path.is_file() else None
    return Identity(begun) if isinstance(begun, dict) else None


RANKING = Kind(
    "rank",
    "comparison",
    ("config.yaml", "estimates.*", "rank.*"),
    begun=_begun,
    legacy=_said_by_the_configuration,
)
"""What `archloom rank` leaves."""


def _settings(config: RankConfig) -> dict[str, Any]:
    return config.model_dump(
        mode="json", exclude={"top", "resamples", "plugins", "executor", "workers", "threads"}
    )


def _identity(plan: Plan) -> Identity:
    """What a comparison's estimates depend on."""
    settings = _settings(plan.config)
    contents = {
        **contents_of(settings),
        **plugin_contents(plan.host.files),
        **task_contents(plan.context.task),
    }
    return Identity(settings, contents, versions(plan.host))


def _check_estimates(log: Log) -> None:
    """A RunError that names the first line that is no estimate, or one that is there already."""
    seen: dict[tuple[str, Architecture], int] = {}
    for index, event in enumerate(log.events):
        values, seconds = event.get("values"), event.get("seconds")
        numbers: list[Any] = [*values.values(), seconds] if isinstance(values, dict) else [seconds]
        try:
            architecture = Architecture.from_json(event.get("architecture"))
        except SpaceError as error:
            raise log.damage(index, f"is no estimate: {error}") from error
        if not isinstance(event.get("predictor"), str) or (values is None) != isinstance(
            event.get("error"), str
        ):
            raise log.damage(index, "is no estimate, with a predictor, and values or an error")
        if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
            raise log.damage(index, "is an estimate of something else than finite numbers")
        key = (event["predictor"], architecture)
        if key in seen:
            raise log.damage(index, f"is the estimate of line {seen[key]} once more")
        seen[key] = index + 1


class _Study:
    def __init__(self, plan: Plan, folder: Folder, log: Log, notify: Notify) -> None:
        # what is measured once is kept: estimates from before an interruption rest on the same table
        context = replace(plan.context, recorded=partial(recorded, folder.path))
        # a supernet's method is not told what it is compared with: its costs are what predictors count
        context = context.counting([predictor.estimator for predictor in plan.predictors])
        self.plan, self.folder, self.log, self.notify = (
            replace(plan, context=context),
            folder.path,
            log,
            Observers([(name_of(notify), notify)]),
        )
        self.seconds: dict[str, float] = {}
        self.owner = folder.identity.key
        text = yaml.safe_dump(_settings(plan.config), sort_keys=False)
        write_atomically(self.folder / "config.yaml", text.encode())

    def run(self) -> Ranking:
        plan, metric = self.plan, self.plan.config.metric
        for maker in plan.supernets.values():  # what a method refuses is said before anything is measured
            plan.context.method(maker)
        told = self._measured(Predictor("truth: ", plan.truth), plan.context.measuring())
        truth = [row[f"truth: {metric}"] for row in told]
        if odd := [a for a, value in zip(plan.networks, truth, strict=True) if not math.isfinite(value)]:
            raise ConfigError(
                f"the truth '{plan.config.truth.type}' does not tell {metric} of {len(odd)} of the networks, among "
                f"them '{odd[0]}'; {self.folder}/estimates.jsonl says why"
            )
        columns: dict[str, list[float]] = _counted(plan)
        trained: tuple[str, Model] | None = None
        for predictor in plan.predictors:
            supernet = None
            if predictor.supernet is not None:
                if trained is None or trained[0] != predictor.supernet:
                    trained = predictor.supernet, self._trained(predictor.supernet)
                supernet = trained[1]
            rows = self._measured(predictor, plan.context.measuring(supernet=supernet))
            columns |= {name: [row[name] for row in rows] for name in plan.names(predictor)}
        document = self._document(truth, columns)
        write_json(self.folder / "rank.json", document)
        write_ranking(self.folder / "rank.html", document)
        return Ranking(self.folder, document)

    def _trained(self, label: str) -> Model:
        """The supernet, trained to its end; a training that was begun in the folder is gone on with."""
        method = self.plan.context.method(self.plan.supernets[label])
        home = self.folder / "supernets" / path_name(label.replace(" ", "-"))
        home.mkdir(parents=True, exist_ok=True)
        told = lambda event: self.notify(event | {"supernet": label})
        with closing(Log(home / "log.jsonl")) as log:
            check_history(log.events, log.damage)
            owner = f"{self.owner} {label}"
            fit = Fit(method, home / "checkpoint.pt", log, None, None, Ranks(), notify=told, owner=owner)
            fit.run()
        self.seconds[f"{label}, training"] = fit.active
        return method.supernet

    def _measured(self, predictor: Predictor, context: Context) -> list[dict[str, float]]:
        """For each network its metrics under their names; NaN where the estimator raised, or gave no number."""
        networks, metrics = self.plan.networks, [m.name for m in predictor.estimator.metrics]
        done = {
            Architecture.from_json(event["architecture"]): event
            for event in self.log.events
            if event["predictor"] == predictor.key
        }
        label = "truth" if predictor.estimator is self.plan.truth else predictor.key
        missing = [architecture for architecture in networks if architecture not in done]
        rows, failed, seconds = [], 0, 0.0
        with closing(estimates(self.plan, predictor, context, missing, self.folder)) as fresh:
            for number, architecture in enumerate(networks, 1):
                event = done.get(architecture)
                if event is None:
                    event = {"predictor": predictor.key, "architecture": architecture.to_json()}
                    event |= _told(next(fresh))
                    self.log.append(event)
                if "error" in event:
                    failed += 1
                    if failed == 1:
                        logger.warning(
                            "%s cannot measure '%s': %s", predictor.key, architecture, event["error"]
                        )
                values = event.get("values", {})
                rows.append({predictor.prefix + name: values.get(name, math.nan) for name in metrics})
                seconds += event["seconds"]
                self.notify({"event": "estimate", "predictor": label, "number": number, "of": len(networks)})
        if label != "truth":
            self.seconds[predictor.key] = seconds / len(networks)
        return rows

    def _document(self, truth: Sequence[float], columns: Columns) -> dict[str, Any]:
        plan, config = self.plan, self.plan.config
        values = {"truth": truth, **columns}
        return {
            "title": f"{config.space.type} on {config.task.type}",
            "truth": {
                "metric": config.metric,
                "unit": plan.measure.unit,
                "estimator": config.truth.type,
                "best": "lowest" if _sign(plan.measure) < 0 else "highest",
            },
            "networks": len(plan.networks),
            "top": config.top,
            "resamples": config.resamples,
            "rows": _rows(plan, truth, columns),
            "seconds": self.seconds,
            "config": config.model_dump(mode="json"),
            "environment": describe(plan.host, config),
            "architectures": [architecture.to_json() for architecture in plan.networks],
            "values": {
                name: [v if math.isfinite(v) else None for v in each] for name, each in values.items()
            },
        }


def _counted(plan: Plan) -> dict[str, list[float]]:
    """The baselines' columns."""
    context = plan.context.measuring()
    costs = [count(context.outline(a), context.shape(a)) for a in plan.networks]
    return {"params": [float(cost.params) for cost in costs], "macs": [float(cost.macs) for cost in costs]}


def _told(outcome: Outcome) -> dict[str, Any]:
    """values and seconds, or error and seconds: what an estimator raises on one network is recorded."""
    seconds = outcome.cost["seconds"]
    if outcome.status == "failed":
        return {"error": outcome.error, "seconds": seconds}
    return {"values": dict(outcome.metrics), "seconds": seconds}


def _rows(plan: Plan, truth: Sequence[float], columns: Columns) -> list[dict[str, Any]]:
    """The baselines first, then the predictors, each with its figures: both sides signed so that higher is better."""
    config = plan.config
    metrics = {p.prefix + m.name: m for p in plan.predictors for m in p.estimator.metrics}
    y = np.asarray(truth) * _sign(plan.measure)
    signs = {name: _sign(metric) for name, metric in metrics.items()} | _baseline_signs(plan, y, columns)
    rows = []
    for name, values in columns.items():
        x, baseline = np.asarray(values), name in BASELINES
        told = agreement(
            signs[name] * x,
            y,
            signs["macs"] * np.asarray(columns["macs"]),
            k=config.top,
            resamples=config.resamples,
            rng=np.random.default_rng(derive_seed(config.seed, "bootstrap")),
        )
        row = {
            "name": name,
            "baseline": baseline,
            "unit": BASELINES[name] if baseline else metrics[name].unit,
            "best": "lowest" if signs[name] < 0 else "highest",
            "constant": len(np.unique(x[np.isfinite(x)])) == 1,
        }
        rows.append(row | told.to_json())
    return rows


def _sign(metric: Metric) -> float:
    return -1.0 if metric.direction == "min" else 1.0


def _baseline_signs(plan: Plan, y: Array, columns: Columns) -> dict[str, float]:
    """More params and MACs are held better. A truth of which less is better may be a cost, which grows with them, or
    an error, which falls: there the direction in which the baseline agrees better with the truth is taken."""
    if _sign(plan.measure) > 0:
        return dict.fromkeys(BASELINES, 1.0)
    once = resampling(len(y), 0, np.random.default_rng(0))
    return {name: -1.0 if kendall(np.asarray(columns[name]), y, once)[0] < 0 else 1.0 for name in BASELINES}
