"""The tasks enter by the public door, and so does the one that the documentation shows."""

from __future__ import annotations

import inspect
import pickle
import re
import types
from pathlib import Path

import pytest
import torch
from tiny_data import registered

from archloom.task import SPLITS, batches

DOCS = Path(__file__).parents[2] / "docs" / "data.md"


def test_the_plugin_registers_five_tasks_whose_options_are_typed_and_keyword_only(tasks):
    assert set(tasks) == {"digits", "cifar10", "cifar100", "imagefolder", "fake"}
    for factory in tasks.values():
        assert factory.__doc__
        for option in inspect.signature(factory, eval_str=True).parameters.values():
            assert option.kind is inspect.Parameter.KEYWORD_ONLY
            assert option.annotation is not inspect.Parameter.empty


def test_the_documentation_names_every_option_and_its_default(tasks):
    sections = {
        name: body
        for heading, body in re.findall(r"^### (.+?)\n(.*?)(?=^##)", DOCS.read_text(), re.M | re.S)
        for name in re.findall(r"`(\w+)`", heading)
    }
    for name, factory in tasks.items():
        rows = re.findall(r"^\| (`.+?`) \| (.+?) \|", sections[name], re.M)
        documented = {}
        for options, defaults in rows:
            documented |= dict(zip(re.findall(r"`(\w+)`", options), re.split(", ", defaults), strict=True))
        assert set(documented) == set(inspect.signature(factory).parameters), name
        words = {None: {"all", "up to 4"}, inspect.Parameter.empty: {"(must be given)"}}
        for option in inspect.signature(factory).parameters.values():
            expected = words.get(option.default, {str(option.default), str(option.default).lower()})
            assert documented[option.name].strip("`") in expected, (name, option.name)


def test_tasks_can_be_sent_to_another_process(tasks):
    for name, options in (("digits", {"augment": "shift"}), ("fake", {"size": 20})):
        task = tasks[name](**options)
        copy = pickle.loads(pickle.dumps(task))
        for augment in (False, True):
            pairs = (batches(t.dataset("validation", augment=augment), 16) for t in (task, copy))
            for (x, y), (x2, y2) in zip(*pairs, strict=True):
                assert x.equal(x2)
                assert y.equal(y2)


@pytest.fixture
def rings():
    """The documentation's file, run as a module and registered as a plugin."""
    code, _ = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.M | re.S)
    module = types.ModuleType("rings")
    exec(compile(code, "rings.py", "exec"), module.__dict__)
    return registered(module)["rings"]


def test_the_documented_data_set_of_ones_own_works(rings):
    task = rings(size=100, noise=0.1)
    assert [len(task.dataset(split)) for split in SPLITS] == [60, 20, 20, 50]
    ((x, y),) = batches(task.dataset("test"), 100)
    assert x.shape == (50, 1, 16, 16)
    assert (x[:, 0, 8, 8] < 0.5).long().equal(y)  # a ring has a hole
    ((x, _),) = batches(task.dataset("weights", augment=True, resolution=24), 100)
    assert x.shape == (60, 1, 24, 24)


def test_the_documented_augmentation_flips_half_of_the_images(rings):
    task = rings()
    ((plain, _),) = batches(task.dataset("weights"), 1000)
    ((drawn, _),) = batches(task.dataset("weights", augment=True), 1000)
    kept, flipped = ((drawn == x).flatten(1).all(1) for x in (plain, plain.flip(-1)))
    assert (kept ^ flipped).all()
    assert 0.3 < torch.mean(flipped.float()) < 0.7
