"""The tasks, the components and the recipes of the vision plugin keep the contracts of their kinds."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from tiny_data import write_folder

from archloom import testing
from archloom.model import GlobalAverage
from archloom_vision import components, digits, fake, folder, losses, recipes
from archloom_vision.backbones import TorchvisionBackbone
from archloom_vision.focal import FocalLoss, SoftmaxFocalLoss
from archloom_vision.heads import HiddenClsHead, LinearClsHead
from archloom_vision.necks import GeneralizedMean, Identity


class TestDigits(testing.TaskContract):
    factory, options = digits.digits, {"augment": "shift"}


class TestFake(testing.TaskContract):
    factory, options, items = fake.fake, {"size": 60, "test_size": 20, "height": 8, "width": 8}, 20


class TestImageFolder(testing.TaskContract):
    factory, options, items = folder.imagefolder, {}, 6
    repeated = 6  # its images are of one colour each

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Any) -> None:
        root = write_folder(tmp_path / "images", {"train": 4, "val": 2, "test": 2})
        self.options = {"root": str(root), "resolution": 16, "workers": 0}  # type: ignore[misc]


class TestResNet(testing.BackboneContract):
    factory, options = components.ResNet, {"depth": 18, "base_channels": 8}


class TestResNetCIFAR(testing.BackboneContract):
    factory, options = components.ResNetCIFAR, {"depth": 18, "base_channels": 8}
    shape = (1, 8, 8)


class TestTorchvisionBackbone(testing.BackboneContract):
    factory, options = TorchvisionBackbone, {"name": "mobilenet_v3_small"}
    shape: ClassVar[tuple[int, int, int]] = (3, 64, 64)


class TestGlobalAverage(testing.NeckContract):
    factory = GlobalAverage


class TestGeneralizedMean(testing.NeckContract):
    factory = GeneralizedMean


class TestIdentity(testing.HeadContract):
    """An identity is a neck for a backbone that pools by itself."""

    factory, num_classes = Identity, 6

    def _arguments(self) -> dict[str, Any]:
        return {}


class TestLinearHead(testing.HeadContract):
    factory = components.linear_head


class TestLinearClsHead(testing.HeadContract):
    factory = LinearClsHead


class TestHiddenClsHead(testing.HeadContract):
    factory, options = HiddenClsHead, {"hidden": 5}


class TestCrossEntropyLoss(testing.LossContract):
    factory, options = losses.CrossEntropyLoss, {"label_smoothing": 0.1}


class TestBCEWithLogitsLoss(testing.LossContract):
    factory = losses.BCEWithLogitsLoss


class TestFocalLoss(testing.LossContract):
    factory = FocalLoss


class TestSoftmaxFocalLoss(testing.LossContract):
    factory = SoftmaxFocalLoss


class TestL1Loss(testing.LossContract):
    factory = losses.L1Loss


class TestDefaultRecipe(testing.RecipeContract):
    factory = recipes.Recipe


class TestImagenetSGD(testing.RecipeContract):
    factory = recipes.ImagenetSGD


class TestImagenetStrong(testing.RecipeContract):
    factory = recipes.ImagenetStrong

    def task(self) -> Any:
        return digits.digits(train_size=60)


class TestCifarSGD(testing.RecipeContract):
    factory = recipes.CifarSGD
