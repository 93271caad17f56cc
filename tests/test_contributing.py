"""The lists of CONTRIBUTING.md: the files that they name are all that a change touches."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import archloom
from archloom import hookspecs, testing
from archloom.kernels.loading import OPERATIONS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", PAGE, re.M))


def files(heading: str, table: int = 0) -> dict[str, str]:
    """file -> what the list of a section says of it."""
    tables = re.findall(r"^\| file \| .* \|\n\|[-|]+\|\n((?:\|.*\|\n)+)", SECTIONS[heading], re.M)
    return dict(re.findall(r"^\| `(.+?)` \| (.+) \|$", tables[table], re.M))


def told(text: str) -> list[str]:
    return re.findall(r"`(\w+)`", text)


def source_files() -> list[Path]:
    inside = [path for top in ("core", "plugins") for path in (ROOT / top).rglob("*.py")]
    return inside + [path for path in (ROOT / "csrc").rglob("*") if path.is_file()]


NEW_FILES_ONLY = ("A method like DARTS", "Trials on a cluster", "A regression task")


@pytest.mark.parametrize("heading", NEW_FILES_ONLY)
def test_a_list_of_new_files_names_hooks_and_contracts_that_are_there(heading):
    assert SECTIONS[heading].startswith("\nNew files only")
    names = {name for text in files(heading).values() for name in told(text)}
    hooks = {name for name in names if name.startswith("register_")}
    contracts = {name for name in names if name.endswith("Contract")}
    assert hooks
    assert contracts
    assert hooks <= set(vars(hookspecs))
    assert contracts <= set(testing.__all__)


def test_a_method_like_darts_is_the_files_of_its_list_and_nothing_inside_knows_it():
    folder = ROOT / "examples" / "archloom-small-darts"
    there = {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not {"__pycache__", "build"} & set(path.parts) and ".egg-info" not in str(path)
    }
    assert there == set(files("A method like DARTS"))
    tree = ast.parse((folder / "archloom_small_darts.py").read_text())
    assert {"register_search_spaces", "register_strategies"} <= {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    }
    knowing = [path for path in source_files() if path.suffix == ".py" and "small_darts" in path.read_text()]
    assert not knowing


def code(page: str, mark: str) -> str:
    """The Python of a page that has `mark` in it."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)
    (found,) = [block for block in blocks if mark in block]
    return found


def test_trials_go_elsewhere_with_one_file_beside_the_configuration(tmp_path):
    one, _ = files("Trials on a cluster")
    assert one == "cluster.py"
    written = code("plugins.md", "def register_executors")
    (tmp_path / one).write_text("import archloom\n" + written.replace('"rested"', '"cluster"'))
    result = archloom.search(
        {
            "space": {"type": "fbnet", "form": "small", "in_channels": 1},
            "strategy": "random",
            "objectives": ["macs"],
            "budget": {"trials": 2},
            "verdict": {"seeds": 0},
            "executor": {"type": "cluster"},
            "plugins": [str(tmp_path / one)],
        },
        tmp_path / "run",
    )
    assert [trial.status for trial in result.trials] == ["ok", "ok"]


def test_a_regression_is_one_file_that_says_how_it_is_scored(tmp_path):
    one, _ = files("A regression task")
    (tmp_path / one).write_text(code("data.md", "class Dots"))
    host = archloom.Host([tmp_path / one])
    task = archloom.make(host, "task", {"type": "dots", "size": 60})
    for name in told(files("A regression task")[one]):
        assert name == "register_tasks" or hasattr(task, name)
    factory, given = host.get("task", "dots").factory, {"options": {"size": 60}, "resolution": None}
    case = type("Case", (testing.TaskContract,), {"factory": factory, **given})()
    for check in (name for name in dir(case) if name.startswith("test_")):
        getattr(case, check)()


def test_a_column_of_the_report_has_one_place():
    (place,) = files("A column of the report")
    columns = importlib.import_module("archloom.columns")
    assert (ROOT / place).resolve() == Path(columns.__file__).resolve()
    titles = [column.title for column in columns.COSTS if len(column.title) > 8]
    assert titles
    for title in titles:
        elsewhere = [
            path for path in source_files() if path.suffix == ".py" and f'"{title}"' in path.read_text()
        ]
        assert elsewhere == [ROOT / place], title


def test_the_files_of_an_operation_are_those_that_name_every_operation():
    listed = {ROOT / name for name in files("An operation")}
    tests_and_pages = [*(ROOT / "tests" / "kernels").rglob("*.py"), *(ROOT / "docs").rglob("*.md")]

    def names_all(path: Path) -> bool:
        text = path.read_text(errors="ignore")
        return all(re.search(rf"\b{name}\b", text) for name in OPERATIONS)

    assert {path for path in [*source_files(), *tests_and_pages] if names_all(path)} == listed


def test_the_places_of_a_kernel_are_there():
    for name in files("An operation", 1):
        assert (ROOT / name).exists(), name
