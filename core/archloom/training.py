"""How a network is trained and judged. One trainer for every network that archloom trains alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from .errors import ConfigError, SearchError
from .model import Model, evaluating
from .randomness import forked_rng
from .run import load_checkpoint, save_checkpoint
from .task import Split, Task, batches

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained: plain numbers, no objects, so that a run can write them down.

    warmup_epochs: linear from a tenth of `lr`. schedule: over the steps after the warm-up. step_epochs and
    step_factor: for "step" (every step_epochs) and "exponential" (each epoch). decay_all: weight decay for
    one-dimensional parameters (BatchNorm, biases) too.
    """

    epochs: int = 30
    batch_size: int = 128
    optimizer: Literal["sgd", "adamw", "rmsprop"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 4e-5
    decay_all: bool = True
    schedule: Literal["cosine", "step", "exponential", "constant"] = "cosine"
    warmup_epochs: float = 0.0
    step_epochs: float = 30.0
    step_factor: float = 0.1
    clip: float | None = None
    augment: bool = True
    channels_last: bool = True

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lr"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"recipe: {name} must be positive, not {getattr(self, name)}")
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise ConfigError(f"recipe: warmup_epochs must lie in 0..{self.epochs}, not {self.warmup_epochs}")


def parameter_groups(
    model: nn.Module, weight_decay: float, *, decay_all: bool = True
) -> list[dict[str, Any]]:
    """The trainable parameters; without `decay_all`, one-dimensional ones apart and without decay."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    if decay_all:
        return [{"params": trainable, "weight_decay": weight_decay}]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def build_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimizer over the model's trainable parameters."""
    groups = parameter_groups(model, recipe.weight_decay, decay_all=recipe.decay_all)
    match recipe.optimizer:
        case "sgd":
            return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)
        case "adamw":
            return torch.optim.AdamW(groups, lr=recipe.lr)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=recipe.lr, alpha=0.9, momentum=recipe.momentum, eps=1e-3)


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """The learning rate at a point of the training, `epoch` in 0..epochs, fractions allowed."""
    if epoch < recipe.warmup_epochs:
        return recipe.lr * (0.1 + 0.9 * epoch / recipe.warmup_epochs)
    after = epoch - recipe.warmup_epochs
    match recipe.schedule:
        case "cosine":
            return recipe.lr * 0.5 * (1 + math.cos(math.pi * after / (recipe.epochs - recipe.warmup_epochs)))
        case "step":
            return recipe.lr * recipe.step_factor ** math.floor(after / recipe.step_epochs)
        case "exponential":
            return recipe.lr * recipe.step_factor ** (after / recipe.step_epochs)
        case "constant":
            return recipe.lr


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
    """One epoch of a training: `metrics` has lr, loss, accuracy of training and of the watched split."""

    number: int
    of: int
    metrics: Mapping[str, float]


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
) -> Iterator[Epoch]:
    """Train `model` in place on `splits`, yielding after each epoch.

    Order, augmentation and dropout are functions of (seed, epoch). With a `folder` a checkpoint is
    written there after each epoch, and a training found there goes on to the bit. `best.pt` holds the
    state dict of the epoch with the highest accuracy on `watch` (the last one where nothing is watched).
    """
    device = torch.device(device)
    model.to(device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(recipe, model)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    done, best = 0, -math.inf
    checkpoint = folder / "training.pt" if folder else None
    if checkpoint and (state := load_checkpoint(checkpoint)):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        done, best = state["epoch"], state["best"]
    data = task.dataset(*splits, augment=recipe.augment, resolution=resolution)
    watched = task.dataset(watch, resolution=resolution) if watch else None
    for epoch in range(done, recipe.epochs):
        metrics = _train_epoch(
            model,
            data,
            recipe,
            epoch,
            optimizer,
            scaler,
            seed=seed,
            device=device,
            precision=precision,
            workers=workers,
        )
        if watched is not None:
            judged = evaluate(
                model, batches(watched, 512, device=device, workers=workers), len(task.classes), precision
            )
            metrics |= {f"{watch}.{name}": value for name, value in judged.items()}
        score = metrics.get(f"{watch}.accuracy", float(epoch))
        if folder and checkpoint:
            if score >= best:
                save_checkpoint(folder / "best.pt", {"model": model.state_dict(), "epoch": epoch + 1})
            save_checkpoint(
                checkpoint,
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "scaler": scaler.state_dict(),
                    "epoch": epoch + 1,
                    "best": max(best, score),
                },
            )
        best = max(best, score)
        yield Epoch(epoch + 1, recipe.epochs, metrics)


def _train_epoch(
    model: Model,
    data: Any,
    recipe: Recipe,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    seed: int,
    device: torch.device,
    precision: str,
    workers: int | None,
) -> dict[str, float]:
    model.train()
    started, images, correct = time.perf_counter(), 0, torch.zeros((), device=device)
    total = torch.zeros((), device=device)
    steps = max(1, len(data) // recipe.batch_size)
    stream = batches(
        data,
        recipe.batch_size,
        seed=seed,
        epoch=epoch,
        shuffle=True,
        drop_last=True,
        device=device,
        workers=workers,
        channels_last=recipe.channels_last,
    )
    with forked_rng(seed, "training", epoch):  # dropout and stochastic depth draw from global state
        for step, (x, y) in enumerate(stream):
            rate = learning_rate(recipe, epoch + step / steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with precision_context(device, precision):
                logits = model(x)
                loss = model.loss(logits, y)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            if recipe.clip is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            scaler.step(optimizer)
            scaler.update()
            total += loss.detach() * len(y)
            correct += (logits.detach().argmax(1) == y).sum()
            images += len(y)
    check_finite(total, f"epoch {epoch + 1}")
    return {
        "lr": rate,
        "loss": float(total) / images,
        "accuracy": 100 * float(correct) / images,
        "seconds": time.perf_counter() - started,
    }


def evaluate(
    model: nn.Module,
    stream: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    precision: str = "float32",
    *,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, float]:
    """`accuracy` (top-1, %), `top5` (%, with six classes or more) and `loss` (cross entropy, nats)."""
    device = next(model.parameters()).device
    names = {"accuracy": 1} | ({"top5": 5} if num_classes > 5 else {})
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
