"""The contract of tasks."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..augmentation import Policy
from ..errors import TaskError
from ..metrics import Totals, check_scoring, scoring_of
from ..randomness import forked_rng, torch_rng
from ..task import SPLITS, Split, batches
from .checks import Contract, global_generators_untouched, require, same


class TaskContract(Contract):
    """Checks a task, by at most `items` items of each split.

    splits: those that it has. resolution: the side of images that it is asked for; None where it has no square images.
    repeated: how many items may be in two splits, where the data themselves hold some twice.
    """

    kind = "task"
    items: ClassVar[int] = 200
    splits: ClassVar[tuple[Split, ...]] = SPLITS
    resolution: ClassVar[int | None] = 12
    repeated: ClassVar[int] = 0

    def _items(self, task: Any, *splits: Split, **options: Any) -> Iterator[tuple[Tensor, Any]]:
        data = task.dataset(*splits, **options)
        for position in range(min(self.items, len(data))):
            yield data[position]

    def _epoch(self, task: Any, epoch: int) -> list[Any]:
        data = task.dataset("weights", augment=True)
        size = max(1, min(8, len(data) // 2))
        stream = batches(data, size, seed=5, epoch=epoch, shuffle=True, workers=0)
        return [list(batch) for _, batch in zip(range(2), stream, strict=False)]

    def test_it_says_its_name_its_shape_and_its_classes(self) -> None:
        task = self._make()
        require(isinstance(task.name, str) and task.name, "a task has a name")
        require(
            len(task.shape) >= 1 and all(type(size) is int and size >= 1 for size in task.shape),
            f"its shape is that of an input without the batch, sizes of at least 1, not {task.shape!r}",
        )
        classes = list(getattr(task, "classes", None) or ())
        require(
            all(isinstance(name, str) for name in classes) and len(set(classes)) == len(classes),
            f"its classes are different names, not {classes[:5]}",
        )

    def test_each_of_its_splits_has_items(self) -> None:
        task = self._make()
        for split in self.splits:
            require(len(task.dataset(split)), f"the {split} split is empty")

    def test_the_splits_share_no_item(self) -> None:
        task = self._make()
        held = {split: {_digest(x) for x, _ in self._items(task, split)} for split in self.splits}
        for number, split in enumerate(self.splits):
            for other in self.splits[number + 1 :]:
                shared = len(held[split] & held[other])
                require(
                    shared <= self.repeated,
                    f"{shared} items are in the {split} split and in the {other} split; what one trains or chooses "
                    "by cannot judge it",
                )

    def test_several_splits_stand_one_after_another(self) -> None:
        task, (one, other) = self._make(), self.splits[:2]
        sizes = len(task.dataset(one)), len(task.dataset(other))
        both = task.dataset(one, other)
        require(
            len(both) == sum(sizes) and same(_plain(both[sizes[0]]), _plain(task.dataset(other)[0])),
            f"dataset('{one}', '{other}') is the first split's items and then the second's",
        )

    def test_its_inputs_are_floats_of_its_shape(self) -> None:
        task = self._make()
        for split in self.splits:
            for x, _ in self._items(task, split):
                require(
                    isinstance(x, Tensor) and x.is_floating_point() and tuple(x.shape) == tuple(task.shape),
                    f"an input of the {split} split is a float tensor of shape {tuple(task.shape)}, not "
                    f"{getattr(x, 'dtype', type(x).__name__)} of {tuple(getattr(x, 'shape', ()))}",
                )
                require(bool(x.isfinite().all()), f"an input of the {split} split is not finite")

    def test_its_labels_number_its_classes(self) -> None:
        task = self._make()
        if not getattr(task, "classes", None):
            return  # its targets are no classes
        for split in self.splits:
            for _, target in self._items(task, split):
                require(
                    int(target) == target and 0 <= int(target) < len(task.classes),
                    f"a label of the {split} split is {target}; there are {len(task.classes)} classes, and labels "
                    "begin with 0",
                )

    def _batch(self, task: Any) -> tuple[Tensor, Tensor]:
        data = task.dataset(self.splits[0])
        return next(batches(data, max(1, min(8, len(data))), workers=0))

    def test_what_it_measures_is_whole(self) -> None:
        try:
            check_scoring(self._make())
        except TaskError as error:
            raise AssertionError(str(error)) from error

    def test_its_example_targets_are_like_its_targets(self) -> None:
        task = self._make()
        _, targets = self._batch(task)
        made = scoring_of(task).example_targets(len(targets))
        require(
            made.dtype == targets.dtype and made.shape == targets.shape,
            f"example_targets({len(targets)}) gives {made.dtype} of {tuple(made.shape)}, and a batch has "
            f"{targets.dtype} of {tuple(targets.shape)}; a loss is tried on what it gives",
        )

    def test_its_sums_over_parts_are_those_of_the_whole(self) -> None:
        task = self._make()
        scoring, (_, targets) = scoring_of(task), self._batch(task)
        outputs = torch.randn(len(targets), *scoring.outputs, generator=torch_rng(0, "outputs"))
        whole, parts = Totals(scoring), Totals(scoring)
        whole.add(outputs, targets)
        for rows in (slice(0, 1), slice(1, None)):
            if len(targets[rows]):
                parts.add(outputs[rows], targets[rows])
        values, added = whole.values(), parts.values()
        for name, value in values.items():
            require(
                math.isclose(value, added[name], rel_tol=1e-4, abs_tol=1e-6),
                f"'{name}' is {value} of {len(targets)} items, and {added[name]} where they came in two batches; score "
                "gives sums, which are divided by the number of items in values",
            )

    def test_made_again_it_holds_the_same_items(self) -> None:
        task, again = self._make(), self._make()
        for split in self.splits:
            for first, second in zip(self._items(task, split), self._items(again, split), strict=True):
                require(
                    same(_plain(first), _plain(second)),
                    f"made twice with the same options the {split} split holds other items, or in another order; the "
                    "split may depend on options alone",
                )

    def test_an_item_that_is_not_augmented_stays_as_it_is(self) -> None:
        data = self._make().dataset(self.splits[0])
        require(
            same(_plain(data[0]), _plain(data[0])),
            "an item was read twice with different results; only `augment` may draw",
        )

    def test_an_epoch_is_a_function_of_seed_and_number(self) -> None:
        task = self._make()
        first = self._epoch(task, 1)
        self._epoch(task, 2)
        with forked_rng(99, "elsewhere"):
            again = self._epoch(task, 1)
        require(
            same(first, again),
            "the same epoch came twice with different items: training transforms draw from the global generators of "
            "torch, random or numpy, which `archloom.task.batches` seeds for each item, and from nothing else",
        )

    def test_training_inputs_have_its_shape_too(self) -> None:
        task = self._make()
        asked: list[bool | Policy] = [True]
        if getattr(task, "policies", False):
            asked.append(Policy(trivialaugment=True))
        for augment in asked:
            with forked_rng(0, "augmented"):
                x, _ = task.dataset("weights", augment=augment)[0]
            require(
                x.is_floating_point() and tuple(x.shape) == tuple(task.shape),
                f"augmented ({augment}) an input is {x.dtype} of {tuple(x.shape)}, not floats of {tuple(task.shape)}",
            )

    def test_images_come_in_the_resolution_that_is_asked_for(self) -> None:
        if self.resolution is None:
            return
        task = self._make()
        x, _ = task.dataset("weights", resolution=self.resolution)[0]
        wanted = (task.shape[0], self.resolution, self.resolution)
        require(
            tuple(x.shape) == wanted,
            f"asked for a side of {self.resolution} it gives {tuple(x.shape)}, not {wanted}",
        )

    def test_it_leaves_the_global_generators_alone(self) -> None:
        self._make()  # what a library draws while it is imported is not the task's
        with forked_rng(1, "elsewhere"), global_generators_untouched("the task"):
            task = self._make()
            for split in self.splits:
                next(self._items(task, split))


def _digest(x: Tensor) -> bytes:
    return hashlib.sha256(x.contiguous().numpy().tobytes()).digest()


def _plain(item: Any) -> list[Any]:
    return [part if isinstance(part, Tensor) else torch.as_tensor(part) for part in item]
