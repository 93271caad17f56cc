from __future__ import annotations

import itertools
import json
import pickle
import sys
from typing import Any

import pytest
import torch

from archloom import testing
from archloom.architecture import Architecture, Choice
from archloom.errors import ConfigError, SpaceError
from archloom.estimator import Context
from archloom.model import ModelParts
from archloom_tabular.table import Table


class Small:
    """Two choices, six architectures; the second one's options are numbers."""

    def __init__(self) -> None:
        self.choices = [Choice("op", ("skip", "conv", "pool")), Choice("width", (8, 16))]

    def build(self, architecture: Architecture) -> Any:
        raise NotImplementedError


def context(space: Any) -> Context:
    recorded = lambda name, measure: measure()
    return Context(space, testing.tiny_task(), ModelParts(), 0, torch.device("cpu"), "float32", recorded)


def at(op: str, width: int) -> Architecture:
    return Architecture({"op": op, "width": width})


METRICS = {"acc": "max %", "ms": "min ms"}
CSV = (
    "architecture,acc,ms\nskip 8,50,1\nskip 16,60,1.5\nconv 8,70,2\nconv 16,80,3\npool 8,55,1\npool 16,65,2\n"
)


@pytest.fixture
def file(tmp_path):
    def write(name: str, content: Any) -> str:
        path = tmp_path / name
        if name.endswith("pickle"):
            path.write_bytes(pickle.dumps(content))
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def estimate(table: Table, architecture: Architecture) -> dict[str, float]:
    return dict(table.estimate(architecture, context(Small())))


def test_a_csv_file_is_a_table(file):
    table = Table(path=file("t.csv", CSV), metrics=METRICS)
    assert estimate(table, at("conv", 16)) == {"acc.table": 80.0, "ms.table": 3.0}
    assert [(m.name, m.unit, m.direction) for m in table.metrics] == [
        ("acc.table", "%", "max"),
        ("ms.table", "ms", "min"),
    ]
    assert len(table.rows(Small())) == 6


def rows(code: Any) -> list[dict[str, Any]]:
    lines = [line.split(",") for line in CSV.strip().split("\n")[1:]]
    return [{"architecture": code(*a.split()), "acc": float(acc), "ms": float(ms)} for a, acc, ms in lines]


FORMS = {
    "a list of rows": rows(lambda op, width: f"{op} {width}"),
    "dictionaries": rows(lambda op, width: {"width": int(width), "op": op}),
    "a mapping": {r.pop("architecture"): r for r in rows(lambda op, width: f"{op} {width}")},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ending", ["json", "pickle"])
def test_json_and_pickle_give_what_csv_gives(file, form, ending):
    csv = Table(path=file("t.csv", CSV), metrics=METRICS).rows(Small())
    assert Table(path=file(f"t.{ending}", FORMS[form]), metrics=METRICS).rows(Small()) == csv


def test_parquet_gives_what_csv_gives(file, tmp_path):
    parquet = pytest.importorskip(
        "pyarrow.parquet", reason="pyarrow is not installed; it is an optional extra"
    )
    import pyarrow

    columns = pyarrow.Table.from_pylist(FORMS["a list of rows"])
    parquet.write_table(columns, tmp_path / "t.parquet")
    csv = Table(path=file("t.csv", CSV), metrics=METRICS).rows(Small())
    assert Table(path=str(tmp_path / "t.parquet"), metrics=METRICS).rows(Small()) == csv
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ConfigError, match=r"cannot read the table .*broken"):
        Table(path=str(tmp_path / "broken.parquet"), metrics=METRICS)


def test_without_pyarrow_a_parquet_file_is_refused_with_the_way_out(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        Table(path=file("t.parquet", ""), metrics=METRICS)


def test_indices_stand_for_options(file):
    codes = {"00": 1, "01": 2, "10": 3, "11": 4, "20": 5, "21": 6}
    table = Table(path=file("t.json", {c: {"acc": n} for c, n in codes.items()}), metrics={"acc": "max %"},
                  code="indices")  # fmt: skip
    assert estimate(table, at("conv", 16)) == {"acc.table": 4.0}
    spaced = {" ".join(c): {"acc": n} for c, n in codes.items()}
    again = Table(path=file("s.json", spaced), metrics={"acc": "max %"}, code="indices")
    assert again.rows(Small()) == table.rows(Small())


def test_several_seeds_give_each_and_their_mean(file):
    by_column = "a,seed,acc\nskip 8,s1,50\nskip 8,s2,53\nconv 8,s2,70\nconv 8,s1,71\n"
    table = Table(path=file("t.csv", by_column), metrics={"acc": "max %"}, architecture="a", seed="seed")
    assert [metric.name for metric in table.metrics] == ["acc.table", "acc.table.s1", "acc.table.s2"]
    assert estimate(table, at("conv", 8)) == {"acc.table": 70.5, "acc.table.s1": 71.0, "acc.table.s2": 70.0}
    listed = {"skip 8": {"acc": [50, 53], "ms": 2}, "conv 8": {"acc": [71, 70], "ms": 3}}
    table = Table(path=file("t.json", listed), metrics=METRICS)
    assert estimate(table, at("skip", 8)) == {
        "acc.table": 51.5,
        "acc.table.1": 50.0,
        "acc.table.2": 53.0,
        "ms.table": 2.0,
        "ms.table.1": 2.0,
        "ms.table.2": 2.0,
    }


def test_an_architecture_that_the_table_lacks_is_an_error_of_that_estimate(file):
    table = Table(path=file("t.csv", "architecture,acc\nskip 8,1\n"), metrics={"acc": "max %"})
    with pytest.raises(SpaceError, match=r"t\.csv has no row for the architecture 'conv 8'"):
        estimate(table, at("conv", 8))


HEAD = "architecture,acc,ms\n"
WRONG = [
    ("t.csv", "architecture,accuracy,ms\nskip 8,1,1\n", r"t\.csv, line 2: column 'acc' is missing .* 'accuracy'"),
    ("t.csv", HEAD + "skip 8,1,1\nconv 8,,1\n", r"t\.csv, line 3: column 'acc' is missing or empty"),
    ("t.csv", HEAD + "skip 8,1,1\nconv 8,nan,1\n", r"t\.csv, line 3: column 'acc' has 'nan'"),
    ("t.csv", HEAD + "skip 8,1,1\nconv 8,1,inf\n", r"t\.csv, line 3: column 'ms' has 'inf'"),
    ("t.csv", HEAD + "skip 8,good,1\n", r"t\.csv, line 2: column 'acc' has 'good'"),
    ("t.csv", HEAD + "skip 8,1,1,7\n", r"t\.csv, line 2: more cells than the 3 columns"),
    ("t.csv", HEAD + "skip 8,1,1\nconv 8,1,1\nskip 8,2,1\n", r"line 4: .*'skip 8' stands in line 2 already"),
    ("t.csv", HEAD + "skip 8,1,1\nconv3 8,1,1\n", r"t\.csv, line 3: .*choice 'op' has no option 'conv3'"),
    ("t.csv", HEAD + "skip 8,1,1\nconv 24,1,1\n", r"t\.csv, line 3: .*choice 'width' has no option '24'"),
    ("t.csv", HEAD + "skip 8 8,1,1\n", r"t\.csv, line 2: .* has 3 decisions, but the space has 2"),
    ("t.csv", "architecture,acc,acc,ms\n", r"line 1: two columns are called 'acc'"),
    ("t.csv", HEAD, r"t\.csv has no rows"),
    ("t.json", {"skip 8": {"acc": 1}}, r"t\.json, entry 1: column 'ms' is missing"),
    ("t.json", '{"skip 8": {"acc": 1, "ms": 1}, "skip 8": {"acc": 1, "ms": 2}}', r"entry 2: 'skip 8' is there twice"),
    ("t.json", '[{"architecture": "skip 8", "acc": NaN, "ms": 1}]', r"t\.json, entry 1: column 'acc' has nan"),
    ("t.json", '[{"architecture": "skip 8", "acc": true, "ms": 1}]', r"t\.json, entry 1: column 'acc' has True"),
    ("t.json", [{"architecture": {"op": "skip"}, "acc": 1, "ms": 1}], r"entry 1: .* lacks \['width'\]"),
    ("t.json", [{"architecture": "skip 8", "acc": [1, 2], "ms": 1}, {"architecture": "conv 8", "acc": [1], "ms": 1}],
     r"t\.json, entry 2: a list does not have 2 values"),
    ("t.json", "[1]", r"t\.json, entry 1: '1' is not a row"),
    ("t.json", "7", r"t\.json holds a int"),
    ("t.json", "{", r"t\.json is no JSON"),
    ("t.xlsx", "", r"t\.xlsx: a table ends in \.csv"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), WRONG)
def test_a_wrong_file_is_refused_by_name_and_line(file, name, content, message):
    with pytest.raises(ConfigError, match=message):
        Table(path=file(name, content), metrics=METRICS).rows(Small())


class Deepening:
    """An operation, and another one where the depth is 2."""

    choices = (
        Choice("depth", (1, 2), ordered=True),
        Choice("op0", ("skip", "conv")),
        Choice("op1", ("skip", "conv"), when={"depth": (2,)}),
    )


@pytest.mark.parametrize(
    ("code", "rows"),
    [
        ("options", "1 skip,1\n1 conv,2\n2 skip conv,3\n"),
        ("indices", "00,1\n01,2\n101,3\n"),
        ("indices", "0 0,1\n0 1,2\n1 0 1,3\n"),
    ],
)
def test_a_row_of_a_conditional_space_has_the_active_choices_alone(file, code, rows):
    table = Table(path=file("t.csv", f"architecture,acc\n{rows}"), metrics={"acc": "max %"}, code=code)
    deep = Architecture({"depth": 2, "op0": "skip", "op1": "conv"})
    assert table.known(Deepening())[2] == deep
    assert table.rows(Deepening())[deep] == {"acc.table": 3.0}
    assert table.rows(Deepening())[Architecture({"depth": 1, "op0": "conv"})] == {"acc.table": 2.0}


def test_a_row_that_decides_what_is_not_active_is_refused(file):
    with pytest.raises(ConfigError, match=r"line 2: .*has 3 decisions, .* one for each that is active"):
        Table(path=file("t.csv", "architecture,acc\n1 skip conv,1\n"), metrics={"acc": "max %"}).rows(
            Deepening()
        )
    wrong = [{"architecture": {"depth": 1, "op0": "skip", "op1": "conv"}, "acc": 1}]
    with pytest.raises(
        ConfigError, match=r"entry 1: .*'op1' is decided only where 'depth' is 2; here it is 1"
    ):
        Table(path=file("t.json", wrong), metrics={"acc": "max %"}).rows(Deepening())


def test_other_mistakes_are_refused(file, tmp_path):
    good = file("t.csv", CSV)
    with pytest.raises(ConfigError, match="cannot read the table"):
        Table(path=str(tmp_path / "absent.csv"), metrics=METRICS)
    with pytest.raises(ConfigError, match="'acc' is 'max' or 'min' and a unit"):
        Table(path=good, metrics={"acc": "up"})
    with pytest.raises(ConfigError, match="name at least one metric"):
        Table(path=good, metrics={})
    indices = file("i.csv", "architecture,acc\n02,1\n")
    with pytest.raises(ConfigError, match=r"line 2: .*'2' is no position of an option of choice 'width'"):
        Table(path=indices, metrics={"acc": "max %"}, code="indices").rows(Small())
    unequal = file("u.csv", "architecture,seed,acc\nskip 8,1,1\nskip 8,2,1\nconv 8,1,1\n")
    with pytest.raises(ConfigError, match="'conv 8' has no row for seed 2"):
        Table(path=unequal, metrics={"acc": "max %"}, seed="seed").rows(Small())
    both = file("b.json", [{"architecture": "skip 8", "acc": [1, 2], "s": 1}])
    with pytest.raises(ConfigError, match="it can have one of them"):
        Table(path=both, metrics={"acc": "max %"}, seed="s")


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "tiny.csv"
    options = [choice.options for choice in testing.TinySpace(layers=2).choices]
    lines = [f"{' '.join(chosen)},{n}" for n, chosen in enumerate(itertools.product(*options))]
    path.write_text("\n".join(["architecture,acc", *lines]))
    TestTheContract.options = {"path": str(path), "metrics": {"acc": "max %"}}


@pytest.mark.usefixtures("tiny_file")
class TestTheContract(testing.EstimatorContract):
    factory = Table

    def space(self) -> Any:
        return testing.TinySpace(layers=2)
