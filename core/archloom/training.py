"""How a network is trained and judged. One trainer for every network that archloom trains alone."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from .augmentation import Erased, mixing
from .errors import ConfigError, RunError, SearchError
from .losses import distillation
from .model import Model, evaluating
from .optimization import Averaged, build_optimizer, parameter_groups
from .randomness import forked_rng
from .recipe import Recipe, learning_rate
from .run import load_checkpoint, save_checkpoint, write_atomically
from .task import Split, Task, batches
from .trainable import check_trainable, soft

__all__ = [
    "Epoch",
    "Precision",
    "Recipe",
    "build_optimizer",
    "check_finite",
    "check_trainable",
    "evaluate",
    "learning_rate",
    "parameter_groups",
    "precision_context",
    "recalibrate_batchnorm",
    "topk_of",
    "train",
]

Precision = Literal["float32", "bfloat16", "float16"]


def precision_context(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Autocast to `precision` on `device`; nothing for float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def check_finite(loss: Tensor, where: str) -> Tensor:
    """The loss itself; a SearchError where it is no number any more."""
    if not bool(torch.isfinite(loss)):
        raise SearchError(
            f"the loss became {float(loss)} in {where}; lower the learning rate, or clip the gradient"
        )
    return loss


@dataclass(frozen=True)
class Epoch:
    """One epoch of a training.

    metrics: lr, loss, accuracy, `top5` and other top-k of the training images, `validation.` before those of
    the watched split, seconds, images_per_second. network: what the epoch is judged by, the averaged weights
    where the recipe averages, else the model itself.
    """

    number: int
    of: int
    metrics: Mapping[str, float]
    network: nn.Module


def train(
    model: Model,
    task: Task,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    splits: tuple[Split, ...] = ("weights", "architecture"),
    watch: Split | None = "validation",
    resolution: int | None = None,
    folder: Path | None = None,
    workers: int | None = None,
    teacher: nn.Module | None = None,
) -> Iterator[Epoch]:
    """Train `model` in place on `splits`, yielding after each epoch. What cannot be is refused at once.

    Order, augmentation, mixing and dropout are functions of (seed, epoch). With a `folder` a checkpoint is
    written there after each epoch, and a training found there goes on to the bit; epochs.csv has a line for
    each epoch; `best.pt` holds the state dict of the epoch with the highest accuracy on `watch` (the last one
    where nothing is watched), averaged where the recipe averages. teacher: the network that `recipe.teacher`
    means, with its weights; it is put into eval mode.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"there is no precision '{precision}'; there are {', '.join(get_args(Precision))}")
    shape = (task.shape[0], resolution, resolution) if resolution else task.shape
    check_trainable(model.loss, task, recipe, watch=watch, teacher=teacher, shape=shape)
    training = _Training(
        model, recipe, len(task.classes), seed, torch.device(device), precision, workers, teacher
    )
    return _epochs(training, task, splits, watch, resolution, folder)


def _epochs(
    training: _Training,
    task: Task,
    splits: tuple[Split, ...],
    watch: Split | None,
    resolution: int | None,
    folder: Path | None,
) -> Iterator[Epoch]:
    recipe = training.recipe
    data: Any = task.dataset(*splits, augment=recipe.policy or recipe.augment, resolution=resolution)
    data = Erased(data, recipe.erasing) if recipe.erasing else data
    watched = task.dataset(watch, resolution=resolution) if watch else None
    training.start()
    if folder is not None:
        training.resume(folder)
    while training.done < recipe.epochs and not training.patience_is_over:
        trained = training.epoch(data)
        judged = {} if watched is None else training.judge(watched, str(watch))
        first = {name: trained[name] for name in ("lr", "loss", "accuracy")}
        metrics = {**first, **judged, **trained}
        improved = training.record(metrics, judged.get(f"{watch}.accuracy"))
        if folder is not None:
            training.save(folder, improved)
        yield Epoch(training.done, recipe.epochs, metrics, training.network)


class _Training:
    """One training: what its checkpoint holds, and what an epoch does."""

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        classes: int,
        seed: int,
        device: torch.device,
        precision: str,
        workers: int | None,
        teacher: nn.Module | None,
    ) -> None:
        self.model, self.recipe, self.classes, self.seed = model, recipe, classes, seed
        self.device, self.precision, self.workers, self.teacher = device, precision, workers, teacher
        self.done, self.best, self.stale = 0, -math.inf, 0
        self.history: list[dict[str, float]] = []

    def start(self) -> None:
        """Move the model to its device and make what trains it."""
        model, recipe = self.model.to(self.device), self.recipe
        if recipe.channels_last:
            model.to(memory_format=torch.channels_last)
        self.forward: Callable[[Tensor], Tensor] = torch.compile(model) if recipe.compile else model
        self.optimizer = build_optimizer(recipe, model)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")
        self.averaged = None if recipe.ema is None else Averaged(model, recipe.ema)
        self.mix = mixing(recipe.mixup, recipe.cutmix, self.classes)
        self.ks = tuple(k for k in topk_of(model, self.classes) if k > 1)
        if self.teacher is not None:
            self.teacher.to(self.device).eval()

    @property
    def network(self) -> nn.Module:
        """What the training is judged by."""
        return self.model if self.averaged is None else self.averaged.module

    @property
    def patience_is_over(self) -> bool:
        """Whether the recipe's patience ends the training before its last epoch."""
        return self.recipe.patience is not None and self.stale >= self.recipe.patience

    # -- an epoch ----------------------------------------------------------------------------------------

    def epoch(self, data: Any) -> dict[str, float]:
        """Train for an epoch; what it says of the training images."""
        recipe = self.recipe
        self.model.train()
        started, images = time.perf_counter(), 0
        total = torch.zeros((), device=self.device)
        hits = [torch.zeros((), device=self.device) for _ in (1, *self.ks)]
        steps, rate = max(1, len(data) // recipe.batch_size), 0.0
        stream = batches(
            data,
            recipe.batch_size,
            seed=self.seed,
            epoch=self.done,
            shuffle=True,
            drop_last=True,
            device=self.device,
            workers=self.workers,
            channels_last=recipe.channels_last,
        )
        with forked_rng(self.seed, "training", self.done):  # dropout and mixing draw from global state
            for step, (x, y) in enumerate(stream):
                first = step - step % recipe.accumulate
                group = min(recipe.accumulate, steps - first)  # the last one may be smaller
                if step == first:
                    rate = self._set_rate(self.done + step / steps)
                targets = y
                if self.mix is not None:
                    x, targets = self.mix(x, y)
                    y = targets.argmax(1)
                with precision_context(self.device, self.precision):
                    logits = self.forward(x)
                    loss = self._loss(x, logits, targets)
                if step == first:
                    # not before the forward pass: what is freed now, the backward pass takes again
                    self.optimizer.zero_grad(set_to_none=True)
                self.scaler.scale(loss / group if group > 1 else loss).backward()
                if step + 1 == first + group:
                    self._move()
                total += loss.detach() * len(y)
                _count_hits(hits, logits.detach(), y, self.ks)
                images += len(y)
        check_finite(total, f"epoch {self.done + 1}")
        seconds = time.perf_counter() - started
        names = ("accuracy", *(f"top{k}" for k in self.ks))
        shares = {name: 100 * float(hit) / images for name, hit in zip(names, hits, strict=True)}
        return {
            "lr": rate,
            "loss": float(total) / images,
            **shares,
            "seconds": seconds,
            "images_per_second": images / seconds,
        }

    def _set_rate(self, epoch: float) -> float:
        rate = learning_rate(self.recipe, epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _loss(self, x: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        recipe = self.recipe
        if recipe.label_smoothing:
            targets = soft(targets, self.classes, recipe.label_smoothing)
        loss: Tensor = self.model.loss(logits, targets)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            taught = self.teacher(x)
        told = distillation(logits.float(), taught.float(), temperature=recipe.temperature)
        return (1 - recipe.distill_weight) * loss + recipe.distill_weight * told

    def _move(self) -> None:
        """One step of the optimizer."""
        if self.recipe.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.averaged is not None:
            self.averaged.update()

    def judge(self, watched: Any, split: str) -> dict[str, float]:
        """Metrics of a split; with averaged weights theirs, and under `raw` the latest weights' own."""
        found = self._judged(self.network, watched, split)
        return found if self.averaged is None else found | self._judged(self.model, watched, f"{split}.raw")

    def _judged(self, network: nn.Module, watched: Any, prefix: str) -> dict[str, float]:
        stream = batches(watched, 512, device=self.device, workers=self.workers)
        judged = evaluate(network, stream, self.classes, self.precision)
        return {f"{prefix}.{name}": value for name, value in judged.items()}

    # -- what is kept ------------------------------------------------------------------------------------

    def record(self, metrics: Mapping[str, float], score: float | None) -> bool:
        """Count the epoch; whether its weights are the best so far (a tie goes to the later ones)."""
        self.done += 1
        score = float(self.done) if score is None else score
        improved = score >= self.best
        self.stale = 0 if score > self.best else self.stale + 1
        self.best = max(self.best, score)
        self.history.append(dict(metrics))
        return improved

    def save(self, folder: Path, improved: bool) -> None:
        """Write the best weights, the checkpoint and the table, in this order."""
        if improved:
            state = self.network.state_dict()
            save_checkpoint(folder / "best.pt", {"model": state, "epoch": self.done})
        save_checkpoint(
            folder / "training.pt",
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "averaged": None if self.averaged is None else self.averaged.state_dict(),
                "epoch": self.done,
                "best": self.best,
                "stale": self.stale,
                "history": self.history,
            },
        )
        self._write_table(folder)

    def resume(self, folder: Path) -> None:
        """Go on from the checkpoint in `folder`, where there is one."""
        state = load_checkpoint(folder / "training.pt")
        if state is None:
            return
        if (state["averaged"] is None) != (self.averaged is None):
            raise RunError(f"{folder} holds a training with another ema; name another folder")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        self.done, self.best, self.stale = state["epoch"], state["best"], state["stale"]
        self.history = list(state["history"])
        self._write_table(folder)  # an interruption may have come between the checkpoint and the table

    def _write_table(self, folder: Path) -> None:
        """epochs.csv: a line for each epoch, all of its metrics."""
        names = dict.fromkeys(name for metrics in self.history for name in metrics)
        text = io.StringIO()
        table = csv.DictWriter(text, ["epoch", *names])
        table.writeheader()
        table.writerows({"epoch": number, **metrics} for number, metrics in enumerate(self.history, 1))
        write_atomically(folder / "epochs.csv", text.getvalue().encode())


def _count_hits(hits: Sequence[Tensor], logits: Tensor, labels: Tensor, ks: Sequence[int]) -> None:
    """Add how many labels are the largest, or among the k largest, of their logits; nothing waits for it."""
    hits[0].add_((logits.argmax(1) == labels).sum())
    if ks:
        among = logits.topk(max(ks), dim=1).indices == labels[:, None]  # (N, max k)
        for hit, k in zip(hits[1:], ks, strict=True):
            hit.add_(among[:, :k].sum())


def topk_of(model: nn.Module, classes: int) -> tuple[int, ...]:
    """For which k it is told how many labels are among the k largest logits: 1, 5 where there are six classes
    or more, and those that the model's head names in `topk`."""
    asked = getattr(getattr(model, "head", None), "topk", ())
    return tuple(sorted({1, *((5,) if classes > 5 else ()), *(k for k in asked if k <= classes)}))


def evaluate(
    model: nn.Module,
    stream: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    precision: str = "float32",
    *,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, float]:
    """`accuracy` (top-1, %), `top5` and more (%, see `topk_of`) and `loss` (cross entropy, nats)."""
    device = next(model.parameters()).device
    names = {"accuracy" if k == 1 else f"top{k}": k for k in topk_of(model, num_classes)}
    counters = {
        name: MulticlassAccuracy(num_classes, top_k=k, average="micro").to(device)
        for name, k in names.items()
    }
    total, images = 0.0, 0
    with evaluating(model), torch.inference_mode():
        for x, y in stream:
            with precision_context(device, precision):
                logits = (forward or model)(x).float()
            total += float(nn.functional.cross_entropy(logits, y, reduction="sum"))
            images += len(y)
            for counter in counters.values():
                counter.update(logits, y)
    result = {name: 100 * float(counter.compute()) for name, counter in counters.items()}
    return result | {"loss": total / images}


def recalibrate_batchnorm(model: nn.Module, stream: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Replace BatchNorm's running statistics by the plain mean over the batches of `stream`, in place.

    For a network cut out of a supernet, whose running statistics are those of many paths. Dropout and
    all else stay in eval mode. Never call it on a supernet: that would change it.
    """
    norms = [
        m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats
    ]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    with evaluating(model), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # cumulative mean
            norm.train()
        for x, _ in stream:
            model(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
