"""Whatever options a space has: what a search finds is what every door says of it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import archloom
from archloom.architecture import Choice
from archloom.assembly import build_model
from archloom.commands import showing
from archloom.errors import SpaceError
from archloom.exporting import export
from archloom.source import open_source
from archloom.trained import open_trained
from archloom.zoo import find
from toys import config, host

printable = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8)
words = printable | st.sampled_from(
    ["null", "yes", "1e3", "007", "1", "True", "~", "a b", "{}", "*a", "k3_e6", "é"]
)
names = words.filter(lambda name: not set(name) & set("./\\"))
options = st.one_of(
    st.lists(words, min_size=1, max_size=3, unique=True),
    st.lists(st.integers(-(2**60), 2**60), min_size=1, max_size=3, unique=True),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=3, unique=True),
    st.lists(st.booleans(), min_size=1, max_size=2, unique=True),
)
spaces = st.dictionaries(names, st.tuples(options, st.booleans()), min_size=1, max_size=3)


class Odd:
    """The choices that the test asks for; the width of the one layer counts their positions."""

    given: tuple[Choice, ...] = ()

    def __init__(self, *, in_channels: int = 1) -> None:
        self.choices, self.in_channels = Odd.given, in_channels

    def width(self, architecture: Any) -> int:
        return 1 + sum(choice.index(architecture[choice.name]) for choice in self.choices)

    def build(self, architecture: Any) -> nn.Module:
        return nn.Conv2d(self.in_channels, self.width(architecture), 1)


class OddPlugin:
    @archloom.hookimpl
    def register_search_spaces(self, register):
        register("odd", Odd)


@pytest.fixture(scope="module")
def plugins():
    return host(OddPlugin())


def test_what_a_search_finds_is_what_info_find_build_and_export_say(plugins, monkeypatch, capsys):
    monkeypatch.setattr(showing, "source_host", lambda *_, **__: plugins)

    @settings(max_examples=6, deadline=None)
    @given(spaces)
    def agree(drawn):
        try:
            Odd.given = tuple(
                Choice(name, (*those, None) if none else those) for name, (those, none) in drawn.items()
            )
        except SpaceError:  # written alike, as "None" and None are
            return
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            result = archloom.search(
                config(space="odd", estimators=["params"], objectives=["params"], budget={"trials": 2}),
                run,
                host=plugins,
            )
            architecture = result.architecture
            width = Odd().width(architecture)
            for source in (
                run,
                run / "architecture.json",
                json.loads((run / "architecture.json").read_text()),
            ):
                found = find(source, plugins)
                assert list(found.architecture.items()) == list(architecture.items())
                assert [type(o) for o in found.architecture.values()] == [
                    type(o) for o in architecture.values()
                ]
                assert archloom.build(source, host=plugins).backbone.out_channels == width
            capsys.readouterr()
            showing.info(str(run), as_json=True)
            assert json.loads(capsys.readouterr().out)["architecture"] == architecture.to_json()
            document = dict(open_source(run, plugins).document)
            section = {"backbone": {"type": "architecture", "document": document}}
            section = yaml.safe_load(yaml.safe_dump(section))
            assert build_model(section, _Images(), plugins).backbone.out_channels == width
            exported = export(
                open_trained(run, untrained=True, host=plugins), "safetensors", Path(folder) / "out"
            )
            again = find(exported.folder, plugins)
            assert again.architecture == architecture
            again_run = archloom.resume(run, overrides=("budget.trials=3",), host=plugins)
            assert again_run.trials[: len(result.trials)] == result.trials

    agree()


class _Images:
    name, shape, classes = "images", (1, 8, 8), tuple("0123456789")
