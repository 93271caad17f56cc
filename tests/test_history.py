"""Logs that one search alone did not write are refused by line, with the way out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import archloom
from archloom.errors import RunError
from archloom.eventlog import Log
from archloom.history import check_history
from toys import comparable, config, host

Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    archloom.search(config(), folder, host=host())
    return folder


def events_of(folder: Path) -> Events:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def first(events: Events, kind: str, number: int | None = None) -> int:
    return next(
        index
        for index, event in enumerate(events)
        if event["event"] == kind and number in (None, event.get("number"))
    )


def copied(run: Path, folder: Path, lines: list[str], *, old: bool) -> Path:
    """The run with another log; an old one has no checksums."""
    for name in ("config.yaml", "identity.json", "log.sums"):
        if not (old and name in ("log.sums", "identity.json")):
            (folder / name).write_bytes((run / name).read_bytes())
    (folder / "log.jsonl").write_text("".join(line + "\n" for line in lines))
    return folder


def changed(events: Events, index: int, **fields: Any) -> Events:
    return [{**event, **fields} if at == index else event for at, event in enumerate(events)]


def doubled(events: Events, index: int) -> Events:
    return [*events[: index + 1], events[index], *events[index + 1 :]]


def without(events: Events, index: int) -> Events:
    return [*events[:index], *events[index + 1 :]]


def of(
    kind: str, trial: int | None, act: Callable[..., Events], /, **fields: Any
) -> Callable[[Events], Events]:
    return lambda events: act(events, first(events, kind, trial), **fields)


def another(events: Events) -> dict[str, Any]:
    """An architecture that trial 2 did not propose."""
    return next(e["architecture"] for e in events if e.get("number") == 1)


DAMAGE: dict[str, tuple[Callable[[Events], Events], str]] = {
    "a doubled result": (of("result", 2, doubled), "is a second result of trial 2, beside line"),
    "a doubled observe": (of("observe", 2, doubled), "delivers trial 2 once more, after line"),
    "a doubled propose": (of("propose", 2, doubled), "proposes trial 2 once more"),
    "a missing propose": (of("propose", 2, without), "is the result of trial 2, whose proposal is missing"),
    "a missing result": (of("result", 2, without), "delivers trial 2 without a result before it"),
    "a changed metric": (
        of("result", 2, changed, metrics={"sum": 99.0}),
        "scores of trial 2 that do not follow",
    ),
    "a metric that is NaN": (
        of("result", 2, changed, metrics={"sum": float("nan")}),
        "is a result whose metrics is not finite numbers by name",
    ),
    "another architecture": (
        lambda events: changed(events, first(events, "result", 2), architecture=another(events)),
        "is a result of another architecture than trial 2 proposed",
    ),
    "another proposal number": (
        of("propose", 2, changed, number=7),
        "proposes trial 7, and the proposal of trial 2 is",
    ),
    "an unknown number": (
        of("observe", 2, changed, number=40),
        "delivers trial 40, whose proposal is missing",
    ),
    "a status that is none": (
        of("result", 2, changed, status="good"),
        "status is not ok or infeasible or failed",
    ),
    "scores without success": (
        of("result", 2, changed, status="failed"),
        "scores do not go with its status, failed",
    ),
    "a cost of texts": (of("result", 2, changed, cost={"epochs": "x"}), "cost is not numbers by name"),
    "a number that is a text": (of("result", 2, changed, number="2"), "number is not a whole number"),
    "an unknown field": (of("result", 2, changed, colour="red"), "is a result with the unknown colour"),
    "versions that are a list": (of("start", None, changed, versions=[]), "versions is not versions by name"),
    "no identity": (of("start", None, changed, identity=None), "is no start of a run with its identity"),
    "no start": (of("start", None, without), "is no start of a run with its identity"),
    "no architecture": (
        lambda events: [{k: v for k, v in e.items() if k != "architecture"} for e in events],
        "is a propose without architecture",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_log_of_an_older_version_that_was_damaged_is_refused_by_line(run, tmp_path, what):
    act, told = DAMAGE[what]
    lines = [json.dumps(event) for event in act(events_of(run))]
    folder = copied(run, tmp_path, lines, old=True)
    with pytest.raises(RunError, match=re.escape(told)) as refused:
        archloom.resume(folder, host=host())
    if "scores of trial" not in told:
        assert re.search(r"log\.jsonl, line \d+, ", str(refused.value))
        assert "Restore the file, or " in str(refused.value)


@pytest.mark.parametrize("what", [*DAMAGE, "a number of another run"])
def test_with_checksums_every_change_is_refused_by_line(run, tmp_path, what):
    act = DAMAGE[what][0] if what in DAMAGE else of("end", None, changed, active=0.0)
    folder = copied(run, tmp_path, [json.dumps(event) for event in act(events_of(run))], old=False)
    with pytest.raises(RunError, match=r"log\.jsonl, line \d+, .*Restore the file, or "):
        archloom.resume(folder, host=host())


@pytest.mark.parametrize("line", ["5", "null", "[]", '"text"', "{}", '{"event": 3}', "[" * 100000])
@pytest.mark.parametrize("old", [True, False])
def test_a_line_that_is_no_event_is_refused(run, tmp_path, line, old):
    lines = (run / "log.jsonl").read_text().splitlines()
    folder = copied(run, tmp_path, [*lines[:3], line, *lines[3:]], old=old)
    with pytest.raises(RunError, match=r"log\.jsonl, line 4, "):
        archloom.resume(folder, host=host())


def test_where_two_processes_wrote_their_first_common_line_is_named(run, tmp_path):
    """As two processes leave it that knew of no lock: the second one starts, replays and writes on beside the first."""
    lines = (run / "log.jsonl").read_text().splitlines()
    rest = lines[7:]
    mixed = [*lines[:7], lines[0], *(line for pair in zip(rest, rest, strict=True) for line in pair)]
    with pytest.raises(RunError, match=r"line 10, .*two processes wrote at once, or the line was doubled"):
        archloom.resume(copied(run, tmp_path, mixed, old=True), host=host())


def test_the_way_out_is_one(run, tmp_path):
    events = events_of(run)
    lines = [json.dumps(event) for event in doubled(events, first(events, "result", 4))]
    folder = copied(run, tmp_path, lines, old=False)
    with pytest.raises(RunError) as refused:
        archloom.resume(folder, host=host())
    kept = re.search(r"head -n (\d+) log\.jsonl > sound && mv sound log\.jsonl", str(refused.value))
    assert kept
    (folder / "log.jsonl").write_text("".join(line + "\n" for line in lines[: int(kept[1])]))
    again = archloom.resume(folder, host=host())
    whole = archloom.search(config(), tmp_path / "whole", host=host())
    assert list(map(comparable, again.trials)) == list(map(comparable, whole.trials))


@pytest.mark.parametrize(
    ("units", "told"),
    [
        ([1, 2, 2, 3], "line 4, is unit 2 of the supernet's training once more"),
        ([1, 3, 4], "line 3, is unit 3 .* unit 2 is missing before it"),
        ([1, 10**9], "line 3, is unit 1000000000 of 5"),
    ],
)
def test_units_of_a_training_follow_one_another(tmp_path, units, told):
    start = {"event": "start", "identity": {}, "versions": {}, "device": "cpu"}
    fits = [
        {"event": "fit", "unit": u, "of": 5, "epochs": 1.0, "metrics": {"loss": 1.0}, "active": 1.0}
        for u in units
    ]
    log = Log(tmp_path / "log.jsonl")
    for event in (start, *fits):
        log.append(event)
    log.close()
    with pytest.raises(RunError, match=told):
        check_history(log.events, log.damage, whole=True)


@pytest.mark.parametrize("lacking", ["name", "metrics"])
def test_a_final_says_who_and_what(lacking):
    event = {
        "event": "final",
        "name": "found-0",
        "role": "found",
        "index": 0,
        "seed": 0,
        "architecture": {"a": 1},
    }
    event |= {"metrics": {"test.accuracy": 50.0}}
    check_history([event])
    del event[lacking]
    with pytest.raises(RunError, match=f"without {lacking}|neither {lacking}"):
        check_history([event])


def test_a_search_that_begins_anew_counts_from_nought_again():
    propose = {"event": "propose", "number": 0, "architecture": {"a": 1}, "fidelity": 1.0}
    with pytest.raises(RunError, match="proposes trial 0 once more"):
        check_history([propose, propose])
    check_history([propose, {"event": "anew", "constraints": []}, propose])


# -- checksums ------------------------------------------------------------------------------------------


def written(path: Path, count: int = 4) -> Path:
    log = Log(path)
    for number in range(count):
        log.append({"event": "line", "number": number})
    log.close()
    return path


def test_each_way_in_which_lines_can_differ_is_told_apart(tmp_path):
    path = written(tmp_path / "log.jsonl")
    a, b, c, d = path.read_text().splitlines(keepends=True)
    stranger = '{"event": "line", "number": 9}\n'
    for lines, told in [
        ([a, b, b, c, d], "line 3, repeats line 2: it was doubled"),
        ([a, c, d], "line 2, does not follow the line before it: 1 line is missing"),
        ([a, d], "line 2, does not follow the line before it: 2 lines are missing"),
        ([a, stranger, b, c, d], "line 2, was not written by this log's owner"),
        ([a, stranger, c, d], "line 2, is not what was written"),
        ([b, a, c, d], "line 1, does not follow"),
    ]:
        path.write_text("".join(lines))
        with pytest.raises(RunError, match=told):
            Log(path)
    path.write_text("".join([a, b]))  # as a kill leaves it, when more had been written on another machine
    with_two = Log(path)
    with_two.append({"event": "line", "number": 2})
    with_two.close()
    assert path.read_text() == a + b + c
    Log(path).close()


def test_a_kill_between_a_checksum_and_its_line_loses_nothing(tmp_path):
    path = written(tmp_path / "log.jsonl")
    whole = path.read_text()
    for cut in range(len(whole) + 1):
        path.write_text(whole[:cut])  # all checksums are there
        log = Log(path)
        assert [event["number"] for event in log.events] == list(range(whole[:cut].count("\n")))
        for number in range(len(log.events), 4):
            log.append({"event": "line", "number": number})
        log.close()
        assert path.read_text() == whole


def test_a_log_without_checksums_gets_them_and_one_that_lost_some_is_taken(tmp_path):
    path = written(tmp_path / "log.jsonl")
    sums = path.with_suffix(".sums")
    whole = sums.read_bytes()
    for kept in (0, 17, 20, len(whole)):
        sums.write_bytes(whole[:kept])
        Log(path).close()
        assert sums.read_bytes() == whole
    sums.unlink()
    Log(path).close()
    assert sums.read_bytes() == whole


def test_where_a_run_was_started_may_change_and_nothing_else_of_it(tmp_path):
    path = tmp_path / "log.jsonl"
    log = Log(path)
    log.append(
        {
            "event": "start",
            "identity": {"seed": 0},
            "versions": {"torch": "2.9"},
            "device": "cpu",
            "folder": "a",
        }
    )
    log.close()
    path.write_text(path.read_text().replace("2.9", "3.0").replace('"a"', '"b"'))
    Log(path).close()
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(RunError, match="line 1, is not what was written"):
        Log(path)
