import pytest
import torch
from archloom_plainnet import PlainNet

from archloom import SpaceError, check, size
from archloom.testing import SharedSpaceContract


class TestPlainNetKeepsTheContract(SharedSpaceContract):
    factory, shape = PlainNet, (1, 8, 8)


class TestAWiderPlainNetKeepsTheContract(SharedSpaceContract):
    factory, options, shape = PlainNet, {"in_channels": 3, "channels": [8, 16, 24], "depth": 1}, (3, 17, 17)


def everywhere(space, option, elsewhere):
    decisions = {c.name: option if option in c.options else elsewhere for c in space.choices}
    return check(space, decisions)


def test_the_size_is_that_of_the_options():
    # 6 blocks for the first layer of a stage, 6 blocks or none for the others
    assert size(PlainNet(channels=(16, 32), depth=3)) == (6 * 7 * 7) ** 2


def test_a_skipped_layer_has_no_weights():
    space = PlainNet(depth=2)
    shallow = space.build(everywhere(space, "skip", "k3_w1"))
    assert sum(isinstance(m, torch.nn.Conv2d) for m in shallow.modules()) == 1 + 2 + 2


def test_a_convolution_has_the_kernel_and_width_that_were_chosen():
    space = PlainNet(channels=(16,), depth=1)
    block = space.candidate(space.choices[0], "k5_w4")
    assert [tuple(m.weight.shape) for m in block if isinstance(m, torch.nn.Conv2d)] == [
        (64, 16, 5, 5),
        (16, 64, 1, 1),
    ]


def test_each_stage_but_the_first_halves_the_image():
    space = PlainNet(channels=(8, 8, 8))
    net = space.build(everywhere(space, "k3_w1", "k3_w1"))
    assert net(torch.zeros(2, 1, 16, 16)).shape == (2, 8, 4, 4)


def test_a_network_without_stages_is_refused():
    with pytest.raises(SpaceError, match="at least 1"):
        PlainNet(channels=())
