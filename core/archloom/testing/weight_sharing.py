"""The contract of methods that train a supernet."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch

from ..errors import ConfigError
from ..model import Model
from ..randomness import forked_rng
from ..shared import SharedNetwork
from ..space import check, sample
from ..trial import Trial
from .checks import Contract, global_generators_untouched, require, same, through_a_file
from .tiny import TinySpace, run_context, tiny_task


class WeightSharingContract(Contract):
    """Checks a method that trains a supernet. Give `options` with which it trains two units or more in a
    few seconds; override `space` and `task` where it needs certain ones."""

    kind = "strategy"

    def space(self) -> Any:
        """The space that is searched."""
        return TinySpace(layers=2)

    def task(self) -> Any:
        """The data."""
        return tiny_task()

    def _method(self, seed: int = 0) -> Any:
        return run_context(self.space(), self.task(), seed=seed).method(self._maker())

    def test_it_has_a_supernet_and_trains_it(self) -> None:
        try:
            method = self._method()
        except ConfigError as error:
            raise AssertionError(str(error)) from error
        require(
            isinstance(method.supernet, Model) and isinstance(method.supernet.backbone, SharedNetwork),
            "its `supernet` is a Model whose backbone is a SharedNetwork (archloom.model.assemble_shared makes one)",
        )

    def test_its_units_count_up_to_the_last(self) -> None:
        units = list(self._method().fit())
        require(len(units) >= 2, "it trained fewer than two units; options with more show what a resume does")
        numbers, epochs = [p.unit for p in units], [p.epochs for p in units]
        require(numbers == list(range(1, len(units) + 1)), f"units are numbered 1, 2, ..., not {numbers}")
        require(
            {p.of for p in units} == {len(units)},
            f"`of` is the number of units, {len(units)}, in each of them",
        )
        require(epochs == sorted(epochs) and epochs[-1] > 0, f"epochs done grow with the units, not {epochs}")

    def test_a_trained_one_trains_no_more(self) -> None:
        method = self._method()
        list(method.fit())
        again = sum(1 for _ in method.fit())
        require(
            not again, f"fit went on for {again} units after its last; go on from the state's own counters"
        )

    def test_the_same_seed_trains_the_same(self) -> None:
        first, second = self._method(seed=3), self._method(seed=3)
        with global_generators_untouched("fit"):
            list(first.fit())
        with forked_rng(99, "elsewhere"):
            list(second.fit())
        require(
            same(_state(first), _state(second)),
            "two methods of the same seed trained to different states; draw from (seed, purpose, step) alone",
        )

    def test_killed_and_resumed_it_trains_to_the_same_bits(self) -> None:
        whole = self._method()
        told = [(p.unit, dict(p.metrics)) for p in whole.fit()]
        state, proposed = _state(whole), _proposals(whole)
        for cut in sorted({1, len(told) - 1}):
            killed = self._method()
            list(islice(killed.fit(), cut))
            resumed = self._method()
            resumed.load_state_dict(through_a_file(killed.state_dict()))
            rest = [(p.unit, dict(p.metrics)) for p in resumed.fit()]
            require(
                [unit for unit, _ in rest] == [unit for unit, _ in told[cut:]],
                f"resumed after unit {cut} it trained units {[unit for unit, _ in rest]}",
            )
            require(same(_state(resumed), state), f"resumed after unit {cut} it trained to another state")
            require(same(_proposals(resumed), proposed), f"resumed after unit {cut} it proposes otherwise")

    def test_saving_changes_nothing(self) -> None:
        silent, saved = self._method(), self._method()
        list(silent.fit())
        for _ in saved.fit():
            saved.state_dict()
        require(same(_state(silent), _state(saved)), "calling state_dict between units changed the training")

    def test_its_state_is_plain_data(self) -> None:
        method = self._method()
        next(iter(method.fit()))
        try:
            through_a_file(method.state_dict())
        except Exception as error:
            raise AssertionError(
                f"its state cannot be saved and read safely ({error}); keep tensors, numbers, strings, "
                "lists, dicts"
            ) from error

    def test_what_it_proposes_belongs_to_the_space_and_can_be_extracted(self) -> None:
        method, space, task = self._method(), self.space(), self.task()
        list(method.fit())
        proposed = _proposals(method)
        require(proposed or not hasattr(method, "propose"), "it trained, and then proposed nothing")
        for architecture in proposed or [sample(space, random.Random(0))]:
            child = method.supernet.extract(check(space, architecture)).eval()
            with torch.no_grad():
                logits = child(torch.zeros(2, *task.shape))
            require(
                tuple(logits.shape) == (2, len(task.classes)),
                f"an extracted model gives {tuple(logits.shape)}",
            )


def _state(method: Any) -> Any:
    return through_a_file({"state": method.state_dict(), "supernet": dict(method.supernet.state_dict())})


def _proposals(method: Any, count: int = 5) -> Sequence[Any]:
    """What the method proposes when every trial is ok; nothing where it only trains."""
    proposed: list[Any] = []
    while hasattr(method, "propose") and len(proposed) < count:
        architecture = method.propose()
        if architecture is None:
            break
        proposed.append(architecture)
        method.observe(Trial(len(proposed) - 1, architecture, "ok", {}, (float(len(proposed)),)))
    return proposed
