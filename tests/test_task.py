"""The splits are disjoint and stratified; what an epoch gives is a function of (seed, epoch) alone."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset, TensorDataset

from archloom.errors import ConfigError, TaskError
from archloom.ranks import Ranks
from archloom.task import (
    SPLITS,
    ImageTask,
    Task,
    batches,
    stratified_sample,
    stratified_split,
)

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=120)
TENTHS = st.lists(st.integers(0, 10), min_size=1, max_size=4).filter(lambda parts: sum(parts) <= 10)


@given(labels=LABELS, tenths=TENTHS, seed=st.integers(0, 2**40))
def test_a_stratified_split_is_disjoint_proportional_and_a_function_of_its_seed(labels, tenths, seed):
    fractions = {f"part {i}": tenth / 10 for i, tenth in enumerate(tenths)}
    parts = stratified_split(labels, fractions, seed)
    taken = [index for indices in parts.values() for index in indices]
    assert len(set(taken)) == len(taken)
    assert set(taken) <= set(range(len(labels)))
    in_class = Counter(labels)
    for (name, indices), tenth in zip(parts.items(), tenths, strict=True):
        assert indices == sorted(indices), name
        counts = Counter(labels[i] for i in indices)
        for label, members in in_class.items():
            assert abs(counts[label] - Fraction(tenth * members, 10)) < 1
    if sum(tenths) == 10:
        assert len(taken) == len(labels)
    assert stratified_split(labels, fractions, seed) == parts


@given(labels=LABELS, data=st.data(), seed=st.integers(0, 2**40))
def test_a_stratified_sample_has_the_size_asked_for_and_the_proportions_of_the_whole(labels, data, seed):
    count = data.draw(st.integers(0, len(labels)))
    chosen = stratified_sample(labels, count, seed)
    assert len(chosen) == len(set(chosen)) == count
    assert chosen == sorted(chosen) == stratified_sample(labels, count, seed)
    counts = Counter(labels[i] for i in chosen)
    for label, members in Counter(labels).items():
        assert abs(counts[label] - Fraction(count * members, len(labels))) < 1


def test_another_seed_splits_otherwise():
    labels, halves = [0, 1] * 50, {"a": 0.5, "b": 0.5}
    assert len({tuple(stratified_split(labels, halves, seed)["a"]) for seed in range(20)}) == 20


def test_classes_of_one_image_do_not_all_lose_to_the_same_split():
    parts = stratified_split(list(range(400)), {"a": 0.5, "b": 0.5}, 0)
    assert 150 < len(parts["a"]) < 250  # 200 plus or minus five standard deviations of 10
    assert len(parts["a"]) + len(parts["b"]) == 400


DEFAULT = {"weights": 1 - 0.2 - 0.1, "architecture": 0.2, "validation": 0.1}


@pytest.mark.parametrize("images", [1, 2, 3, 4, 5, 7, 9])
def test_small_classes_give_each_split_the_share_that_it_is_promised(images):
    labels = [i % 100 for i in range(100 * images)]
    for seed in range(3):
        parts = stratified_split(labels, DEFAULT, seed)
        for name, share in DEFAULT.items():
            assert abs(len(parts[name]) - share * len(labels)) <= 1, name
            classes = len({labels[i] for i in parts[name]})
            assert classes >= min(100, len(parts[name])) - 1, name


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=60),
    shares=st.lists(st.integers(1, 20), min_size=1, max_size=4).filter(lambda shares: sum(shares) <= 20),
    seed=st.integers(0, 2**40),
)
@settings(deadline=None)
def test_a_split_has_every_class_that_it_can_have(sizes, shares, seed):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    fractions = {f"part {i}": share / 20 for i, share in enumerate(shares)}
    parts = stratified_split(labels, fractions, seed)
    for (name, indices), share in zip(parts.items(), shares, strict=True):
        counts = Counter(labels[i] for i in indices)
        # a class of which the split is to have a whole image is there, and of the others as many as images are due
        small = [label for label, size in enumerate(sizes) if share * size < 20]
        assert all(counts[label] for label in set(range(len(sizes))) - set(small)), name
        due = sum(Fraction(share * sizes[label], 20) for label in small)
        assert abs(sum(counts[label] > 0 for label in small) - due) < 3, name


def test_classes_with_enough_images_are_split_as_ever():
    labels = [i % 3 for i in range(90)]
    parts = stratified_split(labels, {"weights": 0.6, "architecture": 0.2, "validation": 0.2}, 0)
    assert [len(part) for part in parts.values()] == [54, 18, 18]
    assert parts["validation"] == [2, 9, 14, 22, 24, 32, 34, 36, 43, 44, 46, 49, 59, 60, 66, 67, 71, 78]
    assert (
        stratified_split([*labels, 3, 3], {"a": 0.5, "b": 0.5}, 1)["a"][:45]
        == stratified_split(labels, {"a": 0.5, "b": 0.5}, 1)["a"]
    )  # a small class changes nothing of the others


@pytest.mark.parametrize("fractions", [{"a": 0.7, "b": 0.4}, {"a": -0.1}, {"a": float("nan")}])
def test_fractions_that_cannot_be_are_refused(fractions):
    with pytest.raises(ConfigError, match="sum to at most 1"):
        stratified_split([0, 1], fractions, 0)


class Numbered(Dataset):
    """Items whose image is their own number, so that a test sees what it was given."""

    def __init__(self, count: int, start: int = 0, classes: int = 4) -> None:
        self.count, self.start, self.classes = count, start, classes

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return torch.full((1, 2, 2), float(self.start + index)), index % self.classes


class AddNoise:
    """A training transform that draws from every global generator there is."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        noise = [torch.rand(()).item(), random.random(), float(np.random.rand())]
        return image + torch.tensor([*noise, 0.0]).reshape(1, 2, 2)


def plain(resolution):
    return torch.clone


def noisy(resolution):
    return AddNoise()


def make_task(**changes) -> ImageTask:
    values = {
        "name": "numbers",
        "shape": (1, 2, 2),
        "classes": ("a", "b", "c", "d"),
        "train": Numbered(100),
        "train_targets": [i % 4 for i in range(100)],
        "test": Numbered(12, start=1000),
        "eval_transform": plain,
        "train_transform": noisy,
    }
    return ImageTask(**(values | changes))


def numbers(dataset) -> list[int]:
    return [int(dataset[i][0].min()) for i in range(len(dataset))]


@settings(deadline=None)
@given(seed=st.integers(0, 2**40))
def test_the_four_splits_of_a_task_are_disjoint_and_hold_everything(seed):
    task = make_task(split_seed=seed)
    assert isinstance(task, Task)
    contents = {split: numbers(task.dataset(split)) for split in SPLITS}
    assert sorted(n for content in contents.values() for n in content) == [*range(100), *range(1000, 1012)]
    assert [len(contents[split]) for split in SPLITS] == [60, 20, 20, 12]
    assert contents["test"] == list(range(1000, 1012))


def test_a_class_that_a_split_lacks_is_said_with_its_name(caplog):
    images = {"train": Numbered(10, classes=5), "train_targets": [i % 5 for i in range(10)]}
    fractions = {"weights": 0.8, "architecture": 0.1, "validation": 0.1}
    make_task(**images, classes=tuple("abcde"), fractions=fractions)
    told = [record.getMessage() for record in caplog.records]
    assert [text.split(" split has no image of ")[1].split(": ")[0] for text in told] == [
        "4 of the 5 classes"
    ] * 2
    assert "architecture" in told[0]
    assert "validation" in told[1]
    caplog.clear()
    make_task(classes=tuple("abcde"))
    assert "the weights split has no image of 1 of the 5 classes: e; " in caplog.text
    caplog.clear()
    make_task()
    assert not caplog.records


def test_several_splits_are_one_after_another_with_their_labels():
    task = make_task()
    both = task.dataset("architecture", "test", "weights")
    expected = [n for split in ("architecture", "test", "weights") for n in numbers(task.dataset(split))]
    assert numbers(both) == expected
    assert [both[i][1] for i in range(len(both))] == [n % 4 for n in expected]


def test_a_validation_set_of_its_own_leaves_all_training_images_to_the_other_two():
    task = make_task(
        validation=Numbered(8, start=500), fractions={"weights": 0.75, "architecture": 0.25}, train_size=40
    )
    assert numbers(task.dataset("validation")) == list(range(500, 508))
    assert [len(task.indices(split)) for split in SPLITS] == [30, 10, 8, 12]


@pytest.mark.parametrize("size", [7, 10, 33, 79, 80])
def test_train_size_is_kept_exactly_and_by_class_and_leaves_the_other_splits_alone(size):
    whole, task = make_task(), make_task(train_size=size)
    kept = {split: task.indices(split) for split in SPLITS}
    assert len(kept["weights"]) + len(kept["architecture"]) == size
    assert abs(len(kept["weights"]) - size * 0.75) < 1
    for split in ("weights", "architecture"):
        assert set(kept[split]) <= set(whole.indices(split))
        counts = Counter(index % 4 for index in kept[split])
        assert all(abs(counts[label] - len(kept[split]) / 4) < 1 for label in range(4))
    assert kept["validation"] == whole.indices("validation")
    assert kept["test"] == whole.indices("test")


def test_a_fraction_of_zero_leaves_a_split_out_and_asking_for_it_alone_says_so():
    task = make_task(fractions={"weights": 0.8, "architecture": 0.0, "validation": 0.2})
    assert len(task.dataset("weights", "architecture")) == 80
    with pytest.raises(TaskError, match="no images in architecture"):
        task.dataset("architecture")


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"classes": ("a",), "train_targets": [0] * 100}, TaskError, "has 1 class"),
        ({"train": Numbered(0), "train_targets": []}, TaskError, "no training images"),
        ({"train_targets": [0] * 99}, TaskError, "100 training images but 99 train_targets"),
        ({"train_targets": [i % 5 for i in range(100)]}, TaskError, "labels run from 0 to 4"),
        ({"train_targets": [-1] * 100}, TaskError, "labels run from -1"),
        ({"test": Numbered(0)}, TaskError, "the test split is empty"),
        ({"fractions": {"weights": 0.999, "validation": 0.001}}, TaskError, "validation split is empty"),
        ({"fractions": {"train": 1.0}}, ConfigError, "fractions are of weights, architecture, validation"),
        ({"validation": Numbered(4)}, ConfigError, "fractions are of weights, architecture, not"),
        ({"train_size": 0}, ConfigError, "train_size must be between 1 and 80"),
        ({"train_size": 81}, ConfigError, "train_size must be between 1 and 80"),
    ],
)
def test_a_task_that_cannot_be_is_refused(changes, error, says):
    with pytest.raises(error, match=says):
        make_task(**changes)


def test_a_request_that_cannot_be_is_refused():
    task = make_task(fractions={"weights": 0.8, "validation": 0.2})
    with pytest.raises(ConfigError, match=r"no split 'train'; it has weights, validation, test$"):
        task.dataset("train")
    with pytest.raises(ConfigError, match=r"no split 'architecture'.*Its fractions are"):
        task.dataset("weights", "architecture")
    with pytest.raises(ConfigError, match="resolution must be at least 1"):
        task.dataset("weights", resolution=0)
    with pytest.raises(TaskError, match="no images in no split"):
        task.dataset()


def test_what_is_in_memory_is_what_would_be_loaded_and_is_kept():
    task, loaded = make_task(in_memory=True), make_task()
    kept = task.dataset("validation", "test")
    assert isinstance(kept, TensorDataset)
    assert kept is task.dataset("validation", "test")
    assert kept is not task.dataset("validation", "test", resolution=2)
    assert not isinstance(task.dataset("validation", augment=True), TensorDataset)
    assert isinstance(
        make_task(in_memory=True, train_transform=None).dataset("test", augment=True), TensorDataset
    )
    for channels_last in (True, False):
        pair = (
            batches(d, 7, channels_last=channels_last) for d in (kept, loaded.dataset("validation", "test"))
        )
        for (x, y), (x2, y2) in zip(*pair, strict=True):
            torch.testing.assert_close(x, x2, rtol=0, atol=0)
            assert y.equal(y2)
            assert x.stride() == x2.stride()
            assert y.dtype == y2.dtype == torch.int64


def epoch_of(dataset, batch_size=16, **options) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(batches(dataset, batch_size, **options))


def same(a, b) -> bool:
    return len(a) == len(b) and all(
        x.equal(x2) and y.equal(y2) for (x, y), (x2, y2) in zip(a, b, strict=True)
    )


def test_an_epoch_is_a_function_of_seed_and_epoch_whatever_the_workers_and_the_global_generators():
    data = make_task().dataset("weights", augment=True)
    options = {"seed": 3, "epoch": 5, "shuffle": True}
    first = epoch_of(data, **options)
    torch.manual_seed(99), random.seed(99), np.random.seed(99)
    assert same(first, epoch_of(data, **options))
    assert same(first, epoch_of(data, **options, workers=2))


def test_the_augmentation_of_an_image_depends_on_its_position_and_not_on_its_batch():
    data = make_task().dataset("weights", augment=True)
    small, large = epoch_of(data, 7, seed=1), epoch_of(data, 60, seed=1)
    assert torch.cat([x for x, _ in small]).equal(large[0][0])
    shuffled = torch.cat([x for x, _ in epoch_of(data, 7, seed=1, shuffle=True)])
    assert {tuple(x.flatten().tolist()) for x in shuffled} == {
        tuple(x.flatten().tolist()) for x in large[0][0]
    }


def test_every_image_and_every_epoch_is_augmented_otherwise_by_each_generator():
    data = make_task().dataset("weights", augment=True)
    for channel in range(3):
        drawn = [
            torch.cat([x for x, _ in epoch_of(data, seed=seed, epoch=epoch)]).flatten(1)[:, channel].frac()
            for seed, epoch in ((0, 0), (0, 1), (1, 0))
        ]
        assert (
            torch.cat(drawn).unique().numel() > 0.98 * 180
        )  # float32 near 100 leaves 2^17 values between 0 and 1


def test_the_order_is_another_in_another_epoch_and_under_another_seed():
    data = make_task().dataset("weights")
    orders = [
        torch.cat([x for x, _ in epoch_of(data, seed=seed, epoch=epoch, shuffle=True)])[:, 0, 0, 0].tolist()
        for seed in range(3)
        for epoch in range(3)
    ]
    assert len({tuple(order) for order in orders}) == 9
    assert {tuple(sorted(order)) for order in orders} == {tuple(map(float, numbers(data)))}


@pytest.mark.parametrize("workers", [0, 2])
def test_no_global_generator_moves(workers):
    data = make_task().dataset("weights", augment=True)
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    expected = torch.rand(3), random.random(), np.random.rand()
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    epoch_of(data, shuffle=True, workers=workers)
    assert torch.rand(3).equal(expected[0])
    assert (random.random(), np.random.rand()) == expected[1:]


def test_the_data_set_says_how_many_workers_it_wants_unless_the_caller_does(monkeypatch):
    import archloom.task

    asked = []

    class Spy(torch.utils.data.DataLoader):
        def __init__(self, *args, num_workers, **kwargs):
            asked.append(num_workers)
            super().__init__(*args, num_workers=0, **kwargs)

    monkeypatch.setattr(archloom.task, "DataLoader", Spy)
    data = make_task(workers=2).dataset("weights", "validation")
    for workers in (None, 0, 1):
        epoch_of(data, workers=workers)
    epoch_of(Numbered(4))
    assert asked == [2, 0, 1, 0]


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("world", [2, 3])
def test_the_ranks_shares_are_disjoint_and_together_the_global_batch(world, in_memory):
    task = make_task(in_memory=in_memory)
    data = task.dataset("weights", augment=not in_memory)
    options = {"seed": 2, "epoch": 1, "shuffle": True, "drop_last": True}
    whole = epoch_of(data, 18, **options)
    shares = [epoch_of(data, 18, ranks=Ranks(rank, world), **options) for rank in range(world)]
    assert len(whole) == 3  # of 60 images, 6 are left over
    for step, (x, y) in enumerate(whole):
        parts = [share[step] for share in shares]
        assert {len(part) for part, _ in parts} == {18 // world}
        assert torch.stack([part for part, _ in parts], 1).flatten(0, 1).equal(x)
        assert torch.stack([labels for _, labels in parts], 1).flatten().equal(y)


def test_without_drop_last_the_ranks_see_every_image_once():
    data = make_task().dataset("weights")
    seen = [
        int(x[0, 0, 0]) for rank in range(7) for xs, _ in batches(data, 16, ranks=Ranks(rank, 7)) for x in xs
    ]
    assert sorted(seen) == numbers(data)


def test_the_only_batch_is_kept_though_incomplete_and_shared_out_evenly():
    data = make_task().dataset("test")
    assert [len(y) for _, y in batches(data, 32, drop_last=True)] == [12]
    sizes = [[len(y) for _, y in batches(data, 35, drop_last=True, ranks=Ranks(r, 5))] for r in range(5)]
    assert sizes == [[2]] * 5
    with pytest.raises(TaskError, match="12 images, fewer than the 13 processes"):
        epoch_of(data, 26, drop_last=True, ranks=Ranks(0, 13))


def test_batches_that_cannot_be_are_refused():
    data = make_task().dataset("test")
    with pytest.raises(ConfigError, match="at least 1"):
        epoch_of(data, 0)
    with pytest.raises(ConfigError, match="multiple of the 2 processes, not 5"):
        epoch_of(data, 5, drop_last=True, ranks=Ranks(1, 2))
    with pytest.raises(TaskError, match="empty"):
        epoch_of(Numbered(0))


class Unreadable(Numbered):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        raise TaskError("b.png cannot be read. Delete it")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_data_reads_the_same_from_a_loading_process(workers):
    with pytest.raises(TaskError) as caught:
        epoch_of(Unreadable(4), workers=workers)
    assert str(caught.value) == "b.png cannot be read. Delete it"


def test_a_data_set_that_is_nobodys_but_the_users_is_batched_too():
    images, labels = zip(*epoch_of(Numbered(10), 4, shuffle=True), strict=True)
    assert sorted(torch.cat(images)[:, 0, 0, 0].tolist()) == list(range(10))
    assert (torch.cat(images)[:, 0, 0, 0] % 4).equal(torch.cat(labels).float())


def test_seeding_an_image_costs_microseconds():
    """Well below the decoding of one image. The best of ten, since test machines are busy."""
    data, seconds = make_task().dataset("weights", augment=True), []
    for epoch in range(10):
        started = time.perf_counter()
        epoch_of(data, 60, epoch=epoch)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) / 60 < 5e-4


def test_a_split_is_the_same_in_another_process():
    """Nothing in it may hang on the order of hashes, which every process draws anew."""
    program = "from archloom.task import *; print(stratified_split([0, 1, 2] * 9, {'a': .3, 'b': .6}, 5))"
    here = stratified_split([0, 1, 2] * 9, {"a": 0.3, "b": 0.6}, 5)
    there = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {program}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert there.stdout.strip() == str(here)
