"""Successive halving (Jamieson, Talwalkar: Non-stochastic Best Arm Identification and Hyperparameter Optimization,
AISTATS 2016) and Hyperband (Li, Jamieson, DeSalvo, Rostamizadeh, Talwalkar, JMLR 18, 2018): many architectures are
trained a little, the best of them go on, and few are trained to the end."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from archloom import Architecture, Proposal, SearchSpace, Trial, sample, size
from archloom.space import everything

from .options import at_least

DRAWS = 100
"""How often an architecture is drawn again that the bracket has already, before those that are left are listed."""


@dataclass
class Rung:
    """Who is trained up to one fidelity, and what came of it."""

    fidelity: float
    room: int
    waiting: list[Architecture] = field(default_factory=list)  # promoted to here, not yet proposed
    told: list[Trial] = field(default_factory=list)
    open: int = 0


class Bracket:
    """One pass from `n` random architectures to the best of them, over rungs r_i = eta^(i - s), i = 0..s.

    At rung i there are n_i = floor(n / eta^i), at least one (algorithm 1 of the Hyperband paper, lines 4 to 9). An
    architecture that is infeasible or fails at the first rung is replaced by another, as long as the space has one:
    no architecture has two places in a rung.
    """

    def __init__(self, space: SearchSpace, rng: random.Random, n: int, s: int, eta: int) -> None:
        self.space, self.rng = space, rng
        n = min(n, size(space))
        self.rungs = [Rung(eta ** float(i - s), max(1, n // eta**i)) for i in range(s + 1)]
        self.level = 0
        self.drawn: dict[Architecture, None] = {}

    @property
    def done(self) -> bool:
        """Whether the last rung is complete, or nothing came through to it."""
        return self.level == len(self.rungs)

    def propose(self) -> Proposal | None:
        """The next of the present rung, or None until its open trials are told."""
        rung = self.rungs[self.level]
        if self.level == 0 and self._more and len(rung.told) + rung.open < rung.room:
            architecture = self._fresh()
        elif rung.waiting:
            architecture = rung.waiting.pop(0)
        else:
            return None
        rung.open += 1
        return Proposal(architecture, rung.fidelity)

    @property
    def _more(self) -> bool:
        """Whether the space has an architecture that the bracket has not drawn."""
        return len(self.drawn) < size(self.space)

    def _fresh(self) -> Architecture:
        for _ in range(DRAWS):
            drawn = sample(self.space, self.rng)
            if drawn not in self.drawn:
                break
        else:  # so many misses happen only where nearly all of a small space is drawn
            drawn = self.rng.choice([one for one in everything(self.space) if one not in self.drawn])
        self.drawn[drawn] = None
        return drawn

    def observe(self, trial: Trial) -> None:
        """What came of a proposal; after the last of a rung the best of it are promoted."""
        rung = self.rungs[self.level]
        rung.open -= 1
        if trial.score is not None:
            rung.told.append(trial)
        short = self.level == 0 and self._more and len(rung.told) < rung.room
        if rung.open or rung.waiting or short:
            return
        self.level += 1
        if not self.done:
            following = self.rungs[self.level]
            best = sorted(rung.told, key=lambda one: (-(one.score or 0.0), one.number))
            following.waiting = [one.architecture for one in best[: following.room]]
            if not following.waiting:  # all failed on the way
                self.level = len(self.rungs)


class SuccessiveHalving:
    """Bracket after bracket of `width` random architectures, of which one in `eta` goes on from rung to rung.

    width: n of the paper. eta: the factor by which architectures become fewer and trainings longer. rungs: at how
    many lengths of training they are judged; the first is eta^-(rungs - 1) of the whole. Trainings are continued,
    not begun anew. With several objectives the first one decides.
    """

    needs = ("fidelity",)

    def __init__(
        self, space: SearchSpace, rng: random.Random, *, width: int = 27, eta: int = 3, rungs: int = 3
    ) -> None:
        at_least("successive_halving", 2, eta=eta, rungs=rungs)
        at_least("successive_halving", eta ** (rungs - 1), width=width)  # so that one is left at the end
        self.space, self.rng, self.eta = space, rng, eta
        self.shapes = self._shapes(width, rungs)
        self.bracket: Bracket | None = None

    def _shapes(self, width: int, rungs: int) -> Iterator[tuple[int, int]]:
        """(n, s) of each bracket, without end."""
        while True:
            yield width, rungs - 1

    def propose(self) -> Proposal | None:
        if self.bracket is None or self.bracket.done:
            n, s = next(self.shapes)
            self.bracket = Bracket(self.space, self.rng, n, s, self.eta)
        return self.bracket.propose()

    def observe(self, trial: Trial) -> None:
        if self.bracket is not None:
            self.bracket.observe(trial)


class Hyperband(SuccessiveHalving):
    """Brackets of successive halving from the hastiest to one that trains each architecture to the end, in turn.

    eta: as there. rungs: s_max + 1 of the paper, the rungs of the hastiest bracket; bracket s begins with
    n = ceil((s_max + 1) / (s + 1) * eta^s) architectures trained to eta^-s of the whole.
    """

    def __init__(self, space: SearchSpace, rng: random.Random, *, eta: int = 3, rungs: int = 3) -> None:
        super().__init__(space, rng, width=eta ** max(0, rungs - 1), eta=eta, rungs=rungs)

    def _shapes(self, width: int, rungs: int) -> Iterator[tuple[int, int]]:
        while True:
            for s in reversed(range(rungs)):  # algorithm 1, lines 1 to 3
                yield -(-rungs * self.eta**s // (s + 1)), s
