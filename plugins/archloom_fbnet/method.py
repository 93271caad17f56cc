"""FBNet (Wu et al., CVPR 2019, arXiv 1812.03443): differentiable search with a latency-aware loss.

    min over theta, min over w of E_(a ~ P_theta) L(a, w_a)                                (eq. 7)

w is trained on one part of the data and theta on another, in turn, an epoch of each.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archloom import (
    Architecture,
    ConfigError,
    ModelParts,
    Progress,
    Ranks,
    Recorded,
    SearchError,
    SpaceError,
    Task,
    Trial,
    assemble_shared,
    batches,
    derive_seed,
    forked_rng,
    own_rng,
    python_rng,
    torch_rng,
)
from archloom.metrics import Classification, Totals, num_outputs, scoring_of
from archloom.mixing import Mixture
from archloom.shared import derive, relaxed
from archloom.training import precision_context
from archloom.weight_sharing import Span, held_still, spans

from .checks import check_batches
from .costs import CostTable, Unit, counted_costs, given_costs, measured_costs
from .loss import Form, Objective, Scaled, Stillness, expected_cost
from .schedule import Mode, Phase, Temperature, cosine, draw_of

MAX_DRAWS = 1000
"""After so many draws in a row that repeat an architecture, theta has nothing new to propose."""


class FBNet:
    """The stochastic supernet of FBNet and its alternating training; proposes from the trained theta.

    An epoch is a pass over the split "weights" that trains w and, after `warmup_epochs` of those alone, a
    pass over the split "architecture" that trains theta. In each pass the other parameters are frozen.
    The weight pass minimizes the task's loss alone; the pass for theta adds the cost.

    epochs, warmup_epochs, batch_size (over all processes): as in the paper.
    lr, momentum, weight_decay: SGD for w, with a cosine schedule over the epochs.
    theta_lr, theta_weight_decay: Adam for theta.
    temperature, temperature_decay, temperature_floor: tau, multiplied by the decay after each epoch.
    mode: "soft" runs all candidates, weighted; "top_k" the `k` heaviest of each draw; "single_path" one,
        its gradient passed straight through.
    loss, alpha, beta, target: see `archloom_fbnet.loss`. "additive" reads alpha, "target" beta and target.
    cost, unit: "latency" in "us" or "ms", or "macs" in "K" or "M" (thousands, millions).
    table: a file with the latency table; by default the candidates are measured on this device.
    samples: how many architectures are proposed: the likeliest, then distinct draws from P_theta.
    unit_steps: long passes can be resumed after every so many steps.
    reference: the reference code's form. Its loss in both passes (so that w's learning rate is scaled by
        alpha * log LAT^beta), tau constant during the warm-up and without a floor, its initialization of
        the classifier.
    """

    needs = ("differentiable",)

    def __init__(
        self,
        space: Any,
        task: Task,
        *,
        seed: int,
        ranks: Ranks,
        model: ModelParts,
        device: torch.device,
        precision: str,
        recorded: Recorded,
        epochs: int = 90,
        warmup_epochs: int = 10,
        batch_size: int = 192,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        theta_lr: float = 0.01,
        theta_weight_decay: float = 5e-4,
        temperature: float = 5.0,
        temperature_decay: float = 0.956,
        temperature_floor: float | None = None,
        mode: Mode = "soft",
        k: int = 2,
        loss: Form | None = None,
        alpha: float = 0.2,
        beta: float = 0.6,
        target: float | None = None,
        cost: Literal["latency", "macs"] = "latency",
        unit: Unit | None = None,
        table: str | None = None,
        samples: int = 6,
        unit_steps: int = 200,
        reference: bool = False,
    ) -> None:
        if not 0 <= warmup_epochs <= epochs or epochs < 1:
            raise ConfigError(f"warmup_epochs must lie in 0..epochs, not {warmup_epochs} of {epochs}")
        for name, value in {"k": k, "samples": samples, "unit_steps": unit_steps}.items():
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        self.space, self.task, self.seed, self.ranks = space, task, seed, ranks
        self.device, self.precision, self.reference = device, precision, reference
        self.epochs, self.warmup_epochs, self.batch_size = epochs, warmup_epochs, batch_size
        self.lr, self.samples = lr, samples
        floor = (0.0 if reference else 0.1) if temperature_floor is None else temperature_floor
        self.temperature = Temperature(
            temperature, temperature_decay, floor, start=warmup_epochs if reference else 0
        )
        self.draw = draw_of(mode, k)
        self.supernet = assemble_shared(space, task, model, seed=seed)
        self._check_space()
        if reference:
            self._reset_classifier()
        self.supernet.to(device)
        self.theta = {
            name: nn.Parameter(torch.full((options,), 1 / options, device=device))
            for name, options in self.supernet.shared.mixable.items()
        }
        default_unit: Unit = "us" if cost == "latency" else "K"
        self.costs = self._cost_table(model, cost, unit or default_unit, table, recorded)
        self.cost_tensors = self.costs.tensors(device)
        self.objective = Objective(
            loss or ("reference" if reference else "paper"), self.costs.unit, alpha, beta, target
        )
        self.objective.check(self.costs.cheapest)
        self.scaled = Scaled(self.objective, self.costs.dearest)
        self.weights = [p for p in self.supernet.parameters() if p.requires_grad]
        self.weight_optimizer = torch.optim.SGD(
            self.weights, lr=lr, momentum=momentum, weight_decay=weight_decay
        )
        self.theta_optimizer = torch.optim.Adam(
            self.theta.values(),
            lr=theta_lr,
            eps=self.scaled.eps,
            weight_decay=theta_weight_decay * self.scaled.decay,
        )
        self.stillness = Stillness(self.theta, theta_lr)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
        self.data: dict[Phase, Any] = {
            "weights": task.dataset("weights", augment=True),
            "theta": task.dataset("architecture", augment=True),
        }
        sizes = {"weights": len(self.data["weights"]), "architecture": len(self.data["theta"])}
        check_batches(self.supernet, space, task.shape, batch_size, sizes, ranks.world)
        steps = {phase: max(1, len(data) // batch_size) for phase, data in self.data.items()}
        self.plan = spans(epochs, steps, unit_steps, self.phases)
        self.done = 0
        self._seen = Totals(scoring_of(task))  # by the running pass
        self._proposed: list[Architecture] = []

    # -- training -----------------------------------------------------------------------------------

    def fit(self) -> Iterator[Progress]:
        """Train on from where the state is; a unit is a pass, or `unit_steps` steps of a long one."""
        while self.done < len(self.plan):
            unit = self.plan[self.done]
            metrics = self._run(unit)
            self.done += 1
            yield Progress(self.done, len(self.plan), unit.epochs, metrics)

    def phases(self, epoch: int) -> tuple[Phase, ...]:
        """The passes of an epoch: weights alone at first, then weights and theta in turn."""
        return ("weights",) if epoch < self.warmup_epochs else ("weights", "theta")

    def _run(self, unit: Span[Phase]) -> dict[str, float]:
        tau = self.temperature(unit.epoch)
        for group in self.weight_optimizer.param_groups:
            group["lr"] = cosine(self.lr, unit.epoch, self.epochs)
        self.supernet.train()
        stream = batches(
            self.data[unit.phase],
            self.batch_size,
            seed=derive_seed(self.seed, unit.phase),
            epoch=unit.epoch,
            shuffle=True,
            drop_last=True,
            ranks=self.ranks,
            device=self.device,
        )
        totals = torch.zeros(3, device=self.device)
        self._seen = Totals(scoring_of(self.task))
        self.stillness.begin()
        # dropout in a head draws from global state
        with self.still(unit.phase), forked_rng(self.seed, "fit", unit.before):
            for offset, (x, y) in enumerate(islice(stream, unit.start, unit.stop)):
                totals += self._step(x, y, unit.phase, tau, unit.before + offset)
        self.ranks.broadcast_buffers(self.supernet)
        ce, loss, correct = (totals / (unit.stop - unit.start)).tolist()
        if unit.phase == "theta":
            self.stillness.end(unit.epoch)
            loss = self.scaled.true(loss)
        return {
            f"{unit.phase}.ce": ce,
            # a loss beyond what a number holds is no number to write down
            **({f"{unit.phase}.loss": loss} if math.isfinite(loss) else {}),
            **self._figures(unit.phase, correct),
            "temperature": tau,
            "lr": self.weight_optimizer.param_groups[0]["lr"],
            "theta.entropy": self.entropy(),
            f"cost.expected_{self.costs.unit}": self.mean_cost(),
        }

    def _figures(self, phase: Phase, correct: float) -> dict[str, float]:
        """The main metric of a pass: accuracy from the share of correct images, another one from its totals."""
        scoring = self._seen.scoring
        if isinstance(scoring, Classification):
            return {f"{phase}.accuracy": 100 * correct}
        main = scoring.metrics[0].name
        return {f"{phase}.{main}": self._seen.over(self.ranks.sum).values()[main]}

    def _step(self, x: Tensor, y: Tensor, phase: Phase, tau: float, step: int) -> Tensor:
        """One optimizer step; (CE, loss, share of correct images), averaged over the ranks."""
        optimizer = self.weight_optimizer if phase == "weights" else self.theta_optimizer
        trained = self.weights if phase == "weights" else list(self.theta.values())
        optimizer.zero_grad(set_to_none=True)
        generator = torch_rng(self.seed, "gumbel", step)
        ce, loss, logits = self.losses(x, y, self.masks(tau, generator), phase)
        with torch.no_grad():
            correct = self._correct(logits, y)
            measured = self.ranks.average(torch.stack([ce.detach().float(), loss.detach().float(), correct]))
        if not bool(measured.isfinite().all()):
            raise SearchError(
                f"the loss of the {phase} pass became {float(measured[1])} in step {step} (CE "
                f"{float(measured[0])}, temperature {tau:g}); lower lr or theta_lr, raise temperature_floor, "
                "or use float32"
            )
        self.scaler.scale(loss).backward()
        self.ranks.average_gradients(trained)
        self.scaler.step(optimizer)
        self.scaler.update()
        return measured

    def _correct(self, logits: Tensor, y: Tensor) -> Tensor:
        """The share of correct images; of a task without classes 0, and its totals are kept."""
        if isinstance(self._seen.scoring, Classification):
            return (logits.argmax(1) == y).float().mean()
        self._seen.add(logits.float(), y)
        return torch.zeros((), device=self.device)

    def masks(self, tau: float, generator: torch.Generator | None) -> dict[str, Mixture]:
        """m_l of every layer, each from its own Gumbel noise  (eq. 8)."""
        return {name: self.draw(theta, tau, generator) for name, theta in self.theta.items()}

    def losses(
        self, x: Tensor, y: Tensor, masks: Mapping[str, Mixture], phase: Phase = "theta"
    ) -> tuple[Tensor, Tensor, Tensor]:
        """CE, what is minimized in this phase (for theta as `scaled`), and the logits (N, classes)."""
        with precision_context(self.device, self.precision):
            logits = self.supernet(x, masks)
            ce = self.supernet.loss(logits, y)
        if phase == "weights" and not self.reference:
            return ce, ce, logits
        weights = {name: mask.weights for name, mask in masks.items()}
        cost = expected_cost(weights, self.cost_tensors, self.costs.base)
        objective = self.objective if phase == "weights" else self.scaled
        return ce, objective(ce.float(), cost), logits

    def still(self, phase: Phase) -> AbstractContextManager[None]:
        """Inside the block gradients are computed for one group of parameters only."""
        return held_still(self.theta.values() if phase == "weights" else self.weights)

    # -- what theta says ----------------------------------------------------------------------------

    @torch.no_grad()
    def probabilities(self) -> dict[str, Tensor]:
        """P_theta of each layer: choice -> (n,), without noise and temperature  (eq. 4)."""
        return {name: F.softmax(theta.double(), dim=0).cpu() for name, theta in self.theta.items()}

    def entropy(self) -> float:
        """The mean entropy of the layers' P_theta, in nats: log(n) at first, 0 where all is decided."""
        each = [-(p * p.clamp(min=1e-300).log()).sum() for p in self.probabilities().values()]
        return float(torch.stack(each).mean())

    def mean_cost(self) -> float:
        """The cost of an architecture drawn from P_theta, on average."""
        costs = {name: torch.tensor(c, dtype=torch.float64) for name, c in self.costs.costs.items()}
        return float(expected_cost(self.probabilities(), costs, self.costs.base))

    def propose(self) -> Architecture | None:
        """The likeliest architecture, then distinct draws from P_theta  (eq. 6); None after `samples`."""
        if len(self._proposed) >= self.samples:
            return None
        probabilities = {name: p.tolist() for name, p in self.probabilities().items()}
        if not self._proposed:
            return self._remember(derive(self.space, probabilities))
        rng = python_rng(self.seed, "sample", len(self._proposed))
        for _ in range(MAX_DRAWS):
            drawn = derive(self.space, {name: _one_of(p, rng) for name, p in probabilities.items()})
            if drawn not in self._proposed:
                return self._remember(drawn)
        return None

    def observe(self, trial: Trial) -> None:
        """Nothing to learn: theta is what the search knows."""

    def _remember(self, architecture: Architecture) -> Architecture:
        self._proposed.append(architecture)
        return architecture

    # -- state ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Weights, buffers, theta, both optimizers and the position; all else follows from the seed."""
        return {
            "done": self.done,
            "supernet": self.supernet.state_dict(),
            "theta": {name: theta.detach() for name, theta in self.theta.items()},
            "weight_optimizer": self.weight_optimizer.state_dict(),
            "theta_optimizer": self.theta_optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.done = state["done"]
        self.supernet.load_state_dict(state["supernet"])
        with torch.no_grad():
            for name, theta in self.theta.items():
                theta.copy_(state["theta"][name])
        self.weight_optimizer.load_state_dict(state["weight_optimizer"])
        self.theta_optimizer.load_state_dict(state["theta_optimizer"])
        self.scaler.load_state_dict(state["scaler"])

    # -- set-up ----------------------------------------------------------------------------------------

    def _check_space(self) -> None:
        """Refuse a space about which theta cannot decide."""
        mixed, derived = self.supernet.shared.mixable, hasattr(self.space, "derive")
        undecided = [
            name
            for name in (relaxed(self.space) if derived else [choice.name for choice in self.space.choices])
            if name not in mixed
        ]
        if undecided:
            raise SpaceError(
                f"FBNet decides between layers, and {undecided} are none; "
                "fix them in the space, or use another method"
            )
        conditional = [choice.name for choice in self.space.choices if choice.when]
        if conditional and not derived:
            raise SpaceError(
                f"FBNet's loss counts every layer, and {conditional} are there only under conditions; make the option "
                "of leaving a layer out one of its own (skip), or use another method"
            )

    def _reset_classifier(self) -> None:
        """Weights as the reference code draws them."""
        with own_rng(self.seed, "classifier"):
            for module in self.supernet.head.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, 0, 0.01)
                    nn.init.zeros_(module.bias)

    def _cost_table(
        self, parts: ModelParts, cost: str, unit: Unit, table: str | None, recorded: Recorded
    ) -> CostTable:
        shape = self.task.shape
        if cost == "macs":
            if table is not None:
                raise ConfigError("a table is of latencies; leave it out, or use cost='latency'")
            return counted_costs(self.supernet, shape, unit)
        if table is not None:
            return given_costs(table, self.space, shape, num_outputs(self.task), parts, unit)
        return measured_costs(self.space, shape, num_outputs(self.task), parts, self.device, recorded, unit)


def _one_of(p: Sequence[float], rng: random.Random) -> list[float]:
    """One option drawn from probabilities, as probabilities of its own."""
    drawn = rng.choices(range(len(p)), p)[0]
    return [float(position == drawn) for position in range(len(p))]
