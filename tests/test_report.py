"""report.html: one file, whole without a network, that says what a run folder holds, losses included."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from plotly.offline import get_plotlyjs

from archloom.architecture import Architecture
from archloom.config import parse_config
from archloom.cost import MACS
from archloom.errors import RunError
from archloom.groups import Group, Summary
from archloom.report import write_report
from archloom.run import Run, write_json
from archloom.trial import Trial

EVIL = "<script>alert('x')</script>"
FOUND = {"stem": "k3", "body": "skip"}


# -- run folders, written event by event ---------------------------------------------------------------


class Folder:
    """A run folder in the making: what a search writes, without the search."""

    def __init__(self, path: Path, **config: Any) -> None:
        self.path, self.run = path, Run(path)
        whole = {
            "space": {"type": "toy", "width": 8},
            "strategy": "guess",
            "objectives": ["accuracy"],
        } | config
        self.config = parse_config(whole).model_dump(mode="json")
        (path / "config.yaml").write_text(yaml.safe_dump(self.config, sort_keys=False))
        versions = {"python": "3.12.1", "torch": "2.10.0"}
        environment = {
            "versions": versions,
            "device": "A Processor",
            "threads": 2,
            "seed": 0,
            "commit": "c0ffee+",
        }
        write_json(path / "environment.json", environment)
        self.event(event="start", identity={}, versions=versions, device="cpu", folder=str(path))
        self.numbers = 0

    def event(self, **event: Any) -> None:
        self.run.log.append(event)

    def fit(self, unit: int, of: int, **metrics: float) -> None:
        metrics = {name.replace("__", "."): value for name, value in metrics.items()}
        self.event(event="fit", unit=unit, of=of, epochs=float(unit), metrics=metrics, active=unit * 2.0)

    def trial(
        self,
        scores: Sequence[float] | None,
        decisions: dict[str, Any] | None = None,
        *,
        status: str = "ok",
        source: int | None = None,
        error: str | None = None,
        **metrics: float,
    ) -> None:
        number, self.numbers = self.numbers, self.numbers + 1
        architecture = Architecture(decisions or {"stem": f"k{number}", "body": "k5"})
        self.event(event="propose", number=number, architecture=architecture.to_json())
        trial = Trial(
            number,
            architecture,
            status,  # type: ignore[arg-type]
            metrics,
            None if scores is None else tuple(scores),
            source=source,
            error=error,
        )
        self.event(event="result", active=10.0 + number, **trial.to_json())
        self.event(event="observe", number=number)

    def final(self, role: str, index: int, seed: int, accuracy: float, macs: int, **decisions: str) -> None:
        metrics = {
            "test.accuracy": accuracy,
            "validation.accuracy": accuracy + 1,
            "params": 1000,
            "macs": macs,
        }
        metrics |= {"latency.measured": 2.5, "latency.measured.low": 2.25, "latency.measured.high": 3.0}
        self.event(
            event="final",
            name=f"{role}-{index}-seed{seed}",
            role=role,
            index=index,
            seed=seed,
            architecture=decisions or FOUND,
            metrics=metrics,
        )

    def end(self, reason: str = "the budget of 5 trials is spent") -> None:
        self.event(event="end", reason=reason, active=99.0)

    def found(self, metrics: dict[str, float]) -> None:
        document = {
            "architecture": FOUND,
            "metrics": metrics,
            "shape": [1, 8, 8],
            "classes": list("0123456789"),
        }
        write_json(self.path / "architecture.json", document)

    def result(self, groups: Sequence[dict[str, Any]] = (), verdict: Sequence[str] = ()) -> None:
        document = {"reason": "", "trials": self.numbers, "groups": list(groups), "verdict": list(verdict)}
        write_json(self.path / "result.json", document)

    def report(self) -> Page:
        self.run.close()
        return Page(write_report(self.path).read_text())


def group(role: str, accuracy: float, trainings: int, spread: float | None = 0.5) -> dict[str, Any]:
    costs = {"macs": Summary(1e6), "params": Summary(1000.0), "latency.measured": Summary(2.5, "ms")}
    metrics = {"test.accuracy": Summary(accuracy, "%", spread), **costs}
    return Group(role, 1, trainings, metrics).to_json()


class Page(HTMLParser):
    """What a browser would see: elements, text outside scripts and styles, the plots' figures, tables."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.rows: list[list[str]] = []
        self.feed(source)
        self.text = " ".join(" ".join(self.words).split())
        self.figures = [json.loads(text) for kind, text in self.scripts if kind == "application/json"]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs).get("type"), ""))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self.open[-1:] != ["style"]:
            self.words.append(data)
            if self.rows and {"td", "th"} & set(self.open):
                self.rows[-1][-1] += data

    def row(self, first: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == first)

    def traces(self, name: str) -> Iterator[dict[str, Any]]:
        for figure in self.figures:
            yield from (trace for trace in figure["data"] if trace.get("name") == name)


@pytest.fixture
def plotly() -> None:
    """Asked for by the tests that want the five megabytes of plotly.js in the page."""


@pytest.fixture(autouse=True)
def _light(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "plotly" not in request.fixturenames:
        monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "/* plotly.js */")


def simple(path: Path, **config: Any) -> Folder:
    """Five trials of one objective: two measured, one infeasible, one failed, one repeat."""
    folder = Folder(path, **config)
    folder.trial([70.0], accuracy=70.0, macs=2_000_000.0)
    folder.trial(None, status="infeasible", error="macs <= 3e6 broken: 4e6", macs=4_000_000.0)
    folder.trial(None, status="failed", error=f"Accuracy: ValueError: {EVIL}")
    folder.trial([80.0], FOUND, accuracy=80.0, macs=1_000_000.0)
    folder.trial([80.0], FOUND, source=3, accuracy=80.0, macs=1_000_000.0)
    return folder


# -- what it says --------------------------------------------------------------------------------------


def test_a_run_without_fit_and_without_verdict_tells_its_trials_and_what_it_found(tmp_path):
    folder = simple(tmp_path, verdict={"seeds": 0})
    folder.end()
    folder.found({"accuracy": 80.0, "macs": 1_000_000.0})
    folder.result()
    page = folder.report()
    assert "unfinished" not in page.text
    assert "5 trials (2 ok, 1 infeasible, 1 failed, 1 repeat)" in page.text
    assert "The search ended because the budget of 5 trials is spent." in page.text
    assert "Found: a network with accuracy 80, macs 1,000,000" in page.text
    assert "verdict.seeds is 0" in page.text
    assert "nothing here says that the search beats random choice" in page.text
    assert "Training of the supernet" not in page.text


def test_trials_of_every_kind_are_told_apart_in_the_plots(tmp_path):
    page = simple(tmp_path).report()
    across = page.figures[0]  # accuracy against the cost
    placed = {trace["name"]: list(zip(trace["x"], trace["y"], strict=True)) for trace in across["data"]}
    assert placed == {"ok": [(2e6, 70.0), (1e6, 80.0)], "repeat": [(1e6, 80.0)]}
    over = {trace["name"]: trace for trace in page.figures[1]["data"]}
    assert (over["infeasible"]["x"], over["infeasible"]["yaxis"]) == ([1], "y2")  # below, without a value
    assert (over["failed"]["x"], over["failed"]["yaxis"]) == ([2], "y2")
    assert len({json.dumps(trace.get("marker")) for trace in over.values()}) == len(over) == 5
    assert "At the lower edge: 2 trials without this metric." in page.text
    assert "2 trials lack one of the two metrics" in page.text


def test_the_best_so_far_only_rises_and_holds_to_the_last_trial(tmp_path):
    page = simple(tmp_path).report()
    (best,) = page.traces("best so far")
    assert list(zip(best["x"], best["y"], strict=True)) == [(0, 70.0), (3, 80.0), (4, 80.0)]


def test_the_best_so_far_of_a_cost_only_falls(tmp_path):
    folder = Folder(tmp_path, objectives=["macs"])
    for macs in (5.0, 7.0, 3.0, 4.0):
        folder.trial([-macs], macs=macs)
    (best,) = folder.report().traces("best so far")
    assert list(zip(best["x"], best["y"], strict=True)) == [(0, 5.0), (2, 3.0), (3, 3.0)]


def test_a_report_of_very_many_undominated_trials_is_written_at_once(tmp_path):
    folder = Folder(tmp_path, objectives=["accuracy", "macs"])
    folder.run.close()
    propose = [{"event": "propose", "number": n, "architecture": FOUND} for n in range(3000)]
    lines = []
    for n, event in enumerate(propose):
        metrics = {"accuracy": float(n), "macs": float(n)}
        trial = Trial(n, Architecture({"stem": f"k{n}", "body": "k5"}), "ok", metrics, (n, -n))
        lines += [event, {"event": "result", "active": 1.0, **trial.to_json()}]
    with (tmp_path / "log.jsonl").open("a") as log:
        log.writelines(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "log.sums").unlink(missing_ok=True)
    started = time.process_time()
    write_report(tmp_path)
    assert time.process_time() - started < 3.0


def test_several_objectives_without_a_pick_show_the_front_and_say_that_nothing_picks(tmp_path):
    folder = Folder(tmp_path, objectives=["accuracy", "macs"])
    for accuracy, macs in ((70.0, 1.0), (80.0, 2.0), (75.0, 3.0), (90.0, 4.0)):
        folder.trial([accuracy, -macs], accuracy=accuracy, macs=macs)
    folder.end("all 4 architectures of the space were proposed")
    folder.result()
    page = folder.report()
    (line,) = page.traces("Pareto front")
    assert list(zip(line["x"], line["y"], strict=True)) == [(1.0, 70.0), (2.0, 80.0), (4.0, 90.0)]
    assert line["line"]["shape"] == "hv"
    assert "for high accuracy and low macs" in page.text
    assert "the result is a Pareto front of 3" in page.text
    assert [row[0] for row in page.rows if row[1:2] == ["ok, on the front"]] == ["3", "1", "0"]
    assert "no network is picked yet" in page.text


def test_every_fit_metric_is_drawn_and_one_scale_is_shared_by_a_prefix(tmp_path):
    folder = Folder(tmp_path, strategy=None, method="weaver")
    for unit in (1, 2):
        folder.fit(
            unit, 4, weights__loss=2.0 / unit, weights__ce=1.9 / unit, weights__accuracy=50.0 * unit, lr=0.1
        )
    page = folder.report()
    drawn = [[trace["name"] for trace in figure["data"]] for figure in page.figures]
    assert drawn == [["loss", "ce"], ["accuracy"], ["lr"]]
    assert page.figures[0]["data"][0]["y"] == [2.0, 1.0]
    assert "the supernet is at unit 2 of 4" in page.text
    assert "2 of the 4 resumable units" in page.text


# -- the verdict ----------------------------------------------------------------------------------------


def judged(path: Path) -> Folder:
    folder = simple(path, verdict={"seeds": 2, "random": 1})
    folder.end()
    folder.found({"accuracy": 80.0, "macs": 1_000_000.0})
    for seed, (found, same, anywhere) in enumerate([(88.0, 91.0, 80.0), (90.0, 92.0, 82.0)]):
        folder.final("found", 0, seed, found, 1_000_000)
        folder.final("random, same cost", 0, seed, same, 1_050_000, stem="k5", body="k5")
        folder.final("random, any cost", 0, seed, anywhere, 2_000_000, stem="k7", body="k5")
    return folder


SENTENCES = [
    "the found network does not beat random, same cost: -2.50 points of test accuracy",
    "the found network beats random, any cost: +8.00 points of test accuracy",
]


def test_the_verdict_shows_each_network_each_seed_and_its_sentences_the_lost_one_first(tmp_path):
    folder = judged(tmp_path)
    groups = [
        group("found", 89.0, 2),
        group("random, same cost", 91.5, 2),
        group("random, any cost", 81.0, 2),
    ]
    folder.result(groups, SENTENCES)
    page = folder.report()
    items = re.findall(r"<li>(The found.*?)</li>", page.source)
    assert [re.sub("<.*?>", "", item).lower().rstrip(".") for item in items] == [s.lower() for s in SENTENCES]
    assert page.row("found 0")[1:4] == ["89.00", "1.41", "88.00 90.00"]  # sqrt(2), by hand
    assert page.row("random, same cost")[5] == "-2.50"
    assert page.row("random, any cost")[5] == "+8.00"
    over_macs, over_latency = page.figures[:2]
    assert [t["x"] for t in over_macs["data"] if t.get("name")] == [[1_000_000], [1_050_000], [2_000_000]]
    mean = next(t for t in over_latency["data"] if t.get("name") == "found")
    assert (mean["x"], mean["y"]) == ([2.5], [89.0])
    assert (mean["error_x"]["arrayminus"], mean["error_x"]["array"]) == ([0.25], [0.5])
    assert mean["error_y"]["array"] == [pytest.approx(2**0.5)]
    assert sorted(y for t in over_macs["data"] if not t.get("name") for y in t["y"]) == [
        80,
        82,
        88,
        90,
        91,
        92,
    ]


def test_a_single_seed_has_no_spread_rather_than_none_of_it(tmp_path):
    folder = simple(tmp_path)
    folder.end()
    folder.found({})
    folder.final("found", 0, 0, 88.0, 1_000_000)
    folder.result([group("found", 88.0, 1, None)])
    page = folder.report()
    assert page.row("found 0")[2] == "-"
    assert page.row("found")[4] == "-"
    assert next(page.traces("found"))["error_y"]["array"] == [None]


def test_a_result_of_before_the_metrics_were_a_mapping_is_read_as_it_stands(tmp_path):
    folder = judged(tmp_path)
    today = [group("found", 89.0, 2), group("random, same cost", 91.5, 2), group("random, any cost", 81.0, 2)]
    folder.result(
        [{key: value for key, value in one.items() if key != "metrics"} for one in today], SENTENCES
    )
    page = folder.report()
    cells = ["random, same cost", "1", "2", "91.50", "0.50", "-2.50", "1,000,000", "1,000", "2.50"]
    assert page.row("random, same cost") == cells


def test_a_verdict_that_is_not_complete_makes_the_run_unfinished_and_says_no_sentence(tmp_path):
    folder = judged(tmp_path)
    page = folder.report()
    assert "This run is unfinished" in page.text
    assert "6 trainings from scratch of the verdict are done" in page.text
    assert page.row("found 0")[1] == "89.00"


def test_an_old_result_is_not_shown_for_a_run_that_went_on(tmp_path):
    folder = judged(tmp_path)
    folder.result([group("found", 89.0, 6)], SENTENCES)
    folder.event(event="start", identity={}, versions={}, device="cpu", folder=str(tmp_path))
    folder.trial([85.0], accuracy=85.0, macs=1.0)
    page = folder.report()
    assert "This run is unfinished: the search is at 6 trials" in page.text
    assert "does not beat" not in page.text
    assert page.row("times started")[1] == "2"


def test_trainings_of_another_architecture_than_the_found_one_are_called_so(tmp_path):
    folder = simple(tmp_path)
    folder.end()
    folder.found({})
    folder.final("found", 0, 0, 88.0, 1_000_000, stem="k9", body="k9")
    assert 'The network trained as "found" is not the found architecture' in folder.report().text


# -- what it must not do ---------------------------------------------------------------------------------


def test_what_comes_from_outside_is_text_wherever_it_stands(tmp_path):
    folder = Folder(tmp_path, objectives=[EVIL], space={"type": EVIL})
    folder.fit(1, 1, **{EVIL: 1.0})
    folder.trial([1.0], {EVIL: EVIL}, **{EVIL: 1.0, "other": 2.0})
    folder.trial(None, status="failed", error=EVIL)
    folder.final(EVIL, 0, 0, 50.0, 10, **{EVIL: EVIL})
    folder.end(EVIL)
    page = folder.report()
    assert page.source.count("<script>alert") == 0
    assert page.text.count(EVIL) > 10  # it is there to read, all the same
    assert [kind for kind, _ in page.scripts].count(None) == 2  # plotly.js and our own
    drawn = json.dumps(page.figures)
    assert "<script" not in drawn
    assert "&lt;script" in drawn


def test_the_page_loads_nothing_from_anywhere_and_carries_what_it_needs(tmp_path, plotly):
    page = judged(tmp_path).report()
    assert get_plotlyjs() in page.source
    loading = {"src", "href", "srcset", "data", "action", "poster"}
    assert not [(tag, name) for tag, given in page.tags for name in given if name in loading]
    assert not [tag for tag, _ in page.tags if tag in ("link", "img", "iframe", "object", "embed", "base")]
    style = re.search("<style>(.*?)</style>", page.source, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    policy = next(given["content"] for tag, given in page.tags if given.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert page.open == []


def test_writing_a_report_changes_nothing_else_in_the_folder_not_even_a_torn_line(tmp_path):
    folder = simple(tmp_path)
    folder.run.close()
    with (tmp_path / "log.jsonl").open("ab") as log:
        log.write(b'{"event": "result", "num')
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert (
        "This run is unfinished: the search is at 5 trials" in Page(write_report(tmp_path).read_text()).text
    )
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name for name in after if name not in before} == {"report.html"}
    assert all(after[name] == content for name, content in before.items())


@pytest.mark.parametrize("missing", ["log.jsonl", "config.yaml"])
def test_a_folder_that_is_no_run_is_refused(tmp_path, missing):
    simple(tmp_path).run.close()
    (tmp_path / missing).unlink()
    with pytest.raises(RunError, match=f"no run folder: it has no {missing}"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("damaged", ["log.jsonl", "config.yaml", "result.json", "environment.json"])
def test_a_damaged_file_is_named(tmp_path, damaged):
    simple(tmp_path).run.close()
    (tmp_path / damaged).write_text("{\n")
    with pytest.raises(RunError, match=re.escape(damaged)):
        write_report(tmp_path)


def test_a_value_that_is_not_finite_leaves_the_plots_whole(tmp_path):
    folder = Folder(tmp_path)
    folder.trial([70.0], accuracy=70.0, macs=float("inf"))
    folder.trial(None, status="failed", error="accuracy is NaN", accuracy=float("nan"), macs=2.0)
    page = folder.report()
    (ok,) = (trace for trace in page.figures[0]["data"] if trace["name"] == "ok")
    assert (ok["x"], ok["y"]) == ([None], [70.0])
    assert "nan" in page.row("1")


# -- the rest of the page ------------------------------------------------------------------------------


def test_the_table_shows_the_fifty_best_and_says_of_how_many(tmp_path):
    folder = Folder(tmp_path)
    for accuracy in range(60):
        folder.trial([float(accuracy)], accuracy=float(accuracy), macs=1.0)
    page = folder.report()
    numbers = [int(row[0]) for row in page.rows if row[1:2] and row[1].startswith("ok")]
    assert numbers == list(range(59, 9, -1))
    assert "The first 50 of 60" in page.text


def test_of_very_many_trials_the_plots_draw_a_part_with_every_new_best_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr("archloom.report.trials.DRAWN", 10)
    folder = Folder(tmp_path)
    for number in range(60):
        folder.trial([90.0 if number == 31 else 50.0], accuracy=90.0 if number == 31 else 50.0, macs=1.0)
    page = folder.report()
    (ok,) = (trace for trace in page.figures[0]["data"] if trace["name"] == "ok")
    assert len(ok["x"]) == 11
    assert 90.0 in ok["y"]
    assert "11 of 60 trials are drawn" in page.text


def test_the_provenance_holds_configuration_environment_and_definitions(tmp_path):
    folder = simple(tmp_path)
    write_json(tmp_path / "recorded" / "table.json", {"setting": {"device": "A Processor", "batch": 4}})
    page = folder.report()
    assert "".join((tmp_path / "config.yaml").read_text().split()) in "".join(page.text.split())
    assert page.row("commit")[1] == "c0ffee+"
    assert page.row("versions")[1] == "python 3.12.1, torch 2.10.0"
    assert page.row("MACs")[1] == MACS
    assert page.row("latency of the verdict")[1].startswith("one image on A Processor")
    assert page.row("setting of table")[1] == "device A Processor, batch 4"


def test_the_found_architecture_is_a_strip_of_its_choices_in_order(tmp_path):
    folder = simple(tmp_path)
    folder.end()
    folder.found({})
    source = folder.report().source
    strip = re.search('<ol class="strip">(.*?)</ol>', source, re.DOTALL)
    assert strip is not None
    boxes = re.findall(r"background:(#\w+).*?<span>(\w+)</span><b>(\w+)</b>", strip[1])
    assert [(choice, option) for _, choice, option in boxes] == [("stem", "k3"), ("body", "skip")]
    assert boxes[0][0] != boxes[1][0]


# -- in a browser --------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here to draw the page with")
def test_a_browser_draws_every_plot_without_a_complaint(tmp_path, plotly):
    folder = judged(tmp_path / "run")
    folder.fit(1, 1, loss=1.0, lr=0.1)
    page = folder.report()
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [
        f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr",
        "--virtual-time-budget=5000",
    ]
    command += ["--dump-dom", (tmp_path / "run" / "report.html").as_uri()]
    seen = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)  # type: ignore[arg-type]
    drawn = re.findall(r'<div class="plot js-plotly-plot">', seen.stdout)
    assert len(drawn) == len(page.figures) == 6
    assert seen.stdout.count('class="scatterlayer') >= len(drawn)
    assert [line for line in seen.stderr.splitlines() if "CONSOLE" in line] == []
