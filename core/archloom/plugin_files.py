"""Plugin files: Python files of the user's that register things, with the neighbours that they import.

    read_plugin(path)     a file and its neighbours as they are now, with one hash over all of them
    load(plugin)          run it, as a module of its own
    function_of(plugin)   the function that `train.py:evaluate` names; such a file registers nothing

Two files may bear one name in two folders: each folder's files are modules of a package of their own, which is named
after the folder. A plugin file imports its neighbours as a script does, `import helper`; what is installed, and what
comes with Python, is found first.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib
import importlib.machinery
import importlib.util
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from .errors import PluginError, nearest

LARGEST = 16 * 2**20
"""So many bytes may a plugin file and its neighbours have."""


_FUNCTION = re.compile(r"(.+\.py):([^\W\d]\w*)")
_OF_PACKAGE = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*)")


def parts_of(entry: str | Path) -> tuple[Path, str]:
    """File and function of `train.py:evaluate`; of a file alone the function is empty."""
    found = _FUNCTION.fullmatch(str(entry))
    return (Path(found[1]), found[2]) if found else (Path(entry), "")


def of_package(entry: str | Path) -> tuple[str, str]:
    """Module and function of `package.module:evaluate`; both are empty for anything else."""
    found = None if parts_of(entry)[1] else _OF_PACKAGE.fullmatch(str(entry))
    return (found[1], found[2]) if found else ("", "")


def from_folder(entry: str, home: Path) -> str:
    """A plugin file, or a function in one, as it lies beside others in the folder `home`, where it lies there."""
    file, function = parts_of(entry)
    # a function that lies nowhere is missed where its user looks for it
    there = (home / file).is_file() or (function and not file.is_file())
    return str(home / entry) if there else entry


def absolute(entry: str | Path) -> str:
    """A plugin file wherever one works; what is installed goes by its name."""
    return str(entry) if of_package(entry)[0] else str(Path(entry).resolve())


@dataclass(frozen=True)
class PluginFile:
    """A plugin file. files: path from its folder -> content, of itself first and then of its neighbours. function: its
    name, where the file is there for one function and registers nothing. module: where it is installed, its name."""

    path: Path
    files: Mapping[str, bytes] = field(repr=False)
    function: str = ""
    module: str = ""

    @property
    def entry(self) -> str:
        """How a configuration names it."""
        if self.module:
            return f"{self.module}:{self.function}"
        return f"{self.path}:{self.function}" if self.function else str(self.path)

    @property
    def digest(self) -> str:
        """SHA-256 over the names and the contents of all files: what the plugin is, wherever it lies."""
        whole = hashlib.sha256()
        for name in [self.path.name, *sorted(set(self.files) - {self.path.name})]:
            whole.update(f"{name}\0{hashlib.sha256(self.files[name]).hexdigest()}\n".encode())
        if self.function:  # another one of the same file is another plugin
            whole.update(f"{self.module}:{self.function}\n".encode())
        return whole.hexdigest()


def read_plugin(path: str | Path) -> PluginFile:
    """A plugin file and the neighbours that it imports, anywhere in it; a PluginError where it is no Python file.

    path: the file, or the file and one of its functions, as `train.py:evaluate`; or the function of an installed
    module, `package.module:evaluate`, of which the module's own file is read.
    """
    module, function = of_package(path)
    if module:
        source = _source_of(module)
        return PluginFile(source, {source.name: _content(source)}, function, module)
    named, function = parts_of(path)
    file = named.resolve()
    if not file.is_file() and function:
        raise PluginError(
            f"there is no file {file}, whose function '{function}' is asked for; a path starts at the configuration's "
            "folder, or at the one you work in"
        )
    if not file.is_file():
        raise PluginError(f"there is no plugin file {file}")
    if file.suffix != ".py":
        raise PluginError(f"{file} is no Python file; a plugin file ends with .py")
    found: dict[str, bytes] = {}
    waiting = [file]
    while waiting:
        one = waiting.pop()
        name = one.relative_to(file.parent).as_posix()
        if name not in found:
            found[name] = _content(one)
            if sum(map(len, found.values())) > LARGEST:
                raise PluginError(
                    f"plugin file {file}: it and what it imports have more than {LARGEST / 2**20:g} MiB"
                )
            waiting += _neighbours(found[name], one, file.parent)
    return PluginFile(file, found, function)


def _source_of(module: str) -> Path:
    """The file of an installed module. Nothing is imported on the way: it may be a stranger who names it."""
    spec, within, name = None, None, ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        finders = (getattr(finder, "find_spec", None) for finder in sys.meta_path)
        specs = (find(name, within) for find in finders if find is not None)
        spec = next((one for one in specs if one is not None), None)
        if spec is None:
            raise PluginError(
                f"there is no module {name}, of which a function is asked for; is it installed?"
            )
        within = spec.submodule_search_locations
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise PluginError(f"the module {module} is not written in Python; write a function that calls it")
    return Path(spec.origin)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST + 1)
    except OSError as error:
        raise PluginError(f"cannot read the plugin file {path}: {error.strerror}") from error


def _neighbours(source: bytes, path: Path, home: Path) -> Iterator[Path]:
    """The files under `home` that a module imports, as far as its text says."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the text: said when it is run
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # said when it is run
    for node in ast.walk(tree):
        names: list[str] = []
        base, absolute = home, True
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base, absolute = path.parent, False
                for _ in range(node.level - 1):
                    base = base.parent
            stem = f"{node.module}." if node.module else ""
            names = [*([node.module] if node.module else []), *(stem + alias.name for alias in node.names)]
        if base == home or home in base.parents:
            for name in names:
                yield from _files_of(name.split("."), base, absolute=absolute)


def _files_of(parts: Sequence[str], base: Path, *, absolute: bool) -> Iterator[Path]:
    """The module that dotted `parts` mean under `base`, and the packages that it lies in."""
    if absolute and parts[0] in sys.stdlib_module_names:
        return
    for part in parts:
        if (file := base / f"{part}.py").is_file():
            yield file
        base = base / part
        if (package := base / "__init__.py").is_file():
            yield package


# -- running them -------------------------------------------------------------------------------------


def package_of(folder: Path) -> str:
    """The name of the package that a folder's plugin files are modules of."""
    return f"archloom_files_{hashlib.sha256(str(folder).encode(errors='surrogateescape')).hexdigest()[:16]}"


def module_of(plugin: PluginFile) -> str:
    """The name of the module that a plugin file becomes."""
    return f"{package_of(plugin.path.parent)}.{plugin.path.stem.replace('.', '_')}"


def load(plugin: PluginFile) -> ModuleType:
    """Run a plugin file as it was read, unless it runs already; a PluginError with the cause where that fails."""
    home = plugin.path.parent
    package, name = package_of(home), module_of(plugin)
    with _LOADING:
        parent = sys.modules.setdefault(package, ModuleType(package))
        parent.__path__ = [str(home)]
        known = _sources.setdefault(package, {})
        if any(known.get(name, content) != content for name, content in plugin.files.items()):
            _forget(package, plugin.files)  # it was changed since: none of its modules is what it was
        known |= plugin.files
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_loader(name, _Loader(name, str(plugin.path)))
        assert spec is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)  # type: ignore[union-attr]
        except (Exception, SystemExit) as error:
            _forget(package, plugin.files)
            told = f"{type(error).__name__}: {error}{place_of(error, home)}"
            raise PluginError(f"plugin file {plugin.path} failed: {told}") from error
    return module


def function_of(plugin: PluginFile) -> Callable[..., Any]:
    """The function that an entry names, its file run; a PluginError where there is none of that name."""
    module = _imported(plugin) if plugin.module else load(plugin)
    function = getattr(module, plugin.function, None)
    if callable(function):
        named: Callable[..., Any] = function
        return named
    if function is not None:
        raise PluginError(f"'{plugin.function}' in {plugin.path} is a {type(function).__name__}, no function")
    own = [
        n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__
    ]
    near = nearest(plugin.function, own)
    raise PluginError(
        f"{plugin.path} has no function '{plugin.function}'; "
        + (f"did you mean '{near}'? " if near else "")
        + f"It has: {', '.join(own) or 'none'}"
    )


def _imported(plugin: PluginFile) -> ModuleType:
    try:
        return importlib.import_module(plugin.module)
    except (Exception, SystemExit) as error:  # a stranger's import can raise anything
        raise PluginError(f"{plugin.module} cannot be imported: {type(error).__name__}: {error}") from error


def place_of(error: BaseException, home: Path) -> str:
    """The last line under a folder that an error came through, as " (file:line)"; empty where it came through none."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if home in Path(one.filename).parents]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


_LOADING = threading.RLock()
_sources: dict[str, dict[str, bytes]] = {}  # package -> path from its folder -> content as it was read


def _forget(package: str, files: Iterable[str]) -> None:
    for file in files:
        stem = file.removesuffix(".py").removesuffix("/__init__")
        sys.modules.pop(f"{package}.{stem.replace('/', '.')}", None)
        sys.modules.pop(f"{package}.{stem.replace('.', '_')}", None)


class _Loader(importlib.machinery.SourceFileLoader):
    """Runs a module from what was read, writes no bytecode beside it, and lets it import its neighbours."""

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code

    def get_data(self, path: str) -> bytes:
        return _sources[self.name.partition(".")[0]][_within(self.name, path)]

    def exec_module(self, module: ModuleType) -> None:
        package = self.name.partition(".")[0]
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _importer(package)}
        super().exec_module(module)


def _within(module: str, path: str) -> str:
    """The path from the folder that a module's package stands for."""
    return Path(path).relative_to(sys.modules[module.partition(".")[0]].__path__[0]).as_posix()


def _importer(package: str) -> Any:
    """`__import__` for the modules of a package: a name that is nowhere else is a neighbour's."""

    def import_(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> ModuleType:
        top = name.partition(".")[0]
        try:
            return builtins.__import__(name, globals, locals, fromlist, level)
        except ModuleNotFoundError as error:
            if level or error.name != top or importlib.util.find_spec(f"{package}.{top}") is None:
                raise
        if fromlist:
            return builtins.__import__(f"{package}.{name}", globals, locals, fromlist, 0)
        importlib.import_module(f"{package}.{name}")
        return sys.modules[f"{package}.{top}"]

    return import_


class _Finder:
    """Finds the modules of the packages that are named after folders."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if path is None or not fullname.startswith("archloom_files_"):
            return None
        suffixes = importlib.machinery.SOURCE_SUFFIXES
        for folder in path:
            spec = importlib.machinery.FileFinder(folder, (_Loader, suffixes)).find_spec(fullname)
            known = _sources.get(fullname.partition(".")[0], {})
            if spec is not None and (not spec.origin or _within(fullname, spec.origin) in known):
                return spec
        return None


sys.meta_path.insert(0, _Finder)
