"""What `archloom bench` measures and leaves behind."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compiled import needs_kernels
from typer.testing import CliRunner

from archloom import kernels
from archloom.cli import app
from archloom.commands.bench import bench
from archloom.errors import ConfigError
from archloom.kernels import report
from archloom.kernels.bench import Row, measure
from archloom.kernels.workloads import Case, cases, traffic

ROOT = Path(__file__).parents[2]
SMALL = Case("swish", (2, 3, 5, 4))


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return measure(SMALL, seconds=0.01)


def test_the_first_row_is_the_op_and_ratios_are_times_of_the_others_over_its_own(rows: list[Row]) -> None:
    assert [row.variant for row in rows] == ["archloom", "F.silu", "x*sigmoid(x)"]
    assert rows[0].ratio_forward == rows[0].ratio_both == 1
    for row in rows:
        assert row.ratio_forward == pytest.approx(row.forward / rows[0].forward)
        assert row.ratio_both == pytest.approx(row.both / rows[0].both)
        assert row.least_forward <= row.forward
        moved = traffic(SMALL)[0] * 2 * 3 * 5 * 4 * 4
        assert row.bandwidth_forward == pytest.approx(moved / row.forward / row.copy)


def test_saved_bytes_are_those_of_the_tensors_that_wait_for_the_backward(rows: list[Row]) -> None:
    saved = {row.variant: row.saved / SMALL.bytes for row in rows}
    assert saved == {"archloom": 1, "F.silu": 1, "x*sigmoid(x)": 2}


def test_the_written_page_holds_every_variant_of_every_case(rows: list[Row], tmp_path: Path) -> None:
    other = [replace(row, case=replace(SMALL, dtype="bfloat16")) for row in rows]
    machine = report.machine("default")
    paths = report.write(tmp_path, "small", rows + other, machine)
    assert [path.name for path in paths] == ["small.json", "small.md", "small.svg"]

    page = (tmp_path / "small.md").read_text()
    assert torch.__version__ in page
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + 6  # the head, and three variants of two cases
    assert sum("swish (2, 3, 5, 4) float32" in line for line in lines) == 1
    assert sum("F.silu" in line for line in lines) == 2
    assert "{" not in page

    stored = json.loads((tmp_path / "small.json").read_text())
    assert stored["machine"] == machine
    assert [row["variant"] for row in stored["rows"]] == [row.variant for row in rows + other]


def test_the_picture_has_a_bar_for_each_case_as_long_as_its_ratio(rows: list[Row]) -> None:
    fast = [replace(rows[0], own_both=True), *(replace(row, ratio_both=3.0) for row in rows[1:])]
    slow = [
        replace(row, case=replace(SMALL, dtype="bfloat16"), ratio_both=0.5 if i else 1.0, own_both=True)
        for i, row in enumerate(rows)
    ]
    tree = ET.fromstring(report.picture(fast + slow))
    bars = [bar for bar in tree.iter("{http://www.w3.org/2000/svg}rect") if bar.get("x")]
    assert len(bars) == 2
    assert float(bars[0].get("width", 0)) == pytest.approx(6 * float(bars[1].get("width", 0)), rel=0.02)
    theirs = ET.fromstring(report.picture([replace(fast[0], own_both=False), *fast[1:]]))
    grey = next(bar for bar in theirs.iter("{http://www.w3.org/2000/svg}rect") if bar.get("x"))
    assert len({bar.get("fill") for bar in (*bars, grey)}) == 3


def test_the_table_marks_a_row_that_is_behind_the_best_eager_variant(rows: list[Row]) -> None:
    ahead = [replace(rows[0], own_forward=True, own_both=True)]
    ahead += [replace(row, ratio_forward=1.1, ratio_both=1.1) for row in rows[1:]]
    behind = [ahead[0], replace(ahead[1], ratio_both=0.9), ahead[2]]
    assert "behind" not in report.table(ahead)
    assert "**archloom** (behind)" in report.table(behind)


@pytest.mark.parametrize(
    ("forward", "both", "said"),
    [(False, False, "all by PyTorch"), (False, True, "forward by PyTorch"), (True, True, None)],
)
def test_the_table_says_what_an_op_leaves_to_pytorch(
    rows: list[Row], forward: bool, both: bool, said: str | None
) -> None:
    table = report.table([replace(rows[0], own_forward=forward, own_both=both), *rows[1:]])
    assert said in table if said else "by PyTorch" not in table


def test_the_whole_table_has_each_op_dtype_layout_and_number_of_candidates() -> None:
    whole = list(cases())
    assert {case.op for case in whole} == set(kernels.OPERATIONS)
    for op in kernels.OPERATIONS:
        mine = [case for case in whole if case.op == op]
        assert {case.dtype for case in mine} == {"float32", "bfloat16"}
        assert {case.layout for case in mine} == {"contiguous", "channels_last"}
        assert {case.n for case in mine} == ({4, 9, 20} if "mixed" in op else {1})
        assert min(case.bytes for case in mine) <= 1 << 20
        assert max(case.bytes for case in mine) >= (50 << 20 if "mixed" in op else 140 << 20)


@needs_kernels
def test_the_command_leaves_table_picture_and_figures(rows: list[Row], tmp_path: Path) -> None:
    told = ["--default-allocator", "bench", "drop_connect", "--quick", "--seconds", "0.01"]
    result = CliRunner().invoke(app, [*told, "--out", str(tmp_path), "--name", "here"])
    assert result.exit_code == 0, result.output
    assert "instruction_set" in result.output
    page = (tmp_path / "here.md").read_text()
    assert page.count("drop_connect (") == 4
    assert "stochastic_depth" in page


@needs_kernels
def test_an_unknown_operation_is_refused_with_the_known_ones(rows: list[Row], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no operation swihs; known: swish, "):
        bench(["swihs"], folder=tmp_path)
    assert not list(tmp_path.iterdir())


@needs_kernels
@pytest.mark.parametrize("op", kernels.OPERATIONS)
def test_what_the_information_says_runs_is_what_runs(rows: list[Row], op: str) -> None:
    case = Case(op, (16, 96, 56, 56), n=2 if "mixed" in op else 1)
    own = measure(case, seconds=0.01)[0]
    said = kernels.info()["operations"][op]
    if own.own_forward:
        assert said.startswith("compiled")
    elif own.own_both:
        assert said.startswith("forward PyTorch's product, backward compiled (cpu)")
    else:
        assert said.startswith("PyTorch's product (cpu)")


COMPARED = {
    "mixed_sum": "eager",
    "bn_mixed_sum": "eager",
    "drop_connect_add": "eager",
    "swish": "F.silu",
    "bn_swish": "eager",
    "scale_gate": "eager",
    "drop_connect": "stochastic_depth",
}


def test_the_page_on_kernels_shows_the_figures_of_the_record() -> None:
    record = json.loads((ROOT / "benchmarks/results/quick-2-threads.json").read_text())["rows"]
    page = (ROOT / "docs/kernels.md").read_text().splitlines()
    pairs = {line: re.findall(r"([\d.]+) / ([\d.]+)", line) for line in page if line.startswith("| `")}
    shown = {line.split("`")[1]: found for line, found in pairs.items() if found}
    assert shown.keys() == COMPARED.keys()
    for op, variant in COMPARED.items():
        measured = [row for row in record if row["case"]["op"] == op and row["variant"] == variant]
        assert len(shown[op]) == len(measured)
        for said, row in zip(shown[op], measured, strict=True):
            for text, value in zip(said, (row["ratio_forward"], row["ratio_both"]), strict=True):
                digits = len(text.partition(".")[2])
                assert float(text) == round(value, digits), f"{op} at {row['case']['shape']}"
