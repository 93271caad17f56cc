from __future__ import annotations

import json
import math
import random
import statistics
from typing import Any

import pytest
import torch
from scipy.stats import kendalltau
from torch import nn

import archloom_tabular
from archloom import testing
from archloom.cost import count
from archloom.errors import ConfigError, SpaceError
from archloom.model import GlobalAverage, LinearHead
from archloom.plugins import Host
from archloom.space import size
from archloom_tabular.macro import CODES, MacroTable, read_macro
from archloom_tabular.space import OPTIONS, MacroSpace, canonical, decode, encode


@pytest.fixture(scope="module")
def rows() -> Any:
    return read_macro()


def whole(architecture: Any) -> nn.Module:
    """The network with the classifier that the published figures include."""
    with torch.device("meta"):
        return nn.Sequential(MacroSpace().build(architecture), GlobalAverage(), LinearHead(1280, 10))


class TestTheSpace(testing.SharedSpaceContract):
    factory, options = MacroSpace, {}
    samples = 2


class TestTheTable(testing.EstimatorContract):
    factory, options = MacroTable, {}

    def space(self) -> Any:
        return MacroSpace()


def test_whole_networks_have_the_published_params_and_flops(rows):
    for code in random.Random(0).sample(CODES, 300):
        cost = count(whole(decode(code)), 32)
        assert (cost.params, cost.macs) == (rows[code].params, rows[code].flops), code


def test_all_6561_published_params_and_flops_are_sums_of_our_parts_costs(rows):
    """Each part counted once, at the shape that reaches it; whole networks are counted above."""
    space = MacroSpace()
    with torch.device("meta"):
        around = space.around(nn.Identity())
        head = nn.Sequential(GlobalAverage(), LinearHead(1280, 10))
    fixed = [count(around.stem, 32), count(around.tail, (256, 4, 4)), count(head, (1280, 4, 4))]
    side, layers = 32, []
    for choice in space.choices:
        layer = space.layers[choice.name]
        shape = (layer.c_in, side, side)
        with torch.device("meta"):
            options = [space.candidate(choice, option) for option in OPTIONS]
        layers.append([count(option, shape) if list(option.parameters()) else None for option in options])
        side //= layer.stride
    for code in CODES:
        chosen = [layer[int(digit)] for layer, digit in zip(layers, code, strict=True)]
        parts = [*fixed, *filter(None, chosen)]
        assert sum(part.params for part in parts) == rows[code].params, code
        assert sum(part.macs for part in parts) == rows[code].flops, code


def test_the_shipped_table_has_the_published_statistics(rows):
    assert len(rows) == size(MacroSpace()) == 6561
    means = {code: row.mean for code, row in rows.items()}
    best = max(means.values())
    assert round(best, 3) == 93.127
    assert means["22212202"] == best
    assert round(min(means.values()), 2) == 45.36
    assert round(statistics.fmean(means.values()), 2) == 90.25
    assert round(statistics.fmean(statistics.pstdev(row.accuracy) for row in rows.values()), 2) == 0.15
    columns = [[row.params for row in rows.values()], [row.flops for row in rows.values()]]
    assert [round(kendalltau(c, list(means.values())).statistic, 2) for c in columns] == [0.22, 0.56]


def test_equal_networks_share_all_figures(rows):
    assert all(rows[code] == rows[canonical(code)] for code in CODES)
    assert len({canonical(code) for code in CODES}) == (3 * 3) * (3 * 7) ** 2
    assert canonical("22212202") == "22212220"
    assert canonical("00002102") == "00020120"


def test_equal_networks_compute_the_same(rows):
    """What `canonical` calls equal has the same modules in the same order, identities aside."""
    for code in ("22212202", "20112001", "00201010"):
        one, other = (
            [str(part) for part in MacroSpace().build(decode(c)).body.children() if str(part) != "Identity()"]
            for c in (code, canonical(code))
        )
        assert one == other


def test_codes_and_architectures_are_one_to_one():
    assert [encode(decode(code)) for code in CODES] == list(CODES)
    with pytest.raises(SpaceError, match="8 digits"):
        decode("0123")
    with pytest.raises(SpaceError, match="no architecture of NAS-Bench-Macro"):
        encode(decode("00000000").replace(layer0="k1"))


def test_the_estimate_is_the_row():
    figures = MacroTable().figures(decode("02012100"))
    assert figures == pytest.approx(
        {
            "accuracy.table.seed1": 89.47,
            "accuracy.table.seed2": 88.95,
            "accuracy.table.seed3": 89.17,
            "accuracy.table": 89.196667,
            "params.table": 890666,
            "macs.table": 47327744,
        }
    )


# -- a file of the user's ----------------------------------------------------------------------------


@pytest.fixture
def published(rows):
    """The table in the form in which NAS-Bench-Macro publishes it."""
    return {
        code: {
            "test_acc": list(row.accuracy),
            "mean_acc": row.mean,
            "std": 0.0,
            "params": row.params,
            "flops": row.flops,
        }
        for code, row in rows.items()
    }


def write(folder, data):
    path = folder / "macro.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return str(path)


def test_the_published_form_reads_like_the_shipped_one(published, rows, tmp_path):
    assert read_macro(write(tmp_path, published)) == rows


def test_wrong_files_are_refused_by_name_and_network(published, tmp_path):
    def refused(data: Any, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            read_macro(write(tmp_path, data))

    refused({c: r for c, r in published.items() if c != "01201201"}, r"macro\.json: network 01201201 lacks")
    refused(published | {"3": published["00000000"]}, r"macro\.json: '3' is no network")
    broken = published["00120000"] | {"test_acc": [90.0, math.nan, 90.0]}
    refused(published | {"00120000": broken}, r"network 00120000 has \[90.0, nan")
    short = published["00120000"] | {"test_acc": [90.0]}
    refused(published | {"00120000": short}, "network 00120000 has .* not 3 accuracies")
    none = {k: v for k, v in published["00120000"].items() if k != "flops"}
    refused(published | {"00120000": none}, "network 00120000 lacks 'flops'")
    refused('{"00000000": {}, "00000000": {}}', "'00000000' twice")
    refused("[1, 2]", "holds a list")
    refused("{", "cannot read")
    refused({"format": "archloom macro table 9"}, "this version reads 'archloom macro table 1'")
    refused({"format": "archloom macro table 1", "params": [1]}, "cut short")
    with pytest.raises(ConfigError, match="cannot read"):
        read_macro(tmp_path / "absent.json")


def test_space_and_estimators_are_registered():
    host = Host(entry_points=False)
    host.add(archloom_tabular, "tabular", "archloom", "0")
    assert host.names("space") == ["nasbench_macro"]
    assert host.names("estimator") == ["digits_table", "fbnet_device", "macro_table", "table"]
