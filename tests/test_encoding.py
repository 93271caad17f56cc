"""Files and other programs' output are UTF-8 under every locale."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from archloom.streams import Stream

ROOT = Path(__file__).parent.parent
FOLDERS = ("core", "plugins", "benchmarks", "examples")
SOURCES = [ROOT / "setup.py", *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))]
NO_TEXT = {"Image", "image", "os", "tarfile", "zipfile", "webbrowser", "np"}
"""Whose `open` gives no text file."""


def without_encoding(tree: ast.AST) -> Iterator[str]:
    """The calls that read or write text in the encoding of whatever locale there is."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(word.arg in ("encoding", None) for word in node.keywords):
            continue
        owner, _, name = ast.unparse(node.func).rpartition(".")
        words = {word.arg: word.value for word in node.keywords}
        if name == "read_text":
            found = not node.args
        elif name == "write_text":
            found = len(node.args) < 2
        elif name == "open" and owner not in NO_TEXT:
            # a builtin or gzip's takes the file first, a path's does not
            after = node.args[
                1 if owner in ("", "io", "gzip", "bz2", "lzma", "builtins", "tokenize") else 0 :
            ]
            mode = words.get("mode", after[0] if after else None)
            text = "r" if mode is None else mode.value if isinstance(mode, ast.Constant) else "?"
            binary = "b" in str(text) or (owner in ("gzip", "bz2", "lzma") and "t" not in str(text))
            found = not binary
        elif name in ("FileHandler", "RotatingFileHandler", "TextIOWrapper"):
            found = True
        elif name in ("fdopen", "NamedTemporaryFile", "TemporaryFile"):
            mode = words.get("mode", node.args[1] if name == "fdopen" and len(node.args) > 1 else None)
            default = "r" if name == "fdopen" else "w+b"
            found = "b" not in str(mode.value if isinstance(mode, ast.Constant) else default)
        elif name in ("run", "Popen", "check_output", "check_call", "call"):
            found = "text" in words or "universal_newlines" in words
        elif name in ("getoutput", "getstatusoutput"):
            found = True
        else:
            found = False
        if found:
            yield f"line {node.lineno}: {ast.unparse(node)[:80]}"


def test_every_text_file_is_opened_as_utf_8():
    found = {
        str(path.relative_to(ROOT)): list(without_encoding(ast.parse(path.read_text(encoding="utf-8"))))
        for path in SOURCES
    }
    assert len(SOURCES) > 100
    assert not {path: lines for path, lines in found.items() if lines}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("open(p)", True),
        ("open(p, 'w')", True),
        ("open(p, mode='a')", True),
        ("open(p, 'rb')", False),
        ("open(p, encoding='utf-8')", False),
        ("path.open()", True),
        ("path.open('x')", True),
        ("path.open('ab', buffering=0)", False),
        ("gzip.open(p)", False),
        ("gzip.open(p, 'rt')", True),
        ("Image.open(f)", False),
        ("p.read_text()", True),
        ("p.read_text('utf-8')", False),
        ("p.write_text(t)", True),
        ("logging.FileHandler(p)", True),
        ("subprocess.run(c, text=True)", True),
        ("subprocess.run(c, capture_output=True)", False),
        ("os.fdopen(h, 'w')", True),
        ("tempfile.NamedTemporaryFile()", False),
    ],
)
def test_the_check_itself_finds_text_without_an_encoding_and_nothing_else(code: str, found: bool):
    assert bool(list(without_encoding(ast.parse(code)))) is found


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8"])
def test_a_configuration_is_the_same_under_every_locale(tmp_path, locale):
    text = (
        "space: fbnet\ntask: {type: imagefolder, root: données/日本}\nstrategy: random\nestimators: [macs]\n"
    )
    (tmp_path / "c.yaml").write_text(text + "objectives: [macs]\nbudget: {trials: 1}\n", encoding="utf-8")
    code = "from archloom.config_files import read_config; print(ascii(read_config('c.yaml').task.options['root']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        check=False,
    )
    assert done.stdout.strip() == ascii("données/日本"), done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_console_of_any_encoding_takes_any_text(monkeypatch, encoding):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    stream, text = Stream("stdout"), "donnée 日本 \udce9\n"
    assert stream.write(text) == len(text)
    stream.flush()
    assert stream.lost is None
    assert raw.getvalue() == text.encode(encoding, "backslashreplace")
