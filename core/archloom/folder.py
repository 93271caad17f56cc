"""A folder that holds one piece of work: claimed, locked, and resumed or refused.

`archloom search`, `resume`, `retrain`, `compare` and `rank` each leave a folder, and each of them opens it here. What
lies in it says what it is: `identity.json` holds the kind of the work, its settings, and the hashes of the files and
the data that the settings name. Work is resumed where all of that agrees, and refused with what differs where it does
not. Nothing that was not written by the same kind of work is replaced. One process owns the folder at a time
(`archloom.locking`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .contents import FOLDER, leaves
from .documents import read_json
from .errors import RunError
from .locking import Lock
from .run import write_json

logger = logging.getLogger("archloom")

MARK = "identity.json"
FORMAT = "archloom folder 1"

_ANY_TEMPORARY = re.compile(r"^\.(.+)\.(\d+)$")
_TEMPORARY = re.compile(r"^\..+\.(json|jsonl|yaml|txt|csv|html|svg|png|pt|new|safetensors|onnx)\.(\d+)$")


@dataclass(frozen=True)
class Identity:
    """What makes two pieces of work the same.

    settings: by section, plain data; what stands there only where it is on is True. contents: hashes of what the
    settings name, by dotted key (`archloom.contents`). versions: of the software; another one is warned of and not
    refused.
    """

    settings: Mapping[str, Any]
    contents: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plain = json.loads(json.dumps(dict(self.settings), default=str))  # lists for tuples, as in a file
        object.__setattr__(self, "settings", plain)

    @property
    def key(self) -> str:
        """A short hash: what a checkpoint says that it belongs to."""
        text = json.dumps([self.settings, dict(self.contents)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Kind:
    """A kind of work that leaves a folder.

    name: in `identity.json`. noun: in messages, without an article. files: patterns of what it writes
    there; a file of another's is never replaced. begun: whether anything is there that a new start would lose.
    legacy: what a folder says that an older version left, which wrote no `identity.json`; None where it is no folder
    of this kind. again: the way out where the folder holds such work.
    """

    name: str
    noun: str
    files: tuple[str, ...]
    begun: Callable[[Path], bool]
    legacy: Callable[[Path], Identity | None] = lambda path: None
    again: str = "Name another folder"


class Folder:
    """A claimed folder, owned until `close`. `identity` is the one that the work began with."""

    def __init__(self, path: Path, kind: Kind, lock: Lock, identity: Identity) -> None:
        self.path, self.kind, self.lock, self.identity = path, kind, lock, identity

    @classmethod
    def begin(cls, path: str | Path, kind: Kind, identity: Identity) -> Folder:
        """Claim a folder for new work; it is made where it is not there. A RunError where it holds some already."""
        return cls._open(Path(path), kind, identity, new=True, old=False)

    @classmethod
    def go_on(cls, path: str | Path, kind: Kind, identity: Identity) -> Folder:
        """Claim the folder of work that was begun. A RunError where it holds none, or other work than this."""
        return cls._open(Path(path), kind, identity, new=False, old=True)

    @classmethod
    def begin_or_go_on(cls, path: str | Path, kind: Kind, identity: Identity) -> Folder:
        """Claim a folder for new work, or that in which the same work was begun."""
        return cls._open(Path(path), kind, identity, new=True, old=True)

    @classmethod
    def fresh(cls, path: Path, kind: Kind, identity: Identity) -> Folder:
        """Claim a folder that nobody has: `path`, or the first of `path`-2, `path`-3, ... Two that ask in the same
        instant get a folder each."""
        number = 1
        while True:
            candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
            try:
                candidate.parent.mkdir(parents=True, exist_ok=True)
                candidate.mkdir()
            except FileExistsError:
                number += 1
                continue
            except OSError as error:
                raise _unusable(candidate, error) from error
            return cls.begin(candidate, kind, identity)

    @classmethod
    def _open(cls, path: Path, kind: Kind, identity: Identity, *, new: bool, old: bool) -> Folder:
        try:
            if new:
                path.mkdir(parents=True, exist_ok=True)
            elif not path.is_dir():
                raise RunError(f"{path} is no folder of a {kind.noun}: there is no such folder")
            lock = Lock(path)
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            then = told(path, kind)
            begun = then is not None and kind.begun(path)
            if begun and not old:
                raise RunError(f"{path} already holds a {kind.noun}. {kind.again.format(path=path)}")
            if then is None:
                if not new:
                    raise RunError(f"{path} is no folder of a {kind.noun}: it has no {MARK}")
                _spare_strangers(path, kind)
            elif begun or not new:
                check(then, identity, path, kind)
                identity = Identity(then.settings, {**identity.contents, **then.contents}, then.versions)
            _write_mark(path, kind, identity)
            _sweep(path)
            return cls(path, kind, lock, identity)
        except OSError as error:
            lock.release()
            raise _unusable(path, error) from error
        except BaseException:
            lock.release()
            raise

    def close(self) -> None:
        """Give the folder back to others."""
        self.lock.release()

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check(then: Identity, now: Identity, path: Path, kind: Kind) -> None:
    """A RunError that names what differs; another version of the software is only warned of."""
    if found := differences(then, now):
        raise RunError(
            f"{path} holds another {kind.noun}; name another --out, or go on with the configuration that it "
            f"began with. What differs: {'; '.join(found)}"
        )
    for name, version in now.versions.items():
        if (before := then.versions.get(name, version)) != version:
            logger.warning("%s was %s when the %s began and is %s now", name, before, kind.noun, version)


def differences(then: Identity, now: Identity) -> list[str]:
    """What differs, each as a phrase. A file or a folder that was moved is the same where its content is."""
    found = []
    before, after = dict(leaves(then.settings)), dict(leaves(now.settings))
    for name, value in now.settings.items():
        if name in then.settings and then.settings[name] != value:
            mine = [key for key in before.keys() | after.keys() if key == name or key.startswith(f"{name}.")]
            if not all(_moved(key, then, now) for key in mine if before.get(key) != after.get(key)):
                found.append(f"{name}: then {then.settings[name]!r}, now {value!r}")
    for name in sorted(now.settings.keys() ^ then.settings.keys()):
        if now.settings.get(name) is True or then.settings.get(name) is True:
            states = ["on" if name in one.settings else "off" for one in (then, now)]
            found.append(f"{name}: then {states[0]}, now {states[1]}")
    for key, content in then.contents.items():
        current = now.contents.get(key, content)
        if current != content and FOLDER not in (content, current) and before.get(key) == after.get(key):
            found.append(
                f"{_what(key, after.get(key))} had another content: then {_short(content)}, now {_short(current)}"
            )
    return found


def _moved(key: str, then: Identity, now: Identity) -> bool:
    if key not in then.contents or key not in now.contents:
        return False
    if FOLDER in (then.contents[key], now.contents[key]):
        section = key.partition(".")[0]  # the hash of the splits says what the folder of a task holds
        return section in then.contents and then.contents.get(section) == now.contents.get(section)
    return then.contents[key] == now.contents[key]


def _what(key: str, named: Any) -> str:
    if key.startswith("plugins."):
        return f"the plugin file {key.removeprefix('plugins.')}"
    return f"{key}, the file {named}," if isinstance(named, str) else f"the data of {key}"


def _short(content: str) -> str:
    return content.removeprefix("sha256:")[:12]


def path_name(label: str) -> str:
    """A label as the name of a file or folder: itself where it is plain, else told apart by a hash."""
    if re.fullmatch(r"[a-z0-9_-]{1,64}", label):
        return label
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", label)[:48].strip("-") or "label"
    digest = hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{plain}.{digest[:8]}"  # no plain label has a dot


def spare(path: Path, ours: Callable[[bytes], bool], what: str) -> None:
    """A RunError where a file is there that is not `ours`, by its content: it is somebody's own."""
    if not path.exists():
        return
    try:
        mine = path.is_file() and ours(path.read_bytes())
    except OSError as error:
        raise _unusable(path, error) from error
    if not mine:
        raise RunError(
            f"{path} is there and is no {what}; it is not replaced. Name another file, or move it away"
        )


def told(path: Path, kind: Kind) -> Identity | None:
    """What a folder says of itself; None where it says nothing. A RunError where it is of another kind."""
    file = path / MARK
    if not file.exists():
        return kind.legacy(path)
    mark = read_json(file, "what the folder is,", error=RunError)
    if not isinstance(mark, dict) or mark.get("format") != FORMAT:
        raise RunError(
            f"{file} is none of archloom's, and is not replaced; name another folder, or move it away"
        )
    if mark.get("kind") != kind.name:
        raise RunError(
            f"{path} holds another kind of work ({mark.get('kind')}), not a {kind.noun}; name another folder"
        )
    parts = [mark.get(name) for name in ("settings", "contents", "versions")]
    if not all(isinstance(part, dict) for part in parts):
        raise RunError(
            f"{file} lacks settings, contents or versions; restore it, or start anew in another folder"
        )
    return Identity(*parts)  # type: ignore[arg-type]


def _write_mark(path: Path, kind: Kind, identity: Identity) -> None:
    mark = {
        "format": FORMAT,
        "kind": kind.name,
        "settings": identity.settings,
        "contents": dict(identity.contents),
        "versions": dict(identity.versions),
    }
    with suppress(OSError, ValueError):
        if json.loads((path / MARK).read_text(encoding="utf-8")) == mark:
            return
    write_json(path / MARK, mark)


def _spare_strangers(path: Path, kind: Kind) -> None:
    own = [
        file.name
        for pattern in kind.files
        for file in sorted(path.glob(pattern))
        if not file.is_file() or file.stat().st_size
    ]
    if own:
        raise RunError(
            f"{path} holds no {kind.noun}, but files that one would replace: {', '.join(own)}. They are left as they "
            f"are; name another --out"
        )


def _sweep(path: Path) -> None:
    """Remove what writers left that were killed: the folder is ours, so whoever does not live will not finish."""
    for folder, _, names in os.walk(path):
        for name in names:
            # at the top, where somebody may have put a file of his own, only what archloom writes there
            found = (_TEMPORARY if folder == str(path) else _ANY_TEMPORARY).match(name)
            if found and not (int(found[2]) != os.getpid() and Path(f"/proc/{found[2]}").exists()):
                with suppress(OSError):
                    os.unlink(os.path.join(folder, name))


def _unusable(path: Path, error: OSError) -> RunError:
    inside = f" ({error.filename})" if error.filename and str(error.filename) != str(path) else ""
    return RunError(f"cannot open the folder {path}: {error.strerror or error}{inside}")
