"""What a benchmark run leaves: its figures, a table, a picture, and on what they were measured."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import torch

from ..documents import json_text
from .bench import Row
from .loading import instruction_set, status

BEHIND = 0.95
"""A row whose ratio to the best eager variant is below this is marked in the table."""


_LEGEND = (
    "Ratio: time of the variant over time of the op, medians; spread: quartile distance over median. "
    "Memory: ideal bytes over time, as a share of what y.copy_(x) moves in the same run, forward / both. "
    "Saved: for the backward, in sizes of one tensor. By PyTorch: what the op dispatches to PyTorch's own."
)


def machine(allocator: str) -> dict[str, Any]:
    """Processor, threads, instruction set, versions and date; `allocator` as `keep_freed_memory` said it."""
    names = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": names[0].partition(":")[2].strip() if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "clock": "one thread's own time" if torch.get_num_threads() == 1 else "wall",
        "instruction_set": instruction_set() if status().native else "none: references",
        "allocator": allocator,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def best_eager(rows: Sequence[Row], *, both: bool) -> float:
    """Of one case's rows: how many times faster the op is than the fastest variant that is not compiled."""
    others = [row for row in rows if row.variant not in ("archloom", "torch.compile")]
    return min(row.ratio_both if both else row.ratio_forward for row in others)


def by_case(rows: Iterable[Row]) -> list[list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row.case), []).append(row)
    return list(groups.values())


def table(rows: Iterable[Row]) -> str:
    """Markdown: every variant of every case, ties and losses included."""
    lines = [
        "| case | variant | fwd ms | least | spread | f+b ms | least | spread | fwd | f+b | memory | saved |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for group in by_case(rows):
        for row in group:
            ours = row.variant == "archloom"
            behind = ours and min(best_eager(group, both=False), best_eager(group, both=True)) < BEHIND
            name = ("**archloom**" if ours else row.variant) + (" (behind)" if behind else "")
            if ours and not (row.own_forward and row.own_both):
                name += f", {_left(row)} by PyTorch"
            shares = f"{row.bandwidth_forward:.0%} / {row.bandwidth_both:.0%}"
            lines.append(
                f"| {row.case if ours else ''} | {name} "
                f"| {row.forward * 1e3:.3f} | {row.least_forward * 1e3:.3f} | {row.spread_forward:.0%} "
                f"| {row.both * 1e3:.3f} | {row.least_both * 1e3:.3f} | {row.spread_both:.0%} "
                f"| {row.ratio_forward:.2f} | {row.ratio_both:.2f} "
                f"| {shares} | {row.saved / row.case.bytes:.2f} S |"
            )
    return "\n".join(lines) + "\n"


def _left(row: Row) -> str:
    """What the op leaves to PyTorch."""
    if row.own_both:
        return "forward"
    return "f+b" if row.own_forward else "all"


def picture(rows: Iterable[Row]) -> str:
    """An SVG: per case, how many times faster forward + backward is than the best eager variant."""
    groups = by_case(rows)
    bar, left, scale = 18, 420, 90
    longest = max((best_eager(group, both=True) for group in groups), default=1.0)
    width, height = left + int(scale * max(longest, 1.0)) + 80, bar * len(groups) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        'font-size="11"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{left}" y="14">times faster than the best eager variant, forward + backward '
        "(grey: PyTorch itself ran)</text>",
    ]
    for i, group in enumerate(groups):
        ratio, y = best_eager(group, both=True), 24 + i * bar
        colour = "#9aa5b1" if not group[0].own_both else "#3b7dd8" if ratio >= 1 else "#d8823b"
        parts.append(
            f'<text x="{left - 6}" y="{y + 11}" text-anchor="end">{escape(str(group[0].case))}</text>'
            f'<rect x="{left}" y="{y}" width="{ratio * scale:.0f}" height="{bar - 5}" fill="{colour}"/>'
            f'<text x="{left + ratio * scale + 4:.0f}" y="{y + 11}">{ratio:.2f}</text>'
        )
    parts.append(f'<path d="M{left + scale} 20V{height - 12}" stroke="black" stroke-dasharray="3 3"/></svg>')
    return "\n".join(parts) + "\n"


def write(folder: Path, name: str, rows: Sequence[Row], environment: dict[str, Any]) -> list[Path]:
    """Write `name`.json, .md and .svg into `folder` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    head = "".join(f"- {key}: {value}\n" for key, value in environment.items())
    texts = {
        "json": json_text({"machine": environment, "rows": [asdict(row) for row in rows]}),
        "md": f"# {name}\n\n{head}\n{_LEGEND}\n\n{table(rows)}",
        "svg": picture(rows),
    }
    paths = [folder / f"{name}.{kind}" for kind in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths
