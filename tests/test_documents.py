from __future__ import annotations

import enum
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from archloom.documents import (
    DEPTH,
    json_text,
    parse_json,
    parse_yaml,
    plain,
    read_json,
    read_text,
    read_yaml,
)
from archloom.errors import LONGEST, ArchloomError, ConfigError, RunError, UnknownName

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_what_both_formats_can_hold_is_read_as_it_was_written(value):
    assert parse_json(json.dumps(value), "a file") == value
    assert parse_yaml(yaml.safe_dump(value), "a file") == value
    assert plain(value, "a value") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, r"c\.yaml is not YAML"),
        ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), f"line 1: lists and mappings .* more than {DEPTH} deep"),
        ("{a: " * 100_000, "more than 40 deep"),
        ("\n".join(" " * n + "a:" for n in range(100)), "more than 40 deep"),
        ("&a [*a]", r"line 1: \*a stands inside of what it repeats"),
        ("a: &a {b: {c: *a}}", r"\*a stands inside"),
        ("x: 1\ny:\n  c: 1\n  c: 2\n", "line 4: the key 'c' is there twice, in line 3 already"),
        ("yes: 1\ntrue: 2\n", "line 2: the key 'true' is there twice"),
        ("1: 1\n1.0: 2\n", "line 2: the key '1.0' is there twice"),
        ("a: 2024-01-01", r"c\.yaml: 'a' is read as a date, 2024-01-01; put it in quotes"),
        ("2024-01-01: 1", "the key is read as a date"),
        ("a: !!binary aGVsbG8=", "'a' is binary data"),
        ("a: [1, !!set {x}]", "'a.1' is .*of type builtins.set"),
        ("a: .nan", "'a' is NaN"),
        ("a: 0x" + "f" * 1000, "'a' is a number of 4000 bits"),
        ("a: " + "9" * 10_000, "is not YAML: Exceeds the limit"),
        ('a: "\\0"', r"'a' holds the character U\+0000"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: '" + "x" * 2_000_000 + "'", "'a' is a text of 2,000,000 characters"),
        ("x" * 5_000_000, "more than 4 million characters"),
        ("[" + "1," * 300_000 + "1]", "more than 200,000 values"),
    ],
)
def test_yaml_that_cannot_be_meant_is_refused_in_a_sentence_that_says_where(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_yaml(text, "c.yaml")
    assert len(str(caught.value)) < 600


def test_aliases_that_multiply_are_refused_before_anything_is_built():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    with pytest.raises(ConfigError, match="line 6: it has more than 200,000 values, where each alias"):
        parse_yaml("\n".join(lines), "c.yaml")


def test_anchors_aliases_and_merge_keys_work():
    text = (
        "base: &base {x: 1, y: 2}\nother: &other {z: 3}\n"
        "one: {<<: *base, x: 9}\ntwo:\n  <<: [*base, *other]\nthree:\n  <<: *base\n  <<: *other\nagain: *base\n"
    )
    assert parse_yaml(text, "c.yaml") == {
        "base": {"x": 1, "y": 2},
        "other": {"z": 3},
        "one": {"x": 9, "y": 2},
        "two": {"x": 1, "y": 2, "z": 3},
        "three": {"x": 1, "y": 2, "z": 3},
        "again": {"x": 1, "y": 2},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "t.json: lists and mappings lie in one another"),
        ("[" * 60 + "]" * 60, "more than 40 deep"),
        ('{"a": {"b": 1, "b": 2}}', "t.json has the key 'b' twice"),
        ('{"a": ["\\ud800"]}', r"'a.0' holds the character U\+D800"),
        ('{"\\u0000": 1}', r"the key holds the character U\+0000"),
        ("9" * 5000, "is no JSON: Exceeds the limit"),
        ("{", "cannot read t.json: it is no JSON"),
    ],
)
def test_json_that_cannot_be_meant_is_refused_in_a_sentence(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_json(text, "t.json")
    assert len(str(caught.value)) < 600


def test_a_file_that_is_no_text_too_large_or_not_there_is_said(tmp_path):
    (tmp_path / "b.yaml").write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(
        ConfigError, match=r"cannot read the model .*b\.yaml: line 2 is no UTF-8 text .byte 0xff"
    ):
        read_yaml(tmp_path / "b.yaml", "the model")
    with pytest.raises(RunError, match=r"cannot read the table .*: Is a directory"):
        read_json(tmp_path, "the table", error=RunError)
    with pytest.raises(ConfigError, match="more than 4 MiB"):
        read_yaml(Path("/dev/zero"), "the configuration")
    with pytest.raises(ConfigError, match="null byte"):
        read_text("a\0b", "the file")
    (tmp_path / "bom.json").write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xa9"}')
    assert read_json(tmp_path / "bom.json", "the file") == {"a": "é"}


class _Size(enum.Enum):
    SMALL = 1


class _Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "odd", [{1, 2}, b"x", _Size.SMALL, _Text("x"), object(), 1j, float("nan"), 2**200, "\ud800"]
)
def test_what_is_no_plain_value_is_refused_with_its_place(odd):
    with pytest.raises(ConfigError, match=r"the configuration: 'a\.0\.b' (is|holds) "):
        plain({"a": [{"b": odd}]}, "the configuration")


def test_what_python_writes_otherwise_is_made_plain():
    given = {
        "n": np.int64(3),
        "x": np.float64(0.5),
        "t": np.str_("k"),
        "b": np.bool_(True),
        "p": Path("a/b"),
        "s": (1, 2),
    }
    made = plain(given, "a value")
    assert made == {"n": 3, "x": 0.5, "t": "k", "b": True, "p": "a/b", "s": [1, 2]}
    assert [type(v) for v in made.values()] == [int, float, str, bool, str, list]
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(ConfigError, match="more than 40 deep"):
        plain(loop, "a value")


def test_no_message_is_longer_than_a_page_and_many_names_are_not_all_listed():
    assert len(str(ArchloomError("x" * 10**6))) < LONGEST + 100
    told = str(UnknownName("model", "resnet5O", [f"resnet{n}" for n in range(2000)]))
    assert "did you mean 'resnet5" in told
    assert "nearest of 2,000 known: resnet5" in told
    assert len(told) < 300


@given(values)
def test_json_that_is_written_line_by_line_is_read_as_what_it_was(value):
    assert json.loads(json_text(value)) == json.loads(json.dumps(value))


def test_a_short_mapping_and_each_element_of_a_list_take_one_line():
    rows = [{"case": {"shape": [16, 240, 14, 14], "dtype": "float32"}, "seconds": i / 7} for i in range(3)]
    text = json_text({"machine": {"threads": 2}, "rows": rows, "curve": [i / 3 for i in range(100)]})
    assert len(text.splitlines()) == 2 + 1 + 2 + 3 + 1
    assert '"machine": {"threads": 2},' in text
