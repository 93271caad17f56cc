"""CIFAR through torchvision's own reader, from small archives in the published layout."""

from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
import threading

import pytest
import torch
from tiny_data import cifar_pixels, trust, write_cifar10, write_cifar100
from torchvision import datasets
from torchvision.transforms.v2 import functional as tvf

from archloom.augmentation import Policy
from archloom.errors import ConfigError, TaskError
from archloom.task import SPLITS, batches

MEAN = torch.tensor([0.4914, 0.4822, 0.4465]).reshape(3, 1, 1)
STD = torch.tensor([0.2470, 0.2435, 0.2616]).reshape(3, 1, 1)


@pytest.fixture
def root(tmp_path, monkeypatch):
    trust(monkeypatch, datasets.CIFAR10, write_cifar10(tmp_path))
    return tmp_path


def original(task, split) -> torch.Tensor:
    """The images of a split straight from the generator that wrote the archive, 0 to 1."""
    batch_seeds = [6] if split == "test" else [1, 2, 3, 4, 5]
    pixels = torch.cat([torch.from_numpy(cifar_pixels(20, seed)) for seed in batch_seeds])
    return pixels[task.indices(split)].reshape(-1, 3, 32, 32) / 255


def test_cifar10_is_read_with_its_own_pixels_labels_and_names(tasks, root):
    task = tasks["cifar10"](root=str(root), workers=0)
    assert task.shape == (3, 32, 32)
    assert task.classes[:3] == ("airplane", "automobile", "bird")
    assert [len(task.dataset(split)) for split in SPLITS] == [50, 40, 10, 20]
    for split in SPLITS:
        ((x, y),) = batches(task.dataset(split), 100)
        torch.testing.assert_close(x * STD + MEAN, original(task, split), atol=1e-6, rtol=0)
        assert y.tolist() == [index % 10 for index in task.indices(split)]


def test_training_images_are_padded_by_four_cropped_and_flipped(tasks, root):
    task = tasks["cifar10"](root=str(root), workers=0)
    plain, data = original(task, "weights"), task.dataset("weights", augment=True)
    padded = torch.nn.functional.pad(plain, (4, 4, 4, 4))
    found = []
    for epoch in range(4):
        ((x, _),) = batches(data, 100, epoch=epoch)
        for image, source in zip(x * STD + MEAN, padded, strict=True):
            crops = source.unfold(1, 32, 1).unfold(2, 32, 1)  # (3, 9, 9, 32, 32)
            for flipped, candidate in ((False, image), (True, image.flip(-1))):
                near = (crops - candidate.reshape(3, 1, 1, 32, 32)).abs().amax((0, 3, 4)) < 1e-4
                found += [(int(top), int(left), flipped) for top, left in near.nonzero()]
    assert len(found) == 200  # each is exactly one crop of exactly one image, flipped or not
    tops, lefts, flips = zip(*found, strict=True)
    assert set(tops) == set(lefts) == set(range(9))
    assert 60 < sum(flips) < 140


def test_advprops_normalization_is_twice_the_image_less_one(tasks, root):
    task = tasks["cifar10"](root=str(root), workers=0, normalize="advprop")
    ((x, _),) = batches(task.dataset("test"), 100)
    torch.testing.assert_close(x, 2 * original(task, "test") - 1, atol=1e-6, rtol=0)


def test_workers_change_nothing(tasks, root):
    data = tasks["cifar10"](root=str(root), workers=2).dataset("weights", augment=True)
    for (x, y), (x2, y2) in zip(batches(data, 16), batches(data, 16, workers=0), strict=True):
        assert x.equal(x2)
        assert y.equal(y2)


def test_another_resolution_is_a_resize(tasks, root):
    task = tasks["cifar10"](root=str(root), workers=0)
    ((x, _),) = batches(task.dataset("test", resolution=20), 100)
    resized = tvf.resize((original(task, "test") * 255).to(torch.uint8), [20, 20], antialias=True)
    torch.testing.assert_close(x * STD + MEAN, resized / 255, atol=1e-5, rtol=0)
    ((x, _),) = batches(task.dataset("weights", augment=True, resolution=40), 100)
    assert x.shape == (50, 3, 40, 40)


def test_cifar100_is_read_with_its_fine_labels(tasks, tmp_path, monkeypatch):
    trust(monkeypatch, datasets.CIFAR100, write_cifar100(tmp_path))
    task = tasks["cifar100"](root=str(tmp_path), workers=0, architecture=0.0, validation=0.5)
    assert len(task.classes) == 100
    assert task.classes[42] == "fine 42"
    ((x, y),) = batches(task.dataset("test"), 100)
    assert y.tolist() == list(range(100))
    pixels = torch.from_numpy(cifar_pixels(100, 8)).reshape(100, 3, 32, 32) / 255
    mean = torch.tensor([0.5071, 0.4865, 0.4409]).reshape(3, 1, 1)
    std = torch.tensor([0.2673, 0.2564, 0.2762]).reshape(3, 1, 1)
    torch.testing.assert_close(x * std + mean, pixels, atol=1e-6, rtol=0)
    # two images of each class: one for weights, one for validation
    assert [sorted(i % 100 for i in task.indices(s)) for s in ("weights", "validation")] == [
        list(range(100))
    ] * 2


@pytest.mark.parametrize(
    ("name", "folder", "file"),
    [
        ("cifar10", "cifar-10-batches-py", "data_batch_1"),
        ("cifar100", "cifar-100-python", "train"),
    ],
)
def test_a_missing_archive_says_what_to_put_where(tasks, tmp_path, name, folder, file):
    with pytest.raises(TaskError) as caught:
        tasks[name](root=str(tmp_path / "nowhere"))
    for hint in (str(tmp_path / "nowhere" / folder), file, "python.tar.gz", "https://", "download: true"):
        assert hint in str(caught.value)


def test_one_missing_file_is_named_alone(tasks, root):
    (root / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(TaskError, match=r"cifar-10-batches-py lacks data_batch_4\. Unpack"):
        tasks["cifar10"](root=str(root))


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_damaged_file_is_named(tasks, root, file):
    path = root / "cifar-10-batches-py" / file
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(TaskError, match=rf"corrupt, by its md5 checksum: {path}\. Unpack"):
        tasks["cifar10"](root=str(root))


def test_files_other_than_the_published_ones_are_never_unpickled(tasks, tmp_path):
    write_cifar10(tmp_path)  # well-formed, but torchvision's published checksums stand
    with pytest.raises(TaskError, match="corrupt, by its md5 checksum") as caught:
        tasks["cifar10"](root=str(tmp_path))
    assert str(caught.value).count("cifar-10-batches-py/") == 7


def test_a_download_that_fails_says_where_the_files_would_go(tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.CIFAR10, "url", (tmp_path / "absent.tar.gz").as_uri())
    with pytest.raises(TaskError, match=r"the download of file://.* failed.*cifar-10-batches-py/ exists"):
        tasks["cifar10"](root=str(tmp_path / "data"), download=True)


def test_a_download_is_unpacked_checked_and_read(tasks, root, tmp_path, monkeypatch):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.add(root / "cifar-10-batches-py", "cifar-10-batches-py")

    class Archive(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(archive.getvalue())))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(archive.getvalue())

        def log_message(self, *args: object) -> None: ...

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(archive.getvalue()).hexdigest())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Archive) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(datasets.CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/cifar")
        task = tasks["cifar10"](root=str(tmp_path / "fresh"), download=True)
        server.shutdown()
    assert len(task.dataset("test")) == 20
    ((x, _),) = batches(task.dataset("test"), 100, workers=0)
    torch.testing.assert_close(x * STD + MEAN, original(task, "test"), atol=1e-6, rtol=0)


def test_negative_workers_are_refused(tasks, root):
    with pytest.raises(ConfigError, match="workers must be at least 0"):
        tasks["cifar10"](root=str(root), workers=-1)


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        (Policy(autoaugment="cifar10"), "AutoAugment"),
        (Policy(randaugment=(2, 9)), "RandAugment"),
        (Policy(trivialaugment=True), "TrivialAugmentWide"),
    ],
)
def test_a_policy_comes_after_crop_and_flip_and_before_floats(tasks, root, policy, name):
    data = tasks["cifar10"](root=str(root), workers=0).dataset("weights", augment=policy)
    steps = [type(step).__name__ for step in data.transform.transforms]
    assert steps == ["RandomCrop", "RandomHorizontalFlip", name, "ToDtype", "Normalize"]
    ((x, _),) = batches(data, 100)
    pixels = (x * STD + MEAN) * 255
    torch.testing.assert_close(pixels, pixels.round(), atol=1e-3, rtol=0)  # it gave uint8
    assert pixels.round().min() >= 0
    assert pixels.round().max() <= 255


def test_workers_change_nothing_under_a_policy(tasks, root):
    data = tasks["cifar10"](root=str(root), workers=0).dataset("weights", augment=Policy(randaugment=(2, 9)))
    for (x, y), (x2, y2) in zip(batches(data, 16, workers=2), batches(data, 16), strict=True):
        assert x.equal(x2)
        assert y.equal(y2)


@pytest.mark.parametrize("number", [1025, 100_000])
def test_more_loading_processes_than_any_machine_has_are_refused(tasks, root, number):
    with pytest.raises(ConfigError, match=f"workers is {number}: .*at most 1024"):
        tasks["cifar10"](root=str(root), workers=number)
