"""Pickles read as data: containers, numbers, text and numpy arrays, and nothing that runs.

A pickle is a program. Here the names that it may look up are a fixed list of stand-ins of our own, so that the only
code it can reach is in this file; every other name is refused before anything is called.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from archloom import ConfigError

KINDS = frozenset("?bhilqpBHILQPefdgFD")  # numbers and truth values; neither objects, records nor text


class _Forbidden(pickle.UnpicklingError):
    """The pickle asks for something that is not data."""


class _Allowed:
    """What a pickle gets for an admitted name: it can be called, and can be neither changed nor looked into."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise _Forbidden(f"it sets '{name}' of a function")

    def __setstate__(self, state: Any) -> NoReturn:
        raise _Forbidden("it changes a function")


class _Dtype:
    """A numpy dtype by its description: ("f8", byte order)."""

    __slots__ = ("dtype",)

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or name.lstrip("<>=|")[:1] not in "?bhilqpBHILQPefdgFDuc":
            raise _Forbidden(f"it has an array of {name!r}; only numbers are read")
        dtype = np.dtype(name)
        if dtype.char not in KINDS:
            raise _Forbidden(f"it has an array of {name!r}; only numbers are read")
        self.dtype = dtype

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, and for records and the like what plain numbers leave empty)
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise _Forbidden("it has a dtype that is no plain number")
        if any(part is not None for part in state[2:5]):
            raise _Forbidden("it has a dtype with fields; only plain numbers are read")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """An array in the making; `plain` turns it into numpy's."""

    __slots__ = ("value",)

    def __init__(self, *_: Any) -> None:
        self.value: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: Any) -> None:
        try:
            _, shape, dtype, fortran, data = state
        except (TypeError, ValueError):
            raise _Forbidden("it has an array whose state is not numpy's") from None
        self.value = _from_bytes(data, dtype, shape, "F" if fortran else "C")


def _from_bytes(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray[Any, Any]:
    if isinstance(data, str):
        data = data.encode("latin1")  # the oldest protocols keep bytes as text
    known = isinstance(dtype, _Dtype) and isinstance(data, bytes | bytearray | pickle.PickleBuffer)
    if not known or not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise _Forbidden("it has an array that is not made of numbers")
    size = math.prod(shape) * dtype.dtype.itemsize
    if len(memoryview(data)) != size or order not in ("C", "F"):
        raise _Forbidden(f"it has an array of shape {shape} whose bytes are not {size}")
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order).copy()


def _scalar(dtype: Any, data: Any) -> Any:
    return _from_bytes(data, dtype, ())[()]


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise _Forbidden(f"it encodes text as {encoding!r}")
    return text.encode("latin1")


def _bytearray(data: Any = b"", *_: Any) -> bytearray:
    # of a number it would be that many zeros, which can fill the memory
    return bytearray(data.encode("latin1") if isinstance(data, str) else bytes(memoryview(data)))


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> Any:
    return _from_bytes(data, dtype, shape, order)


_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "bytes"): lambda *data: bytes(_bytearray(*data)),  # the oldest protocols' b""
    ("builtins", "bytearray"): _bytearray,
    ("builtins", "complex"): complex,
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
}
for _core in ("numpy.core", "numpy._core"):
    _NAMES[f"{_core}.multiarray", "scalar"] = _scalar
    _NAMES[f"{_core}.multiarray", "_reconstruct"] = _Array
    _NAMES[f"{_core}.numeric", "_frombuffer"] = _frombuffer


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins"}.get(module, module)
        found = _NAMES.get((module, name))
        if found is None:
            raise _Forbidden(f"it asks for {module}.{name}, which is not data")
        return _Allowed(found)

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _Forbidden(f"it refers to something outside of the file: {pid!r}")


def plain(value: Any) -> Any:
    """The same containers, with finished numpy arrays and nothing of the reader's own in them."""
    match value:
        case dict():
            return {plain(key): plain(item) for key, item in value.items()}
        case list():
            return [plain(item) for item in value]
        case tuple():
            return tuple(plain(item) for item in value)
        case set() | frozenset():
            return type(value)(plain(item) for item in value)
        case _Array():
            if value.value is None:
                raise _Forbidden("it has an array without contents")
            return value.value
        case None | bool() | int() | float() | complex() | str() | bytes() | bytearray():
            return value
        case np.generic() | np.ndarray():
            return value
    raise _Forbidden(f"it has a {type(value).__name__.lstrip('_')} where data was expected")


def read_pickle(path: str | Path) -> Any:
    """The contents of a pickle file: builtin containers, numbers, text, numpy numbers and arrays of them.

    Nothing in the file is executed. Raises ConfigError, naming the file, where it asks for anything else or is
    no pickle.
    """
    try:
        with Path(path).open("rb") as file:
            return plain(_Unpickler(file, encoding="latin1").load())
    except _Forbidden as error:
        raise ConfigError(
            f"{path} is refused: {error}. A pickle can run code; only containers, numbers and numpy arrays are "
            "read, and nothing of this one was executed"
        ) from error
    except RecursionError:
        raise ConfigError(f"{path} is refused: it contains itself, or is nested too deeply") from None
    except Exception as error:  # a broken pickle raises nearly anything
        raise ConfigError(f"cannot read the pickle {path}: {type(error).__name__}: {error}") from error
