"""One small network, trained once, and image files of the digits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from archloom import cli
from archloom.config import Part
from archloom.plugins import Host
from archloom.resolve import make
from archloom.retraining import retrain
from archloom.trained import Trained, open_trained


@pytest.fixture(scope="session")
def host() -> Host:
    return Host()


@pytest.fixture(scope="session")
def digits(host: Host) -> Any:
    return make(host, "task", Part(type="digits"))


@pytest.fixture(scope="session")
def folder(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained folder: a network of the FBNet space for digits, two epochs on 400 images."""
    top = tmp_path_factory.mktemp("trained")
    network = {
        "model": {
            "backbone": {"type": "ResNet_CIFAR", "depth": 18, "base_channels": 4, "num_stages": 3},
            "head": "LinearClsHead",
        },
        "task": {"type": "digits", "train_size": 400},
        "recipe": {"type": "default", "epochs": 2, "batch_size": 32},
    }
    (top / "net.yaml").write_text(yaml.safe_dump(network))
    retrain(top / "net.yaml", top / "run", host=host)
    return top / "run"


@pytest.fixture(scope="session")
def trained(folder: Path, host: Host) -> Trained:
    return open_trained(folder, host=host)


@pytest.fixture(scope="session")
def pictures(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLASS/IMAGE.png of 30 test images, as they are."""
    top = tmp_path_factory.mktemp("pictures")
    for number in range(30):
        image, label = digits.test[number]
        path = top / digits.classes[int(label)] / f"image{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray((image[0] * 255).round().byte().numpy()).save(path)
    return top


@pytest.fixture
def archloom(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Type a command: (exit code, stdout, stderr)."""
    import warnings

    show = warnings.showwarning

    def typed(*words: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["archloom", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as leaving:
            code = leaving.code or 0
        told = capfd.readouterr()
        return code, told.out, told.err

    yield typed
    warnings.showwarning = show


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch):
    """Take away installed packages: importing one fails as if it were not there."""

    def hide(*names: str) -> None:
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)

    return hide
