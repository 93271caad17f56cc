from __future__ import annotations

import json
import time

import pytest
import torch
from torch import nn

from archloom.architecture import Architecture, Choice
from archloom.errors import ConfigError
from archloom.latency import LatencyTable, build_table, measure, setting_of
from archloom.session import search
from toys import Blocks, config, host


class Sleeps(nn.Module):
    def __init__(self, milliseconds):
        super().__init__()
        self.milliseconds, self.calls, self.modes = milliseconds, 0, set()

    def forward(self, x):
        self.calls += 1
        self.modes.add((self.training, torch.is_inference_mode_enabled()))
        time.sleep(self.milliseconds / 1e3)
        return x


@pytest.fixture(scope="module")
def table():
    return build_table(Blocks(), (1, 8, 8), 10, runs=3, warmup=1)


def test_a_timing_is_of_the_forward_alone_in_evaluation_mode():
    module = Sleeps(4).train()
    timing = measure(module, torch.ones(1), runs=7, warmup=2)
    assert 4 <= timing.low <= timing.median <= timing.high
    assert (module.calls, timing.runs) == (9, 7)
    assert module.modes == {(False, True)}
    assert module.training


def test_a_slower_module_takes_longer():
    assert measure(Sleeps(6), 0, runs=3).median > measure(Sleeps(1), 0, runs=3).median


def test_timing_goes_on_for_the_seconds_asked():
    assert measure(Sleeps(2), 0, runs=1, warmup=0, min_seconds=0.03).runs > 1


def test_a_setting_names_device_type_batch_threads_and_version():
    setting = setting_of(torch.device("cpu"), 4, torch.bfloat16)
    assert setting.device
    assert (setting.dtype, setting.batch, setting.threads) == ("bfloat16", 4, torch.get_num_threads())
    assert setting.torch == torch.__version__


def test_a_table_has_an_entry_for_every_option_and_equal_layers_share_theirs(table):
    assert set(table.layers) == {"layer0", "layer1"}
    assert list(table.layers["layer0"]) == ["k1", "k3"]
    assert table.layers["layer0"] == table.layers["layer1"], "the same operation at the same shape"
    assert len(table.fixed) == 3
    assert all(timing.median > 0 for timing in table.entries.values())


def test_a_latency_is_the_sum_of_the_entries(table):
    costs = table.costs("layer0")
    path = Architecture({"layer0": "k1", "layer1": "k3"})
    assert table.latency(path) == pytest.approx(table.base + costs[0] + costs[1])


def test_a_table_survives_json_and_a_file(table, tmp_path):
    (tmp_path / "t.json").write_text(json.dumps(table.to_json()))
    again = LatencyTable.read(tmp_path / "t.json")
    assert again == LatencyTable.from_json(json.loads(json.dumps(table.to_json())))
    path = Architecture({"layer0": "k3", "layer1": "k3"})
    assert again.check(Blocks()).latency(path) == table.latency(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="other"), "has format 'other'; this version reads"),
        (lambda d: d.pop("layers"), "is no latency table of archloom"),
        (lambda d: d["fixed"].append("gone"), "is no latency table of archloom"),
        (lambda d: next(iter(d["entries"].values())).update(median=-1.0), "is -1.0, not a time"),
        (lambda d: next(iter(d["entries"].values())).update(median=float("nan")), "is nan, not a time"),
    ],
)
def test_a_table_that_is_wrong_is_refused_with_its_file(table, tmp_path, change, message):
    data = json.loads(json.dumps(table.to_json()))
    change(data)
    (tmp_path / "t.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=rf"t\.json.*{message}"):
        LatencyTable.read(tmp_path / "t.json")


def test_data_that_is_no_table_at_all_is_refused(tmp_path):
    for content in ("[]", "5", "{", "null"):
        (tmp_path / "t.json").write_text(content)
        with pytest.raises(ConfigError, match=r"t\.json"):
            LatencyTable.read(tmp_path / "t.json")


def test_a_table_of_another_space_is_refused(table):
    class Wider(Blocks):
        def __init__(self):
            super().__init__()
            self.choices = [Choice(c.name, (*c.options, "k5")) for c in self.choices]

    with pytest.raises(
        ConfigError, match=r"options for 'layer0' are \['k1', 'k3'\], the space's are \['k1', 'k3', 'k5'\]"
    ):
        table.check(Wider())
    with pytest.raises(ConfigError, match="no choice 'layer9'; it has layer0, layer1"):
        table.costs("layer9")


def test_a_space_without_parts_has_no_table():
    class Whole(Blocks):
        def around(self, body):
            class Net(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.inner = body

                def forward(self, x, *selection):
                    return self.inner(x.expand(-1, 4, -1, -1), *selection)

            return Net()

    with pytest.raises(ConfigError, match="must give a module with 'stem', 'body' and 'tail'"):
        build_table(Whole(), (1, 8, 8), 10)
    with pytest.raises(ConfigError, match="sums the layers of a chain"):
        build_table(type("None_", (), {"choices": []})(), (1, 8, 8), 10)


# -- geometry -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "shape", "classes", "message"),
    [
        (
            Blocks(),
            (1, 64, 64),
            10,
            "2 layers, layer0 to layer1, for images of 1x8x8 and 10 classes; here it is 2 layers, layer0 to layer1, "
            "for images of 1x64x64 and 10 classes; first at the stem: 1x8x8 -> 4x8x8, here 1x64x64 -> 4x64x64",
        ),
        (Blocks(), (1, 8, 16), 10, "for images of 1x8x16"),
        (Blocks(in_channels=3), (3, 8, 8), 10, "for images of 3x8x8"),
        (Blocks(), (1, 8, 8), 100, "and 100 classes; first at the head: 4x8x8 -> 10, here 4x8x8 -> 100"),
        (Blocks(width=6), (1, 8, 8), 10, "first at the stem: 1x8x8 -> 4x8x8, here 1x8x8 -> 6x8x8"),
        (Blocks(depth=5), (1, 8, 8), 10, "here it is 5 layers, layer0 to layer4"),
        (Blocks(depth=1), (1, 8, 8), 10, "has the layers layer1, which the space has not"),
    ],
)
def test_a_table_of_another_geometry_is_refused_with_both(table, space, shape, classes, message):
    assert table.check(Blocks(), (1, 8, 8), 10) is table
    with pytest.raises(ConfigError, match=r"latency table.*(another geometry|has the layers)") as caught:
        table.check(space, shape, classes)
    assert message in str(caught.value)


def test_a_table_without_shapes_has_no_geometry_to_compare(table):
    layers = {name: {option: f"{name} {option}" for option in of} for name, of in table.layers.items()}
    entries = {key: table.entries[table.fixed[0]] for of in layers.values() for key in of.values()}
    bare = LatencyTable(entries, layers, [], table.setting)
    assert bare.check(Blocks(), (1, 64, 64), 10) is bare
    with pytest.raises(ConfigError, match="5 layers"):
        bare.check(Blocks(depth=5), (1, 8, 8), 10)


@pytest.fixture
def searched(table, tmp_path):
    """A search by a table of its own size, in whose folder the table's file lies as table.json."""

    def run(changes=None, **task):
        path = tmp_path / "table.json"
        path.write_text(json.dumps(table.to_json()))
        given = config(
            space="blocks",
            task={"type": "digits", "train_size": 64, **task},
            estimators=[{"type": "latency_table", "table": str(path)}],
            objectives=["latency.table"],
            budget={"trials": 2},
        )
        return path, search(given | (changes or {}), tmp_path / "run", host=host())

    return run


def test_a_search_by_a_table_of_another_size_is_refused_before_it_begins(searched, tmp_path):
    with pytest.raises(ConfigError, match=r"for images of 1x8x8 .* here it is .* for images of 1x16x16"):
        searched(resolution=16)
    assert not (tmp_path / "run").exists()


def test_a_run_keeps_its_table_and_the_page_says_what_device_it_holds_for(searched, table):
    _, result = searched()
    (kept,) = (result.folder / "recorded").glob("latency_table_*.json")
    assert LatencyTable.read(kept) == table
    page = (result.folder / "report.html").read_text()
    assert f"device {table.setting.device}" in page
    assert f"batch {table.setting.batch}" in page
