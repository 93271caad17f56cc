"""Sharing out images among splits, class by class."""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from .errors import ConfigError
from .randomness import python_rng

Key = TypeVar("Key", bound=Hashable)


def stratified_split(
    targets: Sequence[int], fractions: Mapping[str, float], seed: int
) -> dict[str, list[int]]:
    """Disjoint index lists, each class shared out in the same proportions.

    Fractions sum to at most one; what remains is left out. A split's share of a class is within one image of its
    exact share. Rounding is by largest remainder within a class, ties drawn from the seed; classes so small that a
    split's share of one is less than an image are rounded together, so that each split has as many of their images,
    and with them of their classes, as its fraction promises.
    """
    total = sum(fractions.values())
    if not all(f >= 0 for f in fractions.values()) or not total <= 1 + 1e-9:
        raise ConfigError(f"split fractions must be at least 0 and sum to at most 1, not {dict(fractions)}")
    parts: dict[str, list[int]] = {name: [] for name in fractions}
    by_class = _by_class(targets)
    counts = _small_classes({label: len(members) for label, members in by_class.items()}, fractions, seed)
    for label, members in by_class.items():
        rng = python_rng(seed, "split", label)
        rng.shuffle(members)
        if label not in counts:
            exact = {name: fraction * len(members) for name, fraction in fractions.items()}
            counts[label] = apportion(exact, round(sum(exact.values())), rng)
        start = 0
        for name, count in counts[label].items():
            parts[name] += members[start : start + count]
            start += count
    return {name: sorted(indices) for name, indices in parts.items()}


def _small_classes(
    sizes: Mapping[int, int], fractions: Mapping[str, float], seed: int
) -> dict[int, dict[str, int]]:
    """What each split gets of the classes of which some split's exact share is less than one image.

    One by one they would all lose to the same split. So they are dealt out in an order drawn from the seed, and what
    cannot be shared goes to the splits that the classes before have left behind the most.
    """
    shares = {**fractions, _REST: max(0.0, 1 - sum(fractions.values()))}
    exact = {
        label: {name: round(share * count, 9) for name, share in shares.items()}
        for label, count in sizes.items()
        if any(0 < share * count < 1 - 1e-9 for share in fractions.values())
    }
    rng = python_rng(seed, "split", "small classes")
    order, behind, found = list(exact), dict.fromkeys(shares, 0.0), {}
    rng.shuffle(order)
    for label in order:
        counts = {name: int(share) for name, share in exact[label].items()}
        parted = [name for name, share in exact[label].items() if share > counts[name]]
        claims = {name: round(behind[name] + exact[label][name] - counts[name], 9) for name in parted}
        parted.sort(key=lambda name: (-claims[name], rng.random()))
        for name in parted[: sizes[label] - sum(counts.values())]:
            counts[name] += 1
        for name, count in counts.items():
            behind[name] += exact[label][name] - count
        found[label] = {name: counts[name] for name in fractions}
    return found


_REST = ""
"""What no split is given, among the splits' names."""


def stratified_sample(targets: Sequence[int], count: int, seed: int) -> list[int]:
    """Exactly `count` of the positions, in order, each class within one of its proportion."""
    if not 0 <= count <= len(targets):
        raise ConfigError(f"cannot take {count} of {len(targets)} images")
    by_class = _by_class(targets)
    exact = {label: count * len(members) / len(targets) for label, members in by_class.items()}
    counts = apportion(exact, count, python_rng(seed, "sample"))
    chosen: list[int] = []
    for label, members in by_class.items():
        python_rng(seed, "sample", label).shuffle(members)
        chosen += members[: counts[label]]
    return sorted(chosen)


def _by_class(targets: Sequence[int]) -> dict[int, list[int]]:
    """Label -> its positions, in the order of the labels."""
    members: dict[int, list[int]] = {}
    for index, target in enumerate(targets):
        members.setdefault(int(target), []).append(index)
    return dict(sorted(members.items()))


def apportion(exact: Mapping[Key, float], total: int, rng: random.Random) -> dict[Key, int]:
    """Whole numbers near `exact` that sum to `total`: the largest remainders are rounded up."""
    counts = {key: int(share) for key, share in exact.items()}
    order = sorted(exact, key=lambda key: (counts[key] - exact[key], rng.random()))
    for key in order[: total - sum(counts.values())]:
        counts[key] += 1
    return counts


def lacking(targets: Sequence[int], indices: Sequence[int], classes: int) -> list[int]:
    """The labels among 0..classes-1 of which none of the positions `indices` is an image."""
    there = {int(targets[index]) for index in indices}
    return [label for label in range(classes) if label not in there]
