"""Strategies: who proposes. Two protocols; nothing to inherit from.

A factory is handed what it names among its parameters, of all that is in `archloom.context.HANDED`; everything else
of it is a keyword-only option. What it makes trains a supernet where it has `fit`: a class shows that itself, a
function by the annotation of what it returns.

A factory may declare `needs`, a tuple of what its space must offer: "supernet" or "differentiable"; or "fidelity",
which an estimator must offer. A method that trains a supernet needs "supernet" without saying so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from .architecture import Architecture
from .model import Model
from .trial import Trial

Recorded = Callable[[str, Callable[[], Any]], Any]


@dataclass(frozen=True)
class Proposal:
    """An architecture to be measured at a part of the full effort: `fidelity` in (0, 1], of an estimator's epochs.

    The same architecture at a higher fidelity later is continued from where it stood, under the same seed. A strategy
    that makes proposals declares `needs = ("fidelity",)`, so that one without such an estimator is refused.
    """

    architecture: Architecture
    fidelity: float = 1.0


@runtime_checkable
class Strategy(Protocol):
    """Ask and tell. It owns no loop, measures nothing and saves nothing: it is resumed by replay."""

    def propose(self) -> Architecture | Proposal | None:
        """The next architecture to measure, perhaps at a lower fidelity, or None: nothing to ask now.

        The search ends when None comes while no trial is open; after None it is asked again only after
        the next `observe`. Calls must be a function of the factory's arguments and of the calls before.
        """
        ...

    def observe(self, trial: Trial) -> None:
        """What became of a proposal, in the order that counts. `trial.scores`: higher is better, None
        unless the trial is ok."""
        ...


@dataclass(frozen=True)
class Progress:
    """What `fit` yields after each resumable unit.

    unit: counts from 1, unique. of: how many units are planned. epochs: training epochs done so far, for
    the budget. metrics: numbers of this unit, already averaged over the ranks.
    """

    unit: int
    of: int
    epochs: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class WeightSharing(Protocol):
    """A method that trains a supernet first. It usually also proposes (then it is a `Strategy` as well)."""

    supernet: Model  # its backbone is a `SharedNetwork`

    def fit(self) -> Iterator[Progress]:
        """Train on from the state's own counters, yielding after each resumable unit.

        A unit is an epoch or smaller. All randomness comes from (seed, purpose, step). On every rank.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that `fit` needs to go on to the bit: tensors, numbers, strings, lists, dicts."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        ...
