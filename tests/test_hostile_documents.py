"""Documents that somebody else wrote: seeded mutations of each kind are read, or refused by a sentence."""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from archloom.architecture import Architecture
from archloom.comparing import parse_comparison
from archloom.config import parse_config
from archloom.config_files import override, read_config
from archloom.errors import LONGEST, ArchloomError
from archloom.latency import LatencyTable, Setting, Timing
from archloom.latency_check import read_measured
from archloom.ranking.config import parse_rank
from archloom.resolve import resolve
from archloom.source import choose, open_source
from archloom.zoo import architecture_document, find
from toys import Blocks, config, host


class UnwrittenError(Exception):
    """A value that the writers of these tests cannot write: it reaches no reader."""


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


HOSTILE: list[Any] = [
    *(None, True, False, 0, 1, -1, 3.5, 1e308, float("inf"), float("nan"), 2**31, 2**63, 10**30, 10**400),
    *(
        "",
        " ",
        "x",
        "1e3",
        "null",
        "\x00",
        "\ud800",
        "é" * 5,
        "x" * 10**5,
        "../../etc/passwd",
        "/dev/zero",
        "[/x]",
        "%s",
    ),
    *(
        [],
        {},
        [[]],
        [None],
        [1, 2, 3],
        [True],
        {"": 1},
        {"type": 1},
        {"type": None},
        {"type": "x"},
        {"type": ["a"]},
    ),
    *(
        ["x"] * 2000,
        {str(n): n for n in range(300)},
        deep(30),
        deep(60),
        deep(300),
        10**6,
        "blocks",
        "digits",
        "k1",
    ),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if len(path) < 12:
        for key, inner in inside:
            yield from places(inner, (*path, key))


def mutated(document: Any, rng: random.Random) -> Any:
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 2, 3))):
        *way, key = rng.choice(list(places(document)) or [("x",)])
        home = document
        for step in way:
            home = home[step]
        value = rng.choice(HOSTILE)
        match rng.choice(("set", "set", "set", "remove", "rename", "wrap", "add")):
            case "remove":
                del home[key]
            case "rename" if isinstance(home, dict):
                home[rng.choice(("", "type", "x", "path", "\x00", "1"))] = home.pop(key)
            case "wrap":
                home[key] = rng.choice(
                    ([home[key]], {"type": home[key]}, {"x": home[key]}, str(home[key])[:99])
                )
            case "add" if isinstance(home[key], dict):
                home[key][rng.choice(("type", "x", "path", "document", "name"))] = value
            case "add" if isinstance(home[key], list):
                home[key].append(value)
            case _:
                home[key] = value
        if not isinstance(document, dict | list) or not document:
            return document
    return document


def torn(text: bytes, rng: random.Random) -> bytes:
    data = bytearray(text)
    at = rng.randrange(len(data))
    bad = (
        b"[" * 9999,
        b"\x00",
        b"\xff\xfe",
        b"&a [*a]",
        b"<<: ",
        b"\t",
        b"!!binary x",
        b"2001-99-99",
        b"'",
        b"*x",
        b"9" * 5000,
    )
    match rng.randrange(4):
        case 0:
            del data[at:]
        case 1:
            data[at] = rng.randrange(256)
        case 2:
            data[at:at] = rng.choice(bad)
        case 3:
            data[at:at] = data[at // 2 : at]
    return bytes(data)


@pytest.fixture(scope="module")
def plugins():
    return host()


@pytest.fixture(scope="module")
def readers(plugins, tmp_path_factory) -> dict[str, tuple[Any, Callable[[Any, random.Random], object]]]:
    """Each kind of document: a good one, and how it is read."""
    folder = tmp_path_factory.mktemp("documents")
    space = Blocks()
    layers = {c.name: {option: f"{option} 4x8x8 -> 4x8x8" for option in c.options} for c in space.choices}
    fixed = ["stem 1x8x8 -> 4x8x8", "tail 4x8x8 -> 4x8x8", "neck and head 4x8x8 -> 10"]
    keys = [key for of in layers.values() for key in of.values()] + fixed
    table = LatencyTable(
        dict.fromkeys(keys, Timing(1.0, 1.0, 1.0, 3)), layers, fixed, Setting("cpu", "float32", 1, 1, "2")
    )
    architecture = architecture_document(
        {"type": "blocks", "depth": 2},
        Architecture({"layer0": "k1", "layer1": "k3"}),
        shape=(1, 8, 8),
        classes=("a", "b"),
        model={"head": {"type": "LinearHead", "dropout": 0.5}},
    )
    model = {
        "model": {"backbone": {"type": "architecture", "document": architecture}, "neck": "GlobalAverage"},
        "shape": [1, 8, 8],
        "classes": ["a", "b"],
    }
    recipe = {
        "base": "default",
        "epochs": 3,
        "lr": 0.1,
        "schedule": "step",
        "randaugment": [2, 9],
        "ema": 0.99,
    }
    net = folder / "net.yaml"
    net.write_text("model: {backbone: {type: ResNet, depth: 18}}\ntask: {type: digits, train_size: 64}\n")

    def written(name: str, document: Any, rng: random.Random, dump: Callable[[Any], str]) -> Any:
        path = folder / name
        try:
            text = dump(document).encode("utf-8", "surrogatepass")
        except (TypeError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise UnwrittenError from error
        path.write_bytes(torn(text, rng) if rng.random() < 0.3 else text)
        return path

    def dotted(document: Any, rng: random.Random) -> object:
        key = ".".join(map(str, rng.choice(list(places(document)))))
        value = rng.choice((*HOSTILE[:20], "[" * 2000, "{a: 1, a: 2}"))
        return parse_config(override(config(), [f"{key}={value}"]))

    return {
        "configuration": (
            config(pick={"best": "sum", "within": {"sum": 1}}),
            lambda d, rng: resolve(parse_config(d), plugins).config.identity(),
        ),
        "configuration's file": (
            config(),
            lambda d, rng: read_config(written("c.yaml", d, rng, yaml.safe_dump)).model_dump_json(),
        ),
        "override": (config(), dotted),
        "architecture": (architecture, lambda d, rng: find(d, plugins).build()),
        "architecture's file": (
            architecture,
            lambda d, rng: open_source(written("a.json", d, rng, json.dumps), plugins).build(),
        ),
        "model": (
            model,
            lambda d, rng: open_source(written("m.yaml", d, rng, yaml.safe_dump), plugins).build(),
        ),
        "recipe": (
            recipe,
            lambda d, rng: choose(net, plugins, recipe=str(written("r.yaml", d, rng, yaml.safe_dump))),
        ),
        "latency table": (
            json.loads(json.dumps(table.to_json())),
            lambda d, rng: (
                LatencyTable.read(written("t.json", d, rng, json.dumps))
                .check(space, (1, 8, 8))
                .latency(Architecture({"layer0": "k1", "layer1": "k3"}))
            ),
        ),
        "measured networks": (
            {"arch": ["00", "11"], "latency_ms": {"a": [1.0, 2.0]}},
            lambda d, rng: read_measured(written("n.json", d, rng, json.dumps), space),
        ),
        "comparison": (
            {
                "space": "digit_space",
                "strategies": ["random"],
                "select": "sum",
                "score": "sum",
                "budget": {"trials": 3},
            },
            lambda d, rng: json.dumps(parse_comparison(d).identity()),
        ),
        "ranking": (
            {
                "space": "digit_space",
                "truth": "additive",
                "metric": "sum",
                "predictors": ["params"],
                "networks": 3,
            },
            lambda d, rng: parse_rank(d).model_dump_json(),
        ),
    }


KINDS = (
    *(
        "configuration",
        "configuration's file",
        "override",
        "architecture",
        "architecture's file",
        "model",
        "recipe",
    ),
    *("latency table", "measured networks", "comparison", "ranking"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_document_is_read_or_refused_in_a_sentence_and_soon(readers, kind):
    good, read = readers[kind]
    rng, refusals = random.Random(f"hostile {kind}"), []
    for _ in range(40):
        document = good if kind == "override" else mutated(good, rng)
        started = time.process_time()
        try:
            read(document, rng)
        except UnwrittenError:
            continue
        except ArchloomError as error:
            refusals.append(str(error))
        assert time.process_time() - started < 10
    assert len(refusals) > 10
    assert all(0 < len(told) <= 2 * LONGEST and "\x00" not in told for told in refusals)
