"""How deep the supernet is and how large its images are, from a range of MACs.

Two rules. `by_cost` counts whole networks at the resolution in question. `by_reference` is the reference
code's, kept to compare with it: it adds up a table for 224 pixels without stem and head, and scales the
range linearly, step by step, where the cost falls with the square.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from archloom import SpaceError

from .blocks import BlockSpec
from .costs import half, reference_count

DEEPEST = 6
"""Blocks in a stage of the deepest published network."""


class Size(NamedTuple):
    """depths: blocks in each stage. resolution: side of the images in pixels."""

    depths: tuple[int, ...]
    resolution: int


CostRange = Callable[[Sequence[int], int], tuple[int, int]]
"""(depths, side) -> MACs of the cheapest and of the dearest network."""


def stage_order(stages: int) -> list[int]:
    """In which order stages get a further block: from the middle to the last, then back to the first."""
    return [*range(stages // 2, stages), *reversed(range(stages // 2))]


def by_cost(
    low: float, high: float, stages: int, sides: Sequence[int], cost_range: CostRange, deepest: int = DEEPEST
) -> Size:
    """The largest supernet whose networks lie below `high` MACs and reach `low`.

    sides: the resolutions to choose from, the preferred first. Taken is the first at which the cheapest
    network of one block a stage costs at most `high`. Then every stage in turn gets one more block, as long
    as the dearest network costs at most `high`; a stage whose block is too dear is passed over. Where even
    one block a stage can exceed `high`, the dearer networks are left to a constraint of the search.
    """
    if not 0 <= low <= high:
        raise SpaceError(f"a range of MACs is [low, high] with 0 <= low <= high, not [{low:g}, {high:g}]")
    depths = [1] * stages
    fitting = [side for side in sides if cost_range(depths, side)[0] <= high]
    if not fitting:
        cheapest = min(cost_range(depths, side)[0] for side in sides)
        raise SpaceError(
            f"no network of this space costs {high:g} MACs or less; the cheapest, at {min(sides)} pixels, has "
            f"{cheapest:,}. The unit is multiply-adds, not millions of them; give a larger range or a smaller "
            "form"
        )
    side = fitting[0]
    for limit in range(2, deepest + 1):
        for stage in stage_order(stages):
            deeper = [depth + (i == stage) for i, depth in enumerate(depths)]
            if max(deeper) <= limit and cost_range(deeper, side)[1] <= high:
                depths = deeper
    dearest = cost_range(depths, side)[1]
    if dearest < low:
        raise SpaceError(
            f"the dearest network within [{low:g}, {high:g}] MACs that this space reaches, {depths} blocks at "
            f"{side} pixels, has {dearest:,}; widen the range, or give 'depths' and 'resolution' yourself"
        )
    return Size(tuple(depths), side)


_SIDES = 7, 32
"""The reference starts at 7 units of 32 pixels, and goes down to 2."""

_LIMITS = (3, 3, 3, 2, 2, 4, 4, 4, 4, 4)
"""Up to how many blocks a stage gets, when the reference comes to it the first and the second time."""


def reference_table(
    stages: Sequence[tuple[int, int]], c_in: int, candidates: Sequence[BlockSpec]
) -> list[list[tuple[float, float]]]:
    """T[stage][candidate]: 1e6 operations of a stage's first block and of a further one, at 224 pixels.

    stages: (channels, stride). candidates: specs of which everything but channels and stride counts.
    """
    table, side = [], 112
    for channels, stride in stages:
        after = half(side, stride)
        rows = []
        for candidate in candidates:
            first = replace(candidate, channels=channels, stride=stride)
            further = replace(candidate, channels=channels, stride=1)
            rows.append(
                (reference_count(first, c_in, side) / 1e6, reference_count(further, channels, after) / 1e6)
            )
        table.append(rows)
        c_in, side = channels, after
    return table


def by_reference(low: float, high: float, table: Sequence[Sequence[tuple[float, float]]]) -> Size:
    """The reference code's rule for a range in units of 1e6 operations; a SpaceError where it finds none.

    table: see `reference_table`; its candidates are in order, the first the cheapest, the last the dearest.
    """
    order = stage_order(len(table)) * 2
    depths = [1] * len(table)
    cheapest, dearest = sum(rows[0][0] for rows in table), sum(rows[-1][0] for rows in table)
    units, pixels = _SIDES
    position, valid, asked = 0, True, (low, high)

    def deepen() -> None:
        nonlocal dearest, position
        stage = order[position]
        depths[stage] += 1
        dearest += table[stage][-1][1]
        if depths[stage] == _LIMITS[position]:
            position += 1

    if cheapest > high:
        while cheapest > high and units >= 2:
            units -= 1
            low, high = low * _SIDES[0] / units, high * _SIDES[0] / units
        valid = units >= 2
    elif dearest < low:
        while dearest < low and position < len(order):
            deepen()
        valid = dearest >= low
    if not valid:
        raise SpaceError(
            f"the reference's rule finds no supernet for {asked[0]:g} to {asked[1]:g} million operations; widen "
            "the range, or leave out 'reference'"
        )
    while position < len(order) and dearest + table[order[position]][-1][1] <= high:
        deepen()
    return Size(tuple(depths), units * pixels)
