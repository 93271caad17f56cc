"""The conformance kit for tasks, components, recipes and observers: each check fails on a plugin that breaks it."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from archloom import testing
from archloom.metrics import Metric
from archloom.task import ImageTask
from archloom.testing import tiny_task
from archloom.training import Recipe
from other_tasks import Brightness, Waves

# -- tasks ------------------------------------------------------------------------------------------------


def task_with(**changes: Any) -> ImageTask:
    """The tiny task in something else."""
    return dataclasses.replace(tiny_task(), **changes)


def resized(resolution: int | None) -> Any:
    def transform(image: torch.Tensor) -> torch.Tensor:
        if resolution is None:
            return image
        return nn.functional.interpolate(image[None], size=(resolution, resolution))[0]

    return transform


def flipping(resolution: int | None) -> Any:
    """Draws as a transform should: from a generator that `batches` seeds."""
    return lambda image: resized(resolution)(image.flip(2) if torch.rand(()) < 0.5 else image)


def sound() -> ImageTask:
    """A task without fault, to be broken in one thing at a time."""
    return task_with(eval_transform=resized, train_transform=flipping)


class Delegating:
    """A task that hands on to a sound one."""

    def __init__(self) -> None:
        self.inner = sound()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Nameless(Delegating):
    """It has no name."""

    name = ""


class TwiceNamed(Delegating):
    """Two classes of one name."""

    classes = ("a", "b", "b", "d")


class Untested(Delegating):
    """Its test split is empty."""

    def dataset(self, *splits: str, **options: Any) -> Any:
        data = self.inner.dataset(*splits, **options)
        return TensorDataset(torch.empty(0, 1, 8, 8), torch.empty(0)) if splits == ("test",) else data


class Leaking(Delegating):
    """It is tested on what it was trained on."""

    def dataset(self, *splits: str, **options: Any) -> Any:
        return self.inner.dataset(*("weights" if split == "test" else split for split in splits), **options)


class Single(Delegating):
    """Of several splits it gives the first."""

    def dataset(self, *splits: str, **options: Any) -> Any:
        return self.inner.dataset(splits[0], **options)


class Changed(Dataset[Any]):
    """Items of another data set, each changed by a function."""

    def __init__(self, data: Any, change: Any) -> None:
        self.data, self.change = data, change

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, position: int) -> Any:
        if position >= len(self.data):
            raise IndexError(position)
        return self.change(*self.data[position])


class Changing(Delegating):
    """Its items are changed."""

    def change(self, x: torch.Tensor, target: Any) -> Any:
        return x, target

    def dataset(self, *splits: str, **options: Any) -> Any:
        return Changed(self.inner.dataset(*splits, **options), self.change)


class Raw(Changing):
    """Its images are bytes."""

    def change(self, x: torch.Tensor, target: Any) -> Any:
        return x.to(torch.uint8), target


class FromOne(Changing):
    """Its labels begin with one."""

    def change(self, x: torch.Tensor, target: Any) -> Any:
        return x, target + 1


class Restless(Changing):
    """Its items are noisy each time that they are read."""

    def change(self, x: torch.Tensor, target: Any) -> Any:
        return x + random.SystemRandom().random(), target


class Reshuffled(Delegating):
    """Its splits are drawn by the system."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = dataclasses.replace(self.inner, split_seed=random.SystemRandom().randrange(10**6))


def from_the_system(resolution: int | None) -> Any:
    return lambda image: image + random.SystemRandom().random()


def own_augmentation() -> ImageTask:
    """Its augmentation draws from the system."""
    return task_with(eval_transform=resized, train_transform=from_the_system)


def cropped() -> ImageTask:
    """Its training images are smaller."""
    return task_with(
        eval_transform=resized, train_transform=lambda resolution: lambda image: image[:, :6, :6]
    )


def unscaled() -> ImageTask:
    """It has one resolution, whatever it is asked for."""
    return task_with(eval_transform=lambda resolution: lambda image: image)


def seeding() -> ImageTask:
    """It seeds the global generator."""
    torch.manual_seed(0)
    return sound()


class Unmeasured(Brightness):
    """It has a metric that its values do not name."""

    metrics = (*Brightness.metrics, Metric("r2", "", "max"))


class Flat(Brightness):
    """Its example targets have lost an axis."""

    def example_targets(self, count: int) -> torch.Tensor:
        return torch.zeros(count)


class Averaged(Brightness):
    """It gives means where sums are asked for."""

    def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, Any]:
        return super().score(outputs, targets) | {"items": 1}


BROKEN_TASKS = [
    ("test_what_it_measures_is_whole", Unmeasured, "metrics names rmse, mae, r2"),
    ("test_its_example_targets_are_like_its_targets", Flat, r"a batch has torch.float32 of \(8, 1\)"),
    ("test_its_sums_over_parts_are_those_of_the_whole", Averaged, "score gives sums"),
    ("test_it_says_its_name_its_shape_and_its_classes", Nameless, "has a name"),
    ("test_it_says_its_name_its_shape_and_its_classes", TwiceNamed, "different names"),
    ("test_each_of_its_splits_has_items", Untested, "test split is empty"),
    ("test_the_splits_share_no_item", Leaking, "items are in the weights split and in the test split"),
    ("test_several_splits_stand_one_after_another", Single, "the first split's items and then the second's"),
    ("test_its_inputs_are_floats_of_its_shape", Raw, "float tensor"),
    ("test_its_labels_number_its_classes", FromOne, "labels begin with 0"),
    ("test_made_again_it_holds_the_same_items", Reshuffled, "other items"),
    ("test_an_item_that_is_not_augmented_stays_as_it_is", Restless, "only `augment` may draw"),
    ("test_an_epoch_is_a_function_of_seed_and_number", own_augmentation, "same epoch came twice"),
    ("test_training_inputs_have_its_shape_too", cropped, r"of \(1, 6, 6\)"),
    ("test_images_come_in_the_resolution_that_is_asked_for", unscaled, "asked for a side of 12"),
    ("test_it_leaves_the_global_generators_alone", seeding, "generator of torch"),
]

# -- components -------------------------------------------------------------------------------------------


class Head(nn.Module):
    """A head without fault."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


class SystemHead(Head):
    """Its weights are the system's."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)
        with torch.no_grad():
            self.fc.bias += random.SystemRandom().random()


class Secretive(Head):
    """It computes with a tensor that is no buffer."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)
        self.scale = torch.rand(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) * self.scale


class Noisy(Head):
    """It drops units while it is evaluated."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.fc(x), 0.5, training=True)


class Spare(Head):
    """One of its layers is never used."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)
        self.spare = nn.Linear(1, 1)


class Batched(Head):
    """It subtracts the batch's mean."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x - x.mean(0))


class Reading(Head):
    """It reads a value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) * (2.0 if float(x.sum()) > 0 else 1.0)


class TwoClasses(Head):
    """It has two classes, whatever the task's."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, 2)


class Map(nn.Module):
    """A backbone without fault: one convolution."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 4, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.conv(x)


class Pooled(Map):
    """It pools."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).mean((2, 3))


class Pool(nn.Module):
    """A neck without fault."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class Unpooled(nn.Module):
    """A neck that leaves the map as it is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Loss(nn.Module):
    """A loss without fault."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits, labels)


class EachImage(nn.Module):
    """A loss for each image."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits, labels, reduction="none")


class Errors(nn.Module):
    """The share of wrong answers."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (logits.argmax(1) != labels).float().mean()


class InPlace(nn.Module):
    """It writes into the logits."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits.mul_(2), labels)


_OF_ANY = [
    ("test_the_same_seed_draws_the_same_weights", SystemHead, "under one seed"),
    ("test_its_state_comes_back_from_a_file", Secretive, "parameters and buffers"),
    ("test_evaluated_it_leaves_the_global_generators_alone", Noisy, "generator of torch"),
    ("test_gradients_reach_all_its_weights", Spare, "no gradient reaches spare"),
]
_OF_FEATURES = [
    ("test_it_treats_each_image_by_itself", Batched, "other images of its batch"),
    ("test_it_can_be_traced_without_numbers", Reading, "meta device"),
]
BROKEN_COMPONENTS = [
    *((testing.HeadContract, *case) for case in _OF_ANY + _OF_FEATURES),
    (
        testing.HeadContract,
        "test_it_gives_a_logit_for_each_class",
        TwoClasses,
        r"gives \(4, 4\), not \(4, 2\)",
    ),
    (testing.BackboneContract, "test_it_gives_feature_maps", Pooled, "pooling is the neck's"),
    (testing.NeckContract, "test_it_gives_a_vector_for_each_image", Unpooled, "pool, then flatten"),
    (testing.LossContract, "test_it_gives_one_finite_number", EachImage, "one finite number"),
    (testing.LossContract, "test_its_gradient_moves_the_logits", Errors, "no gradient"),
    (testing.LossContract, "test_it_leaves_its_arguments_as_they_are", InPlace, "wrote into the logits"),
]

# -- recipes ----------------------------------------------------------------------------------------------


def brisk() -> Recipe:
    """A recipe without fault."""
    return Recipe(epochs=2, lr=0.05)


def a_dictionary() -> Any:
    """It is no recipe."""
    return {"epochs": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holding(Recipe):
    """One of its fields is an object."""

    holds: Any = dataclasses.field(default_factory=lambda: torch.nn.ReLU)


def by_chance() -> Recipe:
    """Its rate is drawn."""
    return Recipe(lr=random.SystemRandom().random())


def too_fast() -> Recipe:
    """Its rate makes every weight infinite."""
    return Recipe(epochs=2, lr=1e30)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Endless(Recipe):
    """Its rate grows beyond every number at the end."""

    step_factor: float = 1e30
    step_epochs: float = 0.01
    schedule: Any = "exponential"


BROKEN_RECIPES = [
    ("test_it_is_a_recipe_of_plain_values", a_dictionary, "not an archloom.training.Recipe"),
    ("test_it_is_a_recipe_of_plain_values", Holding, "written down"),
    ("test_it_is_a_recipe_of_plain_values", by_chance, "two recipes of the same options differ"),
    ("test_its_learning_rate_is_a_number_at_every_moment", Endless, "it has no learning rate"),
    ("test_it_trains_a_network_to_the_same_weights_under_one_seed", by_chance, "ended at different weights"),
    ("test_it_trains_a_network_to_the_same_weights_under_one_seed", too_fast, "cannot train|is not finite"),
]

# -- observers --------------------------------------------------------------------------------------------


class Tally:
    """An observer without fault: it counts."""

    def __init__(self, folder: Path) -> None:
        self.path, self.count = folder / "count.txt", 0

    def __call__(self, event: dict[str, Any]) -> None:
        self.count += 1
        self.path.write_text(str(self.count))


class Demanding(Tally):
    """It takes every trial for a good one."""

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "result":
            self.best = event["scores"][0]
        super().__call__(event)


class Once(Tally):
    """It makes a folder that may not be there."""

    def __init__(self, folder: Path) -> None:
        (folder / "mine").mkdir()
        super().__init__(folder)


class Closed(Tally):
    """It knows all events there will ever be."""

    def __call__(self, event: dict[str, Any]) -> None:
        known = ("start", "fit", "propose", "result", "observe", "end", "epoch", "final", "finished")
        known.index(event["event"])


class Consuming(Tally):
    """It takes events apart."""

    def __call__(self, event: dict[str, Any]) -> None:
        event.pop("event")


class Overwriting(Tally):
    """It writes the result."""

    def __call__(self, event: dict[str, Any]) -> None:
        self.path.with_name("result.json").write_text("{}")


class Astray(Tally):
    """It writes where the process stands."""

    def __call__(self, event: dict[str, Any]) -> None:
        Path("count.txt").write_text("1")


class Drawing(Tally):
    """It draws from the global generator."""

    def __call__(self, event: dict[str, Any]) -> None:
        torch.rand(())


WRITES = "test_it_writes_into_the_folder_of_the_run_and_to_no_file_of_it"
BROKEN_OBSERVERS = [
    ("test_it_takes_every_event_of_a_run", Demanding, "at the event 'result'"),
    ("test_it_takes_a_run_that_goes_on", Once, "File exists"),
    ("test_it_passes_over_events_that_it_does_not_know", Closed, "of a later version"),
    ("test_it_leaves_the_events_as_they_are", Consuming, "changed the event 'start'"),
    (WRITES, Overwriting, "it changed result.json"),
    (WRITES, Astray, "wrote count.txt where the process stands"),
    ("test_it_leaves_the_global_generators_alone", Drawing, "generator of torch"),
]

BROKEN = [
    *((testing.TaskContract, *case) for case in BROKEN_TASKS),
    *BROKEN_COMPONENTS,
    *((testing.RecipeContract, *case) for case in BROKEN_RECIPES),
    *((testing.ObserverContract, *case) for case in BROKEN_OBSERVERS),
]


@pytest.mark.parametrize(
    ("contract", "check", "broken", "told"), BROKEN, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_broken_plugin_fails_the_check_that_it_breaks(contract, check, broken, told):
    case = type("Case", (contract,), {"factory": staticmethod(broken)})()
    with pytest.raises(AssertionError, match=told):
        getattr(case, check)()


def test_each_check_is_seen_to_fail_on_a_broken_plugin():
    seen = {check for _, check, *_ in BROKEN}
    for contract in {contract for contract, *_ in BROKEN}:
        checks = {name for name in dir(contract) if name.startswith("test_")}
        assert checks - seen == {"test_the_host_accepts_the_factory_and_its_options"}


class TestTheSoundTaskPasses(testing.TaskContract):
    factory = staticmethod(sound)


class TestTheRegressionPasses(testing.TaskContract):
    factory, resolution = Brightness, None


class TestTheSeriesPass(testing.TaskContract):
    factory, resolution = Waves, None


class TestTheSoundBackbonePasses(testing.BackboneContract):
    factory = Map


class TestTheSoundNeckPasses(testing.NeckContract):
    factory = Pool


class TestTheSoundHeadPasses(testing.HeadContract):
    factory = Head


class TestTheSoundLossPasses(testing.LossContract):
    factory = Loss


class TestTheSoundRecipePasses(testing.RecipeContract):
    factory = staticmethod(brisk)


class TestTheSoundObserverPasses(testing.ObserverContract):
    factory = Tally


# -- the events of the contract are those of a run --------------------------------------------------------


def test_the_events_of_the_contract_have_the_fields_that_a_search_tells(tmp_path):
    import archloom
    from archloom.testing.observers import EVENTS

    told: list[dict[str, Any]] = []
    archloom.search(
        {
            "space": {"type": "fbnet", "stages": [[8, 1, 1]], "head_width": 8, "in_channels": 1},
            "task": {"type": "digits", "train_size": 40},
            "method": {"type": "fbnet", "epochs": 1, "warmup_epochs": 0, "batch_size": 16, "cost": "macs"},
            "estimators": ["macs"],
            "objectives": ["macs"],
            "recipe": {"type": "default", "epochs": 1},
            "verdict": {"seeds": 1, "random": 0},
            "budget": {"trials": 1},
            "observers": [],
        },
        tmp_path / "run",
        notify=told.append,
    )
    real = {event["event"]: set(event) for event in told}
    ours = {event["event"]: set(event) for event in EVENTS}
    assert ours == real
    start, ours_start = next(e for e in told if e["event"] == "start"), EVENTS[0]
    assert set(ours_start["so_far"]) == set(start["so_far"])
    assert set(ours_start["budget"]) == set(start["budget"])
