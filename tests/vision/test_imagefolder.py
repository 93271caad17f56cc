"""Folders of images: which folder is which split, and what is said of folders that cannot be used."""

from __future__ import annotations

import pickle

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


def two_classes(root, save, splits=("train", "val"), count=4):
    """`count` images of each of the classes a and b for each split, as `save(path, label)` writes them."""
    for split in splits:
        for label, name in enumerate("ab"):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                save(root / split / name / f"{i}.png", label)
    return root


def test_classes_that_differ_in_sixteen_bits_differ_as_they_do_in_eight(tasks, tmp_path):
    ramp = (np.arange(64 * 64).reshape(64, 64) // 64 * 1040).astype(np.uint16)

    def sixteen(path, label):
        Image.fromarray(ramp if label else ramp[::-1].copy()).save(path)

    def eight(path, label):
        grey = np.rint((ramp if label else ramp[::-1]) / 257).astype(np.uint8)
        Image.fromarray(grey).save(path)

    deep, shallow = (
        load(
            tasks["imagefolder"](
                root=str(two_classes(tmp_path / save.__name__, save)),
                resolution=56,
                workers=0,
                validation=0.25,
            ),
            "test",
        )
        for save in (sixteen, eight)
    )
    assert (deep[0] - shallow[0]).abs().max() <= 1 / 255 + 1e-6
    assert (deep[0][0] - deep[0][-1]).abs().max() > 0.8


def test_numbers_that_do_not_say_what_is_white_are_refused_or_left_out(tasks, tmp_path):
    def save(path, label):
        Image.fromarray(np.full((8, 8), 0.5 + label, np.float32)).save(path, format="TIFF")

    root = write_folder(tmp_path, {"train": 4, "val": 2})
    save(root / "train" / "cat" / "x.tif", 0)
    task = tasks["imagefolder"](root=str(root), resolution=16, workers=0, validation=0.2)
    with pytest.raises(TaskError, match=r"x\.tif cannot be read as an image: .*32-bit.*on_corrupt: skip"):
        for _ in batches(task.dataset("weights", "architecture", "validation"), 4):
            pass
    with pytest.warns(UserWarning, match="left out 1 images"):
        tasks["imagefolder"](root=str(root), on_corrupt="skip", validation=0.2)


def test_what_is_transparent_is_white(tasks, tmp_path):
    def save(path, label):
        Image.new("RGBA", (64, 64), (0, 0, 0, 255 * label)).save(path)

    task = tasks["imagefolder"](
        root=str(two_classes(tmp_path, save)), resolution=56, workers=0, validation=0.25
    )
    x, y = load(task, "test")
    assert x[y == 0].min() > 0.99
    assert x[y == 1].max() < 0.01


def test_images_are_turned_upright_on_demand_in_training_and_prediction_alike(tasks, tmp_path):
    from archloom.judging.images import image_input, reader

    def save(path, label):
        image = Image.new("RGB", (64, 64))
        image.paste("white", (0, 0, 64, 32))  # the upper half as the pixels lie, the left one as it was held
        exif = Image.Exif()
        exif[0x0112] = 8
        image.save(path, exif=exif)

    root = two_classes(tmp_path, save)
    for orientation, bright in (("stored", (..., slice(0, 20), slice(None))), ("exif", (..., slice(0, 20)))):
        task = tasks["imagefolder"](
            root=str(root), resolution=56, workers=0, validation=0.25, orientation=orientation
        )
        x, _ = load(task, "test")
        assert x[bright].mean() > 0.95
        assert x.mean() < 0.6
        given = image_input(task)(reader(task)(root / "val" / "a" / "0.png"))
        assert torch.equal(given, task.dataset("test")[0][0])


def test_linked_folders_and_unusual_endings_are_taken_and_hidden_files_are_not(tasks, tmp_path):
    """As an evaluation of the folder takes them, in the same order."""
    from archloom.judging.images import image_files, labelled_files

    root = write_folder(tmp_path / "data", {"train": 4, "val": 2})
    linked = write_folder(tmp_path / "linked", {"train": 3}, classes=("elk",))
    write_folder(tmp_path / "linked", {"val": 1}, classes=("elk",))
    for split in ("train", "val"):
        (root / split / "elk").symlink_to(linked / split / "elk")
        (root / split / "cat" / "more").symlink_to(linked / split / "elk")
    Image.new("RGB", (8, 8)).save(root / "train" / "cat" / "x.jfif", format="JPEG")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    Image.new("RGB", (8, 8)).save(root / "train" / ".ipynb_checkpoints" / "x.png")
    Image.new("RGB", (8, 8)).save(root / "train" / "dog" / "._x.png")
    Image.new("RGB", (8, 8)).save(root / "train" / "y.png")
    with pytest.warns(UserWarning, match="left out of the images of .*train: ") as caught:
        task = tasks["imagefolder"](root=str(root), resolution=16, workers=0)
    assert task.classes == ("cat", "dog", "elk", "owl")
    assert len(caught) == 1
    told = str(caught[0].message)
    assert "hidden: " in told
    assert all(name in told for name in ("._x.png", ".ipynb_checkpoints/x.png", "in no class folder: "))
    assert len(task.train) == (4 + 3 + 1) + 4 + 3 + 4
    with pytest.warns(UserWarning, match="left out"):
        judged = labelled_files(root / "train", task.classes)
    assert [(str(path), label) for path, label in judged] == task.train.samples
    with pytest.warns(UserWarning, match="left out"):
        asked = image_files([root / "train"])
    assert sorted(map(str, asked)) == sorted(
        [path for path, _ in task.train.samples] + [str(root / "train/y.png")]
    )


def test_a_class_name_is_the_same_however_its_accents_are_spelt(tasks, tmp_path):
    from archloom.judging.images import labelled_files

    composed, decomposed = "caf\u00e9", "cafe\u0301"
    write_folder(tmp_path, {"train": 4}, classes=("bar", decomposed))
    write_folder(tmp_path, {"val": 2}, classes=("bar", composed))
    task = tasks["imagefolder"](root=str(tmp_path), resolution=16, workers=0, validation=0.25)
    assert task.classes == ("bar", composed)
    assert load(task, "test")[1].tolist() == [0, 0, 1, 1]
    for known in (composed, decomposed):
        assert [label for _, label in labelled_files(tmp_path / "val", ["bar", known])] == [0, 0, 1, 1]


def test_names_that_only_look_alike_are_shown_with_their_difference(tasks, tmp_path):
    write_folder(tmp_path, {"train": 2}, classes=("cat", "dog"))
    write_folder(tmp_path, {"val": 2}, classes=("c\u0430t", "dog"))  # a Cyrillic letter
    with pytest.raises(TaskError, match=r"val lacks cat and has besides 'c\\u0430t'$"):
        tasks["imagefolder"](root=str(tmp_path))


def test_a_class_name_that_is_no_text_is_refused_before_anything_is_trained(tasks, tmp_path):
    import os

    root = write_folder(tmp_path, {"train": 2, "val": 2})
    for split in ("train", "val"):
        os.mkdir(os.fsencode(root / split) + b"/caf\xe9")
    with pytest.raises(TaskError, match=r"train/caf\\xe9 has a name that is not UTF-8.*rename it"):
        tasks["imagefolder"](root=str(root))


def test_a_file_name_that_is_no_text_is_read_and_named(tasks, tmp_path):
    import os

    root = write_folder(tmp_path, {"train": 4, "val": 2})
    odd = os.fsdecode(os.fsencode(root / "train" / "cat") + b"/\xe9.png")
    Image.new("RGB", (8, 8)).save(odd)
    task = tasks["imagefolder"](root=str(root), resolution=16, workers=0, validation=0.25)
    assert len(load(task, "weights", "architecture", "validation")[1]) == 13
    with open(odd, "wb") as file:
        file.write(b"no image")
    with pytest.warns(UserWarning, match=r"left out 1 images .*cat/\\xe9\.png"):
        tasks["imagefolder"](root=str(root), on_corrupt="skip", validation=0.25)


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


def test_a_class_of_files_that_are_not_read_is_named_with_the_files(tasks, tmp_path):
    root = write_folder(tmp_path, {"train": 2, "val": 2})
    (root / "train" / "ant").mkdir()
    (root / "train" / "ant" / "x.ico").write_bytes(b"")
    (root / "train" / "ant" / "y.svg").write_text("<svg/>")
    with (
        pytest.warns(UserWarning, match=r"of an ending that is not read: .*ant/x\.ico, .*ant/y\.svg"),
        pytest.raises(TaskError, match="no valid file for the classes ant"),
    ):
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


def test_a_subset_of_classes_is_drawn_from_the_names_and_the_seed_alone(tasks, tmp_path):
    animals = ("ant", "bee", "cat", "dog", "elk", "fox")
    one = write_folder(tmp_path / "one", {"train": 6, "val": 2, "test": 1}, classes=animals)
    other = write_folder(tmp_path / "other", {"train": 10, "val": 3}, classes=animals)
    drawn = {}
    for seed in range(6):
        task, elsewhere = (
            tasks["imagefolder"](root=str(root), resolution=32, workers=0, classes=3, subset_seed=seed)
            for root in (one, other)
        )
        assert task.classes == elsewhere.classes == tuple(sorted(task.classes))
        assert set(task.classes) <= set(animals)
        assert [len(task.dataset(split)) for split in ("validation", "test")] == [6, 3]
        assert sorted(set(task.train_targets)) == [0, 1, 2]
        assert all(path.split("/")[-2] == task.classes[label] for path, label in task.train.samples)
        drawn[task.classes] = seed
    assert len(drawn) > 1


def test_a_subset_s_images_can_be_loaded_by_other_processes(tasks, tmp_path):
    root = write_folder(tmp_path, {"train": 6, "val": 2})
    task = tasks["imagefolder"](root=str(root), resolution=32, workers=2, classes=2)
    assert len(load(task, "test")[1]) == 4
    assert pickle.loads(pickle.dumps(task.train)).classes == list(task.classes)


def test_more_classes_than_there_are_is_refused(tasks, tmp_path):
    root = write_folder(tmp_path, {"train": 2, "val": 2})
    with pytest.raises(TaskError, match="has 3 classes, fewer than classes = 4"):
        tasks["imagefolder"](root=str(root), classes=4)
    with pytest.raises(ConfigError, match="classes must be at least 2"):
        tasks["imagefolder"](root=str(root), classes=1)


@pytest.mark.parametrize("resolution", [28, 32, 64, 96, 100, 128, 160, 192, 224, 256, 299])
def test_an_image_file_becomes_the_same_pixels_by_timms_transform_from_what_the_task_says(
    tasks, tmp_path, resolution
):
    data = pytest.importorskip("timm.data", reason="timm is not installed; it is an optional extra")
    write_folder(tmp_path, {"train": 4, "val": 4})
    task = tasks["imagefolder"](root=str(tmp_path), resolution=resolution)
    told = {**task.preprocessing, "input_size": task.shape}
    theirs = data.create_transform(**data.resolve_data_config(pretrained_cfg=told))
    for size in ((331, 250), (40, 60)):
        noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        picture = Image.fromarray(noise)
        torch.testing.assert_close(task.eval_transform(None)(picture), theirs(picture))
