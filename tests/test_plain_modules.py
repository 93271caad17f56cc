"""What is built or extracted is a plain module: PyTorch's own ways of making a graph of it give the same numbers."""

from __future__ import annotations

import random
import warnings

import pytest
import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from archloom.cost import count
from archloom.errors import SpaceError
from archloom.mixing import gumbel_softmax
from archloom.model import GlobalAverage, LinearHead, Model, ModelParts, evaluating
from archloom.shared import Supernet
from archloom.space import Around, sample
from archloom_cream.network import CreamHead, CreamPool
from archloom_cream.space import CreamSpace
from archloom_fbnet.primitives import PRIMITIVES, BlockOptions, primitive
from archloom_fbnet.space import FBNetSpace
from archloom_tabular.space import MacroSpace
from toys import Blocks


def scripted(model, x):
    return torch.jit.script(model)


def traced(model, x):
    return torch.jit.trace(model, x)


def symbolic(model, x):
    return torch.fx.symbolic_trace(model)


def exported(model, x):
    return torch.export.export(model, (x,)).module()


WAYS = [scripted, traced, symbolic, exported]

FBNET = {"form": "small", "in_channels": 1, "stages": [[8, 2, 2]], "head_width": 8}
SPACES = {
    "blocks": Blocks(),
    "fbnet": FBNetSpace(**FBNET, candidates=["ir_k3_e1", "ir_k5_s2", "skip"]),
    "fbnet, group norm": FBNetSpace(**FBNET, candidates=["shuffle", "basic_block"], norm="gn", norm_groups=4),
    "cream": CreamSpace(form="small", in_channels=1, skip=True, stages=[[8, 2, 1], [16, 2, 2]]),
    "cream, mixed": CreamSpace(
        form="small", in_channels=1, stages=[[16, 2, 2]], candidates=["k3.5_e4", "basic", "bottleneck"]
    ),
    "macro": MacroSpace(in_channels=1),
}


def images(memory_format=torch.contiguous_format):
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return x.to(memory_format=memory_format)


def moved(model):
    """Statistics and affine parameters away from where they start."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def agree(model, way, x):
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of what it fixes, and scripting that it is old
        expected = model(x)
        found = way(model, x)(x)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("way", WAYS)
def test_a_built_and_an_extracted_model_can_be_made_a_graph(name, way):
    space = SPACES[name]
    architecture = sample(space, random.Random(3))
    parts = ModelParts(neck=CreamPool, head=CreamHead) if name == "cream" else ModelParts()
    parts_of = {"shape": (1, 8, 8), "num_classes": 3}
    built = moved(parts.assemble(space.build(architecture), **parts_of))
    supernet = Supernet(space, 0)
    whole = parts.assemble(supernet, **parts_of, selection=(dict.fromkeys(supernet.layers, 0),))
    extracted = moved(whole).extract(architecture).eval()
    assert [type(module) for module in built.modules()] == [type(module) for module in extracted.modules()]
    layout = torch.channels_last if "fbnet" in name else torch.contiguous_format
    agree(extracted.to(memory_format=layout), way, images(layout))


@pytest.mark.parametrize(
    "name",
    [
        *(
            "skip",
            "basic_block",
            "shift_5x5",
            "shuffle",
            "ir_k1",
            "ir_k3_s4_se",
            "ir_k7_e1",
            "ir_k3_sep",
            "ir_k33_e3",
        ),
    ],
)
def test_a_primitive_can_be_made_a_graph(name):
    assert name in PRIMITIVES
    strides = {"basic_block": (1, 2), "shift_5x5": (1, 2), "ir_k1": (1, -2)}.get(name, (1, 2, -2))
    options = BlockOptions(norm="frozen_bn") if name == "ir_k7_e1" else BlockOptions()
    for stride in strides:
        block = moved(primitive(name, 8, 8 if stride == 1 else 16, 4, stride, options))
        for way in (scripted, symbolic):
            agree(block, way, torch.randn(2, 8, 6, 6))


@pytest.mark.parametrize("name", SPACES)
def test_torchvision_s_feature_extractor_takes_a_built_model_apart(name):
    space = SPACES[name]
    model = moved(
        ModelParts().assemble(space.build(sample(space, random.Random(3))), shape=(1, 8, 8), num_classes=3)
    )
    extractor = (
        create_feature_extractor(model, ["backbone.tail", "neck"])
        if name != "blocks"
        else (create_feature_extractor(model, ["backbone.stem", "neck"]))
    )
    with torch.no_grad():
        found = extractor(images())
        assert torch.allclose(found["neck"], model.neck(model.backbone(images())), atol=1e-5)


@pytest.mark.parametrize("name", ["fbnet", "cream", "macro"])
def test_a_model_compiles_without_graph_breaks(name):
    space = SPACES[name]
    model = moved(
        ModelParts().assemble(space.build(sample(space, random.Random(3))), shape=(1, 8, 8), num_classes=3)
    )
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(images()), model(images()), atol=1e-5)


def test_forward_takes_images_and_nothing_else_and_the_selection_reaches_a_supernet_all_the_same():
    space = SPACES["blocks"]
    model = ModelParts().assemble(
        space.build(sample(space, random.Random(0))), shape=(1, 8, 8), num_classes=3
    )
    for plain in (Model, Around, type(model.backbone.body)):
        assert plain.forward.__code__.co_varnames[: plain.forward.__code__.co_argcount] == ("self", "x")
        assert not plain.forward.__code__.co_flags & 0x0C  # neither *args nor **kwargs
    supernet = Supernet(space, 0)
    whole = (
        ModelParts()
        .assemble(supernet, shape=(1, 8, 8), num_classes=3, selection=(dict.fromkeys(supernet.layers, 0),))
        .eval()
    )
    architecture = sample(space, random.Random(1))
    mixture = {
        n: gumbel_softmax(torch.zeros(2), 1.0, torch.Generator().manual_seed(0)) for n in supernet.layers
    }
    with torch.no_grad():
        path = whole(images(), architecture)
        assert torch.allclose(path, whole.extract(architecture).eval()(images()), atol=1e-6)
        assert not torch.allclose(whole(images(), mixture), path)
        assert torch.equal(whole(images(), architecture), path)  # nothing of the mixture stays
    assert count(whole, (1, 8, 8), architecture).macs == count(whole.extract(architecture), (1, 8, 8)).macs


def test_a_network_around_that_hands_arguments_on_to_the_body_works_as_before():
    class Outside(nn.Module):
        def __init__(self, body):
            super().__init__()
            self.stem, self.body = nn.Conv2d(1, 4, 3, padding=1), body

        def forward(self, x, *further):
            return self.body(self.stem(x), *further)

    space = Blocks()
    space.around = Outside
    supernet = Supernet(space, 0).eval()
    architecture = sample(space, random.Random(0))
    with pytest.raises(SpaceError, match="a supernet runs what it is given"):
        supernet.network(images())
    assert torch.equal(supernet(images(), architecture), supernet.extract(architecture).eval()(images()))


def test_several_maps_are_averaged_each_by_itself_and_the_deepest_is_classified():
    maps = (torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2))
    averaged = GlobalAverage()(maps)
    assert [tuple(each.shape) for each in averaged] == [(2, 3), (2, 5)]
    head = LinearHead(5, 2)
    with evaluating(head):
        assert torch.equal(head(averaged), head.fc(averaged[1]))
