"""Who teaches a path, how much the teacher's word weighs, and how the meta network learns both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from archloom import Architecture, SearchError, own_rng

from .board import Board
from .matching import MatchingNetwork, distillation, meta_gradient
from .running import Runner

Pick = Literal["meta", "top1"]
TOP1_WEIGHT = 0.5
"""m where the best path of the board teaches everybody."""

Departure = Literal[
    "schedule", "sampling", "weight", "gradient", "inner", "joint", "features", "score", "order", "range"
]
"""What the reference code does otherwise than the paper; the documentation has a table."""


class Match(NamedTuple):
    """The teacher's place on the board, m (a scalar), and sigmoid(w_k) of all entries; none at top-1."""

    place: int
    m: Tensor
    weights: list[float]


class Teachers:
    """Matches paths with teachers from the board; all decisions are equal on all ranks.

    probe: the images X (S, C, H, W) that paths are compared on.
    """

    def __init__(
        self,
        runner: Runner,
        probe: Tensor,
        *,
        pick: Pick,
        lr: float,
        momentum: float,
        reference: frozenset[Departure],
    ) -> None:
        self.runner, self.probe, self.pick, self.lr = runner, probe, pick, lr
        self.ranks, self.reference = runner.context.ranks, reference
        with own_rng(runner.context.seed, "meta network"):
            self.meta = MatchingNetwork(len(probe), len(runner.context.task.classes)).to(probe.device)
        self.theta = list(self.meta.parameters())
        self.optimizer = torch.optim.SGD(self.theta, lr=lr, momentum=momentum, nesterov=momentum > 0)

    def match(self, a: Architecture, board: Board, step: int) -> Match:
        """The teacher of path `a`. m is a constant of the step: the path is to follow its teacher, and not to
        make itself unlike it. In the reference's form m has a graph into the path's weights and into theta."""
        if self.pick == "top1":
            return Match(0, torch.tensor(TOP1_WEIGHT, device=self.probe.device), [])
        joint = "joint" in self.reference and torch.is_grad_enabled()
        for parameter in self.theta:
            parameter.requires_grad_(joint)
        with torch.set_grad_enabled(joint):
            w = self.compare(a, board)
        means = self.ranks.average(w.detach())
        if not bool(means.isfinite().all()):
            raise SearchError(
                f"step {step}: the meta network weighs the teachers {means.tolist()}, which are no numbers; lower "
                "meta_lr or lr, or let the best path teach: teacher: top1"
            )
        place = int(means.argmax())
        return Match(place, self.weight(w, place), torch.sigmoid(means).tolist())

    def weight(self, w: Tensor, place: int) -> Tensor:
        """m of w (K,): the sigmoid of the teacher's own. The reference's is of the last entry, negated."""
        return torch.sigmoid(-w[-1] if "weight" in self.reference else w[place])

    def compare(self, a: Architecture, board: Board, w: Mapping[str, Tensor] | None = None) -> Tensor:
        """M(p_a - p_k) of all entries at once, (K,). w: other weights of the path."""
        theirs = torch.stack([entry.features for entry in board.entries]).to(self.probe.device)
        if "features" in self.reference:
            # each entry has images of its own; all of them go through the path together
            images = torch.cat([entry.images for entry in board.entries if entry.images is not None])
            own = self.runner.probabilities(a, images.to(self.probe.device), w).view_as(theirs)
        else:
            own = self.runner.probabilities(a, self.probe, w)[None]
        compared: Tensor = self.meta(own - theirs)  # (K, S, classes) -> (K,)
        return compared

    def learn(
        self,
        a: Architecture,
        board: Board,
        x: Tensor,
        held_out: tuple[Tensor, Tensor],
        loss: Any,
        lr: float,
        step: int,
    ) -> None:
        """One step of theta: with what theta would a step of `a` have helped the held-out images more?

        Called before that step; the path's weights stay as they are.
        """
        with torch.no_grad():
            place = self.match(a, board, step).place
        for parameter in self.theta:
            parameter.requires_grad_(True)
        q = self.runner.told(board.entries[place].architecture, x)
        x_val, y_val = held_out

        def inner(w: Mapping[str, Tensor]) -> Tensor:
            m = self.weight(self.compare(a, board, w), place)
            return m * distillation(self.runner.logits(a, x, w), q)

        def outer(w: Mapping[str, Tensor]) -> Tensor:
            value: Tensor = loss(self.runner.logits(a, x_val, w), y_val)
            return value

        gradient = meta_gradient(
            inner,
            outer,
            self.runner.weights_of(a),
            self.theta,
            lr,
            scale=self.lr if "inner" in self.reference else None,
            first_only="gradient" in self.reference,
            average=self.ranks.average,
        )
        if not all(bool(g.isfinite().all()) for g in gradient):
            raise SearchError(
                f"step {step}: the gradient of the meta network is no number; lower meta_lr or lr, or let the best "
                "path teach: teacher: top1"
            )
        for parameter, value in zip(self.theta, gradient, strict=True):
            parameter.grad = value.detach().clone()
        torch.nn.utils.clip_grad_norm_(self.theta, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def joint_step(self, scaler: torch.amp.GradScaler) -> None:
        """theta's step down the loss of the path's own step, in the reference's form."""
        if self.meta.weight.grad is None:
            return
        self.ranks.average_gradients(self.theta)
        scaler.step(self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """theta and its optimizer."""
        return {"meta": self.meta.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.meta.load_state_dict(state["meta"])
        self.optimizer.load_state_dict(state["optimizer"])
