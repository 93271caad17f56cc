"""One search from a configuration to a finished run folder. `archloom.search` and `archloom.resume`."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save
from torch import nn

from .architecture import Architecture
from .config import SearchConfig, override, parse_config, read_config
from .engine import Limits, Search, check_identity
from .environment import describe
from .errors import ConfigError, RunError
from .estimator import Context
from .family import Member, family, write_family
from .fitting import Fit
from .hypervolume import history
from .measuring import Here, Measurer
from .model import Model
from .objective import best, front
from .plugins import Host
from .randomness import derive_seed, python_rng
from .ranks import Ranks, join, leave
from .report import write_report
from .resolve import Resolved, resolve
from .run import Run, load_checkpoint, recorded, write_atomically, write_json
from .space import input_shape
from .strategy import Strategy, WeightSharing
from .teacher import load_teacher
from .trainable import check_trainable
from .trial import Trial
from .verdict import Contestant, Group, draw_contestants, groups, judge, train_and_test
from .workers import Workers
from .zoo import architecture_document

logger = logging.getLogger("archloom")

Notify = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Result:
    """What a search ends with. `architecture` is None where several objectives leave a front and nothing
    says how to pick from it; `complete` is False where the budget ended the training of the supernet."""

    folder: Path
    architecture: Architecture | None
    trials: tuple[Trial, ...]
    front: tuple[Trial, ...]
    reason: str
    groups: tuple[Group, ...] = ()
    verdict: tuple[str, ...] = ()
    complete: bool = True
    family: tuple[Member, ...] = ()


def search(
    config: SearchConfig | Mapping[str, Any] | str | Path,
    folder: str | Path | None = None,
    *,
    host: Host | None = None,
    notify: Notify = lambda event: None,
) -> Result:
    """Run a search in a new folder (default: runs/, date and space). The config: an object, a dict, or a file."""
    checked = as_config(config)
    host = host or Host(checked.plugins)
    resolved = resolve(checked, host)
    ranks = join(resolved.device)
    target = ranks.broadcast_object(str(folder or _fresh_folder(checked)))
    if ranks.is_first and _holds_a_run(Path(target)):
        raise RunError(
            f"{target} already holds a run. Go on with it: archloom resume {target}; or name another folder"
        )
    return _Session(resolved, Path(target), ranks, notify).run()


def resume(
    folder: str | Path,
    *,
    overrides: tuple[str, ...] = (),
    host: Host | None = None,
    notify: Notify = lambda event: None,
) -> Result:
    """Go on with an interrupted run, or with a finished one under a larger budget (`budget.trials=50`)."""
    folder = Path(folder)
    config = parse_config(override(read_stored(folder), overrides), str(folder / "config.yaml"))
    host = host or Host(config.plugins)
    resolved = resolve(config, host)
    return _Session(resolved, folder, join(resolved.device), notify).run()


def _holds_a_run(folder: Path) -> bool:
    """Whether a run began there; one that was killed before its first event did not."""
    log = folder / "log.jsonl"
    return log.exists() and log.stat().st_size > 0


def read_stored(folder: str | Path) -> dict[str, Any]:
    """The configuration in a run folder, as plain data."""
    path = Path(folder) / "config.yaml"
    try:
        stored = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise RunError(f"{folder} is no run folder: it has no config.yaml") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
    if not isinstance(stored, dict):
        raise RunError(f"{path} holds no configuration; restore it, or start a new run")
    return stored


def as_config(config: SearchConfig | Mapping[str, Any] | str | Path) -> SearchConfig:
    """A checked configuration from whatever it was given as."""
    if isinstance(config, SearchConfig):
        return config
    return read_config(config) if isinstance(config, str | Path) else parse_config(config)


def _fresh_folder(config: SearchConfig) -> Path:
    who = (config.method or config.strategy or config.space).type
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.space.type}-{who}"
    folder, number = Path("runs") / stem, 2
    while folder.exists():
        folder, number = Path("runs") / f"{stem}-{number}", number + 1
    return folder


def _check_verdict(r: Resolved) -> nn.Module | None:
    """Refuse a recipe that could not train what is found, days before it is; the recipe's teacher, if any."""
    if not r.config.verdict.seeds:
        return None
    loss = r.parts.loss if isinstance(r.parts.loss, nn.Module) else r.parts.loss()
    teacher = load_teacher(r.recipe, r.task, r.host)
    check_trainable(loss, r.task, r.recipe, teacher=teacher)
    return teacher


class _Session:
    """One process's part in one search."""

    def __init__(self, resolved: Resolved, folder: Path, ranks: Ranks, notify: Notify) -> None:
        self.resolved, self.config, self.folder, self.ranks = resolved, resolved.config, folder, ranks
        self._teacher = _check_verdict(resolved) if ranks.is_first else None  # before anything is written
        self.run_folder = Run(folder) if ranks.is_first else None
        observers = [
            resolved.host.get("observer", part.type).make(
                resolved.host.get("observer", part.type).validate(part.options), folder=folder
            )
            for part in (self.config.observers if ranks.is_first else [])
        ]
        self._observers = [*observers, notify]

    def notify(self, event: dict[str, Any]) -> None:
        for observer in self._observers:
            observer(event)

    def recorded(self, name: str, measure: Callable[[], Any]) -> Any:
        value = self.run_folder.recorded(name, measure) if self.run_folder else None
        return self.ranks.broadcast_object(value)

    def run(self) -> Result:
        with cpu_threads(self.config.threads):
            return self._run_here()

    def _run_here(self) -> Result:
        if self.run_folder is None:
            self._fit(self._make_method())
            self.ranks = leave()
            return Result(self.folder, None, (), (), "this is not the first rank; the result is the first's")
        with _log_file(self.folder / "log.txt"):
            try:
                return self._run(self.run_folder)
            finally:
                self.run_folder.close()

    def _run(self, run: Run) -> Result:
        self._start(run)
        method = self._make_method()
        strategy = self._make_strategy(method)  # before fit: what is wrong is said before days are spent
        fitted = method is None or self._fit(method)
        self.ranks = leave()  # the others end here: what follows is the first rank's alone
        if not fitted:
            return Result(
                self.folder, None, (), (), "the budget ended before the supernet was trained", complete=False
            )
        trials, reason = self._search(run, method, strategy)
        return self._finish(run, method, trials, reason)

    # -- start -------------------------------------------------------------------------------------

    def _start(self, run: Run) -> None:
        identity, environment = self.config.identity(), describe(self.resolved.host, self.config)
        first = next(run.log.of("start"), None)
        if first is not None:
            check_identity(first["identity"], identity)
            for name, then in first["versions"].items():
                if (now := environment["versions"].get(name)) != then:
                    logger.warning("%s was %s when the run began and is %s now", name, then, now)
            if first["device"] != self.config.device:
                logger.warning("the run began on %s and goes on on %s", first["device"], self.config.device)
        dumped = yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False)
        write_atomically(self.folder / "config.yaml", dumped.encode())
        write_json(self.folder / "environment.json", environment)
        event = {
            "event": "start",
            "identity": identity,
            "versions": environment["versions"],
            "device": self.config.device,
            "folder": str(self.folder),
        }
        run.log.append(event)
        self.notify(event)

    # -- fit ---------------------------------------------------------------------------------------

    def _make_method(self) -> Any:
        r = self.resolved
        if r.method is None:
            return None
        method = r.method(
            space=r.space,
            task=r.task,
            seed=self.config.seed,
            ranks=self.ranks,
            rng=python_rng(self.config.seed, "method"),
            model=r.parts,
            device=r.device,
            precision=self.config.precision,
            recorded=self.recorded,
            objectives=tuple(r.objectives),
        )
        if not isinstance(method, WeightSharing):
            raise ConfigError(
                f"method '{r.method.entry.name}' takes a task but lacks one of: supernet, fit, state_dict, "
                "load_state_dict"
            )
        return method

    def _fit(self, method: WeightSharing) -> bool:
        budget = self.config.budget
        log = self.run_folder.log if self.run_folder else None
        self._fitted = Fit(
            method,
            self.folder / "checkpoint.pt",
            log,
            budget.epochs,
            budget.seconds,
            self.ranks,
            self.config.checkpoint_every,
            self.notify,
        )
        return self._fitted.run()

    # -- search ------------------------------------------------------------------------------------

    def _make_strategy(self, method: Any) -> Strategy:
        # the first rank alone makes it, so nothing is broadcast
        keep = partial(recorded, self.folder)
        return make_strategy(self.resolved, method, seed=self.config.seed, ranks=self.ranks, recorded=keep)

    def _search(self, run: Run, method: Any, strategy: Strategy) -> tuple[list[Trial], str]:
        r, config = self.resolved, self.config
        context = Context(
            r.space,
            r.task,
            r.parts,
            config.seed,
            r.device,
            config.precision,
            self.recorded,
            None if method is None else method.supernet,
            folder=self.folder,
        )
        measurer = Measurer(r.space, r.estimators, r.constraints, context, config.strict)
        executor = Here(measurer) if config.workers == 1 else Workers(config, r.host.files, self.folder)
        limits = Limits(
            **config.budget.model_dump(),
            max_failures=config.max_failures,
            max_rejected=config.max_rejected,
            max_repeats=config.max_repeats,
        )
        spent = max((event["active"] for event in run.log.events if "active" in event), default=0.0)
        loop = Search(
            r.space,
            strategy,
            executor,
            r.objectives,
            limits,
            seed=config.seed,
            log=run.log,
            order=config.order,
            window=config.open_trials,
            notify=self.notify,
            constraints=r.constraints,
            spent_seconds=spent,
            spent_epochs=0.0 if method is None else self._fitted.epochs,
        )
        try:
            reason = loop.run()
        except BrokenProcessPool as error:
            raise RunError(
                "a worker process ended by itself: out of memory, or it could not make what the configuration names "
                "(plugins must be installed, or be files under 'plugins'); its own words stand above. What was done is "
                f"saved; go on with: archloom resume {self.folder}"
            ) from error
        finally:
            if isinstance(executor, Workers):
                executor.close()
        return [loop.trials[number] for number in sorted(loop.trials)], reason

    # -- finish ------------------------------------------------------------------------------------

    def _finish(self, run: Run, method: Any, trials: list[Trial], reason: str) -> Result:
        r = self.resolved
        result = Result(self.folder, None, tuple(trials), tuple(front(trials)), reason)
        found = best(trials, r.picking)
        if found is not None:
            result = replace(result, architecture=found.architecture)
            self._write_architecture(found)
            members = family(r.host, self.config.space, found.architecture, r.task, r.parts)
            write_family(self.folder, members, self.config.model.model_dump(), tuple(r.task.classes))
            result = replace(result, family=tuple(members))
            if method is not None:
                child = method.supernet.extract(found.architecture)
                write_atomically(self.folder / "inherited.safetensors", _tensors(child))
        if found is not None and self.config.verdict.seeds:
            names = self._hold_verdict(run, found.architecture)
            told = groups([event for event in run.log.of("final") if event["name"] in names])
            sentences = tuple(judge(told[0], other) for other in told[1:])
            result = replace(result, groups=tuple(told), verdict=sentences)
        self._write_result(result, found)
        write_report(self.folder)
        self.notify({"event": "finished", "folder": str(self.folder)})
        return result

    def _write_architecture(self, found: Trial) -> None:
        r = self.resolved
        document = architecture_document(
            self.config.space.model_dump(),
            found.architecture,
            shape=input_shape(r.space, found.architecture, r.task),
            classes=tuple(r.task.classes),
            model=self.config.model.model_dump(),
            metrics=dict(found.metrics),
        )
        write_json(self.folder / "architecture.json", document)

    def _hold_verdict(self, run: Run, found: Architecture) -> list[str]:
        """Train all contestants that this run has not trained yet; the names of their trainings."""
        r, verdict = self.resolved, self.config.verdict
        pricer = next(e for e in r.estimators if verdict.cost in [m.name for m in e.metrics])
        context = Context(
            r.space, r.task, r.parts, self.config.seed, r.device, self.config.precision, self.recorded
        )
        contestants = draw_contestants(
            r.space,
            found,
            lambda architecture: pricer.estimate(architecture, context)[verdict.cost],
            number=verdict.random,
            seed=self.config.seed,
        )
        done = {event["name"] for event in run.log.of("final")}
        for contestant in contestants:
            for number in range(verdict.seeds):
                if _name(contestant, number) not in done:
                    self._train_final(run, contestant, number)
        self._copy_weights(contestants[0])
        return [_name(contestant, number) for contestant in contestants for number in range(verdict.seeds)]

    def _train_final(self, run: Run, contestant: Contestant, number: int) -> None:
        r = self.resolved
        name = _name(contestant, number)
        metrics = train_and_test(
            contestant,
            r.space,
            r.task,
            r.parts,
            r.recipe,
            seed=derive_seed(self.config.seed, "final", number),
            device=r.device,
            precision=self.config.precision,
            folder=self.folder / "final" / name,
            teacher=self._teacher,
            on_epoch=lambda epoch: self.notify(
                {
                    "event": "epoch",
                    "name": name,
                    "number": epoch.number,
                    "of": epoch.of,
                    "metrics": dict(epoch.metrics),
                }
            ),
        )
        event = {
            "event": "final",
            "name": name,
            "role": contestant.role,
            "index": contestant.index,
            "seed": number,
            "architecture": contestant.architecture.to_json(),
            "metrics": metrics,
        }
        run.log.append(event)
        self.notify(event)

    def _copy_weights(self, found: Contestant) -> None:
        folder = self.folder / "final" / _name(found, 0)
        for source, target in (("best.pt", "weights"), ("training.pt", "weights-last")):
            state = load_checkpoint(folder / source)
            if state is None:
                raise RunError(f"{folder} has no {source}; delete the folder and resume, to train it again")
            write_atomically(self.folder / f"{target}.safetensors", _tensors(state["model"]))

    def _write_result(self, result: Result, found: Trial | None) -> None:
        covered = history(result.trials, self.resolved.objectives, self.config.reference)
        document = {
            "reason": result.reason,
            "trials": len(result.trials),
            "ok": sum(trial.status == "ok" for trial in result.trials),
            "found": None if found is None else found.to_json(),
            "front": [trial.number for trial in result.front],
            "hypervolume": None if covered is None else covered.to_json(),
            "groups": [group.to_json() for group in result.groups],
            "verdict": list(result.verdict),
            "family": [member.to_json() for member in result.family],
        }
        write_json(self.folder / "result.json", document)


def make_strategy(
    r: Resolved, method: Any, *, seed: int, ranks: Ranks, recorded: Callable[[str, Callable[[], Any]], Any]
) -> Strategy:
    """Who proposes: the configured strategy, or the `method` itself; a ConfigError where it does not."""
    strategy: Any = method
    if r.strategy is not None:
        strategy = r.strategy(
            space=r.space,
            rng=python_rng(seed, "strategy"),
            seed=seed,
            ranks=ranks,
            model=r.parts,
            device=r.device,
            precision=r.config.precision,
            recorded=recorded,
            objectives=tuple(r.objectives),
        )
    if isinstance(strategy, Strategy):
        return strategy
    if r.strategy is None:
        raise ConfigError(f"method {type(strategy).__name__} only trains; name a 'strategy' that proposes")
    raise ConfigError(f"strategy {type(strategy).__name__} lacks propose or observe")


def _name(contestant: Contestant, number: int) -> str:
    """The training's name and folder. It carries the architecture, since a run that is resumed with a larger
    budget may find another one."""
    role = contestant.role.replace(", ", "-").replace(" ", "-")
    key = hashlib.sha256(json.dumps(contestant.architecture.to_json(), sort_keys=True).encode()).hexdigest()[
        :8
    ]
    return f"{role}-{contestant.index}-{key}-seed{number}"


def _tensors(source: Model | Mapping[str, torch.Tensor]) -> bytes:
    state = source.state_dict() if isinstance(source, Model) else source
    return save({key: value.detach().cpu().contiguous() for key, value in state.items()})


@contextmanager
def cpu_threads(number: int | None) -> Iterator[None]:
    """PyTorch's CPU threads inside the block; None: as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(level or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
