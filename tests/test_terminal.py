"""What a person sees on a terminal: progress while a command runs, and its results whole when it has ended."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyte
import pytest
import yaml
from rich.console import Console

from archloom import progress
from archloom.run import load_checkpoint
from archloom.standing import announced

PLUGIN = """
import time
import archloom
from archloom.architecture import Choice
from archloom.estimator import Metric
from archloom.space import Around
from archloom.strategy import Progress
from torch import nn

class Three:
    '''Three choices of a digit each; its networks are one pointwise convolution.'''
    def __init__(self):
        self.choices = [Choice(f"digit{i}", (0, 1, 2, 3)) for i in range(3)]
    def build(self, architecture):
        return nn.Conv2d(1, 1 + sum(architecture.values()), 1)
    def candidate(self, choice, option):
        return nn.Conv2d(4, 4, 1)
    def around(self, body):
        return Around(nn.Conv2d(1, 4, 1), body)

class Sum:
    metrics = (Metric("sum", "nJ", "max"),)
    expense, needs = 0, ()
    def estimate(self, architecture, context):
        return {"sum": float(sum(architecture.values()))}

class Slow:
    '''Counts, and takes its time.'''
    def __init__(self, space, task, *, units: int = 500):
        self.supernet, self.units, self.done = nn.Linear(1, 1), units, 0
    def fit(self):
        while self.done < self.units:
            time.sleep(0.02)
            self.done += 1
            yield Progress(self.done, self.units, float(self.done))
    def state_dict(self): return {"done": self.done}
    def load_state_dict(self, state): self.done = state["done"]
    def propose(self): return None
    def observe(self, trial): pass

@archloom.hookimpl
def register_strategies(register): register("slow", Slow)
@archloom.hookimpl
def register_search_spaces(register): register("three", Three)
@archloom.hookimpl
def register_estimators(register): register("sum", Sum)
"""
SEARCH = {
    "plugins": ["three.py"],
    "space": "three",
    "task": {"type": "digits", "train_size": 64},
    "strategy": "random",
    "estimators": ["sum", "macs", "params"],
    "objectives": ["sum"],
    "budget": {"trials": 12},
    "recipe": {"type": "default", "epochs": 1, "batch_size": 32},
    "verdict": {"seeds": 1, "random": 1},
    "observers": [],
}
COMPARE = {
    "plugins": ["three.py"],
    "space": "three",
    "task": {"type": "digits", "train_size": 64},
    "strategies": ["grid"],
    "estimators": ["sum"],
    "select": "sum",
    "score": "sum",
    "seeds": 2,
    "budget": {"trials": 4},
    "processes": 1,
}
RANK = {
    "plugins": ["three.py"],
    "space": "three",
    "task": {"type": "digits", "train_size": 64},
    "truth": "sum",
    "metric": "sum",
    "predictors": ["macs"],
    "networks": 20,
    "top": 3,
    "resamples": 100,
}

SERVER = """
import base64, fcntl, json, os, pty, signal, struct, sys, termios, time
for name in ("COLUMNS", "LINES"):  # these would stand above the terminal's own
    os.environ.pop(name, None)
import typer, rich.live, rich.progress, rich.table
import torch, torchmetrics, sklearn.datasets, scipy.stats, plotly.offline
import archloom.session, archloom.comparing, archloom.retraining, archloom.report, archloom.plugins
archloom.plugins.Host()
torch.set_num_threads(1)

def put(descriptor, what):
    if what == "closed":
        os.close(descriptor)
        return None
    if what == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor)
    if what == "gone":
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, descriptor)
    return os.fdopen(descriptor, "r" if descriptor == 0 else "w", closefd=False)

for line in sys.stdin:
    asked = json.loads(line)
    child, terminal = pty.fork()
    if child == 0:
        # where the tests run in a shell's background or under nohup, these are ignored, and that is inherited
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 70, asked["columns"], 0, 0))
        sys.argv = ["archloom", *asked["words"]]
        sys.stdin, sys.stdout, sys.stderr = (put(n, asked["streams"][n]) for n in range(3))
        code = 0
        try:
            from archloom.cli import main
            main()
        except SystemExit as leaving:
            code = leaving.code or 0
        except BaseException:
            import traceback
            traceback.print_exc()
            code = 99
        finally:
            os._exit(code)
    while asked["signal"] and os.path.exists(f"/proc/{child}"):
        if os.path.exists(asked["log"]) and open(asked["log"]).read().count('"fit"') >= 3:
            os.kill(child, asked["signal"])
            break
        time.sleep(0.01)
    shown = b""
    try:
        while part := os.read(terminal, 65536):
            shown += part
    except OSError:  # the child has closed its side
        pass
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([code, base64.b64encode(shown).decode()]), flush=True)
"""


class Terminal:
    """Types commands into terminals of any width. One process has imported everything and forks for each."""

    def __init__(self, folder: Path) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    def run(
        self,
        *words: str,
        columns: int = 160,
        streams: Sequence[str] = ("terminal",) * 3,
        signal: int = 0,
        log: str = "",
    ) -> tuple[int, pyte.Screen]:
        """The exit code of a command, and the screen when it has ended.

        streams: what 0, 1 and 2 are: the "terminal", "closed", a "full" device, or a pipe whose reader is "gone".
        signal: sent when `log` has three units of a fit.
        """
        asked = {"columns": columns, "words": words, "streams": streams, "signal": signal, "log": log}
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        code, shown = json.loads(self._server.stdout.readline())
        screen = pyte.Screen(columns, 70)
        pyte.ByteStream(screen).feed(base64.b64decode(shown))
        return code, screen

    def typed(self, columns: int, *words: str) -> tuple[str, str]:
        """The screen after a command that succeeds: its lines, and the same without the breaks that it made."""
        code, screen = self.run(*words, columns=columns)
        text = text_of(screen)
        assert code == 0, text
        assert "…" not in text, "cut at the edge"
        return text, "".join(screen.display)

    def close(self) -> None:
        self._server.communicate(timeout=60)


def text_of(screen: pyte.Screen) -> str:
    return "\n".join(line.rstrip() for line in screen.display).rstrip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of all commands."""
    folder: Path = tmp_path_factory.mktemp("here")
    (folder / "three.py").write_text(PLUGIN, encoding="utf-8")
    (folder / "search.yaml").write_text(yaml.safe_dump(SEARCH), encoding="utf-8")
    (folder / "rank.yaml").write_text(yaml.safe_dump(RANK), encoding="utf-8")
    (folder / "compare.yaml").write_text(yaml.safe_dump(COMPARE), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def terminal(folder: Path):
    made = Terminal(folder)
    yield made
    made.close()


@pytest.fixture(scope="module")
def net(terminal: Terminal) -> str:
    """The folder of a search that has found a network."""
    terminal.typed(160, "search", "search.yaml", "--out", "net", "--set", "verdict.seeds=0")
    return "net"


@pytest.mark.parametrize("columns", [80, 100, 160])
def test_a_search_and_its_resume_end_with_their_results_whole_on_the_screen(terminal, folder, columns):
    run = f"runs/[ablation]-{columns}"
    for words in (
        ("search", "search.yaml", "--out", run),
        ("resume", run, "--set", "budget.trials=14"),
    ):
        text, joined = terminal.typed(columns, *words)
        result = json.loads((folder / run / "result.json").read_text(encoding="utf-8"))
        assert text.startswith(f"run folder: {run}\n")
        assert "measured; the budget of" in text
        assert "the found architecture" in text
        assert re.search(r"\bsum\b\W+8 nJ\b", text)
        page = (folder / run / "report.html").read_text(encoding="utf-8")
        assert "sum 8 nJ" in page, "the report knows the unit, too"
        for sentence in result["verdict"]:
            assert sentence[1:] in joined, text
        assert f"run folder: {run}   report: {run}/report.html" in joined
        bars = [line.split()[0] for line in text.split("\n") if "━ " in line]
        assert bars == ["search", "verdict"][: len(bars)], "no bar is drawn again"


@pytest.mark.parametrize("columns", [80, 100, 160])
def test_retraining_comparing_and_ranking_end_with_their_results_whole_on_the_screen(
    terminal, folder, net, columns
):
    text, joined = terminal.typed(
        columns, "retrain", net, "--set", "recipe.epochs=2", "--out", f"net-{columns}"
    )
    metrics = json.loads((folder / f"net-{columns}" / "metrics.json").read_text(encoding="utf-8"))
    assert all(name in text for name in metrics)
    assert f"weights: net-{columns}/weights.safetensors" in joined
    text, joined = terminal.typed(columns, "compare", "compare.yaml", "--out", f"compare-{columns}")
    assert "random" in text
    assert "grid" in text
    assert f"all numbers: compare-{columns}/comparison.json   page: " in joined
    text, joined = terminal.typed(columns, "rank", "rank.yaml", "--out", f"rank-{columns}")
    assert "20 networks against sum" in joined
    assert "macs" in text
    assert f"rank-{columns}: rank.html is the page, rank.json has all numbers" in joined


# -- a console that goes away, is full or was never there ----------------------------------------------------


def measured(folder: Path) -> int:
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return sum(event["event"] == "result" and event["source"] is None for event in events)


@pytest.mark.parametrize(
    ("streams", "code"),
    [
        (("terminal", "gone", "gone"), 0),
        (("terminal", "full", "full"), 1),
        (("terminal", "terminal", "full"), 0),
        (("terminal", "full", "terminal"), 1),
        (("closed", "closed", "closed"), 0),
        (("terminal", "closed", "terminal"), 0),
    ],
    ids=lambda value: value if isinstance(value, int) else "-".join(value),
)
def test_a_search_whose_console_is_lost_ends_with_its_result(terminal, folder, streams, code):
    run = folder / "-".join(("lost", *streams))
    more = ("--set", "verdict.seeds=0")
    found, screen = terminal.run("search", "search.yaml", "--out", run.name, *more, streams=streams)
    text = text_of(screen)
    assert found == code, text
    assert measured(run) == 12
    assert (run / "result.json").exists()
    told = (run / "log.txt").read_text(encoding="utf-8")
    assert ("the progress display is switched off" in told) == (streams[2] in ("gone", "full"))
    if streams[1] == "terminal":
        assert f"run folder: {run.name}   report: " in text
    if streams[1:] == ("full", "terminal"):
        assert "error: what the command said could not be written: [Errno 28] No space left on device" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    "words", [["plugins"], ["--help"], ["--version"], ["plugins", "--json"]], ids=" ".join
)
@pytest.mark.parametrize("stream", ["gone", "closed"])
def test_a_listing_that_nobody_reads_ends_quietly(terminal, words, stream):
    code, screen = terminal.run(*words, streams=("terminal", stream, "terminal"))
    assert (code, text_of(screen)) == (0, "")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_search_that_is_asked_to_end_saves_says_how_to_resume_and_exits_with_the_signals_code(
    terminal, folder, name
):
    run, number = folder / f"the [{name}]", getattr(signal, name)
    code, screen = terminal.run(
        "search", "search.yaml", "--out", run.name, "--set", "strategy=slow", "--set", "checkpoint_every=1000",
        signal=number, log=str(run / "log.jsonl"),
    )  # fmt: skip
    assert code == 128 + number, text_of(screen)
    resume = f"archloom resume 'the [{name}]'"
    assert f"interrupted; progress is saved. Resume with: {resume}" in text_of(screen)
    assert f"interrupted; go on with: {resume}" in (run / "log.txt").read_text(encoding="utf-8")
    events = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    units = [event["unit"] for event in events if event["event"] == "fit"]
    assert load_checkpoint(run / "checkpoint.pt")["method"] == {"done": units[-1]}


@pytest.mark.parametrize("name", ["a[/b]c", "[red]:rocket:", "back\\[bold]"])
def test_a_name_is_printed_as_it_is(terminal, name):
    text, _ = terminal.typed(160, "search", "search.yaml", "--out", name, "--set", "verdict.seeds=0")
    assert text.startswith(f"run folder: {name}\n")
    assert f"run folder: {name}   report: {name}/report.html" in text
    assert terminal.typed(160, "report", name)[0] == f"report: {name}/report.html"
    code, screen = terminal.run("evaluate", f"gone/{name}")
    assert code == 2
    assert f"gone/{name}" in text_of(screen)


# -- while it runs ------------------------------------------------------------------------------------------


START = {
    "event": "start",
    "folder": "runs/a",
    "objectives": [{"name": "accuracy.inherited", "unit": "%"}, {"name": "macs", "unit": "MACs"}],
    "budget": {"trials": 40, "epochs": None, "seconds": None},
    "trainings": 9,
    "so_far": {},
}


def result(number: int, accuracy: float, macs: float, **changes: Any) -> dict[str, Any]:
    metrics = {"accuracy.inherited": accuracy, "macs": macs, "latency.table": 1.5, "params": 123456.0}
    event = {
        "event": "result",
        "number": number,
        "status": "ok",
        "metrics": metrics,
        "scores": [accuracy, -macs],
    }
    return {
        **event,
        "source": None,
        "error": None,
        "cost": {"epochs": 0.0},
        "active": 1.0 + number,
        **changes,
    }


def epoch(name: str, number: int, of: int, accuracy: float = 50.0) -> dict[str, Any]:
    metrics = {"lr": 0.1, "loss": 1.5, "accuracy": 40.0, "validation.accuracy": accuracy}
    return {"event": "epoch", "name": name, "number": number, "of": of, "metrics": metrics}


def final(name: str) -> dict[str, Any]:
    return {"event": "final", "name": name, "metrics": {"test.accuracy": 91.25}}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """A clock that each event moves on by a second."""
    now = itertools.count(1000.0)
    at = [next(now)]
    monkeypatch.setattr(progress.time, "monotonic", lambda: at[0])
    return lambda: at.__setitem__(0, next(now))


def screen_after(events: list[dict[str, Any]], columns: int, clock: Any) -> list[str]:
    """The lines on a terminal at the moment after these events, while the command still runs."""
    file = io.StringIO()
    bars = progress.Bars(Console(file=file, force_terminal=True, width=columns, height=50, color_system=None))
    screen = pyte.Screen(columns, 50)
    screen.set_mode(pyte.modes.LNM)  # StringIO has no terminal that makes CR LF of LF
    with bars:
        for event in events:
            clock()
            bars(event)
        bars.screen.refresh()
        pyte.Stream(screen).feed(file.getvalue())
    return [line.rstrip() for line in screen.display if line.strip()]


@pytest.mark.parametrize("columns", [70, 80, 100, 160])
def test_the_display_says_how_many_of_how_many_the_best_so_far_and_the_time_left(clock, columns):
    trials = [result(0, 50.0, 9000.0), result(1, 91.5, 8000.0), result(2, 30.0, 123456.0)]
    repeat = result(3, 91.5, 8000.0, source=1)
    lines = screen_after([START, {"event": "propose"}, *trials, repeat], columns, clock)
    assert lines[0] == "run folder: runs/a"
    assert re.fullmatch(r"search +━*.* +3 of 40 +0:00:\d\d left", lines[1])
    assert lines[2] == "best of each so far: accuracy.inherited 91.5 %, macs 8,000 MACs"


@pytest.mark.parametrize("columns", [70, 80, 100, 160])
def test_the_display_of_a_verdict_says_which_training_of_how_many(clock, columns):
    name = "random-same-cost-0-1a2b3c4d-seed0"
    events = [
        START,
        {"event": "end", "reason": "spent", "active": 9.0},
        epoch("found-0-1a2b3c4d-seed0", 2, 2),
    ]
    events += [final("found-0-1a2b3c4d-seed0"), epoch(name, 1, 2)]
    lines = screen_after(events, columns, clock)
    assert any(re.fullmatch(r"verdict +━*.* 1/9 +0:00:\d\d left", line) for line in lines)
    assert any(re.match(r"random-same-cost-0-seed0 .*1/2 +0:00:\d\d left", line) for line in lines)
    assert lines[-1].startswith("lr 0.1  loss 1.5")


@pytest.mark.parametrize("columns", [70, 80, 100, 160])
def test_the_display_of_a_supernets_training_is_one_line_whatever_its_metrics(clock, columns):
    metrics = {f"theta.entropy.of.layer{i}": 1.5 for i in range(30)}
    fits = [{"event": "fit", "unit": n, "of": 60, "epochs": n / 4, "metrics": metrics} for n in (1, 2, 3)]
    lines = screen_after([START, *fits], columns, clock)
    assert re.fullmatch(r"fit +━*.* +3/60 +0:00:57 left", lines[1])
    assert len(lines) == 3


def test_the_display_of_a_retraining_says_which_epoch_is_the_best(clock):
    events = [epoch("retrain", n, 9, accuracy) for n, accuracy in ((1, 50.0), (2, 91.5), (3, 70.0))]
    lines = screen_after(events, 80, clock)
    assert re.fullmatch(r"retrain +━.* +3/9 +0:00:06 left", lines[0])
    assert "best so far: validation.accuracy 91.5 (epoch 2)" in lines


def printed(events: list[dict[str, Any]], clock: Any) -> list[str]:
    """The lines elsewhere than on a terminal."""
    file = io.StringIO()
    with progress.Lines(Console(file=file, width=160, soft_wrap=True, markup=False)) as lines:
        for event in events:
            clock()
            lines(event)
    return file.getvalue().splitlines()


def test_piped_lines_say_the_same(clock):
    lines = printed([START, {"event": "propose"}, result(0, 91.5, 9000.0), result(1, 50.0, 8000.0)], clock)
    assert lines[-1].endswith(
        "   2 of 40   best of each so far: accuracy.inherited 91.5 %, macs 8,000 MACs   0:00:38 left"
    )


def test_a_resumed_search_counts_on_and_knows_the_best_of_before(clock):
    log = [result(0, 91.5, 9000.0), result(1, 50.0, 8000.0), final("found-0-1a2b3c4d-seed0")]
    start = announced({"event": "start", "folder": "f"}, log, START["objectives"], START["budget"], 9)
    lines = printed([start, {"event": "propose"}, result(2, 60.0, 9500.0)], clock)
    assert "   3 of 40   best of each so far: accuracy.inherited 91.5 %, macs 8,000 MACs   " in lines[-1]
    assert json.dumps(start)


def test_piped_lines_are_few_however_many_trials_repeats_and_epochs_there_are(clock):
    start = {**START, "budget": {"trials": 69, "epochs": None, "seconds": None}}
    measured = [result(n, 50.0, 9000.0) for n in range(69)]
    repeats = [result(69 + n, 50.0, 9000.0, source=0) for n in range(1048)]
    verdict = [epoch(f"found-0-1a2b3c4d-seed{s}", n, 90) for s in range(9) for n in range(1, 20)]
    assert len(printed([start, *measured], clock)) == 70
    assert len(printed([start, *measured, *repeats], clock)) <= 72
    assert len(printed([start, *verdict], clock)) <= 1 + 171 / 60
    many = [result(n, 50.0, 9000.0) for n in range(20_000)]
    assert len(printed([{**start, "budget": {}}, *many], clock)) < 500


def test_a_better_trial_is_always_told_of(clock):
    many = [result(n, 50.0, 9000.0) for n in range(200)]
    better = result(200, 60.0, 9000.0)
    assert printed([START, *many, better], clock)[-1].startswith("trial 200 ok   accuracy.inherited 60")
