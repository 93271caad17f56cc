"""Searches killed with SIGKILL at random moments and resumed end as undisturbed ones do, to the bit.

`make chaos` does the same for every shipped strategy and with more kills.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).parent.parent / "benchmarks" / "chaos.py"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["random", "evolution", "successive_halving", "fbnet", "cream"])
def test_a_search_killed_five_times_ends_as_one_left_alone(tmp_path, strategy):
    done = subprocess.run(
        [sys.executable, str(CHAOS), "--kills", "5", "--only", strategy],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = re.search(rf"{strategy}: \d+ trials .* after (\d) kills the runs agree", done.stdout)
    assert told, done.stdout
    assert int(told[1]) >= 1, "no kill came before the end"


def test_a_difference_in_any_part_would_be_seen(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(CHAOS.parent))
    import chaos

    def run(name, accuracy=50.0, latency=1.0, weights=b"w", unit=0.5, cost=1.0):
        folder = tmp_path / name
        folder.mkdir()
        events = [
            {"event": "fit", "unit": 1, "metrics": {"loss": unit}, "active": latency},
            {"event": "propose", "number": 0, "architecture": {"a": 1}},
            {
                "event": "result",
                "number": 0,
                "metrics": {"accuracy": accuracy, "latency.measured": latency},
                "cost": cost,
            },
            {"event": "observe", "number": 0},
            {"event": "final", "name": "found", "metrics": {"test.accuracy": accuracy}},
        ]
        (folder / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
        (folder / "architecture.json").write_text(json.dumps({"metrics": {"latency.measured": latency}}))
        (folder / "weights.safetensors").write_bytes(weights)
        return chaos.outcome(folder)

    whole = run("whole")
    assert run("slower", latency=2.0, cost=3.0) == whole
    for name, change in {"a": {"accuracy": 50.1}, "w": {"weights": b"v"}, "u": {"unit": 0.6}}.items():
        assert run(name, **change) != whole
