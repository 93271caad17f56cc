"""The network through PyTorch's exporters: what comes out computes what the network computes."""

import warnings

import pytest
import torch

from archloom_efficientnet import EfficientNet

# an even and an odd size: SAME padding is lopsided in the one, and symmetric in the other, layer by layer
CASES = [("efficientnet-b0", 64), ("efficientnet-b3", 75)]


def ready(name, size):
    """A network whose logits tell images apart, prepared for export, and what it computed before that."""
    torch.manual_seed(0)
    model = EfficientNet.from_name(name, num_classes=10)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        for _ in range(2):
            model.train()(torch.randn(8, 3, size, size))  # running statistics that are not 0 and 1
        model.eval()
        wanted = model(images)
    assert wanted.std() > 1e-3
    model.set_static_padding(size)
    model.set_swish(memory_efficient=False)
    return model, images, wanted


def same(got, wanted):
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "size"), CASES)
def test_torch_export_gives_the_networks_logits(name, size):
    model, images, wanted = ready(name, size)
    program = torch.export.export(model, (images,))
    with torch.no_grad():
        same(program.module()(images), wanted)


@pytest.mark.parametrize(("name", "size"), CASES)
def test_a_torchscript_trace_gives_the_networks_logits_also_for_another_batch(name, size):
    model, images, wanted = ready(name, size)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", "`torch.jit")  # deprecated, and still asked for
        traced = torch.jit.trace(model, images)
    with torch.no_grad():
        same(traced(images), wanted)
        same(traced(images[:1]), wanted[:1])


@pytest.mark.parametrize(("name", "size"), CASES)
def test_onnx_gives_the_networks_logits_in_another_runtime(name, size, tmp_path):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed; PyTorch's ONNX exporter needs it")
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model, images, wanted = ready(name, size)
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own making, and other ones with each version
        torch.onnx.export(model, (images,), path, dynamo=True, input_names=["images"], verbose=False)
    onnx.checker.check_model(str(path))
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": images.numpy()})
    same(torch.from_numpy(logits), wanted)


def test_padding_that_is_frozen_for_one_size_is_refused_for_another():
    model, images, _ = ready("efficientnet-b0", 64)
    with pytest.raises(Exception, match="padding is frozen for an input of 64 x 64"):
        model(images[..., :63])
    model.set_static_padding(None)
    assert model(images[..., :63]).shape == (2, 10)
