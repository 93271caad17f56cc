from __future__ import annotations

import builtins
import collections
import io
import os
import pickle
import pickletools
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archloom.errors import ConfigError
from archloom_tabular.table import Table
from archloom_tabular.unpickling import _Unpickler, plain, read_pickle

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(max_codepoint=0x2FF), max_size=5)
    | st.binary(max_size=5)
    | st.complex_numbers(allow_nan=False)
    | st.builds(np.float64, st.floats(allow_nan=False))
    | st.builds(np.float32, st.integers(-9, 9))
    | st.builds(np.int64, st.integers(-9, 9))
    | st.builds(np.bool_, st.booleans())
)
KEYS = st.text(st.characters(max_codepoint=0x2FF), max_size=4) | st.integers()
VALUES = st.recursive(
    SCALARS | st.frozensets(st.integers(), max_size=3) | st.sets(st.integers(), max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=8,
)


def read(data: bytes) -> Any:
    return plain(_Unpickler(io.BytesIO(data), encoding="latin1").load())


def kinds(value: Any) -> Any:
    """The types all the way down, since 1 == 1.0 == True."""
    inner = value.items() if isinstance(value, dict) else value
    if isinstance(value, list | tuple | dict):
        return type(value), [kinds(one) for one in inner]
    return type(value)


@given(VALUES, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_data_reads_as_pickle_itself_reads_it(value, protocol):
    written = pickle.dumps(value, protocol)
    again = read(written)
    assert again == pickle.loads(written) == value
    assert kinds(again) == kinds(value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", ">f8", "i8", ">i2", "u1", "?", "c16"])
def test_arrays_read_as_numpy_itself_reads_them(dtype, protocol):
    block = np.arange(24).reshape(2, 3, 4).astype(dtype)
    for array in (block, np.asfortranarray(block), block[::-1, 1:], block[:0], block[0, 0, 0:1].reshape(())):
        again = read(pickle.dumps({"a": [array]}, protocol))["a"][0]
        np.testing.assert_array_equal(again, array, strict=True)
        again += again  # its own memory, and writable


def test_files_of_old_numpys_are_read():
    written = pickle.dumps({"x": np.float64(1.5), "y": np.arange(3)}, 2)
    old = written.replace(b"numpy._core", b"numpy.core")
    assert old != written
    again = read(old)
    assert again["x"] == 1.5
    assert again["y"].tolist() == [0, 1, 2]


class Runs:
    """What an attacker's object is: a function and its arguments, called on loading."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def attacks(mark: Path) -> dict[str, Any]:
    run = f"import pathlib; pathlib.Path({str(mark)!r}).touch()"
    return {
        "os.system": Runs(os.system, f"touch {mark}"),
        "exec": Runs(builtins.exec, run),
        "eval": Runs(builtins.eval, "1 + 1"),
        "open": Runs(builtins.open, str(mark), "w"),
        "getattr": Runs(builtins.getattr, "text", "upper"),
        "subprocess": Runs(subprocess.call, ["touch", str(mark)]),
        "numpy's own loader": Runs(np.load, str(mark)),
        "an object array": np.array([Runs(os.system, f"touch {mark}")], dtype=object),
        "an array of plain objects": np.array([{}], dtype=object),
        "a record array": np.zeros(2, dtype=[("a", "f8")]),
        "an ordered dictionary": collections.OrderedDict(a=1),
        "a class": collections.Counter,
        "deep inside": {"fbnet": [{"x": (1, Runs(os.system, f"touch {mark}"))}]},
        "as a key": {Runs(os.system, f"touch {mark}"): 1},
    }


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("name", attacks(Path("mark")))
def test_a_pickle_with_more_than_data_is_refused_and_nothing_is_executed(name, protocol, tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "evil.pickle"
    path.write_bytes(pickle.dumps(attacks(mark)[name], protocol))
    with pytest.raises(ConfigError, match=r"evil\.pickle is refused: .*nothing of this one was executed"):
        read_pickle(path)
    with pytest.raises(ConfigError, match="is refused"):
        Table(path=str(path), metrics={"acc": "max %"})
    assert not mark.exists()


def test_the_attack_is_one(tmp_path):
    """pickle itself would have executed it."""
    pickle.loads(pickle.dumps(attacks(tmp_path / "mark")["os.system"]))
    assert (tmp_path / "mark").exists()


GLOBAL_STATE = [
    # what is looked up is changed (BUILD) instead of called; dotted names; a reference out of the file
    b"cbuiltins\nset\n}Vx\nI1\nsb.",
    b"cnumpy\ndtype\n(N}V_function\nI1\nstb.",
    b"c_codecs\nencode\n}V__defaults__\nI1\nsb.",
    b"\x80\x04\x8c\x08builtins\x8c\x0dset.__class__\x93.",
    b"Poutside\n.",
    b"cnumpy\ndtype\n.",
    b"cnumpy\nndarray\n(tR.",
    b"cnumpy\ndtype\n(VO8\ntR.",
    b"cnumpy\ndtype\n(VV8\ntR.",
    b"c_codecs\nencode\n(Vx\nVrot13\ntR.",
    b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(Vf8\ntRVx\ntR.",
    b"cnumpy\nndarray\n(tR(I1\n(I-1\ntcnumpy\ndtype\n(Vf8\ntRI00\nVxx\ntb.",
    b"cnumpy\nndarray\n(tRI1\nb.",
]


@pytest.mark.parametrize("program", GLOBAL_STATE)
def test_hand_written_programs_are_refused(program, tmp_path):
    pickletools.dis(program, io.StringIO())  # a program that pickle would run, not noise
    path = tmp_path / "by_hand.pickle"
    path.write_bytes(program)
    with pytest.raises(ConfigError, match=r"by_hand\.pickle is refused"):
        read_pickle(path)


def test_broken_files_are_named(tmp_path):
    for name, data in {"empty": b"", "text": b"hello", "cut": pickle.dumps([1.0] * 9)[:-4]}.items():
        path = tmp_path / f"{name}.pickle"
        path.write_bytes(data)
        with pytest.raises(ConfigError, match=rf"cannot read the pickle .*{name}\.pickle"):
            read_pickle(path)
    with pytest.raises(ConfigError, match="cannot read the pickle"):
        read_pickle(tmp_path / "absent.pickle")
    itself: list[Any] = []
    itself.append(itself)
    (tmp_path / "loop.pickle").write_bytes(pickle.dumps(itself))
    with pytest.raises(ConfigError, match="contains itself"):
        read_pickle(tmp_path / "loop.pickle")
