"""Tasks that are no classification of images: a regression on images and a classification of series, from the search
to what is made of a trained network."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from typer.testing import CliRunner

import archloom
from archloom.augmentation import Erased
from archloom.cli import app
from archloom.errors import ConfigError, TaskError
from archloom.estimator import Metric
from archloom.exporting import export
from archloom.judging.evaluation import evaluate as evaluate_classes
from archloom.judging.looking import look
from archloom.judging.prediction import predict
from archloom.judging.scores import score
from archloom.metrics import Classification, Totals, check_scoring, scoring_of
from archloom.model import GlobalAverage, LinearHead, Model, ModelParts
from archloom.plugins import Host
from archloom.ranks import Ranks
from archloom.retraining import evaluate, retrain
from archloom.run import load_checkpoint
from archloom.task import batches
from archloom.teacher import load_teacher
from archloom.trained import open_trained
from archloom.training import Recipe, check_trainable, train
from archloom_vision.losses import CrossEntropyLoss, L1Loss, MSELoss
from other_tasks import Brightness, Plain, Waves

PLUGIN = str(Path(__file__).with_name("other_tasks.py"))
BASE = {
    "plugins": [PLUGIN],
    "budget": {"trials": 2},
    "verdict": {"seeds": 1, "random": 1, "cost": "params"},
    "recipe": {"type": "default", "epochs": 2, "batch_size": 16, "lr": 0.05},
    "observers": [],
    "seed": 1,
}
REGRESSION = BASE | {"space": "plain", "task": "brightness", "model": {"loss": "MSELoss"}}
SERIES = BASE | {
    "space": {"type": "plain", "dimensions": 1, "in_channels": 2},
    "task": "waves",
    "model": {"neck": "SeriesAverage"},
    "strategy": {"type": "evolution", "population": 2, "tournament": 2},
    "estimators": [{"type": "accuracy", "epochs": 1}, "latency", "params", "macs"],
    "objectives": ["accuracy.trained"],
}


@pytest.fixture(scope="module")
def regression(tmp_path_factory):
    """A finished search for a regression, by random draws and trained networks."""
    config = REGRESSION | {
        "strategy": "random",
        "estimators": [{"type": "accuracy", "epochs": 1, "lr": 0.02}, "params", "macs"],
        "objectives": ["rmse.trained"],
    }
    return archloom.search(config, folder=tmp_path_factory.mktemp("regression") / "run")


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """A finished search for a classifier of series."""
    return archloom.search(SERIES, folder=tmp_path_factory.mktemp("series") / "run")


def trial_values(result, metric):
    return [trial.metrics[metric] for trial in result.trials]


# -- the search ---------------------------------------------------------------------------------------------


def test_a_search_picks_the_network_of_the_smallest_error(regression):
    values = trial_values(regression, "rmse.trained")
    best = min(regression.trials, key=lambda trial: trial.metrics["rmse.trained"])
    assert all(value > 0 for value in values)
    assert regression.architecture == best.architecture
    assert regression.units["rmse.trained"] == "lux"


def test_a_search_over_series_measures_accuracy_params_macs_and_latency(series):
    for trial in series.trials:
        kernels = [int(option[1]) for option in trial.architecture.to_json().values() if option != "skip"]
        convolutions = [16 * 4 * 4 * kernel for kernel in kernels]
        assert trial.metrics["macs"] == 16 * 2 * 4 + sum(convolutions) + 4 * 3
        assert 0 <= trial.metrics["accuracy.trained"] <= 100
        assert trial.metrics["latency.measured"] > 0


def test_the_verdict_goes_by_the_main_metric_and_its_unit(regression, series):
    (group, *_), said = regression.groups, regression.verdict[0]
    assert group.metrics["test.rmse"].unit == "lux"
    assert group.metrics["test.rmse"].value > 0
    assert "lux of test rmse" in said
    assert "accuracy" not in said
    assert "points of test accuracy" in series.verdict[0]


def test_the_report_and_the_terminal_name_the_metric_with_its_unit(regression):
    page = (regression.folder / "report.html").read_text()
    assert "test rmse lux" in page
    assert "rmse.trained" in page
    assert "top-1" not in page
    assert "test accuracy" not in page
    assert "Input 1 x 8 x 8 (channels x height x width), outputs 1." in page
    assert "classes" not in page.partition("The file architecture.json builds it")[0].rpartition("Input")[2]
    shown = CliRunner().invoke(app, ["resume", str(regression.folder), "--trust"], env={"COLUMNS": "200"})
    assert "test rmse lux" in shown.output
    assert "top-1" not in shown.output


def test_a_training_of_the_verdict_keeps_the_epoch_of_the_smallest_validation_error(regression):
    folder = next((regression.folder / "final").glob("found*"))
    history = load_checkpoint(folder / "training.pt")["history"]
    errors = [epoch["validation.rmse"] for epoch in history]
    assert load_checkpoint(folder / "best.pt")["epoch"] == 1 + errors.index(min(errors))


def test_fbnet_searches_for_a_regression(tmp_path):
    method = {"type": "fbnet", "epochs": 1, "warmup_epochs": 0, "batch_size": 8, "cost": "macs", "lr": 0.01}
    result = archloom.search(
        REGRESSION
        | {
            "method": method | {"loss": "additive", "samples": 2},
            "estimators": ["inherited_accuracy", "params"],
            "objectives": ["rmse.inherited"],
            "verdict": {"seeds": 0},
        },
        folder=tmp_path / "run",
    )
    assert all(value > 0 for value in trial_values(result, "rmse.inherited"))
    events = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    passes = [event["metrics"] for event in events if event["event"] == "fit"]
    assert passes
    assert all("accuracy" not in name for metrics in passes for name in metrics)
    assert all(metrics.get("weights.rmse", metrics.get("theta.rmse")) > 0 for metrics in passes)


def test_cream_is_for_classes(tmp_path):
    config = REGRESSION | {"method": "cream", "estimators": ["inherited_accuracy", "params"]}
    with pytest.raises(ConfigError, match=r"method 'cream'.*tasks of classes.*'brightness'.*rmse"):
        archloom.search(config | {"objectives": ["rmse.inherited"]}, folder=tmp_path / "run")


# -- a trained network --------------------------------------------------------------------------------------


def test_a_found_network_is_retrained_and_evaluated_by_its_tasks_metrics(regression, tmp_path):
    trained = retrain(regression.folder, tmp_path / "again", observers=(), trust=True)
    assert set(trained.metrics) == {
        f"{split}.{name}" for split in ("validation", "test") for name in ("rmse", "mae")
    }
    assert evaluate(tmp_path / "again", trust=True)["rmse"] == trained.metrics["test.rmse"]
    network = open_trained(tmp_path / "again", trust=True)
    found = score(network)
    images, targets = Brightness().data["test"].tensors
    with torch.no_grad():
        errors = (network.model(images) - targets).double()
    assert found.values["rmse"] == pytest.approx(math.sqrt(errors.square().mean()), rel=1e-6)
    assert found.values["mae"] == pytest.approx(float(errors.abs().mean()), rel=1e-6)
    shown = CliRunner().invoke(app, ["evaluate", str(tmp_path / "again"), "--trust"])
    assert re.search(r"rmse.*lux", shown.output)
    assert "items" in shown.output


def test_a_network_of_series_is_evaluated_and_retrained(series, tmp_path):
    found = evaluate_classes(open_trained(series.folder, trust=True))
    assert set(found.classes) == set(Waves.classes)
    assert found.images == 16
    trained = retrain(series.folder, tmp_path / "again", observers=(), trust=True)
    assert 0 <= trained.metrics["test.accuracy"] <= 100


def test_what_is_for_classes_or_images_alone_says_so(regression, series, tmp_path):
    number, wave = (open_trained(one.folder, trust=True) for one in (regression, series))
    with pytest.raises(ConfigError, match=r"prediction is of networks that tell classes apart"):
        list(predict(number, ["a.png"]))
    with pytest.raises(ConfigError, match=r"of images \(channels, height, width\).*\(2, 16\)"):
        list(predict(wave, ["a.png"]))
    with pytest.raises(ConfigError, match="judging by classes"):
        evaluate_classes(number)
    with pytest.raises(ConfigError, match="test-time augmentation is of images"):
        evaluate_classes(wave, tta="flip")
    with pytest.raises(ConfigError, match="a resolution is of images"):
        open_trained(series.folder, trust=True, resolution=32)
    with pytest.raises(ConfigError, match="'timm' is of image classifiers"):
        export(number, "timm", tmp_path / "timm")
    with pytest.raises(ConfigError, match=r"latency tables are of images.*estimator latency"):
        archloom.search(
            SERIES | {"estimators": ["accuracy", "latency_table"], "verdict": {"seeds": 0}},
            folder=tmp_path / "run",
        )


@pytest.mark.parametrize("which", ["regression", "series"])
def test_an_exported_folder_builds_the_same_network(which, request, tmp_path):
    trained = open_trained(request.getfixturevalue(which).folder, trust=True)
    export(trained, "safetensors", tmp_path / "out")
    again = open_trained(tmp_path / "out", trust=True)
    x = torch.rand(3, *trained.shape)
    assert torch.equal(again.model(x), trained.model(x))
    facts = json.loads((tmp_path / "out" / "config.json").read_text())
    assert facts["output"]["shape"] == ["batch", *trained.scoring.outputs]


# -- losses and recipes -------------------------------------------------------------------------------------


class Number(nn.Module):
    """Images -> the mean of each, once as it is and once scaled, (N, 1, 1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        return self.scale(x)


def assembled(loss, task):
    return ModelParts(loss=loss).assemble(Number(), shape=task.shape, task=task)


@pytest.mark.parametrize("loss", [CrossEntropyLoss, nn.CrossEntropyLoss])
def test_the_cross_entropy_of_one_number_is_refused(loss):
    with pytest.raises(ConfigError, match=r"CrossEntropyLoss.*loss: MSELoss"):
        assembled(loss, Brightness())


def test_a_cross_entropy_of_several_numbers_is_refused():
    class Three(Brightness):
        outputs = (3,)

        def example_targets(self, count):
            return torch.rand(count, 3) * 5

    with pytest.raises(ConfigError, match="compares the outputs of an input with one another"):
        assembled(nn.CrossEntropyLoss, Three())
    assembled(nn.SmoothL1Loss, Three())


def test_targets_that_would_be_broadcast_are_refused():
    class Flat(Brightness):
        def example_targets(self, count):
            return torch.zeros(count)

    with pytest.raises(ConfigError, match="targets of its outputs' shape"):
        assembled(nn.MSELoss, Flat())


def test_a_head_of_another_shape_than_the_tasks_outputs_is_refused():
    parts = ModelParts(head=lambda features, numbers: LinearHead(features, 2), loss=MSELoss)
    with pytest.raises(ConfigError, match=r"\(1, 2\) for one input.*must give \(1, 1\)"):
        parts.assemble(Number(), shape=(1, 8, 8), task=Brightness())


@pytest.mark.parametrize(
    "options",
    [{"mixup": 0.2}, {"cutmix": 1.0}, {"label_smoothing": 0.1}, {"teacher": "fbnet_a"}],
    ids=lambda options: next(iter(options)),
)
def test_what_a_recipe_does_with_classes_alone_is_refused(options):
    with pytest.raises(ConfigError, match=f"recipe: {next(iter(options))}: .*tasks of classes alone.*rmse"):
        check_trainable(MSELoss(), Brightness(), Recipe(**options))


def test_erasing_and_policies_are_of_images():
    class Bent(Waves):
        policies = True

    for options in ({"erasing": 0.5}, {"trivialaugment": True}):
        with pytest.raises(ConfigError, match="for images"):
            check_trainable(CrossEntropyLoss(), Bent(), Recipe(**options))


def test_patience_and_the_best_epoch_go_by_the_direction_of_the_main_metric(tmp_path):
    model = Model(Number(), GlobalAverage(), LinearHead(1, 1), L1Loss())
    nn.init.constant_(model.head.fc.bias, 5.0)  # the mean; a step of this size can only make it worse
    recipe = Recipe(epochs=5, batch_size=48, lr=50.0, schedule="constant", patience=1)
    epochs = list(train(model, Brightness(), recipe, seed=0, splits=("weights",), folder=tmp_path))
    errors = [epoch.metrics["validation.rmse"] for epoch in epochs]
    assert load_checkpoint(tmp_path / "best.pt")["epoch"] == 1 + errors.index(min(errors))
    assert len(errors) == next(n for n in range(1, 5) if errors[n] >= min(errors[:n])) + 1


# -- what a task says ---------------------------------------------------------------------------------------


def test_totals_of_parts_are_those_of_the_whole():
    task, (outputs, targets) = Brightness(), (torch.rand(9, 1), torch.rand(9, 1))
    parts, whole = Totals(task), Totals(task)
    whole.add(outputs, targets)
    for rows in (slice(0, 2), slice(2, 9)):
        parts.add(outputs[rows], targets[rows])
    assert parts.values() == pytest.approx(whole.values(), rel=1e-6)
    assert parts.over(Ranks().sum).values() == parts.values()


def test_a_task_without_metrics_is_scored_by_classes():
    assert scoring_of(Waves()) == Classification(3)
    assert [metric.name for metric in Classification(10, (5,)).metrics] == ["accuracy", "top5", "loss"]


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({"metrics": ()}, "metrics is a list"),
        ({"metrics": (Metric("lr", "", "min"),)}, "no metric can be called 'lr'"),
        ({"metrics": (Metric("rmse", "", "min"),)}, r"values\(\) gives rmse, mae, and metrics names rmse"),
        ({"metrics": (Metric("rmse", "", "less"), Metric("mae", "", "min"))}, "direction"),
        ({"outputs": (0,)}, "outputs is the shape"),
        ({"example_targets": lambda self, count: None}, "cannot score"),
    ],
    ids=["none", "reserved", "another", "direction", "outputs", "targets"],
)
def test_a_task_whose_scoring_is_not_whole_is_refused_where_it_is_made(attributes, told):
    with pytest.raises(TaskError, match=told):
        check_scoring(type("Broken", (Brightness,), attributes)())


def test_a_data_set_collates_its_own_batches():
    class Padded(TensorDataset):
        def collate(self, items):
            return torch.stack([x for x, _ in items]) + 1, torch.tensor([y * 10 for _, y in items])

    stream = batches(Padded(torch.zeros(4, 2, 3), torch.arange(4)), 2, workers=0)
    assert [(float(x.mean()), y.tolist()) for x, y in stream] == [(1, [0, 10]), (1, [20, 30])]


def test_a_space_of_series_is_counted_for_its_own_shape():
    space = Plain(dimensions=1, in_channels=2)
    network = space.build(archloom.architecture.Architecture({"layer0": "k3", "layer1": "skip"}))
    assert archloom.count(network, (2, 16)).macs == 16 * (2 * 4 + 3 * 4 * 4)


def test_a_plugin_file_of_this_folder_is_what_the_tests_name():
    assert {"brightness", "waves"} <= set(Host([PLUGIN]).names("task"))


def test_the_default_neck_names_the_one_for_series():
    with pytest.raises(ConfigError, match=r"neck GlobalAverage cannot take.*the neck SeriesAverage"):
        ModelParts().assemble(nn.Conv1d(2, 4, 1), shape=(2, 16), task=Waves())


def test_what_is_known_of_a_network_names_its_outputs(regression):
    shown = CliRunner().invoke(app, ["info", str(regression.folder), "--trust", "--json"])
    facts = json.loads(shown.stdout)
    assert facts["outputs"] == [1]
    assert "num_classes" not in facts
    assert tuple(archloom.build(regression.folder, trust=True)(torch.zeros(2, 1, 8, 8)).shape) == (2, 1)


def test_a_retrained_regression_is_shown_with_its_units_and_exported_with_its_outputs(regression, tmp_path):
    def shown(*words):
        called = CliRunner().invoke(app, [*words, "--trust"], env={"COLUMNS": "200"})
        assert called.exit_code == 0, called.output
        return called.output

    again = str(tmp_path / "again")
    trained = shown("retrain", str(regression.folder), "--out", again, "--set", "recipe.epochs=1")
    assert re.search(r"test\.rmse .* lux ", trained)
    assert re.search(r"validation\.mae .* lux ", trained)
    exported = shown("export", again, "--format", "safetensors")
    assert "its outputs differ from the network's by at most 0" in exported
    assert "logits" not in exported
    known = shown("info", again)
    assert re.search(r"outputs .* 1 ", known)
    assert "classes" not in known


def test_the_page_of_a_network_is_of_images(regression, series, tmp_path):
    page = look(open_trained(regression.folder, trust=True), tmp_path)
    assert "outputs 1" in page.read_text()
    with pytest.raises(ConfigError, match=r"page of a network is of images.*\(2, 16\)"):
        look(open_trained(series.folder, trust=True), tmp_path)


def test_a_teacher_is_refused_before_it_is_looked_for():
    with pytest.raises(ConfigError, match="recipe: teacher: that is for tasks of classes"):
        load_teacher(Recipe(teacher="no-such-network"), Brightness(), Host([PLUGIN]))


def test_erasing_leaves_a_data_set_its_own_batches():
    class Doubled(TensorDataset):
        def collate(self, items):
            return torch.stack([x for x, _ in items]), torch.tensor([2 * y for _, y in items])

    erased = Erased(Doubled(torch.ones(2, 1, 4, 4), torch.tensor([1, 2])), 1.0)
    ((x, y),) = batches(erased, 2)
    assert y.tolist() == [2, 4]
    assert (x == 0).any()
