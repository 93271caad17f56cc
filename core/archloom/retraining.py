"""Training and judging one architecture by itself, found or named. Retraining is no strategy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save

from .contents import contents_of, plugin_contents, task_hash
from .documents import read_yaml
from .environment import versions
from .errors import ArchloomError, ConfigError, RunError
from .folder import Folder, Identity, Kind
from .metrics import scoring_of
from .model import Model
from .observing import Observers, name_of
from .plugins import Host
from .resolve import device_of
from .run import load_checkpoint, write_atomically, write_json
from .source import choose, open_source, plugins_beside
from .surroundings import plainly, undisturbed
from .task import SPLITS, Task, batches
from .teacher import load_teacher
from .training import Epoch, Recipe, train
from .training import evaluate as judge
from .trust import keep
from .weights import load_weights


@dataclass(frozen=True)
class Trained:
    """A training's folder and what the trained network reaches, test included; `units` of these metrics."""

    folder: Path
    metrics: Mapping[str, float]
    units: Mapping[str, str] = field(default_factory=dict)


@undisturbed("a training")
def retrain(
    source: str | Path,
    folder: str | Path | None = None,
    *,
    task: str | None = None,
    recipe: str | None = None,
    overrides: Iterable[str] = (),
    seed: int = 0,
    device: str = "cpu",
    precision: str = "float32",
    host: Host | None = None,
    notify: Callable[[dict[str, Any]], None] = lambda event: None,
    observers: Iterable[str] | None = None,
    trust: bool = False,
) -> Trained:
    """Train from scratch on the training splits, select the epoch by validation, read the test split once.

    source: a run folder, an architecture file, a YAML file with a `model:` section, or a name. Task and recipe
    are those beside it unless given; `overrides` set their options ("recipe.epochs=90"). `folder` gets the
    network's document, so that it is a source itself; an interrupted training in it goes on. recipe: a name, or
    a YAML file of its fields (and `base`, a name). observers: by name, or those that are
    the plugins' default; they are told of each epoch, as `notify` is.
    What cannot be trained is refused before anything is written. Plugin files are copied into `folder`; trust: run
    those that a source folder names also where they never ran on this machine.
    """
    host = host or Host(plugins_beside(source, trust=trust))
    chosen = choose(source, host, task=task, recipe=recipe, overrides=overrides)
    opened = open_source(source, host, task=chosen.task)
    target = Path(folder) if folder else _default_folder(source)
    model = opened.build(seed=seed)
    where = device_of(device)
    teacher = load_teacher(chosen.recipe, chosen.task, host)
    epochs = train(
        model,
        chosen.task,
        chosen.recipe,
        seed=seed,
        device=where,
        precision=precision,
        folder=target,
        teacher=teacher,
    )
    tell = _Tell(host, observers, target, notify)
    identity = {
        "seed": seed,
        "precision": precision,
        **chosen.parts,
        "options": asdict(chosen.recipe),  # a plugin may give its recipe other values tomorrow
        "network": dict(opened.document),
    }
    contents = {**contents_of(identity), **plugin_contents(host.files), "task": task_hash(chosen.task)}
    before = set(target.iterdir()) if target.is_dir() else None
    with Folder.begin_or_go_on(target, RETRAINING, Identity(identity, contents, versions(host))) as claimed:
        _note(target, {"source": str(source), "plugins": keep(target, host.plugin_files), **identity})
        opened.write(target)
        try:
            for epoch in epochs:
                claimed.lock.check()
                tell.epoch(epoch)
        except ArchloomError:
            claimed.close()
            _leave_nothing(target, before)
            raise
        metrics = _finish(model, chosen.task, target, precision, where)
        tell({"event": "finished", "folder": str(target)})
    units = {metric.name: metric.unit for metric in scoring_of(chosen.task, model).metrics}
    return Trained(target, metrics, {name: units.get(name.partition(".")[2], "1") for name in metrics})


def _begun(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("training.pt", "training.pt.previous"))


def _said_by_the_configuration(folder: Path) -> Identity | None:
    """What `training.yaml` says, by which older versions knew a folder."""
    path = folder / "training.yaml"
    then = read_yaml(path, "the training's configuration", error=RunError) if path.is_file() else None
    if not isinstance(then, dict) or not {"seed", "network"} <= set(then):
        return None
    settings = {key: value for key, value in then.items() if key not in ("source", "plugins")}
    if isinstance(settings.get("options"), dict):  # fields that recipes did not have yet
        settings["options"] = {**asdict(Recipe()), **settings["options"]}
    return Identity(settings)


RETRAINING = Kind(
    "retrain",
    "training",
    (
        "training.*",
        "architecture.json",
        "model.yaml",
        "best.pt*",
        "epochs.csv",
        "weights*.safetensors",
        "metrics.json",
    ),
    begun=_begun,
    legacy=_said_by_the_configuration,
)
"""What `archloom retrain` leaves."""


def _note(folder: Path, facts: dict[str, Any]) -> None:
    """training.yaml, by which the folder is a source: written once, when the training begins."""
    path = folder / "training.yaml"
    if not (path.exists() and _begun(folder)):
        plain = json.loads(json.dumps(facts, default=str))  # lists for tuples
        write_atomically(path, yaml.safe_dump(plain, sort_keys=False).encode())


class _Tell:
    """Tells observers of a training; they are checked at once, and made when there is something to tell."""

    def __init__(
        self,
        host: Host,
        observers: Iterable[str] | None,
        folder: Path,
        notify: Callable[[dict[str, Any]], None],
    ) -> None:
        entries = host.defaults("observer")
        if observers is not None:
            entries = [host.get("observer", name) for name in observers]
        self._makers = [(entry, entry.validate({})) for entry in entries]
        self._folder, self._notify = folder, notify
        self._made: Observers | None = None

    def __call__(self, event: dict[str, Any]) -> None:
        if self._made is None:
            self._made = Observers()
            for entry, options in self._makers:
                self._made.add(f"observer '{entry.name}'", partial(entry.make, options, folder=self._folder))
            self._made.add(name_of(self._notify), lambda: self._notify)
        self._made(event)

    def epoch(self, epoch: Epoch) -> None:
        """An epoch, as an event."""
        self({"event": "epoch", "name": "retrain", **epoch.to_json()})


def _leave_nothing(folder: Path, before: set[Path] | None) -> None:
    """After a refusal: take away what was written beside what was there, unless an epoch was trained."""
    if (folder / "training.pt").exists():
        return
    for path in set(folder.iterdir()) - (before or set()):
        path.unlink()
    if before is None:
        folder.rmdir()


def _finish(model: Model, task: Task, folder: Path, precision: str, device: Any) -> dict[str, float]:
    for name, target in (("training.pt", "weights-last"), ("best.pt", "weights")):
        state = load_checkpoint(folder / name)
        if state is None:
            raise RunError(f"{folder} has no {name}; delete the folder to train again")
        model.load_state_dict(state["model"])
        tensors = {key: value.detach().cpu().contiguous() for key, value in state["model"].items()}
        write_atomically(folder / f"{target}.safetensors", save(tensors))
    metrics: dict[str, float] = {}
    for split in ("validation", "test"):
        stream = batches(task.dataset(split), 512, device=device)
        judged = judge(model, stream, task, precision)
        metrics |= {f"{split}.{name}": value for name, value in judged.items()}
    write_json(folder / "metrics.json", metrics)
    return metrics


@plainly
def evaluate(
    source: str | Path,
    weights: str | Path | None = None,
    *,
    task: str | None = None,
    split: str = "test",
    overrides: Iterable[str] = (),
    device: str = "cpu",
    precision: str = "float32",
    host: Host | None = None,
    trust: bool = False,
) -> dict[str, float]:
    """The task's metrics of trained weights on one split: of classes top-1, top-5 and cross entropy."""
    host = host or Host(plugins_beside(source, trust=trust))
    if split not in SPLITS:
        raise ConfigError(f"there is no split '{split}'; there are {', '.join(SPLITS)}")
    chosen = choose(source, host, task=task, overrides=overrides)
    opened = open_source(source, host, task=chosen.task)
    file = Path(weights) if weights else opened.weights
    if file is None:
        raise ConfigError(
            f"there are no weights beside {source}: train them (archloom retrain), or say --weights"
        )
    model = opened.build().to(device_of(device))
    load_weights(model, file)
    stream = batches(chosen.task.dataset(split), 512, device=device_of(device))
    return judge(model, stream, chosen.task, precision)


def _default_folder(source: str | Path) -> Path:
    path = Path(source)
    return path / "retrain" if path.is_dir() else Path("runs") / f"retrain-{path.stem}"
