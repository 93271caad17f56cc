"""`archloom latency check`: what is measured, how errors are computed, files that others measured."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import toys
from archloom import cli, testing
from archloom.architecture import Choice
from archloom.errors import ConfigError
from archloom.latency import LatencyTable, Setting, Timing, build_table
from archloom.latency_check import (
    agreement,
    check_file,
    check_table,
    draw,
    measure_networks,
    page,
    read_measured,
)
from archloom.latency_check.agreement import Calibration
from archloom.latency_check.predictors import SumOfParts, choose
from archloom.space import Around, Encoding, build_chain
from archloom_fbnet import FBNetSpace
from archloom_tabular.fbnet_device import DeviceTable

FILE = Path(__file__).parent / "data" / "fbnet_space_latency.csv.gz"
ADDITIVE = ("eyeriss", "fpga", "pixel3", "raspi4")


@pytest.fixture(scope="module")
def published():
    return read_measured(FILE, FBNetSpace(form="cifar"))


# -- agreement -----------------------------------------------------------------------------------------


def test_an_agreement_is_what_its_definition_says():
    rng = np.random.default_rng(0)
    measured = rng.uniform(1, 3, 25)
    predicted = measured * rng.uniform(0.8, 1.1, 25)
    found = agreement(predicted, measured)
    pairs = [
        np.sign(predicted[i] - predicted[j]) * np.sign(measured[i] - measured[j])
        for i, j in itertools.combinations(range(25), 2)
    ]
    assert found.tau == pytest.approx(sum(pairs) / len(pairs))
    assert found.mape == pytest.approx(
        100 * sum(abs(p - m) / m for p, m in zip(predicted, measured, strict=True)) / 25
    )
    assert found.bias < 0
    assert found.mape_low < found.mape < found.mape_high
    assert found.tau_low < found.tau < found.tau_high
    assert found.worst == pytest.approx(max(abs(predicted - measured)))
    with pytest.raises(ConfigError, match="over 2 networks means nothing"):
        agreement(predicted[:2], measured[:2])


def test_a_calibration_recovers_an_offset_and_a_factor():
    predicted = np.linspace(1, 2, 7)
    fitted = Calibration.fit(predicted, 0.25 + 1.5 * predicted)
    assert (fitted.offset, fitted.factor) == pytest.approx((0.25, 1.5))
    assert fitted(predicted) == pytest.approx(0.25 + 1.5 * predicted)
    with pytest.raises(ConfigError, match="at least two networks that differ"):
        Calibration.fit(np.ones(3), np.ones(3))


# -- networks measured here ----------------------------------------------------------------------------


class Clock:
    """Seconds that pass only where a module says so: the tests wait for nobody and depend on no machine's load."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr("archloom.latency.time", made)
    Takes.clock = made
    return made


class Takes(nn.Module):
    """Takes as long as it is told, in milliseconds."""

    clock = Clock()

    def __init__(self, milliseconds: float) -> None:
        super().__init__()
        self.milliseconds = milliseconds
        self.weight = nn.Parameter(torch.zeros(1))

    def extra_repr(self) -> str:
        return str(self.milliseconds)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Takes.clock.now += self.milliseconds / 1e3
        return x


class Waits:
    """Layers that take 1, 2 or 4 ms between a stem of 1 ms and a tail of 2 ms."""

    def __init__(self) -> None:
        self.choices = [Choice(f"layer{i}", (1, 2, 4)) for i in range(3)]

    def candidate(self, choice: Choice, option: Any) -> nn.Module:
        return Takes(option)

    def around(self, body: nn.Module) -> nn.Module:
        return Around(Takes(1), body, Takes(2))

    def build(self, architecture: Any) -> nn.Module:
        return build_chain(self, architecture)


def test_the_sum_of_a_table_is_what_whole_networks_take(clock):
    space, task = Waits(), testing.tiny_task((1, 4, 4))
    table = build_table(space, (1, 4, 4), 4, runs=5, warmup=1)
    assert table.costs("layer1") == pytest.approx([1, 2, 4])
    assert table.base == pytest.approx(1 + 2)
    drawn = draw(space, 12)
    timings = measure_networks(drawn, space, task, rounds=3, runs=2)
    for architecture, timing in zip(drawn, timings, strict=True):
        assert timing.median == pytest.approx(3 + sum(architecture.values()))
    document = check_table(table, space, drawn, timings, calibrate=4)
    found = document["devices"]["here"]["agreement"]
    assert found["sum of the table"]["networks"] == found["calibrated"]["networks"] == 8
    assert found["sum of the table"]["mape"] == pytest.approx(0, abs=1e-6)
    assert found["sum of the table"]["tau"] > 0.95  # equal sums differ in the last digit


def test_what_the_parts_do_not_hold_is_calibrated_and_not_hidden(clock):
    """Whole networks that take half a millisecond more than their parts, each part a tenth more than alone."""
    space = Waits()
    table = build_table(space, (1, 4, 4), 4, runs=3, warmup=0)
    drawn = draw(space, 20)
    timings = [Timing(t, t, t, 1) for t in (0.5 + 1.1 * table.latency(one) for one in drawn)]
    entry = check_table(table, space, drawn, timings, calibrate=5)["devices"]["here"]
    assert entry["agreement"]["calibrated"]["mape"] == pytest.approx(0, abs=1e-6)
    assert entry["agreement"]["sum of the table"]["bias"] < -9
    assert entry["calibration"] == pytest.approx({"offset": 0.5, "factor": 1.1, "networks": 5})


def test_of_a_network_the_quietest_round_counts(clock):
    class Disturbed(Takes):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            Disturbed.calls += 1
            Takes.clock.now += 0.02 if Disturbed.calls <= 6 else 0.001
            return x

    class Space(Waits):
        def candidate(self, choice: Choice, option: Any) -> nn.Module:
            return Disturbed(0) if choice.name == "layer0" else nn.Identity()

        def around(self, body: nn.Module) -> nn.Module:
            return Around(nn.Conv2d(1, 1, 1), body)

    space = Space()
    timed = measure_networks(draw(space, 1), space, testing.tiny_task((1, 4, 4)), rounds=3, runs=2)
    assert timed[0].median == pytest.approx(1)


def test_each_candidate_is_measured_in_every_round_behind_others():
    """Every candidate as often as there are rounds, each time on an input that the layer before has just made."""
    seen: dict[tuple[str, Any], set[Any]] = {}

    class Notes(nn.Module):
        last: Any = None

        def __init__(self, name: str, option: Any) -> None:
            super().__init__()
            self.key = (name, option)
            self.conv = nn.Conv2d(1, 1, 1 if option == 1 else 3, padding=0 if option == 1 else 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if torch.is_inference_mode_enabled():
                seen.setdefault(self.key, set()).add(Notes.last if self.key[0] != "layer0" else None)
                Notes.last = self.key
            return self.conv(x)

    class Space(Waits):
        choices: Any = None

        def __init__(self) -> None:
            self.choices = [Choice(f"layer{i}", (1, 3)) for i in range(2)]

        def candidate(self, choice: Choice, option: Any) -> nn.Module:
            return Notes(choice.name, option)

        def around(self, body: nn.Module) -> nn.Module:
            return Around(nn.Conv2d(1, 1, 1), body)

    build_table(Space(), (1, 4, 4), 4, runs=12, warmup=0)
    assert seen["layer1", 1] == seen["layer1", 3] == {("layer0", 1), ("layer0", 3)}


def test_what_cannot_be_checked_is_refused():
    space = toys.Digits(length=2, base=2)
    with pytest.raises(ConfigError, match="has 4 architectures, fewer than the 5"):
        draw(space, 5)
    assert len(set(draw(space, 4))) == 4
    setting = Setting("d", "float32", 1, 1, "2")
    entries = {"a": Timing(1.0, 1.0, 1.0, 1)}
    layers = {name: {"0": "a", "1": "a"} for name in ("d0", "d1")}
    table = LatencyTable(entries, layers, ["a"], setting)
    with pytest.raises(ConfigError, match="leave at least three of 4 networks"):
        check_table(table, space, draw(space, 4), [entries["a"]] * 4, calibrate=2)


# -- files that others measured ------------------------------------------------------------------------


def test_all_3000_networks_of_the_additive_devices_are_reproduced_by_the_shipped_tables(published):
    assert len(published.architectures) == 3000
    for device in ADDITIVE:
        table = DeviceTable.shipped(device)
        summed = np.array([table.latency(list(one.values())) for one in published.architectures])
        assert np.abs(summed - published.of(device)).max() < 1e-5


def test_the_sum_of_parts_recovers_an_additive_device_from_its_networks(published):
    choices = FBNetSpace(form="cifar").choices
    X = Encoding(choices, numbers=False).of(published.architectures)
    for device in ADDITIVE:
        y = published.of(device)
        held_out = SumOfParts().fit(X[:2000], y[:2000]).predict(X[2000:])
        assert np.abs(held_out - y[2000:]).max() < 2e-5  # five digits were published


def test_a_learned_predictor_beats_the_sum_where_a_device_is_not_additive(published):
    space = FBNetSpace(form="cifar")
    document = check_file(published, space, devices=["samsung_s7"], train=1200)
    entry = document["devices"]["samsung_s7"]
    summed, learned = (entry["agreement"][name] for name in ("sum of parts", "learned"))
    assert summed["networks"] == learned["networks"] == 1800
    assert learned["mape_high"] < summed["mape_low"]
    assert learned["tau"] > summed["tau"] + 0.05
    assert entry["learned"] == min(entry["cross-validated"], key=entry["cross-validated"].get)
    html = page(document, "<b>")
    assert "samsung_s7" in html
    assert "<h1>&lt;b&gt;" in html


def test_where_nothing_is_beyond_the_sum_the_sum_is_chosen(published):
    X = Encoding(FBNetSpace(form="cifar").choices, numbers=False).of(published.architectures[:900])
    chosen = choose(X, published.of("pixel3")[:900], FBNetSpace(form="cifar").choices)
    assert chosen.name == "sum of parts"
    with pytest.raises(ConfigError, match="9 networks are too few"):
        choose(X[:9], published.of("pixel3")[:9], FBNetSpace(form="cifar").choices)


GOOD = "architecture,phone,board\n000,1.5,3\n012,2.5,4\n111,2.5,4\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: the header is \[\]"),
        ("arch,phone\n000,1\n", "line 1: the header is .* needs 'architecture'"),
        ("architecture,phone,phone\n000,1,1\n", "line 1: two columns are called 'phone'"),
        ("architecture,phone\n", "has no networks"),
        (GOOD + "000,9,9\n", "line 5: the architecture '000' stands in line 2 already"),
        (GOOD + "222,1\n", "line 5: 2 cells, but 3 columns"),
        (GOOD + "222,,1\n", "line 5: 'phone' has '', which is no time"),
        (GOOD + "222,nan,1\n", "line 5: 'phone' has 'nan', which is no time"),
        (GOOD + "222,-1,1\n", "line 5: 'phone' has '-1', which is no time"),
        (GOOD + "22,1,1\n", "line 5: architecture '22' has 2 decisions, but the space has 3 choices"),
        (
            GOOD + "229,1,1\n",
            "line 5: architecture '229': '9' is neither an option nor the position of one of choice 'd2'",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_line(text, message, tmp_path):
    path = tmp_path / "times.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"times\.csv.*{message}"):
        read_measured(path, toys.Digits(length=3, base=4))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "holds no measured networks"),
        ({"arch": ["000"], "latency_ms": {}}, "holds no measured networks"),
        ({"arch": ["000"], "latency_ms": {"phone": [1, 2]}}, "'phone' has 2 latencies for 1 architectures"),
        (
            {"arch": ["000", "00x"], "latency_ms": {"phone": [1, 2]}},
            "entry 2: architecture '00x': 'x' is neither",
        ),
        ({"arch": ["000", 5], "latency_ms": {"phone": [1, 2]}}, "entry 2: the architecture is 5, not text"),
        ({"arch": ["000"], "latency_ms": {"phone": [None]}}, "entry 1: 'phone' has None"),
    ],
)
def test_wrong_json_is_refused_with_its_entry(data, message, tmp_path):
    path = tmp_path / "times.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=rf"times\.json.*{message}"):
        read_measured(path, toys.Digits(length=3, base=4))


def test_files_of_all_kinds_say_the_same(tmp_path):
    space = toys.Digits(length=3, base=4)
    (tmp_path / "a.csv").write_text(GOOD)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(GOOD.encode()))
    (tmp_path / "b.csv").write_text(GOOD.replace("012", "0 1 2"))
    columns = {"phone": [1.5, 2.5, 2.5], "board": [3, 4, 4]}
    (tmp_path / "a.json").write_text(json.dumps({"arch": ["000", "012", "111"], "latency_ms": columns}))
    found = [read_measured(tmp_path / name, space) for name in ("a.csv", "a.csv.gz", "b.csv", "a.json")]
    for one in found:
        assert one.architectures == [toys.digits(0, 0, 0), toys.digits(0, 1, 2), toys.digits(1, 1, 1)]
        assert one.of("board").tolist() == [3, 4, 4]
    with pytest.raises(ConfigError, match="no device 'tv'; it has phone, board"):
        found[0].of("tv")
    (tmp_path / "torn.csv.gz").write_bytes(gzip.compress(GOOD.encode())[:20])
    for name in ("torn.csv.gz", "gone.csv", "a.txt"):
        with pytest.raises(ConfigError, match=name):
            read_measured(tmp_path / name, space)


# -- the command ---------------------------------------------------------------------------------------


def run(monkeypatch: Any, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["archloom", "latency", "check", *arguments])
    try:
        cli.main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def test_the_command_measures_and_writes_page_and_numbers(tmp_path, monkeypatch, capsys):
    small = ("fbnet", "--set", "space.stages=[[8, 2, 1]]", "--set", "space.head_width=8")
    small += ("--set", "space.in_channels=1", "--networks", "6", "--runs", "3")
    target = tmp_path / "check.html"
    assert run(monkeypatch, *small, "--calibrate", "2", "--out", str(target)) == 0
    told = capsys.readouterr().out
    assert "sum of the table" in told
    assert "calibrated" in told
    document = json.loads(target.with_suffix(".json").read_text())
    assert len(document["devices"]["here"]["measured"]) == 4
    assert target.read_text().startswith("<!DOCTYPE html>")


def test_the_command_refuses_a_table_of_another_setting(tmp_path, monkeypatch, capsys):
    space = FBNetSpace(stages=((8, 1, 1),), head_width=8, in_channels=1)
    data = build_table(space, (1, 8, 8), 10, runs=1, warmup=0).to_json()
    data["setting"]["device"] = "another one"
    (tmp_path / "t.json").write_text(json.dumps(data))
    small = ("fbnet", "--set", "space.stages=[[8, 1, 1]]", "--set", "space.head_width=8")
    arguments = (*small, "--set", "space.in_channels=1", "--table", str(tmp_path / "t.json"))
    assert run(monkeypatch, *arguments, "--networks", "3", "--out", str(tmp_path / "c.html")) == 2
    assert "holds for another setting (device: another one then" in capsys.readouterr().err
