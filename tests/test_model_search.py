"""A search whose supernet, retraining and exported network take head and loss from a user's own file."""

from __future__ import annotations

import sys

import pytest
from safetensors.torch import load_file

import archloom
from archloom.plugin_files import module_of
from archloom.plugins import Host

PARTS = '''
import torch
from torch import nn

import archloom

CALLS = []


class Cosine(nn.Module):
    """Scaled cosines between features and one vector for each class."""

    def __init__(self, in_channels: int, num_classes: int, *, scale: float = 8.0) -> None:
        super().__init__()
        self.vectors, self.scale = nn.Parameter(torch.randn(num_classes, in_channels)), scale

    def forward(self, x):
        return self.scale * nn.functional.normalize(x, dim=1) @ nn.functional.normalize(self.vectors, dim=1).T


class Focal(nn.Module):
    """Cross entropy that looks away from what is easy (Lin et al., arXiv 1708.02002, eq. 4)."""

    def __init__(self, *, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits, labels):
        CALLS.append((self.gamma, self.training))
        ce = nn.functional.cross_entropy(logits, labels, reduction="none")
        return ((1 - (-ce).exp()) ** self.gamma * ce).mean()


@archloom.hookimpl
def register_components(register):
    register("head.Cosine", Cosine)
    register("loss.Focal", Focal)
'''


FBNET = {
    "space": {"type": "fbnet", "stages": [[8, 2, 2]], "head_width": 12, "in_channels": 1},
    "method": {"type": "fbnet", "epochs": 1, "warmup_epochs": 0, "batch_size": 16, "cost": "macs"},
}
CREAM = {
    "space": {"type": "cream", "form": "small", "in_channels": 1, "stages": [[12, 2, 2]]},
    "method": {"type": "cream", "epochs": 3, "batch_size": 16, "start_epoch": 0, "board": 3, "slices": 2},
}


@pytest.mark.parametrize(("searched", "width"), [(FBNET, 12), (CREAM, 160)], ids=["fbnet", "cream"])
def test_a_search_runs_with_the_head_and_the_loss_of_a_users_file(tmp_path, searched, width):
    file = tmp_path / "my_parts.py"
    file.write_text(PARTS)
    host = Host(files=[file])
    result = archloom.search(
        {
            **searched,
            "task": {"type": "digits", "train_size": 60},
            "estimators": ["macs", "inherited_accuracy"],
            "objectives": ["accuracy.inherited"],
            "model": {
                "neck": "GeneralizedMean",
                "head": {"type": "Cosine", "scale": 4.0, "loss": {"type": "Focal", "gamma": 1.5}},
            },
            "recipe": {"type": "default", "epochs": 1, "batch_size": 16},
            "verdict": {"seeds": 1, "random": 0},
            "budget": {"trials": 2},
            "observers": [],
        },
        tmp_path / "run",
        host=host,
    )
    calls = sys.modules[module_of(host.plugin_files[0])].CALLS
    assert (
        calls.count((1.5, True)) >= 6
    )  # 60 images in batches of 16: supernet and retraining ask it, and no other
    for name in ("inherited", "weights"):
        saved = load_file(result.folder / f"{name}.safetensors")
        assert saved["head.vectors"].shape == (10, width)
        assert saved["neck.p"].shape == ()
    model = archloom.build(result.folder, host=host)
    archloom.load_weights(model, result.folder / "weights.safetensors")
    assert model.head.scale == 4.0
    assert model.loss.gamma == 1.5
