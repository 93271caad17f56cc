import pytest
import torch
from archloom_memory import ActivationMemory, activations
from torch import nn

from archloom.testing import EstimatorContract


class TestActivationMemoryKeepsTheContract(EstimatorContract):
    factory = ActivationMemory


class TestHalfPrecisionKeepsTheContract(EstimatorContract):
    factory, options = ActivationMemory, {"bytes_per_number": 2}


def test_a_network_counted_by_hand():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=2, padding=1))
    # 8 x 16 x 16 twice, then 4 x 8 x 8; the ReLU has 2,048 numbers before and 2,048 after it
    assert activations(net, (3, 16, 16)) == (2 * 2048 + 256, 4096)


def test_what_works_in_place_keeps_nothing():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True))
    assert activations(net, (3, 16, 16)) == (2048, 3 * 256 + 2048)


@pytest.mark.parametrize("side", [7, 32])
def test_the_trace_agrees_with_what_autograd_keeps(side):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 4, 3), nn.Sigmoid())
    sizes: dict[int, int] = {}

    def pack(tensor):
        sizes[tensor.data_ptr()] = tensor.numel()
        return tensor

    images = torch.randn(1, 3, side, side)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        net(images)
    weights = sum(p.numel() for name, p in net.named_parameters() if name.endswith("weight"))
    # a convolution keeps its input and a sigmoid its output, so a convolution's own output is let go
    let_go = 8 * (side - 2) ** 2 + 4 * (side - 4) ** 2
    assert activations(net, (3, side, side))[0] == sum(sizes.values()) - weights - images.numel() + let_go


def test_the_model_stays_as_it_was():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    activations(net, (3, 8, 8))
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
