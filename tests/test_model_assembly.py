"""A network from a `model:` section."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import archloom
from archloom.assembly import build_model, read_model
from archloom.config import Part, parse_model
from archloom.errors import ConfigError, UnknownName
from archloom.model import GlobalAverage, LinearHead, ModelParts, topk_accuracy
from archloom.plugins import Host
from archloom.resolve import model_parts
from archloom.run import load_checkpoint
from archloom.training import Recipe, train
from archloom.zoo import architecture_document
from archloom_fbnet import FBNetSpace
from archloom_vision.digits import digits
from toys import host, state_of


class Pictures:
    name, shape, classes = "pictures", (3, 32, 32), tuple("abcdefg")


class Grey:
    name, shape, classes = "grey", (1, 16, 16), ("a", "b", "c")


class Tiny(nn.Module):
    """Two maps: (N, width, H, W) and (N, 2 width, H / 2, W / 2); one where `both` is false."""

    def __init__(self, in_channels: int = 3, *, width: int = 4, both: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.second = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.both = both

    def forward(self, x):
        fine = self.first(x)
        return (fine, self.second(fine)) if self.both else self.second(fine)


class WrongHead(nn.Module):
    """Made for 5 channels, whatever it is given."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(5, num_classes)

    def forward(self, x):
        return self.fc(x)


def twice_too_many(in_channels: int, num_classes: int) -> nn.Module:
    return nn.Linear(in_channels, 2 * num_classes)


def broken(*, size: int = 1) -> nn.Module:
    raise RuntimeError("no such size")


class Parts:
    @archloom.hookimpl
    def register_components(self, register):
        register("backbone.Tiny", Tiny)
        register("backbone.Broken", broken)
        register("head.WrongHead", WrongHead)
        register("head.TwiceTooMany", twice_too_many)
        register("loss.MSE", lambda: nn.MSELoss())


HOST = host(Parts())


def built(task=Pictures, seed=0, **sections):
    return build_model({"backbone": "Tiny", **sections}, task(), HOST, seed=seed)


# -- four parts, each a type with arguments -----------------------------------------------------------


def test_a_model_is_four_parts_of_which_the_head_holds_the_loss():
    model = built(
        backbone={"type": "Tiny", "width": 6},
        neck={"type": "GeneralizedMean", "p": 2.0},
        head={
            "type": "HiddenClsHead",
            "hidden": 9,
            "loss": {"type": "CrossEntropyLoss", "label_smoothing": 0.25},
        },
    )
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([1, 6])
    logits = model(images)
    by_hand = model.backbone.second(model.backbone.first(images)).clamp(min=1e-6).square().mean((2, 3)).sqrt()
    by_hand = model.head.fc(model.head.hidden(by_hand).relu())
    assert torch.allclose(logits, by_hand, atol=1e-6)
    assert (model.backbone.second.out_channels, model.head.hidden.out_features) == (12, 9)
    smoothed = nn.functional.cross_entropy(logits, labels, label_smoothing=0.25)
    assert torch.allclose(model.loss(logits, labels), smoothed)


def test_the_loss_may_stand_beside_the_head_but_not_in_both_places():
    inside = parse_model({"head": {"type": "LinearHead", "loss": {"type": "L1Loss", "loss_weight": 2}}})
    beside = parse_model({"head": "LinearHead", "loss": {"type": "L1Loss", "loss_weight": 2}})
    assert inside == beside
    assert inside.loss == Part(type="L1Loss", options={"loss_weight": 2})
    with pytest.raises(ConfigError, match="named twice, by the model and by its head"):
        parse_model({"head": {"type": "LinearHead", "loss": "L1Loss"}, "loss": "CrossEntropyLoss"})


def test_the_same_parts_are_taken_as_python_objects():
    torch.manual_seed(0)
    neck, head, loss = GlobalAverage(), nn.Linear(8, 7), nn.CrossEntropyLoss(label_smoothing=0.1)
    parts = ModelParts(neck=neck, head=head, loss=loss)
    model = parts.assemble(Tiny(), shape=(3, 32, 32), num_classes=7)
    assert model.head is not head
    assert torch.equal(model.head.weight, head.weight)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), head(neck(model.backbone(images))))


def test_everything_is_validated_before_anything_is_built():
    made = []

    def counted(in_channels: int) -> nn.Module:
        """Counts."""
        made.append(in_channels)
        return Tiny(in_channels)

    class Counting:
        @archloom.hookimpl
        def register_components(self, register):
            register("backbone.Counted", counted)

    counting = host(Parts(), Counting())
    for section, message in {
        "nekc": "unknown key 'nekc'; did you mean 'neck'",
        "head": "unknown head 'LinearClsHed'; did you mean 'LinearClsHead'",
        "loss": "loss 'CrossEntropyLoss' has no option 'label_smothing'; did you mean 'label_smoothing'",
        "neck": "neck 'GeneralizedMean': option 'p' = 'much'",
    }.items():
        wrong = {
            "nekc": "Identity",
            "head": "LinearClsHed",
            "loss": {"type": "CrossEntropyLoss", "label_smothing": 0.1},
            "neck": {"type": "GeneralizedMean", "p": "much"},
        }[section]
        with pytest.raises(ConfigError, match=message):
            build_model({"backbone": "Counted", section: wrong}, Pictures(), counting)
    assert made == []
    build_model({"backbone": "Counted"}, Pictures(), counting)
    assert made == [3]


def test_a_model_is_read_from_a_file_alone_or_with_other_sections(tmp_path):
    alone, whole, broken_file = (tmp_path / name for name in ("alone.yaml", "whole.yaml", "broken.yaml"))
    alone.write_text("backbone: {type: Tiny, width: 5}\nhead: {type: LinearClsHead, loss: L1Loss}\n")
    whole.write_text(
        "task: digits\nmodel:\n  backbone: {type: Tiny, width: 5}\n  head: LinearClsHead\n  loss: L1Loss\n"
    )
    broken_file.write_text("a: [")
    assert read_model(alone) == read_model(whole)
    assert build_model(alone, Pictures(), HOST).head.in_channels == 10
    with pytest.raises(ConfigError, match=r"broken.yaml is not YAML"):
        read_model(broken_file)
    with pytest.raises(ConfigError, match=r"cannot read the model .*none.yaml"):
        read_model(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="must be a mapping of backbone, neck, head and loss, not 'Tiny'"):
        parse_model("Tiny")


def test_weights_are_a_function_of_the_seed_and_nothing_global_moves():
    before = torch.random.get_rng_state()
    first, again, other = (state_of(built(seed=seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["backbone.first.weight"], other["backbone.first.weight"])
    assert not torch.equal(first["head.fc.weight"], other["head.fc.weight"])


# -- every network of a space is a backbone -----------------------------------------------------------


def test_a_named_architecture_is_a_backbone_made_for_the_images_of_the_task():
    model = build_model({"backbone": {"type": "architecture", "name": "fbnet_96_035_1"}}, Grey(), HOST)
    assert model.eval()(torch.randn(2, 1, 32, 32)).shape == (2, 3)
    assert next(model.backbone.parameters()).shape[1] == 1
    assert [found.name for found in model.weight_formats]  # of its space
    expected = archloom.build("fbnet_96_035_1", 3, in_channels=1).state_dict()
    assert {k: v.shape for k, v in model.backbone.state_dict().items()} == {
        k.removeprefix("backbone."): v.shape for k, v in expected.items() if k.startswith("backbone.")
    }


def test_a_found_architecture_is_a_backbone_from_its_file_or_run_folder(tmp_path):
    options = {"type": "fbnet", "stages": [[8, 2, 2]], "head_width": 24, "in_channels": 3}
    space = FBNetSpace(stages=[[8, 2, 2]], head_width=24, in_channels=3)
    architecture = space.architecture(["ir_k3_e3", "ir_k5_e1"])
    document = architecture_document(options, architecture, shape=(3, 32, 32), classes=("a",), model={})
    (tmp_path / "architecture.json").write_text(json.dumps(document))
    for path in (tmp_path, tmp_path / "architecture.json"):
        model = built(backbone={"type": "architecture", "path": str(path)}, head="LinearClsHead")
        assert model.head.in_channels == 24
        assert set(model.backbone.state_dict()) == set(space.build(architecture).state_dict())
    with pytest.raises(ConfigError, match=r"takes 3 channels, the images of task 'grey' have 1"):
        build_model({"backbone": {"type": "architecture", "path": str(tmp_path)}}, Grey(), HOST)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "takes either a name .* or a file or run folder"),
        ({"name": "fbnet_a", "path": "x"}, "takes either a name"),
        ({"path": "nowhere"}, "there is no architecture file or run folder nowhere"),
        ({"name": "fbnet_aa"}, "unknown architecture 'fbnet_aa'; did you mean 'fbnet_a'"),
    ],
)
def test_an_architecture_that_cannot_be_meant_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        built(backbone={"type": "architecture", **options})


def test_a_backbone_is_needed_and_must_be_known():
    with pytest.raises(ConfigError, match="the model names no backbone"):
        build_model({}, Pictures(), HOST)
    with pytest.raises(UnknownName, match=r"unknown backbone 'ResNett'; did you mean 'ResNet'.*architecture"):
        built(backbone="ResNett")
    with pytest.raises(ConfigError, match="backbone 'Broken' cannot be made: RuntimeError: no such size"):
        built(backbone="Broken")


def test_a_search_refuses_a_backbone_since_its_space_has_one():
    with pytest.raises(ConfigError, match=r"model.backbone is 'Tiny', but here the search space supplies"):
        model_parts(HOST, parse_model({"backbone": "Tiny"}))


# -- in_channels is found, and parts that do not fit are refused --------------------------------------


def test_in_channels_is_inferred_behind_backbone_and_neck():
    assert built(head="LinearClsHead").head.in_channels == 8
    assert built(backbone={"type": "Tiny", "both": True}, head="LinearClsHead").head.in_channels == 8
    assert built(head={"type": "LinearClsHead", "in_channels": 8, "num_classes": 7}).head.in_channels == 8


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"head": {"type": "LinearClsHead", "in_channels": 512}},
            "head 'LinearClsHead': in_channels = 512, but backbone and neck give 8 channels",
        ),
        (
            {"head": {"type": "LinearClsHead", "num_classes": 10}},
            "head 'LinearClsHead': num_classes = 10, but the task has 7 classes",
        ),
        (
            {"head": {"type": "LinearClsHead", "num_classes": 0}},
            "head 'LinearClsHead': num_classes must be a whole number of at least 1, not 0",
        ),
        (
            {"head": {"type": "LinearClsHead", "topk": [1, 8]}},
            r"LinearClsHead: each of topk must lie in 1..7, the classes; it is \[1, 8\]",
        ),
        (
            {"backbone": {"type": "Tiny", "in_channels": 4}},
            "backbone 'Tiny': in_channels = 4, but the images of task 'pictures' have 3 channels",
        ),
        (
            {"head": "WrongHead"},
            r"the head WrongHead cannot take what the neck GlobalAverage gives, of shape \(1, 8\): .*1, 8.*5, 7",
        ),
        (
            {"head": "TwiceTooMany"},
            r"the head Linear gives a tensor of shape \(1, 14\) .* 7 classes, so that it must give \(1, 7\)",
        ),
        (
            {"neck": "Identity"},
            r"the neck Identity gives a tensor of shape \(1, 8, 16, 16\); a head takes \(N, C\)",
        ),
        (
            {"loss": "MSE"},
            r"the loss MSELoss cannot take logits \(2, 7\) and labels \(2,\)",
        ),
        (
            {"loss": {"type": "CrossEntropyLoss", "reduction": "none"}},
            r"the loss CrossEntropyLoss gives a tensor of shape \(2,\) and not one number",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_the_part_and_both_shapes(sections, message):
    with pytest.raises(ConfigError, match=message):
        built(**sections)


def test_a_backbone_that_cannot_take_the_images_is_refused_with_their_shape():
    class Flat(Pictures):
        shape = (3, 4, 4)

    with pytest.raises(
        ConfigError,
        match=r"backbone 'torchvision' cannot take the images of task 'pictures', of shape \(1, 3, 4, 4\)",
    ):
        build_model({"backbone": {"type": "torchvision", "name": "alexnet"}}, Flat(), HOST)


def test_a_neck_that_cannot_take_several_maps_is_refused_with_their_shapes():
    parts = ModelParts(neck=nn.Flatten)
    with pytest.raises(
        ConfigError,
        match=r"the neck Flatten cannot take what the backbone Tiny gives, of shape \[\(1, 4, 8, 8\), \(1, 8, 4, 4\)\]",
    ):
        parts.assemble(Tiny(both=True), shape=(3, 8, 8), num_classes=2)


def test_topk_accuracies_are_counted_as_by_hand():
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 3.0, 2.0], [3.0, 1.0, 2.0]])
    found = topk_accuracy(logits, torch.tensor([0, 0, 2, 2]), (1, 2, 3))
    assert found == {"top1": 25.0, "top2": 75.0, "top3": 100.0}


# -- a stranger's part needs no edit of ours ----------------------------------------------------------

MY_PARTS = '''
import torch
from torch import nn

import archloom
from archloom.losses import weighted_loss


class Stripes(nn.Module):
    """One convolution with tall kernels."""

    def __init__(self, in_channels: int, *, width: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, (5, 1), padding=(2, 0))

    def forward(self, x):
        return self.conv(x).relu()


@weighted_loss
def margin(pred, target, *, by=1.0):
    right = pred.gather(1, target[:, None])
    return (pred - right + by).clamp(min=0).sum(1) - by


class MarginLoss(nn.Module):
    """How far the wrong classes come near the right one."""

    def __init__(self, *, by: float = 1.0) -> None:
        super().__init__()
        self.by = by

    def forward(self, logits, labels):
        return margin(logits, labels, by=self.by)


@archloom.hookimpl
def register_components(register):
    register("backbone.Stripes", Stripes)
    register("loss.MarginLoss", MarginLoss)
'''


def test_parts_of_a_users_own_file_make_a_model_that_the_trainer_trains(tmp_path):
    file = tmp_path / "my_parts.py"
    file.write_text(MY_PARTS)
    own = Host(files=[file])
    task = digits(train_size=200)
    config = {
        "backbone": {"type": "Stripes", "width": 16},
        "neck": "GeneralizedMean",
        "head": {"type": "LinearHead", "loss": {"type": "MarginLoss", "by": 0.5}},
    }
    model = build_model(config, task, own)
    logits, labels = torch.tensor([[2.0, 1.0, 1.75]]), torch.tensor([0])
    assert model.loss(logits, labels).item() == pytest.approx(0.25)
    recipe = Recipe(epochs=6, batch_size=16, lr=0.03, optimizer="adamw")
    epochs = list(train(model, task, recipe, seed=0))
    assert epochs[-1].metrics["loss"] < 0.85 * epochs[0].metrics["loss"]


# -- like a model that was found ----------------------------------------------------------------------


def test_a_configured_model_is_counted_trained_saved_and_loaded_like_a_found_one(tmp_path):
    task = digits(train_size=80)
    config = {"backbone": {"type": "Tiny", "width": 3}, "head": "LinearClsHead"}
    model = build_model(config, task, HOST)
    found = archloom.count(model, (1, 8, 8))
    # the convolutions: 1 -> 3 over 8 x 8, 3 -> 6 over 4 x 4; the head: 6 -> 10
    assert found.params == (9 * 3 + 3) + (9 * 3 * 6 + 6) + (6 * 10 + 10)
    assert found.macs == 9 * 3 * 64 + 9 * 3 * 6 * 16 + 60
    list(train(model, task, Recipe(epochs=1, batch_size=16), seed=0, folder=tmp_path))
    again = build_model(config, task, HOST, seed=1)
    archloom.load_weights(again, load_checkpoint(tmp_path / "best.pt")["model"])
    images = torch.randn(2, 1, 8, 8)
    assert torch.allclose(again.eval()(images), model.eval()(images), atol=1e-6)


# -- the worked example, as printed -------------------------------------------------------------------


def test_the_file_that_the_page_prints_registers_what_ships_as_resnet_cifar(tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "models.md").read_text()
    (printed,) = re.findall(r"my_backbone.py\"\).write_text\('''\n(.*?)'''\)", page, re.S)
    (tmp_path / "printed_parts.py").write_text(printed)
    own = Host(files=[tmp_path / "printed_parts.py"])
    theirs, shipped = (
        build_model({"backbone": {"type": name, "depth": 18}}, Pictures(), own).eval()
        for name in ("SmallImageResNet", "ResNet_CIFAR")
    )
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(theirs(images), shipped(images))
    with pytest.raises(ConfigError, match="has a stem of its own; leave deep_stem out"):
        build_model({"backbone": {"type": "SmallImageResNet", "deep_stem": True}}, Pictures(), own)


# -- a loss that sees the images -------------------------------------------------------------------------


def test_a_loss_that_needs_the_images_sees_them_in_training_alone():
    class Looking(nn.CrossEntropyLoss):
        def __init__(self):
            super().__init__()
            self.seen = []

        def see(self, images):
            self.seen.append(images)

    loss = Looking()
    model = ModelParts(head=LinearHead, loss=lambda: loss).assemble(Tiny(), shape=(3, 8, 8), num_classes=2)
    assert loss.seen == []  # what tries it, tries a copy
    images = torch.randn(2, 3, 8, 8)
    model.train()(images)
    model.eval()(images)
    assert len(loss.seen) == 1
    assert loss.seen[0] is images
