"""Whether a constraint can be kept at all, asked of what counts before a supernet is trained for days."""

from __future__ import annotations

import itertools
import logging
import math
import random
from collections.abc import Callable
from dataclasses import replace

from ..architecture import Architecture
from ..errors import SearchError
from ..estimator import STATIC, Context, Estimator
from ..objective import Constraint, exact
from ..randomness import python_rng
from ..resolve import Resolved
from ..space import SearchSpace, changed, sample

logger = logging.getLogger("archloom")

SAMPLES, STARTS = 8, 3
"""Networks that are tried first; from how many of them the extreme is looked for where one does not show it."""

Value = Callable[[Architecture], float]


def check_constraints(r: Resolved, context: Context) -> None:
    """A SearchError that names the extreme network's value where no network of the space keeps a constraint on what is
    counted or looked up. Constraints on what is measured with weights are decided by the search alone."""
    for constraint in r.constraints:
        counting = [
            estimator
            for estimator in r.estimators
            if estimator.expense == STATIC and constraint.metric in [m.name for m in estimator.metrics]
        ]
        rng = python_rng(r.config.seed, "constraints")
        if counting and not _drawn(counting[0], constraint.metric, sample(r.space, rng), context):
            _check(r.space, constraint, _value(counting[0], constraint, context), rng)


def _drawn(estimator: Estimator, metric: str, architecture: Architecture, context: Context) -> bool:
    """Whether the metric depends on a trial's seed, as a proxy's does: then no value of it is the network's own."""
    try:
        values = [estimator.estimate(architecture, replace(context, seed=seed))[metric] for seed in (0, 1)]
    except Exception as error:  # the search will record it, for each network that it happens to
        logger.info("%s of %s: %s", metric, architecture, error)
        return False
    return values[0] != values[1]


def _value(estimator: Estimator, constraint: Constraint, context: Context) -> Value:
    """The metric of an architecture, turned so that lower is nearer to the constraint; infinite where it cannot be
    had. Each is asked for once."""
    sign = 1.0 if constraint.sign in ("<=", "<") else -1.0
    known: dict[Architecture, float] = {}

    def value(architecture: Architecture) -> float:
        if architecture not in known:
            try:
                found = sign * float(estimator.estimate(architecture, context)[constraint.metric])
            except Exception as error:  # what cannot be built or counted is no network to search for
                logger.info("%s of %s: %s", constraint.metric, architecture, error)
                found = math.inf
            known[architecture] = math.inf if math.isnan(found) else found
        return known[architecture]

    return value


def _check(space: SearchSpace, constraint: Constraint, value: Value, rng: random.Random) -> None:
    sign = 1.0 if constraint.sign in ("<=", "<") else -1.0
    holds = lambda architecture: (
        math.isfinite(value(architecture)) and constraint.holds(sign * value(architecture))
    )
    starts = []
    for _ in range(SAMPLES):
        starts.append(sample(space, rng))
        if holds(starts[-1]):
            return
    starts.sort(key=value)
    nearest = _descended(space, starts[0], value, holds, sweeps=1)
    if holds(nearest):
        return
    certain = _nowhere_lower(space, starts[-1], nearest, value)
    if not certain:
        ends = [_descended(space, start, value, holds) for start in (nearest, *starts[1:STARTS])]
        nearest = min(ends, key=value)
    if holds(nearest) or not math.isfinite(value(nearest)):
        return  # where nothing could be counted, the search will say it better
    extreme, seen = "lowest" if sign > 0 else "highest", exact(sign * value(nearest))
    if certain:
        raise SearchError(
            f"no network of the space keeps the constraint '{constraint}': the nearest seen was {seen}, the {extreme} "
            f"{constraint.metric} that there is, of {nearest}. Loosen the constraint"
        )
    logger.warning(
        "no network was found that keeps '%s'; the nearest seen was %s, of %s", constraint, seen, nearest
    )


def _descended(
    space: SearchSpace,
    start: Architecture,
    value: Value,
    holds: Callable[[Architecture], bool],
    sweeps: int | None = None,
) -> Architecture:
    """From `start` by single decisions to where none of them is better, or to the first that will do; after so many
    `sweeps` through the choices at the latest."""
    here = start
    for _ in itertools.count() if sweeps is None else range(sweeps):
        before = value(here)
        for choice in space.choices:
            if choice.name in here:
                here = min((changed(space, here, choice, option) for option in choice.options), key=value)
            if holds(here):
                return here
        if not value(here) < before:
            break
    return here


def _nowhere_lower(space: SearchSpace, around: Architecture, lowest: Architecture, value: Value) -> bool:
    """Whether the decisions of `lowest` are each the best ones in another network too.

    Where that is so whatever the others are, as in sums and products over layers, no network lies below `lowest`.
    """
    if any(choice.when for choice in space.choices):
        return False  # what a decision is worth depends on what it activates
    for choice in space.choices:
        options = {option: value(changed(space, around, choice, option)) for option in choice.options}
        if options[lowest[choice.name]] > min(options.values()):
            return False
    return True
