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
from archloom_efficientnet import FORMATS, EfficientNet, EfficientNetSpace, export_state


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
    ("options", "shunned"),
    [
        ({}, set()),
        ({"padding": "symmetric", "batch_norm_epsilon": 1e-5}, {"timm_tf"}),
        ({"padding": "symmetric"}, set()),
    ],
)
def test_every_format_is_offered_but_what_the_options_rule_out_of_two_with_the_same_keys(options, shunned):
    for name in ("b5", "b0"):
        architecture = Architecture({"network": f"efficientnet-{name}"})
        offered = EfficientNetSpace(**options).weight_formats(architecture)
        assert {entry.name for entry in offered} == set(FORMATS) - shunned


@pytest.mark.parametrize("name", ["efficientnet-b0", "efficientnet-b3"])
def test_a_models_keys_map_to_the_formats_keys(name):
    with torch.device("meta"):
        whole = EfficientNet.from_name(name)
    architecture = Architecture({"network": name})
    for options in ({}, {"padding": "symmetric", "batch_norm_epsilon": 1e-5}):
        for entry in EfficientNetSpace(**options).weight_formats(architecture):
            if entry.name == "archloom":
                continue  # several, for the kinds of our own networks
            wanted = list(export_state(whole, entry.name))
            ours = [
                key.replace("features.", "backbone.").replace("classifier.", "head.fc.")
                for key in whole.state_dict()
            ]
            assert [entry.theirs(key) for key in ours] == wanted
            assert entry.theirs("neck.weight") is None
            assert entry.theirs("loss.weight") is None
