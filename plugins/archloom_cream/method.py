"""Cream of the Crop (Peng et al., NeurIPS 2020, arXiv 2010.15821): prioritized paths teach the others.

A supernet is trained one path a step. A board keeps the most competitive paths found on the way; one of them,
matched with the path of the step by a small meta network, teaches it. The board is what the search proposes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import Subset

from archloom import (
    Architecture,
    ConfigError,
    Progress,
    RunContext,
    SearchError,
    Trial,
    assemble_shared,
    batches,
    derive_seed,
    forked_rng,
    python_rng,
)
from archloom.metrics import refuse_other
from archloom.space import side_of
from archloom.training import parameter_groups, precision_context
from archloom.weight_sharing import Span, spans

from .board import Board, Entry
from .checks import check_batches, check_options
from .judging import Judge
from .matching import distillation, joined_loss
from .paths import PathCosts, Sampler, Sampling
from .record import Record
from .running import Runner
from .schedule import linear, reference_linear
from .teachers import Departure, Pick, Teachers

DEPARTURES: tuple[Departure, ...] = get_args(Departure)


class Cream:
    """The supernet of Cream: one path a step, taught by a prioritized path; proposes its board, best first.

    epochs, batch_size (over all processes), lr, momentum, weight_decay: SGD with Nesterov momentum and a linear
        schedule; one-dimensional parameters do not decay. clip: bound on the gradient's norm.
    sampling: "uniform"; "given", with `probabilities` of every option; "board", as often as options stand there.
    macs: [low, high], in force on every path that is trained and on the board.
    board, start_epoch: how many paths it has; the epoch, counted from 0, that it opens with.
    teacher: "meta", matched by the meta network; "top1", the board's best, with m = 0.5.
    slices: images that paths are compared on. meta_lr, meta_every: of the meta network's updates, and after how
        many steps each comes.
    held_out, board_images, recalibration: the split that paths are judged on and the meta network learns from;
        how many of its images judge a path; batches of 128 that BatchNorm is recalibrated with for that.
    unit_steps: an epoch can be resumed after every so many steps.
    reference: what is to be as in the reference code: true for all, or a list of schedule, sampling, weight,
        gradient, inner, joint, features, score, order, range.
    """

    needs = ("supernet",)

    def __init__(
        self,
        context: RunContext,
        *,
        epochs: int = 120,
        batch_size: int = 1024,
        lr: float = 0.5,
        momentum: float = 0.9,
        weight_decay: float = 4e-5,
        clip: float | None = None,
        sampling: Sampling = "uniform",
        probabilities: dict[str, float] | None = None,
        macs: list[float] | None = None,
        board: int = 10,
        start_epoch: int = 20,
        teacher: Pick = "meta",
        slices: int = 4,
        meta_lr: float = 1e-4,
        meta_every: int = 200,
        held_out: Literal["architecture", "validation"] = "architecture",
        board_images: int = 2048,
        recalibration: int = 4,
        unit_steps: int = 200,
        reference: bool | list[Departure] = False,
    ) -> None:
        numbers = {"board": board, "slices": slices, "meta_every": meta_every, "unit_steps": unit_steps}
        numbers |= {"board_images": board_images, "recalibration": recalibration}
        check_options(epochs, start_epoch, lr, momentum, macs, numbers)
        refuse_other(context.task, "the method 'cream', whose paths teach one another by their logits")
        self.context, self.space, self.task = context, context.space, context.task
        self.seed, self.ranks, self.device = context.seed, context.ranks, context.device
        self.epochs, self.start_epoch, self.batch_size = epochs, start_epoch, batch_size
        self.lr, self.clip, self.slices, self.meta_every = lr, clip, slices, meta_every
        self.reference = frozenset(DEPARTURES if reference is True else reference or ())
        if "features" in self.reference and batch_size // self.ranks.world < slices:
            raise ConfigError(
                f"reference 'features' takes slices = {slices} images from a process's batch, and it has "
                f"{batch_size // self.ranks.world}; make batch_size larger"
            )
        self.supernet = assemble_shared(
            self.space, self.task, context.model, seed=self.seed, device=self.device
        )
        self.costs = PathCosts(self.supernet, self.space, self.task)
        self.runner = Runner(self.supernet, self.costs, context)
        in_force: Sampling = "uniform" if "sampling" in self.reference else sampling
        given = (probabilities or {}) if in_force == sampling else {}
        bounds = None if macs is None or "range" in self.reference else (macs[0], macs[1])
        self.sampler = Sampler(self.space, self.costs, in_force, bounds, given)
        groups = parameter_groups(self.supernet, weight_decay, decay_all=False)
        self.optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=context.precision == "float16")
        self.board = Board(board, by_gap="score" in self.reference, dearer_first="order" in self.reference)
        probe = self._load_data(held_out, board_images, recalibration)
        self.teachers = Teachers(
            self.runner,
            probe,
            pick=teacher,
            lr=meta_lr,
            momentum=momentum,
            reference=self.reference,
        )
        steps = max(1, len(self.data) // batch_size)  # type: ignore[arg-type]
        self.plan, self.steps = spans(epochs, {"weights": steps}, unit_steps), epochs * steps
        self.done = 0
        self._proposed = 0

    # -- training -----------------------------------------------------------------------------------

    def fit(self) -> Iterator[Progress]:
        """Train on from where the state is; a unit is an epoch, or `unit_steps` steps of a long one."""
        while self.done < len(self.plan):
            unit = self.plan[self.done]
            metrics = self._run(unit)
            self.done += 1
            yield Progress(self.done, len(self.plan), unit.epochs, metrics)

    def _run(self, unit: Span[str]) -> dict[str, float]:
        self.supernet.train()
        stream = batches(
            self.data,
            self.batch_size,
            seed=derive_seed(self.seed, "weights"),
            epoch=unit.epoch,
            shuffle=True,
            drop_last=True,
            ranks=self.ranks,
            device=self.device,
        )
        record = Record()
        with forked_rng(self.seed, "fit", unit.before):  # dropout in a head draws from global state
            for offset, (x, y) in enumerate(islice(stream, unit.start, unit.stop)):
                self._step(x, y, unit.epoch, unit.before + offset, record)
        self.ranks.broadcast_buffers(self.supernet)
        if unit.last and "score" not in self.reference:
            self.board = self.board.refreshed([self._measured(entry) for entry in self.board.entries])
        return record.metrics(self.board)

    def _step(self, x: Tensor, y: Tensor, epoch: int, step: int, record: Record) -> None:
        """One path: its loss, its teacher's word, an SGD step; then, whether it is one for the board."""
        a, lr = self.path(step), self._set_rate(step)
        if self.board.entries and self.teachers.pick == "meta" and (step + 1) % self.meta_every == 0:
            held_out = self._validation_batch(step)
            self.teachers.learn(a, self.board, x, held_out, self.supernet.loss, lr, step)
        self.optimizer.zero_grad(set_to_none=True)  # so that neither momentum nor decay moves other paths
        with precision_context(self.device, self.context.precision):
            logits = self.supernet(self.runner.sized(x, a), a)
            ce = self.supernet.loss(logits, y)
        loss, logits = ce.float(), logits.float()
        values = {"ce": loss, "accuracy": _hits(logits, y)}
        q = torch.softmax(logits.detach(), 1)
        if self.board.entries:
            match = self.teachers.match(a, self.board, step)
            q = self.runner.told(self.board.entries[match.place].architecture, x)
            kd = distillation(logits, q)
            loss = joined_loss(loss, kd, match.m)
            values |= {"kd": kd, "m": match.m, "teacher": _hits(q, y)}
            record.teacher(match.place, match.weights)
        seen = self._checked({"loss": loss, **values}, step, lr)
        record.step(seen, lr, self.costs(a))
        self.scaler.scale(loss).backward()
        self._update()
        if epoch >= self.start_epoch:
            self._consider(a, seen, x, q)

    def path(self, step: int) -> Architecture:
        """The path of a step: the same on every rank and after every resume."""
        return self.sampler.draw(python_rng(self.seed, "path", step), self.board.histogram())

    def _set_rate(self, step: int) -> float:
        schedule = reference_linear if "schedule" in self.reference else linear
        lr = schedule(self.lr, step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _checked(self, values: Mapping[str, Tensor], step: int, lr: float) -> dict[str, float]:
        """The means over the ranks; a SearchError where one is no number."""
        means = self.ranks.average(torch.stack([value.detach().float() for value in values.values()]))
        seen = dict(zip(values, means.tolist(), strict=True))
        odd = [f"{name} = {value}" for name, value in seen.items() if not abs(value) < float("inf")]
        if odd:
            raise SearchError(
                f"step {step}: {', '.join(odd)} at lr {lr:g}; lower lr or meta_lr, give 'clip' a bound, or use float32"
            )
        return seen

    def _update(self) -> None:
        """The optimizer's step with gradients that are the mean over the ranks."""
        self.ranks.average_gradients(self.supernet.parameters())
        if self.clip is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.supernet.parameters(), self.clip)
        self.scaler.step(self.optimizer)
        if "joint" in self.reference:
            self.teachers.joint_step(self.scaler)
        self.scaler.update()

    def _validation_batch(self, step: int) -> tuple[Tensor, Tensor]:
        data: Any = self.held_out
        count = min(self.batch_size, len(data) - len(data) % self.ranks.world)
        chosen = python_rng(self.seed, "validation batch", step).sample(range(len(data)), count)
        return next(
            batches(
                Subset(data, chosen), count, drop_last=True, ranks=self.ranks, device=self.device, workers=0
            )
        )

    # -- the board ----------------------------------------------------------------------------------

    def _consider(self, a: Architecture, seen: Mapping[str, float], x: Tensor, q: Tensor) -> None:
        """Judge a path that may enter, and enter it where the board admits it.

        A full board looks at the path's batch first: held-out images are spent on paths alone that read
        it no worse than their teacher did. x, q: the batch, and what the teacher says of it.
        """
        macs = self.costs(a)
        if not (self.board.may_enter(a, macs) and self.sampler.allows(macs)):
            return
        if "score" in self.reference:
            accuracy = 100 * seen["accuracy"]
        elif self.board.is_full and seen["accuracy"] < seen["teacher"]:
            return
        else:
            accuracy = self.judge(a)
        if not self.board.admits(a, accuracy, macs):
            return
        if "features" in self.reference:
            first = (x[: self.slices].cpu(), q[: self.slices].cpu())
            images, features = self.ranks.broadcast_object(first)
            self.board = self.board.add(Entry(a, accuracy, macs, features, images))
        else:
            self.board = self.board.add(Entry(a, accuracy, macs, self._features(a)))

    def _features(self, a: Architecture) -> Tensor:
        return self.runner.told(a, self.teachers.probe).cpu()

    def _measured(self, entry: Entry) -> Entry:
        """The entry with accuracy and probabilities of the weights as they are now."""
        accuracy = self.judge(entry.architecture)
        if "features" in self.reference:
            return replace(entry, accuracy=accuracy)
        return replace(entry, accuracy=accuracy, features=self._features(entry.architecture))

    # -- proposing ----------------------------------------------------------------------------------

    def propose(self) -> Architecture | None:
        """The board's paths, the most competitive first; None after the last."""
        if self._proposed >= len(self.board.entries):
            return None
        self._proposed += 1
        return self.board.entries[self._proposed - 1].architecture

    def observe(self, trial: Trial) -> None:
        """Nothing to learn: the board is what the search knows."""

    # -- state ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Weights, buffers, meta network, both optimizers, the board and the position; all else follows from
        the seed."""
        return {
            "done": self.done,
            "supernet": self.supernet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "teachers": self.teachers.state_dict(),
            "board": [entry.to_state() for entry in self.board.entries],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.done = state["done"]
        self.supernet.load_state_dict(state["supernet"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.teachers.load_state_dict(state["teachers"])
        self.board = replace(self.board, entries=tuple(map(Entry.from_state, state["board"])))

    # -- set-up --------------------------------------------------------------------------------------

    def _load_data(
        self, held_out: Literal["architecture", "validation"], images: int, recalibration: int
    ) -> Tensor:
        """Training images at the largest size that a path takes; a step makes them smaller for its path.

        Returned are the images that paths are compared on (S, C, H, W).
        """
        shapes = [self.costs.shape(a) for a in self.costs.settings()]
        side = side_of(max(shapes, key=lambda shape: shape[1]), self.task)
        self.data = self.task.dataset("weights", augment=True, resolution=side)
        self.held_out = self.task.dataset(held_out, resolution=side)
        available = len(self.held_out)  # type: ignore[arg-type]
        if available < max(self.slices, self.ranks.world):
            raise ConfigError(
                f"the split '{held_out}' has {available} images, and paths are compared on {self.slices} ('slices') "
                f"by {self.ranks.world} processes; give it a larger share of the task"
            )
        self.judge = Judge(
            self.supernet,
            self.costs,
            self.context,
            held_out=held_out,
            images=images,
            recalibration=recalibration,
        )
        sizes = {"weights": len(self.data), held_out: available}  # type: ignore[arg-type]
        check_batches(self.supernet, self.costs, self.batch_size, sizes, self.slices, self.ranks.world)
        chosen = python_rng(self.seed, "probe").sample(range(available), self.slices)
        return next(batches(Subset(self.held_out, chosen), self.slices, device=self.device, workers=0))[0]


def _hits(logits: Tensor, y: Tensor) -> Tensor:
    """Top-1 of a batch, in 0..1."""
    return (logits.argmax(1) == y).float().mean()
