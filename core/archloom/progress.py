"""A run's events on the screen: live bars on a terminal, lines elsewhere. Both say how far the run is of how much, the
best so far, and how long it will take."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from .standing import Pace, Standing, number, quantity
from .streams import Stream

Event = Mapping[str, Any]


def _brief(metrics: Mapping[str, float], limit: int = 7) -> str:
    plain = [(name, value) for name, value in metrics.items() if not name.endswith((".low", ".high"))]
    return "  ".join(f"{name} {number(value)}" for name, value in plain[:limit])


def _short(name: str) -> str:
    """A training's name without the digest of its architecture."""
    return re.sub(r"-[0-9a-f]{8}(?=-seed)", "", name)


def _check(console: Console) -> None:
    """Raise what the console's stream met, so that the display is switched off and somebody hears of it."""
    stream = console.file
    if isinstance(stream, Stream) and stream.lost is not None:
        raise stream.lost


NONE_TRAINED = (float("-inf"), 0, 0.0)
"""Of a training without an epoch: the best score by validation, minus its epoch, and the metric's value."""


class _Following:
    """What lines and bars both do: follow the events, and know where the run stands."""

    def __init__(self, console: Console) -> None:
        self.console, self.standing = console, Standing()
        self.objectives: list[Mapping[str, str]] = []
        self.budget: Mapping[str, float | None] = {}
        self.trainings, self.trained_best = 0, NONE_TRAINED
        self.main: Mapping[str, str] = {"name": "accuracy", "unit": "%", "direction": "max"}
        self.searching: Pace | None = None
        self.paces: dict[str, Pace] = {}
        self.now = self.before = time.monotonic()  # when this event came, and the one before it

    def follow(self, event: Event) -> bool:
        """Take in an event; whether it gave a new best."""
        self.before, self.now = self.now, time.monotonic()
        self.main = event.get("main", self.main)
        if event["event"] == "start":
            self.objectives, self.budget = event.get("objectives", []), event.get("budget", {})
            self.standing = Standing(**event.get("so_far", {}))
            self.trainings = event.get("trainings", 0)
            return False
        if self.searching is None and event["event"] in ("propose", "result"):
            since = self.now if event["event"] == "propose" else self.before
            self.searching = Pace(self.standing.share(self.budget) or 0.0, since)
        best = self.standing.take(event, self.objectives)
        if self.searching is not None and event["event"] == "result":
            self.searching.look(self.standing.share(self.budget) or 0.0)
        if event["event"] == "end" and self.trainings:
            self.paces["verdict"] = Pace(self.standing.trainings / self.trainings, self.now)
        name = f"validation.{self.main['name']}"
        value = event["metrics"].get(name) if event["event"] == "epoch" else None
        if value is not None:
            earlier = self.trained_best if event["number"] > 1 else NONE_TRAINED
            score = value if self.main["direction"] == "max" else -value
            self.trained_best = max(earlier, (score, -event["number"], value))
        return best

    def pace(self, name: str, done: int, of: int) -> str:
        """How long `name` will take, of which `done` steps `of` so many are done now."""
        pace = self.paces.setdefault(name, Pace((done - 1) / of, self.before))
        pace.look(done / of)
        return pace.left()

    def best(self) -> str:
        """The best so far, of each objective by itself; empty where there is none yet."""
        found = [
            f"{objective['name']} {quantity(value, objective['unit'])}"
            for objective, (_, value) in zip(self.objectives, self.standing.best, strict=False)
        ]
        return (
            f"{'best so far' if len(found) == 1 else 'best of each so far'}: {', '.join(found)}"
            if found
            else ""
        )

    def best_epoch(self) -> str:
        """The epoch that validates best so far."""
        _, epoch, value = self.trained_best
        return f"best so far: validation.{self.main['name']} {value:.4g} (epoch {-epoch})" if epoch else ""

    def counted(self) -> str:
        """n of total, as far as the total is known."""
        total = self.budget.get("trials")
        return f"{self.standing.measured} of {total:.0f}" if total else f"{self.standing.measured} measured"


class Lines(_Following):
    """A line for each unit of fit, each measured trial and each trained network; from a hundred on fewer of them."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.rejected = self.repeated = 0
        self.printed_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, event: Event) -> None:
        best = self.follow(event)
        match event["event"]:
            case "start":
                self._print(f"run folder: {event['folder']}")
            case "fit":
                left = self.pace("fit", event["unit"], event["of"])
                if _worth(event["unit"]) or event["unit"] == event["of"]:
                    self._print(f"fit {event['unit']} of {event['of']}", _brief(event["metrics"]), left)
            case "result":
                self._result(event, best)
            case "epoch":
                self._epoch(event)
            case "final" | "final failed":
                self._final(event)
            case "end":
                self._print(f"search ended: {event['reason']}")
        _check(self.console)

    def _result(self, event: Event, best: bool) -> None:
        if event["source"] is not None:
            self.repeated += 1
            if _milestone(self.repeated) and self.repeated >= 100:
                self._print(f"{self.repeated} proposals so far repeat earlier ones")
        elif event["status"] == "infeasible":
            self.rejected += 1
            if _milestone(self.rejected):
                self._print(f"{self.rejected} proposals infeasible so far, the last: {event['error']}")
        elif best or _worth(self.standing.measured):
            note = f" ({event['error']})" if event["error"] else ""
            left = self.searching.left() if self.searching else ""
            first = f"trial {event['number']} {event['status']}{note}"
            self._print(first, _brief(event["metrics"]), self.counted(), self.best(), left)

    def _epoch(self, event: Event) -> None:
        # of the verdict's many trainings each is told of when it has ended, and once a minute until then
        alone = event["name"] == "retrain"
        left = self.pace(event["name"], event["number"], event["of"])
        if alone or time.monotonic() - self.printed_at >= 60:
            first = f"{_short(event['name'])} {event['number']} of {event['of']}"
            self._print(first, _brief(event["metrics"]), self.best_epoch() if alone else "", left)

    def _final(self, event: Event) -> None:
        done, total = self.standing.trainings, max(self.standing.trainings, self.trainings)
        left = self.pace("verdict", done, total)
        self._print(f"training {done} of {total}: {_short(event['name'])}", _outcome(event, self.main), left)

    def _print(self, *parts: str) -> None:
        self.printed_at = time.monotonic()
        self.console.print("   ".join(filter(None, parts)))


def _outcome(event: Event, main: Mapping[str, str]) -> str:
    value = event.get("metrics", {}).get(f"test.{main['name']}")
    if value is None:
        return f"failed: {event.get('error')}"
    if main["name"] == "accuracy":
        return f"test top-1 {value:.2f} %"
    return f"test {main['name']} {quantity(value, main['unit'])}"


def _worth(n: int) -> bool:
    """Whether the n-th is told of: all up to 100, every tenth up to 1,000, and so on."""
    return n % 10 ** max(0, len(str(n - 1)) - 2) == 0


def _milestone(n: int) -> bool:
    return n in (1, 10, 100) or n % 1000 == 0


class _Left(ProgressColumn):
    """The time that is left, by the task's own pace."""

    def __init__(self) -> None:
        super().__init__(table_column=Column(no_wrap=True, justify="right", min_width=13))

    def render(self, task: Task) -> Text:
        pace = task.fields.get("pace")
        return Text(pace.left() if pace is not None and not task.finished else "")


class _Screen(Progress):
    """Bars, and lines of text below them that are cut at the screen's edge."""

    def __init__(self, console: Console) -> None:
        self.notes: dict[str, str] = {}
        super().__init__(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(None if console.width < 100 else 40, table_column=Column(ratio=1)),
            TextColumn(
                "{task.fields[count]}", markup=False, table_column=Column(no_wrap=True, justify="right")
            ),
            _Left(),
            console=console,
            expand=console.width < 100,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for note in tuple(self.notes.values()):
            if note:
                yield Text(note, no_wrap=True, overflow="ellipsis")


class Bars(_Following):
    """Bars for fit, trials, the verdict's trainings and the network that is trained now; below, the best so far."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.screen = _Screen(console)
        self.tasks: dict[str, TaskID] = {}
        self.shown_at = 0.0

    def __enter__(self) -> Self:
        self.screen.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.screen.notes.pop("now", None)
        self.screen.stop()

    def __call__(self, event: Event) -> None:
        best = self.follow(event)
        match event["event"]:
            case "start":
                self.console.print(f"run folder: {event['folder']}")
            case "fit":
                self._step("fit", event["unit"], event["of"])
                self._note("now", _brief(event["metrics"]))
            # a search over a table gives thousands of results a second; a person sees ten
            case "result" if best or time.monotonic() - self.shown_at > 0.1:
                self.shown_at = time.monotonic()
                self._searching()
            case "end":
                self._searching()
                self._note("now", event["reason"])
            case "epoch":
                self._step("training", event["number"], event["of"], _short(event["name"]))
                self._note("now", _brief(event["metrics"]))
                if event["name"] == "retrain":
                    self._note("best", self.best_epoch())
            case "final" | "final failed":
                self._trained(event)
        _check(self.console)

    def _searching(self) -> None:
        self._show("search", "search", self.standing.share(self.budget), self.counted(), self.searching)
        self._note("best", self.best())

    def _trained(self, event: Event) -> None:
        if "training" in self.tasks:
            self.screen.remove_task(self.tasks.pop("training"))
        self.paces.pop("training", None)
        done, total = self.standing.trainings, max(self.standing.trainings, self.trainings)
        self._step("verdict", done, total)
        self._note("now", f"{_short(event['name'])}: {_outcome(event, self.main)}")

    def _step(self, key: str, done: int, of: int, name: str = "") -> None:
        self.pace(key, done, of)
        self._show(key, name or key, done / of, f"{done}/{of}", self.paces[key])

    def _show(self, key: str, name: str, share: float | None, count: str, pace: Pace | None) -> None:
        if key not in self.tasks:
            self.tasks[key] = self.screen.add_task(
                name, total=None if share is None else 1.0, count="", pace=None
            )
        self.screen.update(self.tasks[key], description=name, completed=share or 0.0, count=count, pace=pace)

    def _note(self, key: str, text: str) -> None:
        self.screen.notes[key] = text


class Steps:
    """A bar for each label; elsewhere than on a terminal a line at each tenth."""

    def __init__(self, console: Console, line: Callable[[str, int, int], str]) -> None:
        self.console, self._line = console, line
        self._screen = _Screen(console) if console.is_terminal else None
        self._tasks: dict[str, tuple[TaskID, Pace]] = {}
        self._at = time.monotonic()

    def __enter__(self) -> Self:
        if self._screen:
            self._screen.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._screen:
            self._screen.stop()

    def __call__(self, label: str, number: int, of: int) -> None:
        if self._screen is None:
            if 10 * number // of > 10 * (number - 1) // of:
                self.console.print(self._line(label, number, of))
        else:
            if label not in self._tasks:
                task = self._screen.add_task(label, total=1.0, count="", pace=None)
                self._tasks[label] = task, Pace((number - 1) / of, self._at)
            task, pace = self._tasks[label]
            pace.look(number / of)
            self._at = time.monotonic()
            self._screen.update(task, completed=number / of, count=f"{number}/{of}", pace=pace)
        _check(self.console)
