"""The prioritized paths: a board of the most competitive ones found so far (paper, section 3.2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from archloom import Architecture

GAP = 5.0
"""By how many points of accuracy the reference code lets a path in that costs more than the last one."""


@dataclass(frozen=True)
class Entry:
    """A prioritized path. accuracy: top-1 in %. macs: of the whole network.

    features: its class probabilities (S, classes), which the matching network compares a path's with.
    images: those of this entry alone (S, C, H, W), in the reference's form; None where all share a probe.
    """

    architecture: Architecture
    accuracy: float
    macs: int
    features: Tensor
    images: Tensor | None = None

    def to_state(self) -> dict[str, Any]:
        """Plain data and tensors."""
        return {
            "architecture": self.architecture.to_json(),
            "accuracy": self.accuracy,
            "macs": self.macs,
            "features": self.features,
            "images": self.images,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Entry:
        """The inverse of `to_state`."""
        return cls(**{**state, "architecture": Architecture.from_json(state["architecture"])})


@dataclass(frozen=True)
class Board:
    """At most `capacity` entries, the most competitive first: by accuracy, of equal ones the cheaper first.

    by_gap: a path that costs more enters too, where it is more accurate by `GAP` points; one that costs as
        much or is as accurate does not (the reference's rule).
    dearer_first: of equally accurate ones the dearer stands first, and a path can stand here twice (the
        reference's order).
    """

    capacity: int
    entries: tuple[Entry, ...] = ()
    by_gap: bool = False
    dearer_first: bool = False

    def __contains__(self, architecture: object) -> bool:
        return any(entry.architecture == architecture for entry in self.entries)

    @property
    def is_full(self) -> bool:
        """Whether a new entry displaces one."""
        return len(self.entries) >= self.capacity

    def may_enter(self, architecture: Architecture, macs: int) -> bool:
        """Whether a path of this cost could enter, were it accurate enough."""
        if architecture in self and not self.dearer_first:
            return False
        return not self.is_full or self.by_gap or macs <= self.entries[-1].macs

    def admits(self, architecture: Architecture, accuracy: float, macs: int) -> bool:
        """Whether the path is superior to the least competitive entry: no less accurate and no dearer.

        A board that is not full takes every path that it does not have yet.
        """
        if not self.may_enter(architecture, macs) or not self.is_full:
            return not self.is_full and self.may_enter(architecture, macs)
        last = self.entries[-1]
        if self.by_gap:
            return accuracy > last.accuracy + GAP or (accuracy > last.accuracy and macs < last.macs)
        return accuracy >= last.accuracy and macs <= last.macs

    def add(self, entry: Entry) -> Board:
        """The board with `entry` on it, in the place of the least competitive one where it was full.

        With `by_gap` the newcomer itself may be the one that falls off, as in the reference.
        """
        if self.by_gap or not self.is_full:
            return self._ranked([*self.entries, entry])
        return self._ranked([*self.entries[:-1], entry])

    def refreshed(self, entries: Sequence[Entry]) -> Board:
        """The board with its entries measured anew, ranked by what was measured."""
        return self._ranked(entries)

    def _ranked(self, entries: Sequence[Entry]) -> Board:
        sign = 1 if self.dearer_first else -1
        ordered = sorted(entries, key=lambda e: (e.accuracy, sign * e.macs), reverse=True)
        return replace(self, entries=tuple(ordered[: self.capacity]))

    def histogram(self) -> dict[Any, int]:
        """How often each option stands in the entries, over all choices."""
        return dict(Counter(option for entry in self.entries for option in entry.architecture.values()))
