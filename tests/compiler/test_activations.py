"""Activations that are rounded to int8: which layers', and what becomes of a picture."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ddimcache.compiler import pipeline
from ddimcache.compiler.options import LayerChoice
from ddimcache.kernels.tags import WORKLOAD
from ddimcache.kernels.workload import parse
from tests.kit import shared_bundles
from tests.kit.device_run import distance, psnr, run
from tests.kit.family import stand_in
from tests.passes.test_pipeline import request

SHAPES = Path(__file__).parents[2] / "models" / "shapes" / "weights"


def compiled(*choices: str, weights: str = "int8") -> pipeline.Compilation:
    """A UNet with ``choices`` of ``--activations``."""
    asked = request("unet", weights=weights)
    activations = tuple(LayerChoice.parse(text, "--activations") for text in choices)
    return pipeline.run(dataclasses.replace(asked, activations=activations))


def workloads(*choices: str, weights: str = "int8") -> tuple[Counter[str], dict[str, str]]:
    """How often each dtype of activations is multiplied by int8 weights in a call, by family; the notes."""
    compilation = compiled(*choices, weights=weights)
    found: Counter[str] = Counter()
    for _, function in compilation.module.functions_items():
        if function.attrs is not None and WORKLOAD in function.attrs:
            workload = parse(str(function.attrs[WORKLOAD]))
            if workload.weights.startswith("int8"):
                found[f"{workload.family} {workload.dtype}"] += 1
    return found, {report.phase: report.note for report in compilation.reports}


def test_products_of_a_step_are_rounded_where_it_is_asked_for() -> None:
    plain, notes = workloads()
    assert not any(name.endswith(" int8") for name in plain)
    assert "rounded" not in notes["lower products"]

    rounded, notes = workloads("int8")
    assert rounded["matmul int8"] > 10
    assert rounded["geglu int8"] == plain["geglu float32"]
    # What is computed once, convolutions, and layers whose channels are no whole vectors stay.
    assert rounded["matmul float32"] > 0
    assert rounded["conv2d float32"] == plain["conv2d float32"]
    assert "with activations rounded to int8" in notes["lower products"]
    assert "with activations rounded to int8" in notes["fuse geglu"]

    some, _ = workloads("int8", "*.ff.*=float")
    assert some["geglu int8"] == 0
    assert 0 < some["matmul int8"] < rounded["matmul int8"]


def rounded_attention(*choices: str) -> set[str]:
    """The weights of self-attentions that are multiplied by rounded activations, once a product."""
    compilation = compiled(*choices)
    rounded = (name for name in compilation.weight_names if "@fours" in name)
    return {name.partition("|")[0] for name in rounded if "attn1" in name}


def test_a_layer_that_is_merged_with_others_is_asked_by_its_own_name() -> None:
    """Query, key and value of self-attention are one product only where all are asked the same."""
    together = rounded_attention("*.attn1.*=int8")
    queries = {name for name in together if "to_q" in name}
    assert len(queries) == 6
    assert all(name.endswith("to_q_weight+2") for name in queries)
    assert {name for name in together if "to_out" not in name} == queries
    apart = rounded_attention("int8", "*.attn1.to_v=float")
    alone = {name.removesuffix("+2") for name in queries}
    assert apart == together - queries | alone | {name.replace("to_q", "to_k") for name in alone}


def test_attention_of_a_step_is_in_bfloat16_where_it_is_asked_for() -> None:
    compilation = pipeline.run(dataclasses.replace(request("unet"), attention="bfloat16"))
    dtypes = Counter(
        parse(str(function.attrs[WORKLOAD])).dtype
        for _, function in compilation.module.functions_items()
        if function.attrs is not None and str(function.attrs.get(WORKLOAD, "")).startswith("attention")
    )
    assert set(dtypes) == {"bfloat16"}


@pytest.mark.parametrize(
    ("model", "target", "weights", "attention"),
    [
        ("small", "llvm", "int8", "bfloat16"),
        pytest.param("shapes", "opencl", "int8", "bfloat16", marks=[pytest.mark.full, pytest.mark.opencl]),
        pytest.param("shapes", "opencl", "int8-g32", "float", marks=[pytest.mark.full, pytest.mark.opencl]),
    ],
)
def test_a_picture_is_nearly_the_same(model: str, target: str, weights: str, attention: str) -> None:
    folder = SHAPES if model == "shapes" else stand_in(model)
    options = {"target": target, "weights": weights}
    plain = shared_bundles.compiled(folder, **options)
    rounded = shared_bundles.compiled(folder, activations=("int8",), attention=attention, **options)
    latents = np.random.default_rng(1).standard_normal(plain.manifest.latents.shape).astype("float32")
    exact, ours = (run(each, "a small blue square", latents, 10, guidance=2.0) for each in (plain, rounded))
    assert 1e-5 < distance(ours.latents, exact.latents) < 0.05
    assert psnr(ours.images[0], exact.images[0]) > 30
