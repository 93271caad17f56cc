"""Do searches come out as they came out at an earlier commit, to the bit?

    python benchmarks/behaviour.py                         against the commit of record, BASE below
    python benchmarks/behaviour.py --base COMMIT --only fbnet "cream interrupted" --output outcome.json

The cases of `behaviour_cases.py` run under two source trees, the base's and this one's, at the same time on two
cores (in turn on one), with one thread each and the same interpreter and libraries. What they leave is compared by
`run_records.py`: trials, architectures, metrics, seeds, every tensor of every file, the tables of compare and rank.
Timings are left out. Interrupted cases are done a third time: begun by the base, gone on with by this tree.

One line for each case: "equal", or the first differences. What this tree writes beside all that the base wrote is
counted and is no difference. What was changed on purpose stands in CHANGED with its reason. Exit code 1 where anything
differs that does not stand there, and where something stands there that does not differ.

Nothing but the command line and the formats of files is used, so that any base that has these can be compared.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from behaviour_cases import CASES, Case, Step
from run_records import additions, differences, digest, read
from source_trees import ROOT, announce, equip, files_of, git

BASE = "7f4858f1ede1234a46657b62a33ae67659cfff78"
"""The last commit before configurations are resolved by one context, before networks are wired by their space and
before tasks define their metrics: the behaviour that all of these must leave as it was."""

CHANGED: dict[str, str] = {
    r".*: \S*config\.yaml: workers: 1 became null": "where trials are measured is a part, the executor; `workers` is "
    "short for its option, and null where neither is said",
}
"""What differs from BASE on purpose: a regular expression for whole lines "CASE: FILE: ITEM: ...", and the reason."""

LIBRARIES = (
    "torch._dynamo",
    "torchvision",
    "sklearn.datasets",
    "scipy.stats",
    "torchmetrics",
    "plotly.io",
    "optuna",
)
MODULES = ("cli", "session", "comparing", "ranking", "retraining", "exporting", "judging.evaluation")
"""Loaded before the first step, which spares each of them some seconds; what a tree lacks it loads later, or never."""


class Side:
    """One of the two trees: a process that does the cases, and the folder where they lie."""

    def __init__(self, name: str, tree: Path, work: Path) -> None:
        self.name, self.tree, self.folder = name, tree, work / name
        (self.folder / "cases").mkdir(parents=True)
        parts = [announce(tree, self.folder / "installed"), tree / "core", tree / "plugins"]
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, parts)),
            "XDG_DATA_HOME": str(self.folder / "data"),
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "passive",
        }

    def start(self, jobs: list[tuple[str, str, int]]) -> subprocess.Popen[bytes]:
        """Begin with the jobs: a case, its folder, and its first step."""
        command = [sys.executable, __file__, "--drive", json.dumps(jobs)]
        return subprocess.Popen(command, cwd=self.folder / "cases", env=self.environment)

    def place(self, folder: str) -> Path:
        return self.folder / "cases" / folder


def plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def drive(jobs: list[tuple[str, str, int]]) -> None:
    """In the process of a side: do the jobs, one folder of the current one each."""
    import torch

    torch.set_num_threads(1)
    plugins = [point.module for point in importlib.metadata.entry_points(group="archloom")]
    for module in [*LIBRARIES, *(f"archloom.{name}" for name in MODULES), *plugins]:
        with suppress(ImportError):
            importlib.import_module(module)
    for name, folder, first in jobs:
        started, case, place = time.perf_counter(), CASES[name], Path(folder)
        if not first:
            lay_out(case, place)
        codes = {
            f"step {number}": do(step, place) for number, step in enumerate(case.steps) if number >= first
        }
        seconds = {"seconds": time.perf_counter() - started}
        (place / "exits.json").write_text(json.dumps(codes | seconds), encoding="utf-8")


def lay_out(case: Case, place: Path) -> None:
    place.mkdir(parents=True)
    for name, content in case.files.items():
        (place / name).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    if case.images:
        draw_images(place / "images")


def draw_images(folder: Path) -> None:
    """train/CLASS/IMAGE and val/CLASS/IMAGE: stripes as wide as the class says, with noise, 20 x 24 pixels."""
    import numpy
    from PIL import Image

    numbers = numpy.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for kind in range(3):
            place = folder / split / f"class{kind}"
            place.mkdir(parents=True)
            for index in range(count):
                stripes = (numpy.arange(20) // (kind + 1)) % 2 * 120.0
                pixels = stripes[None, :, None] + numbers.uniform(0, 120, (24, 20, 3))
                Image.fromarray(pixels.astype("uint8")).save(place / f"{index}.png")


def do(step: Step, place: Path) -> int | str:
    """Do one step; its exit code, or "killed"."""
    log = place / "run" / "log.jsonl"
    with (place / "output.log").open("ab") as output, (place / (step.save or "said.log")).open("ab") as said:
        pid = begin(step, place, said.fileno(), output.fileno())
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG if step.kill else 0)
            if ended:
                break
            if log.exists() and log.read_bytes().count(b"\n") >= step.kill:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)
    if step.keep:
        shutil.copytree(place / "run", place / step.keep)
    return "killed" if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def begin(step: Step, place: Path, said: int, output: int) -> int:
    """The id of a process that does the step in `place`."""
    words = shlex.split(step.arguments)
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.chdir(place)
        os.dup2(said, 1)
        os.dup2(output, 2)
        if step.apart:
            os.execv(sys.executable, [sys.executable, "-m", "archloom", *words])
        sys.argv = ["archloom", *words]
        runpy.run_module("archloom", run_name="__main__")
        code = 0
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def run_both(base: Side, head: Side, names: list[str]) -> None:
    jobs = [(name, plain(name), 0) for name in names]
    both = [base.start(jobs)]
    if processors() < 2:
        both[0].wait()
    both.append(head.start(jobs))
    gone_on = [
        (name, f"{plain(name)}__from_the_base", CASES[name].resumes) for name in names if CASES[name].resumes
    ]
    codes = [side.wait() for side in both]
    if any(codes):
        raise SystemExit("a side could not do its cases; what it said is above")
    for name, folder, _ in gone_on:
        lay_out(CASES[name], head.place(folder))
        for copy in ("run", "interrupted"):
            shutil.copytree(base.place(plain(name)) / "interrupted", head.place(folder) / copy)
    if gone_on and head.start(gone_on).wait():
        raise SystemExit("this tree could not go on with what the base began; what it said is above")


def processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compare(base: Path, head: Path, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """What differs between the folders of one case."""
    before, after = (
        {file: items for file, items in read(place).items() if not file.startswith(leave_out)}
        for place in (base, head)
    )
    differing = differences(before, after)
    return {
        "equal": not differing,
        "differences": differing,
        "added": additions(before, after),
        "values": sum(map(len, before.values())),
        "hash": digest(before),
        "seconds": [round(exits(place)["seconds"], 2) for place in (base, head)],
    }


def exits(place: Path) -> dict[str, Any]:
    codes: dict[str, Any] = json.loads((place / "exits.json").read_text(encoding="utf-8"))
    return codes


def outcomes(base: Side, head: Side, names: list[str]) -> dict[str, dict[str, Any]]:
    """Of each case; what this tree did in folders of the base's stands beside what it did alone."""
    results = {}
    for name in names:
        case, place = CASES[name], base.place(plain(name))
        # how far a process came that was killed is the clock's; where it stands in the end is not
        killed = any(step.kill for step in case.steps)
        results[name] = compare(place, head.place(plain(name)), ("interrupted/",) if killed else ())
        for number, step in enumerate(case.steps):
            code = exits(place)[f"step {number}"]
            if code != (step.code or ("killed" if step.kill else 0)):
                results[name]["equal"] = False
                results[name]["differences"].insert(0, f"the base's `{step.arguments}` ends with {code}")
        if case.resumes:
            gone_on = head.place(f"{plain(name)}__from_the_base")
            results[f"{name}, begun by the base"] = compare(place, gone_on, ("interrupted/", "exits.json"))
    return results


def on_purpose(name: str, difference: str) -> bool:
    """Whether CHANGED names a difference of a case."""
    return any(re.fullmatch(pattern, f"{name}: {difference}") for pattern in CHANGED)


def report(name: str, outcome: dict[str, Any]) -> tuple[str, bool]:
    """The line of a case, and whether it is as it should be."""
    seconds = f"{outcome['seconds'][0]:.1f} s and {outcome['seconds'][1]:.1f} s"
    wrong = [one for one in outcome["differences"] if not on_purpose(name, one)]
    lines = [f"    {one}" for one in wrong[:3]]
    if len(wrong) > 3:
        lines.append(f"    and {len(wrong) - 3} more")
    added = f", {len(outcome['added'])} values more" if outcome["added"] else ""
    what = "DIFFERS" if wrong else "equal" if outcome["equal"] else "equal but for what CHANGED names"
    return "\n".join([f"{name}: {what} ({outcome['values']} values{added}; {seconds})", *lines]), not wrong


def changed(results: dict[str, dict[str, Any]]) -> dict[str, int]:
    """How many differences each entry of CHANGED names."""
    lines = [f"{name}: {one}" for name, outcome in results.items() for one in outcome["differences"]]
    return {pattern: sum(bool(re.fullmatch(pattern, line)) for line in lines) for pattern in CHANGED}


def machine() -> dict[str, Any]:
    names = ("torch", "numpy", "torchvision", "scikit-learn", "optuna", "onnx")
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "processors": processors(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in names},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare what searches come out as with an earlier commit.")
    parser.add_argument("--base", default=BASE, help="a commit; default: the one of record")
    parser.add_argument("--only", nargs="*", choices=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--output", type=Path, help="a JSON file for all outcomes")
    parser.add_argument("--keep", type=Path, help="a new folder for what both trees leave; default: removed")
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        drive(json.loads(given.drive))
        return 0
    started = time.perf_counter()
    tree = files_of(given.base)
    print(f"base {tree.name}: {equip(tree)}", flush=True)
    work = given.keep or Path(tempfile.mkdtemp(prefix="behaviour-"))
    base, head = Side("base", tree, work), Side("head", ROOT, work)
    try:
        run_both(base, head, given.only or list(CASES))
        results = outcomes(base, head, given.only or list(CASES))
    finally:
        if not given.keep:
            shutil.rmtree(work)
    lines = [report(name, outcome) for name, outcome in results.items()]
    print("\n".join(line for line, _ in lines))
    wrong = sum(not right for _, right in lines)
    counts = changed(results)
    stale = [
        pattern for pattern, count in counts.items() if not count and given.base == BASE and not given.only
    ]
    for pattern, count in counts.items():
        if count or pattern in stale:
            print(f"changed on purpose, {count} values: {CHANGED[pattern]}")
    for pattern in stale:
        print(f"nothing differs as CHANGED says; take it out: {pattern}")
    seconds = time.perf_counter() - started
    print(f"{len(lines)} cases, {len(lines) - wrong} as they should be; {seconds:.0f} s")
    if given.output:
        head_commit = git("describe", "--always", "--dirty", "--abbrev=40").decode().strip()
        document = {
            "base": tree.name,
            "head": head_commit,
            "machine": machine(),
            "seconds": seconds,
            "cases": results,
        }
        given.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 1 if wrong or stale else 0


if __name__ == "__main__":
    sys.exit(main())
