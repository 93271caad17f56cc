"""What an epoch does to a network: batches, mixing, loss, steps of the optimizer; and how it is judged after it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ..augmentation import mixing
from ..losses import distillation
from ..metrics import Classification, scoring_of
from ..model import Model
from ..randomness import derive_seed, forked_rng
from ..surroundings import plainly
from ..task import Task, batches
from .checkpoint import State
from .optimization import Averaged, build_optimizer
from .precision import check_finite, precision_context
from .recipe import Recipe, learning_rate
from .scoring import Tally, doubt, evaluate
from .statistics import BATCH, IMAGES, Statistics
from .trainable import soft

logger = logging.getLogger("archloom")


class Trainer:
    """Moves a model to its device and trains it there, in place, an epoch at a time; `state` is what is kept."""

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        task: Task,
        seed: int,
        device: torch.device,
        precision: str,
        workers: int | None = None,
        teacher: nn.Module | None = None,
        calibrating: Callable[[], Any] | None = None,
    ) -> None:
        self.model, self.recipe, self.task, self.seed = model.to(device), recipe, task, seed
        self.device, self.precision, self.workers, self.teacher = device, precision, workers, teacher
        if recipe.channels_last:
            model.to(memory_format=torch.channels_last)
        self.forward: Callable[[Tensor], Tensor] = torch.compile(model) if recipe.compile else model
        self.state = State(
            model,
            build_optimizer(recipe, model),
            torch.amp.GradScaler(device.type, enabled=precision == "float16"),
            None if recipe.ema is None else Averaged(model, recipe.ema),
            Statistics(recipe, partial(self._images, calibrating), precision),
        )
        self.scoring = scoring_of(task, model)
        self.classes = self.scoring.classes if isinstance(self.scoring, Classification) else 0
        self.mix = mixing(recipe.mixup, recipe.cutmix, self.classes)
        if teacher is not None:
            teacher.to(device).eval()

    @plainly
    def epoch(self, data: Any) -> dict[str, float]:
        """Train for an epoch; what it says of the training images."""
        recipe, number = self.recipe, self.state.done
        self.state.give_back()
        self.model.train()
        started, tally = time.perf_counter(), Tally(self.scoring, self.device)
        steps, rate = max(1, len(data) // recipe.batch_size), 0.0
        stream = batches(
            data,
            recipe.batch_size,
            seed=self.seed,
            epoch=number,
            shuffle=True,
            drop_last=True,
            device=self.device,
            workers=self.workers,
            channels_last=recipe.channels_last,
        )
        with forked_rng(self.seed, "training", number):  # dropout and mixing draw from global state
            for step, (x, y) in enumerate(stream):
                first = step - step % recipe.accumulate
                group = min(recipe.accumulate, steps - first)  # the last one may be smaller
                if step == first:
                    rate = self._set_rate(number + step / steps)
                self._learn(x, y, tally, group, opens=step == first)
                if step + 1 == first + group:
                    self._move()
        check_finite(tally.loss, f"epoch {number + 1}")
        return {"lr": rate, **tally.metrics(time.perf_counter() - started)}

    def _set_rate(self, epoch: float) -> float:
        rate = learning_rate(self.recipe, epoch)
        for group in self.state.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _learn(self, x: Tensor, y: Tensor, tally: Tally, group: int, *, opens: bool) -> None:
        """Add a batch's gradient to those of its `group`, which it `opens` or not."""
        targets = y
        if self.mix is not None:
            x, targets = self.mix(x, y)
            y = targets.argmax(1)
        with precision_context(self.device, self.precision):
            outputs = self.forward(x)
            loss = self.loss(x, outputs, targets)
        if opens:
            # not before the forward pass: what is freed now, the backward pass takes again
            self.state.optimizer.zero_grad(set_to_none=True)
        self.state.scaler.scale(loss / group if group > 1 else loss).backward()
        tally.add(loss.detach(), outputs.detach(), y)

    def loss(self, x: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        """The recipe's loss of inputs (N, *shape), a scalar: smoothed targets, and the teacher's part."""
        recipe = self.recipe
        if recipe.label_smoothing:
            targets = soft(targets, self.classes, recipe.label_smoothing)
        loss: Tensor = self.model.loss(outputs, targets)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            taught = self.teacher(x)
        told = distillation(outputs.float(), taught.float(), temperature=recipe.temperature)
        return (1 - recipe.distill_weight) * loss + recipe.distill_weight * told

    def _move(self) -> None:
        """One step of the optimizer."""
        state = self.state
        if self.recipe.clip is not None:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.averaged is not None:
            state.averaged.update()

    def _images(self, data: Callable[[], Any] | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Training images for BatchNorm's statistics, the same ones after each epoch."""
        assert data is not None
        stream = batches(
            data(),
            BATCH,
            seed=derive_seed(self.seed, "statistics"),
            shuffle=True,
            device=self.device,
            workers=self.workers,
            channels_last=self.recipe.channels_last,
        )
        return islice(stream, IMAGES // BATCH)

    def settle(self, seen: int) -> int:
        """Give the networks statistics to be judged with where their running ones have not settled after `seen`
        batches; the number of images that these are of, 0 where there was no need."""
        state = self.state
        self.model.train()  # which of its norms move shows in this mode alone
        lend = partial(state.statistics.lend, trained=self.model, batches=seen)
        images = [lend(self.model)]
        if state.averaged is not None:
            images.append(lend(state.averaged.module, averaged=True))
        return max(images)

    def judge(self, watched: Any, split: str) -> dict[str, float]:
        """Metrics of a split; with averaged weights theirs, and under `raw` the latest weights' own."""
        found = self._judged(self.state.network, watched, split)
        if self.state.averaged is None:
            return found
        return found | self._judged(self.model, watched, f"{split}.raw")

    def warn(self, metrics: Mapping[str, float], split: str, images: int) -> None:
        """Say what is odd about the last epoch: no better than guessing, or far worse than on training images."""
        if not isinstance(self.scoring, Classification):
            return
        if told := doubt(metrics["accuracy"], metrics[f"{split}.accuracy"], self.classes, images):
            logger.warning("after %d epochs the network is doubtful: %s", self.state.done, told)

    def _judged(self, network: nn.Module, watched: Any, prefix: str) -> dict[str, float]:
        stream = batches(watched, 512, device=self.device, workers=self.workers)
        judged = evaluate(network, stream, self.task, self.precision)
        return {f"{prefix}.{name}": value for name, value in judged.items()}
