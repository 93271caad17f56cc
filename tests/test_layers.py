"""The laws of the house's layers, read from the imports themselves."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import archloom
from test_face import public_modules

ROOT = Path(__file__).parent.parent
CORE, PLUGINS = ROOT / "core" / "archloom", ROOT / "plugins"

ROWS = [  # from the bottom up; a module imports from its own row and from those below
    # package.module is a part of a package that stands above the rest of it
    "graphs",
    "observing standing streams errors randomness",
    "drawing surroundings loading",
    "trial documents processes architecture ops kernels ranks losses augmentation metrics",
    "locking eventlog history meta",
    "plugin_files functions splitting loss_check",
    "latency latency_places mixing model shared space task wiring",
    "cost steps run kernels.workloads kernels.bench kernels.report products",
    "contents folder trust pictures recording",
    "weightfiles",
    "weights",
    "strategy estimator objective training weight_sharing",
    "hypervolume columns groups",
    "report",
    "engine measuring fitting verdict",
    "hookspecs context factories plugins config config_files defaults contradictions resolve environment job zoo "
    "backbone assembly family progress testing __init__",
    "source",
    "teacher",
    "session ranking retraining trained",
    "comparing latency_check",
    "exporting timm_models",
    "judging",
    "console",
    "commands",
    "cli __main__",
]
ROW = {module: number for number, row in enumerate(ROWS) for module in row.split()}


def placed(*parts: str) -> str:
    """The name that stands in the rows for the module of these parts: its own, or its package's."""
    own = ".".join(parts[:2])
    return own if own in ROW else parts[0]


def module_of(path: Path) -> str:
    return placed(*path.relative_to(CORE).with_suffix("").parts)


MODULES = sorted({module_of(path) for path in CORE.rglob("*.py")})
PACKAGES = sorted(path.name for path in PLUGINS.iterdir() if (path / "__init__.py").exists())


def imports(path: Path, *, at_run_time: bool = False) -> Iterator[str]:
    """Absolute names of the modules that a file imports, those inside functions included."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if at_run_time and id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(CORE.parent if CORE in path.parents else PLUGINS).parts[:-1]
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            full = ".".join(filter(None, (base, node.module)))
            yield full
            yield from (f"{full}.{alias.name}" for alias in node.names)


def files(module: str) -> list[Path]:
    """A module's file, or all files of a package that have no row of their own."""
    return sorted(path for path in CORE.rglob("*.py") if module_of(path) == module)


def core_imports(module: str, **options: bool) -> set[str]:
    names = {name for file in files(module) for name in imports(file, **options)}
    found = {placed(*name.split(".")[1:]) for name in names if name.startswith("archloom.")}
    return found & set(MODULES) - {"__init__", module}


def test_every_module_of_the_core_has_a_row():
    assert set(MODULES) <= set(ROW), "give the new module a row here, and in the documentation"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down_only(module):
    up = {name for name in core_imports(module) if ROW[name] > ROW[module]}
    lazy = module == "__init__"  # hands names on; it imports nothing before it is asked
    assert lazy or not up


def test_the_core_imports_nothing_in_a_circle():
    below = {module: core_imports(module, at_run_time=True) for module in MODULES}
    left = set(MODULES)
    while free := {module for module in left if not below[module] & left}:
        left -= free
    assert not left


@pytest.mark.parametrize("module", MODULES)
def test_the_core_neither_imports_nor_names_a_plugin(module):
    text = "".join(file.read_text() for file in files(module))
    assert not [package for package in PACKAGES if package in text]


def strangers_to_the_face(source: str) -> list[str]:
    """What a plugin's source takes of archloom that is not public; see docs/plugins.md, "What to import"."""
    modules, taken, aliases = public_modules(), [], {}
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            taken += [
                ("archloom", a.name.removeprefix("archloom."))
                for a in node.names
                if a.name[:9] == "archloom."
            ]
        elif (
            isinstance(node, ast.ImportFrom)
            and not node.level
            and (node.module or "").split(".")[0] == "archloom"
        ):
            taken += [(node.module, alias.name) for alias in node.names]
            for alias in node.names:
                if f"{node.module}.{alias.name}" in modules:
                    aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = aliases.get(node.value.id, node.value.id)
            if owner == "archloom" or owner in modules:
                taken.append((owner, node.attr))
    face = set(archloom.__all__)
    return [
        f"{module}.{name}"
        for module, name in taken
        if not (
            (name in face or f"archloom.{name}" in modules)
            if module == "archloom"
            else name in modules.get(module, ()) or (module in modules and name in face)
        )
    ]


def imported_from_two_places(source: str) -> list[str]:
    """Names of the face that are imported from somewhere else."""
    return [
        alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("archloom.") and not node.level
        for alias in node.names
        if alias.name in archloom.__all__
    ]


EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*/*.py"))


@pytest.mark.parametrize(
    "package", [*PACKAGES, *EXAMPLES], ids=lambda package: getattr(package, "stem", package)
)
def test_a_plugin_imports_no_other_plugin_and_of_archloom_the_public_face_alone(package):
    for path in [package] if isinstance(package, Path) else sorted((PLUGINS / package).rglob("*.py")):
        source = path.read_text()
        assert not strangers_to_the_face(source), path
        assert not imported_from_two_places(source), path
        if package in PACKAGES:
            tops = {name.partition(".")[0] for name in imports(path)}
            assert not (tops & set(PACKAGES)) - {package}, path


def test_the_law_of_the_face_sees_each_way_around_it():
    ways = (
        "import archloom.engine",
        "from archloom.engine import Search",
        "from archloom import engine",
        "from archloom.space import _place",
        "import archloom\narchloom.engine.Search",
        "from archloom import weights as w\nw.adapt_stem",
    )
    for source in ways:
        assert strangers_to_the_face(source), source
    fine = "import archloom\nfrom archloom import Choice, ops\nfrom archloom.mixing import Draw\n"
    fine += "ops.swish\narchloom.hookimpl\n"
    assert not strangers_to_the_face(fine)
    assert imported_from_two_places("from archloom.architecture import Choice") == ["Choice"]


@pytest.mark.parametrize(
    "path",
    [
        path
        for root in (CORE, PLUGINS)
        for path in sorted(root.rglob("*.py"))
        if path.relative_to(root).parts[0] not in ("cli.py", "__main__.py", "console.py", "commands")
    ],
    ids=lambda path: f"{path.parent.name}.{path.stem}",
)
def test_only_the_command_line_prints_parses_arguments_or_exits(path):
    forbidden = {"print", "input", "exit", "quit", "breakpoint"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in forbidden | {"sys.exit", "os._exit", "sys.stdout.write", "sys.stderr.write"}
    assert not {"argparse", "typer", "click"} & {name.split(".")[0] for name in imports(path)}


def run(code: str) -> None:
    own = "ignore:archloom's compiled kernels are not in use"  # the laws hold where nothing was compiled too
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", own, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_importing_archloom_or_its_values_imports_no_torch():
    run(
        "import sys, archloom, archloom.architecture, archloom.trial, archloom.objective, archloom.config;"
        "import archloom.plugins; archloom.Architecture; archloom.Choice; archloom.hookimpl;"
        "assert 'torch' not in sys.modules and 'torchvision' not in sys.modules"
    )


def test_importing_the_kernels_loads_nothing_before_it_is_asked():
    run("import sys, archloom.kernels; archloom.kernels.allocator(); assert 'torch' not in sys.modules")


def test_archloom_works_where_torchvision_is_missing():
    run(
        "import sys; sys.modules['torchvision'] = None;"
        "import archloom, archloom.ops, archloom.cost, archloom.model, torch;"
        "assert float(archloom.ops.mixed_sum([torch.ones(1)], torch.ones(1))) == 1;"
        "model = torch.nn.Conv2d(3, 2, 1, bias=False);"
        "assert archloom.count(model, 4).macs == 96"
    )


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    import archloom

    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        archloom.serach  # noqa: B018
    assert {"build", "search", "hookimpl"} <= set(dir(archloom))


def test_the_page_on_layers_lists_every_module_of_the_core():
    page = (ROOT / "docs" / "design" / "layers.md").read_text()
    names = {path.name for path in CORE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    listed = set(re.findall(r"(?<!\S)(\w+)(?:\.py|/)(?=\s)", page.split("```")[1]))
    assert {name.removesuffix(".py") for name in names} - {"__init__", "__main__"} == listed, (
        "edit docs/design/layers.md"
    )
