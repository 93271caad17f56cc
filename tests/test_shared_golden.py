"""A wired space against the recorded numbers of another implementation: the search network of DARTS."""

from __future__ import annotations

import hashlib
import json
import random
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from archloom import ModelParts, testing
from archloom.mixing import Mixture
from archloom.model import assemble_shared
from archloom.shared import derive
from archloom.space import draw
from darts_cells import NODES, OPERATIONS, DartsCells
from toys import noise, wave

GOLDEN = json.loads((Path(__file__).parent / "data" / "golden_darts_cell.json").read_text())


class Colours:
    """What a network must know of the recorded images."""

    shape, classes, name = (3, 16, 16), tuple(map(str, range(10))), "colours"


def original(key):
    """The other implementation's name of a tensor of the supernet's model."""
    if key.startswith("head.fc."):
        return key.replace("head.fc.", "classifier.")
    key = key.removeprefix("backbone.network.")
    if ".edges." not in key:
        return key
    cell, _, rest = key.partition(".edges.")
    layer, _, option = rest.partition(".options.")
    return f"{cell}._ops.{layer.rpartition('_')[2]}._ops.{option}"


def filled(key, like):
    """The recorded value of a tensor of this name."""
    if not like.is_floating_point():
        return torch.zeros_like(like)
    v = noise(key, like.numel())
    if key.endswith("running_var"):
        v = 1 + 0.5 * v
    elif key.endswith(("running_mean", "bias")):
        v = 0.1 * v
    elif like.ndim == 1:
        v = 1 + 0.25 * v
    else:
        v = v * np.sqrt(3 / (like.numel() / like.shape[0]))
    return torch.from_numpy(v.astype(np.float32)).view(like.shape)


def alphas(tag, scale=1.0):
    """decision -> alpha (8,), of the recorded architecture parameters."""
    rows = {}
    for kind in ("normal", "reduce"):
        values = torch.from_numpy((scale * noise(f"{tag}/alphas_{kind}", 112)).astype(np.float32))
        rows |= {f"{kind}_{edge}": row for edge, row in enumerate(values.view(14, 8))}
    return rows


def genotype(architecture):
    """Eight pairs of digits for each kind: operation and predecessor."""
    return "/".join(
        "".join(
            f"{OPERATIONS.index(architecture[f'{kind}{node}_op{slot}'])}{architecture[f'{kind}{node}_from{slot}']}"
            for node in range(NODES)
            for slot in range(2)
        )
        for kind in ("normal", "reduce")
    )


def derived(rows):
    return genotype(
        derive(DartsCells(), {name: torch.softmax(row, 0).tolist() for name, row in rows.items()})
    )


@pytest.fixture
def model():
    made = assemble_shared(DartsCells(), Colours(), ModelParts(), seed=0)
    made.load_state_dict({key: filled(original(key), value) for key, value in made.state_dict().items()})
    return made.double().train()


def mixtures():
    every = tuple(range(len(OPERATIONS)))
    return {
        name: Mixture(torch.softmax(row.double(), 0), every) for name, row in alphas("supernet/a").items()
    }


def test_the_mixture_of_all_edges_gives_the_recorded_numbers(model):
    recorded = GOLDEN["network"]
    images, labels = wave(8, 3, 16, 16)[:4].double(), torch.tensor([1, 2, 3, 4])
    logits = model(images, mixtures())
    assert logits[0].tolist() == pytest.approx(recorded["logits_float64_image0"], rel=1e-10, abs=1e-10)
    assert logits[:, :8].flatten().tolist() == pytest.approx(
        list(chain(*recorded["logits8"])), rel=1e-5, abs=1e-5
    )
    assert F.cross_entropy(logits, labels).item() == pytest.approx(recorded["loss_float64"], rel=1e-12)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for name in ("running_mean", "running_var"):
        total = sum(float(getattr(module, name).sum()) for module in norms)
        assert total == pytest.approx(recorded[f"{name}_sum"], rel=1e-12)
    after = model.eval()(images, mixtures())[0].tolist()
    assert after == pytest.approx(recorded["eval_after_one_step_image0"], rel=1e-9, abs=1e-9)


def test_the_supernet_has_the_recorded_tensors(model):
    lines = sorted(f"{original(key)} {list(value.shape)}" for key, value in model.state_dict().items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == GOLDEN["keys"]
    parameters = list(model.parameters())
    assert [sum(p.numel() for p in parameters), len(parameters), len(lines)] == GOLDEN["size"]


def test_a_path_of_cells_is_extracted_to_equal_logits(model):
    images = wave(2, 3, 16, 16).double()
    for path in draw(DartsCells(), 3, random.Random(0)):
        child = model.eval().extract(path).eval()
        assert torch.allclose(child(images), model(images, path), rtol=1e-10, atol=1e-10)
        assert len(child.state_dict()) < len(model.state_dict()) / 3


def test_architecture_parameters_mean_the_recorded_genotypes():
    assert derived(alphas("supernet/a")) == GOLDEN["network"]["genotype"]
    found = [derived(alphas(f"derive/{i}", (3, 1, 0.1)[i % 3])) for i in range(len(GOLDEN["derive"]))]
    assert found == GOLDEN["derive"]
    even = {name: torch.zeros(8) for name in DartsCells().relaxed}
    none = {name: torch.tensor([9.0, *[0.0] * 7]) for name in even}
    assert [derived(even), derived(none)] == [GOLDEN["special"][name] for name in ("zeros", "none_plus_9")]


class TestCellsOfDartsKeepTheContract(testing.SharedSpaceContract):
    factory, shape, samples, options = DartsCells, (3, 16, 16), 2, {"cells": 3}
