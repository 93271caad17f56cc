"""Pictures of a network: steps, drawing, augmented images, learning rate."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from archloom.assembly import build_model
from archloom.config import Part
from archloom.cost import count
from archloom.exporting.checking import Classifier
from archloom.judging.drawing import draw
from archloom.judging.looking import augmentation_preview, learning_rate_curve, look, summary_table
from archloom.resolve import make
from archloom.steps import stages, steps
from archloom.trained import open_trained
from archloom.training import Recipe


def network(name, host):
    return open_trained(name, untrained=True, host=host)


@pytest.mark.parametrize("name", ["fbnet_a", "cream_14", "efficientnet-b0"])
def test_the_steps_hold_all_of_a_network(name, host):
    opened = network(name, host)
    found = steps(Classifier(opened.model), opened.shape)
    cost = count(opened.model, opened.shape)
    assert sum(step.macs for step in found) == cost.macs
    assert sum(step.params for step in found) == cost.params
    assert found[-1].shape == (1000,)
    assert [opened.shape[1] // step.shape[1] for step in stages(found)] == [2, 4, 8, 16, 32]


def test_steps_applied_one_after_another_are_the_network(host):
    opened = network("fbnet_96_035_1", host)
    images = torch.randn(2, *opened.shape)
    x = images
    with torch.no_grad():
        for step in steps(opened.model.backbone, opened.shape):
            x = step.module(x)
            assert tuple(x.shape[1:]) == step.shape
        assert torch.equal(x, opened.model.backbone(images))


def test_a_residual_block_stays_whole_and_a_plain_sequence_does_not():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            return x + self.conv(x)

    made = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(Residual(), nn.MaxPool2d(2)), Residual())
    assert [step.name for step in steps(made, (3, 8, 8))] == ["0", "1.0", "1.1", "2"]
    assert [step.name for step in steps(Residual(), (4, 8, 8))] == [""]


def test_a_backbone_of_several_maps_is_the_same_steps(host):
    images = SimpleNamespace(name="photos", shape=(3, 64, 64), classes=("a", "b"))
    part = {"type": "torchvision", "name": "mobilenet_v3_small"}
    found = [
        steps(
            build_model({"backbone": {**part, **more}, "head": "LinearHead"}, images, host).backbone,
            images.shape,
        )
        for more in ({}, {"out_indices": [1, -1]})
    ]
    assert [step.name for step in found[0]] == [step.name for step in found[1]]
    assert len(found[0]) > 10


def test_the_drawing_has_a_box_for_each_step_with_its_choice(host):
    opened = network("fbnet_a", host)
    found = steps(Classifier(opened.model), opened.shape)
    options = opened.source.document["architecture"]
    tree = ET.fromstring(draw(found, opened.shape, options))
    space = "{http://www.w3.org/2000/svg}"
    boxes = tree.findall(f"{space}g")
    assert len(boxes) == len(found)
    heads = [box.find(f"{space}text").text for box in boxes]
    assert [head for head in heads if head in set(options.values())] == list(options.values())
    width = float(tree.get("width"))
    for rect in tree.iter(f"{space}rect"):
        assert float(rect.get("x", 0)) + float(rect.get("width")) <= width


def test_names_in_a_drawing_are_escaped():
    found = steps(nn.Sequential(nn.Conv2d(1, 1, 1)), (1, 4, 4))
    svg = draw(found, (1, 4, 4), {found[0].name.rpartition(".")[2]: "<script>"})
    assert "<script>" not in svg
    ET.fromstring(svg)


def test_the_preview_shows_each_image_plain_and_augmented(host):
    task = make(host, "task", Part(type="digits", options={"augment": "shift"}))
    png = augmentation_preview(task, images=3, times=4)
    picture = np.asarray(Image.open(io.BytesIO(png)))
    side, gap = 96, 4
    assert picture.shape == (3 * (side + gap) - gap, 5 * (side + gap) - gap + 12, 3)
    first = picture[:side, :side, 0][::12, ::12] / 255
    plain = task.test  # the raw items of `train` are what is shown, from 0 to 1
    assert plain is not None
    raw = task.train[task.indices("weights")[0]][0][0].numpy()
    assert np.abs(first - raw).max() <= 0.51 / 255
    again = augmentation_preview(task, images=3, times=4)
    assert again == png
    assert augmentation_preview(task, images=3, times=4, seed=1) != png


def test_a_task_without_augmentation_has_no_preview(digits):
    assert augmentation_preview(digits) is None


def test_the_curve_is_the_recipes_learning_rate():
    epochs, rates = learning_rate_curve(Recipe(epochs=10, lr=0.2, warmup_epochs=2))
    assert (epochs[0], epochs[-1]) == (0, 10)
    assert rates[0] == pytest.approx(0.02)
    assert max(rates) == pytest.approx(0.2, rel=1e-3)
    assert rates[-1] == pytest.approx(0, abs=1e-6)
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(rates[81:]))


def test_the_page_has_drawing_preview_and_curve(folder, host, tmp_path):
    opened = open_trained(folder, overrides=["task.augment=shift"], untrained=True, host=host)
    page = look(opened, tmp_path / "look")
    text = page.read_text()
    assert "<svg" in text
    assert "data:image/png;base64," in text
    assert "Learning rate" in text
    assert sorted(each.name for each in page.parent.iterdir()) == [
        "augmentation.png",
        "look.html",
        "network.svg",
    ]


def test_a_network_without_a_task_is_drawn_all_the_same(archloom, tmp_path):
    code, _, err = archloom("look", "fbnet_a", "--out", tmp_path / "look")
    assert code == 0, err
    assert "without training images" in " ".join(err.split())
    assert (tmp_path / "look" / "network.svg").exists()
    assert not (tmp_path / "look" / "augmentation.png").exists()


def test_torchinfos_table_is_there_where_torchinfo_is(trained, archloom, folder, without, tmp_path):
    pytest.importorskip("torchinfo")
    assert f"{sum(p.numel() for p in trained.model.parameters()):,}" in summary_table(trained)
    without("torchinfo")
    code, _, err = archloom("look", folder, "--table", "--out", tmp_path / "look")
    assert code == 2
    assert 'pip install "archloom[look]"' in err
    assert not (tmp_path / "look").exists()
