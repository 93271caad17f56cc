"""The named networks as a search space of the framework."""

import pluggy
import pytest
import torch
from efficientnet_golden import GOLDEN, NETWORKS

import archloom_efficientnet
from archloom import hookspecs
from archloom.architecture import Architecture
from archloom.cost import count
from archloom.model import ModelParts
from archloom.space import SearchSpace, check, input_shape
from archloom_efficientnet import EfficientNet, EfficientNetSpace, export_state


class Task:
    name, shape, classes = "a task", (3, 32, 32), ("a", "b")


def test_the_plugin_registers_the_space_through_the_public_hook():
    manager = pluggy.PluginManager("archloom")
    manager.add_hookspecs(hookspecs)
    manager.register(archloom_efficientnet)
    manager.check_pending()
    found = {}
    manager.hook.register_search_spaces(register=found.__setitem__)
    assert isinstance(found["efficientnet"](), SearchSpace)


def test_every_published_network_is_named_with_its_resolution():
    space = EfficientNetSpace()
    assert list(space.named) == NETWORKS
    for name, entry in space.named.items():
        check(space, entry.architecture)
        golden = GOLDEN["models"][name]
        assert entry.resolution == golden["resolution"]
        assert entry.published["params"] == golden["params"]
        side = golden["resolution"]
        assert input_shape(space, entry.architecture, Task()) == (3, side, side)
    assert input_shape(EfficientNetSpace(native_resolution=False), entry.architecture, Task()) == (3, 32, 32)


def test_a_network_of_the_space_assembled_by_the_framework_is_the_whole_network():
    space = EfficientNetSpace()
    architecture = Architecture({"network": "efficientnet-b0"})
    model = ModelParts().assemble(space.build(architecture), shape=(3, 224, 224), num_classes=1000)
    golden = GOLDEN["models"]["efficientnet-b0"]
    cost = count(model, 224)
    assert (cost.params, cost.macs) == (golden["params"], golden["macs_native"])


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["lukemelas", "timm_tf"]),
        ({"padding": "symmetric", "batch_norm_epsilon": 1e-5}, ["timm"]),
        ({"padding": "symmetric"}, ["torchvision"]),
    ],
)
def test_only_formats_that_behave_like_the_space_are_offered(options, names):
    b5, b0 = (Architecture({"network": f"efficientnet-{name}"}) for name in ("b5", "b0"))
    space = EfficientNetSpace(**options)
    assert [entry.name for entry in space.weight_formats(b5)] == names
    # torchvision's b0 to b4 have another epsilon than its b5 to b7
    small = {"lukemelas", "timm_tf", "timm"} & set(names) | (
        {"torchvision"} if options.get("batch_norm_epsilon") else set()
    )
    assert {entry.name for entry in space.weight_formats(b0)} == small


@pytest.mark.parametrize("name", ["efficientnet-b0", "efficientnet-b3"])
def test_a_models_keys_map_to_the_formats_keys(name):
    with torch.device("meta"):
        whole = EfficientNet.from_name(name)
    architecture = Architecture({"network": name})
    for options in ({}, {"padding": "symmetric", "batch_norm_epsilon": 1e-5}):
        for entry in EfficientNetSpace(**options).weight_formats(architecture):
            wanted = list(export_state(whole, entry.name))
            ours = [
                key.replace("features.", "backbone.").replace("classifier.", "head.fc.")
                for key in whole.state_dict()
            ]
            assert [entry.theirs(key) for key in ours] == wanted
            assert entry.theirs("neck.weight") is None
