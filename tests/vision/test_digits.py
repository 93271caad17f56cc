"""The embedded default: real digits, a test split that never changes, no torchvision."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
import torch
from sklearn.datasets import load_digits

from archloom.errors import ConfigError
from archloom.task import SPLITS, Task, batches
from archloom_vision.digits import MEAN, STD
from archloom_vision.transforms import Shifted, Standardize


def everything(task, split, **options) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*batches(task.dataset(split, **options), 10_000), strict=True)
    return torch.cat(images), torch.cat(labels)


def test_all_1797_images_are_in_exactly_one_split_with_their_own_label(tasks):
    task, raw = tasks["digits"](), load_digits()
    assert isinstance(task, Task)
    assert (task.shape, task.classes) == ((1, 8, 8), tuple("0123456789"))
    parts = [everything(task, split) for split in SPLITS]
    assert [len(labels) for _, labels in parts] == [863, 288, 287, 359]
    images = torch.cat([x for x, _ in parts])
    assert images.dtype == torch.float32
    assert images.shape == (1797, 1, 8, 8)
    pixels = ((images * STD + MEAN) * 16).round().long().flatten(1).tolist()
    ours = Counter(
        (tuple(x), y) for x, y in zip(pixels, torch.cat([y for _, y in parts]).tolist(), strict=True)
    )
    theirs = Counter((tuple(map(int, x)), int(y)) for x, y in zip(raw.data, raw.target, strict=True))
    assert ours == theirs


def test_the_test_split_is_the_same_under_every_option_and_stratified(tasks):
    wanted = everything(tasks["digits"](), "test")
    for options in (
        {"split_seed": 1},
        {"split_seed": 2, "validation": 0.5, "architecture": 0.0},
        {"train_size": 100},
        {"augment": "shift"},
    ):
        images, labels = everything(tasks["digits"](**options), "test")
        assert images.equal(wanted[0])
        assert labels.equal(wanted[1])
    per_class = Counter(load_digits().target.tolist())
    assert all(abs(n - 0.2 * per_class[label]) < 1 for label, n in Counter(wanted[1].tolist()).items())


def test_the_other_splits_follow_the_seed(tasks):
    drawn = [tasks["digits"](split_seed=seed).indices("weights") for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_normalization_is_that_of_the_images_that_are_not_test_images(tasks):
    task = tasks["digits"]()
    seen = torch.cat([everything(task, split)[0] for split in SPLITS[:3]]).double()
    assert abs(seen.mean()) < 1e-5
    assert abs(seen.std(correction=0) - 1) < 1e-5


@pytest.mark.parametrize("size", [50, 200, 999])
def test_train_size_counts_weights_and_architecture_together(tasks, size):
    task = tasks["digits"](train_size=size)
    assert len(task.dataset("weights", "architecture")) == size
    assert len(task.dataset("validation")) == 287


def test_another_resolution_is_bilinear_as_an_option_and_on_request(tasks):
    native, doubled = tasks["digits"](), tasks["digits"](resolution=16)
    assert doubled.shape == (1, 16, 16)
    small, large = everything(native, "test")[0], everything(doubled, "test")[0]
    assert large.equal(everything(native, "test", resolution=16)[0])
    assert small.equal(everything(doubled, "test", resolution=8)[0])
    # bilinear to the double: a pixel is 9/16 its nearest, 3/16 the two beside, 1/16 the one across
    by_hand = 9 * small[..., 3, 4] + 3 * (small[..., 2, 4] + small[..., 3, 5]) + small[..., 2, 5]
    torch.testing.assert_close(large[..., 6, 9], by_hand / 16)


def test_without_augmentation_training_images_are_as_they_are(tasks):
    task = tasks["digits"]()
    assert task.dataset("weights", augment=True) is task.dataset("weights")


def test_a_shift_moves_a_digit_by_one_pixel_at_most_and_in_all_nine_ways(tasks):
    task = tasks["digits"](augment="shift")
    plain = everything(task, "weights")[0] * STD + MEAN
    moved = torch.cat([x for x, _ in batches(task.dataset("weights", augment=True), 64)]) * STD + MEAN
    padded = torch.nn.functional.pad(plain, (1, 1, 1, 1))
    ways = torch.stack([padded[..., i : i + 8, j : j + 8] for i in range(3) for j in range(3)])
    fits = torch.isclose(ways, moved, atol=1e-5).flatten(2).all(2)  # (9, N)
    assert fits.any(0).all()
    share = fits[:, fits.sum(0) == 1].float().mean(1)
    assert share.min() > 0.05
    assert share.max() < 0.18  # 1/9 each: 0.11


def test_a_shift_of_an_image_resized_moves_it_by_pixels_of_the_original():
    torch.manual_seed(0)
    transform = Shifted(1, Standardize(resolution=16))
    image = torch.zeros(1, 8, 8)
    image[0, 4, 4] = 1.0
    centres = {tuple(divmod(int(transform(image).argmax()), 16)) for _ in range(200)}
    assert {(row // 2, column // 2) for row, column in centres} == {
        (r, c) for r in (3, 4, 5) for c in (3, 4, 5)
    }


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"resolution": 0}, "resolution must be at least 1, not 0"),
        ({"train_size": 0}, "train_size must be at least 1"),
        ({"train_size": 1152}, "train_size must be between 1 and 1151"),
        ({"architecture": 0.5, "validation": 0.5}, "leave something of the training images"),
        ({"architecture": -0.1}, "must be at least 0"),
        ({"validation": float("nan")}, "must be at least 0"),
    ],
)
def test_options_that_cannot_be_are_refused(tasks, options, says):
    with pytest.raises(ConfigError, match=says):
        tasks["digits"](**options)


def test_digits_work_where_torchvision_is_missing_and_the_others_say_what_to_install():
    program = f"""
import sys
sys.path[:] = {sys.path!r}
sys.modules["torchvision"] = None  # an import of it, or of anything below it, fails from here on
import archloom_vision
from archloom.errors import ConfigError
factories = {{}}
archloom_vision.register_tasks(lambda name, factory, **_: factories.update({{name: factory}}))
assert len(factories["digits"]().dataset("weights")) == 863
assert len(factories["fake"](size=50).dataset("weights")) == 30
import tempfile
for name in ("cifar10", "cifar100", "imagefolder"):
    with tempfile.TemporaryDirectory() as root:
        import pathlib
        (pathlib.Path(root) / "train").mkdir()
        try:
            factories[name](root=root)
        except ConfigError as error:
            assert name in str(error) and "pip install torchvision" in str(error), error
        else:
            raise SystemExit(name + " did without torchvision")
print("done")
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout.strip() == "done", ran.stderr
