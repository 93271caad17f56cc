"""Training and judging one architecture by itself, found or named. Retraining is no strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save

from .config import override, parse_part
from .errors import ConfigError, RunError
from .model import Model
from .plugins import Host
from .resolve import device_of, make
from .run import load_checkpoint, write_atomically, write_json
from .task import SPLITS, Task, batches
from .training import Recipe, train
from .training import evaluate as judge
from .zoo import Found, find, load_weights


@dataclass(frozen=True)
class Trained:
    """A training's folder and what the trained network reaches, test included."""

    folder: Path
    metrics: Mapping[str, float]


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
) -> Trained:
    """Train from scratch on the training splits, select the epoch by validation, read the test split once.

    source: a run folder, an architecture file or a name. Task and recipe are the run's unless given;
    `overrides` set their options ("recipe.epochs=90"). An interrupted training in `folder` goes on.
    """
    host = host or Host()
    found = find(source, host)
    made_task, made_recipe, parts = _task_and_recipe(source, host, task, recipe, overrides)
    _check_shape(found, made_task)
    target = Path(folder) if folder else _default_folder(source)
    _check_same(target, {"source": str(source), "seed": seed, "precision": precision, **parts})
    model = found.build(len(made_task.classes), seed=seed)
    where = device_of(device)
    for epoch in train(
        model,
        made_task,
        made_recipe,
        seed=seed,
        device=where,
        precision=precision,
        folder=target,
    ):
        notify(
            {
                "event": "epoch",
                "name": "retrain",
                "number": epoch.number,
                "of": epoch.of,
                "metrics": dict(epoch.metrics),
            }
        )
    metrics = _finish(model, made_task, target, precision, where)
    return Trained(target, metrics)


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
        judged = judge(model, stream, len(task.classes), precision)
        metrics |= {f"{split}.{name}": value for name, value in judged.items()}
    write_json(folder / "metrics.json", metrics)
    return metrics


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
) -> dict[str, float]:
    """Top-1, top-5 and cross entropy of trained weights on one split."""
    host = host or Host()
    if split not in SPLITS:
        raise ConfigError(f"there is no split '{split}'; there are {', '.join(SPLITS)}")
    found = find(source, host)
    made_task, _, _ = _task_and_recipe(source, host, task, None, overrides)
    _check_shape(found, made_task)
    file = Path(weights) if weights else Path(source) / "weights.safetensors"
    model = found.build(len(made_task.classes)).to(device_of(device))
    load_weights(model, file)
    stream = batches(made_task.dataset(split), 512, device=device_of(device))
    return judge(model, stream, len(made_task.classes), precision)


def _task_and_recipe(
    source: str | Path, host: Host, task: str | None, recipe: str | None, overrides: Iterable[str]
) -> tuple[Task, Recipe, dict[str, Any]]:
    stored: dict[str, Any] = {}
    config = Path(source) / "config.yaml"
    if config.is_file():
        whole = yaml.safe_load(config.read_text())
        stored = {"task": whole["task"], "recipe": whole["recipe"]}
    if task is not None:
        stored["task"] = {"type": task}
    if recipe is not None:
        stored["recipe"] = {"type": recipe}
    if "task" not in stored:
        raise ConfigError(f"which task? '{source}' is no run folder, so name one: --task digits")
    stored.setdefault("recipe", {"type": "default"})
    stored = override(stored, overrides)
    if extra := set(stored) - {"task", "recipe"}:
        raise ConfigError(f"--set takes task.* and recipe.* here, not {', '.join(sorted(extra))}")
    made = make(host, "recipe", parse_part(stored["recipe"], "recipe"))
    return (
        make(host, "task", parse_part(stored["task"], "task")),
        made,
        {"task": stored["task"], "recipe": asdict(made)},
    )


def _check_shape(found: Found, task: Task) -> None:
    channels = getattr(found.space, "in_channels", task.shape[0])
    if channels != task.shape[0]:
        raise ConfigError(
            f"the network takes {channels} channels, the images of task '{task.name}' have {task.shape[0]}"
        )


def _check_same(folder: Path, identity: dict[str, Any]) -> None:
    """A training found in `folder` is gone on with only if it is this one."""
    path = folder / "training.yaml"
    if path.exists():
        then = yaml.safe_load(path.read_text())
        if then != identity:
            differing = [key for key in identity if then.get(key) != identity[key]]
            raise RunError(
                f"{folder} holds another training (its {', '.join(differing)} differ); name another folder with --out"
            )
    else:
        write_atomically(path, yaml.safe_dump(identity, sort_keys=False).encode())


def _default_folder(source: str | Path) -> Path:
    path = Path(source)
    return path / "retrain" if path.is_dir() else Path("runs") / f"retrain-{path.stem}"
