"""A run's events on the screen: live bars on a terminal, one line each elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


def _brief(metrics: dict[str, float], limit: int = 7) -> str:
    plain = [(name, value) for name, value in metrics.items() if not name.endswith((".low", ".high"))]
    shown = [f"{name} {value:.4g}" for name, value in plain[:limit]]
    return "  ".join(shown)


class Lines:
    """One line for each unit of fit, each trial and each trained network."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.rejected = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "start":
                self._print(f"run folder: {event['folder']}")
            case "fit":
                self._print(f"fit {event['unit']}/{event['of']}  {_brief(event['metrics'])}")
            case "result" if event["status"] == "infeasible":
                self.rejected += 1
                if self.rejected in (1, 10, 100) or self.rejected % 1000 == 0:
                    self._print(f"{self.rejected} proposals infeasible so far, the last: {event['error']}")
            case "result":
                note = f" ({event['error']})" if event["error"] else ""
                self._print(f"trial {event['number']} {event['status']}{note}  {_brief(event['metrics'])}")
            case "epoch":
                self._print(f"{event['name']} {event['number']}/{event['of']}  {_brief(event['metrics'])}")
            case "final":
                self._print(f"{event['name']}  test top-1 {event['metrics']['test.accuracy']:.2f} %")
            case "end":
                self._print(f"search ended: {event['reason']}")

    def _print(self, text: str) -> None:
        self.console.print(escape(text))


class Bars:
    """A bar with the time left for fit, and one for each network that is trained."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self.tasks: dict[str, TaskID] = {}
        self.shown_at = 0.0

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "start":
                self.progress.console.print(f"run folder: {escape(event['folder'])}")
            case "fit":
                self._show("fit", event["unit"], event["of"], _brief(event["metrics"], 4))
            case "result":
                # a search over a table gives thousands of results a second; a person sees ten
                if time.monotonic() - self.shown_at > 0.1:
                    self._show("search", event["number"] + 1, None, _brief(event["metrics"], 4))
                    self.shown_at = time.monotonic()
            case "epoch":
                self._show(event["name"], event["number"], event["of"], _brief(event["metrics"], 3))
            case "final":
                note = f"test top-1 {event['metrics']['test.accuracy']:.2f} %"
                self._show(event["name"], None, None, note)

    def _show(self, name: str, completed: float | None, total: float | None, note: str) -> None:
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(escape(name), total=total, note="")
        self.progress.update(self.tasks[name], completed=completed, total=total, note=escape(note))
