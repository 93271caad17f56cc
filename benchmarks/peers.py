"""The tests of others over our networks: timm's own model tests, torchvision's extractor, torch.export, torch.compile.

    python benchmarks/peers.py                     # all networks
    python benchmarks/peers.py --only efficientnet-b0 fbnet_a

timm's tests are those of the installed version: pip fetches its source distribution into a temporary folder, and
`tests/test_models.py` runs there as it is, over models that were registered with timm before. Besides six networks by
name there are one that a search found and one from a configuration. Exit status 1 where anything fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

import archloom
from archloom.plugins import Host
from archloom.source import open_source

NAMES = ("efficientnet-b0", "efficientnet-b1", "fbnet_a", "fbnet_c", "cream_14", "cream_114")
SIDE = 64

FOUND = {
    "space": {"type": "fbnet", "in_channels": 3},
    "task": {"type": "fake", "height": SIDE, "width": SIDE, "size": 40, "test_size": 10},
    "strategy": "random",
    "estimators": ["params"],
    "objectives": ["params"],
    "budget": {"trials": 3},
    "verdict": {"seeds": 0},
}
CONFIGURED = {
    "model": {"backbone": {"type": "ResNet", "depth": 18}, "head": "LinearClsHead"},
    "shape": [3, SIDE, SIDE],
    "classes": [f"class {number}" for number in range(10)],
}

REGISTER = """
import json, os, warnings
import archloom.timm_models
for name, source in json.loads(os.environ["ARCHLOOM_PEERS"]).items():
    archloom.timm_models.register_timm(source, name)
"""


def sources(folder: Path, only: list[str]) -> dict[str, str]:
    """name -> source of all networks, those that are made here in `folder`."""
    made = {name: name for name in NAMES}
    archloom.search(FOUND, folder / "found")
    (folder / "configured.yaml").write_text(yaml.safe_dump(CONFIGURED), encoding="utf-8")
    made |= {"found": str(folder / "found"), "configured": str(folder / "configured.yaml")}
    return {name: source for name, source in made.items() if not only or name in only}


def fetch(folder: Path) -> Path:
    """timm's tests, of the installed version, from its source distribution."""
    package = f"timm=={version('timm')}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*pip, package, "--dest", str(folder)], check=True)
    (archive,) = folder.glob("timm-*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return next(folder.glob("timm-*/tests/test_models.py"))


def timms_tests(folder: Path, networks: dict[str, str]) -> dict[str, tuple[int, int]]:
    """network -> (passed, all) of timm's model tests."""
    tests = fetch(folder)
    (folder / "archloom_peers.py").write_text(REGISTER, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    report = folder / "report.xml"
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(tests),
        "-c",
        str(folder / "pytest.ini"),
        "-p",
        "archloom_peers",
    ]
    command += ["-k", "archloom", "-q", "-W", "ignore", "--tb=line", f"--junitxml={report}"]
    environment = {**os.environ, "PYTHONPATH": path, "ARCHLOOM_PEERS": json.dumps(networks)}
    subprocess.run(command, env=environment, cwd=folder, check=False)
    counts = {name: [0, 0] for name in networks}
    for case in ElementTree.parse(report).iter("testcase"):
        label = str(case.get("name"))
        name = max((n for n in networks if plain(n) + "]" in label), key=len)
        failed = any(child.tag in ("failure", "error", "skipped") for child in case)
        counts[name][0] += not failed
        counts[name][1] += 1
    return {name: (passed, total) for name, (passed, total) in counts.items()}


def plain(name: str) -> str:
    """A network's name as timm's registry has it."""
    return "archloom_" + "".join(letter if letter.isalnum() else "_" for letter in name)


def extracted(model: nn.Module, images: Tensor) -> Tensor:
    """The logits by a module that torchvision's feature extractor made."""
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    last = get_graph_node_names(model)[1][-1]
    return create_feature_extractor(model, return_nodes={last: "logits"})(images)["logits"]


def exported(model: nn.Module, images: Tensor) -> Tensor:
    """The logits by a program of torch.export that takes any batch; made from two images."""
    free = ({0: torch.export.Dim("batch")},)
    return torch.export.export(model, (images[:2],), dynamic_shapes=free).module()(images)


def compiled(model: nn.Module, images: Tensor) -> Tensor:
    """The logits by one graph of torch.compile, without a break."""
    torch._dynamo.reset()
    return torch.compile(model, fullgraph=True, backend="eager")(images)


def scripted(model: nn.Module, images: Tensor) -> Tensor:
    """The logits by TorchScript."""
    return torch.jit.script(model)(images)


WAYS: tuple[Callable[[nn.Module, Tensor], Tensor], ...] = (extracted, exported, compiled, scripted)


def graphs(source: str) -> dict[str, str]:
    """Of each way, "ok" or what went wrong."""
    torch.manual_seed(0)
    model = open_source(source, Host()).build().eval()
    network = nn.Sequential(model.backbone, model.neck, model.head).eval()
    images, told = torch.randn(5, 3, SIDE, SIDE), {}
    for way in WAYS:
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                torch.testing.assert_close(way(network, images), network(images), atol=1e-5, rtol=1e-4)
            told[way.__name__] = "ok"
        except Exception as error:
            told[way.__name__] = (
                f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:80]}"
            )
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="names of the networks, or found, configured")
    only = parser.parse_args().only
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        networks = sources(folder, only)
        counts = timms_tests(folder, networks)
        by_graph = {name: graphs(source) for name, source in networks.items()}
    good = True
    for name, (passed, total) in counts.items():
        good &= passed == total > 0 and set(by_graph[name].values()) == {"ok"}
        print(
            f"{name:20} timm {passed} of {total}; " + "; ".join(f"{k} {v}" for k, v in by_graph[name].items())
        )
    passed, total = (sum(numbers) for numbers in zip(*counts.values(), strict=True))
    print(f"timm {version('timm')}: {passed} of {total}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
