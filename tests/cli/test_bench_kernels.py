"""``ddimcache bench kernels``: its shapes, its figures and what it refuses."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch

from ddimcache.bench.kernels import shapes
from ddimcache.bench.kernels.clblast import Clblast, find_clblast
from ddimcache.bench.kernels.layers import layer_of
from ddimcache.bench.kernels.shapes import FAMILIES, KernelShape, list_shapes, read_shapes
from ddimcache.compiler.frontend.pipeline_folder import load_pipeline_folder
from tests.kit.family import stand_in

SD15_MACS = 401_636_720_640
"""Multiply-accumulates of SD 1.5's full step, as the compiler counts them on the model before any pass."""


@pytest.mark.parametrize("model", shapes.MODELS)
def test_the_data_covers_a_model(model):
    kernels = read_shapes(model).kernels
    assert {kernel.family for kernel in kernels} == set(FAMILIES)
    assert len({(kernel.family, kernel.sizes) for kernel in kernels}) == len(kernels)
    for kernel in kernels:
        assert kernel.full + kernel.cached + kernel.decode > 0
        assert kernel.full >= kernel.cached
        assert kernel.elements_moved > 0


def test_the_data_adds_up_to_a_step():
    kernels = read_shapes("sd15").kernels
    assert sum(kernel.full * kernel.macs for kernel in kernels) == pytest.approx(SD15_MACS, rel=1e-3)


def test_the_list_of_a_model_has_every_layer_of_it():
    folder = stand_in("tiny-sd15")
    listed = list_shapes("tiny", folder)
    counts = Counter()
    for kernel in listed.kernels:
        counts[kernel.family] += kernel.full
    unet = load_pipeline_folder(folder).load_unet()
    convolutions = [layer for layer in unet.modules() if isinstance(layer, torch.nn.Conv2d)]
    norms = [layer for layer in unet.modules() if isinstance(layer, torch.nn.GroupNorm)]
    found = counts["conv1x1"] + counts["conv3x3"] + counts["conv_strided"]
    # Behind the cut a norm and two convolutions are in two parts: of the feature, and of the skip connection.
    assert found == len(convolutions) + 2
    assert counts["group_norm"] == len(norms) + 1
    assert counts["layer_norm"] == sum(isinstance(layer, torch.nn.LayerNorm) for layer in unet.modules())
    assert counts["geglu"] * 3 == counts["layer_norm"]
    assert json.loads(shapes._text(listed))["model"] == "tiny"


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("matmul", (6, 16, 32)),
        ("conv1x1", (3, 5, 16, 32)),
        ("conv3x3", (6, 5, 16, 32)),
        ("conv_strided", (8, 6, 16, 32)),
        ("attention", (7, 9, 2, 8)),
        ("group_norm", (15, 64, 32)),
        ("layer_norm", (5, 48)),
        ("geglu", (6, 16, 64)),
        ("resize", (3, 4, 16)),
    ],
)
def test_work_is_that_of_the_layer(family, sizes):
    shape = KernelShape(family, sizes)
    layer = layer_of(shape, 0)
    counted = 0

    def count(module, inputs, result):
        nonlocal counted
        if isinstance(module, torch.nn.Linear):
            counted += result.numel() * module.in_features
        elif isinstance(module, torch.nn.Conv2d):
            counted += result.numel() * module.weight[0].numel()

    for module in layer.native.modules():
        module.register_forward_hook(count)
    answer = layer.answer()
    if family == "attention":
        counted = 2 * 7 * 9 * 2 * 8
    assert shape.macs == counted
    inputs = sum(tensor.numel() for tensor in layer.inputs)
    assert shape.elements_moved == inputs + answer.numel()
    with torch.inference_mode():
        assert torch.allclose(layer.ours(*layer.inputs), answer, atol=1e-5)


@pytest.mark.parametrize(("family", "shape"), [("attention", "64x77x8x160"), ("resize", "8x8x1280")])
def test_kernels_without_weights(run, family, shape):
    done = run(
        "bench", "kernels", "--device", "llvm", "--family", family, "--shape", shape,
        "--repeats", 1, "--json",
    )  # fmt: skip
    assert done.code == 0
    assert [kernel["family"] for kernel in done.json["kernels"]] == [family]


def test_json_of_one_kernel(run):
    done = run(
        "bench", "kernels", "--device", "llvm", "--family", "layer_norm,resize", "--function", "full",
        "--shape", "64x1280", "--repeats", 1, "--json",
    )  # fmt: skip
    assert done.code == 0
    result = done.json
    assert (result["model"], result["function"], result["device"]) == ("sd15", "full", "llvm")
    (kernel,) = result["kernels"]
    assert (kernel["family"], kernel["shape"], kernel["calls"]) == ("layer_norm", "64x1280", 3)
    assert 0 <= kernel["error"] < 1e-5
    assert kernel["seconds_on_device"] is None
    assert kernel["gbytes"] == pytest.approx(2 * 4 * 64 * 1280 / kernel["seconds"] / 1e9)
    assert kernel["peers"]["torch"]["ratio"] == pytest.approx(
        kernel["peers"]["torch"]["seconds"] / kernel["seconds"]
    )
    assert set(result["families"]) == {"layer_norm"}
    assert result["families"]["layer_norm"]["seconds"] == pytest.approx(3 * kernel["seconds"])


def test_rounded_activations_are_held_against_pytorchs(run):
    bench = ("bench", "kernels", "--device", "llvm", "--family", "matmul", "--shape", "64x1280x1280")
    done = run(*bench, "--activations", "int8", "--repeats", 1, "--json")
    assert done.code == 0
    assert done.json["activations"] == "int8"
    [kernel] = done.json["kernels"]
    assert 1e-3 < kernel["error"] < 3e-2
    done = run(*bench, "--activations", "int8", "--weights", "fp16")
    assert done.code == 2
    assert "--activations: int8 needs weights of int8, not fp16" in done.err


@pytest.mark.opencl
def test_table_of_a_product_on_opencl(run):
    done = run(
        "bench", "kernels", "--device", "opencl", "--family", "matmul", "--shape", "64x1280x1280",
        "--repeats", 1, "--peer", "torch,clblast",
    )  # fmt: skip
    assert done.code == 0
    assert "64x1280x1280" in done.out
    assert "all calls of full" in done.out
    assert "peaks" in done.err
    assert ("CLBlast is not installed" in done.err) == (find_clblast() is None)


@pytest.mark.opencl
def test_rates_are_of_the_time_on_the_device(run):
    done = run(
        "bench", "kernels", "--device", "opencl", "--family", "group_norm", "--shape", "256x1280x32",
        "--repeats", 1, "--peer", "torch", "--json",
    )  # fmt: skip
    assert done.code == 0
    (kernel,) = done.json["kernels"]
    assert kernel["seconds_on_device"] > 0
    assert kernel["gbytes"] == pytest.approx(2 * 4 * 256 * 1280 / kernel["seconds_on_device"] / 1e9)
    assert kernel["of_peak"] == pytest.approx(kernel["gbytes"] / done.json["peak_gbytes"])
    total = done.json["families"]["group_norm"]
    assert total["seconds_on_device"] == pytest.approx(kernel["calls"] * kernel["seconds_on_device"])
    assert total["of_peak"] == pytest.approx(kernel["of_peak"])


@pytest.mark.opencl
@pytest.mark.skipif(find_clblast() is None, reason="CLBlast is not installed (apt-get install libclblast1)")
def test_clblast_is_checked_and_called():
    Clblast(0).product(33, 17, 9)()


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (("--model", "sdxl"), "--model"),
        (("--family", "softmax"), "--family"),
        (("--function", "main"), "--function"),
        (("--weights", "int4"), "--weights"),
        (("--peer", "numpy"), "--peer"),
        (("--shape", "1x1"), "--shape"),
        (("--repeats", 0), "--repeats"),
    ],
)
def test_bad_options_are_refused(run, options, where):
    done = run("bench", "kernels", *options)
    assert done.code == 2
    assert where in done.err


def test_a_wrong_answer_is_not_timed(run, monkeypatch):
    from ddimcache.bench import answer

    monkeypatch.setattr(answer, "relative_error", lambda ours, theirs: np.nan)
    done = run("bench", "kernels", "--device", "llvm", "--family", "layer_norm", "--shape", "64x1280")
    assert done.code == 1
    assert "no time was taken" in done.err
