"""Exports: what is written is the network, and nothing else is ever left."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from archloom import Architecture, ops
from archloom.errors import ConfigError, ExportError, UnknownName, WeightsError
from archloom.exporting import FORMATS, export
from archloom.exporting.checking import TOLERANCE, compare, logits_of, prepared
from archloom.model import Model
from archloom.source import open_source
from archloom.trained import open_trained
from archloom.zoo import architecture_document
from archloom_efficientnet import EfficientNet
from archloom_efficientnet import save as save_weights

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
timm = pytest.importorskip("timm")


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Each format once: {format: Exported}."""
    top = tmp_path_factory.mktemp("exports")
    return {name: export(trained, name, top / name) for name in FORMATS}


@pytest.fixture(scope="module")
def images(digits):
    data = digits.dataset("test")
    return torch.stack([data[i][0] for i in range(70)])


def test_onnxruntime_gives_the_networks_logits_for_any_batch(exported, trained, images):
    session = onnxruntime.InferenceSession(str(exported["onnx"].file), providers=["CPUExecutionProvider"])
    for count in (1, 2, 7, 70):
        (logits,) = session.run(None, {"images": images[:count].numpy()})
        torch.testing.assert_close(
            torch.from_numpy(logits), logits_of(trained.model, images[:count]), atol=1e-4, rtol=0
        )


def test_an_onnx_file_is_sound_and_says_what_it_is(exported):
    model = onnx.load(str(exported["onnx"].file))
    onnx.checker.check_model(model, full_check=True)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(facts["classes"]) == [str(digit) for digit in range(10)]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert {node.domain for node in model.graph.node} == {""}  # operators of the standard alone


def test_a_torch_export_program_gives_the_networks_logits(exported, trained, images):
    module = torch.export.load(exported["torch"].file).module()
    torch.testing.assert_close(module(images[:9]), logits_of(trained.model, images[:9]), atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
def test_torchscript_gives_the_networks_logits(exported, trained, images):
    module = torch.jit.load(exported["torchscript"].file)
    torch.testing.assert_close(module(images[:9]), logits_of(trained.model, images[:9]), atol=1e-4, rtol=0)


def test_a_safetensors_folder_is_a_source_that_gives_the_same_bits(exported, trained, images, host):
    again = open_trained(exported["safetensors"].folder, host=host)
    assert torch.equal(logits_of(again.model, images), logits_of(trained.model, images))
    assert (again.classes, again.task.name) == (trained.classes, "digits")
    assert exported["safetensors"].difference == 0


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"safetensors"}))
def test_an_export_that_is_no_source_says_what_it_is_and_which_are(exported, host, format):
    with pytest.raises(
        ConfigError, match=f"is an export of format '{format}'.*safetensors alone are sources"
    ):
        open_source(exported[format].folder, host)


def test_timm_builds_the_network_from_the_folder(exported, trained, images):
    import archloom.timm_models  # noqa: F401 - registers the entry

    model = timm.create_model(f"local-dir:{exported['timm'].folder}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(images), logits_of(trained.model, images), atol=1e-5, rtol=0)
    data = timm.data.resolve_model_data_config(model)
    assert (tuple(data["input_size"]), tuple(data["mean"])) == ((1, 8, 8), (0.305521,))


def test_config_and_card_say_what_the_network_is_and_reaches(exported, trained, folder):
    config = json.loads((exported["onnx"].folder / "config.json").read_text())
    stored = json.loads((folder / "metrics.json").read_text())
    assert config["metrics"]["test.accuracy"] == stored["test.accuracy"]
    assert config["params"] == sum(p.numel() for p in trained.model.parameters())
    assert config["check"]["images"] == 256
    assert config["check"]["of"] == "the test split of task 'digits'"
    assert 0 <= config["check"]["largest_difference"] <= TOLERANCE
    assert config["preprocessing"]["mean"] == [0.305521]
    assert config["provenance"]["versions"]["torch"] == torch.__version__
    card = (exported["onnx"].folder / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["pipeline_tag"] == "image-classification"
    assert f"{config['params']:,}" in card
    assert "## Licence" in card


def test_a_fixed_batch_is_the_only_one_that_the_graph_takes(trained, tmp_path, images):
    done = export(trained, "onnx", tmp_path / "four", batch=4)
    session = onnxruntime.InferenceSession(str(done.file), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [4, 1, 8, 8]
    assert session.run(None, {"images": images[:4].numpy()})[0].shape == (4, 10)


def test_another_resolution_is_exported_and_checked(folder, host, tmp_path):
    done = export(open_trained(folder, resolution=16, host=host), "torch", tmp_path / "large")
    config = json.loads((done.folder / "config.json").read_text())
    assert config["input"]["shape"] == ["batch", 1, 16, 16]
    assert torch.export.load(done.file).module()(torch.zeros(3, 1, 16, 16)).shape == (3, 10)


@pytest.mark.parametrize(
    "backbone",
    [{"type": "torchvision", "name": "resnet18"}, {"type": "timm", "name": "test_resnet"}],
    ids=lambda part: part["type"],
)
@pytest.mark.parametrize("format", ["onnx", "torch", "torchscript", "safetensors", "timm"])
def test_backbones_of_others_are_exported_too(backbone, format, host, tmp_path):
    network = {
        "model": {"backbone": backbone, "head": "LinearHead"},
        "shape": [3, 32, 32],
        "classes": ["a", "b", "c"],
    }
    (tmp_path / "net.yaml").write_text(yaml.safe_dump(network))
    made = open_trained(tmp_path / "net.yaml", untrained=True, host=host)
    done = export(made, format, tmp_path / "out")
    assert done.checked_on == "random images (no task is known)"
    assert done.file.stat().st_size > 10_000


PARTS = """
import torch
from torch import nn

import archloom


class Cosine(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.directions = nn.Parameter(torch.randn(num_classes, in_channels))

    def forward(self, x):
        return nn.functional.normalize(x) @ nn.functional.normalize(self.directions).T


@archloom.hookimpl
def register_components(register):
    register("head.Cosine", Cosine)
"""


def test_a_users_own_parts_are_exported_and_found_again(tmp_path):
    (tmp_path / "parts.py").write_text(PARTS)
    network = {
        "model": {"backbone": {"type": "ResNet_CIFAR", "depth": 18, "base_channels": 4}, "head": "Cosine"},
        "task": "digits",
        "plugins": ["parts.py"],
    }
    (tmp_path / "net.yaml").write_text(yaml.safe_dump(network))
    made = open_trained(tmp_path / "net.yaml", untrained=True)
    again = open_trained(export(made, "safetensors", tmp_path / "out").folder)
    assert type(again.model.head).__name__ == "Cosine"
    done = export(made, "timm", tmp_path / "timm")
    with pytest.raises(ConfigError, match="unknown head 'Cosine'"):
        timm.create_model(f"local-dir:{done.folder}", pretrained=True)
    model = timm.create_model(f"local-dir:{done.folder}", pretrained=True, host=made.host).eval()
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_folder_for_timm_cannot_name_code_to_run(exported, tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    config = json.loads((exported["timm"].folder / "config.json").read_text())
    for key, value in (("plugins", [str(tmp_path / "evil.py")]), ("host", [str(tmp_path / "evil.py")])):
        (tmp_path / "config.json").write_text(
            json.dumps({**config, "model_args": {**config["model_args"], key: value}})
        )
        with pytest.raises((ConfigError, TypeError), match=key):
            timm.create_model(f"local-dir:{tmp_path}")


@pytest.mark.parametrize("name", ["fbnet_96_035_1", "cream_14", "efficientnet-b0"])
def test_named_networks_are_exported_without_operators_of_ours(name, host, tmp_path):
    made = open_trained(name, resolution=64, untrained=True, host=host)
    done = export(made, "torch", tmp_path / "out")
    program = torch.export.load(done.file)
    assert not [node for node in program.graph.nodes if "archloom" in str(node.target)]


def test_operators_of_ours_become_plain_ones_in_an_exported_graph():
    class Net(nn.Module):
        def forward(self, x):
            return ops.scale_gate(ops.swish(x), x.mean((2, 3), keepdim=True))

    program = torch.export.export(Net(), (torch.zeros(2, 64, 64, 64),))
    assert not [node for node in program.graph.nodes if "archloom" in str(node.target)]


def test_the_hook_for_exporters_is_called_on_a_copy():
    class Curious(nn.Module):
        seen = None

        def prepare_export(self, shape):
            self.seen = shape

        def forward(self, x):
            return x

    model = Model(Curious(), nn.Flatten(), nn.Linear(12, 2), nn.CrossEntropyLoss())
    copy = prepared(model.train(), (3, 2, 2))
    assert (copy.backbone.seen, model.backbone.seen) == ((3, 2, 2), None)
    assert model.training
    assert not copy.training
    assert not any("loss" in name for name, _ in copy.named_modules())


# -- what is wrong ------------------------------------------------------------------------------------------


def contents(path):
    return sorted(each.name for each in path.iterdir())


def test_a_wrong_file_is_not_left_behind(trained, tmp_path, monkeypatch):
    wrong = prepared(trained.model, trained.shape)
    with torch.no_grad():
        next(iter(wrong.parameters())).mul_(1.5)
    monkeypatch.setattr("archloom.exporting.prepared", lambda model, shape: wrong)
    for format in ("onnx", "torch", "torchscript"):
        with pytest.raises(ExportError, match="gives other outputs than the network"):
            export(trained, format, tmp_path / "out" / format)
    assert contents(tmp_path) == []


def test_an_older_export_stays_whole_when_a_new_one_fails(trained, tmp_path, monkeypatch):
    done = export(trained, "torchscript", tmp_path / "out")
    before = done.file.read_bytes()

    def broken(*_, **__):
        raise RuntimeError("no such operator\nand a page more")

    monkeypatch.setattr(torch.jit, "trace", broken)
    with pytest.raises(
        ExportError, match=r"cannot be made of this network: RuntimeError: no such operator\. No"
    ):
        export(trained, "torchscript", tmp_path / "out")
    assert done.file.read_bytes() == before
    assert contents(tmp_path) == ["out"]


@pytest.mark.parametrize("value", [math.nan, 1.0])
def test_a_difference_or_a_nan_is_refused(value):
    wanted = torch.randn(5, 3)
    with pytest.raises(ExportError, match="gives other outputs"):
        compare(lambda part: torch.full((len(part), 3), value), torch.zeros(5, 1), wanted, None, "it")


def test_a_graph_that_holds_for_one_batch_size_only_is_refused():
    def picky(part):
        if len(part) != 2:
            raise ValueError("two, please")
        return torch.zeros(2, 3)

    with pytest.raises(ExportError, match="does not run on a batch of 1 images: ValueError: two, please"):
        compare(picky, torch.zeros(2, 1), torch.zeros(2, 3), None, "it")


def test_an_unknown_format_is_named_with_the_nearest(trained, tmp_path):
    with pytest.raises(UnknownName, match="unknown format 'onxx'; did you mean 'onnx'"):
        export(trained, "onxx", tmp_path / "out")


@pytest.mark.parametrize(("format", "batch"), [("onnx", 0), ("safetensors", 4)])
def test_a_batch_that_cannot_be_is_refused(trained, tmp_path, format, batch):
    with pytest.raises(ConfigError, match="batch is 'dynamic' or a whole number"):
        export(trained, format, tmp_path / "out", batch=batch)


@pytest.mark.parametrize(
    ("format", "package", "extra"),
    [
        ("onnx", "onnx", "export"),
        ("onnx", "onnxruntime", "export"),
        ("onnx", "onnxscript", "export"),
        ("timm", "timm", "timm"),
    ],
)
def test_a_missing_package_is_told_with_the_way_out(trained, tmp_path, without, format, package, extra):
    without(package)
    with pytest.raises(ConfigError) as caught:
        export(trained, format, tmp_path / "out")
    assert f"needs the package '{package}'" in str(caught.value)
    assert f'pip install "archloom[{extra}]"' in str(caught.value)
    assert contents(tmp_path) == []


def test_no_weights_are_an_error_that_says_how_to_get_them(host):
    with pytest.raises(ConfigError, match="there are no weights beside fbnet_a: train them"):
        open_trained("fbnet_a", host=host)


def test_weights_that_do_not_fit_are_named(folder, host, tmp_path):
    other = tmp_path / "other.pt"
    state = load_file(folder / "weights.safetensors")
    torch.save({key: value for key, value in state.items() if "head" not in key}, other)
    with pytest.raises(WeightsError, match="missing: head"):
        open_trained(folder, other, host=host)


def test_a_file_that_is_no_weights_is_named(folder, host, tmp_path):
    (tmp_path / "w.safetensors").write_text("hello")
    with pytest.raises(WeightsError, match="cannot read the weights"):
        open_trained(folder, tmp_path / "w.safetensors", host=host)


def test_a_task_whose_images_are_gone_does_not_hinder_an_export(folder, host, tmp_path):
    moved = replace(open_source(folder, host))
    moved.write(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes())
    stored = {"task": {"type": "imagefolder", "root": str(tmp_path / "gone")}}
    (tmp_path / "training.yaml").write_text(yaml.safe_dump(stored))
    opened = open_trained(tmp_path, host=host)
    assert opened.task is None
    assert "there is no folder" in opened.no_task
    assert export(opened, "torchscript").checked_on == "random images (no task is known)"


# -- the command line ---------------------------------------------------------------------------------------


def test_export_is_one_command(archloom, folder, tmp_path):
    code, out, err = archloom("export", folder, "--format", "onnx", "--out", tmp_path / "o", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["checked_on"] == "the test split of task 'digits'"
    assert (tmp_path / "o" / "model.onnx").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "onxx"], "unknown format 'onxx'"),
        (["--format", "onnx", "--batch", "many"], "--batch is 'dynamic' or a whole number"),
        (["--format", "onnx", "--resolution", "0"], "resolution must be at least 1"),
        (["--format", "onnx", "--weights", "gone.pt"], "there is no weights file gone.pt"),
        (["--format", "onnx", "--task", "digist"], "did you mean 'digits'"),
    ],
)
def test_a_wrong_word_is_told_and_writes_nothing(archloom, folder, tmp_path, words, message):
    code, _, err = archloom("export", folder, "--out", tmp_path / "o", *words)
    assert code == 2
    assert message in " ".join(err.split())
    assert contents(tmp_path) == []


@pytest.mark.parametrize("format", ["safetensors", "timm", "torchscript"])
def test_weights_that_need_another_padding_are_exported_with_it(format, tmp_path, monkeypatch):
    """A network takes over how its weights compute, and so does every folder that is made of it."""
    space = {"type": "efficientnet", "blocks": ["r1_k3_s22_e2_i32_o16_se0.25"], "head_filters": 32}
    document = architecture_document(
        space,
        Architecture({"network": "efficientnet-b0"}),
        shape=(3, 32, 32),
        classes=("a", "b", "c"),
        model={"head": {"type": "LinearHead"}},
    )
    (tmp_path / "architecture.json").write_text(json.dumps(document))
    theirs = EfficientNet.from_block_strings(space["blocks"], head_filters=32, num_classes=3)
    theirs.set_behaviour(padding="symmetric", epsilon=0.1, momentum=0.9)
    save_weights(theirs, tmp_path / "w.safetensors")
    trained = open_trained(tmp_path / "architecture.json", tmp_path / "w.safetensors")
    exported = export(trained, format, tmp_path / "out")
    assert exported.difference < 1e-5
    images = torch.randn(2, 3, 33, 33)
    with torch.no_grad():
        wanted = theirs.eval()(images)
        if format == "torchscript":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # deprecated, and still asked for
                again = torch.jit.load(str(exported.file))
        elif format == "timm":
            again = timm.create_model(f"local-dir:{exported.folder}", pretrained=True).eval()
        else:
            again = open_trained(exported.folder).model
        torch.testing.assert_close(again(images), wanted, atol=1e-5, rtol=1e-4)


@pytest.fixture
def of_photographs(tmp_path):
    """A network for image files at a size at which a crop of 0.875 is no whole number of pixels."""
    torch.manual_seed(0)
    for split in ("train", "val"):
        for label in ("coarse", "fine"):
            (tmp_path / "photos" / split / label).mkdir(parents=True)
            for number in range(4):
                cells = 7 if label == "coarse" else 40
                noise = (torch.rand(1, 3, cells, cells) * 255).byte()
                picture = torch.nn.functional.interpolate(noise.float(), (97, 120)).byte()[0].permute(1, 2, 0)
                Image.fromarray(picture.numpy()).save(tmp_path / "photos" / split / label / f"{number}.png")
    model = {
        "backbone": {"type": "ResNet_CIFAR", "depth": 18, "base_channels": 4, "num_stages": 2},
        "head": "LinearClsHead",
    }
    task = {"type": "imagefolder", "root": str(tmp_path / "photos"), "resolution": 32, "workers": 0}
    (tmp_path / "net.yaml").write_text(yaml.safe_dump({"model": model, "task": task}))
    return open_trained(tmp_path / "net.yaml", untrained=True)


def test_what_is_said_of_images_is_compared_on_image_files_and_not_on_logits_alone(of_photographs, tmp_path):
    assert export(of_photographs, "timm", tmp_path / "right").difference < 1e-3
    told = {**of_photographs.task.preprocessing, "crop_pct": 0.85}
    wrong = replace(of_photographs, task=replace(of_photographs.task, preprocessing=told))
    with pytest.raises(ExportError, match="prepare image files otherwise than task 'imagefolder'"):
        export(wrong, "timm", tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()
