"""The public door: networks by name, and weights under the reference's keys."""

from __future__ import annotations

import pytest
import torch
from fbnet_golden import close, det_input, filled, golden

import archloom
from archloom.errors import WeightsError

NAMES = [
    "fbnet_a",
    "fbnet_b",
    "fbnet_c",
    "fbnet_96_035_1",
    "fbnet_samsung_s8",
    "fbnet_iphonex",
    "fbnet_cpu_sample1",
    "fbnet_cpu_sample2",
    "fbnet_b_official",
]


def checkpoint(name: str) -> dict[str, torch.Tensor]:
    """The reference's state dict for 1000 classes, filled."""
    state = {}
    for key, shape in golden()["archs"][name]["state_dict"]:
        dtype = torch.long if key.endswith("num_batches_tracked") else torch.float32
        state[key] = filled(key, torch.empty(shape, dtype=dtype))
    return state


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reference", [False, True])
def test_a_network_is_built_by_its_name(name, reference):
    model = archloom.build(name, num_classes=7, reference=reference).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 64)).shape == (1, 7)


@pytest.mark.parametrize("wrap", [dict, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}])
@pytest.mark.parametrize("name", golden()["archs"])
def test_weights_under_the_reference_s_keys_give_the_reference_s_logits(name, wrap):
    model = archloom.build(name, num_classes=1000, reference=True).eval()
    assert archloom.load_weights(model, wrap(checkpoint(name))) == "fbnet-reference"
    with torch.no_grad():
        logits = model(det_input(2, 3, 224, 224))
    close(logits[0, :10], golden()["archs"][name]["c1000_r224"]["logits_first10"])
    close(logits[1, :10], golden()["archs"][name]["c1000_r224"]["logits_img1_first10"])


def test_the_paper_s_form_does_not_take_the_reference_s_weights():
    with pytest.raises(WeightsError, match="fbnet-reference"):
        archloom.load_weights(archloom.build("fbnet_a", num_classes=1000), checkpoint("fbnet_a"))
