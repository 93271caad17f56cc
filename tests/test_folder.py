"""Folders: one owner at a time, and what lies in one says what it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from archloom import locking
from archloom.contents import contents_of, plugin_contents, task_hash
from archloom.errors import RunError
from archloom.folder import Folder, Identity, Kind, differences, path_name
from archloom.locking import Lock
from archloom.run import write_json
from archloom.task import ImageTask

LETTER = Kind("letter", "letter", ("letter.txt",), begun=lambda path: (path / "letter.txt").exists())
POEM = Kind("poem", "poem", ("poem.txt",), begun=lambda path: (path / "poem.txt").exists())
MINE = Identity({"to": "Ada", "words": {"type": "few", "table": "words.txt"}})


# -- the lock -------------------------------------------------------------------------------------------


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that has locked the folder; ended by its standard input."""
    code = (
        "import sys; from pathlib import Path; from archloom.locking import Lock\n"
        "lock = Lock(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_with_the_owner_and_takes_over_when_it_is_killed(tmp_path):
    process = holder(tmp_path)
    told = rf"is in use: process {process.pid} on host '.+' has worked in it since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
    try:
        with pytest.raises(RunError, match=told):
            Lock(tmp_path)
    finally:
        end(process)
    lock = Lock(tmp_path)
    lock.check()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_two_threads_of_a_process_are_told_apart_as_two_processes_are(tmp_path):
    lock, refused = Lock(tmp_path), []

    def second():
        with pytest.raises(RunError, match=f"process {os.getpid()} on host"):
            Lock(tmp_path)
        refused.append(True)

    thread = threading.Thread(target=second)
    thread.start()
    thread.join()
    lock.release()
    lock.release()
    Lock(tmp_path).release()
    assert refused == [True]


def from_elsewhere(folder: Path) -> Path:
    path = folder / locking.NAME
    record = {"host": "node7", "pid": 12, "since": "2026-01-01 00:00:00", "machine": "another", "token": "t"}
    path.write_text(json.dumps(record))
    return path


def test_a_dead_owner_on_another_machine_is_outwaited(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "PATIENCE", 0.1)
    from_elsewhere(tmp_path)
    lock = Lock(tmp_path)
    lock.check()
    lock.release()


def test_a_living_owner_on_another_machine_is_seen_by_its_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "PATIENCE", 5.0)
    path, ended = from_elsewhere(tmp_path), threading.Event()

    def live():
        while not ended.wait(0.02):
            os.utime(path)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(RunError, match="process 12 on host 'node7' has worked in it since 2026-01-01"):
            Lock(tmp_path)
    finally:
        ended.set()
        thread.join()


def test_an_owner_shows_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "BEAT", 0.01)
    lock = Lock(tmp_path)
    before = (tmp_path / locking.NAME).stat().st_mtime_ns
    for _ in range(200):
        threading.Event().wait(0.01)
        if (tmp_path / locking.NAME).stat().st_mtime_ns != before:
            break
    else:
        pytest.fail("the file was never touched")
    lock.release()


@pytest.mark.parametrize("loss", ["removed", "overwritten"])
def test_an_owner_that_lost_its_folder_writes_nothing_more(tmp_path, loss):
    lock = Lock(tmp_path)
    if loss == "removed":
        (tmp_path / locking.NAME).unlink()
    else:
        from_elsewhere(tmp_path)
    with pytest.raises(RunError, match=r"was taken over by another process.*archloom resume"):
        lock.check()
    lock.release()
    assert (tmp_path / locking.NAME).exists() == (loss == "overwritten")  # what is another's stays


def test_without_locks_of_the_file_system_the_record_alone_keeps_others_out(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "_try_lock", lambda file: None)
    process = holder(tmp_path)
    try:
        with pytest.raises(RunError, match=f"process {process.pid} on host"):
            Lock(tmp_path)
    finally:
        end(process)
    Lock(tmp_path).release()


def test_a_lock_that_was_lost_to_a_second_handle_is_still_respected(tmp_path):
    lock = Lock(tmp_path)
    (tmp_path / locking.NAME).read_bytes()  # as a copy of the folder does; POSIX frees the lock then
    code = "import sys; from pathlib import Path; from archloom.locking import Lock; Lock(Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert f"is in use: process {os.getpid()} on host" in done.stderr
    lock.check()
    lock.release()


# -- claiming -------------------------------------------------------------------------------------------


def written(folder: Folder) -> Folder:
    (folder.path / "letter.txt").write_text("Dear Ada")
    return folder


def test_the_same_work_goes_on_and_other_work_is_refused_by_what_differs(tmp_path):
    written(Folder.begin(tmp_path, LETTER, MINE)).close()
    Folder.go_on(tmp_path, LETTER, MINE).close()
    Folder.begin_or_go_on(tmp_path, LETTER, MINE).close()
    other = Identity({"to": "Grace", "words": {"type": "many"}})
    for claim in (Folder.go_on, Folder.begin_or_go_on):
        with pytest.raises(
            RunError, match=r"to: then 'Ada', now 'Grace'; words: then \{'type': 'few'"
        ) as refused:
            claim(tmp_path, LETTER, other)
        assert "holds another letter; name another --out" in str(refused.value)
    with pytest.raises(RunError, match="already holds a letter"):
        Folder.begin(tmp_path, LETTER, MINE)
    with pytest.raises(RunError, match=r"holds another kind of work \(letter\), not a poem"):
        Folder.begin_or_go_on(tmp_path, POEM, MINE)
    Folder.go_on(tmp_path, LETTER, MINE).close()  # no refusal keeps the lock


def test_work_that_left_nothing_may_begin_anew_as_other_work(tmp_path):
    Folder.begin(tmp_path, LETTER, MINE).close()
    other = Identity({"to": "Grace"})
    Folder.begin(tmp_path, LETTER, other).close()
    assert json.loads((tmp_path / "identity.json").read_text())["settings"] == {"to": "Grace"}


def test_nobodys_own_file_is_replaced(tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(
        RunError, match=r"files that one would replace: letter\.txt\. They are left as they are"
    ):
        Folder.begin(tmp_path, LETTER, MINE)
    (tmp_path / "identity.json").write_text('{"name": "Ada"}')
    with pytest.raises(RunError, match=r"identity\.json is none of archloom's, and is not replaced"):
        Folder.begin(tmp_path, POEM, MINE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["identity.json", "letter.txt"]
    assert (tmp_path / "letter.txt").read_text() == "mine"


def test_a_folder_that_is_none_is_refused_and_not_made(tmp_path):
    with pytest.raises(RunError, match="is no folder of a letter"):
        Folder.go_on(tmp_path / "nowhere", LETTER, MINE)
    with pytest.raises(RunError, match="is no folder of a letter"):
        Folder.go_on(tmp_path, LETTER, MINE)
    assert list(tmp_path.iterdir()) == []


def test_of_two_that_want_a_fresh_folder_at_once_each_gets_its_own(tmp_path):
    gate, claimed = threading.Barrier(8), []

    def claim():
        gate.wait()
        claimed.append(Folder.fresh(tmp_path / "runs" / "now", LETTER, MINE))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = {folder.path.name for folder in claimed}
    assert names == {"now", *(f"now-{number}" for number in range(2, 9))}
    for folder in claimed:
        folder.close()


def test_what_killed_writers_left_is_removed_by_the_next_owner_and_nothing_else_is(tmp_path):
    written(Folder.begin(tmp_path, LETTER, MINE)).close()
    (tmp_path / "deep").mkdir()
    left = [
        ".config.yaml.99999999",
        ".checkpoint.pt.new.99999999",
        f".letter.txt.{os.getpid()}",
        "deep/.a.json.99999999",
        "deep/.plugin.py.99999999",
    ]
    kept = [".letter.txt.1", ".notes.99999999", "letter.txt.99999999", ".letter.txt"]  # 1 lives
    for name in (*left, *kept):
        (tmp_path / name).write_text("")
    Folder.go_on(tmp_path, LETTER, MINE).close()
    there = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert there == {"letter.txt", "identity.json", "deep", *kept}


def test_another_version_is_warned_of(tmp_path, caplog):
    written(Folder.begin(tmp_path, LETTER, Identity(MINE.settings, versions={"torch": "2.1"}))).close()
    Folder.go_on(tmp_path, LETTER, Identity(MINE.settings, versions={"torch": "2.2"})).close()
    assert "torch was 2.1 when the letter began and is 2.2 now" in caplog.text


# -- identity -------------------------------------------------------------------------------------------


def identity(**settings: object) -> Identity:
    return Identity(settings, contents_of(settings))


def test_a_file_whose_content_changed_is_named_and_one_that_only_moved_is_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "words.json"
    table.write_text("[1]")
    before = identity(method={"type": "few", "tables": [{"path": "words.json"}]})
    moved = table.rename(tmp_path / "elsewhere.json")
    assert differences(before, identity(method={"type": "few", "tables": [{"path": str(moved)}]})) == []
    moved.write_text("[2]")
    [told] = differences(before, identity(method={"type": "few", "tables": [{"path": str(moved)}]}))
    assert told.startswith("method: then")
    table.write_text("[2]")
    [told] = differences(before, identity(method={"type": "few", "tables": [{"path": "words.json"}]}))
    assert told.startswith("method.tables.0.path, the file words.json, had another content: then ")


def test_every_setting_that_names_a_file_is_known_by_it_and_a_type_never_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("few", "few.txt", "with.dot"):
        (tmp_path / name).write_text(name)
    found = contents_of(
        {
            "a": {"type": "few.txt", "form": "few", "path": "with.dot", "other": "no.txt"},
            "odd": ["", "~nobody-has-this-home/x", "zero\0byte", "x" * 5000, 1, None],
            "where": ".",
        }
    )
    assert list(found) == ["a.form", "a.path", "where"]
    assert found["where"] == "folder"


def test_of_plugin_files_those_that_both_have_are_compared(tmp_path):
    (tmp_path / "a").mkdir()
    files = [tmp_path / "one.py", tmp_path / "a" / "one.py", tmp_path / "two.py"]
    for number, file in enumerate(files):
        file.write_text(f"# {number}")
    before = Identity({}, plugin_contents(files))
    assert list(before.contents) == ["plugins.one.py", "plugins.one.py (2)", "plugins.two.py"]
    assert differences(before, Identity({}, plugin_contents(files[:2]))) == []
    files[1].write_text("# other")
    [told] = differences(before, Identity({}, plugin_contents(files)))
    assert told.startswith("the plugin file one.py (2)")


def images(root: Path, *, first: int = 0, classes: tuple[str, ...] = ("cat", "dog")) -> ImageTask:
    """A task of image files, 12 for each class; the bytes of the first one are `first`."""

    class Files(list):  # as torchvision's ImageFolder: samples and root
        def __init__(self) -> None:
            self.root, self.samples = str(root), []
            for label, name in enumerate(classes):
                (root / name).mkdir(parents=True, exist_ok=True)
                for number in range(12):
                    path = root / name / f"{number}.png"
                    path.write_bytes(bytes([first if (label, number) == (0, 0) else 7]))
                    self.samples.append((str(path), label))
            super().__init__([(b"", label) for _, label in self.samples])

    data = Files()
    targets = [label for _, label in data.samples]
    return ImageTask("files", (1, 1, 1), classes, data, targets, data, lambda resolution: lambda image: image)


def test_a_task_is_the_same_wherever_its_images_lie_and_another_with_other_images(tmp_path):
    whole = task_hash(images(tmp_path / "a"))
    assert task_hash(images(tmp_path / "b")) == whole
    assert task_hash(images(tmp_path / "c", first=1)) != whole
    assert task_hash(images(tmp_path / "d", classes=("cat", "elk"))) != whole


def test_moved_data_is_the_same_task_and_another_option_is_not(tmp_path):
    def told(root: Path, content: str, **options: str) -> Identity:
        root.mkdir(exist_ok=True)
        settings = {"task": {"type": "imagefolder", "root": str(root), **options}}
        return Identity(settings, {**contents_of(settings), "task": content})

    before = told(tmp_path / "a", "sha256:1")
    assert differences(before, told(tmp_path / "b", "sha256:1")) == []
    assert len(differences(before, told(tmp_path / "b", "sha256:2"))) == 2
    assert len(differences(before, told(tmp_path / "b", "sha256:1", normalize="advprop"))) == 1
    assert differences(before, told(tmp_path / "a", "sha256:2")) == [
        "the data of task had another content: then 1, now 2"
    ]


def test_labels_are_told_apart_as_paths():
    labels = [
        "beta-0.5",
        "beta+0.5",
        "beta-0-5",
        "Beta",
        "beta",
        "",
        ".",
        "..",
        "a/b",
        "a:b",
        "\u00e9",
        "e\u0301",
        "x" * 300,
    ]
    names = [path_name(label) for label in labels]
    assert len({name.lower() for name in names}) == len(labels)
    assert path_name("random") == "random"
    for name in names:
        assert len(name) <= 64
        assert not set(name) & set("/\\:")
        assert name.strip(".")


def test_a_mark_that_is_damaged_is_said(tmp_path):
    written(Folder.begin(tmp_path, LETTER, MINE)).close()
    (tmp_path / "identity.json").write_text("{")
    with pytest.raises(RunError, match=r"cannot read what the folder is, .*identity\.json: it is no JSON"):
        Folder.go_on(tmp_path, LETTER, MINE)
    write_json(tmp_path / "identity.json", {"format": "archloom folder 1", "kind": "letter"})
    with pytest.raises(RunError, match="lacks settings, contents or versions; restore it, or start anew"):
        Folder.go_on(tmp_path, LETTER, MINE)


def test_what_is_named_by_strangers_stays_inside_its_folder():
    from archloom.architecture import Architecture
    from archloom.family import Member
    from archloom.judging.looking import _names

    names = ["phi-3", "phi-1.5", "../config", "a/b", "a b", ".hidden"]
    made = [Member(name, {}, Architecture({}), (1, 1, 1), 0, 0).file for name in names]
    assert made[:2] == ["family/phi-3.json", "family/phi-1.5.json"]
    assert len({file.lower() for file in made}) == len(names)
    assert all(file.count("/") == 1 and not file.startswith("family/.") for file in made)
    paths = [Path("x/a/b/c.png"), Path("y/a/b/c.png"), Path("a/d.png"), Path("b/D.png"), Path("b/e.png")]
    pictures = _names(paths)
    assert len({name.lower() for name in pictures.values()}) == len(paths)
    assert pictures[Path("b/e.png")] == "e"
