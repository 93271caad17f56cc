"""Folders of images: which folder is which split, and what is said of folders that cannot be used."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import write_folder

from archloom.errors import ConfigError, TaskError
from archloom.task import SPLITS, batches

MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)


def load(task, *splits, **options) -> tuple[torch.Tensor, torch.Tensor]:
    ((x, y),) = batches(task.dataset(*splits, **options), 1000)
    return x * STD + MEAN, y


def names(part, indices) -> set[str]:
    return {part.samples[i][0] for i in indices}


def test_without_a_test_folder_val_is_the_test_split_and_train_gives_the_validation(tasks, tmp_path):
    root = write_folder(tmp_path, {"train": 10, "val": 4})
    task = tasks["imagefolder"](root=str(root), resolution=32, workers=0)
    assert (task.shape, task.classes) == ((3, 32, 32), ("cat", "dog", "owl"))
    assert [len(task.dataset(split)) for split in SPLITS] == [21, 6, 3, 12]
    files = [names(task.train, task.indices(split)) for split in SPLITS[:3]]
    assert len(set.union(*files)) == sum(map(len, files)) == 30
    assert all("/val/" in path for path, _ in task.test.samples)


def test_with_a_test_folder_val_is_the_validation_split(tasks, tmp_path):
    root = write_folder(tmp_path, {"train": 10, "val": 4, "test": 3})
    task = tasks["imagefolder"](root=str(root), resolution=32, workers=0, validation=0.5)
    assert [len(task.dataset(split)) for split in SPLITS] == [24, 6, 12, 9]
    assert all("/val/" in path for path, _ in task.validation.samples)
    assert all("/test/" in path for path, _ in task.test.samples)


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_images_keep_their_class_through_crop_and_flip(tasks, tmp_path, augment, workers):
    root = write_folder(tmp_path, {"train": 6, "val": 2})
    task = tasks["imagefolder"](root=str(root), resolution=32, workers=workers)
    x, y = load(task, "weights", "test", augment=augment)
    assert x.shape[1:] == (3, 32, 32)
    assert x.mean((2, 3)).argmax(1).equal(y)  # cats are red, dogs green, owls blue
    assert load(task, "test", augment=augment, resolution=24)[0].shape == (6, 3, 24, 24)


def test_evaluation_takes_the_centre_of_the_image_resized_to_eight_sevenths(tasks, tmp_path):
    """64 x 64 noise: for 56 pixels there is nothing to resize, and the centre is left to the pixel."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(5):
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    task = tasks["imagefolder"](root=str(tmp_path), resolution=56, workers=0, validation=0.2)
    centre = torch.from_numpy(pixels[4:60, 4:60]).permute(2, 0, 1) / 255
    torch.testing.assert_close(load(task, "test")[0], centre.expand(10, 3, 56, 56), atol=1e-6, rtol=0)
    smaller = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR))[2:30, 2:30]
    wanted = torch.from_numpy(smaller.copy()).permute(2, 0, 1) / 255
    found = load(task, "test", resolution=28)[0]
    torch.testing.assert_close(found, wanted.expand(10, 3, 28, 28), atol=1e-6, rtol=0)


@pytest.mark.parametrize("augment", [False, True])
def test_advprops_normalization_is_twice_the_image_less_one(tasks, tmp_path, augment):
    root = write_folder(tmp_path, {"train": 6, "val": 2})
    plain, other = (
        tasks["imagefolder"](root=str(root), resolution=32, workers=0, **options)
        for options in ({}, {"normalize": "advprop"})
    )
    pixels, _ = load(plain, "weights", augment=augment)
    ((x, _),) = batches(other.dataset("weights", augment=augment), 1000)
    torch.testing.assert_close(x, 2 * pixels - 1, atol=1e-5, rtol=0)


def test_training_crops_differ_between_images_and_epochs_and_repeat_with_the_seed(tasks, tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(5):
                Image.linear_gradient("L").save(tmp_path / split / name / f"{i}.png")
    task = tasks["imagefolder"](root=str(tmp_path), resolution=16, workers=0, validation=0.2)
    data = task.dataset("weights", augment=True)
    epochs = [
        torch.cat([x for x, _ in batches(data, 4, seed=seed, epoch=e)])
        for seed, e in ((0, 0), (0, 1), (1, 0))
    ]
    assert torch.cat(epochs).flatten(1).unique(dim=0).shape[0] == 3 * len(data)
    assert epochs[1].equal(torch.cat([x for x, _ in batches(data, 4, seed=0, epoch=1)]))


def damage(root) -> list[str]:
    """Three ways in which an image can be broken; the second still opens, and fails when decoded."""
    empty, cut, text = (
        root / "train" / name / f"{name}_{i}" for name, i in (("cat", 0), ("dog", 1), ("owl", 3))
    )
    empty.with_suffix(".png").write_bytes(b"")
    whole = cut.with_suffix(".jpg").read_bytes()
    cut.with_suffix(".jpg").write_bytes(whole[: len(whole) // 2])
    text.with_suffix(".png").write_text("<html>404</html>")
    return [str(empty.with_suffix(".png")), str(cut.with_suffix(".jpg")), str(text.with_suffix(".png"))]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_is_named_when_it_is_loaded(tasks, tmp_path, workers):
    root = write_folder(tmp_path, {"train": 6, "val": 2})
    broken = damage(root)
    task = tasks["imagefolder"](root=str(root), resolution=16, workers=workers, validation=0.2)
    with pytest.raises(TaskError, match=r"cannot be read as an image") as caught:
        for _ in batches(task.dataset("weights", "architecture", "validation"), 4):
            pass
    message = str(caught.value)
    assert sum(path in message for path in broken) == 1
    assert message.startswith("task 'imagefolder': ")
    assert message.endswith("on_corrupt: skip")
    every = task.dataset("weights", "architecture", "validation")
    failed = 0
    for i in range(len(every)):
        try:
            every[i]
        except TaskError:
            failed += 1
    assert failed == 3


def test_skip_leaves_out_corrupt_images_and_names_each(tasks, tmp_path):
    root = write_folder(tmp_path, {"train": 6, "val": 2})
    broken = damage(root)
    with pytest.warns(UserWarning, match="left out 3 images") as caught:
        task = tasks["imagefolder"](
            root=str(root), resolution=16, workers=0, on_corrupt="skip", validation=0.2
        )
    assert len(caught) == 1
    assert all(path in str(caught[0].message) for path in broken)
    x, y = load(task, "weights", "architecture", "validation")
    assert len(y) == 15
    assert x.mean((2, 3)).argmax(1).equal(y)


def test_skip_is_silent_where_nothing_is_corrupt_and_passes_other_files_by(tasks, tmp_path):
    root = write_folder(tmp_path, {"train": 6, "val": 2})
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    task = tasks["imagefolder"](root=str(root), workers=0, on_corrupt="skip")
    assert len(task.train) == 18


def test_a_class_of_corrupt_images_only_is_refused_with_their_names(tasks, tmp_path):
    root = write_folder(tmp_path, {"train": 2, "val": 2})
    for path in (root / "train" / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(TaskError, match=r"dog.*Left out as corrupt: .*dog_0\.png, .*dog_1\.jpg"):
        tasks["imagefolder"](root=str(root), on_corrupt="skip")


def test_a_missing_folder_is_named_with_the_layout(tasks, tmp_path):
    with pytest.raises(
        TaskError, match=rf"no folder {tmp_path}/absent; set the option root.*train/CLASS/IMAGE"
    ):
        tasks["imagefolder"](root=str(tmp_path / "absent"))
    with pytest.raises(TaskError, match=rf"no folder {tmp_path}/train\. The layout"):
        tasks["imagefolder"](root=str(tmp_path))
    write_folder(tmp_path, {"train": 2})
    with pytest.raises(TaskError, match=rf"no folder {tmp_path}/val\. The layout"):
        tasks["imagefolder"](root=str(tmp_path))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_empty_folder_is_refused(tasks, tmp_path, split):
    counts = {"train": 2, "val": 2, "test": 2}
    del counts[split]
    write_folder(tmp_path, counts)
    (tmp_path / split).mkdir()
    with pytest.raises(TaskError, match=rf"{tmp_path}/{split} is empty"):
        tasks["imagefolder"](root=str(tmp_path))


def test_a_class_without_images_is_named(tasks, tmp_path):
    root = write_folder(tmp_path, {"train": 2, "val": 2})
    (root / "train" / "ant").mkdir()
    with pytest.raises(TaskError, match="no valid file for the classes ant"):
        tasks["imagefolder"](root=str(root))


def test_one_class_is_refused(tasks, tmp_path):
    root = write_folder(tmp_path, {"train": 2, "val": 2}, classes=("cat",))
    with pytest.raises(TaskError, match=rf"{tmp_path}/train has one class only, 'cat'"):
        tasks["imagefolder"](root=str(root))


def test_classes_that_differ_between_folders_are_refused_since_labels_would_shift(tasks, tmp_path):
    write_folder(tmp_path, {"train": 2})
    write_folder(tmp_path, {"val": 2}, classes=("dog", "owl"))
    with pytest.raises(TaskError, match=rf"{tmp_path}/val and {tmp_path}/train must have.*val lacks cat$"):
        tasks["imagefolder"](root=str(tmp_path))
    for path in (tmp_path / "val" / "dog").iterdir():
        path.unlink()
    (tmp_path / "val" / "dog").rmdir()
    write_folder(tmp_path, {"val": 2}, classes=("cat",))
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / "cat" / "x.png")
    (tmp_path / "val" / "yak").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / "yak" / "x.png")
    with pytest.raises(TaskError, match=r"val lacks dog and has besides yak$"):
        tasks["imagefolder"](root=str(tmp_path))


def test_options_that_cannot_be_are_refused(tasks, tmp_path):
    root = write_folder(tmp_path, {"train": 2, "val": 2})
    with pytest.raises(ConfigError, match="resolution must be at least 1"):
        tasks["imagefolder"](root=str(root), resolution=0)
    with pytest.raises(ConfigError, match="workers must be at least 0"):
        tasks["imagefolder"](root=str(root), workers=-1)
