from __future__ import annotations

import random

import pytest
import torch
import torchvision
from torch import nn

from archloom.cost import count
from toys import state_of


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [("mobilenet_v2", 3_504_872, 300_774_272), ("resnet18", 11_689_512, 1_814_073_344)],
)
def test_params_and_macs_of_known_networks(name, params, macs):
    """Parameters as torchvision documents them; MACs as the sum over layers gives, by hooks, below."""
    model = getattr(torchvision.models, name)(weights=None)
    cost = count(model, 224)
    assert (cost.params, cost.macs) == (params, macs)


def macs_by_hooks(model: nn.Module, x: torch.Tensor) -> int:
    """kernel elements times outputs, layer by layer, from a real forward."""
    counted = []

    def hook(module, _, output):
        if isinstance(module, nn.Conv2d):
            counted.append(output[0].numel() * module.weight[0].numel())
        else:
            counted.append(module.weight.numel())

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(hook)
    with torch.no_grad():
        model.eval()(x)
    return sum(counted)


@pytest.mark.parametrize("seed", range(6))
def test_macs_are_the_sum_over_layers_for_any_convolution(seed):
    rng, channels, layers = random.Random(seed), 4, []
    for _ in range(4):
        groups = rng.choice([1, 2, 4])
        width = rng.choice([4, 8, 12])
        layers += [
            nn.Conv2d(
                channels, width, rng.choice([1, 3, 5]), stride=rng.choice([1, 2]), padding=2, groups=groups
            ),
            nn.BatchNorm2d(width),
            nn.SiLU(),
        ]
        channels = width
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))
    x = torch.randn(1, 4, 17, 13)
    assert count(model, (4, 17, 13)).macs == macs_by_hooks(model, x)


def test_counting_changes_nothing_and_counts_trainable_parameters_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    model[0].weight.requires_grad_(False)
    before = state_of(model)
    assert count(model, 8).params == 4 + 8
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training
